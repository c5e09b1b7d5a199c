"""JSON Web Tokens: what is believed, and everything that is not."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from relay.config_auth import Jwt, Permit
from relay.core.auth.keys import pem_key
from relay.core.auth.tokens import jwt_authenticator
from relay.core.identity import Identity
from relay.errors import ConfigError, Expired, Unauthenticated
from relay.interfaces import IAuthenticator
from relay.test.token_fixture import NOW, SECRET, URL, TokenTestCase, forge, pem, private_key, sign, sign_raw
from relay.wire.handshake import Hello


class ClaimsTests(TokenTestCase):
    """From claims to an identity."""

    def test_all_claims(self):
        """User, realm, device, permissions, subscriptions, expiry and token id come from the claims."""
        identity = self.identify(
            sign(
                {
                    "sub": "ann",
                    "realm": "tenant",
                    "device": "phone",
                    "jti": "t-1",
                    "exp": NOW + 60,
                    "permissions": {"publish": ["room.*", "{user}.**"]},
                    "subscriptions": ["news", "user.ann"],
                }
            )
        )
        self.assertEqual((identity.user, identity.realm, identity.device), ("ann", "tenant", "phone"))
        self.assertEqual((identity.token_id, identity.expires_at, identity.method), ("t-1", NOW + 65, "jwt"))
        self.assertEqual(identity.subscriptions, ("news", "user.ann"))
        self.assertTrue(identity.permissions.allows("publish", "room.1"))
        self.assertTrue(identity.permissions.allows("publish", "ann.x"))
        self.assertFalse(identity.permissions.allows("publish", "x"))
        self.assertFalse(identity.permissions.allows("subscribe", "room.1"))

    def test_defaults(self):
        """A token with a user only: the configured permissions, no expiry, the listener's realm."""
        identity = self.identify(sign({"sub": 17}), permissions=Permit(call=("a",)))
        self.assertEqual((identity.user, identity.realm, identity.expires_at), ("17", "", None))
        self.assertTrue(identity.permissions.allows("call", "a"))
        self.assertFalse(identity.permissions.allows("publish", "a"))

    def test_other_claims(self):
        """The names of the claims are configured."""
        token = sign({"uid": "ann", "org": "o", "may": {"call": ["x"]}, "chans": ["c"], "permissions": ["read:x"]})
        identity = self.identify(
            token, user_claim="uid", realm_claim="org", permissions_claim="may", subscriptions_claim="chans"
        )
        self.assertEqual((identity.user, identity.realm, identity.subscriptions), ("ann", "o", ("c",)))
        self.assertTrue(identity.permissions.allows("call", "x"))

    def test_claims_that_cannot_be_used(self):
        """Signed claims of a wrong type or outside the grammar refuse the session, with the claim's name."""
        for claims, named in [
            ({}, "sub"),
            ({"sub": ""}, "sub"),
            ({"sub": ["ann"]}, "sub"),
            ({"sub": True}, "sub"),
            ({"sub": "a\nb"}, "user"),
            ({"sub": "x" * 256}, "user"),
            ({"sub": "ann", "realm": 5}, "realm"),
            ({"sub": "ann", "realm": "a\x7f"}, "realm"),
            ({"sub": "ann", "permissions": ["read"]}, "permissions"),
            ({"sub": "ann", "permissions": {"publsh": ["a"]}}, "permissions"),
            ({"sub": "ann", "permissions": {"publish": ["a.**.b"]}}, "**"),
            ({"sub": "ann", "permissions": {"publish": ["a"] * 1001}}, "patterns"),
            ({"sub": "ann", "subscriptions": "news"}, "subscriptions"),
            ({"sub": "ann", "subscriptions": [""]}, "name"),
            ({"sub": "ann", "exp": "soon"}, "exp"),
            ({"sub": "ann", "nbf": "soon"}, "nbf"),
            ({"sub": "ann", "jti": 5}, "jti"),
        ]:
            token = sign_raw(claims)
            self.assertIn(named, self.refused(token, token_bytes_max=100_000), claims)

    def test_claims_that_are_no_object(self):
        """A signed payload that is no JSON object is refused."""
        for payload in (b"[]", b"5", b"{", b"\xff", b"[" * 100_000):
            token = jwt.api_jws.PyJWS().encode(payload, SECRET, "HS256")
            self.assertIn("JSON object", self.refused(token, token_bytes_max=1_000_000))

    def test_other_user(self):
        """A hello that names another user than the token is refused."""
        authenticator = self.authenticator()
        hello = Hello(user="bob", token=sign({"sub": "ann"}))
        self.assertRaises(Unauthenticated, authenticator.authenticate, hello, self.peer)
        hello = Hello(user="ann", token=sign({"sub": "ann"}))
        self.assertIsInstance(authenticator.authenticate(hello, self.peer), Identity)

    def test_no_token(self):
        """A hello without token is somebody else's."""
        self.assertIsNone(self.authenticator().authenticate(Hello(user="ann", password="x"), self.peer))
        verifyObject(IAuthenticator, self.authenticator())


class TimesTests(TokenTestCase):
    """exp, nbf, aud and iss."""

    def test_expired(self):
        """A token is good until ``exp`` and ``leeway_s``, and ``Expired`` from then on."""
        token = sign({"sub": "ann", "exp": NOW + 10})
        self.assertEqual(self.identify(token).expires_at, NOW + 15)
        self.clock.advance(14.5)
        self.assertEqual(self.identify(token).expires_at, NOW + 15)
        self.clock.advance(0.5)
        self.assertIn("expired", self.refused(token, Expired))

    def test_not_yet(self):
        """A token is good from ``nbf`` less ``leeway_s`` on."""
        token = sign({"sub": "ann", "nbf": NOW + 10})
        self.assertIn("not valid yet", self.refused(token))
        self.clock.advance(5)
        self.identify(token)

    def test_times_that_are_no_numbers(self):
        """An infinite expiry is refused."""
        for value in ("1e999", "-1e999"):
            payload = b'{"sub":"ann","exp":' + value.encode() + b"}"
            self.refused(jwt.api_jws.PyJWS().encode(payload, SECRET, "HS256"))

    def test_audience(self):
        """With an audience configured, the token must be for it, alone or among others."""
        for audience in ("relay", ["other", "relay"]):
            self.identify(sign({"sub": "ann", "aud": audience}), audience="relay")
            self.identify(sign({"sub": "ann", "aud": audience}))
        for claims in ({"aud": "other"}, {"aud": ["other"]}, {}, {"aud": {"relay": 1}}, {"aud": "relay2"}):
            self.assertIn("audience", self.refused(sign_raw({"sub": "ann", **claims}), audience="relay"))

    def test_issuer(self):
        """A token of another issuer is left to the next authenticator."""
        self.identify(sign({"sub": "ann", "iss": "me"}), issuer="me")
        for claims in ({"iss": "you"}, {}, {"iss": ["me"]}):
            self.assertIn("issuer", self.declined(sign_raw({"sub": "ann", **claims}), issuer="me"))


class SignatureTests(TokenTestCase):
    """Who may sign, and how."""

    def test_all_algorithms(self):
        """The four algorithms verify with their keys, from a file or as a secret."""
        self.assertEqual(self.identify(sign({"sub": "ann"})).user, "ann")
        for kind in ("RS256", "ES256", "EdDSA"):
            file = self.key_file(pem(private_key(kind)))
            token = sign({"sub": "ann"}, kind)
            self.assertEqual(self.identify(token, algorithms=(kind,), public_key_file=file).user, "ann")

    def test_wrong_key(self):
        """A token that another key signed is left to the next authenticator, and ends nowhere."""
        self.assertIn("signature", self.declined(sign({"sub": "ann"}, key="x" * 32)))
        file = self.key_file(pem(ec.generate_private_key(ec.SECP256R1())))
        self.assertIn(
            "signature", self.declined(sign({"sub": "a"}, "ES256"), algorithms=("ES256",), public_key_file=file)
        )

    def test_none(self):
        """``alg`` none does not exist, in whatever spelling and with whatever signature."""
        for name in ("none", "None", "NONE", "nOnE", "", None, 5, ["HS256"]):
            for signature in (b"", b"x"):
                self.assertIn("not", self.declined(forge({"typ": "JWT", "alg": name}, {"sub": "root"}, signature)))
        self.declined(forge({"typ": "JWT"}, {"sub": "root"}))

    def test_confusion(self):
        """A public key is never used as a shared secret: HS256 over its PEM is refused."""
        public = pem(private_key("RS256"))
        file = self.key_file(public)
        for secret in (public, public.strip(), public.replace(b"\n", b"\r\n")):
            mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
            signed = forge({"alg": "HS256", "typ": "JWT"}, {"sub": "root"}).rstrip(".")
            signature = base64.urlsafe_b64encode(mac.sign(signed.encode(), secret)).decode().rstrip("=")
            text = self.declined(f"{signed}.{signature}", algorithms=("RS256",), public_key_file=file)
            self.assertIn("algorithm", text)

    def test_algorithm_not_configured(self):
        """A right signature by an algorithm that is not configured is not accepted."""
        token = jwt.encode({"sub": "ann"}, SECRET * 2, "HS512")
        self.assertIn("algorithm", self.declined(token, secret=SECRET * 2))
        token = jwt.encode({"sub": "ann"}, private_key("RS256"), "PS256")
        file = self.key_file(pem(private_key("RS256")))
        self.declined(token, algorithms=("RS256",), public_key_file=file)

    def test_header_chooses_among_keys_only(self):
        """With two algorithms and one key, a header that names the other algorithm finds no key."""
        file = self.key_file(pem(private_key("ES256")))
        config: Any = {"algorithms": ("ES256", "RS256"), "public_key_file": file}
        self.identify(sign({"sub": "ann"}, "ES256"), **config)
        self.assertIn("key", self.declined(sign({"sub": "ann"}, "RS256"), **config))

    def test_critical_extensions(self):
        """A token with extensions that must be understood, or a detached payload, is refused."""
        headers: dict[str, Any]
        for headers in ({"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"crit": []}):
            self.declined(forge({"alg": "HS256", **headers}, {"sub": "ann"}, b"x" * 32))

    def test_embedded_keys(self):
        """A key or an address of keys in the token's own header is not looked at."""
        mine = ed25519.Ed25519PrivateKey.generate()
        own = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(mine.public_key()))
        file = self.key_file(pem(private_key("EdDSA")))
        token = sign({"sub": "root"}, "EdDSA", mine, jwk=own, jku="http://192.0.2.1/", x5u="http://192.0.2.1/")
        self.assertIn("signature", self.declined(token, algorithms=("EdDSA",), public_key_file=file))
        self.assertEqual(self.agent.seen, [])

    def test_size(self):
        """A token over ``token_bytes_max`` is not looked at."""
        token = sign({"sub": "ann", "x": "x" * 8192})
        self.assertIn("more than 8192", self.declined(token))
        self.identify(token, token_bytes_max=20_000)

    def test_not_a_token(self):
        """Text of another form is left to the next authenticator."""
        for text in ("x", "a.b", "a.b.c", "...", "a.b.c.d", "e30.e30.", "é.é.é", "\ud800.\ud800.\ud800", forge({}, {})):
            self.declined(text)

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_changed_tokens(self, data: st.DataObject):
        """A token with any change is refused with a ``RelayError``, never accepted as somebody else's."""
        token = sign({"sub": "ann", "exp": NOW + 60})
        position = data.draw(st.integers(0, len(token) - 1))
        alphabet = st.sampled_from("ABCXYZabcxyz019-_.=+/ é")
        changed = token[:position] + data.draw(alphabet) + token[position + data.draw(st.integers(0, 1)) :]
        authenticator = self.authenticator()
        try:
            found = authenticator.authenticate(Hello(token=changed), self.peer)
        except Unauthenticated:
            return
        # The last characters of base64 hold bits that mean nothing.
        assert isinstance(found, Identity)
        self.assertEqual((found.user, found.expires_at), ("ann", NOW + 65))


class ConfigurationTests(TokenTestCase):
    """Mistakes that stop the start."""

    def test_mistakes(self):
        """Keys that do not fit, several or none, and short secrets are mistakes; no message shows a secret."""
        rsa_file = self.key_file(pem(private_key("RS256")))
        weak = self.key_file(pem(rsa.generate_private_key(65537, 1024)))
        other = self.key_file(pem(ed448.Ed448PrivateKey.generate()))
        private = self.key_file(
            private_key("ES256").private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        wrong: list[dict[str, Any]] = [
            {"algorithms": ("HS256",), "secret": "short"},
            {"algorithms": ("HS256",), "secret": pem(private_key("RS256")).decode()},
            {"algorithms": ("HS256", "RS256"), "secret": SECRET},
            {"algorithms": ("RS256",), "secret": SECRET},
            {"algorithms": ("HS256",), "public_key_file": rsa_file},
            {"algorithms": ("HS256", "RS256"), "public_key_file": rsa_file},
            {"algorithms": ("ES256",), "public_key_file": rsa_file},
            {"algorithms": ("RS256",), "public_key_file": rsa_file, "jwks_url": URL},
            {"algorithms": ("RS256",), "public_key_file": weak},
            {"algorithms": ("EdDSA",), "public_key_file": other},
            {"algorithms": ("ES256",), "public_key_file": private},
            {"algorithms": ("ES256",), "public_key_file": self.key_file(b"junk")},
            {"algorithms": ("ES256",), "public_key_file": "/nonexistent"},
            {"algorithms": ("HS256",), "jwks_url": URL},
            {"algorithms": ("HS256",), "secret": ""},
            {"algorithms": ("HS256",), "secret": SECRET, "permissions": Permit(call=("**.a",))},
        ]
        for config in wrong:
            error = self.assertRaises(ConfigError, self.authenticator, **config)
            self.assertIn("auth.jwt", str(error))
            self.assertNotIn(str(config.get("secret") or SECRET), str(error))
        for url in ("", URL):
            made = Jwt(algorithms=("RS256",), jwks_url=url)
            self.assertRaises(ConfigError, jwt_authenticator, made, agent=None, clock=self.clock, unix_time=lambda: NOW)

    def test_certificate(self):
        """A certificate's key is as good as a bare one."""
        key = private_key("RS256")
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
        day = datetime.datetime(2024, 1, 1)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(1))
        certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.assertEqual(pem_key(certificate, "x"), pem_key(pem(key), "x"))
