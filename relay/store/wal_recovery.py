"""Reading a log back after a stop of any kind: what is kept, what is cut, and what is refused.

Let X be the first place of a segment that holds no valid record. The rules, in this order:

====  ========================================================================================  =====================
rule  found                                                                                     done
====  ========================================================================================  =====================
1     a header that fails its check, a length other than the header's, a number missing         refuse
      between others or before them and still needed, a hint of another log
2     X right after an end record, and the next segment exists                                  go on there
3     X without an end record, but a later segment has records                                  refuse
4     a valid mark after X, or a hint that says more than X was synced                          refuse
5     only zeros from X on                                                                      the log ends at X
6     anything else from X on, or in a later segment without records                            torn: zero it, sync
====  ========================================================================================  =====================

Rule 4 is what tells a torn tail from corruption: a mark opens every write and is written only when everything before it
was synced, so bytes before a valid mark were durable once; and the hint file, rewritten after every sync (but itself
only synced when the log is closed), says so for the last write too, as long as the machine did not lose power.
What was acknowledged is before X or the log is refused.
"""

from __future__ import annotations

import os.path
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise

import attrs

from relay.cluster.raft.types import Entry, HardState, Snapshot
from relay.store.files import Files
from relay.store.wal_format import (
    COPY_KINDS,
    HEADER_BYTES,
    SEQUENCE_SHIFT,
    SYNCED_BYTES,
    Kind,
    LogDamaged,
    Record,
    Synced,
    decode_record,
    decode_synced,
    decode_vote,
    encode_synced,
    find_mark,
    segment_sequence,
)
from relay.store.wal_groups import GroupTable
from relay.store.wal_segment import TEMPORARY_SUFFIX, Segment
from relay.store.wal_storage import GroupLog, decode_conf_state

SYNCED_NAME = "synced"
LOCK_NAME = "lock"
ZERO_BLOCK_BYTES = 64 << 10
LAST_ENTRY_KIND = int(Kind.ENTRY_CONF_CHANGE_V2)
RUN_ENTRIES_MAX = 512
ZERO_BLOCK = bytes(ZERO_BLOCK_BYTES)

Visit = Callable[[Segment, Record], None]


@attrs.define
class Recovered:
    """What the scan of a directory found."""

    segments: list[Segment]  # oldest first, up to the one that takes the next record; its ``end`` is set
    spares: list[Segment]  # made ahead, still empty
    torn_bytes: int  # length of what was (or, when only looking, would be) cut; 0 after a clean stop
    temporary: list[str]  # names of segments that were being made
    records: int = 0


class SegmentScan:
    """Walk over the records of one segment; then ``end`` is X, ``reason`` why the walk stopped, ``ended`` rule 2."""

    __slots__ = ("data", "end", "ended", "last_write", "path", "reason", "records", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.data = segment.file.read(0, segment.size)
        self.end = HEADER_BYTES
        self.last_write = HEADER_BYTES  # where the last mark is
        self.reason: str | None = None
        self.ended = False
        self.records = 0

    def __iter__(self) -> Iterator[Record]:
        data = self.data
        view = memoryview(data)
        salt = self.segment.salt
        while True:
            record = decode_record(view, self.end, salt)
            if not isinstance(record, Record):
                self.reason = record
                return
            self.end = record.end
            self.records += 1
            if record.kind == Kind.MARK:
                self.last_write = record.offset
            elif record.kind == Kind.END:
                self.ended = True
                return
            yield record

    def holds_records(self) -> bool:
        """Whether any record can be found, at the start or after a mark; not what a wrong bit among zeros is."""
        salt = self.segment.salt
        return isinstance(decode_record(self.data, HEADER_BYTES, salt), Record) or (
            find_mark(self.data, HEADER_BYTES, salt) is not None
        )

    def used_to(self) -> int:
        """Where the zeros begin that reach to the end of the file."""
        data = self.data
        stop = len(data)
        # Comparing blocks is 30 times as fast as stripping bytes.
        while stop > 0 and data[max(0, stop - ZERO_BLOCK_BYTES) : stop] == ZERO_BLOCK[:stop]:
            stop -= ZERO_BLOCK_BYTES
        start = max(0, stop - ZERO_BLOCK_BYTES)
        return start + len(data[start : max(0, stop)].rstrip(b"\0"))


def list_segments(files: Files, directory: str) -> tuple[list[int], list[str]]:
    """The numbers of the segments in ``directory``, ascending, and the names of unfinished ones. Checks for gaps."""
    names = files.list(directory)
    sequences = sorted(found for name in names if (found := segment_sequence(name)) is not None)
    for before, after in pairwise(sequences):
        if after != before + 1:
            raise LogDamaged(directory, 0, f"segment {before + 1} is missing between {before} and {after}")
    return sequences, [name for name in names if name.endswith(TEMPORARY_SUFFIX)]


def read_hint(files: Files, directory: str) -> Synced | None:
    """The content of the hint file; None when it is missing or cannot be read, which proves nothing."""
    try:
        file = files.open(os.path.join(directory, SYNCED_NAME), writable=False)
    except FileNotFoundError:
        return None
    try:
        return decode_synced(file.read(0, SYNCED_BYTES))
    finally:
        file.close()


class SyncedHint:
    """The hint file while the log is open: rewritten after every sync, never waited for, synced when the log closes."""

    __slots__ = ("file",)

    def __init__(self, files: Files, directory: str, active: Segment) -> None:
        path = os.path.join(directory, SYNCED_NAME)
        try:
            self.file = files.open(path, writable=True)
            self.write(active)
        except FileNotFoundError:
            self.file = files.create(path)
            self.write(active)
            self.file.sync()  # it has its block now: later writes need no room
            files.sync_directory(directory)

    def write(self, segment: Segment) -> None:
        """Everything in ``segment`` is synced."""
        self.file.write(0, encode_synced(Synced(segment.sequence, segment.salt, segment.end)))


def scan(files: Files, directory: str, visit: Visit, *, repair: bool) -> Recovered:
    """Walk over all records in order, by the rules of the module. Raises :class:`LogDamaged`.

    With ``repair`` a torn tail is overwritten with zeros, everything found is synced, and the segments stay open for
    writing; without it nothing is changed.
    """
    hint = read_hint(files, directory)
    sequences, temporary = list_segments(files, directory)
    if hint is not None and (not sequences or hint.sequence > sequences[-1]):
        raise LogDamaged(directory, 0, f"segment {hint.sequence} is missing: it was in use")
    found = Recovered([], [], 0, temporary)
    last: SegmentScan | None = None
    spoiled: list[tuple[Segment, int]] = []  # segments where nothing is, and where their zeros begin
    last_writes: list[int] = []  # of each segment found, where its last write begins
    try:
        for sequence in sequences:
            segment = Segment.open(files, directory, sequence, writable=repair)
            found.spares.append(segment)
            walk = SegmentScan(segment)
            if last is not None and not last.ended:
                if walk.holds_records():
                    raise _cut_short(last, sequence)
                spoiled.append((segment, walk.used_to()))
                continue
            found.segments.append(found.spares.pop())
            for record in walk:
                visit(segment, record)
            segment.end = walk.end
            found.records += walk.records
            last_writes.append(walk.last_write)
            _judge_hint(walk, hint)
            if last is not None:
                last.data = b""  # one segment in memory is enough
            last = walk
        if last is not None:
            if hint is not None and hint.sequence > last.segment.sequence:
                raise _cut_short(last, hint.sequence)
            _judge_end(last)
            spoiled.append((last.segment, last.used_to()))
            _cut(found, spoiled, repair)
            if repair:
                _rewrite(found.segments, last_writes)
                for segment in found.segments + found.spares:
                    segment.file.sync_data()
                for name in temporary:
                    files.unlink(os.path.join(directory, name))
                files.sync_directory(directory)
    except BaseException:
        for segment in found.segments + found.spares:
            segment.file.close()
        raise
    return found


def _cut_short(last: SegmentScan, later: int) -> LogDamaged:
    return LogDamaged(
        last.segment.path, last.end, f"{last.reason or 'the records end'}, but the log goes on in segment {later}"
    )


def _judge_hint(walk: SegmentScan, hint: Synced | None) -> None:
    """Rules 1 and 4, as far as the hint is concerned."""
    segment = walk.segment
    if hint is None or hint.sequence != segment.sequence:
        return
    if hint.salt != segment.salt:
        raise LogDamaged(segment.path, 0, f"the file {SYNCED_NAME} beside it belongs to another log")
    if hint.offset > walk.end:
        why = walk.reason or "the records end"
        raise LogDamaged(segment.path, walk.end, f"{why}, but everything before offset {hint.offset} was synced")


def _judge_end(last: SegmentScan) -> None:
    """Rules 2 and 4 for the segment in which the log ends."""
    segment = last.segment
    if last.ended:
        raise LogDamaged(segment.path, last.end, f"segment {segment.sequence + 1} is missing: the log goes on there")
    mark = find_mark(last.data, last.end, segment.salt)
    if mark is not None:
        why = last.reason or "the records end"
        raise LogDamaged(segment.path, last.end, f"{why}, but everything before offset {mark} was synced")


def _cut(found: Recovered, spoiled: list[tuple[Segment, int]], repair: bool) -> None:
    """Rules 5 and 6, for the segment in which the log ends and for the empty ones after it; then sync everything."""
    for segment, used_to in spoiled:
        torn = max(0, used_to - segment.end)
        found.torn_bytes += torn
        if repair and torn:
            segment.zero(segment.end, used_to)


def _rewrite(segments: list[Segment], last_writes: list[int]) -> None:
    """Make what was found durable, whatever the process before this one had come to.

    A process that was killed leaves valid records that only the kernel's memory has: nobody may see them before they
    are durable. If it ended because fdatasync failed, the kernel has marked them clean without having written them, and
    another sync would do nothing: so the last write, the only one that can be meant, is written again. An end record
    may have been the last, so the segment before counts, too.
    """
    for segment, start in list(zip(segments, last_writes, strict=True))[-2:]:
        if start < segment.end:
            segment.file.write(start, segment.file.read(start, segment.end - start))


class Replay:
    """The state of all groups, built record by record; :meth:`visit` is handed to :func:`scan`, then ``finish``."""

    def __init__(self, table: GroupTable) -> None:
        self._table = table
        self._oldest = 1  # the oldest segment that is needed
        # Consecutive entries of one group, applied together: most of a log is such runs.
        self._run: list[Entry] = []
        self._places = array("Q")
        self._run_group = 0
        self._run_next = 0

    def visit(self, segment: Segment, record: Record) -> None:
        """Apply one record. Raises :class:`LogDamaged` where a valid record makes no sense."""
        kind = record.kind
        place = segment.sequence << SEQUENCE_SHIFT | record.offset
        if 0 < kind <= LAST_ENTRY_KIND:  # fast path
            index = record.index
            run = self._run
            if index != self._run_next or record.group != self._run_group or len(run) >= RUN_ENTRIES_MAX:
                self._end_run()
                run = self._run
                self._run_group = record.group
            run.append(Entry(kind - 1, record.term, index, record.payload))
            self._places.append(place)
            self._run_next = index + 1
            return
        if kind == Kind.MARK:
            return
        self._end_run()
        if kind == Kind.FIRST:
            self._oldest = record.index
            return
        if kind == Kind.REMOVE:
            self._table.drop(record.group)
            return
        try:
            apply_record(self._table.recovered(record.group), record, place)
        except ValueError as error:
            raise LogDamaged(segment.path, record.offset, f"group {record.group}: {error}") from None

    def _end_run(self) -> None:
        if self._run:
            self._table.recovered(self._run_group).extend(self._run, self._places)
            self._run = []
            self._places = array("Q")
        self._run_next = 0

    def finish(self, found: Recovered) -> None:
        """Refuse a log in which something is missing. Raises :class:`LogDamaged`."""
        self._end_run()
        if not found.segments:
            return
        first, last = found.segments[0], found.segments[-1]
        if first.sequence > self._oldest:
            raise LogDamaged(first.path, 0, f"segment {self._oldest} is missing before it: it is still needed")
        for log in self._table.logs():
            if log.hole:
                reason = f"group {log.group}: the entries before {log.first_index()} are missing"
                raise LogDamaged(last.path, last.end, reason)
        self._table.settle()


def apply_record(log: GroupLog, record: Record, place: int) -> None:
    """Do to ``log`` what ``record``, not an entry, says. Raises ValueError where it makes no sense."""
    kind = record.kind
    if kind in COPY_KINDS:
        log.copy(Entry(kind - Kind.COPY, record.term, record.index, record.payload), place)
    elif kind == Kind.HARD_STATE:
        log.hard_state = HardState(record.term, decode_vote(record.payload), record.index)
    elif kind == Kind.COMPACT:
        log.compact(record.index, record.term)
    elif kind == Kind.RESTORE:
        log.restore(Snapshot(b"", record.index, record.term, decode_conf_state(record.payload)))
    elif kind == Kind.SNAPSHOT:
        log.note_snapshot(Snapshot(b"", record.index, record.term, decode_conf_state(record.payload)))
    else:
        # Whole, so it is not torn: written by a later version, and what it says may matter.
        raise ValueError(f"a record has the unknown type {kind}")
