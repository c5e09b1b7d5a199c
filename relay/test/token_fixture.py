"""Keys, tokens and key sets for the tests of authentication; the keys are made for each run."""

from __future__ import annotations

import base64
import functools
import json
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.config_auth import Jwt
from relay.core.auth.grant import Declined
from relay.core.auth.tokens import JwtAuthenticator, jwt_authenticator
from relay.core.identity import Identity
from relay.errors import RelayError, Unauthenticated
from relay.test.fakes_app import FakeAgent, FakePeer
from relay.wire.handshake import Hello

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0
URL = "https://issuer.example/keys"


@functools.cache
def private_key(kind: str) -> Any:  # Any: keys of several kinds
    """A key made for this run."""
    if kind == "RS256":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    """The public key of ``key`` in PEM."""
    found: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


ALGORITHMS: dict[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def jwk(kind: str, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public key of ``private_key(kind)`` as a JSON Web Key."""
    found: dict[str, Any] = json.loads(ALGORITHMS[kind].to_jwk(private_key(kind).public_key()))
    found.pop("key_ops", None)
    if kid is not None:
        found["kid"] = kid
    return {**found, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def sign(claims: dict[str, Any], kind: str = "HS256", key: Any = None, **headers: Any) -> str:
    """A token."""
    key = key or (SECRET if kind == "HS256" else private_key(kind))
    return jwt.encode(claims, key, kind, headers=headers or None)


def forge(header: dict[str, Any], claims: Any, signature: bytes = b"") -> str:
    """A token with whatever in it."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts)


def sign_raw(claims: Any) -> str:
    """A token whose claims PyJWT would not write."""
    return jwt.api_jws.PyJWS().encode(json.dumps(claims).encode(), SECRET, "HS256")


class TokenTestCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.agent = FakeAgent()
        self.peer = FakePeer()

    def authenticator(self, **config: Any) -> JwtAuthenticator:
        if not {"secret", "public_key_file", "jwks_url"} & set(config):
            config["secret"] = SECRET
        config.setdefault("algorithms", ("HS256",))
        return jwt_authenticator(Jwt(**config), agent=self.agent, clock=self.clock, unix_time=self.unix_time)

    def unix_time(self) -> float:
        return NOW + self.clock.seconds()

    def key_file(self, content: bytes) -> str:
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def identify(self, token: str, **config: Any) -> Identity:
        identity = self.authenticator(**config).authenticate(Hello(token=token), self.peer)
        assert isinstance(identity, Identity)
        return identity

    def refused(self, token: str, expected: type[RelayError] = Unauthenticated, **config: Any) -> str:
        """The sentence with which ``token`` is refused for good."""
        authenticator = self.authenticator(**config)
        error = self.assertRaises(expected, authenticator.authenticate, Hello(token=token), self.peer)
        self.assertNotIsInstance(error, Declined)
        return str(error)

    def declined(self, token: str, **config: Any) -> str:
        """The sentence with which ``token`` is left to others."""
        authenticator = self.authenticator(**config)
        return str(self.assertRaises(Declined, authenticator.authenticate, Hello(token=token), self.peer))
