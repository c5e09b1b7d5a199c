"""Tests of what ``bin/test`` runs: ``relay.test.report`` and ``relay.test.parallel``."""

from __future__ import annotations

import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.reporter import Reporter
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from relay.test import parallel, report


class CountTests(SynchronousTestCase):
    """The totals."""

    def test_counted(self):
        """Errors are failures, expected failures passed; skipped tests are listed with their reasons."""

        class Sample(SynchronousTestCase):
            def test_passes(self):
                pass

            def test_fails(self):
                self.fail("no")

            def test_breaks(self):
                raise KeyError("no")

            def test_skips(self):
                raise SkipTest("there is no moon")

            def test_todo(self):
                self.fail("not yet")

            test_todo.todo = "some day"  # type: ignore[attr-defined]  # trial's way

        result = Reporter(io.StringIO())
        for name in ("passes", "fails", "breaks", "skips", "todo"):
            Sample(f"test_{name}").run(result)
        self.assertEqual(report.count(result), (2, 2, 1))
        (line,) = report.skipped_lines(result)
        self.assertRegex(line, r"^skipped: .*Sample\.test_skips: there is no moon$")

    def test_reactor(self):
        """The reactor is the one of the environment, before what was given."""
        self.assertEqual(report.arguments(["a"], {"RELAY_TEST_REACTOR": "epoll"}), ["--reactor=epoll", "a"])
        self.assertEqual(report.arguments(["a"], {})[-1], "a")


class ParallelTests(SynchronousTestCase):
    """All tests in several processes."""

    @given(st.lists(st.text(), unique=True), st.integers(1, 9))
    def test_dealt(self, modules, count):
        """Every module is in exactly one chunk, and chunks differ by one module at most."""
        dealt = parallel.chunks(modules, count)
        self.assertEqual(sorted(name for chunk in dealt for name in chunk), sorted(modules))
        self.assertLessEqual(max(map(len, dealt), default=0) - min(map(len, dealt), default=0), 1)

    def test_modules(self):
        """Every test module is run."""
        self.assertIn(__name__, parallel.test_modules())

    def test_broken_module(self):
        """A module that cannot be imported is a failure."""
        outcome = parallel.run(["relay.test.test_made_up"], Path(self.mktemp()))
        self.assertEqual((outcome.passed, outcome.failed), (0, 1))

    def test_no_totals(self):
        """A process that ends without totals is a failure that says so."""
        outcome = parallel.run(["--no-such-option"], Path(self.mktemp()))
        self.assertEqual((outcome.passed, outcome.failed), (0, 1))
        self.assertIn("without totals: --no-such-option", outcome.output)
