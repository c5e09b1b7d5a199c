"""A small share of the crash campaign, and the checker itself: each thing that it is to find, shown to it."""

from __future__ import annotations

import asyncio
import shutil
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.test.crash import Campaign
from relay.test.crash_record import ChannelRecord, QueueRecord

EPOCH = "e"


def channel() -> ChannelRecord:
    """Four publications of two publishers: acknowledged, acknowledged, unknown, refused."""
    record = ChannelRecord()
    for publisher, body in (("p", b"p0"), ("q", b"q0"), ("p", b"p1"), ("q", b"q1")):
        record.send(publisher, body)
    record.ack(b"p0", 1, EPOCH)
    record.ack(b"q0", 2, EPOCH)
    record.refuse(b"q1")
    return record


class Checker(SynchronousTestCase):
    """What is wrong is found, and what is allowed is not."""

    def found(
        self, *rows: tuple[int, bytes], epoch: str = EPOCH, before: Callable[[ChannelRecord], Any] | None = None
    ) -> str:
        """The problems of a history."""
        record = channel()
        if before is not None:
            before(record)
        record.read(rows, epoch)
        return "; ".join(record.problems)

    def test_allowed(self):
        """What was unknown may be there or not."""
        self.assertEqual(self.found((1, b"p0"), (2, b"q0")), "")
        self.assertEqual(self.found((1, b"p0"), (2, b"q0"), (3, b"p1")), "")

    def test_lost(self):
        """An acknowledged publication that is not there, or is elsewhere."""
        self.assertIn("was acknowledged at 2 and is at None", self.found((1, b"p0")))
        self.assertIn("was acknowledged at 1 and is at 2", self.found((1, b"q0"), (2, b"p0")))

    def test_an_event_that_left_too_early(self):
        """What a subscriber saw and the store has not."""
        early = self.found((1, b"p0"), (2, b"q0"), before=lambda record: record.tell(3, b"p1", EPOCH))
        self.assertIn("the last that is stored is 2", early)

    def test_an_offset_given_twice(self):
        """To an event, and after the crash to another publication."""
        twice = self.found((1, b"p0"), (2, b"q0"), (3, b"p1"), before=lambda record: record.tell(3, b"other", EPOCH))
        self.assertIn("offset 3 was given to", twice)

    def test_others(self):
        """Gaps, repeats, refused ones, strangers, another order, another epoch."""
        self.assertIn("not consecutive", self.found((1, b"p0"), (3, b"q0")))
        self.assertIn("stored twice", self.found((1, b"p0"), (2, b"q0"), (3, b"q0")))
        self.assertIn("was refused and is stored", self.found((1, b"p0"), (2, b"q0"), (3, b"q1")))
        self.assertIn("was never sent", self.found((1, b"p0"), (2, b"q0"), (3, b"?")))
        self.assertIn("several epochs", self.found((1, b"p0"), (2, b"q0"), epoch="f"))
        record = ChannelRecord(sent={"p": [b"1", b"2"]})
        record.read([(1, b"2"), (2, b"1")], EPOCH)
        self.assertIn("out of their order", record.problems[0])

    def test_queues(self):
        """Lost, delivered again after it was settled, refused and delivered, a number given twice."""
        record = QueueRecord()
        record.ack(b"a", 1)
        record.ack(b"b", 2)
        record.deliver(b"a", 1)
        record.deliver(b"a", 1)
        self.assertEqual((record.problems, record.repeated), ([], 1))
        record.settle(b"a")
        record.deliver(b"a", 1)
        record.drained()
        record.refuse(b"c")
        record.deliver(b"c", 2)
        words = (
            "settled and is delivered again",
            "never delivered",
            "number 2 was given to",
            "refused and is delivered",
        )
        for word, problem in zip(words, record.problems, strict=True):
            self.assertIn(word, problem)


class Rounds(SynchronousTestCase):
    """A few rounds with a real node."""

    def run_rounds(self, how: str, rounds: int, planted: str = "") -> dict[str, Any]:
        """The figures."""
        options = Namespace(how=how, rounds=rounds, planted=planted, window=1200, seconds=0, seed=7)
        return asyncio.run(Campaign(options).run())

    def test_killed(self):
        """SIGKILL at any moment: nothing that was acknowledged is lost."""
        figures = self.run_rounds("kill", 2)
        self.assertTrue(figures["ok"], figures)
        self.assertGreater(figures["publications_acknowledged"], 1000)
        self.assertGreaterEqual(figures["in_flight_max"], 1000)

    def test_power_cut(self):
        """The same when everything that was not synced is lost."""
        if shutil.which("cc") is None:
            self.skipTest("no C compiler (cc)")
        figures = self.run_rounds("power", 2)
        self.assertTrue(figures["ok"], figures)
        self.assertGreater(figures["publications_acknowledged"], 500)

    def test_failing_syncs(self):
        """A sync that fails ends the node, and nothing that was acknowledged is lost."""
        if shutil.which("strace") is None:
            self.skipTest("strace is not installed")
        figures = self.run_rounds("sync", 1)
        self.assertTrue(figures["ok"], figures)
        self.assertGreater(figures["syncs_failed"], 0)

    def test_a_planted_mistake_is_found(self):
        """A node that acknowledges before its commit is found out, within some rounds."""
        figures = self.run_rounds("kill", 8, "ack_before_commit")
        self.assertTrue(figures["problems"], figures)
