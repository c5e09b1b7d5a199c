"""The secure channel on a stream: the handshake, then a transport inside of the transport.

    TCP ──▶ SecureGreeting ──▶ SecureTransport ──▶ Greeting, Stream …
            preface, hello,    records ⇄ bytes     as on any other transport
            answer, finish

Source: ``docs/secure.md``; the machines are in ``relay.wire.secure``. What arrives too late, in the wrong order or
changed closes the connection: there is nobody yet, or nobody any more, to whom a reason could be told.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.errors import RemoteProtocolError
from relay.protocols.entrance import Arrival, Step, pass_on
from relay.wire.secure import MESSAGE_BYTES_MAX, PREFACE, ChannelKeys, ServerHandshake
from relay.wire.secure_records import REKEY_S, StreamOpener, StreamSealer

if TYPE_CHECKING:
    from relay.core.wheel import Call

log = Logger()

_LENGTH_BYTES: Final = 2


class SecureGreeting(Step):
    """The server's side of the handshake. ``then``: makes the step that goes on inside of the channel."""

    __slots__ = ("_answered", "_handshake", "_then")

    def __init__(self, arrival: Arrival, private: bytes, then: Callable[[Arrival], IProtocol]) -> None:
        super().__init__(arrival)
        self._handshake: ServerHandshake | None = ServerHandshake(private, os.urandom(32))
        self._then = then
        self._answered = False

    def step(self) -> None:
        """Hello, then finish; what follows is records."""
        try:
            while not self.closing and (message := self._message()) is not None:
                assert self._handshake is not None
                if not self._answered:
                    answer = self._handshake.receive(message)
                    self._answered = True
                    self.transport.write(len(answer).to_bytes(_LENGTH_BYTES) + answer)
                else:
                    self._open(self._handshake.finish(message))
                    return
        except RemoteProtocolError:
            self.drop()

    def _message(self) -> bytes | None:
        """The next handshake message, once it is there."""
        start = 0 if self._answered else len(PREFACE)
        head = start + _LENGTH_BYTES
        length = int.from_bytes(self.data[start:head])
        if len(self.data) >= head and not 0 < length <= MESSAGE_BYTES_MAX:
            raise RemoteProtocolError(f"secure channel: a handshake message of {length} bytes")
        if len(self.data) < head + length or len(self.data) < head:
            return None
        message, self.data = self.data[head : head + length], self.data[head + length :]
        return message

    def _open(self, keys: ChannelKeys) -> None:
        arrival = self.arrival
        arrival.secure = arrival.channel = True
        arrival.key = b64encode(keys.peer).decode()
        data, self.data = self.data, b""
        self._handshake = None
        pass_on(self.transport, SecureTransport(arrival, keys, self._then(arrival)), data)


@implementer(IProtocol)
class SecureTransport:
    """A protocol to the transport below, a transport to ``protocol``, which may be exchanged (``pass_on``)."""

    __slots__ = ("_below", "_opener", "_rekeying", "_sealer", "_wheel", "protocol")

    def __init__(self, arrival: Arrival, keys: ChannelKeys, protocol: IProtocol) -> None:
        self.protocol = protocol
        self._below: Any = None  # Any: whatever stream transport carries it
        self._sealer: StreamSealer | None = StreamSealer(keys.suite, keys.sending)
        self._opener = StreamOpener(keys.suite, keys.receiving)
        self._wheel = arrival.entrance.wheel
        self._rekeying: Call | None = None

    # --- for the protocol above: StreamTransport ----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Seal and send; nothing after the end was said."""
        if self._sealer is not None and data:
            self._below.write(self._sealer.seal(data))

    def loseConnection(self) -> None:
        """Say that nothing follows, and close when everything is sent."""
        self._end()
        self._below.loseConnection()

    def loseWriteConnection(self) -> None:
        """Say that nothing follows; what comes is still read."""
        self._end()
        lose_half = getattr(self._below, "loseWriteConnection", self._below.loseConnection)
        lose_half()

    def abortConnection(self) -> None:
        """Close now."""
        self._below.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # Any: zope interfaces are not mypy's
        """The producer is told by the transport below."""
        self._below.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """As below."""
        self._below.unregisterProducer()

    def pauseProducing(self) -> None:
        """Stop reading below. What has come in one read is delivered in whole."""
        self._below.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again below."""
        self._below.resumeProducing()

    def _end(self) -> None:
        if self._sealer is not None:
            self._below.write(self._sealer.end())
            self._sealer = None

    def _rekey(self) -> None:
        self._rekeying = None
        if self._sealer is not None:
            self._below.write(self._sealer.rekey())
            self._rekeying = self._wheel.after(REKEY_S, self._rekey)

    # --- IProtocol ----------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:  # Any: as above
        """As Twisted's ``Protocol`` has it."""
        self._below = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """The channel is open."""
        self._rekeying = self._wheel.after(REKEY_S, self._rekey)
        self.protocol.makeConnection(self)  # type: ignore[arg-type]  # it is a StreamTransport

    def dataReceived(self, data: bytes) -> None:
        """Open the records, and pass on what is in them in one piece."""
        opened: list[bytes] = []
        try:
            opened.extend(self._opener.receive(data))
        except RemoteProtocolError as error:
            # Either side may have a mistake, or somebody is in between: worth a line, which the sender can make many.
            log.debug("{error}", error=str(error))
            self._below.abortConnection()
            return
        if opened:
            self.protocol.dataReceived(opened[0] if len(opened) == 1 else b"".join(opened))

    def connectionLost(self, reason: Failure) -> None:
        """The transport below is gone; without a word before, that was no orderly end."""
        if self._rekeying is not None:
            self._rekeying.cancel()
            self._rekeying = None
        if reason.check(ConnectionDone) and not self._opener.ended:
            reason = Failure(ConnectionLost("the secure channel was cut off"))
        self.protocol.connectionLost(reason)
