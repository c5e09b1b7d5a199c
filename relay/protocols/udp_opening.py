"""How connections over UDP begin: hello, cookie, accept, and in the secure channel finish.

hello ─ no good cookie ──▶ retry                      nothing is kept
      ├ known ───────────▶ the same accept again
      └ good cookie ─────▶ accept ─┬─▶ a peer
                                   └─ secure ─ finish ─▶ a peer
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING

from relay.config_udp import Udp
from relay.errors import RemoteProtocolError
from relay.protocols.datagrams import Address, address_of
from relay.protocols.entrance import Arrival, host_of
from relay.protocols.peer import Peer
from relay.protocols.stream import Stream
from relay.protocols.udp_transport import DatagramFrames, UdpTransport
from relay.wire import kinds
from relay.wire import udp_packets as packets
from relay.wire.secure import ServerHandshake
from relay.wire.secure_records import OVERHEAD_BYTES
from relay.wire.udp_link import UdpLink

if TYPE_CHECKING:
    from relay.protocols.udp import UdpPort


class Openings:
    """Those of one port. ``in_handshake``: connections without a peer yet."""

    def __init__(self, port: UdpPort, settings: Udp, random_bytes: Callable[[int], bytes]) -> None:
        self.in_handshake = 0
        self._port = port
        self._settings = settings
        self._random_bytes = random_bytes
        self._cookies = packets.Cookies(random_bytes(32))
        self._known: dict[tuple[Address, bytes], UdpTransport] = {}

    def __len__(self) -> int:
        return len(self._known)

    def receive(self, datagram: bytes, place: Address, now: float) -> bool:
        """One that is no packet; False when it meant nothing."""
        if datagram[0] == packets.HELLO:
            return self._hello(datagram, place, now)
        return datagram[0] == packets.FINISH and self._finish(datagram, place, now)

    def forget(self, transport: UdpTransport) -> None:
        """A connection is over."""
        del self._known[transport.opening]
        if transport.handshake is not None:
            self.in_handshake -= 1
            self._port.factory.entrance.leave(host_of(transport.address))
            if transport.arrival is not None:
                transport.arrival.arrived()

    def _hello(self, datagram: bytes, place: Address, now: float) -> bool:
        try:
            hello = packets.decode_hello(datagram)
        except RemoteProtocolError:
            return False
        send = self._port.send
        known = self._known.get((place, hello.nonce))
        if known is not None:
            send([known.accepted], place)
            return True
        name = repr(place[:2]).encode()
        if not self._cookies.good(hello.cookie, name, hello.nonce, now):
            send([packets.encode_retry(hello.nonce, self._cookies.make(name, hello.nonce, now))], place)
            return True
        return self._begin(hello, place)

    def _begin(self, hello: packets.Hello, place: Address) -> bool:
        port = self._port
        entrance = port.factory.entrance
        if port.closing or (entrance.identity and not hello.secure and not entrance.plain):
            return False
        address = address_of(place)
        host = host_of(address)
        if not port.factory.admits(host):  # before the handshake: signatures are what costs
            entrance.refused += 1
            return True
        handshake, answer = None, b""
        if hello.secure:
            if not entrance.identity or self.in_handshake >= self._settings.opening_max:
                return False
            handshake = ServerHandshake(entrance.identity, self._random_bytes(32))
            try:
                answer = handshake.receive(hello.secure)
            except RemoteProtocolError:
                return False
        entrance.arrive(host)
        overhead = packets.HEAD_BYTES + (OVERHEAD_BYTES if hello.secure else 0)
        link = UdpLink(self._settings.mtu_bytes - overhead, self._settings.window_max)
        connection, opening = self._random_bytes(packets.CONNECTION_BYTES), (place, hello.nonce)
        transport = UdpTransport(port, connection, link, address, place, opening)
        transport.accepted = packets.encode_accept(packets.Accept(hello.nonce, connection, answer))
        port.connections[connection] = self._known[opening] = transport
        arrival = Arrival(entrance, address, host)
        if handshake is None:
            _opened(transport, arrival)
        else:
            transport.handshake = handshake
            transport.arrival = arrival
            self.in_handshake += 1
            arrival.expect(transport)
        port.send([transport.accepted], place)
        return True

    def _finish(self, datagram: bytes, place: Address, now: float) -> bool:
        port = self._port
        transport = port.connections.get(datagram[1 : packets.HEAD_BYTES])
        if transport is None:
            port.gone(datagram, place)
            return False
        if place != transport.place:
            return False
        handshake, arrival = transport.handshake, transport.arrival
        if handshake is not None and arrival is not None:
            try:
                keys = handshake.finish(datagram[packets.HEAD_BYTES :])
            except RemoteProtocolError:
                return False
            self.in_handshake -= 1
            transport.secure(keys, now)
            transport.arrival = None
            arrival.arrived()
            arrival.secure = arrival.channel = True
            arrival.key = b64encode(keys.peer).decode()
            _opened(transport, arrival)
        # Also when it comes again: our acknowledgement was lost.
        transport.link.acknowledge_now(now)
        port.mark(transport)
        return True


def _opened(transport: UdpTransport, arrival: Arrival) -> None:
    dialect = DatagramFrames()
    peer = Peer(arrival, transport, "udp", dialect)
    peer.loose, peer.apart = transport.loosely, kinds.UNRELIABLE
    transport.protocol = stream = Stream(arrival.entrance, peer, dialect)
    stream.makeConnection(transport)
