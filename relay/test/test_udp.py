"""A UDP listener without sockets: what costs state, what is sent to whom, and connections that move."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.config import Limits, Secure, Timing
from relay.config_udp import Udp
from relay.protocols.udp import UdpPort
from relay.protocols.udp_transport import HELD_BYTES_MAX, HELD_FRAMES_MAX
from relay.test.entrance_fixture import Door, echo, publication
from relay.wire import kinds
from relay.wire import udp_packets as packets
from relay.wire.binary import decode_frame, encode_frame, encode_stream
from relay.wire.message import Message
from relay.wire.secure import ClientHandshake, public_identity
from relay.wire.secure_records import OVERHEAD_BYTES, DatagramOpener, DatagramSealer
from relay.wire.udp_link import CHALLENGE, CONTENT, CONTENT_BYTES, RELIABLE, UdpLink

NODE = bytes(range(32))
HOME = ("192.0.2.7", 40_000)
AWAY = ("198.51.100.9", 50_000)


class Wire:
    """The port's socket: what was sent, by address."""

    place = ("192.0.2.1", 8000)

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.open = True

    def send(self, datagrams: list[bytes], place: Any) -> None:
        """Keep them."""
        self.sent += [(datagram, place) for datagram in datagrams]

    def start(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """No more."""
        self.open = False

    def take(self, place: Any = None) -> list[bytes]:
        """What was sent (to ``place``) since the last time."""
        taken = [datagram for datagram, to in self.sent if place in (None, to)]
        self.sent = [] if place is None else [each for each in self.sent if each[1] != place]
        return taken


class Post:
    """A listener with its port and its wire."""

    def __init__(self, udp: Udp | None = None, secure: bool = False, plain: bool = False, **options: Any) -> None:
        on_receive = options.pop("on_receive", echo)
        if secure:
            options["secure"] = Secure(plain=plain)
        self.door = Door(on_receive=on_receive, **options)
        self.door.entrance.identity = NODE if secure else b""
        self.door.entrance.plain = plain
        self.clock = self.door.clock
        self.clock.advance(100)
        self.wire = Wire()
        self.port = UdpPort(self.door.factory, udp or Udp(), self.clock, self.clock.seconds, random.Random(1).randbytes)
        self.port.open(self.wire)  # type: ignore[arg-type]  # what is used of a DatagramSocket is there

    def give(self, datagram: bytes, place: Any = HOME) -> list[bytes]:
        """Let a datagram arrive; what is sent back to its address by the end of the turn."""
        self.port.receive([(datagram, place)])
        self.clock.advance(0)
        return self.wire.take(place)

    def hello(self, nonce: bytes = b"nonce 01", place: Any = HOME, secure: bytes = b"") -> bytes:
        """A hello with a good cookie."""
        (retry,) = self.give(packets.encode_hello(packets.Hello(nonce, secure=secure)), place)
        _, cookie = packets.decode_retry(retry)
        return packets.encode_hello(packets.Hello(nonce, cookie, secure))

    @property
    def peers(self) -> list[Any]:
        """The peers that the core met."""
        return [connection.peer for connection in self.door.gate.connections]

    @property
    def names(self) -> list[str]:
        """The names of the messages that came, of all connections."""
        return [message.name for connection in self.door.gate.connections for message in connection.messages]


class Client:
    """The other side of one connection."""

    def __init__(self, post: Post, place: Any = HOME, nonce: bytes = b"nonce 01", private: bytes = b"") -> None:
        self.post = post
        self.place = place
        self.frames: list[Message] = []
        self.sealer: DatagramSealer | None = None
        self.opener: DatagramOpener | None = None
        secure = bool(post.door.entrance.identity)
        trust = ClientHandshake(bytes(range(2, 34)), lambda identity: identity == public_identity(NODE), private)
        hello = post.hello(nonce, place, trust.hello if secure else b"")
        (datagram,) = post.give(hello, place)
        accept = packets.decode_accept(datagram)
        self.connection = accept.connection
        self.head = bytes((packets.PACKET,)) + accept.connection
        self.link = UdpLink(1200 - packets.HEAD_BYTES - (OVERHEAD_BYTES if secure else 0))
        if secure:
            self.finish = bytes((packets.FINISH,)) + accept.connection + trust.receive(accept.secure)
            assert trust.keys is not None
            self.sealer = DatagramSealer(trust.keys.suite, trust.keys.sending)
            self.opener = DatagramOpener(trust.keys.suite, trust.keys.receiving)
            self.hear(post.give(self.finish, place))

    def hear(self, datagrams: list[bytes]) -> None:
        """Take what came."""
        for datagram in datagrams:
            content: bytes | None = datagram[packets.HEAD_BYTES :]
            if self.opener is not None:
                content = self.opener.open(datagram[packets.HEAD_BYTES :], self.head)
            if content is not None:
                now = self.post.clock.seconds()
                self.frames += [decode_frame(frame) for frame, _ in self.link.receive(content, now)]

    def datagrams(self) -> list[bytes]:
        """What the link wants to send."""
        contents = self.link.transmit(self.post.clock.seconds())
        if self.sealer is None:
            return [self.head + content for content in contents]
        return [self.head + self.sealer.seal(content, self.head) for content in contents]

    def say(self, *messages: Message) -> None:
        """Send frames that have to arrive; and hear what comes back."""
        for message in messages:
            self.link.send(encode_frame(message))
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent."""
        for datagram in self.datagrams():
            self.hear(self.post.give(datagram, self.place))


class Opening(SynchronousTestCase):
    """Before there is a connection."""

    def test_a_cookie_first(self):
        """Without its cookie an address gets a retry, shorter than a third of its hello, and leaves nothing behind."""
        post = Post()
        hello = packets.encode_hello(packets.Hello(b"nonce 01"), packets.HELLO_BYTES_MIN)
        (retry,) = post.give(hello)
        self.assertLess(3 * len(retry), len(hello))
        self.assertEqual((post.port.connections, post.peers), ({}, []))
        _, cookie = packets.decode_retry(retry)
        with_cookie = packets.encode_hello(packets.Hello(b"nonce 01", cookie))
        for place, nonce in ((AWAY, b"nonce 01"), (HOME, b"nonce 02")):
            other = packets.encode_hello(packets.Hello(nonce, cookie))
            self.assertEqual(post.give(other, place)[0][0], packets.RETRY)
        self.assertEqual(post.give(with_cookie)[0][0], packets.ACCEPT)
        self.assertEqual(len(post.port.connections), 1)

    def test_spoofed(self):
        """However many addresses say hello, or anything else: no connection, and no more sent than came."""
        post = Post()
        rng = random.Random(3)
        came = went = 0
        for number in range(3000):
            place = (f"203.0.113.{number % 250}", 1000 + number)
            datagram = rng.choice(
                (
                    packets.encode_hello(packets.Hello(rng.randbytes(8), rng.randbytes(24)), 256),
                    bytes((packets.PACKET,)) + rng.randbytes(60), bytes((packets.FINISH,)) + rng.randbytes(60),
                    rng.randbytes(rng.randrange(300)), b"",
                )
            )  # fmt: skip
            came += len(datagram)
            went += sum(map(len, post.give(datagram, place)))
        self.assertEqual((post.port.connections, post.peers, len(post.port._openings)), ({}, [], 0))
        self.assertLess(went, came)

    def test_repeated(self):
        """A hello that is repeated gets the same accept; one with an old cookie another retry."""
        post = Post()
        hello = post.hello()
        self.assertEqual(post.give(hello), post.give(hello))
        self.assertEqual(len(post.port.connections), 1)
        old = post.hello(b"nonce 02")
        post.clock.advance(packets.COOKIE_S + 1)
        self.assertEqual(post.give(old)[0][0], packets.RETRY)

    def test_limits(self):
        """The listener's limits hold: who is not admitted gets nothing and leaves nothing."""
        post = Post(limits=Limits(connections_per_address_max=1))
        Client(post)
        self.assertEqual(post.give(post.hello(b"nonce 02")), [])
        self.assertEqual((len(post.port.connections), post.door.entrance.refused), (1, 1))

    def test_who_is_not_admitted_costs_no_signature(self):
        """In the secure channel, too, the limits come before the handshake."""
        post = Post(secure=True, limits=Limits(connections_per_address_max=1))
        Client(post)
        hello = post.hello(b"nonce 02", secure=ClientHandshake(bytes(range(2, 34)), lambda _: True).hello)
        before = post.port._random_bytes.__self__.getstate()  # type: ignore[attr-defined]  # of a Random's method
        self.assertEqual(post.give(hello), [])
        self.assertEqual(post.port._random_bytes.__self__.getstate(), before)  # type: ignore[attr-defined]

    def test_secure(self):
        """In the secure channel a peer is there once the client has finished; its key is known then."""
        post = Post(secure=True)
        client = Client(post, private=bytes(range(1, 33)))
        client.say(publication())
        self.assertEqual(client.frames, [publication()])
        self.assertEqual((post.peers[0].key != "", post.peers[0].transport), (True, "udp"))
        self.assertEqual(len(post.peers), 1)
        client.hear(post.give(client.finish))  # its answer was lost
        client.say(publication())
        self.assertEqual(len(client.frames), 2)

    def test_secure_and_plain(self):
        """Without the channel nobody comes in, unless the listener says so."""
        for plain in (False, True):
            post = Post(secure=True, plain=plain)
            self.assertEqual(len(post.give(post.hello())), int(plain))

    def test_handshakes_are_bounded(self):
        """So many may be in the middle of it; they end with the handshake's time-out."""
        post = Post(Udp(opening_max=2), secure=True, timing=Timing(handshake_timeout_s=1.0))
        for number in range(3):
            hello = ClientHandshake(bytes(range(2, 34)), lambda _: True).hello
            answers = post.give(post.hello(b"nonce 0%d" % number, secure=hello))
            self.assertEqual(len(answers), int(number < 2))
        self.assertEqual((len(post.port.connections), post.door.entrance.open, post.peers), (2, 2, []))
        post.door.pass_time(1.1)
        self.assertEqual((post.port.connections, post.door.entrance.open, post.port._openings.in_handshake), ({}, 0, 0))


class Talking(SynchronousTestCase):
    """Frames in and out."""

    def test_echo(self):
        """Frames come in in order, and what is sent in a turn goes out with it."""
        for secure in (False, True):
            post = Post(secure=secure)
            client = Client(post)
            messages = [publication(f"n{number}") for number in range(50)]
            client.say(*messages)
            client.flush()
            self.assertEqual([frame.name for frame in client.frames], [message.name for message in messages])

    def test_lost_and_sent_again(self):
        """An answer that is lost is sent again by the clock."""
        post = Post()
        client = Client(post)
        client.link.send(encode_frame(publication()))
        for datagram in client.datagrams():
            post.give(datagram)  # the answer is lost
        post.clock.advance(0.3)
        client.hear(post.wire.take())
        self.assertEqual(client.frames, [publication()])

    def test_given_up(self):
        """A client that acknowledges nothing is lost after a while; not as an orderly end, so that it may resume."""
        post = Post(Udp(give_up_s=2.0))
        client = Client(post)
        client.say(publication())
        post.peers[0].send(encode_stream(publication()))
        post.door.pass_time(4)
        self.assertEqual(post.door.gate.connections[0].ends[0][1], False)
        self.assertEqual(post.port.connections, {})
        self.assertEqual(post.door.entrance.open, 0)

    def test_what_may_be_lost(self):
        """Unreliable frames go out once, latest ones too; one that does not fit is dropped and counted."""
        post = Post()
        client = Client(post)
        client.say(publication())
        peer = post.peers[0]
        for key, body in ((None, b"a"), ("k", b"b"), (None, b"x" * 2000)):
            peer.loose(encode_stream(Message(kinds.EVENT, "c", body, flags=kinds.UNRELIABLE)), key)
        client.hear(post.give(b"?"))
        self.assertEqual([frame.body for frame in client.frames[1:]], [b"a", b"b"])
        self.assertEqual(post.port.dropped, 1)

    def test_counted_frames_may_not_be_sent_loosely(self):
        """A frame that both sides count is ignored where it may be lost: the books must agree."""
        post = Post()
        client = Client(post)
        client.link.send_once(encode_frame(publication("counted")))
        client.link.send_once(encode_frame(Message(kinds.PUBLISH, "loose", flags=kinds.UNRELIABLE)))
        client.flush()
        self.assertEqual(post.names, ["loose"])

    def test_too_large(self):
        """What does not fit is told: an answer as an error, an event as one frame left out."""
        post = Post()
        client = Client(post)
        client.say(publication())
        client.frames.clear()
        peer = post.peers[0]
        peer.send(encode_stream(Message(kinds.REPLY, body=b"x" * 2000, seq=7)))
        peer.send(encode_stream(Message(kinds.EVENT, "c", b"x" * 2000)))
        post.clock.advance(0)
        client.hear(post.wire.take())
        error, gap = client.frames
        self.assertEqual((error.kind, error.seq, error.get(kinds.ERROR_CODE)), (kinds.ERROR, 7, 11))
        self.assertEqual((gap.kind, gap.get(kinds.SKIPPED)), (kinds.PONG, 1))

    def test_back_pressure(self):
        """When too much waits for the window the outbox is paused; acknowledgements let it go on."""
        post = Post(Udp(queue_bytes_max=2000, window_max=8))
        client = Client(post)
        client.say(publication())
        peer = post.peers[0]
        for _ in range(40):
            peer.send(encode_stream(publication("c", b"x" * 200)))
        post.clock.advance(0)
        self.assertTrue(peer.outbox.paused)
        for _ in range(30):
            client.hear(post.wire.take())
            client.flush()
            post.clock.advance(0.03)
        self.assertFalse(peer.outbox.paused)
        self.assertEqual(len(client.frames), 41)

    def test_paused(self):
        """A paused client's frames are held, then not taken; all of them come once it goes on."""
        post = Post()
        client = Client(post)
        client.say(publication("first"))
        post.peers[0].pause("test")
        count = 2 * HELD_FRAMES_MAX
        for number in range(count):
            client.link.send(encode_frame(publication(f"n{number}")))
        for _ in range(60):
            client.flush()
            post.clock.advance(0.1)
            client.link.timer(post.clock.seconds())
        self.assertEqual(len(post.names), 1)
        self.assertLessEqual(len(next(iter(post.port.connections.values()))._paused or ()), HELD_FRAMES_MAX)
        post.peers[0].resume("test")
        for _ in range(200):
            client.flush()
            post.clock.advance(0.1)
            client.link.timer(post.clock.seconds())
        self.assertEqual(post.names, ["first", *(f"n{number}" for number in range(count))])

    def test_a_paused_client_is_heard(self):
        """What a client acknowledges counts though its frames are not taken: it is not given up for what it has."""
        post = Post(Udp(give_up_s=2.0))
        client = Client(post)
        client.say(publication("first"))
        peer = post.peers[0]
        peer.pause("test")
        transport = next(iter(post.port.connections.values()))
        for number in range(2 * HELD_FRAMES_MAX):
            client.link.send(encode_frame(publication(f"n{number}")))
        for number in range(80):
            client.flush()
            client.link.timer(post.clock.seconds())
            if transport.full:
                peer.send(encode_stream(publication(f"out{number}")))
            post.clock.advance(0.1)
            client.hear(post.wire.take())
        self.assertTrue(transport.full)
        self.assertEqual(post.port.connections, {client.connection: transport})
        self.assertGreater(len(client.frames), 30)

    def test_bytes_of_a_paused_client(self):
        """Few large frames are enough."""
        post = Post(Udp(mtu_bytes=60_000))
        client = Client(post)
        client.say(publication("first"))
        post.peers[0].pause("test")
        client.link.content_bytes_max = 60_000
        for _ in range(20):
            client.link.send(encode_frame(publication("n", b"x" * 50_000)))
        client.flush()
        transport = next(iter(post.port.connections.values()))
        self.assertTrue(transport.full)
        self.assertLess(transport._paused_bytes, HELD_BYTES_MAX + 60_000)

    @given(st.lists(st.binary(max_size=80), max_size=20))
    @settings(max_examples=50, deadline=None)
    def test_garbage(self, datagrams: list[bytes]):
        """Garbage, also with the right connection id, ends nothing in the secure channel."""
        post = Post(secure=True)
        client = Client(post)
        for datagram in datagrams:
            post.give(datagram)
            post.give(client.head + datagram)
            post.give(client.head + datagram, AWAY)
        client.say(publication())
        self.assertEqual(client.frames, [publication()])


class Ending(SynchronousTestCase):
    """Connections that are over."""

    def test_the_client_ends(self):
        """Its last packet ends the connection at once."""
        post = Post()
        client = Client(post)
        client.say(publication())
        post.give(client.head + client.link.end())
        self.assertEqual((post.port.connections, post.door.gate.connections[0].ends[0][1]), ({}, True))

    def test_we_end(self):
        """What waits is acknowledged first, then the end is said; later packets are told that it is gone."""
        post = Post()
        client = Client(post)
        client.say(publication())
        post.peers[0].send(encode_stream(publication("last")))
        post.peers[0].close(kinds.NORMAL)
        post.clock.advance(0)
        client.hear(post.wire.take())
        self.assertEqual(client.frames[-1].name, "last")
        self.assertEqual(len(post.port.connections), 1)
        post.clock.advance(0.05)
        client.flush()
        post.clock.advance(0)
        client.hear(post.wire.take())
        self.assertEqual((post.port.connections, client.link.ended), ({}, True))
        (gone,) = post.give(client.head + bytes(CONTENT_BYTES))
        self.assertEqual(gone, bytes((packets.GONE,)) + client.connection)

    def test_the_listener_stops(self):
        """New ones are not taken, those that are there go on; the socket closes after the last."""
        post = Post()
        client = Client(post)
        client.say(publication())
        hello = post.hello(b"nonce 02")
        post.port.stopListening()
        self.assertEqual(post.give(hello), [])
        client.say(publication())
        self.assertEqual((len(client.frames), post.wire.open), (2, True))
        post.give(client.head + client.link.end())
        self.assertFalse(post.wire.open)

    def test_kinds(self):
        """The kinds of a content are numbered as the page says."""
        self.assertEqual((RELIABLE, CHALLENGE, CONTENT.size), (1, 4, 21))
        self.assertEqual(packets.SEAL_BYTES, OVERHEAD_BYTES)
