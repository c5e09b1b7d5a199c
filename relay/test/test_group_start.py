"""Tests of ``relay.cluster.group_start``, ``identity`` and ``requests``: restarts, audits and certain outcomes."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.group_start import FOUNDING_INDEX, MARKER, audit, begin, mark_log, prepare
from relay.cluster.identity import FILE, KNOWN_MAX, load_identity
from relay.cluster.ports import Stores
from relay.cluster.raft.codec import encode_conf_change
from relay.cluster.raft.types import (
    ADD_LEARNER_NODE,
    ADD_NODE,
    REMOVE_NODE,
    ConfChange,
    ConfState,
    Entry,
    HardState,
)
from relay.cluster.requests import Changes, Forwarders, Outcome, Proposals, Reads
from relay.errors import ConfigError
from relay.store.snapshots import SnapshotStore
from relay.store.wal import WriteAheadLog
from relay.store.wal_writer import GroupWrite
from relay.test.group_cluster import LOG_OPTIONS, ListMachine
from relay.test.simulated_files import SimulatedCrash, SimulatedFiles

VOTERS = (1, 2, 3)


class Disk:
    """The log and snapshots of one node, opened again by ``reopen``."""

    def __init__(self) -> None:
        self.files = SimulatedFiles(1 << 28)
        self.dice = Random(1)
        self.reopen()

    def reopen(self, *, power: bool = False) -> None:
        """After a loss of power; with ``power`` only the process was killed."""
        if power:
            self.files.kill()
        else:
            self.files.crash(self.dice)
        self.log = WriteAheadLog(self.files, "wal", LOG_OPTIONS, random_bytes=self.dice.randbytes)
        self.log.open()
        snapshots = SnapshotStore(self.files, "snapshots")
        snapshots.open()
        self.stores = Stores(self.log, snapshots, GroupWrite, lambda work, done: None)

    def write(self, *writes: Any) -> None:
        for write in writes:
            self.log.submit([write])
            while self.log.run_once():
                pass

    def entries(self, first: int, count: int, term: int = 1) -> None:
        entries = tuple(Entry(0, term, index, b"%d" % index) for index in range(first, first + count))
        self.write(GroupWrite(1, entries, HardState(term, 0, first + count - 1)))

    def change(self, index: int, kind: int, node: int) -> None:
        type_, data = encode_conf_change(ConfChange(kind, node))
        self.write(GroupWrite(1, (Entry(type_, 1, index, data),)))

    def snapshot(self, index: int, term: int = 1, voters: tuple[int, ...] = VOTERS) -> None:
        writer = self.stores.snapshots.create(1, index, term, ConfState(voters))
        writer.write(len(b"s").to_bytes(4, "big") + b"s")
        writer.commit()


class PrepareTests(SynchronousTestCase):
    """The table of the module."""

    def setUp(self) -> None:
        self.disk = Disk()

    def prepare(self, founders: tuple[int, ...] = VOTERS) -> int:
        """How many writes were needed; they are durable."""
        writes = prepare(self.disk.stores, 1, founders)
        self.disk.write(*writes)
        return len(writes)

    def refused(self, *words: str) -> None:
        error = str(self.assertRaises(ConfigError, prepare, self.disk.stores, 1, VOTERS))
        self.assertNotIn("\n", error)
        for word in words:
            self.assertIn(word, error)

    def test_founded(self):
        """An empty log gets the founding voters, once, the same on all nodes; they are there after a crash."""
        self.assertEqual(self.prepare(), 1)
        self.disk.reopen()
        self.assertEqual(self.prepare(), 0)
        start = begin(self.disk.stores, 1, ListMachine())
        self.assertEqual((start.applied, start.conf_state.voters), (FOUNDING_INDEX, VOTERS))
        self.assertEqual(self.disk.log.group(1).term(FOUNDING_INDEX), 1)

    def test_joins(self):
        """A node that is no founder begins with nothing, and waits."""
        self.assertEqual(self.prepare(()), 0)
        start = begin(self.disk.stores, 1, ListMachine())
        self.assertEqual((start.applied, start.conf_state), (0, ConfState()))

    def test_snapshot(self):
        """The machine is restored from the newest snapshot, with the configuration that holds there."""
        self.prepare()
        self.disk.entries(2, 10)
        self.disk.snapshot(5, voters=(1, 2))
        self.disk.snapshot(8)
        self.assertEqual(self.prepare(), 0)
        machine = ListMachine()
        start = begin(self.disk.stores, 1, machine)
        self.assertEqual((start.applied, machine.commands, start.conf_state.voters), (8, [b"s"], VOTERS))

    def test_damaged_snapshot(self):
        """When the newest is damaged the one before does, with its own configuration."""
        self.prepare()
        self.disk.entries(2, 10)
        self.disk.snapshot(5, voters=(1, 2))
        self.disk.snapshot(8)
        name = f"snapshots/{self.disk.stores.snapshots.kept(1)[0].file_name}"
        content = bytearray(self.disk.files.content(name))
        content[-1] ^= 1
        self.disk.files.damage(name, bytes(content))
        self.assertEqual(self.prepare(), 0)
        start = begin(self.disk.stores, 1, ListMachine())
        self.assertEqual((start.applied, start.conf_state.voters), (5, (1, 2)))

    def test_received(self):
        """A snapshot that was received before a crash, and not recorded, takes the log's place."""
        self.prepare()
        self.disk.entries(2, 3)
        self.disk.snapshot(50, term=7)
        self.assertEqual(self.prepare(), 1)
        self.disk.reopen()
        log = self.disk.log.group(1)
        self.assertEqual((log.first_index(), log.last_index(), log.initial_state()[0]), (51, 50, HardState(7, 0, 50)))
        self.assertEqual(begin(self.disk.stores, 1, ListMachine()).applied, 50)

    def test_received_inside_of_a_tail(self):
        """… and that of a tail that a former leader has not committed."""
        self.prepare()
        self.disk.entries(2, 3)
        tail = tuple(Entry(0, 1, index, b"") for index in range(5, 12))
        self.disk.write(GroupWrite(1, tail))
        self.disk.snapshot(8, term=3)
        self.assertEqual(self.prepare(), 1)
        self.disk.reopen()
        log = self.disk.log.group(1)
        self.assertEqual((log.first_index(), log.last_index(), log.initial_state()[0]), (9, 8, HardState(3, 0, 8)))
        self.assertEqual(begin(self.disk.stores, 1, ListMachine()).applied, 8)

    def test_received_then_without_power(self):
        """… also when the process was killed before the snapshot's name was durable, and the power fails later."""
        for seed in range(8):
            self.disk = Disk()
            self.disk.dice = Random(seed)
            self.prepare()
            self.disk.entries(2, 3)

            def stop(name: str, path: str) -> None:
                if name == "sync_directory":
                    raise SimulatedCrash(name)

            self.disk.files.on_call = stop
            self.assertRaises(SimulatedCrash, self.disk.snapshot, 50, 7)
            self.disk.files.on_call = lambda name, path: None
            self.disk.reopen(power=True)
            self.assertEqual(self.prepare(), 1)
            self.disk.reopen()
            self.assertEqual(self.prepare(), 0)
            self.assertEqual(begin(self.disk.stores, 1, ListMachine()).applied, 50)

    def test_received_keeps_the_vote(self):
        """… without forgetting a vote of the same or a later term."""
        self.prepare()
        self.disk.write(GroupWrite(1, hard_state=HardState(9, 2, 1)))
        self.disk.snapshot(50, term=7)
        self.prepare()
        self.assertEqual(self.disk.log.group(1).initial_state()[0], HardState(9, 2, 50))

    def test_entries_missing(self):
        """A log that begins behind the newest snapshot is refused, and one without any."""
        self.prepare()
        self.disk.entries(2, 10)
        self.disk.write(GroupWrite(1, compact=8))
        self.refused("begins at 9", "no snapshot")
        self.disk.snapshot(5)
        self.refused("begins at 9", "ends at 5")

    def test_other_term(self):
        """A snapshot of another log is refused."""
        self.prepare()
        self.disk.entries(2, 10)
        self.disk.snapshot(5, term=3)
        self.refused("entry 5", "term 1")


class MarkTests(SynchronousTestCase):
    """The log belongs to its directory."""

    def setUp(self) -> None:
        self.disk = Disk()

    def test_marked(self):
        """A new log is marked once; the mark is there after a crash."""
        self.disk.write(*mark_log(self.disk.stores, 1, 1 << 100, used=False))
        self.disk.reopen()
        self.assertEqual(mark_log(self.disk.stores, 1, 1 << 100, used=True), [])
        self.assertEqual(self.disk.log.group(MARKER).last_index(), 0)

    def test_changed(self):
        """Another node's log, or that of another directory, is refused."""
        self.disk.write(*mark_log(self.disk.stores, 1, 5, used=False))
        for node, incarnation in ((2, 5), (1, 6)):
            self.assertRaises(ConfigError, mark_log, self.disk.stores, node, incarnation, used=True)

    def test_removed(self):
        """A log that was there and is not any more is refused: it held votes and acknowledgements."""
        error = self.assertRaises(ConfigError, mark_log, self.disk.stores, 1, 5, used=True)
        self.assertIn("cannot come back", str(error))


class AuditTests(SynchronousTestCase):
    """The log's membership wins over the configuration file."""

    def setUp(self) -> None:
        self.disk = Disk()
        self.disk.write(*prepare(self.disk.stores, 1, VOTERS))

    def audit(self, *file: int) -> None:
        start = begin(self.disk.stores, 1, ListMachine())
        audit(1, self.disk.log.group(1), start.conf_state, start.applied, file=file)

    def test_agrees(self):
        """The founders, or what changes in the log made of them, or may have."""
        self.audit(1, 2, 3)
        self.audit(3, 2, 1)
        self.disk.change(2, ADD_LEARNER_NODE, 4)
        self.audit(1, 2, 3)
        self.disk.change(3, ADD_NODE, 4)
        self.audit(1, 2, 3, 4)
        self.audit(1, 2, 3)
        self.disk.change(4, REMOVE_NODE, 1)
        self.audit(2, 3, 4)

    def test_differs(self):
        """Any other list is refused in one line that says both."""
        for file in ((1, 2), (1, 2, 4), (1, 2, 3, 4)):
            error = str(self.assertRaises(ConfigError, self.audit, *file))
            self.assertIn("1, 2, 3", error)
            self.assertIn("the log counts", error)
            self.assertNotIn("\n", error)


class IdentityTests(SynchronousTestCase):
    """Who a directory is."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.dice = Random(2)

    def load(self, cluster: str = "c", node: int = 1) -> Any:
        return load_identity(self.directory, cluster, node, self.dice.randbytes)

    def test_kept(self):
        """It is made once, and comes back with all it knows."""
        first = self.load()
        first.meet(2, b"2" * 16)
        first.found((2, 1))
        first.use()
        second = self.load()
        self.assertEqual(second, first)
        self.assertEqual((second.founders, second.known, second.used), ((1, 2), {2: b"2" * 16}, True))

    def test_names_are_durable(self):
        """The names of the directory and of those above it are synced before the file is made, and only then."""
        synced: list[int] = []
        real = os.fsync

        def fsync(fd: int) -> None:
            synced.append(os.fstat(fd).st_ino)
            real(fd)

        self.patch(os, "fsync", fsync)
        self.directory = Path(self.mktemp()) / "data" / "cluster"
        self.load()
        above = [path.stat().st_ino for path in self.directory.resolve().parents[:3]]
        self.assertEqual(synced[:3], above)
        self.assertEqual(synced[-2:], [(self.directory / FILE).stat().st_ino, self.directory.stat().st_ino])
        synced.clear()
        self.load()
        self.assertEqual(synced, [])

    def test_another(self):
        """An emptied directory is another one."""
        first = self.load()
        (self.directory / FILE).unlink()
        self.assertNotEqual(self.load().incarnation, first.incarnation)

    def test_mismatch(self):
        """A directory of another cluster or node is refused in one line, and so is a file that is none."""
        self.load()
        self.assertIn("'c'", str(self.assertRaises(ConfigError, self.load, "d")))
        self.assertIn("node 1", str(self.assertRaises(ConfigError, self.load, "c", 2)))
        path = self.directory / FILE
        for content in ("{", "[]", "{}", json.dumps({**json.loads(path.read_text()), "version": 2})):
            path.write_text(content)
            self.assertIn(FILE, str(self.assertRaises(ConfigError, self.load)))

    def test_refuses_emptied(self):
        """Who comes back with another directory is refused; the same one, and strangers, are not."""
        identity = self.load()
        identity.meet(3, b"3" * 16)
        self.assertIn("new id", identity.refusal(3, b"4" * 16))
        self.assertEqual(identity.refusal(3, b"3" * 16), "")
        self.assertEqual(identity.refusal(4, b"4" * 16), "")

    def test_limit(self):
        """So many nodes are remembered, and no more are let in."""
        identity = self.load()
        identity.known = dict.fromkeys(range(2, KNOWN_MAX + 2), b"x" * 16)
        self.assertIn("known", identity.refusal(1000, b"x" * 16))


class ProposalTests(SynchronousTestCase):
    """Outcomes by index and term."""

    def setUp(self) -> None:
        self.outcomes: list[Outcome] = []
        self.proposals = Proposals(self.outcomes)
        self.told: list[tuple[int, Any, str]] = []

    def add(self, *numbers: int) -> list[Any]:
        for number in numbers:
            self.proposals.add(b"x", partial(self.note, number), 0)
        return self.proposals.take(1 << 20)[1]

    def note(self, number: int, result: Any, error: Any) -> None:
        self.told.append((number, result, error.outcome if error is not None else ""))

    def apply(self, first: int, *terms: int) -> None:
        entries = [Entry(0, term, index, b"x") for index, term in enumerate(terms, first)]
        self.proposals.applied(entries, [f"r{entry.index}" for entry in entries])
        self.tell()

    def tell(self) -> None:
        for done, result, error in self.outcomes:
            done(result, error)
        self.outcomes.clear()

    def test_in_pieces(self):
        """A block is applied in any number of pieces, with others' entries around it."""
        self.proposals.placed(5, 2, self.add(1, 2, 3), 0)
        self.apply(3, 1, 2, 2)
        self.assertEqual(self.told, [(1, "r5", "")])
        self.apply(6, 2)
        self.apply(7, 2, 2, 2)
        self.assertEqual(self.told[1:], [(2, "r6", ""), (3, "r7", "")])
        self.assertEqual(self.proposals.count, 0)

    def test_replaced(self):
        """Another term's entry at its index: not done; the beginning may be kept all the same."""
        self.proposals.placed(5, 2, self.add(1, 2, 3), 0)
        self.apply(5, 2, 3, 3)
        self.assertEqual(self.told, [(1, "r5", ""), (2, None, "not_done"), (3, None, "not_done")])

    def test_overlap(self):
        """A block of an earlier leadership, and one of a later leader at the same indexes."""
        self.proposals.placed(5, 2, self.add(1, 2), 0)
        number = self.proposals.forwarded(9, self.add(3), 0)
        self.proposals.answered(number, 5, 3, 4, 0)
        self.apply(5, 3, 3)
        self.assertEqual(sorted(self.told), [(1, None, "not_done"), (2, None, "not_done"), (3, "r5", "")])

    def test_answered_late(self):
        """The place is told after it was applied: the result is gone, the outcome unknown."""
        number = self.proposals.forwarded(9, self.add(1), 0)
        self.proposals.answered(number, 5, 3, 5, 0)
        self.proposals.answered(number, 6, 3, 5, 0)
        self.tell()
        self.assertEqual(self.told, [(1, None, "unknown")])

    def test_skipped(self):
        """A snapshot over them: unknown up to its index, the rest go on."""
        self.proposals.placed(5, 2, self.add(1, 2, 3), 0)
        self.proposals.skipped(6)
        self.tell()
        self.apply(7, 2)
        self.assertEqual(self.told, [(1, None, "unknown"), (2, None, "unknown"), (3, "r7", "")])

    def test_sizes(self):
        """They are taken up to a size, but at least one."""
        for size in (5, 6, 100, 1):
            self.proposals.add(b"x" * size, lambda result, error: None, 0)
        taken = [[len(data) for data in self.proposals.take(11)[0]] for _ in range(3)]
        self.assertEqual(taken, [[5, 6], [100], [1]])


class ReadTests(SynchronousTestCase):
    """Reads by request and index."""

    def setUp(self) -> None:
        self.outcomes: list[Outcome] = []
        self.reads = Reads(self.outcomes, boot=7)

    def test_batches(self):
        """What came before a request is served by it; what came after waits for the next."""
        first, second = object(), object()
        self.reads.add(first, 0)  # type: ignore[arg-type]  # only carried
        context = self.reads.ask(0, 6)
        assert context is not None
        self.reads.add(second, 0)  # type: ignore[arg-type]  # as above
        self.assertIsNone(self.reads.ask(1, 6))
        self.reads.answered(context, 5, 1)
        self.reads.applied(4)
        self.assertEqual(self.outcomes, [])
        self.reads.applied(5)
        self.assertEqual(self.outcomes, [(first, None, None)])
        self.assertNotEqual(self.reads.ask(2, 6), context)

    def test_late_answers(self):
        """The answer to an earlier request, or to another life of the process, serves nothing."""
        self.reads.add(object(), 0)  # type: ignore[arg-type]  # as above
        context = self.reads.ask(0, 6)
        assert context is not None
        self.assertNotEqual(self.reads.ask(6, 6), context)
        self.reads.answered(context, 5, 6)
        other = Reads([], boot=8)
        other.add(object(), 0)  # type: ignore[arg-type]  # as above
        foreign = other.ask(0, 6)
        assert foreign is not None
        self.reads.answered(foreign, 5, 6)
        self.reads.applied(5)
        self.assertEqual(self.outcomes, [])

    def test_expire(self):
        """Asking again does not prolong the wait."""
        self.reads.add(object(), 0)  # type: ignore[arg-type]  # as above
        for tick in (0, 6, 12):
            self.reads.ask(tick, 6)
        self.reads.expire(1)
        self.assertEqual((len(self.outcomes), self.reads.count), (1, 0))


class ForwarderTests(SynchronousTestCase):
    """Forwarded proposals are appended once, changes told once."""

    def test_once(self):
        """By node, life of it and number."""
        seen = Forwarders()
        self.assertTrue(seen.is_new(2, 100, 1, 5))
        self.assertFalse(seen.is_new(2, 100, 1, 5))
        self.assertFalse(seen.is_new(2, 100, 5, 1))
        self.assertTrue(seen.is_new(2, 100, 6, 1))
        self.assertTrue(seen.is_new(2, 101, 1, 1))
        self.assertFalse(seen.is_new(2, 100, 6, 1))
        self.assertTrue(seen.is_new(3, 100, 6, 1))

    def test_change_replaced(self):
        """A change of membership whose place another entry took has failed for certain."""
        outcomes: list[Outcome] = []
        changes = Changes(outcomes)
        changes.proposed(5, 2, lambda result, error: None)
        changes.applied(Entry(0, 2, 4), None)
        self.assertEqual(outcomes, [])
        changes.applied(Entry(0, 3, 5), None)
        error = outcomes[0][2]
        assert error is not None
        self.assertEqual((error.outcome, len(changes)), ("not_done", 0))
