"""Handlers under way: errors, waiting, cancelling, several replies, and what the context gives them."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from relay.app import (
    GIVE_WAY_S,
    QUEUED_BYTES_MAX,
    REPLIES_PER_TURN_MAX,
    Context,
)
from relay.errors import (
    ApplicationError,
    BadBody,
    Cancelled,
    Denied,
    FilterError,
    InternalError,
    NoProvider,
    Unavailable,
)
from relay.test.app_fixture import AppTestCase, Point
from relay.wire import kinds
from relay.wire.message import Message


class Fails:
    """Errors of several kinds."""

    def __init__(self) -> None:
        self.gate: Deferred[None] = Deferred()

    def denied(self) -> None:
        raise Denied("not you")

    def own(self) -> None:
        raise ApplicationError("no such room", app_code=1404, data={"room": 1})

    def broken(self) -> None:
        raise KeyError("secret detail")

    def deep(self) -> None:
        self.deep()

    async def later_own(self) -> None:
        await self.gate
        raise ApplicationError("later", app_code=1001)

    async def later_broken(self) -> None:
        await self.gate
        raise KeyError("secret detail")

    async def cancelled_inside(self) -> None:
        waiting: Deferred[None] = Deferred()
        waiting.cancel()
        await waiting


class ErrorTests(AppTestCase):
    """Errors of handlers."""

    def setUp(self):
        super().setUp()
        self.handlers = Fails()
        self.app.add(self.handlers)

    def error(self, name: str) -> Any:
        answer = self.call(f"fails.{name}")
        if answer.error is None and not self.handlers.gate.called:
            self.handlers.gate.callback(None)
        return answer.error

    def test_relay_errors_pass(self):
        """A ``RelayError`` reaches the caller as it is, with code and data, and is no failure."""
        self.assertIsInstance(self.error("denied"), Denied)
        error = self.error("own")
        self.assertEqual((error.app_code, error.data, str(error)), (1404, {"room": 1}, "no such room"))
        error = self.error("later_own")
        self.assertEqual(error.app_code, 1001)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(sum(self.app.errors.values()), 0)

    def test_other_errors_are_internal(self):
        """Anything else is ``internal`` to the caller, counted, and logged once with its traceback."""
        for name in ("broken", "later_broken"):
            error = self.error(name)
            self.assertIsInstance(error, InternalError)
            self.assertEqual(error.outcome, "unknown")
            self.assertNotIn("secret", str(error))
            failures = self.flushLoggedErrors(KeyError)
            self.assertEqual(len(failures), 1)
            self.assertIn("secret detail", failures[0].getTraceback())
            self.assertEqual(self.app.errors[f"fails.{name}"], 1)

    def test_many_errors(self):
        """A handler that always fails does not fill the log: a line a second says how many more there were."""
        for _ in range(100):
            self.error("broken")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.clock.advance(1)
        self.error("broken")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.app.errors["fails.broken"], 101)
        self.assertEqual(len(self.texts("99 more times")), 1)

    def test_endless_recursion(self):
        """A handler that calls itself for ever fails like any other."""
        self.assertIsInstance(self.error("deep"), InternalError)
        self.assertEqual(len(self.flushLoggedErrors(RecursionError)), 1)

    def test_cancelled_inside(self):
        """A cancellation that is not the caller's is an error of the handler."""
        self.assertIsInstance(self.error("cancelled_inside"), InternalError)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_pushes(self):
        """A push is refused by what its handler raises at once; what it raises later is only logged and counted."""
        self.assertRaises(Denied, self.told, "fails.denied")
        self.assertRaises(InternalError, self.told, "fails.broken")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.told("fails.later_broken")
        self.told("fails.later_own")
        self.handlers.gate.callback(None)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((self.app.errors["fails.later_broken"], self.app.running), (1, 0))
        self.assertEqual(self.flushLoggedErrors(), [])


class Waits:
    """Handlers that take their time."""

    def __init__(self) -> None:
        self.gate: Deferred[str] = Deferred()
        self.seen: list[str] = []

    async def at_once(self) -> str:
        return "at once"

    async def later(self) -> str:
        try:
            return await self.gate
        except CancelledError:
            self.seen.append("cancelled")
            raise

    async def stubborn(self) -> str:
        try:
            await self.gate
        except CancelledError:
            self.seen.append("ignored")
        return "too late"

    def deferred(self) -> Deferred[str]:
        return self.gate

    async def asks(self, ctx: Context) -> str:
        point = await ctx.pull("where", {"map": 1}, type=Point, deadline_s=2)
        return f"{point.x}/{point.y}"

    async def sleeps(self, ctx: Context, seconds: float) -> str:
        await ctx.sleep(seconds)
        return "awake"

    def blocks(self, ctx: Context) -> None:
        ctx._application.clock.advance(0.25)  # type: ignore[attr-defined]  # it is a Clock

    async def blocks_then_waits(self, ctx: Context) -> None:
        ctx._application.clock.advance(0.25)  # type: ignore[attr-defined]  # it is a Clock
        await ctx.sleep(1)


class WaitingTests(AppTestCase):
    """Coroutines."""

    def setUp(self):
        super().setUp()
        self.handlers = Waits()
        self.app.add(self.handlers)

    def test_at_once(self):
        """A coroutine that does not wait has answered when the call returns."""
        self.assertEqual(self.result("waits.at_once"), "at once")
        self.assertEqual(self.app.running, 0)

    def test_later(self):
        """One that waits, or gives a Deferred, answers when it is done."""
        for name in ("later", "deferred"):
            self.handlers.gate = Deferred()
            answer = self.call(f"waits.{name}")
            self.assertEqual((answer.done, self.app.running), (False, 1))
            self.handlers.gate.callback("later")
            self.assertEqual(answer.replies, [(b"later", kinds.TEXT, False)])
            self.assertEqual(self.app.running, 0)

    def test_cancelled_with_its_caller(self):
        """When the caller cancels, leaves, or time is up, the coroutine is cancelled, and nothing is an error."""
        answer = self.call("waits.later")
        answer.cancel()
        self.assertEqual(self.handlers.seen, ["cancelled"])
        self.handlers.gate = Deferred()
        answer = self.call("waits.stubborn")
        answer.cancel()
        self.assertEqual(self.handlers.seen, ["cancelled", "ignored"])
        self.assertEqual((answer.replies, answer.error, self.app.running), ([], None, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stop(self):
        """When the node stops, handlers are cancelled, and their callers told so; new calls are refused."""
        answer = self.call("waits.later")
        self.app.stop()
        self.assertIsInstance(answer.error, Unavailable)
        assert answer.error is not None
        self.assertEqual((answer.error.outcome, self.handlers.seen), ("unknown", ["cancelled"]))
        refused = self.call("waits.at_once").error
        assert isinstance(refused, Unavailable)
        self.assertEqual((refused.outcome, refused.temporary), ("not_done", True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_running_is_bounded(self):
        """Over ``running_max`` handlers that wait, calls are refused for now; the others are not disturbed."""
        answers = [self.call("waits.later") for _ in range(10)]
        error = self.call("waits.at_once").error
        assert isinstance(error, Unavailable)
        self.assertEqual((error.temporary, error.outcome), (True, "not_done"))
        self.assertRaises(Unavailable, self.told, "waits.at_once")
        answers[0].cancel()
        self.handlers.gate = Deferred()
        self.assertEqual(self.result("waits.at_once"), "at once")

    def test_pulls_its_caller(self):
        """A handler that asks its own caller waits for the answer, and everything else goes on."""
        answer = self.call("waits.asks")
        session, message, deadline_s, waiting = self.node.pulled[0]
        self.assertIs(session, self.session)
        self.assertEqual(
            (message.name, message.body, message.codec, deadline_s), ("where", b'{"map":1}', kinds.JSON, 2)
        )
        self.assertEqual(self.result("waits.at_once"), "at once")
        waiting.callback(Message(kinds.REPLY, "", b'{"x":3,"y":4}', kinds.JSON))
        self.assertEqual(answer.replies, [(b"3/4", kinds.TEXT, False)])

    def test_caller_answers_badly(self):
        """What the caller answers wrongly, or its error, is what the handler sees."""
        for outcome, expected in [
            (Message(kinds.REPLY, "", b"[]", kinds.JSON), BadBody),
            (Message(kinds.REPLY, "", b"x", kinds.RAW, 0, 0, {kinds.FILTERS: (1,)}), FilterError),
        ]:
            answer = self.call("waits.asks")
            self.node.pulled[-1][3].callback(outcome)
            self.assertIsInstance(answer.error, expected)
        answer = self.call("waits.asks")
        self.node.pulled[-1][3].errback(Cancelled())
        self.assertIsInstance(answer.error, Cancelled)

    def test_cancel_reaches_the_question(self):
        """A handler that is cancelled while it asks its caller takes the question back."""
        answer = self.call("waits.asks")
        answer.cancel()
        self.assertEqual(self.node.taken_back, [self.node.pulled[0][3]])

    def test_sleeps(self):
        """A handler that sleeps holds nobody up."""
        answer = self.call("waits.sleeps", b"1.5")
        self.assertEqual(self.result("waits.at_once"), "at once")
        self.clock.advance(1.5)
        self.assertEqual(answer.replies, [(b'"awake"', kinds.JSON, False)])

    def test_slow(self):
        """A handler over ``slow_operation_ms`` is reported with route and time, while it waits and at its end."""
        self.call("waits.blocks")
        self.assertEqual(len(self.texts("slow: waits.blocks took 250 ms, 250 ms of them")), 1)
        self.call("waits.sleeps", b"0.05")
        self.clock.advance(0.06)
        self.assertEqual(self.texts("waits.sleeps"), [])
        self.call("waits.sleeps", b"3")
        self.clock.advance(0.1)
        self.assertEqual(len(self.texts("slow: waits.sleeps is still under way after 100 ms")), 1)
        self.clock.advance(2.9)
        self.assertEqual(len(self.texts("slow: waits.sleeps took 3000 ms, 0 ms of them")), 1)
        self.call("waits.blocks_then_waits")
        self.clock.advance(1)
        self.assertEqual(len(self.texts("slow: waits.blocks_then_waits took 1250 ms, 250 ms of them")), 1)

    def test_counted(self):
        """Calls and time are counted by route."""
        for _ in range(3):
            self.call("waits.blocks")
        self.assertEqual(self.metrics.handler_calls["waits.blocks"], 3)
        self.assertEqual(self.metrics.handler_seconds["waits.blocks"], 0.75)


class Streams:
    """Several replies."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.made = 0

    async def count(self, upto: int) -> Any:
        for number in range(upto):
            yield number

    async def paced(self, ctx: Context) -> Any:
        try:
            while True:
                yield self.made
                self.made += 1
                await ctx.sleep(1)
        finally:
            self.closed.append("paced")

    async def endless(self) -> Any:
        try:
            while True:
                self.made += 1
                yield self.made
        finally:
            self.closed.append("endless")

    async def breaks(self) -> Any:
        yield 1
        raise KeyError("x")


class StreamTests(AppTestCase):
    """Asynchronous generators."""

    def setUp(self):
        super().setUp()
        self.handlers = Streams()
        self.app.add(self.handlers)

    def test_replies(self):
        """What is yielded are replies that others follow; the end is a final, empty one."""
        answer = self.call("streams.count", b"2")
        self.assertEqual(answer.replies, [(b"0", kinds.JSON, True), (b"1", kinds.JSON, True), (b"", kinds.RAW, False)])
        answer = self.call("streams.count", b"0")
        self.assertEqual(answer.replies, [(b"", kinds.RAW, False)])

    def test_pulls_only(self):
        """Nobody would get the replies to a push."""
        self.assertRaises(NoProvider, self.told, "streams.count", b"2")

    def test_paced(self):
        """Replies go out as they are made; cancelling closes the generator."""
        answer = self.call("streams.paced")
        self.clock.pump([1, 1])
        self.assertEqual([body for body, _, _ in answer.replies], [b"0", b"1", b"2"])
        answer.cancel()
        self.assertEqual((self.handlers.closed, self.app.running), (["paced"], 0))
        self.assertEqual(self.texts("slow: streams.paced took"), [], "a stream may last")

    def test_endless(self):
        """A generator that never waits gives way after some replies, and is closed when its caller leaves."""
        answer = self.call("streams.endless")
        self.assertEqual(len(answer.replies), REPLIES_PER_TURN_MAX)
        self.clock.advance(GIVE_WAY_S)
        self.assertEqual(len(answer.replies), 2 * REPLIES_PER_TURN_MAX)
        answer.cancel()
        self.assertEqual(self.handlers.closed, ["endless"])
        self.clock.advance(1)
        self.assertEqual((len(answer.replies), self.clock.getDelayedCalls()), (2 * REPLIES_PER_TURN_MAX, []))

    def test_slow_caller(self):
        """While the caller does not take what was sent to it, or is away, nothing more is made."""
        peer = self.session.peer
        peer.queued = QUEUED_BYTES_MAX + 1
        answer = self.call("streams.endless")
        self.clock.pump([0.1] * 10)
        self.assertEqual(len(answer.replies), 1)
        self.session.peer = None
        self.clock.pump([0.1] * 10)
        self.assertEqual(len(answer.replies), 1)
        peer.queued = 0
        self.session.peer = peer
        self.clock.advance(0.1)
        self.assertEqual(len(answer.replies), REPLIES_PER_TURN_MAX)
        answer.cancel()

    def test_breaks(self):
        """An error after some replies ends them."""
        answer = self.call("streams.breaks")
        self.assertEqual(answer.replies, [(b"1", kinds.JSON, True)])
        self.assertIsInstance(answer.error, InternalError)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class Speaks:
    """Uses the context."""

    async def everything(self, ctx: Context) -> list[Any]:
        await ctx.push("told", {"a": 1}, metadata={"m": "1"})
        reached = await ctx.publish("room.1", "text")
        also = await ctx.publish("room.1", b"raw", as_caller=True)
        pair = await ctx.push_user("bob", "told", None, device="phone")
        ctx.bind("carl")
        return [reached, also, *pair, ctx.user, ctx.metadata]


class ContextTests(AppTestCase):
    """What a handler may do."""

    def setUp(self):
        super().setUp()
        self.app.add(Speaks())

    def test_all(self):
        """push, publish, push_user and bind go to the node, in the caller's codec, from nobody unless told so."""
        answer = self.call("speaks.everything", b"{}", fields={kinds.METADATA: {"k": "v"}})
        self.assertEqual(json.loads(answer.replies[0][0]), [3, 3, 2, 1, "carl", {"k": "v"}])
        session, pushed = self.node.pushed[0]
        self.assertIs(session, self.session)
        self.assertEqual(
            (pushed.kind, pushed.name, pushed.body, pushed.codec, pushed.fields),
            (kinds.PUSH, "told", b'{"a":1}', kinds.JSON, {kinds.METADATA: {"m": "1"}}),
        )
        (realm, first), (_, second) = self.node.published
        self.assertEqual(
            (realm, first.name, first.body, first.codec, first.sender),
            ("default", "room.1", b'"text"', kinds.JSON, None),
        )
        self.assertEqual((second.body, second.codec, second.sender), (b"raw", kinds.RAW, self.session.sender))
        realm, user, device, message = self.node.told[0]
        self.assertEqual(
            (realm, user, device, message.name, message.body), ("default", "bob", "phone", "told", b"null")
        )

    def test_publish_later(self):
        """A publication that is stored first is waited for."""
        self.node.later = True
        answer = self.call("speaks.everything")
        self.assertEqual(json.loads(answer.replies[0][0])[:2], [3, 3])

    def test_msgpack(self):
        """What a handler sends is in its caller's codec."""
        self.call("speaks.everything", b"\x80", kinds.MSGPACK)
        self.assertEqual(self.node.pushed[0][1].codec, kinds.MSGPACK)
