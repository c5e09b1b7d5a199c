"""KCP's port, sessions and streams on a ``Clock``: who comes in, who moves, what an unproven address gets, and ends."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.config import Limits, Listener, Slow, Timing
from relay.config_kcp import Kcp
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.errors import ConfigError
from relay.protocols.datagrams import datagram_address
from relay.protocols.entrance import Entrance
from relay.protocols.greeting import GreetingFactory
from relay.protocols.kcp import KcpPort
from relay.protocols.kcp_endpoint import cipher_for, options_of
from relay.test.entrance_fixture import binary_stream, echo, json_lines, publication
from relay.test.fakes import FakeGate
from relay.wire import kinds
from relay.wire.binary import encode_stream
from relay.wire.kcp import smux
from relay.wire.kcp.options import KcpOptions
from relay.wire.kcp.session import KcpSession

HOME = ("192.0.2.7", 40_000)
AWAY = ("198.51.100.9", 50_000)
KEY = "hex:" + bytes(range(32)).hex()


class FakeSocket:
    """Keeps what is sent, by address."""

    place = ("192.0.2.1", 4000)

    def __init__(self) -> None:
        self.sent: dict[Any, list[bytes]] = {}
        self.closed = False

    def send(self, datagrams: Any, place: Any) -> None:
        """Keep."""
        self.sent.setdefault(place, []).extend(datagrams)

    def start(self) -> None:
        """Nothing to read from."""

    def close(self) -> None:
        """Closed."""
        self.closed = True


class Client:
    """A peer of the port at ``place``."""

    def __init__(self, world: World, place: Any = HOME, conv: int = 77, options: KcpOptions | None = None) -> None:
        self.world = world
        self.place = place
        cipher = cipher_for(world.settings)
        self.session = KcpSession(conv, options or options_of(world.settings), cipher, random.Random(conv).randbytes)
        self.got = b""
        world.clients[place] = self

    def move(self, place: Any) -> None:
        """From another address on."""
        del self.world.clients[self.place]
        self.place = place
        self.world.clients[place] = self

    def say(self, data: bytes) -> None:
        """Send, and let all happen that follows at once."""
        self.session.send(data)
        self.world.settle()

    def datagrams(self) -> list[bytes]:
        """What is due."""
        return self.session.flush(self.world.now())


class World:
    """A port behind the real entrance, with the fake gate; ``settle`` lets datagrams go both ways until all is said."""

    def __init__(self, limits: Limits | None = None, on_receive: Any = echo, **settings: Any) -> None:
        self.settings = msgspec.convert({"key": KEY, **settings}, Kcp)
        self.clock = Clock()
        self.gate = FakeGate(on_receive)
        self.wheel = Wheel(self.clock)
        self.wheel.start()
        flusher = Flusher(lambda function: self.clock.callLater(0, function))
        listener = Listener(name="kcp", address="udp:0.0.0.0:4000", transport="kcp", kcp=self.settings)
        self.entrance = Entrance(
            listener, self.gate, flusher, self.wheel, self.clock, limits or Limits(), Timing(), Slow()
        )
        self.port = KcpPort(
            GreetingFactory(self.entrance), self.settings, options_of(self.settings), cipher_for(self.settings),
            self.clock, self.clock.seconds, random.Random(1).randbytes,
        )  # fmt: skip
        self.socket = FakeSocket()
        self.port.open(self.socket)  # type: ignore[arg-type]  # what is used of it is there
        self.clients: dict[Any, Client] = {}

    def now(self) -> int:
        """Milliseconds of the clients."""
        return int(self.clock.seconds() * 1000)

    def settle(self) -> None:
        """Until nothing is under way."""
        for _ in range(50):
            batch = [(each, client.place) for client in self.clients.values() for each in client.datagrams()]
            if batch:
                self.port.receive(batch)
            self.clock.advance(0)
            sent, self.socket.sent = self.socket.sent, {}
            for place, datagrams in sent.items():
                client = self.clients.get(place)
                if client is not None:
                    for datagram in datagrams:
                        client.session.receive_datagram(datagram, self.now())
                    client.got += client.session.receive() or b""
            if not batch and not sent:
                return

    def pass_time(self, seconds: float, step: float = 0.1) -> None:
        """Let it pass; datagrams go both ways."""
        for _ in range(int(seconds / step) + 1):
            self.clock.advance(step)
            self.settle()


def reply(*messages: Any) -> bytes:
    """What a stream of the binary form brings back."""
    return b"".join(map(encode_stream, messages))


class SessionTests(SynchronousTestCase):
    """One session is one connection of relay."""

    def test_both_forms(self):
        """The binary and the JSON form of the stream protocol, with the same objects as over TCP."""
        for profile in ("default", "game", "bulk"):
            world = World(profile=profile)
            one, two = Client(world), Client(world, AWAY, 78)
            one.say(binary_stream(publication("room", b"x" * 5000)))
            two.say(json_lines(publication("hall")))
            self.assertEqual(one.got, reply(publication("room", b"x" * 5000)))
            self.assertEqual(two.got, json_lines(publication("hall")))
            peer = world.gate.connections[0].peer
            self.assertEqual((peer.transport, peer.address, peer.local), ("kcp", HOME[0], False))

    def test_close(self):
        """A closed peer's last frame arrives before the session is forgotten."""
        world = World(on_receive=lambda connection, message: connection.peer.close(kinds.NORMAL))
        client = Client(world)
        client.say(binary_stream(publication()))
        world.gate.last.peer.send(b"too late")
        world.pass_time(1)
        self.assertEqual((len(world.port.sessions), world.entrance.open, len(world.gate.last.ends)), (0, 0, 1))

    def test_handshake_time_out(self):
        """A session that begins a connection and says no more is cut off in time."""
        world = World()
        client = Client(world)
        client.say(b"\xd2")
        self.assertEqual(len(world.port.sessions), 1)
        world.pass_time(Timing().handshake_timeout_s + 1)
        self.assertEqual((len(world.port.sessions), world.entrance.expired, world.entrance.open), (0, 1, 0))

    def test_idle(self):
        """A session of which nothing comes is over after the idle time-out; until then it has no timer of its own."""
        world = World(idle_timeout_s=60)
        client = Client(world)
        client.say(binary_stream(publication()))
        del world.clients[HOME]
        for _ in range(3):
            world.clock.advance(0.1)
        calls = len(world.clock.getDelayedCalls())
        self.assertEqual(calls, 2)  # the node's wheel and the port's sweep
        for _ in range(70):
            world.clock.advance(1)
        self.assertEqual((len(world.port.sessions), world.entrance.open), (0, 0))
        self.assertEqual(len(world.gate.last.ends), 1)

    def test_dead(self):
        """A session whose segments are sent in vain again and again is over."""
        world = World(idle_timeout_s=10_000)
        client = Client(world)
        client.say(binary_stream(publication()))
        del world.clients[HOME]
        world.gate.last.peer.send(reply(publication()))
        world.pass_time(120, 0.02)
        self.assertEqual(len(world.port.sessions), 0)
        self.assertIn("in vain", world.gate.last.ends[0][0])

    def test_pause(self):
        """What comes for a paused peer stays with KCP, whose window closes; all of it comes after the pause."""
        world = World(on_receive=None)
        client = Client(world)
        client.say(binary_stream(publication("first")))
        peer = world.gate.last.peer
        peer.pause("test")
        client.say(b"".join(encode_stream(publication(f"n{index}", bytes(1300))) for index in range(1500)))
        transport = world.port.sessions[HOME]
        self.assertLessEqual(len(transport.session.kcp._ready), options_of(world.settings).receive_window)
        self.assertEqual(world.gate.last.names, ["first"])
        peer.resume("test")
        world.pass_time(30)
        self.assertEqual(len(world.gate.last.names), 1501)

    def test_slow_consumer(self):
        """What a peer does not take is bounded by its outbox: over it the policy acts."""
        world = World(on_receive=None)
        Client(world).say(binary_stream(publication("first")))
        del world.clients[HOME]
        peer = world.gate.last.peer
        for _ in range(400):
            peer.send(bytes(10_000))
            world.clock.advance(0)
        bound = world.port.high_bytes + Slow().queue_bytes_max + 2 * 65_536
        self.assertLess(world.port.sessions[HOME].session.kcp.queued_bytes + peer.queued_bytes(), bound)
        self.assertNotEqual(peer.ended, "")

    def test_drain(self):
        """A port that stops takes no new session, serves those it has, and closes after the last."""
        world = World()
        one = Client(world)
        one.say(binary_stream(publication()))
        world.port.stopListening()
        Client(world, AWAY, 78).say(binary_stream(publication()))
        one.say(reply(publication("more")))
        self.assertEqual(world.gate.last.names, ["room", "more"])
        self.assertFalse(world.socket.closed)
        world.gate.last.peer.close(kinds.NORMAL)
        world.pass_time(1)
        self.assertTrue(world.socket.closed)


class DoorTests(SynchronousTestCase):
    """State only for who has a right to it."""

    def first(self, world: World, client: Client) -> list[bytes]:
        """The first datagrams of a client."""
        client.session.send(binary_stream(publication()))
        return client.datagrams()

    def test_nobody(self):
        """Garbage, other keys, other segments than the first, and parity leave nothing behind, and get no answer."""
        world = World()
        rng = random.Random(3)
        stranger = Client(World(key="hex:" + "11" * 32))
        late = Client(world)
        late.session.kcp.una = late.session.kcp.next_sn = 5
        silent = KcpSession(5, options_of(world.settings), cipher_for(world.settings), rng.randbytes)
        silent.kcp._ask = True
        batch = [(rng.randbytes(rng.randrange(1, 200)), HOME) for _ in range(200)]
        batch += [(each, AWAY) for each in (*self.first(world, stranger), *self.first(world, late), *silent.flush(0))]
        good = self.first(world, Client(world, AWAY, 3))[0]
        batch += [(good[:-1] + bytes([good[-1] ^ 1]), AWAY), (good[:40], AWAY)]
        world.port.receive(batch)
        world.clock.advance(0)
        self.assertEqual((len(world.port.sessions), world.socket.sent), (0, {}))
        self.assertEqual((world.port.undecided, world.entrance.unknown), (len(batch), len(batch)))

    def test_unproven_limit(self):
        """At most ``unproven_max`` sessions have not shown that they receive; who has makes room."""
        world = World(cipher="null", unproven_max=3)
        for index in range(10):
            client = Client(world, ("192.0.2.8", 1000 + index), 100 + index)
            world.port.receive([(each, client.place) for each in self.first(world, client)])
        world.clock.advance(0)
        self.assertEqual(len(world.port.sessions), 3)
        world.socket.sent = {}
        for place in list(world.clients)[3:]:
            del world.clients[place]
        world.pass_time(1)
        Client(world, AWAY, 5).say(binary_stream(publication()))
        self.assertEqual(len(world.port.sessions), 4)

    def test_amplification(self):
        """An address that has not shown that it receives gets at most three times what came from it."""
        world = World(cipher="null", on_receive=None)
        client = Client(world)
        datagrams = self.first(world, client)
        world.port.receive([(each, HOME) for each in datagrams])
        del world.clients[HOME]
        for _ in range(20):
            world.gate.last.peer.send(bytes(5000))
        for _ in range(300):
            world.clock.advance(0.1)
        came, went = sum(map(len, datagrams)), sum(map(len, world.socket.sent[HOME]))
        self.assertGreater(went, 0)
        self.assertLessEqual(went, 3 * came)

    def test_limits_of_the_entrance(self):
        """Connections in all and per address, and the gate, count for sessions as they do for connections."""
        limits = Limits(connections_max=3, connections_per_address_max=2)
        for smuxed in (False, True):
            world = World(limits)
            world.gate.refuse["203.0.113.1"] = kinds.UNAUTHORIZED
            places = [("203.0.113.1", 1), *((HOME[0], port) for port in range(4)), ("192.0.2.9", 1), ("192.0.2.10", 1)]
            for index, place in enumerate(places):
                data = smux._HEADER.pack(2, smux.SYN, 0, 3) if smuxed else binary_stream(publication())
                Client(world, place, 200 + index).say(data)
            hosts = [place[0] for place in world.port.sessions]
            # A session of smux counts, and so does each stream: the last has a session, but no stream any more.
            self.assertEqual(hosts, [HOME[0]] * (1 if smuxed else 2) + ["192.0.2.9"])
            self.assertEqual((world.entrance.open, len(world.gate.connections)), (3, 0 if smuxed else 3))

    def test_new_conversation(self):
        """The same address begins anew: at once where that is authenticated, else only after a silence."""
        for cipher, silence, expected in (("aes-256-gcm", 0, 2), ("null", 0, 1), ("null", 6, 2)):
            world = World(cipher=cipher)
            Client(world).say(binary_stream(publication()))
            world.clock.advance(silence)
            Client(world, HOME, 99).say(binary_stream(publication()))
            self.assertEqual(len(world.gate.connections), expected, cipher)
            self.assertEqual(len(world.port.sessions), 1)

    def test_migration(self):
        """With an authenticated cipher a session follows its peer to another address; a repeated datagram moves
        nothing, and without authentication nothing moves at all."""
        world = World()
        client = Client(world)
        client.say(binary_stream(publication()))
        client.session.send(reply(publication("second")))
        old = client.datagrams()
        world.port.receive([(each, HOME) for each in old])
        world.settle()
        world.port.receive([(each, AWAY) for each in old])
        self.assertEqual((list(world.port.sessions), world.port.moved), ([HOME], 0))
        client.move(AWAY)
        client.say(reply(publication("third")))
        self.assertEqual((list(world.port.sessions), world.port.moved), ([AWAY], 1))
        self.assertEqual(client.got, reply(publication(), publication("second"), publication("third")))
        world = World(cipher="aes")
        client = Client(world)
        client.say(binary_stream(publication()))
        client.move(AWAY)
        client.say(reply(publication("third")))
        self.assertEqual((list(world.port.sessions), len(world.gate.connections)), ([HOME], 1))

    def test_garbage_for_a_session(self):
        """Noise from a session's address, in every cipher without authentication, does not end it."""
        rng = random.Random(5)
        for cipher in ("null", "none", "aes"):
            world = World(cipher=cipher)
            client = Client(world)
            client.say(binary_stream(publication()))
            conv = (77).to_bytes(4, "little")
            noise = [conv + bytes([rng.randrange(81, 85)]) + rng.randbytes(rng.randrange(60)) for _ in range(300)]
            noise += [rng.randbytes(4) + bytes([rng.randrange(0xF1, 0xF4), 0]) + rng.randbytes(30) for _ in range(300)]
            sealed = cipher_for(world.settings)
            batch = [(sealed.seal(each, rng.randbytes(sealed.nonce_bytes)), HOME) for each in noise]
            world.port.receive([(each, HOME) for each, _ in batch if rng.random() < 0.1] if cipher == "null" else batch)
            world.clock.advance(0)
            self.assertEqual(list(world.port.sessions), [HOME])


class SmuxTests(SynchronousTestCase):
    """Many connections in one session."""

    def opened(self, world: World, version: int, count: int = 1) -> tuple[Client, smux.Smux]:
        """A client with that many streams."""
        client, machine = Client(world), smux.Smux(True, version)
        for _ in range(count):
            sid = machine.open()
            machine.send(sid, binary_stream(publication(f"s{sid}")))
        self.push(client, machine)
        return client, machine

    def push(self, client: Client, machine: smux.Smux) -> list[smux.Event]:
        """Send what the machine has; the events of what comes back."""
        output, machine.output = machine.output, []
        client.got = b""
        client.say(b"".join(output))
        got, client.got = client.got, b""
        return machine.input(got) if got else []

    def test_streams(self):
        """Each stream is a connection; both versions are recognised; an end is answered by an end."""
        for version in (1, 2):
            world = World()
            client, machine = self.opened(world, version, 3)
            self.assertEqual([each.names for each in world.gate.connections], [["s3"], ["s5"], ["s7"]])
            machine.input(client.got)
            machine.finish(5)
            self.assertIn(("ended", 5, b""), self.push(client, machine))
            self.assertEqual(len(world.gate.connections[1].ends), 1)
            world.gate.connections[0].peer.close(kinds.NORMAL)
            world.clock.advance(0)
            self.assertIn(("ended", 3, b""), self.push(client, machine))
            self.assertEqual(world.entrance.open, 3)  # the session, the stream 7, and 3 until its peer ends it, too
            machine.finish(3)
            self.push(client, machine)
            self.assertEqual(world.entrance.open, 2)

    def test_session_ends(self):
        """All streams end with their session; what is no smux ends it."""
        world = World()
        client, _ = self.opened(world, 2, 2)
        client.say(b"\x07" * 8)
        world.clock.advance(0)
        self.assertEqual((len(world.port.sessions), world.entrance.open), (0, 0))
        self.assertEqual([len(each.ends) for each in world.gate.connections], [1, 1])

    def test_keep_alive(self):
        """A sign of life goes out now and then, and a session that gives none is over after 30 s."""
        world = World(idle_timeout_s=1000)
        client, _ = self.opened(world, 1)
        client.got = b""
        world.pass_time(25)
        self.assertIn(smux._HEADER.pack(1, smux.NOP, 0, 0), client.got)
        world.pass_time(20)
        self.assertEqual(len(world.port.sessions), 0)

    def test_pause(self):
        """A paused stream keeps what came, within its window; the others go on; all comes after the pause."""
        world = World(on_receive=None)
        client, machine = self.opened(world, 2, 2)
        machine.input(client.got)
        one = world.gate.connections[0].peer
        one.pause("test")
        frames = [encode_stream(publication(f"n{index}", bytes(1000))) for index in range(1000)]
        machine.send(3, b"".join(frames))
        machine.send(5, b"".join(frames[:5]))
        for _ in range(20):
            self.push(client, machine)
        self.assertEqual([len(each.names) for each in world.gate.connections], [1, 6])
        machine.finish(3)
        self.push(client, machine)
        self.assertEqual(world.gate.connections[0].ends, [])
        one.resume("test")
        for _ in range(20):
            world.clock.advance(0.01)
            self.push(client, machine)
        self.assertEqual((len(world.gate.connections[0].names), len(world.gate.connections[0].ends)), (1001, 1))

    def test_order_after_a_pause(self):
        """What comes between the end of a pause and the turn in which what was kept is delivered comes behind it."""
        world = World(on_receive=None)
        client, machine = self.opened(world, 2)
        machine.input(client.got)
        connection = world.gate.connections[0]
        connection.peer.pause("test")
        for name in ("kept", "later"):
            machine.send(3, encode_stream(publication(name)))
            self.push(client, machine)
            connection.peer.resume("test")
        world.clock.advance(0)
        self.assertEqual(connection.names, ["s3", "kept", "later"])


class SettingsTests(SynchronousTestCase):
    """What the configuration makes."""

    def test_addresses(self):
        """``udp:HOST:PORT``, IPv6 in brackets or not."""
        for address, expected in (
            ("udp:127.0.0.1:4000", ("127.0.0.1", 4000)),
            ("udp:[::1]:0", ("::1", 0)),
            ("udp:\\:\\:1:5", ("::1", 5)),
        ):
            self.assertEqual(datagram_address(address), expected)
        for wrong in ("udp:4000", "tcp:1.2.3.4:5", "udp:1.2.3.4:x", "udp:1.2.3.4:70000", "udp::5"):
            with self.assertRaises(ConfigError):
                datagram_address(wrong)

    def test_options(self):
        """The profile, and what is said otherwise; a cipher that needs a key has to have one."""
        found = options_of(Kcp(profile="game", error_correction="10/3", window=99, rate_bytes_max=5, mtu=1200))
        self.assertEqual(
            (found.data_shards, found.send_window, found.receive_window, found.rate_bytes_max, found.mtu, found.nc),
            (10, 99, 99, 5, 1200, True),
        )
        with self.assertRaises(ConfigError):
            cipher_for(Kcp())
        self.assertTrue(cipher_for(Kcp(key="secret")).authenticated)
        self.assertEqual(cipher_for(Kcp(cipher="null")).overhead, 0)
