"""Hooks of plugins: composed, in order, refusing what they refuse, and never the reason that anything else stops."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay import hooks as hooks_module
from relay.core import coroutines
from relay.errors import ConfigError, Denied, Refused
from relay.hooks import HOOKS, Hooks
from relay.test.fakes_app import FakeNode, FakePeer, FakeSession
from relay.wire import kinds
from relay.wire.message import Message


class Plugin:
    """A plugin with the hooks it is given."""

    def __init__(self, name: str = "p", **hooks: Any) -> None:
        self.name = name
        self.__dict__.update(hooks)


def message(text: str = "") -> Message:
    return Message(kinds.PUBLISH, "room.1", text.encode())


def adding(text: str):
    """A hook that appends to the body."""

    def hook(session: Any, given: Message) -> Message:
        return Message(given.kind, given.name, given.body + text.encode())

    return hook


def adding_later(text: str, gate: Deferred[None]):
    async def hook(session: Any, given: Message) -> Message:
        await gate
        return Message(given.kind, given.name, given.body + text.encode())

    return hook


class HooksTestCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.session = FakeSession()

    def hooks(self, *plugins: Plugin) -> Any:  # Any: sessions are fakes, and tests know which hooks are there
        return Hooks(self.clock, 100, plugins)

    def texts(self, contains: str) -> list[str]:
        """The log lines with ``contains`` in them."""
        return [text for event in self.events if contains in (text := formatEvent(event))]

    def observe(self):
        """Keep log events from now on."""
        self.events: list[Any] = []
        observer: Any = self.events.append  # Any: ILogObserver is any callable
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)


class CompositionTests(HooksTestCase):
    """What the core finds."""

    def test_none_without_plugins(self):
        """A hook that no plugin has is None."""
        hooks = self.hooks(Plugin(before_message=adding("a")))
        for name in HOOKS:
            if name != "before_message":
                self.assertIsNone(getattr(hooks, name), name)
        self.assertIsNotNone(hooks.before_message)

    def test_rewritten_in_order(self):
        """Each plugin gets what the one before it made; the result is there at once."""
        hooks = self.hooks(Plugin("a", before_publish=adding("a")), Plugin(), Plugin("b", before_publish=adding("b")))
        result = hooks.before_publish(self.session, message(">"))
        self.assertIsInstance(result, Message)
        self.assertEqual(result.body, b">ab")

    def test_none_is_unchanged(self):
        """A hook that returns None leaves the message as it was."""
        hooks = self.hooks(Plugin(before_message=lambda s, m: None))
        given = message("x")
        self.assertIs(hooks.before_message(self.session, given), given)

    def test_coroutine_without_wait(self):
        """An asynchronous hook that does not suspend gives its result at once."""

        async def hook(session: Any, given: Message) -> Message:
            return message("new")

        hooks = self.hooks(Plugin(before_message=hook), Plugin("b", before_message=adding("b")))
        result = hooks.before_message(self.session, message())
        self.assertIsInstance(result, Message)
        self.assertEqual(result.body, b"newb")

    def test_coroutine_that_waits(self):
        """One that suspends gives a Deferred; the plugins after it are asked when it is done."""
        gate: Deferred[None] = Deferred()
        hooks = self.hooks(
            Plugin("a", before_message=adding("a")),
            Plugin("b", before_message=adding_later("b", gate)),
            Plugin("c", before_message=adding_later("c", gate)),
            Plugin("d", before_message=adding("d")),
        )
        result = hooks.before_message(self.session, message())
        self.assertNoResult(result)
        gate.callback(None)
        self.assertEqual(self.successResultOf(result).body, b"abcd")

    def test_checks(self):
        """``accept`` and ``before_subscribe`` are asked one after the other, plain or not."""
        asked: list[Any] = []
        gate: Deferred[None] = Deferred()

        async def waits(*args: Any) -> None:
            asked.append("waits")
            await gate

        hooks = self.hooks(
            Plugin("a", accept=lambda peer: asked.append(peer.address)),
            Plugin("b", accept=waits, before_subscribe=lambda *args: asked.append(args[1:])),
            Plugin("c", accept=lambda peer: asked.append("c")),
        )
        self.assertIsNone(hooks.before_subscribe(self.session, "room.*", None))
        self.assertEqual(asked, [("room.*", None)])
        result = hooks.accept(FakePeer())
        self.assertNoResult(result)
        self.assertEqual(asked[1:], ["127.0.0.1", "waits"])
        gate.callback(None)
        self.assertIsNone(self.successResultOf(result))
        self.assertEqual(asked[3:], ["c"])


class RefusalTests(HooksTestCase):
    """A hook that raises."""

    def test_relay_error_passes(self):
        """A ``RelayError`` refuses with its own code, is counted and not logged."""

        def hook(session: Any, given: Message) -> Message:
            raise Denied("not you")

        hooks = self.hooks(Plugin("mod", before_publish=hook), Plugin(before_publish=adding("never")))
        for _ in range(3):
            self.assertRaises(Denied, hooks.before_publish, self.session, message())
        self.assertEqual(hooks.errors["mod.before_publish"], 3)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_other_errors_refuse(self):
        """Any other exception refuses that one message with ``Refused``; tracebacks are logged now and then."""

        def hook(session: Any, given: Message) -> Message:
            raise KeyError("secret detail")

        hooks = self.hooks(Plugin("mod", before_message=hook))
        for _ in range(5):
            error = self.assertRaises(Refused, hooks.before_message, self.session, message())
            self.assertNotIn("secret", str(error))
        self.assertEqual(hooks.errors["mod.before_message"], 5)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.clock.advance(2)
        self.assertRaises(Refused, hooks.before_message, self.session, message())
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_later_errors_refuse(self):
        """The same for a hook that raises after it waited."""
        gate: Deferred[None] = Deferred()

        async def hook(session: Any, given: Message) -> Message:
            await gate
            raise KeyError("x")

        hooks = self.hooks(Plugin("mod", before_message=hook))
        result = hooks.before_message(self.session, message())
        gate.callback(None)
        self.failureResultOf(result, Refused)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(hooks.errors["mod.before_message"], 1)

    def test_wrong_results_refuse(self):
        """A hook that returns something else than a message refuses: nobody knows what it meant."""
        hooks = self.hooks(Plugin("mod", before_message=lambda s, m: False, accept=lambda peer: False))
        self.failureResultOf(hooks.before_message(self.session, message()), Refused)
        self.failureResultOf(hooks.accept(FakePeer()), Refused)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)

    def test_lifecycle_errors_refuse_nothing(self):
        """Hooks about the life of a session are all called, whatever one of them does."""
        called: list[str] = []

        def bad(*args: Any) -> None:
            raise KeyError("x")

        async def also_bad(*args: Any) -> None:
            raise Denied("x")

        hooks = self.hooks(
            Plugin("a", session_started=bad, session_ended=also_bad, after_message=bad, session_resumed=bad, tick=bad),
            Plugin(
                "b",
                session_started=lambda s: called.append("started"),
                session_resumed=lambda s: called.append("resumed"),
                session_ended=lambda s, text: called.append(text),
                after_message=lambda s, m: called.append(m.name),
                tick=lambda now: called.append(str(now)),
            ),
        )
        hooks.session_started(self.session)
        hooks.session_resumed(self.session)
        hooks.after_message(self.session, message())
        hooks.tick(7.0)
        hooks.session_ended(self.session, "gone")
        self.assertEqual(called, ["started", "resumed", "room.1", "7.0", "gone"])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 4)
        self.assertEqual(sum(hooks.errors.values()), 5)


class BackgroundTests(HooksTestCase):
    """Hooks that nobody waits for."""

    def test_stop_cancels(self):
        """Stopping the node cancels what hooks still do, and stops the plugins, the last first."""
        seen: list[str] = []
        never: Deferred[None] = Deferred()

        async def hook(session: Any) -> None:
            try:
                await never
            except CancelledError:
                seen.append("cancelled")
                raise

        async def stop() -> None:
            seen.append("a stopped")

        hooks = self.hooks(Plugin("a", session_started=hook, stop=stop), Plugin("b", stop=lambda: seen.append("b")))
        hooks.session_started(self.session)
        self.successResultOf(Deferred.fromCoroutine(hooks.stop()))
        self.assertEqual(seen, ["cancelled", "b", "a stopped"])

    def test_background_is_bounded(self):
        """Over the limit a hook is not called, and counted as an error."""
        self.patch(hooks_module, "BACKGROUND_MAX", 3)
        waiting: list[Deferred[None]] = []

        async def hook(session: Any) -> None:
            waiting.append(Deferred())
            await waiting[-1]

        hooks = self.hooks(Plugin("a", session_started=hook))
        for _ in range(5):
            hooks.session_started(self.session)
        self.assertEqual((len(waiting), hooks.errors["a.session_started"]), (3, 2))
        waiting[0].callback(None)
        hooks.session_started(self.session)
        self.assertEqual(len(waiting), 4)

    def test_ticks_do_not_pile_up(self):
        """A plugin whose last tick is under way is not asked again before it is over."""
        waiting: list[Deferred[None]] = []

        async def tick(now_s: float) -> None:
            waiting.append(Deferred())
            await waiting[-1]

        hooks = self.hooks(Plugin("a", tick=tick))
        hooks.tick(1.0)
        hooks.tick(2.0)
        self.assertEqual(len(waiting), 1)
        waiting[0].callback(None)
        hooks.tick(3.0)
        self.assertEqual(len(waiting), 2)

    def test_start(self):
        """Plugins are started in order, with the node; one that cannot start names itself and stops those before it."""
        seen: list[Any] = []
        node = FakeNode()

        def fails(node: Any) -> None:
            raise OSError("no such database")

        good = Plugin("good", start=seen.append, stop=lambda: seen.append("stopped"))
        self.successResultOf(Deferred.fromCoroutine(self.hooks(good, Plugin()).start(node)))
        self.assertEqual(seen, [node])
        bad = self.hooks(good, Plugin("bad", start=fails))
        error = self.failureResultOf(Deferred.fromCoroutine(bad.start(node)), ConfigError)
        self.assertIn("bad", str(error.value))
        self.assertEqual(seen, [node, node, "stopped"])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class SlowTests(HooksTestCase):
    """Hooks that take too long are reported with their name and time."""

    def setUp(self):
        super().setUp()
        self.observe()

    def test_plain(self):
        """A plain hook that blocks is reported, now and then."""

        def hook(session: Any, given: Message) -> None:
            self.clock.advance(0.25)

        hooks = self.hooks(Plugin("mod", before_message=hook))
        for _ in range(3):
            hooks.before_message(self.session, message())
        self.assertEqual(len(self.texts("slow: mod.before_message took 250 ms, 250 ms of them")), 1)
        self.assertEqual(hooks.seconds["mod.before_message"], 0.75)

    def test_fast(self):
        """A hook within the limit is not reported."""
        hooks = self.hooks(Plugin("mod", before_message=lambda s, m: self.clock.advance(0.05)))
        hooks.before_message(self.session, message())
        self.assertEqual(self.texts("slow"), [])

    def test_waiting(self):
        """One that waits is reported while it waits, and again when it is over."""
        gate: Deferred[None] = Deferred()
        hooks = self.hooks(Plugin("mod", before_message=adding_later("x", gate)))
        result = hooks.before_message(self.session, message())
        self.clock.advance(0.05)
        self.assertEqual(self.texts("slow"), [])
        self.clock.advance(0.05)
        self.assertEqual(len(self.texts("slow: mod.before_message is still under way after 100 ms")), 1)
        self.clock.advance(10)
        self.assertEqual(len(self.texts("slow")), 1)
        gate.callback(None)
        self.successResultOf(result)
        self.assertEqual(len(self.texts("slow: mod.before_message took 10100 ms, 0 ms of them")), 1)

    def test_waiting_shortly(self):
        """One that is over in time is not reported, and leaves no timer behind for long."""
        gate: Deferred[None] = Deferred()
        hooks = self.hooks(Plugin("mod", before_message=adding_later("x", gate)))
        self.clock.advance(1)
        hooks.before_message(self.session, message())
        self.clock.advance(0.05)
        gate.callback(None)
        self.clock.pump([0.05] * 10)
        self.assertEqual(self.texts("slow"), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RunTests(SynchronousTestCase):
    """``coroutines.run`` is ``Deferred.fromCoroutine`` without the Deferred, where none is needed."""

    def test_result_and_error_at_once(self):
        """A coroutine that does not wait is a plain call."""

        async def result() -> int:
            return 5

        async def error() -> int:
            raise KeyError("x")

        self.assertEqual(coroutines.run(result()), 5)
        self.assertRaises(KeyError, coroutines.run, error())

    def test_agrees_with_twisted(self):
        """Values, failures and cancellation reach the coroutine as they do through ``Deferred.fromCoroutine``."""

        async def body(first: Deferred[int], second: Deferred[int], seen: list[Any]) -> Any:
            seen.append(await first)
            try:
                seen.append(await second)
            except CancelledError:
                seen.append("cancelled")
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is
                seen.append(repr(error))
            return "end"

        def value(first: Deferred[int], second: Deferred[int], whole: Deferred[Any]) -> None:
            second.callback(2)
            first.callback(1)

        def failure(first: Deferred[int], second: Deferred[int], whole: Deferred[Any]) -> None:
            first.callback(1)
            second.errback(KeyError("k"))

        def cancel(first: Deferred[int], second: Deferred[int], whole: Deferred[Any]) -> None:
            first.callback(1)
            whole.cancel()

        def cancel_first(first: Deferred[int], second: Deferred[int], whole: Deferred[Any]) -> None:
            whole.cancel()

        for script in (value, failure, cancel, cancel_first):
            outcomes = []
            for start in (Deferred.fromCoroutine, coroutines.run):
                first: Deferred[int] = Deferred()
                second: Deferred[int] = Deferred()
                seen: list[Any] = []
                whole: Any = start(body(first, second, seen))
                script(first, second, whole)
                ended: list[Any] = []
                whole.addBoth(lambda result, ended=ended: ended.append(repr(getattr(result, "value", result))))
                outcomes.append((seen, ended))
            self.assertEqual(outcomes[0], outcomes[1], script.__name__)
            self.assertEqual(len(outcomes[0][1]), 1)
