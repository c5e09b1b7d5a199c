"""A share of ``python -m relay.test.spoofed``: made-up addresses get nothing, and leave nothing behind."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.test.spoofed import TARGETS, campaign


class Spoofed(SynchronousTestCase):
    """Datagrams from addresses that would not receive the answer."""

    def test_every_transport(self):
        """No session begins where the address is proved or the datagram authenticated, else a bounded number; no
        address gets more than three times what came from it."""
        for name in TARGETS:
            figures = campaign(name, 6_000)
            self.assertTrue(figures["ok"], figures)
