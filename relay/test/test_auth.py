"""Authentication: the order of those who are asked, anonymous sessions, static users, realms, refresh."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from relay.config_auth import Anonymous, Auth, CallOut, Jwt, Permit, StaticUser
from relay.config_types import SecretRef
from relay.core.auth.anonymous import AnonymousAuthenticator
from relay.core.auth.authentication import Authentication
from relay.core.auth.grant import Declined, check_user
from relay.core.auth.static import StaticAuthenticator
from relay.core.identity import Identity
from relay.core.passwords import PasswordHash, hash_password
from relay.errors import AuthUnavailable, BadName, ConfigError, Denied, Expired, Unauthenticated
from relay.interfaces import IAuthenticator, INode, IPeer
from relay.test import fakes_app
from relay.test.fakes_app import FakeNode, FakePeer, ThreadlessReactor
from relay.wire.handshake import Hello

CHEAP = hash_password("secret", bytes(16), 16, 1, 1).line()
OTHER = hash_password("other", bytes(range(16)), 32, 1, 1).line()
PUBLIC = FakePeer(address="192.0.2.7", local=False)


@implementer(IAuthenticator)
class Scripted:
    """Answers with ``result``, or raises it."""

    def __init__(self, name: str, result: Any) -> None:
        self.name = name
        self.result = result
        self.asked: list[Hello] = []

    def authenticate(self, hello: Hello, peer: IPeer) -> Any:
        self.asked.append(hello)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Waiting(Scripted):
    """Answers when the test fires one of ``gates``."""

    def __init__(self, name: str, result: Any) -> None:
        super().__init__(name, result)
        self.gates: list[Deferred[Any]] = []
        self.cancelled: list[Any] = []

    def authenticate(self, hello: Hello, peer: IPeer) -> Any:
        self.gates.append(Deferred(self.cancelled.append))
        return self.gates[-1]


async def later(gate: Deferred[Any]) -> Identity | None:
    """What ``gate`` fires with, or fails with."""
    found: Identity | None = await gate
    return found


class AuthTestCase(SynchronousTestCase):
    def setUp(self):
        self.reactor = ThreadlessReactor()
        self.peer = FakePeer()

    def authentication(self, config: Auth | None = None, *plugins: Any) -> Authentication:
        reactor: Any = self.reactor  # Any: it is a clock, a reactor for threads, and the threads
        return Authentication(config or Auth(), reactor, None, reactor, plugins, self.reactor.seconds)


class AnonymousTests(AuthTestCase):
    """Sessions without proof."""

    def test_default(self):
        """Without configuration a local peer is whoever it says, at once, and may do everything but bind."""
        identity = self.authentication().identify(Hello(user="ann"), self.peer)
        assert isinstance(identity, Identity)
        self.assertEqual((identity.user, identity.realm, identity.method), ("ann", "default", "anonymous"))
        self.assertTrue(identity.permissions.allows("publish", "room.1"))
        self.assertFalse(identity.permissions.allows_user("bind", "bob"))

    def test_no_name(self):
        """A hello without a name gives a session that is unbound."""
        identity = self.authentication().identify(Hello(), self.peer)
        assert isinstance(identity, Identity)
        self.assertEqual(identity.user, "")

    def test_not_public(self):
        """A peer from elsewhere needs a proof, unless ``allow_anonymous`` is set."""
        error = self.assertRaises(Unauthenticated, self.authentication().identify, Hello(user="ann"), PUBLIC)
        self.assertIn("loopback", str(error))
        identity = self.authentication(Auth(allow_anonymous=True)).identify(Hello(user="ann"), PUBLIC)
        self.assertIsInstance(identity, Identity)

    def test_proof_is_not_ignored(self):
        """A token or password that nobody can check does not make an anonymous session."""
        for hello in (Hello(token="x"), Hello(user="ann", password="x")):
            self.assertRaises(Unauthenticated, self.authentication().identify, hello, self.peer)

    def test_disabled(self):
        """Without anonymous sessions a hello without proof is refused."""
        config = Auth(anonymous=Anonymous(enabled=False))
        self.assertRaises(Unauthenticated, self.authentication(config).identify, Hello(), self.peer)

    def test_names_not_believed(self):
        """Where names are not believed, only sessions without one come in."""
        authentication = self.authentication(Auth(anonymous=Anonymous(names=False)))
        self.assertRaises(Unauthenticated, authentication.identify, Hello(user="ann"), self.peer)
        self.assertIsInstance(authentication.identify(Hello(), self.peer), Identity)

    def test_static_users_are_not_believed(self):
        """Whoever has a password must give it, also where anonymous is asked first."""
        users = (StaticUser(name="root", password_scrypt=CHEAP),)
        for order in [("static", "anonymous"), ("anonymous", "static"), ("anonymous",)]:
            authentication = self.authentication(Auth(static=users, order=order))
            self.assertRaises(Unauthenticated, authentication.identify, Hello(user="root"), self.peer)
            self.assertIsInstance(authentication.identify(Hello(user="ann"), self.peer), Identity)

    def test_bad_names(self):
        """A user or realm outside the grammar is refused."""
        for hello in [Hello(user="a\nb"), Hello(user="x" * 256), Hello(user="é" * 128), Hello(realm="a\x00")]:
            self.assertRaises(Unauthenticated, self.authentication().identify, hello, self.peer)
        self.assertRaises(BadName, check_user, "\ud800")
        self.assertRaises(BadName, check_user, "")

    def test_realms(self):
        """The realm is the one that hello names, else the listener's."""
        for hello, expected in [(Hello(), "tenant"), (Hello(realm="other"), "other")]:
            identity = self.authentication().identify(hello, self.peer, "tenant")
            assert isinstance(identity, Identity)
            self.assertEqual(identity.realm, expected)


class StaticTests(AuthTestCase):
    """Users of the configuration."""

    users = (
        StaticUser(name="ann", password_scrypt=CHEAP, permissions=Permit(publish=("{user}.**",)), subscriptions=("n",)),
        StaticUser(name="bob", password_scrypt=OTHER, realm="tenant"),
        StaticUser(name="eve", password_scrypt=CHEAP, realm="one"),
        StaticUser(name="eve", password_scrypt=OTHER, realm="two"),
    )

    def ask(self, hello: Hello, config: Auth | None = None) -> Deferred[Identity]:
        authentication = self.authentication(config or Auth(static=self.users))
        found: Any = authentication.identify(hello, self.peer)
        result = Deferred.fromCoroutine(found)
        self.reactor.run_threads()
        return result

    def test_right_password(self):
        """The right password gives the user, with what the configuration says of it."""
        identity = self.successResultOf(self.ask(Hello(user="ann", password="secret")))
        self.assertEqual((identity.user, identity.realm, identity.method), ("ann", "default", "static"))
        self.assertEqual(identity.subscriptions, ("n",))
        self.assertTrue(identity.permissions.allows("publish", "ann.x"))
        self.assertFalse(identity.permissions.allows("publish", "bob.x"))

    def test_wrong_password(self):
        """A wrong password and an unknown user get the same answer, after the same amount of work."""
        texts: set[str] = set()
        works: list[PasswordHash] = []
        self.patch(PasswordHash, "verify", counting(works, PasswordHash.verify))
        for hello in [Hello(user="ann", password="no"), Hello(user="nobody", password="secret")]:
            texts.add(str(self.failureResultOf(self.ask(hello), Unauthenticated).value))
        self.assertEqual(texts, {"wrong user or password"})
        self.assertEqual(len(works), 2)

    def test_decoys_have_all_costs(self):
        """Unknown users meet hashes of the costs that known users have, the same name always the same one."""
        works: list[PasswordHash] = []
        self.patch(PasswordHash, "verify", counting(works, PasswordHash.verify))
        for number in range(40):
            for _ in range(2):
                self.failureResultOf(self.ask(Hello(user=f"nobody{number}", password="secret")), Unauthenticated)
            self.assertEqual(works[-1], works[-2])
        self.assertEqual({each.n for each in works}, {16, 32})

    def test_password_wanted(self):
        """A known user without password is refused for good; one with a token is left to who knows tokens."""
        authentication = self.authentication(Auth(static=self.users))
        error = self.assertRaises(Unauthenticated, authentication.identify, Hello(user="ann"), self.peer)
        self.assertIn("password", str(error))
        plugin = Scripted("tokens", fakes_app.identity())
        authentication = self.authentication(Auth(static=self.users), plugin)
        self.assertIsInstance(authentication.identify(Hello(user="ann", token="t"), self.peer), Identity)

    def test_realms(self):
        """A name that is there in two realms needs its realm; a proof is good in its realm only."""
        two = self.successResultOf(self.ask(Hello(user="eve", realm="two", password="other")))
        self.assertEqual(two.realm, "two")
        self.assertEqual(self.successResultOf(self.ask(Hello(user="bob", password="other"))).realm, "tenant")
        for hello in [
            Hello(user="eve", password="secret"),
            Hello(user="eve", realm="two", password="secret"),
            Hello(user="ann", realm="tenant", password="secret"),
        ]:
            self.failureResultOf(self.ask(hello), Unauthenticated)

    def test_long_password(self):
        """A password of megabytes is refused without hashing it."""
        authentication = self.authentication(Auth(static=self.users))
        hello = Hello(user="ann", password="x" * 1_000_000)
        self.assertRaises(Unauthenticated, authentication.identify, hello, self.peer)
        self.assertEqual(self.reactor.jobs, [])

    def test_surrogates(self):
        """A password that is no UTF-8 is wrong, not an error."""
        self.failureResultOf(self.ask(Hello(user="ann", password="\ud800")), Unauthenticated)

    def test_threads_are_bounded(self):
        """At most ``scrypt_threads_max`` passwords are hashed at once; who leaves the line is not hashed at all."""
        authentication = self.authentication(Auth(static=self.users, scrypt_threads_max=2))
        waiting = []
        for _ in range(5):
            found: Any = authentication.identify(Hello(user="ann", password="secret"), self.peer)
            waiting.append(Deferred.fromCoroutine(found))
        self.assertEqual((len(self.reactor.jobs), authentication.pending), (2, 5))
        waiting[4].cancel()
        self.failureResultOf(waiting[4], CancelledError)
        self.assertEqual(self.reactor.run_threads(), 4)
        for each in waiting[:4]:
            self.assertEqual(self.successResultOf(each).user, "ann")
        self.assertEqual(authentication.pending, 0)

    def test_bad_configuration(self):
        """A user twice, a bad hash, pattern or name, or a secret that was not read stops the start."""
        good = self.users[0]
        for users in [
            (good, good),
            (StaticUser(name="ann", password_scrypt="secret"),),
            (StaticUser(name="ann", password_scrypt=SecretRef(file="x")),),
            (StaticUser(name="", password_scrypt=CHEAP),),
            (StaticUser(name="ann", password_scrypt=CHEAP, permissions=Permit(call=("a.**.b",))),),
            (StaticUser(name="ann", password_scrypt=CHEAP, subscriptions=("",)),),
        ]:
            error = self.assertRaises(ConfigError, self.authentication, Auth(static=users))
            self.assertNotIn(CHEAP, str(error))


def counting(calls: list[PasswordHash], function: Any) -> Any:
    def verify(self: PasswordHash, password: str) -> Any:
        calls.append(self)
        return function(self, password)

    return verify


class OrderTests(AuthTestCase):
    """Who is asked, and what the answers mean."""

    def test_plugins_first(self):
        """Plugins are asked before the configured ones; the first identity counts."""
        plugin = Scripted("plugin", fakes_app.identity("from the plugin"))
        identity = self.authentication(None, object(), plugin).identify(Hello(user="ann"), self.peer)
        assert isinstance(identity, Identity)
        self.assertEqual((identity.user, identity.realm), ("from the plugin", "default"))

    def test_next(self):
        """None and ``Declined`` ask the next one."""
        plugins = Scripted("a", None), Scripted("b", Declined("b does not know")), Scripted("c", None)
        identity = self.authentication(None, *plugins).identify(Hello(user="ann"), self.peer)
        assert isinstance(identity, Identity)
        self.assertEqual(identity.method, "anonymous")
        self.assertEqual([len(each.asked) for each in plugins], [1, 1, 1])

    def test_nobody(self):
        """When nobody takes it, the first reason that was given is told."""
        plugins = Scripted("a", None), Scripted("b", Declined("first")), Scripted("c", Declined("second"))
        authentication = self.authentication(Auth(anonymous=Anonymous(enabled=False)), *plugins)
        error = self.assertRaises(Unauthenticated, authentication.identify, Hello(), self.peer)
        self.assertEqual(str(error), "first")

    def test_refused_for_good(self):
        """Another error ends it; nobody else is asked."""
        for error in (Unauthenticated("no"), Expired("late"), AuthUnavailable(), Denied("x")):
            plugins = Scripted("a", error), Scripted("b", fakes_app.identity())
            self.assertRaises(type(error), self.authentication(None, *plugins).identify, Hello(), self.peer)
            self.assertEqual(plugins[1].asked, [])

    def test_mistake_in_a_plugin(self):
        """An exception that is no ``RelayError`` lets nobody in: it cannot be told now; it is logged and counted."""
        authentication = self.authentication(None, Scripted("a", KeyError("secret")))
        for _ in range(3):
            error = self.assertRaises(AuthUnavailable, authentication.identify, Hello(), self.peer)
            self.assertNotIn("secret", str(error))
        self.assertEqual(authentication.failures, 3)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_later(self):
        """Awaitables mean what their results mean, one after the other."""
        gates: list[Deferred[Any]] = [Deferred() for _ in range(3)]
        plugins = [Scripted(str(number), later(gate)) for number, gate in enumerate(gates)]
        found: Any = self.authentication(None, *plugins).identify(Hello(user="ann"), self.peer)
        waiting = Deferred.fromCoroutine(found)
        gates[0].callback(None)
        gates[1].errback(Declined("no"))
        self.assertNoResult(waiting)
        gates[2].callback(fakes_app.identity("bob"))
        self.assertEqual(self.successResultOf(waiting).user, "bob")

    def test_later_errors(self):
        """Errors that come later mean the same as those that come at once."""
        for error, expected in [(Expired("x"), Expired), (KeyError("x"), AuthUnavailable)]:
            gate: Deferred[Any] = Deferred()
            found: Any = self.authentication(None, Scripted("a", gate)).identify(Hello(), self.peer)
            waiting = Deferred.fromCoroutine(found)
            gate.errback(error)
            self.failureResultOf(waiting, expected)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_pending_is_bounded(self):
        """Over ``pending_max`` waiting handshakes, another that would wait is told to come later."""
        plugin = Waiting("a", None)
        authentication = self.authentication(Auth(pending_max=2), plugin)
        waiting = []
        for _ in range(2):
            found: Any = authentication.identify(Hello(), self.peer)
            waiting.append(Deferred.fromCoroutine(found))
        self.assertRaises(AuthUnavailable, authentication.identify, Hello(), self.peer)
        self.assertEqual(plugin.cancelled, [plugin.gates[2]])
        self.failureResultOf(plugin.gates[2], CancelledError)
        for gate, each in zip(plugin.gates[:2], waiting, strict=True):
            gate.callback(fakes_app.identity())
            self.successResultOf(each)
        found = authentication.identify(Hello(), self.peer)
        self.assertNotIsInstance(found, Identity)
        found.close()

    def test_order(self):
        """``order`` names kinds, or single entries; what it leaves out is not asked, a wrong name is a mistake."""
        secret = "s" * 32
        tokens = tuple(Jwt(name=name, algorithms=("HS256",), secret=secret) for name in ("one", "two"))
        for order, expected in [
            (("anonymous", "jwt"), ("anonymous", "one", "two")),
            (("two", "jwt"), ("two", "one")),
            (("one",), ("one",)),
            ((), ()),
        ]:
            self.assertEqual(self.authentication(Auth(order=order, jwt=tokens)).methods, expected)
        error = self.assertRaises(ConfigError, self.authentication, Auth(order=("anonymus",)))
        self.assertIn("did you mean 'anonymous'", str(error))

    def test_names_are_unique(self):
        """Two entries of one name, or one named as another kind, are mistakes; so is a URL without a client."""
        token = Jwt(algorithms=("HS256",), secret="s" * 32)
        http = Jwt(name="http", algorithms=("HS256",), secret="s" * 32)
        for config in [Auth(jwt=(token, token)), Auth(jwt=(http,)), Auth(http=(CallOut(url="http://127.0.0.1/"),))]:
            self.assertRaises(ConfigError, self.authentication, config)


class RefreshTests(AuthTestCase):
    """A new token for a session."""

    def test_same_user(self):
        """A proof of the same user and realm is taken."""
        before = fakes_app.identity("ann", "tenant")
        plugin = Scripted("a", fakes_app.identity("ann"))
        found = self.authentication(None, plugin).refresh("new", before, self.peer)
        assert isinstance(found, Identity)
        self.assertEqual((found.user, found.realm), ("ann", "tenant"))
        self.assertEqual((plugin.asked[0].token, plugin.asked[0].realm), ("new", "tenant"))

    def test_other_user(self):
        """One of another user or realm is not, at once or later."""
        for other in (fakes_app.identity("bob", "tenant"), fakes_app.identity("ann", "other")):
            before = fakes_app.identity("ann", "tenant")
            authentication = self.authentication(None, Scripted("a", other))
            self.assertRaises(Unauthenticated, authentication.refresh, "new", before, self.peer)
            gate: Deferred[Any] = Deferred()
            found: Any = self.authentication(None, Scripted("a", gate)).refresh("new", before, self.peer)
            waiting = Deferred.fromCoroutine(found)
            gate.callback(other)
            self.failureResultOf(waiting, Unauthenticated)

    def test_never_anonymous(self):
        """A token that nobody knows, or none, does not become an anonymous session."""
        before = fakes_app.identity("", "default")
        for token in ("junk", ""):
            self.assertRaises(Unauthenticated, self.authentication().refresh, token, before, self.peer)


class InterfaceTests(SynchronousTestCase):
    """What is said to provide an interface does."""

    def test_provides(self):
        """Authenticators and fakes provide their interfaces."""
        verifyObject(IAuthenticator, AnonymousAuthenticator(Anonymous(), False, ()))
        verifyObject(IAuthenticator, StaticAuthenticator((), lambda stored, password: Deferred()))
        verifyObject(IPeer, FakePeer())
        verifyObject(INode, FakeNode())
