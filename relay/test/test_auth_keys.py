"""The keys of tokens: JSON Web Key Sets, and the URL that they are fetched from."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay.core.auth.grant import Declined
from relay.core.auth.keys import (
    REFETCH_S_MIN,
    SET_BYTES_MAX,
    STALE_S_MAX,
    RemoteKeys,
    VerifyKey,
    algorithm_of,
    parse_set,
)
from relay.core.auth.tokens import TRIED_MAX
from relay.core.identity import Identity
from relay.errors import AuthUnavailable
from relay.test.token_fixture import ALGORITHMS, SECRET, URL, TokenTestCase, jwk, key_set, private_key, sign
from relay.wire.handshake import Hello


class KeySetTests(SynchronousTestCase):
    """JSON Web Key Sets."""

    def test_usable_keys(self):
        """Keys for signatures are taken, each with the algorithm that follows from it."""
        found = parse_set(key_set(jwk("RS256", "a"), jwk("ES256", "b", use="sig", alg="ES256"), jwk("EdDSA")))
        self.assertEqual([(key.algorithm, key.kid) for key in found], [("RS256", "a"), ("ES256", "b"), ("EdDSA", "")])

    def test_others_are_left_out(self):
        """Secrets, private keys, keys for encryption or another algorithm, and damaged ones are not used."""
        secret = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()}
        weak = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key()))
        private = json.loads(ALGORITHMS["ES256"].to_jwk(private_key("ES256")))
        for bad in [
            secret,
            weak,
            private,
            jwk("RS256", use="enc"),
            jwk("RS256", alg="RS512"),
            jwk("RS256", alg="HS256"),
            jwk("ES256", alg="none"),
            jwk("RS256", key_ops=["encrypt"]),
            jwk("RS256", key_ops="verify"),
            jwk("RS256", n="!"),
            jwk("RS256", n=5),
            jwk("ES256", x="AAAA"),
            jwk("ES256", crv="P-384"),
            jwk("EdDSA", crv="X25519"),
            {**jwk("EdDSA"), "kid": 5},
            {"kty": "RSA"},
            {},
            {"kty": ["RSA"]},
        ]:
            self.assertEqual(parse_set(key_set(bad)), [], bad)
            self.assertEqual(len(parse_set(key_set(bad, jwk("EdDSA")))), 1)
        self.assertIsNone(algorithm_of(object()))

    def test_no_set(self):
        """What is no key set is ``ValueError``; of a huge one a bounded number of keys is looked at."""
        for data in (b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [5]}', b"\xff", b"[" * 100_000):
            self.assertRaises(ValueError, parse_set, data)
        self.assertEqual(len(parse_set(key_set(*[jwk("EdDSA")] * 100))), 64)


class RemoteKeysTests(TokenTestCase):
    """Keys behind a URL."""

    def setUp(self):
        super().setUp()
        self.keys = RemoteKeys(URL, agent=self.agent, clock=self.clock, cache_s=300, timeout_s=5)

    def find(self, kid: str = "a", algorithm: str = "EdDSA") -> Any:
        found: Any = self.keys.find(kid, algorithm)
        return found if isinstance(found, (list, tuple)) else Deferred.fromCoroutine(found)

    def kids(self, found: Any) -> list[str]:
        return [key.kid for key in found]

    def fetched(self, *kids: str) -> None:
        """The first request was answered with these keys."""
        found = self.find(kids[0] if kids else "a")
        self.agent.answer(200, key_set(*(jwk("EdDSA", kid) for kid in kids)))
        self.successResultOf(found)

    def test_single_flight(self):
        """Many tokens wait for one request; its keys are used at once from then on."""
        waiting = [self.find() for _ in range(50)]
        self.assertEqual(len(self.agent.asked), 1)
        waiting[7].cancel()
        self.failureResultOf(waiting[7])
        self.assertEqual(self.agent.cancelled, 0)
        self.agent.answer(200, key_set(jwk("EdDSA", "a")))
        for each in waiting[:7] + waiting[8:]:
            self.assertEqual(self.kids(self.successResultOf(each)), ["a"])
        self.assertEqual(self.kids(self.find()), ["a"])
        self.assertEqual(self.keys.fetches, 1)

    def test_cache(self):
        """The set is asked for again when it is older than ``cache_s``, and the answer waited for."""
        self.fetched("a")
        self.clock.advance(299)
        self.assertEqual(self.kids(self.find()), ["a"])
        self.clock.advance(1)
        found = self.find()
        self.assertNoResult(found)
        self.agent.answer(200, key_set(jwk("EdDSA", "b")))
        self.assertEqual(self.successResultOf(found), [])
        self.assertEqual(self.kids(self.find("b")), ["b"])

    def test_stale_if_error(self):
        """When the request fails, the last set is used; it is not asked again for a while; not for ever either."""
        self.fetched("a")
        self.clock.advance(301)
        found = self.find()
        self.agent.answer(503, b"")
        self.assertEqual(self.kids(self.successResultOf(found)), ["a"])
        self.assertEqual(self.kids(self.find()), ["a"])
        self.assertEqual(self.keys.fetches, 2)
        self.clock.advance(STALE_S_MAX)
        found = self.find()
        self.agent.fail(OSError("no route"))
        self.failureResultOf(found, AuthUnavailable)
        self.assertRaises(AuthUnavailable, self.find)

    def test_first_request_fails(self):
        """Without any set nothing can be decided; the next request comes after ``REFETCH_S_MIN``."""
        found = self.find()
        self.agent.answer(200, b"junk")
        self.failureResultOf(found, AuthUnavailable)
        self.assertRaises(AuthUnavailable, self.find)
        self.clock.advance(REFETCH_S_MIN)
        self.fetched("a")
        self.assertEqual((self.keys.fetches, self.keys.failures), (2, 1))

    def test_unknown_key_id(self):
        """An unknown key id asks again, but not within ``REFETCH_S_MIN`` of the last request."""
        self.fetched("a")
        self.assertEqual(self.find("b"), [])
        self.clock.advance(REFETCH_S_MIN)
        found = self.find("b")
        self.assertEqual(self.kids(self.find("a")), ["a"], "known keys do not wait")
        also = self.find("b")
        self.agent.answer(200, key_set(jwk("EdDSA", "a"), jwk("EdDSA", "b")))
        for each in (found, also):
            self.assertEqual(self.kids(self.successResultOf(each)), ["b"])
        for number in range(100):
            self.assertEqual(self.find(f"made up {number}"), [])
        self.assertEqual(self.keys.fetches, 2)

    def test_unknown_key_id_and_no_answer(self):
        """Whether an unknown key is good cannot be told while the URL does not answer."""
        self.fetched("a")
        self.clock.advance(REFETCH_S_MIN)
        found = self.find("b")
        self.agent.answer(500, b"")
        self.failureResultOf(found, AuthUnavailable)

    def test_bounds(self):
        """No answer within the time-out, a set that is too large, an empty or broken one: all are failures."""
        for number, answer in enumerate(
            [
                lambda: self.clock.advance(5),
                lambda: self.agent.answer(200, b"x" * SET_BYTES_MAX, b"x", ends=False),
                lambda: self.agent.answer(200, key_set()),
                lambda: self.agent.answer(302, b""),
                lambda: self.agent.answer(200, b'{"keys', ends=True),
            ]
        ):
            found = self.find()
            answer()
            self.failureResultOf(found, AuthUnavailable)
            self.assertEqual(self.keys.failures, number + 1)
            self.clock.advance(REFETCH_S_MIN)
        self.assertEqual(self.agent.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self):
        """Stopping cancels the request; who waits is told that it cannot be decided."""
        found = self.find()
        self.keys.stop()
        self.failureResultOf(found, AuthUnavailable)
        self.assertEqual(self.agent.cancelled, 1)
        self.keys.stop()

    def test_authenticator(self):
        """A token's key is fetched once; later tokens are decided at once, unknown keys are declined."""
        authenticator = self.authenticator(algorithms=("EdDSA",), jwks_url=URL)
        first: Any = authenticator.authenticate(Hello(token=sign({"sub": "ann"}, "EdDSA", kid="a")), self.peer)
        waiting = Deferred.fromCoroutine(first)
        self.agent.answer(200, key_set(jwk("EdDSA", "a")))
        self.assertEqual(self.successResultOf(waiting).user, "ann")
        again = authenticator.authenticate(Hello(token=sign({"sub": "bob"}, "EdDSA", kid="a")), self.peer)
        assert isinstance(again, Identity)
        self.assertEqual(again.user, "bob")
        without = authenticator.authenticate(Hello(token=sign({"sub": "bob"}, "EdDSA")), self.peer)
        self.assertIsInstance(without, Identity)
        hello = Hello(token=sign({"sub": "ann"}, "EdDSA", kid="z"))
        self.assertRaises(Declined, authenticator.authenticate, hello, self.peer)
        authenticator.stop()

    def test_few_keys_are_tried(self):
        """For a token without key id a bounded number of keys is tried."""
        wrong = VerifyKey("EdDSA", ed25519.Ed25519PrivateKey.generate().public_key())
        right = VerifyKey("EdDSA", private_key("EdDSA").public_key())
        token = sign({"sub": "ann"}, "EdDSA")
        for before, accepted in [(TRIED_MAX - 1, True), (TRIED_MAX, False)]:
            authenticator = self.authenticator(algorithms=("EdDSA",), jwks_url=URL)
            keys = [wrong] * before + [right]
            authenticator._keys = _Keys(keys)
            if accepted:
                self.assertIsInstance(authenticator.authenticate(Hello(token=token), self.peer), Identity)
            else:
                self.assertRaises(Declined, authenticator.authenticate, Hello(token=token), self.peer)


class _Keys:
    def __init__(self, keys: list[VerifyKey]) -> None:
        self.keys = keys

    def find(self, kid: str, algorithm: str) -> list[VerifyKey]:
        return self.keys

    def stop(self) -> None:
        return None
