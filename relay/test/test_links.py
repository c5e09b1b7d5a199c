"""Tests of one link between two nodes: ``relay.cluster.handshake`` and ``link``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.frames import BULK, SNAPSHOT, URGENT
from relay.cluster.handshake import (
    HELLO_BYTES_MAX,
    REFUSED_CLUSTER,
    REFUSED_INCARNATION,
    REFUSED_NODE,
    REFUSED_PROTOCOL,
    REFUSED_SECRET,
    REFUSED_VERSION,
    VERSION,
    Handshake,
    Hello,
    LinkRefused,
    Proof,
    Refusal,
    encode_hello,
)
from relay.cluster.link import LENGTH, Deframer, Outgoing
from relay.errors import FrameTooLarge

Check = Callable[[Hello], tuple[int, str] | None]
LANES = (1000, 2000, 500)


def framed(*frames: bytes) -> bytes:
    return b"".join(LENGTH.pack(len(frame)) + frame for frame in frames)


def hello_of(node: int, **other: Any) -> Any:
    """What makes ``node``'s hellos."""

    def make(to: int) -> Hello:
        hello = Hello(VERSION, "c", node, bytes([node]) * 16, 1, to, f"tcp:h{node}:1", (), bytes([node]) * 16)
        return msgspec.structs.replace(hello, **other)

    return make


def anybody(hello: Hello) -> tuple[int, str] | None:
    return None


def side(secret: bytes, make: Any, check: Check = anybody, dialled: int = 0, ephemeral: bytes = b"") -> Handshake:
    """A side of a handshake, with a key that is the same each time unless it is given."""
    return Handshake(secret, (ephemeral or bytes([64 + dialled]) * 32) if secret else b"", make, check, dialled)


class HandshakeTests(SynchronousTestCase):
    """The handshake of both sides, without I/O."""

    def shake(self, dialler: Handshake, acceptor: Handshake) -> None:
        frame: bytes | None = dialler.begin()
        sides = (acceptor, dialler)
        turn = 0
        while frame is not None:
            frame = sides[turn].receive(frame)
            turn = 1 - turn

    def test_done(self):
        """Both know the other, and that it knows the secret."""
        dialler = side(b"s", hello_of(1), anybody, 2)
        acceptor = side(b"s", hello_of(2), anybody)
        self.shake(dialler, acceptor)
        self.assertTrue(dialler.done and acceptor.done)
        assert dialler.peer is not None and acceptor.peer is not None
        self.assertEqual((dialler.peer.node, acceptor.peer.node), (2, 1))

    def refused(self, code: int, dialler: Handshake, acceptor: Handshake) -> None:
        error = self.assertRaises(LinkRefused, self.shake, dialler, acceptor)
        self.assertEqual(error.refusal, code)

    def test_secret(self):
        """Another secret is refused, by the acceptor first."""
        self.refused(
            REFUSED_SECRET, side(b"s", hello_of(1), anybody, 2), side(b"t", hello_of(2), anybody)
        )

    def test_secret_of_the_acceptor(self):
        """An acceptor that takes any proof and cannot give one is refused, too; so is a reflected one."""
        dialler = side(b"s", hello_of(1), anybody, 2)
        dialler.begin()
        proof = dialler.receive(encode_hello(hello_of(2, key=b"k" * 32)(1)))
        assert proof is not None
        for answer in (msgspec.msgpack.encode(Proof(b"x" * 32)), proof):
            error = self.assertRaises(LinkRefused, dialler.receive, answer)
            self.assertEqual(error.refusal, REFUSED_SECRET)

    def test_version(self):
        """Another version is refused before anything else of the hello is looked at."""
        self.refused(
            REFUSED_VERSION,
            side(b"s", hello_of(1, version=9), anybody, 2),
            side(b"s", hello_of(2), lambda hello: self.fail("asked")),
        )

    def test_other_node(self):
        """Where another node answers than the one that was dialled, the address is wrong."""
        self.refused(REFUSED_NODE, side(b"s", hello_of(1), anybody, 3), side(b"s", hello_of(2), anybody))

    def test_check(self):
        """What the node has against a hello is told to the other side."""
        refused = (REFUSED_CLUSTER, "of cluster x")
        self.refused(
            REFUSED_CLUSTER, side(b"s", hello_of(1), anybody, 2), side(b"s", hello_of(2), lambda _: refused)
        )

    def test_order(self):
        """A proof before a hello, or two hellos."""
        acceptor = side(b"s", hello_of(2), anybody)
        proof = msgspec.msgpack.encode(Proof(b"x" * 32))
        self.assertEqual(self.assertRaises(LinkRefused, acceptor.receive, proof).refusal, REFUSED_PROTOCOL)
        hello = side(b"s", hello_of(1), anybody, 2).begin()
        acceptor.receive(hello)
        self.assertEqual(self.assertRaises(LinkRefused, acceptor.receive, hello).refusal, REFUSED_PROTOCOL)

    @given(st.binary(max_size=100))
    def test_garbage(self, frame: bytes) -> None:
        """Garbage is refused."""
        self.assertRaises(LinkRefused, side(b"s", hello_of(2), anybody).receive, frame)


class DeframerTests(SynchronousTestCase):
    """A stream into frames."""

    @given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.lists(st.integers(1, 30), max_size=20))
    def test_pieces(self, frames: list[bytes], cuts: list[int]) -> None:
        """However the stream is cut, the frames are the same."""
        stream = framed(*frames)
        deframer = Deframer(20)
        found: list[bytes] = []
        for size in cuts:
            found += deframer.add(stream[:size]) if stream else []
            stream = stream[size:]
        found += deframer.add(stream)
        self.assertEqual(found, frames)

    def test_limits(self):
        """Longer than allowed, or empty: refused at its head, before anything of it is kept."""
        deframer = Deframer(20)
        self.assertEqual(deframer.add(framed(b"x" * 20)), [b"x" * 20])
        self.assertRaises(FrameTooLarge, deframer.add, LENGTH.pack(21))
        self.assertRaises(FrameTooLarge, Deframer(20).add, LENGTH.pack(0))
        deframer = Deframer(20)
        deframer.add(LENGTH.pack(21)[:2])
        self.assertRaises(FrameTooLarge, deframer.add, LENGTH.pack(21)[2:])


class OutgoingTests(SynchronousTestCase):
    """The end that sends; without a secret, so that what it writes can be read here."""

    def setUp(self) -> None:
        self.events: list[Any] = []
        self.link = Outgoing(
            side(b"", hello_of(1), anybody, 2),
            LANES,
            lambda link, hello: self.events.append(("up", hello.node)),
            lambda link, why: self.events.append(("lost", str(why) if why else "")),
        )
        self.transport = StringTransport()
        self.link.makeConnection(self.transport)

    def up(self) -> None:
        acceptor = side(b"", hello_of(2), anybody)
        deframer = Deframer(HELLO_BYTES_MAX)
        for _ in range(2):
            for frame in deframer.add(self.taken()):
                answer = acceptor.receive(frame)
                assert answer is not None
                self.link.dataReceived(framed(answer))

    def taken(self) -> bytes:
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def test_up(self):
        """Frames are taken behind the handshake, and written at once."""
        self.assertFalse(self.link.send(URGENT, b"early"))
        self.up()
        self.assertEqual(self.events, [("up", 2)])
        self.assertTrue(self.link.send(BULK, b"frame"))
        self.assertEqual(self.taken(), framed(b"frame"))

    def test_lanes(self):
        """What waits leaves lane by lane: heartbeats before entries before snapshots."""
        self.up()
        self.link.pauseProducing()
        for lane, frame in ((SNAPSHOT, b"s1"), (BULK, b"b1"), (URGENT, b"u1"), (BULK, b"b2"), (URGENT, b"u2")):
            self.assertTrue(self.link.send(lane, frame))
        self.assertEqual((self.taken(), self.link.lane_bytes), (b"", [4, 4, 2]))
        self.link.resumeProducing()
        self.assertEqual(self.taken(), framed(b"u1", b"u2", b"b1", b"b2", b"s1"))
        self.assertEqual(self.link.lane_bytes, [0, 0, 0])

    def test_pauses_again(self):
        """A transport that has enough after one frame gets one frame; a heartbeat that came then is the next."""
        self.up()
        self.link.pauseProducing()
        for number in range(3):
            self.link.send(SNAPSHOT, b"s%d" % number)
        write = self.transport.write

        def one(data: bytes) -> None:
            write(data)
            self.link.pauseProducing()

        self.transport.write = one  # type: ignore[method-assign]  # a full transport
        self.link.resumeProducing()
        self.link.send(URGENT, b"u")
        self.link.resumeProducing()
        self.assertEqual(self.taken(), framed(b"s0", b"u"))

    def test_full(self):
        """A full lane takes no more, the others do."""
        self.up()
        self.link.pauseProducing()
        for lane, size in enumerate(LANES):
            self.assertTrue(self.link.send(lane, b"x" * size))
            self.assertFalse(self.link.send(lane, b"x"))

    def test_talkative(self):
        """An acceptor has nothing to say behind the handshake."""
        self.up()
        self.link.dataReceived(framed(b"hello?"))
        self.link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.events[1][0], "lost")
        self.assertIn("behind the handshake", self.events[1][1])

    def test_refused(self):
        """A refusal ends the link with its reason, and is not answered."""
        self.taken()
        self.link.dataReceived(framed(msgspec.msgpack.encode(Refusal(REFUSED_INCARNATION, "emptied"))))
        self.assertEqual(self.taken(), b"")
        self.assertTrue(self.transport.disconnecting)
        self.link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.events, [("lost", "emptied")])
