"""Tests of how links end on sockets, on Twisted's reactor and on relay's: whatever somebody writes on the wire, a link
that ended is lost soon, and another one comes."""

from __future__ import annotations

from secrets import token_bytes
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol

from relay.cluster import transport as transport_module
from relay.cluster.frames import BULK, URGENT
from relay.cluster.handshake import HELLO_BYTES_MAX
from relay.cluster.link import Deframer
from relay.cluster.transport import LinkOptions, TcpTransport
from relay.test.reactor_fixture import ReactorTestCase
from relay.test.test_links import anybody, framed, hello_of, side

LOOK_S = 0.02


class Acceptor(Protocol):
    """A node that shakes hands, and then reads nothing of its first link."""

    def __init__(self, links: list[Acceptor]) -> None:
        self.links = links
        self.handshake = side(b"s", hello_of(2), anybody)
        self.deframer = Deframer(HELLO_BYTES_MAX)

    def connectionMade(self) -> None:
        """Noted."""
        self.links.append(self)

    def dataReceived(self, data: bytes) -> None:
        """The handshake."""
        transport: Any = self.transport
        if self.handshake.done:
            return
        for frame in self.deframer.add(data):
            transport.write(framed(self.handshake.receive(frame) or b"?"))
        if self.handshake.done and self.links[0] is self:
            transport.pauseProducing()


class UvEnds(ReactorTestCase):
    """Links on relay's reactor."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(transport_module, "LOOK_S", LOOK_S)

    async def until(self, true: Any) -> None:
        """Wait; the test's limit is the fixture's."""
        while not true():
            await self.later(0.005)

    async def begin(self) -> tuple[TcpTransport, list[Acceptor]]:
        """A node whose only link stands, and is paused: the other side takes nothing."""
        links: list[Acceptor] = []
        port = self.reactor.listenTCP(0, Factory.forProtocol(lambda: Acceptor(links)), interface="127.0.0.1")
        node = TcpTransport(
            self.reactor, b"s", hello_of(1), anybody, lambda _: None, lambda *_: None, lambda: 0.0, token_bytes,
            LinkOptions(silent_looks=20),
        )  # fmt: skip
        self.addCleanup(node.stop)
        node.add(2, f"tcp:127.0.0.1:{port.getHost().port}")
        node.start()
        dialer = node.dialers[2]
        await self.until(lambda: dialer.link is not None and dialer.link.is_up)
        first = dialer.link
        assert first is not None
        while not first.paused:
            while not first.paused:
                node.send(2, BULK, bytes(65536))
            await self.later(0.02)
        return node, links

    def test_one_byte(self):
        """A byte that somebody puts on a link whose transport waits for the other side ends it, and only it."""

        async def body() -> None:
            node, links = await self.begin()
            first = node.dialers[2].link
            assert first is not None
            wire: Any = links[0].transport
            wire.write(b"!")
            await self.until(lambda: node.dialers[2].link is not first)
            await self.until(lambda: node.send(2, URGENT, b"frame"))
            self.assertEqual((first.gone, node.dialers[2].ups), (True, 2))

        self.drive(body)

    def test_refused_and_not_closed(self):
        """So does one that was told to close when its output is sent, and never can."""

        async def body() -> None:
            node, _ = await self.begin()
            first = node.dialers[2].link
            assert first is not None and first.transport is not None
            first.ended = True
            first.transport.loseConnection()
            await self.until(lambda: node.dialers[2].ups == 2)
            self.assertTrue(first.gone)

        self.drive(body)


class EpollEnds(UvEnds):
    """The same on Twisted's."""

    def setUp(self) -> None:
        super().setUp()
        self._close()
        self.reactor = EPollReactor()

    def _close(self) -> None:
        if not isinstance(self.reactor, EPollReactor):
            super()._close()
            self.reactor = EPollReactor()
            return
        for reader in self.reactor.removeAll():
            reader.connectionLost(None)
