"""Bodies as values."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from relay.errors import BadBody
from relay.test.strategies import runs
from relay.wire import kinds
from relay.wire.bodies import body_of, decode_body, encode_body


class Point(msgspec.Struct):
    """A typed argument."""

    x: int
    y: int = 0


class Bodies(TestCase):
    """``encode_body``, ``decode_body``, ``body_of``."""

    def test_values_come_back(self) -> None:
        """Each codec with what it carries."""
        values: list[tuple[Any, int]] = [
            (b"\x00\xff", kinds.RAW), ("é", kinds.TEXT), ({"a": [1, None]}, kinds.JSON), ({"a": b"x"}, kinds.MSGPACK),
        ]  # fmt: skip
        for value, codec in values:
            self.assertEqual(decode_body(encode_body(value, codec), codec), value)

    def test_a_type_may_be_asked_for(self) -> None:
        """What the body holds is checked against it."""
        for codec in (kinds.JSON, kinds.MSGPACK):
            self.assertEqual(decode_body(encode_body({"x": 1}, codec), codec, Point), Point(1))
            self.assertRaises(BadBody, decode_body, encode_body({"x": "1"}, codec), codec, Point)
        self.assertEqual(decode_body(b"text", kinds.TEXT, str), "text")
        self.assertRaises(BadBody, decode_body, b"text", kinds.TEXT, int)
        self.assertRaises(BadBody, decode_body, b"raw", kinds.RAW, int)

    def test_what_does_not_fit_the_codec_is_refused(self) -> None:
        """Wrong values, and codecs that relay does not write."""
        wrong: list[tuple[Any, int]] = [
            ("text", kinds.RAW), (b"raw", kinds.TEXT), ("\ud800", kinds.TEXT), (object(), kinds.JSON),
            ({1, object()}, kinds.MSGPACK), (2**70, kinds.MSGPACK), (b"", kinds.CBOR), (b"", 64),
            ("\ud800", kinds.JSON),
        ]  # fmt: skip
        for value, codec in wrong:
            self.assertRaises(BadBody, encode_body, value, codec)

    @given(st.binary(max_size=30), st.integers(0, 8))
    @runs(200)
    def test_garbage_is_a_bad_body_and_nothing_else(self, body: bytes, codec: int) -> None:
        """Whatever the bytes."""
        try:
            decode_body(body, codec)
        except BadBody:
            return
        self.assertIn(codec, (kinds.RAW, kinds.TEXT, kinds.JSON, kinds.MSGPACK))

    def test_deep_nesting_is_a_bad_body(self) -> None:
        """Not a RecursionError."""
        self.assertRaises(BadBody, decode_body, b"[" * 100_000, kinds.JSON)
        self.assertRaises(BadBody, decode_body, b"\x91" * 100_000, kinds.MSGPACK)

    def test_the_codec_follows_from_the_value(self) -> None:
        """bytes: raw; str: text; anything else: JSON."""
        self.assertEqual(body_of(bytearray(b"x")), (b"x", kinds.RAW))
        self.assertEqual(body_of("é"), ("é".encode(), kinds.TEXT))
        self.assertEqual(body_of({"a": 1}), (b'{"a":1}', kinds.JSON))
        self.assertEqual(body_of(None), (b"null", kinds.JSON))
        self.assertRaises(BadBody, body_of, object())
        self.assertRaises(BadBody, body_of, "\ud800")
