"""All groups of a log, from the loop's side: what may be submitted, what is durable, which segments are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from relay.cluster.raft.types import ENTRY_CONF_CHANGE_V2
from relay.errors import LimitExceeded
from relay.store.wal_format import RECORD_HEAD_BYTES, SEQUENCE_SHIFT, Record
from relay.store.wal_storage import EntryCache, GroupLog, encode_conf_state
from relay.store.wal_writer import GroupWrite, LogOptions

RECORDS_BESIDE_ENTRIES_BYTES = 4 * RECORD_HEAD_BYTES + 8  # restore, hard state with its vote, snapshot, compact


class GroupTable:
    """The storages by group number.

    ``GroupLog.pin`` is the oldest segment that holds an entry of the group; segments older than every pin can go.
    """

    __slots__ = ("_cache", "_logs", "_options", "_pins", "_read")

    def __init__(self, options: LogOptions, read: Callable[[int, int], Record]) -> None:
        self._options = options
        self._read = read
        self._cache = EntryCache(options.cache_bytes_max, options.cache_group_bytes_max)
        self._logs: dict[int, GroupLog] = {}
        self._pins: Counter[int] = Counter()

    def numbers(self) -> list[int]:
        """The groups that are here, ascending."""
        return sorted(self._logs)

    def logs(self) -> list[GroupLog]:
        """Their storages, in the order of their making."""
        return list(self._logs.values())

    def get(self, group: int) -> GroupLog:
        """The storage of ``group``, made when it is new. Raises LimitExceeded."""
        log = self._logs.get(group)
        if log is None:
            if len(self._logs) >= self._options.groups_max:
                raise LimitExceeded(f"the log has its {self._options.groups_max} groups")
            if not 0 <= group < 1 << 32:
                raise ValueError(f"a group is a number of 32 bits, not {group}")
            log = self._logs[group] = GroupLog(group, self._cache, self._read)
        return log

    def recovered(self, group: int) -> GroupLog:
        """The storage of ``group`` during recovery, where the limit is that of a former configuration."""
        log = self._logs.get(group)
        if log is None:
            log = self._logs[group] = GroupLog(group, self._cache, self._read)
        return log

    def drop(self, group: int) -> None:
        """A remove record during recovery."""
        log = self._logs.pop(group, None)
        if log is not None:
            log.forget()

    def settle(self) -> None:
        """After recovery: count what each group holds."""
        for log in self._logs.values():
            log.tail = log.last_index()
            self._pin(log)

    # --- submitting -----------------------------------------------------------------------------------------------

    def check(self, write: GroupWrite) -> int:
        """The bytes that ``write`` takes at most. Raises ValueError for what the log could not give back as it was."""
        log = self.get(write.group)
        size = RECORDS_BESIDE_ENTRIES_BYTES
        if write.entries:
            size += self._check_entries(log, write)
        for snapshot in (write.restore, write.snapshot):
            if snapshot is not None:
                length = len(encode_conf_state(snapshot.conf_state))
                if length > self._options.conf_state_bytes_max:
                    raise ValueError(f"group {write.group}: a configuration of {length} bytes")
                size += length
        if write.compact:
            write.compact_term = self._compact_term(log, write)
        return size

    def _check_entries(self, log: GroupLog, write: GroupWrite) -> int:
        entries = write.entries
        first = entries[0].index
        tail = log.tail if write.restore is None else write.restore.index
        if not 0 < first <= tail + 1:
            raise ValueError(f"group {write.group}: entry {first} does not follow entry {tail}")
        size = RECORD_HEAD_BYTES * len(entries)
        length_max = self._options.record_bytes_max
        for index, entry in enumerate(entries, first):
            length = len(entry.data)
            if entry.index != index or entry.type > ENTRY_CONF_CHANGE_V2 or length > length_max:
                raise ValueError(
                    f"group {write.group}: entry {entry.index} of type {entry.type} and {length} bytes at {index}"
                )
            size += length
        return size

    def _compact_term(self, log: GroupLog, write: GroupWrite) -> int:
        if write.restore is not None:
            raise ValueError(f"group {write.group}: restore and compact in one write")
        if write.compact < log.first_index():
            return log.term(log.first_index() - 1)
        if write.compact > log.last_index():
            raise ValueError(f"group {write.group}: compact to {write.compact}, after the last durable entry")
        return log.term(write.compact)

    def submitted(self, write: GroupWrite) -> None:
        """``write`` is in the queue."""
        log = self._logs[write.group]
        log.pending += 1
        if write.remove:
            log.tail = 0
            return
        if write.restore is not None:
            log.tail = write.restore.index
        if write.entries and not write.copies:
            log.tail = write.entries[-1].index

    # --- completing -----------------------------------------------------------------------------------------------

    def apply(self, write: GroupWrite) -> None:
        """``write`` is durable: let it be seen."""
        log = self._logs[write.group]
        log.pending -= 1
        if write.remove:
            log.forget()
            self._pin(log)
            if not log.pending:
                del self._logs[write.group]
            return
        if write.restore is not None:
            log.restore(write.restore)
        entries = write.entries
        if entries:
            if write.copies:
                for entry, place in zip(entries, write.places, strict=True):
                    log.copy(entry, place)
            else:
                log.extend(entries, write.places)
        if write.hard_state is not None:
            log.hard_state = write.hard_state
        if write.snapshot is not None:
            log.note_snapshot(write.snapshot)
        if write.compact:
            log.compact(write.compact, write.compact_term)
        if write.restore is not None or write.compact or write.copies or (entries and log.overwritten):
            self._pin(log)
        elif entries and log.pin is None:
            log.pin = write.places[0] >> SEQUENCE_SHIFT
            self._pins[log.pin] += 1

    def oldest_needed(self) -> int | None:
        """The number of the oldest segment that holds an entry which a group still has; None without entries."""
        return min(self._pins, default=None)

    def holding(self, sequence: int) -> list[GroupLog]:
        """The groups whose oldest entry is in segment ``sequence``."""
        return [log for log in self._logs.values() if log.pin == sequence]

    def _pin(self, log: GroupLog) -> None:
        oldest = log.oldest_segment()
        log.overwritten = False
        if oldest == log.pin:
            return
        if log.pin is not None:
            self._pins[log.pin] -= 1
            if not self._pins[log.pin]:
                del self._pins[log.pin]
        log.pin = oldest
        if oldest is not None:
            self._pins[oldest] += 1
