"""The core's door: who may connect, and what every new peer gets.

Also what concerns all connections at once: counting them, revoking, draining.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relay import errors
from relay.core.connection import Connection, LossyConnection
from relay.core.identity import Identity
from relay.core.limits import Networks, is_loopback
from relay.core.sessions import Sessions
from relay.interfaces import IConnection, IGate, IPeer
from relay.wire import kinds
from relay.wire.handshake import BindOptions, Hello, RefreshOptions, read, write
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.config import Listener
    from relay.core.hub import Hub
    from relay.core.router import Router
    from relay.core.session import Session

log = Logger()

Identify = Callable[[Hello, IPeer], Identity | Awaitable[Identity]]
"""Finds out who a hello speaks for; raises (or fails with) ``RelayError``."""


@implementer(IGate)
class Gate:
    """One per node. ``identify`` asks the authenticators; see ``relay.core.auth``."""

    def __init__(self, hub: Hub, router: Router, sessions: Sessions, identify: Identify) -> None:
        self.hub = hub
        self.metrics = hub.metrics
        self.router = router
        self.sessions = sessions
        self.identify = identify
        self.connections: dict[Connection, None] = {}
        self._addresses: dict[str, int] = {}
        self._networks: dict[str, Networks] = {}
        self._draining = False
        router.table[kinds.BIND] = self._bind
        router.table[kinds.REFRESH] = self._refresh

    # --- IGate ----------------------------------------------------------------------------------------------------

    def admit(self, address: str, listener: str) -> int:
        """0, or the close reason for which a connection from ``address`` is refused."""
        limits = self.hub.config.limits
        if self._draining:
            return self._refused(kinds.UNAVAILABLE)
        if len(self.connections) >= limits.connections_max:
            return self._refused(kinds.LIMIT)
        networks = self._networks.get(listener)
        if networks is not None and not networks.admits(address):
            return self._refused(kinds.UNAUTHORIZED)
        if self._addresses.get(address, 0) >= limits.connections_per_address_max:
            return self._refused(kinds.LIMIT)
        return 0

    def connected(self, peer: IPeer) -> IConnection:
        """A connection that waits for its hello, with the handshake time-out running."""
        connection = (Connection if peer.loose is None else LossyConnection)(self, peer)
        self.connections[connection] = None
        if not is_loopback(peer.address):
            self._addresses[peer.address] = self._addresses.get(peer.address, 0) + 1
        self.metrics.accepted[peer.listener] += 1
        self.hub.wheel.add(connection, self.hub.config.timing.handshake_timeout_s)
        if self._draining:
            # It was admitted before, and was still being greeted.
            self.hub.clock.callLater(0, connection.close, kinds.DRAIN, "the node stops")
        elif self.hub.hooks.accept is not None:
            self._ask_hook(connection, self.hub.hooks.accept)
        return connection

    def _ask_hook(self, connection: Connection, accept: Callable[[IPeer], Awaitable[None] | None]) -> None:
        """A plugin looks at the peer: an error refuses it, until then nothing is read."""
        try:
            result = accept(connection.peer)
        except errors.RelayError as error:
            connection.refuse(error)
            return
        if result is None:
            return
        connection.asked = True
        connection.peer.pause("accept")

        async def wait() -> None:
            await result
            connection.peer.resume("accept")
            connection.go_on()

        def refuse(failure: Failure) -> None:
            connection.refuse(failure.value)

        Deferred.fromCoroutine(wait()).addErrback(refuse)

    # --- for connections ------------------------------------------------------------------------------------------

    def gone(self, connection: Connection) -> None:
        """The transport of a connection is lost."""
        self.connections.pop(connection, None)
        address = connection.peer.address
        count = self._addresses.get(address)
        if count is not None:
            if count > 1:
                self._addresses[address] = count - 1
            else:
                del self._addresses[address]

    def refused(self, peer: IPeer, text: str) -> None:
        """A connection ended before it had a session."""
        log.debug("connection from {address} on {listener} ends before its session: {text}",
                  address=peer.address or "local", listener=peer.listener, text=text)  # fmt: skip

    def _refused(self, reason: int) -> int:
        self.metrics.refused[kinds.CLOSE_REASONS[reason][0]] += 1
        return reason

    # --- the listeners --------------------------------------------------------------------------------------------

    def listeners(self, listeners: tuple[Listener, ...]) -> None:
        """The networks that may connect, by listener name."""
        self._networks = {each.name: Networks(each.allow, each.deny) for each in listeners if each.allow or each.deny}

    def reconfigured(self) -> None:
        """Limits have changed: open connections get the new rates."""
        for connection in self.connections:
            connection.set_pace()

    # --- identity of an open session ------------------------------------------------------------------------------

    def _bind(self, session: Session, message: Message) -> None:
        """Speak for another user: by a token, or by name with the permission, or for nobody."""
        options = read(message, BindOptions)
        if options.token:
            self._with_token(session, message, options.token)
            return
        if options.user and not session.identity.permissions.allows_user("bind", options.user):
            raise errors.Denied(f"bind to {options.user}")
        self.sessions.bind(session, options.user)
        self._bound(session, message)

    def _refresh(self, session: Session, message: Message) -> None:
        """A new token for the same user."""
        options = read(message, RefreshOptions)
        if not options.token:
            raise errors.BadBody("a refresh needs a token")
        self._with_token(session, message, options.token)

    def _with_token(self, session: Session, message: Message, token: str) -> None:
        if session.peer is None:
            raise errors.Unavailable("the session is detached")
        hello = Hello(realm=session.realm.name, token=token, device=session.device)
        found = self.identify(hello, session.peer)
        if isinstance(found, Identity):
            self._proved(session, message, found)
            return

        async def wait() -> None:
            identity = await found
            if not session.ended:
                self._proved(session, message, identity)

        def then(session: Session, message: Message) -> None:
            """What follows is done by ``wait``."""

        self.router.suspend(session, message, wait(), then)

    def _proved(self, session: Session, message: Message, identity: Identity) -> None:
        if message.kind == kinds.REFRESH and identity.user != session.user:
            raise errors.Denied("refresh is for the same user; bind takes another")
        self.sessions.rebind(session, identity)
        self._bound(session, message)

    def _bound(self, session: Session, message: Message) -> None:
        if message.seq:
            expires_at = session.identity.expires_at
            left_ms = None if expires_at is None else max(0, int((expires_at - self.hub.wall()) * 1000))
            session.send(write(kinds.REPLY, {"user": session.user, "expires_in_ms": left_ms}, message.seq))

    # --- the end --------------------------------------------------------------------------------------------------

    def drain(self) -> Deferred[None]:
        """Admit nobody any more, say goodbye to everybody spread over ``drain_s``; fires when all are gone."""
        self._draining = True
        done: Deferred[None] = Deferred()
        waiting = list(self.connections)
        spread_s = self.hub.config.timing.drain_s
        step_s = spread_s / len(waiting) if waiting else 0.0
        for number, connection in enumerate(waiting):
            after_ms = int(spread_s * 1000) - int(number * step_s * 1000)
            self.hub.clock.callLater(number * step_s, connection.close, kinds.DRAIN, "the node stops", after_ms)
        deadline = self.hub.clock.seconds() + spread_s + self.hub.config.timing.close_timeout_s

        def look() -> None:
            if not self.connections or self.hub.clock.seconds() >= deadline:
                done.callback(None)
            else:
                self.hub.clock.callLater(0.02, look)

        look()
        return done
