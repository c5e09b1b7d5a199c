"""What others ask of the client's core: calls to answer, pushes to take."""

from __future__ import annotations

from twisted.trial import unittest

from relay.client import effects
from relay.client.calls import Route
from relay.errors import ApplicationError, ConnectionClosed, DeadlineExceeded, LimitExceeded
from relay.test.client_fixture import Bench
from relay.wire import handshake, kinds
from relay.wire.message import Message


def pull(seq: int, name: str = "p", **fields: object) -> Message:
    """A pull as the server sends it to a provider."""
    numbered = {kinds.FIELD_NUMBERS[key]: value for key, value in fields.items()}
    return Message(kinds.PULL, name, seq=seq, fields=numbered or None)


class ProviderTests(unittest.TestCase):
    """Calls that this client answers."""

    def provide(self, name: str = "p", provider: str = "provider", calls_max: int = 100) -> Bench:
        """A bench with one registration."""
        bench = Bench(calls_max=calls_max).start()
        bench.core.registrations.join(name, provider, handshake.RegisterOptions(), bench.now)
        bench.reply(bench.last(kinds.REGISTER))
        bench.clear()
        return bench

    def test_a_pull_is_answered(self) -> None:
        """Invoke, then replies with more, then the last: all with the seq of the pull."""
        bench = self.provide()
        bench.say(pull(5))
        (invoke,) = bench.of(effects.Invoke)
        self.assertEqual(invoke.call.provider, "provider")
        bench.core.calls.reply(invoke.call, b"1", kinds.RAW, bench.now, more=True)
        bench.core.calls.reply(invoke.call, b"2", kinds.RAW, bench.now)
        bench.core.calls.reply(invoke.call, b"3", kinds.RAW, bench.now)
        self.assertEqual(
            [(each.kind, each.seq, each.flags, each.body) for each in bench.sent],
            [(kinds.REPLY, 5, kinds.MORE, b"1"), (kinds.REPLY, 5, 0, b"2")],
        )

    def test_a_providers_error_reaches_the_caller(self) -> None:
        """error: number, temporary, outcome, message and data."""
        bench = self.provide()
        bench.say(pull(5))
        error = ApplicationError("broken", app_code=1234, data={"a": 1}, temporary=True, outcome="not_done")
        bench.core.calls.fail(bench.of(effects.Invoke)[0].call, error, bench.now)
        message = bench.last(kinds.ERROR)
        self.assertEqual(message.fields, {kinds.ERROR_CODE: 1234, kinds.OUTCOME: "not_done", kinds.TEMPORARY: True})
        detail = handshake.read(message, handshake.ErrorDetail)
        self.assertEqual((message.seq, detail.message, detail.data), (5, "broken", {"a": 1}))

    def test_cancel_stops_the_call(self) -> None:
        """cancel: the shell stops, the pull is answered by cancelled, a late answer is nothing."""
        bench = self.provide()
        bench.say(pull(5), Message(kinds.CANCEL, seq=5), Message(kinds.CANCEL, seq=6))
        call = bench.of(effects.Invoke)[0].call
        self.assertEqual(bench.of(effects.Revoke), [effects.Revoke(call)])
        bench.core.calls.reply(call, b"", kinds.RAW, bench.now)
        self.assertEqual([(each.seq, each.get(kinds.ERROR_CODE)) for each in bench.sent], [(5, 34)])

    def test_the_deadline_stops_the_call(self) -> None:
        """deadline_ms: nobody waits any more."""
        bench = self.provide()
        bench.say(pull(5, deadline_ms=1500))
        bench.wait(1.4)
        self.assertEqual(bench.of(effects.Revoke), [])
        bench.wait(0.2)
        self.assertEqual(len(bench.of(effects.Revoke)), 1)
        self.assertEqual(bench.last(kinds.ERROR).get(kinds.ERROR_CODE), DeadlineExceeded.code)

    def test_calls_are_bounded(self) -> None:
        """calls_max: one more is refused for now."""
        bench = self.provide(calls_max=2)
        bench.say(pull(1), pull(2), pull(3))
        self.assertEqual(len(bench.of(effects.Invoke)), 2)
        refusal = bench.last(kinds.ERROR)
        self.assertEqual((refusal.seq, refusal.get(kinds.ERROR_CODE)), (3, LimitExceeded.code))
        self.assertTrue(refusal.get(kinds.TEMPORARY))

    def test_the_most_literal_name_answers(self) -> None:
        """A name goes before a pattern, more literal segments before fewer, a local route last."""
        bench = self.provide("a.b.c", "literal")
        for name in ("a.*.c", "a.**", "**"):
            bench.core.registrations.join(name, name, handshake.RegisterOptions(), bench.now)
        bench.core.calls.pulls.add("x.y", Route("x.y", "local"))
        found = {name: bench.core.calls.provider(name) for name in ("a.b.c", "a.z.c", "a.z", "z")}
        self.assertEqual(found, {"a.b.c": "literal", "a.z.c": "a.*.c", "a.z": "a.**", "z": "**"})
        self.assertIs(Bench().start().core.calls.provider("x"), None)

    def test_what_nobody_answers_is_refused(self) -> None:
        """A pull for nobody here is answered by no_provider."""
        bench = Bench().start()
        bench.say(pull(1, "nobody"))
        self.assertEqual(bench.last(kinds.ERROR).get(kinds.ERROR_CODE), 31)

    def test_a_new_session_forgets_calls_and_registers_again(self) -> None:
        """Calls of the old session are stopped, their answers never sent; registrations are made again."""
        bench = self.provide()
        bench.say(pull(5))
        call = bench.of(effects.Invoke)[0].call
        bench.lose()
        bench.core.calls.reply(call, b"late", kinds.RAW, bench.now, more=True)
        bench.come_back()
        self.assertEqual(bench.of(effects.Revoke), [effects.Revoke(call)])
        self.assertEqual(bench.sent_kinds(), ["hello", "register"])

    def test_a_resumed_session_answers_on(self) -> None:
        """An answer given while the connection was away is sent when it is back."""
        bench = self.provide()
        bench.say(pull(5))
        bench.lose()
        bench.core.calls.reply(bench.of(effects.Invoke)[0].call, b"late", kinds.RAW, bench.now)
        bench.come_back(resumed=True, session="s1", received=1)
        self.assertEqual([(each.kind, each.body) for each in bench.sent[1:]], [(kinds.REPLY, b"late")])

    def test_a_pull_twice_breaks_the_protocol(self) -> None:
        """A seq that is under way may not be used again."""
        bench = self.provide()
        bench.say(pull(5), pull(5))
        self.assertEqual(bench.sent_kinds()[-1], "goodbye")

    def test_closing_lets_calls_end(self) -> None:
        """close: no new calls, those under way are answered, then goodbye."""
        bench = self.provide()
        bench.say(pull(5))
        bench.core.close(bench.now)
        bench.reply(bench.last(kinds.UNREGISTER))
        call = bench.of(effects.Invoke)[0].call
        bench.core.calls.reply(call, b"1", kinds.RAW, bench.now, more=True)
        bench.core.calls.reply(call, b"2", kinds.RAW, bench.now)
        self.assertEqual(bench.sent_kinds()[-1], "reply")
        bench.say(Message(kinds.PONG, fields={kinds.RECEIVED: 4}))
        self.assertEqual(bench.sent_kinds()[-1], "goodbye")

    def test_pushes_reach_their_routes(self) -> None:
        """A push goes to every route of its name, else to the provider of that name; one with a seq is answered."""
        bench = self.provide()
        for pattern in ("note.*", "note.x"):
            bench.core.calls.listen(Route(pattern, f"on {pattern}"))
        bench.say(Message(kinds.PUSH, "note.x"), Message(kinds.PUSH, "p", seq=3), Message(kinds.PUSH, "other"))
        heard = [sorted(listeners) for listeners, _ in bench.delivered()]
        self.assertEqual(heard, [["on note.*", "on note.x"], ["provider"], []])
        self.assertEqual([(each.kind, each.seq) for each in bench.sent], [(kinds.REPLY, 3)])

    def test_the_end_of_the_client_ends_its_routes(self) -> None:
        """Who waits for pushes hears that none will come; one that was taken back hears nothing."""
        bench = Bench().start()
        gone = Route("x", "gone")
        bench.core.calls.listen(gone)
        bench.core.calls.listen(Route("**", "here"))
        bench.core.calls.ignore(gone)
        bench.goodbye(kinds.KICKED, False)
        self.assertEqual([each.listener for each in bench.of(effects.Ended)], ["here"])
        self.assertRaises(ConnectionClosed, bench.core.calls.listen, gone)
