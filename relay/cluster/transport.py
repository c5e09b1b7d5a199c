"""Links to all other nodes over TCP: :class:`relay.interfaces.IRaftTransport` on Twisted.

Each node dials every other and sends on the link it dialled; on links that it accepted it only receives. So nobody has
to decide which of two links counts, and whoever loses the link to a node finds out by dialling whether it lives::

    waiting ──time──▶ dialling ──connected──▶ shaking hands ──▶ up ──lost──▶ dialling at once ──failed──▶ unreachable
       ▲                 │ failed                  │ refused     │ ended, or lost within ``LIVED_S`` again       │
       └─────────────────┴─────────────────────────┴─────────────┴───────────────────────────────────────────────┘
       back-off: ``retry_s_min``, twice as long each time to ``retry_s_max``, less a random part; ends when a link has
       stood for ``LIVED_S``

One that breaks sooner is dialled at once too, but not two of them in a row while somebody answers: who breaks each link
on its way does not have nodes shake hands all the time, and a node that dies soon after its start is missed at once.

A node that is not in the configuration may link, if it knows the secret: it is one that joins, and is dialled at the
address that its hello tells. One that was removed (``membership``) is dialled no more, unless it says something that
may want an answer. What the log has of all this: ``link_lines``.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.cluster.frames import NOTHING
from relay.cluster.handshake import REFUSED_PROTOCOL, Handshake, Hello, LinkRefused
from relay.cluster.link import Incoming, Outgoing
from relay.cluster.link_lines import LinkLines
from relay.errors import RemoteProtocolError
from relay.interfaces import IRaftReceiver, IRaftTransport
from relay.wire.secure import KEY_BYTES

LOOK_S: Final = 1.0
"""How often links are looked at for silence."""
WAITING_MAX: Final = 8
"""Connections from one address that have not shaken hands: as many nodes as start on one machine at once, or behind one
address, and no more than an eighth of the usual ``links_max``."""
LIVED_S: Final = 2.0
"""A link that stood so long is no failed attempt when it breaks."""


@attrs.frozen(kw_only=True)
class LinkOptions:
    """The limits of links. Sizes in bytes."""

    frame_bytes_max: int = 4 << 20  # more than the largest append: a proposal of 2 MiB behind 512 KiB of others
    lane_bytes_max: tuple[int, int, int] = (4 << 20, 32 << 20, 4 << 20)  # waiting for one node, by lane
    links_max: int = 64  # accepted at once
    handshake_s: float = 5.0
    silent_looks: int = 10  # a link on which nothing came or went, though it should have, for so many looks is cut
    retry_s_min: float = 0.05
    retry_s_max: float = 2.0
    repeat_s: float = 60.0


@implementer(IRaftTransport)
class TcpTransport:
    """See the module. ``hello(to)``, ``check(hello)`` and ``met(hello)`` are the node's: what it says of itself, whom
    it lets in, and whom it shook hands with. Frames go to ``receiver`` once there is one."""

    def __init__(
        self,
        reactor: Any,  # Any: IReactorTime and what endpoints need
        secret: bytes,
        hello: Callable[[int], Hello],
        check: Callable[[Hello], tuple[int, str] | None],
        met: Callable[[Hello], object],
        refused: Callable[[int, LinkRefused], object],
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        options: LinkOptions | None = None,
    ) -> None:
        self.reactor = reactor
        self.port: Any = None  # Any: IListeningPort, while it listens
        self.options = options or LinkOptions()
        self.receiver: IRaftReceiver | None = None
        self.incoming: dict[Incoming, None] = {}  # oldest first
        self.dialers: dict[int, Dialer] = {}
        self.dropped: dict[int, str] = {}  # nodes that were removed, and where they were dialled
        self.refusals = 0  # links that did not come to be, or ended by what came on them
        self._secret = secret
        self._hello = hello
        self._check = check
        self._met = met
        self._refused = refused
        self._random = random
        self._random_bytes = random_bytes
        self._stopped = False
        self.lines = LinkLines(reactor.seconds, self.options.repeat_s)
        self._look_call = LoopingCall(self._look)
        self._look_call.clock = reactor

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to dial and to look."""
        self._look_call.start(LOOK_S, now=False)
        for dialer in list(self.dialers.values()):
            dialer.dial()

    def stop(self) -> None:
        """End all links."""
        self._stopped = True
        if self._look_call.running:
            self._look_call.stop()
        for dialer in list(self.dialers.values()):
            dialer.stop()
        for link in list(self.incoming):
            link.end()

    def use(self, receiver: IRaftReceiver) -> None:
        """Frames and links are told to ``receiver`` from now on."""
        self.receiver = receiver
        for node, dialer in self.dialers.items():
            if dialer.link is not None and dialer.link.stands:
                receiver.linked(node)

    def add(self, node: int, address: str) -> None:
        """Dial ``node`` at ``address``, a Twisted client endpoint string. Known nodes keep their address."""
        if node not in self.dialers:
            self.dropped.pop(node, None)
            dialer = self.dialers[node] = Dialer(self, node, address)
            if self._look_call.running:
                dialer.dial()

    # --- IRaftTransport ---------------------------------------------------------------------------------------------

    def send(self, node: int, lane: int, frame: bytes) -> bool:
        """Queue ``frame``; False when there is no link or the lane is full."""
        dialer = self.dialers.get(node)
        return dialer is not None and dialer.link is not None and dialer.link.send(lane, frame)

    def waiting_bytes(self, node: int, lane: int) -> int:
        """What was queued and not yet handed to the network."""
        dialer = self.dialers.get(node)
        return dialer.link.lane_bytes[lane] if dialer is not None and dialer.link is not None else 0

    def drop(self, node: int) -> None:
        """End the link, and do not dial the node again until it is added, or says more than that it lives."""
        dialer = self.dialers.pop(node, None)
        if dialer is not None:
            self.dropped[node] = dialer.address
            dialer.stop()

    # --- incoming -----------------------------------------------------------------------------------------------------

    def accept(self, address: IAddress | None) -> Incoming | None:
        """A connection came: its protocol, or None to close it."""
        if self._stopped:
            return None
        source = _source(address)
        waiting: dict[str, list[Incoming]] = {}  # have not shaken hands, by source, oldest first
        for each in self.incoming:
            if not each.node:
                waiting.setdefault(each.source, []).append(each)
        own, goes = waiting.get(source, []), None
        if len(own) >= WAITING_MAX:
            goes = own[0]
        elif len(self.incoming) >= self.options.links_max:
            # Whoever has most of those that wait makes room. So strangers keep a node out as long as it takes to shake
            # hands only from as many addresses as there are links left, or from the node's own.
            most = max(waiting.values(), key=len, default=None)
            if most is None:
                self.refusals += 1
                self.lines.stranger(_host(address), f"{self.options.links_max} links are accepted already")
                return None
            goes = most[0]
        if goes is not None:
            del self.incoming[goes]
            goes.end()
        link = Incoming(self.handshake(), self.options.frame_bytes_max, self._came, self._receive, self._went)
        link.source = source
        self.incoming[link] = None
        return link

    def _came(self, link: Incoming, hello: Hello) -> None:
        self._met(hello)
        if hello.node in self.dropped:
            self.dropped[hello.node] = hello.address or self.dropped[hello.node]
        elif hello.address:
            self.add(hello.node, hello.address)
        if hello.node in self.dialers:
            self.dialers[hello.node].hurry()

    def _receive(self, node: int, frame: bytes) -> None:
        if node in self.dropped and frame != NOTHING:
            self.add(node, self.dropped[node])
        if self.receiver is not None:
            self.receiver.received(node, frame)

    def _went(self, link: Incoming, why: RemoteProtocolError | None) -> None:
        self.incoming.pop(link, None)
        if why is None:
            return
        self.refusals += 1
        host = _host(link.transport.getPeer() if link.transport is not None else None)
        if link.node:
            self.lines.ended(link.node, host, why, dialled=False)
        else:
            self.lines.stranger(host, why)

    # --- outgoing -----------------------------------------------------------------------------------------------------

    def handshake(self, node: int = 0) -> Handshake:
        """For a link to ``node``; 0: for one that is accepted."""
        ephemeral = self._random_bytes(KEY_BYTES) if self._secret else b""
        return Handshake(self._secret, ephemeral, self._hello, self._check, node)

    def linked(self, node: int, hello: Hello) -> None:
        """The link to ``node`` stands."""
        self._met(hello)
        self.lines.changed(node, stands=True)
        if self.receiver is not None:
            self.receiver.linked(node)

    def unlinked(self, node: int) -> None:
        """The link to ``node`` that stood is gone."""
        self.lines.changed(node, stands=False)
        if self.receiver is not None:
            self.receiver.unlinked(node)

    def unreachable(self, node: int) -> None:
        """It was lost, and dialling failed at once."""
        if self.receiver is not None:
            self.receiver.unreachable(node)

    def refused(self, node: int, address: object, error: RemoteProtocolError) -> None:
        """A link that was dialled did not come to be."""
        self.refusals += 1
        self.lines.refused(node, _host(address), error)
        if isinstance(error, LinkRefused):
            self._refused(node, error)

    def ended(self, node: int, address: object, error: RemoteProtocolError) -> None:
        """The link to ``node`` that stood ended by what came on it."""
        self.refusals += 1
        self.lines.ended(node, _host(address), error, dialled=True)

    def backoff(self, attempts: int) -> float:
        """Seconds before the next attempt, after so many that failed."""
        options = self.options
        longest = min(options.retry_s_max, options.retry_s_min * 2 ** min(attempts, 16))
        return float(longest * (1.0 - 0.5 * self._random()))

    # --- both ---------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Cut links that are silent, stuck, or do not get through their handshake."""
        self.lines.look()
        for link in list(self.incoming):
            link.looks = 0 if link.heard and link.node and not link.ended else link.looks + 1
            link.heard = False
            if link.looks >= (self.options.silent_looks if link.node else self.options.handshake_s / LOOK_S):
                link.end()
        for dialer in list(self.dialers.values()):
            outgoing = dialer.link
            if outgoing is None:
                continue
            outgoing.looks = 0 if outgoing.stands and not outgoing.stuck() else outgoing.looks + 1
            if outgoing.looks >= (self.options.silent_looks if outgoing.stands else self.options.handshake_s / LOOK_S):
                outgoing.end()


class AcceptFactory(Factory):
    """Twisted's: protocols for connections that come."""

    noisy = False

    def __init__(self, transport: TcpTransport) -> None:
        self._transport = transport

    def buildProtocol(self, addr: Any) -> Any:  # Any: IAddress, and a Protocol or None
        """A link, if one more is accepted."""
        return self._transport.accept(addr)


class _DialFactory(Factory):
    noisy = False

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    def buildProtocol(self, addr: Any) -> Any:  # Any: as above
        return self._dialer.made(addr)


class Dialer:
    """Keeps the link to one node. See the module for its states."""

    __slots__ = (
        "_attempts", "_call", "_connecting", "_patient", "_peer", "_quick", "_short", "_since", "_stopped",
        "_transport", "address", "link", "node", "ups",
    )  # fmt: skip

    def __init__(self, transport: TcpTransport, node: int, address: str) -> None:
        self.node = node
        self.link: Outgoing | None = None  # from connected to lost
        self.ups = 0  # how often it stood
        self._transport = transport
        self.address = address
        self._peer: object = address
        self._attempts = 0  # that failed since a link lived
        self._short = 0  # links in a row that stood and did not live, with nobody missing in between
        self._since = 0.0  # when the last one came to stand
        self._patient = False  # what is waited for is not whether the node is there
        self._quick = False  # this attempt tells whether the node lives
        self._stopped = False
        self._call: IDelayedCall | None = None
        self._connecting: Deferred[Any] | None = None

    def dial(self) -> None:
        """Try to have the link."""
        self._call = None
        if self._stopped or self.link is not None or self._connecting is not None:
            return
        endpoint = clientFromString(self._transport.reactor, self.address)
        connecting: Deferred[Any] = endpoint.connect(_DialFactory(self))
        self._connecting = connecting
        connecting.addCallbacks(self._connected, self._failed)

    def hurry(self) -> None:
        """The node was heard of: no more waiting for it to be there."""
        if self._call is not None and self._call.active() and not self._patient:
            self._call.cancel()
            self.dial()

    def stop(self) -> None:
        """No link any more."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self.link is not None:
            self.link.end()

    def made(self, address: object) -> Outgoing:
        """For Twisted's factory."""
        self._peer = address
        return Outgoing(
            self._transport.handshake(self.node), self._transport.options.lane_bytes_max, self._up, self._lost
        )

    def _connected(self, link: Outgoing) -> None:
        self._connecting = None
        if link.ended:
            return
        self.link = link
        transport: Any = link.transport  # Any: a TCP transport, or a Unix socket's
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if self._stopped or failure.check(CancelledError):
            return
        if self._attempts == 0:
            self._transport.lines.not_reached(self.node, self.address, failure.getErrorMessage())
        self._short = 0
        if self._quick:
            self._quick = False
            self._transport.unreachable(self.node)
        self._again()

    def _up(self, link: Outgoing, hello: Hello) -> None:
        self.link = link
        self.ups += 1
        self._since = self._transport.reactor.seconds()
        self._quick = False
        self._transport.linked(self.node, hello)

    def _lost(self, link: Outgoing, why: RemoteProtocolError | None) -> None:
        self.link = None
        if link.was_up:
            self._fell(why)
            return
        if self._stopped:
            return
        if why is not None:
            self._transport.refused(self.node, self._peer, why)
        if self._quick:
            # Somebody listens, and did not shake hands: a node that starts or stops.
            self._quick = False
            self._transport.unreachable(self.node)
        self._again()

    def _fell(self, why: RemoteProtocolError | None) -> None:
        """The link that stood is lost."""
        transport = self._transport
        transport.unlinked(self.node)
        if self._stopped:
            return
        if why is not None:
            transport.ended(self.node, self._peer, why)
        if transport.reactor.seconds() - self._since >= LIVED_S:
            self._attempts = self._short = 0
        else:
            self._short += 1
        self._quick = why is None
        if self._quick and self._short <= 1:
            self.dial()
        else:
            self._later(max(self._short - 2, 0), patient=True)

    def _again(self) -> None:
        if not self._stopped:
            self._later(self._attempts, patient=False)
            self._attempts += 1

    def _later(self, attempts: int, *, patient: bool) -> None:
        self._patient = patient
        transport = self._transport
        self._call = transport.reactor.callLater(transport.backoff(attempts), self.dial)


def refuse_self(own: int, hello: Hello) -> tuple[int, str] | None:
    """A check for every node: not oneself."""
    if hello.node == own:
        return REFUSED_PROTOCOL, f"node {own} was called by a node with its own id"
    return None


def _host(address: object) -> str:
    """Of a line in the log."""
    return getattr(address, "host", None) or str(address)


def _source(address: object) -> str:
    """Whose a connection is: an IPv4 address, or what of an IPv6 address one owner has, as he has all of it."""
    host = _host(address)
    if ":" not in host:
        return host
    try:
        found = IPv6Address(host)
    except ValueError:
        return host
    return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
