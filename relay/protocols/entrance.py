"""What all connections of one listener share, and how a connection passes from one protocol object to the next.

A connection is served by one small object at a time, each replaced by the next as soon as it knows what that is::

    accepted ─▶ ProxyHeader ─▶ Greeting ─▶ (TLS ─▶ Greeting) ─┬─▶ Stream                    relay's stream forms
               (if configured)  first bytes   or the channel   └─▶ RequestHead ─┬─▶ Channel   HTTP
                                                                                └─▶ Opening ─▶ WebSocket

so that an idle connection pays for none of the steps it has left behind. Until a peer exists, all steps together have
the handshake time-out (``Entrance.expect``); afterwards the core watches the peer.
"""

from __future__ import annotations

from ipaddress import IPv6Address as IPv6
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.config import Limits, Listener, Slow, Timing
from relay.core.limits import is_loopback
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.interfaces import IGate
from relay.protocols import sniff

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOFactory

    from relay.core.wheel import Call
    from relay.protocols.http import PageFactory
    from relay.protocols.websocket import OpeningFactory

log = Logger()

SNIFFED: Final[dict[str, tuple[str, ...]]] = {
    "relay": (sniff.RELAY_BINARY, sniff.RELAY_JSON),
    "http": (sniff.HTTP,),
    "websocket": (sniff.HTTP,),
}
"""What a protocol of the configuration looks like in its first bytes."""


class StreamTransport(Protocol):
    """What is used of a transport: Twisted's own, relay's over uvloop, and TLS over either provide it."""

    def write(self, data: bytes) -> None:
        """Send ``data``."""

    def loseConnection(self) -> None:
        """Close when everything is sent."""

    def abortConnection(self) -> None:
        """Close now."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # Any: zope interfaces are not mypy's
        """Tell ``producer`` when to pause."""

    def unregisterProducer(self) -> None:
        """Tell nobody any more."""

    def pauseProducing(self) -> None:
        """Stop reading."""

    def resumeProducing(self) -> None:
        """Read again."""


@attrs.define(eq=False)
class Entrance:
    """One listener's configuration and the parts of the node that its connections meet.

    ``tls``, ``pages`` and ``websockets`` are None where the listener has none; with ``plain`` a listener that has TLS
    takes connections without it, too. ``anonymous``: sessions need no proof of identity. ``open``: connections there
    are now, ``hosts``: by address;
    ``identity``: the node's private key where the listener has the secure channel, else b''.
    ``unknown``: connections closed because their first bytes are no protocol of this listener. ``listener``,
    ``limits``, ``timing`` and ``slow`` may be replaced at any time: connections that come later use the new ones.
    """

    listener: Listener
    gate: IGate
    flusher: Flusher
    wheel: Wheel
    clock: IReactorTime
    limits: Limits
    timing: Timing
    slow: Slow
    tls: TLSMemoryBIOFactory | None = None
    plain: bool = False
    anonymous: bool = False
    identity: bytes = b""
    pages: PageFactory | None = None
    websockets: OpeningFactory | None = None
    open: int = 0
    hosts: dict[str, int] = attrs.field(factory=dict)
    refused: int = 0
    unknown: int = 0
    expired: int = 0

    def arrive(self, host: str) -> None:
        """One connection more, from ``host``."""
        self.open += 1
        if not is_loopback(host):
            self.hosts[host] = self.hosts.get(host, 0) + 1

    def leave(self, host: str) -> None:
        """One connection less."""
        self.open -= 1
        count = self.hosts.get(host, 0)
        if count > 1:
            self.hosts[host] = count - 1
        else:
            self.hosts.pop(host, None)

    def crowded(self, host: str) -> bool:
        """Whether ``host`` has as many connections here as one address may, with a peer or without."""
        return self.hosts.get(host, 0) >= self.limits.connections_per_address_max

    @property
    def name(self) -> str:
        """The listener's label."""
        return self.listener.label

    def sniffed(self, secure: bool) -> tuple[str, ...]:
        """What first bytes a connection may have; ``secure``: those inside of TLS or of the channel."""
        names = tuple(dict.fromkeys(each for name in self.listener.protocols for each in SNIFFED[name]))
        outer = sniff.TLS if self.tls is not None else sniff.RELAY_SECURE if self.identity else ""
        if not outer or secure:
            return names
        return (outer, *names) if self.plain else (outer,)


@attrs.define(eq=False)
class Arrival:
    """What is known of a connection that has no peer yet; handed from step to step, gone with the last of them.

    ``host`` and ``remote`` are the client's, also behind a proxy that names it. ``deadline`` cuts the connection off.
    ``channel``: inside of the secure channel; ``key``: what the client proved there.
    """

    entrance: Entrance
    remote: IAddress | None
    host: str
    unix: bool = False
    secure: bool = False
    certificate: str = ""
    channel: bool = False
    key: str = ""
    deadline: Call | None = None

    def expect(self, transport: StreamTransport) -> None:
        """The handshake time-out starts; when it is over, ``transport`` is closed."""
        entrance = self.entrance

        def too_late() -> None:
            entrance.expired += 1
            transport.abortConnection()

        self.deadline = entrance.wheel.after(entrance.timing.handshake_timeout_s, too_late)

    def arrived(self) -> None:
        """Somebody else watches the time from now on, or the connection is gone."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    @property
    def label(self) -> str:
        """The label of the transport."""
        if self.channel:
            return "secure"
        carrier = self.entrance.listener.transport
        if carrier != "stream":
            return carrier
        return "tls" if self.secure else "unix" if self.unix else "tcp"


@implementer(IProtocol)
class Step:
    """Base of the objects that serve a connection until it has a peer: bytes are collected in ``data``."""

    __slots__ = ("arrival", "closing", "data", "transport")

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.data = b""
        self.closing = False
        self.transport: Any = None  # Any: whatever transport carries it

    def drop(self) -> None:
        """Close the connection: what came is nothing for this listener."""
        self.arrival.entrance.unknown += 1
        self._close()

    def refuse(self, response: bytes = b"") -> None:
        """Close the connection after ``response``: it may not come in."""
        self.arrival.entrance.refused += 1
        if response:
            self.transport.write(response)
        self._close()

    def _close(self) -> None:
        # The handshake time-out goes on: it cuts off who does not let the connection close.
        self.closing = True
        self.data = b""
        self.transport.loseConnection()

    def step(self) -> None:
        """Look at ``data``, which has grown."""
        raise NotImplementedError

    # --- IProtocol --------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:  # Any: whatever transport carries it
        """As Twisted's ``Protocol`` has it."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Wait for bytes, within the handshake time-out that the first step starts."""
        transport = self.transport
        arrival = self.arrival
        if arrival.deadline is None:
            arrival.expect(transport)
            wanted = arrival.entrance.listener.nodelay
            # Relay's reactor says what it is; asking the socket would cost as much as setting it.
            if not arrival.unix and wanted != getattr(transport, "nodelay", False):
                transport.setTcpNoDelay(wanted)

    def dataReceived(self, data: bytes) -> None:
        """Look again. TLS delivers also after ``loseConnection``: that is nothing to look at."""
        if self.closing:
            return
        self.data += data
        try:
            self.step()
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
            log.failure("a new connection of listener {listener} met an error", listener=self.arrival.entrance.name)
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """It never had a peer."""
        self.arrival.entrance.leave(self.arrival.host)
        self.arrival.arrived()
        self.transport = None


def host_of(address: IAddress | None) -> str:
    """The host of a remote address, '' for a Unix socket. An IPv4 address mapped to IPv6 is written as IPv4."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return ""
    host: str = address.host
    if host.startswith("::ffff:"):
        return str(IPv6(host).ipv4_mapped or host)
    return host


def pass_on(transport: Any, protocol: IProtocol, data: bytes = b"") -> None:  # Any: see below
    """Let ``protocol`` serve the connection from now on, beginning with ``data``.

    The attribute that names a transport's protocol is in no interface; Twisted's transports and relay's have
    ``protocol``, and TLS, being a wrapper, ``wrappedProtocol``.
    """
    if isinstance(transport, ProtocolWrapper):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
    protocol.makeConnection(transport)
    if data:
        protocol.dataReceived(data)
