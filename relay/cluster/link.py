"""One TCP connection between two nodes: frames from the dialler to the acceptor, sealed, after a handshake.

::

    frame: length u32 little-endian, then so many bytes; 0 and more than ``frame_bytes_max`` end the link

    Outgoing                                              Incoming
    connected ─hello▶ ─proof▶ up ─frames, by lane─▶       connected ─hello▶ ─proof▶ up ─frames▶ receiver
        └──────────── refused, lost ─▶ ended                  └────────── refused, lost, silent ─▶ ended

``ended``: nothing is taken or sent any more; ``gone``: so is the connection. A link that stood is cut off when it ends:
a transport that has to drain before it closes waits for the producer, or for the other side, and that may be for ever.

With a secret, frames are sealed when they are written, in records as on a stream of the secure channel
(``relay.wire.secure_records``); the acceptor cuts them out of what the records hold.

While the transport takes everything, a frame is written at once. When it pauses, frames wait in their lane, and are
written lane by lane when it goes on: a heartbeat passes whatever waits, and at most what the transport has already
(64 KiB and one frame) is before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.cluster.frames import LANES
from relay.cluster.handshake import HELLO_BYTES_MAX, Handshake, Hello, LinkRefused, refusal_frame
from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.wire.secure_records import RECORD_BYTES_MAX, StreamOpener, StreamSealer

LENGTH: Final = Struct("<I")
RECORDS_MAX: Final = 2**16
"""Records under one key: an hour of heartbeats every 50 ms, 1 GiB of snapshots. Another one costs 50 µs, so nothing is
saved by coming near a bound of the cipher, and no clock is needed."""
IN_CLEAR: Final = "something came in clear behind the handshake"


class Deframer:
    """Cuts a stream into frames, whatever the pieces that come. Raises FrameTooLarge."""

    __slots__ = ("_have", "_pieces", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._pieces: list[bytes] = []  # the beginning of a frame, joined once it is whole
        self._have = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits for its end."""
        return not self._pieces

    def add(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes."""
        if self._pieces:
            self._pieces.append(data)
            self._have += len(data)
            head = self._pieces[0] if len(self._pieces[0]) >= LENGTH.size else b"".join(self._pieces)
            if len(head) < LENGTH.size or self._have < LENGTH.size + self._length(head, 0):
                return []
            data = b"".join(self._pieces)
            self._pieces = []
        frames = []
        at, end = 0, len(data)
        while end - at >= LENGTH.size:
            length = self._length(data, at)
            if end - at - LENGTH.size < length:
                break
            at += LENGTH.size
            frames.append(data[at : at + length])
            at += length
        if at < end:
            rest = data[at:]
            self._pieces = [rest]
            self._have = len(rest)
        return frames

    def _length(self, data: bytes, at: int) -> int:
        (length,) = LENGTH.unpack_from(data, at)
        if not 0 < length <= self.frame_bytes_max:
            raise FrameTooLarge(f"a frame of {length} bytes, 1 to {self.frame_bytes_max} are taken")
        return int(length)


class _Link(Protocol):
    """Both ends: the handshake."""

    def __init__(self, handshake: Handshake) -> None:
        self.handshake = handshake
        self.deframer = Deframer(HELLO_BYTES_MAX)
        self.ended = False
        self.gone = False
        self.looks = 0  # kept by the transport: looks without progress

    def write_clear(self, frame: bytes) -> None:
        """A frame of the handshake."""
        assert self.transport is not None
        self.transport.write(LENGTH.pack(len(frame)) + frame)

    def end(self) -> None:
        """Cut it off, also one that was refused and does not close; what is written already may be lost."""
        self.ended = True
        if self.transport is not None and not self.gone:
            self.transport.abortConnection()  # type: ignore[attr-defined]  # all stream transports have it

    def refuse(self, error: RemoteProtocolError) -> None:
        """Say why, and close. Before the link stands."""
        if self.ended:
            return
        self.ended = True
        assert self.transport is not None
        if isinstance(error, LinkRefused) and not error.theirs:
            self.write_clear(refusal_frame(error))
        self.transport.loseConnection()

    def shake(self, data: bytes) -> Hello | None:
        """More of the handshake; the other node, once the link stands. Raises RemoteProtocolError."""
        handshake = self.handshake
        for frame in self.deframer.add(data):
            if handshake.done:
                raise RemoteProtocolError(IN_CLEAR)
            answer = handshake.receive(frame)
            if answer is not None:
                self.write_clear(answer)
        if not handshake.done:
            return None
        if not self.deframer.empty:
            raise RemoteProtocolError(IN_CLEAR)
        return handshake.peer


class Incoming(_Link):
    """The acceptor's end. ``up(link)`` when it stands, ``received(node, frame)`` for each frame, ``lost(link,
    why)``."""

    def __init__(
        self,
        handshake: Handshake,
        frame_bytes_max: int,
        up: Callable[[Incoming, Hello], object],
        received: Callable[[int, bytes], object],
        lost: Callable[[Incoming, RemoteProtocolError | None], object],
    ) -> None:
        super().__init__(handshake)
        self.node = 0
        self.source = ""  # whose it is, before that is known; kept by the transport
        self.heard = True  # something came since ``silent`` asked
        self._frame_bytes_max = frame_bytes_max
        self._up = up
        self._received = received
        self._lost = lost
        self._why: RemoteProtocolError | None = None
        self._opener: StreamOpener | None = None  # behind the handshake, if there is a secret

    # --- Protocol ---------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Handshake, then frames."""
        if self.ended:
            return
        self.heard = True
        try:
            if not self.node:
                self._shake(data)
            elif self._opener is None:
                self._take(data)
            else:
                opened = b"".join(self._opener.receive(data))
                if opened:
                    self._take(opened)
        except RemoteProtocolError as error:
            self._why = error
            if self.node:
                self.end()
            else:
                self.refuse(error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell, once."""
        self.ended = self.gone = True
        self._lost(self, self._why)

    def _take(self, data: bytes) -> None:
        for frame in self.deframer.add(data):
            self._received(self.node, frame)
            if self.ended:
                return

    def _shake(self, data: bytes) -> None:
        peer = self.shake(data)
        if peer is not None:
            self.node = peer.node
            self.deframer.frame_bytes_max = self._frame_bytes_max
            keys = self.handshake.take_keys()
            if keys is not None:
                self._opener = StreamOpener(keys.suite, keys.receiving)
            self._up(self, peer)


@implementer(IPushProducer)
class Outgoing(_Link):
    """The dialler's end. ``up(link)`` when frames are taken, ``lost(link, why)`` once."""

    def __init__(
        self,
        handshake: Handshake,
        lane_bytes_max: tuple[int, ...],
        up: Callable[[Outgoing, Hello], object],
        lost: Callable[[Outgoing, RemoteProtocolError | None], object],
    ) -> None:
        super().__init__(handshake)
        self.is_up = False
        self.was_up = False
        self.paused = False
        self.moved = True  # something was written since ``stuck`` asked
        self.lane_bytes = [0] * LANES
        self._lane_bytes_max = lane_bytes_max
        self._lanes: tuple[deque[bytes], ...] = tuple(deque() for _ in range(LANES))
        self._up = up
        self._lost = lost
        self._why: RemoteProtocolError | None = None
        self._sealer: StreamSealer | None = None  # behind the handshake, if there is a secret

    @property
    def stands(self) -> bool:
        """Whether frames are taken."""
        return self.is_up and not self.ended

    def send(self, lane: int, frame: bytes) -> bool:
        """Write or queue a frame; False when the lane is full."""
        if not self.is_up or self.ended:
            return False
        if not self.paused:
            self._write(frame)
            return True
        if self.lane_bytes[lane] + len(frame) > self._lane_bytes_max[lane]:
            return False
        self._lanes[lane].append(frame)
        self.lane_bytes[lane] += len(frame)
        return True

    def stuck(self) -> bool:
        """Whether the other side took nothing since this was asked last, though something waits."""
        stuck = self.is_up and self.paused and not self.moved
        self.moved = False
        return stuck

    # --- Protocol and IPushProducer ---------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The hello."""
        self.write_clear(self.handshake.begin())

    def dataReceived(self, data: bytes) -> None:
        """The acceptor's part of the handshake; nothing after it."""
        if self.ended:
            return
        try:
            if self.is_up:
                raise RemoteProtocolError("the acceptor sent something behind the handshake")
            peer = self.shake(data)
            if peer is not None:
                self._begin(peer)
        except RemoteProtocolError as error:
            self._why = error
            if self.is_up:
                self.end()
            else:
                self.refuse(error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell, once."""
        self.ended = self.gone = True
        self.is_up = False
        self._lost(self, self._why)

    def pauseProducing(self) -> None:
        """The transport has enough."""
        self.paused = True

    def resumeProducing(self) -> None:
        """The transport takes more: the first lanes first, as long as it does."""
        self.paused = False
        self.moved = True
        for lane, waiting in enumerate(self._lanes):
            while waiting:
                if self.paused or self.ended:
                    return
                frame = waiting.popleft()
                self.lane_bytes[lane] -= len(frame)
                self._write(frame)

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost follows."""
        self.paused = True

    def _write(self, frame: bytes) -> None:
        assert self.transport is not None
        write, sealer, head = self.transport.write, self._sealer, LENGTH.pack(len(frame))
        if sealer is None:
            write(head + frame)
        elif len(frame) <= RECORD_BYTES_MAX - LENGTH.size:  # fast path: a frame in a record
            write(sealer.seal(head + frame))
        else:
            # The head in one of its own: what is large is not copied to stand behind it.
            write(sealer.seal(head))
            write(sealer.seal(frame))

    def _begin(self, peer: Hello) -> None:
        keys = self.handshake.take_keys()
        if keys is not None:
            self._sealer = StreamSealer(keys.suite, keys.sending, RECORDS_MAX)
        self.is_up = self.was_up = True
        assert self.transport is not None
        transport: Any = self.transport  # Any: a stream transport, with registerProducer
        transport.registerProducer(self, True)
        self._up(self, peer)
