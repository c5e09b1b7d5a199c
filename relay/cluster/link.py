"""One TCP connection between two nodes: frames from the dialler to the acceptor, after a handshake.

::

    frame: length u32 little-endian, then so many bytes; 0 and more than ``frame_bytes_max`` end the link

    Outgoing                                              Incoming
    connected ─hello▶ ─proof▶ up ─frames, by lane─▶       connected ─hello▶ ─proof▶ up ─frames▶ receiver
        └──────────── refused, lost ─▶ ended                  └────────── refused, lost, silent ─▶ ended

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

LENGTH: Final = Struct("<I")


class Deframer:
    """Cuts a stream into frames, whatever the pieces that come. Raises FrameTooLarge."""

    __slots__ = ("_have", "_pieces", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._pieces: list[bytes] = []  # the beginning of a frame, joined once it is whole
        self._have = 0

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
        self.looks = 0  # kept by the transport: looks without progress

    def write_frame(self, frame: bytes) -> None:
        """One frame, now."""
        assert self.transport is not None
        self.transport.write(LENGTH.pack(len(frame)) + frame)

    def end(self) -> None:
        """Cut it off; what is written already may be lost."""
        if not self.ended:
            self.ended = True
            if self.transport is not None:
                self.transport.abortConnection()  # type: ignore[attr-defined]  # all stream transports have it

    def refuse(self, error: RemoteProtocolError) -> None:
        """Say why, and close."""
        if self.ended:
            return
        self.ended = True
        assert self.transport is not None
        if isinstance(error, LinkRefused) and not error.theirs:
            self.write_frame(refusal_frame(error))
        self.transport.loseConnection()


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
        self.heard = True  # something came since ``silent`` asked
        self._frame_bytes_max = frame_bytes_max
        self._up = up
        self._received = received
        self._lost = lost
        self._why: RemoteProtocolError | None = None

    # --- Protocol ---------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Handshake, then frames."""
        if self.ended:
            return
        self.heard = True
        try:
            for frame in self.deframer.add(data):
                if self.node:
                    self._received(self.node, frame)
                else:
                    self._shake(frame)
                if self.ended:
                    return
        except RemoteProtocolError as error:
            self._why = error
            self.refuse(error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell, once."""
        self.ended = True
        self._lost(self, self._why)

    def _shake(self, frame: bytes) -> None:
        answer = self.handshake.receive(frame)
        if answer is not None:
            self.write_frame(answer)
        if self.handshake.done:
            peer = self.handshake.peer
            assert peer is not None
            self.node = peer.node
            self.deframer.frame_bytes_max = self._frame_bytes_max
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

    def send(self, lane: int, frame: bytes) -> bool:
        """Write or queue a frame; False when the lane is full."""
        if not self.is_up or self.ended:
            return False
        if not self.paused:
            self.write_frame(frame)
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
        self.write_frame(self.handshake.begin())

    def dataReceived(self, data: bytes) -> None:
        """The acceptor's part of the handshake; nothing after it."""
        if self.ended:
            return
        try:
            for frame in self.deframer.add(data):
                if self.is_up:
                    raise RemoteProtocolError("the acceptor sent something behind the handshake")
                self._shake(frame)
        except RemoteProtocolError as error:
            self._why = error
            self.refuse(error)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell, once."""
        self.ended = True
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
                self.write_frame(frame)

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost follows."""
        self.paused = True

    def _shake(self, frame: bytes) -> None:
        answer = self.handshake.receive(frame)
        if answer is not None:
            self.write_frame(answer)
        if self.handshake.done:
            peer = self.handshake.peer
            assert peer is not None and self.transport is not None
            self.is_up = self.was_up = True
            transport: Any = self.transport  # Any: a stream transport, with registerProducer
            transport.registerProducer(self, True)
            self._up(self, peer)
