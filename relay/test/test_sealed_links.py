"""Tests of links between nodes that have a secret: what is on the wire, and what somebody in between can do.

``docs/cluster.md`` has the bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from secrets import token_bytes
from typing import Any
from unittest import mock

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from relay.cluster import link as link_module
from relay.cluster.frames import BULK, URGENT, Propose, encode_propose
from relay.cluster.handshake import (
    HELLO_BYTES_MAX,
)
from relay.cluster.link import LENGTH, Deframer, Incoming, Outgoing
from relay.cluster.transport import AcceptFactory, TcpTransport
from relay.errors import RemoteProtocolError
from relay.interfaces import IRaftReceiver
from relay.test.test_links import anybody, framed, hello_of, side
from relay.wire.secure_records import LENGTH_BYTES, RECORD_BYTES_MAX, StreamSealer

FRAME_BYTES_MAX = 4 << 20
COMMAND = b"put accounts/alice 1000000 and tell nobody"
PROPOSAL = encode_propose(Propose(1, 2, 3, [COMMAND]))
SECRET = "2f4ac77968d77e1d9e52214077a3a620c48f189f05a1cd9ac97648f3b3600211"
RECORD = "0019500b195f14a35ed6cbf472cab4ab13ee60d7c018858295ecaa"
"""The vector's, as they were when it was made."""


class Pair:
    """A link from node ``a`` to node ``b`` in memory: what passed on it, and what came of it."""

    def __init__(
        self, secrets: tuple[bytes, bytes] = (b"s", b"s"), nodes: tuple[int, int] = (1, 2), shakes: bool = True
    ) -> None:
        a, b = nodes
        self.got: list[bytes] = []
        self.why: list[str] = []
        self.outgoing = Outgoing(
            side(secrets[0], hello_of(a), anybody, b), (FRAME_BYTES_MAX,) * 3, lambda *_: None, self._lost
        )
        self.incoming = Incoming(
            side(secrets[1], hello_of(b), anybody),
            FRAME_BYTES_MAX,
            lambda *_: None,
            lambda node, frame: self.got.append(frame),
            self._lost,
        )
        self.wires = (StringTransport(), StringTransport())
        self.passed = (bytearray(), bytearray())
        self.incoming.makeConnection(self.wires[1])
        self.outgoing.makeConnection(self.wires[0])
        if shakes:
            self.pump()

    def _lost(self, link: object, why: RemoteProtocolError | None) -> None:
        self.why.append(str(why) if why is not None else "")

    def pump(self) -> None:
        """Bytes pass both ways until there are none."""
        while any(wire.value() for wire in self.wires):
            for end, other in enumerate((self.incoming, self.outgoing)):
                data = self.written(end)
                self.passed[end].extend(data)
                if data:
                    other.dataReceived(data)

    def written(self, end: int = 0) -> bytes:
        """What an end has written and is not on its way yet; 0: the dialler's."""
        data: bytes = self.wires[end].value()
        self.wires[end].clear()
        return data

    def records(self, *frames: bytes) -> list[bytes]:
        """What the dialler writes for each of ``frames``."""
        records = []
        for frame in frames:
            assert self.outgoing.send(BULK, frame)
            records.append(self.written())
        return records

    def lost(self) -> list[str]:
        """Both connections are gone: why, the acceptor's reason first."""
        for link in (self.incoming, self.outgoing):
            link.connectionLost(Failure(ConnectionDone()))
        return self.why


class Sealing(SynchronousTestCase):
    """What is sealed, and how."""

    def test_nothing_in_clear(self):
        """Of commands that pass between two nodes, in either direction, nothing is on the wire."""
        for nodes in ((1, 2), (2, 1)):
            pair = Pair(nodes=nodes)
            self.assertTrue(pair.outgoing.send(BULK, PROPOSAL))
            pair.pump()
            self.assertEqual(pair.got, [PROPOSAL])
            for passed in pair.passed:
                self.assertIn(b"tcp:h", passed)  # the hello: it is captured
                for part in (COMMAND, COMMAND[:8], PROPOSAL[:8], LENGTH.pack(len(PROPOSAL))):
                    self.assertNotIn(part, passed)

    def test_in_clear_without_a_secret(self):
        """Without a secret, which loopback allows, frames are on the wire as they are, and the hello has no key."""
        pair = Pair((b"", b""))
        pair.outgoing.send(BULK, PROPOSAL)
        pair.pump()
        self.assertEqual(pair.got, [PROPOSAL])
        self.assertTrue(pair.passed[0].endswith(framed(PROPOSAL)))
        hello = Deframer(HELLO_BYTES_MAX).add(bytes(pair.passed[0]))[0]
        self.assertEqual(len(msgspec.msgpack.decode(hello)), 10)

    @given(st.lists(st.binary(min_size=1, max_size=60), max_size=8), st.lists(st.integers(1, 90), max_size=20))
    def test_pieces(self, frames: list[bytes], cuts: list[int]) -> None:
        """However the sealed stream is cut, the frames are the same."""
        pair = Pair()
        stream = b"".join(pair.records(*frames))
        for size in (*cuts, len(stream)):
            pair.incoming.dataReceived(stream[:size])
            stream = stream[size:]
        self.assertEqual(pair.got, frames)

    def test_large(self):
        """The largest frame goes in records that are small enough to be held before any of it is believed."""
        pair = Pair()
        frames = [bytes([size % 251]) * size for size in (RECORD_BYTES_MAX - 4, RECORD_BYTES_MAX, FRAME_BYTES_MAX, 1)]
        stream = b"".join(pair.records(*frames))
        for at in range(0, len(stream), 65_536):
            pair.incoming.dataReceived(stream[at : at + 65_536])
        self.assertEqual(pair.got, frames)
        while stream:
            size = LENGTH_BYTES + (int.from_bytes(stream[:LENGTH_BYTES]) & 0x7FFF)
            self.assertLessEqual(size, LENGTH_BYTES + RECORD_BYTES_MAX + 16)
            stream = stream[size:]

    def test_lanes(self):
        """What waits is sealed when it is written: a heartbeat that passes entries opens before them."""
        pair = Pair()
        pair.outgoing.pauseProducing()
        pair.outgoing.send(BULK, b"entries")
        pair.outgoing.send(URGENT, b"heartbeat")
        self.assertEqual(pair.written(), b"")
        pair.outgoing.resumeProducing()
        pair.pump()
        self.assertEqual(pair.got, [b"heartbeat", b"entries"])

    def test_other_keys(self):
        """Keys change after so many records, and the link goes on."""
        with mock.patch.object(link_module, "RECORDS_MAX", 4):
            pair = Pair()
        frames = [bytes([number]) * 50 for number in range(1, 20)]
        secrets = []
        for frame in frames:
            pair.outgoing.send(BULK, frame)
            pair.pump()
            assert pair.outgoing._sealer is not None
            secrets.append(pair.outgoing._sealer._keys.secret)
        self.assertEqual(pair.got, frames)
        self.assertEqual([secrets.count(each) for each in dict.fromkeys(secrets)], [3, 3, 3, 3, 3, 3, 1])

    def test_bound(self):
        """The bound of a link's records is far below those of AES-GCM (2^32 records; RFC 8446: 2^24.5 of 16 KiB)."""
        pair = Pair()
        assert pair.outgoing._sealer is not None
        self.assertEqual(pair.outgoing._sealer.records_max, link_module.RECORDS_MAX)
        self.assertLessEqual(link_module.RECORDS_MAX, 2**24)

    def test_keys_are_not_kept(self):
        """Neither end keeps what gave its keys: they would open what was sent before they were stolen."""
        pair = Pair()
        for end in (pair.outgoing, pair.incoming):
            self.assertIsNone(end.handshake.take_keys())
            self.assertEqual(end.handshake._ephemeral, b"")

    def test_vector(self):
        """The keys and a record, composed from the page with the library's primitives, and as they were once."""
        ours, theirs = (X25519PrivateKey.from_private_bytes(bytes([each]) * 32) for each in (66, 64))
        hellos = []
        for node, to, private in ((1, 2, ours), (2, 1, theirs)):
            identity = bytes([node]) * 16
            fields = [1, 2, "c", node, identity, 1, to, f"tcp:h{node}:1", [], identity]
            hellos.append(msgspec.msgpack.encode([*fields, private.public_key().public_bytes_raw()]))
        said = b"".join(hashlib.sha256(each).digest() for each in hellos)
        proofs = [
            msgspec.msgpack.encode([2, hmac.new(b"s", name + said, "sha256").digest()])
            for name in (b"dialler", b"acceptor")
        ]
        salt = hmac.new(b"s", b"records" + said, "sha256").digest()
        label = b"relay secure channel 1: "
        secret = HKDF(SHA256(), 32, salt, label + b"link dialler").derive(ours.exchange(theirs.public_key()))
        key = HKDFExpand(SHA256(), 32, label + b"key").derive(secret)
        iv = HKDFExpand(SHA256(), 12, label + b"iv").derive(secret)
        plain = LENGTH.pack(5) + b"frame"
        head = b"\x00\x19"  # 4 + 5 + 16
        first, second = (head + AESGCM(key).encrypt(iv[:11] + bytes([iv[11] ^ n]), plain, head) for n in range(2))
        pair = Pair()
        self.assertEqual(pair.passed[0], framed(hellos[0], proofs[0]))
        self.assertEqual(pair.passed[1], framed(hellos[1], proofs[1]))
        self.assertEqual(pair.records(b"frame", b"frame"), [first, second])
        self.assertEqual(secret.hex(), SECRET)
        self.assertEqual(first.hex(), RECORD)


class Tampering(SynchronousTestCase):
    """Somebody is on the wire, and changes what passes there."""

    def ends(self, pair: Pair, *data: bytes, got: list[bytes], why: str = "was changed on its way") -> None:
        """The acceptor took ``got`` only of what came, and ended the link with a reason of one line."""
        for each in data:
            pair.incoming.dataReceived(each)
        self.assertEqual(pair.got, got)
        self.assertTrue(pair.incoming.ended and pair.wires[1].disconnecting)
        self.assertEqual(pair.wires[1].value(), b"")
        reason = pair.lost()[0]
        self.assertIn(why, reason)
        self.assertNotIn("\n", reason)

    def test_every_bit(self):
        """A bit turned over, in the length or behind it, ends the link once the record seems whole, or at once."""
        (record,) = Pair().records(b"frame")
        for bit in range(8 * len(record)):
            pair = Pair()
            changed = (int.from_bytes(record) ^ 1 << bit).to_bytes(len(record))
            more = pair.records(*(b"x" * 8192 for _ in range(4)))
            self.ends(pair, changed, *more, got=[], why="secure channel: a record")

    def test_truncated(self):
        """A record that lacks its end does not open with what follows, nor when the connection ends."""
        (record,) = Pair().records(b"frame")
        for size in range(1, len(record)):
            pair = Pair()
            _, after = pair.records(b"frame", b"after" * 5)
            self.ends(pair, record[:size] + after + bytes(RECORD_BYTES_MAX), got=[], why="secure channel: a record")
            pair = Pair()
            pair.incoming.dataReceived(record[:size])
            self.assertEqual((pair.lost()[0], pair.got), ("", []))

    def test_lost_doubled_moved(self):
        """A record left out, sent again or moved ends the link behind the last one in its place."""
        one, two, three = Pair().records(b"1", b"2", b"3")
        for sent, good in (
            ((one, three), [b"1"]),
            ((one, one), [b"1"]),
            ((two, one), []),
            ((one, two, one), [b"1", b"2"]),
        ):
            self.ends(Pair(), *sent, got=good)

    def test_reflected(self):
        """A node's own records do not come back to it: nothing comes behind the acceptor's proof."""
        for frames in ((b"frame",), (b"x",), (b"x" * 300,)):
            pair = Pair()
            (record,) = pair.records(*frames)
            pair.outgoing.dataReceived(record)
            self.assertTrue(pair.outgoing.ended)
            self.assertIn("behind the handshake", pair.lost()[1])

    def test_on_the_other_link(self):
        """Nor do they open on the link of the same two nodes on which it is the acceptor."""
        (record,) = Pair(nodes=(1, 2)).records(b"frame")
        self.ends(Pair(nodes=(2, 1)), record, got=[])

    def test_the_other_direction(self):
        """What is sealed with the keys of the acceptor's direction does not open as the dialler's."""
        pair, dialler = Pair(), side(b"s", hello_of(1), anybody, 2)
        acceptor = side(b"s", hello_of(2), anybody)
        proof = dialler.receive(acceptor.receive(dialler.begin()) or b"")
        dialler.receive(acceptor.receive(proof or b"") or b"")
        ours, theirs = dialler.take_keys(), acceptor.take_keys()
        assert ours is not None and theirs is not None
        self.assertEqual((ours.sending, ours.receiving), (theirs.receiving, theirs.sending))
        self.assertNotEqual(ours.sending, ours.receiving)
        self.assertEqual(pair.records(b"frame"), [StreamSealer(1, ours.sending).seal(framed(b"frame"))])
        self.ends(pair, StreamSealer(1, theirs.sending).seal(framed(b"frame")), got=[])

    def test_in_clear(self):
        """A frame in clear is none: behind the handshake, or in the read that ends it."""
        self.ends(Pair(), framed(PROPOSAL), framed(b"x" * RECORD_BYTES_MAX), got=[], why="secure channel: a record")
        for added in (framed(PROPOSAL), framed(PROPOSAL)[:9]):
            pair = Pair(shakes=False)
            hello = pair.written()
            pair.incoming.dataReceived(hello)
            pair.outgoing.dataReceived(pair.written(1))
            pair.incoming.dataReceived(pair.written() + added)
            self.assertEqual((pair.got, pair.incoming.ended), ([], True))
            answer = pair.written(1)
            (proof,) = Deframer(HELLO_BYTES_MAX).add(answer)  # alone: a refusal would be in clear, too
            self.assertEqual(msgspec.msgpack.decode(proof)[0], 2)
            pair.outgoing.dataReceived(answer + added)
            self.assertTrue(pair.outgoing.ended)
            self.assertEqual(pair.written(), b"")
            self.assertEqual(pair.lost(), ["something came in clear behind the handshake"] * 2)

    def test_limits(self):
        """A frame that is too long or empty ends the link, though whoever sealed it knows the secret."""
        for length in (0, FRAME_BYTES_MAX + 1):
            pair = Pair()
            assert pair.outgoing._sealer is not None
            self.ends(pair, pair.outgoing._sealer.seal(LENGTH.pack(length)), got=[], why=f"a frame of {length} bytes")

    @given(st.binary(min_size=1, max_size=200))
    def test_garbage(self, data: bytes) -> None:
        """Whatever comes, no frame comes of it."""
        pair = Pair()
        pair.incoming.dataReceived(data)
        self.assertEqual(pair.got, [])


@implementer(IRaftReceiver)
class Commands:
    """Sends one command to each node that it is linked to, and passes on what comes."""

    def __init__(self, transport: TcpTransport, came: Callable[[bytes], object]) -> None:
        self.transport = transport
        self.came = came

    def linked(self, node: int) -> None:
        self.transport.send(node, BULK, PROPOSAL)

    def received(self, node: int, frame: bytes) -> None:
        self.came(frame)

    def unlinked(self, node: int) -> None:
        pass

    def unreachable(self, node: int) -> None:
        pass


class Sockets(TestCase):
    """Two nodes, over TCP."""

    timeout = 60

    def node(self, node: int, came: Callable[[bytes], object]) -> tuple[TcpTransport, Any]:
        """A node's links, and its port."""
        transport = TcpTransport(
            global_reactor, b"s", hello_of(node, address=""), anybody, lambda _: None, lambda *_: None, lambda: 0.0,
            token_bytes,
        )  # fmt: skip
        transport.use(Commands(transport, came))
        reactor: Any = global_reactor
        port = reactor.listenTCP(0, AcceptFactory(transport), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(transport.stop)
        return transport, port

    async def test_nothing_in_clear(self):
        """Of commands that two nodes send one another nothing comes on any of their sockets, and both arrive."""
        wire = bytearray()
        for kind in (Incoming, Outgoing):

            def noted(link: Any, data: bytes, taken: Any = kind.dataReceived) -> None:
                wire.extend(data)
                taken(link, data)

            self.patch(kind, "dataReceived", noted)
        both: Deferred[None] = Deferred()
        got: list[bytes] = []

        def came(frame: bytes) -> None:
            got.append(frame)
            if len(got) == 2:
                both.callback(None)

        (one, port_one), (two, port_two) = (self.node(node, came) for node in (1, 2))
        one.add(2, f"tcp:127.0.0.1:{port_two.getHost().port}")
        two.add(1, f"tcp:127.0.0.1:{port_one.getHost().port}")
        one.start()
        two.start()
        await both
        self.assertEqual(got, [PROPOSAL, PROPOSAL])
        self.assertGreater(len(wire), 2 * len(PROPOSAL))
        self.assertNotIn(COMMAND[:8], wire)
