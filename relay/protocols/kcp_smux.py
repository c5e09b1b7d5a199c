"""smux in a KCP session: each of its streams is a transport of its own, and so a connection of relay's.

    KcpTransport ─▶ Carrier ─▶ Smux (``relay.wire.kcp.smux``) ─▶ SmuxTransport ─▶ Greeting ─▶ Stream

A stream ends by FIN. Its peer's FIN ends our direction, too, once what came before it was delivered: relay's protocols
know no half-open connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.errors import RemoteProtocolError
from relay.protocols.kcp_transport import ABORTED, DONE
from relay.wire.kcp import smux

log = Logger()

SMUX_HELD_BYTES_MAX: Final = 4_194_304
"""Of all streams of a session, delivered to nobody yet: reading the session stops (version 1's only flow control)."""
STREAM_WAITING_BYTES_MAX: Final = 262_144
"""Of one stream, waiting for its window or for KCP: its producer pauses."""


@implementer(IProtocol)
class Carrier:
    """smux in a session: a transport for each stream. ``build(address)`` gives its protocol, None refuses it."""

    __slots__ = ("_address", "_build", "_marked", "_over", "machine", "silent", "streams", "transport")

    def __init__(self, version: int, address: IAddress, build: Callable[[IAddress], IProtocol | None]) -> None:
        self.machine = smux.Smux(False, version)
        self.streams: dict[int, SmuxTransport] = {}
        self.transport: Any = None  # Any: a KcpTransport
        self.silent = 0
        self._address = address
        self._build = build
        self._over: Callable[[], object] | None = None
        self._marked = False

    def over(self, function: Callable[[], object]) -> None:
        """``function`` is called when the session ends."""
        self._over = function

    def beat(self, alive_every: int, silent_max: int) -> None:
        """Called by the port at its sweeps: a sign of life every ``alive_every`` of them, the end after
        ``silent_max`` without one from the peer."""
        self.silent = 0 if self.machine.heard else self.silent + 1
        self.machine.heard = False
        if self.silent >= silent_max:
            self.transport.abortConnection()
        elif self.silent % alive_every == 0:
            self.machine.keep_alive()
            self.flush()

    def flush(self) -> None:
        """Hand what the machine wants to send to the session."""
        machine = self.machine
        if machine.output and self.transport is not None:
            output, machine.output = machine.output, []
            self.transport.write(b"".join(output))

    def held(self) -> None:
        """Stop or go on reading the session by what its streams hold."""
        if self.transport is not None:
            if self.machine.held_bytes > SMUX_HELD_BYTES_MAX:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # --- IProtocol ------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:  # Any: a KcpTransport
        """The session is there."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Streams are told when the session is full."""
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Frames to the streams; what is no smux ends the session."""
        machine = self.machine
        try:
            events = machine.input(data)
        except RemoteProtocolError:
            self.transport.abortConnection()
            return
        for what, sid, piece in events:
            stream = self.streams.get(sid)
            if what == smux.OPENED:
                self._open(sid)
            elif stream is None:
                if what == smux.DATA:
                    machine.consumed(sid, len(piece))
            elif what == smux.DATA:
                stream.received(piece)
            elif what == smux.ENDED:
                stream.ended()
            else:
                stream.writable()
        self.held()
        self.flush()

    def connectionLost(self, reason: Failure) -> None:
        """All streams end with it."""
        self.transport = None
        for stream in list(self.streams.values()):
            stream.lost(reason)
        if self._over is not None:
            self._over()

    def _open(self, sid: int) -> None:
        protocol = self._build(self._address)
        if protocol is None:
            self.machine.reset(sid)
            return
        stream = self.streams[sid] = SmuxTransport(self, sid, protocol)
        protocol.makeConnection(stream)  # type: ignore[arg-type]  # what is used of ITransport is there

    # --- IPushProducer: the session calls these -------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The session is full."""
        for stream in list(self.streams.values()):
            stream.pause(True)

    def resumeProducing(self) -> None:
        """It takes more."""
        for stream in list(self.streams.values()):
            stream.pause(False)

    def stopProducing(self) -> None:
        """The session ends; ``connectionLost`` follows."""


class SmuxTransport:
    """One stream."""

    __slots__ = (
        "_carrier", "_closing", "_ended", "_held", "_paused", "_producer", "_reasons", "_sid", "nodelay", "protocol",
    )  # fmt: skip

    def __init__(self, carrier: Carrier, sid: int, protocol: IProtocol) -> None:
        self.protocol: IProtocol | None = protocol
        self.nodelay = carrier.transport.nodelay
        self._carrier = carrier
        self._sid = sid
        self._producer: Any = None  # Any: an IPushProducer
        self._reasons: frozenset[str] = frozenset()  # why the producer is paused
        self._paused = False  # our reading
        self._held: deque[bytes] = deque()
        self._ended = False  # the peer has ended its direction behind what is held
        self._closing = False

    # --- the carrier ----------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Data of the peer; kept while reading is paused, and behind what is kept still."""
        if self._paused or self._held:
            self._held.append(data)
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._carrier.machine.consumed(self._sid, len(data))
        if self.protocol is not None:
            self.protocol.dataReceived(data)

    def ended(self) -> None:
        """The peer ends its direction: relay's protocols have no half-open connections, so ours ends too."""
        if self._held:
            self._ended = True  # what was said before is heard first
            return
        self._carrier.machine.finish(self._sid)
        self.lost(DONE)

    def writable(self) -> None:
        """The window took what waited."""
        self._pause("window", False)
        if self._closing:
            self._carrier.machine.finish(self._sid)

    def pause(self, yes: bool) -> None:
        """The session is full, or not."""
        self._pause("session", yes)

    def lost(self, reason: Failure) -> None:
        """The stream is over; does nothing the second time."""
        protocol, self.protocol = self.protocol, None
        if protocol is None:
            return
        carrier = self._carrier
        carrier.streams.pop(self._sid, None)
        held, self._held = self._held, deque()
        carrier.machine.consumed(self._sid, sum(map(len, held)))
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.stopProducing()
            protocol.connectionLost(reason)
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the other streams
            log.failure("the end of a smux stream met an error")
        carrier.held()  # it may have been what held the session up

    def _pause(self, why: str, yes: bool) -> None:
        before = bool(self._reasons)
        self._reasons = self._reasons | {why} if yes else self._reasons - {why}
        if self._producer is not None and bool(self._reasons) != before:
            if yes:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    # --- ITransport, IConsumer, IPushProducer ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send, as much as the window lets."""
        if self.protocol is None or self._closing:
            return
        waiting = self._carrier.machine.send(self._sid, data)
        self._carrier.flush()
        if waiting > STREAM_WAITING_BYTES_MAX:
            self._pause("window", True)

    def loseWriteConnection(self) -> None:
        """FIN after what waits."""
        self._closing = True
        self._carrier.machine.finish(self._sid)
        self._carrier.flush()

    def loseConnection(self) -> None:
        """FIN, and nothing more is delivered; the end comes when the peer ends, or the owner aborts."""
        self.loseWriteConnection()

    def abortConnection(self) -> None:
        """Forget the stream now."""
        self._closing = True
        session = self._carrier.transport
        if session is not None:
            session.soon(self._abort)

    def _abort(self) -> None:
        self._carrier.machine.reset(self._sid)
        self.lost(ABORTED)
        self._carrier.flush()

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # Any: an IPushProducer
        """``producer`` is told when its stream or the session is full."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Tell nobody."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Keep what comes, within the stream's window."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again, what was kept first."""
        if self._paused:
            self._paused = False
            session = self._carrier.transport
            if session is not None:
                session.soon(self._resume)

    def _resume(self) -> None:
        while self._held and not self._paused:
            self._take(self._held.popleft())
        if self._ended and not self._held:
            self.ended()
        self._carrier.held()
        self._carrier.flush()

    def getPeer(self) -> IAddress:
        """Where the session began."""
        peer: IAddress = self._carrier.transport.getPeer()
        return peer
