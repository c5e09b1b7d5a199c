"""Transports that may lose frames: what they may lose is not counted, all else is as on any other transport."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.client.effects import Send
from relay.config import Config, Limits
from relay.test.client_fixture import Bench
from relay.test.core_fixture import Core, FakePeer, Guest
from relay.test.test_core_resume import Device
from relay.wire import kinds
from relay.wire.binary import BinaryDecoder
from relay.wire.filters import wrap
from relay.wire.message import Message


class LossyGuest(Guest):
    """A guest whose transport may lose frames; what it did not is in ``loose``, with its key."""

    def __init__(self, core: Core, address: str = "", apart: int = kinds.UNRELIABLE) -> None:
        self.core = core
        self.peer = FakePeer(address)
        self.peer.apart = apart
        self.loose: list[tuple[Message, str | None]] = []
        self.peer.loose = self._loosely
        self.connection: Any = core.gate.connected(self.peer)
        self.seq = 0

    def _loosely(self, frame: bytes, key: str | None) -> None:
        (message,) = BinaryDecoder(65_536).receive(frame)
        self.loose.append((message, key))


class ApartGuest(LossyGuest):
    """A guest whose transport carries independent frames apart, too: in no order with the others."""

    def __init__(self, core: Core, address: str = "") -> None:
        super().__init__(core, address, kinds.UNRELIABLE | kinds.INDEPENDENT)


class LossyDevice(Device):
    """A device over such a transport."""

    guest_of = LossyGuest


class ApartDevice(Device):
    """A device over the other."""

    guest_of = ApartGuest


class Counting(SynchronousTestCase):
    """Both sides of the core."""

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("up", "down", "break", "away")),
                st.sampled_from((0, kinds.UNRELIABLE, kinds.INDEPENDENT, kinds.UNRELIABLE | kinds.INDEPENDENT)),
                st.integers(0, 3),
                st.booleans(),
            ),
            max_size=30,
        ),
        st.sampled_from((LossyDevice, ApartDevice)),
    )
    @settings(max_examples=150, deadline=None)
    def test_nothing_counted_is_lost_or_done_twice(self, steps: Any, device_of: Any):
        """Whatever is lost of what may be, counted frames pass once and in order through breaks and resumes."""
        core = Core()
        other = core.guest("other")
        device = device_of(core, "device")
        apart = device.guest.peer.apart
        device.send([Message(kinds.SUBSCRIBE, "down", seq=9999)], None)
        other.send(kinds.SUBSCRIBE, "up")
        other.take()
        up: list[bytes] = []
        down: list[bytes] = []
        for number, (what, flags, reach, noticed) in enumerate(steps):
            body = b"%d" % number
            loose = flags & apart
            if what == "away":
                # Nothing is carried apart to who is not there: it is kept, counts, and comes with the resume.
                device.read(None)
                down.append(body)
                say = partial(other.send, kinds.PUBLISH, "down", body, seq=0, flags=flags)
                self.assertTrue(device.break_and_resume(True, say).resumed)
            elif what == "break":
                device.read(reach)
                self.assertTrue(device.break_and_resume(noticed).resumed)
            elif what == "up" and loose:
                if reach:  # it was not lost
                    device.guest.connection.receive(Message(kinds.PUBLISH, "up", b"loose", flags=flags))
            elif what == "up":
                up.append(body)
                message = device.publish("up", body)
                message.flags |= flags
                device.send([message], None if reach else 0)
                if not reach:
                    device.read(None)
                    self.assertTrue(device.break_and_resume(noticed).resumed)
            else:
                down += [] if loose else [body]
                other.send(kinds.PUBLISH, "down", body, seq=0, flags=flags)
        device.read(None)
        self.assertEqual([m.body for m in other.take(kinds.EVENT) if m.body != b"loose"], up)
        self.assertEqual([m.body for m in device.arrived if m.kind == kinds.EVENT], down)

    def test_by_the_flag(self):
        """Only what is unreliable and wants no answer goes loosely; latest has a key of name and conflation key."""
        core = Core()
        guest = LossyGuest(core)
        guest.hello(user="ann", features=["resume"])
        guest.send(kinds.SUBSCRIBE, "c")
        plain = core.guest("bob")
        plain.send(kinds.SUBSCRIBE, "c")
        for flags, fields in (
            (0, {}),
            (kinds.UNRELIABLE, {}),
            (kinds.UNRELIABLE | kinds.LATEST, {"conflation_key": "k"}),
        ):
            seq = plain.send(kinds.PUBLISH, "c", b"x", flags=flags, **fields)
            self.assertEqual(plain.answer(seq).get(kinds.REACHED), 2)
        self.assertEqual([key for _, key in guest.loose], [None, "c k"])
        self.assertEqual(len([m for m in guest.got if m.kind == kinds.EVENT]), 1)
        self.assertEqual(len([m for m in plain.got if m.kind == kinds.EVENT]), 3)
        session = guest.connection.session
        self.assertEqual((session.sent, len(session.unacked)), (2, 2))

    def test_filters(self):
        """What a receiver cannot unwrap is unwrapped for it; a broken body reaches nobody."""
        core = Core()
        able, unable = LossyGuest(core), LossyGuest(core)
        able.hello(user="ann", filters=["gzip"])
        unable.hello(user="bob")
        for guest in (able, unable):
            guest.send(kinds.SUBSCRIBE, "c")
        bob = core.guest("bob")
        wrapped = wrap(b"x" * 100, [kinds.GZIP])
        for body, reached in ((wrapped, 2), (b"junk", None)):
            seq = bob.send(kinds.PUBLISH, "c", body, flags=kinds.UNRELIABLE, filters=(kinds.GZIP,))
            self.assertEqual(bob.answer(seq).get(kinds.REACHED), reached)
        self.assertEqual([m.body for m, _ in able.loose + unable.loose], [wrapped, b"x" * 100])

    def test_before_the_welcome(self):
        """What may be lost is lost before there is a session."""
        core = Core()
        guest = LossyGuest(core)
        guest.connection.receive(Message(kinds.PUBLISH, "c", flags=kinds.UNRELIABLE))
        welcome = guest.hello(user="ann", features=["resume"])
        self.assertEqual((welcome.received, guest.connection.session.received), (0, 0))

    def test_rates_count_them(self):
        """They are no way around the limits."""
        core = Core(Config(limits=Limits(frames_per_s_max=10)))
        guest = LossyGuest(core)
        guest.hello(user="ann")
        for _ in range(200):
            if guest.peer.closed is None:
                guest.connection.receive(Message(kinds.PUBLISH, "c", flags=kinds.UNRELIABLE))
        self.assertEqual(guest.goodbye().name, "rate")


class Clients(SynchronousTestCase):
    """The client's books."""

    def test_not_in_the_ledger(self):
        """Over such a transport what it carries apart is neither kept nor counted; over another it is."""
        for url, flags, kept in (
            ("udp://h:1", kinds.UNRELIABLE, 0),
            ("udp://h:1", kinds.INDEPENDENT, 1),
            ("tcp://h:1", kinds.UNRELIABLE | kinds.INDEPENDENT, 1),
            ("quic://h:1", kinds.UNRELIABLE, 0),
            ("quic://h:1", kinds.INDEPENDENT, 0),
            ("quic://h:1?form=json", kinds.UNRELIABLE | kinds.INDEPENDENT, 1),
        ):
            bench = Bench(url).start()
            bench.core.requests.tell(Message(kinds.PUBLISH, "c", b"x", flags=flags), bench.now)
            bench.say(Message(kinds.EVENT, "c", b"y", flags=flags))
            ledger = bench.core.outbound.ledger
            assert ledger is not None
            self.assertEqual((ledger.sent, ledger.received), (kept, kept), url)

    def test_sent_again_elsewhere(self):
        """What was counted on another transport counts when it is sent again: no flag says otherwise."""
        bench = Bench("tcp://h:1").start()
        outbound = bench.core.outbound
        bench.core.requests.tell(Message(kinds.PUBLISH, "c", b"x", flags=kinds.UNRELIABLE | kinds.NO_ECHO), bench.now)
        bench.core.take(bench.now)
        outbound.apart = kinds.UNRELIABLE
        outbound.resume(0, bench.now)
        sent = [effect.message for effect in bench.core.take(bench.now) if isinstance(effect, Send)]
        self.assertEqual([(message.body, message.flags) for message in sent], [(b"x", kinds.NO_ECHO)])
