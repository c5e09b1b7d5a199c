"""Members that left and may be back before anybody is told: the grace against flapping.

    left ─▶ absent ──grace over──▶ gone (left is told)
              │
              └──back in time────▶ a member as before (nothing is told)

Who is back: the same session, or, once that has ended, another session of the same user and device. A member keeps its
``id`` over this, so that what watchers were told still adds up; an id is never that of two members of a channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from relay.core.wheel import Timed
from relay.wire import kinds

if TYPE_CHECKING:
    from relay.core.session import Session
    from relay.core.wheel import Wheel
    from relay.wire.handshake import Member
    from relay.wire.message import Sender

Gone = Callable[["Absence"], None]


def away_for(reason: int) -> float:
    """How long, in seconds, who is closed for ``reason`` counts as away already: for ever when it may not come back,
    unless another has taken its place."""
    return 0.0 if reason == kinds.REPLACED or kinds.CLOSE_REASONS[reason][1] else math.inf


class Absence(Timed):
    """One member of one channel that is away. ``member``, ``sender``: as they were when it left."""

    __slots__ = ("_gone", "channel", "member", "sender", "session")

    def __init__(self, channel: str, session: Session, member: Member, gone: Gone) -> None:
        super().__init__()
        self.channel = channel
        self.session = session
        self.member = member
        self.sender: Sender = session.sender
        self._gone = gone

    @property
    def owner(self) -> tuple[str, str]:
        """User and device; of a session that is unbound its own id, which nobody else has."""
        member = self.member
        return (member.user, member.device) if member.user else ("", member.session)

    def expire(self) -> None:
        """It did not come back."""
        self._gone(self)


class _Channel:
    """Those away from one channel, by session and by owner; in the order in which they left."""

    __slots__ = ("owners", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[Session, Absence] = {}
        self.owners: dict[tuple[str, str], dict[Absence, None]] = {}


class Absences:
    """One per node. ``gone`` is called for each that did not come back, when it is in the table no more."""

    def __init__(self, wheel: Wheel, gone: Gone) -> None:
        self._wheel = wheel
        self._gone = gone
        self._count = 0
        self._channels: dict[tuple[str, str], _Channel] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, channel: str, session: Session, member: Member, grace_s: float) -> None:
        """``member`` has left ``channel`` and is gone in ``grace_s``."""
        absence = Absence(channel, session, member, self._expired)
        place = self._channels.setdefault((session.realm.name, channel), _Channel())
        assert session not in place.sessions
        place.sessions[session] = absence
        place.owners.setdefault(absence.owner, {})[absence] = None
        self._count += 1
        self._wheel.add(absence, grace_s)

    def back(self, channel: str, session: Session) -> Absence | None:
        """``session`` is a member from now on: whose place it takes, if anybody's.

        When it was one as another user, that one is gone, and there is nothing to take.
        """
        place = self._channels.get((session.realm.name, channel))
        if place is None:
            return None
        absence = place.sessions.get(session)
        if absence is not None:
            self._remove(absence)
            if absence.member.user == session.user:
                return absence
            self._gone(absence)
        if session.user:
            for other in place.owners.get((session.user, session.device), ()):
                # One that has not ended may come back itself, with the same id.
                if other.session.ended:
                    self._remove(other)
                    return other
        return None

    def count(self, realm: str, channel: str) -> int:
        """How many are away from a channel."""
        place = self._channels.get((realm, channel))
        return 0 if place is None else len(place.sessions)

    def members(self, realm: str, channel: str) -> Iterable[Member]:
        """Those away from a channel."""
        place = self._channels.get((realm, channel))
        return () if place is None else (each.member for each in place.sessions.values())

    def _expired(self, absence: Absence) -> None:
        self._remove(absence)
        self._gone(absence)

    def _remove(self, absence: Absence) -> None:
        absence.cancel()
        self._count -= 1
        key = (absence.session.realm.name, absence.channel)
        place = self._channels[key]
        del place.sessions[absence.session]
        same = place.owners[absence.owner]
        del same[absence]
        if not same:
            del place.owners[absence.owner]
        if not place.sessions:
            del self._channels[key]
