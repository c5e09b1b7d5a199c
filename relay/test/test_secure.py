"""The secure channel: vectors, both sides against each other, and an attacker on the way."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import RemoteProtocolError
from relay.wire import secure
from relay.wire.secure import ChannelKeys, ClientHandshake, ServerHandshake, WrongIdentity, fingerprint, public_identity
from relay.wire.secure_records import (
    OVERHEAD_BYTES,
    RECORD_BYTES_MAX,
    REPLAY_WINDOW,
    DatagramOpener,
    DatagramSealer,
    StreamOpener,
    StreamSealer,
)

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "secure-vectors.json").read_text())["handshakes"]
SERVER, CLIENT, MALLORY = (hashlib.sha256(each).digest() for each in (b"server", b"client", b"mallory"))
SECRET = bytes(range(32))


def key(name: str) -> bytes:
    """Thirty-two bytes that look random."""
    return hashlib.sha256(name.encode()).digest()


def trusting(private: bytes) -> secure.Trust:
    """Trust in the identity of ``private`` alone."""
    return lambda identity: identity == public_identity(private)


def handshake(client: ClientHandshake, server: ServerHandshake) -> tuple[ChannelKeys, ChannelKeys]:
    """Both sides' keys."""
    keys = server.finish(client.receive(server.receive(client.hello)))
    assert client.keys is not None
    return client.keys, keys


def disturbed(which: str, bit: int) -> None:
    """A handshake on whose way one bit of one message is turned over."""

    def passes(name: str, message: bytes) -> bytes:
        return (int.from_bytes(message) ^ 1 << bit).to_bytes(len(message)) if name == which else message

    client, server = ClientHandshake(key("c"), trusting(SERVER), CLIENT), ServerHandshake(SERVER, key("s"))
    answer = server.receive(passes("hello", client.hello))
    server.finish(passes("finish", client.receive(passes("answer", answer))))


class Vectors(SynchronousTestCase):
    """What the page says, byte for byte."""

    def test_messages_and_secrets(self):
        """Every message of the handshakes, and the secrets of both directions."""
        for vector in VECTORS:
            given = {name: bytes.fromhex(value) for name, value in vector.items() if isinstance(value, str)}
            client = ClientHandshake(
                given["client_ephemeral"], trusting(given["server_key"]), given["client_key"], vector["offered"]
            )
            server = ServerHandshake(given["server_key"], given["server_ephemeral"])
            self.assertEqual(client.hello, given["hello"])
            self.assertEqual(server.receive(client.hello), given["answer"])
            self.assertEqual(client.receive(given["answer"]), given["finish"])
            keys = server.finish(given["finish"])
            assert client.keys is not None
            self.assertEqual((keys.receiving, keys.sending), (given["client_secret"], given["server_secret"]))
            self.assertEqual((client.keys.sending, client.keys.receiving), (keys.receiving, keys.sending))
            self.assertEqual(keys.peer, public_identity(given["client_key"]) if given["client_key"] else b"")

    def test_records(self):
        """A stream across a change of keys, and datagrams of two epochs."""
        for vector in VECTORS:
            records = vector["from_client"]
            plain = [bytes.fromhex(each) for each in records["plain"]]
            secret, suite = bytes.fromhex(vector["client_secret"]), vector["suite"]
            sealer = StreamSealer(suite, secret)
            stream = sealer.seal(plain[0]) + sealer.rekey() + sealer.seal(plain[1]) + sealer.end()
            self.assertEqual(stream.hex(), records["stream"])
            opener = StreamOpener(suite, secret)
            self.assertEqual(list(opener.receive(stream)), plain)
            self.assertTrue(opener.ended)
            datagrams = [bytes.fromhex(each) for each in records["datagrams"]]
            sender = DatagramSealer(suite, secret)
            sent = [sender.seal(plain[0], b"cid"), sender.seal(plain[1], b"cid")]
            sender.rekey()
            self.assertEqual([*sent, sender.seal(plain[0], b"cid")], datagrams)
            receiver = DatagramOpener(suite, secret)
            self.assertEqual([receiver.open(each, b"cid") for each in datagrams], [plain[0], plain[1], plain[0]])


class Attacks(SynchronousTestCase):
    """Who is on the way gets nothing but a refusal."""

    def test_in_the_middle(self):
        """An attacker who answers with an identity of his own is refused before the client says anything."""
        client = ClientHandshake(key("c"), trusting(SERVER), CLIENT)
        mallory = ServerHandshake(MALLORY, key("m"))
        error = self.assertRaises(WrongIdentity, client.receive, mallory.receive(client.hello))
        self.assertIn(fingerprint(public_identity(MALLORY)), str(error))
        self.assertIsNone(client.keys)

    def test_forwarded_proof(self):
        """A server cannot pass on a client's proof to another server."""
        client = ClientHandshake(key("c"), trusting(MALLORY), CLIENT)
        mallory, server = ServerHandshake(MALLORY, key("m")), ServerHandshake(SERVER, key("s"))
        server.receive(client.hello)
        self.assertRaises(RemoteProtocolError, server.finish, client.receive(mallory.receive(client.hello)))

    def test_replay(self):
        """Yesterday's messages open nothing today, though the client's are the same."""
        client = ClientHandshake(key("c"), trusting(SERVER), CLIENT)
        finish = client.receive(ServerHandshake(SERVER, key("s")).receive(client.hello))
        today = ServerHandshake(SERVER, key("another"))
        today.receive(client.hello)
        self.assertRaises(RemoteProtocolError, today.finish, finish)

    def test_downgrade(self):
        """A suite taken out of the list, or put first, on its way is noticed."""
        for changed in (b"\x01\x01\x02", b"\x01\x02\x02\x01"):
            client = ClientHandshake(key("c"), trusting(SERVER))
            answer = ServerHandshake(SERVER, key("s")).receive(changed + client.hello[4:])
            self.assertRaises(RemoteProtocolError, client.receive, answer)

    def test_every_bit(self):
        """Every bit of every message, turned over, ends the handshake, on one side or the other."""
        for which, length in (("hello", 36), ("answer", 146), ("finish", 112)):
            for bit in range(length * 8):
                self.assertRaises((RemoteProtocolError, WrongIdentity), disturbed, which, bit)

    def test_point_of_low_order(self):
        """A public key that gives everybody the same secret is refused."""
        server = ServerHandshake(SERVER, key("s"))
        self.assertRaises(RemoteProtocolError, server.receive, b"\x01\x01\x01" + bytes(32))

    @given(st.binary(max_size=200))
    def test_garbage(self, data: bytes):
        """Garbage as any message is a protocol error and nothing else."""
        self.assertRaises(RemoteProtocolError, ClientHandshake(key("c"), trusting(SERVER)).receive, data)
        server = ServerHandshake(SERVER, key("s"))
        server.receive(ClientHandshake(key("c"), trusting(SERVER)).hello)
        self.assertRaises(RemoteProtocolError, server.finish, data)
        with self.assertRaises(RemoteProtocolError):
            ServerHandshake(SERVER, key("s")).receive(b"\x00" + data)

    def test_too_long(self):
        """A hello over the limit is refused; one with something for later versions is not."""
        hello = ClientHandshake(key("c"), trusting(SERVER)).hello
        fits = hello + bytes(secure.MESSAGE_BYTES_MAX - len(hello))
        ServerHandshake(SERVER, key("s")).receive(fits)
        self.assertRaises(RemoteProtocolError, ServerHandshake(SERVER, key("s")).receive, fits + b"\0")


class Streams(SynchronousTestCase):
    """Records of a stream."""

    @given(
        st.lists(st.binary(max_size=300), max_size=12), st.integers(1, 5), st.integers(1, 400), st.sampled_from((1, 2))
    )
    def test_any_chunking(self, datas: list[bytes], records_max: int, size: int, suite: int):
        """Whatever the chunks, and however often keys change, the same bytes come out."""
        sealer, opener = StreamSealer(suite, SECRET, records_max + 1), StreamOpener(suite, SECRET)
        sent = b"".join(sealer.seal(data) for data in datas) + sealer.end()
        got = [each for at in range(0, len(sent), size) for each in opener.receive(sent[at : at + size])]
        self.assertEqual(got, datas)
        self.assertTrue(opener.ended)

    def test_large(self):
        """What is larger than a record goes in several."""
        data = bytes(range(256)) * 200
        records = StreamSealer(1, SECRET).seal(data)
        got = list(StreamOpener(1, SECRET).receive(records))
        self.assertEqual([len(each) for each in got], [RECORD_BYTES_MAX] * 3 + [len(data) - 3 * RECORD_BYTES_MAX])
        self.assertEqual(b"".join(got), data)

    @given(st.integers(0, 8 * 70 - 1))
    def test_every_bit(self, bit: int):
        """A bit turned over in a record gives an error, or waits for what will give one; never other bytes."""
        record = StreamSealer(1, SECRET).seal(b"x" * 52)
        changed = (int.from_bytes(record) ^ 1 << bit).to_bytes(len(record))
        got: list[bytes] = []
        with self.assertRaises(RemoteProtocolError):
            got.extend(StreamOpener(1, SECRET).receive(changed + bytes(2 * RECORD_BYTES_MAX)))
        self.assertEqual(got, [])

    def test_lost_doubled_swapped(self):
        """A record that is lost, doubled or out of its place ends the stream behind the last good one."""
        sealer = StreamSealer(1, SECRET)
        one, two, three = (sealer.seal(each) for each in (b"1", b"2", b"3"))
        for sent, good in (
            (one + three, [b"1"]),
            (one + one, [b"1"]),
            (two + one, []),
            (one + two + two, [b"1", b"2"]),
        ):
            got: list[bytes] = []
            with self.assertRaises(RemoteProtocolError):
                got.extend(StreamOpener(1, SECRET).receive(sent))
            self.assertEqual(got, good)

    def test_after_the_end(self):
        """Nothing follows the end; an unknown control record is no end."""
        sealer = StreamSealer(1, SECRET)
        end, more = sealer.end(), sealer.seal(b"more")
        self.assertRaises(RemoteProtocolError, list, StreamOpener(1, SECRET).receive(end + more))
        unknown = b"".join(StreamSealer(1, SECRET)._sealed(b"\x09", 0x8000))
        self.assertRaises(RemoteProtocolError, list, StreamOpener(1, SECRET).receive(unknown))

    @given(st.binary(max_size=400))
    def test_garbage(self, data: bytes):
        """Garbage is a protocol error or too short to tell, and holds back at most a record."""
        opener = StreamOpener(1, SECRET)
        try:
            self.assertEqual(list(opener.receive(data)), [])
        except RemoteProtocolError:
            return
        self.assertLess(len(opener._held), RECORD_BYTES_MAX + OVERHEAD_BYTES)


class Datagrams(SynchronousTestCase):
    """Records that may be lost, doubled and out of order."""

    @given(st.data())
    def test_any_order(self, data: Any):
        """Lost, doubled and reordered within the window: each opens exactly once, changed ones never."""
        count = data.draw(st.integers(1, 40))
        every = data.draw(st.integers(20, 50))
        sealer, opener = DatagramSealer(1, SECRET, every), DatagramOpener(1, SECRET)
        sent = [sealer.seal(bytes([number])) for number in range(count)]
        near = data.draw(st.lists(st.integers(0, count - 1), max_size=80))
        got = []
        for number in near:
            opened = opener.open(sent[number])
            if opened is not None:
                got.append(opened)
        self.assertEqual(len(set(got)), len(got))
        self.assertLessEqual(set(got), {bytes([number]) for number in near})
        if count <= every:
            self.assertEqual(set(got), {bytes([number]) for number in near})

    def test_window(self):
        """A number behind the window is refused; one just inside is not."""
        sealer, opener = DatagramSealer(1, SECRET), DatagramOpener(1, SECRET)
        sent = [sealer.seal(b"") for _ in range(REPLAY_WINDOW + 2)]
        self.assertEqual(opener.open(sent[-1]), b"")
        self.assertIsNone(opener.open(sent[1]))
        self.assertEqual(opener.open(sent[2]), b"")
        self.assertIsNone(opener.open(sent[2]))
        self.assertEqual(opener.refused, 2)

    def test_epochs(self):
        """The epoch before is still read; a forged next epoch changes nothing."""
        sealer, opener = DatagramSealer(2, SECRET), DatagramOpener(2, SECRET)
        late = sealer.seal(b"late")
        sealer.rekey()
        self.assertIsNone(opener.open(b"\x01" + bytes(40)))
        self.assertEqual(opener.open(sealer.seal(b"new")), b"new")
        self.assertEqual(opener.open(late), b"late")
        for _ in range(300):
            sealer.rekey()
            self.assertEqual(opener.open(sealer.seal(b"on")), b"on")
        self.assertIsNone(opener.open(late))

    def test_context(self):
        """What goes in clear beside it may not be changed."""
        sealer, opener = DatagramSealer(1, SECRET), DatagramOpener(1, SECRET)
        datagram = sealer.seal(b"x", b"one")
        self.assertIsNone(opener.open(datagram, b"two"))
        self.assertEqual(opener.open(datagram, b"one"), b"x")

    @given(st.binary(max_size=80), st.integers(0, 2**63))
    def test_garbage(self, data: bytes, jump: int):
        """Garbage is ignored, and what was sent still opens."""
        opener = DatagramOpener(1, SECRET)
        self.assertIsNone(opener.open(data))
        self.assertIsNone(opener.open(jump.to_bytes(8) + data))
        self.assertEqual(opener.open(DatagramSealer(1, SECRET).seal(b"good")), b"good")
