"""Histories of the key-value state under faults are linearizable: a few seeds of ``relay.test.kv_histories``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.test.kv_histories import campaign, register
from relay.test.linearizability import Operation, linearizable


class HistoryTests(SynchronousTestCase):
    """Several seeds, and what the check would notice."""

    def test_linearizable(self) -> None:
        """Every history is that of one register, and all nodes have the same state in the end."""
        figures = campaign(1, 4)
        self.assertTrue(figures["ok"], figures)
        # What makes it worth something did happen.
        self.assertTrue(all(figures[name] for name in ("not_done", "unknown", "kills", "cuts")), figures)
        self.assertGreater(figures["done"], 1000)

    def test_notices(self) -> None:
        """A stale read, a lost write and a write done twice are noticed."""
        write = Operation("write", "a", True, 1, 2)
        self.assertFalse(linearizable([write, Operation("read", None, "", 3, 4)], "", register))
        other = Operation("write", "b", True, 3, 4)
        self.assertFalse(linearizable([write, other, Operation("read", None, "a", 5, 6)], "", register))
        self.assertFalse(linearizable([write, Operation("cas", ("", "c"), True, 3, 4)], "", register))
        self.assertTrue(linearizable([Operation("write", "a", None, 1, None)], "", register))
