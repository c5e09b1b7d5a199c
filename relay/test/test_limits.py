"""Token buckets and networks (``relay.core.limits``)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.core.limits import Networks, TokenBucket, is_loopback


class Buckets(SynchronousTestCase):
    """A rate is kept in the long run; a burst is allowed."""

    @given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 20)), min_size=1, max_size=200))
    @settings(max_examples=60, deadline=None)
    def test_who_waits_as_told_keeps_the_rate(self, steps):
        """Whoever waits out the debt has never taken more than the depth and the rate allow."""
        bucket = TokenBucket(rate=10, depth=20, now=0.0)
        now = taken = 0.0
        for pause, amount in steps:
            now += pause
            now += bucket.take(amount, now)
            taken += amount
            self.assertLessEqual(taken, 20 + 10 * now + 1e-6)

    def test_debt(self):
        """Taking more than there is tells how long to wait."""
        bucket = TokenBucket(rate=10, depth=5, now=0.0)
        self.assertEqual(bucket.take(5, 0.0), 0.0)
        self.assertAlmostEqual(bucket.take(5, 0.0), 0.5)
        self.assertEqual(bucket.take(0, 0.5), 0.0)


class Lists(SynchronousTestCase):
    """Allow and deny lists."""

    def test_deny_counts_over_allow(self):
        """An address in both may not connect; one in neither may not when there is an allow list."""
        lists = Networks(["10.0.0.0/8", "2001:db8::/32"], ["10.1.0.0/16"])
        self.assertTrue(lists.admits("10.2.3.4"))
        self.assertFalse(lists.admits("10.1.3.4"))
        self.assertFalse(lists.admits("192.0.2.1"))
        self.assertTrue(lists.admits("2001:db8::1"))
        self.assertTrue(lists.admits("::ffff:10.2.3.4"))
        self.assertFalse(lists.admits("::ffff:10.1.3.4"))
        self.assertFalse(lists.admits("no address"))
        self.assertTrue(lists.admits(""))

    def test_memory_is_bounded(self):
        """A scan from many addresses does not grow the memory of results."""
        lists = Networks(deny=["10.0.0.0/8"])
        for number in range(10_000):
            lists.admits(f"192.0.{number // 256}.{number % 256}")
        self.assertLessEqual(len(lists._known), 4096)

    def test_loopback(self):
        """Loopback and Unix sockets are local."""
        for address, local in (("127.0.0.1", True), ("::1", True), ("", True), ("192.0.2.1", False), ("x", False)):
            self.assertEqual(is_loopback(address), local)
