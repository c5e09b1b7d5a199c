"""Users of the configuration, with a password each.

An unknown user's password is tried against a decoy of the same cost, so that the time to the answer does not tell who
exists. Hashing runs in threads, a bounded number at once; the others wait in line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from relay.config_auth import StaticUser
from relay.core.auth.grant import (
    Declined,
    Grant,
    check_configured,
    check_permit,
    check_user,
    identity_of,
    secret_text,
)
from relay.core.identity import Identity
from relay.core.passwords import PASSWORD_BYTES_MAX, PasswordHash, parse
from relay.errors import BadName, ConfigError, Unauthenticated
from relay.interfaces import IAuthenticator, IPeer
from relay.wire.handshake import Hello

NAME: Final = "static"
WRONG: Final = "wrong user or password"

Check = Callable[[PasswordHash, str], Awaitable[bool]]


class ThreadedChecks:
    """Password checks in ``threads``, at most ``count_max`` at once; a cancelled one that still waits is not made."""

    def __init__(self, reactor: IReactorFromThreads, threads: ThreadPool, count_max: int) -> None:
        self._reactor = reactor
        self._threads = threads
        self._running = DeferredSemaphore(count_max)

    def __call__(self, stored: PasswordHash, password: str) -> Deferred[bool]:
        """Whether ``password`` is the one of ``stored``."""
        return self._running.run(deferToThreadPool, self._reactor, self._threads, stored.verify, password)


@attrs.frozen
class _Known:
    identity: Identity
    password: PasswordHash


@implementer(IAuthenticator)
class StaticAuthenticator:
    """``check`` verifies a password without blocking."""

    name = NAME

    def __init__(self, users: tuple[StaticUser, ...], check: Check) -> None:
        self._check = check
        self._users: dict[str, dict[str, _Known]] = {}
        for user in users:
            of_name = self._users.setdefault(user.name, {})
            if user.realm in of_name:
                raise ConfigError(f"auth.static: {user.name!r} is there twice in the realm {user.realm!r}")
            of_name[user.realm] = _known(user)
        # Costs differ where users do; each unknown name always meets the same one of them.
        self._decoys = [each.password.decoy() for of_name in self._users.values() for each in of_name.values()]

    @property
    def names(self) -> frozenset[str]:
        """The users, of whatever realm."""
        return frozenset(self._users)

    def authenticate(self, hello: Hello, peer: IPeer) -> Awaitable[Identity] | None:
        """Takes a hello with user and password; refuses a known user who brings no proof at all."""
        if not hello.user or not self._users or (hello.token and not hello.password):
            return None
        if not hello.password:
            if hello.user in self._users:
                raise Unauthenticated("that user needs a password")
            return None
        if len(hello.password.encode("utf-8", "surrogatepass")) > PASSWORD_BYTES_MAX:
            raise Unauthenticated(WRONG)
        return self._verify(hello)

    async def _verify(self, hello: Hello) -> Identity:
        known = self._find(hello)
        stored = self._decoys[hash(hello.user) % len(self._decoys)] if known is None else known.password
        right = await self._check(stored, hello.password)
        if known is None:
            raise Declined(WRONG)  # another authenticator may know the user
        if not right:
            raise Unauthenticated(WRONG)
        return known.identity

    def _find(self, hello: Hello) -> _Known | None:
        of_name = self._users.get(hello.user, {})
        if not hello.realm and len(of_name) == 1:
            return next(iter(of_name.values()))
        return of_name.get(hello.realm)


def _known(user: StaticUser) -> _Known:
    where = f"auth.static, user {user.name!r}"
    check_permit(user.permissions, where)
    check_configured(user.subscriptions, where)
    try:
        check_user(user.name)
        password = parse(secret_text(user.password_scrypt, where))
    except (ValueError, BadName) as error:
        raise ConfigError(f"{where}: {error}") from None
    grant = Grant(user.name, user.realm, subscriptions=user.subscriptions)
    return _Known(identity_of(grant, method=NAME, permit=user.permissions), password)
