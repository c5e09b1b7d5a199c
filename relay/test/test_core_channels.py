"""Channels: members, publications, presence (``relay.core.channels``)."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.config import ChannelRule, Config, Limits
from relay.config_auth import Permit
from relay.core.hub import FORWARDED, FORWARDED_IN_REPLIES
from relay.core.selection import receivers
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds, names
from relay.wire.filters import wrap
from relay.wire.handshake import Members, UserPresence, read
from relay.wire.message import Fields


def error_of(guest: Guest, seq: int) -> int:
    """The number of the error that answered ``seq``."""
    message = guest.answer(seq)
    assert message.kind == kinds.ERROR, message.describe()
    return int(message.get(kinds.ERROR_CODE))


class Publishing(SynchronousTestCase):
    """Publications reach all members, and nobody else."""

    hub = Core().hub

    @given(st.dictionaries(st.sampled_from([each for each in kinds.FIELDS if each != kinds.METADATA]), st.just("x")))
    def test_forwarded_fields(self, fields: Fields):
        """Of a client's fields exactly those go on that the protocol lets through; None when none do."""
        for which in (FORWARDED, FORWARDED_IN_REPLIES):
            plain = {number: value for number, value in fields.items() if number in which}
            self.assertEqual(self.hub.forwarded(fields, which), plain or None)

    def test_reaches_members_and_patterns_once(self):
        """A session that is a member by name and by two patterns gets a publication once; the publisher is told."""
        core = Core()
        ann, bob, eve = core.guest("ann"), core.guest("bob"), core.guest("eve")
        for pattern in ("room.1", "room.*", "**"):
            bob.send(kinds.SUBSCRIBE, pattern)
        eve.send(kinds.SUBSCRIBE, "room.2")
        bob.take(), eve.take()
        seq = ann.send(kinds.PUBLISH, "room.1", b"hi", codec=kinds.TEXT)
        self.assertEqual(ann.answer(seq).fields, {kinds.REACHED: 1})
        (event,) = bob.take()
        self.assertEqual((event.kind, event.name, event.body, event.codec), (kinds.EVENT, "room.1", b"hi", kinds.TEXT))
        self.assertEqual(event.get(kinds.FROM_USER), "ann")
        self.assertEqual(eve.take(), [])

    def test_from_is_stamped(self):
        """What a client claims about who it is, is dropped; so are the server's other fields."""
        core = Core()
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.SUBSCRIBE, "c")
        bob.take()
        ann.send(kinds.PUBLISH, "c", b"", from_user="root", from_realm="other", offset=7, origin_node="n9", priority=2)
        (event,) = bob.take()
        self.assertEqual(event.get(kinds.FROM_USER), "ann")
        self.assertEqual(set(event.fields or ()), {kinds.FROM_USER, kinds.FROM_SESSION, kinds.PRIORITY})

    def test_no_echo(self):
        """With the flag, or by the channel's rule, a publisher does not get its own publication."""
        core = Core(Config(channels=(ChannelRule(pattern="quiet.*", echo=False),)))
        ann = core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "**")
        ann.take()
        ann.send(kinds.PUBLISH, "a", b"", flags=kinds.NO_ECHO)
        ann.send(kinds.PUBLISH, "quiet.1", b"")
        self.assertEqual(ann.take(kinds.EVENT), [])
        ann.send(kinds.PUBLISH, "a", b"")
        self.assertEqual(len(ann.take(kinds.EVENT)), 1)

    def test_realms_are_closed(self):
        """The same name in another realm is another channel; users and presence do not cross either."""
        core = Core()
        ann, bob = core.guest("ann", realm="one"), core.guest("bob", realm="two")
        bob.send(kinds.SUBSCRIBE, "**")
        bob.take()
        ann.send(kinds.PUBLISH, "c", b"")
        seq = ann.send(kinds.PUSH, "c", b"", user="bob")
        self.assertEqual(error_of(ann, seq), 30)
        self.assertEqual(bob.take(), [])
        bob.send(kinds.GOODBYE, "", {"reason": kinds.NORMAL})
        self.assertEqual(sorted(core.hub.realms), ["one"])

    def test_refused_with_an_answer(self):
        """Denied is an error, never silence, also without a seq; a bad name says so."""
        core = Core(permit=Permit(publish=("mine.{user}.**",), subscribe=("open.*",)))
        ann = core.guest("ann")
        self.assertEqual(ann.answer(ann.send(kinds.PUBLISH, "mine.ann.x", b"")).kind, kinds.REPLY)
        self.assertEqual(error_of(ann, ann.send(kinds.PUBLISH, "mine.bob.x", b"")), 21)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "open.**")), 21)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "")), 13)
        ann.take()
        ann.send(kinds.PUBLISH, "theirs", b"", seq=0)
        (error,) = ann.take()
        self.assertEqual((error.kind, error.seq, error.name), (kinds.ERROR, 0, "theirs"))
        core = Core()
        ann = core.guest("ann")
        for bad in ("", "a\x00b", "x" * 256, "$sys.a"):
            self.assertIn(error_of(ann, ann.send(kinds.PUBLISH, bad, b"")), (13, 21), bad)

    def test_metadata(self):
        """Metadata goes along; the server's own keys and too much of it are refused."""
        core = Core(Config(limits=Limits(metadata_bytes_max=30)))
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.SUBSCRIBE, "c")
        bob.take()
        ann.send(kinds.PUBLISH, "c", b"", metadata={"k": "v"})
        self.assertEqual(bob.take()[0].get(kinds.METADATA), {"k": "v"})
        self.assertEqual(error_of(ann, ann.send(kinds.PUBLISH, "c", b"", metadata={"relay.x": ""})), 14)
        self.assertEqual(error_of(ann, ann.send(kinds.PUBLISH, "c", b"", metadata={"k": "v" * 30})), 41)
        self.assertEqual(error_of(ann, ann.send(kinds.PUBLISH, "c", b"", conflation_key="k" * 65_000)), 41)
        self.assertEqual(bob.take(), [])

    def test_filters_are_undone_for_who_cannot(self):
        """A filtered body reaches who negotiated the filter as it is, the others unwrapped; a broken one is refused."""
        core = Core()
        ann, bob, eve = core.guest("ann"), core.guest("bob", filters=["gzip"]), core.guest("eve")
        for guest in (bob, eve):
            guest.send(kinds.SUBSCRIBE, "c")
            guest.take()
        wrapped = wrap(b"hello" * 100, [kinds.GZIP])
        ann.send(kinds.PUBLISH, "c", wrapped, filters=(kinds.GZIP,))
        (event,) = bob.take()
        self.assertEqual((event.body, event.get(kinds.FILTERS)), (wrapped, (kinds.GZIP,)))
        (event,) = eve.take()
        self.assertEqual((event.body, event.get(kinds.FILTERS)), (b"hello" * 100, None))
        self.assertEqual(error_of(ann, ann.send(kinds.PUBLISH, "c", b"junk", filters=(kinds.GZIP,))), 15)
        bomb = wrap(b"\0" * 1_000_000, [kinds.GZIP])
        self.assertEqual(error_of(ann, ann.send(kinds.PUBLISH, "c", bomb, filters=(kinds.GZIP,))), 15)
        self.assertEqual(bob.take() + eve.take(), [])

    @given(
        st.lists(st.sampled_from(["a", "b", "a.b", "a.*", "*", "**", "a.**", "*.b", "b.*"]), max_size=8),
        st.sampled_from(["a", "b", "a.b", "a.c", "b.b", "a.b.c"]),
    )
    @settings(max_examples=80, deadline=None)
    def test_same_receivers_as_the_plain_twin(self, subscriptions, name):
        """The members found by table and trie are those that a walk over all subscriptions finds."""
        core = Core()
        guests = [core.guest(f"u{number}") for number in range(3)]
        for number, pattern in enumerate(subscriptions):
            guests[number % 3].send(kinds.SUBSCRIBE, pattern)
        realm = core.hub.realms["default"]
        plain = {s for s in realm.sessions if any(names.matches(each, name) for each in s.subscriptions)}
        found = list(receivers(realm, name))
        self.assertEqual(len(found), len(set(found)))
        self.assertEqual(set(found), plain)


class Limiting(SynchronousTestCase):
    """Every table has a bound that can be reached."""

    def test_subscriptions_channels_members(self):
        """At each limit the next one is refused, and what there was goes on."""
        core = Core(Config(limits=Limits(subscriptions_max=2, channels_max=3, channel_members_max=1)))
        ann, bob = core.guest("ann"), core.guest("bob")
        for name in ("a", "b"):
            self.assertEqual(ann.answer(ann.send(kinds.SUBSCRIBE, name)).kind, kinds.REPLY)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "c")), 41)
        self.assertEqual(error_of(bob, bob.send(kinds.SUBSCRIBE, "a")), 41)
        self.assertEqual(bob.answer(bob.send(kinds.SUBSCRIBE, "c")).kind, kinds.REPLY)
        self.assertEqual(error_of(bob, bob.send(kinds.SUBSCRIBE, "d")), 41)
        ann.send(kinds.UNSUBSCRIBE, "b")
        self.assertEqual(bob.answer(bob.send(kinds.SUBSCRIBE, "d")).kind, kinds.REPLY)

    def test_patterns(self):
        """At ``patterns_max`` a new pattern is refused, not a plain name or a known pattern; one less is room."""
        core = Core(Config(limits=Limits(patterns_max=2)))
        ann, bob = core.guest("ann"), core.guest("bob")
        for name in ("a.*", "b.**", "plain", "a.*"):
            self.assertEqual(ann.answer(ann.send(kinds.SUBSCRIBE, name)).kind, kinds.REPLY, name)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "c.*")), 41)
        self.assertNotIn("c.*", core.hub.realms["default"].channels)
        self.assertEqual(bob.answer(bob.send(kinds.SUBSCRIBE, "c.*")).kind, kinds.REPLY)
        ann.send(kinds.UNSUBSCRIBE, "plain")
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "c.*")), 41)
        ann.send(kinds.UNSUBSCRIBE, "a.*")
        self.assertEqual(ann.answer(ann.send(kinds.SUBSCRIBE, "c.*")).kind, kinds.REPLY)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "a.*")), 41)

    def test_nothing_is_left_behind(self):
        """When the last member is gone, so is the channel, also one of a pattern."""
        core = Core()
        ann = core.guest("ann")
        for name in ("a", "a.*", "**"):
            ann.send(kinds.SUBSCRIBE, name)
        realm = core.hub.realms["default"]
        ann.send(kinds.UNSUBSCRIBE, "a")
        self.assertEqual(error_of(ann, ann.send(kinds.UNSUBSCRIBE, "a")), 35)
        ann.vanish()
        self.assertEqual((realm.channels, len(realm.patterns), core.hub.realms), ({}, 0, {}))


class Presence(SynchronousTestCase):
    """Who is in a channel."""

    def test_members_joined_left(self):
        """A watcher sees who is there, who joins, and who leaves; with role and info."""
        core = Core()
        ann, bob = core.guest("ann", device="phone"), core.guest("bob")
        ann.send(kinds.SUBSCRIBE, "room", {"role": "host", "info": {"mood": "ok"}})
        seq = bob.send(kinds.SUBSCRIBE, "room", {"presence": True})
        listed = msgspec.json.decode(bob.answer(seq).body)
        self.assertEqual(listed["count"], 2)
        self.assertEqual(listed["presence"][0]["user"], "ann")
        self.assertEqual(listed["presence"][0]["info"], {"mood": "ok"})
        eve = core.guest("eve")
        bob.take()
        eve.send(kinds.SUBSCRIBE, "room")
        eve.vanish()
        joined, left = bob.take()
        self.assertEqual((joined.kind, joined.name, joined.get(kinds.FROM_USER)), (kinds.JOINED, "room", "eve"))
        self.assertEqual((left.kind, left.get(kinds.FROM_USER)), (kinds.LEFT, "eve"))
        answer = read(bob.answer(bob.send(kinds.PRESENCE, "room")), Members)
        self.assertEqual([each.user for each in answer.members], ["ann", "bob"])

    def test_through_a_pattern(self):
        """A watcher of a pattern is told of the channels that match it; of the first member, that there is one now."""
        core = Core()
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.SUBSCRIBE, "room.*", {"presence": True})
        bob.take()
        ann.send(kinds.SUBSCRIBE, "room.7")
        self.assertEqual([(m.kind, m.name) for m in bob.take()], [(kinds.OCCUPIED, "room.7"), (kinds.JOINED, "room.7")])

    def test_users(self):
        """Whether a user is here, and with how many sessions."""
        core = Core()
        ann = core.guest("ann")
        core.guest("bob"), core.guest("bob")
        for user, expected in (("bob", UserPresence(True, 2)), ("eve", UserPresence(False, 0))):
            self.assertEqual(read(ann.answer(ann.send(kinds.PRESENCE, user=user)), UserPresence), expected)

    def test_refused(self):
        """Presence needs the permission; a large info and presence where it is off are refused; long lists are cut."""
        core = Core(
            Config(
                limits=Limits(info_bytes_max=10, presence_list_max=2),
                channels=(ChannelRule(pattern="dark", presence=False),),
            ),
            Permit(subscribe=("**",), presence=("open", "dark")),
        )
        guests = [core.guest(f"u{number}") for number in range(3)]
        ann = guests[0]
        self.assertEqual(error_of(ann, ann.send(kinds.PRESENCE, "closed")), 21)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "closed", {"presence": True})), 21)
        self.assertEqual(error_of(ann, ann.send(kinds.PRESENCE, "dark")), 12)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "open", {"info": "x" * 20})), 41)
        self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "open", {"presence": 1})), 14)
        for info in (msgspec.msgpack.Ext(5, b"x"), {(1, 2): 3}):
            body = msgspec.msgpack.encode({"info": info})
            self.assertEqual(error_of(ann, ann.send(kinds.SUBSCRIBE, "open", body, codec=kinds.MSGPACK)), 14)
        for guest in guests:
            guest.send(kinds.SUBSCRIBE, "open")
        answer = read(ann.answer(ann.send(kinds.PRESENCE, "open")), Members)
        self.assertEqual((answer.count, len(answer.members)), (3, 2))
