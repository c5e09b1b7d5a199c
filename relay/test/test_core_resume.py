"""Resume: nothing lost, nothing twice, order kept, in both directions (``docs/protocol.md`` section 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.config import Config, Limits, Timing
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds
from relay.wire.handshake import Resume, Welcome, read
from relay.wire.message import Message, is_loose


class Device:
    """A client by the letter of the protocol, over a network that loses what is under way when it breaks.

    ``arrived``: session frames, in order. Frames of ours wait in ``kept`` until the server reports them; ``reach``
    says how many of the frames of a burst get through before a break.
    """

    guest_of: Callable[[Core], Guest] = Guest

    def __init__(self, core: Core, user: str) -> None:
        self.core = core
        self.arrived: list[Message] = []
        self.received = 0
        self.kept: deque[Message] = deque()
        self.reported = 0
        self.seq = 0
        self.guest = self.guest_of(core)
        self.welcome = self.guest.hello(user=user, features=["resume"])
        self.read(None)

    def read(self, limit: int | None) -> None:
        """Take what came, at most ``limit`` frames of it; the rest is lost with the connection."""
        got, self.guest.peer.got = self.guest.peer.got, []
        for message in got[:limit]:
            if message.kind >= kinds.SESSION_KIND_MIN:
                # What a transport carries apart comes another way and is not counted: a client tells it by its flags.
                self.received += not is_loose(message, self.guest.peer.apart)
                self.arrived.append(message)
            elif message.kind in (kinds.PONG, kinds.PING):
                self.received += message.get(kinds.SKIPPED, 0)
                self.learn(message.get(kinds.RECEIVED))

    def learn(self, count: int | None) -> None:
        """The server has ``count`` of our frames."""
        while count is not None and self.reported < count:
            self.kept.popleft()
            self.reported += 1

    def send(self, messages: list[Message], reach: int | None) -> None:
        """Send frames; only ``reach`` of them get through (None: all)."""
        self.kept.extend(messages)
        for message in messages[:reach]:
            self.guest.connection.receive(message)

    def publish(self, name: str, body: bytes) -> Message:
        """A publication with a new seq."""
        self.seq += 1
        return Message(kinds.PUBLISH, name, body, seq=self.seq)

    def break_and_resume(self, noticed: bool, meanwhile: Callable[[], object] | None = None) -> Welcome:
        """The network breaks; the server notices before we are back, or not. ``meanwhile``: what happens before."""
        if noticed:
            self.guest.vanish()
        if meanwhile is not None:
            meanwhile()
        old, self.guest = self.guest, self.guest_of(self.core)
        resume = Resume(self.welcome.session, self.welcome.secret, self.received)
        self.guest.send(kinds.HELLO, "", {"resume": resume, "features": ["resume"]}, seq=0)
        if not noticed:
            old.vanish()
        index = next(i for i, m in enumerate(self.guest.got) if m.kind == kinds.WELCOME)
        welcome = read(self.guest.got[index], Welcome)
        if welcome.resumed:
            self.learn(welcome.received)
            again = list(self.kept)
            for message in again:
                self.guest.connection.receive(message)
        return welcome


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["here", "there", "break"]),
        st.integers(1, 6),  # frames
        st.integers(0, 6),  # how many get through before the next break
        st.booleans(),
    ),
    max_size=25,
)


class Resuming(SynchronousTestCase):
    """A session goes on where it was."""

    @given(STEPS)
    @settings(max_examples=120, deadline=None)
    def test_nothing_lost_nothing_twice(self, steps):
        """However frames are lost and connections break: each side gets what the other sent, once, in order."""
        core = Core()
        other = core.guest("other")
        device = Device(core, "device")
        device.send([Message(kinds.SUBSCRIBE, "down", seq=9999)], None)
        other.send(kinds.SUBSCRIBE, "up")
        other.take()
        sent_up: list[bytes] = []
        sent_down: list[bytes] = []
        for number, (what, count, reach, noticed) in enumerate(steps):
            if what == "here":
                bodies = [b"%d.%d" % (number, n) for n in range(count)]
                sent_up += bodies
                device.send([device.publish("up", body) for body in bodies], reach if reach < count else None)
                if reach < count:
                    device.read(reach)
                    self.assertTrue(device.break_and_resume(noticed).resumed)
            elif what == "there":
                bodies = [b"%d.%d" % (number, n) for n in range(count)]
                sent_down += bodies
                for body in bodies:
                    other.send(kinds.PUBLISH, "down", body, seq=0)
                device.read(reach if reach < count else None)
                if reach < count:
                    self.assertTrue(device.break_and_resume(noticed).resumed)
            else:
                device.read(reach)
                self.assertTrue(device.break_and_resume(noticed).resumed)
        device.read(None)
        self.assertEqual([m.body for m in other.take(kinds.EVENT)], sent_up)
        self.assertEqual([m.body for m in device.arrived if m.kind == kinds.EVENT], sent_down)
        replies = [m.seq for m in device.arrived if m.kind == kinds.REPLY]
        self.assertEqual(replies, [9999, *range(1, len(sent_up) + 1)])

    def test_state_stays(self):
        """Id, subscriptions, registrations and pulls under way survive; presence shows no leaving."""
        core = Core(Config(limits=Limits(provider_grace_s=5)))
        device = Device(core, "device")
        ann = core.guest("ann")
        device.send([Message(kinds.SUBSCRIBE, "c", seq=1), Message(kinds.REGISTER, "job", seq=2)], None)
        ann.send(kinds.SUBSCRIBE, "c", {"presence": True})
        ann.take()
        under_way = ann.send(kinds.PULL, "job", b"?")
        device.read(None)
        welcome = device.break_and_resume(True)
        self.assertEqual((welcome.session, welcome.resumed), (device.welcome.session, True))
        pull = next(m for m in device.arrived if m.kind == kinds.PULL)
        device.send([Message(kinds.REPLY, "", b"!", seq=pull.seq)], None)
        self.assertEqual(ann.answer(under_way).body, b"!")
        self.assertEqual([m.kind for m in ann.take()], [kinds.REPLY])

    def test_window(self):
        """When the window is over the session ends: presence says so, and it cannot be resumed."""
        core = Core()
        device = Device(core, "device")
        ann = core.guest("ann")
        device.send([Message(kinds.SUBSCRIBE, "c", seq=1)], None)
        ann.send(kinds.SUBSCRIBE, "c", {"presence": True})
        ann.take()
        device.guest.vanish()
        core.pass_time(29)
        self.assertEqual((len(core.hub.sessions), core.sessions.detached), (2, 1))
        core.pass_time(2)
        self.assertEqual((len(core.hub.sessions), core.sessions.detached), (1, 0))
        self.assertEqual([m.kind for m in ann.take(kinds.LEFT)], [kinds.LEFT])
        self.assertFalse(device.break_and_resume(False).resumed)

    def test_refused(self):
        """A wrong secret, an unknown session, a count that cannot be, a session without the feature: a new session."""
        core = Core()
        device = Device(core, "device")
        plain = core.guest("plain")
        plain_id = next(s.id for s in core.hub.sessions.values() if s.user == "plain")
        good = device.welcome
        for session, secret, received in (
            (good.session, "guess", 0), ("s-99", good.secret, 0), (good.session, good.secret, 7), (plain_id, "", 0),
        ):  # fmt: skip
            guest = Guest(core)
            resume = {"session": session, "secret": secret, "received": received}
            welcome = guest.hello(user="new", resume=resume)
            self.assertEqual((welcome.resumed, welcome.user), (False, "new"))
        self.assertIsNone(device.guest.peer.closed)
        self.assertIsNone(plain.peer.closed)

    def test_too_much_kept(self):
        """Beyond ``resume_bytes_max`` the oldest frames are let go, memory stays bounded, and resuming fails."""
        core = Core(Config(timing=Timing(resume_bytes_max=10_000)))
        device = Device(core, "device")
        device.send([Message(kinds.SUBSCRIBE, "c", seq=1)], None)
        device.read(None)
        ann = core.guest("ann")
        device.guest.vanish()
        (session,) = [s for s in core.hub.sessions.values() if s.user == "device"]
        for _ in range(100):
            ann.send(kinds.PUBLISH, "c", b"x" * 1000, seq=0)
            self.assertLessEqual(session.unacked_bytes, 10_000)
        self.assertFalse(device.break_and_resume(False).resumed)

    def test_acknowledged_frames_are_let_go(self):
        """What the client has reported is kept no longer; the server reports after ``resume_ack_bytes``."""
        core = Core(Config(timing=Timing(resume_ack_bytes=2000)))
        device = Device(core, "device")
        device.send([Message(kinds.SUBSCRIBE, "c", seq=1)], None)
        ann = core.guest("ann")
        for _ in range(10):
            ann.send(kinds.PUBLISH, "c", b"x" * 100, seq=0)
        device.read(None)
        (session,) = [s for s in core.hub.sessions.values() if s.user == "device"]
        self.assertEqual(len(session.unacked or ()), 11)
        device.guest.send(kinds.PONG, seq=0, received=device.received)
        self.assertEqual((len(session.unacked or ()), session.unacked_bytes), (0, 0))
        device.send([device.publish("x", b"y" * 500) for _ in range(5)], None)
        device.read(None)
        self.assertLess(len(device.kept), 3)

    def test_detached_limit(self):
        """Only so many sessions wait to be resumed; the next one ends at once."""
        core = Core(Config(limits=Limits(detached_sessions_max=1)))
        first, second = Device(core, "a"), Device(core, "b")
        first.guest.vanish()
        second.guest.vanish()
        self.assertEqual([s.user for s in core.hub.sessions.values()], ["a"])

    def test_goodbye(self):
        """A goodbye ends the session; one with ``reconnect`` leaves it to be resumed."""
        core = Core()
        device = Device(core, "device")
        device.guest.send(kinds.GOODBYE, "", {"reason": kinds.NORMAL, "reconnect": True}, seq=0)
        self.assertEqual(len(core.hub.sessions), 1)
        device.break_and_resume(False)
        device.guest.send(kinds.GOODBYE, "", {"reason": kinds.NORMAL}, seq=0)
        self.assertEqual((len(core.hub.sessions), core.hub.realms), (0, {}))

    def test_not_done_is_never_done(self):
        """A pull that was failed as not done is not carried out when its provider resumes."""
        core = Core()
        device = Device(core, "device")
        ann = core.guest("ann")
        device.send([Message(kinds.REGISTER, "job", seq=1)], None)
        device.read(None)
        seq = ann.send(kinds.PULL, "job")
        device.guest.peer.held = 1
        device.guest.peer.got.clear()
        device.guest.vanish()
        self.assertEqual(ann.answer(seq).get(kinds.OUTCOME), "not_done")
        self.assertTrue(device.break_and_resume(False).resumed)
        device.read(None)
        self.assertEqual([m.kind for m in device.arrived], [kinds.REPLY, kinds.CANCEL])
