"""Sessions without proof: allowed on loopback, elsewhere only where the configuration says so."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from zope.interface import implementer

from relay.config_auth import Anonymous
from relay.core.auth.grant import Declined, Grant, check_permit, identity_of
from relay.core.identity import Identity
from relay.errors import BadName, Unauthenticated
from relay.interfaces import IAuthenticator, IPeer
from relay.wire.handshake import Hello

NAME: Final = "anonymous"


@implementer(IAuthenticator)
class AnonymousAuthenticator:
    """Takes a hello that brings neither token nor password.

    A hello with a proof that nobody could check is not let in as anonymous: its sender believes to be somebody.
    ``public``: also for peers that are not local. ``reserved``: users who have a password, and so never come without.
    """

    name = NAME

    def __init__(self, config: Anonymous, public: bool, reserved: Collection[str]) -> None:
        check_permit(config.permissions, "auth.anonymous.permissions")
        self._config = config
        self._public = public
        self._reserved = reserved

    def authenticate(self, hello: Hello, peer: IPeer) -> Identity | None:
        """The identity, in the realm that hello names, else in the listener's."""
        if hello.token or hello.password:
            return None
        if not self._public and not peer.local:
            raise Declined("anonymous sessions are for loopback only")
        if hello.user:
            if not self._config.names:
                raise Declined("a user's name needs a proof")
            if hello.user in self._reserved:
                raise Declined("that user has a password")
        try:
            grant = Grant(hello.user, hello.realm)
            return identity_of(grant, method=NAME, permit=self._config.permissions)
        except BadName as error:
            raise Unauthenticated(str(error)) from None
