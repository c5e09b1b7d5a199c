"""Password hashes: scrypt (RFC 7914), as one line of text.

    scrypt$N$r$p$salt$hash        N, r, p in decimal; salt and hash in base64

The cost is part of the line, so that it can rise without touching old lines. A line asks for 128·N·r bytes of memory
and for about 2·N·r·p·128 bytes of hashing; both are bounded, because lines come from a configuration that somebody may
have pasted together.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final

import attrs

# 32 MiB and three passes: the cost that OWASP's password cheat sheet gives for servers that hash several at once.
N_DEFAULT: Final = 2**15
R_DEFAULT: Final = 8
P_DEFAULT: Final = 3
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
SALT_BYTES_MIN: Final = 8
MEMORY_BYTES_MAX: Final = 256 * 1024 * 1024
WORK_MAX: Final = 2**24  # N·r·p
PASSWORD_BYTES_MAX: Final = 1024

_LINE: Final = re.compile(
    r"scrypt\$([1-9][0-9]{0,8})\$([1-9][0-9]{0,4})\$([1-9][0-9]{0,4})\$([A-Za-z0-9+/=]{1,128})\$([A-Za-z0-9+/=]{1,128})"
)


@attrs.frozen
class PasswordHash:
    """One parsed line."""

    n: int
    r: int
    p: int
    salt: bytes = attrs.field(repr=False)
    digest: bytes = attrs.field(repr=False)

    def line(self) -> str:
        """The line of the module's docstring."""
        salt, digest = base64.b64encode(self.salt).decode(), base64.b64encode(self.digest).decode()
        return f"scrypt${self.n}${self.r}${self.p}${salt}${digest}"

    def verify(self, password: str) -> bool:
        """Whether ``password`` is the one; takes tens to hundreds of milliseconds, so never in the reactor's thread."""
        found = _scrypt(password, self.salt, self.n, self.r, self.p, len(self.digest))
        return hmac.compare_digest(found, self.digest)

    def decoy(self) -> PasswordHash:
        """A hash of the same cost that no password has: what an unknown user's password is tried against."""
        return attrs.evolve(self, digest=bytes(len(self.digest)))


def hash_password(
    password: str, salt: bytes, n: int = N_DEFAULT, r: int = R_DEFAULT, p: int = P_DEFAULT
) -> PasswordHash:
    """``password`` hashed; ``salt`` is ``SALT_BYTES`` random bytes that the caller made. Raises ``ValueError``."""
    _check_cost(n, r, p)
    if len(salt) < SALT_BYTES_MIN:
        raise ValueError(f"a salt of {len(salt)} bytes, at least {SALT_BYTES_MIN} are expected")
    if not password or len(password.encode()) > PASSWORD_BYTES_MAX:
        raise ValueError(f"a password has 1 to {PASSWORD_BYTES_MAX} bytes")
    return PasswordHash(n, r, p, salt, _scrypt(password, salt, n, r, p, HASH_BYTES))


def parse(line: str) -> PasswordHash:
    """The hash written in ``line``. Raises ``ValueError`` with what is wrong, never with the line itself."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise ValueError("expected scrypt$N$r$p$salt$hash with salt and hash in base64")
    n, r, p = (int(each) for each in match.groups()[:3])
    _check_cost(n, r, p)
    try:
        salt, digest = (base64.b64decode(each, validate=True) for each in match.groups()[3:])
    except binascii.Error:
        raise ValueError("salt or hash is not base64") from None
    if len(salt) < SALT_BYTES_MIN or len(digest) < SALT_BYTES:
        raise ValueError("salt or hash is too short")
    return PasswordHash(n, r, p, salt, digest)


def _check_cost(n: int, r: int, p: int) -> None:
    if n < 2 or n & (n - 1):
        raise ValueError(f"N must be a power of two, it is {n}")
    if 128 * n * r > MEMORY_BYTES_MAX or n * r * p > WORK_MAX:
        raise ValueError("N, r and p ask for too much memory or time")


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
    # OpenSSL wants room for its own blocks beside the 128·N·r of the algorithm.
    memory = 128 * r * (n + p + 2) + 65_536
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=size
    )
