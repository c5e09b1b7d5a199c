"""The short way to verify HS256 tokens beside its plain twin, PyJWT alone."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
from typing import Any
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.core.auth import hs256
from relay.core.auth.tokens import HEADERS_MAX, JwtAuthenticator
from relay.errors import RelayError
from relay.test.token_fixture import NOW, SECRET, TokenTestCase, forge, sign
from relay.wire.handshake import Hello

OTHER = "x" * 32
ALPHABET = "ABCXYZabcxyz0189-_.=+/ é\n"


def encoded(data: bytes, form: str) -> str:
    """base64 as issuers write it, or nearly so."""
    text = base64.urlsafe_b64encode(data).decode()
    if form == "padded":
        return text
    text = text.rstrip("=")
    if form == "long":
        return text + "A" * ((5 - len(text) % 4) % 4)  # a length that no bytes have
    if form == "loose" and len(text) % 4 in (2, 3):
        # The last letter has bits that mean nothing.
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        return text[:-1] + letters[letters.index(text[-1]) ^ 1]
    return text


def signed(header: bytes, payload: bytes, secret: str, forms: tuple[str, str, str]) -> str:
    """A token of these parts."""
    text = f"{encoded(header, forms[0])}.{encoded(payload, forms[1])}"
    mac = hmac.digest(secret.encode(), text.encode(), "sha256")
    return f"{text}.{encoded(mac, forms[2])}"


headers = st.one_of(
    st.sampled_from(
        [{"alg": "HS256"}, {"alg": "HS256", "typ": "JWT"}, {"alg": "HS256", "kid": "a"}, {"alg": "HS256", "kid": 5},
         {"alg": "HS256", "crit": ["b64"], "b64": False}, {"alg": "HS256", "b64": True}, {"alg": "none"},
         {"alg": "HS512"}, [], {}]
    ).map(json.dumps).map(str.encode),
    st.binary(max_size=8),
)  # fmt: skip
payloads = st.one_of(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "realm", "device", "jti", "permissions", "subscriptions", "x"]),
        st.sampled_from([None, "ann", "", 5, NOW + 60, NOW - 60, ["a"], [], {}, {"call": ["a"]}, True]),
    ).map(json.dumps).map(str.encode),
    st.binary(max_size=12),
)  # fmt: skip
FORMS = ("plain", "padded", "loose", "long")
forms = st.tuples(*[st.sampled_from(["plain", "plain", *FORMS])] * 3)
tokens: st.SearchStrategy[str] = st.builds(signed, headers, payloads, st.sampled_from([SECRET, SECRET, OTHER]), forms)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A token, or one with a letter changed, put in or left out."""
    token = draw(tokens)
    if draw(st.booleans()):
        return token
    place = draw(st.integers(0, len(token)))
    put: str = draw(st.sampled_from(["", *ALPHABET]))
    return token[:place] + put + token[place + draw(st.integers(0, 1)) :]


class HS256Tests(TokenTestCase):
    """The same tokens are believed, and refused with the same words."""

    def outcomes(self, authenticator: JwtAuthenticator, given: list[str]) -> list[Any]:
        """What becomes of each token, in this order."""
        found: list[Any] = []
        for token in given:
            try:
                identity: Any = authenticator.authenticate(Hello(token=token), self.peer)
            except RelayError as error:
                found.append((type(error), str(error)))
            else:
                names = ("user", "realm", "device", "expires_at", "token_id", "subscriptions", "method")
                found.append([getattr(identity, name) for name in names] + [identity.permissions.permit])
        return found

    @settings(max_examples=400, deadline=None)
    @given(st.lists(damaged(), min_size=1, max_size=4))
    @example([sign({"sub": "ann"}), sign({"sub": "ann"}, key=OTHER), sign({"sub": "bob"})])
    def test_as_its_plain_twin(self, given: list[str]) -> None:
        """Whatever comes, and whatever came before it: what PyJWT alone decides."""
        short = self.outcomes(self.authenticator(), given)
        with mock.patch.multiple(hs256, header_of=lambda token: None, payload_of=lambda token, secret: None):
            plain = self.outcomes(self.authenticator(), given)
        self.assertEqual(short, plain)

    def test_each_form_as_its_plain_twin(self) -> None:
        """The same for each way to write the three parts, with the right secret and a wrong one."""
        header, payload = b'{"alg":"HS256"}', b'{"sub":"ann"}'
        given = [
            signed(header + b" " * first, payload + b" " * second, secret, (one, two, three))
            for one, two, three in itertools.product(FORMS, repeat=3)
            for first, second in itertools.product(range(3), repeat=2)
            for secret in (SECRET, OTHER)
        ]
        short = self.outcomes(self.authenticator(), given)
        with mock.patch.multiple(hs256, header_of=lambda token: None, payload_of=lambda token, secret: None):
            self.assertEqual(short, self.outcomes(self.authenticator(), given))

    def test_usual_tokens_take_it(self) -> None:
        """A token as PyJWT writes it is verified without PyJWT; one that another secret signed is not."""
        token = sign({"sub": "ann"})
        self.assertEqual(hs256.payload_of(token, SECRET.encode()), b'{"sub":"ann"}')
        self.assertIsNone(hs256.payload_of(token, OTHER.encode()))

    def test_headers_are_bounded(self) -> None:
        """Made-up headers do not pile up, and long ones are not kept."""
        authenticator = self.authenticator()
        for number in range(HEADERS_MAX * 3):
            self.outcomes(authenticator, [forge({"alg": "HS256", "n": number}, {}, b"x" * 32)])
            self.assertLessEqual(len(authenticator._headers), HEADERS_MAX)
        before = dict(authenticator._headers)
        self.outcomes(authenticator, [forge({"alg": "HS256", "n": "x" * 1000}, {}, b"x" * 32)])
        self.assertEqual(authenticator._headers, before)

