"""Where the log is kept: what the core asks of it, and one in memory.

The core only reads. Writing is the caller's: it takes entries, hard state and snapshot from :class:`Ready` (or from
MsgStorageAppend), makes them durable, and only then tells the core, so that whatever the core reads here is what a
restart would read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from relay.cluster.raft.errors import Compacted, RaftInvariantError, SnapshotOutOfDate, Unavailable
from relay.cluster.raft.types import ConfState, Entry, HardState, Snapshot, limit_size


class Storage(Protocol):
    """Entries from ``first_index`` to ``last_index``, the term of the one before, a hard state and a snapshot."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was saved last; all zero and empty for a new directory. Asked once, when the node starts."""

    def entries(self, low: int, high: int, size_max: int) -> Sequence[Entry]:
        """Entries ``low`` to ``high - 1``, cut to ``size_max`` bytes but at least one.

        Raises :class:`Compacted` or :class:`Unavailable`.
        """

    def term(self, index: int) -> int:
        """The term of an entry from ``first_index - 1`` to ``last_index``; same errors."""

    def last_index(self) -> int:
        """The index of the last entry, or of the snapshot if there is none."""

    def first_index(self) -> int:
        """The index of the first entry still there; may grow at any time (compaction)."""

    def snapshot(self) -> Snapshot:
        """The latest snapshot; :class:`SnapshotUnavailable` if it has to be made first.

        Its configuration must know everybody that it may be sent to: a new member refuses one from before it joined.
        """


class MemoryStorage:
    """A :class:`Storage` that keeps everything in memory: for tests, simulations, and as a cache of a durable log."""

    __slots__ = ("_entries", "_hard_state", "_offset", "_snapshot", "_term")

    def __init__(self, conf_state: ConfState | None = None) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot(conf_state=conf_state) if conf_state is not None else Snapshot()
        # The log is _entries; _entries[i] has index _offset + 1 + i.
        self._entries: list[Entry] = []
        # The index and the term of the entry before the first: that of the last compaction or snapshot, or 0 and 0.
        self._offset = 0
        self._term = 0

    def initial_state(self) -> tuple[HardState, ConfState]:
        """See :class:`Storage`; the configuration is that of the snapshot."""
        return self._hard_state, self._snapshot.conf_state

    def set_hard_state(self, state: HardState) -> None:
        """Save the hard state."""
        self._hard_state = state

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        """See :class:`Storage`."""
        if low <= self._offset:
            raise Compacted
        first = self._offset + 1
        if high > first + len(self._entries):
            raise RaftInvariantError(f"entries' hi({high}) is out of bound lastindex({self.last_index()})")
        if not self._entries:
            raise Unavailable
        if low + 1 == high:  # fast path
            return (self._entries[low - first],)
        return limit_size(tuple(self._entries[low - first : high - first]), size_max)

    def term(self, index: int) -> int:
        """See :class:`Storage`."""
        position = index - self._offset
        if position <= 0:
            if position < 0:
                raise Compacted
            return self._term
        if position > len(self._entries):
            raise Unavailable
        return self._entries[position - 1].term

    def last_index(self) -> int:
        """See :class:`Storage`."""
        return self._offset + len(self._entries)

    def first_index(self) -> int:
        """See :class:`Storage`."""
        return self._offset + 1

    def snapshot(self) -> Snapshot:
        """See :class:`Storage`."""
        return self._snapshot

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the log by ``snapshot``; :class:`SnapshotOutOfDate` unless it is newer than the last one.

        A snapshot of index 0 may replace another one of index 0: it only brings the first configuration.
        """
        if self._snapshot.index >= snapshot.index and (self._snapshot.index or snapshot.index):
            raise SnapshotOutOfDate
        self._snapshot = snapshot
        self._entries = []
        self._offset = snapshot.index
        self._term = snapshot.term

    def create_snapshot(self, index: int, conf_state: ConfState | None, data: bytes) -> Snapshot:
        """Record ``data`` as the state after entry ``index``; the configuration stays what it was if None is given."""
        if index <= self._snapshot.index:
            raise SnapshotOutOfDate
        if index > self.last_index():
            raise RaftInvariantError(f"snapshot {index} is out of bound lastindex({self.last_index()})")
        state = self._snapshot.conf_state if conf_state is None else conf_state
        self._snapshot = Snapshot(data, index, self.term(index), state)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop the entries up to and including ``index``, which must be applied."""
        if index <= self._offset:
            raise Compacted
        if index > self.last_index():
            raise RaftInvariantError(f"compact {index} is out of bound lastindex({self.last_index()})")
        self._term = self.term(index)
        del self._entries[: index - self._offset]
        self._offset = index

    def append(self, entries: Sequence[Entry]) -> None:
        """Write ``entries``, replacing what is there from the first of them on; what was compacted stays so."""
        if not entries:
            return
        first = entries[0].index
        last = self._offset + len(self._entries)
        if first == last + 1:  # fast path: nothing to replace
            self._entries.extend(entries)
            return
        if entries[-1].index <= self._offset:
            return
        if first > last:
            raise RaftInvariantError(f"missing log entry [last: {last}, append at: {first}]")
        if first <= self._offset:
            entries = entries[self._offset + 1 - first :]
            first = self._offset + 1
        del self._entries[first - self._offset - 1 :]
        self._entries.extend(entries)
