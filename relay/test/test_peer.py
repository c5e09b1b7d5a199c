"""The peer: frames out, pauses by reason, the orderly close; and the fakes that stand for the core."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.config import Slow, Timing
from relay.core.outbox import DROPPABLE
from relay.dialects.relay_v1 import JsonLines, WebSocketJson
from relay.interfaces import IConnection, IGate, IPeer
from relay.protocols.entrance import Arrival
from relay.protocols.peer import LINGER_BYTES_MAX, Peer
from relay.protocols.websocket import WebSocketPeer
from relay.test.entrance_fixture import CLIENT, LOCAL, Door
from relay.test.fakes import FakeConnection, FakeGate, WireTransport
from relay.wire import kinds


class PeerCase(SynchronousTestCase):
    """A peer on a fake transport."""

    def setUp(self) -> None:
        self.door = Door(timing=Timing(close_timeout_s=2.0), slow=Slow(queue_bytes_max=100, stalled_s_max=5.0))
        self.arrival = Arrival(self.door.entrance, CLIENT, CLIENT.host, certificate="device-7")
        self.transport = WireTransport(CLIENT)
        self.door.transports.append(self.transport)

    def peer(self, label: str = "tcp") -> Any:  # Any: a Peer with the fake transport's side set up
        """A peer whose outbox the transport knows."""
        peer = Peer(self.arrival, self.transport, label, JsonLines())
        self.transport.registerProducer(peer.outbox, True)

        class Nobody:
            """A protocol that tells the peer of its end."""

            def dataReceived(self, data: bytes) -> None:
                """Forget it."""
                peer.forget(data)

            def connectionLost(self, reason: Failure) -> None:
                """Keep what the core would hear."""
                self.heard = peer.gone(reason)

        self.transport.protocol = Nobody()
        return peer


class FakesTests(SynchronousTestCase):
    """The fakes keep to the interfaces that they stand for."""

    def test_fakes(self):
        """Gate and connection."""
        self.assertTrue(verifyObject(IGate, FakeGate()))
        self.assertTrue(verifyObject(IConnection, FakeConnection(None)))


class PeerTests(PeerCase):
    """What the core sees of a connection."""

    def test_interface(self):
        """Peers of all kinds keep to ``IPeer``; their outbox is the transport's producer."""
        peer = self.peer()
        self.assertTrue(verifyObject(IPeer, peer))
        self.assertTrue(verifyObject(IPushProducer, peer.outbox))
        self.assertTrue(verifyObject(IPeer, WebSocketPeer(self.arrival, self.transport, "ws", WebSocketJson())))

    def test_labels(self):
        """A peer tells transport, dialect, listener, address and certificate."""
        peer = self.peer("tls")
        self.assertEqual(
            (peer.transport, peer.dialect, peer.listener, peer.address, peer.certificate, peer.local),
            ("tls", "relay.json", "test", CLIENT.host, "device-7", False),
        )

    def test_local(self):
        """Loopback and Unix sockets are local."""
        for host in ("", "127.0.0.1", "::1"):
            peer = Peer(Arrival(self.door.entrance, LOCAL, host), self.transport, "unix", JsonLines())
            self.assertTrue(peer.local)

    def test_one_write_per_turn(self):
        """What is sent in one turn leaves in one write, in order."""
        peer = self.peer()
        for frame in (b"a", b"b", b"c"):
            peer.send(frame)
        self.assertEqual((self.transport.take(), peer.queued_bytes()), (b"", 3))
        self.door.turn()
        self.assertEqual(self.transport.take(), b"abc")

    def test_paused_by_two(self):
        """Reading goes on when the last reason for a pause is taken back."""
        peer = self.peer()
        peer.pause("rate")
        peer.pause("hook")
        peer.pause("rate")
        self.assertEqual(self.transport.producerState, "paused")
        peer.resume("rate")
        self.assertEqual(self.transport.producerState, "paused")
        peer.resume("hook")
        self.assertEqual(self.transport.producerState, "producing")

    def test_resume_without_pause(self):
        """A reason that was not given changes nothing."""
        peer = self.peer()
        peer.pause("rate")
        peer.resume("hook")
        self.assertEqual(self.transport.producerState, "paused")

    def test_slow_peer_is_closed(self):
        """Before the core watches, a peer that does not take what is sent is closed as a slow consumer."""
        peer = self.peer()
        self.transport.producer.pauseProducing()
        peer.send(b"x" * 101)
        self.assertEqual(peer.ended, "closed: slow_consumer")

    def test_slow_peer_is_the_cores_business(self):
        """Afterwards the core is told, once, and sends what stands for frames that were left out."""
        door = Door(slow=Slow(policy="drop_oldest", queue_bytes_max=100))
        peer = Peer(Arrival(door.entrance, CLIENT, CLIENT.host), self.transport, "tcp", JsonLines())
        told: list[str] = []
        peer.watch(lambda: told.append("overflowed"), lambda count: b"<%d left out>" % count)
        peer.outbox.pauseProducing()
        for _ in range(3):
            peer.send(b"x" * 60, None, DROPPABLE)
        peer.outbox.resumeProducing()
        self.assertEqual((self.transport.take(), told), (b"<2 left out>" + b"x" * 60, []))
        peer.outbox.pauseProducing()
        peer.send(b"y" * 101)
        peer.send(b"y" * 101)
        self.assertEqual((told, peer.ended), (["overflowed"], ""))

    def test_stalled_peer(self):
        """A peer that takes nothing for ``stalled_s_max`` is closed although little waits."""
        peer = self.peer()
        self.transport.producer.pauseProducing()
        peer.send(b"x")
        for now in (100.0, 104.9):
            self.door.flusher.sweep(now)
        self.assertEqual(peer.ended, "")
        self.door.flusher.sweep(105.1)
        self.assertEqual(peer.ended, "closed: slow_consumer")


class ClosingTests(PeerCase):
    """The order of an end."""

    def test_flushed_first(self):
        """What was sent before ``close`` leaves; what is sent after it does not; our half is closed."""
        peer = self.peer()
        peer.send(b"goodbye")
        peer.close(kinds.KICKED)
        peer.send(b"late")
        self.door.turn()
        self.assertEqual((self.transport.take(), self.transport.ended), (b"goodbye", "half"))
        self.assertIsNone(self.transport.producer)

    def test_held_frames_too(self):
        """Frames that waited for a paused transport are handed over, too."""
        peer = self.peer()
        self.transport.producer.pauseProducing()
        peer.send(b"goodbye")
        peer.close(kinds.KICKED)
        self.assertEqual(self.transport.take(), b"goodbye")

    def test_peer_closes(self):
        """A peer that closes in time is not cut off."""
        peer = self.peer()
        peer.close(kinds.KICKED)
        self.transport.lose()
        self.door.pass_time(5)
        self.assertEqual(self.transport.ended, "half")
        self.assertEqual(self.transport.protocol.heard, ("closed: kicked", False))

    def test_peer_stays(self):
        """A peer that does not close is cut off after ``close_timeout_s``, not before."""
        peer = self.peer()
        peer.close(kinds.KICKED)
        self.door.pass_time(1.5)
        self.assertFalse(self.transport.gone)
        self.door.pass_time(1.0)
        self.assertEqual((self.transport.ended, self.transport.gone), ("aborted", True))

    def test_input_is_forgotten(self):
        """What a closed peer still sends is read, so that no reset overtakes the goodbye, up to a limit."""
        peer = self.peer()
        peer.close(kinds.KICKED)
        self.transport.feed(b"x" * LINGER_BYTES_MAX)
        self.assertEqual(self.transport.ended, "half")
        self.transport.feed(b"x")
        self.assertEqual(self.transport.ended, "aborted")

    def test_paused_peer_is_read_again(self):
        """The end of a peer that was paused is noticed, too."""
        peer = self.peer()
        peer.pause("rate")
        peer.close(kinds.RATE)
        self.assertEqual(self.transport.producerState, "producing")
        peer.pause("hook")
        self.assertEqual(self.transport.producerState, "producing")

    def test_tls(self):
        """Inside of TLS the whole connection is closed, with no producer in the way: it has no half-close."""
        peer = self.peer("wss")
        peer.close(kinds.KICKED)
        self.assertEqual((self.transport.ended, self.transport.producer), ("lost", None))

    def test_no_half_close(self):
        """A transport that knows no half-close is closed whole."""
        self.transport.loseWriteConnection = None  # type: ignore[assignment,method-assign]  # as if there were none
        peer = self.peer()
        peer.close(kinds.KICKED)
        self.assertEqual(self.transport.ended, "lost")

    def test_closed_once(self):
        """The first reason counts."""
        peer = self.peer()
        peer.close(kinds.KICKED)
        peer.close(kinds.IDLE)
        self.assertEqual(peer.ended, "closed: kicked")

    def test_after_the_end(self):
        """When the transport is lost, nothing that the core may still call does anything."""
        peer = self.peer()
        peer.pause("rate")
        self.transport.lose()
        for call in (lambda: peer.send(b"x"), lambda: peer.close(kinds.KICKED), lambda: peer.resume("rate"),
                     lambda: peer.pause("rate"), lambda: peer.watch(self.fail, self.fail)):  # fmt: skip
            call()
        self.door.pass_time(5)
        self.assertEqual((self.transport.take(), self.transport.ended), (b"", ""))

    def test_unsent_is_known_afterwards(self):
        """How many frames were never handed over is known when the transport is lost, and not before."""
        peer = self.peer()
        self.transport.producer.pauseProducing()
        peer.send(b"one")
        peer.send(b"two")
        self.assertEqual(peer.unsent(), 0)
        self.transport.lose(ConnectionLost())
        self.assertEqual(peer.unsent(), 2)

    def test_what_the_core_hears(self):
        """An end by the peer is clean when it closed, and not when the connection broke."""
        for error, clean in ((ConnectionDone(), True), (ConnectionLost(), False), (ConnectionAborted(), False)):
            text, heard = Peer(self.arrival, self.transport, "tcp", JsonLines()).gone(Failure(error))
            self.assertEqual(heard, clean)
            self.assertIn("onnection", text)
