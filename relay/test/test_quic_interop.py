"""QUIC with quic-go's client: the rows of ``python -m relay.test.interop quic``. ``.ci/run`` installs Go."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.test import interop, interop_quic
from relay.test.quic_spoofed import campaign


class PeerTests(SynchronousTestCase):
    """What a client of other people's hears from relay's server."""

    def test_quic_go(self):
        """Streams, datagrams, Retry, 0-RTT, and a whole node."""
        if interop.go() is None:
            self.skipTest("Go is not installed")
        found = list(interop_quic.outcomes(300_000))
        self.assertEqual([(row.what, said) for row, said, right in found if not right], [])
        self.assertEqual(len(found), len(interop_quic.ROWS))


class SpoofedTests(SynchronousTestCase):
    """A share of ``python -m relay.test.quic_spoofed``."""

    def test_spoofed(self):
        """Made-up addresses get no session, little state, and no more than three times what came from them."""
        for retry in ("load", "always"):
            figures = campaign(5000, retry)
            self.assertTrue(figures["ok"], figures)
