"""The client on Twisted.

    client = await connect(reactor, "tcp://127.0.0.1:8000", user="ann")
    await client.publish("room.1", {"text": "hello"})

Coroutines that use it run under ``Deferred.fromCoroutine`` (or ``twisted.internet.task.react``).
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import endpoints, ssl
from twisted.internet.address import IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError, DNSLookupError
from twisted.internet.interfaces import IConsumer, IPushProducer, IResolutionReceiver, ITransport
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.client.api import Client, open_client
from relay.client.datagrams import SCHEMES, DatagramOpening, Make, maker
from relay.client.line import Line
from relay.client.options import DATAGRAM_BUFFER_BYTES, ClientOptions, TlsFiles
from relay.client.plan import Address
from relay.client.runtime import Runtime, Task, Waiter
from relay.errors import ConfigError

__all__ = ["Client", "ClientOptions", "connect"]

log = Logger()

CONNECT_TIMEOUT_S = 600
"""Of the endpoints: longer than any attempt, which the client's own ``connect_timeout_s`` ends."""


async def connect(reactor: Any, *urls: str, **settings: Any) -> Client:  # Any: several interfaces; open_client's
    """A client connected to one of ``urls``; keywords, callbacks and errors: :func:`relay.client.api.open_client`."""
    options = settings.get("options") or ClientOptions()
    return await open_client(TwistedRuntime(reactor, options), random.random, urls, **settings)


class _DeferredWaiter:
    """``relay.client.runtime.Waiter``."""

    __slots__ = ("_deferred",)

    def __init__(self) -> None:
        self._deferred: Deferred[Any] = Deferred()

    def succeed(self, value: Any) -> None:
        """Fire the Deferred."""
        if not self._deferred.called:
            self._deferred.callback(value)

    def fail(self, error: BaseException) -> None:
        """Fail the Deferred."""
        if not self._deferred.called:
            self._deferred.errback(error)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._deferred.__await__()


@implementer(IPushProducer)
class _LineProtocol(Protocol):
    """One connection: bytes to the line, and whether the transport takes more."""

    def __init__(self, line: Line) -> None:
        self._line = line

    # --- IProtocol ------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The transport is open."""
        assert self.transport is not None
        IConsumer(self.transport).registerProducer(self, True)
        self._line.opened(_Closable(self.transport))

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""
        self._line.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport is gone."""
        self._line.lost(reason.getErrorMessage())

    # --- IPushProducer: what fills the transport's buffer is the client -------------------------------------------

    def pauseProducing(self) -> None:
        """The buffer is full."""
        self._line.writable(False)

    def resumeProducing(self) -> None:
        """The buffer is low."""
        self._line.writable(True)

    def stopProducing(self) -> None:
        """The transport is going; connectionLost follows."""


class _Closable:
    """``relay.client.runtime.Transport`` on a Twisted transport."""

    def __init__(self, transport: ITransport) -> None:
        self._transport = transport
        self.write = transport.write

    def close(self) -> None:
        """Close once everything is sent: a registered producer would keep a TLS connection open."""
        IConsumer(self._transport).unregisterProducer()
        self._transport.loseConnection()

    def abort(self) -> None:
        """Close now."""
        abort = getattr(self._transport, "abortConnection", self._transport.loseConnection)
        abort()


class _DatagramProtocol(DatagramProtocol):
    """A UDP socket, connected to the server."""

    def __init__(self, make: Make, host: str, port: int) -> None:
        self._place = host, port
        self.connection = make(self._send, self._shut)

    def startProtocol(self) -> None:
        """The socket is there."""
        transport: Any = self.transport  # Any: IUDPTransport, set by Twisted
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER_BYTES)
        transport.connect(*self._place)
        self.connection.start()

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        """One came."""
        self.connection.datagram(datagram)

    def connectionRefused(self) -> None:
        """Nobody listens there."""
        self.connection.refused("Connection was refused by other side")

    def _send(self, datagrams: Sequence[bytes]) -> None:
        transport: Any = self.transport  # Any: as above
        for datagram in datagrams:
            transport.write(datagram)

    def _shut(self) -> None:
        transport: Any = self.transport  # Any: as above
        if transport is not None:
            transport.stopListening()


@implementer(IResolutionReceiver)
class _FirstAddress:
    """``first`` fires with the first address of a name, or fails with ``DNSLookupError``."""

    def __init__(self) -> None:
        self.first: Deferred[Any] = Deferred()

    def resolutionBegan(self, resolutionInProgress: object) -> None:  # noqa: N802, N803 - Twisted's names
        """It runs."""

    def addressResolved(self, address: object) -> None:  # noqa: N802 - Twisted's name
        """One was found."""
        if not self.first.called:
            self.first.callback(address)

    def resolutionComplete(self) -> None:  # noqa: N802 - Twisted's name
        """No more will be."""
        if not self.first.called:
            self.first.errback(DNSLookupError("no address was found"))


class TwistedRuntime:
    """``relay.client.runtime.Runtime`` on one reactor."""

    def __init__(self, reactor: Any, options: ClientOptions) -> None:  # Any: IReactorTime, IReactorTCP, IReactorUNIX …
        self._reactor = reactor
        self._options = options
        self._tls = options.tls

    def now(self) -> float:
        """The reactor's clock."""
        return float(self._reactor.seconds())

    def call_at(self, at: float, call: Callable[[], None]) -> Task:
        """A delayed call of the reactor."""
        return _Timer(self._reactor.callLater(max(0.0, at - self.now()), call))

    def waiter(self) -> Waiter:
        """A Deferred."""
        return _DeferredWaiter()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        """A coroutine under a Deferred; its first step runs at once."""
        deferred = Deferred.fromCoroutine(coroutine)
        deferred.addErrback(self._unhandled)
        return deferred

    def _unhandled(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("a background task", failure)

    def random_bytes(self, size: int) -> bytes:
        """From the operating system."""
        return os.urandom(size)

    def report(self, what: str, error: BaseException) -> None:
        """To the log."""
        log.failure("{what}", Failure(error), what=what)

    def open(self, address: Address, line: Line) -> Task:
        """Connect by an endpoint."""
        if address.scheme in SCHEMES:
            opening = DatagramOpening()
            opening.task = self.spawn(self._open_datagrams(address, line, opening))
            return opening
        try:
            endpoint = self._endpoint(address)
        except OSError as error:  # a certificate that cannot be read
            return self.spawn(self._refuse(line, str(error)))
        deferred: Deferred[Any] = endpoint.connect(Factory.forProtocol(lambda: _LineProtocol(line)))
        deferred.addErrback(lambda failure: line.lost(failure.getErrorMessage()))
        return deferred

    async def _open_datagrams(self, address: Address, line: Line, opening: DatagramOpening) -> None:
        try:
            found = _FirstAddress()
            self._reactor.nameResolver.resolveHostName(found, address.host, address.port, transportSemantics="UDP")
            place = await found.first
            made = _DatagramProtocol(maker(address, self._options, self, line), place.host, place.port)
            opening.connection = made.connection
            self._reactor.listenUDP(0, made, interface="::" if isinstance(place, IPv6Address) else "")
        except (ConfigError, DNSLookupError, CannotListenError) as error:
            line.lost(str(error))

    async def _refuse(self, line: Line, reason: str) -> None:
        line.lost(reason)

    def _endpoint(self, address: Address) -> Any:  # Any: an IStreamClientEndpoint
        reactor = self._reactor
        if address.scheme == "unix":
            return endpoints.UNIXClientEndpoint(reactor, address.path, timeout=CONNECT_TIMEOUT_S)
        host = endpoints.HostnameEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIMEOUT_S)
        if not address.tls:
            return host
        return endpoints.wrapClientTLS(tls_options(self._tls, address.host), host)


class _Timer:
    def __init__(self, call: Any) -> None:  # Any: IDelayedCall
        self._call = call

    def cancel(self) -> None:
        """Take the delayed call back."""
        if self._call.active():
            self._call.cancel()


def tls_options(files: TlsFiles, host: str) -> Any:  # Any: an IOpenSSLClientConnectionCreator
    """Verifying TLS options for ``host``. Raises ``OSError`` when a file cannot be read."""
    trust = None
    if files.ca:
        end = b"-----END CERTIFICATE-----"
        found = [each + end for each in Path(files.ca).read_bytes().split(end) if b"BEGIN CERTIFICATE" in each]
        trust = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(each) for each in found])
    certificate = None
    if files.certificate:
        pem = Path(files.certificate).read_bytes() + b"\n"
        certificate = ssl.PrivateCertificate.loadPEM(pem + (Path(files.key).read_bytes() if files.key else b""))
    return ssl.optionsForClientTLS(files.server_name or host, trust, certificate)


_check: type[Runtime] = TwistedRuntime
