"""Deadlines of a few milliseconds on one timer (``relay.protocols.fine_wheel``)."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.protocols.fine_wheel import FineWheel


class WheelTests(SynchronousTestCase):
    """Many on one timer."""

    def test_deadlines(self):
        """Each comes in time, the earlier one counts, and there is no timer when nothing is waited for."""
        clock = Clock()

        class Entry:
            due = 0

        at: list[tuple[Any, float]] = []
        wheel: FineWheel[Entry] = FineWheel(
            clock, lambda: round(clock.seconds() * 1000), lambda entry: at.append((entry, clock.seconds()))
        )
        one, two = Entry(), Entry()
        wheel.add(one, 100, 0)
        wheel.add(two, 500, 0)
        wheel.add(one, 50, 0)
        wheel.add(two, 700, 0)
        clock.pump([0.001] * 600)
        self.assertEqual([entry for entry, _ in at], [one, two])
        for (_, when), due in zip(at, (0.05, 0.5), strict=True):
            self.assertTrue(due <= when <= due + 0.012, when)
        self.assertEqual(clock.getDelayedCalls(), [])
