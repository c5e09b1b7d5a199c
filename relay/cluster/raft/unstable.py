"""The tail of the log that is not known to be durable: to be written, or being written.

::

        storage                    unstable
    ── … 5 6 7 ──┃── 8  9  10 ── 11  12 ──▶
                 offset        offset_in_progress
                   being written   to be handed out

``offset`` may lie below the end of the storage: then the write will replace what is there. A snapshot received from the
leader waits here too, before the entries.
"""

from __future__ import annotations

from relay.cluster.raft.logger import DEBUG, INFO, Logger, fail, say
from relay.cluster.raft.types import Entry, Snapshot


class Unstable:
    """Entries and snapshot between being accepted and being durable."""

    __slots__ = ("_logger", "entries", "offset", "offset_in_progress", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int, logger: Logger) -> None:
        # entries[i] has index offset + i. Indexes are consecutive, terms never fall.
        self.entries: list[Entry] = []
        # The index of the first entry here, or of the next to come. Everything below it is in the storage.
        self.offset = offset
        # Entries below it were handed out to be written. offset <= offset_in_progress <= offset + len(entries).
        self.offset_in_progress = offset
        # A received snapshot that is not yet in the storage, at index offset - 1 until it is.
        self.snapshot: Snapshot | None = None
        # Whether it was handed out. Never true without a snapshot.
        self.snapshot_in_progress = False
        self._logger = logger

    def next_entries(self) -> tuple[Entry, ...]:
        """The entries to be handed out."""
        handed_out = self.offset_in_progress - self.offset
        if handed_out == len(self.entries):
            return ()
        return tuple(self.entries[handed_out:] if handed_out else self.entries)

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot to be handed out."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept_in_progress(self) -> None:
        """All that is here was handed out."""
        self.offset_in_progress = self.offset + len(self.entries)
        if self.snapshot is not None:
            self.snapshot_in_progress = True

    def stable_to(self, term: int, index: int) -> None:
        """The entries up to the one named are durable, and no write under way will replace them."""
        if index < self.offset:
            if self.snapshot is not None and self.snapshot.index == index:
                say(self._logger, INFO, "entry at index %d matched unstable snapshot; ignoring", index)
            else:
                say(self._logger, DEBUG, "entry at index %d missing from unstable log; ignoring", index)
            return
        position = index - self.offset
        if position >= len(self.entries):
            say(self._logger, DEBUG, "entry at index %d missing from unstable log; ignoring", index)
            return
        ours = self.entries[position].term
        if ours != term:
            # Another leader's entries took the place of those that were written.
            say(
                self._logger,
                INFO,
                "entry at (index,term)=(%d,%d) mismatched with entry at (%d,%d) in unstable log; ignoring",
                index,
                term,
                index,
                ours,
            )
            return
        if position + 1 == len(self.entries):
            self.entries.clear()
        else:
            del self.entries[: position + 1]
        self.offset = index + 1
        if self.offset_in_progress < self.offset:
            self.offset_in_progress = self.offset

    def stable_snapshot_to(self, index: int) -> None:
        """The snapshot at ``index`` is durable; another one that came since stays."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew behind ``snapshot``."""
        self.entries = []
        self.offset = self.offset_in_progress = snapshot.index + 1
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def truncate_and_append(self, entries: tuple[Entry, ...]) -> None:
        """Put ``entries`` in, over whatever is there from the first of them on (paper 5.3)."""
        first = entries[0].index
        if first == self.offset + len(self.entries):
            self.entries.extend(entries)
        elif first <= self.offset:
            say(self._logger, INFO, "replace the unstable entries from index %d", first)
            self.entries = list(entries)
            self.offset = self.offset_in_progress = first
        else:
            say(self._logger, INFO, "truncate the unstable entries before index %d", first)
            self._check_bounds(self.offset, first)
            del self.entries[first - self.offset :]
            self.entries.extend(entries)
            # What is being written above the cut will be replaced by a later write.
            self.offset_in_progress = min(self.offset_in_progress, first)

    def slice(self, low: int, high: int) -> tuple[Entry, ...]:
        """Entries ``low`` to ``high - 1``, all of which must be here."""
        self._check_bounds(low, high)
        return tuple(self.entries[low - self.offset : high - self.offset])

    def _check_bounds(self, low: int, high: int) -> None:
        if low > high:
            raise fail(self._logger, "invalid unstable.slice %d > %d", low, high)
        upper = self.offset + len(self.entries)
        if low < self.offset or high > upper:
            raise fail(self._logger, "unstable.slice[%d,%d) out of bound [%d,%d]", low, high, self.offset, upper)
