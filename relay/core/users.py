"""Whether a user is here, and when they were last.

    first session came ─▶ online          (``occupied`` on ``$user.NAME``)
    last session ended ─▶ grace ─▶ offline (``vacated``)

A user is here while a session speaks for them, also one that waits to be resumed, and for ``timing.presence_grace_s``
longer. When users were here last is written behind: in batches, when they come and when they go, so that a crash costs
no more than the time since they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay import errors
from relay.core.occurrences import Occurrence
from relay.wire import kinds
from relay.wire.handshake import SubscribeOptions, UserPresence, write
from relay.wire.message import Message
from relay.wire.names import check_name

if TYPE_CHECKING:
    from relay.core.channels import Channels
    from relay.core.hub import Hub
    from relay.core.realm import Realm
    from relay.core.session import Session
    from relay.core.wheel import Call
    from relay.interfaces import IPresence

PREFIX: Final = "$user."
"""Begins the name under which a user is watched."""
BATCH_MAX: Final = 1000
"""Users whose time is written together; a full batch is written at once."""
BATCH_S: Final = 1.0
"""A batch that is not full waits this long."""


class Users:
    """One per node. ``store`` is where the times are kept; None: nowhere, nobody was ever seen."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.store: IPresence | None = None
        self._leaving: dict[tuple[str, str], Call] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._flush: Call | None = None

    # --- asked ----------------------------------------------------------------------------------------------------

    def check(self, session: Session, user: str) -> None:
        """Raises ``Denied`` when ``session`` may not know."""
        if not session.identity.permissions.allows_user("presence", user):
            raise errors.Denied(f"presence of {user}")

    def answer(self, session: Session, user: str, message: Message) -> None:
        """The reply to ``message``: online, sessions, last seen. It may come later than those to other requests."""
        realm = session.realm.name
        sessions = len(session.realm.users.get(user, ()))
        online = sessions > 0 or (realm, user) in self._leaving
        unwritten = self._seen.get((realm, user), 0)
        if online or unwritten or self.store is None:
            found = UserPresence(online, sessions, 0 if online else unwritten)
            session.send(write(kinds.REPLY, found, message.seq))
            return

        def found_in_store(last_seen: int | errors.RelayError) -> None:
            if isinstance(last_seen, errors.RelayError):
                self._hub.refuse(session, message, last_seen)
            else:
                session.send(write(kinds.REPLY, UserPresence(False, 0, last_seen), message.seq))

        self.store.last_seen(realm, user, found_in_store)

    def subscribe(self, session: Session, message: Message, channels: Channels) -> None:
        """Watch a user: subscribe to ``$user.NAME``. The answer is as to presence of the user."""
        user = message.name.removeprefix(PREFIX)
        check_name(message.name)
        self.check(session, user)
        channels.join(session, message.name, SubscribeOptions())
        if message.seq:
            self.answer(session, user, message)

    # --- who comes and goes ---------------------------------------------------------------------------------------

    def came(self, realm: Realm, user: str) -> None:
        """The first session of a user."""
        self._note(realm.name, user)
        leaving = self._leaving.pop((realm.name, user), None)
        if leaving is not None:
            leaving.cancel()
            return
        self._tell(kinds.OCCUPIED, "user_online", realm.name, user)

    def went(self, realm: Realm, user: str) -> None:
        """The last session of a user has ended."""
        self._note(realm.name, user)
        key = (realm.name, user)
        grace_s = self._hub.config.timing.presence_grace_s
        if grace_s > 0 and len(self._leaving) < self._hub.config.limits.absent_members_max:
            self._leaving[key] = self._hub.wheel.after(grace_s, lambda: self._gone(*key))
        else:
            self._tell(kinds.VACATED, "user_offline", *key)

    def stop(self) -> None:
        """The node stops: all who are here were seen now."""
        for realm in self._hub.realms.values():
            for user in realm.users:
                self._note(realm.name, user)
        self._write()

    def _gone(self, realm: str, user: str) -> None:
        del self._leaving[realm, user]
        self._tell(kinds.VACATED, "user_offline", realm, user)

    def _tell(self, kind: int, event: str, realm_name: str, user: str) -> None:
        hub = self._hub
        at_ms = int(hub.wall() * 1000)
        name = PREFIX + user
        realm = hub.realms.get(realm_name)
        watched = None if realm is None else realm.channels.get(name)
        if watched is not None:
            hub.deliver(Message(kind, name, fields={kinds.ACCEPTED_AT: at_ms}), watched.members)
        if hub.on_occurrence is not None:
            hub.on_occurrence(Occurrence(event, realm_name, at_ms, user=user))

    # --- last seen ------------------------------------------------------------------------------------------------

    def _note(self, realm: str, user: str) -> None:
        if self.store is None:
            return
        self._seen[realm, user] = int(self._hub.wall() * 1000)
        if len(self._seen) >= BATCH_MAX:
            self._write()
        elif self._flush is None:
            self._flush = self._hub.wheel.after(BATCH_S, self._write)

    def _write(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._seen and self.store is not None:
            batch = [(realm, user, at_ms) for (realm, user), at_ms in self._seen.items()]
            self._seen.clear()
            self.store.seen(batch)
