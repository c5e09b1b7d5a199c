"""A KCP session as a transport: what relay's stream protocol runs over, or smux (``relay.protocols.kcp_smux``).

    datagrams ─▶ KcpPort ─▶ KcpTransport ─▶ Greeting ─▶ Stream                 one session, one connection
                                  └──▶ Carrier (smux) ─▶ SmuxTransport ─▶ Greeting ─▶ Stream       many

KCP says nothing at its end: a session ends when what waits is acknowledged after ``loseConnection``, when the link is
dead, when nothing comes for the idle time-out, or at once by ``abortConnection``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import error
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.wire.kcp.session import KcpSession

if TYPE_CHECKING:
    from relay.protocols.kcp import KcpPort

log = Logger()

DONE: Final = Failure(error.ConnectionDone())
ABORTED: Final = Failure(error.ConnectionAborted())


class KcpTransport:
    """One session. ``place``: where the peer is now; ``address``: where it was at first.

    ``due``: the slot of the port's timer wheel that it stands in, 0 for none. ``unproven``: until the peer has shown
    that it receives at its address, at most three times what came from there is sent to it.
    """

    __slots__ = (
        "_closing", "_paused", "_port", "_producer", "address", "budget", "due", "heard_at", "marked", "nodelay",
        "place", "protocol", "session", "unproven",
    )  # fmt: skip

    def __init__(self, port: KcpPort, session: KcpSession, address: IAddress, place: Any, now: int) -> None:
        self.session = session
        self.address = address
        self.place = place
        self.protocol: IProtocol | None = None
        self.due = 0
        self.heard_at = now
        self.marked = False
        self.unproven = True
        self.budget = 0
        self.nodelay = port.nodelay
        self._port = port
        self._producer: Any = None  # Any: an IPushProducer
        self._paused = False  # our reading
        self._closing = False

    # --- the port -------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Give what has arrived to the protocol."""
        if self._paused or self.protocol is None:
            return
        data = self.session.receive()
        if data is None:
            return
        try:
            self.protocol.dataReceived(data)
        except Exception:  # noqa: BLE001 - logged; our mistake must not cost the other sessions of the batch
            log.failure("a KCP session met an error")
            self.abortConnection()

    def settle(self) -> None:
        """After acknowledgements: let the producer go on, or the close be complete."""
        queued = self.session.kcp.queued_bytes
        if self._closing:
            if not queued:
                self.lost(DONE)
        elif self._producer is not None and self._producer_waits() and queued <= self._port.low_bytes:
            self._port.full.discard(self)
            self._producer.resumeProducing()

    def lost(self, reason: Failure) -> None:
        """The session is over; does nothing the second time."""
        if self.protocol is None:
            return
        protocol, self.protocol = self.protocol, None
        self._port.forget(self)
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.stopProducing()
            protocol.connectionLost(reason)
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
            log.failure("the end of a KCP session met an error")

    def _producer_waits(self) -> bool:
        return self in self._port.full

    # --- ITransport, IConsumer, IPushProducer ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue ``data``; it leaves at the end of the turn when something came in this turn, else now."""
        if self.protocol is None or self._closing:
            return
        session = self.session
        session.send(data)
        port = self._port
        if not self.marked:
            port.send(self)
        if self._producer is not None and session.kcp.queued_bytes > port.high_bytes and self not in port.full:
            port.full.add(self)
            self._producer.pauseProducing()

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Write all."""
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        """End once everything is acknowledged; nothing more is delivered."""
        if self._closing or self.protocol is None:
            return
        self._closing = True
        self._port.full.discard(self)
        if not self.session.kcp.queued_bytes:
            # Not from inside the call of a protocol.
            self._port.soon(self.settle)

    def abortConnection(self) -> None:
        """End now."""
        self._closing = True
        self._port.soon(self._abort)

    def _abort(self) -> None:
        self.lost(ABORTED)

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # Any: an IPushProducer
        """``producer`` is told when more than the window waits."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Tell nobody."""
        self._producer = None
        self._port.full.discard(self)

    def pauseProducing(self) -> None:
        """Deliver nothing more: the receive window closes."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again."""
        if self._paused and self.protocol is not None:
            self._paused = False
            self._port.soon(self._resume)

    def _resume(self) -> None:
        if not self._paused:
            self.deliver()
            if self.protocol is not None:
                self._port.send(self)  # tells the window

    def soon(self, function: Callable[[], object]) -> None:
        """Call ``function`` when what runs now has returned."""
        self._port.soon(function)

    def getPeer(self) -> IAddress:
        """Where the session began."""
        return self.address

    def getHost(self) -> IAddress:
        """Where the port is."""
        return self._port.getHost()
