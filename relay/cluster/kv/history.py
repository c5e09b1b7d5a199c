"""The changes of late, for watches that begin in the past.

    compacted ◀── gone ──┤ revision r … revision n ├── now

All events of a revision are kept or none, so that a watch from ``compacted + 1`` on has no gap. Bounded by number and
by bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from relay.cluster.kv.commands import Event, Limits, pair_bytes
from relay.errors import Gone

EVENT_BYTES: Final = 128
"""What an event is taken to cost beside its key and value."""
WHOLE_BYTES: Final = 2**62
"""No limit."""
_TRIM: Final = 1024
"""Places before the first kept event that are freed at once: removing them one by one would cost the list's length."""

_revision = attrgetter("revision")


def event_bytes(event: Event) -> int:
    """What keeping ``event`` is taken to cost."""
    return EVENT_BYTES + pair_bytes(event.pair)


class History:
    """``compacted``: the last revision whose events are gone. Events are in order of revision."""

    def __init__(self, compacted: int = 0, events: Iterable[Event] = ()) -> None:
        self.compacted = compacted
        self._events = list(events)
        self._first = 0  # place of the first event that is kept
        self._bytes = sum(map(event_bytes, self._events))

    def __len__(self) -> int:
        return len(self._events) - self._first

    def events(self) -> list[Event]:
        """All that are kept."""
        return self._events[self._first :]

    def append(self, events: list[Event], limits: Limits) -> None:
        """Add the events of one revision, the next; the oldest revisions make room."""
        kept = self._events
        kept += events
        for event in events:
            self._bytes += EVENT_BYTES + pair_bytes(event.pair)
        while len(kept) - self._first > limits.history_events_max or self._bytes > limits.history_bytes_max:
            self._forget(self._events[self._first].revision)
        if self._first >= _TRIM and self._first * 2 >= len(self._events):
            del self._events[: self._first]
            self._first = 0

    def _forget(self, revision: int) -> None:
        """Let the events of the oldest revision go."""
        self.compacted = revision
        while self._first < len(self._events) and self._events[self._first].revision == revision:
            self._bytes -= event_bytes(self._events[self._first])
            self._first += 1

    def since(
        self, revision: int, prefix: str, events_max: int, bytes_max: int = WHOLE_BYTES, skip: int = 0
    ) -> tuple[list[Event], int, int]:
        """Events from ``revision`` on, but for its first ``skip``, of keys that begin with ``prefix``; and the revision
        and ``skip`` to go on from. Within both limits, but at least one. Raises ``Gone`` for a compacted revision.
        """
        if revision <= self.compacted:
            raise Gone(f"revision {revision} is compacted, the history begins at {self.compacted + 1}")
        found: list[Event] = []
        size = 0
        seen = 0  # of the events of ``revision``
        for place in range(bisect_left(self._events, revision, self._first, key=_revision), len(self._events)):
            event = self._events[place]
            if event.revision != revision:
                revision, seen, skip = event.revision, 0, 0
            seen += 1
            if seen <= skip or not event.pair.key.startswith(prefix):
                continue
            size += event_bytes(event)
            if found and (len(found) >= events_max or size > bytes_max):
                return found, revision, seen - 1
            found.append(event)
        return found, revision + 1 if seen else revision, 0
