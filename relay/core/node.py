"""What code in this node may do: ``INode`` over the router and the sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from relay import errors
from relay.core.pending import NodePull
from relay.interfaces import INode
from relay.wire import kinds
from relay.wire.handshake import SubscribeOptions
from relay.wire.message import Message
from relay.wire.names import check_pattern

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.router import Router
    from relay.core.session import Session
    from relay.core.sessions import Sessions


@implementer(INode)
class NodeAccess:
    """One per node. Messages come from nobody: a receiver sees no ``from_…``, unless the caller stamped a sender."""

    def __init__(self, hub: Hub, router: Router, sessions: Sessions) -> None:
        self._hub = hub
        self._router = router
        self._sessions = sessions

    def push_session(self, session: Session, message: Message) -> None:
        """Send a push to one session. Raises ``NoReceiver`` when it has ended."""
        if session.ended:
            raise errors.NoReceiver("the session has ended")
        session.send(msgspec.structs.replace(message, kind=kinds.PUSH, seq=0))

    def pull_session(self, session: Session, message: Message, deadline_s: float | None) -> Deferred[Message]:
        """Ask one session; see ``INode``."""
        limits = self._hub.config.limits
        if session.ended:
            raise errors.NoReceiver("the session has ended")
        if len(session.pending) >= limits.pending_pulls_max:
            raise errors.LimitExceeded("the session has as many unanswered pulls as it may", temporary=True)
        asked = self._hub.fit(message, session)
        pending = NodePull(self._hub, session)
        wait_s = limits.deadline_s_default if deadline_s is None else min(deadline_s, limits.deadline_s_max)
        self._hub.wheel.add(pending, wait_s)
        session.send(msgspec.structs.replace(asked, kind=kinds.PULL, seq=pending.provider_seq))
        return pending.deferred

    def push_user(self, realm: str, user: str, device: str, message: Message) -> tuple[int, int]:
        """Send a push to a user's sessions, or to one device; how many were addressed, reached."""
        place = self._hub.realms.get(realm)
        sessions = list(place.users.get(user, ())) if place is not None else []
        addressed = [each for each in sessions if not device or each.device == device]
        return len(addressed), self._hub.deliver(msgspec.structs.replace(message, kind=kinds.PUSH, seq=0), addressed)

    def publish(self, realm: str, message: Message) -> int | Deferred[int]:
        """Publish on a channel; how many sessions it reached. Later, where it is stored on the disk first."""
        return self._router.channels.send(realm, message)

    def bind(self, session: Session, user: str) -> None:
        """Bind a session to a user, to another one, or with '' unbind it."""
        if session.ended:
            raise errors.NoReceiver("the session has ended")
        self._sessions.bind(session, user)

    def subscribe(self, session: Session, channel: str, role: str = "") -> None:
        """Make a session a member of a channel or pattern."""
        if session.ended:
            raise errors.NoReceiver("the session has ended")
        check_pattern(channel)
        self._router.channels.join(session, channel, SubscribeOptions(role=role))

    def unsubscribe(self, session: Session, channel: str) -> bool:
        """End a session's membership; False when there was none."""
        return self._router.channels.part(session, channel)

    def subscribe_user(self, realm: str, user: str, channel: str, role: str = "") -> None:
        """Make a user a member: all sessions, present and future."""
        self._sessions.memberships.join(realm, user, channel, role)

    def unsubscribe_user(self, realm: str, user: str, channel: str) -> bool:
        """End a user's membership; False when there was none."""
        return self._sessions.memberships.part(realm, user, channel)
