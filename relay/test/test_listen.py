"""Listeners on real sockets: addresses of all kinds, what is in the way of them, and changes while they run."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import msgspec
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.static import Data

from relay.config import Http, Limits, Listener, Slow, Timing, Tls, WebSocket
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.errors import ConfigError
from relay.protocols.listen import ListenerService, completed, endpoint_words
from relay.test.entrance_fixture import binary_stream, echo, publication
from relay.test.fakes import FakeGate
from relay.test.test_tls import Authority
from relay.wire import kinds
from relay.wire.binary import encode_frame, encode_stream

reactor: Any = installed  # Any: the reactor, whichever interfaces it provides
ANYWHERE = "tcp:0:interface=127.0.0.1"


class Caller(Protocol):
    """The client's end of a stream: what came, and when it is over."""

    def __init__(self) -> None:
        self.data = b""
        self.over: Deferred[bytes] = Deferred()
        self._wanted = 0
        self._enough: Deferred[bytes] = Deferred()

    def receive(self, count: int) -> Deferred[bytes]:
        """Fires when ``count`` bytes have come."""
        self._wanted = count
        self._enough = Deferred()
        self.dataReceived(b"")
        return self._enough

    def send(self, data: bytes) -> None:
        """Write."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Leave."""
        assert self.transport is not None
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.data += data
        if self._wanted and len(self.data) >= self._wanted:
            self._wanted = 0
            self._enough.callback(self.data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Over."""
        self.over.callback(self.data)


def remove(path: str) -> None:
    """Remove a socket's file that a test may have left."""
    Path(path).unlink(missing_ok=True)


class AddressTests(SynchronousTestCase):
    """What is made of the address in the configuration."""

    def test_completed(self):
        """Backlog, and for Unix sockets mode and lock, are added where they are not given."""
        for address, expected in (
            ("tcp:80", "tcp:80:backlog=4096"),
            ("tcp6:80:interface=\\:\\:1", "tcp6:80:interface=\\:\\:1:backlog=4096"),
            ("tcp:80:backlog=5", "tcp:80:backlog=5"),
            ("unix:/run/relay.sock", "unix:/run/relay.sock:backlog=4096:mode=660:lockfile=0"),
            ("unix:/run/relay.sock:mode=600", "unix:/run/relay.sock:mode=600:backlog=4096:lockfile=0"),
            ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
        ):
            self.assertEqual(completed(Listener(address=address)), expected)

    def test_words(self):
        """A quoted colon does not part, a quoted backslash does not quote."""
        self.assertEqual(endpoint_words("a:b\\:c:d\\\\:e"), ["a", "b\\:c", "d\\\\", "e"])


class ListenCase(TestCase):
    """Services that are stopped, and connections that are closed, when a test ends."""

    def setUp(self) -> None:
        self.gate = FakeGate(echo)
        self.wheel = Wheel(reactor)
        self.wheel.start()
        self.addCleanup(self.wheel.stop)
        self.flusher = Flusher(lambda function: reactor.callLater(0, function))
        self.root = Resource()
        self.root.putChild(b"", Data(b"the page", "text/html"))

    def service(self, address: str = ANYWHERE, limits: Limits | None = None, **options: Any) -> ListenerService:
        """A service that is not started."""
        listener = Listener(address=address, **options)
        return ListenerService(
            listener, reactor, self.gate, self.flusher, self.wheel, limits or Limits(), Timing(), Slow(), self.root
        )

    def start(self, address: str = ANYWHERE, **options: Any) -> ListenerService:  # Any: of Listener
        """A service that listens."""
        service = self.service(address, **options)
        service.startService()
        self.addCleanup(self.stop, service)
        return service

    async def stop(self, service: ListenerService) -> None:
        """Stop it, and see its connections off."""
        await service.stop_accepting()
        for connection in self.gate.connections:
            connection.peer.close(kinds.DRAIN)
        while service.entrance.open:
            await deferLater(reactor, 0.001)

    async def call(self, address: str) -> Caller:
        """A connection."""
        caller: Caller = await connectProtocol(clientFromString(reactor, address), Caller())
        self.addCleanup(self.hang_up, caller)
        return caller

    async def hang_up(self, caller: Caller) -> None:
        """Close a connection and wait for its end."""
        if not caller.over.called:
            caller.close()
            await caller.over

    async def served(self, address: str) -> str:
        """That a listener at ``address`` answers; the label of its transport."""
        caller = await self.call(address)
        expected = encode_stream(publication())
        caller.send(binary_stream(publication()))
        self.assertEqual(await caller.receive(len(expected)), expected)
        label: str = self.gate.last.peer.transport
        return label

    def refusal(self, service: ListenerService) -> str:
        """The one line with which a service does not start."""
        sentence = str(self.assertRaises(ConfigError, service.startService))
        self.assertNotIn("\n", sentence)
        return sentence


class KindsOfAddressTests(ListenCase):
    """Sockets of all kinds."""

    def certified(self) -> Tls:
        """Files with a certificate."""
        names = self.mktemp(), self.mktemp()
        for name, data in zip(names, Authority("authority").issue("localhost"), strict=True):
            Path(name).write_bytes(data)
        return Tls(certificate=names[0], key=names[1])

    async def test_tcp(self):
        """TCP, at a port that the system chooses."""
        service = self.start()
        self.assertEqual(await self.served(f"tcp:127.0.0.1:{service.port()}"), "tcp")
        self.assertEqual(self.gate.asked, [("127.0.0.1", ANYWHERE)])

    async def test_tcp6(self):
        """TCP over IPv6."""
        service = self.start("tcp6:0:interface=\\:\\:1")
        self.assertEqual(await self.served(f"tcp:\\:\\:1:{service.port()}"), "tcp")
        self.assertEqual(self.gate.last.peer.address, "::1")

    async def test_unix(self):
        """A Unix socket that group members may use; its file goes with it."""
        path = f"/tmp/relay-{os.getpid()}-new.sock"
        service = self.start(f"unix:{path}")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o660)
        self.assertEqual(await self.served(f"unix:{path}"), "unix")
        self.assertEqual((self.gate.last.peer.address, self.gate.last.peer.local), ("", True))
        await service.stop_accepting()
        self.assertRaises(FileNotFoundError, os.stat, path)

    async def test_reuse_port(self):
        """Two listeners share a port; both adopt a socket with SO_REUSEPORT."""
        one = self.start(reuse_port=True)
        two = self.start(f"tcp:{one.port()}:interface=127.0.0.1", reuse_port=True)
        self.assertEqual(one.port(), two.port())
        self.assertEqual(await self.served(f"tcp:127.0.0.1:{one.port()}"), "tcp")
        await one.stop_accepting()
        self.assertEqual(await self.served(f"tcp:127.0.0.1:{two.port()}"), "tcp")

    async def test_one_port(self):
        """Page, WebSocket and both stream forms on one port."""
        service = self.start(protocols=("relay", "http", "websocket"))
        address = f"tcp:127.0.0.1:{service.port()}"
        self.assertEqual(await self.served(address), "tcp")
        caller = await self.call(address)
        caller.send(b'{"kind":"publish","name":"room"}\n')
        self.assertEqual(await caller.receive(33), b'{"kind":"publish","name":"room"}\n')
        caller = await self.call(address)
        caller.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self.assertTrue((await caller.over).endswith(b"the page"))

    async def test_tls(self):
        """A listener with TLS, to Twisted's own client."""
        service = self.start(tls=self.certified())
        self.assertEqual(await self.served(f"ssl:127.0.0.1:{service.port()}"), "tls")


class InTheWayTests(ListenCase):
    """What stops a listener, as one line."""

    def test_in_use(self):
        """A port that somebody has."""
        service = self.start()
        self.assertIn("ddress already in use", self.refusal(self.service(f"tcp:{service.port()}:interface=127.0.0.1")))

    def test_in_use_shared(self):
        """A port that somebody has who does not share it."""
        service = self.start()
        other = self.service(f"tcp:{service.port()}:interface=127.0.0.1", reuse_port=True)
        self.assertIn("ddress already in use", self.refusal(other))

    def test_not_allowed(self):
        """A Unix socket where files cannot be made."""
        self.assertIn("cannot listen on unix:/proc/", self.refusal(self.service("unix:/proc/relay.sock")))

    def test_not_an_address(self):
        """Addresses that Twisted does not know, ports that are none."""
        for address in ("8000", "tcp", "tcp:x", "tcp:99999999", "carrier:pigeon", "tcp:0:interface=999.1.1.1"):
            self.assertIn(address, self.refusal(self.service(address)), address)

    def test_not_to_share(self):
        """Ports that are none, and sockets that cannot be shared."""
        for address in ("unix:/tmp/relay.sock", "tcp:x", "tcp", "tcp:99999999"):
            self.assertIn(address, self.refusal(self.service(address, reuse_port=True)), address)

    async def test_unix_in_use(self):
        """A Unix socket that somebody listens on stays theirs; one that nobody listens on is removed."""
        path = f"/tmp/relay-{os.getpid()}-use.sock"
        other = socket.socket(socket.AF_UNIX)
        other.bind(path)
        self.addCleanup(remove, path)
        other.listen(1)
        self.assertIn("ddress already in use", self.refusal(self.service(f"unix:{path}")))
        other.close()
        self.start(f"unix:{path}")
        self.assertEqual(await self.served(f"unix:{path}"), "unix")

    def test_not_a_socket(self):
        """A file in the place of the socket is not touched."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("precious")
        self.assertIn("not a socket", self.refusal(self.service(f"unix:{path}")))
        self.assertTrue(os.path.exists(path))

    def test_certificate(self):
        """A certificate that cannot be read, already when the service is made."""
        self.assertRaises(ConfigError, self.service, tls=Tls(certificate="/nowhere", key="/nowhere"))

    def test_nothing_to_serve(self):
        """HTTP with no resources."""
        self.root = None  # type: ignore[assignment]  # as tap would forget it
        self.assertRaises(ConfigError, self.service, protocols=("http",))


class LiveTests(ListenCase):
    """A listener that runs."""

    async def test_stop_and_start(self):
        """A stopped listener refuses, its connections stay; started again it serves."""
        service = self.start()
        port = service.port()
        caller = await self.call(f"tcp:127.0.0.1:{port}")
        caller.send(binary_stream(publication()))
        await caller.receive(1)
        await service.stopService()
        with self.assertRaises(ConnectionRefusedError), socket.socket() as probe:
            probe.connect(("127.0.0.1", port))
        length = len(caller.data)
        caller.send(encode_stream(publication()))
        await caller.receive(length + 1)
        service.startService()
        await self.served(f"tcp:127.0.0.1:{service.port()}")

    async def test_privileged(self):
        """What listens before privileges are dropped does not listen again afterwards."""
        service = self.service()
        service.privilegedStartService()
        port = service.port()
        service.startService()
        self.addCleanup(self.stop, service)
        self.assertEqual(service.port(), port)

    async def test_closed_at_once(self):
        """A connection that is not admitted is closed without a byte."""
        service = self.start()
        self.gate.refuse["127.0.0.1"] = kinds.UNAUTHORIZED
        caller = await self.call(f"tcp:127.0.0.1:{service.port()}")
        self.assertEqual(await caller.over, b"")

    async def test_configured_again(self):
        """Other limits and options count for connections to come; the socket stays."""
        service = self.start(protocols=("websocket", "relay"))
        old = service.entrance.listener
        changed = msgspec.structs.replace(old, websocket=WebSocket(path="/new"), slow=Slow(policy="latest"))
        limits = Limits(connections_max=1)
        self.assertTrue(service.reconfigure(changed, limits, Timing(), Slow()))
        await self.served(f"tcp:127.0.0.1:{service.port()}")
        self.assertEqual(self.gate.last.peer.outbox.slow.policy, "latest")
        caller = await self.call(f"tcp:127.0.0.1:{service.port()}")
        self.assertEqual(await caller.over, b"")

    def test_needs_a_new_socket(self):
        """What belongs to the socket, or to what is spoken on it, is not changed live, and nothing else then."""
        service = self.start()
        old = service.entrance.listener
        for changes in (
            {"address": "tcp:1"},
            {"backlog": 5},
            {"reuse_port": True},
            {"proxy_protocol": True},
            {"protocols": ("websocket",)},
            {"http": Http(metrics="off")},
            {"http": Http(page=False)},
            {"tls": Tls(certificate="a", key="b")},
        ):
            changed = msgspec.structs.replace(old, **changes)
            self.assertFalse(service.reconfigure(changed, Limits(connections_max=1), Timing(), Slow()))
            self.assertEqual((service.entrance.listener, service.entrance.limits), (old, Limits()))

    async def test_accept_rate(self):
        """More connections a second than ``accepts_per_s_max`` are closed; the others are served."""
        service = self.start(limits=Limits(accepts_per_s_max=3))
        callers = [await self.call(f"tcp:127.0.0.1:{service.port()}") for _ in range(30)]
        for caller in callers:
            caller.send(binary_stream(publication()))
        await callers[0].receive(1)
        while service.entrance.open + service.entrance.refused < 30:
            await deferLater(reactor, 0.001)
        self.assertGreater(service.entrance.refused, 0)
        self.assertGreaterEqual(service.entrance.open, 3)

    async def test_goodbye_is_read(self):
        """A client that goes on sending while it is closed still reads the goodbye: no reset overtakes it."""
        service = self.start()
        caller = await self.call(f"tcp:127.0.0.1:{service.port()}")
        caller.send(binary_stream(publication()))
        await caller.receive(1)
        peer = self.gate.last.peer
        peer.send(b"goodbye")
        peer.close(kinds.KICKED)
        caller.send(b"x" * 300_000)
        self.assertTrue((await caller.over).endswith(b"goodbye"))

    async def test_autobahns_client(self):
        """Autobahn's client: handshake, messages, and a close with our code."""
        service = self.start(protocols=("http", "websocket"))
        frame = encode_frame(publication())
        gate = self.gate
        closed: Deferred[tuple[bool, int, str]] = Deferred()

        class Client(WebSocketClientProtocol):  # type: ignore[misc]  # autobahn has no types
            """Sends a message, and keeps what comes."""

            got: list[bytes]

            def onOpen(self) -> None:
                """Send."""
                self.got = []
                self.sendMessage(frame, True)

            def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803 - autobahn's name
                """Keep it, and be closed."""
                self.got.append(payload)
                gate.last.peer.close(kinds.KICKED, "out")

            def onClose(self, wasClean: bool, code: int, reason: str) -> None:  # noqa: N803 - autobahn's name
                """Tell how."""
                closed.callback((wasClean, code, reason))

        factory = WebSocketClientFactory(f"ws://127.0.0.1:{service.port()}/ws", protocols=[kinds.SUBPROTOCOL_BINARY])
        factory.protocol = Client
        client = await clientFromString(reactor, f"tcp:127.0.0.1:{service.port()}").connect(factory)
        self.assertEqual(await closed, (True, 4000 + kinds.KICKED, "out"))
        self.assertEqual(client.got, [frame])
