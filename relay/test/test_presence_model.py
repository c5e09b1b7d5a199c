"""Joined and left, added up, are the list of members (``relay.core.presence``)."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.config_auth import EVERYTHING
from relay.test.core_fixture import Core, Guest
from relay.test.presence_fixture import WATCHED, config, listed
from relay.wire import kinds
from relay.wire.handshake import Member, read
from relay.wire.message import Message


class Subscribed(msgspec.Struct):
    """The answer to subscribe, with presence."""

    presence: list[Member]


@attrs.define
class Watching:
    """A watcher and the list that it keeps by what it is told. ``own``: its own id is not told to it."""

    guest: Guest
    known: dict[str, dict[str, Member]]
    here: set[str] = attrs.field(factory=set)

    @classmethod
    def by_name(cls, guest: Guest, name: str) -> Watching:
        """A member that watches; it begins with the list of the answer."""
        seq = guest.send(kinds.SUBSCRIBE, name, WATCHED)
        found = msgspec.json.decode(guest.answer(seq).body, type=Subscribed)
        guest.take()
        return cls(guest, {name: {each.key: each for each in found.presence}})

    def learn(self) -> None:
        """Take in what came."""
        for message in self.guest.take(kinds.JOINED, kinds.LEFT, kinds.OCCUPIED, kinds.VACATED):
            self._learn(message)

    def agrees(self, name: str) -> bool:
        """Whether the list kept is the list that there is."""
        members = {id_: (each.user, each.device) for id_, each in listed(self.guest, name).items()}
        self.guest.take()
        return members == {id_: (each.user, each.device) for id_, each in self.known[name].items()}

    def _learn(self, message: Message) -> None:
        name = message.name
        if message.kind == kinds.OCCUPIED:
            assert name not in self.here
            self.here.add(name)
            return
        if message.kind == kinds.VACATED:
            assert not self.known[name], "everybody has left before"
            self.here.remove(name)
            return
        member = read(message, Member)
        members = self.known[name]
        if message.kind == kinds.JOINED:
            assert member.key not in members, "nobody joins twice"
            members[member.key] = member
        else:
            del members[member.key]  # nobody leaves who was not there


CHANNELS = ("room.1", "room.2")
WHO = (("ann", ""), ("ann", ""), ("ann", "d"))
"""Whose session each guest is; two of them may take each other's place."""
GUEST = st.integers(0, len(WHO) - 1)
CHANNEL = st.sampled_from(("room.1", "room.1", "room.1", "room.2"))
STEP = st.one_of(
    st.tuples(st.sampled_from(["join", "part", "join", "part", "join"]), GUEST, CHANNEL),
    st.tuples(st.sampled_from(["join", "part"]), GUEST, CHANNEL),
    st.tuples(st.sampled_from(["vanish", "vanish", "goodbye"]), GUEST, st.none()),
    st.tuples(st.just("bind"), GUEST, st.sampled_from(["ann", "bob", ""])),
    st.tuples(st.sampled_from(["wait", "watch", "wait", "watch", "wait"]), st.just(0), CHANNEL),
)
STEPS = st.lists(STEP, min_size=30, max_size=60)


class ModelTests(SynchronousTestCase):
    """Joined and left, added up, are the list of members, whatever happens."""

    @given(STEPS, st.sampled_from([2.0, 2.0, 0.0]))
    @settings(max_examples=150, deadline=None)
    def test_adds_up(self, steps, grace_s):
        """At every moment, for watchers of a pattern and of a channel that they are members of; occupied and vacated go
        with the first and the last."""
        core = Core(config(grace_s), EVERYTHING)
        watching = Watching(core.guest("watcher"), {name: {} for name in CHANNELS})
        watching.guest.send(kinds.SUBSCRIBE, "room.*", WATCHED)
        watching.guest.take()
        guests: dict[int, Guest] = {}
        named: dict[str, Watching] = {}
        for what, number, value in steps:
            if what == "watch":
                # Also as a user who was a member a moment ago, and may be in the list still.
                if value not in named:
                    named[value] = Watching.by_name(core.guest("ann"), value)
            else:
                self.step(core, guests, what, number, value)
            watching.learn()
            for name in CHANNELS:
                self.assertTrue(watching.agrees(name))
                self.assertEqual(name in watching.here, bool(watching.known[name]))
            for name, each in named.items():
                each.learn()
                self.assertTrue(each.agrees(name))
        core.pass_time(3)
        watching.learn()
        for name in CHANNELS:
            here = {each.id for each in core.hub.sessions.values() if name in each.subscriptions}
            self.assertEqual({each.session for each in listed(watching.guest, name).values()}, here)
        self.assertEqual(len(core.router.presence.absences), 0)

    def step(self, core: Core, guests: dict[int, Guest], what: str, number: int, value: Any) -> None:
        """One thing that happens."""
        if what == "wait":
            core.pass_time(0.5 if value == "room.1" else 2.5)
            return
        guest = guests.get(number)
        if guest is None:
            user, device = WHO[number]
            guest = guests[number] = core.guest(user, device=device)
        if what in ("join", "part"):
            guest.send(kinds.SUBSCRIBE if what == "join" else kinds.UNSUBSCRIBE, value)
        elif what == "bind":
            if not guest.connection.session.device:
                core.sessions.bind(guest.connection.session, value)
        else:
            del guests[number]
            if what == "vanish":
                guest.vanish()
            else:
                guest.send(kinds.GOODBYE, "", {"reason": kinds.NORMAL})
