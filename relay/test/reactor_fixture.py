"""A reactor of our own for one test, run until a coroutine has ended, and protocols that write down what happens."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory, DatagramProtocol, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relay.reactor.uv import UvReactor

LIMIT_S = 10.0  # a test that takes this long has failed


class ReactorTestCase(SynchronousTestCase):
    """Builds ``self.reactor``; the test's body is a coroutine given to ``drive``."""

    def setUp(self) -> None:
        """Build a reactor that is not Twisted's global one."""
        self.reactor: Any = UvReactor()  # Any: its methods take more than the interfaces promise
        self.addCleanup(self._close)

    def _close(self) -> None:
        self.reactor._uninstallHandler()
        for reader in list(self.reactor._internalReaders):
            self.reactor.removeReader(reader)
            reader.connectionLost(None)
        self.reactor.disconnectAll()
        loop = self.reactor.turn.loop
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    def drive(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the reactor until the coroutine of ``body`` has ended; raise what it raised."""
        ends: list[object] = []

        def begin() -> None:
            Deferred.fromCoroutine(body()).addBoth(end)

        def end(result: object) -> None:
            if not ends:
                ends.append(result)
                self.reactor.stop()

        limit = self.reactor.callLater(LIMIT_S, end, Failure(AssertionError(f"still running after {LIMIT_S:g} s")))
        self.reactor.callWhenRunning(begin)
        self.reactor.run(installSignalHandlers=False)
        if limit.active():
            limit.cancel()
        if isinstance(ends[0], Failure):
            ends[0].raiseException()

    def later(self, delay_s: float = 0.0) -> Deferred[None]:
        """Return a Deferred that fires in a later turn."""
        done: Deferred[None] = Deferred()
        self.reactor.callLater(delay_s, done.callback, None)
        return done

    async def turns(self, number: int = 3) -> None:
        """Let some turns go by."""
        for _ in range(number):
            await self.later()

    async def pair(
        self, server: Callable[[], Recorder] | None = None, client: Callable[[], Recorder] | None = None
    ) -> tuple[Recorder, Recorder]:
        """Return two connected protocols, the server's first, over a port of loopback that stops listening at once."""
        servers, clients = Recorders(server or Recorder), Recorders(client or Recorder)
        port = self.reactor.listenTCP(0, servers, interface="127.0.0.1")
        self.reactor.connectTCP("127.0.0.1", port.getHost().port, clients)
        both = await servers.next(), await clients.next()
        await port.stopListening()
        return both


class Recorder(Protocol):
    """Writes down what arrives and how it ends; ``events`` has both in order, as words."""

    def __init__(self) -> None:
        self.data = b""
        self.events: list[str] = []
        self.reason: Failure | None = None
        self.lost: Deferred[None] = Deferred()
        self._awaited: tuple[int, Deferred[bytes]] | None = None

    @property
    def wire(self) -> Any:  # Any: of several transports, which have more methods than ITransport
        """The transport."""
        return self.transport

    def connectionMade(self) -> None:
        """Note it, and tell the factory."""
        self.events.append("made")
        if isinstance(self.factory, Recorders):
            self.factory.made(self)

    def dataReceived(self, data: bytes) -> None:
        """Note it."""
        self.data += data
        self.events.append("data")
        if self._awaited is not None and len(self.data) >= self._awaited[0]:
            (_, awaited), self._awaited = self._awaited, None
            awaited.callback(self.data)

    def connectionLost(self, reason: Failure = Failure(AssertionError())) -> None:  # noqa: B008 - Twisted's signature
        """Note it."""
        self.events.append("lost")
        self.reason = reason
        self.lost.callback(None)

    def received(self, length: int) -> Deferred[bytes]:
        """Return a Deferred of all data, once there are ``length`` bytes of it."""
        awaited: Deferred[bytes] = Deferred()
        if len(self.data) >= length:
            awaited.callback(self.data)
        else:
            self._awaited = (length, awaited)
        return awaited

    async def ended(self) -> type[BaseException]:
        """Wait for the end of the connection; return the class of its reason."""
        if self.reason is None:
            await self.lost
        assert self.reason is not None and self.reason.type is not None
        return self.reason.type


class Paused(Recorder):
    """Does not read until it is told to."""

    def connectionMade(self) -> None:
        """Pause at once."""
        self.wire.pauseProducing()
        super().connectionMade()


@implementer(IHalfCloseableProtocol)
class HalfCloseRecorder(Recorder):
    """Writes down half-closes too, and stays open."""

    def readConnectionLost(self) -> None:
        """Note it."""
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        """Note it."""
        self.events.append("write lost")


class Echo(Recorder):
    """Sends everything back, a byte at a time."""

    def dataReceived(self, data: bytes) -> None:
        """Send it back."""
        super().dataReceived(data)
        for value in data:
            self.wire.write(bytes([value]))


class Recorders(ClientFactory):
    """Builds protocols, for servers and clients; ``next`` waits for one to be connected."""

    noisy = False

    def __init__(self, build: Callable[[], Recorder] = Recorder) -> None:
        self._build = build
        self.addresses: list[Any] = []  # Any: of several families
        self.failed: Deferred[None] = Deferred()
        self.reason: Failure | None = None
        self._made: list[Recorder] = []
        self._awaited: Deferred[Recorder] | None = None

    def buildProtocol(self, addr: Any) -> Recorder:  # Any: as above
        """Build one."""
        self.addresses.append(addr)
        protocol = self._build()
        protocol.factory = self
        return protocol

    def made(self, protocol: Recorder) -> None:
        """Note that ``protocol`` is connected."""
        if self._awaited is not None:
            awaited, self._awaited = self._awaited, None
            awaited.callback(protocol)
        else:
            self._made.append(protocol)

    def next(self) -> Deferred[Recorder]:
        """Return a Deferred of the next protocol to be connected."""
        awaited: Deferred[Recorder] = Deferred()
        if self._made:
            awaited.callback(self._made.pop(0))
        else:
            self._awaited = awaited
        return awaited

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        """Note it."""
        self.reason = reason
        self.failed.callback(None)


class Datagrams(DatagramProtocol):
    """Writes down datagrams; sends them back if asked to."""

    def __init__(self, echo: bool = False) -> None:
        self._echo = echo
        self._received: list[tuple[bytes, Any]] = []
        self._awaited: Deferred[tuple[bytes, Any]] | None = None
        self.refused: Deferred[None] = Deferred()

    @property
    def wire(self) -> Any:  # Any: a port, which has more than the interface
        """The port."""
        return self.transport

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Note it."""
        if self._echo:
            self.wire.write(datagram, addr)
        if self._awaited is not None:
            awaited, self._awaited = self._awaited, None
            awaited.callback((datagram, addr))
        else:
            self._received.append((datagram, addr))

    def connectionRefused(self) -> None:
        """Note it."""
        self.refused.callback(None)

    def next(self) -> Deferred[tuple[bytes, Any]]:
        """Return a Deferred of the next datagram and its sender."""
        if self._received:
            return succeed(self._received.pop(0))
        self._awaited = Deferred()
        return self._awaited


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
