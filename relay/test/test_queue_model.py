"""Queues against the record of a checker, in random histories (``relay.test.queue_model``)."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.test.queue_model import STEPS, run


class Histories(SynchronousTestCase):
    """Puts, consumers that come, hang, leave and return, time, and crashes, over a store that answers late."""

    @given(st.lists(STEPS, min_size=5, max_size=60))
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def test_promises_hold(self, steps):
        """No loss, order per key, no more deliveries than allowed, duplicates only where a lease or a node ended."""
        run(steps)

    def test_two_long_lines(self):
        """The line of one key is done with while it is read for the other: what is read behind it does not overtake."""
        put = ("put", "a", 0, 0, 6)
        steps = [put, put, put, put, ("storm", 0), ("answer",), put, ("put", "b", 0, 0, 8), ("consume", 0, 1)]
        steps += [("store", 1), put, put, put, ("crash",), ("storm", 1), ("vanish", 1), ("storm", 1), put]
        run([*steps, ("consume", 0, 1)])
