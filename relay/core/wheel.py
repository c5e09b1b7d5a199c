"""One timer for many deadlines: pings, time-outs of pulls, resume windows.

A wheel of ordered sets: adding, cancelling and expiring cost a dict operation each; the clock is asked once a tick for
all of them. Deadlines are kept to one tick (``tick_s``), never early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TICK_S: Final = 0.05
"""Fine enough for the deadline of a pull; 20 wake-ups a second cost nothing that can be measured."""

log = Logger()


class Timed:
    """Something with a deadline. Subclasses say in ``expire`` what happens then; ``bucket`` is the wheel's."""

    __slots__ = ("bucket",)

    bucket: dict[Timed, None] | None

    def __init__(self) -> None:
        self.bucket = None

    def cancel(self) -> None:
        """No deadline any more; may be called at any time."""
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None

    def expire(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError


class Call(Timed):
    """A deadline that calls ``function()``."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__()
        self.function = function

    def expire(self) -> None:
        """Call it."""
        self.function()


class Wheel:
    """``start`` begins ticking on ``clock``; ``stop`` ends it."""

    __slots__ = ("_buckets", "_clock", "_next", "_slot", "tick_s")

    def __init__(self, clock: IReactorTime, tick_s: float = TICK_S) -> None:
        self._clock = clock
        self.tick_s = tick_s
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._slot = 0
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Tick."""
        self._slot = int(self._clock.seconds() / self.tick_s)
        self._next = self._clock.callLater(self.tick_s, self._tick)

    def stop(self) -> None:
        """No further ticks; what is on the wheel stays there."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def add(self, timed: Timed, delay_s: float) -> None:
        """``timed.expire`` is called ``delay_s`` from now, at most a tick later; an earlier deadline of it is void."""
        if timed.bucket is not None:
            timed.cancel()
        slot = int((self._clock.seconds() + delay_s) / self.tick_s) + 1
        if slot <= self._slot:
            slot = self._slot + 1
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = {}
        bucket[timed] = None
        timed.bucket = bucket

    def after(self, delay_s: float, function: Callable[[], object]) -> Call:
        """Call ``function`` once, ``delay_s`` from now."""
        call = Call(function)
        self.add(call, delay_s)
        return call

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def _tick(self) -> None:
        now = int(self._clock.seconds() / self.tick_s)
        # A suspended machine wakes up many slots later: walk what exists, not the slots in between.
        due = (
            range(self._slot + 1, now + 1)
            if now - self._slot <= len(self._buckets)
            else sorted(slot for slot in self._buckets if slot <= now)
        )
        self._slot = now
        for slot in due:
            bucket = self._buckets.pop(slot, {})
            for timed in list(bucket):
                # One that was cancelled or moved by an earlier one of this slot is not in it any more.
                if timed.bucket is bucket:
                    timed.bucket = None
                    self._expire(timed)
        self._next = self._clock.callLater(self.tick_s, self._tick)

    @staticmethod
    def _expire(timed: Timed) -> None:
        try:
            timed.expire()
        except Exception:  # noqa: BLE001 - one deadline's mistake must not stop the others
            log.failure("a deadline failed")
