"""Datagram ports of the uvloop reactor."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IUDPTransport
from zope.interface.verify import verifyObject

from relay.test.reactor_fixture import Datagrams, ReactorTestCase, free_port


class UdpTests(ReactorTestCase):
    """Datagram ports."""

    async def udp_pair(self, **options: Any) -> tuple[Datagrams, Datagrams]:
        """Return two protocols on ports of loopback; ``options`` are of the first."""
        first, second = Datagrams(), Datagrams()
        self.reactor.listenUDP(0, first, interface="127.0.0.1", **options)
        self.reactor.listenUDP(0, second, interface="127.0.0.1")
        return first, second

    def test_datagrams(self) -> None:
        """Datagrams arrive whole, also empty ones, with the sender's address, over uvloop's transport."""

        async def body() -> None:
            first, second = await self.udp_pair()
            verifyObject(IUDPTransport, first.wire)
            for sent in (b"hello", b"", b"x" * 8000):
                second.wire.write(sent, ("127.0.0.1", first.wire.getHost().port))
                received, sender = await first.next()
                self.assertEqual((received, sender), (sent, ("127.0.0.1", second.wire.getHost().port)))
            self.assertIn(first.wire, self.reactor.getReaders())
            self.assertEqual(type(first.wire._receiver._transport).__name__, "UDPTransport")

        self.drive(body)

    def test_cut(self) -> None:
        """A datagram longer than maxPacketSize is cut to it."""

        async def body() -> None:
            first, second = await self.udp_pair(maxPacketSize=100)
            second.wire.write(b"x" * 101, ("127.0.0.1", first.wire.getHost().port))
            self.assertEqual((await first.next())[0], b"x" * 100)

        self.drive(body)

    def test_connected(self) -> None:
        """A connected port sends without an address and hears when nobody listens."""

        async def body() -> None:
            first, second = await self.udp_pair()
            first.wire.connect("127.0.0.1", second.wire.getHost().port)
            first.wire.write(b"hello")
            self.assertEqual((await second.next())[0], b"hello")
            await second.wire.stopListening()
            first.wire.write(b"anybody there?")
            await first.refused

        self.drive(body)

    def test_pause(self) -> None:
        """A paused port delivers what came meanwhile when it is resumed."""

        async def body() -> None:
            first, second = await self.udp_pair()
            first.wire.pauseProducing()
            second.wire.write(b"hello", ("127.0.0.1", first.wire.getHost().port))
            awaited = first.next()
            await self.later(0.02)
            self.assertFalse(awaited.called)
            first.wire.resumeProducing()
            self.assertEqual((await awaited)[0], b"hello")

        self.drive(body)

    def test_error(self) -> None:
        """An error of datagramReceived is logged, and the port goes on."""

        class Fails(Datagrams):
            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                super().datagramReceived(datagram, addr)
                raise ZeroDivisionError("mine")

        async def body() -> None:
            failing, asking = Fails(), Datagrams()
            self.reactor.listenUDP(0, failing, interface="127.0.0.1")
            self.reactor.listenUDP(0, asking, interface="127.0.0.1")
            for sent in (b"first", b"second"):
                asking.wire.write(sent, ("127.0.0.1", failing.wire.getHost().port))
                self.assertEqual((await failing.next())[0], sent)
            await self.turns()

        self.drive(body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_stop(self) -> None:
        """When stopListening has fired the address can be taken again, and nothing is delivered any more."""

        async def body() -> None:
            first, second = await self.udp_pair()
            number = first.wire.getHost().port
            await first.wire.stopListening()
            again = Datagrams()
            self.reactor.listenUDP(number, again, interface="127.0.0.1")
            second.wire.write(b"hello", ("127.0.0.1", number))
            self.assertEqual((await again.next())[0], b"hello")
            await again.wire.stopListening()

        self.drive(body)

    def test_stop_at_once(self) -> None:
        """A port can be stopped in the turn in which it began."""

        async def body() -> None:
            number = free_port(socket.SOCK_DGRAM)
            for _ in range(3):
                await self.reactor.listenUDP(number, Datagrams(), interface="127.0.0.1").stopListening()

        self.drive(body)
