"""Listeners, connectors and adopted sockets of the uvloop reactor."""

from __future__ import annotations

import os
import socket
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectBindError,
    ConnectionDone,
    ConnectionRefusedError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import (
    IListeningPort,
    IResolverSimple,
)
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from relay.reactor import port as port_module
from relay.reactor.port import backlog_of
from relay.reactor.stream import Stream
from relay.test.reactor_fixture import Datagrams, Echo, ReactorTestCase, Recorders, free_port


class PortTests(ReactorTestCase):
    """Listening."""

    def test_interface(self) -> None:
        """A port provides IListeningPort, and its address can be taken again when stopListening has fired."""

        async def body() -> None:
            port = self.reactor.listenTCP(0, Recorders(), interface="127.0.0.1")
            verifyObject(IListeningPort, port)
            self.assertIn(port, self.reactor.getReaders())
            number = port.getHost().port
            self.assertRaises(CannotListenError, self.reactor.listenTCP, number, Recorders(), interface="127.0.0.1")
            await port.stopListening()
            self.assertNotIn(port, self.reactor.getReaders())
            await self.reactor.listenTCP(number, Recorders(), interface="127.0.0.1").stopListening()

        self.drive(body)

    def test_backlog(self) -> None:
        """The system gets the backlog that the caller gave, and an adopted port keeps the one that it has."""

        async def body() -> None:
            port = self.reactor.listenTCP(0, Recorders(), backlog=37, interface="127.0.0.1")
            self.assertEqual(backlog_of(port.socket), 37)
            listening = socket.create_server(("127.0.0.1", 0), backlog=23)
            with listening:
                listening.setblocking(False)
                self.reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, Recorders())
                await self.turns()
                self.assertEqual(backlog_of(listening), 23)

        self.drive(body)

    def test_pause(self) -> None:
        """Connections to a paused port wait, and are served when it resumes."""

        async def body() -> None:
            servers, clients = Recorders(), Recorders()
            port = self.reactor.listenTCP(0, servers, interface="127.0.0.1")
            port.pauseProducing()
            self.reactor.connectTCP("127.0.0.1", port.getHost().port, clients)
            client = await clients.next()
            await self.later(0.02)
            self.assertEqual(servers.addresses, [])
            port.resumeProducing()
            server = await servers.next()
            self.assertEqual(servers.addresses, [client.wire.getHost()])
            self.assertEqual(server.wire.server, port)

        self.drive(body)

    def test_refused_by_factory(self) -> None:
        """A connection for which the factory has no protocol, or fails to build one, is closed."""

        class Refusing(Recorders):
            def buildProtocol(self, addr: object) -> Any:
                if not self.addresses:
                    self.addresses.append(addr)
                    return None
                raise ZeroDivisionError("mine")

        async def body() -> None:
            port = self.reactor.listenTCP(0, Refusing(), interface="127.0.0.1")
            for _ in range(2):
                clients = Recorders()
                self.reactor.connectTCP("127.0.0.1", port.getHost().port, clients)
                self.assertIs(await (await clients.next()).ended(), ConnectionDone)

        self.drive(body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_listens_again(self) -> None:
        """A listener that uvloop gave up after a failed accept is noticed, logged and replaced."""
        self.patch(port_module, "_CHECK_INTERVAL_S", 0.02)

        class GivenUp:
            sockets = (None,)  # what uvloop says when it has closed a listener of itself

            def close(self) -> None:
                pass

        async def body() -> None:
            servers, clients = Recorders(), Recorders()
            port = self.reactor.listenTCP(0, servers, interface="127.0.0.1")
            port._server.close()
            port._server = GivenUp()
            self.reactor.connectTCP("127.0.0.1", port.getHost().port, clients)
            await servers.next()

        observer = cast(ILogObserver, lambda event: seen.append(event.get("log_format", "")))
        seen: list[str] = []
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.drive(body)
        self.assertEqual(len([text for text in seen if "lost its listener" in text]), 1)

    def test_wave(self) -> None:
        """A wave of connections after a long turn is accepted in few turns, not one in each."""

        async def body() -> None:
            servers = Recorders()
            port = self.reactor.listenTCP(0, servers, backlog=64, interface="127.0.0.1")
            waiting = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(50)]
            await self.turns(5)
            for sock in waiting:
                sock.close()
            self.assertEqual(len(servers.addresses), 50)
            for _ in waiting:
                self.assertIs(await (await servers.next()).ended(), ConnectionDone)

        self.drive(body)


class AdoptTests(ReactorTestCase):
    """Sockets that somebody else made."""

    def test_shared_port(self) -> None:
        """Two adopted sockets with SO_REUSEPORT share an address, and both serve."""
        number = free_port()

        def listening() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", number))
            sock.listen(16)
            sock.setblocking(False)
            return sock

        async def body() -> None:
            factories = [Recorders(), Recorders()]
            for factory in factories:
                with listening() as sock:
                    self.reactor.adoptStreamPort(sock.fileno(), socket.AF_INET, factory)
            for _ in range(200):
                clients = Recorders()
                self.reactor.connectTCP("127.0.0.1", number, clients)
                (await clients.next()).wire.loseConnection()
                await self.later()
                if all(factory.addresses for factory in factories):
                    return
            self.fail("only one of the two was given connections")

        self.drive(body)

    def test_connection(self) -> None:
        """An adopted connection is served at once, and writes and a close before uvloop has it are not lost."""

        async def body() -> None:
            ours, theirs = socket.socketpair()
            with theirs:
                factory = Recorders()
                transport = self.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
                ours.close()
                self.assertIsInstance(transport, Stream)
                server = await factory.next()
                server.wire.write(b"at once")
                server.wire.loseConnection()
                self.assertIs(await server.ended(), ConnectionDone)
                self.assertEqual((theirs.recv(100), theirs.recv(100)), (b"at once", b""))

        self.drive(body)

    def test_connection_aborted(self) -> None:
        """One that is aborted before uvloop has it is closed."""

        async def body() -> None:
            ours, theirs = socket.socketpair()
            with theirs:
                factory = Recorders()
                self.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory).abortConnection()
                ours.close()
                await (await factory.next()).ended()
                await self.turns()
                theirs.settimeout(1)
                self.assertEqual(theirs.recv(100), b"")

        self.drive(body)

    def test_datagrams(self) -> None:
        """An adopted UDP socket receives and sends."""

        async def body() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
                address = sock.getsockname()
                self.reactor.adoptDatagramPort(sock.fileno(), socket.AF_INET, Datagrams(echo=True))
            asking = Datagrams()
            self.reactor.listenUDP(0, asking, interface="127.0.0.1")
            asking.wire.write(b"hello", address)
            self.assertEqual(await asking.next(), (b"hello", address))

        self.drive(body)


class ConnectorTests(ReactorTestCase):
    """Connecting."""

    def test_refused(self) -> None:
        """Where nobody listens the factory hears of it, and may try again."""

        async def body() -> None:
            clients = Recorders()
            connector = self.reactor.connectTCP("127.0.0.1", free_port(), clients)
            await clients.failed
            assert clients.reason is not None
            clients.reason.trap(ConnectionRefusedError)
            self.assertEqual(connector.state, "disconnected")
            clients.failed = Deferred()
            connector.connect()
            await clients.failed

        self.drive(body)

    def test_timeout(self) -> None:
        """An attempt that takes too long fails, and leaves no socket behind."""

        async def body() -> None:
            with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
                waiting = [socket.socket() for _ in range(3)]
                for sock in waiting:
                    sock.setblocking(False)
                    sock.connect_ex(full.getsockname())
                clients = Recorders()
                await self.turns()
                before = len(os.listdir("/proc/self/fd"))
                self.reactor.connectTCP(*full.getsockname(), clients, timeout=0.05)
                await clients.failed
                assert clients.reason is not None
                clients.reason.trap(TimeoutError)
                self.assertEqual(len(os.listdir("/proc/self/fd")), before)
                for sock in waiting:
                    sock.close()

        self.drive(body)

    def test_stopped(self) -> None:
        """An attempt can be given up."""

        async def body() -> None:
            clients = Recorders()
            self.reactor.connectTCP("127.0.0.1", free_port(), clients).stopConnecting()
            await clients.failed
            assert clients.reason is not None
            clients.reason.trap(UserError)

        self.drive(body)

    def test_bind_address(self) -> None:
        """The connection comes from the address that was asked for; one that is taken is an error."""
        number = free_port()

        async def body() -> None:
            servers = Recorders()
            port = self.reactor.listenTCP(0, servers, interface="127.0.0.1").getHost().port
            clients = Recorders()
            self.reactor.connectTCP("127.0.0.1", port, clients, bindAddress=("127.0.0.1", number))
            client = await clients.next()
            self.assertEqual(client.wire.getHost().port, number)
            await servers.next()
            self.assertEqual(servers.addresses[0].port, number)
            again = Recorders()
            self.reactor.connectTCP("127.0.0.1", port, again, bindAddress=("127.0.0.1", number))
            await again.failed
            assert again.reason is not None
            again.reason.trap(ConnectBindError)

        self.drive(body)

    def test_name(self) -> None:
        """A name is looked up with the resolver that the reactor has."""

        @implementer(IResolverSimple)
        class Resolver:
            def getHostByName(self, name: str, timeout: object = None) -> Deferred[str]:  # noqa: N802 - Twisted's
                return succeed({"somewhere.test": "127.0.0.1"}[name])

        async def body() -> None:
            servers, clients = Recorders(), Recorders()
            port = self.reactor.listenTCP(0, servers, interface="127.0.0.1").getHost().port
            self.reactor.installResolver(Resolver())
            self.reactor.connectTCP("somewhere.test", port, clients)
            client = await clients.next()
            self.assertEqual(client.wire.getPeer().host, "127.0.0.1")
            unknown = Recorders()
            self.reactor.connectTCP("elsewhere.test", port, unknown)
            await unknown.failed

        self.drive(body)

    def test_ipv6(self) -> None:
        """Addresses of IPv6 are listened on and connected to."""

        async def body() -> None:
            servers, clients = Recorders(Echo), Recorders()
            port = self.reactor.listenTCP(0, servers, interface="::1").getHost().port
            self.reactor.connectTCP("::1", port, clients)
            client = await clients.next()
            client.wire.write(b"hello")
            await client.received(5)
            self.assertEqual(client.wire.getPeer(), servers.addresses[0].__class__("TCP", "::1", port))

        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            self.skipTest(f"no IPv6 here: {error}")
        self.drive(body)
