"""JSON Web Tokens (RFC 7519) in compact form (RFC 7515): claims become an identity.

What is checked, in this order: size, form, algorithm (one of the configured, and the one of the key: a token's header
chooses among keys, never how a key is used; ``none`` does not exist here), no critical extensions, signature, then
issuer, audience, ``exp`` and ``nbf`` with ``leeway_s``. Until the signature is right the token may be another issuer's
and is left to the next authenticator; after that it is this one's, and accepted or refused for good.

    sub (user_claim) → user · realm → realm · permissions → permissions · subscriptions → subscriptions
    exp + leeway → expires_at · jti → token_id · device → device
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidSignatureError, PyJWTError
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IAgent
from zope.interface import implementer

from relay.config_auth import Jwt, Permit
from relay.core.auth import hs256
from relay.core.auth.grant import Declined, Grant, check_permit, converted, identity_of, refused, secret_text
from relay.core.auth.keys import FixedKeys, KeySource, RemoteKeys, VerifyKey, pem_key, secret_key
from relay.core.identity import Identity
from relay.errors import BadBody, BadName, ConfigError, Expired, Unauthenticated
from relay.interfaces import IAuthenticator, IPeer
from relay.wire.handshake import Hello

# Keys of one algorithm that are tried for a token without key id.
TRIED_MAX: Final = 4
# Headers that are remembered with what they say: an issuer writes one for each of its keys.
HEADERS_MAX: Final = 64
HEADER_LETTERS_MAX: Final = 512

Claims = dict[str, Any]  # Any: what the issuer says
_CLAIMS: Final = msgspec.json.Decoder(Claims)
_Found = Identity | Awaitable[Identity] | None


@implementer(IAuthenticator)
class JwtAuthenticator:
    """``unix_time`` gives Unix seconds."""

    def __init__(self, config: Jwt, keys: KeySource, unix_time: Callable[[], float]) -> None:
        check_permit(config.permissions, f"auth.jwt {config.name!r}")
        self.name = config.name
        self._config = config
        self._keys = keys
        self._unix_time = unix_time
        self._algorithms: tuple[str, ...] = config.algorithms
        self._jws = PyJWS(algorithms=self._algorithms)
        self._headers: dict[str, tuple[str, str]] = {}

    def stop(self) -> None:
        """End requests that are under way."""
        self._keys.stop()

    def authenticate(self, hello: Hello, peer: IPeer) -> _Found:
        """Takes a hello with a token; awaits only while keys are fetched."""
        token = hello.token
        if not token:
            return None
        algorithm, kid = self._header(token)
        keys = self._keys.find(kid, algorithm)
        if isinstance(keys, Sequence):
            return self._identify(token, keys, hello)
        return self._later(token, keys, hello)

    async def _later(self, token: str, keys: Awaitable[Sequence[VerifyKey]], hello: Hello) -> Identity:
        return self._identify(token, await keys, hello)

    def _header(self, token: str) -> tuple[str, str]:
        """Algorithm and key id that the token names."""
        if len(token) > self._config.token_bytes_max:
            raise Declined(f"a token of more than {self._config.token_bytes_max} bytes")
        # Fast path: the header of another token of the same issuer.
        header_text = hs256.header_of(token)
        if header_text is not None:
            known = self._headers.get(header_text)
            if known is not None:
                return known
        if token.count(".") != 2:
            raise Declined("not a JSON Web Token")
        try:
            header = self._jws.get_unverified_header(token)
        except (PyJWTError, ValueError, RecursionError):
            raise Declined("not a JSON Web Token") from None
        algorithm, kid = header.get("alg"), header.get("kid", "")
        if algorithm not in self._algorithms:
            raise Declined("the token's algorithm is not accepted")
        # RFC 7515 section 4.1.11: who does not understand an extension that is critical refuses the token.
        if "crit" in header or "b64" in header:
            raise Declined("the token has extensions that are not understood")
        found = str(algorithm), kid
        if header_text is not None and len(header_text) <= HEADER_LETTERS_MAX:
            if len(self._headers) >= HEADERS_MAX:
                self._headers.clear()
            self._headers[header_text] = found
        return found

    def _identify(self, token: str, keys: Sequence[VerifyKey], hello: Hello) -> Identity:
        claims = self._verified(token, keys)
        config = self._config
        if config.issuer and claims.get("iss") != config.issuer:
            raise Declined("the token is of another issuer")
        try:
            expires_at = self._check_times(claims)
            self._check_audience(claims)
            identity = self._identity(claims, expires_at)
        except (BadBody, BadName) as error:
            raise refused(error, "the token's claims") from None
        if hello.user and hello.user != identity.user:
            raise Unauthenticated("the token is for another user")
        return identity

    def _verified(self, token: str, keys: Sequence[VerifyKey]) -> Claims:
        """The claims, when one of ``keys`` signed them."""
        for key in keys[:TRIED_MAX]:
            try:
                # Fast path: a shared secret, and the usual form.
                payload = hs256.payload_of(token, key.key) if key.algorithm == "HS256" else None
                if payload is None:
                    payload = self._jws.decode_complete(token, key.key, algorithms=[key.algorithm])["payload"]
            except InvalidSignatureError:
                continue
            except (PyJWTError, ValueError, TypeError):
                raise Declined("not a JSON Web Token") from None
            try:
                return _CLAIMS.decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Unauthenticated("the token's claims are not a JSON object") from None
        raise Declined("the token's signature is not right" if keys else "the token's key is not known")

    def _check_times(self, claims: Claims) -> float | None:
        now, leeway_s = self._unix_time(), self._config.leeway_s
        not_before, expires = _claim(claims, "nbf", float | None, None), _claim(claims, "exp", float | None, None)
        for each in (not_before, expires):
            if each is not None and not math.isfinite(each):
                raise BadBody("a time that is no number")
        if not_before is not None and now < not_before - leeway_s:
            raise Unauthenticated("the token is not valid yet")
        if expires is None:
            return None
        if now >= expires + leeway_s:
            raise Expired("the token has expired")
        return float(expires + leeway_s)

    def _check_audience(self, claims: Claims) -> None:
        audience = claims.get("aud")
        wanted = self._config.audience
        given = audience if isinstance(audience, list) else [audience]
        if wanted and wanted not in given:
            raise Unauthenticated("the token is for another audience")

    def _identity(self, claims: Claims, expires_at: float | None) -> Identity:
        config = self._config
        user = claims.get(config.user_claim)
        if user is None or user == "":
            raise BadBody(f"{config.user_claim} is missing")
        permissions = claims.get(config.permissions_claim)
        grant = Grant(
            user=converted(user, str | int, config.user_claim),
            realm=_claim(claims, config.realm_claim, str, ""),
            device=_claim(claims, "device", str, ""),
            permissions=None if permissions is None else converted(permissions, Permit, config.permissions_claim),
            subscriptions=_claim(claims, config.subscriptions_claim, tuple[str, ...], ()),
            token_id=_claim(claims, "jti", str, ""),
        )
        return identity_of(grant, method=self.name, permit=config.permissions, expires_at=expires_at)


def _claim(claims: Claims, name: str, type_: Any, default: Any) -> Any:  # Any: a value of ``type_``
    """The claim as ``type_``, ``default`` when there is none. Raises ``BadBody``."""
    # Fast path: most tokens have few claims.
    return converted(claims[name], type_, name) if name in claims else default


def jwt_authenticator(
    config: Jwt, *, agent: IAgent | None, clock: IReactorTime, unix_time: Callable[[], float]
) -> JwtAuthenticator:
    """The authenticator for one entry of ``auth.jwt``. Raises ``ConfigError``; reads the key's file."""
    where = f"auth.jwt {config.name!r}"
    if sum((config.secret is not None, bool(config.public_key_file), bool(config.jwks_url))) != 1:
        raise ConfigError(f"{where}: exactly one of secret, public_key_file and jwks_url is needed")
    shared = "HS256" in config.algorithms
    keys: KeySource
    if config.secret is not None:
        if set(config.algorithms) != {"HS256"}:
            raise ConfigError(f"{where}: a secret is for HS256 only")
        keys = FixedKeys([secret_key(secret_text(config.secret, where), where)])
    elif shared:
        raise ConfigError(f"{where}: HS256 needs a secret; a public key must not be used as one")
    elif config.public_key_file:
        keys = FixedKeys([_file_key(config, where)])
    else:
        if agent is None:
            raise ConfigError(f"{where}: jwks_url needs an HTTP client")
        keys = RemoteKeys(
            config.jwks_url, agent=agent, clock=clock, cache_s=config.jwks_cache_s, timeout_s=config.jwks_timeout_s
        )
    return JwtAuthenticator(config, keys, unix_time)


def _file_key(config: Jwt, where: str) -> VerifyKey:
    try:
        pem = Path(config.public_key_file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {config.public_key_file}: {error.strerror}") from None
    key = pem_key(pem, where)
    if key.algorithm not in config.algorithms:
        raise ConfigError(f"{where}: {config.public_key_file} is a key for {key.algorithm}, which is not configured")
    return key
