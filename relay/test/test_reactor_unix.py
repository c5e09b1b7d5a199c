"""UNIX sockets of the uvloop reactor, and descriptors passed over them."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import Any

from twisted.internet.error import ConnectionDone, FileDescriptorOverrun
from twisted.internet.interfaces import IFileDescriptorReceiver, IUNIXTransport
from zope.interface import implementer
from zope.interface.verify import verifyObject

from relay.test.reactor_fixture import Echo, ReactorTestCase, Recorder, Recorders


@implementer(IFileDescriptorReceiver)
class DescriptorRecorder(Recorder):
    """Takes descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors: list[int] = []

    def fileDescriptorReceived(self, descriptor: int) -> None:  # noqa: N802 - Twisted's name
        """Note it."""
        self.events.append("descriptor")
        self.descriptors.append(descriptor)


class PausedDescriptorRecorder(DescriptorRecorder):
    """Takes descriptors, and does not read until it is told to."""

    def connectionMade(self) -> None:
        """Pause at once."""
        self.wire.pauseProducing()
        super().connectionMade()


class UnixTests(ReactorTestCase):
    """UNIX stream sockets."""

    def setUp(self) -> None:
        """Make a path short enough for a socket."""
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = f"{directory.name}/s"

    async def unix_pair(self, server: Any = Recorder, client: Any = Recorder) -> tuple[Any, Any]:
        """Return two connected protocols, the server's first."""
        servers, clients = Recorders(server), Recorders(client)
        self.reactor.listenUNIX(self.path, servers)
        self.reactor.connectUNIX(self.path, clients)
        return await servers.next(), await clients.next()

    def test_echo(self) -> None:
        """Bytes go both ways over native transports, which provide IUNIXTransport."""

        async def body() -> None:
            server, client = await self.unix_pair(Echo)
            client.wire.write(b"x" * 1000)
            self.assertEqual(await client.received(1000), b"x" * 1000)
            for end in (server, client):
                verifyObject(IUNIXTransport, end.wire)
                self.assertEqual(type(end.wire.uv).__name__, "UnixTransport")
            self.assertEqual(os.fsdecode(client.wire.getPeer().name), self.path)
            self.assertEqual(os.fsdecode(server.wire.getHost().name), self.path)

        self.drive(body)

    def test_large(self) -> None:
        """8 MiB arrive, when the connection is closed right after the write."""

        async def body() -> None:
            server, client = await self.unix_pair()
            client.wire.write(b"x" * 8_388_608)
            client.wire.loseConnection()
            self.assertIs(await server.ended(), ConnectionDone)
            self.assertEqual(len(server.data), 8_388_608)

        self.drive(body)

    def descriptors_pass(self, receiver: Any) -> None:
        """Send 20 descriptors among 20 000 bytes and check what comes out."""

        async def body() -> None:
            server, client = await self.unix_pair(receiver)
            with tempfile.TemporaryFile() as cargo:
                number = os.fstat(cargo.fileno()).st_ino
                for _ in range(20):
                    client.wire.write(b"x" * 999)
                    client.wire.sendFileDescriptor(cargo.fileno())
                    client.wire.write(b"y")
                    await self.later()
                await self.later(0.02)
                if not server.wire.reading:
                    self.assertEqual(server.events, ["made"])
                    server.wire.resumeProducing()
                self.assertEqual(await server.received(20_000), (b"x" * 999 + b"y") * 20)
                self.assertEqual([os.fstat(one).st_ino for one in server.descriptors], [number] * 20)
                for one in server.descriptors:
                    os.close(one)

        self.drive(body)

    def test_descriptors(self) -> None:
        """Descriptors arrive in order, and each before the bytes that were sent with it."""
        self.descriptors_pass(DescriptorRecorder)

    def test_descriptors_paused(self) -> None:
        """They wait for a protocol that paused in connectionMade."""
        self.descriptors_pass(PausedDescriptorRecorder)

    def test_descriptor_into_full_socket(self) -> None:
        """A descriptor that is sent while the kernel is full arrives after what was written before it."""

        async def body() -> None:
            server, client = await self.unix_pair(PausedDescriptorRecorder)
            read, write = os.pipe()
            client.wire.write(b"x" * 4_000_000)
            await self.turns()
            for _ in range(3):
                client.wire.sendFileDescriptor(write)
                client.wire.write(b"y" * 300_000)
                await self.turns()
            server.wire.resumeProducing()
            self.assertEqual(await server.received(4_900_000), b"x" * 4_000_000 + b"y" * 900_000)
            self.assertEqual(len(server.descriptors), 3)
            for one in (*server.descriptors, read, write):
                os.close(one)

        self.drive(body)

    def test_descriptor_without_byte(self) -> None:
        """More descriptors than bytes close the connection."""

        async def body() -> None:
            _, client = await self.unix_pair(DescriptorRecorder)
            client.wire.sendFileDescriptor(0)
            self.assertIs(await client.ended(), FileDescriptorOverrun)

        self.drive(body)

    def test_stray_descriptor(self) -> None:
        """A descriptor for a protocol that takes none is closed: its other end sees that."""

        async def body() -> None:
            server, client = await self.unix_pair()
            kept, sent = socket.socketpair()
            with kept:
                client.wire.sendFileDescriptor(sent.fileno())
                client.wire.write(b"x")
                await server.received(1)
                sent.close()
                kept.settimeout(1)
                self.assertEqual(kept.recv(1), b"")

        self.drive(body)
