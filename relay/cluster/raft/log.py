"""A node's log: the storage, the unstable tail behind it, and how far it is committed and applied.

::

    ── compacted ──┃── applied ── applying ── committed ──────── last
                first_index

The rules of the log (paper 5.3): entries are only appended at the end, by replacing a conflicting tail that is not
committed; two logs with the same term at an index are equal up to it, so one comparison decides whether an append fits.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.cluster.raft.errors import Compacted, RaftInvariantError, StorageError, Unavailable
from relay.cluster.raft.logger import INFO, Logger, fail, say
from relay.cluster.raft.storage import Storage
from relay.cluster.raft.types import NO_LIMIT, Entry, Snapshot, limit_size
from relay.cluster.raft.unstable import Unstable


class RaftLog:
    """The log as the rules see it, whatever part of it is durable."""

    __slots__ = (
        "_applying_paused",
        "_applying_size",
        "_logger",
        "_storage",
        "applied",
        "applying",
        "applying_size_max",
        "committed",
        "last_index",
        "last_term",
        "unstable",
    )

    def __init__(self, storage: Storage, logger: Logger, applying_size_max: int = NO_LIMIT) -> None:
        first = storage.first_index()
        last = storage.last_index()
        self._storage = storage
        self._logger = logger
        # The entries and the snapshot that the storage does not have yet.
        self.unstable = Unstable(last + 1, logger)
        # The highest index known to be on a quorum. Never falls. committed <= last_index.
        self.committed = first - 1
        # The highest index handed out to be applied. applied <= applying <= committed.
        self.applying = first - 1
        # The highest index whose effect is in the state machine. Never falls.
        self.applied = first - 1
        # The last entry's index and term, or the snapshot's if there is no entry. Kept, because each message asks.
        self.last_index = last
        self.last_term = storage.term(last)
        # How many bytes of entries may be handed out and not yet applied; may be overshot by one entry.
        self.applying_size_max = applying_size_max
        # How many are. Only counted when there is a limit.
        self._applying_size = 0
        # The limit is reached, or the next entry would pass it.
        self._applying_paused = False

    def __str__(self) -> str:
        unstable = self.unstable
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={unstable.offset}, unstable.offsetInProgress={unstable.offset_in_progress}, "
            f"len(unstable.Entries)={len(unstable.entries)}"
        )

    def maybe_append(self, term: int, index: int, entries: tuple[Entry, ...], committed: int) -> int | None:
        """Append what a leader sent behind its entry ``(term, index)``; the last index it covers, or None: no match.

        AppendEntries, receiver steps 2 to 5 (paper figure 2).
        """
        if index == self.last_index and term == self.last_term:  # fast path: behind the end, so nothing conflicts
            if entries:
                self.append(entries)
            last_new = index + len(entries)
        else:
            if not self.matches(term, index):
                return None
            last_new = index + len(entries)
            conflict = _find_conflict(self, self._logger, entries)
            if conflict:
                if conflict <= self.committed:
                    raise fail(
                        self._logger,
                        "entry %d conflict with committed entry [committed(%d)]",
                        conflict,
                        self.committed,
                    )
                self.append(entries[conflict - index - 1 :])
        if committed > self.committed:
            self.commit_to(min(committed, last_new))
        return last_new

    def append(self, entries: tuple[Entry, ...]) -> int:
        """Put ``entries`` (at least one) behind the entry before the first of them; the new last index."""
        after = entries[0].index - 1
        if after < self.committed:
            raise fail(self._logger, "after(%d) is out of range [committed(%d)]", after, self.committed)
        unstable = self.unstable
        if after == self.last_index:  # fast path: behind the end
            unstable.entries.extend(entries)
        else:
            unstable.truncate_and_append(entries)
        last = entries[-1]
        self.last_index = last.index
        self.last_term = last.term
        return last.index

    def next_committed_entries(self, allow_unstable: bool) -> tuple[Entry, ...]:
        """The entries to hand out to be applied; unless ``allow_unstable``, durable ones only."""
        if not self.has_next_committed_entries(allow_unstable):
            return ()
        high = self.committed if allow_unstable else self._appliable(allow_unstable)
        return self.slice(self.applying + 1, high + 1, self.applying_size_max - self._applying_size)

    def has_next_committed_entries(self, allow_unstable: bool) -> bool:
        """Whether there are any. Not while a snapshot waits: it comes first."""
        if self.applying >= self.committed or self._applying_paused or self.unstable.snapshot is not None:
            return False
        return allow_unstable or self.applying < self._appliable(allow_unstable)

    def accept_applying(self, index: int, size: int, allow_unstable: bool) -> None:
        """Everything up to ``index``, ``size`` bytes more, was handed out to be applied."""
        if self.committed < index:
            raise fail(
                self._logger,
                "applying(%d) is out of range [prevApplying(%d), committed(%d)]",
                index,
                self.applying,
                self.committed,
            )
        self.applying = index
        if self.applying_size_max != NO_LIMIT:
            self._applying_size += size
            # If less was handed out than there is, the next entry would have passed the limit.
            self._applying_paused = self._applying_size >= self.applying_size_max or index < self._appliable(
                allow_unstable
            )

    def applied_to(self, index: int, size: int) -> None:
        """Everything up to ``index`` is applied, which frees ``size`` bytes."""
        if self.committed < index or index < self.applied:
            raise fail(
                self._logger,
                "applied(%d) is out of range [prevApplied(%d), committed(%d)]",
                index,
                self.applied,
                self.committed,
            )
        self.applied = index
        if self.applying < index:
            self.applying = index
        if self._applying_size:
            self._applying_size = max(0, self._applying_size - size)
            self._applying_paused = self._applying_size >= self.applying_size_max

    def commit_to(self, index: int) -> None:
        """Everything up to ``index`` is committed; an index already passed changes nothing."""
        if self.committed < index:
            if self.last_index < index:
                raise fail(
                    self._logger,
                    "tocommit(%d) is out of range [lastIndex(%d)]. Was the raft log corrupted, truncated, or lost?",
                    index,
                    self.last_index,
                )
            self.committed = index

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot from the leader (paper 7)."""
        say(
            self._logger,
            INFO,
            "log [%s] starts to restore snapshot [index: %d, term: %d]",
            self,
            snapshot.index,
            snapshot.term,
        )
        self.committed = snapshot.index
        self.unstable.restore(snapshot)
        self.last_index = snapshot.index
        self.last_term = snapshot.term

    def snapshot(self) -> Snapshot:
        """The latest snapshot; :class:`SnapshotUnavailable` from the storage passes through."""
        return self.unstable.snapshot or self._storage.snapshot()

    def first_index(self) -> int:
        """The first index that is not compacted."""
        snapshot = self.unstable.snapshot
        return self._storage.first_index() if snapshot is None else snapshot.index + 1

    def term(self, index: int) -> int:
        """The term at ``index``, from the entry before the first on; :class:`Compacted` or :class:`Unavailable`."""
        if index == self.last_index:
            return self.last_term
        if index > self.last_index:
            raise Unavailable
        unstable = self.unstable
        if index >= unstable.offset:
            return unstable.entries[index - unstable.offset].term
        if unstable.snapshot is not None and unstable.snapshot.index == index:
            return unstable.snapshot.term
        if index + 1 < self.first_index():
            raise Compacted
        return self._storage.term(index)

    def term_or_zero(self, index: int) -> int:
        """The term at ``index``, or 0 where it is compacted or not there."""
        try:
            return self.term(index)
        except StorageError:
            return 0

    def matches(self, term: int, index: int) -> bool:
        """Whether the entry at ``index`` is of ``term``."""
        try:
            return self.term(index) == term
        except StorageError:
            return False

    def is_up_to_date(self, term: int, index: int) -> bool:
        """Whether a log that ends with ``(term, index)`` is at least as complete as this one (paper 5.4.1)."""
        return term > self.last_term or (term == self.last_term and index >= self.last_index)

    def slice(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        """Entries ``low`` to ``high - 1``, cut to ``size_max`` bytes but at least one; :class:`Compacted`."""
        unstable = self.unstable
        offset = unstable.offset
        if low >= offset:
            if low + 1 == high <= self.last_index + 1:  # fast path: one entry, not yet durable
                return (unstable.entries[low - offset],)
            return limit_size(unstable.slice(low, high), size_max)
        if low < self.first_index():
            raise Compacted
        if high > self.last_index + 1 or low > high:
            raise fail(
                self._logger, "slice[%d,%d) out of bound [%d,%d]", low, high, self.first_index(), self.last_index
            )
        cut = min(high, offset)
        if low == cut:
            return ()
        try:
            stored = tuple(self._storage.entries(low, cut, size_max))
        except Unavailable:
            raise fail(self._logger, "entries[%d:%d) is unavailable from storage", low, cut) from None
        if high <= offset or len(stored) < cut - low:
            return stored
        return limit_size(stored + unstable.slice(offset, high), size_max)

    def _appliable(self, allow_unstable: bool) -> int:
        return self.committed if allow_unstable else min(self.committed, self.unstable.offset - 1)


def find_conflict_by_term(log: RaftLog, index: int, term: int) -> tuple[int, int]:
    """The highest ``(index', term')`` with index' <= index and term' <= term: where two logs may still agree.

    The term is 0 where it is unknown. Both sides use it to skip whole terms of a diverging tail (paper 5.3, end).
    """
    while index > 0:
        try:
            ours = log.term(index)
        except StorageError:
            return index, 0
        if ours <= term:
            return index, ours
        index -= 1
    return 0, 0


def scan(log: RaftLog, low: int, high: int, size_max: int, found: Callable[[Entry], bool]) -> bool:
    """Whether ``found`` is true of an entry from ``low`` to ``high - 1``, read in pages of ``size_max`` bytes."""
    while low < high:
        page = log.slice(low, high, size_max)
        if not page:
            raise RaftInvariantError(f"got 0 entries in [{low}, {high})")
        if any(found(entry) for entry in page):
            return True
        low += len(page)
    return False


def _find_conflict(log: RaftLog, logger: Logger, entries: tuple[Entry, ...]) -> int:
    """The index of the first entry that this log does not have, 0 if it has all."""
    for entry in entries:
        if not log.matches(entry.term, entry.index):
            if entry.index <= log.last_index:
                say(
                    logger,
                    INFO,
                    "found conflict at index %d [existing term: %d, conflicting term: %d]",
                    entry.index,
                    log.term_or_zero(entry.index),
                    entry.term,
                )
            return entry.index
    return 0
