"""KCP without a network, and over a bad one that is simulated: the same bytes come out, within every bound."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError, RemoteProtocolError
from relay.test.kcp_network import Pair, Weather
from relay.wire.kcp import segment
from relay.wire.kcp.ciphers import cipher_of
from relay.wire.kcp.machine import Kcp
from relay.wire.kcp.options import PROFILES, KcpOptions, options_for
from relay.wire.kcp.session import KcpSession, first_payload

PLAIN = KcpOptions(send_window=1024, receive_window=1024)
CONV = 0x11223344
MTU = 1400


def machine(options: KcpOptions = PLAIN, conv: int = CONV) -> Kcp:
    """One side."""
    return Kcp(conv, options, options.mtu)


class VectorTests(SynchronousTestCase):
    """Bytes of the original implementations."""

    def test_push_and_ack(self):
        """A PUSH and its ACK are kcp-go's, byte for byte."""
        left, right = machine(), machine()
        left.send(b"hello")
        (push,) = left.flush(1000)
        self.assertEqual(push.hex(), "4433221151000004e803000000000000000000000500000068656c6c6f")
        right.input(push, 1000)
        (ack,) = right.flush(1001)
        # Not yet read: the window is one less.
        self.assertEqual(ack.hex(), "443322115200ff03e8030000000000000100000000000000")
        self.assertEqual(right.receive(), b"hello")

    def test_foreign_stream_of_fragments(self):
        """A message in fragments, as C and Unity clients send it, comes out as one."""
        options = msgspec.structs.replace(PLAIN, stream=False)
        left, right = machine(options), machine(options)
        message = random.Random(1).randbytes(5000)
        left.send(message)
        left.send(b"next")
        payloads = left.flush(0)
        self.assertEqual([payload[5] for payload in payloads], [3, 2, 1, 0])
        for payload in payloads[:-1]:
            right.input(payload, 0)
            self.assertIsNone(right.receive())
        right.input(payloads[-1], 0)
        self.assertEqual([right.receive(), right.receive(), right.receive()], [message, b"next", None])

    def test_near(self):
        """Numbers are found again across the wrap of 32 bits."""
        for full in (0, 1, 2**32 - 1, 2**32, 2**32 + 5, 2**40 + 3):
            for distance in (-5, 0, 7, 2**31 - 1, -(2**31) + 1):
                if full + distance >= 0:
                    self.assertEqual(segment.near((full + distance) & segment.MASK, full), full + distance)


class RuleTests(SynchronousTestCase):
    """Single rules of the machine, and its limits."""

    def test_idle(self):
        """Nothing to send, nothing to wait for: no timer."""
        left, right = machine(), machine()
        self.assertIsNone(left.next_timer())
        left.send(b"x")
        for payload in left.flush(0):
            right.input(payload, 0)
        self.assertEqual(right.next_timer(), 0)
        for payload in right.flush(0):
            left.input(payload, 0)
        self.assertEqual((left.next_timer(), right.next_timer(), left.queued_bytes), (None, None, 0))

    def test_time_out(self):
        """What is not acknowledged is sent again at the time that ``next_timer`` tells, not before."""
        left = machine()
        left.send(b"x")
        left.flush(0)
        at = left.next_timer()
        assert at is not None
        self.assertEqual(left.flush(at - 1), [])
        self.assertEqual(len(left.flush(at)), 1)
        self.assertGreater(left.next_timer() or 0, at * 2)

    def test_dead(self):
        """After ``dead_after`` time-outs of one segment the link is dead."""
        left = machine(msgspec.structs.replace(PLAIN, dead_after=3))
        left.send(b"x")
        left.flush(0)
        for _ in range(3):
            self.assertFalse(left.dead)
            left.flush(left.next_timer() or 0)
        self.assertTrue(left.dead)

    def test_fast_retransmission(self):
        """Acks that went past a segment have it sent again before its time; acks of older transmissions do not."""
        left, right = machine(), machine()
        left.send(bytes(1376 * 8))
        payloads = left.flush(0)
        for payload in payloads[1:]:
            right.input(payload, 1)
            for ack in right.flush(1):
                left.input(ack, 2)
        (again,) = left.flush(2)
        self.assertEqual(segment.first_of(again), (CONV, segment.PUSH, 0, 0))
        self.assertEqual(left.flush(3), [])
        self.assertFalse(left.dead)
        right.input(again, 4)
        self.assertEqual(right.receive(), bytes(1376 * 8))

    def test_needless_time_out(self):
        """An ack that repeats a time stamp of before the time-out gives the congestion window back; no other does."""
        for late, expected in ((True, 10), (False, 1)):
            left, right = machine(), machine()
            left.send(bytes(1376 * 8))
            first = left.flush(0)
            again = left.flush(left.next_timer() or 0)
            congestion = left._congestion
            assert congestion is not None
            self.assertEqual((len(again), congestion.window), (8, 1))
            for payload in (first if late else again)[:1]:
                right.input(payload, 300)
            for ack in right.flush(300):
                left.input(ack, 300)
            self.assertGreaterEqual(congestion.window, expected)
            self.assertLess(congestion.window, expected + 2)

    def test_windows(self):
        """No more is in flight than the smaller of both windows; a closed window is asked about, and told."""
        small = msgspec.structs.replace(PLAIN, receive_window=8, nc=True, rate_bytes_max=10**9)
        left, right = machine(small), machine(small)
        left._peer_window = 8
        data = bytes(1376 * 40)
        left.send(data)
        now = 0
        for _ in range(10):
            for payload in left.flush(now):
                right.input(payload, now)
            for payload in right.flush(now):
                left.input(payload, now)
            self.assertLessEqual(len(right._ready) + len(right._early), 16)
        self.assertEqual(left.in_flight, {})
        self.assertGreater(left.queued_bytes, 0)
        left.flush(now)
        now = left.next_timer() or 0
        (question,) = left.flush(now)
        self.assertEqual(question[4], segment.ASK)
        right.input(question, now)
        self.assertEqual([each[4] for each in right.flush(now)], [segment.TELL])
        got = right.receive() or b""
        told = right.flush(now)
        self.assertEqual([each[4] for each in told], [segment.TELL])
        while len(got) < len(data):
            for payload in told:
                left.input(payload, now)
            for payload in left.flush(now):
                right.input(payload, now)
            got += right.receive() or b""
            told = right.flush(now)
        self.assertEqual(got, data)

    def test_pacing(self):
        """The cap holds to a burst, also for what is sent again; ``next_timer`` says when the next may leave."""
        rate = 100_000
        left = machine(msgspec.structs.replace(PLAIN, nc=True, rate_bytes_max=rate))
        left._peer_window = 1024
        left.send(bytes(200_000))
        sent = 0
        now = 0
        while now < 1000:
            payloads = left.flush(now)
            sent += sum(map(len, payloads))
            self.assertLessEqual(sent, now * rate // 1000 + 16_384 + 3 * MTU)
            now = max(now + 1, left.next_timer() or 0)
        self.assertGreater(sent, 0.8 * rate)

    def test_unpaced_without_control(self):
        """``nc`` without a pacing cap is refused, as are shards of one kind only and what does not fit."""
        for wrong in (
            {"nc": True}, {"data_shards": 3}, {"data_shards": 200, "parity_shards": 100}, {"mtu": 2000}, {"mtu": 50},
            {"interval_ms": 1}, {"receive_window": 0},
        ):  # fmt: skip
            with self.assertRaises(ConfigError):
                KcpOptions(**wrong)
        for wrong_words in (("fast", "profile"), ("game", "10"), ("game", "0/3"), ("game", "a/b")):
            with self.assertRaises(ConfigError):
                options_for(*wrong_words, 1400)
        self.assertEqual(options_for("game", "off", 1200).data_shards, 0)
        self.assertEqual(options_for("bulk", "10/3", 1200).parity_shards, 3)

    def test_messages_too_large(self):
        """A message that needs more fragments than there are is the caller's mistake; a peer's ends nothing else."""
        options = msgspec.structs.replace(PLAIN, stream=False, send_window=4, receive_window=4)
        with self.assertRaises(ValueError):
            machine(options).send(bytes(1376 * 4 + 1))
        header = segment.HEADER.pack(CONV, segment.PUSH, 200, 32, 0, 0, 0, 1)
        with self.assertRaises(RemoteProtocolError):
            machine(options).input(header + b"x", 0)

    def test_many_acks(self):
        """More acks than a datagram holds are cut between segments."""
        left = machine()
        for sn in range(1, 200):
            left.input(segment.HEADER.pack(CONV, segment.PUSH, 0, 32, 0, sn, 0, 1) + b"x", 0)
        payloads = left.flush(0)
        self.assertTrue(all(len(payload) <= MTU and len(payload) % 24 == 0 for payload in payloads))
        self.assertEqual(sum(map(len, payloads)), 199 * 24)

    def test_bounds(self):
        """Whatever a peer sends, at most two windows are held, and acks are not collected without end."""
        left = machine(msgspec.structs.replace(PLAIN, receive_window=32))
        for sn in (*range(1, 500), *range(500)):
            left.input(segment.HEADER.pack(CONV, segment.PUSH, 0, 32, 0, sn, 0, 1) + b"x", 0)
        self.assertLessEqual(len(left._ready) + len(left._early), 64)
        self.assertLessEqual(len(left._acks), 64)

    def test_proof(self):
        """An address is proven by an ack that repeats a time stamp, not by one that only names a number."""
        left = machine()
        left.send(b"x")
        left.flush(123_456)
        left.input(segment.HEADER.pack(CONV, segment.TELL, 0, 32, 0, 0, 1, 0), 123_460)
        self.assertEqual((left.queued_bytes, left.proven), (0, False))
        left.send(b"x")
        left.flush(123_470)
        left.input(segment.HEADER.pack(CONV, segment.ACK, 0, 32, 5, 1, 1, 0), 123_480)
        self.assertFalse(left.proven)
        left.send(b"x")
        left.flush(123_490)
        left.input(segment.HEADER.pack(CONV, segment.ACK, 0, 32, 123_490, 2, 3, 0), 123_500)
        self.assertTrue(left.proven)

    def test_fresh(self):
        """New data and new acknowledgements are news; an ack of an old number is none, though it looks like one."""
        left, right = machine(), machine()
        left.send(bytes(5000))
        for payload in left.flush(0):
            right.input(payload, 0)
        right.send(b"x")
        right.flush(0)
        self.assertEqual(
            [right.fresh(*each) for each in ((segment.PUSH, 4, 0), (segment.PUSH, 3, 0), (segment.ACK, 5, 0))],
            [True, False, False],
        )
        self.assertTrue(right.fresh(segment.ACK, 0, 1))

    def test_first(self):
        """Only a payload that is whole from end to end has a first segment."""
        good = segment.HEADER.pack(1, segment.PUSH, 0, 32, 0, 0, 0, 3) + b"abc"
        self.assertEqual(segment.first_of(good + good), (1, segment.PUSH, 0, 0))
        other = segment.HEADER.pack(2, segment.PUSH, 0, 32, 0, 0, 0, 0)
        for wrong in (b"", good[:-1], good + b"x", good + other, b"\0" * 24, good[:23]):
            self.assertIsNone(segment.first_of(wrong), wrong)


weathers = st.builds(
    Weather, loss=st.sampled_from([0, 0.05, 0.3]), twice=st.sampled_from([0, 0.2]), delay_ms=st.integers(0, 40),
    jitter_ms=st.integers(0, 30),
)  # fmt: skip
optionses = st.builds(
    KcpOptions, nodelay=st.booleans(), interval_ms=st.sampled_from([10, 40]), resend=st.integers(0, 3),
    nc=st.booleans(), send_window=st.sampled_from([4, 64, 256]), receive_window=st.sampled_from([4, 64, 256]),
    mtu=st.sampled_from([128, 576, 1400]), stream=st.booleans(), rate_bytes_max=st.just(2_000_000),
    dead_after=st.just(1000),
)  # fmt: skip
shards = st.sampled_from([(0, 0), (1, 1), (2, 1), (3, 2), (10, 3)])


class NetworkTests(SynchronousTestCase):
    """Whatever the network does, the same bytes or messages come out on both sides."""

    @settings(max_examples=40, deadline=None)
    @given(optionses, shards, weathers, st.lists(st.integers(1, 380), min_size=1, max_size=12), st.integers(0, 2**32))
    def test_same_bytes(self, options, fec, weather, sizes, seed):
        """Loss, duplication, reordering and delay, with and without error correction, in both modes."""
        options = msgspec.structs.replace(options, data_shards=fec[0], parity_shards=fec[1])
        pair = Pair(options, weather, seed)
        messages = [pair.random.randbytes(size) for size in sizes]
        got: list[list[bytes]] = [[], []]

        def take(pair: Pair) -> None:
            for index, side in enumerate((pair.left, pair.right)):
                while (data := side.receive()) is not None:
                    got[index].append(data)

        pair.at_step = take
        for message in messages:
            pair.left.send(message)
            pair.right.send(message)
        total = sum(sizes)
        self.assertTrue(pair.run(lambda: all(sum(map(len, each)) == total for each in got), 600_000))
        for each in got:
            if options.stream:
                self.assertEqual(b"".join(each), b"".join(messages))
            else:
                self.assertEqual(each, messages)
        self.assertEqual((pair.left.wrong, pair.right.wrong), (0, 0))

    @settings(max_examples=15, deadline=None)
    @given(st.sampled_from(["aes-256-gcm", "aes", "salsa20"]), st.integers(0, 2**32))
    def test_noise(self, cipher, seed):
        """Damaged datagrams do not pass a cipher with a check: they count as lost."""
        pair = Pair(PROFILES["game"], Weather(noise=0.3), seed, cipher)
        data = pair.random.randbytes(30_000)
        pair.left.send(data)
        got = bytearray()
        pair.at_step = lambda pair: got.extend(pair.right.receive() or b"")
        self.assertTrue(pair.run(lambda: len(got) >= len(data), 600_000))
        self.assertEqual(bytes(got), data)
        self.assertGreater(pair.right.wrong, 0)

    def test_wrap(self):
        """A session goes on when its numbers pass 2^32."""
        pair = Pair(PLAIN, Weather(loss=0.1, jitter_ms=5), 3)
        start = 2**32 - 20
        left, right = pair.left.kcp, pair.right.kcp
        left.una = left.next_sn = right.expected = start
        data = pair.random.randbytes(100_000)
        pair.left.send(data)
        got = bytearray()
        pair.at_step = lambda pair: got.extend(pair.right.receive() or b"")
        self.assertTrue(pair.run(lambda: len(got) >= len(data), 600_000))
        self.assertEqual(bytes(got), data)
        self.assertGreater(right.expected, 2**32)

    def test_game_latency(self):
        """With the profile ``game``, 64 bytes 60 times a second, 20 ms of round trip and 5 % loss: p99 ≤ 60 ms."""
        pair = Pair(PROFILES["game"], Weather(loss=0.05), 11)
        pair.steady = True
        sent: list[int] = []
        took: list[int] = []

        def play(pair: Pair) -> None:
            if pair.now % 17 == 0 and len(sent) < 3000:
                sent.append(pair.now)
                pair.left.send(bytes(64))
            for _ in range(len(pair.right.receive() or b"") // 64):
                took.append(pair.now - sent[len(took)])

        pair.at_step = play
        self.assertTrue(pair.run(lambda: len(took) == 3000, 100_000))
        took.sort()
        self.assertLessEqual(took[len(took) * 99 // 100], 60)

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 2**32))
    def test_garbage(self, noise, kind, seed):
        """Broken input counts as wrong, and nothing else happens."""
        rng = random.Random(seed)
        session = KcpSession(7, PROFILES["game"], cipher_of("null", b""), rng.randbytes)
        if kind == 1:
            noise = (7).to_bytes(4, "little") + bytes([rng.randrange(81, 85)]) + noise
        elif kind == 2:
            noise = noise[:4] + bytes([rng.randrange(0xF1, 0xF4), 0]) + noise[4:]
        for _ in range(3):
            session.input(noise, 0)
        first_payload(noise)
        segment.first_of(noise)
        session.receive()
        for datagram in session.flush(0):
            self.assertLessEqual(len(datagram), 1400)
