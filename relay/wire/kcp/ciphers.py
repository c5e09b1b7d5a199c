"""What makes a payload a datagram and back: the encryption of kcp-go, without its chance (nonces are arguments).

==============  ======================================================  ===============================================
name            datagram                                                note
==============  ======================================================  ===============================================
aes-256-gcm     nonce 12 | ciphertext | tag 16                          authenticated; relay's own clients use it
aes-128-gcm     the same with the first 16 bytes of the key             authenticated
aes, aes-256    nonce 16 | crc32 4 | payload, all of it in CFB          the four below protect from nobody who can
aes-128/-192    the same with the first 16 or 24 bytes of the key       change datagrams: a CRC is no authentication.
salsa20         the same, XOR with its stream from byte 8 on            For peers that have nothing else.
xor             the same, XOR with a fixed table                        hides nothing from anybody who looks twice
none            the same in clear
null            payload
==============  ======================================================  ===============================================

None of them keeps an old datagram from being sent again; KCP's numbers make it harmless to the stream. CRC and nonces
are little-endian and random. Source: xtaci/kcp-go ``crypt.go`` and ``sess.go``; keys: xtaci/kcptun ``client/main.go``.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.errors import ConfigError
from relay.wire.kcp.salsa20 import Salsa20
from relay.wire.kcp.segment import DATAGRAM_BYTES_MAX

CFB: Any  # Any: a class that moves between releases
try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # cryptography before 47
    from cryptography.hazmat.primitives.ciphers.modes import CFB

NONCE_BYTES: Final = 16
HEADER_BYTES: Final = 20
GCM_NONCE_BYTES: Final = 12
GCM_TAG_BYTES: Final = 16
KEY_BYTES: Final = 32

INITIAL_VECTOR: Final = bytes.fromhex("a7734f9c12ac1b01a415f2c1fc78e66b")
"""Fixed in kcp-go; the random nonce in front does what a vector is for."""
XOR_SALT: Final = b"sH3CIVoF#rWLtJo6"
XOR_ROUNDS: Final = 32
PASSWORD_SALT: Final = b"kcp-go"
PASSWORD_ROUNDS: Final = 4096

AUTHENTICATED: Final = ("aes-256-gcm", "aes-128-gcm")
CIPHERS: Final = (*AUTHENTICATED, "aes", "aes-256", "aes-192", "aes-128", "salsa20", "xor", "none", "null")
KEYLESS: Final = ("none", "null")


class DatagramCipher(Protocol):
    """``overhead``: bytes that it adds. ``nonce_bytes``: chance that ``seal`` needs, from a source of randomness."""

    overhead: int
    nonce_bytes: int
    authenticated: bool

    def seal(self, payload: bytes, nonce: bytes) -> bytes:
        """The datagram."""

    def open(self, datagram: bytes) -> bytes | None:
        """The payload; None for what was not made with this key, or was damaged."""


def key_of_password(password: str) -> bytes:
    """The 32 bytes that kcptun makes of a pass phrase (PBKDF2 with HMAC-SHA1)."""
    return hashlib.pbkdf2_hmac("sha1", password.encode(), PASSWORD_SALT, PASSWORD_ROUNDS, KEY_BYTES)


def key_of(secret: str) -> bytes:
    """A key of 32 bytes: ``hex:`` and its 64 digits, or else a pass phrase. Raises ``ConfigError``."""
    if not secret.startswith("hex:"):
        return key_of_password(secret)
    try:
        key = bytes.fromhex(secret[4:])
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"a key after hex: has {KEY_BYTES * 2} hexadecimal digits")
    return key


def cipher_of(name: str, key: bytes) -> DatagramCipher:
    """The cipher of that name with a key of 32 bytes (ignored by ``none`` and ``null``). Raises ``ConfigError``."""
    if name == "null":
        return Null()
    if name == "none":
        return Checked()
    if len(key) != KEY_BYTES:
        raise ConfigError(f"cipher {name} needs a key")
    if name in AUTHENTICATED:
        return Gcm(key if name == "aes-256-gcm" else key[:16])
    if name == "salsa20":
        return Salsa(key)
    if name == "xor":
        return Xor(key)
    sizes = {"aes": 32, "aes-256": 32, "aes-192": 24, "aes-128": 16}
    if name not in sizes:
        raise ConfigError(f"there is no cipher {name!r}")
    return AesCfb(key[: sizes[name]])


class Null:
    """No header, no check, in clear."""

    overhead = 0
    nonce_bytes = 0
    authenticated = False

    def seal(self, payload: bytes, nonce: bytes) -> bytes:
        """As it is."""
        return payload

    def open(self, datagram: bytes) -> bytes | None:
        """As it is."""
        return datagram


class Gcm:
    """AES-GCM: authenticated encryption."""

    overhead = GCM_NONCE_BYTES + GCM_TAG_BYTES
    nonce_bytes = GCM_NONCE_BYTES
    authenticated = True

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, payload: bytes, nonce: bytes) -> bytes:
        """Encrypt; a nonce must not come twice, so it is random: the key serves for 2^32 datagrams (SP 800-38D)."""
        return nonce + self._aead.encrypt(nonce, payload, None)

    def open(self, datagram: bytes) -> bytes | None:
        """Decrypt and check."""
        if len(datagram) < self.overhead:
            return None
        try:
            return self._aead.decrypt(datagram[:GCM_NONCE_BYTES], datagram[GCM_NONCE_BYTES:], None)
        except InvalidTag:
            return None


class Checked:
    """The header with a CRC, in clear. Subclasses encrypt all of it."""

    overhead = HEADER_BYTES
    nonce_bytes = NONCE_BYTES
    authenticated = False

    def seal(self, payload: bytes, nonce: bytes) -> bytes:
        """Encrypt."""
        return self.encrypted(nonce + zlib.crc32(payload).to_bytes(4, "little") + payload)

    def open(self, datagram: bytes) -> bytes | None:
        """Decrypt, and compare the CRC."""
        if len(datagram) < HEADER_BYTES:
            return None
        plain = self.decrypted(datagram)
        payload = plain[HEADER_BYTES:]
        if zlib.crc32(payload) != int.from_bytes(plain[NONCE_BYTES:HEADER_BYTES], "little"):
            return None
        return payload

    def encrypted(self, plain: bytes) -> bytes:
        """``plain`` on the wire."""
        return plain

    def decrypted(self, wire: bytes) -> bytes:
        """The opposite."""
        return wire


class AesCfb(Checked):
    """AES in full-block CFB with a fixed vector."""

    def __init__(self, key: bytes) -> None:
        self._cipher: Any = Cipher(algorithms.AES(key), CFB(INITIAL_VECTOR))  # Any: the mode is

    def encrypted(self, plain: bytes) -> bytes:
        """In CFB."""
        context = self._cipher.encryptor()
        return bytes(context.update(plain) + context.finalize())

    def decrypted(self, wire: bytes) -> bytes:
        """In CFB."""
        context = self._cipher.decryptor()
        return bytes(context.update(wire) + context.finalize())


class Salsa(Checked):
    """Salsa20; the first 8 bytes stay in clear and are its nonce."""

    def __init__(self, key: bytes) -> None:
        self._salsa = Salsa20(key)

    def encrypted(self, plain: bytes) -> bytes:
        """XOR with the stream."""
        nonce, rest = plain[:8], plain[8:]
        return nonce + _xored(rest, self._salsa.stream(nonce, len(rest)))

    def decrypted(self, wire: bytes) -> bytes:
        """The same."""
        return self.encrypted(wire)


class Xor(Checked):
    """XOR with a table made of the key."""

    def __init__(self, key: bytes) -> None:
        self._table = hashlib.pbkdf2_hmac("sha1", key, XOR_SALT, XOR_ROUNDS, DATAGRAM_BYTES_MAX)

    def encrypted(self, plain: bytes) -> bytes:
        """XOR; a datagram is no longer than the table."""
        return _xored(plain, self._table[: len(plain)])

    def decrypted(self, wire: bytes) -> bytes:
        """The same."""
        return self.encrypted(wire)


def _xored(left: bytes, right: bytes) -> bytes:
    size = min(len(left), len(right))
    return (int.from_bytes(left[:size], "little") ^ int.from_bytes(right, "little")).to_bytes(size, "little")
