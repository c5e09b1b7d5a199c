"""The life of sessions: begun, bound, detached, resumed, refreshed, ended.

    begin ─▶ attached ─lost─▶ detached ─resume─▶ attached
                │                 │ window over, too much kept
                └────── end ◀─────┘        (end: goodbye, kicked, replaced, expired, revoked)

A session is in ``Hub.sessions`` by id, in its realm by user and device, and here by token id, until it ends.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import msgspec
from twisted.logger import Logger

from relay import errors
from relay.core.absences import away_for
from relay.core.auth.grant import check_user
from relay.core.memberships import Memberships
from relay.core.occurrences import Occurrence
from relay.core.realm import Realm
from relay.core.session import Session
from relay.wire import filters, kinds
from relay.wire.handshake import Hello, Limits, Resume, SubscribeOptions, Welcome, write

if TYPE_CHECKING:
    from relay.core.connection import Connection
    from relay.core.hub import Hub
    from relay.core.identity import Identity
    from relay.core.router import Router
    from relay.core.wheel import Timed
    from relay.interfaces import IPeer

log = Logger()

SECRET_BYTES: Final = 16


class Sessions:
    """One per node. ``node``: its name in the welcome. ``prefix``: begins all session ids, names node and start."""

    def __init__(self, hub: Hub, router: Router, node: str, prefix: str, random_bytes: Callable[[int], bytes]) -> None:
        self._hub = hub
        self._router = router
        self._node = node
        self._prefix = prefix
        self._random_bytes = random_bytes
        self._count = 0
        self._tokens: dict[tuple[str, str], dict[Session, None]] = {}
        self.memberships = Memberships(hub, router.channels)
        self.detached = 0
        self.connections: dict[Session, Connection] = {}
        """The open connection of each attached session."""
        hub.close_session = self.close

    # --- begin ----------------------------------------------------------------------------------------------------

    def begin(self, identity: Identity, connection: Connection, hello: Hello) -> Session:
        """A new session on a new connection; the welcome is sent. Raises ``RelayError`` when it may not be."""
        hub = self._hub
        device = identity.device or hello.device
        if device:
            check_user(device, "device")
        realm = hub.realms.get(identity.realm)
        if realm is None:
            realm = hub.realms[identity.realm] = Realm(identity.realm, hub.directory)
        try:
            self._make_room(realm, identity.user, device)
        except errors.RelayError:
            self._drop_realm(realm)
            raise
        self._count += 1
        session = Session(hub, f"{self._prefix}-{self._count:x}", identity, realm, device, hub.wall())
        timing = hub.config.timing
        secret = ""
        if "resume" in hello.features and timing.resume_window_s > 0:
            secret = base64.urlsafe_b64encode(self._random_bytes(SECRET_BYTES)).decode().rstrip("=")
            session.secret_hash = _hash(secret)
            session.unacked = deque()
        session.filters = _filters(hello)
        hub.sessions[session.id] = session
        self._occur("session_started", session)
        if realm.enter(session):
            self._router.presence.users.came(realm, session.user)
        hub.metrics.sessions_started += 1
        self._attach(session, connection)
        subscriptions = self._server_side(session)
        session.control(write(kinds.WELCOME, self._welcome(session, hello, secret, tuple(subscriptions))))
        self._watch_token(session)
        try:
            for name, role in subscriptions.items():
                self._router.channels.join(session, name, SubscribeOptions(role=role))
        except errors.RelayError as error:
            self.close(session, kinds.LIMIT, str(error))
            self.end(session, str(error))
            raise
        peer = connection.peer
        log.info(
            "session {id} of {user!r} in {realm} begins: {method} over {transport} ({dialect}) from {address}",
            id=session.id, user=identity.user, realm=realm.name, method=identity.method,
            transport=peer.transport, dialect=peer.dialect, address=peer.address or "local",
        )  # fmt: skip
        if hub.hooks.session_started is not None:
            hub.hooks.session_started(session)
        return session

    def _make_room(self, realm: Realm, user: str, device: str) -> None:
        """Limits of a user's sessions and the policy for a device that is there already."""
        if not user:
            return
        sessions = realm.users.get(user, {})
        old = realm.devices.get((user, device)) if device else None
        if old is not None:
            if self._hub.config.auth.duplicate_device == "refuse" and old.peer is not None:
                raise errors.Conflict(f"device {device} of {user} is connected already")
            self.close(old, kinds.REPLACED, "the same device connected again")
        elif len(sessions) >= self._hub.config.limits.sessions_per_user_max:
            raise errors.LimitExceeded(f"{user} has as many sessions as a user may")

    def _server_side(self, session: Session) -> dict[str, str]:
        """The channels that the server subscribes for a session, with its role: of its identity, of the rules for its
        user, and of the user's memberships."""
        wanted = dict.fromkeys(session.identity.subscriptions, "")
        for rule in self._hub.config.channels:
            if session.user and session.user in rule.subscribe_for:
                wanted[rule.pattern] = ""
        wanted.update(self.memberships.of(session))
        return wanted

    def _welcome(self, session: Session, hello: Hello, secret: str, subscriptions: tuple[str, ...]) -> Welcome:
        hub = self._hub
        config = hub.config
        limits = config.limits
        expires_at = session.identity.expires_at
        return Welcome(
            session=session.id,
            node=self._node,
            realm=session.realm.name,
            user=session.user,
            device=session.device,
            secret=secret,
            received=session.received,
            resume_window_ms=int(config.timing.resume_window_s * 1000) if session.unacked is not None else 0,
            resume_ack_bytes=config.timing.resume_ack_bytes if session.unacked is not None else 0,
            heartbeat_ms=int(config.timing.heartbeat_for(hello.heartbeat_ms) * 1000),
            expires_in_ms=None if expires_at is None else max(0, int((expires_at - hub.wall()) * 1000)),
            features=("resume",) if session.unacked is not None else (),
            filters=tuple(filters.known()),
            addresses=config.addresses,
            subscriptions=subscriptions,
            limits=Limits(
                limits.frame_bytes_max, limits.metadata_bytes_max, limits.pending_pulls_max,
                limits.subscriptions_max, limits.registrations_max,
            ),
        )  # fmt: skip

    # --- detach and resume ----------------------------------------------------------------------------------------

    def _attach(self, session: Session, connection: Connection) -> None:
        connection.take(session)
        session.peer = connection.peer
        self.connections[session] = connection
        peer = connection.peer
        peer.watch(connection.overflowed, partial(session.skip_frame, peer.encoding))
        if session in self._router.held:
            peer.pause("hook")
        self._router.behind.attached(session)

    def resumable(self, wanted: Resume) -> Session | None:
        """The session that ``wanted`` may take up again, or None.

        One that its owner asks for and that lacks something cannot be resumed any more: it ends, so that it does not
        hold registrations and subscriptions against the session that takes its place.
        """
        session = self._hub.sessions.get(wanted.session)
        if session is None or not session.secret_hash:
            return None
        if not hmac.compare_digest(session.secret_hash, _hash(wanted.secret)):
            return None
        if session.can_resume(wanted.received):
            return session
        if wanted.received <= session.sent:
            self.close(session, kinds.REPLACED, "it cannot be resumed, another takes its place")
        return None

    def resume(self, session: Session, connection: Connection, hello: Hello) -> None:
        """Go on with ``session`` on a new connection: welcome, then what the client lacks."""
        assert hello.resume is not None
        old = self.connections.pop(session, None)
        if old is not None:
            # The old connection is dead but nobody noticed yet: it is taken over.
            old.taken_over()
        else:
            self.detached -= 1
        if session.window is not None:
            session.window.cancel()
            session.window = None
        session.acknowledge(hello.resume.received)
        session.filters = _filters(hello)
        self._attach(session, connection)
        self._hub.metrics.resumed += 1
        welcome = self._welcome(session, hello, "", tuple(self._server_side(session)))
        session.received_bytes = 0
        session.control(write(kinds.WELCOME, msgspec.structs.replace(welcome, resumed=True)))
        session.resend()
        self._router.queues.sessions.resumed(session)
        if self._hub.hooks.session_resumed is not None:
            self._hub.hooks.session_resumed(session)

    def detach(self, session: Session, peer: IPeer, text: str) -> None:
        """The connection is gone; the session waits for its window, or ends when it has none."""
        hub = self._hub
        self.connections.pop(session, None)
        session.peer = None
        unsent = peer.unsent()
        session.handed = session.sent - unsent
        timing = hub.config.timing
        if session.unacked is None or timing.resume_window_s <= 0:
            self._router.procedures.vanished(session, unsent)
            self.end(session, text)
            return
        if self.detached >= hub.config.limits.detached_sessions_max:
            self.end(session, f"{text}; too many sessions wait to be resumed")
            return
        self.detached += 1
        window_s = timing.resume_window_s
        window = hub.wheel.after(window_s, lambda: self.end(session, f"{text}; not resumed", window_s))
        session.window = window
        self._router.procedures.vanished(session, unsent)
        grace_s = hub.config.limits.provider_grace_s
        if not session.pending:
            return
        if grace_s <= 0:
            self._router.procedures.lost(session)
        else:
            hub.wheel.after(grace_s, lambda: self._grace_over(session, window))

    def _grace_over(self, session: Session, window: Timed) -> None:
        """It is away for ``provider_grace_s``; not when it came back, also if it left again since."""
        if session.window is window:
            self._router.procedures.lost(session)

    # --- end ------------------------------------------------------------------------------------------------------

    def close(self, session: Session, reason: int, text: str = "") -> None:
        """Say goodbye to a session for good: kicked, replaced, expired, revoked …"""
        connection = self.connections.get(session)
        if connection is not None:
            connection.close(reason, text)
        if not session.ended:
            self.end(session, f"{kinds.CLOSE_REASONS[reason][0]}: {text}", away_for(reason))

    def end(self, session: Session, text: str, away_s: float = 0.0) -> None:
        """Out of every table; who waits for it hears so. ``away_s``: as in ``Presence.left``."""
        if session.ended:
            return
        session.ended = True
        if session.peer is not None:
            session.handed = session.sent
        hub = self._hub
        if self.connections.pop(session, None) is None and session.window is not None:
            self.detached -= 1
        session.peer = None
        for timed in (session.window, session.expiry):
            if timed is not None:
                timed.cancel()
        session.window = session.expiry = None
        router = self._router
        for name in list(session.subscriptions):
            router.channels.part(session, name, away_s)
        for name in list(session.registrations):
            router.procedures.withdraw(session, name)
        router.procedures.lost(session)
        router.procedures.forget(session)
        router.queues.sessions.ended(session)
        router.held.pop(session, None)
        router.behind.forget(session)
        session.unacked = None
        if session.realm.leave(session):
            router.presence.users.went(session.realm, session.user)
        self._drop_realm(session.realm)
        del hub.sessions[session.id]
        self._unwatch_token(session)
        self._occur("session_ended", session, text)
        hub.metrics.sessions_ended += 1
        log.info(
            "session {id} of {user!r} ends after {seconds:.1f} s: {text}",
            id=session.id, user=session.user, seconds=hub.wall() - session.started_at, text=text,
        )  # fmt: skip
        if hub.hooks.session_ended is not None:
            hub.hooks.session_ended(session, text)

    def _occur(self, event: str, session: Session, reason: str = "") -> None:
        hub = self._hub
        if hub.on_occurrence is not None:
            at_ms = int(hub.wall() * 1000)
            hub.on_occurrence(
                Occurrence(
                    event, session.realm.name, at_ms, user=session.user, session=session.id, device=session.device,
                    reason=reason,
                )
            )  # fmt: skip

    def _drop_realm(self, realm: Realm) -> None:
        if not realm.sessions and self._hub.realms.get(realm.name) is realm:
            del self._hub.realms[realm.name]

    # --- identity -------------------------------------------------------------------------------------------------

    def bind(self, session: Session, user: str) -> None:
        """Speak for ``user`` ('' for nobody) from now on, with the permissions the session has."""
        if user:
            check_user(user)
        permissions = session.identity.permissions.bound_to(user)
        self.rebind(session, attrs.evolve(session.identity, user=user, permissions=permissions))

    def rebind(self, session: Session, identity: Identity) -> None:
        """Take another identity of the same realm. Raises ``Denied``, ``Conflict`` or ``LimitExceeded``."""
        if identity.realm != session.realm.name:
            raise errors.Denied("a session stays in its realm")
        if identity.user != session.user:
            self._make_room(session.realm, identity.user, session.device)
            self._router.queues.sessions.rebound(session)
        presence = self._router.presence
        other = identity.user != session.user
        known = presence.told(session) if other else []
        was, sender = session.user, session.sender
        before = self._server_side(session)
        self._unwatch_token(session)
        last = session.realm.leave(session)
        session.bind(identity)
        first = session.realm.enter(session)
        self._watch_token(session)
        if other:
            presence.bound(session, known, sender)
            if last:
                presence.users.went(session.realm, was)
            if first:
                presence.users.came(session.realm, identity.user)
        after = self._server_side(session)
        for name in before.keys() - after.keys():
            self._router.channels.part(session, name)
        for name, role in after.items():
            self._router.channels.join(session, name, SubscribeOptions(role=role))

    def revoke(self, realm: str, token_id: str) -> int:
        """Close all sessions of a token; returns how many."""
        sessions = list(self._tokens.get((realm, token_id), ()))
        for session in sessions:
            self.close(session, kinds.REVOKED, "the token was revoked")
        return len(sessions)

    def _watch_token(self, session: Session) -> None:
        identity = session.identity
        if identity.token_id:
            self._tokens.setdefault((identity.realm, identity.token_id), {})[session] = None
        if identity.expires_at is not None:
            left_s = identity.expires_at - self._hub.wall()
            warning_s = self._hub.config.auth.expiry_warning_s
            if left_s > warning_s:
                session.expiry = self._hub.wheel.after(left_s - warning_s, lambda: self._warn(session))
            else:
                self._warn(session)

    def _warn(self, session: Session) -> None:
        """A new token is wanted; without one the session is closed at its end."""
        assert session.identity.expires_at is not None
        left_s = max(0.0, session.identity.expires_at - self._hub.wall())
        session.send(write(kinds.REFRESH, {"expires_in_ms": int(left_s * 1000)}))
        session.expiry = self._hub.wheel.after(
            left_s, lambda: self.close(session, kinds.EXPIRED, "the credentials ran out")
        )

    def _unwatch_token(self, session: Session) -> None:
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        key = (session.identity.realm, session.identity.token_id)
        sessions = self._tokens.get(key)
        if sessions is not None:
            sessions.pop(session, None)
            if not sessions:
                del self._tokens[key]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _filters(hello: Hello) -> frozenset[int]:
    known = filters.known()
    return frozenset(known[name] for name in hello.filters if name in known)
