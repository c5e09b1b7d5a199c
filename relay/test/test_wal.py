"""The write-ahead log while nothing breaks: format, group commit, limits, segments, storages. Crashes are next door."""

from __future__ import annotations

import errno
import os
import threading
from array import array
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from random import Random

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

import relay
from relay.cluster.raft.types import ConfState, Entry, HardState, Snapshot
from relay.errors import LimitExceeded
from relay.store import wal_thread
from relay.store.files import File, OsFile, OsFiles
from relay.store.wal import WriteAheadLog, end_process
from relay.store.wal_format import (
    COPY_OF_ENTRY,
    Kind,
    LogDamaged,
    Record,
    SegmentHeader,
    Synced,
    decode_record,
    decode_segment_header,
    decode_synced,
    encode_entries,
    encode_mark,
    encode_record,
    encode_segment_header,
    encode_synced,
    segment_name,
    segment_sequence,
)
from relay.store.wal_queue import LogFull
from relay.store.wal_thread import LogThreads
from relay.store.wal_writer import GroupWrite
from relay.test.simulated_files import SimulatedFiles
from relay.test.wal_model import DIRECTORY, SMALL, drain, entries, fill, opened

u8, u32, u64 = st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
few = settings(deadline=None, max_examples=60)
kinds = st.sampled_from([int(kind) for kind in Kind])


class FormatTests(unittest.TestCase):
    """Bytes of records, headers and the hint."""

    @few
    @given(kinds, u32, u64, u64, st.binary(max_size=300), u64, st.integers(0, 2**30))
    def test_round_trip(self, kind, group, index, term, payload, salt, offset):
        """A record is read as it was written, at its place and under its salt only."""
        data = encode_record(salt, offset, kind, group, index, term, payload)
        expected = Record(kind, group, index, term, payload, offset, offset + len(data))
        self.assertEqual(decode_record(data, offset, salt, base=offset), expected)
        self.assertIsInstance(decode_record(data, offset + 1, salt, base=offset + 1), str)
        self.assertIsInstance(decode_record(data, offset, salt ^ 1, base=offset), str)

    @few
    @given(st.binary(max_size=60), st.data())
    def test_flipped_bit(self, payload, data):
        """A record with one wrong bit is none."""
        encoded = bytearray(encode_record(1, 0, Kind.ENTRY, 1, 2, 3, payload))
        bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
        encoded[bit // 8] ^= 1 << bit % 8
        self.assertNotIsInstance(decode_record(bytes(encoded), 0, 1), Record)

    @few
    @given(st.binary(max_size=200), u64)
    def test_garbage(self, data, salt):
        """Bytes that are no record are called so and raise nothing."""
        found = decode_record(data, 0, salt)
        self.assertTrue(found is None or isinstance(found, str))

    def test_reference_bytes(self):
        """The bytes that the documentation shows."""
        salt = 0x1122334455667788
        shown = [
            encode_segment_header(SegmentHeader(1, salt, 64 << 20))[:44],
            encode_mark(salt, 4096, 1),
            encode_record(salt, 4133, Kind.ENTRY, 7, 42, 3, b"relay"),
            encode_synced(Synced(1, salt, 4167)),
        ]
        self.assertEqual(
            shown[2].hex(" "),
            "1a 00 00 00 b6 2a 94 f0 01 07 00 00 00 2a 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 72 65 6c 61 79",
        )
        page = Path(relay.__file__).parents[1] / "docs" / "wal.md"
        if page.exists():  # not where relay is installed
            lines = page.read_text(encoding="utf-8").splitlines()
            for data in shown:
                self.assertIn(data.hex(" "), lines)

    @few
    @given(u64, st.lists(st.tuples(st.integers(0, 2), u64, u64, st.binary(max_size=40))), st.booleans())
    def test_entries_encoded_together(self, salt, rows, copies):
        """The loop for many entries writes what encoding each of them writes."""
        batch = [Entry(*row) for row in rows]
        shift = Kind.ENTRY + (COPY_OF_ENTRY if copies else 0)
        out: list[bytes] = []
        places = array("Q")
        end = encode_entries(out, places, salt, 5 << 32 | 4096, 9, batch, shift)
        offset, plain, starts = 4096, b"", []
        for entry in batch:
            starts.append(5 << 32 | offset)
            record = encode_record(salt, offset, entry.type + shift, 9, entry.index, entry.term, entry.data)
            plain += record
            offset += len(record)
        self.assertEqual((b"".join(out), list(places), end), (plain, starts, 5 << 32 | offset))

    @few
    @given(u64, u64, u64)
    def test_header_and_hint(self, sequence, salt, size):
        """Headers and hints come back; the bytes of one are not taken for the other."""
        header, hint = SegmentHeader(sequence, salt, size), Synced(sequence, salt, size)
        self.assertEqual(decode_segment_header(encode_segment_header(header), "x"), header)
        self.assertEqual(decode_synced(encode_synced(hint)), hint)
        self.assertIsNone(decode_synced(encode_segment_header(header)[:40]))
        self.assertRaises(LogDamaged, decode_segment_header, encode_synced(hint).ljust(4096, b"\0"), "x")

    @few
    @given(st.text(max_size=20) | u64.map(segment_name))
    def test_names(self, name):
        """Only names that a segment can have are taken for one."""
        sequence = segment_sequence(name)
        self.assertTrue(sequence is None or segment_name(sequence) == name)


class GroupCommitTests(unittest.TestCase):
    """What is written and synced together."""

    def setUp(self):
        self.disk = SimulatedFiles()
        self.log = opened(self.disk)

    def test_one_sync_for_all_that_waits(self):
        """Submissions of several groups that wait together need one write and one sync of the segment."""
        done: list[int] = []
        for group in (1, 2, 3):
            self.log.submit([GroupWrite(group, entries(1, 2))], partial(done.append, group))
        self.disk.calls.clear()
        self.log.run_once()
        self.assertEqual([call for call, path in self.disk.calls if segment_name(1) in path], ["write", "sync_data"])
        self.assertEqual(done, [1, 2, 3])

    def test_nothing_is_acknowledged_or_seen_before_the_sync(self):
        """Neither after the write nor after the sync alone, but when the loop has completed the batch."""
        done: list[bool] = []
        self.log.submit([GroupWrite(1, entries(1, 1))], lambda: done.append(True))
        batch = self.log.queue.take()
        assert batch is not None
        self.log.write(batch)
        self.log.sync(batch)
        self.assertEqual((done, self.log.group(1).last_index()), ([], 0))
        self.log.complete(batch)
        self.assertEqual((done, self.log.group(1).last_index()), ([True], 1))

    def test_what_need_not_be_synced_waits_for_what_must(self):
        """A commit index alone gives the writer no work; it goes along with the next entries."""
        self.log.submit([GroupWrite(1, hard_state=HardState(1, 1, 0))], must_sync=False)
        self.assertFalse(self.log.queue.has_work())
        self.log.submit([GroupWrite(1, entries(1, 1))])
        self.assertTrue(self.log.queue.has_work())
        self.log.run_once()
        self.assertEqual(self.log.group(1).hard_state, HardState(1, 1, 0))
        self.assertEqual(self.log.counters.batches, 1)

    def test_half_a_queue_is_enough_reason(self):
        """Many submissions that need no sync are written before they fill the queue."""
        for _ in range(SMALL.queue_length_max // 2):
            self.log.submit([GroupWrite(1, hard_state=HardState(1, 1, 0))], must_sync=False)
        self.assertFalse(self.log.queue.has_work())
        self.log.submit([GroupWrite(1, hard_state=HardState(1, 1, 0))], must_sync=False)
        self.assertTrue(self.log.queue.has_work())

    def test_a_large_queue_becomes_several_batches(self):
        """One write takes no more than batch_bytes_max."""
        for first in (1, 3, 5, 7):
            self.log.submit([GroupWrite(1, entries(first, 2, 800))])
        self.assertTrue(self.log.run_once())
        self.assertEqual(self.log.group(1).last_index(), 4)
        self.assertTrue(self.log.run_once())
        self.assertFalse(self.log.run_once())
        self.assertEqual(self.log.group(1).last_index(), 8)

    def test_a_mistake_in_one_callback(self):
        """The others are called all the same; the mistake is raised after them."""
        done: list[bool] = []

        def mistake() -> None:
            raise KeyError("ours")

        self.log.submit([GroupWrite(1, entries(1, 1))], mistake)
        self.log.submit([GroupWrite(1, entries(2, 1))], lambda: done.append(True))
        self.assertRaises(KeyError, self.log.run_once)
        self.assertEqual(done, [True])

    def test_order_within_a_write(self):
        """Entries stand before the hard state, so that a torn write never leaves a commit index without its entry."""
        self.log.submit([GroupWrite(1, entries(1, 1), HardState(1, 1, 1), Snapshot(b"", 0, 0, ConfState((1,))))])
        self.log.run_once()
        data = self.disk.content(f"{DIRECTORY}/{segment_name(1)}")
        found, offset = [], 4096
        while isinstance(record := decode_record(data, offset, decode_segment_header(data, "").salt), Record):
            found.append(record.kind)
            offset = record.end
        self.assertEqual(found, [Kind.MARK, Kind.FIRST, Kind.RESTORE, Kind.ENTRY, Kind.HARD_STATE])


class LimitTests(unittest.TestCase):
    """Every limit, reached."""

    def setUp(self):
        self.disk = SimulatedFiles()
        self.log = opened(self.disk)

    def refused(self, write: GroupWrite) -> None:
        """``write`` is not queued, and the log goes on."""
        self.assertRaises(ValueError, self.log.submit, [write])
        self.assertFalse(self.log.run_once())

    def test_queue_bytes(self):
        """A queue that is full says so, as a temporary error, and takes more once something was written."""
        for first in (1, 2, 3, 4):
            self.log.submit([GroupWrite(1, entries(first, 1, 1800))])
        write = GroupWrite(1, entries(5, 1, 1800))
        with self.assertRaises(LogFull) as caught:
            self.log.submit([write])
        self.assertTrue(caught.exception.temporary)
        self.assertEqual(caught.exception.outcome, "not_done")
        self.assertEqual(self.log.counters.refused, 1)
        self.log.run_once()
        self.log.submit([write])

    def test_queue_length(self):
        """As many submissions as the queue may have, however small."""
        for _ in range(SMALL.queue_length_max):
            self.log.submit([GroupWrite(1, hard_state=HardState(1, 1, 0))])
        self.assertRaises(LogFull, self.log.submit, [GroupWrite(1, hard_state=HardState(1, 1, 0))])

    def test_sizes(self):
        """An entry, a submission and a configuration that are too large are refused for good."""
        self.refused(GroupWrite(1, entries(1, 1, SMALL.record_bytes_max + 1)))
        self.refused(GroupWrite(1, entries(1, 3, SMALL.record_bytes_max - 1)))
        self.refused(GroupWrite(1, restore=Snapshot(b"", 1, 1, ConfState(tuple(range(100))))))
        self.log.submit([GroupWrite(1, entries(1, 1, SMALL.record_bytes_max))])

    def test_what_is_no_log(self):
        """A hole, indexes out of order, an unknown type, compaction of what is not durable, a group of 33 bits."""
        self.refused(GroupWrite(1, entries(2, 1)))
        self.refused(GroupWrite(1, [Entry(0, 1, 1), Entry(0, 1, 3)]))
        self.refused(GroupWrite(1, [Entry(3, 1, 1)]))
        self.refused(GroupWrite(1, [Entry(0, 1, 0)]))
        self.refused(GroupWrite(1, entries(1, 1), compact=1))
        self.refused(GroupWrite(1 << 32))

    def test_groups(self):
        """No more groups than a checkpoint has room for; a removed one makes room."""
        for group in range(SMALL.groups_max):
            self.log.submit([GroupWrite(group, entries(1, 1))])
        self.assertRaises(LimitExceeded, self.log.submit, [GroupWrite(99, entries(1, 1))])
        self.log.submit([GroupWrite(0, remove=True)])
        self.log.run_once()
        self.log.submit([GroupWrite(99, entries(1, 1))])

    def test_options(self):
        """Options that could not be kept are refused."""
        for change in (
            {"segment_bytes": 1000},
            {"segment_bytes": 2 << 30},
            {"groups_max": 100},
            {"record_bytes_max": 4090},
            {"queue_bytes_max": 4000},
        ):
            self.assertRaises(ValueError, attrs.evolve, SMALL, **change)

    def test_full_disk(self):
        """Without room for a segment entries are refused while there is still room to compact; then it goes on."""
        self.disk.capacity_bytes = 45_000  # two segments and the hint
        tail = 0
        with self.assertRaises(LogFull) as caught:
            while True:
                self.log.submit([GroupWrite(1, entries(tail + 1, 1, 700))])
                self.log.run_once()
                tail += 1
        self.assertIn("No space left", str(caught.exception))
        self.assertIn("No space left", self.log.no_room or "")
        self.assertEqual(self.log.holding_oldest(), [1])
        self.log.submit([GroupWrite(1, compact=tail)])
        drain(self.log)
        self.assertTrue(self.log.maintain())
        fill(self.log, 1, 3)
        self.disk.crash(Random(1))
        self.assertEqual(opened(self.disk).group(1).last_index(), tail + 3)

    def test_segments_max(self):
        """A log that nobody compacts stops growing."""
        with self.assertRaises(LogFull) as caught:
            fill(self.log, 1, 1000)
        self.assertIn("has its 12 segments", str(caught.exception))
        names = [name for name in self.disk.list(DIRECTORY) if segment_sequence(name)]
        self.assertEqual(len(names), SMALL.segments_max)

    def test_write_waits_for_a_segment(self):
        """With no next segment nothing of a batch is written, and it is still in the queue after run_once gave up."""
        self.log.maintain()
        self.disk.capacity_bytes = 0
        tail = 0
        with self.assertRaises(LogFull):
            while True:
                self.log.submit([GroupWrite(1, hard_state=HardState(tail + 1, 1, 0))] * 30)
                self.log.run_once()
                tail += 1
        self.assertEqual(self.log.group(1).hard_state.term, tail)
        self.disk.capacity_bytes = 1 << 30
        self.assertTrue(self.log.run_once())
        self.assertEqual(self.log.group(1).hard_state.term, tail + 1)


class HeldFiles(OsFiles):
    """Real files whose fdatasync waits until it is let go, so that a test knows what happens meanwhile."""

    def __init__(self) -> None:
        self.hold = False
        self.full = False
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: OSError | None = None

    def create(self, path: str) -> File:
        """As OsFiles."""
        return HeldFile(self, os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))


class HeldFile(OsFile):
    """See HeldFiles."""

    def __init__(self, files: HeldFiles, fd: int) -> None:
        super().__init__(fd)
        self._files = files

    def zero_fill(self, length: int) -> None:
        """As long as there is room."""
        if self._files.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().zero_fill(length)

    def sync_data(self) -> None:
        """Wait for the test."""
        if self._files.hold:
            self._files.entered.release()
            self._files.go.acquire(timeout=30)
            if self._files.error is not None:
                raise self._files.error
        super().sync_data()


class ThreadTests(unittest.TestCase):
    """The same log with its two threads and real files."""

    def setUp(self):
        self.files = HeldFiles()
        self.directory = self.mktemp()
        self.fatal: SimpleQueue[BaseException] = SimpleQueue()
        self.calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()
        self.log = WriteAheadLog(self.files, self.directory, SMALL, on_fatal=self.fatal.put)
        self.log.open()
        moments = count()  # each sync takes a second
        self.threads = LogThreads(
            self.log, lambda call, *arguments: self.calls.put((call, arguments)), lambda: float(next(moments))
        )
        self.threads.start()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop, whatever state the log is in."""
        self.files.hold = False
        self.files.go.release()
        stopped: list[bool] = []
        self.threads.stop(lambda: stopped.append(True))
        while not stopped:
            self.turn()
        self.log.close()

    def turn(self) -> None:
        """One call that came from a thread."""
        call, arguments = self.calls.get(timeout=30)
        call(*arguments)

    def written(self, write: GroupWrite) -> None:
        """Submit ``write`` and wait until it is durable; the log may have completed work of its own before."""
        done: list[bool] = []
        self.log.submit([write], lambda: done.append(True))
        while not done:
            self.turn()

    def test_group_commit(self):
        """What is submitted during one sync is made durable by the next, all of it, with one completion."""
        self.files.hold = True
        done: list[int] = []
        self.log.submit([GroupWrite(1, entries(1, 1))], lambda: done.append(0))
        self.assertTrue(self.files.entered.acquire(timeout=30))
        for number in range(1, 11):
            self.log.submit([GroupWrite(1, entries(number + 1, 1))], partial(done.append, number))
        self.files.go.release()
        self.turn()
        self.assertEqual(done, [0])
        self.assertTrue(self.files.entered.acquire(timeout=30))
        self.files.go.release()
        self.turn()
        self.assertEqual(done, list(range(11)))
        self.assertEqual(self.log.counters.batches, 2)
        self.assertEqual((self.log.sync_times.sum_s, dict(self.log.sync_times.buckets())["1.024"]), (2.0, 2))

    def test_many_segments(self):
        """The writer goes on as fast as segments are made, and what is stopped is complete."""
        for number in range(200):
            compact = max(0, self.log.group(1).last_index() - 3)
            self.written(GroupWrite(1, entries(number + 1, 1, 500), compact=compact))
        self.assertGreater(self.log.counters.segments_removed, 3)
        self.stop()
        log = WriteAheadLog(OsFiles(), self.directory, SMALL)
        log.open()
        self.assertEqual(log.group(1).entries(197, 201), tuple(entries(197, 4, 500)))
        log.close()

    def test_full_disk(self):
        """Entries are refused while there is no room for a segment; compaction is not, and once there is it goes on."""
        self.patch(wal_thread, "ROOM_RETRY_S", 0.01)
        self.files.full = True
        tail = 0
        with self.assertRaises(LogFull):
            while True:
                self.written(GroupWrite(1, entries(tail + 1, 1, 1000)))
                tail += 1
        self.written(GroupWrite(1, compact=tail - 1))
        self.files.full = False
        for term in range(1, 10_000):
            if self.log.no_room is None:
                break
            self.written(GroupWrite(1, hard_state=HardState(term, 1, tail)))
        for _ in range(30):
            self.written(GroupWrite(1, entries(tail + 1, 1, 1000), compact=tail - 1))
            tail += 1
        self.assertEqual(self.log.group(1).last_index(), tail)

    def test_stop_writes_what_waits(self):
        """What is queued when the log is stopped is written, also what needed no sync."""
        done: list[int] = []
        self.log.submit([GroupWrite(1, entries(1, 1))], lambda: done.append(1), must_sync=False)
        self.stop()
        self.assertEqual(done, [1])

    def test_failing_sync(self):
        """An error of fdatasync in the thread is fatal, and is never followed by a completion."""
        self.files.hold = True
        self.files.error = OSError(errno.EIO, "Input/output error")
        done: list[int] = []
        self.log.submit([GroupWrite(1, entries(1, 1))], lambda: done.append(1))
        self.files.go.release()
        self.assertIs(self.fatal.get(timeout=30), self.files.error)
        self.stop()
        self.assertEqual(done, [])
        self.assertEqual(self.log.group(1).last_index(), 0)


class FatalTests(unittest.TestCase):
    """What on_fatal does by default."""

    def test_default(self):
        """One line to standard error and exit status 70."""
        said: list[tuple[int, bytes]] = []
        left: list[int] = []

        class Left(BaseException):
            pass

        def leave(status: int) -> None:
            left.append(status)
            raise Left

        self.patch(os, "write", lambda fd, data: said.append((fd, data)))
        self.patch(os, "_exit", leave)
        self.assertRaises(Left, end_process, OSError(errno.EIO, "Input/output error"))
        line = b"relay: fatal: write-ahead log: OSError: [Errno 5] Input/output error\n"
        self.assertEqual((said, left), ([(2, line)], [70]))
