"""What the ports of UDP, KCP and QUIC have in common: one socket for many connections, which outlives the listening."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from zope.interface import implementer

from relay.protocols.datagrams import DatagramSocket, address_of
from relay.protocols.greeting import GreetingFactory


@implementer(IListeningPort)
class DatagramPort:
    """A port that has connections of its own. A subclass says whether there are any, and ends its timers."""

    def __init__(self, factory: GreetingFactory, reactor: Any) -> None:
        # Any: IReactorTime, and for a real socket IReactorFDSet
        self.factory = factory
        self.closing = False
        """No new connections are taken."""
        self._reactor = reactor
        self._socket: DatagramSocket | None = None
        at_turn_end = getattr(reactor, "callAtTurnEnd", None)
        self._at_turn_end: Callable[[Callable[[], None]], object] = at_turn_end or (
            lambda function: reactor.callLater(0, function)
        )

    def _busy(self) -> bool:
        """Whether there are connections."""
        raise NotImplementedError

    def _stop_timers(self) -> None:
        """The socket is about to be closed."""
        raise NotImplementedError

    def open(self, opened: DatagramSocket) -> None:
        """Send by this socket from now on."""
        self._socket = opened

    def startListening(self) -> None:
        """Read."""
        assert self._socket is not None
        self._socket.start()
        self.factory.doStart()

    def stopListening(self) -> Deferred[None]:
        """Take no new connections; those that are there go on, and the socket closes after the last of them."""
        self.closing = True
        if not self._busy():
            self._close()
        return succeed(None)

    def getHost(self) -> IPv4Address | IPv6Address:
        """The address that is listened on."""
        assert self._socket is not None
        return address_of(self._socket.place)

    def _close(self) -> None:
        self._stop_timers()
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()
            self.factory.doStop()
