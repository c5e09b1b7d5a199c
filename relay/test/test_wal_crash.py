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
from relay.store.wal_format import HEADER_BYTES, Kind, LogDamaged, segment_name
from relay.store.wal_queue import LogFull
from relay.store.wal_writer import Batch, GroupWrite
from relay.test.simulated_files import SimulatedCrash, SimulatedFiles
from relay.test.wal_model import SMALL, State, Step, Workload, advance, replayed, state_of, steps_of, visible

DIRECTORY = "/log"


class Died(Exception):
    """on_fatal was called."""


def die(error: BaseException) -> None:
    """An on_fatal for tests."""
    raise Died from error


def opened(disk: SimulatedFiles, seed: int = 1) -> WriteAheadLog:
    """The log on ``disk``, recovered."""
    log = WriteAheadLog(disk, DIRECTORY, SMALL, on_fatal=die, random_bytes=Random(seed).randbytes)
    log.open()
    return log


class Life:
    """A log at work on a disk that may stop it at any call, and the list of what it has to answer for."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.disk = SimulatedFiles()
        self.steps: list[Step] = []  # submitted, in order
        self.acknowledged = 0  # how many of them
        self.lives = 0
        self.refused = 0
        self.counts: Counter[str] = Counter()

    def live(self, calls: int, turns: int) -> None:
        """Recover, compare, work until the disk stops after ``calls`` operations or ``turns`` are over; then crash."""
        self.lives += 1
        countdown = calls

        def stop_in_time(name: str, path: str) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                raise SimulatedCrash(name)

        self.disk.on_call = stop_in_time
        try:
            log = WriteAheadLog(self.disk, DIRECTORY, SMALL, on_fatal=die, random_bytes=self.dice.randbytes)
            log.open()
            self.compare(state_of(log))
            self.work(log, turns)
        except SimulatedCrash:
            pass
        self.counts.update({name: getattr(log.counters, name) for name in log.counters.__slots__})
        self.disk.on_call = lambda name, path: None
        self.disk.crash(self.dice)

    def compare(self, found: State) -> None:
        """What was recovered is a prefix of what was submitted, and has all that was acknowledged."""
        state = replayed(self.steps[: self.acknowledged])
        fits = self.acknowledged if visible(state) == found else None
        for count, step in enumerate(self.steps[self.acknowledged :], self.acknowledged + 1):
            advance(state, step)
            if visible(state) == found:
                fits = count
        if fits is None:
            raise AssertionError(f"life {self.lives}: no prefix from {self.acknowledged} of {len(self.steps)} steps")
        del self.steps[fits:]
        self.acknowledged = fits

    def work(self, log: WriteAheadLog, turns: int) -> None:
        """Random submissions, and the steps of the writer in between."""
        load = Workload.after(self.dice, log)
        batch: Batch | None = None
        stage = 0
        for _ in range(turns):
            chance = self.dice.random()
            if chance < 0.4:
                self.submit(log, load)
            elif chance < 0.5:
                log.maintain()
            elif batch is None:
                batch, stage = log.queue.take(), 0
            elif stage == 0:
                stage = int(log.write(batch) or (log.maintain() and log.write(batch)))
            elif stage == 1:
                log.sync(batch)
                stage = 2
            else:
                log.complete(batch)
                batch = None

    def submit(self, log: WriteAheadLog, load: Workload) -> None:
        """Submit the next write, and add its records to what must come back once it was acknowledged."""
        end = [0]

        def acknowledge() -> None:
            self.acknowledged = max(self.acknowledged, end[0])

        try:
            write = load.submit(log, acknowledge, must_sync=self.dice.random() < 0.7)
        except LogFull:
            self.refused += 1
            return
        self.steps += steps_of(write)
        end[0] = len(self.steps)


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

    def test_a_segment_is_missing(self):
        """A segment that was in use and is gone is damage: the first, one between, the last."""
        disk = SimulatedFiles()
        log = opened(disk)
        for index in range(1, 120):
            log.submit([GroupWrite(1, [Entry(0, 1, index, bytes(500))])])
            log.run_once()
        disk.kill()
        for missing in (1, 2, 3, 4):
            twin = disk.copy()
            twin.delete(f"{DIRECTORY}/{segment_name(missing)}")
            self.assertRaises(LogDamaged, opened, twin)


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
        """A flipped bit behind the last record, or behind the header, loses nothing."""
        path = f"{DIRECTORY}/{segment_name(1)}"
        for bits in (range(45 * 8, HEADER_BYTES * 8, 97), range(self.places[-1] * 8, SMALL.segment_bytes * 8, 97)):
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


class CrashTests(unittest.TestCase):
    """Power fails at any operation; unsynced sectors are lost, torn and reordered."""

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
        for failing in range(60):
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
