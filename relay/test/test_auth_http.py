"""The call-out, and both users of HTTP against a real server on loopback."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface.verify import verifyObject

from relay.config_auth import Auth, CallOut, Jwt, Permit
from relay.config_types import SecretRef
from relay.core.auth.authentication import Authentication
from relay.core.auth.callout import REASON_CHARACTERS_MAX, CallOutAuthenticator
from relay.core.auth.fetch import FetchFailed, fetch
from relay.errors import AuthUnavailable, ConfigError, Unauthenticated
from relay.interfaces import IAuthenticator
from relay.test.fakes_app import FakeAgent, FakePeer, ThreadlessReactor
from relay.test.token_fixture import jwk, key_set, sign
from relay.wire.handshake import Hello, Resume

URL = "http://127.0.0.1:1/auth"
NOW = 1_700_000_000.0


class CallOutTests(SynchronousTestCase):
    """What is asked, and what the answers mean."""

    def setUp(self):
        self.clock = Clock()
        self.agent = FakeAgent()
        self.peer = FakePeer(address="192.0.2.7", transport="tls", certificate="device-7", local=False)

    def authenticator(self, **config: Any) -> CallOutAuthenticator:
        made = CallOut(**{"url": URL, **config})
        return CallOutAuthenticator(made, agent=self.agent, clock=self.clock, unix_time=lambda: NOW)

    def ask(self, hello: Hello, **config: Any) -> Deferred[Any]:
        found: Any = self.authenticator(**config).authenticate(hello, self.peer)
        return Deferred.fromCoroutine(found)

    def test_question(self):
        """The URL gets the hello, and where it came from; not the secret of a session that is to be resumed."""
        hello = Hello(
            user="ann", token="t", password="p", device="phone", realm="r", client="c/1", info={"a": [1]},
            resume=Resume("s-1", "resume secret"),
        )  # fmt: skip
        self.ask(hello, secret="bearer secret")
        method, url, headers, body = self.agent.seen[0]
        self.assertEqual((method, url), (b"POST", URL.encode()))
        self.assertEqual(headers.getRawHeaders("Authorization"), ["Bearer bearer secret"])
        self.assertEqual(headers.getRawHeaders("Content-Type"), ["application/json"])
        self.assertEqual(
            json.loads(body),
            {
                "version": "1.0", "realm": "r", "user": "ann", "device": "phone", "token": "t", "password": "p",
                "client": "c/1", "info": {"a": [1]}, "address": "192.0.2.7", "transport": "tls", "dialect": "relay",
                "listener": "stream", "certificate": "device-7",
            },
        )  # fmt: skip

    def test_identity(self):
        """200: user, realm, device, permissions, subscriptions, expiry and token id are taken from the answer."""
        waiting = self.ask(Hello(token="t"))
        answer = {
            "user": 42, "realm": "tenant", "device": "d", "permissions": {"call": ["{user}.*"]}, "subscriptions": ["n"],
            "expires_in_s": 60, "token_id": "t-1", "more": "is ignored",
        }  # fmt: skip
        self.agent.answer(200, json.dumps(answer).encode())
        identity = self.successResultOf(waiting)
        self.assertEqual((identity.user, identity.realm, identity.device), ("42", "tenant", "d"))
        self.assertEqual((identity.expires_at, identity.token_id, identity.method), (NOW + 60, "t-1", "http"))
        self.assertEqual(identity.subscriptions, ("n",))
        self.assertTrue(identity.permissions.allows("call", "42.x"))
        self.assertFalse(identity.permissions.allows("publish", "x"))

    def test_defaults(self):
        """A user is enough: the configured permissions, the listener's realm, no expiry; "" stays unbound."""
        for user in ("ann", ""):
            waiting = self.ask(Hello(), permissions=Permit(publish=("a",)))
            self.agent.answer(200, json.dumps({"user": user}).encode())
            identity = self.successResultOf(waiting)
            self.assertEqual((identity.user, identity.realm, identity.expires_at), (user, "", None))
            self.assertTrue(identity.permissions.allows("publish", "a"))

    def test_refused(self):
        """401 and 403 refuse with the text of the answer, shortened and without control characters."""
        for code, body, text in [
            (401, b"wrong password", "wrong password"),
            (403, b'{"message": "account closed"}', "account closed"),
            (401, b"a\r\nb\x1b[31m\xff" + b"x" * 1000, "ab[31m\ufffd" + "x" * (REASON_CHARACTERS_MAX - 7)),
            (403, b"", "unauthenticated"),
            (403, b"[" * 10_000, "[" * REASON_CHARACTERS_MAX),
        ]:
            waiting = self.ask(Hello())
            self.agent.answer(code, body)
            self.assertEqual(str(self.failureResultOf(waiting, Unauthenticated).value), text)

    def test_undecided(self):
        """Everything else cannot be told now: other statuses, no or a broken answer, one that makes no sense."""
        answers: list[Any] = [
            lambda: self.agent.answer(500, b"{}"),
            lambda: self.agent.answer(204, b""),
            lambda: self.agent.answer(302, b""),
            lambda: self.agent.answer(200, b""),
            lambda: self.agent.answer(200, b"[]"),
            lambda: self.agent.answer(200, b"{}"),
            lambda: self.agent.answer(200, b"\xff"),
            lambda: self.agent.answer(200, b"[" * 60_000),
            lambda: self.agent.answer(200, b'{"user": "a\\u0000"}'),
            lambda: self.agent.answer(200, b'{"user": null}'),
            lambda: self.agent.answer(200, b'{"user": "ann", "expires_in_s": 0}'),
            lambda: self.agent.answer(200, b'{"user": "ann", "permissions": {"publsh": ["a"]}}'),
            lambda: self.agent.answer(200, b'{"user": "ann", "permissions": {"publish": ["**.a"]}}'),
            lambda: self.agent.answer(200, b'{"user": "ann", "subscriptions": [""]}'),
            lambda: self.agent.fail(OSError("refused")),
            lambda: self.clock.advance(5),
        ]
        for answer in answers:
            waiting = self.ask(Hello())
            answer()
            self.assertTrue(self.failureResultOf(waiting, AuthUnavailable).value.temporary)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_response_size(self):
        """An answer over ``response_bytes_max`` is cut off while it comes."""
        waiting = self.ask(Hello(), response_bytes_max=100)
        response = self.agent.answer(200, b"x" * 60, b"x" * 41, ends=False)
        self.failureResultOf(waiting, AuthUnavailable)
        self.assertTrue(response.body.aborted)
        waiting = self.ask(Hello(), response_bytes_max=100)
        response = self.agent.answer(200, b'{"user": "ann"}'.ljust(100))
        self.assertEqual(self.successResultOf(waiting).user, "ann")

    def test_slow_body(self):
        """The time-out is for the whole answer."""
        waiting = self.ask(Hello(), timeout_s=2)
        response = self.agent.answer(200, b"{", ends=False)
        self.clock.advance(1.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.failureResultOf(waiting, AuthUnavailable)
        self.assertTrue(response.body.aborted)

    def test_pending_is_bounded(self):
        """Over ``pending_max`` questions under way, the next one is told to come later."""
        authenticator = self.authenticator(pending_max=2)
        waiting = []
        for _ in range(2):
            found: Any = authenticator.authenticate(Hello(), self.peer)
            waiting.append(Deferred.fromCoroutine(found))
        self.assertRaises(AuthUnavailable, authenticator.authenticate, Hello(), self.peer)
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.assertEqual((self.agent.cancelled, authenticator.pending), (1, 1))
        found = authenticator.authenticate(Hello(), self.peer)
        found.close()

    def test_configuration(self):
        """A URL of another kind, an unread secret or a bad pattern stops the start."""
        verifyObject(IAuthenticator, self.authenticator())
        wrong: list[dict[str, Any]] = [
            {"url": "ftp://x/"},
            {"url": "http://é/"},
            {"secret": SecretRef(env="X")},
            {"permissions": Permit(publish=("**.a",))},
        ]
        for config in wrong:
            self.assertRaises(ConfigError, self.authenticator, **config)


class Issuer(Resource):
    """A server with keys, a call-out, and answers that are no good. ``asked``: paths, in order."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.hanging: list[Any] = []

    def render(self, request: Any) -> Any:
        """Every path is one behaviour."""
        path = request.path.decode()
        self.asked.append(path)
        if path == "/keys":
            return key_set(jwk("ES256", "k"))
        if path == "/auth":
            hello = json.loads(request.content.read())
            if hello["password"] != "right":
                request.setResponseCode(403)
                return b"not with that password"
            return json.dumps({"user": hello["user"], "permissions": {"publish": ["a"]}}).encode()
        if path == "/redirect":
            request.setResponseCode(302)
            request.setHeader("Location", "/keys")
            return b""
        self.hanging.append(request.notifyFinish())
        if path == "/endless":
            request.write(b"x" * 100_000)
        return NOT_DONE_YET


class RealServerTests(TestCase):
    """The same over sockets: Twisted's own client and server."""

    def setUp(self):
        reactor: Any = global_reactor  # Any: the module stands for whatever reactor trial runs on
        self.reactor = reactor
        self.issuer = Issuer()
        site = Site(self.issuer)
        self.port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.pool = HTTPConnectionPool(reactor)
        self.addCleanup(self.pool.closeCachedConnections)
        self.agent = Agent(reactor, connectTimeout=5, pool=self.pool)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port.getHost().port}{path}"

    def authentication(self, **config: Any) -> Authentication:
        threads: Any = ThreadlessReactor()  # Any: no thread is needed here
        return Authentication(Auth(**config), self.reactor, self.agent, threads, (), lambda: NOW)

    async def test_keys(self) -> None:
        """A token is verified with a key from the URL; the second token needs no request."""
        authentication = self.authentication(jwt=(Jwt(algorithms=("ES256",), jwks_url=self.url("/keys")),))
        found: Any = authentication.identify(Hello(token=sign({"sub": "ann"}, "ES256", kid="k")), FakePeer())
        identity = await found
        self.assertEqual((identity.user, identity.realm), ("ann", "default"))
        again: Any = authentication.identify(Hello(token=sign({"sub": "bob"}, "ES256", kid="k")), FakePeer())
        self.assertEqual(again.user, "bob")
        self.assertEqual(self.issuer.asked, ["/keys"])

    async def test_call_out(self) -> None:
        """A hello is decided by the URL."""
        authentication = self.authentication(http=(CallOut(url=self.url("/auth")),))
        found: Any = authentication.identify(Hello(user="ann", password="right"), FakePeer())
        identity = await found
        self.assertEqual(identity.user, "ann")
        self.assertTrue(identity.permissions.allows("publish", "a"))
        self.assertFalse(identity.permissions.allows("publish", "b"))
        found = authentication.identify(Hello(user="ann", password="wrong"), FakePeer())
        error = await self.assertFailure(Deferred.fromCoroutine(found), Unauthenticated)
        self.assertEqual(str(error), "not with that password")

    async def test_nobody_listens(self) -> None:
        """A URL where nobody is cannot decide."""
        url = self.url("/auth")
        await self.port.stopListening()
        found: Any = self.authentication(http=(CallOut(url=url),)).identify(Hello(), FakePeer())
        await self.assertFailure(Deferred.fromCoroutine(found), AuthUnavailable)

    async def fetched(self, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
        return await fetch(
            self.agent, self.reactor, b"GET", self.url(path),
            headers={}, body=None, timeout_s=timeout_s, bytes_max=10_000,
        )  # fmt: skip

    async def test_redirects_are_not_followed(self) -> None:
        """Where an answer points to is not asked."""
        self.assertEqual((await self.fetched("/redirect"))[0], 302)
        self.assertEqual(self.issuer.asked, ["/redirect"])

    async def test_endless_answer(self) -> None:
        """An answer that is too large is cut off, and the connection with it."""
        await self.assertFailure(Deferred.fromCoroutine(self.fetched("/endless")), FetchFailed)
        await self.gone(0)

    async def test_no_answer(self) -> None:
        """After the time-out the connection is closed."""
        waiting = Deferred.fromCoroutine(self.fetched("/hang", timeout_s=0.05))
        await self.assertFailure(waiting, FetchFailed)
        await self.gone(0)

    async def gone(self, number: int) -> None:
        """The server sees that the client has left."""
        await self.assertFailure(self.issuer.hanging[number], Exception)
