"""The stream forms: from the first byte of a connection to the core, and every limit on the way."""

from __future__ import annotations

import weakref
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.config import Limits, Timing
from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.protocols.entrance import host_of
from relay.test.entrance_fixture import CLIENT, LOCAL, Door, binary_stream, echo, json_lines, publication
from relay.wire import kinds
from relay.wire.binary import FRAME_BYTES_MAX_AT_FIRST, encode_stream
from relay.wire.message import Message
from relay.wire.text import encode_line

NAMES = ["one", "two", "three"]
MESSAGES = [publication(name) for name in NAMES]


def fail_at(name: str) -> Any:  # Any: the callback of a FakeGate
    """A core that makes a mistake when a message of that name comes."""

    def on_receive(connection: Any, message: Message) -> None:
        if message.name == name:
            raise ZeroDivisionError(name)

    return on_receive


class FirstBytesTests(SynchronousTestCase):
    """What a connection becomes."""

    def test_interfaces(self):
        """Every object that serves a connection is a Twisted protocol."""
        door = Door()
        transport = door.connect()
        self.assertTrue(verifyObject(IProtocolFactory, door.factory))
        self.assertTrue(verifyObject(IProtocol, transport.protocol))
        transport.feed(binary_stream())
        self.assertTrue(verifyObject(IProtocol, transport.protocol))

    def test_binary(self):
        """The preface makes it the binary form; what came with it is not lost."""
        door = Door()
        door.connect().feed(binary_stream(*MESSAGES))
        self.assertEqual((door.gate.last.names, door.gate.last.peer.dialect), (NAMES, "relay.binary"))

    def test_json(self):
        """A brace makes it the JSON form."""
        door = Door()
        door.connect().feed(json_lines(*MESSAGES))
        self.assertEqual((door.gate.last.names, door.gate.last.peer.dialect), (NAMES, "relay.json"))

    def test_labels(self):
        """TCP and Unix sockets are told apart; Nagle's algorithm is switched off on the first."""
        door = Door()
        for address, label in ((CLIENT, "tcp"), (LOCAL, "unix")):
            transport = door.connect(address)
            transport.feed(binary_stream())
            self.assertEqual((door.gate.last.peer.transport, transport.nodelay), (label, label == "tcp"))

    def test_nagle_stays(self):
        """``nodelay: false`` leaves it on."""
        self.assertFalse(Door(nodelay=False).connect().nodelay)

    def test_addresses(self):
        """The address has no port; an IPv4 client of an IPv6 socket is an IPv4 client."""
        for address, host in (
            (IPv4Address("TCP", "192.0.2.1", 5), "192.0.2.1"),
            (IPv6Address("TCP", "2001:db8::1", 5), "2001:db8::1"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 5), "192.0.2.1"),
            (IPv6Address("TCP", "::ffff:c000:201", 5), "192.0.2.1"),
            (LOCAL, ""),
        ):
            self.assertEqual(host_of(address), host)

    def test_unknown(self):
        """First bytes of no protocol close the connection; nobody in the core hears of it."""
        door = Door()
        transport = door.connect()
        transport.feed(b"SSH-2.0-x\r\n")
        self.assertEqual((transport.ended, door.entrance.unknown, door.gate.connections), ("lost", 1, []))

    def test_http_without_http(self):
        """A protocol that the listener does not have is unknown there."""
        door = Door("relay")
        transport = door.connect()
        transport.feed(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual((transport.ended, transport.value()), ("lost", b""))

    def test_after_unknown(self):
        """What comes after it is not looked at again: TLS delivers until the other side has closed."""
        door = Door()
        transport = door.connect()
        protocol = transport.protocol
        transport.feed(b"?")
        protocol.dataReceived(binary_stream(*MESSAGES))
        self.assertEqual((door.entrance.unknown, door.gate.connections, transport.protocol), (1, [], protocol))

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from([binary_stream, json_lines]), st.lists(st.integers(1, 40), max_size=30))
    def test_any_chunks(self, form, sizes):
        """However the bytes are cut, the core gets the same messages."""
        door = Door()
        transport = door.connect()
        data = form(*MESSAGES)
        for size in sizes:
            transport.feed(data[:size])
            data = data[size:]
        transport.feed(data)
        self.assertEqual(door.gate.last.names, NAMES)

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=64), st.sampled_from([b"", kinds.PREFACE, b"{", binary_stream(publication())]))
    def test_garbage(self, data, begin):
        """Any bytes at worst close this connection: nothing is raised, and the next connection works."""
        door = Door()
        transport = door.connect()
        transport.feed(begin + data, step=7)
        for connection in door.gate.connections:
            self.assertLessEqual(len(connection.errors), 1)
            self.assertEqual(bool(connection.errors), transport.ended != "")
        transport.lose()
        door.connect().feed(binary_stream(*MESSAGES))
        self.assertEqual(door.gate.last.names, NAMES)


class SilenceTests(SynchronousTestCase):
    """Connections that say nothing, or nearly nothing."""

    def test_ten_thousand(self):
        """10 000 silent connections are cut off at the handshake time-out, and none before; nothing is left of them."""
        door = Door(timing=Timing(handshake_timeout_s=3.0), limits=Limits(connections_per_address_max=10_000))
        for _ in range(10_000):
            door.connect()
        door.pass_time(2.5)
        self.assertEqual((door.entrance.open, door.entrance.expired), (10_000, 0))
        door.pass_time(1.0)
        self.assertEqual((door.entrance.open, door.entrance.expired, len(door.wheel)), (0, 10_000, 0))

    def test_one_address(self):
        """Connections that have said nothing count for their address, too; one that is gone makes room."""
        door = Door(limits=Limits(connections_per_address_max=3))
        first = door.connect()
        door.connect()
        door.connect()
        with self.assertRaises(AssertionError):
            door.connect()
        first.lose()
        door.connect()
        self.assertEqual((door.entrance.refused, sum(door.entrance.hosts.values())), (1, 3))

    def test_a_byte_a_second(self):
        """A byte now and then does not prolong the time."""
        door = Door(timing=Timing(handshake_timeout_s=3.0))
        transport = door.connect()
        for byte in kinds.PREFACE:
            transport.feed(bytes([byte]))
            door.pass_time(1.0)
        self.assertEqual((transport.ended, door.entrance.open), ("aborted", 0))

    def test_a_peer_is_the_cores_business(self):
        """As soon as there is a peer, the core watches the time."""
        door = Door(timing=Timing(handshake_timeout_s=3.0))
        transport = door.connect()
        transport.feed(kinds.PREFACE)
        door.pass_time(10)
        self.assertEqual((transport.ended, len(door.wheel)), ("", 0))

    def test_left_early(self):
        """A connection that ends by itself leaves no timer behind."""
        door = Door()
        door.connect().lose()
        self.assertEqual((door.entrance.open, len(door.wheel)), (0, 0))


class AdmissionTests(SynchronousTestCase):
    """Who gets a protocol at all."""

    def test_refused_by_the_gate(self):
        """The gate is asked with address and listener; whom it refuses is closed at once."""
        door = Door()
        door.gate.refuse[CLIENT.host] = kinds.LIMIT
        self.assertIsNone(door.attempt())
        self.assertEqual((door.gate.asked, door.entrance.refused, door.entrance.open), ([(CLIENT.host, "test")], 1, 0))

    def test_unnamed_listener(self):
        """A listener without a name is known by its address."""
        door = Door(name="")
        door.connect()
        self.assertEqual(door.gate.asked, [(CLIENT.host, "tcp:0")])

    def test_connections_max(self):
        """Connections count from the first byte on, not only when they are peers; one that ends makes room."""
        door = Door(limits=Limits(connections_max=3))
        for _ in range(3):
            door.connect()
        self.assertIsNone(door.attempt())
        door.transports[0].lose()
        self.assertIsNotNone(door.attempt())

    def test_accept_rate(self):
        """More than ``accepts_per_s_max`` at once are closed; a second later as many may come again."""
        door = Door(limits=Limits(accepts_per_s_max=10))

        def let_in() -> int:
            return sum(door.attempt() is not None for _ in range(50))

        self.assertIn(let_in(), (10, 11))
        self.assertLessEqual(let_in(), 1)
        door.clock.advance(1.0)
        self.assertIn(let_in(), (9, 10, 11))

    def test_no_longer_accepting(self):
        """A listener that stops accepts nobody, whatever the reactor still hands over."""
        door = Door()
        door.factory.accepting = False
        self.assertIsNone(door.attempt())

    def test_gate_fails(self):
        """An error in the gate refuses the connection, and is logged."""
        door = Door()
        door.gate.asked = None  # type: ignore[assignment]  # so that asking it fails
        self.assertIsNone(door.attempt())
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)


class ConversationTests(SynchronousTestCase):
    """A connection that has a peer."""

    def test_answers(self):
        """What the core sends in a turn leaves at its end, in one write."""
        door = Door(on_receive=echo)
        transport = door.connect()
        transport.feed(binary_stream(*MESSAGES))
        self.assertEqual(transport.take(), b"")
        door.turn()
        self.assertEqual(transport.take(), b"".join(map(encode_stream, MESSAGES)))

    def test_slow_reader(self):
        """While the transport is full nothing is written; afterwards all is, in order."""
        door = Door(on_receive=echo)
        transport = door.connect()
        transport.feed(binary_stream(MESSAGES[0]))
        door.turn()
        transport.take()
        transport.producer.pauseProducing()
        transport.feed(b"".join(map(encode_stream, MESSAGES[1:])))
        door.turn()
        self.assertEqual(transport.take(), b"")
        transport.producer.resumeProducing()
        self.assertEqual(transport.take(), b"".join(map(encode_stream, MESSAGES[1:])))

    def test_first_frame_is_bounded(self):
        """Before anything is known of a client, a frame is bounded by what every client may assume."""
        door = Door(limits=Limits(frame_bytes_max=1_000_000))
        door.connect().feed(binary_stream(publication(body=b"x" * FRAME_BYTES_MAX_AT_FIRST)))
        self.assertIsInstance(door.gate.last.errors[0], FrameTooLarge)
        self.assertEqual(door.gate.last.peer.ended, "closed: too_large")

    def test_later_frames_are_bounded(self):
        """Afterwards by ``frame_bytes_max``."""
        for form, encode in ((binary_stream, encode_stream), (json_lines, encode_line)):
            door = Door(limits=Limits(frame_bytes_max=100_000))
            transport = door.connect()
            transport.feed(form(publication()))
            transport.feed(encode(publication(body=b"x" * 99_000)))
            self.assertEqual((len(door.gate.last.messages), door.gate.last.errors), (2, []))
            transport.feed(encode(publication(body=b"x" * 100_000)))
            self.assertIsInstance(door.gate.last.errors[0], FrameTooLarge)

    def test_broken_input(self):
        """What was whole before the mistake is delivered; the core hears of it once; the rest is forgotten."""
        door = Door()
        transport = door.connect()
        transport.feed(binary_stream(*MESSAGES) + b"\x00" * 16)
        transport.feed(b"".join(map(encode_stream, MESSAGES)))
        connection = door.gate.last
        self.assertEqual(connection.names, NAMES)
        self.assertEqual([type(each) for each in connection.errors], [RemoteProtocolError])
        self.assertEqual((connection.peer.ended, transport.ended), ("closed: protocol", "half"))

    def test_nothing_after_close(self):
        """When the core closes in the middle of a read, what stands behind in it is not delivered."""

        def close(connection: Any, message: Message) -> None:
            if message.name == "two":
                connection.peer.close(kinds.KICKED)

        for form in (binary_stream, json_lines):
            door = Door(on_receive=close)
            door.connect().feed(form(*MESSAGES))
            self.assertEqual(door.gate.last.names, ["one", "two"])

    def test_the_end(self):
        """The core hears of the end once, and the connection is not counted any more."""
        door = Door()
        transport = door.connect()
        transport.feed(binary_stream(*MESSAGES))
        transport.lose()
        self.assertEqual(([clean for _, clean in door.gate.last.ends], door.entrance.open), ([True], 0))

    def test_nothing_left(self):
        """First the object that looked at the first bytes goes, and with the connection everything else."""
        door = Door()
        transport = door.connect()
        greeting = weakref.ref(transport.protocol.arrival)
        transport.feed(binary_stream(*MESSAGES))
        self.assertIsNone(greeting())
        dialect_of = transport.protocol
        peer = door.gate.last.peer
        transport.lose()
        self.assertEqual((dialect_of.connection, dialect_of.transport, peer._io), (None, None, None))

    def test_our_mistake(self):
        """An exception of ours is logged and closes this connection with ``internal``; the others go on."""
        door = Door(on_receive=fail_at("two"))
        other = door.connect()
        other.feed(binary_stream(MESSAGES[0]))
        door.connect().feed(binary_stream(*MESSAGES))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((door.gate.last.names, door.gate.last.peer.ended), (["one", "two"], "closed: internal"))
        other.feed(encode_stream(MESSAGES[2]))
        self.assertEqual(door.gate.connections[0].names, ["one", "three"])

    def test_our_mistake_at_the_beginning(self):
        """The same when the core cannot take the peer."""
        door = Door()
        door.gate.connections = None  # type: ignore[assignment]  # so that introducing a peer fails
        transport = door.connect()
        transport.feed(binary_stream(*MESSAGES))
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.assertEqual(transport.ended, "half")
        transport.lose()
        self.assertEqual(door.entrance.open, 0)

    def test_our_mistake_at_the_end(self):
        """The same when the core cannot let go of it."""
        door = Door()
        transport = door.connect()
        transport.feed(binary_stream(*MESSAGES))
        door.gate.last.ends = None  # type: ignore[assignment]  # so that hearing of the end fails
        transport.lose()
        self.assertEqual((len(self.flushLoggedErrors(AttributeError)), door.entrance.open), (1, 0))
