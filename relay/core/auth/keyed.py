"""Users who proved a key of their own in the secure channel: the proof was the handshake's, here it gets a name."""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from relay.config_auth import KeyUser
from relay.core.auth.grant import Declined, Grant, check_configured, check_permit, check_user, identity_of
from relay.core.identity import Identity
from relay.errors import BadName, ConfigError
from relay.interfaces import IAuthenticator, IPeer
from relay.wire.handshake import Hello

NAME: Final = "key"


@implementer(IAuthenticator)
class KeyAuthenticator:
    """Takes every hello of a peer with a key that stands in the configuration, unless it names somebody else."""

    name = NAME

    def __init__(self, users: tuple[KeyUser, ...]) -> None:
        self._users: dict[str, Identity] = {}
        for user in users:
            where = f"auth.keys, user {user.name!r}"
            if user.key in self._users:
                raise ConfigError(f"{where}: the key is there twice")
            check_permit(user.permissions, where)
            check_configured(user.subscriptions, where)
            try:
                check_user(user.name)
            except BadName as error:
                raise ConfigError(f"{where}: {error}") from None
            grant = Grant(user.name, user.realm, subscriptions=user.subscriptions)
            self._users[user.key] = identity_of(grant, method=NAME, permit=user.permissions)

    @property
    def names(self) -> frozenset[str]:
        """The users, of whatever realm."""
        return frozenset(identity.user for identity in self._users.values())

    def authenticate(self, hello: Hello, peer: IPeer) -> Identity | None:
        """The key's user; a hello with another proof, or for another user, is for the next."""
        if not peer.key or hello.token or hello.password:
            return None
        identity = self._users.get(peer.key)
        if identity is None:
            raise Declined("nobody has that key")
        if hello.user and hello.user != identity.user:
            raise Declined(f"the key is not {hello.user}'s")
        return identity
