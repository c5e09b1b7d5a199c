"""What waits to be sent to one peer: writes joined per turn, and the policy for peers that do not take them.

    send ──▶ frames ──(end of turn, or 64 KiB)──▶ one write ──▶ transport
                │ the transport says "pause"
                ▼
             held ── over queue_bytes_max: drop what may be dropped, else ``overflow``
                │ the transport says "resume"
                ▼
             frames

Invariants: frames leave in the order of ``send``; a frame is either written once or, when its policy allows, left out
and counted in a ``skip`` frame that stands in its place; ``queued_bytes`` is the sum of what is in ``frames`` and
``held``. The plain twin (one write per send, no dropping) is ``PlainOutbox`` in ``relay/test/test_outbox.py``.

Over a transport that joins the writes of a turn itself (relay's reactor does) the first box is left out: see
``StraightOutbox``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from relay.config import Slow

JOIN_BYTES_MAX: Final = 65_536
"""More than this is written at once: the transport takes such pieces in one system call."""

# Policies per frame, in the ``flags`` of ``send``.
BY_LISTENER: Final = 0
DISCONNECT: Final = 1
DROP_OLDEST: Final = 2
LATEST: Final = 3
POLICY_MASK: Final = 0x0F
CONTROL: Final = 0x10
"""Not a session frame: not counted, never dropped."""
DROPPABLE: Final = 0x20
"""May be left out when the policy says so: events and pushes that want no answer."""

POLICIES: Final = {"disconnect": DISCONNECT, "drop_oldest": DROP_OLDEST, "latest": LATEST}

SKIPS_MIN: Final = 64
"""Fewer entries of left-out frames than this are not worth merging."""
SKIP: Final = 0x40
"""Internal: the entry stands for frames that were left out; its ``key`` is None and its count is in ``count``."""


class Flusher:
    """The outboxes that were written to in this turn of the reactor; flushed once, at its end.

    ``at_turn_end(f)`` runs ``f`` once, after what is running now: the reactor's own hook or ``callLater(0, f)``.
    """

    __slots__ = ("_scheduled", "at_turn_end", "dirty", "stalled")

    def __init__(self, at_turn_end: Callable[[Callable[[], None]], object]) -> None:
        self.at_turn_end = at_turn_end
        self._scheduled = False
        self.dirty: list[Outbox] = []
        # Outboxes whose transport does not take more, with the time (set by ``sweep``) since when.
        self.stalled: dict[Outbox, float] = {}

    def mark(self, outbox: Outbox) -> None:
        """Flush ``outbox`` at the end of this turn."""
        self.dirty.append(outbox)
        if not self._scheduled:
            self._scheduled = True
            self.at_turn_end(self.flush)

    def flush(self) -> None:
        """Write what waits, one write per outbox."""
        self._scheduled = False
        dirty = self.dirty
        self.dirty = []
        for outbox in dirty:
            outbox.flush()

    def sweep(self, now: float) -> None:
        """Overflow the outboxes whose peer has not taken what was sent for ``stalled_s_max``; call once a second."""
        for outbox, since in list(self.stalled.items()):
            if since < 0:
                self.stalled[outbox] = now
            elif now - since > outbox.slow.stalled_s_max:
                self.stalled.pop(outbox, None)
                outbox.overflow()


class _Held:
    """One frame that waits for a paused transport. ``count``: frames that it stands for when it is a skip."""

    __slots__ = ("count", "flags", "frame", "key")

    def __init__(self, frame: bytes, key: str | None, flags: int, count: int = 0) -> None:
        self.frame = frame
        self.key = key
        self.flags = flags
        self.count = count


@implementer(IPushProducer)
class Outbox:
    """See the module. ``write`` takes bytes; ``overflow`` is called once, when the peer must be disconnected;
    ``skip_frame(n)`` makes the frame that tells the peer of ``n`` frames left out (None: the dialect has none)."""

    __slots__ = (
        "_dirty", "_flusher", "_frames", "_held", "_latest", "_overflowed", "_skips", "_unsent", "_write",
        "on_overflow", "paused", "queued_bytes", "skip_frame", "skipped", "slow",
    )  # fmt: skip

    def __init__(
        self, flusher: Flusher, write: Callable[[bytes], object], slow: Slow, on_overflow: Callable[[], None]
    ) -> None:
        self._flusher = flusher
        self._write: Callable[[bytes], object] | None = write
        self.slow = slow
        self.on_overflow: Callable[[], None] | None = on_overflow
        self.skip_frame: Callable[[int], bytes] | None = None
        self.paused = False
        self.queued_bytes = 0
        self.skipped = 0
        self._dirty = False
        self._frames: list[bytes] = []
        self._held: deque[_Held] | None = None
        self._latest: dict[str, _Held] | None = None
        self._overflowed = False
        self._skips = 0
        self._unsent = 0

    def send(self, frame: bytes, key: str | None = None, flags: int = 0) -> None:
        """Queue ``frame``; nothing happens after ``close``."""
        # Fast path: the transport takes what it is given.
        if not self.paused:
            self._frames.append(frame)
            self.queued_bytes += len(frame)
            if not self._dirty:
                self._dirty = True
                self._flusher.mark(self)
            elif self.queued_bytes > JOIN_BYTES_MAX:
                self.flush()
                self._dirty = True  # still on the dirty list: the next flush finds it clean
            return
        self._hold(frame, key, flags)

    def flush(self) -> None:
        """Write all frames as one."""
        self._dirty = False
        frames = self._frames
        if frames and self._write is not None and not self.paused:
            self._frames = []
            self.queued_bytes = 0
            self._write(frames[0] if len(frames) == 1 else b"".join(frames))

    def unsent(self) -> int:
        """Session frames that were certainly not handed to the transport, and never will be.

        Known when the transport is gone: until then what is held may still be written, by ``close`` at the latest.
        """
        return self._unsent

    def close(self) -> None:
        """Write what can be written and forget the rest; later frames go nowhere."""
        if self._held:
            self._release()
        self.paused = False
        self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Forget everything: the transport is gone."""
        if self._write is not None:
            self._unsent = sum(not held.flags & (CONTROL | SKIP) for held in self._held or ())
        self.paused = True
        self._write = None
        self.on_overflow = None
        self.skip_frame = None
        self._frames = []
        self._held = self._latest = None
        self.queued_bytes = 0
        self._flusher.stalled.pop(self, None)

    def overflow(self) -> None:
        """The peer is too slow: tell the owner, once."""
        if not self._overflowed and self.on_overflow is not None:
            self._overflowed = True
            self.on_overflow()

    # --- IPushProducer: the transport calls these -----------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if not self.paused and self._write is not None:
            self.paused = True
            self._flusher.stalled[self] = -1.0
            if self._frames:
                # Whether these are session frames is forgotten: they are neither left out nor counted as unsent.
                self._held = deque(_Held(frame, None, CONTROL) for frame in self._frames)
                self._frames = []

    def resumeProducing(self) -> None:
        """The transport took all it had."""
        if self.paused and self._write is not None:
            self.paused = False
            self._flusher.stalled.pop(self, None)
            if self._held:
                self._release()
                self.flush()

    def stopProducing(self) -> None:
        """The transport is lost."""
        self.abandon()

    # --- a slow peer ----------------------------------------------------------------------------------------------

    def _hold(self, frame: bytes, key: str | None, flags: int) -> None:
        if self._write is None:
            return
        if self._held is None:
            self._held = deque()
        held = _Held(frame, key, flags)
        if flags & DROPPABLE and key is not None and self._policy(flags) == LATEST:
            if self._latest is None:
                self._latest = {}
            older = self._latest.get(key)
            if older is not None:
                self._skip(older)
            self._latest[key] = held
        self._held.append(held)
        if self._skips > SKIPS_MIN and self._skips * 2 > len(self._held):
            self._merge_skips()
        self.queued_bytes += len(frame)
        # After the overflow the peer is on its way out: no further walk over a long queue for each frame.
        if self.queued_bytes > self.slow.queue_bytes_max and not self._overflowed:
            self._drop()

    def _policy(self, flags: int) -> int:
        return flags & POLICY_MASK or POLICIES[self.slow.policy]

    def _skip(self, held: _Held) -> None:
        """Leave a held frame out: the entry becomes a skip in its place."""
        self.queued_bytes -= len(held.frame)
        held.frame = b""
        held.flags = SKIP
        held.key = None
        held.count = 1
        self._skips += 1
        self.skipped += 1

    def _drop(self) -> None:
        """Leave out the oldest frames that may be; overflow when that is not enough.

        It makes room for an eighth of the queue at once, so that a peer that stays slow costs a walk over its queue
        only now and then; a queue of frames that must stay, with less room than that, is an overflow.
        """
        assert self._held is not None
        room = self.slow.queue_bytes_max - self.slow.queue_bytes_max // 8
        for held in self._held:
            if held.flags & DROPPABLE and self._policy(held.flags) != DISCONNECT:
                if held.key is not None and self._latest is not None and self._latest.get(held.key) is held:
                    del self._latest[held.key]
                self._skip(held)
                if self.queued_bytes <= room:
                    break
        self._merge_skips()
        if self.queued_bytes > room:
            self.overflow()

    def _merge_skips(self) -> None:
        """Adjacent skips become one, so that what is dropped takes no memory."""
        assert self._held is not None
        merged: deque[_Held] = deque()
        for held in self._held:
            if held.flags == SKIP and merged and merged[-1].flags == SKIP:
                merged[-1].count += held.count
            else:
                merged.append(held)
        self._held = merged
        self._skips = 0

    def _release(self) -> None:
        """Held entries become frames again."""
        assert self._held is not None
        self._merge_skips()
        for held in self._held:
            if held.flags != SKIP:
                self._frames.append(held.frame)
            elif self.skip_frame is not None:
                self._frames.append(self.skip_frame(held.count))
        self._held = self._latest = None


class StraightOutbox(Outbox):
    """An outbox over a transport that joins the writes of a turn: frames are not collected here a second time.

    Saves 0.3 us for a frame that is alone in its turn.
    """

    __slots__ = ()

    def send(self, frame: bytes, key: str | None = None, flags: int = 0) -> None:
        """Write ``frame``; nothing happens after ``close``."""
        if self.paused:
            self._hold(frame, key, flags)
        else:
            self._write(frame)  # type: ignore[misc]  # once there is none it is paused for good
