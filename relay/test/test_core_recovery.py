"""Subscribing to channels with history: recovery, positions, retained values, filters, and ``history``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.config import ChannelRule, Config, Timing
from relay.config_history import ChannelHistory
from relay.records import Page
from relay.test.core_fixture import Core, Guest
from relay.test.history_fixture import core_of, offsets, outcome, publish, settle, subscribe
from relay.wire import kinds
from relay.wire.filters import wrap
from relay.wire.handshake import Subscribed, read


class Recovering(SynchronousTestCase):
    """What a subscriber gets of what it missed, from either kind of store."""

    channels = ("mem.1", "disk.1")

    def test_since(self):
        """Everything behind the position, in order, before what is live; the reply comes first."""
        for name in self.channels:
            core = core_of(page_messages_max=3)
            publish(core, name, 10)
            ann = core.guest("ann")
            reply, events = subscribe(core, ann, name, since={"offset": 4, "epoch": "e1"})
            self.assertEqual(reply, Subscribed(True, 4, "e1"))
            self.assertEqual(offsets(events), [5, 6, 7, 8, 9, 10])
            self.assertEqual([each.body for each in events], [b"%d" % number for number in range(4, 10)])
            self.assertEqual({each.get(kinds.FROM_USER) for each in events}, {"publisher"})
            self.assertIsNotNone(events[0].get(kinds.ACCEPTED_AT))
            publish(core, name, 2, 10)
            self.assertEqual(offsets(ann.take()), [11, 12])

    def test_nothing_missed(self):
        """A position at the end is recovered without an event."""
        for name in self.channels:
            core = core_of()
            publish(core, name, 3)
            reply, events = subscribe(core, core.guest(), name, since={"offset": 3, "epoch": "e1"})
            self.assertEqual((reply, events), (Subscribed(True, 3, "e1"), []))

    def test_not_to_be_had(self):
        """Trimmed, another epoch, a position that never was, too many: ``recovered`` is false, nothing is sent."""
        for name in self.channels:
            for since in ((2, "e1"), (5, "e9"), (11, "e1"), (4, "e1")):
                core = core_of(recovery_messages_max=5)
                publish(core, name, 10)
                (core.memory if name == "mem.1" else core.durable).trim("default", name, 7)
                ann = core.guest("ann")
                reply, events = subscribe(core, ann, name, since={"offset": since[0], "epoch": since[1]})
                self.assertEqual((reply, events), (Subscribed(False, 10, "e1"), []), since)
                publish(core, name, 1)
                self.assertEqual(offsets(ann.take()), [11])

    def test_before_the_first(self):
        """Who subscribed to a channel without publications misses none of its first; not when they may be lost."""
        for name in self.channels:
            core = core_of()
            ann = core.guest("ann")
            reply, _ = subscribe(core, ann, name)
            self.assertEqual(reply.offset, 0)
            assert reply.epoch.startswith("-")
            ann.vanish()
            since = {"offset": 0, "epoch": reply.epoch}
            again, _ = subscribe(core, core.guest("ann"), name, since=since)
            self.assertEqual(again, Subscribed(True, 0, reply.epoch))
            publish(core, name, 2)
            again, events = subscribe(core, core.guest("ann"), name, since=since)
            self.assertEqual((again.recovered, offsets(events)), (True, [1, 2]))
            lost, events = subscribe(core, core.guest("ann"), name, since={"offset": 0, "epoch": "-other"})
            self.assertEqual((lost.recovered, events), (False, []))
            (core.memory if name == "mem.1" else core.durable).lose("default", name)
            lost, events = subscribe(core, core.guest("ann"), name, since={"offset": 2, "epoch": "e1"})
            self.assertEqual((lost.recovered, lost.offset, events), (False, 0, []))
            # Two were published and are forgotten since it was known as empty: nobody may say that nothing is missing.
            lost, events = subscribe(core, core.guest("ann"), name, since=since)
            self.assertEqual((lost.recovered, events), (False, []))
            again, _ = subscribe(core, core.guest("ann"), name, since={"offset": 0, "epoch": lost.epoch})
            self.assertEqual(again, Subscribed(True, 0, lost.epoch))

    def test_last(self):
        """The newest so many, or as many as there are."""
        for name in self.channels:
            core = core_of(page_messages_max=2)
            publish(core, name, 5)
            reply, events = subscribe(core, core.guest(), name, last=3)
            self.assertEqual((reply, offsets(events)), (Subscribed(True, 2, "e1"), [3, 4, 5]))
            reply, events = subscribe(core, core.guest(), name, last=99)
            self.assertEqual((reply.offset, offsets(events)), (0, [1, 2, 3, 4, 5]))
            reply, events = subscribe(core, core.guest(), name.replace("1", "2"), last=3)
            self.assertEqual((reply.recovered, reply.offset, events), (True, 0, []))

    def test_since_time(self):
        """What was accepted at or after a time; false when older ones, which may have been younger, are trimmed."""
        for name in self.channels:
            core = core_of()
            for number in range(4):
                core.clock.advance(10)
                publish(core, name, 1, number)
            at = int((core.hub.wall() - 15) * 1000)
            reply, events = subscribe(core, core.guest(), name, since_time=at)
            self.assertEqual((reply, offsets(events)), (Subscribed(True, 2, "e1"), [3, 4]))
            store = core.memory if name == "mem.1" else core.durable
            store.trim("default", name, 2)
            reply, events = subscribe(core, core.guest(), name, since_time=at)
            self.assertEqual((reply.recovered, events), (False, []))
            store.trim("default", name, 0)
            reply, events = subscribe(core, core.guest(), name, since_time=int(core.hub.wall() * 1000) + 1)
            self.assertFalse(reply.recovered)

    def test_live_meanwhile(self):
        """What is published while pages are read comes behind them, each once, however much it is."""
        for live_bytes_max in (1, 1_000_000):
            core = core_of(page_messages_max=2, live_bytes_max=live_bytes_max)
            publish(core, "disk.1", 5)
            ann, bob = core.guest("ann"), core.guest("bob")
            ann.send(kinds.SUBSCRIBE, "disk.1", {"since": {"offset": 0, "epoch": "-n1"}})
            for number in range(5, 9):
                bob.send(kinds.PUBLISH, "disk.1", b"%d" % number, seq=0)
                core.histories.submit()
                core.durable.complete(1)
                core.clock.advance(0.05)
            settle(core)
            events = ann.take(kinds.EVENT)
            self.assertEqual(offsets(events), list(range(1, 10)))
            self.assertEqual([each.body for each in events], [b"%d" % number for number in range(9)])
            self.assertEqual(core.hub.realms["default"].selective, 0)

    def test_a_peer_that_never_reads(self):
        """While the peer does not take its page nothing live is kept for it; it comes from the history later."""
        core = core_of(page_messages_max=2)
        publish(core, "mem.1", 6)
        ann, bob = core.guest("ann"), core.guest("bob")
        full = [1 << 30]
        self.patch(ann.peer, "queued_bytes", lambda: full[0])
        ann.send(kinds.SUBSCRIBE, "mem.1", {"since": {"offset": 0, "epoch": "-i1"}})
        core.pass_time(1)
        subscription = ann.connection.session.subscriptions["mem.1"]
        for number in range(6, 9):
            bob.send(kinds.PUBLISH, "mem.1", b"%d" % number, seq=0)
        core.pass_time(1)
        self.assertEqual(subscription.recovery.live_bytes, 0)
        full[0] = 0
        core.pass_time(1)
        self.assertEqual(offsets(ann.take(kinds.EVENT)), list(range(1, 10)))

    def test_read_before_its_event(self):
        """A publication that a page has already, but whose event is still to come from the store, comes once."""
        core = core_of()
        publish(core, "disk.1", 1)
        ann, bob, eve = core.guest("ann"), core.guest("bob"), core.guest("eve")
        eve.send(kinds.SUBSCRIBE, "disk.*")
        core.durable.early = True
        for number in (1, 2):
            bob.send(kinds.PUBLISH, "disk.1", b"%d" % number, seq=0)
            core.histories.submit()
        ann.send(kinds.SUBSCRIBE, "disk.1", {"since": {"offset": 1, "epoch": "e1"}})
        first, second, reading = core.durable.waiting
        first()
        reading()
        self.assertEqual(offsets(ann.take(kinds.EVENT)), [2, 3])
        second()
        core.durable.waiting.clear()
        core.durable.early = False
        publish(core, "disk.1", 1, 3)
        self.assertEqual(offsets(ann.take(kinds.EVENT)), [4])
        self.assertEqual(offsets(eve.take(kinds.EVENT)), [2, 3, 4])
        self.assertEqual(core.hub.realms["default"].selective, 0)

    def test_other_subscriptions_wait(self):
        """An event that a pattern of the same session would bring at once waits for what was missed before it."""
        core = core_of()
        publish(core, "disk.1", 2)
        ann, bob = core.guest("ann"), core.guest("bob")
        ann.send(kinds.SUBSCRIBE, "**")
        ann.send(kinds.SUBSCRIBE, "disk.1", {"since": {"offset": 0, "epoch": "-n1"}})
        bob.send(kinds.PUBLISH, "disk.1", b"2", seq=0)
        bob.send(kinds.PUBLISH, "plain", b"now", seq=0)
        settle(core)
        self.assertEqual([each.body for each in ann.take(kinds.EVENT)], [b"0", b"1", b"2", b"now"])

    def test_a_slow_peer_gets_pages(self):
        """The next page is read when the peer has taken the one before."""
        core = core_of(page_messages_max=2, page_bytes_max=1000)
        publish(core, "mem.1", 6)
        ann = core.guest("ann")
        waiting = [2000]
        self.patch(ann.peer, "queued_bytes", lambda: waiting[0])
        ann.send(kinds.SUBSCRIBE, "mem.1", {"since": {"offset": 0, "epoch": "-i1"}})
        settle(core)
        self.assertEqual(offsets(ann.take(kinds.EVENT)), [1, 2])
        publish(core, "mem.1", 1, 6)
        waiting[0] = 0
        settle(core)
        self.assertEqual(offsets(ann.take(kinds.EVENT)), [3, 4, 5, 6, 7])

    def test_recoveries_take_turns(self):
        """At most ``recoveries_max`` read at once; the others come when there is a turn, in order."""
        core = core_of(recoveries_max=2)
        publish(core, "disk.1", 1)
        guests = [core.guest() for _ in range(5)]
        for each in guests:
            each.send(kinds.SUBSCRIBE, "disk.1", {"last": 1})
        self.assertEqual(len(core.durable.waiting), 2)
        guests[2].vanish()
        settle(core)
        self.assertEqual([len(each.take(kinds.EVENT)) for each in guests], [1, 1, 0, 1, 1])
        guests[0].send(kinds.SUBSCRIBE, "disk.2", {"last": 1})
        self.assertEqual(len(core.durable.waiting), 1)
        settle(core)

    def test_subscribing_again_or_leaving_meanwhile(self):
        """The first subscribe is answered as cancelled, the second counts; unsubscribe ends it."""
        core = core_of()
        publish(core, "disk.1", 2)
        ann = core.guest("ann")
        first = ann.send(kinds.SUBSCRIBE, "disk.1", {"last": 1})
        second = ann.send(kinds.SUBSCRIBE, "disk.1", {"last": 2})
        self.assertEqual(outcome(ann.answer(first)), (34, False, "not_done"))
        settle(core)
        self.assertEqual(read(ann.answer(second), Subscribed).offset, 0)
        self.assertEqual(offsets(ann.take(kinds.EVENT)), [1, 2])
        third = ann.send(kinds.SUBSCRIBE, "disk.1", {"last": 1})
        ann.send(kinds.UNSUBSCRIBE, "disk.1")
        self.assertEqual(outcome(ann.answer(third)), (34, False, "not_done"))
        settle(core)
        self.assertEqual(offsets(ann.take(kinds.EVENT)), [])
        self.assertEqual((core.hub.realms["default"].selective, core.hub.realms["default"].channels), (0, {}))

    def test_failing_reads(self):
        """A store that cannot read: the subscribe is refused, and there is no subscription."""
        core = core_of()
        ann = core.guest("ann")
        failed = Page("", 0, 0, error=errors.Unavailable("broken"))
        self.patch(core.memory, "_page", lambda wanted: failed)
        seq = ann.send(kinds.SUBSCRIBE, "mem.1", {"last": 1})
        self.assertEqual(outcome(ann.answer(seq)), (43, True, "not_done"))
        self.assertEqual(ann.connection.session.subscriptions, {})
        seq = ann.send(kinds.HISTORY, "mem.1")
        self.assertEqual(outcome(ann.answer(seq)), (43, True, "not_done"))

    def test_trimmed_or_lost_meanwhile(self):
        """A promise that cannot be kept any more ends the session, which is told to come back; nothing is left out."""
        for how in ("trim", "lose"):
            core = core_of(page_messages_max=2)
            publish(core, "mem.1", 6)
            ann = core.guest("ann")
            ann.send(kinds.SUBSCRIBE, "mem.1", {"since": {"offset": 0, "epoch": "-i1"}})
            self.assertEqual(offsets(ann.take(kinds.EVENT)), [1, 2])
            if how == "trim":
                core.memory.trim("default", "mem.1", 1)
            else:
                core.memory.lose("default", "mem.1")
            core.clock.advance(0)
            goodbye = ann.goodbye()
            self.assertEqual((goodbye.reason, goodbye.reconnect), (kinds.UNAVAILABLE, True))
            self.assertEqual(core.hub.sessions, {})
            settle(core)

    def test_expired_meanwhile(self):
        """Expired publications are left out; what is left of ``ttl_ms`` is told."""
        core = core_of()
        publish(core, "mem.1", 1)
        publish(core, "mem.1", 1, ttl_ms=1000)
        publish(core, "mem.1", 1, ttl_ms=5000)
        publish(core, "mem.1", 1, ttl_ms=1000)
        core.clock.advance(2)
        reply, events = subscribe(core, core.guest(), "mem.1", since={"offset": 0, "epoch": "-i1"})
        self.assertEqual((reply.recovered, offsets(events)), (True, [1, 3]))
        self.assertEqual(events[1].get(kinds.TTL_MS), 3000)

    def test_own_publications(self):
        """A session does not get back what it asked not to be sent, by flag or by rule; others do."""
        for name, flags in (("mem.1", kinds.NO_ECHO), ("quiet.1", 0)):
            core = core_of()
            ann, bob = core.guest("ann"), core.guest("bob")
            subscribe(core, ann, name)
            subscribe(core, bob, name)
            ann.send(kinds.PUBLISH, name, b"own", flags=flags, seq=0)
            bob.send(kinds.PUBLISH, name, b"other", flags=flags, seq=0)
            self.assertEqual([each.body for each in ann.take()], [b"other"])
            _, events = subscribe(core, ann, name, last=5)
            self.assertEqual([each.body for each in events], [b"other"])
            _, events = subscribe(core, core.guest(), name, last=5)
            self.assertEqual([each.body for each in events], [b"own", b"other"])

    def test_filters_are_undone(self):
        """A stored body with transfer filters reaches a receiver that did not negotiate them unwrapped."""
        core = core_of()
        core.guest().send(kinds.PUBLISH, "mem.1", wrap(b"plain", (kinds.GZIP,)), filters=(kinds.GZIP,))
        _, events = subscribe(core, core.guest(), "mem.1", last=1)
        self.assertEqual((events[0].body, events[0].get(kinds.FILTERS)), (b"plain", None))
        able = core.guest(filters=["gzip"])
        _, events = subscribe(core, able, "mem.1", last=1)
        self.assertEqual(events[0].get(kinds.FILTERS), (kinds.GZIP,))

    def test_where_there_is_none(self):
        """Without history nothing is recovered and the reply says so; a pattern has no history of its own."""
        core = core_of()
        ann = core.guest("ann")
        reply, _ = subscribe(core, ann, "plain", last=5)
        self.assertEqual(reply, Subscribed(False))
        for options in ({"last": 5}, {"since": {"offset": 1, "epoch": "e1"}}, {"since_time": 1}, {"retained": True}):
            self.assertEqual(outcome(ann.answer(ann.send(kinds.SUBSCRIBE, "mem.*", options)))[0], 12)
        self.assertEqual(list(ann.connection.session.subscriptions), ["plain"])

    def test_retained(self):
        """The last value comes first, marked, when it is asked for; not twice when it is recovered anyway."""
        core = core_of()
        publish(core, "mem.1", 1, flags=kinds.RETAINED)
        publish(core, "mem.1", 2, 1)
        _, events = subscribe(core, core.guest(), "mem.1", retained=True)
        self.assertEqual([(each.body, bool(each.flags & kinds.RETAINED)) for each in events], [(b"0", True)])
        _, events = subscribe(core, core.guest(), "mem.1", retained=True, last=1)
        self.assertEqual([each.body for each in events], [b"0", b"2"])
        _, events = subscribe(core, core.guest(), "mem.1", retained=True, last=3)
        self.assertEqual([each.body for each in events], [b"0", b"1", b"2"])
        self.assertEqual(subscribe(core, core.guest(), "mem.1")[1], [])

    def test_session_that_cannot_be_resumed(self):
        """Longer than the resume window: the same client in a new session gets exactly what it missed."""
        rule = ChannelRule(pattern="**", history=ChannelHistory())
        core = Core(Config(channels=(rule,), timing=Timing(resume_window_s=1.0)))
        ann = Guest(core)
        ann.hello(user="ann", features=["resume"])
        ann.got.clear()
        subscribe(core, ann, "room")
        publish(core, "room", 1)
        (seen,) = ann.take()
        ann.vanish()
        publish(core, "room", 500, 1)
        core.pass_time(2)
        back = core.guest("ann")
        since = {"offset": seen.get(kinds.OFFSET), "epoch": seen.get(kinds.EPOCH)}
        reply, events = subscribe(core, back, "room", since=since)
        self.assertTrue(reply.recovered)
        self.assertEqual([each.body for each in events], [b"%d" % number for number in range(1, 501)])
