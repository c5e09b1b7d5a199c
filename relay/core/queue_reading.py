"""What a queue is, and how its window is filled from the store.

    room in the window ──▶ load after the cursor ──▶ offered, one by one ──▶ again, until there is no room or no more
    delayed, retrying  ──▶ a deadline on the wheel
    passed over        ──▶ one alarm, for the first of them

One read is under way at a time. What is stored meanwhile and not taken is noticed (``Window.missed``): the end of the
read is not the end of the queue then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from relay import errors
from relay.core.queue_window import DELAYED, RETRYING, Entry, Window
from relay.records import is_end

if TYPE_CHECKING:
    from relay.config_queues import QueueRule
    from relay.core.consumers import Consumer
    from relay.core.queue_store import QueueDesk
    from relay.core.wheel import Call
    from relay.records import Item

log = Logger()

TIMER_S_MAX: Final = 86_400.0
"""Deadlines further away are looked at once a day: the wall clock may be set meanwhile."""
READ_AGAIN_S: Final = 1.0
"""Wait after a read of the store failed."""


class QueueReading:
    """See the module. ``desk`` is what the queues of a node share: store, clock, counters."""

    __slots__ = (
        "_alarm", "_alarm_due", "_desk", "_reading", "_ring", "_running", "bytes", "consumers", "dead", "name",
        "paused", "putting", "putting_bytes", "realm", "rule", "settling", "waiting", "window",
    )  # fmt: skip

    def __init__(self, desk: QueueDesk, realm: str, name: str, rule: QueueRule) -> None:
        self._desk = desk
        self.realm = realm
        self.name = name
        self.rule = rule
        self.waiting = 0
        self.dead = 0
        self.bytes = 0
        self.paused = False
        self.putting = 0
        """Puts on their way to the store; likewise their bytes, and settlements."""
        self.putting_bytes = 0
        self.settling = 0
        self.consumers: dict[Consumer, None] | None = None
        self.window: Window | None = None
        self._ring: deque[Consumer] | None = None
        self._running = False
        self._reading = False
        self._alarm: Call | None = None
        self._alarm_due = 0

    @property
    def held_bytes_max(self) -> int:
        """What one consumer may hold."""
        return self.rule.held_bytes_max

    def chunk(self, size: int, most: int) -> int:
        """How many messages of this queue have about ``size`` bytes, judging by their average: 1 to ``most``."""
        messages = self.waiting + self.dead
        if messages <= 0 or self.bytes * most <= size * messages:
            return most
        return max(1, size * messages // self.bytes)

    def run(self) -> None:
        """Deliver what can be delivered, read what is wanted."""
        raise NotImplementedError

    def due(self, entry: Entry) -> None:
        """The deadline of a message."""
        raise NotImplementedError

    def _offer(self, window: Window, entry: Entry, now_ms: int) -> None:
        window.offer(entry, now_ms)
        if entry.state in (DELAYED, RETRYING):
            self._set_timer(entry, now_ms)
        self._set_alarm(window, now_ms)

    def _set_timer(self, entry: Entry, now_ms: int) -> None:
        self._desk.wheel.add(entry, min(max(entry.due_ms - now_ms, 0) / 1000, TIMER_S_MAX))

    def _set_alarm(self, window: Window, now_ms: int) -> None:
        """Wake up for what was passed over."""
        due_ms = window.passed_due
        if due_ms and (self._alarm is None or due_ms < self._alarm_due):
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_due = due_ms
            delay_s = min(max(due_ms - now_ms, 0) / 1000, TIMER_S_MAX)
            self._alarm = self._desk.wheel.after(delay_s, self._alarmed)

    def _alarmed(self) -> None:
        self._alarm = None
        window = self.window
        if window is not None:
            if window.passed_due <= self._desk.now_ms():
                window.come_round()
                self.run()
            else:
                self._set_alarm(window, self._desk.now_ms())

    def _drop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _read(self) -> bool:
        """Ask the store for more when there is too little; True when it is here already."""
        window = self.window
        if window is None or self._reading or not self.consumers or self.paused:
            return False
        limit = window.room()
        if not limit:
            return False
        limit = self.chunk(self.rule.window_bytes, limit)
        if self._desk.crowded(self):
            # One at a time, as they are done with, so that every queue goes on.
            if window.entries:
                return False
            limit = 1
        self._reading = True
        window.missed = False
        done = partial(self._loaded, window, window.cursor, limit)
        self._desk.store.load(self.realm, self.name, window.cursor, limit, False, done)
        return not self._reading

    def _loaded(self, window: Window, after: int, limit: int, items: Sequence[Item] | errors.RelayError) -> None:
        if isinstance(items, errors.RelayError):
            log.warn("reading queue {queue}: {error}", queue=self.name, error=str(items))
            self._desk.wheel.after(READ_AGAIN_S, self._read_again)
            return
        self._reading = False
        # When the cursor was put back meanwhile, something before these is wanted first, of the same key perhaps: they
        # are read again behind it.
        if window is self.window and window.cursor != after:
            window.stale.clear()
        elif window is self.window:
            now_ms = self._desk.now_ms()
            for item in items:
                if not window.knows(item.number):
                    entry = Entry(
                        self, item.number, item.at_ms, item.due_ms, item.expires_ms, item.priority, item.deliveries,
                        item.ordering_key, item.frame,
                    )  # fmt: skip
                    self._offer(window, entry, now_ms)
            window.stale.clear()
            if items:
                window.cursor = items[-1].number
            if is_end(items, limit) and not window.missed:
                window.caught_up = True
                self._recount(window)
            window.leap()
        self.run()

    def _read_again(self) -> None:
        self._reading = False
        self.run()

    def _recount(self, window: Window) -> None:
        """All that waits is in memory: what has expired in the store meanwhile does not count any more."""
        known = len(window.entries) + len(window.gone)
        if not window.passed_from and not window.passed_keys and known < self.waiting:
            self._desk.metrics.queue_expired += self.waiting - known
            self.waiting = known
            if not self.dead:
                self.bytes = sum(each.size for group in (window.entries, window.gone) for each in group.values())
