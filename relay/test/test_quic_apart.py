"""What QUIC carries apart from the session's stream, and who comes back with a ticket and early data."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.protocols.quic_transport import HELD_MESSAGES_MAX
from relay.test.entrance_fixture import publication
from relay.test.quic_fixture import AWAY, NODE, Client, World
from relay.wire import kinds
from relay.wire.binary import encode_stream
from relay.wire.message import Message
from relay.wire.quic_connection import WINDOW_BYTES
from relay.wire.quic_link import DATAGRAMS_WAITING_MAX, first_frame_bytes


def unreliable(body: bytes = b"x", **more: Any) -> Message:
    """A publication that may be lost."""
    return Message(kinds.PUBLISH, "room", body, flags=kinds.UNRELIABLE, **more)


def independent(body: bytes = b"x") -> Message:
    """A publication for a stream of its own."""
    return Message(kinds.PUBLISH, "room", body, flags=kinds.INDEPENDENT)


class Apart(SynchronousTestCase):
    """DATAGRAM frames and streams of their own."""

    def both(self, **settings: Any) -> tuple[World, Client]:
        """A session that echoes; its first message is done."""
        world = World(**settings)
        client = Client(world).connect()
        client.say(publication("first"))
        return world, client

    def test_to_the_server(self):
        """Unreliable ones, independent ones, and an unreliable one that no packet holds."""
        world, client = self.both()
        for message in (unreliable(b"1"), independent(b"2"), unreliable(b"3" * 5000)):
            client.link.send_apart(encode_stream(message), None)
            world.settle()
        self.assertEqual([message.body[:1] for message in world.heard[1:]], [b"1", b"2", b"3"])
        # The fake gate echoes on the session's stream.
        self.assertEqual(len(client.frames), 4)

    def test_from_the_server(self):
        """The same, and one that is larger than the client takes on a stream: it goes on the session's."""
        world, client = self.both()
        peer = world.peers[0]
        for message in (unreliable(b"1"), independent(b"2"), unreliable(b"3" * 5000), independent(b"4" * 100_000)):
            peer.loose(encode_stream(message), None)
            world.settle()
        self.assertEqual([message.body[:1] for message in client.messages], [b"1", b"2", b"3"])
        self.assertEqual([message.body[:1] for message in client.frames[1:]], [b"4"])

    def test_streams_are_bounded(self):
        """A client may have so many open; more are let go on the session's stream, and later opened again."""
        world, client = self.both()
        peer = world.peers[0]
        for number in range(20):
            peer.loose(encode_stream(independent(b"%d" % number)), None)
        world.settle()
        self.assertEqual((len(client.messages), len(client.frames)), (16, 1 + 4))
        for _ in range(50):
            peer.loose(encode_stream(independent()), None)
            world.settle()
        self.assertEqual(len(client.messages), 16 + 50)

    def test_lost_and_doubled(self):
        """A lost datagram with an unreliable frame is not sent again; one on a stream is, and none comes twice."""
        world, client = self.both()
        peer = world.peers[0]
        world.pass_on = lambda datagram, to_port: datagram if to_port else None
        for message in (unreliable(b"1"), independent(b"2")):
            peer.loose(encode_stream(message), None)
            world.exchange()
        world.pass_on = lambda datagram, to_port: datagram
        world.settle(2)
        self.assertEqual([message.body for message in client.messages], [b"2"])

    def test_latest(self):
        """Of those with one key an older one that comes later is passed over; other keys and none are not concerned."""
        world, client = self.both()
        peer = world.peers[0]
        late: list[bytes] = []
        world.pass_on = lambda datagram, to_port: datagram if to_port else late.append(datagram)
        for key, body in (("a", b"1"), ("b", b"2"), (None, b"3")):
            peer.loose(encode_stream(unreliable(body)), key)
            world.exchange()
        world.pass_on = lambda datagram, to_port: datagram
        peer.loose(encode_stream(unreliable(b"4")), "a")
        world.settle()
        for datagram in late:
            client.connection.receive_datagram(datagram, NODE, world.now())
        client.link.take()
        self.assertEqual([message.body for message in client.messages], [b"4", b"2", b"3"])

    def test_waiting_is_bounded(self):
        """Unreliable frames that cannot leave push the oldest of them out; for a client that is too slow all go."""
        world, client = self.both(queue_bytes_max=100_000)
        peer = world.peers[0]
        for number in range(DATAGRAMS_WAITING_MAX + 50):
            peer.loose(encode_stream(unreliable(b"%d" % number)), None)
        link = world.gate.last.peer._io.link
        self.assertEqual((link.dropped, len(link.connection.waiting_datagrams)), (50, DATAGRAMS_WAITING_MAX))
        world.settle()
        self.assertEqual(client.messages[0].body, b"50")
        world.clients.clear()
        for _ in range(4):
            peer.send(encode_stream(publication("big", b"x" * 50_000)))
            world.clock.advance(0)
        peer.loose(encode_stream(independent()), None)
        self.assertEqual(world.port.dropped, 1)

    def test_no_datagrams(self):
        """A client that takes no DATAGRAM frames has everything on its session's stream, and all of it counts."""
        world = World()
        Client(world, datagrams=None).connect().say(publication())
        self.assertEqual([(peer.loose, peer.apart) for peer in world.peers], [(None, 0)])

    def test_counted_frames_are_refused(self):
        """A frame that has to be counted, or no frame, ends a connection when it comes apart."""
        for payload in (encode_stream(publication())[4:], b"junk"):
            world, client = self.both()
            stream = client.connection.get_next_available_stream_id(is_unidirectional=True)
            client.connection.send_stream_data(stream, payload, end_stream=True)
            world.settle()
            self.assertIsNotNone(client.over)
            self.assertEqual((len(world.heard), world.port.transports), (1, set()))

    def test_while_paused(self):
        """Messages apart wait for a paused client, in bounded number."""
        world, client = self.both()
        transport = world.gate.last.peer._io
        transport.pauseProducing()
        for _ in range(HELD_MESSAGES_MAX + 10):
            client.link.send_apart(encode_stream(unreliable()), None)
            world.exchange()
        world.settle()
        self.assertEqual((len(world.heard), world.port.dropped), (1, 10))
        transport.resumeProducing()
        world.settle()
        self.assertEqual(len(world.heard), 1 + HELD_MESSAGES_MAX)

    def test_before_the_hello(self):
        """Nothing apart counts before the session's stream has said something."""
        world = World()
        client = Client(world).connect()
        client.link.send_apart(encode_stream(unreliable()), None)
        world.settle()
        self.assertEqual(world.heard, [])

    def test_a_gap_is_bounded(self):
        """Also after many megabytes a client may not leave a gap that is wider than the window."""
        world = World(on_receive=lambda connection, message: None)
        client = Client(world).connect()
        client.say(publication("first"))
        for _ in range(8):
            client.say(publication("a", b"x" * 900_000))
        stream = world.gate.last.peer._io.link.connection._streams[0]
        ahead = stream.max_stream_data_local - stream.receiver.starting_offset()
        self.assertEqual(len(world.heard), 9)
        self.assertLessEqual(ahead, WINDOW_BYTES)


class Resumption(SynchronousTestCase):
    """Tickets and early data."""

    def first(self, world: World) -> Client:
        """A client that was here and has a ticket."""
        client = Client(world).connect()
        client.say(publication("first"))
        self.assertEqual(len(client.tickets), 1)
        return client

    def early(self, world: World, ticket: Any, place: Any = AWAY) -> tuple[Client, list[bytes]]:
        """A client that sends with its first datagrams: a hello, more after it, and something apart; not delivered."""
        client = Client(world, place, ticket)
        client.start()
        client.link.write(kinds.PREFACE + encode_stream(publication("hello")) + encode_stream(publication("more")))
        client.link.send_apart(encode_stream(unreliable(b"apart")), None)
        return client, [datagram for datagram, _ in client.connection.datagrams_to_send(world.now())]

    def test_the_hello_alone(self):
        """Early data are answered before the handshake is complete: the first frame; what follows waits for that."""
        world = World()
        ticket = self.first(world).tickets[0]
        client, flight = self.early(world, ticket)
        world.give(*((datagram, AWAY) for datagram in flight))
        self.assertEqual([message.name for message in world.heard], ["first", "hello"])
        self.assertEqual(world.port.opening, 1)
        world.settle()
        self.assertEqual([message.name for message in world.heard], ["first", "hello", "more"])
        self.assertEqual([message.name for message in client.frames], ["hello", "more"])
        self.assertEqual((client.resumed, client.early), (True, True))
        self.assertEqual((world.port.resumed, world.port.early), (1, 1))

    def test_a_replay(self):
        """A recorded first flight says nothing the second time, from the same address or another."""
        world = World()
        ticket = self.first(world).tickets[0]
        client, flight = self.early(world, ticket)
        world.give(*((datagram, AWAY) for datagram in flight))
        world.settle()
        client.link.close()
        world.settle()
        heard = len(world.heard)
        for place in (AWAY, ("203.0.113.5", 999)):
            world.give(*((datagram, place) for datagram in flight))
            world.settle(12)
            self.assertEqual(len(world.heard), heard)
            self.assertEqual((world.port.opening, len(world.port.transports)), (0, 1))
        self.assertEqual(world.port.tickets.refused, 2)

    def test_a_used_ticket(self):
        """Who shows a ticket again, honestly, gets a full handshake and what was said early arrives after it."""
        world = World()
        ticket = self.first(world).tickets[0]
        for early in (True, False):
            client, flight = self.early(world, ticket)
            world.give(*((datagram, AWAY) for datagram in flight))
            world.settle(2)
            self.assertEqual((client.complete, client.early), (True, early))
            self.assertEqual([message.name for message in client.frames][:2], ["hello", "more"])
            world.clients.remove(client)

    def test_none_are_given(self):
        """With ``tickets_max: 0`` nobody comes back so."""
        world = World(tickets_max=0)
        client = Client(world).connect()
        client.say(publication())
        self.assertEqual(client.tickets, [])

    def test_bounded(self):
        """The oldest ticket is forgotten."""
        world = World(tickets_max=2)
        clients = [self.first(world) for _ in range(3)]
        self.assertEqual(len(world.port.tickets), 2)
        self.assertIsNone(world.port.tickets.take(clients[0].tickets[0].ticket))
        self.assertIsNotNone(world.port.tickets.take(clients[2].tickets[0].ticket))

    def test_first_frames(self):
        """Where the hello ends, in both forms."""
        frame = kinds.PREFACE + encode_stream(publication())
        self.assertEqual(first_frame_bytes(frame + b"more"), len(frame))
        self.assertEqual([first_frame_bytes(frame[:size]) for size in (0, 1, 7)], [0, 0, 0])
        self.assertEqual((first_frame_bytes(b'{"a":1}\nmore'), first_frame_bytes(b'{"a"')), (8, 0))
