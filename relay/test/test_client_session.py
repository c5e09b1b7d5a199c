"""What the client's core keeps through reconnects: resume, subscriptions, the user it is bound to."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from relay.client import effects
from relay.errors import ConnectionClosed, DeadlineExceeded, Denied
from relay.test.client_fixture import Bench, event
from relay.wire import handshake, kinds
from relay.wire.message import Message


class ResumeTests(unittest.TestCase):
    """Section 6."""

    def test_the_session_goes_on(self) -> None:
        """The hello names session, secret and count; then what the server lacks is sent, in order, and the queue."""
        bench = Bench().start(secret="shh")
        for body in (b"1", b"2", b"3"):
            bench.tell(kinds.PUBLISH, "c", body)
        waiting = bench.ask(kinds.PULL, "p", "w", b"4")
        bench.say(event("a"), event("b"))
        bench.lose()
        bench.tell(kinds.PUBLISH, "c", b"5")
        hello = bench.come_back(resumed=True, session="s1", received=2)
        self.assertEqual(hello.resume, handshake.Resume("s1", "shh", 2))
        self.assertEqual([each.body for each in bench.sent[1:]], [b"3", b"4", b"5"])
        self.assertTrue(bench.of(effects.Changed)[-1].resumed)
        bench.reply(waiting)
        self.assertEqual(bench.result("w").kind, kinds.REPLY)

    def test_a_goodbye_that_invites_back_resumes_too(self) -> None:
        """drain: the session lives on."""
        bench = Bench().start()
        bench.goodbye(kinds.DRAIN, True)
        resume = bench.come_back(resumed=True, session="s1").resume
        assert resume is not None
        self.assertEqual(resume.session, "s1")

    def test_a_new_session_fails_what_was_sent_and_sends_what_was_not(self) -> None:
        """resumed: false: sent requests fail as unknown, unsent ones go out anew, readings are asked again."""
        bench = Bench().start()
        bench.ask(kinds.PUBLISH, "c", "sent")
        bench.ask(kinds.PRESENCE, "c", "reading", fate="again")
        bench.tell(kinds.PUBLISH, "c", b"told")
        bench.lose()
        bench.ask(kinds.PUBLISH, "c", "unsent", b"unsent")
        bench.come_back()
        error = bench.result("sent")
        self.assertIsInstance(error, ConnectionClosed)
        self.assertEqual(error.outcome, "unknown")
        self.assertEqual([(kinds.KINDS[each.kind], each.body) for each in bench.sent[1:]],
                         [("presence", b""), ("publish", b"unsent")])  # fmt: skip
        self.assertEqual(bench.of(effects.Changed)[-1].lost, 1)
        bench.reply(bench.last(kinds.PRESENCE))
        bench.reply(bench.last(kinds.PUBLISH))
        self.assertEqual((bench.result("reading").kind, bench.result("unsent").kind), (kinds.REPLY, kinds.REPLY))

    def test_without_the_feature_nothing_is_kept(self) -> None:
        """A server without resume: no counts, no resume in the next hello."""
        bench = Bench().start(features=(), secret="")
        bench.tell(kinds.PUBLISH, "c")
        bench.core.link.ping()
        self.assertEqual(bench.last(kinds.PING).fields, None)
        bench.lose()
        self.assertEqual(bench.come_back(features=()).resume, None)
        self.assertNotIn("publish", bench.sent_kinds())

    def test_the_window_bounds_what_is_kept(self) -> None:
        """Over unacked_bytes_max frames wait; the server is asked for its count, and they go on with the answer."""
        bench = Bench(unacked_bytes_max=1000).start()
        for _ in range(5):
            bench.tell(kinds.PUBLISH, "c", bytes(400))
        self.assertEqual(bench.sent_kinds(), ["publish", "publish", "ping"])
        bench.say(Message(kinds.PONG, seq=1, fields={kinds.RECEIVED: 2}))
        self.assertEqual(bench.sent_kinds()[3:], ["publish", "publish", "ping"])

    def test_an_impossible_count_ends_the_session(self) -> None:
        """A server that claims frames never sent broke the protocol: the next hello asks for a new session."""
        bench = Bench().start()
        bench.tell(kinds.PUBLISH, "c")
        bench.say(Message(kinds.PONG, fields={kinds.RECEIVED: 2}))
        self.assertEqual(bench.sent_kinds()[-1], "goodbye")
        self.assertIsNone(bench.come_back().resume)

    def test_a_resume_that_was_not_asked_for_ends_the_session(self) -> None:
        """A welcome that resumes another session than the one named, or none named, breaks the protocol."""
        bench = Bench()
        bench.core.link.start(bench.now)
        bench.accept(resumed=True)
        self.assertEqual(bench.sent_kinds()[-1], "goodbye")
        bench = Bench().start()
        bench.lose()
        bench.come_back(resumed=True, session="another")
        self.assertEqual(bench.sent_kinds()[-1], "goodbye")
        self.assertIsNone(bench.come_back().resume)

    def test_skipped_frames_count_and_are_told(self) -> None:
        """pong with skipped raises the count; the application hears of the gap."""
        bench = Bench().start()
        bench.say(event("a"), Message(kinds.PONG, fields={kinds.SKIPPED: 5}), event("b"))
        self.assertEqual(bench.of(effects.Gap), [effects.Gap(5)])
        bench.lose()
        resume = bench.come_back(resumed=True, session="s1").resume
        assert resume is not None
        self.assertEqual(resume.received, 7)

    def test_what_is_of_an_unknown_kind_counts(self) -> None:
        """Kinds from 16 on are session frames, known or not; a request among them is answered unsupported."""
        bench = Bench().start()
        bench.say(Message(200), Message(201, seq=4), Message(9))
        self.assertEqual([(each.kind, each.seq) for each in bench.sent], [(kinds.ERROR, 4)])
        bench.lose()
        resume = bench.come_back(resumed=True, session="s1").resume
        assert resume is not None
        self.assertEqual(resume.received, 2)


class LossyWire:
    """A client core and a server that only counts, joined by a connection that may lose any tail of what is under
    way, in both directions. Both sides send numbered frames."""

    def __init__(self) -> None:
        self.bench = Bench(unacked_bytes_max=400).start()
        self.up: list[Message] = []  # sent by the client, not yet arrived
        self.down: list[Message] = []
        self.client_said = 0
        self.client_got: list[bytes] = []
        self.server_said: list[Message] = []  # all its session frames, ever
        self.server_acknowledged = 0
        self.server_got: list[bytes] = []
        self._seen = 0  # effects looked at

    def look(self) -> None:
        """What the client sent goes onto the wire."""
        self.bench.take()
        for effect in self.bench.effects[self._seen :]:
            if isinstance(effect, effects.Send):
                self.up.append(effect.message)
            elif isinstance(effect, effects.Deliver):
                self.client_got.append(effect.message.body)
        self._seen = len(self.bench.effects)

    def client_speaks(self) -> None:
        """One more frame of the client."""
        self.bench.tell(kinds.PUBLISH, "c", b"%d" % self.client_said)
        self.client_said += 1
        self.look()

    def server_speaks(self) -> None:
        """One more frame of the server."""
        message = event("c", b"%d" % len(self.server_said))
        self.server_said.append(message)
        self.down.append(message)

    def arrive_up(self, count: int) -> None:
        """The first frames under way reach the server."""
        for message in self.up[:count]:
            if message.kind >= kinds.SESSION_KIND_MIN:
                self.server_got.append(message.body)
            elif message.kind == kinds.PING:
                self.down.append(Message(kinds.PONG, seq=message.seq, fields={kinds.RECEIVED: len(self.server_got)}))
            if message.kind in (kinds.PING, kinds.PONG):
                self.server_acknowledged = message.get(kinds.RECEIVED)
        del self.up[:count]

    def arrive_down(self, count: int) -> None:
        """The first frames under way reach the client."""
        part = self.down[:count]
        del self.down[:count]
        self.bench.say(*part)
        self.look()

    def break_off(self) -> None:
        """What is under way is lost; the client comes back and resumes."""
        self.down.clear()
        self.bench.lose()
        self.bench.retry()
        resume = self.bench.open().resume
        assert resume is not None
        assert self.server_acknowledged <= resume.received <= len(self.server_said)
        self.look()
        self.up.clear()
        welcome = handshake.Welcome(
            "s1", secret="x", resumed=True, received=len(self.server_got), resume_ack_bytes=100, features=("resume",)
        )
        self.bench.say(handshake.write(kinds.WELCOME, welcome))
        self.down += self.server_said[resume.received :]
        self.look()

    def settle(self) -> None:
        """All that is under way arrives."""
        while self.up or self.down:
            self.arrive_up(len(self.up))
            self.arrive_down(len(self.down))


class LossTests(unittest.TestCase):
    """Nothing lost, nothing twice."""

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("ccssudb"), st.integers(0, 8)), max_size=60))
    def test_a_lossy_connection_loses_nothing(self, steps: list[tuple[str, int]]) -> None:
        """Each side gets every frame of the other once and in order, whatever a connection swallows."""
        wire = LossyWire()
        for step, count in steps:
            if step == "c":
                wire.client_speaks()
            elif step == "s":
                wire.server_speaks()
            elif step == "u":
                wire.arrive_up(count)
            elif step == "d":
                wire.arrive_down(count)
            else:
                wire.break_off()
        wire.break_off()
        wire.settle()
        self.assertEqual(wire.server_got, [b"%d" % number for number in range(wire.client_said)])
        self.assertEqual(wire.client_got, [message.body for message in wire.server_said])


class SettlingTests(unittest.TestCase):
    """Whoever asks gets one answer."""

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_every_question_is_settled_once(self, data: st.DataObject) -> None:
        """Answers, refusals, deadlines, takings back, resumes that lost any tail, new sessions, the end, in any order:
        each question is settled exactly once (never, when it was taken back), and what a session carried out is never
        sent to another."""
        bench = Bench(request_timeout_s=3.0, backoff_s_max=0.2).start()
        asked = 0
        taken_back: set[int] = set()
        sessions_of: dict[str, set[int]] = {}  # question -> the sessions that it was sent in
        seen = 0
        for step in data.draw(st.lists(st.sampled_from("aaaarrbnwt"), max_size=40)):
            ledger = bench.core.outbound.ledger
            assert ledger is not None
            open_ = [each for each in bench.sent if each.name[:1] == "q" and bench.unsettled(each.name)]
            if step == "a":
                asked += 1
                bench.ask(data.draw(st.sampled_from([kinds.PUBLISH, kinds.PULL])), f"q{asked}", f"q{asked}")
            elif step == "r" and open_:
                question = data.draw(st.sampled_from(open_))
                if data.draw(st.booleans()):
                    bench.reply(question)
                else:
                    bench.refuse(question, Denied("no"))
            elif step == "b":
                received = data.draw(st.integers(ledger.sent - len(ledger.kept), ledger.sent))
                bench.lose()
                bench.retry()
                bench.accept(resumed=True, session=f"s{bench.sessions}", received=received)
            elif step == "n":
                bench.lose()
                bench.retry()
                bench.accept()
            elif step == "w":
                bench.wait(data.draw(st.sampled_from([0.1, 1.0, 3.0])))
            elif step == "t" and asked:
                number = data.draw(st.integers(1, asked))
                if bench.unsettled(f"q{number}"):
                    taken_back.add(number)
                bench.core.requests.abandon(f"q{number}", bench.now)
            for each in bench.sent[seen:]:
                sessions_of.setdefault(each.name, set()).add(bench.sessions)
            seen = len(bench.sent)
        bench.core.link.finish()
        self.assertTrue(all(len(sessions) == 1 for name, sessions in sessions_of.items() if name))
        for number in range(1, asked + 1):
            if number in taken_back:
                self.assertTrue(bench.unsettled(f"q{number}"))
            else:
                bench.result(f"q{number}")
        self.assertEqual(len(bench.core.requests), 0)
        self.assertEqual(bench.core.next_timer(), float("inf"))


class SubscriptionTests(unittest.TestCase):
    """Local listeners and the one subscription on the wire."""

    def test_listeners_share_one_subscription(self) -> None:
        """The second listener of a name needs no frame; the last to leave unsubscribes."""
        bench = Bench().start()
        bench.join("c", "one")
        bench.reply(bench.last(kinds.SUBSCRIBE))
        bench.join("c", "two")
        self.assertIsNone(bench.result("two"))
        bench.leave("c", "one", "left")
        self.assertIsNone(bench.result("left"))
        self.assertEqual(bench.sent_kinds(), ["subscribe"])
        bench.leave("c", "two", "gone")
        self.assertTrue(bench.unsettled("gone"))
        bench.reply(bench.last(kinds.UNSUBSCRIBE))
        self.assertIsNone(bench.result("gone"))

    def test_an_event_reaches_each_matching_listener_once(self) -> None:
        """By name and by pattern, each local subscription once."""
        bench = Bench().start()
        for name, listener in (("room.1", "a"), ("room.1", "b"), ("room.*", "c"), ("**", "d"), ("room.2", "e")):
            bench.join(name, listener)
        bench.say(event("room.1", b"x"))
        ((listeners, body),) = bench.delivered()
        self.assertEqual((sorted(listeners), body), (["a", "b", "c", "d"], b"x"))

    def test_presence_is_asked_for_when_one_wants_it(self) -> None:
        """A listener that wants presence changes the shared options, and gets joined, left and the like alone."""
        bench = Bench().start()
        bench.join("c", "plain", role="r")
        bench.reply(bench.last(kinds.SUBSCRIBE))
        bench.join("c", "curious", presence=True)
        self.assertEqual(bench.last(kinds.SUBSCRIBE).body, b'{"presence":true,"role":"r"}')
        bench.reply(bench.last(kinds.SUBSCRIBE), {"presence": [{"session": "s9"}]})
        self.assertIn(b"s9", bench.result("curious").body)
        told = (kinds.JOINED, kinds.LEFT, kinds.OCCUPIED, kinds.VACATED)
        bench.say(*(Message(kind, "c") for kind in told))
        self.assertEqual([listeners for listeners, _ in bench.delivered()], [("curious",)] * 4)

    def test_a_refusal_reaches_its_listener_alone(self) -> None:
        """Options that are refused leave the subscription of the others as it was."""
        bench = Bench().start()
        bench.join("c", "plain")
        bench.reply(bench.last(kinds.SUBSCRIBE))
        bench.join("c", "curious", presence=True)
        bench.refuse(bench.last(kinds.SUBSCRIBE), Denied("presence of c"))
        self.assertIsInstance(bench.result("curious"), Denied)
        bench.say(event("c"))
        self.assertEqual(bench.delivered(), [(("plain",), b"")])
        self.assertEqual(bench.of(effects.Ended), [])

    def test_a_new_session_subscribes_again(self) -> None:
        """resumed: false is invisible to subscribers, but where it is refused."""
        bench = Bench().start()
        for name in ("a", "b"):
            bench.join(name, f"on {name}")
            bench.reply(bench.last(kinds.SUBSCRIBE))
        bench.lose()
        bench.join("c", "on c")
        bench.come_back()
        asked = [each for each in bench.sent if each.kind == kinds.SUBSCRIBE]
        self.assertEqual([each.name for each in asked], ["a", "b", "c"])
        bench.reply(asked[0])
        bench.refuse(asked[1], Denied("no more"))
        bench.reply(asked[2])
        (ended,) = bench.of(effects.Ended)
        self.assertEqual((ended.listener, type(ended.error)), ("on b", Denied))
        self.assertEqual(bench.result("on c").kind, kinds.REPLY)
        bench.say(event("a"), event("b"))
        self.assertEqual([listeners for listeners, _ in bench.delivered()], [("on a",), ()])

    def test_a_resumed_session_does_not(self) -> None:
        """resumed: true: the server knows."""
        bench = Bench().start()
        bench.join("a", "on a")
        bench.reply(bench.last(kinds.SUBSCRIBE))
        bench.lose()
        bench.come_back(resumed=True, session="s1", received=1)
        self.assertNotIn("subscribe", bench.sent_kinds())

    def test_an_unanswered_subscription_is_given_up(self) -> None:
        """After request_timeout_s the listener hears so, and the server is told in case it did."""
        bench = Bench(request_timeout_s=3.0).start()
        bench.join("a", "on a")
        bench.wait(3)
        self.assertIsInstance(bench.result("on a"), DeadlineExceeded)
        self.assertEqual(bench.sent_kinds(), ["subscribe", "unsubscribe"])

    def test_one_that_was_taken_back_unsent_is_never_sent(self) -> None:
        """Subscribed and unsubscribed while offline: the server hears nothing."""
        bench = Bench().start()
        bench.lose()
        bench.join("a", "on a")
        bench.leave("a", "on a", "left")
        self.assertIsNone(bench.result("left"))
        bench.come_back(resumed=True, session="s1")
        self.assertEqual(bench.sent_kinds(), ["hello"])

    def test_the_end_of_the_client_ends_them(self) -> None:
        """Listeners hear of the end: those confirmed by Ended, the others by Reject."""
        bench = Bench().start()
        bench.join("a", "on a")
        bench.reply(bench.last(kinds.SUBSCRIBE))
        bench.join("b", "on b")
        bench.goodbye(kinds.KICKED, False)
        self.assertEqual([each.listener for each in bench.of(effects.Ended)], ["on a"])
        self.assertIsInstance(bench.result("on b"), ConnectionClosed)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_any_order_of_joins_and_leaves_ends_right(self, data: st.DataObject) -> None:
        """Whatever comes and goes, answered late or early, over old and new sessions: in the end the server knows
        exactly the names that are wanted, and each listener's first answer came once."""
        bench = Bench(backoff_s_max=0.1).start()  # no deadline passes meanwhile
        here: dict[str, set[int]] = {"a": set(), "b": set()}
        server: set[str] = set()
        unanswered: list[Message] = []
        listeners = 0
        answered = 0

        def serve() -> None:
            nonlocal answered
            unanswered.extend(bench.sent[answered:])
            answered = len(bench.sent)

        for step in data.draw(st.lists(st.sampled_from("jjlarn"), max_size=30)):
            name = data.draw(st.sampled_from("ab"))
            if step == "j":
                listeners += 1
                bench.join(name, listeners, presence=data.draw(st.booleans()))
                here[name].add(listeners)
            elif step == "l" and here[name]:
                bench.leave(name, here[name].pop())
            elif step in "rn":
                bench.lose()
                bench.retry()
                if step == "r":
                    # What was sent and not answered yet has arrived all the same.
                    serve()
                    bench.accept(resumed=True, session=f"s{bench.sessions}", received=self._sent_frames(bench))
                else:
                    serve()
                    unanswered.clear()
                    server.clear()
                    bench.accept()
            serve()
            for _ in range(data.draw(st.integers(0, 2)) if step == "a" else 0):
                self._answer(bench, unanswered, server)
                serve()
        while unanswered:
            self._answer(bench, unanswered, server)
            serve()
        self.assertEqual(server, {name for name, wanted in here.items() if wanted})
        for wanted in here.values():
            for listener in wanted:
                bench.result(listener)

    def _sent_frames(self, bench: Bench) -> int:
        ledger = bench.core.outbound.ledger
        assert ledger is not None
        return ledger.sent

    def _answer(self, bench: Bench, unanswered: list[Message], server: set[str]) -> None:
        if not unanswered:
            return
        message = unanswered.pop(0)
        if message.kind == kinds.SUBSCRIBE:
            server.add(message.name)
            bench.reply(message)
        elif message.kind == kinds.UNSUBSCRIBE:
            server.discard(message.name)
            bench.reply(message)


class BindTests(unittest.TestCase):
    """Users that come later."""

    def test_a_new_session_is_bound_again_first(self) -> None:
        """After bind, a new session is bound before anything else is said."""
        bench = Bench().start()
        bench.core.bind(handshake.BindOptions(user="ann"), "w", bench.now)
        bench.reply(bench.last(kinds.BIND), {"user": "ann"})
        self.assertEqual(bench.result("w").body, b'{"user":"ann"}')
        bench.join("c", "on c")
        bench.lose()
        bench.tell(kinds.PUBLISH, "c")
        bench.come_back()
        self.assertEqual(bench.sent_kinds(), ["hello", "bind", "subscribe", "publish"])
        bench.refuse(bench.last(kinds.BIND), Denied("no"))
        self.assertEqual([each.name for each in bench.of(effects.Notice)], ["bind"])
