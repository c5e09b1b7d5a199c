"""Ciphers, error correction and smux under KCP: the bytes of the originals, and garbage."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError, RemoteProtocolError
from relay.wire.kcp import smux
from relay.wire.kcp.ciphers import AUTHENTICATED, CIPHERS, cipher_of, key_of
from relay.wire.kcp.fec import SHARDS_HELD_MAX, FecDecoder, FecEncoder, is_fec
from relay.wire.kcp.reed_solomon import ReedSolomon, inverse, matrix_of, power, times
from relay.wire.kcp.salsa20 import Salsa20

KEY = bytes(range(32))


class CipherTests(SynchronousTestCase):
    """Datagrams as kcp-go makes them."""

    def test_vectors(self):
        """The key of kcptun's default pass phrase, and AES in CFB with it, as Go makes them."""
        key = key_of("it's a secrect")
        self.assertEqual(key.hex(), "25d7d7bd51050742d8d791f2b653c6c8b2366b7e25a124cf7a2e12eaf4ffa444")
        sealed = "86834343335b168ca911bf584a05f9903ec7bc6a38973c8f06af13125d010b76610a38b74cd6f615aacb90a6"
        self.assertEqual(cipher_of("aes", key).seal(bytes(24), bytes(range(16))).hex(), sealed)

    def test_salsa20(self):
        """The first test vectors of ECRYPT's set 1 and 2, and that a long stream is made of the same blocks."""
        stream = Salsa20(b"\x80" + bytes(31)).stream(bytes(8), 64)
        self.assertEqual(stream[:16].hex(), "e3be8fdd8beca2e3ea8ef9475b29a6e7")
        long = Salsa20(KEY).stream(bytes(range(8)), 1500)
        for size in (1, 63, 64, 65, 700):
            self.assertEqual(Salsa20(KEY).stream(bytes(range(8)), size), long[:size])

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(CIPHERS), st.binary(min_size=1, max_size=1400), st.randoms(use_true_random=False))
    def test_round_trip(self, name, payload, rng):
        """What is sealed opens again; the overhead is what it says."""
        cipher = cipher_of(name, KEY)
        datagram = cipher.seal(payload, rng.randbytes(cipher.nonce_bytes))
        self.assertEqual(len(datagram), len(payload) + cipher.overhead)
        self.assertEqual(cipher.open(datagram), payload)

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(CIPHERS[:-1]), st.binary(max_size=100), st.data())
    def test_garbage(self, name, noise, data):
        """Noise, a wrong key and a damaged byte do not open (the CRC of the ciphers without authentication sees it)."""
        cipher = cipher_of(name, KEY)
        self.assertIsNone(cipher.open(noise))
        datagram = bytearray(cipher.seal(b"some payload", bytes(range(cipher.nonce_bytes))))
        if name != "none":
            self.assertIsNone(cipher_of(name, KEY[::-1]).open(bytes(datagram)))
        at = data.draw(st.integers(cipher.nonce_bytes, len(datagram) - 1))
        datagram[at] ^= data.draw(st.integers(1, 255))
        self.assertIsNone(cipher.open(bytes(datagram)))

    def test_names(self):
        """Only AES-GCM authenticates; unknown names and bad keys are mistakes of the configuration."""
        self.assertEqual([name for name in CIPHERS if cipher_of(name, KEY).authenticated], list(AUTHENTICATED))
        self.assertEqual(key_of("hex:" + KEY.hex()), KEY)
        for wrong in ("hex:00", "hex:" + "g" * 64):
            with self.assertRaises(ConfigError):
                key_of(wrong)
        for name, key in (("rot13", KEY), ("aes", b"")):
            with self.assertRaises(ConfigError):
                cipher_of(name, key)


class ReedSolomonTests(SynchronousTestCase):
    """The code of klauspost/reedsolomon."""

    def test_rows(self):
        """The check rows are Go's."""
        self.assertEqual(
            [list(row) for row in matrix_of(10, 3)],
            [
                [129, 150, 175, 184, 210, 196, 254, 232, 3, 2],
                [150, 129, 184, 175, 196, 210, 232, 254, 2, 3],
                [191, 214, 98, 10, 6, 111, 223, 183, 5, 4],
            ],
        )
        self.assertEqual([list(row) for row in matrix_of(5, 2)], [[7, 7, 6, 6, 1], [9, 8, 9, 8, 1]])
        self.assertEqual([list(row) for row in matrix_of(2, 2)], [[3, 2], [2, 3]])
        self.assertEqual([list(row) for row in matrix_of(3, 1)], [[1, 1, 1]])

    def test_field(self):
        """It is a field: inverses, and powers as repeated products."""
        for a in range(1, 256):
            self.assertEqual(times(a, inverse(a)), 1)
            self.assertEqual(power(a, 3), times(a, times(a, a)))
        self.assertEqual((power(0, 0), power(0, 5), times(0, 7)), (1, 0, 0))

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 12), st.integers(1, 6), st.randoms(use_true_random=False))
    def test_recovery(self, data, parity, rng):
        """Any ``data`` of all shards give back those that are missing, whatever their lengths."""
        code = ReedSolomon(data, parity)
        shards = [rng.randbytes(rng.randrange(1, 40)) for _ in range(data)]
        every = dict(enumerate([*shards, *code.encode(shards)]))
        kept = rng.sample(sorted(every), data)
        missing = [each for each in range(data) if each not in kept]
        if missing:
            found = code.recover({place: every[place] for place in kept}, missing)
            longest = max(len(every[place]) for place in kept)
            for place, shard in zip(missing, found, strict=True):
                self.assertEqual(shard, shards[place].ljust(longest, b"\0"))

    def test_largest(self):
        """The largest group can be recovered, in bounded time."""
        code = ReedSolomon(128, 128)
        shards = [bytes([index]) * 10 for index in range(128)]
        every = dict(enumerate([*shards, *code.encode(shards)]))
        kept = {place: every[place] for place in range(128, 256)}
        self.assertEqual(code.recover(kept, [0, 77, 127]), [shards[0], shards[77], shards[127]])


class FecTests(SynchronousTestCase):
    """Packets of error correction."""

    def test_vector(self):
        """Two data packets and their parity are kcp-go's, byte for byte."""
        encoder = FecEncoder(2, 1)
        packets = encoder.packets(b"A" * 26, 0) + encoder.packets(b"B" * 24, 1)
        self.assertEqual(
            [packet.hex() for packet in packets],
            ["00000000f1001c00" + "41" * 26, "01000000f1001a00" + "42" * 24, "02000000f2001000" + "47" * 24 + "c3c3"],
        )
        self.assertTrue(all(map(is_fec, packets)))

    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from([(1, 1), (2, 1), (3, 2), (10, 3)]), st.randoms(use_true_random=False))
    def test_learns(self, shape, rng):
        """A decoder that was told nothing, or something else, learns k and m, and then recovers what is lost."""
        encoder, decoder = FecEncoder(*shape), FecDecoder(*rng.choice([(0, 0), (4, 2)]))
        seen = []
        for index in range(shape[0] * 4):
            for packet in encoder.packets(index.to_bytes(2, "big") * 5, index):
                plain, recovered = decoder.receive(packet)
                seen += [plain, *recovered]
        self.assertEqual((decoder.data, decoder.parity), shape)
        group = [each for index in range(shape[0]) for each in encoder.packets(bytes([index]) * (index + 3), 1000)]
        lost = rng.randrange(shape[0])
        del group[lost]
        found = [each for packet in group for each in decoder.receive(packet)[1]]
        self.assertEqual(found, [bytes([lost]) * (lost + 3)])

    def test_gap(self):
        """A group whose packets are far apart has no parity, and its numbers are left out."""
        encoder = FecEncoder(2, 1)
        packets = encoder.packets(b"a", 0) + encoder.packets(b"b", 600) + encoder.packets(b"c", 601)
        self.assertEqual([packet[0] for packet in packets], [0, 1, 3])

    def test_wrap(self):
        """Numbers begin again at a multiple of the group."""
        encoder = FecEncoder(2, 1)
        encoder._next = (2**32 - 1) // 3 * 3 - 3
        packets = [each for index in range(4) for each in encoder.packets(b"x", index)]
        self.assertEqual([int.from_bytes(each[:4], "little") for each in packets][3:], [0, 1, 2])

    def test_bound(self):
        """Groups that never fill are dropped, the oldest first."""
        decoder = FecDecoder(10, 3)
        for number in itertools.islice(itertools.count(0, 13), 2000):
            decoder.receive(number.to_bytes(4, "little") + b"\xf1\0\x03\0x")
        self.assertLessEqual(sum(map(len, decoder._groups.values())), SHARDS_HELD_MAX)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0xF1, 0xF2, 0xF3, 7]), st.binary(max_size=20))))
    def test_garbage(self, packets):
        """Any packets: payloads, or the protocol's error."""
        decoder = FecDecoder(2, 1)
        for number, kind, rest in packets:
            try:
                decoder.receive(number.to_bytes(4, "little") + kind.to_bytes(2, "little") + rest)
            except RemoteProtocolError:
                continue


class SmuxTests(SynchronousTestCase):
    """Frames and flow control of xtaci/smux."""

    def test_vectors(self):
        """SYN, PSH and UPD are smux's, byte for byte."""
        one = smux.Smux(True, 1)
        self.assertEqual(one.open(), 3)
        self.assertEqual(one.output[0].hex(), "0100000003000000")
        two = smux.Smux(True, 2)
        two.open()
        two.output = []
        two.send(3, b"hi")
        self.assertEqual(b"".join(two.output).hex(), "02020200030000006869")
        self.assertEqual(smux._UPDATE.pack(2, 4, 8, 3, 70_000, 65_536).hex(), "02040800030000007011010000000100")

    def exchange(self, left, right):
        """Pass output both ways until there is none; the events of both."""
        events = []
        while left.output or right.output:
            for sender, receiver in ((left, right), (right, left)):
                data, sender.output = b"".join(sender.output), []
                if data:
                    events += receiver.input(data)
        return events

    def test_streams(self):
        """Both sides open streams, send, and end each direction by itself."""
        for version in (1, 2):
            client, server = smux.Smux(True, version), smux.Smux(False, version)
            self.assertEqual((client.open(), server.open()), (3, 2))
            client.send(3, b"question")
            client.finish(3)
            self.assertEqual(
                self.exchange(client, server),
                [("opened", 3, b""), ("data", 3, b"question"), ("ended", 3, b""), ("opened", 2, b"")],
            )
            server.send(3, b"answer")
            server.finish(3)
            self.assertEqual(self.exchange(client, server), [("data", 3, b"answer"), ("ended", 3, b"")])
            self.assertEqual((list(client.streams), list(server.streams)), ([2], [2]))

    def test_flow(self):
        """Version 2: no more than the window is under way; what was consumed opens it again. All arrives."""
        client, server = smux.Smux(True, 2), smux.Smux(False, 2)
        sid = client.open()
        data = random.Random(1).randbytes(3_000_000)
        self.assertGreater(client.send(sid, data), 0)
        client.finish(sid)
        got = bytearray()
        first = sum(len(piece) for what, _, piece in self.exchange(client, server) if what == "data")
        self.assertEqual(first, smux.PEER_WINDOW_START)
        got += data[:first]
        server.consumed(sid, first)
        ended = False
        for _ in range(1000):
            if ended:
                break
            for what, _, piece in self.exchange(client, server):
                if what == "data":
                    got += piece
                    server.consumed(sid, len(piece))
                ended = ended or what == "ended"
        self.assertEqual((bytes(got), server.held_bytes), (data, 0))

    def test_greedy(self):
        """A peer that sends more than the window it was told breaks the protocol."""
        server = smux.Smux(False, 2)
        server.input(bytes.fromhex("0200000003000000"))
        frame = bytes.fromhex("0202ffff03000000") + bytes(65_535)
        with self.assertRaises(RemoteProtocolError):
            for _ in range(100):
                server.input(frame)

    def test_too_many(self):
        """More streams than the limit are refused one by one."""
        server = smux.Smux(False, 1, streams_max=2)
        events = server.input(b"".join(smux._HEADER.pack(1, 0, 0, sid) for sid in (3, 5, 7)))
        self.assertEqual([sid for _, sid, _ in events], [3, 5])
        self.assertEqual(server.output, [smux._HEADER.pack(1, smux.FIN, 0, 7)])

    def test_wrong(self):
        """Another version, unknown commands, and streams that are not the peer's to open end the session."""
        for wrong in (
            "0200000003000000", "0105000003000000", "0104080003000000", "0100000002000000", "0100000103000000",
        ):  # fmt: skip
            with self.assertRaises(RemoteProtocolError):
                smux.Smux(False, 1).input(bytes.fromhex(wrong) + bytes(8))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=300), st.integers(1, 2), st.integers(1, 50))
    def test_chunks(self, noise, version, step):
        """Any chunking of any bytes gives the same events, or the protocol's error."""

        def run(pieces):
            machine = smux.Smux(False, version)
            events = []
            try:
                for piece in pieces:
                    events += machine.input(piece)
            except RemoteProtocolError:
                events.append(("wrong", 0, b""))
            return events, machine.output

        data = smux._HEADER.pack(version, smux.SYN, 0, 3) + smux._HEADER.pack(version, smux.PSH, 4, 3) + b"abcd" + noise
        whole = run([data])
        pieces = run([data[at : at + step] for at in range(0, len(data), step)])
        if whole[0][-1][0] == "wrong":
            self.assertEqual(pieces[0][-1], whole[0][-1])
        else:
            self.assertEqual(pieces, whole)
