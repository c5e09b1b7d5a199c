"""Protocols told apart by their first bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.protocols import sniff

EVERYTHING = tuple(sniff.PREFIXES)
SAMPLES = {
    sniff.TLS: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    sniff.RELAY_BINARY: b"\xd2RLY\x00\x00\x00\x0c\x03\x00",
    sniff.RELAY_JSON: b'{"kind":"hello"}\n',
    sniff.HTTP: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


class SniffTests(SynchronousTestCase):
    """``sniff`` names the protocol, asks for more, or gives up."""

    def test_samples(self):
        """Each protocol is known by what its clients send first."""
        for name, data in SAMPLES.items():
            self.assertEqual(sniff.sniff(data, EVERYTHING), name)

    def test_all_methods(self):
        """Every method that a client may use first is HTTP; one in small letters is not."""
        for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"):
            self.assertEqual(sniff.sniff(method + b" /", EVERYTHING), sniff.HTTP)
        self.assertEqual(sniff.sniff(b"get / ", EVERYTHING), sniff.UNKNOWN)

    def test_more_needed(self):
        """The beginning of a prefix, down to no byte at all, is undecided."""
        for prefixes in sniff.PREFIXES.values():
            for prefix in prefixes:
                for end in range(len(prefix)):
                    self.assertIsNone(sniff.sniff(prefix[:end], EVERYTHING), prefix[:end])

    def test_others(self):
        """What fits nothing is unknown at its first wrong byte."""
        for data in (b"\x00", b"\xd2RLX", b"GEX", b"\x16\x02", b" {", b"\r\n", b"SSH-2.0"):
            self.assertEqual(sniff.sniff(data, EVERYTHING), sniff.UNKNOWN, data)

    def test_only_allowed(self):
        """A protocol that the listener does not have is unknown there."""
        for name, data in SAMPLES.items():
            others = tuple(each for each in EVERYTHING if each != name)
            self.assertEqual(sniff.sniff(data, others), sniff.UNKNOWN)

    def test_prefixes_exclude_each_other(self):
        """No prefix is the beginning of another, and none is longer than what is looked at."""
        prefixes = [prefix for row in sniff.PREFIXES.values() for prefix in row]
        for one in prefixes:
            self.assertLessEqual(len(one), sniff.SNIFF_BYTES_MAX)
            self.assertEqual([other for other in prefixes if other.startswith(one)], [one])

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(st.binary(max_size=20), st.sampled_from(list(SAMPLES.values()))),
        st.sets(st.sampled_from(EVERYTHING)),
        st.binary(max_size=4),
    )
    def test_a_decision_stands(self, data, allowed, more):
        """Any bytes give one of the allowed names, unknown or undecided; further bytes never change a decision, and
        16 bytes always decide."""
        found = sniff.sniff(data, allowed)
        self.assertIn(found, {None, sniff.UNKNOWN, *allowed})
        if found is not None:
            self.assertEqual(sniff.sniff(data + more, allowed), found)
            self.assertEqual(sniff.sniff(data[: sniff.SNIFF_BYTES_MAX], allowed), found)
        else:
            self.assertLess(len(data), sniff.SNIFF_BYTES_MAX)
