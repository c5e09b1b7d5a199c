"""The files of the secure channel's keys (docs/secure.md): a node's or a client's own, and those of known servers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from relay.errors import ConfigError
from relay.wire.secure import private_identity

IDENTITY_FILE: Final = "identity.key"


def load_identity(data: Path) -> bytes:
    """The node's private key, 32 bytes, from ``identity.key`` in its data directory; made when it is not there.

    The file is PEM (PKCS 8), so ``openssl pkey`` reads it, and only its owner may. Raises ``ConfigError``.
    """
    file = data / IDENTITY_FILE
    try:
        if not file.exists():
            data.mkdir(parents=True, exist_ok=True)
            return write_identity(file)
    except OSError as error:
        raise ConfigError(f"{error.filename or file}: {error.strerror or error}") from None
    return read_identity(file)


def read_identity(file: Path) -> bytes:
    """The private key, 32 bytes, in a PEM file. Raises ``ConfigError``."""
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{error.filename or file}: {error.strerror or error}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{file}: no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file}: the key is none of the kind Ed25519")
    return private_identity(key)


def write_identity(file: Path) -> bytes:
    """Make a key and keep it in ``file``, readable by its owner only; its 32 private bytes. Raises ``OSError``."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    beside = file.with_name(file.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(pem)
        out.flush()
        os.fsync(out.fileno())
    beside.rename(file)
    return private_identity(key)


class KnownKeys(MutableMapping[str, str]):
    """Fingerprints of servers by address, for keys taken at first use: a JSON object in ``file``, written at each
    change. Raises ``ConfigError`` when the file holds something else or cannot be read or written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror or error}") from None
        except ValueError:
            raise ConfigError(f"{file}: no JSON object of addresses and fingerprints") from None
        if not isinstance(self._known, dict):
            raise ConfigError(f"{file}: no JSON object of addresses and fingerprints")

    def __getitem__(self, address: str) -> str:
        return self._known[address]

    def __setitem__(self, address: str, fingerprint: str) -> None:
        self._write({**self._known, address: fingerprint})

    def __delitem__(self, address: str) -> None:
        self._write({known: each for known, each in self._known.items() if known != address})

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def _write(self, known: dict[str, str]) -> None:
        beside = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(known, indent=1) + "\n")
            beside.rename(self._file)
        except OSError as error:
            raise ConfigError(f"{error.filename or self._file}: {error.strerror or error}") from None
        self._known = known
