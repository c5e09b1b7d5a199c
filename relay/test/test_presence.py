"""Who comes and goes: grace times, events, counts, users (``relay.core.presence``, ``absences``, ``users``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from relay.config import ChannelRule, Limits
from relay.config_auth import Permit
from relay.core.occurrences import Occurrence
from relay.core.users import BATCH_MAX
from relay.errors import RelayError, Unavailable
from relay.interfaces import IPresence
from relay.test.core_fixture import Core
from relay.test.presence_fixture import WATCHED, config, listed, told
from relay.wire import kinds
from relay.wire.handshake import Member, Members, UserPresence, read


@implementer(IPresence)
class FakePresence:
    """Keeps the times in a dict; answers when ``let_go`` is called."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, str, int]]] = []
        self.times: dict[tuple[str, str], int] = {}
        self.error: RelayError | None = None
        self.waiting: list[Callable[[], None]] = []

    def seen(self, batch: Any) -> None:
        """Keep."""
        self.batches.append(list(batch))
        self.times.update({(realm, user): at for realm, user, at in batch})

    def last_seen(self, realm: str, user: str, done: Callable[[int | RelayError], None]) -> None:
        """Later."""
        self.waiting.append(lambda: done(self.error or self.times.get((realm, user), 0)))

    def let_go(self) -> None:
        """Answer all."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each()


class GraceTests(SynchronousTestCase):
    """A member that is back in time was never away."""

    def setUp(self):
        self.core = Core(config())
        self.watcher = self.core.guest("w")
        self.watcher.send(kinds.SUBSCRIBE, "room.*", WATCHED)

    def test_lost_and_back(self):
        """Another session of the same user and device takes the place: no event, the same id and since, one member."""
        ann = self.core.guest("ann", device="phone")
        ann.send(kinds.SUBSCRIBE, "room.1")
        first = ann.connection.session.id
        self.assertEqual(told(self.watcher), [("occupied", "room.1", ""), ("joined", "room.1", first)])
        (since,) = (each.since for each in listed(self.watcher, "room.1").values())
        ann.vanish()
        self.core.pass_time(1)
        self.assertEqual(set(listed(self.watcher, "room.1")), {first})
        again = self.core.guest("ann", device="phone")
        again.send(kinds.SUBSCRIBE, "room.1")
        self.core.pass_time(5)
        self.assertEqual(told(self.watcher), [])
        ((id_, member),) = listed(self.watcher, "room.1").items()
        self.assertEqual((id_, member.session, member.since), (first, again.connection.session.id, since))
        again.vanish()
        self.core.pass_time(2.1)
        self.assertEqual(told(self.watcher), [("left", "room.1", first), ("vacated", "room.1", "")])
        self.assertEqual(listed(self.watcher, "room.1"), {})

    def test_unsubscribed_and_back(self):
        """A session that unsubscribes and subscribes again in time; a moment too late it has left and joins."""
        ann = self.core.guest("")
        ann.send(kinds.SUBSCRIBE, "room.1")
        id_ = ann.connection.session.id
        told(self.watcher)
        ann.send(kinds.UNSUBSCRIBE, "room.1")
        self.core.pass_time(1.9)
        ann.send(kinds.SUBSCRIBE, "room.1")
        ann.send(kinds.UNSUBSCRIBE, "room.1")
        self.core.pass_time(1.9)
        self.assertEqual(told(self.watcher), [])
        self.core.pass_time(0.3)
        ann.send(kinds.SUBSCRIBE, "room.1")
        here = "room.1"
        self.assertEqual(
            told(self.watcher),
            [("left", here, id_), ("vacated", here, ""), ("occupied", here, ""), ("joined", here, id_)],
        )

    def test_others_do_not_take_the_place(self):
        """Another user, another device, or while the first session is still connected: another member."""
        ann = self.core.guest("ann", device="phone")
        ann.send(kinds.SUBSCRIBE, "room.1")
        ann.send(kinds.UNSUBSCRIBE, "room.1")
        told(self.watcher)
        for user, device in (("ann", "desk"), ("bob", "phone"), ("", "phone")):
            other = self.core.guest(user, device=device)
            other.send(kinds.SUBSCRIBE, "room.1")
            self.assertEqual(told(self.watcher), [("joined", "room.1", other.connection.session.id)])
        self.assertEqual(len(listed(self.watcher, "room.1")), 4)
        tablet = [self.core.guest("eve") for _ in range(2)]
        tablet[0].send(kinds.SUBSCRIBE, "room.2")
        tablet[0].send(kinds.UNSUBSCRIBE, "room.2")
        tablet[1].send(kinds.SUBSCRIBE, "room.2")
        self.assertEqual(len(listed(self.watcher, "room.2")), 2)

    def test_gone_for_good(self):
        """Who says goodbye, is kicked or revoked has left at once; a device that another session replaces has not."""
        for leave in (
            lambda guest: guest.send(kinds.GOODBYE, "", {"reason": kinds.NORMAL}),
            lambda guest: self.core.sessions.close(guest.connection.session, kinds.KICKED, "out"),
        ):
            ann = self.core.guest("ann")
            ann.send(kinds.SUBSCRIBE, "room.1")
            told(self.watcher)
            leave(ann)
            self.assertEqual([each[0] for each in told(self.watcher)], ["left", "vacated"])
        ann = self.core.guest("ann", device="phone")
        ann.send(kinds.SUBSCRIBE, "room.1")
        told(self.watcher)
        again = self.core.guest("ann", device="phone")
        again.send(kinds.SUBSCRIBE, "room.1")
        self.core.pass_time(5)
        self.assertEqual(told(self.watcher), [])

    def test_resume_window_counts(self):
        """A session that waited in vain to be resumed was away for that long already."""
        ann = self.core.guest("ann", features=["resume"])
        ann.send(kinds.SUBSCRIBE, "room.1")
        told(self.watcher)
        ann.vanish()
        self.core.pass_time(29)
        self.assertEqual(told(self.watcher), [])
        self.core.pass_time(1.2)
        self.assertEqual([each[0] for each in told(self.watcher)], ["left", "vacated"])

    def test_back_as_somebody_else(self):
        """A session that left and is back as another user: the one is gone, the other joins; the sender is right."""
        ann = self.core.guest("ann")
        session = ann.connection.session
        ann.send(kinds.SUBSCRIBE, "room.1")
        self.watcher.take()
        ann.send(kinds.UNSUBSCRIBE, "room.1")
        self.core.sessions.bind(session, "bob")
        ann.send(kinds.SUBSCRIBE, "room.1")
        found = [(m.kind, m.get(kinds.FROM_USER), read(m, Member).user) for m in self.watcher.take(38, 39)]
        self.assertEqual(found, [(kinds.LEFT, "ann", "ann"), (kinds.JOINED, "bob", "bob")])

    def test_bound_in_the_channel(self):
        """A member that speaks for another user from now on: the one has left, the other joined; it stays occupied."""
        ann = self.core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "room.1")
        self.watcher.take()
        self.core.sessions.bind(ann.connection.session, "bob")
        found = [(m.kind, m.get(kinds.FROM_USER), read(m, Member).user) for m in self.watcher.take()]
        self.assertEqual(found, [(kinds.LEFT, "ann", "ann"), (kinds.JOINED, "bob", "bob")])
        self.core.sessions.bind(ann.connection.session, "bob")
        self.assertEqual(self.watcher.take(), [])

    def test_limit(self):
        """Over ``absent_members_max`` members, and users, leave at once."""
        core = Core(config(limits=Limits(absent_members_max=1)))
        watcher = core.guest("w")
        watcher.send(kinds.SUBSCRIBE, "**", WATCHED)
        for user in ("ann", "bob"):
            watcher.send(kinds.SUBSCRIBE, f"$user.{user}")
        guests = [core.guest(user) for user in ("ann", "bob")]
        for guest in guests:
            guest.send(kinds.SUBSCRIBE, "c")
        watcher.take()
        for guest in guests:
            guest.vanish()
        left = guests[1].connection.session or ""
        self.assertEqual([each[:2] for each in told(watcher)], [("left", "c"), ("vacated", "$user.bob")], left)
        self.assertEqual(len(core.router.presence.absences), 1)

    def test_rules(self):
        """A channel's own grace counts before the node's; without joined and left only the occupation is told."""
        rules = (ChannelRule(pattern="quick.*", presence_grace_s=0.0), ChannelRule(pattern="big.*", joined_left=False),
                 ChannelRule(pattern="dark.*", presence=False))  # fmt: skip
        core = Core(config(channels=rules))
        watcher, ann = core.guest("w"), core.guest("ann")
        watcher.send(kinds.SUBSCRIBE, "**", WATCHED)
        for name, events in (
            ("quick.1", ["occupied", "joined", "left", "vacated"]), ("big.1", ["occupied"]), ("dark.1", []),
            ("c", ["occupied", "joined"]),
        ):  # fmt: skip
            ann.send(kinds.SUBSCRIBE, name)
            ann.send(kinds.UNSUBSCRIBE, name)
            self.assertEqual([each[0] for each in told(watcher)], events, name)

    def test_count_only(self):
        """The count alone, of those who are there and of those who may be back."""
        guests = [self.core.guest(f"u{number}") for number in range(3)]
        for guest in guests:
            guest.send(kinds.SUBSCRIBE, "room.1")
        guests[0].vanish()
        seq = self.watcher.send(kinds.PRESENCE, "room.1", {"count_only": True})
        self.assertEqual(read(self.watcher.answer(seq), Members), Members(3))
        seq = self.watcher.send(kinds.PRESENCE, "nobody", {"count_only": True})
        self.assertEqual(read(self.watcher.answer(seq), Members), Members(0))

    def test_list_is_cut(self):
        """The list is cut at its limit, those away included; the count is not."""
        core = Core(config(limits=Limits(presence_list_max=2)))
        guests = [core.guest(f"u{number}") for number in range(4)]
        for guest in guests:
            guest.send(kinds.SUBSCRIBE, "c")
        for guest in guests[1:]:
            guest.vanish()
        members = read(guests[0].answer(guests[0].send(kinds.PRESENCE, "c")), Members)
        self.assertEqual((members.count, len(members.members)), (4, 2))


class UserTests(SynchronousTestCase):
    """Whether users are here, and when they were last."""

    def setUp(self):
        self.core = Core(config())
        self.store = FakePresence()
        verifyObject(IPresence, self.store)
        self.core.router.presence.users.store = self.store
        self.ann = self.core.guest("ann")

    def ask(self, user: str) -> int:
        return self.ann.send(kinds.PRESENCE, user=user)

    def found(self, seq: int) -> UserPresence:
        return read(self.ann.answer(seq), UserPresence)

    def test_last_seen(self):
        """Here: no time. Gone a moment ago: still here, then the time not yet written. Later: what the store says."""
        bob = self.core.guest("bob")
        self.assertEqual(self.found(self.ask("bob")), UserPresence(True, 1))
        self.core.pass_time(1)
        bob.vanish()
        gone_at = int(self.core.hub.wall() * 1000)
        self.assertEqual(self.found(self.ask("bob")), UserPresence(True, 0))
        self.core.pass_time(10)
        seq = self.ask("bob")
        self.assertRaises(StopIteration, self.ann.answer, seq)
        self.store.let_go()
        self.assertEqual(self.found(seq), UserPresence(False, 0, gone_at))
        seq = self.ask("eve")
        self.store.let_go()
        self.assertEqual(self.found(seq), UserPresence(False, 0, 0))

    def test_not_written_yet(self):
        """A time that waits to be written is told without the store."""
        core = Core(config(0.0))
        core.router.presence.users.store = FakePresence()
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.vanish()
        seq = ann.send(kinds.PRESENCE, user="bob")
        self.assertEqual(read(ann.answer(seq), UserPresence), UserPresence(False, 0, int(core.hub.wall() * 1000)))

    def test_store_fails(self):
        """When the store does not know, nor does the answer."""
        self.store.error = Unavailable("the store is stopping")
        seq = self.ask("bob")
        self.store.let_go()
        self.assertEqual(self.ann.answer(seq).get(kinds.ERROR_CODE), Unavailable.code)

    def test_written_in_batches(self):
        """Not one by one: after a while, or when there are many; at the end also those who are still here."""
        self.assertEqual(self.store.batches, [])
        self.core.pass_time(1.2)
        self.assertEqual([[each[:2] for each in batch] for batch in self.store.batches], [[("default", "ann")]])
        for number in range(BATCH_MAX):
            self.core.guest(f"u{number}")
        self.assertEqual([len(each) for each in self.store.batches], [1, BATCH_MAX])
        self.core.router.presence.users.stop()
        self.assertEqual([len(each) for each in self.store.batches[2:]], [BATCH_MAX, 1])

    def test_watched(self):
        """Who watches a user is told when the user is here and no longer; a short absence is none."""
        seq = self.ann.send(kinds.SUBSCRIBE, "$user.bob")
        self.store.let_go()
        self.assertEqual(self.found(seq), UserPresence(False))
        first = self.core.guest("bob")
        second = self.core.guest("bob")
        self.assertEqual(told(self.ann), [("occupied", "$user.bob", "")])
        first.vanish()
        second.vanish()
        self.core.pass_time(1)
        third = self.core.guest("bob")
        self.core.pass_time(5)
        self.assertEqual(told(self.ann), [])
        third.vanish()
        self.core.pass_time(2.2)
        self.assertEqual(told(self.ann), [("vacated", "$user.bob", "")])
        self.ann.send(kinds.UNSUBSCRIBE, "$user.bob")
        self.core.guest("bob")
        self.assertEqual(told(self.ann), [])

    def test_refused(self):
        """Without the permission for that user; other names of relay's own; nobody publishes there."""
        core = Core(permit=Permit(subscribe=("**",), publish=("**",), presence=("team.*",)))
        ann = core.guest("ann")
        for kind, name, code in (
            (kinds.SUBSCRIBE, "$user.team.bob", None), (kinds.SUBSCRIBE, "$user.bob", 21), (kinds.SUBSCRIBE, "$x", 21),
            (kinds.SUBSCRIBE, "$user.*", 13), (kinds.SUBSCRIBE, "$user.", 21), (kinds.PUBLISH, "$user.team.bob", 21),
        ):  # fmt: skip
            answer = ann.answer(ann.send(kind, name))
            self.assertEqual(answer.get(kinds.ERROR_CODE), code, name)

    def test_bound(self):
        """Binding a session to another user: the one goes, the other comes; to the same one: nothing."""
        core = Core(config(0.0))
        watcher = core.guest("w")
        for user in ("ann", "bob"):
            watcher.send(kinds.SUBSCRIBE, f"$user.{user}")
        ann = core.guest("ann").connection.session
        watcher.take()
        core.sessions.bind(ann, "bob")
        core.sessions.bind(ann, "bob")
        self.assertEqual([each[:2] for each in told(watcher)], [("vacated", "$user.ann"), ("occupied", "$user.bob")])
        core.sessions.bind(ann, "")
        self.assertEqual([each[:2] for each in told(watcher)], [("vacated", "$user.bob")])


class OccurrenceTests(SynchronousTestCase):
    """What is told to who listens outside the protocol."""

    def test_all(self):
        """A session's life, in order; what a member tells of itself is there."""
        core = Core()
        happened: list[Occurrence] = []
        core.hub.on_occurrence = happened.append
        ann = core.guest("ann", device="phone")
        session = ann.connection.session.id
        ann.send(kinds.SUBSCRIBE, "room.1", {"role": "host", "info": {"mood": "ok"}})
        core.pass_time(1)
        ann.vanish()
        self.assertEqual(
            [(each.event, each.channel) for each in happened],
            [
                ("session_started", ""), ("user_online", ""), ("occupied", "room.1"), ("joined", "room.1"),
                ("left", "room.1"), ("vacated", "room.1"), ("user_offline", ""), ("session_ended", ""),
            ],
        )  # fmt: skip
        left, at = happened[4], int(core.hub.wall() * 1000)
        self.assertEqual(
            msgspec.to_builtins(left),
            {
                "event": "left", "realm": "default", "at": at, "channel": "room.1", "user": "ann", "session": session,
                "device": "phone", "role": "host", "info": {"mood": "ok"}, "since": at - 1000,
            },
        )  # fmt: skip
        self.assertEqual((happened[-1].reason, happened[-1].user), ("test", "ann"))
