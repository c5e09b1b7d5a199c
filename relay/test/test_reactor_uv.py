"""Streams of the uvloop reactor: delivery, pausing, closing, half-closing, errors; and what twistd sees of it."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import weakref
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    ILoggingContext,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.reactor.stream import Stream
from relay.test.reactor_fixture import Echo, HalfCloseRecorder, Paused, ReactorTestCase, Recorder, Recorders

MIB = 1024 * 1024
INTERFACES: tuple[Any, ...] = (ITCPTransport, ITLSTransport, ISystemHandle, ILoggingContext, IConsumer, IPushProducer)


class StreamTests(ReactorTestCase):
    """A TCP connection between two protocols on one reactor."""

    def test_interfaces(self) -> None:
        """Both ends provide what Twisted's TCP transports provide, on a native transport."""

        async def body() -> None:
            for end in await self.pair():
                for interface in INTERFACES:
                    verifyObject(interface, end.wire)
                self.assertIsInstance(end.wire, Stream)
                self.assertEqual(type(end.wire.uv).__module__, "uvloop.loop")

        self.drive(body)

    def test_echo(self) -> None:
        """Bytes go both ways, in order."""

        async def body() -> None:
            _, client = await self.pair(Echo)
            sent = bytes(range(256)) * 8
            client.wire.write(sent)
            self.assertEqual(await client.received(len(sent)), sent)

        self.drive(body)

    def test_addresses(self) -> None:
        """Each end's host is the other's peer, also after the connection was lost."""

        async def body() -> None:
            server, client = await self.pair()
            self.assertEqual(server.wire.getHost(), client.wire.getPeer())
            self.assertEqual(server.wire.getPeer(), client.wire.getHost())
            peer = server.wire.getPeer()
            client.wire.loseConnection()
            await server.ended()
            self.assertEqual(server.wire.getPeer(), peer)
            self.assertEqual(server.wire.fileno(), -1)
            self.assertRaises(AttributeError, server.wire.getHandle)

        self.drive(body)

    def test_options(self) -> None:
        """The TCP options can be read and set, and the handle is a socket that does not close the connection."""

        async def body() -> None:
            server, client = await self.pair()
            self.assertTrue(server.wire.getTcpNoDelay())
            server.wire.setTcpNoDelay(False)
            self.assertFalse(server.wire.getTcpNoDelay())
            self.assertFalse(server.wire.getTcpKeepAlive())
            server.wire.setTcpKeepAlive(True)
            self.assertTrue(server.wire.getTcpKeepAlive())
            handle = server.wire.getHandle()
            self.assertEqual(handle.fileno(), server.wire.fileno())
            handle.close()
            client.wire.write(b"still open")
            self.assertEqual(await server.received(10), b"still open")

        self.drive(body)

    def test_large(self) -> None:
        """16 MiB arrive as they were written, when the connection is closed right after the write."""
        sent = os.urandom(MIB) * 16

        async def body() -> None:
            server, client = await self.pair()
            client.wire.write(sent)
            self.assertGreater(client.wire.unsent, 0)
            self.assertIn(client.wire, self.reactor.getWriters())
            client.wire.loseConnection()
            self.assertIs(await server.ended(), ConnectionDone)
            self.assertIs(await client.ended(), ConnectionDone)
            self.assertEqual(hashlib.sha256(server.data).digest(), hashlib.sha256(sent).digest())

        self.drive(body)

    def test_pause(self) -> None:
        """A paused connection delivers nothing and is no reader; a resumed one delivers what came meanwhile."""

        async def body() -> None:
            server, client = await self.pair()
            server.wire.pauseProducing()
            self.assertNotIn(server.wire, self.reactor.getReaders())
            client.wire.write(b"held back")
            await self.later(0.02)
            self.assertEqual(server.data, b"")
            server.wire.resumeProducing()
            self.assertIn(server.wire, self.reactor.getReaders())
            self.assertEqual(await server.received(9), b"held back")

        self.drive(body)

    def test_pause_in_connection_made(self) -> None:
        """A protocol that pauses in connectionMade sees no data before it resumes, even if data was there already."""

        async def body() -> None:
            servers = Recorders(Paused)
            port = self.reactor.listenTCP(0, servers, interface="127.0.0.1")
            clients = Recorders()
            self.reactor.connectTCP("127.0.0.1", port.getHost().port, clients)
            client = await clients.next()
            client.wire.write(b"early")
            client.wire.loseConnection()
            server = await servers.next()
            await self.later(0.02)
            self.assertEqual(server.events, ["made"])
            server.wire.resumeProducing()
            self.assertIs(await server.ended(), ConnectionDone)
            self.assertEqual(server.data, b"early")

        self.drive(body)

    def test_pause_and_resume_in_connection_made(self) -> None:
        """Resuming in the same turn leaves the connection reading."""

        class Wavering(Recorder):
            def connectionMade(self) -> None:
                self.wire.pauseProducing()
                self.wire.resumeProducing()
                self.wire.pauseProducing()
                super().connectionMade()
                self.wire.resumeProducing()

        async def body() -> None:
            server, client = await self.pair(Wavering, Wavering)
            client.wire.write(b"there")
            server.wire.write(b"back")
            self.assertEqual(await server.received(5), b"there")
            self.assertEqual(await client.received(4), b"back")

        self.drive(body)

    def test_nothing_after_lose_connection(self) -> None:
        """After loseConnection nothing more is delivered, and resuming does not change that."""

        async def body() -> None:
            server, client = await self.pair()
            server.wire.write(b"x" * 8 * MIB)
            server.wire.loseConnection()
            server.wire.resumeProducing()
            self.assertNotIn(server.wire, self.reactor.getReaders())
            client.wire.write(b"too late")
            await client.ended()
            await server.ended()
            self.assertEqual(server.data, b"")

        self.drive(body)

    def test_write_after_lost(self) -> None:
        """Writing to a lost connection is ignored, and losing it again too."""

        async def body() -> None:
            server, client = await self.pair()
            client.wire.loseConnection()
            await server.ended()
            server.wire.write(b"x")
            server.wire.writeSequence([b"x"])
            server.wire.loseConnection()
            server.wire.abortConnection()
            await self.turns()
            self.assertEqual(server.events, ["made", "lost"])

        self.drive(body)

    def test_log_prefix(self) -> None:
        """What is logged while a protocol runs carries its prefix, and what is logged later does not."""
        seen: list[Any] = []

        class Logs(Recorder):
            def dataReceived(self, data: bytes) -> None:
                log.msg("from the protocol")
                super().dataReceived(data)

        async def body() -> None:
            server, client = await self.pair(Logs)
            client.wire.write(b"x")
            await server.received(1)
            await self.later()
            log.msg("from a timer")

        def observe(event: Any) -> None:
            if "from" in log.textFromEventDict(event)[:4]:  # type: ignore[index]  # these have a text
                seen.append(event["system"])

        log.addObserver(observe)
        self.addCleanup(log.removeObserver, observe)
        self.drive(body)
        self.assertEqual(seen, ["Logs,0,127.0.0.1", "-"])


class ClosingTests(ReactorTestCase):
    """How connections end, and with what reason."""

    def test_abort(self) -> None:
        """Aborting drops what is not sent, resets the connection and never calls back from inside."""

        async def body() -> None:
            server, client = await self.pair(Paused)
            client.wire.write(b"x" * 16 * MIB)
            client.wire.abortConnection()
            self.assertEqual(client.events, ["made"])
            client.wire.abortConnection()
            client.wire.loseConnection()
            self.assertIs(await client.ended(), ConnectionAborted)
            server.wire.resumeProducing()
            self.assertIs(await server.ended(), ConnectionLost)

        self.drive(body)

    def test_abort_in_connection_made(self) -> None:
        """A connection that is aborted as soon as it is made ends so, on either side."""

        class Aborts(Recorder):
            def connectionMade(self) -> None:
                super().connectionMade()
                self.wire.abortConnection()

        async def body() -> None:
            server, client = await self.pair(Aborts, Aborts)
            self.assertIn(await server.ended(), (ConnectionAborted, ConnectionLost))
            self.assertIs(await client.ended(), ConnectionAborted)

        self.drive(body)

    def test_error_in_data_received(self) -> None:
        """An error of dataReceived is logged and closes the connection with itself as the reason."""

        class Fails(Recorder):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError("mine")

        async def body() -> None:
            server, client = await self.pair(Fails)
            client.wire.write(b"x")
            self.assertIs(await server.ended(), ZeroDivisionError)
            self.assertIs(await client.ended(), ConnectionDone)

        self.drive(body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_error_in_connection_lost(self) -> None:
        """An error of connectionLost is logged, and the reactor goes on."""

        class Fails(Recorder):
            def connectionLost(self, reason: Any = connectionDone) -> None:
                super().connectionLost(reason)
                raise ZeroDivisionError("mine")

        async def body() -> None:
            server, client = await self.pair(Fails)
            client.wire.loseConnection()
            await server.ended()
            await self.turns()

        self.drive(body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_half_close(self) -> None:
        """Each side closes its writing when all is written; the other reads it all and may answer."""

        async def body() -> None:
            server, client = await self.pair(HalfCloseRecorder, HalfCloseRecorder)
            client.wire.write(b"x" * 4 * MIB)
            client.wire.loseWriteConnection()
            await server.received(4 * MIB)
            await self.later(0.01)
            self.assertEqual(server.events[-1], "read lost")
            self.assertEqual(client.events[-1], "write lost")
            client.wire.write(b"ignored")
            server.wire.write(b"answer")
            self.assertEqual(await client.received(6), b"answer")
            server.wire.loseConnection()
            await server.ended()
            await self.later(0.01)
            self.assertEqual(client.events[-1], "read lost")
            client.wire.loseConnection()
            self.assertIs(await client.ended(), ConnectionDone)
            self.assertEqual(len(server.data), 4 * MIB)

        self.drive(body)

    def test_half_close_of_others(self) -> None:
        """A protocol that knows nothing of half-closes is closed when its peer half-closes."""

        async def body() -> None:
            server, client = await self.pair()
            client.wire.loseWriteConnection()
            self.assertIs(await server.ended(), ConnectionDone)
            self.assertIs(await client.ended(), ConnectionDone)

        self.drive(body)

    def test_no_cycles(self) -> None:
        """A lost connection is gone from memory without the help of the garbage collector."""

        async def body() -> None:
            ends = await self.pair()
            transports = [weakref.ref(end.wire) for end in ends]
            ends[0].wire.loseConnection()
            for end in ends:
                await end.ended()
            await self.turns()
            del ends, end
            self.assertEqual([transport() for transport in transports], [None, None])

        gc.disable()
        self.addCleanup(gc.enable)
        self.drive(body)

    def test_shutdown(self) -> None:
        """When the reactor stops, open connections are lost and their protocols hear of it."""
        ends: list[Recorder] = []

        async def body() -> None:
            ends.extend(await self.pair())

        self.drive(body)
        self.assertEqual([end.events[-1] for end in ends], ["lost", "lost"])
        self.assertEqual(self.reactor.removeAll(), [])


class PluginTests(SynchronousTestCase):
    """What twistd sees."""

    def test_imports_nothing(self) -> None:
        """twistd lists the reactor without importing uvloop or relay."""
        script = (
            "import sys, twisted.application.reactors as r\n"
            "assert 'uv' in [one.shortName for one in r.getReactorTypes()]\n"
            "assert not {'uvloop', 'relay', 'twisted.internet.reactor'} & set(sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_install(self) -> None:
        """install makes it Twisted's reactor and its loop asyncio's."""
        script = (
            "import asyncio\n"
            "from relay.reactor import uv\n"
            "uv.install()\n"
            "from twisted.internet import reactor\n"
            "assert type(reactor) is uv.UvReactor\n"
            "assert asyncio.get_event_loop_policy().get_event_loop() is reactor.turn.loop\n"
        )
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
