"""Deadlines on one timer (``relay.core.wheel``)."""

from __future__ import annotations

from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.core.wheel import TICK_S, Wheel


class Deadlines(SynchronousTestCase):
    """Never early, at most a tick late, and cancelled means never."""

    def setUp(self):
        self.clock = Clock()
        self.wheel = Wheel(self.clock)
        self.wheel.start()
        self.addCleanup(self.wheel.stop)

    @given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=30))
    @settings(max_examples=60, deadline=None)
    def test_not_early_not_late(self, wanted):
        """Each deadline is kept to a tick; the cancelled ones never come."""
        clock = Clock()
        wheel = Wheel(clock)
        wheel.start()
        fired: dict[int, float] = {}

        def when(number: int) -> None:
            fired[number] = clock.seconds()

        for number, (delay, cancelled) in enumerate(wanted):
            call = wheel.after(delay, partial(when, number))
            if cancelled:
                call.cancel()
        clock.pump([TICK_S] * 70)
        for number, (delay, cancelled) in enumerate(wanted):
            if cancelled:
                self.assertNotIn(number, fired)
            else:
                self.assertGreaterEqual(fired[number], delay - 1e-9)
                self.assertLessEqual(fired[number], delay + 2 * TICK_S + 1e-9)
        self.assertEqual(len(wheel), 0)

    def test_one_that_fails_does_not_stop_the_others(self):
        """A deadline's mistake is logged and costs only itself."""
        fired = []
        self.wheel.after(0.1, lambda: 1 / 0)
        self.wheel.after(0.1, lambda: fired.append(1))
        self.clock.pump([TICK_S] * 5)
        self.assertEqual(fired, [1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_cancelled_by_another_of_the_same_tick(self):
        """What an earlier deadline of the same tick cancels does not come."""
        fired = []
        first = self.wheel.after(0.1, lambda: second.cancel())
        second = self.wheel.after(0.1, lambda: fired.append("second"))
        self.clock.pump([TICK_S] * 5)
        self.assertEqual(fired, [])
        first.cancel()

    def test_long_sleep(self):
        """A machine that slept through a million ticks catches up at once, in order."""
        fired: list[int] = []
        for number in (3, 1, 2):
            self.wheel.after(number, partial(fired.append, number))
        self.clock.advance(1e6)
        self.assertEqual(fired, [1, 2, 3])
