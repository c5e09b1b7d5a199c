"""The PROXY protocol: its parser on anything, and what a listener does with the address."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from relay.config import Timing
from relay.errors import RemoteProtocolError
from relay.protocols.proxy import V1_BYTES_MAX, V2_BYTES_MAX, V2_SIGNATURE, ProxyInfo, parse
from relay.test.entrance_fixture import CLIENT, Door, binary_stream, publication, request_head, websocket_frames
from relay.wire import kinds

PROXY_HOST = IPv4Address("TCP", "10.0.0.1", 4711)
PORTS = st.integers(0, 65_535)
REST = b"\x16\x03 and the rest"


def version_1(source: Any, port: int, target: str = "") -> bytes:  # Any: an address of ``ipaddress``
    """The line that a proxy writes."""
    name = "TCP4" if source.version == 4 else "TCP6"
    target = target or ("127.0.0.1" if source.version == 4 else "::1")
    return f"PROXY {name} {source} {target} {port} 443\r\n".encode()


def version_2(source: Any, port: int, more: bytes = b"", command: int = 0x21) -> bytes:  # Any: as above
    """The header that a proxy writes, with further fields behind the addresses."""
    family = 0x11 if source.version == 4 else 0x21
    body: bytes = source.packed + bytes(len(source.packed)) + port.to_bytes(2) + (443).to_bytes(2) + more
    return V2_SIGNATURE + bytes([command, family]) + len(body).to_bytes(2) + body


BEGINNINGS = [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", V2_SIGNATURE, V2_SIGNATURE + b"\x21\x11"]
HEADERS = st.builds(
    lambda form, source, port: (form(source, port), source, port),
    st.sampled_from([version_1, version_2]),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    PORTS,
)


class ParserTests(SynchronousTestCase):
    """``parse``."""

    @settings(max_examples=200, deadline=None)
    @given(HEADERS)
    def test_round_trip(self, header):
        """What a proxy writes is read back, and the rest of the stream is left."""
        data, source, port = header
        info = parse(data + REST)
        assert info is not None
        self.assertEqual((ipaddress.ip_address(info.host), info.port, info.size), (source, port, len(data)))

    @settings(max_examples=60, deadline=None)
    @given(HEADERS)
    def test_truncated(self, header):
        """Every beginning of a header, down to nothing, asks for more."""
        data, _, _ = header
        for end in range(len(data)):
            self.assertIsNone(parse(data[:end]), data[:end])

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(BEGINNINGS), st.binary(max_size=120))
    def test_garbage(self, begin, data):
        """Anything else is refused as a broken protocol, or asks for no more than the limit."""
        try:
            info = parse(begin + data)
        except RemoteProtocolError:
            return
        if info is None:
            self.assertLess(len(begin + data), V2_BYTES_MAX)
        else:
            self.assertLessEqual(info.size, len(begin + data))

    def test_unknown_and_local(self):
        """A proxy that speaks for itself, or does not know for whom, names no address."""
        self.assertEqual(parse(b"PROXY UNKNOWN\r\n" + REST), ProxyInfo(15))
        self.assertEqual(parse(b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n"), ProxyInfo(31))
        self.assertEqual(parse(V2_SIGNATURE + b"\x20\x00\x00\x00" + REST), ProxyInfo(16))
        self.assertEqual(parse(version_2(ipaddress.ip_address("192.0.2.1"), 5, command=0x20)), ProxyInfo(28))

    def test_other_families(self):
        """UDP and Unix sockets name no address that could be used."""
        for family, size in ((0x00, 0), (0x12, 12), (0x31, 216)):
            header = V2_SIGNATURE + bytes([0x21, family]) + size.to_bytes(2) + bytes(size)
            self.assertEqual(parse(header), ProxyInfo(16 + size))

    def test_further_fields(self):
        """Fields behind the addresses are skipped."""
        data = version_2(ipaddress.ip_address("192.0.2.1"), 5, b"\x03\x00\x04abcd")
        self.assertEqual(parse(data + REST), ProxyInfo(len(data), "192.0.2.1", 5))

    def test_limits(self):
        """A line is at most 107 bytes, a binary header 4096: one that is longer is refused before it has come."""
        self.assertIsNone(parse(b"PROXY UNKNOWN ".ljust(V1_BYTES_MAX - 1, b"x")))
        for data in (
            b"PROXY UNKNOWN ".ljust(V1_BYTES_MAX, b"x"),
            b"PROXY UNKNOWN ".ljust(V1_BYTES_MAX - 1, b"x") + b"\r\n",
            V2_SIGNATURE + b"\x21\x11" + (V2_BYTES_MAX - 15).to_bytes(2),
            V2_SIGNATURE + b"\x21\x11\xff\xff",
        ):
            self.assertRaises(RemoteProtocolError, parse, data)
        self.assertIsNone(parse(V2_SIGNATURE + b"\x21\x11" + (V2_BYTES_MAX - 16).to_bytes(2)))

    def test_refused(self):
        """Wrong words, addresses of the other family, numbers that are none, and headers too short for addresses."""
        for data in (
            b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY TCP4 ::1 1.2.3.4 1 2\r\n",
            b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 \xb2 2\r\n",
            b"PROXY TCP6 fe80::1%\x1b ::1 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY \xff\r\n",
            b"proxy UNKNOWN\r\n",
            V2_SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
            V2_SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
            V2_SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
            V2_SIGNATURE + b"\x21\x21\x00\x23" + bytes(35),
            b"GET / HTTP/1.1\r\n",
        ):
            self.assertRaises(RemoteProtocolError, parse, data)


class ListenerTests(SynchronousTestCase):
    """A listener whose connections come through a proxy."""

    HEADER = version_2(ipaddress.ip_address(CLIENT.host), CLIENT.port)

    def test_address(self):
        """The peer's address is the client's; the gate is asked for the proxy first, then for the client."""
        for header in (self.HEADER, version_1(ipaddress.ip_address(CLIENT.host), CLIENT.port)):
            door = Door(proxy_protocol=True)
            transport = door.connect(PROXY_HOST)
            transport.feed(header + binary_stream(publication("one")), step=5)
            self.assertEqual((door.gate.last.names, door.gate.last.peer.address), (["one"], CLIENT.host))
            self.assertEqual([host for host, _ in door.gate.asked], [PROXY_HOST.host, CLIENT.host])

    def test_local_is_the_clients(self):
        """A client through a proxy on this machine is not local; the proxy's own check is."""
        for header, local in ((self.HEADER, False), (b"PROXY UNKNOWN\r\n", True)):
            door = Door(proxy_protocol=True)
            door.connect(IPv4Address("TCP", "127.0.0.1", 5)).feed(header + binary_stream())
            self.assertEqual(door.gate.last.peer.local, local)

    def test_mapped(self):
        """An IPv4 client in IPv6 form is an IPv4 client."""
        door = Door(proxy_protocol=True)
        header = version_2(ipaddress.ip_address("::ffff:192.0.2.7"), 5)
        door.connect(PROXY_HOST).feed(header + binary_stream())
        self.assertEqual(door.gate.last.peer.address, "192.0.2.7")

    def test_refused_client(self):
        """A client that the gate refuses is closed, though the proxy may connect."""
        door = Door(proxy_protocol=True)
        door.gate.refuse[CLIENT.host] = kinds.UNAUTHORIZED
        transport = door.connect(PROXY_HOST)
        transport.feed(self.HEADER + binary_stream())
        self.assertEqual((transport.ended, door.gate.connections, door.entrance.refused), ("lost", [], 1))

    def test_missing_header(self):
        """Without a header nothing is served, and nobody's address is believed."""
        door = Door(proxy_protocol=True)
        transport = door.connect(PROXY_HOST)
        transport.feed(binary_stream())
        self.assertEqual((transport.ended, door.gate.connections), ("lost", []))

    def test_header_unasked(self):
        """A listener that expects no header takes none: a client cannot choose its address."""
        door = Door()
        transport = door.connect()
        transport.feed(self.HEADER + binary_stream())
        self.assertEqual((transport.ended, door.gate.connections), ("lost", []))

    def test_second_header(self):
        """A second header is no protocol."""
        door = Door(proxy_protocol=True)
        transport = door.connect(PROXY_HOST)
        transport.feed(self.HEADER * 2 + binary_stream())
        self.assertEqual((transport.ended, door.gate.connections), ("lost", []))

    def test_slow_header(self):
        """The header counts to the handshake time-out."""
        door = Door(proxy_protocol=True, timing=Timing(handshake_timeout_s=3.0))
        transport = door.connect(PROXY_HOST)
        for byte in self.HEADER[:12]:
            transport.feed(bytes([byte]))
            door.pass_time(0.4)
        self.assertEqual((transport.ended, door.entrance.open), ("aborted", 0))

    def test_http_and_websocket(self):
        """Pages and WebSockets see the client, too."""
        seen: list[str] = []

        class Who(Resource):
            """Notes whom it sees."""

            isLeaf = True

            def render_GET(self, request: Any) -> bytes:  # Any: twisted.web has no types
                """Note it."""
                seen.append(request.getClientAddress().host)
                return b""

        door = Door("http", "websocket", root=Who(), proxy_protocol=True)
        door.connect(PROXY_HOST).feed(self.HEADER + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        door.connect(PROXY_HOST).feed(self.HEADER + request_head() + websocket_frames(publication()))
        self.assertEqual((seen, door.gate.last.peer.address), ([CLIENT.host], CLIENT.host))
