"""What the application's code costs: the time of hooks and handlers, and a report of those that take too long.

    short (no wait)      ──▶ spent(label, seconds)
    one that suspends    ──▶ begin ─▶ end         still under way after ``slow_s``: reported then; when it ends: again

A slow operation is a WARN with its label, the time in all, and the time until it first gave way, in which the node
did nothing else. One timer watches all that are under way.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.core.seldom import Seldom

WATCH_S_MIN: Final = 0.01

log = Logger()


@attrs.define(eq=False, slots=True)
class Operation:
    """One that has suspended. ``blocked_s``: the time until it gave way first."""

    label: str
    started_at: float
    blocked_s: float


class Operations:
    """``seconds``: by label, time that the node could do nothing else. ``errors``: by label, how many failed."""

    def __init__(self, clock: IReactorTime, slow_operation_ms: int) -> None:
        self._clock = clock
        self._slow_s = slow_operation_ms / 1000
        self._seldom = Seldom(clock)
        self._watched: dict[Operation, None] = {}
        self._timer: IDelayedCall | None = None
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.errors: defaultdict[str, int] = defaultdict(int)
        self.slow = 0
        self.now = clock.seconds

    def spent(self, label: str, seconds: float) -> None:
        """An operation took that long, without a wait."""
        self.seconds[label] += seconds
        if seconds >= self._slow_s:
            self._report(label, seconds, seconds)

    def begin(self, label: str, started_at: float) -> Operation:
        """An operation has suspended; what it took until now is counted."""
        blocked_s = self.now() - started_at
        self.seconds[label] += blocked_s
        operation = Operation(label, started_at, blocked_s)
        self._watched[operation] = None
        if self._timer is None:
            self._timer = self._clock.callLater(self._slow_s, self._look)
        return operation

    def end(self, operation: Operation, patient: bool = False) -> None:
        """It is over. ``patient``: one that may last; only the time without giving way is judged."""
        self._watched.pop(operation, None)
        total_s = self.now() - operation.started_at
        if (operation.blocked_s if patient else total_s) >= self._slow_s:
            self._report(operation.label, total_s, operation.blocked_s)

    def failed(self, label: str, what: str, failure: Failure | None = None) -> None:
        """An operation raised what it should not: ``failure``, or what is handled now. Not every one is logged."""
        self.errors[label] += 1
        others = self._seldom.due(f"failed {label}")
        if others is not None:
            text = "{what} {label} failed ({others} more times unreported)"
            log.failure(text, failure, what=what, label=label, others=others)

    def stop(self) -> None:
        """Watch no more."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _report(self, label: str, total_s: float, blocked_s: float) -> None:
        self.slow += 1
        others = self._seldom.due(f"slow {label}")
        if others is not None:
            log.warn(
                "slow: {label} took {total_ms:.0f} ms, {blocked_ms:.0f} ms of them before it gave way"
                " ({others} more times unreported)",
                label=label,
                total_ms=total_s * 1000,
                blocked_ms=blocked_s * 1000,
                others=others,
            )

    def _look(self) -> None:
        """Report what has been under way for too long, once each."""
        self._timer = None
        now = self.now()
        for operation in list(self._watched):
            left_s = operation.started_at + self._slow_s - now
            if left_s > 0:
                self._timer = self._clock.callLater(max(left_s, WATCH_S_MIN), self._look)
                return
            del self._watched[operation]
            others = self._seldom.due(f"lasting {operation.label}")
            if others is not None:
                log.warn(
                    "slow: {label} is still under way after {ms:.0f} ms ({others} more times unreported)",
                    label=operation.label,
                    ms=(now - operation.started_at) * 1000,
                    others=others,
                )
