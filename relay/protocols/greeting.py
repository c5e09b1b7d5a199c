"""The first bytes of a connection: enough of them are collected to know the protocol, then it takes over.

``GreetingFactory`` is what a listener's port asks for protocols. It counts, refuses (the gate's answer, the accept
rate, the limit of connections) and builds the first object of a connection; ``relay.protocols.entrance`` shows all.
"""

from __future__ import annotations

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from relay.core.limits import TokenBucket
from relay.dialects.relay_v1 import BinaryStream, JsonLines
from relay.protocols import sniff
from relay.protocols.entrance import Arrival, Entrance, Step, host_of, pass_on
from relay.protocols.http import RequestHead
from relay.protocols.peer import Peer
from relay.protocols.proxy import ProxyHeader
from relay.protocols.secure import SecureGreeting
from relay.protocols.stream import BoundedDialect, Stream
from relay.protocols.tls import common_name
from relay.wire.contracts import BINARY_STREAM

log = Logger()


class Greeting(Step):
    """Decides by the first bytes, outside of TLS and once more inside of it."""

    __slots__ = ()

    def step(self) -> None:
        """Hand over as soon as the protocol is known."""
        arrival = self.arrival
        secure = arrival.secure
        found = sniff.sniff(self.data, arrival.entrance.sniffed(secure))
        if found is None:
            return
        data, self.data = self.data, b""
        if secure and not arrival.certificate and not arrival.channel:
            arrival.certificate = common_name(self.transport)
        if found == sniff.RELAY_BINARY:
            self._stream(BinaryStream(preface=True), data)
        elif found == sniff.RELAY_JSON:
            self._stream(JsonLines(), data)
        elif found == sniff.HTTP:
            pass_on(self.transport, RequestHead(arrival), data)
        elif found == sniff.TLS:
            self._encrypted(data)
        elif found == sniff.RELAY_SECURE:
            pass_on(self.transport, SecureGreeting(arrival, arrival.entrance.identity, Greeting), data)
        else:
            self.drop()

    def _stream(self, dialect: BoundedDialect, data: bytes) -> None:
        arrival = self.arrival
        arrival.arrived()
        peer = Peer(arrival, self.transport, arrival.label, dialect)
        if dialect.encoding == BINARY_STREAM:
            # What travels apart from the stream is in the binary form.
            peer.loose, peer.apart = getattr(self.transport, "carries_apart", (None, 0))
        pass_on(self.transport, Stream(arrival.entrance, peer, dialect), data)

    def _encrypted(self, data: bytes) -> None:
        tls = self.arrival.entrance.tls
        assert tls is not None
        self.arrival.secure = True
        pass_on(self.transport, TLSMemoryBIOProtocol(tls, Greeting(self.arrival)), data)


@implementer(IProtocolFactory)
class GreetingFactory:
    """The protocols of one listener. ``accepting`` False: new connections are closed at once (the node drains)."""

    noisy = False

    def __init__(self, entrance: Entrance) -> None:
        self.entrance = entrance
        self.accepting = True
        self._pace: TokenBucket | None = None

    def repace(self) -> None:
        """Take the accept rate of the configuration; one second of it may come at once."""
        rate = self.entrance.limits.accepts_per_s_max
        self._pace = TokenBucket(rate, rate, self.entrance.clock.seconds())

    def admits(self, host: str) -> bool:
        """Whether one more connection may come from ``host``, which counts as one of this second."""
        entrance = self.entrance
        if not self.accepting or entrance.open >= entrance.limits.connections_max:
            return False
        if not entrance.listener.proxy_protocol and entrance.crowded(host):
            return False
        if self._pace is None:
            self.repace()
        assert self._pace is not None
        now = entrance.clock.seconds()
        if self._pace.take(0, now) > 0:
            return False
        self._pace.take(1, now)
        try:
            return entrance.gate.admit(host, entrance.name) == 0
        except Exception:  # noqa: BLE001 - logged; our mistake, or a plugin's, must not reach the reactor
            log.failure("the gate met an error")
            return False

    # --- IProtocolFactory -------------------------------------------------------------------------------------------

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        """The first object of a connection from ``addr``; None closes it at once."""
        entrance = self.entrance
        host = host_of(addr)
        if not self.admits(host):
            entrance.refused += 1
            return None
        # Behind a proxy the address is the proxy's until its header has come.
        entrance.arrive("" if entrance.listener.proxy_protocol else host)
        arrival = Arrival(entrance, addr, host, unix=isinstance(addr, UNIXAddress))
        return ProxyHeader(arrival, Greeting) if entrance.listener.proxy_protocol else Greeting(arrival)

    def doStart(self) -> None:
        """A port listens."""

    def doStop(self) -> None:
        """A port does not listen any more."""
