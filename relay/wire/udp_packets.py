"""The datagrams of relay over UDP: their bytes, and the cookie that stands for state not kept.

Source: ``docs/udp.md``.

    01 hello   version u8 · nonce 8 · cookie 24 · n u16 · secure n · zeros
    02 retry   nonce 8 · cookie 24
    03 accept  nonce 8 · connection 8 · n u16 · secure n
    04 packet  connection 8 · content            05 finish  connection 8 · secure         06 gone  connection 8
"""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from relay.errors import RemoteProtocolError

HELLO: Final = 1
RETRY: Final = 2
ACCEPT: Final = 3
PACKET: Final = 4
FINISH: Final = 5
GONE: Final = 6

VERSION: Final = 1
NONCE_BYTES: Final = 8
CONNECTION_BYTES: Final = 8
HEAD_BYTES: Final = 1 + CONNECTION_BYTES
"""What stands in clear before a packet's content."""
HELLO_BYTES_MIN: Final = 256
"""A shorter hello is ignored, so that no answer is longer than what it answers."""
MTU_BYTES_DEFAULT: Final = 1200
"""Passes every path that carries QUIC (RFC 9000 section 14)."""
MTU_BYTES_MAX: Final = 65_507

SEAL_BYTES: Final = 24
"""By how much the secure channel makes a packet longer (``relay.wire.secure_records.OVERHEAD_BYTES``)."""

COOKIE_MAC_BYTES: Final = 16
COOKIE_BYTES: Final = COOKIE_MAC_BYTES + 8
COOKIE_S: Final = 10.0
"""How long a cookie is good: the round trip of a hello, repeated a few times."""
NO_COOKIE: Final = bytes(COOKIE_BYTES)


class Hello(msgspec.Struct, frozen=True):
    """A client's first datagram. ``secure``: its hello in the secure channel, b'' without."""

    nonce: bytes
    cookie: bytes = NO_COOKIE
    secure: bytes = b""


class Accept(msgspec.Struct, frozen=True):
    """The server's answer: there is a connection now."""

    nonce: bytes
    connection: bytes
    secure: bytes = b""


def encode_hello(hello: Hello, mtu_bytes: int = MTU_BYTES_DEFAULT) -> bytes:
    """Padded to the MTU: a path that does not carry it is noticed at once."""
    head = bytes((HELLO, VERSION)) + hello.nonce + hello.cookie + len(hello.secure).to_bytes(2) + hello.secure
    return head.ljust(max(mtu_bytes, HELLO_BYTES_MIN), b"\0")


def decode_hello(data: bytes) -> Hello:
    """Raises ``RemoteProtocolError`` for what is no hello of this version, or too short to be answered."""
    at = 2 + NONCE_BYTES
    length_at = at + COOKIE_BYTES
    if len(data) < HELLO_BYTES_MIN or data[0] != HELLO or data[1] < VERSION:
        raise RemoteProtocolError("no hello")
    secure_at = length_at + 2
    end = secure_at + int.from_bytes(data[length_at:secure_at])
    if end > len(data):
        raise RemoteProtocolError("a hello that is cut off")
    return Hello(data[2:at], data[at:length_at], data[secure_at:end])


def encode_retry(nonce: bytes, cookie: bytes) -> bytes:
    """The answer to a hello without a good cookie."""
    return bytes((RETRY,)) + nonce + cookie


def decode_retry(data: bytes) -> tuple[bytes, bytes]:
    """Nonce and cookie. Raises ``RemoteProtocolError``."""
    if len(data) != 1 + NONCE_BYTES + COOKIE_BYTES:
        raise RemoteProtocolError("no retry")
    return data[1 : 1 + NONCE_BYTES], data[1 + NONCE_BYTES :]


def encode_accept(accept: Accept) -> bytes:
    """The answer to a hello with a good cookie."""
    return bytes((ACCEPT,)) + accept.nonce + accept.connection + len(accept.secure).to_bytes(2) + accept.secure


def decode_accept(data: bytes) -> Accept:
    """Raises ``RemoteProtocolError``."""
    at = 1 + NONCE_BYTES
    length_at = at + CONNECTION_BYTES
    secure_at = length_at + 2
    secure = data[secure_at:]
    if len(data) < secure_at or len(secure) != int.from_bytes(data[length_at:secure_at]):
        raise RemoteProtocolError("no accept")
    return Accept(data[1:at], data[at:length_at], secure)


class Cookies:
    """Proof that an address was reached, kept by that address. ``secret``: 32 random bytes of this process.

    ``address`` is whatever bytes name the sender; ``now`` is monotonic, in seconds.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, address: bytes, nonce: bytes, now: float) -> bytes:
        """A cookie for who sent ``nonce`` from ``address``."""
        at = int(now * 1000).to_bytes(8)
        return self._mac(address, nonce, at) + at

    def good(self, cookie: bytes, address: bytes, nonce: bytes, now: float) -> bool:
        """Whether it was made for them, not longer than ``COOKIE_S`` ago."""
        mac, at = cookie[:COOKIE_MAC_BYTES], cookie[COOKIE_MAC_BYTES:]
        age_s = now - int.from_bytes(at) / 1000
        return -1 <= age_s <= COOKIE_S and hmac.compare_digest(mac, self._mac(address, nonce, at))

    def _mac(self, address: bytes, nonce: bytes, at: bytes) -> bytes:
        return hmac.digest(self._secret, nonce + at + address, "sha256")[:COOKIE_MAC_BYTES]
