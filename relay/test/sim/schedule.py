"""The events in order of time, and the clock that one node sees.

Time is in seconds from the beginning. Events of the same moment happen in the order of their making.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Event:
    """A call to be made. Once made or cancelled ``function`` is None."""

    __slots__ = ("arguments", "at_s", "function", "life", "node")

    def __init__(
        self, at_s: float, node: Any, function: Callable[..., object] | None, arguments: tuple[Any, ...]
    ) -> None:  # Any: a Node, or None for what is nobody's; and its own arguments
        self.at_s = at_s
        self.node = node
        self.life = 0 if node is None else node.life
        self.function = function
        self.arguments = arguments

    # IDelayedCall, as far as it is used

    def cancel(self) -> None:
        """Do not call."""
        self.function = None

    def active(self) -> bool:
        """Still to come."""
        return self.function is not None

    def getTime(self) -> float:  # noqa: N802 - Twisted's name
        """When, in the schedule's time."""
        return self.at_s


class Schedule:
    """All events to come."""

    __slots__ = ("_heap", "_number", "count", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self.count = 0  # events that happened
        self._heap: list[tuple[float, int, Event]] = []
        self._number = 0

    def later(self, delay_s: float, node: Any, function: Callable[..., object], *arguments: Any) -> Event:
        """Call ``function`` in ``delay_s``, for ``node`` (None: for nobody) if it still lives the same life then."""
        event = Event(self.now_s + delay_s, node, function, arguments)
        self._number += 1
        heappush(self._heap, (event.at_s, self._number, event))
        return event

    def again(self, event: Event, at_s: float) -> None:
        """``event`` does not happen now but at ``at_s``."""
        event.at_s = at_s
        self._number += 1
        heappush(self._heap, (at_s, self._number, event))

    def run(self, until_s: float) -> None:
        """All events up to ``until_s``. Those of a node happen through its ``enter``."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            at_s, _, event = heappop(heap)
            function = event.function
            if function is None:
                continue
            self.now_s = at_s
            node = event.node
            if node is None:
                event.function = None
                self.count += 1
                function(*event.arguments)
            elif node.life == event.life:
                if node.paused_until_s > at_s:
                    self.again(event, node.paused_until_s)
                    continue
                event.function = None
                self.count += 1
                node.enter(function, event.arguments)
        self.now_s = until_s


class NodeClock:
    """The clock of one life of a node: it runs at ``rate`` seconds a second."""

    __slots__ = ("_node", "_schedule", "_since_s", "_started_s", "rate")

    def __init__(self, schedule: Schedule, node: Any, rate: float, started_s: float) -> None:  # Any: a Node
        self._schedule = schedule
        self._node = node
        self._since_s = schedule.now_s
        self._started_s = started_s
        self.rate = rate

    def seconds(self) -> float:
        """The time here."""
        return self._started_s + (self._schedule.now_s - self._since_s) * self.rate

    def callLater(self, delay: float, function: Callable[..., object], *arguments: Any) -> Event:
        """As IReactorTime has it."""
        return self._schedule.later(delay / self.rate, self._node, function, *arguments)
