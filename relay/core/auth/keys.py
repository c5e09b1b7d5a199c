"""The keys that verify tokens: a shared secret, a file, or a JSON Web Key Set (RFC 7517) behind a URL.

Each key has exactly one algorithm, which follows from the key and never from the token:

    secret             HS256        RSA, 2048-8192 bits    RS256
    EC on P-256        ES256        Ed25519                EdDSA

A set behind a URL is fetched when it is first needed and again when it is older than ``cache_s``. There is one
request at a time, whoever waits for it. A token with an unknown key id asks once more, but not within
``REFETCH_S_MIN`` of the last request, so that made-up ids cost nothing. When a request fails, the last set stays good
for ``STALE_S_MAX``; without one nothing can be decided (``AuthUnavailable``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol

import attrs
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IAgent

from relay.core.auth.fetch import FetchFailed, fetch
from relay.errors import AuthUnavailable, ConfigError

SECRET_BYTES_MIN: Final = 32  # RFC 7518 section 3.2: a key of at least the size of the hash
RSA_BITS_MIN: Final = 2048  # RFC 7518 section 3.3
RSA_BITS_MAX: Final = 8192  # verifying takes milliseconds from here on
KEYS_MAX: Final = 64
SET_BYTES_MAX: Final = 262_144
REFETCH_S_MIN: Final = 5.0
STALE_S_MAX: Final = 86_400.0

log = Logger()


@attrs.frozen
class VerifyKey:
    """``algorithm``: the only one that the key is used with. ``kid`` "": any key id."""

    algorithm: str
    key: Any = attrs.field(repr=False)  # Any: bytes, or one of cryptography's public keys
    kid: str = ""


class KeySource(Protocol):
    """Where the keys of one issuer come from."""

    def find(self, kid: str, algorithm: str) -> Sequence[VerifyKey] | Awaitable[Sequence[VerifyKey]]:
        """The keys that may verify a token with that key id ("": none given) and algorithm; none: not known."""

    def stop(self) -> None:
        """End what is under way."""


def suitable(keys: Sequence[VerifyKey], kid: str, algorithm: str) -> list[VerifyKey]:
    """The keys among ``keys`` for that algorithm; with ``kid`` only those of that id or of none."""
    return [key for key in keys if key.algorithm == algorithm and (not kid or key.kid in ("", kid))]


class FixedKeys:
    """Keys that are there from the beginning."""

    def __init__(self, keys: Sequence[VerifyKey]) -> None:
        self._keys = tuple(keys)

    def find(self, kid: str, algorithm: str) -> Sequence[VerifyKey]:
        """As ``KeySource``."""
        return suitable(self._keys, kid, algorithm)

    def stop(self) -> None:
        """Nothing is under way."""


def secret_key(secret: str, where: str) -> VerifyKey:
    """A shared secret. Raises ``ConfigError`` when it is too short, or looks like a key that is public."""
    key = secret.encode()
    if len(key) < SECRET_BYTES_MIN:
        raise ConfigError(f"{where}: the secret has {len(key)} bytes, at least {SECRET_BYTES_MIN} are needed")
    if b"-----BEGIN" in key or key.startswith((b"ssh-", b"ecdsa-")):
        raise ConfigError(f"{where}: the secret is a key or certificate; use public_key_file")
    return VerifyKey("HS256", key)


def pem_key(pem: bytes, where: str) -> VerifyKey:
    """A public key, or the one of a certificate. Raises ``ConfigError``."""
    if b"PRIVATE KEY" in pem:
        raise ConfigError(f"{where}: a private key; the public one is enough, and safer")
    try:
        if b"BEGIN CERTIFICATE" in pem:
            key: object = x509.load_pem_x509_certificate(pem).public_key()
        else:
            key = load_pem_public_key(pem)
    except ValueError as error:
        raise ConfigError(f"{where}: no public key in PEM: {error}") from None
    algorithm = algorithm_of(key)
    if algorithm is None:
        raise ConfigError(f"{where}: an RSA key of 2048 bits or more, a P-256 or an Ed25519 key is expected")
    return VerifyKey(algorithm, key)


def algorithm_of(key: object) -> str | None:
    """The one algorithm of a public key; None for a key that is not used here."""
    if isinstance(key, RSAPublicKey) and RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256"
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    return None


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]  # Any: members differ by the kind of key (RFC 7517 section 4)


def parse_set(data: bytes) -> list[VerifyKey]:
    """The usable keys of a JSON Web Key Set; others (encryption, unknown kinds, secrets) are left out.

    Raises ``ValueError`` when it is no such set.
    """
    try:
        found = msgspec.json.decode(data, type=_Set).keys
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"no JSON Web Key Set: {error}") from None
    return [key for each in found[:KEYS_MAX] if (key := _parse_jwk(each)) is not None]


def _parse_jwk(jwk: dict[str, Any]) -> VerifyKey | None:  # Any: as above
    # A shared secret that anybody can fetch is none.
    if jwk.get("kty") not in ("RSA", "EC", "OKP") or jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops", ["verify"])
    kid = jwk.get("kid", "")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(kid, str) or "d" in jwk:
        return None
    try:
        key = PyJWK({name: value for name, value in jwk.items() if name != "alg"}).key
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    algorithm = algorithm_of(key)
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    return VerifyKey(algorithm, key, kid)


class RemoteKeys:
    """A key set behind a URL. ``clock`` gives seconds that only grow."""

    def __init__(self, url: str, *, agent: IAgent, clock: IReactorTime, cache_s: float, timeout_s: float) -> None:
        self._url = url
        self._agent = agent
        self._clock = clock
        self._cache_s = cache_s
        self._timeout_s = timeout_s
        self._keys: list[VerifyKey] | None = None
        self._fetched_at = 0.0
        self._asked_at: float | None = None
        self._waiting: list[Deferred[None]] | None = None
        self._flight: Deferred[None] | None = None
        self.fetches = 0
        self.failures = 0

    def find(self, kid: str, algorithm: str) -> Sequence[VerifyKey] | Awaitable[Sequence[VerifyKey]]:
        """As ``KeySource``; raises ``AuthUnavailable`` when there is no set and it is too early to ask again."""
        now = self._clock.seconds()
        if self._keys is not None and now - self._fetched_at < self._cache_s:
            keys = suitable(self._keys, kid, algorithm)
            if keys or (self._waiting is None and self._too_early(now)):
                return keys
        elif self._waiting is None and self._too_early(now):
            return self._known(kid, algorithm)
        return self._ask(kid, algorithm)

    def stop(self) -> None:
        """Cancel a request that is under way; who waits for it gets ``AuthUnavailable``."""
        if self._flight is not None:
            self._flight.cancel()

    def _too_early(self, now: float) -> bool:
        return self._asked_at is not None and now - self._asked_at < REFETCH_S_MIN

    def _known(self, kid: str, algorithm: str) -> list[VerifyKey]:
        """What the last set that came says, while it is not too old."""
        if self._keys is None or self._clock.seconds() - self._fetched_at > max(STALE_S_MAX, self._cache_s):
            raise AuthUnavailable("the keys for tokens cannot be fetched")
        return suitable(self._keys, kid, algorithm)

    async def _ask(self, kid: str, algorithm: str) -> list[VerifyKey]:
        failures = self.failures
        await self._fetched()
        keys = self._known(kid, algorithm)
        if not keys and self.failures != failures:
            raise AuthUnavailable("the key of the token is not known, and the keys cannot be fetched")
        return keys

    def _fetched(self) -> Deferred[None]:
        """Fires when the request that is under way, or else a new one, has ended; it never fails."""
        mine: Deferred[None] = Deferred(self._gone)
        if self._waiting is not None:
            self._waiting.append(mine)
            return mine
        self._waiting = [mine]
        self._asked_at = self._clock.seconds()
        self._flight = Deferred.fromCoroutine(self._fetch())
        self._flight.addErrback(lambda failure: log.failure("fetching keys failed", failure=failure))
        self._flight.addCallback(self._landed)
        return mine

    def _gone(self, who: Deferred[None]) -> None:
        """Somebody does not wait any more; the request goes on for the others."""
        if self._waiting is not None:
            self._waiting.remove(who)

    def _landed(self, _: object) -> None:
        waiting, self._waiting = self._waiting or [], None
        self._flight = None
        for each in waiting:
            each.callback(None)

    async def _fetch(self) -> None:
        self.fetches += 1
        try:
            status, body = await fetch(
                self._agent,
                self._clock,
                b"GET",
                self._url,
                headers={b"Accept": b"application/json"},
                body=None,
                timeout_s=self._timeout_s,
                bytes_max=SET_BYTES_MAX,
            )
            if status != 200:
                raise FetchFailed(f"status {status}")
            keys = parse_set(body)
            if not keys:
                raise FetchFailed("no usable key in the set")
        except CancelledError:
            self.failures += 1
            return
        except (FetchFailed, ValueError) as error:
            self.failures += 1
            log.warn("keys from {url} cannot be had: {error}", url=self._url, error=error)
            return
        self._keys = keys
        self._fetched_at = self._clock.seconds()
