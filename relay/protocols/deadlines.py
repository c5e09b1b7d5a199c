"""Deadlines of many connections on one timer of the event loop, to a millisecond and less.

``relay.protocols.fine_wheel`` turns while anybody waits; here the timer is set for the earliest deadline and for
nothing else. An entry that is added earlier than before leaves its older place behind, which is passed over then.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()


class Due(Protocol):
    """What can have a deadline. ``due`` belongs to ``Deadlines``: when, 0 for none."""

    due: float


D = TypeVar("D", bound=Due)


class Deadlines(Generic[D]):
    """``expire(entry)`` is called once a deadline has passed. ``now()`` is in seconds, and fine."""

    __slots__ = ("_call", "_call_at", "_clock", "_count", "_expire", "_heap", "_now")

    def __init__(self, clock: IReactorTime, now: Callable[[], float], expire: Callable[[D], None]) -> None:
        self._clock = clock
        self._now = now
        self._expire = expire
        self._heap: list[tuple[float, int, D]] = []
        self._count = count()
        self._call: IDelayedCall | None = None
        self._call_at = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, entry: D, at: float) -> None:
        """``entry`` is due at ``at``, unless it is due before that anyway."""
        if entry.due and entry.due <= at:
            return
        entry.due = at
        heapq.heappush(self._heap, (at, next(self._count), entry))
        self._set()

    def stop(self) -> None:
        """No more calls."""
        self._heap.clear()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _set(self) -> None:
        at = self._heap[0][0]
        if self._call is not None:
            if self._call_at <= at:
                return
            self._call.cancel()
        self._call_at = at
        self._call = self._clock.callLater(max(0.0, at - self._now()), self._due)

    def _due(self) -> None:
        self._call = None
        now, heap = self._now(), self._heap
        # Taken first: who is added by what is called is due in a later turn.
        passed = []
        while heap and heap[0][0] <= now:
            at, _, entry = heapq.heappop(heap)
            if entry.due == at:
                entry.due = 0.0
                passed.append(entry)
        for entry in passed:
            try:
                self._expire(entry)
            except Exception:  # noqa: BLE001 - logged; one connection's mistake must not stop the others
                log.failure("a deadline of a connection failed")
        if heap:
            self._set()
