"""The groups of a write-ahead log: their segments, and what the Raft core reads of them."""

from __future__ import annotations

from random import Random

import attrs
from twisted.trial import unittest

from relay.cluster.raft.errors import Compacted, RaftInvariantError, Unavailable
from relay.cluster.raft.storage import MemoryStorage, Storage
from relay.cluster.raft.types import ConfState, HardState, Snapshot, limit_size
from relay.errors import ConfigError
from relay.store.wal import LogStopped, WriteAheadLog
from relay.store.wal_format import LogDamaged, segment_name, segment_sequence
from relay.store.wal_queue import LogFull
from relay.store.wal_writer import GroupWrite
from relay.test.simulated_files import SimulatedFiles
from relay.test.wal_model import (
    DIRECTORY,
    SMALL,
    Workload,
    drain,
    entries,
    fill,
    opened,
    replayed,
    state_of,
    steps_of,
    visible,
)


class SegmentTests(unittest.TestCase):
    """The log goes on from segment to segment, and old ones go."""

    def setUp(self):
        self.disk = SimulatedFiles()
        self.log = opened(self.disk)

    def segments(self) -> list[int]:
        """The numbers of the segment files."""
        return [number for name in self.disk.list(DIRECTORY) if (number := segment_sequence(name))]

    def test_one_is_made_ahead(self):
        """After every turn there is the segment in use and a spare one."""
        fill(self.log, 1, 60)
        used = self.log.counters.segments_begun + 1
        self.assertGreater(used, 2)
        self.assertEqual(self.segments(), list(range(1, used + 2)))

    def test_made_beside_and_synced_before_it_has_its_name(self):
        """Zero-filled and synced under another name, renamed, and then the directory is synced."""
        self.disk.calls.clear()
        self.log.maintain()
        path = f"{DIRECTORY}/{segment_name(2)}"
        self.assertEqual(
            self.disk.calls,
            [(call, path + ".tmp") for call in ("create", "zero_fill", "write", "sync")]
            + [("rename", path), ("sync_directory", DIRECTORY)],
        )

    def test_the_hint_has_its_block(self):
        """The hint is synced when it is made, so that rewriting it later needs no room on a full disk."""
        disk = SimulatedFiles()
        opened(disk)
        hint = [call for call, path in disk.calls if path.endswith("synced")]
        self.assertEqual(hint[-3:], ["create", "write", "sync"])

    def test_compaction_releases(self):
        """Segments whose entries were all compacted are removed, oldest first, and the rest is as before."""
        fill(self.log, 1, 60)
        before = self.segments()
        self.log.submit([GroupWrite(1, compact=50)])
        drain(self.log)
        self.assertEqual(self.segments(), before[-len(self.segments()) :])
        self.assertLess(len(self.segments()), len(before))
        self.disk.crash(Random(3))
        found = opened(self.disk).group(1)
        self.assertEqual((found.first_index(), found.term(50), found.last_index()), (51, 1, 60))

    def test_released_when_the_log_has_said_so(self):
        """A segment goes when a record that it may go is durable, not when a batch is that was written before."""
        fill(self.log, 1, 60)
        before = self.segments()
        batches = []
        for write in (GroupWrite(1, compact=50), GroupWrite(1, hard_state=HardState(1, 1, 50))):
            self.log.submit([write])
            batch = self.log.queue.take()
            assert batch is not None
            self.log.write(batch)
            self.log.sync(batch)
            batches.append(batch)
        for batch in batches:
            self.log.complete(batch)
            self.log.maintain()
            self.assertEqual(self.segments(), before)
        drain(self.log)
        self.assertGreater(self.segments()[0], before[0])

    def test_idle_groups_do_not_hold_segments(self):
        """A small idle group's entries move on; its hard state, snapshot and removal survive in every segment."""
        snapshot = Snapshot(b"", 1, 1, ConfState((1, 2, 3)))
        self.log.submit([GroupWrite(2, entries(1, 3), HardState(1, 2, 3), snapshot=snapshot, compact=0)])
        self.log.submit([GroupWrite(3, entries(1, 1))])
        drain(self.log)
        self.log.submit([GroupWrite(3, remove=True)])
        for _ in range(8):
            fill(self.log, 1, 20)
            self.log.submit([GroupWrite(1, compact=self.log.group(1).last_index())])
            drain(self.log)
        self.assertGreater(self.segments()[0], 1)
        self.assertGreater(self.log.counters.copied_entries, 0)
        state = state_of(self.log)
        self.assertEqual(state[2], (0, 0, tuple(entries(1, 3)), HardState(1, 2, 3), snapshot))
        self.disk.crash(Random(4))
        log = opened(self.disk)
        self.assertEqual(state_of(log), state)
        self.assertEqual(log.table.numbers(), [1, 2])

    def test_overwriting_releases(self):
        """A group whose entries were all replaced by newer ones does not hold the segment of the old ones."""
        self.log.submit([GroupWrite(2, entries(1, 3, 700))])
        drain(self.log)
        for _ in range(2):
            fill(self.log, 1, 25)
            self.log.submit([GroupWrite(1, compact=self.log.group(1).last_index())])
            drain(self.log)
        self.assertEqual(self.segments()[0], 1)
        self.log.submit([GroupWrite(2, entries(1, 1, term=2))])
        drain(self.log)
        self.assertEqual(self.segments()[0], self.log.group(2).oldest_segment())

    def test_a_copy_cut_short_holds_segments(self):
        """As long as one entry is in an old segment that segment is needed, wherever earlier entries were copied."""
        log = self.log.group(1)
        for index, entry in enumerate(entries(1, 3)):
            log.append(entry, 1 << 32 | 4096 + index)
        log.copy(entries(1, 1)[0], 5 << 32 | 4096)
        self.assertEqual(log.oldest_segment(), 1)

    def test_a_large_group_holds_segments(self):
        """A group with more entries than are copied keeps its segments and is named."""
        fill(self.log, 2, 10)
        for _ in range(4):
            fill(self.log, 1, 20)
            self.log.submit([GroupWrite(1, compact=self.log.group(1).last_index())])
            drain(self.log)
        self.assertEqual(self.segments()[0], 1)
        self.assertEqual(self.log.holding_oldest(), [2])

    def test_other_limits_than_before(self):
        """Larger segments than those that were made ahead; fewer groups than there are is refused."""
        for group in (1, 2, 3):
            fill(self.log, group, 1)
        self.log.close()
        larger = attrs.evolve(SMALL, segment_bytes=40 << 10, submission_bytes_max=30 << 10, queue_bytes_max=30 << 10)
        log = opened(self.disk, larger)
        log.submit([GroupWrite(1, entries(2, 14, 2000))])
        drain(log)
        self.assertEqual(log.group(1).last_index(), 15)
        state = state_of(log)
        log.close()
        self.assertEqual(state_of(opened(self.disk.copy(), SMALL)), state)
        fewer = attrs.evolve(SMALL, groups_max=2)
        self.assertRaises(ConfigError, opened, self.disk, fewer)
        self.assertEqual(self.disk.opened, set())

    def test_only_one_process(self):
        """A log that is open cannot be opened again; after it was closed it can."""
        second = WriteAheadLog(self.disk, DIRECTORY, SMALL)
        self.assertRaises(LogStopped, second.open)
        self.log.close()
        self.log.close()
        opened(self.disk).close()
        self.assertEqual(self.disk.opened, set(), "files left open")

    def test_a_failed_open_leaves_nothing_open(self):
        """Damage closes all files and the lock."""
        fill(self.log, 1, 60)
        self.log.close()
        path = f"{DIRECTORY}/{segment_name(2)}"
        content = self.disk.content(path)
        self.disk.damage(path, content[:5000] + b"!" + content[5001:])
        self.assertRaises(LogDamaged, opened, self.disk)
        self.assertEqual(self.disk.opened, set())


class StorageTests(unittest.TestCase):
    """What the Raft core reads."""

    def test_agrees_with_the_plain_list(self):
        """For random work, with a cache that holds little, the storages show what the list of writes says."""
        for seed in range(40):
            dice = Random(seed)
            log = opened(SimulatedFiles())
            load = Workload(dice)
            steps = []
            for _ in range(60):
                try:
                    steps += steps_of(load.submit(log, lambda: None, must_sync=True))
                except LogFull:
                    self.fail("the load is too large")
                if dice.random() < 0.5:
                    drain(log)
            drain(log)
            expected = visible(replayed(steps))
            self.assertEqual(state_of(log), expected, seed)
            for number, (base, _, stored, _, _) in expected.items():
                for _ in range(20 if stored else 0):
                    low = dice.randint(base + 1, base + len(stored))
                    high = dice.randint(low, base + len(stored) + 1)
                    size_max = dice.choice((0, 50, 500, 2**64 - 1))
                    plain = limit_size(stored[low - base - 1 : high - base - 1], size_max)
                    self.assertEqual(log.group(number).entries(low, high, size_max), plain)

    def test_errors_of_the_memory_storage(self):
        """Outside of the log the same errors as from the core's own storage."""
        log = opened(SimulatedFiles())
        memory = MemoryStorage()
        storages: list[Storage] = [log.group(1), memory]
        for storage in storages:
            self.assertRaises(Unavailable, storage.entries, 1, 1, 100)
        log.submit([GroupWrite(1, entries(1, 9))])
        log.run_once()
        log.submit([GroupWrite(1, compact=4)])
        log.run_once()
        memory.append(entries(1, 9))
        memory.compact(4)
        for storage in storages:
            self.assertEqual((storage.first_index(), storage.last_index(), storage.term(4)), (5, 9, 1))
            self.assertRaises(Compacted, storage.term, 3)
            self.assertRaises(Unavailable, storage.term, 10)
            self.assertRaises(Compacted, storage.entries, 4, 6, 100)
            self.assertRaises(RaftInvariantError, storage.entries, 5, 11, 100)

    def test_bounded_cache(self):
        """However much is appended, no more than the bounds is kept in memory; the rest is read from disk."""
        log = opened(SimulatedFiles())
        for group in (1, 2, 3):
            fill(log, group, 20, 100)
        cache = log.table._cache
        self.assertLessEqual(cache.bytes, SMALL.cache_bytes_max)
        self.assertEqual(log.group(1).entries(1, 21), tuple(entries(1, 20, 100)))
        fill(log, 3, 1, 100)
        held = [{entry.index for entry in holder.entries} for holder in cache.holders]
        self.assertEqual([max(indexes) for indexes in held], [20, 21], "group 1, the most idle one, went first")
        log.submit([GroupWrite(3, compact=19), GroupWrite(2, remove=True)])
        drain(log)
        self.assertEqual(cache.bytes, 2 * 121)
        log.submit([GroupWrite(3, compact=21)])
        drain(log)
        self.assertEqual((cache.bytes, cache.holders), (0, {}))

    def test_reading_checks_again(self):
        """An entry that the disk gives back changed is damage, not data."""
        disk = SimulatedFiles()
        log = opened(disk)
        fill(log, 1, 5, 500)
        path = f"{DIRECTORY}/{segment_name(1)}"
        content = disk.content(path)
        disk.damage(path, content[:4300] + b"!" + content[4301:])
        self.assertRaises(LogDamaged, log.group(1).entries, 1, 2)

    def test_snapshot_source(self):
        """Where a source is given it fills in the data; the log itself keeps none."""
        log = opened(SimulatedFiles())
        log.submit([GroupWrite(1, restore=Snapshot(b"large", 5, 2, ConfState((1,))))])
        log.run_once()
        storage = log.group(1)
        self.assertEqual(storage.snapshot(), Snapshot(b"", 5, 2, ConfState((1,))))
        storage.snapshot_source = lambda known: Snapshot(b"where it is", known.index, known.term, known.conf_state)
        self.assertEqual(storage.snapshot().data, b"where it is")
