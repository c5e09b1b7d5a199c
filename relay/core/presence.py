"""Who is in a channel, and who is told of it.

Members are the sessions that subscribed to the channel by its name; who subscribed to a pattern receives what is
published, and with ``presence`` is told who comes and goes, but is no member of the channels that match.

    joined, left       to watchers of the channel and of the patterns that match it, but the member itself
    occupied, vacated  the first member came, the last is gone: to watchers of patterns (who watches the channel by its
                       name is a member of it)

A member that is back within the channel's grace has never been away (``relay.core.absences``): what a watcher was told,
added to the list it got, is always the list that it would get now.

This node's members are meant. In a cluster the owner of a channel hears of each node's first and last member through
``IDirectory.channel_interest`` and calls ``occupied`` and ``vacated``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay import errors
from relay.config import ChannelRule
from relay.core.absences import Absence, Absences
from relay.core.occurrences import Occurrence
from relay.core.users import Users
from relay.wire import kinds
from relay.wire.handshake import Member, Members, PresenceOptions, read, write
from relay.wire.message import Message, Sender

if TYPE_CHECKING:
    from relay.core.channels import Channel, Subscription
    from relay.core.hub import Hub
    from relay.core.realm import Realm
    from relay.core.session import Session

SILENT = ChannelRule(pattern="**", presence=False)
"""Of relay's own names."""


class Presence:
    """The router's part for presence; ``Channels`` says who comes and goes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.absences = Absences(hub.wheel, self._gone)
        self.users = Users(hub)

    # --- asked ----------------------------------------------------------------------------------------------------

    def ask(self, session: Session, message: Message) -> None:
        """Who is in a channel; or whether a user is here."""
        user = message.get(kinds.USER)
        if user is not None:
            self.users.check(session, user)
            self.users.answer(session, user, message)
            return
        name = message.name
        if not session.identity.permissions.allows("presence", name):
            raise errors.Denied(f"presence of {name}")
        if not self._hub.rule(name).presence:
            raise errors.Unsupported(f"presence is off in {name}")
        options = read(message, PresenceOptions)
        members = self.members(session.realm, name, listed=not options.count_only)
        session.send(write(kinds.REPLY, members, message.seq))

    def members(self, realm: Realm, name: str, listed: bool = True) -> Members:
        """How many there are, and the first ``presence_list_max`` of them."""
        channel = realm.channels.get(name)
        count = self.absences.count(realm.name, name)
        if channel is not None:
            count += len(channel.members)
        if not listed:
            return Members(count)
        limit = self._hub.config.limits.presence_list_max
        found: list[Member] = []
        for session, subscription in channel.members.items() if channel is not None else ():
            if len(found) >= limit:
                break
            found.append(member_of(session, subscription))
        for member in self.absences.members(realm.name, name):
            if len(found) >= limit:
                break
            found.append(member)
        return Members(count, tuple(found))

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

    # --- who comes and goes ---------------------------------------------------------------------------------------

    def joined(self, session: Session, subscription: Subscription) -> None:
        """A session is a member from now on; it is in the channel's table."""
        channel = subscription.channel
        name = channel.name
        if self.absences:
            absence = self.absences.back(name, session)
            if absence is not None:
                subscription.id = absence.member.key
                subscription.since = absence.member.since
                return
        # Fast path: nobody is to be told.
        if self._unseen(channel, session.realm) or not self._rule(name).presence:
            return
        realm = session.realm.name
        if len(channel.members) == 1 and not self.absences.count(realm, name):
            self.occupied(realm, name)
        self._tell(kinds.JOINED, name, session, member_of(session, subscription), session.sender)

    def left(self, session: Session, subscription: Subscription, away_s: float) -> None:
        """A session is a member no longer, and was away for ``away_s`` already; infinity: it will not be back."""
        name = subscription.channel.name
        rule = self._rule(name)
        if not rule.presence:
            return
        grace_s = rule.presence_grace_s
        if grace_s is None:
            grace_s = self._hub.config.timing.presence_grace_s
        if grace_s > away_s and len(self.absences) < self._hub.config.limits.absent_members_max:
            self.absences.add(name, session, member_of(session, subscription), grace_s - away_s)
        elif not self._unseen(subscription.channel, session.realm):
            self._left(name, session, member_of(session, subscription), session.sender)

    def bound(self, session: Session, before: list[tuple[Subscription, Member]], sender: Sender) -> None:
        """A session speaks for another user: in its channels the one has left, the other joined. ``before``: what
        ``told`` gave; ``sender``: who it was."""
        for subscription, member in before:
            name = subscription.channel.name
            self._tell(kinds.LEFT, name, session, member, sender)
            subscription.since = int(self._hub.wall() * 1000)
            self._tell(kinds.JOINED, name, session, member_of(session, subscription), session.sender)

    def told(self, session: Session) -> list[tuple[Subscription, Member]]:
        """A session's memberships, as watchers know them."""
        return [
            (each, member_of(session, each))
            for each in session.subscriptions.values()
            if not each.channel.pattern and self._rule(each.channel.name).presence
        ]

    def occupied(self, realm: str, name: str) -> None:
        """The first member of a channel came."""
        self._tell_occupancy(kinds.OCCUPIED, "occupied", realm, name)

    def vacated(self, realm: str, name: str) -> None:
        """The last member of a channel is gone."""
        self._tell_occupancy(kinds.VACATED, "vacated", realm, name)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _unseen(self, channel: Channel, realm: Realm) -> bool:
        """Whether nobody at all watches, neither by name nor by any pattern."""
        return not channel.watchers and not len(realm.patterns) and self._hub.on_occurrence is None

    def _rule(self, name: str) -> ChannelRule:
        return SILENT if name.startswith("$") else self._hub.rule(name)

    def _gone(self, absence: Absence) -> None:
        """The grace is over."""
        self._left(absence.channel, absence.session, absence.member, absence.sender)

    def _left(self, name: str, session: Session, member: Member, sender: Sender) -> None:
        self._tell(kinds.LEFT, name, session, member, sender)
        realm = self._hub.realms.get(session.realm.name)
        here = realm is not None and name in realm.channels
        if not here and not self.absences.count(session.realm.name, name):
            self.vacated(session.realm.name, name)

    def _tell(self, kind: int, name: str, session: Session, member: Member, sender: Sender) -> None:
        """Joined or left, to who watches the channel or a pattern that matches it."""
        hub = self._hub
        rule = self._rule(name)
        if not (rule.presence and rule.joined_left):
            return
        realm = hub.realms.get(session.realm.name)
        if realm is not None:
            channel = realm.channels.get(name)
            watchers = dict(channel.watchers) if channel is not None and channel.watchers else {}
            _add_watchers(watchers, realm, name)
            watchers.pop(session, None)
            if watchers:
                told = write(kind, member, 0, name)
                told.sender = sender
                hub.deliver(told, watchers)
        if hub.on_occurrence is not None:
            hub.on_occurrence(
                Occurrence(
                    kinds.KINDS[kind], session.realm.name, int(hub.wall() * 1000), name, member.user, member.session,
                    member.device, member.id, member.role, member.info, member.since,
                )
            )  # fmt: skip

    def _tell_occupancy(self, kind: int, event: str, realm_name: str, name: str) -> None:
        hub = self._hub
        at_ms = int(hub.wall() * 1000)
        realm = hub.realms.get(realm_name)
        if realm is not None and len(realm.patterns):
            watchers: dict[Session, None] = {}
            _add_watchers(watchers, realm, name)
            if watchers:
                hub.deliver(Message(kind, name, fields={kinds.ACCEPTED_AT: at_ms}), watchers)
        if hub.on_occurrence is not None:
            hub.on_occurrence(Occurrence(event, realm_name, at_ms, name))


def _add_watchers(watchers: dict[Session, None], realm: Realm, name: str) -> None:
    """Those of the patterns that match ``name``."""
    for pattern in realm.patterns.match(name) if len(realm.patterns) else ():
        if pattern.watchers:
            watchers.update(pattern.watchers)


def member_of(session: Session, subscription: Subscription) -> Member:
    """What is told of a member."""
    options = subscription.options
    id_ = subscription.id if subscription.id != session.id else ""
    return Member(session.id, session.user, session.device, options.role, options.info, subscription.since, id_)
