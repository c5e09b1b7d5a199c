"""From submitted writes to bytes in the active segment: what one fdatasync makes durable.

A batch is one write into one segment: ``mark · records``. When it does not fit any more, the segment gets its end
record and is synced, and the batch opens the next segment, behind a mark and a checkpoint: hard state, snapshot and
compaction point of every group. So a segment is needed only for the entries in it, and an old one without live
entries can be removed, once a batch has said so: a segment that is missing without that is damage.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence

import attrs

from relay.cluster.raft.types import ConfState, Entry, HardState, Snapshot
from relay.store.wal_format import (
    COPY_OF_ENTRY,
    END_BYTES,
    FIRST_BYTES,
    HEADER_BYTES,
    MARK_BYTES,
    RECORD_HEAD_BYTES,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEQUENCE_SHIFT,
    Kind,
    encode_entries,
    encode_mark,
    encode_record,
    encode_vote,
)
from relay.store.wal_segment import Segment, SegmentSupply
from relay.store.wal_storage import GroupLog, encode_conf_state, without_data

HARD_STATE_BYTES = RECORD_HEAD_BYTES + 8
BATCH_OVERHEAD_BYTES = MARK_BYTES + FIRST_BYTES + END_BYTES
CHECKPOINT_BYTES = HARD_STATE_BYTES + 2 * RECORD_HEAD_BYTES  # of a group, beside its configuration state


@attrs.frozen
class LogOptions:
    """The limits of a log. All sizes are in bytes."""

    segment_bytes: int = 64 << 20
    segments_max: int = 256  # 16 GiB; then entries are refused until groups are compacted
    segments_kept: int = 4  # from so many on, small groups that hold the oldest one are copied out of it
    record_bytes_max: int = 16 << 20  # the payload of one entry
    batch_bytes_max: int = 4 << 20  # one write and fdatasync; what is queued beyond waits for the next
    submission_bytes_max: int = 32 << 20
    queue_bytes_max: int = 64 << 20  # submitted and not yet durable, all groups
    queue_length_max: int = 65536  # submissions
    groups_max: int = 4096
    conf_state_bytes_max: int = 4096  # encoded; 200 members need less
    cache_bytes_max: int = 256 << 20  # entries kept in memory, all groups
    cache_group_bytes_max: int = 16 << 20  # as much as a leader may have uncommitted
    copy_bytes_max: int = 1 << 20  # groups with more in the oldest segment have to be compacted

    def __attrs_post_init__(self) -> None:
        """Raises ValueError when a checkpoint and the largest submission do not fit into one segment."""
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(f"segment_bytes must be {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}")
        fixed = HEADER_BYTES + BATCH_OVERHEAD_BYTES
        checkpoint = self.groups_max * (CHECKPOINT_BYTES + self.conf_state_bytes_max)
        if fixed + checkpoint + max(self.submission_bytes_max, self.batch_bytes_max) > self.segment_bytes:
            raise ValueError("segment_bytes does not hold a checkpoint of groups_max groups and the largest batch")
        if self.record_bytes_max + RECORD_HEAD_BYTES > self.submission_bytes_max:
            raise ValueError("record_bytes_max does not fit into submission_bytes_max")
        if self.submission_bytes_max > self.queue_bytes_max:
            raise ValueError("submission_bytes_max does not fit into queue_bytes_max")


@attrs.define(eq=False)
class GroupWrite:
    """What is to become durable for one group, recorded in the order of the fields.

    Entries before the hard state: a crash between them then never leaves a commit index beyond the log.
    """

    group: int
    entries: Sequence[Entry] = ()  # consecutive; replaces what the log has from the first index on
    hard_state: HardState | None = None
    restore: Snapshot | None = None  # replaces the whole log, before the entries; its data is not written
    snapshot: Snapshot | None = None  # a snapshot that was stored; its data is not written
    compact: int = 0  # drop the entries up to this index, when greater than 0
    remove: bool = False  # the group leaves this node: nothing else is written
    compact_term: int = attrs.field(default=0, init=False)  # the log's own business from here on
    copies: bool = attrs.field(default=False, init=False)
    places: array[int] = attrs.field(factory=lambda: array("Q"), init=False)


@attrs.define(eq=False)
class Submission:
    """Writes that become durable together, and whom to tell."""

    writes: Sequence[GroupWrite]
    done: Callable[[], object] | None
    size: int
    urgent: bool


@attrs.define(eq=False)
class Batch:
    """What goes to disk in one write and one fdatasync."""

    submissions: list[Submission]
    size: int
    segment: Segment | None = None  # where it was written
    oldest: int = 0  # segments before this one may be removed once the batch is durable


@attrs.define
class _Head:
    """What the checkpoint of a group says: the state after the last record written, synced or not."""

    hard_state: HardState | None = None
    snapshot: Snapshot | None = None
    base: int = 0
    base_term: int = 0


class LogWriter:
    """Encodes batches and appends them. Used by one thread at a time, the one that syncs."""

    __slots__ = ("_heads", "_needs_checkpoint", "_oldest", "_supply", "oldest_needed", "segment")

    def __init__(self, segment: Segment, supply: SegmentSupply, groups: Iterable[GroupLog], oldest: int) -> None:
        self.segment = segment
        self.oldest_needed = oldest  # set by the loop; said in the next batch
        self._oldest = oldest
        self._supply = supply
        self._needs_checkpoint = segment.end == HEADER_BYTES
        self._heads: dict[int, _Head] = {}
        for log in groups:
            hard_state, _ = log.initial_state()
            snapshot = log.known_snapshot
            head = _Head(hard_state, snapshot if snapshot.index or snapshot.conf_state != ConfState() else None)
            head.base = log.first_index() - 1
            head.base_term = log.term(head.base)
            self._heads[log.group] = head

    def write(self, batch: Batch) -> bool:
        """Put ``batch`` into the active segment, or into the next one when it is full; not synced.

        False, and nothing of the batch is written, while there is no next segment. Raises OSError.
        """
        segment = self.segment
        if segment.end + BATCH_OVERHEAD_BYTES + batch.size > segment.size:
            following = self._supply.take()
            if following is None:
                return False
            self._end_segment(following)
            segment = following
        out = [encode_mark(segment.salt, segment.end, segment.sequence)]
        offset = segment.end + MARK_BYTES
        oldest = self.oldest_needed
        if self._needs_checkpoint or oldest != self._oldest:
            self._oldest = oldest
            offset = self._record(out, offset, Kind.FIRST, 0, oldest, 0, b"")
        if self._needs_checkpoint:
            offset = self._checkpoint(out, offset)
        for submission in batch.submissions:
            for write in submission.writes:
                offset = self._encode(out, offset, write)
        data = b"".join(out)
        assert segment.end + len(data) == offset
        segment.append(data)
        self._needs_checkpoint = False
        batch.segment = segment
        batch.oldest = oldest
        return True

    def _end_segment(self, following: Segment) -> None:
        """Say that the log goes on in ``following``, durably, before anything is written there."""
        segment = self.segment
        segment.append(encode_record(segment.salt, segment.end, Kind.END, 0, following.sequence, 0, b""))
        segment.file.sync_data()
        self.segment = following
        self._needs_checkpoint = True

    def _record(self, out: list[bytes], offset: int, kind: Kind, group: int, index: int, term: int, data: bytes) -> int:
        out.append(encode_record(self.segment.salt, offset, kind, group, index, term, data))
        return offset + RECORD_HEAD_BYTES + len(data)

    def _checkpoint(self, out: list[bytes], offset: int) -> int:
        for group, head in self._heads.items():
            if head.snapshot is not None:
                offset = self._put_snapshot(out, offset, Kind.SNAPSHOT, group, head.snapshot)
            if head.base:
                offset = self._record(out, offset, Kind.COMPACT, group, head.base, head.base_term, b"")
            if head.hard_state is not None:
                offset = self._put_hard_state(out, offset, group, head.hard_state)
        return offset

    def _encode(self, out: list[bytes], offset: int, write: GroupWrite) -> int:
        group = write.group
        if write.remove:
            self._heads.pop(group, None)
            return self._record(out, offset, Kind.REMOVE, group, 0, 0, b"")
        head = self._heads.get(group)
        if head is None:
            head = self._heads[group] = _Head()
        if write.restore is not None:
            head.snapshot = without_data(write.restore)
            head.base, head.base_term = write.restore.index, write.restore.term
            offset = self._put_snapshot(out, offset, Kind.RESTORE, group, write.restore)
        if write.entries:
            segment = self.segment
            shift = Kind.ENTRY + (COPY_OF_ENTRY if write.copies else 0)
            place = segment.sequence << SEQUENCE_SHIFT | offset
            after = encode_entries(out, write.places, segment.salt, place, group, write.entries, shift)
            offset += after - place
        if write.hard_state is not None:
            head.hard_state = write.hard_state
            offset = self._put_hard_state(out, offset, group, write.hard_state)
        if write.snapshot is not None:
            head.snapshot = without_data(write.snapshot)
            offset = self._put_snapshot(out, offset, Kind.SNAPSHOT, group, write.snapshot)
        if write.compact > head.base:
            head.base, head.base_term = write.compact, write.compact_term
            offset = self._record(out, offset, Kind.COMPACT, group, write.compact, write.compact_term, b"")
        return offset

    def _put_hard_state(self, out: list[bytes], offset: int, group: int, state: HardState) -> int:
        return self._record(out, offset, Kind.HARD_STATE, group, state.commit, state.term, encode_vote(state.vote))

    def _put_snapshot(self, out: list[bytes], offset: int, kind: Kind, group: int, snapshot: Snapshot) -> int:
        payload = encode_conf_state(snapshot.conf_state)
        return self._record(out, offset, kind, group, snapshot.index, snapshot.term, payload)
