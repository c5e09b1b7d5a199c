"""The PROXY protocol, versions 1 and 2: a proxy says first for whom it speaks.

Source: "The PROXY protocol", haproxy's doc/proxy-protocol.txt, sections 2.1 and 2.2.

Version 1 is a line of at most 107 bytes::

    PROXY TCP4|TCP6 source destination source-port destination-port CR LF
    PROXY UNKNOWN … CR LF

Version 2 is ``0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A`` · version and command u8 (20 LOCAL, 21 PROXY) · family and
transport u8 (11 TCP4, 21 TCP6, 31 Unix stream; others: no address) · length u16 · addresses · further fields, skipped.

Twisted has a wrapper for it (``twisted.protocols.haproxy``); it was not taken: it keeps two objects with dictionaries
for the life of each connection, and the host that it finds is known after the protocol was built and admitted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.address import IPv4Address, IPv6Address

from relay.errors import RemoteProtocolError
from relay.protocols.entrance import Arrival, Step, host_of, pass_on

V1_PREFIX: Final = b"PROXY "
V1_BYTES_MAX: Final = 107
V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEAD_BYTES: Final = 16
V2_BYTES_MAX: Final = 4096
"""A whole header; the format allows 64 KiB of further fields, proxies send a few hundred bytes."""

LOCAL: Final = 0x20
PROXY: Final = 0x21

FAMILIES: Final = {0x11: 4, 0x21: 16}
"""TCP over IPv4 and IPv6: bytes of one address."""


@attrs.frozen
class ProxyInfo:
    """A header of ``size`` bytes. ``host`` is '' when it names no address: that of the connection holds then."""

    size: int
    host: str = ""
    port: int = 0


def parse(data: bytes) -> ProxyInfo | None:
    """The header at the beginning of ``data``; None: more is needed. Raises ``RemoteProtocolError``."""
    if data[:12] == V2_SIGNATURE[: len(data)]:
        return _version_2(data)
    if data[:6] == V1_PREFIX[: len(data)]:
        return _version_1(data)
    raise RemoteProtocolError("no PROXY header")


def _version_1(data: bytes) -> ProxyInfo | None:
    end = data.find(b"\r\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise RemoteProtocolError("a PROXY line that is too long")
        return None
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyInfo(end + 2)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6") or b"%" in words[2]:
        raise RemoteProtocolError("a PROXY line that cannot be read")
    address_of = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source = address_of(words[2].decode("ascii"))
        address_of(words[3].decode("ascii"))
        port = _port(words[4])
        _port(words[5])
    except ValueError:
        raise RemoteProtocolError("a PROXY line that cannot be read") from None
    return ProxyInfo(end + 2, str(source), port)


def _port(word: bytes) -> int:
    if not word.isdigit() or (word[:1] == b"0" and len(word) > 1) or len(word) > 5 or int(word) > 65_535:
        raise ValueError(word)
    return int(word)


def _version_2(data: bytes) -> ProxyInfo | None:
    if len(data) < V2_HEAD_BYTES:
        return None
    command, family = data[12], data[13]
    size = V2_HEAD_BYTES + int.from_bytes(data[14:16])
    if command not in (LOCAL, PROXY):
        raise RemoteProtocolError("another version of the PROXY protocol, or an unknown command")
    if size > V2_BYTES_MAX:
        raise RemoteProtocolError("a PROXY header that is too long")
    width = FAMILIES.get(family)
    if command == PROXY and width is not None and size < V2_HEAD_BYTES + 2 * width + 4:
        raise RemoteProtocolError("a PROXY header that is too short for its addresses")
    if len(data) < size:
        return None
    if command == LOCAL or width is None:
        return ProxyInfo(size)
    source = data[V2_HEAD_BYTES : V2_HEAD_BYTES + width]
    ports_at = V2_HEAD_BYTES + 2 * width
    return ProxyInfo(size, str(ipaddress.ip_address(source)), int.from_bytes(data[ports_at : ports_at + 2]))


class ProxyHeader(Step):
    """Takes the header off the connection; the gate is asked again, with the address of the real client."""

    __slots__ = ("_following",)

    def __init__(self, arrival: Arrival, following: Callable[[Arrival], Step]) -> None:
        super().__init__(arrival)
        self._following = following

    def step(self) -> None:
        """Look for the whole header; anything else closes."""
        try:
            info = parse(self.data)
        except RemoteProtocolError:
            self.drop()
            return
        if info is None:
            return
        arrival = self.arrival
        if info.host:
            address = IPv6Address if ":" in info.host else IPv4Address
            arrival.remote = address("TCP", info.host, info.port)
            arrival.host = host_of(arrival.remote)
            entrance = arrival.entrance
            crowded = entrance.crowded(arrival.host)
            entrance.leave("")
            entrance.arrive(arrival.host)
            if crowded or arrival.entrance.gate.admit(arrival.host, arrival.entrance.name):
                self.refuse()
                return
        data, self.data = self.data[info.size :], b""
        pass_on(self.transport, self._following(arrival), data)
