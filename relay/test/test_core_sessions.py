"""Sessions: handshake, heartbeats, limits, identity, the end (``connection``, ``sessions``, ``gate``)."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay import errors
from relay.config import ChannelRule, Config, Limits, Listener, Timing
from relay.config_auth import Auth, Permit
from relay.core.identity import Identity
from relay.core.permissions import permissions_for
from relay.interfaces import IConnection, IGate
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds
from relay.wire.handshake import Hello
from relay.wire.message import Message


def code(message: Message) -> int | None:
    """The number of an error, None of a reply."""
    return message.get(kinds.ERROR_CODE) if message.kind == kinds.ERROR else None


def _same(answer: Deferred[Identity], hello: Hello, peer: Any) -> Deferred[Identity]:
    return answer


class Handshake(SynchronousTestCase):
    """From hello to welcome, or to goodbye."""

    def test_interfaces(self):
        """The gate and its connections are what transports call."""
        core = Core()
        self.assertTrue(verifyObject(IGate, core.gate))
        self.assertTrue(verifyObject(IConnection, core.guest().connection))

    def test_welcome(self):
        """The welcome says who one is, what is accepted, and how long things last."""
        core = Core(Config(limits=Limits(frame_bytes_max=5000), addresses=("tcp://a:1",)))
        welcome = Guest(core).hello(user="ann", device="phone", features=["resume", "unheard"], heartbeat_ms=5000)
        self.assertEqual((welcome.user, welcome.device, welcome.realm), ("ann", "phone", "default"))
        self.assertEqual((welcome.features, welcome.resumed, welcome.received), (("resume",), False, 0))
        self.assertEqual((welcome.heartbeat_ms, welcome.resume_window_ms), (5000, 30000))
        self.assertEqual((welcome.limits.frame_bytes_max, welcome.addresses), (5000, ("tcp://a:1",)))
        self.assertGreaterEqual(len(welcome.secret), 20)
        plain = Guest(core).hello()
        self.assertEqual((plain.secret, plain.resume_window_ms, plain.features), ("", 0, ()))
        self.assertNotEqual(plain.session, welcome.session)

    def test_hello_comes_first(self):
        """Anything else, a bad body, or another major version ends it with the reason."""
        for kind, body, reason in (
            (kinds.PUBLISH, None, kinds.PROTOCOL), (kinds.WELCOME, None, kinds.PROTOCOL),
            (kinds.HELLO, b"[1", kinds.PROTOCOL), (kinds.HELLO, {"user": 7}, kinds.PROTOCOL),
            (kinds.HELLO, {"version": "2.0"}, kinds.VERSION_MISMATCH),
        ):  # fmt: skip
            guest = Guest(Core())
            guest.send(kind, "", body, codec=kinds.JSON, seq=0)
            self.assertEqual((guest.goodbye().reason, guest.peer.closed), (reason, reason), (kind, body))
        self.assertEqual(Guest(Core()).hello(version="1.9", user="x").version, "1.0")

    def test_silence(self):
        """10 000 connections that say nothing are closed when the handshake time is over, and nothing is left."""
        core = Core(Config(timing=Timing(handshake_timeout_s=5)))
        guests = [Guest(core) for _ in range(10_000)]
        core.pass_time(4.9)
        self.assertTrue(all(guest.peer.closed is None for guest in guests))
        core.pass_time(0.3)
        self.assertTrue(all(guest.peer.closed == kinds.HANDSHAKE_TIMEOUT for guest in guests))
        for guest in guests:
            guest.vanish()
        self.assertEqual((len(core.gate.connections), len(core.hub.wheel), len(core.hub.sessions)), (0, 0, 0))

    def test_frames_before_the_welcome_wait(self):
        """What is sent while the authenticator thinks is carried out afterwards, in order; reading is paused."""
        core = Core()
        answer: Deferred[Identity] = Deferred()
        core.identify = lambda hello, peer: answer
        guest = Guest(core)
        guest.send(kinds.HELLO, "", {"user": "ann"}, seq=0)
        guest.send(kinds.SUBSCRIBE, "c")
        guest.send(kinds.PUBLISH, "c", b"x")
        self.assertEqual((guest.got, guest.peer.pauses), ([], {"auth"}))
        answer.callback(Identity("ann", "default", permissions_for(core.permit, "ann"), "test"))
        self.assertEqual([m.kind for m in guest.got], [kinds.WELCOME, kinds.REPLY, kinds.EVENT, kinds.REPLY])
        self.assertEqual(guest.peer.pauses, set())
        self.assertEqual(core.hub.metrics.frames_in[kinds.PUBLISH], 1)

    def test_refused(self):
        """Each way of being refused has its reason; our own mistake is logged and said as such."""
        for error, reason in (
            (errors.Unauthenticated("no"), kinds.UNAUTHORIZED), (errors.Expired(), kinds.EXPIRED),
            (errors.AuthUnavailable(), kinds.UNAVAILABLE), (errors.LimitExceeded(), kinds.LIMIT),
        ):  # fmt: skip
            for later in (False, True):
                core = Core()

                def identify(hello: Hello, peer: Any, error: Any = error, later: bool = later) -> Any:
                    if not later:
                        raise error
                    failed: Deferred[Identity] = Deferred()
                    failed.errback(error)
                    return failed

                core.identify = identify
                guest = Guest(core)
                guest.send(kinds.HELLO, seq=0)
                self.assertEqual(guest.goodbye().reason, reason)
                self.assertEqual(len(core.hub.sessions), 0)
        core = Core()
        broken: Deferred[Identity] = Deferred()
        core.identify = lambda hello, peer: broken
        guest = Guest(core)
        guest.send(kinds.HELLO, seq=0)
        broken.errback(ZeroDivisionError())
        self.assertEqual(guest.goodbye().reason, kinds.INTERNAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_peer_that_leaves_meanwhile(self):
        """What an authenticator has under way for a peer that is gone, or out of time, is cancelled."""

        def out_of_time(guest: Guest) -> None:
            guest.core.pass_time(11)

        for leave in (Guest.vanish, out_of_time):
            core = Core()
            cancelled: list[Any] = []
            waiting: Deferred[Identity] = Deferred(cancelled.append)
            core.identify = partial(_same, waiting)
            guest = Guest(core)
            guest.send(kinds.HELLO, seq=0)
            leave(guest)
            self.assertEqual((cancelled, len(core.hub.sessions)), ([waiting], 0))

    def test_accept_hook(self):
        """A plugin may refuse a peer before its hello, also after thinking about it."""

        def refuse(peer: Any) -> None:
            raise errors.Refused("not you")

        guest = Guest(Core(accept=refuse))
        self.assertEqual(guest.goodbye().text, "not you")
        later: Deferred[None] = Deferred()
        guest = Guest(Core(accept=lambda peer: later))
        self.assertEqual(guest.peer.pauses, {"accept"})
        later.callback(None)
        self.assertEqual(guest.peer.pauses, set())
        guest.hello()


class Alive(SynchronousTestCase):
    """Heartbeats, broken frames, rates."""

    def test_heartbeats(self):
        """After a heartbeat of silence a ping, after two and a half the end; any frame counts as life."""
        core = Core()
        guest = core.guest("ann", heartbeat_ms=10_000)
        core.pass_time(16)
        self.assertEqual([m.kind for m in guest.take()], [kinds.PING])
        guest.send(kinds.PONG, seq=0, received=0)
        core.pass_time(16)
        self.assertEqual([m.kind for m in guest.take()], [kinds.PING])
        core.pass_time(10)
        self.assertIsNone(guest.peer.closed)
        core.pass_time(10)
        self.assertEqual(guest.goodbye().reason, kinds.IDLE)
        self.assertTrue(guest.goodbye().reconnect)

    def test_ping(self):
        """A ping is answered at once, with its seq and the count."""
        guest = Core().guest("ann")
        guest.send(kinds.PUBLISH, "c", b"", seq=0)
        guest.send(kinds.PING, seq=9)
        (pong,) = guest.take()
        self.assertEqual((pong.kind, pong.seq, pong.fields), (kinds.PONG, 9, {kinds.RECEIVED: 1}))

    def test_a_count_that_cannot_be(self):
        """Who reports more frames than were sent broke the protocol."""
        guest = Core().guest("ann")
        guest.send(kinds.PONG, seq=0, received=1)
        self.assertEqual(guest.goodbye().reason, kinds.PROTOCOL)

    def test_unexpected_connection_frames(self):
        """A second hello is refused; unknown kinds below 16 are ignored."""
        guest = Core().guest("ann")
        guest.send(9, seq=0)
        self.assertEqual(guest.take(), [])
        guest.send(kinds.HELLO, seq=0)
        self.assertEqual(guest.goodbye().reason, kinds.PROTOCOL)

    def test_broken_input(self):
        """What the dialect could not read closes the connection with the reason."""
        broken = errors.RemoteProtocolError("x")
        for error, reason in ((broken, kinds.PROTOCOL), (errors.FrameTooLarge(), kinds.TOO_LARGE)):
            guest = Core().guest("ann")
            guest.connection.failed(error)
            self.assertEqual((guest.goodbye().reason, guest.peer.closed), (reason, reason))

    def test_rates(self):
        """Over the rate reading is delayed until the debt is paid; far over it ends the session."""
        core = Core(Config(limits=Limits(frames_per_s_max=10, rate_burst_s=1, rate_delay_s_max=2)))
        guest = core.guest("ann")
        for _ in range(15):
            guest.send(kinds.PUBLISH, "c", b"", seq=0)
        self.assertEqual(guest.peer.pauses, {"rate"})
        core.pass_time(0.3)
        self.assertEqual(guest.peer.pauses, {"rate"})
        core.pass_time(0.4)
        self.assertEqual(guest.peer.pauses, set())
        for _ in range(40):
            guest.send(kinds.PUBLISH, "c", b"", seq=0)
        self.assertEqual(guest.goodbye().reason, kinds.RATE)
        core = Core(Config(limits=Limits(bytes_per_s_max=1000, rate_burst_s=1)))
        guest = core.guest("ann")
        guest.send(kinds.PUBLISH, "c", b"x" * 2000, seq=0)
        self.assertEqual(guest.peer.pauses, {"rate"})

    def test_slow_consumer(self):
        """When the outbox overflows in the middle of a delivery, the goodbye comes after it."""
        core = Core()
        guest = core.guest("ann")
        assert guest.peer.overflowed is not None
        guest.peer.overflowed()
        self.assertIsNone(guest.peer.closed)
        core.clock.advance(0)
        self.assertEqual(guest.goodbye().reason, kinds.SLOW_CONSUMER)


class Admission(SynchronousTestCase):
    """Who may connect at all."""

    def test_connections(self):
        """In all and per address; loopback is not counted; who leaves makes room."""
        core = Core(Config(limits=Limits(connections_max=4, connections_per_address_max=2)))
        first = Guest(core, "192.0.2.1")
        Guest(core, "192.0.2.1")
        self.assertEqual(core.gate.admit("192.0.2.1", "test"), kinds.LIMIT)
        self.assertEqual(core.gate.admit("192.0.2.2", "test"), 0)
        first.vanish()
        self.assertEqual(core.gate.admit("192.0.2.1", "test"), 0)
        for _ in range(3):
            Guest(core, "127.0.0.1")
        self.assertEqual(core.gate.admit("127.0.0.1", "test"), kinds.LIMIT)

    def test_networks(self):
        """A listener's lists count for that listener."""
        core = Core()
        core.gate.listeners((Listener(name="a", address="tcp:1", deny=("192.0.2.0/24",)),))
        self.assertEqual(core.gate.admit("192.0.2.9", "a"), kinds.UNAUTHORIZED)
        self.assertEqual(core.gate.admit("192.0.2.9", "b"), 0)

    def test_sessions_per_user(self):
        """At the limit the next session of the user is refused."""
        core = Core(Config(limits=Limits(sessions_per_user_max=2)))
        core.guest("ann"), core.guest("ann"), core.guest("bob")
        guest = Guest(core)
        guest.send(kinds.HELLO, "", {"user": "ann"}, seq=0)
        self.assertEqual(guest.goodbye().reason, kinds.LIMIT)

    def test_the_same_device_again(self):
        """The old one is replaced and told why, or the new one is refused."""
        core = Core()
        old = core.guest("ann", device="phone")
        core.guest("ann", device="phone"), core.guest("ann", device="laptop"), core.guest("bob", device="phone")
        self.assertEqual((old.goodbye().reason, old.goodbye().reconnect), (kinds.REPLACED, False))
        self.assertEqual(len(core.hub.sessions), 3)
        core = Core(Config(auth=Auth(duplicate_device="refuse")))
        old, new = core.guest("ann", device="phone"), Guest(core)
        new.send(kinds.HELLO, "", {"user": "ann", "device": "phone"}, seq=0)
        self.assertEqual(new.goodbye().reason, kinds.UNAUTHORIZED)
        self.assertIsNone(old.peer.closed)

    def test_drain(self):
        """A stop says goodbye to all, spread over ``drain_s``, with when to come back; nobody else gets in."""
        core = Core(Config(timing=Timing(drain_s=4)))
        self.assertTrue(core.gate.drain().called)  # nobody there: no wait
        core = Core(Config(timing=Timing(drain_s=4)))
        guests = [core.guest(f"u{number}") for number in range(4)]
        done = core.gate.drain()
        self.assertEqual(core.gate.admit("", "test"), kinds.UNAVAILABLE)
        closed = []
        for _ in range(4):
            core.pass_time(1.05)
            closed.append(sum(guest.peer.closed is not None for guest in guests))
        self.assertEqual(closed, [2, 3, 4, 4])
        waits = [guest.goodbye().reconnect_after_ms for guest in guests]
        self.assertEqual(waits, sorted(waits, reverse=True))
        self.assertTrue(all(guest.goodbye().reason == kinds.DRAIN and guest.goodbye().reconnect for guest in guests))
        self.assertNoResult(done)
        for guest in guests:
            guest.vanish()
        core.pass_time(0.1)
        self.successResultOf(done)


class Identities(SynchronousTestCase):
    """Binding, refreshing, expiring, revoking, subscriptions made by the server."""

    def identity(self, user: str, **more: Any) -> Identity:
        """What an authenticator would give."""
        permit = more.pop("permit", Permit(bind=("b*.**", "bob"), publish=("{user}",)))
        return Identity(user, more.pop("realm", "default"), permissions_for(permit, user), "test", **more)

    def test_bind_by_name(self):
        """With the permission a session takes another name, and its permissions follow; without it, not."""
        core = Core()
        core.identify = lambda hello, peer: self.identity(hello.user)
        guest = core.guest("")
        self.assertEqual(code(guest.answer(guest.send(kinds.BIND, "", {"user": "eve"}))), 21)
        self.assertIsNone(code(guest.answer(guest.send(kinds.BIND, "", {"user": "bob"}))))
        self.assertIsNone(code(guest.answer(guest.send(kinds.PUBLISH, "bob", b""))))
        self.assertEqual(list(core.hub.realms["default"].users), ["bob"])
        self.assertIsNone(code(guest.answer(guest.send(kinds.BIND, "", {}))))
        self.assertEqual(list(core.hub.realms["default"].users), [])

    def test_bind_and_refresh_by_token(self):
        """A token binds to its user; refresh keeps the user; frames behind wait for the answer."""
        core = Core()
        core.identify = lambda hello, peer: self.identity(hello.token, token_id=f"id-{hello.token}")
        guest = core.guest("", token="ann")
        self.assertEqual(code(guest.answer(guest.send(kinds.REFRESH, "", {"token": "eve"}))), 21)
        self.assertEqual(code(guest.answer(guest.send(kinds.REFRESH, "", {"token": ""}))), 14)
        answer: Deferred[Identity] = Deferred()
        core.identify = lambda hello, peer: answer
        guest.take()
        seq = guest.send(kinds.BIND, "", {"token": "bob"})
        publish = guest.send(kinds.PUBLISH, "bob", b"")
        self.assertEqual(guest.take(), [])
        answer.callback(self.identity("bob", token_id="t2"))
        self.assertEqual([m.seq for m in guest.take()], [seq, publish])
        self.assertEqual(core.sessions.revoke("default", "id-ann"), 0)
        self.assertEqual(core.sessions.revoke("default", "t2"), 1)
        self.assertEqual(guest.goodbye().reason, kinds.REVOKED)

    def test_another_realm(self):
        """A token of another realm does not move a session there."""
        core = Core()
        core.identify = lambda hello, peer: self.identity("x", realm=hello.token or "default")
        guest = core.guest("")
        self.assertEqual(code(guest.answer(guest.send(kinds.BIND, "", {"token": "other"}))), 21)

    def test_expiry(self):
        """A refresh is asked for before the end; with it the session goes on, without it ends as expired."""
        core = Core()
        core.identify = lambda hello, peer: self.identity("ann", expires_at=core.hub.wall() + 100)
        guest = core.guest("", heartbeat_ms=10_000_000)
        welcome_s = 100
        core.pass_time(welcome_s - 30 + 1)
        (wanted,) = guest.take(kinds.REFRESH)
        self.assertEqual(wanted.kind, kinds.REFRESH)
        self.assertIsNone(code(guest.answer(guest.send(kinds.REFRESH, "", {"token": "new"}))))
        guest.send(kinds.PING, seq=0)
        core.pass_time(50)
        self.assertIsNone(guest.peer.closed)
        guest.send(kinds.PING, seq=0)
        core.pass_time(51)
        self.assertEqual(guest.goodbye().reason, kinds.EXPIRED)
        self.assertEqual(len(core.hub.sessions), 0)

    def test_server_side_subscriptions(self):
        """Channels of the token and of the rules are joined by the server, and named in the welcome."""
        core = Core(Config(channels=(ChannelRule(pattern="staff", subscribe_for=("ann",)),)))
        core.identify = lambda hello, peer: self.identity("ann", subscriptions=("news.*",))
        guest = Guest(core)
        self.assertEqual(guest.hello().subscriptions, ("news.*", "staff"))
        self.assertEqual(core.node.publish("default", Message(kinds.PUBLISH, "staff")), 1)
        self.assertEqual(core.node.publish("default", Message(kinds.PUBLISH, "news.1")), 1)

    def test_kick(self):
        """A session is closed for good with a reason."""
        core = Core()
        guest = core.guest("ann", features=["resume"])
        (session,) = core.hub.sessions.values()
        core.sessions.close(session, kinds.KICKED, "bye")
        self.assertEqual((guest.goodbye().reason, len(core.hub.sessions)), (kinds.KICKED, 0))


class Hooks(SynchronousTestCase):
    """What hooks may do to messages, and to nobody else's."""

    def test_rewrite_and_refuse(self):
        """A hook may rewrite a message or refuse it; the others notice nothing."""

        def before(session: Any, message: Message) -> Message:
            if message.body == b"bad":
                raise errors.Refused("no")
            return Message(message.kind, message.name, message.body.upper(), seq=message.seq)

        core = Core(before_publish=before)
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.SUBSCRIBE, "c")
        bob.take()
        self.assertEqual(code(ann.answer(ann.send(kinds.PUBLISH, "c", b"bad"))), 24)
        ann.send(kinds.PUBLISH, "c", b"good")
        self.assertEqual([m.body for m in bob.take()], [b"GOOD"])

    def test_suspended(self):
        """While a hook thinks, later frames of that session wait in order (to a limit); the others go on."""
        waiting: list[Deferred[Any]] = []

        def before(session: Any, message: Message) -> Any:
            if message.body == b"slow":
                waiting.append(Deferred())
                return waiting[-1]
            return message

        for hook in ("before_message", "before_publish"):
            waiting.clear()
            core = Core(Config(limits=Limits(held_frames_max=3)))
            setattr(core.hooks, hook, before)
            ann, bob = core.guest("ann"), core.guest("bob")
            bob.send(kinds.SUBSCRIBE, "c")
            bob.take()
            ann.send(kinds.PUBLISH, "c", b"slow")
            for body in (b"1", b"slow", b"2"):
                ann.send(kinds.PUBLISH, "c", body)
            self.assertEqual(code(ann.answer(ann.send(kinds.PUBLISH, "c", b"3"))), 40)
            self.assertEqual(ann.peer.pauses, {"hook"})
            bob.send(kinds.PUBLISH, "c", b"b", seq=0)
            self.assertEqual([m.body for m in bob.take()], [b"b"])
            waiting[0].callback(Message(kinds.PUBLISH, "c", b"slow!"))
            self.assertEqual([m.body for m in bob.take()], [b"slow!", b"1"])
            self.assertEqual(ann.peer.pauses, {"hook"})
            waiting[1].errback(errors.Refused("no"))
            self.assertEqual([m.body for m in bob.take()], [b"2"])
            self.assertEqual((ann.peer.pauses, core.router.held), (set(), {}))

    def test_after_message(self):
        """It is called once for each message that was routed, also behind a hook that took its time."""
        after: list[bytes] = []
        waiting: list[Deferred[Any]] = []

        def before(session: Any, message: Message) -> Any:
            if message.body == b"slow":
                waiting.append(Deferred())
                return waiting[-1]
            return message

        for hook in ("before_message", "before_publish"):
            core = Core(after_message=lambda session, message: after.append(message.body))
            setattr(core.hooks, hook, before)
            ann = core.guest("ann")
            for body in (b"1", b"slow", b"2"):
                ann.send(kinds.PUBLISH, "c", body)
            self.assertEqual(after, [b"1"], hook)
            waiting.pop().callback(None)
            self.assertEqual(after, [b"1", b"slow", b"2"], hook)
            after.clear()

    def test_a_session_that_ends_meanwhile(self):
        """Its frames are forgotten; the hook's late answer does nothing."""
        later: Deferred[Any] = Deferred()
        core = Core(before_message=lambda session, message: later)
        ann = core.guest("ann")
        ann.send(kinds.PUBLISH, "c", b"")
        ann.send(kinds.PUBLISH, "c", b"")
        ann.vanish()
        later.callback(None)
        self.assertEqual(core.router.held, {})

    def test_our_own_mistake(self):
        """An exception in the routing costs that one message: an error to its sender, a traceback in the log."""
        core = Core()
        ann = core.guest("ann")
        core.router.table[kinds.PUBLISH] = lambda session, message: 1 / 0
        self.assertEqual(code(ann.answer(ann.send(kinds.PUBLISH, "c", b""))), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIsNone(code(ann.answer(ann.send(kinds.SUBSCRIBE, "c"))))
