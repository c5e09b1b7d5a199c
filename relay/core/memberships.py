"""Users as members of channels: all their sessions, present and future, until it is taken back.

Made by code in the node (``INode.subscribe_user``), kept while the node runs, bounded by ``limits.memberships_max``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay import errors
from relay.wire.handshake import SubscribeOptions
from relay.wire.names import check_pattern

if TYPE_CHECKING:
    from relay.core.channels import Channels
    from relay.core.hub import Hub
    from relay.core.session import Session


class Memberships:
    """One per node. ``len`` is the number of memberships."""

    def __init__(self, hub: Hub, channels: Channels) -> None:
        self._hub = hub
        self._channels = channels
        self._count = 0
        # By realm and user: channel -> role.
        self._kept: dict[tuple[str, str], dict[str, str]] = {}

    def __len__(self) -> int:
        return self._count

    def of(self, session: Session) -> dict[str, str]:
        """The channels of a session's user, with the role in each."""
        return self._kept.get((session.realm.name, session.user), {})

    def join(self, realm: str, user: str, channel: str, role: str) -> None:
        """Make a user a member of a channel or pattern. Raises ``BadName``, ``LimitExceeded``."""
        check_pattern(channel)
        channels = self._kept.get((realm, user), {})
        if channel not in channels:
            if self._count >= self._hub.config.limits.memberships_max:
                raise errors.LimitExceeded("the node keeps as many memberships of users as it may")
            self._count += 1
        self._kept[realm, user] = {**channels, channel: role}
        for session in self._sessions(realm, user):
            self._channels.join(session, channel, SubscribeOptions(role=role))

    def part(self, realm: str, user: str, channel: str) -> bool:
        """End a user's membership; False when there was none."""
        channels = self._kept.get((realm, user), {})
        if channels.pop(channel, None) is None:
            return False
        self._count -= 1
        if not channels:
            del self._kept[realm, user]
        for session in self._sessions(realm, user):
            self._channels.part(session, channel)
        return True

    def _sessions(self, realm: str, user: str) -> list[Session]:
        place = self._hub.realms.get(realm)
        return [] if place is None else list(place.users.get(user, ()))
