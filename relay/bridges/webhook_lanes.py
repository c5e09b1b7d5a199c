"""The order of a webhook's events: lanes, and groups of events that one request carries.

A *lane* is what keeps its order: a channel, a user, a session. A *group* is what one request carries: the events at the
head of some lanes, which it holds meanwhile; so a lane's events go one after the other, and lanes beside one another.

    append ─▶ lane ─gather─▶ Group ─release─▶ the lane goes on
                ▲              │
                └────cut───────┘ (what is not tried now)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Final

from relay.core.wheel import Timed

OVERHEAD_BYTES: Final = 400
"""What an event is taken to cost in memory beside its text."""


class Entry:
    """One event. ``number``: the store's, 0 before it is there; ``attempts``: how often it was sent in vain."""

    __slots__ = ("at_ms", "attempts", "event", "lane", "number")

    def __init__(self, lane: str, event: bytes, at_ms: int, number: int = 0, attempts: int = 0) -> None:
        self.lane = lane
        self.event = event
        self.at_ms = at_ms
        self.number = number
        self.attempts = attempts

    @property
    def size(self) -> int:
        """What it costs, in bytes."""
        return len(self.event) + OVERHEAD_BYTES


class Group(Timed):
    """What one request carries. ``failures``: since it is as it is; ``mark``: what was delivered at the first."""

    __slots__ = ("_due", "entries", "failures", "mark")

    def __init__(self, entries: list[Entry], due: Callable[[Group], None]) -> None:
        super().__init__()
        self.entries = entries
        self.failures = 0
        self.mark = 0
        self._due = due

    def expire(self) -> None:
        """It has waited long enough."""
        self._due(self)

    def lanes(self) -> dict[str, None]:
        """The lanes that it holds."""
        return dict.fromkeys(each.lane for each in self.entries)


class Lanes:
    """The events that are in no group. Their number is the outbox's to limit."""

    __slots__ = ("_held", "_lanes", "_ready")

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Entry]] = {}
        self._ready: dict[str, None] = {}
        """Lanes that have something and are not held by a group, in the order in which they got it."""
        self._held: set[str] = set()

    def __len__(self) -> int:
        """How many there are, held or not; with nothing in them they are forgotten."""
        return len(self._lanes)

    @property
    def ready(self) -> bool:
        """Whether there is something to gather."""
        return bool(self._ready)

    def append(self, entry: Entry) -> None:
        """One more event, behind those of its lane."""
        lane = self._lanes.get(entry.lane)
        if lane is None:
            lane = self._lanes[entry.lane] = deque()
        lane.append(entry)
        if entry.lane not in self._held:
            self._ready[entry.lane] = None

    def gather(self, batch_max: int) -> list[Entry]:
        """The heads of lanes that are ready, at most ``batch_max`` events; their lanes are held from now on."""
        entries: list[Entry] = []
        left = batch_max
        for name in list(islice(self._ready, batch_max)):
            lane = self._lanes[name]
            del self._ready[name]
            self._held.add(name)
            taken = min(left, len(lane))
            entries += [lane.popleft() for _ in range(taken)]
            left -= taken
            if not left:
                break
        return entries

    def cut(self, entries: list[Entry]) -> list[list[Entry]]:
        """The events of a group in two parts, no lane in both; of a single lane the first half, the others are back in
        it."""
        names = list(dict.fromkeys(each.lane for each in entries))
        if len(names) == 1:
            half = len(entries) // 2
            self._lanes[names[0]].extendleft(reversed(entries[half:]))
            return [entries[:half]]
        first = set(names[: len(names) // 2])
        parts: tuple[list[Entry], list[Entry]] = ([], [])
        for entry in entries:
            parts[entry.lane not in first].append(entry)
        return list(parts)

    def release(self, entries: Iterable[Entry], still: Collection[str] = ()) -> None:
        """The lanes of ``entries`` may go on, but for those that are ``still`` held."""
        for name in dict.fromkeys(each.lane for each in entries):
            if name in still:
                continue
            self._held.discard(name)
            if self._lanes[name]:
                self._ready[name] = None
            else:
                del self._lanes[name]
