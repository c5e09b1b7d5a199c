"""A TCP proxy that swallows what passes through it, and then breaks the connections: what a dying network does."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure


class SwallowingProxy(Factory):
    """Listens on ``port`` and forwards to ``target``. ``swallowing``: bytes are read and forgotten, both ways."""

    def __init__(self, reactor: Any, target: int) -> None:
        self.swallowing = False
        self.swallowed_bytes = 0
        self.ends: set[_End] = set()
        self.port = 0
        self._reactor = reactor
        self._target = target
        self._listening: IListeningPort | None = None

    async def start(self) -> None:
        """Listen."""
        self._listening = await TCP4ServerEndpoint(self._reactor, 0, interface="127.0.0.1").listen(self)
        host: Any = self._listening.getHost()  # Any: an IPv4Address
        self.port = host.port

    async def stop(self) -> None:
        """Close all."""
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        self.break_off()

    def swallow(self) -> None:
        """From now on nothing arrives."""
        self.swallowing = True

    def break_off(self) -> None:
        """Reset every connection; new ones work again."""
        self.swallowing = False
        for end in list(self.ends):
            end.abort()

    def connect(self, end: _End) -> Deferred[Any]:
        """The other half of ``end``."""
        return TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._target).connect(
            Factory.forProtocol(lambda: _End(self, end))
        )

    # --- IProtocolFactory -----------------------------------------------------------------------------------------

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """The half that faces a client."""
        return _End(self, None)


class _End(Protocol):
    def __init__(self, proxy: SwallowingProxy, other: _End | None) -> None:
        self._proxy = proxy
        self._other = other
        self._early: list[bytes] = []

    def abort(self) -> None:
        """Reset."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]  # of TCP transports

    def forward(self, data: bytes) -> None:
        """Send on, or swallow."""
        if self._proxy.swallowing:
            self._proxy.swallowed_bytes += len(data)
        elif self._other is None or self._other.transport is None:
            self._early.append(data)
        else:
            self._other.transport.write(data)

    # --- IProtocol ------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """One half is there."""
        self._proxy.ends.add(self)
        if self._other is None:
            self._proxy.connect(self).addErrback(lambda _: self.abort())
        else:
            self._other._other = self
            for data in self._other._early:
                self._other.forward(data)

    def dataReceived(self, data: bytes) -> None:
        """Something to pass on."""
        self.forward(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """One half is gone, so goes the other."""
        self._proxy.ends.discard(self)
        if self._other is not None:
            self._other.abort()
