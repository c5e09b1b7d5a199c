"""QUIC without sockets: how connections begin, what travels apart, who may move, and what costs nothing."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.bench.certificates import make_certificate
from relay.config import Limits
from relay.protocols.deadlines import Deadlines
from relay.test.entrance_fixture import json_lines, publication
from relay.test.quic_fixture import AWAY, HOME, Client, World
from relay.wire import kinds
from relay.wire.binary import encode_stream
from relay.wire.quic_connection import WINDOW_BYTES
from relay.wire.quic_link import APART


class Session(SynchronousTestCase):
    """The first stream."""

    def test_both_forms(self):
        """Frames and lines, told apart by the first bytes as on TCP; the peer says that it came over QUIC."""
        world = World()
        client = Client(world).connect()
        self.assertEqual(world.peers, [])
        client.say(publication("a"))
        client.say(publication("b", b"x" * 100_000))
        self.assertEqual([message.name for message in client.frames], ["a", "b"])
        lines = Client(world, AWAY).connect()
        lines.link.write(json_lines(publication("c")))
        world.settle()
        self.assertEqual([(peer.transport, peer.apart) for peer in world.peers], [("quic", APART), ("quic", 0)])
        self.assertEqual([peer.address for peer in world.peers], [HOME[0], AWAY[0]])
        self.assertIn(b'"c"', lines.data)

    def test_close(self):
        """What was written before a close arrives; then both sides are rid of it."""
        world = World(on_receive=lambda connection, message: None)
        client = Client(world).connect()
        client.say(publication())
        (peer,) = world.peers
        for number in range(20):
            peer.send(encode_stream(publication(str(number), b"x" * 9000)))
        peer.close(kinds.NORMAL)
        world.settle(2)
        self.assertEqual(len(client.frames), 20)
        self.assertEqual(client.over, ("the peer ended the session's stream", True))
        self.assertEqual((world.port.connections, world.port.transports, world.entrance.open), ({}, set(), 0))

    def test_client_closes(self):
        """The core hears at once of a client that leaves, whichever way."""
        for leave in (lambda client: client.link.close(), lambda client: client.link.finish()):
            world = World()
            client = Client(world).connect()
            client.say(publication())
            leave(client)
            world.settle()
            self.assertEqual([clean for connection in world.gate.connections for _, clean in connection.ends], [True])
            self.assertEqual(world.port.transports, set())

    def test_idle(self):
        """Nothing for the idle time-out, and it is over; the sweep finds it."""
        world = World(idle_timeout_s=20.0)
        Client(world).connect().say(publication())
        world.clients.clear()
        world.settle(19)
        self.assertEqual(len(world.port.transports), 1)
        world.settle(8)
        self.assertEqual(world.port.transports, set())

    def test_over(self):
        """A connection that is over is let go without a search for circles, and what is called late does nothing."""
        world = World(idle_timeout_s=20.0)
        Client(world).connect().say(publication())
        (transport,) = world.port.transports
        connection = transport.link.connection
        parts = [weakref.ref(part) for part in (connection.tls, connection._loss)]
        world.clients.clear()
        del connection
        gc.disable()
        try:
            world.settle(28)
            self.assertEqual([part() for part in parts], [None, None])
        finally:
            gc.enable()
        for call in (transport.loseConnection, transport.abortConnection, transport.pauseProducing):
            call()
        transport.write(b"late")
        transport.loosely(b"late", None)
        world.settle(1)

    def test_handshake_timeout(self):
        """Who does not finish the handshake, or says nothing after it, is gone after the handshake time-out."""
        world = World()
        Client(world).start()
        world.exchange()
        world.clients.clear()
        Client(world, AWAY).connect()
        self.assertEqual((len(world.port.transports), world.port.opening), (2, 1))
        world.settle(11)
        self.assertEqual((world.port.transports, world.port.opening, world.entrance.open), (set(), 0, 0))

    def test_closed_before_a_word(self):
        """A connection whose client has said nothing can be closed in an orderly way, too."""
        world = World()
        client = Client(world).connect()
        (transport,) = world.port.transports
        transport.loseConnection()
        world.settle()
        self.assertEqual((world.port.transports, client.over is not None), (set(), True))

    def test_another_protocol(self):
        """Who does not offer relay's ALPN is told so by TLS and gets nowhere."""
        world = World()
        client = Client(world, alpn="h3").connect()
        self.assertFalse(client.complete)
        self.assertEqual(client.connection.outcome, ("No common ALPN protocols", False))
        self.assertEqual((world.peers, world.port.transports, world.entrance.open), ([], set(), 0))

    def test_back_pressure(self):
        """A paused client can send no more than its window; when it goes on nothing is missing."""
        world = World(on_receive=lambda connection, message: None)
        client = Client(world).connect()
        client.say(publication("first"))
        transport = world.gate.last.peer._io
        transport.pauseProducing()
        body = b"x" * 100_000
        client.say(*(publication(str(number), body) for number in range(30)))
        held = sum(len(each) for each in transport._held)
        self.assertGreater(held, 0)
        self.assertLessEqual(held, 2 * WINDOW_BYTES)
        self.assertEqual(len(world.heard), 1)
        transport.resumeProducing()
        world.settle()
        self.assertEqual([message.name for message in world.heard], ["first", *map(str, range(30))])

    def test_slow_client(self):
        """A client that takes nothing pauses its outbox, and later lets it go on."""
        world = World(queue_bytes_max=200_000)
        client = Client(world).connect()
        client.say(publication("first"))
        transport, peer = world.gate.last.peer._io, world.peers[0]
        world.clients.clear()
        for number in range(10):
            peer.send(encode_stream(publication(str(number), b"x" * 50_000)))
            world.clock.advance(0)
        self.assertTrue(transport._full)
        self.assertGreater(peer.queued_bytes(), 0)
        world.clients.append(client)
        world.settle()
        self.assertEqual([message.name for message in client.frames], ["first", *map(str, range(10))])
        self.assertFalse(transport._full)


class Addresses(SynchronousTestCase):
    """Proved, moved and made-up ones."""

    def test_moved(self):
        """A client whose address changed goes on; until it has proved the new one little is sent there."""
        world = World()
        client = Client(world).connect()
        client.say(publication("a"))
        client.place = AWAY
        client.say(publication("b"))
        self.assertEqual([message.name for message in client.frames], ["a", "b"])
        self.assertEqual((world.port.moved, len(world.port.transports)), (1, 1))
        self.assertTrue(world.gate.last.peer._io.link.connection.proven)

    def test_stolen(self):
        """A datagram that somebody sends on from an address that never answers gets three times as much at most."""
        world = World(on_receive=lambda connection, message: None)
        client = Client(world).connect()
        client.say(publication("a"))
        thief = ("203.0.113.66", 6)
        client.link.write(encode_stream(publication("b")))
        sent = client.connection.datagrams_to_send(world.now())
        world.give(*((datagram, thief) for datagram, _ in sent))
        for _ in range(20):
            world.peers[0].send(encode_stream(publication("c", b"x" * 5000)))
            world.clock.advance(0.01)
        went = sum(len(datagram) for datagram, place in world.wire.sent if place == thief)
        self.assertLessEqual(went, 3 * world.came[thief])
        world.settle(3)
        self.assertEqual(len([message for message in client.frames if message.name == "c"]), 20)

    def test_more_names(self):
        """The client may use any connection id that it was given, and none after it was retired."""
        world = World()
        client = Client(world).connect()
        client.say(publication("a"))
        before = set(world.port.connections)
        for name in ("b", "c"):
            client.connection.change_connection_id()
            client.say(publication(name))
        self.assertEqual([message.name for message in client.frames], ["a", "b", "c"])
        self.assertNotEqual(before, set(world.port.connections))
        self.assertEqual(len(world.port.connections), len(before))

    def test_retry(self):
        """Always, never, or from so many on that are in the middle of their handshake."""
        for retry, count in (("always", 3), ("never", 0), ("load", 2)):
            world = World(retry=retry, retry_from=1)
            for number in range(3):
                client = Client(world, (HOME[0], number + 1))
                client.start()
                world.give(*client.datagrams())
            world.settle()
            self.assertEqual(world.port.retries, count, retry)
            self.assertTrue(all(client.complete for client in world.clients), retry)
            self.assertEqual(world.port.opening, 0)

    def test_false_starts(self):
        """Datagrams that look like a beginning and cannot be opened are load, too, for a second."""
        world = World(retry_from=10)
        rng = random.Random(7)

        def start() -> bytes:
            ids = b"\x08" + rng.randbytes(8) + b"\x08" + rng.randbytes(8)
            return b"\xc0\0\0\0\1" + ids + b"\0" + (0x4000 | 1170).to_bytes(2) + rng.randbytes(1180)

        for _ in range(30):
            world.give((start(), HOME))
        self.assertEqual((world.port.retries, world.port.ignored, world.port.transports), (20, 30, set()))
        world.clock.advance(2)
        world.give((start(), HOME))
        self.assertEqual(world.port.retries, 20)

    def test_a_token_of_another(self):
        """A token is worth nothing from another address, or too late."""
        world = World(retry="always")
        for place, wait_s in ((AWAY, 0), (HOME, 40)):
            client = Client(world)
            client.start()
            world.exchange()
            (again,) = [datagram for datagram, _ in client.connection.datagrams_to_send(world.now())][:1]
            world.clock.advance(wait_s)
            world.give((again, place))
            self.assertEqual((world.wire.take(), world.port.transports), ([], set()))
            world.clients.clear()

    def test_versions(self):
        """Another version is answered with those that there are, with less than came; such an answer is not."""
        world = World()
        head = bytes((0xC0,)) + b"\x0a\x0a\x0a\x0a" + b"\x08" + b"A" * 8 + b"\x08" + b"B" * 8
        world.give((head.ljust(1200, b"\0"), HOME))
        ((answer, _),) = world.wire.take()
        self.assertEqual(answer[1:5], b"\0\0\0\0")
        world.give((answer.ljust(1200, b"\0"), HOME), (head, HOME))
        self.assertEqual(world.wire.take(), [])

    def test_limits(self):
        """The listener's limits hold, and the number in the middle of their handshake."""
        world = World(limits=Limits(connections_per_address_max=1))
        self.assertTrue(Client(world).connect().complete)
        self.assertFalse(Client(world, (HOME[0], 2)).connect().complete)
        self.assertEqual((world.entrance.refused > 0, len(world.port.transports)), (True, 1))
        world = World(opening_max=2, retry="never")
        for number in range(5):
            client = Client(world, (HOME[0], number + 1))
            client.start()
            world.give(*client.datagrams())
        self.assertEqual(world.port.opening, 2)

    def test_draining(self):
        """A port that closes takes no new connections, and is closed after the last."""
        world = World()
        client = Client(world).connect()
        client.say(publication("a"))
        world.port.stopListening()
        self.assertFalse(Client(world, AWAY).connect().complete)
        world.clients = [client]
        client.say(publication("b"))
        self.assertEqual([message.name for message in client.frames], ["a", "b"])
        client.link.close()
        world.settle()
        self.assertFalse(world.wire.open)


class Garbage(SynchronousTestCase):
    """What nobody meant."""

    def test_spoofed(self):
        """Ten thousand datagrams from made-up addresses: no session, little state, at most three times as much back."""
        world = World(retry_from=8)
        rng = random.Random(5)
        example = Client(world)
        example.start()
        (initial,) = [datagram for datagram, _ in example.connection.datagrams_to_send(world.now())][:1]
        world.clients.clear()
        for number in range(2000):
            place = (f"203.0.113.{number % 250}", 1000 + number)
            mangled = bytearray(initial)
            mangled[rng.randrange(len(mangled))] ^= 0xFF
            batch = [
                rng.randbytes(rng.randrange(1, 1400)), bytes(mangled), initial[: rng.randrange(1, 1200)],
                bytes((0xC0 | rng.randrange(64),)) + rng.randbytes(1300),
                bytes((0x40 | rng.randrange(64),)) + rng.randbytes(50),
            ]  # fmt: skip
            world.give(*((datagram, place) for datagram in batch))
        for number in range(20):
            fresh = Client(world, (f"198.51.100.{number}", 5))
            fresh.start()
            world.give(*fresh.datagrams())
        self.assertEqual(world.peers, [])
        self.assertLessEqual(len(world.port.transports), 8 + 1)
        for datagram, place in world.wire.take():
            world.went[place] = world.went.get(place, 0) + len(datagram)
        for place, went in world.went.items():
            self.assertLessEqual(went, 3 * world.came[place], place)
        world.clients.clear()
        world.settle(15)
        for place, went in world.went.items():
            self.assertLessEqual(went, 3 * world.came[place], place)
        self.assertEqual((world.port.transports, world.entrance.open, world.entrance.hosts), (set(), 0, {}))

    def test_in_an_open_connection(self):
        """Bits that flip on the way, doubled and lost datagrams change nothing of what is heard."""
        world = World()
        client = Client(world).connect()
        client.say(publication("a"))
        rng = random.Random(6)

        def bad(datagram: bytes, to_port: bool) -> bytes | None:
            kind = rng.random()
            if kind < 0.1:
                return None
            if kind < 0.2:
                at = rng.randrange(len(datagram))
                return datagram[:at] + bytes((datagram[at] ^ 0x55,)) + datagram[at + 1 :]
            return datagram

        world.pass_on = bad
        for number in range(20):
            client.say(publication(str(number), b"x" * 3000))
            world.settle(1)
        self.assertEqual([message.name for message in client.frames], ["a", *map(str, range(20))])


class Certificates(SynchronousTestCase):
    """Reloaded while connections are there."""

    def test_reload(self):
        """New connections get the new certificate, older ones go on."""
        world = World()
        old = Client(world).connect()
        old.say(publication("a"))
        make_certificate(world.folder)
        new = Client(world, AWAY)
        new.connect()
        self.assertFalse(new.complete)  # it trusts the new one alone
        world.clients.remove(new)
        world.contexts.check()
        self.assertTrue(Client(world, ("192.0.2.8", 1)).connect().complete)
        old.say(publication("b"))
        self.assertEqual([message.name for message in old.frames], ["a", "b"])


class DeadlineTests(SynchronousTestCase):
    """One timer for many."""

    def test_order(self):
        """The earliest counts, an entry that is moved earlier is called once, and nothing is set for nobody."""
        world = World()
        clock = world.clock
        before = len(clock.getDelayedCalls())

        class Entry:
            due = 0.0

        called: list[Any] = []
        deadlines: Deadlines[Any] = Deadlines(clock, clock.seconds, lambda entry: called.append(entry))
        first, second = Entry(), Entry()
        now = clock.seconds()
        deadlines.add(first, now + 2)
        deadlines.add(second, now + 1)
        deadlines.add(first, now + 0.5)
        deadlines.add(first, now + 3)
        self.assertEqual(len(clock.getDelayedCalls()), before + 1)
        clock.advance(0.6)
        self.assertEqual(called, [first])
        clock.advance(0.5)
        self.assertEqual(called, [first, second])
        clock.advance(5)
        self.assertEqual((called, len(deadlines)), ([first, second], 0))
        deadlines.add(first, clock.seconds() + 1)
        deadlines.stop()
        clock.advance(5)
        self.assertEqual(called, [first, second])
