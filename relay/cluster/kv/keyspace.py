"""Keys in order, with revisions.

A revision is the number of a change of the state; a transaction that changes several keys makes one. ``commit``
ends the changes of one command: the revision moves, and the history gets its events, only when a key
has changed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from relay.cluster.kv.commands import Event, Limits, Pair, utf8_bytes
from relay.cluster.kv.history import History


class KeySpace:
    """``revision``: of the last change, 0 before the first. ``bytes``: of keys and values together."""

    def __init__(self) -> None:
        self.revision = 0
        self.bytes = 0
        self.history = History()
        self._pairs: dict[str, Pair] = {}
        self._order: list[str] = []  # the same keys, sorted
        self._changes: list[Event] = []

    def __len__(self) -> int:
        return len(self._order)

    # --- reading --------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Pair | None:
        """The pair of a key, None when there is none."""
        return self._pairs.get(key)

    def pairs(self) -> list[Pair]:
        """All of them in order of their keys."""
        return [self._pairs[key] for key in self._order]

    def between(self, start: str, end: str | None) -> Iterator[Pair]:
        """Pairs with ``start`` <= key < ``end`` (None: to the last) in order. Not while something is changed."""
        for place in range(bisect_left(self._order, start), len(self._order)):
            key = self._order[place]
            if end is not None and key >= end:
                return
            yield self._pairs[key]

    def with_prefix(self, prefix: str, start: str = "") -> Iterator[Pair]:
        """Pairs whose key begins with ``prefix``, from ``start`` on, in order. Not while something is changed."""
        for pair in self.between(max(prefix, start), None):
            if not pair.key.startswith(prefix):
                return
            yield pair

    # --- changing -------------------------------------------------------------------------------------------------

    def put(self, key: str, value: bytes, lease: int) -> Pair | None:
        """Set a key; the pair that it replaces."""
        before = self._pairs.get(key)
        revision = self.revision + 1
        if before is None:
            pair = Pair(key, value, revision, revision, 1, lease)
            insort(self._order, key)
            self.bytes += utf8_bytes(key) + len(value)
        else:
            pair = Pair(key, value, before.create_revision, revision, before.version + 1, lease)
            self.bytes += len(value) - len(before.value)
        self._pairs[key] = pair
        self._changes.append(Event(pair))
        return before

    def delete(self, key: str) -> Pair | None:
        """Remove a key; the pair that it had, None when there was none."""
        before = self._pairs.pop(key, None)
        if before is not None:
            del self._order[bisect_left(self._order, key)]
            self.bytes -= utf8_bytes(key) + len(before.value)
            gone = Pair(key, b"", before.create_revision, self.revision + 1, 0)
            self._changes.append(Event(gone, deleted=True))
        return before

    def changing(self) -> list[str]:
        """The keys that were changed since the last ``commit``, one that was changed twice twice."""
        return [event.pair.key for event in self._changes]

    def commit(self, limits: Limits) -> list[Event]:
        """End the changes of one command; its events, none when nothing has changed."""
        events = self._changes
        if events:
            self._changes = []
            self.revision += 1
            self.history.append(events, limits)
        return events

    def load(self, revision: int, pairs: list[Pair], history: History) -> None:
        """Become what a snapshot holds; ``pairs`` are in order of their keys."""
        self.revision = revision
        self.history = history
        self._pairs = {pair.key: pair for pair in pairs}
        self._order = [pair.key for pair in pairs]
        self.bytes = sum(utf8_bytes(pair.key) + len(pair.value) for pair in pairs)
        self._changes = []
