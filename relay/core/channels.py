"""Channels: members and publications; who is here is told by ``relay.core.presence``.

A channel exists while it has members; a pattern that somebody subscribes to is a channel whose name is the pattern.
Publishing looks up the literal name in a dict and the patterns that match it in a remembered list, so its cost does
not depend on how many channels there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from relay import errors
from relay.core import users
from relay.core.auth.grant import check_user
from relay.core.hub import FORWARDED_FLAGS
from relay.wire import kinds, names
from relay.wire.handshake import SubscribeOptions, read, write
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.presence import Presence
    from relay.core.realm import Realm
    from relay.core.session import Session


class Subscription:
    """A session's membership in a channel. ``since``: Unix time in ms. ``id``: the member's, mostly its session's."""

    __slots__ = ("channel", "id", "options", "since")

    def __init__(self, channel: Channel, options: SubscribeOptions, since: int, id_: str) -> None:
        self.channel = channel
        self.id = id_
        self.options = options
        self.since = since


class Channel:
    """``watchers``: the members that want to be told of joins and leaves (None: nobody)."""

    __slots__ = ("members", "name", "pattern", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pattern = names.is_pattern(name)
        self.members: dict[Session, Subscription] = {}
        self.watchers: dict[Session, None] | None = None


class Channels:
    """The router's part for publish, subscribe and unsubscribe."""

    def __init__(self, hub: Hub, presence: Presence) -> None:
        self._hub = hub
        self._presence = presence
        self._count = 0

    def publish(self, session: Session, message: Message) -> None:
        """To all members of the channel and of the patterns that match it."""
        if not session.identity.permissions.allows("publish", message.name):
            raise errors.Denied(f"publish to {message.name}")
        reached = self.send(session.realm, message, session)
        if message.seq:
            self._hub.answer(session, message.seq, {kinds.REACHED: reached})

    def send(self, realm: Realm, message: Message, publisher: Session | None) -> int:
        """Deliver a publication; ``publisher`` None: the node itself. Returns the sessions reached."""
        hub = self._hub
        name = message.name
        rule = hub.rule(name)
        fields = hub.forwarded(message.fields)
        if rule.timestamp:
            fields = {} if fields is None else fields
            fields[kinds.ACCEPTED_AT] = int(hub.wall() * 1000)
        event = Message(
            kinds.EVENT, name, message.body, message.codec, message.flags & FORWARDED_FLAGS, 0, fields,
            message.sender if publisher is None else publisher.sender,
        )  # fmt: skip
        skip = publisher if message.flags & kinds.NO_ECHO or not rule.echo else None
        return hub.deliver(event, receivers(realm, name), skip, rule.slow)

    def subscribe(self, session: Session, message: Message) -> None:
        """Become a member; the answer has the list of members when presence was asked for."""
        options = read(message, SubscribeOptions)
        name = message.name
        names.check_pattern(name)
        if name.startswith(users.PREFIX):
            self._presence.users.subscribe(session, message, self)
            return
        if name.startswith("$"):
            raise errors.Denied("names that begin with $ are the server's own")
        allows = session.identity.permissions.allows
        if not allows("subscribe", name):
            raise errors.Denied(f"subscribe to {name}")
        if options.presence and not allows("presence", name):
            raise errors.Denied(f"presence of {name}")
        if options.presence and not names.is_pattern(name) and not self._hub.rule(name).presence:
            raise errors.Unsupported(f"presence is off in {name}")
        if options.role:
            check_user(options.role, "role")
        if options.info is not None and len(msgspec.json.encode(options.info)) > self._hub.config.limits.info_bytes_max:
            raise errors.LimitExceeded(f"info is over {self._hub.config.limits.info_bytes_max} bytes")
        channel = self.join(session, name, options)
        if message.seq:
            if options.presence:
                members = self._presence.members(session.realm, channel.name)
                reply = write(kinds.REPLY, {"count": members.count, "presence": members.members}, message.seq)
                session.send(reply)
            else:
                self._hub.answer(session, message.seq)

    def join(self, session: Session, name: str, options: SubscribeOptions) -> Channel:
        """Make ``session`` a member, or replace its options."""
        hub = self._hub
        realm = session.realm
        known = session.subscriptions.get(name)
        if known is not None:
            known.options = options
            self._presence.watch(known.channel, session, options.presence)
            return known.channel
        limits = hub.config.limits
        if len(session.subscriptions) >= limits.subscriptions_max:
            raise errors.LimitExceeded(f"{limits.subscriptions_max} subscriptions are the limit")
        pattern = names.is_pattern(name)
        if pattern and session.subscribed_patterns >= limits.patterns_max:
            raise errors.LimitExceeded(f"{limits.patterns_max} subscriptions to patterns are the limit")
        channel = realm.channels.get(name)
        if channel is None:
            if self._count >= limits.channels_max:
                raise errors.LimitExceeded("the node has as many channels as it may")
            self._count += 1
            channel = realm.channels[name] = Channel(name)
            if channel.pattern:
                realm.patterns.add(name, channel)
            realm.directory.channel_interest(realm.name, name, True)
        elif len(channel.members) >= limits.channel_members_max:
            raise errors.LimitExceeded(f"{limits.channel_members_max} members are the limit")
        subscription = Subscription(channel, options, int(hub.wall() * 1000), session.id)
        channel.members[session] = subscription
        session.subscriptions[name] = subscription
        session.subscribed_patterns += pattern
        if not pattern:
            self._presence.joined(session, subscription)
        self._presence.watch(channel, session, options.presence)
        return channel

    def unsubscribe(self, session: Session, message: Message) -> None:
        """Be a member no longer."""
        if not self.part(session, message.name):
            raise errors.NotFound(f"no subscription {message.name}")
        self._hub.answer(session, message.seq)

    def part(self, session: Session, name: str, away_s: float = 0.0) -> bool:
        """End a membership; False when there was none. ``away_s``: how long the member has been away, see
        ``Presence.left``."""
        subscription = session.subscriptions.pop(name, None)
        if subscription is None:
            return False
        channel = subscription.channel
        session.subscribed_patterns -= channel.pattern
        del channel.members[session]
        self._presence.watch(channel, session, False)
        if not channel.members:
            realm = session.realm
            self._count -= 1
            del realm.channels[channel.name]
            if channel.pattern:
                realm.patterns.remove(channel.name, channel)
            realm.directory.channel_interest(realm.name, channel.name, False)
        if not channel.pattern:
            self._presence.left(session, subscription, away_s)
        return True


def receivers(realm: Realm, name: str) -> Iterable[Session]:
    """The sessions that a publication to ``name`` goes to, each once."""
    channel = realm.channels.get(name)
    patterns = realm.patterns.match(name) if len(realm.patterns) else ()
    # Fast path: nobody listens through a pattern.
    if not patterns:
        return () if channel is None else channel.members
    if channel is None and len(patterns) == 1:
        return patterns[0].members
    together: dict[Session, None] = {}
    if channel is not None:
        together.update(dict.fromkeys(channel.members))
    for pattern in patterns:
        together.update(dict.fromkeys(pattern.members))
    return together
