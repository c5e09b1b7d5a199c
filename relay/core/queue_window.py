"""The part of a queue that is in memory: which messages may be delivered, and which of them is next.

    store ──load / put──▶ offer ─┬─▶ ready (3 levels) ──next──▶ leased ──▶ settling ──▶ out
                                 ├─▶ delayed     not due yet              │ retry
                                 ├─▶ blocked     behind its key           ▼
                                 └─▶ passed over (not kept)             retrying

Messages come in the order of their numbers, from ``cursor`` on. Of those that may not be delivered yet only a part is
kept: of the delayed ones those that are due soonest, of those behind a key the first. The others are *passed over*:
what is remembered of them is a number from which to read again, and when: at ``passed_due`` for the delayed, when the
line of the key is empty for the others. So memory is bounded whatever waits in the store; a queue that holds many
more scheduled messages than the window is read once for about half a window of them. What is read again for a key ends
when there is something of the key: the rest, up to ``high``, is as it was (``leap``).

Order per key: the first of a key's line is ready, leased or retrying, and no other is delivered meanwhile. A message
that is not due yet, and never was delivered, holds nobody back.

Invariants: a number is in ``entries``, or in ``gone`` (settled, the store has not said so yet), or in neither, never in
both; a later message of a key is never in memory while an earlier one of the same key was passed over for its key.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

from relay.core.wheel import Timed
from relay.records import PRIORITIES

if TYPE_CHECKING:
    from relay.core.consumers import Consumer
    from relay.core.queue_reading import QueueReading

READY: Final = 0
LEASED: Final = 1
RETRYING: Final = 2
DELAYED: Final = 3
BLOCKED: Final = 4
SETTLING: Final = 5
OUT: Final = 6
STATES: Final = 7

OVERHEAD_BYTES: Final = 128
"""What a message counts beside its frame, as in the stores."""


class Entry(Timed):
    """One message in memory. ``consumer``: who has it, or had it last. Its deadline is that of the state it is in."""

    __slots__ = (
        "at_ms", "consumer", "deliveries", "due_ms", "expires_ms", "frame", "key", "number", "priority", "queue",
        "size", "state",
    )  # fmt: skip

    def __init__(
        self, queue: QueueReading, number: int, at_ms: int, due_ms: int, expires_ms: int, priority: int,
        deliveries: int, key: str, frame: bytes,
    ) -> None:  # fmt: skip
        self.bucket = None
        self.queue = queue
        self.number = number
        self.at_ms = at_ms
        self.due_ms = due_ms
        self.expires_ms = expires_ms
        self.priority = priority
        self.deliveries = deliveries
        self.key = key
        self.frame = frame
        self.size = len(frame) + OVERHEAD_BYTES
        self.state = OUT
        self.consumer: Consumer | None = None

    def __lt__(self, other: Entry) -> bool:
        return self.number < other.number

    def expire(self) -> None:
        """The lease is over, or it is due."""
        self.queue.due(self)


class Line:
    """Messages of one ordering key: the ``first`` may be delivered, ``others`` (a heap) wait for it."""

    __slots__ = ("first", "others")

    def __init__(self, first: Entry) -> None:
        self.first = first
        self.others: list[Entry] = []


class Memory:
    """The bytes of all messages that are in the memory of one node, shared by its windows; one that is dropped takes
    its ``total`` away."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Window:
    """``size``: messages that are ready, and half as many of each kind that are not; ``bytes_max``: of the ready.
    ``total`` is the bytes of all that are here, settling ones too, as it is counted in ``memory``."""

    __slots__ = (
        "again", "bytes", "bytes_max", "caught_up", "counts", "cursor", "delayed", "entries", "gone", "high", "lines",
        "memory", "missed", "passed_due", "passed_from", "passed_keys", "ready", "size", "stale", "total",
    )  # fmt: skip

    def __init__(self, size: int, bytes_max: int, memory: Memory) -> None:
        self.size = size
        self.memory = memory
        self.total = 0
        self.bytes_max = bytes_max
        self.bytes = 0
        self.entries: dict[int, Entry] = {}
        self.ready: tuple[deque[Entry], ...] = tuple(deque() for _ in range(PRIORITIES))
        self.counts = [0] * STATES
        self.delayed: dict[Entry, None] = {}
        self.lines: dict[str, Line] = {}
        self.gone: dict[int, Entry] = {}
        self.stale: set[int] = set()
        """Numbers whose settlement was reported while a read was under way, which may not have seen it."""
        self.cursor = 0
        self.caught_up = False
        """All that is stored is in memory or was passed over."""
        self.missed = False
        """A message was stored and not taken since the read under way began."""
        self.passed_due = 0
        self.passed_from = 0
        self.passed_keys: dict[str, int] = {}
        self.again: dict[str, None] = {}
        """Keys for which it is read again …"""
        self.high = 0
        """… up to this number, which had been reached before; 0: it is not."""

    # --- in -------------------------------------------------------------------------------------------------------

    def knows(self, number: int) -> bool:
        """Whether a message is here, or was and is settled."""
        return number in self.entries or number in self.gone or number in self.stale

    def room(self) -> int:
        """How many more messages to read; 0 when enough are ready or there are no others."""
        ready = self.counts[READY]
        if self.caught_up or ready * 2 >= self.size or (ready and self.bytes >= self.bytes_max):
            return 0
        return self.size - ready

    def takes(self, urgent: bool) -> bool:
        """Whether a message that has just been stored may come in; for an ``urgent`` one there is twice the room."""
        more = 1 + urgent
        return self.counts[READY] < self.size * more and (self.bytes < self.bytes_max * more or not self.counts[READY])

    def offer(self, entry: Entry, now_ms: int) -> bool:
        """A message from the store; False when it was passed over."""
        if entry.due_ms > now_ms:
            return self._offer_now(entry, RETRYING) if entry.deliveries else self._offer_delayed(entry)
        return self._offer_now(entry, READY)

    def _offer_now(self, entry: Entry, state: int) -> bool:
        """One that is due, or was delivered before (as found after a start; it holds back its key)."""
        key = entry.key
        if key and not self._in_line(entry):
            return False
        self.entries[entry.number] = entry
        if key and self.lines[key].first is not entry:
            self.move(entry, BLOCKED)
        elif state == READY:
            self.make_ready(entry)
        else:
            self.move(entry, RETRYING)
        return True

    def _offer_delayed(self, entry: Entry) -> bool:
        if self.counts[DELAYED] * 2 >= self.size:
            latest = max(self.delayed, key=lambda each: each.due_ms)
            if latest.due_ms <= entry.due_ms:
                _pass_over(self, entry)
                return False
            latest.cancel()
            self.forget(latest)
            _pass_over(self, latest)
        self.entries[entry.number] = entry
        self.move(entry, DELAYED)
        return True

    def _in_line(self, entry: Entry) -> bool:
        """Put it into the line of its key; False when it was passed over."""
        key = entry.key
        passed = self.passed_keys.get(key)
        line = self.lines.get(key)
        if passed is not None and passed < entry.number:
            return False
        if line is None:
            self.lines[key] = Line(entry)
        elif self.counts[BLOCKED] * 2 >= self.size:
            self.passed_keys[key] = entry.number
            return False
        else:
            heapq.heappush(line.others, entry)
        if passed == entry.number:
            del self.passed_keys[key]  # the reading that met it again goes on to those behind it
        return True

    # --- states ---------------------------------------------------------------------------------------------------

    def move(self, entry: Entry, state: int) -> None:
        """Count it in another state."""
        counts = self.counts
        old = entry.state
        counts[old] -= 1
        counts[state] += 1
        if old == OUT:
            self.total += entry.size
            self.memory.bytes += entry.size
        elif state == OUT:
            self.total -= entry.size
            self.memory.bytes -= entry.size
        if old == READY:
            self.bytes -= entry.size
        elif old == DELAYED:
            del self.delayed[entry]
        if state == READY:
            self.bytes += entry.size
        elif state == DELAYED:
            self.delayed[entry] = None
        entry.state = state

    def make_ready(self, entry: Entry, first: bool = False) -> None:
        """It may be delivered (``first``: before the others of its level); no other of its key is before it."""
        self.move(entry, READY)
        level = self.ready[entry.priority]
        if first:
            level.appendleft(entry)
        else:
            level.append(entry)

    def come_due(self, entry: Entry) -> None:
        """A delayed or retrying message is due."""
        if entry.state == DELAYED:
            self.forget(entry)
            self._offer_now(entry, READY)
        else:
            self.make_ready(entry)

    def next(self) -> Entry | None:
        """The message to deliver, still counted as ready; call ``take`` or ``settle`` for it."""
        for level in self.ready:
            while level:
                entry = level[0]
                if entry.state == READY:
                    return entry
                level.popleft()  # it was settled by who had it before
        return None

    def take(self, entry: Entry) -> None:
        """What ``next`` gave is delivered."""
        self.ready[entry.priority].popleft()
        self.move(entry, LEASED)

    def settle(self, entry: Entry) -> Entry | None:
        """It is done with, whatever its state; the next of its key, which is ready now, or None.

        It stays in ``gone`` until the store has said so.
        """
        entry.cancel()
        number = entry.number
        del self.entries[number]
        self.gone[number] = entry
        self.move(entry, SETTLING)
        return self._leave_line(entry) if entry.key else None

    def settled(self, entry: Entry, reading: bool) -> None:
        """The store has said so. ``reading``: a read is under way that may not have seen it."""
        if self.gone.pop(entry.number, None) is not None:
            self.move(entry, OUT)
            if reading:
                self.stale.add(entry.number)

    def forget(self, entry: Entry) -> None:
        """It is not in memory any more; nothing else changes."""
        del self.entries[entry.number]
        self.move(entry, OUT)

    def rescan(self, number: int) -> None:
        """Read again from ``number`` on, to the end."""
        self.again.clear()
        self.high = 0
        self.cursor = min(self.cursor, number - 1)
        self.caught_up = False

    def leap(self) -> None:
        """A read has come as far as ``cursor``: go on behind what had been read before, if nothing of it is wanted."""
        if self.high and not self.caught_up and self.cursor < self.high:
            if any(key not in self.lines for key in self.again):
                return
            # What there may be more of these keys is passed over; every line of them is read on when it is empty.
            for key in self.again:
                self.passed_keys.setdefault(key, self.cursor + 1)
            self.cursor = self.high
        self.again.clear()
        self.high = 0

    def come_round(self) -> None:
        """The first of the delayed messages that were passed over is due."""
        number = self.passed_from
        self.passed_due = self.passed_from = 0
        if number:
            self.rescan(number)

    def _leave_line(self, entry: Entry) -> Entry | None:
        key = entry.key
        line = self.lines.get(key)
        if line is None:
            return None
        if line.first is not entry:
            if entry in line.others:
                line.others.remove(entry)
                heapq.heapify(line.others)
            return None
        if line.others:
            line.first = first = heapq.heappop(line.others)
            if first.state == BLOCKED:
                self.make_ready(first)
            return first
        del self.lines[key]
        number = self.passed_keys.pop(key, 0)
        if number:
            # Read again from there on until there is something of the key.
            self.again[key] = None
            self.high = max(self.high, self.cursor)
            self.cursor = min(self.cursor, number - 1)
            self.caught_up = False
        return None


def _pass_over(window: Window, entry: Entry) -> None:
    """A delayed message is not kept: it is read again when the first of those is due."""
    window.passed_due = min(window.passed_due or entry.due_ms, entry.due_ms)
    window.passed_from = min(window.passed_from or entry.number, entry.number)
