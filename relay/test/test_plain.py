"""Compiled plain frames (``relay/wire/_plain.c``) beside their plain twin, the pure Python of ``relay.wire.binary``."""

from __future__ import annotations

import contextlib
import itertools
import struct
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import SkipTest, mock

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import RelayError
from relay.wire import binary, kinds, plain
from relay.wire.binary import BinaryDecoder, encode_frame, encode_stream
from relay.wire.message import Message, Sender

HEADER = struct.Struct(">IBBHIBBH")


def frame_of(kind: int, codec: int, flags: int, seq: int, name: bytes, fields: bytes, body: bytes, more: int) -> bytes:
    """A frame; its length is wrong by ``more``."""
    length = max(0, min(0xFFFFFFFF, 12 + len(name) + len(fields) + len(body) + more))
    return HEADER.pack(length, kind, codec, flags, seq, len(name), 0, len(fields)) + name + fields + body


names = st.one_of(st.text(max_size=8).map(str.encode), st.binary(max_size=8), st.just(b"n" * 255))
frames = st.builds(
    frame_of,
    st.integers(0, 255),
    st.integers(0, 255),
    st.one_of(st.integers(0, 255), st.integers(0, 0xFFFF)),
    st.integers(0, 0xFFFFFFFF),
    names,
    st.one_of(st.just(b""), st.just(b""), st.just(b"\x01\x00\x01x"), st.binary(max_size=6)),
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1, -13, 2**31, 2**32]),
)
streams = st.lists(st.one_of(frames, frames, frames, st.binary(max_size=20)), max_size=6).map(b"".join)


def plain_take(data: bytes, at: int, length_max: int, make: Callable[..., Any], messages: list[Any]) -> int:
    """The plain twin of ``take``, step by step."""
    while len(data) - at >= 16:
        length, kind, codec, flags, seq, name_bytes, _, field_bytes = HEADER.unpack_from(data, at)
        end, name_at, body_at = at + 4 + length, at + 16, at + 16 + name_bytes
        if end > len(data) or length > length_max or body_at > end or flags > 0xFF or field_bytes:
            break
        try:
            name = data[name_at:body_at].decode()
        except UnicodeDecodeError:
            break
        messages.append(make(kind, name, data[body_at:end], codec, flags, seq))
        at = end
    return at


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """What comes of a call: its result, or the error that a peer or a caller would see."""
    try:
        return "result", call()
    except RelayError as error:
        return type(error).__name__, str(error)


class Odd(str):
    """A text that is not exactly one."""


class PlainTests(SynchronousTestCase):
    """The compiled functions give what pure Python gives."""

    def setUp(self) -> None:
        if plain.take is None or plain.frame is None:
            raise SkipTest("relay was installed without a C compiler, or RELAY_PURE is set")
        self.take = plain.take
        self.frame = plain.frame

    @settings(max_examples=500, deadline=None)
    @given(streams, st.integers(0, 30), st.sampled_from([-1, 0, 12, 30, 1 << 20, sys.maxsize]))
    def test_take(self, data: bytes, at: int, length_max: int) -> None:
        """Any bytes, from anywhere in them: the same messages, and the same place where it ends."""
        at = min(at, len(data))
        found: list[Message] = []
        expected: list[Message] = []
        end = self.take(data, at, length_max, Message, found)
        self.assertEqual(end, plain_take(data, at, length_max, Message, expected))
        self.assertEqual(found, expected)

    @settings(max_examples=300, deadline=None)
    @given(streams, st.lists(st.integers(0, 200), max_size=6), st.sampled_from([16, 60, 1 << 20]))
    def test_decoder(self, data: bytes, cuts: list[int], length_max: int) -> None:
        """A decoder with compiled code and one without: the same messages, error and rest, however the bytes come."""
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

        def decoded() -> tuple[Any, ...]:
            decoder = BinaryDecoder(length_max)
            found = []
            for start, stop in itertools.pairwise(edges):
                if decoder.failed is None:
                    found.append(decoder.receive(data[start:stop]))
            return found, type(decoder.failed), str(decoder.failed), bytes(decoder._held)

        short = decoded()
        with mock.patch.object(binary, "compiled_take", None):
            self.assertEqual(short, decoded())

    @settings(max_examples=500, deadline=None)
    @given(
        st.builds(
            Message,
            kind=st.one_of(st.integers(-1, 256), st.sampled_from([True, 2**63, -(2**70), None, 1.5])),
            codec=st.one_of(st.integers(0, 255), st.sampled_from([256, -1, 2**64])),
            flags=st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0x10000, -1])),
            seq=st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from([2**32, -1])),
            name=st.one_of(st.text(max_size=12), st.sampled_from(["\ud800", "ü" * 127, "ü" * 128, Odd("odd"), "\0"])),
            body=st.binary(max_size=30),
            fields=st.one_of(
                st.sampled_from([None, None, {}, {kinds.TTL_MS: 5}, {kinds.OFFSET: 1, kinds.TTL_MS: 5}]),
                st.dictionaries(
                    st.sampled_from([kinds.REACHED, kinds.OFFSET, kinds.EPOCH, kinds.RECEIVED]),
                    st.one_of(
                        st.integers(0, 2**64 - 1), st.integers(0, 300), st.text(max_size=20),
                        st.sampled_from([-1, 2**64, True, None, 1.5, "\ud800", Odd("odd"), "e" * 0x10000, b"e"]),
                    ),
                ),
                st.builds(
                    lambda reached, offset, epoch: {**reached, kinds.OFFSET: offset, kinds.EPOCH: epoch},
                    st.sampled_from([{}, {kinds.REACHED: 0}, {kinds.REACHED: 300}]),
                    st.integers(0, 2**64),
                    st.one_of(st.text(max_size=20), st.just("e" * 0xFFF0)),
                ),
            ),
            sender=st.sampled_from(
                [None, None, Sender("r", "u", "s"), Sender("r", "u", "s", "", b"\x06\x00\x01u", b""),
                 Sender("r", "u", "s", "", bytes(0x10000), b"")]
            ),
        )
    )
    @example(Message(1, "n", bytearray(b"x")))  # type: ignore[arg-type]  # what is not exactly bytes
    def test_encode(self, message: Message) -> None:
        """Any message, also one that cannot be written: the same bytes, or the same error."""
        for encode in (encode_stream, encode_frame):
            short = outcome(partial(encode, message))
            with mock.patch.object(binary, "compiled_frame", None):
                self.assertEqual(short, outcome(partial(encode, message)))

    def test_usual_messages_are_compiled(self) -> None:
        """A message without fields needs no Python, in either direction; nor does an event or answer with a place."""
        message = Message(kinds.PULL, "a.b", b"body", kinds.TEXT, kinds.MORE, 7)
        data = self.frame(kinds.PULL, kinds.TEXT, kinds.MORE, 7, "a.b", b"body", None, None)
        found: list[Message] = []
        assert data is not None
        self.assertEqual((self.take(data * 3, 0, 100, Message, found), found), (len(data) * 3, [message] * 3))
        for place in ({kinds.OFFSET: 70_000, kinds.EPOCH: "e"}, {kinds.REACHED: 3, kinds.OFFSET: 1, kinds.EPOCH: "e"}):
            self.assertIsNotNone(self.frame(kinds.EVENT, 0, 0, 0, "a.b", b"body", b"\x06\x00\x01u", place))

    def test_wrong_arguments(self) -> None:
        """Anything but the types that they are made for is a TypeError, and nothing is read."""
        take: Any = self.take
        frame: Any = self.frame
        wrong: tuple[Any, ...]
        for wrong in ((), (bytearray(b"x"), 0, 1, Message, []), (b"", 0, 1, Message, ()), (b"", "0", 1, Message, [])):
            self.assertRaises(TypeError, take, *wrong)
        self.assertRaises(TypeError, frame, 1, 2)
        for at in (-1, 1, 5):
            self.assertRaises(ValueError, take, b"", at, 1, Message, [])
        self.assertRaises(OverflowError, take, b"", 2**70, 1, Message, [])

    def test_an_error_of_make_is_raised(self) -> None:
        """What ``make`` raises comes out; messages before it stay."""
        data = frame_of(1, 0, 0, 0, b"", b"", b"", 0)
        found: list[Any] = []

        def make(*fields: Any) -> Any:
            if found:
                raise ZeroDivisionError
            return fields

        self.assertRaises(ZeroDivisionError, self.take, data * 3, 0, 100, make, found)
        self.assertEqual(found, [(1, "", b"", 0, 0, 0)])

    def test_nothing_is_kept(self) -> None:
        """No reference is lost or kept, whatever way a call ends."""
        good = frame_of(18, 200, 0xFF, 2**31, b"name", b"", b"body" * 100, 0)
        cases = (good * 2, good + good[:-1], frame_of(1, 0, 0, 0, b"\xff", b"", b"", 0), good + b"\xff" * 20)
        body, name = b"body" * 100, "näme" * 2

        def fail(*_: Any) -> Any:
            raise ZeroDivisionError

        def round_() -> None:
            wrong: tuple[Any, ...]
            for data in cases:
                self.take(data, 0, 1 << 20, Message, [])
                for wrong in ((data, 0, 1 << 20, fail, []), (data, -1, 1, Message, [])):
                    with contextlib.suppress(ZeroDivisionError, ValueError):
                        self.take(*wrong)
            fields: Any
            for fields in (
                (18, 1, 1, 1, name, body, None, None),
                (18, 1, 1, 1, name, body, body, {kinds.REACHED: 2**40, kinds.OFFSET: 2**40, kinds.EPOCH: name}),
                (18, 1, 1, 1, name, body, body, {kinds.OFFSET: 1, kinds.EPOCH: "\ud800"}),
                (18, 1, 1, 1, name, body, name, {kinds.EPOCH: 1}),
                (256, 1, 1, 1, name, body, None, None),
                (1, 1, 1, 1, "\ud800", body, None, None),
            ):
                self.frame(*fields)

        round_()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        counts = [sys.getrefcount(each) for each in (*cases, body, name, Message)]
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(500):
            round_()
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 20_000)
        self.assertEqual([sys.getrefcount(each) for each in (*cases, body, name, Message)], counts)


class ChoiceTests(SynchronousTestCase):
    """When compiled code is used."""

    def test_turned_off(self) -> None:
        """``RELAY_PURE`` turns it off; so does a build of another version."""
        with mock.patch.dict("os.environ", {"RELAY_PURE": "1"}):
            self.assertEqual(plain._compiled(), (None, None))
        with mock.patch.object(plain, "VERSION", 0):
            self.assertEqual(plain._compiled(), (None, None))

    def test_pure_python_alone(self) -> None:
        """Without it everything is there."""
        with mock.patch.multiple(binary, compiled_take=None, compiled_frame=None):
            message = Message(kinds.PUSH, "n", b"b")
            self.assertEqual(BinaryDecoder().receive(encode_stream(message)), [message])
