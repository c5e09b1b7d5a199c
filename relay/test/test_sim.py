"""The simulator: it is deterministic, finds nothing where nothing is, and finds what is planted."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

import relay
from relay.test.linearizability import Operation
from relay.test.sim.clients import explained
from relay.test.sim.command import main
from relay.test.sim.plants import LINES_MAX, PLANTS
from relay.test.sim.shrink import command_of, shrink
from relay.test.sim.world import Recipe, Report, World

ROOT = Path(relay.__file__).parent.parent
SECONDS = 5.0


class SeedTests(SynchronousTestCase):
    """Whole runs."""

    def test_deterministic(self) -> None:
        """The same seed gives the same events, frame by frame, and the same outcomes; another seed gives others."""
        first, again, other = (World(Recipe(seed, seconds=SECONDS)).run() for seed in (3, 3, 4))
        self.assertEqual(first, again)
        self.assertNotEqual(first.digest, other.digest)

    def test_no_violation(self) -> None:
        """Production code passes, with faults of many kinds and operations of every outcome."""
        reports = [World(Recipe(seed, seconds=SECONDS)).run() for seed in (1, 2, 5)]
        self.assertEqual([report.violation for report in reports], ["", "", ""])
        faults: Counter[str] = sum((report.faults for report in reports), Counter())
        outcomes: Counter[str] = sum((report.outcomes for report in reports), Counter())
        self.assertGreater(len(faults), 10)
        self.assertGreater(outcomes["ok"], 1000)
        self.assertGreater(outcomes["unknown"], 0)
        self.assertEqual(outcomes["undecided"], 0)

    def test_without_faults(self) -> None:
        """Without faults every operation is done."""
        report = World(Recipe(7, seconds=2.0, kinds=())).run()
        self.assertEqual((report.violation, set(report.outcomes)), ("", {"ok"}))
        self.assertFalse(report.faults)

    def test_command(self) -> None:
        """The command ends with 0 when nothing is violated, and refuses kinds that there are not."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            self.assertEqual(main(["--seed", "9", "--seconds", "1"]), 0)
            self.assertIn("violations   0", said.getvalue())
            self.assertRaises(SystemExit, main, ["--seed", "9", "--faults", "flood"])


class PlantTests(SynchronousTestCase):
    """Planted bugs."""

    def caught(self, name: str) -> str:
        """What the simulator says of a plant, in a process of its own."""
        command = [sys.executable, "-m", "relay.test.sim.until_caught", "--plant", name, "1-8", "5"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
        found: str = json.loads(done.stdout.splitlines()[-1])["caught"]
        return found

    def test_acknowledged_before_it_is_durable(self) -> None:
        """An acknowledgement that leaves before its entries are synced is seen when it leaves."""
        self.assertIn("durable first", self.caught("ack-before-fsync"))

    def test_half_of_an_even_number(self) -> None:
        """Half of four voters are no majority."""
        self.assertIn("on a quorum", self.caught("commit-half-of-even"))

    def test_stale_read(self) -> None:
        """A read without a word with the leader is not linearizable."""
        self.assertIn("not linearizable", self.caught("read-without-barrier"))

    def test_all_can_be_planted(self) -> None:
        """Each plant stands in its module once, is a change of three lines at most, and compiles."""
        for plant in PLANTS.values():
            source = (ROOT / (plant.module.replace(".", "/") + ".py")).read_text("utf-8")
            changed = plant.apply(source)
            self.assertNotEqual(changed, source, plant.name)
            self.assertLessEqual(plant.lines(), LINES_MAX, plant.name)
            compile(changed, plant.name, "exec")


class ShrinkTests(SynchronousTestCase):
    """A failing recipe made smaller."""

    def test_smallest(self) -> None:
        """What is not needed for the failure is left out: kinds of faults, time and operations."""

        def run(recipe: Recipe) -> Report:
            fails = {"power", "stall"} <= set(recipe.kinds) and recipe.seconds >= 3 and recipe.rate >= 20
            return Report(recipe, violation="one leader" if fails else "", simulated_s=min(recipe.seconds, 9.0))

        least = shrink(run(Recipe(1)), run=run).recipe
        self.assertEqual((set(least.kinds), least.rate), ({"power", "stall"}, 30.0))
        self.assertLess(least.seconds, 3.5)
        self.assertIn("--faults power,stall", command_of(attrs.evolve(least, kinds=("power", "stall"))))


class HistoryTests(SynchronousTestCase):
    """The judgement on the history of one key."""

    def put(self, value: bytes, before: tuple[bytes, int] | None, called: int, returned: int | None) -> Operation:
        """A write that found ``before``."""
        return Operation("put", (value,), before, called, returned)

    def get(self, value: bytes, version: int, called: int) -> Operation:
        """A read."""
        return Operation("get", None, (value, version), called, called + 1)

    def test_explained(self) -> None:
        """A write without an answer may have happened or not."""
        first = self.put(b"1", (b"", 0), 0, 1)
        unknown = self.put(b"2", None, 2, None)
        self.assertTrue(explained([first, unknown, self.get(b"1", 1, 10)]))
        self.assertTrue(explained([first, unknown, self.get(b"2", 2, 10)]))
        self.assertTrue(explained([first, unknown, self.put(b"3", (b"2", 2), 10, 11), self.get(b"3", 3, 12)]))
        later = self.put(b"3", None, 3, None)
        self.assertTrue(explained([first, unknown, later, self.get(b"3", 3, 10)]))

    def test_lost(self) -> None:
        """An acknowledged write that is not there."""
        self.assertFalse(explained([self.put(b"1", (b"", 0), 0, 1), self.get(b"", 0, 10)]))

    def test_twice(self) -> None:
        """A write that was done twice shows in the version."""
        self.assertFalse(explained([self.put(b"1", (b"", 0), 0, 1), self.get(b"1", 2, 10)]))

    def test_stale(self) -> None:
        """A read of what was overwritten before it began."""
        writes = [self.put(b"1", (b"", 0), 0, 1), self.put(b"2", (b"1", 1), 2, 3)]
        self.assertFalse(explained([*writes, self.get(b"1", 1, 10)]))
