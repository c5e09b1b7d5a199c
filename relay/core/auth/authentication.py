"""Asks who a hello speaks for: plugins first, then the authenticators in the configured order.

    each authenticator ──▶ Identity                       the session is that; nobody else is asked
                        ├─▶ None, or raises Declined      ask the next
                        ├─▶ raises Unauthenticated, …     refused for good
                        └─▶ Awaitable                     of one of the above

Where nobody waits (anonymous, a token whose key is known) the answer is an ``Identity`` at once, without a Deferred or
a coroutine. Nobody let the session in: ``Unauthenticated``, with the first reason that an authenticator gave.

The realm of a session is the one that its proof names, else the listener's. A hello may name it too, but only an
anonymous session gets another realm by asking.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from twisted.web.iweb import IAgent

from relay.config_auth import Auth
from relay.core.auth.anonymous import AnonymousAuthenticator
from relay.core.auth.callout import CallOutAuthenticator
from relay.core.auth.grant import Declined
from relay.core.auth.keyed import KeyAuthenticator
from relay.core.auth.static import StaticAuthenticator, ThreadedChecks
from relay.core.auth.tokens import JwtAuthenticator, jwt_authenticator
from relay.core.identity import Identity
from relay.core.seldom import Seldom
from relay.errors import AuthUnavailable, ConfigError, RelayError, Unauthenticated
from relay.interfaces import IAuthenticator, IPeer
from relay.wire.handshake import Hello

KINDS: Final = ("key", "static", "jwt", "http", "anonymous")

log = Logger()


class Reactor(IReactorTime, IReactorFromThreads):
    """What of the reactor is used."""


class Authentication:
    """What the core calls. ``unix_time`` gives Unix seconds; ``agent`` may be None without URLs in ``config``.

    ``plugins``: the plugins of the node; those with an attribute ``authenticate`` are asked. Raises ``ConfigError``.
    """

    def __init__(
        self,
        config: Auth,
        reactor: Reactor,
        agent: IAgent | None,
        threads: ThreadPool,
        plugins: Iterable[Any],  # Any: plugins have authenticate or not
        unix_time: Callable[[], float],
    ) -> None:
        self._pending_max = config.pending_max
        self._seldom = Seldom(reactor)
        self.pending = 0
        self.failures = 0
        self._asked: list[IAuthenticator] = [each for each in plugins if getattr(each, "authenticate", None)]
        known = _authenticators(config, reactor, agent, threads, unix_time)
        for name in config.order:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f", did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
                raise ConfigError(f"auth.order: {name!r} is no authenticator{hint}")
            self._asked += [each for each in known[name] if each not in self._asked]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of those who are asked, in order."""
        return tuple(each.name for each in self._asked)

    def identify(self, hello: Hello, peer: IPeer, realm: str = "default") -> Identity | Awaitable[Identity]:
        """Who ``hello`` speaks for; ``realm`` is the listener's.

        Raises ``Unauthenticated``, ``Expired`` or ``AuthUnavailable``; so does the awaitable. Cancelling what waits
        for it takes back what is under way.
        """
        return self._ask(hello, peer, realm, 0, None)

    def refresh(self, token: str, identity: Identity, peer: IPeer) -> Identity | Awaitable[Identity]:
        """A new identity of the same user and realm from a new token. Raises as ``identify``."""
        if not token:
            raise Unauthenticated("a new token is expected")
        hello = Hello(token=token, realm=identity.realm, device=identity.device)
        found = self._ask(hello, peer, identity.realm, 0, None)
        return _same(found, identity) if isinstance(found, Identity) else self._refreshed(found, identity)

    def stop(self) -> None:
        """End requests that are under way."""
        for each in self._asked:
            if isinstance(each, JwtAuthenticator):
                each.stop()

    async def _refreshed(self, found: Awaitable[Identity], identity: Identity) -> Identity:
        return _same(await found, identity)

    def _ask(
        self, hello: Hello, peer: IPeer, realm: str, first: int, why: Declined | None
    ) -> Identity | Awaitable[Identity]:
        """Ask from number ``first`` on; ``why``: what the first who declined said."""
        for index in range(first, len(self._asked)):
            try:
                found = self._asked[index].authenticate(hello, peer)
            except Declined as error:
                why = why or error
                continue
            except RelayError:
                raise
            except Exception as error:
                raise self._failed(index) from error
            if isinstance(found, Identity):
                return _settled(found, hello, realm)
            if found is not None:
                return self._later(found, hello, peer, realm, index, why)
        raise Unauthenticated(str(why) if why is not None else "no proof of identity")

    def _later(
        self, found: Awaitable[Identity | None], hello: Hello, peer: IPeer, realm: str, index: int, why: Declined | None
    ) -> Awaitable[Identity]:
        if self.pending >= self._pending_max:
            for give_up in ("close", "cancel"):  # of a coroutine, of a Deferred
                if hasattr(found, give_up):
                    getattr(found, give_up)()
                    break
            raise AuthUnavailable("too many sessions wait to be let in")
        return self._wait(found, hello, peer, realm, index, why)

    async def _wait(
        self, found: Awaitable[Identity | None], hello: Hello, peer: IPeer, realm: str, index: int, why: Declined | None
    ) -> Identity:
        identity: Identity | None = None
        self.pending += 1
        try:
            identity = await found
        except Declined as error:
            why = why or error
        except (RelayError, CancelledError):
            raise
        except Exception as error:
            raise self._failed(index) from error
        finally:
            self.pending -= 1
        if identity is not None:
            return _settled(identity, hello, realm)
        rest = self._ask(hello, peer, realm, index + 1, why)
        return rest if isinstance(rest, Identity) else await rest

    def _failed(self, index: int) -> AuthUnavailable:
        """An authenticator (a plugin's) has a mistake; called while its exception is handled."""
        self.failures += 1
        name = self._asked[index].name
        others = self._seldom.due(name)
        if others is not None:
            log.failure("the authenticator {name} failed ({others} more times unreported)", name=name, others=others)
        return AuthUnavailable()


def _authenticators(
    config: Auth, reactor: Reactor, agent: IAgent | None, threads: ThreadPool, unix_time: Callable[[], float]
) -> dict[str, list[IAuthenticator]]:
    """All that are configured, by kind; entries of jwt and http by their own name too."""
    static = StaticAuthenticator(config.static, ThreadedChecks(reactor, threads, config.scrypt_threads_max))
    known: dict[str, list[IAuthenticator]] = {kind: [] for kind in KINDS}
    keyed = KeyAuthenticator(config.keys)
    if config.keys:
        known["key"].append(keyed)
    if config.static:
        known["static"].append(static)
    if config.anonymous.enabled:
        known["anonymous"].append(
            AnonymousAuthenticator(config.anonymous, config.allow_anonymous, reserved=static.names | keyed.names)
        )
    for token in config.jwt:
        authenticator = jwt_authenticator(token, agent=agent, clock=reactor, unix_time=unix_time)
        _add(known, "jwt", authenticator)
    for url in config.http:
        if agent is None:
            raise ConfigError(f"auth.http {url.name!r} needs an HTTP client")
        _add(known, "http", CallOutAuthenticator(url, agent=agent, clock=reactor, unix_time=unix_time))
    return known


def _add(known: dict[str, list[IAuthenticator]], kind: str, authenticator: IAuthenticator) -> None:
    name = authenticator.name
    if any(name == each.name for each in known[kind]) or (name in known and name != kind):
        raise ConfigError(f"auth.{kind}: the name {name!r} is there twice")
    known[kind].append(authenticator)
    if name != kind:
        known[name] = [authenticator]


def _settled(identity: Identity, hello: Hello, realm: str) -> Identity:
    """``identity`` with its realm. Raises ``Unauthenticated`` when hello asked for another."""
    found = identity.realm or realm
    if hello.realm and hello.realm != found:
        raise Unauthenticated("the proof is not for that realm")
    return identity if identity.realm else attrs.evolve(identity, realm=found)


def _same(found: Identity, before: Identity) -> Identity:
    if (found.realm, found.user) != (before.realm, before.user):
        raise Unauthenticated("the new token is for another user")
    return found
