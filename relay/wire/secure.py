"""The handshake of the secure channel: authenticated keys for connections that have no TLS.

Source: ``docs/secure.md``, which has the bytes. Two messages and a last one; then records (``secure_records``)::

    client                                                server
      hello  version, suites, ephemeral ───────────────▶
             ◀─────────────────────────────────────────── version, suite, ephemeral, {identity, signature}
      finish {nothing | identity, signature} ──────────▶
             ◀═══════════════ records ═════════════════▶

``{…}`` is sealed. Everything that was said before goes into each signature and each key: who changes a byte, takes a
suite out of the list or plays an old message again ends with keys that fit nobody's.

- ephemeral keys are X25519 (RFC 7748), identities Ed25519 (RFC 8032), keys derived by HKDF-SHA256 (RFC 5869);
- the server is known by its identity: pinned, or taken at first use and compared ever after (``Trust``);
- a client may prove an identity of its own; the signature covers the server's, so it is good for this server only.

No randomness here: ephemeral keys come in as 32 random bytes, each good for one handshake.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from relay.errors import RemoteProtocolError, Unauthenticated

PREFACE: Final = b"\xd2RLS"
"""The first bytes of a stream that goes on with the handshake."""
VERSION: Final = 1
AES_256_GCM: Final = 1
CHACHA20_POLY1305: Final = 2
SUITES: Final[dict[int, type[AESGCM] | type[ChaCha20Poly1305]]] = {
    AES_256_GCM: AESGCM,
    CHACHA20_POLY1305: ChaCha20Poly1305,
}
"""Suites by number, the preferred one first."""
MESSAGE_BYTES_MAX: Final = 1024
"""A longer handshake message is refused: what the future adds has to fit."""

KEY_BYTES: Final = 32
IV_BYTES: Final = 12
TAG_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64
PROOF_BYTES: Final = KEY_BYTES + SIGNATURE_BYTES
SERVER_HELLO_BYTES: Final = 2 + KEY_BYTES + PROOF_BYTES + TAG_BYTES
_ONCE: Final = bytes(IV_BYTES)
"""Nonce of a key that seals one message."""
_SERVER_PROOF: Final = b"relay secure channel 1: server\0"
_CLIENT_PROOF: Final = b"relay secure channel 1: client\0"

Suite = AESGCM | ChaCha20Poly1305
Trust = Callable[[bytes], bool]
"""Whether the server with this identity (32 bytes, an Ed25519 public key) is the one that was meant."""


class WrongIdentity(Unauthenticated):
    """The other side proved an identity that is not the one expected: perhaps somebody is in between."""


class ChannelKeys(msgspec.Struct, frozen=True):
    """What both sides have after the handshake. ``peer``: the other side's identity, b'' for an anonymous client."""

    suite: int
    sending: bytes
    receiving: bytes
    peer: bytes


def fingerprint(identity: bytes) -> str:
    """An identity as people compare it: ``SHA256:`` and 43 letters, as OpenSSH writes keys."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(identity).digest()).decode().rstrip("=")


def public_identity(private: bytes) -> bytes:
    """The identity (public key) of a private key of 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def private_identity(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of a private key, as the functions here take it."""
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 section 2.3); ``secret`` is uniformly random already."""
    return HKDFExpand(SHA256(), length, b"relay secure channel 1: " + label).derive(secret)


def ephemeral_public(private: bytes) -> bytes:
    """The public part (32 bytes) of an ephemeral key: X25519."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def agree(private: bytes, public: bytes, salt: bytes) -> bytes:
    """The secret that two ephemeral keys give: HKDF-Extract (RFC 5869 section 2.2) of what X25519 gives, with ``salt``.

    Raises ``RemoteProtocolError`` for a point of low order: the secret would be the same for everybody.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise RemoteProtocolError("secure channel: an ephemeral key that no key exchange gives") from None
    return hmac.digest(salt, shared, "sha256")


class _Schedule:
    """The transcript's hash and the keys that follow from it and the shared secret."""

    __slots__ = ("secret", "suite", "transcript")

    def __init__(self, suite: int, private: bytes, public: bytes, hello: bytes, answer: bytes) -> None:
        self.suite = suite
        self.transcript = hashlib.sha256(len(hello).to_bytes(2) + hello + answer).digest()
        self.secret = agree(private, public, self.transcript)

    def seal(self, label: bytes, plain: bytes) -> bytes:
        """``plain`` under a key of its own, bound to all that was said; it is part of the transcript then."""
        sealed = self._cipher(label).encrypt(_ONCE, plain, self.transcript)
        self._said(sealed)
        return sealed

    def open(self, label: bytes, sealed: bytes) -> bytes:
        """The opposite. Raises ``RemoteProtocolError``."""
        try:
            plain = self._cipher(label).decrypt(_ONCE, sealed, self.transcript)
        except InvalidTag:
            raise RemoteProtocolError("secure channel: the handshake was changed on its way") from None
        self._said(sealed)
        return plain

    def _cipher(self, label: bytes) -> Suite:
        return SUITES[self.suite](expand(self.secret, label + self.transcript, KEY_BYTES))

    def _said(self, sealed: bytes) -> None:
        self.transcript = hashlib.sha256(self.transcript + sealed).digest()

    def records(self, label: bytes) -> bytes:
        """The first secret of one direction's records."""
        return expand(self.secret, label + self.transcript, KEY_BYTES)


def _prove(private: bytes, context: bytes, transcript: bytes) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(private)
    return public_identity(private) + key.sign(context + transcript)


def _proved(proof: bytes, context: bytes, transcript: bytes) -> bytes:
    """The identity that ``proof`` proves. Raises ``RemoteProtocolError``."""
    identity, signature = proof[:KEY_BYTES], proof[KEY_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, context + transcript)
    except (InvalidSignature, ValueError):
        raise RemoteProtocolError("secure channel: a proof of identity that is none") from None
    return identity


class ClientHandshake:
    """The client's side: ``hello`` goes out, the answer goes into ``receive``, which gives the last message.

    ``ephemeral``: 32 fresh random bytes. ``trust`` judges the server's identity. ``private``: the client's own
    identity, b'' for none. ``keys`` is there after ``receive``.
    """

    __slots__ = ("_ephemeral", "_private", "_suites", "_trust", "hello", "keys")

    def __init__(
        self, ephemeral: bytes, trust: Trust, private: bytes = b"", suites: Sequence[int] = tuple(SUITES)
    ) -> None:
        self._ephemeral = ephemeral
        self._trust = trust
        self._private = private
        self._suites = suites
        self.hello = bytes((VERSION, len(suites), *suites)) + ephemeral_public(ephemeral)
        self.keys: ChannelKeys | None = None

    def receive(self, answer: bytes) -> bytes:
        """The message that ends the handshake. Raises ``RemoteProtocolError`` or ``WrongIdentity``."""
        if len(answer) != SERVER_HELLO_BYTES:
            raise RemoteProtocolError(f"secure channel: an answer of {len(answer)} bytes")
        version, suite = answer[0], answer[1]
        if version != VERSION or suite not in self._suites:
            raise RemoteProtocolError(f"secure channel: version {version} and suite {suite} were not offered")
        clear = 2 + KEY_BYTES
        schedule = _Schedule(suite, self._ephemeral, answer[2:clear], self.hello, answer[:clear])
        said = schedule.transcript
        peer = _proved(schedule.open(b"server proof", answer[clear:]), _SERVER_PROOF, said)
        if not self._trust(peer):
            raise WrongIdentity(f"the server's key is {fingerprint(peer)}, which is not the one expected")
        proof = _prove(self._private, _CLIENT_PROOF, schedule.transcript) if self._private else b""
        finish = schedule.seal(b"client proof", proof)
        self.keys = ChannelKeys(suite, schedule.records(b"client records"), schedule.records(b"server records"), peer)
        return finish


class ServerHandshake:
    """The server's side: the hello goes into ``receive``, which gives the answer; the last message into ``finish``.

    ``private``: the server's identity, 32 bytes. ``ephemeral``: 32 fresh random bytes. ``suites``: what it takes, the
    preferred one first.
    """

    __slots__ = ("_ephemeral", "_private", "_schedule", "_suites")

    def __init__(self, private: bytes, ephemeral: bytes, suites: Sequence[int] = tuple(SUITES)) -> None:
        self._private = private
        self._ephemeral = ephemeral
        self._suites = suites
        self._schedule: _Schedule | None = None

    def receive(self, hello: bytes) -> bytes:
        """The answer to a client's hello. Raises ``RemoteProtocolError``."""
        if not 2 <= len(hello) <= MESSAGE_BYTES_MAX or hello[0] < VERSION:
            raise RemoteProtocolError("secure channel: no hello of a version that is spoken here")
        key_at = 2 + hello[1]
        offered, public = hello[2:key_at], hello[key_at : key_at + KEY_BYTES]
        if len(public) != KEY_BYTES:
            raise RemoteProtocolError("secure channel: a hello without its key")
        suite = next((each for each in self._suites if each in offered), 0)
        if not suite:
            raise RemoteProtocolError("secure channel: none of the client's suites is spoken here")
        clear = bytes((VERSION, suite)) + ephemeral_public(self._ephemeral)
        schedule = self._schedule = _Schedule(suite, self._ephemeral, public, hello, clear)
        return clear + schedule.seal(b"server proof", _prove(self._private, _SERVER_PROOF, schedule.transcript))

    def finish(self, message: bytes) -> ChannelKeys:
        """The keys, once the client has shown that it has them too. Raises ``RemoteProtocolError``."""
        schedule = self._schedule
        assert schedule is not None
        said = schedule.transcript
        proof = schedule.open(b"client proof", message)
        if proof and len(proof) != PROOF_BYTES:
            raise RemoteProtocolError(f"secure channel: a proof of {len(proof)} bytes")
        peer = _proved(proof, _CLIENT_PROOF, said) if proof else b""
        return ChannelKeys(
            schedule.suite, schedule.records(b"server records"), schedule.records(b"client records"), peer
        )
