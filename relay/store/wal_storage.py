"""One Raft group's part of the log as it is on disk: the storage that the Raft core reads.

Terms, places and sizes of all entries stand in flat arrays (20 bytes an entry); the entries themselves are kept from
the newest down within a bound, and older ones are read back from their segment. The same methods apply a record when
it has become durable and when it is replayed at start, so both give the same state by construction.

What a record does to the group (``base`` is the index up to which entries were dropped):

===========  =========================================================================================================
entry        index <= base: nothing. Otherwise drops what was at index and above, then stands there (paper 5.3)
copy         the same entry (index, term) at a new place; nothing is dropped
compact      drops entries up to its index and remembers the term there
restore      drops the whole log; base, term and configuration become the snapshot's (paper figure 13, step 7)
snapshot     a newer snapshot exists; no entry is dropped by it
hard state   replaces term, vote and commit
===========  =========================================================================================================

A log whose oldest segments were released starts in the middle: entries may follow a hole, which a later compact record
covers or copies of the missing entries fill. ``hole`` is set until then; one left at the end of a replay is damage.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from relay.cluster.raft.errors import Compacted, RaftInvariantError, Unavailable
from relay.cluster.raft.types import (
    ENTRY_OVERHEAD_BYTES,
    NO_LIMIT,
    ConfState,
    Entry,
    HardState,
    Snapshot,
)
from relay.store.wal_format import SEQUENCE_SHIFT, Record

_encode_conf_state = msgspec.msgpack.Encoder().encode
_decode_conf_state = msgspec.msgpack.Decoder(ConfState).decode

ReadRecord = Callable[[int, int], Record]  # (place, payload bytes) -> the record there
SnapshotSource = Callable[[Snapshot], Snapshot]  # fills in the data; may raise SnapshotUnavailable


def encode_conf_state(state: ConfState) -> bytes:
    """The payload of snapshot and restore records."""
    return _encode_conf_state(state)


def decode_conf_state(payload: bytes) -> ConfState:
    """The configuration in a snapshot or restore record. Raises ValueError."""
    try:
        return _decode_conf_state(payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"no configuration state: {error}") from None


def without_data(snapshot: Snapshot) -> Snapshot:
    """Index, term and configuration of ``snapshot``: what the log keeps of it."""
    return Snapshot(b"", snapshot.index, snapshot.term, snapshot.conf_state)


class EntryCache:
    """How many bytes of entries all groups of a log keep in memory, and who appended least recently."""

    __slots__ = ("bytes", "bytes_max", "group_bytes_max", "holders")

    def __init__(self, bytes_max: int, group_bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max
        self.group_bytes_max = group_bytes_max
        self.holders: dict[CachedEntries, None] = {}  # in the order of their last append


class CachedEntries:
    """The newest entries of one group, without a gap up to its last one; ``entries`` is for reading only."""

    __slots__ = ("_bytes", "_shared", "entries")

    def __init__(self, shared: EntryCache) -> None:
        self.entries: deque[Entry] = deque()
        self._bytes = 0
        self._shared = shared

    def extend(self, entries: Sequence[Entry], size: int) -> None:
        """Add what comes next, ``size`` bytes; then forget this group's oldest, and all of the most idle groups'."""
        shared = self._shared
        self.entries.extend(entries)
        self._bytes += size
        shared.bytes += size
        while self._bytes > shared.group_bytes_max:
            self._forget(self.entries.popleft())
        holders = shared.holders
        holders.pop(self, None)
        holders[self] = None
        while shared.bytes > shared.bytes_max:
            idle = next(iter(holders))
            if idle is self:
                self._forget(self.entries.popleft())
            else:
                idle.keep(0)

    def drop(self, count: int) -> None:
        """Forget the newest ``count`` entries, or all when there are fewer."""
        for _ in range(min(count, len(self.entries))):
            self._forget(self.entries.pop())
        self.keep(len(self.entries))

    def keep(self, count: int) -> None:
        """Keep the newest ``count`` entries at most."""
        while len(self.entries) > count:
            self._forget(self.entries.popleft())
        if not self.entries:
            self._shared.holders.pop(self, None)

    def _forget(self, entry: Entry) -> None:
        size = ENTRY_OVERHEAD_BYTES + len(entry.data)
        self._bytes -= size
        self._shared.bytes -= size


class GroupLog:
    """What is durable of one group. Read by the Raft core, changed by the log only, all in one thread."""

    __slots__ = (
        "_base",
        "_base_term",
        "_cached",
        "_compacted",
        "_compacted_term",
        "_places",
        "_read",
        "_sizes",
        "_terms",
        "group",
        "hard_state",
        "hole",
        "known_snapshot",
        "overwritten",
        "pending",
        "pin",
        "snapshot_source",
        "tail",
    )

    def __init__(self, group: int, cache: EntryCache, read: ReadRecord) -> None:
        self.group = group
        self.hard_state = HardState()
        self.snapshot_source: SnapshotSource | None = None
        self.hole = False
        self.overwritten = False  # set where entries are dropped from the end, cleared by GroupTable
        # Kept by GroupTable: writes submitted and not complete, the last index after them, the oldest segment needed.
        self.pending = 0
        self.tail = 0
        self.pin: int | None = None
        self._read = read
        self.known_snapshot = Snapshot()  # index, term and configuration of the newest snapshot
        self._base = 0
        self._base_term = 0
        # What the last compact or restore record said: the base, unless there is a hole behind it.
        self._compacted = 0
        self._compacted_term = 0
        # One element for each entry from base + 1 on.
        self._terms = array("Q")
        self._places = array("Q")
        self._sizes = array("I")
        self._cached = CachedEntries(cache)

    # --- the storage interface of the Raft core -------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The hard state and the configuration of the newest snapshot known."""
        return self.hard_state, self.known_snapshot.conf_state

    def first_index(self) -> int:
        """The index of the oldest entry that can be had, or of the next one when there is none."""
        return self._base + 1

    def last_index(self) -> int:
        """The index of the newest entry, or what was compacted up to."""
        return self._base + len(self._terms)

    def term(self, index: int) -> int:
        """The term of the entry at ``index``, from ``first_index() - 1`` on. Raises Compacted or Unavailable."""
        at = index - self._base - 1
        if at < 0:
            if at == -1:
                return self._base_term
            raise Compacted
        if at >= len(self._terms):
            raise Unavailable
        return self._terms[at]

    def entries(self, low: int, high: int, size_max: int = NO_LIMIT) -> tuple[Entry, ...]:
        """The entries ``low`` to ``high - 1`` up to ``size_max`` bytes, but at least one.

        Old ones are read from disk. Raises Compacted, Unavailable or RaftInvariantError as the core's memory storage
        does, and LogDamaged when the disk gives back other bytes.
        """
        base = self._base
        last = base + len(self._terms)
        if low <= base:
            raise Compacted
        if high > last + 1:
            raise RaftInvariantError(f"entries' hi({high}) is out of bound lastindex({last})")
        if not self._terms:
            raise Unavailable
        if size_max < NO_LIMIT:
            high = low + _within(self._sizes, low - base - 1, high - base - 1, size_max)
        cached = self._cached.entries
        cached_from = last + 1 - len(cached)
        found = [self._fetch(index) for index in range(low, min(high, cached_from))]
        found.extend([cached[index - cached_from] for index in range(max(low, cached_from), high)])
        return tuple(found)

    def snapshot(self) -> Snapshot:
        """The newest snapshot, with its data where a ``snapshot_source`` was given. May raise SnapshotUnavailable."""
        if self.snapshot_source is None:
            return self.known_snapshot
        return self.snapshot_source(self.known_snapshot)

    # --- what records do ------------------------------------------------------------------------------------------

    def append(self, entry: Entry, place: int) -> None:
        """An entry record."""
        index = entry.index
        at = index - self._base - 1
        if at != len(self._terms):
            if at < 0 and not self.hole:
                return
            if at < 0:
                self._start_after(index - 1)
                if index - 1 == self._compacted:
                    self._base_term = self._compacted_term
                    self.hole = False
            elif at > len(self._terms):
                self.hole = True
                self._start_after(index - 1)
            else:
                self._truncate(at)
        self._terms.append(entry.term)
        self._places.append(place)
        self._sizes.append(len(entry.data))
        self._cached.extend((entry,), ENTRY_OVERHEAD_BYTES + len(entry.data))

    def extend(self, entries: Sequence[Entry], places: array[int]) -> None:
        """The records of consecutive entries: :meth:`append` for each, in a few steps when they continue the log."""
        if entries[0].index != self._base + 1 + len(self._terms):
            for entry, place in zip(entries, places, strict=True):
                self.append(entry, place)
            return
        sizes = [len(entry.data) for entry in entries]
        self._terms.extend([entry.term for entry in entries])
        self._places.extend(places)
        self._sizes.extend(sizes)
        self._cached.extend(entries, sum(sizes) + ENTRY_OVERHEAD_BYTES * len(sizes))

    def copy(self, entry: Entry, place: int) -> None:
        """A copy record. Raises ValueError when the log has another entry there."""
        at = entry.index - self._base - 1
        if at >= len(self._terms) or (at < 0 and self.hole):
            self.append(entry, place)
        elif at >= 0:
            if self._terms[at] != entry.term:
                raise ValueError(f"a copy of entry {entry.index} has term {entry.term}, not {self._terms[at]}")
            self._places[at] = place

    def compact(self, index: int, term: int) -> None:
        """A compact record: drop entries up to ``index``."""
        self._compacted, self._compacted_term = index, term
        if index < self._base:
            return
        count = index - self._base
        if count >= len(self._terms):
            self._start_after(index)
        else:
            del self._terms[:count]
            del self._places[:count]
            del self._sizes[:count]
            self._base = index
            self._cached.keep(len(self._terms))
        self._base_term = term
        self.hole = False

    def restore(self, snapshot: Snapshot) -> None:
        """A restore record: the log is this snapshot and nothing else."""
        self._start_after(snapshot.index)
        self._base_term = self._compacted_term = snapshot.term
        self._compacted = snapshot.index
        self.hole = False
        self.known_snapshot = without_data(snapshot)

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """A snapshot record."""
        self.known_snapshot = without_data(snapshot)

    # --- what the log asks ----------------------------------------------------------------------------------------

    def oldest_segment(self) -> int | None:
        """The number of the oldest segment that holds an entry of this group, or None without entries."""
        # Places ascend but for a copy that a crash cut short, so all are looked at; min() of an array is quick.
        return min(self._places) >> SEQUENCE_SHIFT if self._places else None

    def places(self) -> array[int]:
        """Where the entries are, oldest first."""
        return self._places[:]

    def live_bytes(self) -> int:
        """The bytes that copying all entries would take, about."""
        return sum(self._sizes) + ENTRY_OVERHEAD_BYTES * len(self._sizes)

    def forget(self) -> None:
        """The group is gone: give its memory back."""
        self._start_after(0)
        self._compacted = self._compacted_term = 0
        self.hole = False
        self.hard_state = HardState()
        self.known_snapshot = Snapshot()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _fetch(self, index: int) -> Entry:
        at = index - self._base - 1
        record = self._read(self._places[at], self._sizes[at])
        return Entry((record.kind - 1) & 3, record.term, record.index, record.payload)

    def _truncate(self, at: int) -> None:
        """Drop the entries from position ``at`` on."""
        gone = len(self._terms) - at
        self.overwritten = True
        del self._terms[at:]
        del self._places[at:]
        del self._sizes[at:]
        self._cached.drop(gone)

    def _start_after(self, index: int) -> None:
        """No entries; the next one is ``index + 1``."""
        self._truncate(0)
        self._base = index
        self._base_term = 0


def _within(sizes: array[int], low: int, high: int, size_max: int) -> int:
    """How many of the entries at ``[low, high)`` are within ``size_max`` bytes; at least one if there is one."""
    total = 0
    for at in range(low, high):
        total += ENTRY_OVERHEAD_BYTES + sizes[at]
        if total > size_max and at > low:
            return at - low
    return high - low
