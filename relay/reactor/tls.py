"""TLS on a stream that is already open (``startTLS``), with Twisted's TLS protocol.

After it, what the application writes must go through the TLS protocol, and what the TLS protocol writes to the
socket.  So that plain streams need not ask for each write, the stream changes its class to a twin that overrides the
five methods in question; the TLS protocol gets a ``Beneath``, which calls those of the plain class.
"""
# ruff: noqa: N802, N803 - the names of methods and arguments are Twisted's

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProducer,
    ISSLTransport,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from relay.reactor.turn import TurnClock

if TYPE_CHECKING:
    from relay.reactor.stream import Stream


#: What TLS connections are made by.
ContextFactory = IOpenSSLClientConnectionCreator | IOpenSSLServerConnectionCreator

_twins: dict[type, type[Stream]] = {}  # by plain class


def start_tls(stream: Stream, context_factory: ContextFactory, is_client: bool) -> None:
    """Put TLS between ``stream`` and its protocol, as the TLS client or server."""
    producer, streaming = stream.producer, stream.streamingProducer
    if producer is not None:
        stream.unregisterProducer()
    no_factory = cast(Any, None)  # the protocol is there already, none will be built
    factory = TLSMemoryBIOFactory(context_factory, is_client, no_factory, clock=TurnClock(stream.turn))
    tls = factory.protocol(factory, stream.protocol, False)
    beneath = Beneath(stream, type(stream))
    stream.protocol = tls
    stream.__class__ = twin(type(stream))
    tls.makeConnection(beneath)
    if producer is not None:
        stream.registerProducer(producer, streaming)


class OverTls:
    """What a stream does differently once TLS was started: everything is left to the TLS protocol."""

    __slots__ = ()

    TLS = True

    protocol: TLSMemoryBIOProtocol | None
    disconnecting: bool

    def write(self, data: bytes) -> None:
        """Encrypt and send ``data``."""
        if self.protocol is not None:
            self.protocol.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Encrypt and send the pieces of ``iovec``."""
        if self.protocol is not None:
            self.protocol.writeSequence(iovec)

    def loseConnection(self, _connDone: object = None) -> None:
        """Close TLS, then the connection, once everything is sent."""
        if self.protocol is not None and not self.disconnecting:
            self.protocol.loseConnection()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Take data from ``producer``."""
        if self.protocol is None:
            producer.stopProducing()
        else:
            self.protocol.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        if self.protocol is not None:
            self.protocol.unregisterProducer()

    def getHandle(self) -> Any:  # Any: an OpenSSL connection
        """Return the TLS connection; None when the connection is lost."""
        return None if self.protocol is None else self.protocol.getHandle()

    def getPeerCertificate(self) -> Any:  # Any: an OpenSSL certificate, or None
        """Return the peer's certificate, or None."""
        return None if self.protocol is None else self.protocol.getPeerCertificate()


def twin(plain: type[Stream]) -> type[Stream]:
    """Return the class that a stream of class ``plain`` has after ``startTLS``; the layout is the same."""
    if plain not in _twins:
        made = type(f"{plain.__name__}OverTls", (OverTls, plain), {"__slots__": (), "__doc__": OverTls.__doc__})
        _twins[plain] = implementer(ISSLTransport)(made)
    return _twins[plain]


class Beneath:
    """The socket as the TLS protocol sees it: the stream's own methods, without TLS."""

    def __init__(self, stream: Stream, plain: type[Stream]) -> None:
        self._stream = stream
        self._plain = plain

    def __getattr__(self, name: str) -> Any:  # Any: whatever the stream has
        return getattr(self._stream, name)

    def write(self, data: bytes) -> None:
        """Send ``data`` as it is."""
        self._plain.write(self._stream, data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send the pieces of ``iovec`` as they are."""
        self._plain.writeSequence(self._stream, iovec)

    def loseConnection(self, _connDone: object = None) -> None:
        """Close the connection, without a word of TLS."""
        self._plain.loseConnection(self._stream)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Let the socket pace ``producer``, which is the TLS protocol's own."""
        self._plain.registerProducer(self._stream, producer, streaming)

    def unregisterProducer(self) -> None:
        """Forget the TLS protocol's producer."""
        self._plain.unregisterProducer(self._stream)
