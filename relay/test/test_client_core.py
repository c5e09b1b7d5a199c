"""The client's core against a server that the test plays: no sockets, no clock but the test's."""

from __future__ import annotations

from twisted.trial import unittest

from relay.client import effects
from relay.client.deadlines import Deadlines
from relay.client.link import CannotConnect
from relay.client.options import Identity
from relay.errors import (
    BadName,
    ConnectionClosed,
    DeadlineExceeded,
    Denied,
    Expired,
    FrameTooLarge,
    Full,
    NoProvider,
    Unauthenticated,
)
from relay.test.client_fixture import Bench, event
from relay.wire import handshake, kinds
from relay.wire.message import Message

TWO = ("tcp://one:1", "tcp://two:2")


class AttemptTests(unittest.TestCase):
    """Section 5, and where to go next."""

    def test_starts_at_a_random_address_and_goes_on_to_the_next(self) -> None:
        """A failed attempt goes on to the next address at once, from a random start."""
        for draw, expected in ((0.1, ["tcp://one:1", "tcp://two:2"]), (0.6, ["tcp://two:2", "tcp://one:1"])):
            bench = Bench(*TWO, draw=draw)
            bench.core.link.start(bench.now)
            bench.take()
            bench.lose()
            self.assertEqual(bench.attempts, expected)

    def test_first_connection_is_given_up_after_its_rounds(self) -> None:
        """When every address failed once, the client is closed with a sentence that says where and why."""
        bench = Bench(*TWO)
        bench.core.link.start(bench.now)
        bench.take()
        bench.lose()
        bench.lose("refused by two")
        (closed,) = bench.of(effects.Closed)
        self.assertIsInstance(closed.error, CannotConnect)
        self.assertIn("tcp://one:1: refused by two", str(closed.error))
        self.assertEqual(bench.core.next_timer(), float("inf"))

    def test_back_off_is_a_random_part_of_a_growing_span(self) -> None:
        """Before round n the wait is drawn from backoff_s_min * 2^n, up to backoff_s_max."""
        bench = Bench(draw=0.5, connect_rounds_max=0, backoff_s_min=1.0, backoff_s_max=5.0)
        bench.core.link.start(bench.now)
        for _ in range(5):
            bench.take()
            bench.lose()
            bench.retry()
        waits = [each.wait_s for each in bench.of(effects.Changed) if each.state == "waiting"]
        self.assertEqual(waits, [1.0, 2.0, 2.5, 2.5, 2.5])

    def test_a_silent_attempt_is_given_up(self) -> None:
        """An attempt without welcome ends after connect_timeout_s: its transport is cut off, the next address tried."""
        bench = Bench(*TWO, connect_timeout_s=3.0)
        bench.core.link.start(bench.now)
        bench.open()
        bench.wait(2.9)
        self.assertEqual(bench.of(effects.Hangup), [])
        bench.wait(0.2)
        self.assertEqual(bench.of(effects.Hangup), [effects.Hangup(1, True)])
        self.assertEqual(len(bench.attempts), 2)

    def test_what_an_older_attempt_reports_is_ignored(self) -> None:
        """Each attempt has its number: the end of an old transport does not end the new one."""
        bench = Bench(*TWO)
        bench.core.link.start(bench.now)
        bench.take()
        bench.lose()
        bench.accept()
        bench.core.link.lost(1, "late", bench.now)
        bench.core.link.connected(1, bench.now)
        bench.core.link.received(1, [Message(99)], bench.now)
        self.assertEqual(bench.states[-1], "ready")

    def test_hello_says_who(self) -> None:
        """The hello carries the identity and the feature resume."""
        bench = Bench(identity=Identity(realm="r", user="u", device="d", token="t", password="p", info={"a": 1}))
        bench.core.link.start(bench.now)
        hello = bench.open()
        self.assertEqual(
            (hello.realm, hello.user, hello.device, hello.token, hello.password, hello.info, hello.features),
            ("r", "u", "d", "t", "p", {"a": 1}, ("resume",)),
        )

    def test_addresses_of_the_welcome_are_tried_too(self) -> None:
        """The welcome may name other addresses; one that leaves TLS behind is not used."""
        bench = Bench("tls://one:1").start(addresses=("tls://two:2", "tcp://three:3", "junk"))
        bench.lose()
        bench.wait(1)
        bench.lose()
        bench.wait(1)
        self.assertEqual(bench.attempts, ["tls://one:1", "tls://two:2"])

    def test_a_session_frame_before_the_welcome_breaks_the_protocol(self) -> None:
        """The first frame of a server is welcome or goodbye."""
        bench = Bench()
        bench.core.link.start(bench.now)
        bench.open()
        bench.say(event("a"))
        goodbye = handshake.read(bench.last(kinds.GOODBYE), handshake.Goodbye)
        self.assertEqual(goodbye.reason, kinds.PROTOCOL)
        self.assertIsInstance(bench.of(effects.Closed)[0].error, CannotConnect)


class GoodbyeTests(unittest.TestCase):
    """Section 8: who comes back, where and when."""

    def test_reconnect_false_ends_the_client(self) -> None:
        """A goodbye that forbids to come back closes the client with the reason."""
        for reason, type_ in (
            (kinds.KICKED, ConnectionClosed), (kinds.UNAUTHORIZED, Unauthenticated), (kinds.EXPIRED, Expired),
        ):  # fmt: skip
            bench = Bench().start()
            bench.ask(kinds.PUBLISH, "c", "w")
            bench.goodbye(reason, False, text="go")
            (closed,) = bench.of(effects.Closed)
            self.assertIsInstance(closed.error, type_)
            self.assertIn("go", str(closed.error))
            self.assertEqual(bench.result("w").outcome, "unknown")

    def test_drain_names_the_time_and_the_place(self) -> None:
        """reconnect_after_ms and reconnect_to are honoured."""
        bench = Bench(*TWO, draw=0.0, backoff_s_min=1.0).start()
        bench.goodbye(kinds.DRAIN, True, reconnect_after_ms=4000, reconnect_to="tcp://three:3")
        self.assertEqual(bench.of(effects.Hangup), [effects.Hangup(1, False)])
        bench.wait(3.9)
        self.assertEqual(bench.attempts, [])
        bench.wait(0.2)
        self.assertEqual(bench.attempts, ["tcp://three:3"])
        bench.lose()
        self.assertEqual(bench.attempts, ["tcp://three:3", "tcp://one:1"])

    def test_a_first_hello_may_be_sent_elsewhere_but_not_for_ever(self) -> None:
        """A redirect before the welcome is no failed attempt, up to a few in a row."""
        bench = Bench()
        bench.core.link.start(bench.now)
        for _ in range(5):
            bench.open()
            bench.goodbye(kinds.UNAVAILABLE, True, reconnect_to="tcp://there:1")
        self.assertEqual(bench.attempts, ["tcp://one:1"] + 4 * ["tcp://there:1"] + ["tcp://one:1"])
        bench.lose()
        self.assertEqual(len(bench.of(effects.Closed)), 1)

    def test_an_unknown_reason_is_judged_by_its_reconnect(self) -> None:
        """A newer server's close reason says itself whether to come back."""
        for reconnect in (False, True):
            bench = Bench().start()
            body = handshake.Goodbye(200, "novel", reconnect)
            bench.say(handshake.write(kinds.GOODBYE, body))
            self.assertEqual(len(bench.of(effects.Closed)), not reconnect)

    def test_the_client_gives_up_when_it_is_told_to(self) -> None:
        """With reconnect_timeout_s a lost connection is not looked for without end."""
        bench = Bench(reconnect_timeout_s=10.0, backoff_s_max=3.0).start()
        bench.lose()
        for _ in range(20):
            bench.wait(3)
            bench.lose()
        (closed,) = bench.of(effects.Closed)
        self.assertIsInstance(closed.error, ConnectionClosed)


class TokenTests(unittest.TestCase):
    """Tokens that the application makes when they are wanted."""

    def test_the_token_is_asked_for_before_connecting(self) -> None:
        """Without a token no transport is opened; with it the hello shows it."""
        bench = Bench(identity=Identity(token_wanted=True))
        bench.core.link.start(bench.now)
        self.assertEqual(len(bench.of(effects.WantToken)), 1)
        self.assertEqual(bench.attempts, [])
        bench.core.token("t1", bench.now)
        self.assertEqual(bench.open().token, "t1")

    def test_an_expired_session_comes_back_with_a_new_token(self) -> None:
        """expired and revoked: reconnect with a new token, as a new session."""
        bench = Bench(identity=Identity(token_wanted=True))
        bench.core.link.start(bench.now)
        bench.core.token("t1", bench.now)
        bench.accept()
        bench.goodbye(kinds.EXPIRED, False)
        bench.wait(1)
        self.assertEqual(len(bench.of(effects.WantToken)), 2)
        bench.core.token("t2", bench.now)
        hello = bench.open()
        self.assertEqual((hello.token, hello.resume), ("t2", None))

    def test_a_new_token_that_is_refused_ends_the_client(self) -> None:
        """A token that was made for this attempt and refused is not asked for again."""
        bench = Bench(identity=Identity(token_wanted=True))
        bench.core.link.start(bench.now)
        bench.core.token("t1", bench.now)
        bench.open()
        bench.goodbye(kinds.UNAUTHORIZED, False)
        self.assertIsInstance(bench.of(effects.Closed)[0].error, Unauthenticated)

    def test_the_server_asks_for_a_new_token(self) -> None:
        """refresh from the server: it is answered, the application is asked, and the new token shown."""
        bench = Bench(identity=Identity(token_wanted=True, token="old")).start()
        bench.say(handshake.write(kinds.REFRESH, {"expires_in_ms": 5000}, 7))
        self.assertEqual([(each.kind, each.seq) for each in bench.sent], [(kinds.REPLY, 7)])
        self.assertEqual(len(bench.of(effects.WantToken)), 1)
        bench.core.token("new", bench.now)
        refresh = bench.last(kinds.REFRESH)
        self.assertEqual(refresh.body, b'{"token":"new"}')
        bench.reply(refresh, {"expires_in_ms": 60_000})
        bench.lose()
        self.assertEqual(bench.come_back().token, "new")

    def test_an_application_without_token_is_told_and_asked_again(self) -> None:
        """A token callback that fails for now is an attempt that failed."""
        bench = Bench(identity=Identity(token_wanted=True), connect_rounds_max=0)
        bench.core.link.start(bench.now)
        bench.core.token_failed(NoProvider("no"), bench.now)
        self.assertEqual(len(bench.of(effects.Notice)), 1)
        bench.wait(1)
        self.assertEqual(len(bench.of(effects.WantToken)), 2)
        bench.core.token_failed(Unauthenticated("never"), bench.now)
        self.assertEqual(str(bench.of(effects.Closed)[0].error), "never")


class HeartbeatTests(unittest.TestCase):
    """Section 7."""

    def test_silence_is_asked_then_closed(self) -> None:
        """After one heartbeat of silence a ping goes out, after two and a half the connection is given up."""
        bench = Bench().start(heartbeat_ms=10_000)
        bench.wait(9.9)
        self.assertEqual(bench.sent, [])
        bench.wait(0.2)
        ping = bench.last(kinds.PING)
        self.assertTrue(ping.seq)
        self.assertEqual(ping.fields, {kinds.RECEIVED: 0})
        bench.wait(14.8)
        self.assertEqual(bench.of(effects.Hangup), [])
        bench.wait(0.2)
        self.assertEqual(bench.of(effects.Hangup), [effects.Hangup(1, True)])
        self.assertIn("waiting", bench.states)

    def test_any_frame_is_a_sign_of_life(self) -> None:
        """Whatever arrives puts the ping off."""
        bench = Bench().start(heartbeat_ms=10_000)
        for _ in range(5):
            bench.wait(9)
            bench.say(event("a"))
        self.assertEqual(bench.sent, [])

    def test_a_ping_is_answered_with_its_seq_and_the_count(self) -> None:
        """pong: same seq, session frames received so far."""
        bench = Bench().start()
        bench.say(event("a"), event("b"), Message(kinds.PING, seq=9))
        self.assertEqual(bench.sent, [Message(kinds.PONG, seq=9, fields={kinds.RECEIVED: 2})])

    def test_the_count_is_reported_after_so_many_bytes(self) -> None:
        """At the latest after resume_ack_bytes of session frames comes an unasked pong."""
        bench = Bench().start(resume_ack_bytes=1000)
        for _ in range(10):
            bench.say(event("a", bytes(200)))
        reports = [each.get(kinds.RECEIVED) for each in bench.sent]
        self.assertGreaterEqual(len(reports), 2)
        self.assertTrue(all(later - earlier <= 5 for earlier, later in zip([0, *reports], reports, strict=False)))


class RequestTests(unittest.TestCase):
    """Questions and answers."""

    def test_an_answer_settles_its_request(self) -> None:
        """reply and error find their request by seq."""
        bench = Bench().start()
        first = bench.ask(kinds.PUBLISH, "c", "first")
        second = bench.ask(kinds.PUBLISH, "c", "second")
        self.assertNotEqual(first.seq, second.seq)
        bench.refuse(second, Denied("no"))
        bench.reply(first, reached=3)
        self.assertEqual(bench.result("first").get(kinds.REACHED), 3)
        error = bench.result("second")
        self.assertIsInstance(error, Denied)
        self.assertEqual((str(error), error.outcome), ("no", "not_done"))

    def test_a_pull_carries_its_deadline_and_is_cancelled_at_it(self) -> None:
        """deadline_ms goes with the pull; when it is over the caller hears so and the provider is told."""
        bench = Bench().start()
        pull = bench.ask(kinds.PULL, "p", "w", timeout_s=2.0)
        self.assertEqual(pull.get(kinds.DEADLINE_MS), 2000)
        bench.wait(2)
        error = bench.result("w")
        self.assertIsInstance(error, DeadlineExceeded)
        self.assertEqual(error.outcome, "unknown")
        self.assertEqual(bench.last(kinds.CANCEL).seq, pull.seq)
        bench.reply(pull)
        bench.result("w")

    def test_a_caller_who_gives_up_takes_a_pull_back(self) -> None:
        """abandon: a sent pull is cancelled, one that waits is never sent."""
        bench = Bench().start()
        pull = bench.ask(kinds.PULL, "p", "w")
        bench.core.requests.abandon("w", bench.now)
        self.assertEqual(bench.last(kinds.CANCEL).seq, pull.seq)
        bench.lose()
        bench.ask(kinds.PULL, "q", "v")
        bench.core.requests.abandon("v", bench.now)
        bench.come_back()
        self.assertNotIn("pull", bench.sent_kinds())
        self.assertTrue(bench.unsettled("w") and bench.unsettled("v"))

    def test_progressive_answers(self) -> None:
        """Each reply with more is an effect of its own for a stream; without one the last counts."""
        for stream, expected in ((True, [b"1", b"2"]), (False, [])):
            bench = Bench().start()
            pull = bench.ask(kinds.PULL, "p", "w", stream=stream)
            for body in (b"1", b"2"):
                bench.say(Message(kinds.REPLY, "", body, flags=kinds.MORE, seq=pull.seq))
            self.assertTrue(bench.unsettled("w"))
            bench.reply(pull)
            self.assertEqual([each.message.body for each in bench.of(effects.Progress)], expected)
            self.assertEqual(bench.result("w").body, b"" if stream else b"2")

    def test_not_connected_in_time_is_not_done(self) -> None:
        """A request that never left fails as not_done, and does not leave later."""
        bench = Bench(request_timeout_s=5.0).start()
        bench.lose()
        bench.ask(kinds.PUBLISH, "c", "w")
        bench.core.link.wake(bench.now)
        bench.wait(5)
        self.assertEqual(bench.result("w").outcome, "not_done")
        bench.accept()
        self.assertNotIn("publish", bench.sent_kinds())

    def test_the_queue_is_bounded(self) -> None:
        """Offline, queue_frames_max wait; one more is refused, and room is told when there is some."""
        bench = Bench(queue_frames_max=4).start()
        bench.lose()
        for _ in range(4):
            bench.tell(kinds.PUBLISH, "c")
        self.assertRaises(Full, bench.tell, kinds.PUBLISH, "c")
        bench.core.room("room", bench.now)
        self.assertTrue(bench.unsettled("room"))
        bench.come_back(resumed=True, session="s1")
        self.assertEqual(bench.sent_kinds().count("publish"), 4)
        self.assertIsNone(bench.result("room"))

    def test_the_queue_is_bounded_in_bytes(self) -> None:
        """So it is by the size of what waits."""
        bench = Bench(queue_bytes_max=1000).start()
        bench.lose()
        bench.tell(kinds.PUBLISH, "c", bytes(900))
        self.assertRaises(Full, bench.tell, kinds.PUBLISH, "c", bytes(900))

    def test_pending_requests_are_bounded(self) -> None:
        """pending_max requests may wait for their answers."""
        bench = Bench(pending_max=2).start()
        bench.ask(kinds.PUBLISH, "c", 1)
        bench.ask(kinds.PUBLISH, "c", 2)
        self.assertRaises(Full, bench.ask, kinds.PUBLISH, "c", 3)

    def test_what_cannot_be_written_fails_at_the_call(self) -> None:
        """A name too long for a frame is the caller's error, and is not counted."""
        bench = Bench().start()
        self.assertRaises(BadName, bench.tell, kinds.PUBLISH, "x" * 256)
        self.assertEqual(bench.core.outbound.queued_frames, 0)
        bench.core.link.ping()
        self.assertEqual(bench.sent_kinds(), ["ping"])

    def test_a_frame_over_the_servers_limit_is_not_sent(self) -> None:
        """frame_bytes_max of the welcome: the caller hears too_large, the connection goes on."""
        bench = Bench().start(limits=handshake.Limits(frame_bytes_max=1000))
        bench.ask(kinds.PUBLISH, "c", "w", bytes(2000))
        bench.tell(kinds.PUBLISH, "c", bytes(2000))
        self.assertIsInstance(bench.result("w"), FrameTooLarge)
        self.assertIsInstance(bench.of(effects.Notice)[0].error, FrameTooLarge)
        self.assertEqual(bench.sent, [])

    def test_a_refused_message_without_answer_is_noticed(self) -> None:
        """error with seq 0 names what was refused."""
        bench = Bench().start()
        bench.refuse(Message(kinds.PUBLISH, "secret"), Denied("no"))
        (notice,) = bench.of(effects.Notice)
        self.assertEqual((notice.name, type(notice.error)), ("secret", Denied))

    def test_a_full_transport_holds_frames_back(self) -> None:
        """While the transport takes no more, session frames wait here."""
        bench = Bench().start()
        bench.core.outbound.writable(False, bench.now)
        bench.tell(kinds.PUBLISH, "c")
        self.assertEqual(bench.sent, [])
        bench.core.outbound.writable(True, bench.now)
        self.assertEqual(bench.sent_kinds(), ["publish"])


class DeadlineTests(unittest.TestCase):
    """The heap of deadlines."""

    def test_they_expire_in_order_and_not_when_cancelled(self) -> None:
        """The earliest first, equal ones as they were added; a cancelled one never."""
        deadlines, expired = Deadlines(), []
        for name, at in (("b", 2.0), ("a", 1.0), ("never", float("inf")), ("c", 2.0), ("x", 1.5)):
            deadline = deadlines.add(at, lambda now, name=name: expired.append((name, now)))  # type: ignore[misc]
            if name == "x":
                deadline.cancel()
                deadline.cancel()
        self.assertEqual(deadlines.next(), 1.0)
        deadlines.run(2.5)
        self.assertEqual(expired, [("a", 2.5), ("b", 2.5), ("c", 2.5)])
        self.assertEqual(deadlines.next(), float("inf"))

    def test_cancelled_ones_do_not_pile_up(self) -> None:
        """A million requests answered in time leave no million entries behind."""
        deadlines = Deadlines()
        kept = deadlines.add(1e9, lambda now: None)
        for number in range(10_000):
            deadlines.add(float(number), lambda now: None).cancel()
        self.assertLess(len(deadlines._heap), 200)
        kept.cancel()


class ClosingTests(unittest.TestCase):
    """Graceful close."""

    def test_close_waits_for_answers_and_acknowledgements(self) -> None:
        """What was asked is answered and what was told is acknowledged before the goodbye."""
        bench = Bench().start()
        publish = bench.ask(kinds.PUBLISH, "c", "w")
        bench.tell(kinds.PUBLISH, "c")
        bench.core.close(bench.now)
        self.assertNotIn("goodbye", bench.sent_kinds())
        bench.reply(publish)
        self.assertNotIn("goodbye", bench.sent_kinds())
        bench.say(Message(kinds.PONG, seq=bench.last(kinds.PING).seq, fields={kinds.RECEIVED: 2}))
        self.assertEqual(bench.sent_kinds()[-1], "goodbye")
        self.assertEqual(bench.of(effects.Closed), [effects.Closed(None)])

    def test_close_does_not_wait_for_ever(self) -> None:
        """After close_timeout_s it closes; what waits fails."""
        bench = Bench(close_timeout_s=2.0).start()
        bench.ask(kinds.PULL, "p", "w")
        bench.core.close(bench.now)
        bench.wait(2)
        self.assertEqual(len(bench.of(effects.Closed)), 1)
        self.assertIsInstance(bench.result("w"), ConnectionClosed)

    def test_closing_twice_closes_at_once(self) -> None:
        """The second close waits for nothing."""
        bench = Bench().start()
        bench.ask(kinds.PULL, "p", "w")
        bench.core.close(bench.now)
        bench.core.close(bench.now)
        self.assertEqual(bench.of(effects.Closed), [effects.Closed(None)])
        self.assertEqual(bench.result("w").outcome, "unknown")

    def test_nothing_new_after_close(self) -> None:
        """A call after close fails as not_done."""
        bench = Bench().start()
        bench.core.close(bench.now)
        self.assertEqual(len(bench.of(effects.Closed)), 1)
        error = self.assertRaises(ConnectionClosed, bench.ask, kinds.PUBLISH, "c", "w")
        self.assertEqual(error.outcome, "not_done")
        self.assertRaises(ConnectionClosed, bench.join, "c", "l")
        self.assertEqual(bench.core.next_timer(), float("inf"))
