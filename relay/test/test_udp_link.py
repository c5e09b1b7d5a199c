"""Connections over datagrams: what arrives, whatever the network does; and the datagrams' bytes."""

from __future__ import annotations

import heapq
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.wire import udp_link, udp_packets
from relay.wire.udp_link import CONTENT, CONTENT_BYTES, UdpLink

MTU = 200


class Network:
    """Two links, and a way between them that loses, doubles and delays by the draws of one seed."""

    def __init__(self, seed: int, loss: float, jitter_s: float, doubles: float = 0.0, window_max: int = 64) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.doubles = doubles
        self.jitter_s = jitter_s
        self.now = 0.0
        self.links = (UdpLink(MTU, window_max), UdpLink(MTU, window_max))
        self.got: tuple[list[tuple[bytes, bool]], list[tuple[bytes, bool]]] = ([], [])
        self.packets = 0
        self._way: list[tuple[float, int, int, bytes]] = []

    def _give(self, side: int) -> None:
        for content in self.links[side].transmit(self.now):
            copies = (self.random.random() >= self.loss) + (self.random.random() < self.doubles)
            for _ in range(copies):
                self.packets += 1
                at = self.now + 0.01 + self.random.random() * self.jitter_s
                heapq.heappush(self._way, (at, self.packets, 1 - side, content))

    def run(self, until: float) -> None:
        """Let time pass."""
        while True:
            for side in (0, 1):
                self._give(side)
            timers = [at for link in self.links if (at := link.next_timer()) is not None]
            due = min([*timers, *(each[0] for each in self._way[:1])], default=until)
            if due >= until:
                self.now = until
                return
            self.now = max(self.now, due)
            while self._way and self._way[0][0] <= self.now:
                _, _, side, content = heapq.heappop(self._way)
                self.got[side].extend(self.links[side].receive(content, self.now))
            for link in self.links:
                link.timer(self.now)


class Links(SynchronousTestCase):
    """Both sides over a bad network."""

    @given(st.integers(0, 2**32), st.sampled_from((0.0, 0.05, 0.3)), st.sampled_from((0.0, 0.05)), st.integers(1, 200))
    @settings(max_examples=60, deadline=None)
    def test_reliable(self, seed: int, loss: float, jitter_s: float, count: int):
        """Reliable frames arrive all, once and in order, both ways, whatever is lost, doubled or out of order."""
        network = Network(seed, loss, jitter_s, doubles=0.1)
        sent: tuple[list[bytes], list[bytes]] = ([], [])
        for number in range(count):
            side = network.random.randrange(2)
            frame = b"%d" % number
            sent[side].append(frame)
            network.links[side].send(frame)
            if network.random.random() < 0.2:
                network.run(network.now + network.random.random() * 0.1)
        network.run(network.now + 120)
        for side in (0, 1):
            self.assertEqual(network.got[1 - side], [(frame, True) for frame in sent[side]])
            self.assertEqual((len(network.links[side].under_way), network.links[side].waiting_bytes), (0, 0))
            self.assertIsNone(network.links[side].next_timer())

    def test_unreliable(self):
        """What may be lost is sent once: some arrives, nothing twice, and it waits for nothing."""
        network = Network(1, 0.3, 0.0)
        for number in range(200):
            network.links[0].send_once(b"%d" % number)
            network.run(network.now + 0.01)
        network.run(network.now + 5)
        got = [frame for frame, reliable in network.got[1] if not reliable]
        self.assertEqual(len(set(got)), len(got))
        self.assertTrue(100 < len(got) < 180, len(got))

    def test_latest(self):
        """Of each stream only what is newer than all before is handed over."""
        network = Network(2, 0.2, 0.2)
        for number in range(300):
            network.links[0].send_latest(b"%d" % number, number % 2)
            network.run(network.now + 0.02)
        network.run(network.now + 5)
        got = [int(frame) for frame, _ in network.got[1]]
        for stream in (0, 1):
            of_stream = [number for number in got if number % 2 == stream]
            self.assertEqual(of_stream, sorted(set(of_stream)))
            self.assertGreater(len(of_stream), 10)

    def test_streams_are_bounded(self):
        """A peer that names ever new streams costs a bounded memory."""
        link = UdpLink(MTU)
        for number in range(2 * udp_link.STREAMS_MAX):
            link.receive(CONTENT.pack(number + 1, 0, 0, udp_link.LATEST, number << 16), 0.0)
        self.assertEqual(len(link.received.streams), udp_link.STREAMS_MAX)

    def test_window(self):
        """No more is under way than the window; it grows without loss, and shrinks with it."""
        network = Network(3, 0.0, 0.0, window_max=128)
        for _ in range(2000):
            network.links[0].send(b"x")
        self.assertEqual(len(network.links[0].transmit(0.0)), udp_link.WINDOW_FIRST)
        network.links[0].timer(1.0)
        self.assertEqual(network.links[0].window, udp_link.WINDOW_MIN)
        network = Network(3, 0.0, 0.0, window_max=128)
        for _ in range(2000):
            network.links[0].send(b"x")
        network.run(2.0)
        self.assertEqual((network.links[0].window, len(network.got[1])), (128, 2000))

    def test_idle_costs_nothing(self):
        """Once all is acknowledged no timer runs."""
        network = Network(4, 0.0, 0.0)
        network.links[0].send(b"x")
        network.run(1.0)
        before = network.packets
        network.run(100.0)
        self.assertEqual((network.packets, [link.next_timer() for link in network.links]), (before, [None, None]))

    def test_far_ahead(self):
        """A frame beyond what may be held is not acknowledged: memory stays bounded."""
        link = UdpLink(MTU)
        for place in range(2, 3 * udp_link.WINDOW_MAX):
            link.receive(CONTENT.pack(place, 0, 0, udp_link.RELIABLE, place) + b"x", 0.0)
        self.assertEqual(len(link.received.early), udp_link.WINDOW_MAX - 1)
        self.assertEqual(CONTENT.unpack_from(link.transmit(0.0)[-1])[1], udp_link.WINDOW_MAX)

    def test_few_packets(self):
        """With few packets a second a loss shows by time: a later one has arrived, and a round trip and an eighth
        have passed. The timer knows of it."""
        one, other = UdpLink(MTU), UdpLink(MTU)
        one.send(b"first")
        (content,) = one.transmit(0.0)
        other.receive(content, 0.01)
        for answer in other.transmit(0.01 + udp_link.ACK_DELAY_S):
            one.receive(answer, 0.04)
        one.send(b"lost")
        one.transmit(1.0)
        one.send(b"later")
        (content,) = one.transmit(1.02)
        other.receive(content, 1.03)
        for answer in other.transmit(1.03):
            one.receive(answer, 1.04)
        self.assertEqual(one.transmit(1.04), [])
        due = one.next_timer()
        assert due is not None
        self.assertTrue(1.04 < due < 1.0 + one.round_trip.rto_s, due)
        one.timer(due)
        (again,) = one.transmit(due)
        self.assertEqual(other.receive(again, due), [(b"lost", True), (b"later", True)])
        self.assertEqual((one.sent_again, one.window < udp_link.WINDOW_FIRST), (1, True))

    def test_bytes_held_out_of_order(self):
        """Frames before their turn are held up to a number of bytes; the others come again, and all arrive."""
        link = UdpLink(65_000)
        frame = b"x" * 60_000
        for place in range(2, 50):
            link.receive(CONTENT.pack(place, 0, 0, udp_link.RELIABLE, place) + frame, 0.0)
        self.assertEqual((len(link.received.early), link.received.early_bytes), (4, 240_000))
        for _ in range(2):  # the same place twice counts once
            link.receive(CONTENT.pack(60, 0, 0, udp_link.RELIABLE, 2) + frame, 0.0)
        self.assertEqual(link.received.early_bytes, 240_000)
        got = link.receive(CONTENT.pack(61, 0, 0, udp_link.RELIABLE, 1) + frame, 0.0)
        self.assertEqual((len(got), link.received.early_bytes, link.received.next_place), (5, 0, 6))

    def test_waiting_is_not_trying(self):
        """A frame that waits for the window is not one that the other side does not acknowledge: with little room, but
        with answers, nobody is given up."""
        one, other = UdpLink(MTU, 8), UdpLink(MTU)
        for _ in range(1000):
            one.send(b"x")
        for step in range(20):
            for content in one.transmit(step):
                other.receive(content, step)
            self.assertEqual(one.oldest_s(step), 0)
            for content in other.transmit(step):
                one.receive(content, step)
        one.transmit(30.0)
        self.assertGreater(one.oldest_s(31.0), 0.5)

    def test_acknowledgement_alone(self):
        """A packet whose frame is not wanted now still says what has arrived; its frame is not acknowledged."""
        one, other = UdpLink(MTU), UdpLink(MTU)
        one.send(b"x")
        other.receive(one.transmit(0.0)[0], 0.0)
        other.send(b"y")
        content = other.transmit(0.0)[0]
        one.acknowledged(content, 0.0)
        self.assertEqual((len(one.under_way), one.received.newest), (0, 0))
        self.assertEqual(one.receive(content, 0.0), [(b"y", True)])
        self.assertRaises(RemoteProtocolError, one.acknowledged, b"short", 0.0)

    def test_too_large(self):
        """What does not fit is refused at once, whichever way it is sent."""
        link = UdpLink(MTU)
        link.send(b"x" * link.frame_bytes_max)
        for send in (link.send, link.send_once, lambda f: link.send_latest(f, 1)):
            self.assertRaises(FrameTooLarge, send, b"x" * (link.frame_bytes_max + 1))
        self.assertEqual([len(content) for content in link.transmit(0.0)], [MTU])

    def test_challenge(self):
        """A challenge is answered with its token, even when nothing else is to be sent."""
        network = Network(5, 0.0, 0.0)
        network.links[0].challenge(b"12345678")
        network.run(1.0)
        self.assertEqual((network.links[0].proved, network.got), (b"12345678", ([], [])))

    def test_end(self):
        """The other side hears of the end."""
        one, other = UdpLink(MTU), UdpLink(MTU)
        other.receive(one.end(), 0.0)
        self.assertTrue(other.ended)

    @given(st.lists(st.binary(max_size=60), max_size=30), st.data())
    def test_garbage(self, packets: list[bytes], data: Any):
        """Garbage is a protocol error or changes nothing that lasts: what was sent still arrives, in order."""
        network = Network(6, 0.0, 0.0)
        network.links[0].send(b"one")
        network.run(0.5)
        for packet in packets:
            try:
                network.links[1].receive(packet, network.now)
            except RemoteProtocolError:
                continue
        self.assertLess(len(network.links[1].received.early), udp_link.WINDOW_MAX)

    def test_refused(self):
        """A packet that is cut off, of an unknown kind, or that acknowledges what was never sent."""
        link = UdpLink(MTU)
        for bad in (b"", b"x" * (CONTENT_BYTES - 1), CONTENT.pack(1, 0, 0, 7, 0), CONTENT.pack(1, 1, 0, 1, 1),
                    CONTENT.pack(0, 0, 0, 1, 1)):  # fmt: skip
            self.assertRaises(RemoteProtocolError, link.receive, bad, 0.0)


class Datagrams(SynchronousTestCase):
    """The datagrams before there is a connection."""

    @given(st.binary(min_size=8, max_size=8), st.binary(min_size=24, max_size=24), st.binary(max_size=100))
    def test_round_trip(self, nonce: bytes, cookie: bytes, secure: bytes):
        """What is encoded is decoded."""
        hello = udp_packets.Hello(nonce, cookie, secure)
        data = udp_packets.encode_hello(hello)
        self.assertEqual((len(data), udp_packets.decode_hello(data)), (udp_packets.MTU_BYTES_DEFAULT, hello))
        accept = udp_packets.Accept(nonce, cookie[:8], secure)
        self.assertEqual(udp_packets.decode_accept(udp_packets.encode_accept(accept)), accept)
        self.assertEqual(udp_packets.decode_retry(udp_packets.encode_retry(nonce, cookie)), (nonce, cookie))

    @given(st.binary(max_size=300))
    def test_garbage(self, data: bytes):
        """Garbage is a protocol error and nothing else."""
        for decode in (udp_packets.decode_hello, udp_packets.decode_accept, udp_packets.decode_retry):
            for each in (data, b"\1\1" + data.ljust(300, b"\xff")):
                try:
                    decode(each)
                except RemoteProtocolError:
                    continue

    def test_no_amplification(self):
        """No answer to an unproven address is longer than a third of the shortest hello that is answered."""
        shortest = udp_packets.HELLO_BYTES_MIN
        self.assertLess(len(udp_packets.encode_retry(bytes(8), bytes(24))) * 3, shortest)
        short = udp_packets.encode_hello(udp_packets.Hello(bytes(8)))[: shortest - 1]
        self.assertRaises(RemoteProtocolError, udp_packets.decode_hello, short)

    def test_cookies(self):
        """A cookie is good for its address, nonce and time, and for nothing else."""
        cookies = udp_packets.Cookies(b"secret")
        cookie = cookies.make(b"a", b"n", 100.0)
        self.assertTrue(cookies.good(cookie, b"a", b"n", 100.0 + udp_packets.COOKIE_S - 0.01))
        later = 100.0 + udp_packets.COOKIE_S + 0.01
        for bad in ((cookie, b"b", b"n", 100.0), (cookie, b"a", b"m", 100.0), (cookie, b"a", b"n", later),
                    (cookie, b"a", b"n", 90.0), (udp_packets.NO_COOKIE, b"a", b"n", 0.0)):  # fmt: skip
            self.assertFalse(cookies.good(*bad))
        self.assertFalse(udp_packets.Cookies(b"other").good(cookie, b"a", b"n", 100.0))
