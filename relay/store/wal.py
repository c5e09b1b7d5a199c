"""The write-ahead log: one for all Raft groups of a node. What it acknowledged survives, or the node refuses to start.

::

    submit(writes, done) ─▶ queue.take ─▶ write ─▶ sync ─▶ complete ─▶ groups' storage, then done()
         loop               ╰────── writer thread ──────╯    loop

All rules are here and in the modules beside; no thread and no clock. :class:`relay.store.wal_thread.LogThreads` runs
``queue.take``, ``write`` and ``sync`` in a thread and ``maintain`` in another; a simulator calls the same steps itself,
one by one or with :meth:`WriteAheadLog.run_once`. While one fdatasync runs, submissions queue, and all of them go into
the next write: group commit.

An error of write, fdatasync, fsync or of syncing a directory ends the process through ``on_fatal``: what is on the disk
is unknown then, and a second fsync may report success for pages that the kernel has dropped. Nothing is ever retried.
Only a full disk is waited out, because it is noticed when the next segment is made, before anything is written to it.

``docs/wal.md`` describes the format, the rules of recovery and the figures.
"""

from __future__ import annotations

import os
import os.path
from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from relay.errors import ConfigError, Unavailable
from relay.store.files import File, Files
from relay.store.wal_format import OFFSET_MASK, SEQUENCE_SHIFT, Record
from relay.store.wal_groups import GroupTable
from relay.store.wal_queue import LogFull, SubmissionQueue
from relay.store.wal_recovery import LOCK_NAME, Recovered, Replay, SyncedHint, scan
from relay.store.wal_segment import Segment, SegmentSupply
from relay.store.wal_storage import GroupLog
from relay.store.wal_times import SyncTimes
from relay.store.wal_writer import Batch, GroupWrite, LogOptions, LogWriter

EXIT_STATUS_FATAL = 70  # EX_SOFTWARE of sysexits.h
COPY_SHARE = 8  # at most one part in so many of a segment is filled with entries copied from the oldest one
RESERVE_SHARE = 4  # without room for another segment, the last part in so many is kept for compaction records

T = TypeVar("T")


class LogStopped(Unavailable):
    """The log failed, was closed, or is another process's: nothing is written."""

    temporary = False


def end_process(error: BaseException) -> NoReturn:
    """The default ``on_fatal``: one line, and the process is gone before anything can be acknowledged."""
    try:
        os.write(2, f"relay: fatal: write-ahead log: {type(error).__name__}: {error}\n".encode())
    finally:  # also when standard error is closed
        os._exit(EXIT_STATUS_FATAL)


def _nothing() -> None:
    pass


class LogCounters:
    """Plain counters, read at scrape time."""

    __slots__ = (
        "batches", "bytes", "copied_entries", "refused", "segments", "segments_begun", "segments_removed",
        "submissions",
    )  # fmt: skip

    def __init__(self) -> None:
        self.submissions = 0  # completed
        self.batches = 0  # writes with one fdatasync each
        self.bytes = 0  # at most; without marks and checkpoints
        self.refused = 0  # submissions, by LogFull
        self.copied_entries = 0
        self.segments = 0  # now on the disk, those made ahead too
        self.segments_begun = 0
        self.segments_removed = 0


class WriteAheadLog:
    """See the module. First ``open``. Then ``queue.take``, ``write`` and ``sync`` belong to the writer, ``maintain`` to
    whoever makes segments, and everything else to the loop."""

    def __init__(
        self,
        files: Files,
        directory: str,
        options: LogOptions | None = None,
        *,
        on_fatal: Callable[[BaseException], object] = end_process,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.directory = directory
        self.options = options or LogOptions()
        self.counters = LogCounters()
        self.sync_times = SyncTimes()  # kept by who runs the threads: there is no clock here
        self.table = GroupTable(self.options, self._read)
        self.queue = SubmissionQueue(self.options)
        self.on_work: Callable[[], object] = _nothing  # the writer has a reason to run
        self.on_maintenance: Callable[[], object] = _nothing  # a segment is to be made or removed
        self.failed: BaseException | None = None
        self.closed = False
        self._files = files
        self._on_fatal = on_fatal
        self._random_bytes = random_bytes
        self._lock: File | None = None
        self._hint: SyncedHint | None = None
        self._supply: SegmentSupply | None = None
        self._writer: LogWriter | None = None
        # Segments that entries are read from, by number, ascending; and those that wait to be removed.
        self._segments: dict[int, Segment] = {}
        self._unwanted: deque[Segment] = deque()

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self) -> Recovered:
        """Recover the log in ``directory`` (made when missing) and get ready for writing.

        Raises LogDamaged; LogStopped when another process has it open; LogFull when the disk has no room for the first
        segment; ConfigError when it has more groups than are allowed; OSError.
        """
        self._files.make_directory(self.directory)
        try:
            self._lock = self._files.lock(os.path.join(self.directory, LOCK_NAME))
        except BlockingIOError:
            raise LogStopped(f"{self.directory} is in use by another process") from None
        try:
            replay = Replay(self.table)
            found = scan(self._files, self.directory, replay.visit, repair=True)
            self._begin(found, replay)
        except BaseException:
            self.failed = self.failed or LogStopped("it was not opened")
            self.close()
            raise
        return found

    def _begin(self, found: Recovered, replay: Replay) -> None:
        self._segments = {segment.sequence: segment for segment in found.segments}
        known = found.segments + found.spares
        supply = self._supply = SegmentSupply(
            self._files,
            self.directory,
            self.options.segment_bytes,
            self.options.segments_max,
            lambda: int.from_bytes(self._random_bytes(8), "little") or 1,
            known[-1].sequence + 1 if known else 1,
        )
        supply.ready.extend(found.spares)
        replay.finish(found)
        count = len(self.table.numbers())
        if count > self.options.groups_max:
            raise ConfigError(f"{self.directory}: the log has {count} groups, groups_max is {self.options.groups_max}")
        if any(spare.size < self.options.segment_bytes for spare in found.spares):
            supply.discard_ready()  # made when segments were smaller: a batch might not fit
        if known:
            supply.oldest_sequence = known[0].sequence
            active = found.segments[-1]
        else:
            if not supply.prepare():
                raise LogFull(supply.no_room or "")
            active = supply.ready.pop(0)
            self._segments[active.sequence] = active
        self._writer = LogWriter(active, supply, self.table.logs(), supply.oldest_sequence)
        self._hint = SyncedHint(self._files, self.directory, active)
        self.counters.segments = supply.next_sequence - supply.oldest_sequence

    def close(self) -> None:
        """Make the hint durable, unless the log failed, and close all files. What is still queued is not written."""
        if self.closed:
            return
        self.closed = True
        if self._hint is not None:
            if self.failed is None:
                self._guarded(self._hint.file.sync)
            self._hint.file.close()
        for segment in [*self._segments.values(), *(self._supply.ready if self._supply else ()), *self._unwanted]:
            segment.file.close()
        if self._lock is not None:
            self._lock.close()

    # --- the loop's side ------------------------------------------------------------------------------------------

    def group(self, group: int) -> GroupLog:
        """The storage of one group for the Raft core; empty when the group is new. Raises LimitExceeded."""
        return self.table.get(group)

    def submit(
        self, writes: Sequence[GroupWrite], done: Callable[[], object] | None = None, *, must_sync: bool = True
    ) -> None:
        """Queue ``writes``, at most one with entries for each group; ``done`` is called by ``complete`` when all of
        them are durable and can be read.

        Without ``must_sync`` they wait for a submission that has it, or for the queue to be half full: meant for what
        may be lost, as a commit index alone. Raises LogFull, LogStopped, LimitExceeded, and ValueError for what does
        not belong in a log; then nothing is queued.
        """
        if self.closed or self.failed is not None:
            raise LogStopped("the write-ahead log is closed" if self.failed is None else f"it failed: {self.failed}")
        size = 0
        for write in writes:
            size += self.table.check(write)
        try:
            self.queue.check_room(size)
            if self.no_room is not None and any(write.entries for write in writes):
                self._check_reserve(size)
        except LogFull:
            self.counters.refused += 1
            raise
        for write in writes:
            self.table.submitted(write)
        if self.queue.put(writes, done, size, must_sync=must_sync):
            self.on_work()

    @property
    def no_room(self) -> str | None:
        """Why no further segment can be made, while it is so: time to snapshot and compact groups."""
        return self._supply.no_room if self._supply is not None else None

    def _check_reserve(self, size: int) -> None:
        """Entries may not take the room in which compaction records make room again."""
        assert self._writer is not None
        active = self._writer.segment
        if active.size - active.end - self.queue.pending_bytes - size < active.size // RESERVE_SHARE:
            raise LogFull(self.no_room or "")

    def complete(self, batch: Batch) -> None:
        """``batch`` is durable: show it in the storages, call what waits for it, let go of segments.

        A mistake of one ``done`` does not keep the others from being called; the first is raised at the end.
        """
        segment = batch.segment
        assert segment is not None
        begun = segment.sequence not in self._segments
        if begun:
            self._segments[segment.sequence] = segment
            self.counters.segments_begun += 1
            self.on_maintenance()
        apply = self.table.apply
        for submission in batch.submissions:
            for write in submission.writes:
                apply(write)
        self.queue.completed(batch)
        self.counters.submissions += len(batch.submissions)
        self.counters.batches += 1
        self.counters.bytes += batch.size
        self._let_go(batch.oldest)
        if begun:
            self._copy_out()
        self._find_oldest(segment.sequence)
        mistake: Exception | None = None
        for submission in batch.submissions:
            if submission.done is not None:
                try:
                    submission.done()
                except Exception as error:  # noqa: BLE001 - not ours; raised below
                    mistake = mistake or error
        if mistake is not None:
            raise mistake

    def holding_oldest(self) -> list[int]:
        """The groups whose entries keep the oldest segment from being removed: compact these first."""
        oldest = self.table.oldest_needed()
        return [] if oldest is None else sorted(log.group for log in self.table.holding(oldest))

    def _let_go(self, bound: int) -> None:
        """Give segments that the log says are not needed to ``maintain``, oldest first."""
        while (oldest := next(iter(self._segments))) < bound:
            self._unwanted.append(self._segments.pop(oldest))
            self.counters.segments_removed += 1
            self.on_maintenance()

    def _find_oldest(self, active: int) -> None:
        """Have the next batch say which segment is the oldest that any group needs."""
        assert self._writer is not None
        needed = self.table.oldest_needed()
        oldest = active if needed is None else min(active, needed)
        if oldest > self._writer.oldest_needed:
            self._writer.oldest_needed = oldest
            self.queue.put((), None, 0, must_sync=True)  # so that there is a next batch, whatever others do
            self.on_work()

    def _copy_out(self) -> None:
        """Move small logs out of the oldest segment, so that an idle group does not hold everything behind it."""
        if len(self._segments) < self.options.segments_kept:
            return
        budget = self.options.segment_bytes // COPY_SHARE
        for log in self.table.holding(next(iter(self._segments))):
            size = log.live_bytes()
            if log.pending or size > min(budget, self.options.copy_bytes_max):
                continue
            write = GroupWrite(log.group, log.entries(log.first_index(), log.last_index() + 1))
            write.copies = True
            try:
                self.submit([write], must_sync=False)
            except LogFull:
                return
            self.counters.copied_entries += len(write.entries)
            budget -= size

    def _read(self, place: int, payload_bytes: int) -> Record:
        return self._segments[place >> SEQUENCE_SHIFT].read_record(place & OFFSET_MASK, payload_bytes)

    # --- the writer's side ----------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> bool:
        """Write ``batch`` without syncing it. False, with nothing written, while there is no next segment."""
        assert self._writer is not None
        return self._guarded(self._writer.write, batch)

    def sync(self, batch: Batch) -> None:
        """Make ``batch`` durable, and note in the hint file that it is."""
        assert batch.segment is not None and self._hint is not None
        self._guarded(batch.segment.file.sync_data)
        self._guarded(self._hint.write, batch.segment)

    def _guarded(self, step: Callable[..., T], *arguments: object) -> T:
        """Run a step that writes. An error of the disk is the end of the process; it is never tried again."""
        if self.failed is not None:
            raise LogStopped(f"it failed: {self.failed}")
        try:
            return step(*arguments)
        except OSError as error:
            self.fail(error)
            raise LogStopped(f"it failed: {error}") from error

    def fail(self, error: BaseException) -> None:
        """Nothing is written or acknowledged any more, and the process is to end."""
        self.failed = error
        self._on_fatal(error)

    # --- making and removing segments -----------------------------------------------------------------------------

    def maintain(self) -> bool:
        """Remove segments that nobody needs and have one ready ahead. False while there is no room for one."""
        supply = self._supply
        assert supply is not None
        while self._unwanted:
            self._guarded(supply.remove, self._unwanted.popleft())
        made = self._guarded(supply.prepare)
        self.counters.segments = supply.next_sequence - supply.oldest_sequence
        return made

    # --- without threads ------------------------------------------------------------------------------------------

    def run_once(self) -> bool:
        """One whole turn in the caller's thread: take, write, sync, complete, maintain. False when nothing was queued.

        Raises LogFull, with everything still queued, when the disk has no room for the segment that is needed.
        """
        batch = self.queue.take()
        if batch is None:
            return False
        if not self.write(batch):
            if not self.maintain():
                self.queue.put_back(batch)
                raise LogFull(self.no_room or "")
            self.write(batch)
        self.sync(batch)
        self.complete(batch)
        self.maintain()
        return True
