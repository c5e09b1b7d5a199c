"""Transfer filters: round trips, the order, bombs, damage, those of applications."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from relay.errors import FilterError
from relay.test.strategies import runs
from relay.wire import filters, kinds
from relay.wire.filters import unwrap, wrap

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OWN = (kinds.GZIP, kinds.ZSTD, kinds.CRC32C, kinds.MD5)


class Backwards:
    """A filter of an application."""

    name = "backwards"
    number = 64

    def wrap(self, body: bytes) -> bytes:
        """The body from its end."""
        return body[::-1]

    def unwrap(self, body: bytes, bytes_max: int) -> bytes:
        """And back."""
        return body[::-1]


class Filters(TestCase):
    """``wrap`` and ``unwrap``."""

    @given(st.binary(max_size=300), st.lists(st.sampled_from(OWN), max_size=8))
    @runs(150)
    def test_what_was_wrapped_comes_back(self, body: bytes, numbers: list[int]) -> None:
        """Any filters in any order."""
        self.assertEqual(unwrap(wrap(body, numbers), numbers, 1000, 10_000), body)

    @given(st.binary(max_size=100), st.lists(st.sampled_from(OWN), min_size=1, max_size=3), st.data())
    @runs(200)
    def test_damage_is_a_filter_error_and_nothing_else(
        self, body: bytes, numbers: list[int], data: st.DataObject
    ) -> None:
        """A changed byte is noticed, or changes nothing (gzip's header has such bytes)."""
        wrapped = bytearray(wrap(body, numbers))
        wrapped[data.draw(st.integers(0, len(wrapped) - 1))] ^= data.draw(st.integers(1, 255))
        try:
            found = unwrap(bytes(wrapped), numbers, 1000, 10_000)
        except FilterError:
            return
        if numbers[0] != kinds.ZSTD:  # zstd writes no checksum unless asked to
            self.assertEqual(found, body)

    @given(st.binary(max_size=60), st.lists(st.sampled_from([*OWN, 5, 64, 255]), max_size=10))
    @runs(200)
    def test_garbage_is_a_filter_error_and_nothing_else(self, body: bytes, numbers: list[int]) -> None:
        """Whatever the bytes and the numbers."""
        try:
            found = unwrap(body, numbers, 100, 1000)
        except FilterError:
            return
        self.assertLessEqual(len(found), min(1000, 100 * len(body)))

    def test_the_outermost_stands_first(self) -> None:
        """[gzip, crc32c]: a gzip member with checksum and body in it."""
        wrapped = wrap(b"123456789", (kinds.GZIP, kinds.CRC32C))
        self.assertEqual(gzip.decompress(wrapped), bytes.fromhex("e3069283") + b"123456789")

    def test_the_formats_are_those_of_others(self) -> None:
        """What other implementations write is read, and the other way round."""
        body = b"relay " * 50
        self.assertEqual(unwrap(gzip.compress(body), [kinds.GZIP], 100, 1000), body)
        self.assertEqual(unwrap(zstd.compress(body), [kinds.ZSTD], 100, 1000), body)
        self.assertEqual(zstd.decompress(wrap(body, [kinds.ZSTD])), body)
        self.assertEqual(wrap(b"a", [kinds.MD5]).hex(), "0cc175b9c0f1b6a831c399e26977266161")

    def test_a_bomb_costs_no_more_than_the_limit(self) -> None:
        """Inflating stops at the limit, of bytes or of the ratio."""
        bombs = {
            kinds.GZIP: gzip.compress(bytes(20_000_000)),
            kinds.ZSTD: zstd.compress(bytes(20_000_000)),
        }
        for number, bomb in bombs.items():
            tracemalloc.start()
            self.assertRaises(FilterError, unwrap, bomb, [number], 10**9, 200_000)
            self.assertRaises(FilterError, unwrap, bomb, [number], 10, 10**9)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLess(peak, 1_000_000)

    def test_the_limits_hold_to_the_byte(self) -> None:
        """Just the limit is let through, one more byte is not; the ratio counts from the body on the wire."""
        for number in OWN:
            wrapped = wrap(bytes(5000), [number])
            self.assertEqual(len(unwrap(wrapped, [number], 1000, 5000)), 5000)
            self.assertRaises(FilterError, unwrap, wrapped, [number], 1000, 4999)
        nested = wrap(bytes(100_000), [kinds.GZIP, kinds.GZIP])
        ratio = 100_000 // len(nested)
        self.assertRaises(FilterError, unwrap, nested, [kinds.GZIP, kinds.GZIP], ratio, 10**9)
        self.assertEqual(len(unwrap(nested, [kinds.GZIP, kinds.GZIP], ratio + 1, 10**9)), 100_000)

    def test_one_member_and_one_frame(self) -> None:
        """Something after the end, or no end, is refused; so is a window over 8 MiB."""
        for number, wrapped in ((kinds.GZIP, gzip.compress(b"body")), (kinds.ZSTD, zstd.compress(b"body"))):
            for damaged in (wrapped + b"x", wrapped + wrapped, wrapped[:-1], b""):
                self.assertRaises(FilterError, unwrap, damaged, [number], 1000, 1000)
        self.assertRaises(FilterError, unwrap, zlib.compress(b"body"), [kinds.GZIP], 1000, 1000)
        window = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
        long_window = window.compress(bytes(100)) + window.flush()
        self.assertRaises(FilterError, unwrap, long_window, [kinds.ZSTD], 1000, 1000)

    def test_at_most_eight(self) -> None:
        """Nine filters are refused in both directions."""
        self.assertRaises(FilterError, wrap, b"", [kinds.MD5] * 9)
        self.assertRaises(FilterError, unwrap, b"", [kinds.MD5] * 9, 100, 100)

    def test_applications_register_theirs(self) -> None:
        """In 64-127, under a name and number that are free, until they take it back."""
        own = Backwards()
        filters.register(own)
        self.addCleanup(filters.unregister, own)
        self.assertEqual(filters.known()["backwards"], 64)
        self.assertEqual(unwrap(wrap(b"abc", [64]), [64], 100, 100), b"abc")
        self.assertRaises(ValueError, filters.register, Backwards())
        taken = Backwards()
        taken.number = 65
        self.assertRaises(ValueError, filters.register, taken)
        outside = Backwards()
        outside.name, outside.number = "outside", 63
        self.assertRaises(ValueError, filters.register, outside)
        self.assertRaises(ValueError, filters.unregister, outside)

    def test_an_unknown_filter_is_refused(self) -> None:
        """In both directions."""
        self.assertRaises(FilterError, wrap, b"", [9])
        self.assertRaises(FilterError, unwrap, b"", [9], 100, 100)

    def test_a_filter_of_an_application_is_bounded_too(self) -> None:
        """One that ignores its limit is refused all the same."""

        class Doubling(Backwards):
            number = 66
            name = "doubling"

            def unwrap(self, body: bytes, bytes_max: int) -> bytes:
                return body * 2

        own = Doubling()
        filters.register(own)
        self.addCleanup(filters.unregister, own)
        self.assertRaises(FilterError, unwrap, b"abc", [66], 1, 100)
        self.assertEqual(unwrap(b"abc", [66], 2, 100), b"abcabc")
