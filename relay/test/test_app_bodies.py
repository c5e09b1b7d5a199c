"""Bodies become arguments, results become bodies."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from relay.app import (
    Context,
    Reply,
    route,
)
from relay.app_bodies import Arguments
from relay.errors import (
    BadBody,
    FilterError,
    InternalError,
)
from relay.test.app_fixture import AppTestCase, Point
from relay.wire import kinds
from relay.wire.message import Message


@route("")
class Bodies:
    """Arguments and results."""

    def nothing(self) -> str:
        return "nothing"

    def raw(self, body: bytes) -> bytes:
        return body[::-1]

    def text(self, body: str) -> str:
        return body.upper()

    def point(self, point: Point) -> Point:
        return Point(point.y, point.x)

    def numbers(self, numbers: list[int]) -> int:
        return sum(numbers)

    def anything(self, value: Any) -> str:
        return type(value).__name__

    def default(self, value: int = 7) -> int:
        return value

    def several(self, x: int, y: int = 2, *, tags: list[str] = []) -> list[Any]:  # noqa: B006 - as an application may
        return [x, y, tags]

    def context(self, ctx: Context, x: int) -> list[Any]:
        return [ctx.user, ctx.route, ctx.metadata, x]

    def named(self, *, body: bytes) -> bytes:
        return body

    def spare(self, body: bytes = b"spare") -> bytes:
        return body

    def untyped(self, ctx, x):
        return [ctx.user, x]

    def maybe(self, x: int | None = None) -> int | None:
        return x

    def reply(self) -> Reply:
        return Reply(b"\x01", kinds.CBOR, {"k": "v"})

    def unwritable(self) -> object:
        return object()


class BodyTests(AppTestCase):
    """From bodies to arguments, from results to bodies."""

    def setUp(self):
        super().setUp()
        self.app.add(Bodies())

    def test_whole_body(self):
        """One parameter is the whole body."""
        self.assertEqual(self.result("point", {"x": 1, "y": 2}), {"x": 2, "y": 1})
        self.assertEqual(self.result("numbers", [1, 2, 3]), 6)
        self.assertEqual(self.result("anything", {"a": 1}), "dict")
        self.assertEqual(self.result("default", 5), 5)
        self.assertEqual(self.result("default"), 7)
        self.assertEqual(self.result("maybe", None), None)
        self.assertEqual(self.result("nothing", {"not": "looked at"}), "nothing")

    def test_keys(self):
        """Several parameters are the keys of an object; unknown keys are ignored."""
        self.assertEqual(self.result("several", {"x": 1}), [1, 2, []])
        self.assertEqual(self.result("several", {"x": 1, "y": 3, "tags": ["a"], "z": 0}), [1, 3, ["a"]])
        self.assertEqual(self.result("context", 5), ["ann", "context", {}, 5])
        self.assertEqual(self.result("untyped", 5), ["ann", 5])

    def test_msgpack(self):
        """A caller that speaks MessagePack gets MessagePack."""
        body = msgspec.msgpack.encode({"x": 1, "y": 2})
        for name, expected in [("point", {"x": 2, "y": 1}), ("several", [1, 2, []])]:
            reply, codec, _ = self.call(name, body, kinds.MSGPACK).replies[0]
            self.assertEqual((msgspec.msgpack.decode(reply), codec), (expected, kinds.MSGPACK))

    @given(
        st.sampled_from([name for name, _ in inspect.getmembers(Bodies, inspect.isfunction) if name != "unwritable"]),
        st.one_of(st.binary(max_size=6), st.sampled_from([b"", b"5", b'"ab"', b'{"x": 1, "y": 2}', b"[1]", b"null"])),
        st.integers(0, 5),
    )
    def test_call_as_its_plain_twin(self, name: str, body: bytes, codec: int) -> None:
        """A call by position gives what the call with the dictionary of arguments gives, errors too."""
        function = getattr(Bodies(), name)
        arguments = Arguments(function, Context, name)
        context: Any = Context(self.app, self.session, Message(kinds.PULL), name)

        def outcome(call: Any) -> tuple[str, Any]:
            try:
                return "result", call()
            except BadBody as error:
                return "error", str(error)

        plain = outcome(lambda: function(**arguments.read(body, codec, context)))
        fast = outcome(lambda: arguments.call(function, body, codec, context))
        self.assertEqual(repr(fast), repr(plain))

    def test_raw_and_text(self):
        """bytes are the body as it is; a string is text, or what JSON and MessagePack hold."""
        self.assertEqual(self.call("raw", b"\x00\xff", kinds.RAW).replies, [(b"\xff\x00", kinds.RAW, False)])
        self.assertEqual(self.call("raw", b"[1]", kinds.JSON).replies, [(b"]1[", kinds.RAW, False)])
        self.assertEqual(self.call("text", b"ab", kinds.TEXT).replies, [(b"AB", kinds.TEXT, False)])
        self.assertEqual(self.call("text", b"ab", kinds.RAW).replies, [(b"AB", kinds.TEXT, False)])
        self.assertEqual(self.call("text", b'"ab"', kinds.JSON).replies, [(b'"AB"', kinds.JSON, False)])
        self.assertEqual(self.call("text").replies, [(b"", kinds.TEXT, False)])
        self.assertEqual(self.call("raw").replies, [(b"", kinds.RAW, False)])
        self.assertEqual(self.call("anything", b"x", kinds.RAW).replies[0][0], b"bytes")

    def test_bad_bodies(self):
        """A body that does not fit is ``bad_body``, and the method is not called."""
        for name, body, codec in [
            ("point", b"{", kinds.JSON),
            ("point", b"", kinds.JSON),
            ("point", b'{"x": "1"}', kinds.JSON),
            ("point", b"[" * 100_000, kinds.JSON),
            ("point", b"\xc1", kinds.MSGPACK),
            ("point", b"x", kinds.RAW),
            ("point", b"x", kinds.TEXT),
            ("point", b"x", kinds.CBOR),
            ("several", b"", kinds.JSON),
            ("several", b"[1]", kinds.JSON),
            ("several", b"x", kinds.TEXT),
            ("text", b"\xff", kinds.TEXT),
            ("text", b"5", kinds.JSON),
            ("text", b'"\xff"', kinds.JSON),
        ]:
            answer = self.call(name, body, codec)
            self.assertIsInstance(answer.error, BadBody, (name, body[:9], codec))
            self.assertEqual(answer.replies, [])
        self.assertEqual(sum(self.app.errors.values()), 0)

    def test_reply(self):
        """A ``Reply`` says codec and metadata itself."""
        answer = self.call("reply")
        self.assertEqual(answer.replies, [(b"\x01", kinds.CBOR, False)])
        self.assertEqual(answer.fields, [{kinds.METADATA: {"k": "v"}}])

    def test_unwritable_result(self):
        """A result that cannot be written is the handler's mistake: ``internal``."""
        self.assertIsInstance(self.call("unwritable").error, InternalError)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_filtered_body(self):
        """A body under a transfer filter is not taken for the body itself."""
        answer = self.call("raw", b"x", fields={kinds.FILTERS: (1,)})
        self.assertIsInstance(answer.error, FilterError)
