"""Channels: members and publications; who is here is told by ``relay.core.presence``.

A channel exists while it has members; a pattern that somebody subscribes to is a channel whose name is the pattern.
Publishing looks up the literal name in a dict and the patterns that match it in a remembered list, so its cost does
not depend on how many channels there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred

from relay import errors
from relay.config import ChannelRule
from relay.core import users
from relay.core.auth.grant import check_user
from relay.core.hub import FORWARDED_FLAGS
from relay.core.recovery import Recovery, Turns
from relay.core.selection import Selector, check_options, choose, forget, receivers, select
from relay.wire import kinds, names
from relay.wire.handshake import SubscribeOptions, read, write
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.histories import Histories
    from relay.core.hub import Hub
    from relay.core.presence import Presence
    from relay.core.session import Session


class Subscription:
    """A session's membership in a channel. ``since``: Unix time in ms. ``id``: the member's, mostly its session's. The
    others make it selective, see ``relay.core.selection``; ``behind``: events up to that offset have been sent."""

    __slots__ = ("behind", "channel", "id", "options", "recovery", "selector", "since")

    def __init__(self, channel: Channel, options: SubscribeOptions, since: int, id_: str) -> None:
        self.channel = channel
        self.id = id_
        self.options = options
        self.since = since
        self.recovery: Recovery | None = None
        self.behind = 0
        self.selector: Selector | None = None


class Channel:
    """``watchers``: the members that want to be told of joins and leaves (None: nobody). ``selective``: those that do
    not take every event (None: nobody)."""

    __slots__ = ("members", "name", "pattern", "selective", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pattern = names.is_pattern(name)
        self.members: dict[Session, Subscription] = {}
        self.watchers: dict[Session, None] | None = None
        self.selective: dict[Session, Subscription] | None = None


class Channels:
    """The router's part for publish, subscribe and unsubscribe."""

    def __init__(self, hub: Hub, presence: Presence, histories: Histories, turns: Turns) -> None:
        self._hub = hub
        self._presence = presence
        self._histories = histories
        self._turns = turns
        self._count = 0

    def publish(self, session: Session, message: Message) -> None:
        """To all members of the channel and of the patterns that match it."""
        if not session.identity.permissions.allows("publish", message.name):
            raise errors.Denied(f"publish to {message.name}")
        rule = self._hub.rule(message.name)
        event, skip = self._event(rule, message, session)
        if rule.history is not None and not self._histories.kept(session.realm.name, rule, event, message):
            self._histories.publish(session.realm.name, rule, event, message, session, skip)
            return
        realm = session.realm
        wanted = choose(realm, event, skip, rule.slow) if realm.selective else receivers(realm, event.name)
        reached = self._hub.deliver(event, wanted, skip, rule.slow)
        if message.seq:
            fields = {kinds.REACHED: reached}
            if rule.history is not None:
                assert event.fields is not None
                fields |= event.fields
            session.send(Message(kinds.REPLY, "", b"", 0, 0, message.seq, fields))

    def send(self, realm: str, message: Message) -> int | Deferred[int]:
        """Deliver a publication of the node itself. The sessions reached; later, where it has to be stored first."""
        rule = self._hub.rule(message.name)
        event, skip = self._event(rule, message, None)
        if rule.history is not None and not self._histories.kept(realm, rule, event, message):
            return self._histories.publish(realm, rule, event, message, None, skip)
        place = self._hub.realms.get(realm)
        if place is None:
            return 0
        wanted = choose(place, event, skip, rule.slow) if place.selective else receivers(place, event.name)
        return self._hub.deliver(event, wanted, skip, rule.slow)

    def _event(self, rule: ChannelRule, message: Message, publisher: Session | None) -> tuple[Message, Session | None]:
        """What members get, and who does not."""
        hub = self._hub
        fields = hub.forwarded(message.fields)
        if rule.timestamp:
            fields = {} if fields is None else fields
            fields[kinds.ACCEPTED_AT] = int(hub.wall() * 1000)
        event = Message(
            kinds.EVENT, message.name, message.body, message.codec, message.flags & FORWARDED_FLAGS, 0, fields,
            message.sender if publisher is None else publisher.sender,
        )  # fmt: skip
        return event, publisher if message.flags & kinds.NO_ECHO or not rule.echo else None

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
        if options.info is not None:
            check_info(options.info, self._hub.config.limits.info_bytes_max)
        check_options(options, self._hub.config.history.tags_max)
        pattern = names.is_pattern(name)
        recovers = options.since is not None or options.last or options.since_time
        if pattern and (recovers or options.retained):
            raise errors.Unsupported(f"{name} is a pattern: its channels have histories of their own")
        plan = None if pattern else self._histories.plan(name)
        if plan is not None:
            self._histories.store(plan)
        channel = self.join(session, name, options)
        answer: dict[str, object] = {}
        if options.presence:
            members = self._presence.members(session.realm, channel.name)
            answer = {"count": members.count, "presence": members.members}
        if plan is not None:
            subscription = channel.members[session]
            Recovery(
                self._histories, self._turns, self.part, plan, session, subscription, message.seq, answer
            ).begin()
            return
        if recovers:
            answer["recovered"] = False
        if message.seq:
            session.send(write(kinds.REPLY, answer, message.seq) if answer else Message(kinds.REPLY, seq=message.seq))

    def join(self, session: Session, name: str, options: SubscribeOptions) -> Channel:
        """Make ``session`` a member, or replace its options."""
        hub = self._hub
        realm = session.realm
        known = session.subscriptions.get(name)
        if known is not None:
            if known.recovery is not None:
                known.recovery.cancel()
                known.recovery = None
            known.options = options
            select(hub, session, known)
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
        if options.tags or options.max_rate:
            select(hub, session, subscription)
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
        forget(session, subscription)
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


def check_info(info: Any, bytes_max: int) -> None:  # Any: whatever the body's codec can carry
    """Raises ``BadBody`` for what is no JSON, which MessagePack can carry, and ``LimitExceeded``."""
    try:
        size = len(msgspec.json.encode(info))
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.BadBody(f"info: a JSON value expected: {error}") from None
    if size > bytes_max:
        raise errors.LimitExceeded(f"info is over {bytes_max} bytes")
