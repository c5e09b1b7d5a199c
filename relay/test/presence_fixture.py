"""For the tests of presence: a grace, what a watcher was told, and the list that it gets."""

from __future__ import annotations

from typing import Any

from relay.config import Config, Timing
from relay.test.core_fixture import Guest
from relay.wire import kinds
from relay.wire.handshake import Member, Members, read

WATCHED = {"presence": True}


def config(grace_s: float = 2.0, **more: Any) -> Config:  # Any: sections of the configuration
    """A configuration with a grace."""
    return Config(timing=Timing(presence_grace_s=grace_s), **more)


def told(guest: Guest) -> list[tuple[str, str, str]]:
    """What a watcher was told since it was asked last: kind, channel, member's id."""
    found = []
    for message in guest.take(kinds.JOINED, kinds.LEFT, kinds.OCCUPIED, kinds.VACATED):
        id_ = read(message, Member).key if message.body else ""
        found.append((kinds.KINDS[message.kind], message.name, id_))
    return found


def listed(guest: Guest, channel: str) -> dict[str, Member]:
    """The members of a channel, as a guest gets them, by id."""
    members = read(guest.answer(guest.send(kinds.PRESENCE, channel)), Members)
    found = {each.key: each for each in members.members}
    assert len(found) == members.count == len(members.members)
    return found
