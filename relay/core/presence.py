"""Who is in a channel, and whether a user is here.

Members are the sessions that subscribed to the channel by its name; who subscribed to a pattern receives what is
published, and with ``presence`` is told who comes and goes, but is no member of the channels that match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay import errors
from relay.wire import kinds
from relay.wire.handshake import Member, Members, UserPresence, write

if TYPE_CHECKING:
    from relay.core.channels import Channel, Subscription
    from relay.core.hub import Hub
    from relay.core.session import Session
    from relay.wire.message import Message


class Presence:
    """The router's part for presence; ``Channels`` says who comes and goes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def ask(self, session: Session, message: Message) -> None:
        """Who is in a channel; or whether a user is here."""
        user = message.get(kinds.USER)
        allows = session.identity.permissions.allows
        if user is not None:
            if not session.identity.permissions.allows_user("presence", user):
                raise errors.Denied(f"presence of {user}")
            count = len(session.realm.users.get(user, ()))
            session.send(write(kinds.REPLY, UserPresence(count > 0, count), message.seq))
            return
        if not allows("presence", message.name):
            raise errors.Denied(f"presence of {message.name}")
        if not self._hub.rule(message.name).presence:
            raise errors.Unsupported(f"presence is off in {message.name}")
        channel = session.realm.channels.get(message.name)
        members = Members(0) if channel is None else self.members(channel)
        session.send(write(kinds.REPLY, members, message.seq))

    def members(self, channel: Channel) -> Members:
        """How many there are, and the first ``presence_list_max`` of them."""
        limit = self._hub.config.limits.presence_list_max
        listed: list[Member] = []
        for session, subscription in channel.members.items():
            if len(listed) >= limit:
                break
            listed.append(_member(session, subscription))
        return Members(len(channel.members), tuple(listed))

    def watch(self, channel: Channel, session: Session, wanted: bool) -> None:
        """Whether ``session`` is to be told who comes and goes."""
        if wanted:
            if channel.watchers is None:
                channel.watchers = {}
            channel.watchers[session] = None
        elif channel.watchers is not None:
            channel.watchers.pop(session, None)
            if not channel.watchers:
                channel.watchers = None

    def tell(self, kind: int, session: Session, subscription: Subscription) -> None:
        """Joined or left, to who watches the channel or a pattern that matches it."""
        realm = session.realm
        name = subscription.channel.name
        patterns = realm.patterns.match(name)
        channel = subscription.channel
        watchers: dict[Session, None] = dict(channel.watchers or ())
        for pattern in patterns:
            if pattern.watchers:
                watchers.update(pattern.watchers)
        watchers.pop(session, None)
        if watchers and self._hub.rule(name).presence:
            told = write(kind, _member(session, subscription), 0, name)
            told.sender = session.sender
            self._hub.deliver(told, watchers)


def _member(session: Session, subscription: Subscription) -> Member:
    options = subscription.options
    return Member(session.id, session.user, session.device, options.role, options.info, subscription.since)
