"""Tests of the handshake of nodes that have a secret: with one another, with nodes that have none, with others."""

from __future__ import annotations

import hashlib
import hmac
from itertools import product
from typing import Any
from unittest import mock

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.frames import URGENT
from relay.cluster.handshake import (
    HELLO_BYTES_MAX,
    REFUSED_INCARNATION,
    REFUSED_PROTOCOL,
    REFUSED_SECRET,
    REFUSED_VERSION,
    VERSION,
    Handshake,
    Hello,
    LinkRefused,
    encode_hello,
    refusal_frame,
)
from relay.cluster.link import Deframer
from relay.cluster.service import ClusterService
from relay.test.test_links import anybody, framed, hello_of, side
from relay.test.test_sealed_links import Pair
from relay.wire.secure import KEY_BYTES
from relay.wire.secure_records import StreamSealer

LOW_ORDER = (
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
)
"""The points of low order and their other encodings: https://cr.yp.to/ecdh.html#validate."""




class Openings(SynchronousTestCase):
    """The handshake of nodes that have a secret, with nodes that have not, and with others."""

    def refused(self, code: int, receive: Any, *frames: bytes) -> str:
        """The last of ``frames`` is refused with ``code``."""
        for frame in frames[:-1]:
            receive(frame)
        error = self.assertRaises(LinkRefused, receive, frames[-1])
        self.assertEqual(error.refusal, code)
        return str(error)

    def test_one_secret(self):
        """A node with a secret and one without refuse one another, whichever dials, before any proof."""
        for secrets in ((b"s", b""), (b"", b"s")):
            pair = Pair(secrets)
            self.assertFalse(pair.outgoing.is_up or pair.incoming.node)
            self.assertFalse(pair.outgoing.send(URGENT, b"frame"))
            frames = [each for passed in pair.passed for each in Deframer(HELLO_BYTES_MAX).add(bytes(passed))]
            kinds = [msgspec.msgpack.decode(each)[:2] for each in frames]
            self.assertEqual(kinds, [[1, VERSION], [3, REFUSED_SECRET]])
            acceptors, diallers = pair.lost()
            self.assertIn("node 1 has a secret" if secrets[0] else "node 1 has no secret", acceptors)
            self.assertEqual(diallers, acceptors)

    def test_key_taken_out(self):
        """Who takes the key out of a hello gets no link in clear, whichever hello it is."""
        for dialled, hello in ((0, hello_of(1)(2)), (2, hello_of(2)(1))):
            handshake = side(b"s", hello_of(3 - hello.node), anybody, dialled)
            if dialled:
                handshake.begin()
            self.assertIn("no secret", self.refused(REFUSED_SECRET, handshake.receive, encode_hello(hello)))

    def test_another_key(self):
        """Who puts his own key in place of a node's is found out by the proof: by the acceptor, or by the dialler."""
        mallory = X25519PrivateKey.from_private_bytes(b"m" * 32).public_key().public_bytes_raw()

        def changed(frame: bytes) -> bytes:
            return encode_hello(msgspec.structs.replace(msgspec.msgpack.decode(frame, type=Hello), key=mallory))

        for at in range(2):
            dialler, acceptor = side(b"s", hello_of(1), anybody, 2), side(b"s", hello_of(2), anybody)
            first = dialler.begin()
            second = acceptor.receive(changed(first) if at == 0 else first)
            proof = dialler.receive(changed(second or b"") if at == 1 else second or b"")
            self.refused(REFUSED_SECRET, acceptor.receive, proof or b"")

    def test_replayed(self):
        """What a node said in an earlier handshake proves nothing in another one."""
        before = Pair()
        said = [Deframer(HELLO_BYTES_MAX).add(bytes(each)) for each in before.passed]
        for other in (hello_of(2, nonce=b"n" * 16), hello_of(2)):
            acceptor = side(b"s", other, anybody, ephemeral=b"e" * 32)
            self.refused(REFUSED_SECRET, acceptor.receive, *said[0])
        dialler = side(b"s", hello_of(1), anybody, 2, ephemeral=b"e" * 32)
        dialler.begin()
        self.refused(REFUSED_SECRET, dialler.receive, *said[1])

    def test_replayed_records(self):
        """Nor do its records open on another link of the same nodes."""
        (record,) = Pair().records(b"frame")
        later = side(b"s", hello_of(1), anybody, 2, ephemeral=b"e" * 32)
        acceptor = side(b"s", hello_of(2), anybody)
        proof = later.receive(acceptor.receive(later.begin()) or b"")
        acceptor.receive(proof or b"")
        keys = acceptor.take_keys()
        assert keys is not None
        self.assertNotEqual(StreamSealer(1, keys.receiving).seal(framed(b"frame")), record)

    def test_low_order(self):
        """A key with which everybody has the same secret is refused, though its sender knows the cluster's."""
        for point in LOW_ORDER:
            for dialled in (0, 2):
                handshake = side(b"s", hello_of(1), anybody, dialled)
                hello = encode_hello(hello_of(2, key=point)(1))
                first, second = (handshake.begin(), hello) if dialled else (hello, b"")
                answer = handshake.receive(hello) or b""
                second = second or answer
                said = b"".join(hashlib.sha256(each).digest() for each in (first, second))
                name = b"acceptor" if dialled else b"dialler"
                proof = msgspec.msgpack.encode([2, hmac.digest(b"s", name + said, "sha256")])
                reason = self.refused(REFUSED_PROTOCOL, handshake.receive, proof)
                self.assertIn("node 2 has a key that no key exchange gives", reason)
                self.assertIsNone(handshake.take_keys())

    def test_low_order_points(self):
        """They are such points: the library, which is what notices, takes none of them."""
        private = X25519PrivateKey.from_private_bytes(b"p" * 32)
        for point in LOW_ORDER:
            self.assertRaises(ValueError, private.exchange, X25519PublicKey.from_public_bytes(point))

    def test_first_version(self):
        """A node of the first version is told which one is spoken here, whether it dials or answers, with a secret or
        without."""
        for secret in (b"", b"s"):
            for dialled in (0, 2):
                handshake = side(secret, hello_of(1), lambda hello: self.fail("asked"), dialled)
                if dialled:
                    handshake.begin()
                old = [1, 1, "c", 2, b"\x02" * 16, 1, 1, "tcp:h2:1", [], b"\x02" * 16]
                reason = self.refused(REFUSED_VERSION, handshake.receive, msgspec.msgpack.encode(old))
                self.assertEqual(reason, "node 2 speaks version 1 of the link, not 2")

    def test_later_version(self):
        """So is a later one, whatever its hello looks like."""
        for rest in ([], ["c", 2, {"a": 1}], ["c", 2, b"\x02" * 16, 1, 1, "tcp:h2:1", [], b"\x02" * 16, b"k" * 32, 5]):
            receive = side(b"s", hello_of(1), anybody).receive
            reason = self.refused(REFUSED_VERSION, receive, msgspec.msgpack.encode([1, 3, *rest]))
            self.assertEqual(reason, "the other node speaks version 3 of the link, not 2")

    def test_key_of_another_size(self):
        """A key has 32 bytes."""
        for size in (0, 31, 33):
            frame = encode_hello(hello_of(1, key=bytes(size))(2))
            self.refused(REFUSED_PROTOCOL, side(b"s", hello_of(2), anybody).receive, frame)

    def test_no_key_without_a_proof(self):
        """Whoever does not know the secret does not make the acceptor exchange keys, which costs most."""
        acceptor = side(b"t", hello_of(2), anybody)
        dialler = side(b"s", hello_of(1), anybody, 2)
        proof = dialler.receive(acceptor.receive(dialler.begin()) or b"")
        with mock.patch("relay.cluster.handshake.agree", self.fail):
            self.refused(REFUSED_SECRET, acceptor.receive, proof or b"")

    def test_another_incarnation(self):
        """That its directory is another one is told to a node that has proved its secret, with a proof."""
        refused = (REFUSED_INCARNATION, "emptied" * 100)
        dialler, acceptor = side(b"s", hello_of(1), anybody, 2), side(b"s", hello_of(2), lambda _: refused)
        proof = dialler.receive(acceptor.receive(dialler.begin()) or b"")
        error = self.assertRaises(LinkRefused, acceptor.receive, proof)
        self.assertFalse(acceptor.done)
        told = refusal_frame(error)
        heard = self.assertRaises(LinkRefused, dialler.receive, told)
        self.assertEqual((heard.refusal, heard.theirs, heard.sure), (REFUSED_INCARNATION, True, True))
        self.assertEqual(str(heard), ("emptied" * 100)[:500])

        # Without the proof, with another one, for another reason or in another handshake, anybody may have said it.
        code, reason, proof = msgspec.msgpack.decode(told)[1:]
        for said in ([3, code, reason], [3, code, "emptied", proof], [3, code, reason, b"x" * 32]):
            heard = self.assertRaises(LinkRefused, dialler.receive, msgspec.msgpack.encode(said))
            self.assertEqual((heard.refusal, heard.theirs, heard.sure), (REFUSED_INCARNATION, True, False))
        again = side(b"s", hello_of(1), anybody, 2, ephemeral=b"e" * 32)
        again.begin()
        self.assertFalse(self.assertRaises(LinkRefused, again.receive, told).sure)
        again.receive(encode_hello(hello_of(2, key=b"k" * 32)(1)))
        self.assertFalse(self.assertRaises(LinkRefused, again.receive, told).sure)

    def test_stranger_with_another_incarnation(self):
        """A node that does not know the secret, or has none, is not told that, nor given a proof of anything."""
        refused = (REFUSED_INCARNATION, "emptied")
        for secret in (b"t", b""):
            dialler, acceptor = side(secret, hello_of(1), anybody, 2), side(b"s", hello_of(2), lambda _: refused)
            frame = dialler.begin()
            if secret:
                frame = dialler.receive(acceptor.receive(frame) or b"") or b""
            error = self.assertRaises(LinkRefused, acceptor.receive, frame)
            self.assertEqual((error.refusal, error.proof), (REFUSED_SECRET, None))

    def test_another_incarnation_without_a_secret(self):
        """Where there is no secret, it is told and believed at once."""
        acceptor = side(b"", hello_of(2), lambda _: (REFUSED_INCARNATION, "emptied"))
        dialler = side(b"", hello_of(1), anybody, 2)
        told = refusal_frame(self.assertRaises(LinkRefused, acceptor.receive, dialler.begin()))
        self.assertEqual(msgspec.msgpack.decode(told), [3, REFUSED_INCARNATION, "emptied"])
        self.assertTrue(self.assertRaises(LinkRefused, dialler.receive, told).sure)

    def test_two_at_once(self):
        """Of two new nodes with one id whose handshakes overlap, the first to prove is known, and the other refused,
        whether they dial or are dialled, with a secret or without."""
        for secret in (b"s", b""):
            for dialled in (0, 2):
                known: dict[int, bytes] = {}

                def check(hello: Hello, known: dict[int, bytes] = known) -> tuple[int, str] | None:
                    other = known.get(hello.node, hello.incarnation) != hello.incarnation
                    return (REFUSED_INCARNATION, "another directory") if other else None

                waiting = []
                for number in range(2):
                    key = bytes([number + 1]) * 32 if secret else b""
                    make = hello_of(2, incarnation=bytes([number]) * 16)
                    ours = side(secret, hello_of(1), check, dialled)
                    theirs = side(secret, make, anybody, 0 if dialled else 1, key)
                    if dialled:
                        proof = ours.receive(theirs.receive(ours.begin()) or b"")
                        waiting.append((ours, theirs.receive(proof or b"") or b""))
                    else:
                        waiting.append((ours, theirs.receive(ours.receive(theirs.begin()) or b"") or b""))
                ours, proof = waiting[1]
                ours.receive(proof)
                assert ours.done and ours.peer is not None
                known[2] = ours.peer.incarnation
                self.refused(REFUSED_INCARNATION, waiting[0][0].receive, waiting[0][1])
                self.assertFalse(waiting[0][0].done)

    def test_ends_the_node(self):
        """A node ends when that is sure, and not otherwise."""
        for theirs, sure, code in product((True, False), (True, False), (REFUSED_INCARNATION, REFUSED_SECRET)):
            service = mock.Mock()
            ClusterService._refused(service, 2, LinkRefused(code, "emptied", theirs=theirs, sure=sure))
            self.assertEqual(service._refuse.called, theirs and sure and code == REFUSED_INCARNATION)

    def test_random(self):
        """A secret without randomness for its key, or the opposite, is our own mistake."""
        for secret, ephemeral in ((b"s", b""), (b"", bytes(KEY_BYTES)), (b"s", bytes(KEY_BYTES - 1))):
            self.assertRaises(AssertionError, Handshake, secret, ephemeral, hello_of(1), anybody)
