"""Snapshots beside the log: whole under their name or not there, the newest two kept, damage noticed."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from relay.cluster.raft.types import ConfState, Snapshot
from relay.errors import Full
from relay.store.files import OsFiles
from relay.store.snapshots import (
    CHUNK_BYTES_MAX,
    SnapshotFull,
    SnapshotId,
    SnapshotInfo,
    SnapshotStore,
)
from relay.store.wal import LogStopped
from relay.store.wal_format import LogDamaged
from relay.test.simulated_files import SimulatedCrash, SimulatedFiles
from relay.test.wal_model import Died, die

DIRECTORY = "/snapshots"
MEMBERS = ConfState((1, 2, 3), (4,))


def opened(files: SimulatedFiles) -> SnapshotStore:
    """The store on this disk."""
    store = SnapshotStore(files, DIRECTORY, on_fatal=die)
    store.open()
    return store


def stored(store: SnapshotStore, index: int, chunks: list[bytes], group: int = 7) -> SnapshotInfo:
    """A finished snapshot."""
    writer = store.create(group, index, 2, MEMBERS)
    for chunk in chunks:
        writer.write(chunk)
    return writer.commit()


def power_lost_after(calls: int) -> Callable[[str, str], None]:
    """For ``on_call``: so many calls are made, in the next one power is lost."""
    left = calls

    def stop(name: str, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise SimulatedCrash(name)

    return stop


class SnapshotTests(unittest.TestCase):
    """While the disk works."""

    def setUp(self):
        self.files = SimulatedFiles()
        self.store = opened(self.files)

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.integers(1, 2**64 - 1))
    def test_round_trip(self, chunks, index):
        """Chunks come back as they were given, with members, index and term; the digest is of the whole."""
        store = opened(SimulatedFiles())
        info = stored(store, index, chunks)
        reader = store.read(info.id)
        self.assertEqual((list(reader), reader.conf_state, reader.info), (chunks, MEMBERS, info))
        reader.close()
        self.assertEqual(store.newest(7), (info, []))
        self.assertEqual(info.as_raft(b"x"), Snapshot(b"x", index, 2, MEMBERS))

    def test_real_files(self):
        """The same on the machine's own disk."""
        directory = self.mktemp()
        store = SnapshotStore(OsFiles(), directory, on_fatal=die)
        store.open()
        chunks = [Random(1).randbytes(CHUNK_BYTES_MAX), b"end"]
        info = stored(store, 10, chunks)
        again = SnapshotStore(OsFiles(), directory, on_fatal=die)
        again.open()
        self.assertEqual(again.newest(7), (info, []))
        self.assertEqual(list(again.read(info.id)), chunks)

    def test_two_are_kept(self):
        """The newest two of each group stay; the log may be compacted up to the older one."""
        for index in (10, 20, 30):
            self.assertEqual(self.store.oldest_kept(7), {10: 0, 20: 0, 30: 10}[index])
            stored(self.store, index, [b"a"])
        stored(self.store, 5, [b"b"], group=8)
        self.assertEqual([identity.position for identity in self.store.kept(7)], [30, 20])
        self.assertEqual([identity.position for identity in self.store.kept(8)], [5])
        self.assertEqual(self.store.oldest_kept(7), 20)
        self.store.remove_group(7)
        self.assertEqual((self.store.kept(7), len(self.store.kept(8))), ([], 1))

    def test_not_there_before_commit(self):
        """A snapshot that is being written, or was given up, is none; what a stop left behind is removed."""
        writer = self.store.create(7, 10, 1, MEMBERS)
        writer.write(b"chunk")
        self.assertEqual(self.store.kept(7), [])
        self.files.kill()
        opened(self.files)
        self.assertEqual(self.files.list(DIRECTORY), [])
        writer = self.store.create(7, 10, 1, MEMBERS)
        writer.abort()
        writer.abort()
        self.assertEqual(self.files.list(DIRECTORY), [])
        self.assertRaises(LogStopped, writer.write, b"more")

    def test_two_writers_of_one(self):
        """One that is taken while the same one is received: both become whole, and giving one up leaves the other."""
        taken, received, another = (self.store.create(7, 10, 2, MEMBERS) for _ in range(3))
        for writer in (taken, received, another):
            writer.write(b"state")
        taken.commit()
        another.abort()
        received.write(b" and more")
        self.assertEqual(self.store.verify(SnapshotId(7, 10, 2)).length, 5)
        received.commit()
        self.assertEqual(self.store.verify(SnapshotId(7, 10, 2)).length, 14)
        self.assertEqual(self.files.list(DIRECTORY), [SnapshotId(7, 10, 2).file_name])

    def test_order_of_commit(self):
        """Synced, renamed, and then the directory synced; only then an older one is removed."""
        for index in (10, 20):
            stored(self.store, index, [b"a"])
        writer = self.store.create(7, 30, 2, MEMBERS)
        self.files.calls.clear()
        writer.commit()
        calls = [call for call, _ in self.files.calls if call not in ("write", "list")]
        self.assertEqual(calls, ["sync", "rename", "sync_directory", "unlink", "sync_directory"])

    def test_open_syncs_once(self):
        """Opening syncs the directory once, whatever is in it, and not at all while it is empty."""
        for name in ("a", "b"):
            self.files.create(f"{DIRECTORY}/{name}.tmp")
        for syncs in (1, 0):
            self.files.kill()
            opened(self.files)
            self.assertEqual([call for call, _ in self.files.calls].count("sync_directory"), syncs)
            self.assertEqual(self.files.list(DIRECTORY), [])
        stored(self.store, 10, [b"a"])
        self.files.kill()
        opened(self.files)
        self.assertEqual([call for call, _ in self.files.calls], ["list", "sync_directory"])

    def test_limits(self):
        """Chunks of none or too many bytes, and a configuration that is too large."""
        writer = self.store.create(7, 10, 1, MEMBERS)
        self.assertRaises(ValueError, writer.write, b"")
        self.assertRaises(ValueError, writer.write, bytes(CHUNK_BYTES_MAX + 1))
        self.assertRaises(ValueError, self.store.create, 7, 10, 1, ConfState(tuple(range(1 << 32, (1 << 32) + 9000))))

    def test_names(self):
        """Other files in the directory are no snapshots."""
        for name in ("x", "1-2-3.snap", "00000007-000000000000000a.snap", SnapshotId(7, 10, 1).file_name + ".tmp"):
            self.assertIsNone(SnapshotId.from_name(name))
        self.assertEqual(SnapshotId.from_name(SnapshotId(7, 10, 1).file_name), SnapshotId(7, 10, 1))


class DamageTests(unittest.TestCase):
    """While it does not."""

    def setUp(self):
        self.files = SimulatedFiles()
        self.store = opened(self.files)
        self.old = stored(self.store, 10, [b"old"])
        self.new = stored(self.store, 20, [b"new", b"chunks"])
        self.path = f"{DIRECTORY}/{self.new.id.file_name}"
        self.content = self.files.content(self.path)

    def damaged(self, content: bytes) -> tuple[SnapshotInfo | None, list[LogDamaged], list[str]]:
        """What is found when the newer file has ``content``, and the names afterwards."""
        twin = self.files.copy()
        twin.damage(self.path, content)
        found, errors = opened(twin).newest(7)
        return found, errors, twin.list(DIRECTORY)

    def test_every_bit(self):
        """Any wrong bit is noticed, the damaged file is set aside, and the snapshot before it is found."""
        for bit in range(len(self.content) * 8):
            content = bytearray(self.content)
            content[bit // 8] ^= 1 << bit % 8
            found, errors, names = self.damaged(bytes(content))
            self.assertEqual((found, len(errors), errors[0].path), (self.old, 1, self.path), bit)
            self.assertIn(self.new.id.file_name + ".damaged", names)

    def test_every_length(self):
        """So is a file that is too short or too long."""
        for length in range(len(self.content)):
            self.assertEqual(self.damaged(self.content[:length])[0], self.old, length)
        self.assertEqual(self.damaged(self.content + b"\0")[0], self.old)

    def test_under_another_name(self):
        """A file that was given the name of another snapshot is not it."""
        self.files.rename(self.path, f"{DIRECTORY}/{SnapshotId(7, 30, 2).file_name}")
        found, errors = self.store.newest(7)
        self.assertEqual(found, self.old)
        self.assertIn("the name of another snapshot", str(errors[0]))

    def test_full_disk(self):
        """Without room the snapshot fails, temporarily, and leaves nothing behind."""
        self.files.capacity_bytes = 2000
        writer = self.store.create(7, 30, 2, MEMBERS)
        with self.assertRaises(SnapshotFull) as caught:
            writer.write(bytes(2000))
        self.assertIsInstance(caught.exception, Full)
        self.assertTrue(caught.exception.temporary)
        self.assertEqual(len(self.files.list(DIRECTORY)), 2)
        self.assertEqual(self.store.newest(7), (self.new, []))

    def test_failing_sync(self):
        """An error of syncing the file, the name or the directory is fatal."""
        for failing in ("sync", "rename", "sync_directory", "unlink"):
            files = self.files.copy()
            store = opened(files)
            writer = store.create(7, 30, 2, MEMBERS)

            def fail(name: str, path: str, failing: str = failing) -> None:
                if name == failing:
                    raise OSError(errno.EIO, "Input/output error")

            files.on_call = fail
            self.assertRaises(Died, writer.commit)

    def test_killed_then_without_power(self):
        """What a start has shown after the process was killed at any point is there after a loss of power, too: the
        log may have let go of entries for it."""
        for calls in range(12):
            for seed in range(8):
                files = self.files.copy()
                store = opened(files)
                files.on_call = power_lost_after(calls)
                with contextlib.suppress(SimulatedCrash):
                    stored(store, 30, [b"third"])
                files.on_call = lambda name, path: None
                files.kill()
                shown = opened(files).newest(7)
                names = files.list(DIRECTORY)
                files.crash(Random(seed))
                self.assertEqual(files.list(DIRECTORY), names)
                self.assertEqual(opened(files).newest(7), shown)

    def test_crash_at_every_call(self):
        """Wherever power fails, two whole snapshots are there: the two before, or the new one and the one before."""
        for calls in range(12):
            for seed in range(8):
                files = self.files.copy()
                store = opened(files)
                finished = False
                files.on_call = power_lost_after(calls)
                try:
                    third = stored(store, 30, [b"third"])
                    finished = True
                except SimulatedCrash:
                    pass
                files.on_call = lambda name, path: None
                files.crash(Random(seed))
                store = opened(files)
                newest, errors = store.newest(7)
                assert newest is not None
                self.assertEqual(errors, [])
                self.assertIn(newest.id.position, (30,) if finished else (20, 30))
                if finished:
                    self.assertEqual(newest, third)
                self.assertIn(20, [identity.position for identity in store.kept(7)])
                for identity in store.kept(7):
                    store.verify(identity)
