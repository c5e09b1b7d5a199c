"""What a hostile reader tried against the core: each test is a way in, or a way to a wrong answer, that is shut."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.config import ChannelRule, Config, Limits, Slow
from relay.config_auth import Permit
from relay.core.identity import Identity
from relay.core.outbox import Outbox
from relay.core.permissions import permissions_for
from relay.core.session import Session
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds
from relay.wire.message import Message


def error_of(message: Message) -> int | None:
    """The error's number; None for a reply."""
    number: int | None = message.get(kinds.ERROR_CODE)
    return number


class Resuming(SynchronousTestCase):
    """Sessions that are resumed, or cannot be."""

    def device(self, core: Core, **more: Any) -> tuple[Guest, dict[str, Any]]:
        """A client that may resume, and the ``resume`` that it would say."""
        guest = Guest(core)
        welcome = guest.hello(user="p", features=["resume"], **more)
        return guest, {"session": welcome.session, "secret": welcome.secret, "received": 0}

    def test_what_cannot_be_resumed_ends(self):
        """A session whose owner comes back too late for it holds no registration against the one in its place."""
        core = Core()
        guest, resume = self.device(core)
        guest.send(kinds.REGISTER, "work")
        guest.vanish()
        other = core.guest("x")
        for _ in range(12):
            other.send(kinds.PUSH, "r", b"z" * 100_000, user="p")
        again = Guest(core)
        welcome = again.hello(user="p", features=["resume"], resume=resume)
        self.assertFalse(welcome.resumed)
        self.assertIsNone(error_of(again.answer(again.send(kinds.REGISTER, "work"))))
        self.assertEqual(core.sessions.detached, 0)

    def test_a_wrong_secret_ends_nothing(self):
        """Only its owner can give a session up."""
        core = Core()
        guest, resume = self.device(core)
        Guest(core).hello(user="p", resume={**resume, "secret": "guess", "received": 99})
        self.assertIsNone(guest.peer.closed)
        self.assertIn(resume["session"], core.hub.sessions)

    def test_metadata_counts_as_kept(self):
        """Thousands of metadata entries in small frames cannot take many times ``resume_bytes_max``."""
        core = Core()
        guest, _ = self.device(core)
        session = guest.connection.session
        metadata = {f"{number:x}": "v" for number in range(1000)}
        other = core.guest("x")
        for _ in range(20):
            other.send(kinds.PUSH, "r", user="p", metadata=metadata)
        self.assertLess(len(session.unacked), 10)
        guest.send(kinds.PONG, seq=0, received=session.sent)
        self.assertEqual((len(session.unacked), session.unacked_bytes), (0, 0))

    def test_grace_begins_with_each_loss(self):
        """A provider that came back and left again has its whole time once more."""
        core = Core(Config(limits=Limits(provider_grace_s=10)))
        guest, resume = self.device(core)
        guest.send(kinds.REGISTER, "work")
        caller = core.guest("x")
        seq = caller.send(kinds.PULL, "work")
        guest.vanish()
        core.pass_time(8)
        again = Guest(core)
        self.assertTrue(again.hello(resume=resume).resumed)
        again.vanish()
        core.pass_time(8)
        self.assertEqual(caller.take(kinds.ERROR), [])
        core.pass_time(3)
        self.assertEqual(error_of(caller.answer(seq)), errors.ProviderLost.code)

    def test_closing_writes_a_pull_that_was_not_refused(self):
        """A slow provider that is closed gets what waited for it: its caller is not told that nothing was done."""
        core = Core()
        guest, _ = self.device(core)
        written: list[bytes] = []
        box = Outbox(core.flusher, written.append, core.config.slow, lambda: None)
        peer = guest.peer
        peer.send = box.send  # type: ignore[method-assign]  # the real queue before the transport
        peer.unsent = box.unsent  # type: ignore[method-assign]
        peer.close = lambda reason, text="": box.close()  # type: ignore[method-assign]
        guest.send(kinds.REGISTER, "work")
        box.flush()
        box.pauseProducing()
        caller = core.guest("x")
        seq = caller.send(kinds.PULL, "work", b"do it once")
        guest.connection.close(kinds.SLOW_CONSUMER)
        self.assertIn(b"do it once", b"".join(written))
        core.pass_time(1)
        self.assertEqual(error_of(caller.answer(seq)), errors.ProviderLost.code)

    def test_too_many_server_subscriptions_leave_nothing(self):
        """A session that cannot have its server-side subscriptions is refused and gone."""
        core = Core(Config(limits=Limits(subscriptions_max=1)))
        core.identify = lambda hello, peer: Identity(
            "p", "default", permissions_for(Permit(), "p"), "test", subscriptions=("a", "b")
        )
        guest = Guest(core)
        guest.send(kinds.HELLO, "", {"features": ["resume"]}, seq=0)
        self.assertEqual(guest.peer.closed, kinds.LIMIT)
        self.assertEqual((core.hub.sessions, core.hub.realms, core.sessions.detached), ({}, {}, 0))


class Conversations(SynchronousTestCase):
    """Connections and hooks at their edges."""

    def test_far_over_the_rate(self):
        """The frame for which a session is closed leaves nothing behind: no provider that can never answer."""
        core = Core(Config(limits=Limits(frames_per_s_max=1, rate_delay_s_max=1.0)))
        core.guest("keeps the realm")
        guest = core.guest("ann")
        realm = guest.connection.session.realm
        for number in range(20):
            if guest.peer.closed is None:
                guest.send(kinds.REGISTER, f"p{number}")
        self.assertEqual(guest.peer.closed, kinds.RATE)
        self.assertEqual(realm.procedures, {})

    def test_impossible_counts(self):
        """A client cannot claim so many frames that their number fits no field."""
        core = Core()
        guest = core.guest("ann")
        guest.send(kinds.PONG, seq=0, skipped=2**64 - 1)
        self.assertEqual(guest.peer.closed, kinds.PROTOCOL)

    def test_a_hello_waits_for_the_accept_hook(self):
        """What came with a connection's first bytes is looked at when the hook let the peer in, and not before."""
        for admit in (True, False):
            answer: Deferred[None] = Deferred()
            core = Core(accept=lambda peer, answer=answer: answer)
            guest = Guest(core)
            guest.send(kinds.HELLO, "", {"user": "ann"}, seq=0)
            guest.send(kinds.SUBSCRIBE, "room")
            self.assertEqual((core.hub.sessions, guest.got), ({}, []))
            if admit:
                answer.callback(None)
                self.assertEqual([m.kind for m in guest.got], [kinds.WELCOME, kinds.REPLY])
                self.assertEqual(core.hub.metrics.frames_in[kinds.HELLO], 1)
            else:
                answer.errback(errors.Denied("not you"))
                self.assertEqual((len(core.hub.sessions), guest.peer.closed), (0, kinds.UNAUTHORIZED))

    def test_a_mistake_behind_a_hook_costs_one_frame(self):
        """When routing fails after a hook that suspended, the frames that waited are carried out all the same."""
        answer: Deferred[Message] = Deferred()
        core = Core(before_publish=lambda session, message: answer)
        guest = core.guest("ann")
        self.patch(core.hub, "deliver", lambda *_: 1 / 0)
        first = guest.send(kinds.PUBLISH, "room")
        second = guest.send(kinds.SUBSCRIBE, "room")
        answer.callback(Message(kinds.PUBLISH, "room", seq=first))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(error_of(guest.answer(first)), errors.InternalError.code)
        self.assertIsNone(error_of(guest.answer(second)))
        self.assertEqual(guest.peer.pauses, set())

    def test_closed_by_a_hook(self):
        """A hook that closes the session of the message it looks at: the message is not carried out for the dead."""
        core = Core()
        core.guest("keeps the realm")
        guest = core.guest("ann")
        session = guest.connection.session

        def kick(session: Session, message: Message) -> Message:
            core.sessions.close(session, kinds.KICKED)
            return message

        core.hooks.before_message = kick
        guest.send(kinds.REGISTER, "squat")
        self.assertEqual((session.ended, session.realm.procedures), (True, {}))

    def test_late_while_draining(self):
        """A connection that was still being greeted when the drain began is told."""
        core = Core()
        core.gate.drain()
        guest = Guest(core)
        core.pass_time(0.1)
        self.assertEqual(guest.goodbye().reason, kinds.DRAIN)

    def test_resumed_behind_a_hook(self):
        """A session that is resumed while a hook of its is under way is not read from until that is over."""
        answer: Deferred[Message] = Deferred()
        core = Core(before_message=lambda session, message: answer if message.name == "slow" else message)
        guest = Guest(core)
        welcome = guest.hello(user="ann", features=["resume"])
        guest.send(kinds.SUBSCRIBE, "slow")
        guest.vanish()
        again = Guest(core)
        again.hello(resume={"session": welcome.session, "secret": welcome.secret, "received": 0})
        self.assertEqual(again.peer.pauses, {"hook"})
        answer.callback(Message(kinds.SUBSCRIBE, "slow", seq=1))
        self.assertEqual(again.peer.pauses, set())

    def test_closed_with_frames_left_out(self):
        """A slow consumer is told of what was left out also when it is closed, and is closed."""
        core = Core()
        guest = core.guest("slow")
        written: list[bytes] = []
        box = Outbox(core.flusher, written.append, Slow(policy="drop_oldest", queue_bytes_max=1000), lambda: None)
        peer = guest.peer
        connection = guest.connection
        box.on_overflow = connection.overflowed
        assert peer.skip_frame is not None
        box.skip_frame = peer.skip_frame
        closed: list[int] = []
        peer.send = box.send  # type: ignore[method-assign]  # the real queue before the transport

        def close(reason: int, text: str = "") -> None:
            box.close()
            closed.append(reason)

        peer.close = close  # type: ignore[method-assign]
        box.pauseProducing()
        other = core.guest("x")
        for _ in range(20):
            other.send(kinds.PUSH, "r", b"z" * 100, user="slow")
        connection.close(kinds.KICKED)
        self.assertEqual(closed, [kinds.KICKED])
        self.assertGreater(core.hub.metrics.drops, 0)
        self.assertEqual(len(written), 1)


class Permissions(SynchronousTestCase):
    """What a client may not see or be."""

    def test_presence_that_is_off(self):
        """Subscribing does not show the members of a channel whose presence is off."""
        core = Core(Config(channels=(ChannelRule(pattern="secret.*", presence=False),)))
        core.guest("ann").send(kinds.SUBSCRIBE, "secret.1")
        bob = core.guest("bob")
        answer = bob.answer(bob.send(kinds.SUBSCRIBE, "secret.1", {"presence": True}))
        self.assertEqual(error_of(answer), errors.Unsupported.code)
        self.assertNotIn(b"ann", answer.body)

    def test_roles_are_short(self):
        """A role is 1-255 bytes without control characters: it is kept and shown to others."""
        core = Core()
        guest = core.guest("ann")
        for role in ("r" * 256, "a\nb"):
            answer = guest.answer(guest.send(kinds.SUBSCRIBE, "room", {"role": role}))
            self.assertEqual(error_of(answer), errors.BadName.code)

    def test_bind_to_what_is_no_user(self):
        """``bind`` takes only names that a user can have."""
        core = Core(permit=Permit(bind=("**",)))
        guest = core.guest("ann")
        for user in ("u" * 256, "a\nb"):
            self.assertEqual(error_of(guest.answer(guest.send(kinds.BIND, "", {"user": user}))), errors.BadName.code)
        self.assertEqual(guest.connection.session.user, "ann")

    def test_own_name_is_not_its_escape(self):
        """``{user}`` of ann.x does not reach the other user who is called ann%2Ex."""
        core = Core(permit=Permit(push=("{user}",)))
        other = core.guest("ann%2Ex")
        guest = core.guest("ann.x")
        self.assertEqual(error_of(guest.answer(guest.send(kinds.PUSH, "r", user="ann%2Ex"))), errors.Denied.code)
        self.assertIsNone(error_of(guest.answer(guest.send(kinds.PUSH, "r", user="ann.x"))))
        self.assertEqual(other.take(), [])
