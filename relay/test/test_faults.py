"""Faults over real processes: a small share of ``python -m relay.test.faults``, and that its checks can fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.types import Entry, HardState
from relay.store.files import OsFiles
from relay.store.wal import WriteAheadLog
from relay.store.wal_writer import GroupWrite, LogOptions
from relay.test.faults import Campaign, main, parser
from relay.test.faults_logs import GROUP, log_differences
from relay.test.faults_record import Record

OPTIONS = LogOptions(
    segment_bytes=1 << 20,
    record_bytes_max=64 << 10,
    batch_bytes_max=256 << 10,
    submission_bytes_max=256 << 10,
    queue_bytes_max=1 << 20,
    groups_max=64,
    conf_state_bytes_max=256,
)


class CampaignTests(SynchronousTestCase):
    """Three processes."""

    def test_rounds(self):
        """The leader is killed, cut off and silent: nothing is lost, and all nodes agree afterwards."""
        options = parser().parse_args(["--rounds=3", "--how=kill-leader,cut-leader,stop-leader", "--workers=1"])
        figures = asyncio.run(Campaign(options).run())
        self.assertEqual(figures["problems"], [])
        self.assertEqual((figures["ok"], figures["lost"], figures["rounds"]), (True, 0, 3))
        self.assertGreater(figures["acknowledged"], 0)
        self.assertGreater(figures["terms"], 1, "no fault had an effect")
        print(f"\nms until the next write: { {name: each['p50_ms'] for name, each in figures['faults'].items()} }")
        if "network" in figures["skipped"]:
            print(f"without network namespaces: {figures['skipped']['network']}")

    def test_no_such_fault(self):
        """A name that is none is told, before anything starts."""
        self.assertEqual(main(["--how", "flood"]), 2)


class RecordTests(SynchronousTestCase):
    """What the record finds."""

    def setUp(self):
        self.record = Record()

    def call(self, action: str, argument: Any, end: str, result: Any = None, revision: int = 0) -> None:
        call = self.record.begin("k", action, argument, 1.0)
        self.record.end(call, end, 2.0, result, revision)

    def test_sound(self):
        """Nothing, where all is well; an unknown write may be there or not."""
        self.call("write", "a", "done", revision=2)
        self.call("read", None, "done", "a")
        self.call("write", "b", "unknown")
        self.call("write", "c", "unknown")
        self.call("cas", ("a", "d"), "refused")
        history = [(2, "k", "a"), (3, "k", "c")]
        self.assertEqual((self.record.lost(history), self.record.problems(history)), ([], []))
        self.assertEqual(self.record.counts(), {"acknowledged": 1, "reads": 1, "unknown": 2, "refused": 1})

    def test_lost(self):
        """An acknowledged write that is not there, or at another revision."""
        self.call("write", "a", "done", revision=2)
        self.assertEqual(len(self.record.lost([])), 1)
        self.assertEqual(len(self.record.lost([(3, "k", "a")])), 1)

    def test_done_after_all(self):
        """A write that was said not to be done, one that was done twice, and one of nobody."""
        self.call("write", "a", "not_done")
        self.call("write", "b", "done", revision=3)
        found = self.record.problems([(2, "k", "a"), (3, "k", "b"), (4, "k", "b"), (5, "k", "z")])
        self.assertEqual(
            found,
            [
                "k = a was written, though its client heard not_done",
                "k = b was written 2 times",
                "k = z was written by nobody",
            ],
        )

    def test_stale_read(self):
        """A read that shows what was overwritten before it began."""
        self.call("write", "a", "done", revision=2)
        self.call("write", "b", "done", revision=3)
        self.call("read", None, "done", "a")
        history = [(2, "k", "a"), (3, "k", "b")]
        self.assertEqual(self.record.problems(history), ["the operations of a key are not linearizable"])

    def test_recovered(self):
        """Only writes that began after the fault tell that it is over."""
        record = self.record
        before = record.begin("k", "write", "a", 1.0)
        after = record.begin("k", "write", "b", 3.0)
        record.end(before, "done", 4.0)
        self.assertIsNone(record.recovered_s(2.0))
        record.end(after, "done", 5.0)
        self.assertEqual(record.recovered_s(2.0), 5.0)


class LogTests(SynchronousTestCase):
    """Logs of two nodes."""

    def log(self, *entries: tuple[int, int, bytes], commit: int) -> Path:
        """A log with entries of (index, term, data)."""
        folder = Path(self.mktemp())
        folder.mkdir()
        log = WriteAheadLog(OsFiles(), str(folder / "log"), OPTIONS)
        log.open()
        for index, term, data in entries:
            entry = Entry(term=term, index=index, data=data)
            log.submit([GroupWrite(GROUP, entries=(entry,), hard_state=HardState(term, 0, min(index, commit)))])
        while log.run_once():
            pass
        log.close()
        return folder / "log"

    def test_same(self):
        """Logs agree up to what both have committed; behind it an old leader's entry may stand."""
        one = self.log((1, 1, b"a"), (2, 1, b"lost"), (2, 2, b"b"), commit=2)
        other = self.log((1, 1, b"a"), (2, 1, b"lost"), commit=1)
        self.assertEqual(log_differences({1: one, 2: other}), [])

    def test_committed_differently(self):
        """An entry that both have committed is another one."""
        one = self.log((1, 1, b"a"), (2, 2, b"b"), commit=2)
        other = self.log((1, 1, b"a"), (2, 1, b"c"), commit=2)
        found = log_differences({1: one, 2: other})
        self.assertEqual(found, ["the logs of nodes 1 and 2 differ at [2], all committed"])

    def test_two_leaders(self):
        """Two entries of one term at one index."""
        one, other = self.log((1, 1, b"a"), commit=0), self.log((1, 1, b"b"), commit=0)
        found = log_differences({1: one, 2: other})
        self.assertEqual(found, ["term 1 had two leaders: the logs of 1 and 2 differ at 1"])
