"""One QUIC connection as a transport: what relay's stream protocol runs over, and messages that travel apart from it.

    datagrams ─▶ QuicPort ─▶ QuicTransport ─▶ QuicLink ─┬─ stream 0 ─▶ Greeting ─▶ Stream ─▶ core
                                                       └─ apart ────────────────▶ Stream.apart

Before the handshake is complete (0-RTT) the first frame is handed over, which is the hello and is answered; everything
after it waits until the client has shown that it is no replay.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import error
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.protocols.quic_certificates import CRYPTO_FRAME, Refused, client_certificate
from relay.protocols.stream import Stream
from relay.wire.message import Message
from relay.wire.quic_connection import BoundedConnection
from relay.wire.quic_link import APART, QuicLink, first_frame_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.protocols.quic import QuicPort

log = Logger()

DONE: Final = Failure(error.ConnectionDone())
ABORTED: Final = Failure(error.ConnectionAborted())
HELD_MESSAGES_MAX: Final = 256
"""Messages apart of a client that is paused; more are dropped."""


class QuicTransport:
    """See the module. ``ids``: connection ids by which the port finds it. ``budget``: bytes that may still be sent to a
    client that has not proved its address. ``due``: the port's deadline, 0 for none."""

    __slots__ = (
        "_certificate", "_closing", "_early", "_full", "_held", "_paused", "_port", "_producer", "address", "budget",
        "due", "ids", "link", "marked", "nodelay", "opening", "protocol",
    )  # fmt: skip
    joins_writes = False  # one write a turn is cheaper: the outbox joins them

    def __init__(self, port: QuicPort, connection: BoundedConnection, address: IAddress) -> None:
        self.link = QuicLink(connection, self)
        self.address = address
        self.protocol: IProtocol | None = None
        self.ids: set[bytes] = set()
        self.budget = 0
        self.due = 0.0
        self.marked = False
        self.nodelay = port.nodelay
        self.opening = True
        """In the middle of the handshake."""
        self._port = port
        self._producer: Any = None  # Any: an IPushProducer
        self._full = False
        self._closing = False
        self._paused = False
        self._held: list[bytes | Message] = []
        self._early: bytes | None = b""
        """What came before the handshake was complete and is not handed over; None: the hello was."""
        self._certificate: Any = None  # Any: OpenSSL's X509
        connection.paused = True

    @property
    def carries_apart(self) -> tuple[Callable[[bytes, str | None], None] | None, int]:
        """What ``IPeer`` has as ``loose`` and ``apart``: nothing for clients that take no DATAGRAM frames."""
        return (self.loosely, APART) if self.link.connection.datagram_bytes_max else (None, 0)

    def getPeerCertificate(self) -> Any:  # noqa: N802 - as TLS transports have it; Any: OpenSSL's X509
        """The client's certificate, verified, or None."""
        return self._certificate

    # --- relay.wire.quic_link.Sink ----------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes of the session's stream."""
        if not self.opening and not self._paused and not self._held:
            # Fast path.
            if self.protocol is not None and not self.link.connection.over:
                self.protocol.dataReceived(data)
            return
        self._held.append(data)
        if self.opening and self._early is not None:
            self._early += data
            size = first_frame_bytes(self._early)
            if 0 < size <= len(self._early):
                hello, rest, self._early = self._early[:size], self._early[size:], None
                self._held = [rest] if rest else []
                if self.protocol is not None:
                    self.protocol.dataReceived(hello)

    def apart(self, message: Message) -> None:
        """A message beside the stream; before the handshake is complete it may be a replay, and is passed over."""
        if self.opening:
            return
        if self._paused or self._held:
            if len(self._held) < HELD_MESSAGES_MAX:
                self._held.append(message)
            else:
                self._port.dropped += 1
        elif type(self.protocol) is Stream:
            self.protocol.apart(message)

    def confirmed(self, resumed: bool, early: bool) -> None:
        """The client is there, and is no replay: what waited goes on."""
        self.opening = False
        self._early = None
        try:
            self._certificate = client_certificate(self.link.connection)
        except Refused as refused:
            self.link.connection.close(refused.code, CRYPTO_FRAME, str(refused))
            self._held = []
        self.link.connection.slim()
        self._port.confirmed(self, resumed, early)
        if not self._paused and not self.link.connection.over:
            self._go_on()

    def ended(self, reason: str, clean: bool) -> None:
        """The client is gone."""
        self.lost(DONE if clean else Failure(error.ConnectionLost(reason)))

    def named(self, connection_id: bytes, yes: bool) -> None:
        """The client may use this id, or will not any more."""
        self._port.name(self, connection_id, yes)

    # --- the port ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """After acknowledgements: let the producer go on, or the close be complete."""
        if not self._full and not self._closing:
            return
        queued = self.link.connection.queued_bytes()
        if self._full and queued * 2 <= self._port.queue_bytes_max:
            self._full = False
            if self._producer is not None:
                self._producer.resumeProducing()
        if self._closing and not queued:
            self.lost(DONE)

    def lost(self, reason: Failure) -> None:
        """The connection is over; does nothing the second time."""
        port = self._port
        if not port.forget(self):
            return
        self._closing = True
        port.dropped += self.link.dropped
        protocol, self.protocol = self.protocol, None
        producer, self._producer = self._producer, None
        self._held = []
        try:
            if producer is not None:
                producer.stopProducing()
            if protocol is not None:
                protocol.connectionLost(reason)
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
            log.failure("the end of a QUIC connection met an error")

    # --- StreamTransport --------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send on the session's stream; it leaves at the end of the turn."""
        if self._closing or self.protocol is None:
            return
        self.link.write(data)
        self._port.mark(self)
        if not self._full and self.link.connection.queued_bytes() > self._port.queue_bytes_max:
            self._full = True
            if self._producer is not None:
                self._producer.pauseProducing()

    def loosely(self, frame: bytes, key: str | None) -> None:
        """Send a frame apart; one for a client that takes nothing is dropped."""
        if self._closing or self.protocol is None:
            return
        if self._full or self.link.connection.queued_bytes() > self._port.queue_bytes_max:
            self._port.dropped += 1
            return
        self.link.send_apart(frame, key)
        self._port.mark(self)

    def loseConnection(self) -> None:
        """End once everything is acknowledged."""
        if not self._closing:
            self._closing = True
            self.link.finish()
            self._port.mark(self)

    def abortConnection(self) -> None:
        """End now."""
        self._closing = True
        self._port.soon(partial(self.lost, ABORTED))

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # Any: an IPushProducer
        """``producer`` is told when too much is not acknowledged."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Tell nobody."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Hand over nothing more: what comes is held, and the client's window is not raised."""
        self._paused = self.link.connection.paused = True

    def resumeProducing(self) -> None:
        """Hand over again, what came meanwhile first."""
        if self._paused and self.protocol is not None:
            self._port.soon(self._go_on)

    def getPeer(self) -> IAddress:
        """Where the connection began."""
        return self.address

    # --- inside -----------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        self._paused = False
        if self.opening:
            return
        while self._held and not self._paused and self.protocol is not None:
            each = self._held.pop(0)
            if isinstance(each, bytes):
                self.protocol.dataReceived(each)
            elif type(self.protocol) is Stream:
                self.protocol.apart(each)
        if not self._paused and self.protocol is not None:
            self.link.connection.paused = False
            self._port.mark(self)
