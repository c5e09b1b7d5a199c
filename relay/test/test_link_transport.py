"""Tests of ``relay.cluster.transport``: dialling, accepting, and what bad peers get."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from relay.cluster.frames import BULK, URGENT
from relay.cluster.handshake import (
    HELLO_BYTES_MAX,
    REFUSED_CLUSTER,
    REFUSED_INCARNATION,
    Hello,
    LinkRefused,
    Refusal,
)
from relay.cluster.link import LENGTH, Deframer, Incoming
from relay.cluster.link_lines import LinkLines
from relay.cluster.transport import LIVED_S, WAITING_MAX, AcceptFactory, LinkOptions, TcpTransport
from relay.errors import RemoteProtocolError
from relay.interfaces import IRaftReceiver, IRaftTransport
from relay.test.test_link_lines import lines_said
from relay.test.test_links import anybody, framed, hello_of, side
from relay.wire.secure import AES_256_GCM, KEY_BYTES, ChannelKeys, ephemeral_public
from relay.wire.secure_records import StreamOpener, StreamSealer


@implementer(IRaftReceiver)
class Receiver:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def received(self, node: int, frame: bytes) -> None:
        if frame == b"bad":
            raise RemoteProtocolError("a bad frame")
        self.told.append(("received", node, frame))

    def linked(self, node: int) -> None:
        self.told.append(("linked", node))

    def unlinked(self, node: int) -> None:
        self.told.append(("unlinked", node))

    def unreachable(self, node: int) -> None:
        self.told.append(("unreachable", node))


class NotedLines(LinkLines):
    """Notes reasons, also those that are not said again."""

    def __init__(self, seconds: Any, repeat_s: float) -> None:
        super().__init__(seconds, repeat_s)
        self.noted: list[str] = []

    def stranger(self, host: str, error: RemoteProtocolError | str) -> None:
        self.noted.append(str(error))
        super().stranger(host, error)

    def ended(self, node: int, host: str, error: RemoteProtocolError, *, dialled: bool) -> None:
        self.noted.append(str(error))
        super().ended(node, host, error, dialled=dialled)


class TransportTests(SynchronousTestCase):
    """Dialling, accepting, and what bad peers get."""

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.receiver = Receiver()
        self.met: list[int] = []
        self.refused: list[tuple[int, int]] = []
        self.drawn = 0  # random bytes, how often
        self.keys: ChannelKeys | None = None  # the other node's, of the link that was dialled last
        self.transport = TcpTransport(
            self.reactor,
            b"s",
            hello_of(1),
            self.check,
            lambda hello: self.met.append(hello.node),
            lambda node, error: self.refused.append((node, error.refusal)),
            lambda: 0.0,
            self.random_bytes,
            LinkOptions(links_max=2),
        )
        self.transport.lines = NotedLines(self.reactor.seconds, 60.0)
        self.complaints = self.transport.lines.noted
        self.transport.use(self.receiver)
        self.transport.add(2, "tcp:h2:7400")
        self.transport.start()
        self.addCleanup(self.transport.stop)
        verifyObject(IRaftTransport, self.transport)
        verifyObject(IRaftReceiver, self.receiver)

    def random_bytes(self, size: int) -> bytes:
        self.drawn += 1
        return bytes([self.drawn % 256]) * size

    def check(self, hello: Hello) -> tuple[int, str] | None:
        return (REFUSED_CLUSTER, "another cluster") if hello.cluster != "c" else None

    # --- the node that is dialled -----------------------------------------------------------------------------------

    def factory(self) -> Any:
        """That of the last attempt to connect."""
        return self.reactor.tcpClients[-1][2]

    def connect(self) -> tuple[Any, StringTransport]:
        """The last attempt succeeds, and the other side shakes hands."""
        protocol = self.factory().buildProtocol(None)
        wire = StringTransport()
        wire.abortConnection = lambda: None  # type: ignore[method-assign]  # the test tells when it is lost
        protocol.makeConnection(wire)
        acceptor = side(b"s", hello_of(2), anybody)
        deframer = Deframer(HELLO_BYTES_MAX)
        for _ in range(2):
            data = wire.value()
            wire.clear()
            for frame in deframer.add(data):
                protocol.dataReceived(framed(acceptor.receive(frame) or b"?"))
        wire.clear()
        self.keys = acceptor.take_keys()
        return protocol, wire

    def no_answer(self) -> None:
        """The last attempt to connect fails. (Not ``fail``: that is unittest's, which lists that differ call.)"""
        self.factory().clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def test_sends(self):
        """Frames go on the link that was dialled; without one they are not taken."""
        self.assertFalse(self.transport.send(2, URGENT, b"x"))
        _, wire = self.connect()
        self.assertEqual((self.receiver.told, self.met), [("linked", 2)] and ([("linked", 2)], [2]))
        self.assertTrue(self.transport.send(2, URGENT, b"x"))
        assert self.keys is not None
        opener = StreamOpener(self.keys.suite, self.keys.receiving)
        self.assertEqual(list(opener.receive(wire.value())), [framed(b"x")])
        self.assertFalse(self.transport.send(9, URGENT, b"x"))

    def test_keys(self):
        """Each link has a key of its own, a random one, whichever side this is."""
        keys = []
        for _ in range(3):
            said = msgspec.msgpack.decode(self.transport.handshake(2).begin())
            keys.append(said[-1])
            answer = self.transport.handshake().receive(side(b"s", hello_of(2), anybody, 1).begin())
            keys.append(msgspec.msgpack.decode(answer or b"")[-1])
        self.assertEqual(keys, [ephemeral_public(bytes([number]) * KEY_BYTES) for number in range(1, 7)])

    def test_gone(self):
        """A link that lived and was lost is tried again at once; if nobody listens the node is gone, said once."""
        link, _ = self.connect()
        self.reactor.advance(LIVED_S)
        attempts = len(self.reactor.tcpClients)
        link.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(self.reactor.tcpClients), attempts + 1)
        self.no_answer()
        self.assertEqual(self.receiver.told[1:], [("unlinked", 2), ("unreachable", 2)])
        for _ in range(5):
            self.reactor.advance(10)
            self.no_answer()
        self.assertEqual(len(self.receiver.told), 3)

    def test_gone_soon(self):
        """So is one that did not live, again and again, if it was not there in between."""
        for _ in range(3):
            told = len(self.receiver.told)
            link, _ = self.connect()
            self.assertEqual(self.lost(link), 0)
            self.no_answer()
            self.assertEqual(self.receiver.told[told:], [("linked", 2), ("unlinked", 2), ("unreachable", 2)])
            self.next_attempt()

    def test_comes_back(self):
        """A link that broke, with the node still there, is no outage."""
        link, _ = self.connect()
        self.reactor.advance(LIVED_S)
        link.connectionLost(Failure(ConnectionLost()))
        self.connect()
        self.assertEqual(self.receiver.told[1:], [("unlinked", 2), ("linked", 2)])

    def lost(self, link: Any) -> float:
        """The link is lost; how long it takes to the next attempt to connect."""
        attempts = len(self.reactor.tcpClients)
        link.connectionLost(Failure(ConnectionLost()))
        return 0.0 if len(self.reactor.tcpClients) > attempts else self.next_attempt()

    def next_attempt(self) -> float:
        """Wait for the next attempt to connect; how long that took."""
        before, attempts = self.reactor.seconds(), len(self.reactor.tcpClients)
        while len(self.reactor.tcpClients) == attempts:
            self.reactor.advance(0.01)
        return float(self.reactor.seconds() - before)

    def test_falls_again_and_again(self):
        """Links that stand and are lost soon are tried ever more rarely but for the first; one that lives ends it."""
        times = [round(self.lost(self.connect()[0]), 3) for _ in range(10)]
        self.assertEqual(times, sorted(times))
        self.assertEqual(times[0], 0)
        self.assertLess(times[1], 0.1)
        self.assertAlmostEqual(times[-1], self.transport.options.retry_s_max, places=1)
        for _ in range(2):
            link, _ = self.connect()
            self.reactor.advance(LIVED_S)
            self.assertEqual(self.lost(link), 0)

    def test_falls_in_between(self):
        """Nor are they dialled more often if the node dials, or if nobody is there now and then."""
        self.lost(self.connect()[0])
        self.connect()[0].connectionLost(Failure(ConnectionLost()))
        attempts = len(self.reactor.tcpClients)
        self.accepted(2)
        self.assertEqual(len(self.reactor.tcpClients), attempts)
        times = []
        self.next_attempt()
        for _ in range(10):
            self.no_answer()
            times.append(round(self.next_attempt(), 3))
            self.lost(self.connect()[0])
        self.assertEqual(times, sorted(times))
        self.assertAlmostEqual(times[-1], self.transport.options.retry_s_max, places=1)

    def test_ended_by_the_other(self):
        """A link that ended by what came on it is not tried at once, and tells of its node and no refusal."""
        lines = lines_said(self)
        link, _ = self.connect()
        self.reactor.advance(LIVED_S)
        attempts = len(self.reactor.tcpClients)
        link.dataReceived(b"!")
        link.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(self.reactor.tcpClients), attempts)
        self.assertLess(self.next_attempt(), 0.1)
        self.assertEqual(lines[-1].split(" at ")[0], "the link to node 2")
        self.assertIn("the acceptor sent something behind the handshake", lines[-1])

    def test_backs_off(self):
        """Attempts become rarer, to a limit."""
        times = []
        for _ in range(12):
            before = self.reactor.seconds()
            attempts = len(self.reactor.tcpClients)
            self.no_answer()
            while len(self.reactor.tcpClients) == attempts:
                self.reactor.advance(0.01)
            times.append(round(self.reactor.seconds() - before, 3))
        self.assertEqual(times, sorted(times))
        self.assertLess(times[0], 0.1)
        self.assertAlmostEqual(times[-1], self.transport.options.retry_s_max, places=1)

    def test_hurries(self):
        """A node that links to this one is dialled without waiting."""
        for _ in range(8):
            self.no_answer()
            self.reactor.advance(3)
        self.no_answer()
        attempts = len(self.reactor.tcpClients)
        self.accepted(2)
        self.assertEqual(len(self.reactor.tcpClients), attempts + 1)

    def test_refused_by_the_other(self):
        """A refusal is told to the node with its code, and tried again later."""
        protocol = self.factory().buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(framed(msgspec.msgpack.encode(Refusal(REFUSED_INCARNATION, "emptied"))))
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.refused, [(2, REFUSED_INCARNATION)])
        attempts = len(self.reactor.tcpClients)
        self.reactor.advance(3)
        self.assertEqual(len(self.reactor.tcpClients), attempts + 1)

    def test_stuck(self):
        """A link on which the other side takes nothing is cut."""
        _, wire = self.connect()
        link = self.transport.dialers[2].link
        assert link is not None
        cut: list[bool] = []
        wire.abortConnection = lambda: cut.append(True)  # type: ignore[method-assign]  # noted
        link.pauseProducing()
        self.transport.send(2, BULK, b"x")
        for _ in range(self.transport.options.silent_looks + 1):
            self.reactor.advance(1)
        self.assertEqual(cut, [True])

    def test_dropped(self):
        """A node that was removed is not dialled any more."""
        self.no_answer()
        self.transport.drop(2)
        attempts = len(self.reactor.tcpClients)
        self.reactor.advance(10)
        self.assertEqual(len(self.reactor.tcpClients), attempts)

    # --- nodes that dial this one -----------------------------------------------------------------------------------

    def accepted(self, node: int, secret: bytes = b"s", **hello: Any) -> tuple[Any, StringTransport, StreamSealer]:
        """A node dials, and shakes hands as far as it comes; what seals its frames."""
        protocol: Any = AcceptFactory(self.transport).buildProtocol(None)
        wire = StringTransport()
        protocol.makeConnection(wire)
        dialler = side(secret, hello_of(node, **hello), anybody, 1)
        protocol.dataReceived(framed(dialler.begin()))
        deframer = Deframer(HELLO_BYTES_MAX)
        for _ in range(2):
            data = wire.value()
            wire.clear()
            for frame in deframer.add(data):
                with contextlib.suppress(LinkRefused):
                    answer = dialler.receive(frame)
                    if answer is not None:
                        protocol.dataReceived(framed(answer))
        keys = dialler.take_keys() or ChannelKeys(AES_256_GCM, b"", b"", b"")
        return protocol, wire, StreamSealer(keys.suite, keys.sending)

    def test_receives(self):
        """Frames of a node that shook hands go to the receiver."""
        protocol, _, sealer = self.accepted(3)
        protocol.dataReceived(sealer.seal(framed(b"one", b"two")))
        self.assertEqual(self.receiver.told, [("received", 3, b"one"), ("received", 3, b"two")])

    def test_newcomer(self):
        """A node that is in no file is dialled where its hello says."""
        self.accepted(3)
        self.assertEqual(self.reactor.tcpClients[-1][0], "h3")

    def test_bad_peers(self):
        """Wrong cluster, version, secret, garbage, another protocol, an oversized frame: refused with one line each."""
        bad: list[tuple[dict[str, Any], bytes, str]] = [
            ({"cluster": "x"}, b"s", "another cluster"),
            ({"version": 7}, b"s", "version 7"),
            ({}, b"t", "secrets"),
            ({}, b"", "node 3 has no secret"),
        ]
        for hello, secret, reason in bad:
            protocol, wire, _ = self.accepted(3, secret, **hello)
            self.assertTrue(wire.disconnecting, reason)
            protocol.connectionLost(Failure(ConnectionDone()))
            self.assertIn(reason, self.complaints[-1])
            self.assertNotIn("\n", self.complaints[-1])
        for data, reason in ((b"GET / HTTP/1.1\r\n\r\n", "bytes"), (framed(b"\xc1"), "not a relay link")):
            protocol = AcceptFactory(self.transport).buildProtocol(None)
            protocol.makeConnection(StringTransport())
            protocol.dataReceived(data)
            protocol.connectionLost(Failure(ConnectionDone()))
            self.assertIn(reason, self.complaints[-1])
        self.assertEqual((self.met, self.receiver.told), ([], []))

    def test_bad_frames(self):
        """A frame that the receiver refuses, or one over the limit, ends that link."""
        too_long = LENGTH.pack(self.transport.options.frame_bytes_max + 1)
        for data, reason in ((framed(b"bad", b"good"), "a bad frame"), (too_long, "bytes")):
            protocol, wire, sealer = self.accepted(3)
            protocol.dataReceived(sealer.seal(data))
            self.assertTrue(wire.disconnecting)
            protocol.connectionLost(Failure(ConnectionDone()))
            self.assertIn(reason, self.complaints[-1])
        self.assertEqual(self.receiver.told, [])

    def test_changed_on_the_way(self):
        """A record that was changed on its way ends its link, and is one line in the log."""
        lines = lines_said(self)
        protocol, wire, sealer = self.accepted(3)
        record = sealer.seal(framed(b"one"))
        protocol.dataReceived(record[:-1] + bytes([record[-1] ^ 1]) + sealer.seal(framed(b"two")))
        self.assertTrue(wire.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.receiver.told, [])
        line = "the link from node 3 at 192.168.1.1 ended: secure channel: a record was changed on its way"
        self.assertEqual(lines, [line])

    # --- the log ----------------------------------------------------------------------------------------------------

    def test_said_once(self):
        """The same refusal of the same address is one line in a while, whatever the other side makes of its text."""
        lines = lines_said(self)
        for number in range(100):
            protocol, _, _ = self.accepted(3, cluster=f"c{number}")
            protocol.connectionLost(Failure(ConnectionDone()))
        for number in range(100):
            refusal = msgspec.msgpack.encode(Refusal(number, f"because {number}"))
            protocol = AcceptFactory(self.transport).buildProtocol(None)
            protocol.makeConnection(StringTransport())
            protocol.dataReceived(framed(refusal))
            protocol.connectionLost(Failure(ConnectionDone()))
        self.assertLessEqual(len(lines), 6)
        self.assertEqual(self.transport.refusals, 200)

    # --- so many links ----------------------------------------------------------------------------------------------

    def test_limit(self):
        """So many links are accepted; who has not shaken hands makes room, others do not."""
        factory: Any = AcceptFactory(self.transport)
        strangers = [factory.buildProtocol(None) for _ in range(2)]
        for each in strangers:
            each.makeConnection(StringTransport())
        self.accepted(3)
        self.accepted(4)
        self.assertEqual([each.ended for each in strangers], [True, True])
        self.assertIsNone(factory.buildProtocol(None))
        self.assertIn("2 links", self.complaints[-1])

    def comes(self, host: str) -> Incoming:
        """A connection from there, which says nothing."""
        kind = IPv6Address if ":" in host else IPv4Address
        protocol: Any = AcceptFactory(self.transport).buildProtocol(kind("TCP", host, 1))
        protocol.makeConnection(StringTransport())
        assert isinstance(protocol, Incoming)
        return protocol

    def test_strangers_make_room(self):
        """Whoever has most connections that have not shaken hands makes room: the node that has one does not."""
        self.transport.options = LinkOptions(links_max=WAITING_MAX + 2)
        node = self.comes("10.0.0.1")
        other = self.comes("10.0.0.2")
        flood = [self.comes("10.9.9.9") for _ in range(1000)]
        self.assertEqual((node.ended, other.ended), (False, False))
        self.assertEqual([each.ended for each in flood], [True] * (1000 - WAITING_MAX) + [False] * WAITING_MAX)
        late = self.comes("10.0.0.3")
        self.assertEqual([each.ended for each in (node, other, late)], [False] * 3)
        self.assertTrue(flood[-WAITING_MAX].ended)
        self.assertEqual(len(self.transport.incoming), WAITING_MAX + 2)

    def test_quota(self):
        """One source has few of them, though there is room; an IPv6 network is one, and what shook hands counts not."""
        self.transport.options = LinkOptions()
        stays = self.comes("10.0.0.1")
        for hosts in (["::ffff:10.0.0.2"], ["10.0.0.2"], [f"2001:db8::{each:x}" for each in range(100)]):
            for _ in range(100 // len(hosts)):
                for host in hosts:
                    self.comes(host)
        self.assertEqual(len(self.transport.incoming), 2 * WAITING_MAX + 1)
        self.assertFalse(stays.ended)
        for node in range(3, 20):
            self.accepted(node)
        self.assertEqual(len([each for each in self.transport.incoming if each.node]), 17)

    def test_silent(self):
        """Who does not shake hands, or says nothing any more, is cut off."""
        factory: Any = AcceptFactory(self.transport)
        idle = factory.buildProtocol(None)
        wires = []
        for protocol in (idle, self.accepted(3)[0]):
            wire = StringTransport()
            protocol.makeConnection(wire) if protocol is idle else None
            wires.append(wire)
        for _ in range(6):
            self.reactor.advance(1)
        self.assertEqual([link.ended for link in (idle,)], [True])
        self.assertTrue(any(isinstance(link, Incoming) and not link.ended for link in self.transport.incoming))
        for _ in range(6):
            self.reactor.advance(1)
        self.assertTrue(all(link.ended for link in self.transport.incoming))
