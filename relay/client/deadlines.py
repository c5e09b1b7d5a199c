"""Deadlines as a heap: one timer of the shell serves all of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable

_COMPACT_FROM = 64  # cancelled entries tolerated before the heap is looked through


class Deadline:
    """One deadline; ``cancel`` takes it back."""

    __slots__ = ("_deadlines", "at", "expire", "order")

    def __init__(self, deadlines: Deadlines, at: float, order: int, expire: Callable[[float], None]) -> None:
        self.at = at
        self.order = order
        self.expire: Callable[[float], None] | None = expire
        self._deadlines = deadlines

    def __lt__(self, other: Deadline) -> bool:
        return (self.at, self.order) < (other.at, other.order)

    def cancel(self) -> None:
        """It will not expire. May be called again, and after it expired."""
        if self.expire is not None:
            self.expire = None
            self._deadlines.cancelled()


class Deadlines:
    """All deadlines of one client. Cost of adding and expiring: logarithmic; of cancelling: constant on average."""

    def __init__(self) -> None:
        self._heap: list[Deadline] = []
        self._order = 0
        self._live = 0

    def add(self, at: float, expire: Callable[[float], None]) -> Deadline:
        """``expire(now)`` is called by the first ``run`` at or after ``at``."""
        self._order += 1
        deadline = Deadline(self, at, self._order, expire)
        self._live += 1
        if at != float("inf"):
            heapq.heappush(self._heap, deadline)
        return deadline

    def cancelled(self) -> None:
        """Called by a deadline that was taken back: keeps the heap within twice the live ones."""
        self._live -= 1
        if len(self._heap) > 2 * self._live + _COMPACT_FROM:
            self._heap = [each for each in self._heap if each.expire is not None]
            heapq.heapify(self._heap)

    def next(self) -> float:
        """When ``run`` is due; infinity when there is no deadline."""
        while self._heap and self._heap[0].expire is None:
            heapq.heappop(self._heap)
        return self._heap[0].at if self._heap else float("inf")

    def run(self, now: float) -> None:
        """Let what is due expire, the earliest first."""
        while self.next() <= now:
            deadline = heapq.heappop(self._heap)
            expire, deadline.expire = deadline.expire, None
            self._live -= 1
            assert expire is not None
            expire(now)
