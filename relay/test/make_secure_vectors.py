"""Composes ``docs/secure-vectors.json`` from ``docs/secure.md`` alone: ``python -m relay.test.make_secure_vectors``.

Hashes, HKDF and nonces are written out here once more, with HMAC from the standard library, so that the vectors do not
come from the code that they test; curves and ciphers are the library's on both sides.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

FILE: Final = Path(__file__).parents[2] / "docs" / "secure-vectors.json"
LABEL: Final = b"relay secure channel 1: "


def expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand, RFC 5869 section 2.3, one block."""
    assert length <= 32
    return hmac.digest(secret, LABEL + label + b"\x01", "sha256")[:length]


def seal(suite: int, key: bytes, nonce: bytes, plain: bytes, extra: bytes) -> bytes:
    """AEAD of the suite."""
    return (AESGCM if suite == 1 else ChaCha20Poly1305)(key).encrypt(nonce, plain, extra)


def records(suite: int, secret: bytes, plains: list[bytes]) -> dict[str, Any]:
    """A stream (data, other keys, data, end) and datagrams (two of the first epoch, one of the second)."""
    stream, datagrams = b"", []
    key, iv = expand(secret, b"key", 32), expand(secret, b"iv", 12)
    secret = expand(secret, b"next", 32)
    later_key, later_iv = expand(secret, b"key", 32), expand(secret, b"iv", 12)

    def nonce(iv: bytes, number: int) -> bytes:
        return iv[:4] + bytes(a ^ b for a, b in zip(iv[4:], number.to_bytes(8), strict=True))

    steps = [(key, iv, 0, plains[0], 0), (key, iv, 1, b"\x01", 0x8000), (later_key, later_iv, 0, plains[1], 0)]
    for key_, iv_, number, plain, control in [*steps, (later_key, later_iv, 1, b"\x02", 0x8000)]:
        head = (len(plain) + 16 | control).to_bytes(2)
        stream += head + seal(suite, key_, nonce(iv_, number), plain, head)
    for key_, iv_, epoch, number, plain in [
        (key, iv, 0, 0, plains[0]),
        (key, iv, 0, 1, plains[1]),
        (later_key, later_iv, 1, 0, plains[0]),
    ]:
        head = bytes([epoch]) + number.to_bytes(7)
        datagrams.append((head + seal(suite, key_, nonce(iv_, number), plain, head + b"cid")).hex())
    return {
        "plain": [each.hex() for each in plains],
        "stream": stream.hex(),
        "context": b"cid".hex(),
        "datagrams": datagrams,
    }


def handshake(suite: int, offered: bytes, client_key: bytes) -> dict[str, Any]:
    """One handshake with fixed keys; ``client_key`` b'': the client proves nothing."""
    client_ephemeral, server_ephemeral, server_key = (hashlib.sha256(each).digest() for each in (b"ce", b"se", b"sk"))
    public = [
        X25519PrivateKey.from_private_bytes(each).public_key().public_bytes_raw()
        for each in (client_ephemeral, server_ephemeral)
    ]
    hello = bytes([1, len(offered)]) + offered + public[0]
    clear = bytes([1, suite]) + public[1]
    said = hashlib.sha256(len(hello).to_bytes(2) + hello + clear).digest()
    shared = X25519PrivateKey.from_private_bytes(client_ephemeral).exchange(
        X25519PublicKey.from_public_bytes(public[1])
    )
    secret = hmac.digest(said, shared, "sha256")

    def proof(key: bytes, role: bytes) -> bytes:
        private = Ed25519PrivateKey.from_private_bytes(key)
        return private.public_key().public_bytes_raw() + private.sign(LABEL + role + b"\0" + said)

    sealed = seal(suite, expand(secret, b"server proof" + said, 32), bytes(12), proof(server_key, b"server"), said)
    answer = clear + sealed
    said = hashlib.sha256(said + sealed).digest()
    own = proof(client_key, b"client") if client_key else b""
    finish = seal(suite, expand(secret, b"client proof" + said, 32), bytes(12), own, said)
    said = hashlib.sha256(said + finish).digest()
    client_secret, server_secret = (expand(secret, each + b" records" + said, 32) for each in (b"client", b"server"))
    return {
        "suite": suite,
        "client_ephemeral": client_ephemeral.hex(), "server_ephemeral": server_ephemeral.hex(),
        "server_key": server_key.hex(), "client_key": client_key.hex(), "offered": list(offered),
        "hello": hello.hex(), "answer": answer.hex(), "finish": finish.hex(),
        "client_secret": client_secret.hex(), "server_secret": server_secret.hex(),
        "from_client": records(suite, client_secret, [b"hello", bytes(range(40))]),
    }  # fmt: skip


def main() -> None:
    """Write the file."""
    key = hashlib.sha256(b"ck").digest()
    vectors = [handshake(1, b"\x01\x02", key), handshake(2, b"\x02", b""), handshake(1, b"\x02\x01\x09", b"")]
    FILE.write_text(json.dumps({"handshakes": vectors}, indent=1) + "\n")
    print(f"{FILE.name}: {len(vectors)} handshakes")


if __name__ == "__main__":
    main()
