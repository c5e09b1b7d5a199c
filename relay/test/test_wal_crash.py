"""The crash matrix of the write-ahead log: whatever happens to the disk, what was acknowledged is there or it refuses.

``python -m relay.test.test_wal_crash [SEEDS]`` runs it at length: every bit of both segments, and many more seeds.
"""

from __future__ import annotations

import errno
import sys
from collections import Counter
from functools import partial
from random import Random

from twisted.trial import unittest

from relay.cluster.raft.types import Entry, HardState
from relay.store.wal import LogStopped, WriteAheadLog
from relay.store.wal_format import (
    HEADER_BYTES,
    Kind,
    LogDamaged,
    decode_segment_header,
    decode_synced,
    encode_record,
    encode_synced,
    segment_name,
)
from relay.store.wal_writer import GroupWrite
from relay.test.simulated_files import SimulatedCrash, SimulatedFiles
from relay.test.wal_model import DIRECTORY, SMALL, Died, Life, State, Workload, opened, replayed, state_of, visible


def small_log() -> tuple[SimulatedFiles, list[int], State]:
    """A log that was killed with everything acknowledged: where its last three records start, its end; its state."""
    disk = SimulatedFiles()
    log = opened(disk)
    for index in range(1, 7):
        log.submit([GroupWrite(1, [Entry(0, 1, index, bytes([index]) * 5 * index)])])
        log.submit([GroupWrite(2, [Entry(0, 1, index, b"two")], HardState(1, 2, index - 1))])
        log.run_once()
    log.submit([GroupWrite(1, [Entry(0, 2, index, b"last") for index in (7, 8, 9)])])
    log.run_once()
    starts = [place & 0xFFFFFFFF for place in log.group(1).places()[-3:]]
    state = state_of(log)
    disk.kill()
    return disk, [*starts, starts[-1] + 33], state


def fail_sync(name: str, path: str) -> None:
    """A disk that cannot sync."""
    if name == "sync_data":
        raise OSError(errno.EIO, "Input/output error")


class CutTests(unittest.TestCase):
    """The file loses its end."""

    def setUp(self):
        self.disk, self.places, self.state = small_log()
        self.path = f"{DIRECTORY}/{segment_name(1)}"
        self.content = self.disk.content(self.path)

    def test_truncated_at_every_byte(self):
        """A segment had its whole length before it had its name: a shorter one is damage, wherever it ends."""
        for cut in range(self.places[0], self.places[-1] + 1):
            disk = self.disk.copy()
            disk.damage(self.path, self.content[:cut])
            with self.assertRaises(LogDamaged) as caught:
                opened(disk)
            self.assertEqual((caught.exception.path, caught.exception.offset), (self.path, cut))

    def test_acknowledged_records_zeroed_at_every_byte(self):
        """What was acknowledged and is zero now is damage: the hint says that it was synced."""
        for cut in range(self.places[0], self.places[-1]):
            disk = self.disk.copy()
            disk.damage(self.path, self.content[:cut].ljust(len(self.content), b"\0"))
            with self.assertRaises(LogDamaged) as caught:
                opened(disk)
            self.assertIn(f"everything before offset {self.places[-1]} was synced", str(caught.exception))

    def test_unsynced_records_cut_at_every_byte(self):
        """A write that only partly reached the disk: whole records of it are kept, the rest is cut, nothing refuses."""
        log = opened(self.disk)
        log.submit([GroupWrite(1, [Entry(0, 3, index, b"unsynced") for index in (10, 11, 12)])])
        batch = log.queue.take()
        assert batch is not None
        log.write(batch)
        content = self.disk.content(self.path)
        starts = [self.places[-1] + 37 + 37 * count for count in range(4)]
        for cut in range(starts[0], starts[3] + 1):
            disk = self.disk.copy()
            disk.damage(self.path, content[:cut].ljust(len(content), b"\0"))
            found = opened(disk)
            # A record whose last byte is cut off is there all the same when that byte was zero; these end in a letter.
            whole = sum(start <= cut for start in starts[1:])
            self.assertEqual(found.group(1).last_index(), 9 + whole, cut)
            self.assertEqual(found.group(1).entries(1, 10), self.state[1][2])

    def test_what_is_cut_does_not_come_back(self):
        """After a torn tail was cut, records that end exactly where an old one began do not bring that one back."""
        log = opened(self.disk)
        log.submit([GroupWrite(1, [Entry(0, 3, index, b"unsynced") for index in (10, 11, 12)])])
        batch = log.queue.take()
        assert batch is not None
        log.write(batch)
        content = bytearray(self.disk.content(self.path))
        content[self.places[-1] + 37 + 10] ^= 1  # record 10 is torn, 11 and 12 are whole
        disk = self.disk.copy()
        disk.damage(self.path, bytes(content))
        log = opened(disk)
        log.submit([GroupWrite(1, [Entry(0, 3, 10, b"UNSYNCED")])])
        log.run_once()
        disk.kill()
        self.assertEqual(opened(disk).group(1).last_index(), 10)

    def test_what_was_read_stays(self):
        """What a recovery after a kill has shown survives a power failure, though its first writer never synced it."""
        for seed in range(10):
            disk = SimulatedFiles()
            log = opened(disk)
            log.submit([GroupWrite(1, [Entry(0, 1, 1, b"never synced")])])
            batch = log.queue.take()
            assert batch is not None
            log.write(batch)
            disk.kill()
            self.assertEqual(opened(disk).group(1).last_index(), 1)
            disk.crash(Random(seed))
            self.assertEqual(opened(disk).group(1).last_index(), 1)

    def test_what_was_read_stays_after_a_failed_sync(self):
        """So it is when the first writer's sync failed: the kernel then takes for clean what is not on the disk."""
        for seed in range(10):
            disk = SimulatedFiles()
            log = opened(disk)
            log.submit([GroupWrite(1, [Entry(0, 1, 1, b"durable")])])
            log.run_once()
            log.submit([GroupWrite(1, [Entry(0, 1, 2, b"sync failed " * 100)])])
            disk.on_call = fail_sync
            self.assertRaises(Died, log.run_once)
            disk.on_call = lambda name, path: None
            disk.kill()
            log = opened(disk)
            self.assertEqual(log.group(1).last_index(), 2)
            log.submit([GroupWrite(1, [Entry(0, 1, 3, b"acknowledged")])])
            log.run_once()
            disk.crash(Random(seed))
            self.assertEqual(opened(disk).group(1).last_index(), 3)

    def test_killed_before_the_end_record_was_synced(self):
        """An end record that a killed process never synced is durable before the next segment is written."""

        def stop(name: str, path: str) -> None:
            if name == "sync_data":
                raise SimulatedCrash

        for seed in range(10):
            disk = SimulatedFiles()
            log = opened(disk)
            with self.assertRaises(SimulatedCrash):
                while True:
                    log.submit([GroupWrite(1, [Entry(0, 1, log.group(1).tail + 1, bytes(500))])])
                    batch = log.queue.take()
                    assert batch is not None
                    log.maintain()
                    disk.on_call = stop
                    log.write(batch)  # syncs nothing but a segment that ends
                    disk.on_call = lambda name, path: None
                    log.sync(batch)
                    log.complete(batch)
            disk.on_call = lambda name, path: None
            disk.kill()
            log = opened(disk)
            tail = log.group(1).last_index()
            log.submit([GroupWrite(1, [Entry(0, 1, tail + 1, bytes(500))])])
            log.run_once()
            disk.crash(Random(seed))
            self.assertEqual(opened(disk).group(1).last_index(), tail + 1)


class MissingTests(unittest.TestCase):
    """Whole segments are gone or empty, with and without the hint."""

    def setUp(self):
        self.disk = SimulatedFiles()
        log = opened(self.disk)
        log.submit([GroupWrite(1, [Entry(0, 1, 1, bytes(1800))])])  # too large to be copied out of the first segment
        log.run_once()
        while log.counters.segments_begun < 3:
            log.submit([GroupWrite(2, hard_state=HardState(1, 1, 0))] * 9)
            log.run_once()
        self.disk.kill()
        self.paths = [f"{DIRECTORY}/{name}" for name in self.disk.list(DIRECTORY) if name.endswith(".wal")]
        self.assertEqual(len(self.paths), 5)

    def refuses(self, gone: list[str], *, hint: bool = True) -> str:
        """Without the files in ``gone``; what is said."""
        twin = self.disk.copy()
        for path in gone if hint else [*gone, f"{DIRECTORY}/synced"]:
            twin.delete(path)
        with self.assertRaises(LogDamaged) as caught:
            opened(twin)
        self.assertEqual(twin.opened, set())
        return str(caught.exception)

    def test_one_between(self):
        """A gap in the numbers, even if nothing in the gap is missed by any group."""
        for hint in (True, False):
            self.assertIn("segment 2 is missing between 1 and 3", self.refuses(self.paths[1:2], hint=hint))

    def test_the_last(self):
        """The segment in use and the spare: the one before says that the log goes on."""
        self.assertIn("segment 4 is missing", self.refuses(self.paths[3:], hint=True))
        self.assertIn("segment 4 is missing: the log goes on there", self.refuses(self.paths[3:], hint=False))

    def test_the_first(self):
        """A segment that a group still needs, though the group is not named in any later one; the spare alone."""
        for hint in (True, False):
            self.assertIn("segment 1 is missing before it: it is still needed", self.refuses(self.paths[:1], hint=hint))
            self.refuses(self.paths[:4], hint=hint)

    def test_all(self):
        """An emptied directory is not a new log while the hint says that there was one."""
        self.assertIn("segment 4 is missing: it was in use", self.refuses(self.paths))

    def test_no_end_record(self):
        """Records that stop without an end record, in a segment that others follow."""
        twin = self.disk.copy()
        twin.delete(f"{DIRECTORY}/synced")
        content = twin.content(self.paths[1])
        end = content.rfind(bytes([Kind.END])) - 8
        twin.damage(self.paths[1], content[:end].ljust(len(content), b"\0"))
        with self.assertRaises(LogDamaged) as caught:
            opened(twin)
        self.assertEqual((caught.exception.path, caught.exception.offset), (self.paths[1], end))
        self.assertIn("the records end, but the log goes on in segment 3", str(caught.exception))

    def test_the_last_records_of_two_segments(self):
        """The end record and everything after it are zeros: the hint still knows of the next segment."""
        twin = self.disk.copy()
        content = twin.content(self.paths[2])
        end = content.rfind(bytes([Kind.END])) - 8
        twin.damage(self.paths[2], content[:end].ljust(len(content), b"\0"))
        content = twin.content(self.paths[3])
        twin.damage(self.paths[3], content[:HEADER_BYTES].ljust(len(content), b"\0"))
        with self.assertRaises(LogDamaged) as caught:
            opened(twin)
        self.assertIn("but the log goes on in segment 4", str(caught.exception))

    def test_a_hint_of_another_log(self):
        """The hint's salt is not that of its segment: somebody mixed the files of two logs."""
        twin = self.disk.copy()
        hint = decode_synced(twin.content(f"{DIRECTORY}/synced"))
        assert hint is not None
        twin.damage(f"{DIRECTORY}/synced", encode_synced(hint._replace(salt=hint.salt ^ 1)))
        with self.assertRaises(LogDamaged) as caught:
            opened(twin)
        self.assertIn("belongs to another log", str(caught.exception))


def flipped(disk: SimulatedFiles, path: str, bit: int) -> SimulatedFiles:
    """Another disk in which one bit of one file is another one."""
    twin = disk.copy()
    content = bytearray(twin.content(path))
    content[bit // 8] ^= 1 << bit % 8
    twin.damage(path, bytes(content))
    return twin


def flip_matrix(disk: SimulatedFiles, state: State, path: str, bits: range) -> Counter[str]:
    """Flip each of ``bits``: the log comes back as it was, or refuses naming the file. How often each."""
    outcome: Counter[str] = Counter()
    for bit in bits:
        try:
            log = opened(flipped(disk, path, bit))
        except LogDamaged as error:
            assert error.path == path, f"bit {bit} of {path}: {error}"
            outcome["refused"] += 1
        else:
            assert state_of(log) == state, f"bit {bit} of {path}: something else came back"
            outcome["recovered"] += 1
    return outcome


class FlipTests(unittest.TestCase):
    """One bit of one file is wrong."""

    def setUp(self):
        self.disk, self.places, self.state = small_log()

    def test_header(self):
        """A flipped bit of a segment's header refuses, of the segment in use as of the spare one."""
        for number in (1, 2):
            path = f"{DIRECTORY}/{segment_name(number)}"
            self.assertEqual(flip_matrix(self.disk, self.state, path, range(44 * 8)), {"refused": 44 * 8})

    def test_records(self):
        """A flipped bit of any record refuses: all of them were acknowledged."""
        path = f"{DIRECTORY}/{segment_name(1)}"
        bits = range(HEADER_BYTES * 8, self.places[-1] * 8)
        self.assertEqual(flip_matrix(self.disk, self.state, path, bits), {"refused": len(bits)})

    def test_zeros(self):
        """A flipped bit behind the last record, behind a header, or in the segment made ahead loses nothing."""
        for number, end in ((1, self.places[-1]), (2, HEADER_BYTES)):
            path = f"{DIRECTORY}/{segment_name(number)}"
            for bits in (range(45 * 8, HEADER_BYTES * 8, 97), range(end * 8, SMALL.segment_bytes * 8, 97)):
                self.assertEqual(flip_matrix(self.disk, self.state, path, bits), {"recovered": len(bits)})

    def test_hint(self):
        """A flipped bit of the hint takes away its evidence and nothing else."""
        path = f"{DIRECTORY}/synced"
        bits = range(len(self.disk.content(path)) * 8)
        self.assertEqual(flip_matrix(self.disk, self.state, path, bits), {"recovered": len(bits)})

    def test_without_a_hint(self):
        """Without the hint, a bit before the last mark still refuses: the write behind it was made after a sync."""
        self.disk.delete(f"{DIRECTORY}/synced")
        path = f"{DIRECTORY}/{segment_name(1)}"
        mark = self.places[0] - 37
        bits = range(HEADER_BYTES * 8, mark * 8, 7)
        self.assertEqual(flip_matrix(self.disk, self.state, path, bits), {"refused": len(bits)})

    def test_older_segments(self):
        """A flipped bit in a segment that others follow refuses, or is where nothing is."""
        disk = SimulatedFiles()
        log = opened(disk)
        for index in range(1, 60):
            log.submit([GroupWrite(1, [Entry(0, 1, index, bytes([index]) * 500)], HardState(1, 1, index))])
            log.run_once()
        state = state_of(log)
        disk.kill()
        path = f"{DIRECTORY}/{segment_name(1)}"
        used = disk.content(path).rfind(bytes([Kind.END])) + 21  # an end record ends in zeros
        records, rest = range(HEADER_BYTES * 8, used * 8, 331), range(used * 8, SMALL.segment_bytes * 8, 331)
        self.assertEqual(flip_matrix(disk, state, path, records), {"refused": len(records)})
        self.assertEqual(flip_matrix(disk, state, path, rest), {"recovered": len(rest)})


class NonsenseTests(unittest.TestCase):
    """Records that are whole and make no sense: a mistake of ours, never to be built upon."""

    def refused(self, *records: tuple[int, int, int, int, bytes]) -> str:
        """A log with these records (kind, group, index, term, payload); what is said of it."""
        disk = SimulatedFiles()
        opened(disk).close()
        path = f"{DIRECTORY}/{segment_name(1)}"
        content = disk.content(path)
        salt, data = decode_segment_header(content, path).salt, content[:HEADER_BYTES]
        for record in records:
            data += encode_record(salt, len(data), *record)
        disk.damage(path, data.ljust(len(content), b"\0"))
        with self.assertRaises(LogDamaged) as caught:
            opened(disk)
        self.assertEqual(caught.exception.path, path)
        return str(caught.exception)

    def test_nonsense(self):
        """Each is refused with the group and the reason."""
        entry = (Kind.ENTRY, 7, 1, 1, b"")
        for records, reason in (
            ([entry, (Kind.ENTRY, 7, 3, 1, b"")], "group 7: the entries before 3 are missing"),
            ([entry, (Kind.COPY, 7, 1, 2, b"")], "group 7: a copy of entry 1 has term 2, not 1"),
            ([(Kind.HARD_STATE, 7, 0, 1, b"1234567")], "group 7: a hard state has 8 bytes of payload, not 7"),
            ([(Kind.SNAPSHOT, 7, 1, 1, b"?")], "group 7: no configuration state"),
            ([(Kind.RESTORE, 7, 1, 1, b"")], "group 7: no configuration state"),
        ):
            self.assertIn(reason, self.refused(*records))

    def test_unknown_type(self):
        """A type of a later version: it is not cut, being whole, and not skipped, as what it says may matter."""
        self.assertIn("unknown type 99", self.refused((99, 7, 1, 1, b"")))


class CrashTests(unittest.TestCase):
    """Power fails or the process ends at any operation; unsynced sectors are lost, torn and reordered."""

    def run_seeds(self, seeds: range) -> Counter[str]:
        """Four lives and a last recovery for each seed."""
        total: Counter[str] = Counter()
        for seed in seeds:
            life = Life(seed)
            try:
                for _ in range(4):
                    life.live(life.dice.randint(1, 400), turns=300)
                life.live(10**9, turns=0)
            except (AssertionError, LogDamaged, Died, LogStopped) as error:
                raise AssertionError(f"seed {seed}, life {life.lives}: {error}") from error
            total.update(life.counts)
        return total

    def test_crashes(self):
        """After any crash the log opens, with everything acknowledged and nothing that was not submitted."""
        total = self.run_seeds(range(60))
        for name in ("submissions", "copied_entries", "segments_begun", "segments_removed"):
            self.assertGreater(total[name], 0, f"the load never got to {name}")

    def test_killed(self):
        """After a kill nothing at all is lost that was written, synced or not."""
        for seed in range(20):
            disk = SimulatedFiles()
            life = Life(seed)
            life.disk = disk
            log = opened(disk)
            load = Workload(life.dice)
            for _ in range(20):
                life.submit(log, load)
                log.run_once()
            life.submit(log, load)
            batch = log.queue.take()
            if batch is not None and not log.write(batch):
                log.maintain()
                log.write(batch)
            disk.kill()
            self.assertEqual(state_of(opened(disk)), visible(replayed(life.steps)))


class DiskErrorTests(unittest.TestCase):
    """The disk reports an error: the process ends, and nothing is acknowledged after it."""

    def test_every_sync(self):
        """Whichever write or sync fails first, on_fatal is called once, and nothing is written or acknowledged."""
        for failing in [*range(20), *range(100, 250, 2)]:  # the first segment ends at about 110
            with self.subTest(failing=failing):
                self.fail_at(failing)

    def fail_at(self, failing: int) -> None:
        """Let the operation of this number fail, among those that write or sync."""
        disk = SimulatedFiles()
        fatal: list[BaseException] = []
        log = WriteAheadLog(disk, DIRECTORY, SMALL, on_fatal=fatal.append, random_bytes=Random(1).randbytes)
        log.open()
        seen = 0

        def fail(name: str, path: str) -> None:
            nonlocal seen
            if name in ("write", "sync_data", "sync", "sync_directory", "zero_fill", "rename", "unlink"):
                self.assertEqual(fatal, [], f"{name} after the error")
                seen += 1
                if seen > failing:
                    raise OSError(errno.EIO, "Input/output error")

        disk.on_call = fail
        done: list[int] = []
        with self.assertRaises(LogStopped):
            for index in range(1, 1000):
                before = len(done)
                write = GroupWrite(1, [Entry(0, 1, index, bytes(400))], compact=max(0, index - 9))
                log.submit([write], partial(done.append, index))
                log.run_once()
                self.assertEqual(len(done), before + 1)
        self.assertEqual(len(fatal), 1)
        self.assertRaises(LogStopped, log.submit, [GroupWrite(1, [Entry(0, 1, 1, b"")])])
        self.assertRaises(LogStopped, log.maintain)
        acknowledged = len(done)
        log.close()
        disk.on_call = lambda name, path: None
        disk.crash(Random(failing))
        self.assertGreaterEqual(opened(disk).group(1).last_index(), acknowledged)


def main(seeds: int) -> None:
    """The whole matrix: every bit of both segments and of the hint, then ``seeds`` crashes."""
    disk, _, state = small_log()
    for name in (segment_name(1), segment_name(2), "synced"):
        path = f"{DIRECTORY}/{name}"
        outcome = flip_matrix(disk, state, path, range(len(disk.content(path)) * 8))
        print(f"{name}: every bit flipped: {dict(outcome)}", flush=True)
    total = CrashTests().run_seeds(range(seeds))
    print(f"{seeds} seeds, {4 * seeds} crashes: {dict(total)}; nothing acknowledged was lost, nothing refused")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
