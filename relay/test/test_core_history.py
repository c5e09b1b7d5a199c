"""Publications of channels with history: offsets, safety before delivery, order, idempotency (``relay.core``)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay import errors
from relay.config import ChannelRule, Config, Limits
from relay.config_history import ChannelHistory
from relay.core import histories
from relay.interfaces import IHistory
from relay.store.memory import MemoryStore
from relay.test.core_fixture import Core, Guest
from relay.test.fakes_history import FakeHistory
from relay.test.history_fixture import core_of, offsets, outcome, said, subscribe
from relay.wire import kinds
from relay.wire.filters import wrap
from relay.wire.handshake import Goodbye
from relay.wire.message import Message


class InMemory(SynchronousTestCase):
    """Channels whose history is kept in memory."""

    def test_the_fake_is_a_history(self):
        """It has what the interface promises."""
        verifyObject(IHistory, FakeHistory(lambda: 0))

    def test_offset_and_epoch(self):
        """Events and the publisher's answers carry offsets without gap and the channel's epoch."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.SUBSCRIBE, "mem.*")
        bob.take()
        replies = [ann.answer(ann.send(kinds.PUBLISH, "mem.1", b"x", role="r")) for _ in range(3)]
        self.assertEqual([each.get(kinds.REACHED) for each in replies], [1, 1, 1])
        self.assertEqual(offsets(replies), [1, 2, 3])
        events = bob.take()
        self.assertEqual(offsets(events), [1, 2, 3])
        self.assertEqual({each.get(kinds.EPOCH) for each in events + replies}, {"e1"})
        self.assertEqual({each.get(kinds.ROLE) for each in events}, {"r"})
        self.assertEqual(ann.answer(ann.send(kinds.PUBLISH, "mem.2")).get(kinds.OFFSET), 1)

    def test_without_history(self):
        """Channels without a rule for it carry neither."""
        core = core_of()
        ann = core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "plain")
        self.assertEqual(ann.answer(ann.send(kinds.PUBLISH, "plain")).fields, {kinds.REACHED: 1})
        self.assertIsNone(ann.take(kinds.EVENT)[0].get(kinds.OFFSET))

    def test_idempotency_key(self):
        """Within the window a repeat is answered with the first one's offset and not delivered; later it is new."""
        core = core_of(idempotency_window_s=120.0)
        ann = core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "mem.1")
        found = []
        for wait_s in (0.0, 60.0, 60.0, 0.0):
            core.clock.advance(wait_s)
            reply = ann.answer(ann.send(kinds.PUBLISH, "mem.1", b"x", idempotency_key="k"))
            found.append((reply.get(kinds.OFFSET), reply.get(kinds.REACHED)))
        self.assertEqual(found, [(1, 1), (1, 0), (2, 1), (2, 0)])
        self.assertEqual(offsets(ann.take(kinds.EVENT)), [1, 2])
        self.assertEqual(outcome(ann.answer(ann.send(kinds.PUBLISH, "mem.1", idempotency_key="k" * 256)))[0], 14)
        off = core_of(idempotency_window_s=0.0).guest("ann")
        twice = [off.answer(off.send(kinds.PUBLISH, "mem.1", idempotency_key="k")) for _ in range(2)]
        self.assertEqual(offsets(twice), [1, 2])

    def test_expiry_and_retained(self):
        """``ttl_ms``, the rule's default, and the flag ``retained`` reach the store."""
        rule = ChannelRule(pattern="**", history=ChannelHistory(ttl_s=9.0, messages_max=5, bytes_max=6, age_s_max=7.0))
        core = Core(Config(channels=(rule,)))
        ann = core.guest("ann")
        ann.send(kinds.PUBLISH, "c", ttl_ms=500, flags=kinds.RETAINED)
        ann.send(kinds.PUBLISH, "c", ttl_ms=2**64 - 1)
        ann.send(kinds.PUBLISH, "c")
        stored = core.memory.appended
        lives = [each.expires_ms - each.at_ms for each in stored]
        self.assertEqual((lives[0], lives[2]), (500, 9000))
        self.assertLess(stored[1].expires_ms, 2**63)
        self.assertEqual([each.retained for each in stored], [True, False, False])
        kept = stored[0].retention
        self.assertEqual((kept.messages_max, kept.bytes_max, kept.age_ms_max), (5, 6, 7000))

    def test_no_store(self):
        """A node without a store for a channel refuses it, temporarily."""
        core = core_of()
        core.histories._memory = None
        ann = core.guest("ann")
        for kind in (kinds.PUBLISH, kinds.SUBSCRIBE, kinds.HISTORY):
            self.assertEqual(outcome(ann.answer(ann.send(kind, "mem.1"))), (43, True, "not_done"))
        self.assertEqual(ann.connection.session.subscriptions, {})

    def test_broken_filter_is_not_stored(self):
        """What no receiver could read is refused before it has an offset."""
        core = core_of()
        ann = core.guest("ann")
        seq = ann.send(kinds.PUBLISH, "mem.1", b"no gzip", filters=(kinds.GZIP,))
        self.assertEqual(outcome(ann.answer(seq))[0], errors.FilterError.code)
        good = ann.answer(ann.send(kinds.PUBLISH, "mem.1", wrap(b"x", (kinds.GZIP,)), filters=(kinds.GZIP,)))
        self.assertEqual(good.get(kinds.OFFSET), 1)


class InPassing(SynchronousTestCase):
    """A store that takes events as they are (``IEventHistory``), beside one that is given frames."""

    def test_same(self):
        """Whatever is published in a channel in memory, members, publisher and a later reader get the same."""
        seen = []
        for passing in (False, True):
            core = core_of()
            if passing:
                _takes_events(core)
            member, publisher = core.guest("member"), core.guest("publisher")
            subscribe(core, member, "mem.a")
            for seq in (0, 5):
                for more in ({}, {}, {"ttl_ms": 1000}, {"tags": {"a": "b"}}, {"idempotency_key": "k"}, {}):
                    publisher.send(kinds.PUBLISH, "mem.a", b"body", seq=seq, codec=kinds.TEXT, **more)
                publisher.send(kinds.PUBLISH, "mem.a", b"body", seq=seq, flags=kinds.LATEST)
                publisher.send(kinds.PUBLISH, "mem.a", b"body", seq=seq, flags=kinds.NO_ECHO)
                publisher.send(kinds.PUBLISH, "quiet.a", b"body", seq=seq)
            core.node.publish("default", Message(kinds.PUBLISH, "mem.a", b"from the node"))
            reader = core.guest("reader")
            _, recovered = subscribe(core, reader, "mem.a", last=100)
            got = [member.take(), publisher.take(), recovered]
            for each in (message for messages in got for message in messages):
                if each.fields is not None and kinds.EPOCH in each.fields:
                    each.fields[kinds.EPOCH] = "made at random"
            seen.append(got)
            plan = core.histories.plan("mem.a")
            self.assertEqual(plan is not None and plan.keep is not None, passing)
        self.assertEqual(*seen)
        self.assertEqual(offsets(seen[0][2]), list(range(1, 17)))


    def test_unwritable(self):
        """What cannot be written is refused to who publishes it, and nobody meets it in the history."""
        core = core_of()
        _takes_events(core)
        for codec in (kinds.TEXT, 256, -1, kinds.TEXT):
            message = Message(kinds.PUBLISH, "mem.a", b"body", codec)
            if codec == kinds.TEXT:
                core.node.publish("default", message)
            else:
                self.assertRaises(errors.BadBody, core.node.publish, "default", message)
        _, recovered = subscribe(core, core.guest("reader"), "mem.a", last=100)
        self.assertEqual(offsets(recovered), [1, 2])


def _takes_events(core: Core) -> None:
    """Its histories in memory are those of a real store."""
    store = MemoryStore(core.config.store, lambda: int(core.hub.wall() * 1000), lambda _: b"e")
    core.memory = store.history  # type: ignore[assignment]  # another store than tests have otherwise


class OnDisk(SynchronousTestCase):
    """Channels whose history is durable: the store answers later."""

    def test_nothing_leaves_before_it_is_stored(self):
        """No event and no answer until the store is done; the publications of a turn are one batch."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.SUBSCRIBE, "disk.1")
        core.store()
        bob.take()
        seqs = [ann.send(kinds.PUBLISH, "disk.1", b"%d" % number) for number in range(3)]
        core.clock.advance(0)
        self.assertEqual((ann.take(), bob.take()), ([], []))
        self.assertEqual(core.durable.batches, [3])
        core.store()
        replies = ann.take()
        self.assertEqual(([each.seq for each in replies], offsets(replies)), (seqs, [1, 2, 3]))
        events = bob.take()
        self.assertEqual(offsets(events), [1, 2, 3])
        self.assertEqual([each.body for each in events], [b"0", b"1", b"2"])
        self.assertEqual(core.histories.waiting_bytes, 0)

    def test_errors_of_the_store(self):
        """The store's error is the publisher's answer, with its outcome; nothing is delivered."""
        core = core_of()
        ann = core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "disk.1")
        core.store()
        for error, expected in (
            (errors.Full("the disk is full"), (42, True, "not_done")),
            (errors.Unavailable("stopping", outcome="unknown"), (43, True, "unknown")),
        ):
            ann.take()
            core.durable.failing = error
            seq = ann.send(kinds.PUBLISH, "disk.1", b"x")
            ann.send(kinds.PUBLISH, "disk.1", b"x", seq=0)
            core.store()
            self.assertEqual(outcome(ann.answer(seq)), expected)
            self.assertEqual([each.name for each in ann.take(kinds.ERROR)], ["", "disk.1"])
        core.durable.failing = None
        seq = ann.send(kinds.PUBLISH, "disk.1", b"x")
        core.store()
        self.assertEqual(ann.answer(seq).get(kinds.OFFSET), 1)

    def test_waiting_bytes(self):
        """More than ``waiting_bytes_max`` under way is refused as full; there is room again when the store is done."""
        core = core_of(waiting_bytes_max=2000)
        ann = core.guest("ann")
        seqs = [ann.send(kinds.PUBLISH, "disk.1", bytes(900)) for _ in range(3)]
        self.assertEqual(outcome(ann.answer(seqs[2])), (42, True, "not_done"))
        core.store()
        self.assertEqual(offsets([ann.answer(each) for each in seqs[:2]]), [1, 2])
        seq = ann.send(kinds.PUBLISH, "disk.1", bytes(900))
        core.store()
        self.assertEqual(ann.answer(seq).get(kinds.OFFSET), 3)

    def test_order_of_one_session(self):
        """What others can see of a session they see in the order in which it sent it; the peer is read no further."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        for name in ("disk.1", "plain"):
            bob.send(kinds.SUBSCRIBE, name)
        core.store()
        bob.take()
        ann.send(kinds.PUBLISH, "disk.1", b"1", seq=0)
        ann.send(kinds.PUBLISH, "disk.1", b"2", seq=0)
        self.assertEqual(ann.peer.pauses, set())
        ann.send(kinds.PUBLISH, "plain", b"3", seq=0)
        ann.send(kinds.PUSH, "n", b"4", user="bob", seq=0)
        ann.send(kinds.PUBLISH, "disk.1", b"5", seq=0)
        self.assertEqual(ann.peer.pauses, {"store"})
        core.clock.advance(0)
        self.assertEqual((said(bob), core.durable.batches), ([], [2]))
        core.store(1)
        self.assertEqual(said(bob), [("event", "1"), ("event", "2"), ("event", "3"), ("push", "4")])
        self.assertEqual(ann.peer.pauses, set())
        core.store()
        self.assertEqual(said(bob), [("event", "5")])
        self.assertEqual(core.router.behind.lines, {})

    def test_others_do_not_wait(self):
        """A session with stores under way holds up nobody else."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        ann.send(kinds.SUBSCRIBE, "plain")
        ann.take()
        ann.send(kinds.PUBLISH, "disk.1", seq=0)
        bob.send(kinds.PUBLISH, "plain", b"x", seq=0)
        self.assertEqual(said(ann), [("event", "x")])

    def test_waiting_frames_are_bounded(self):
        """``held_frames_max`` frames wait behind a store; the others are refused."""
        core = core_of(limits=Limits(held_frames_max=2))
        ann = core.guest("ann")
        ann.send(kinds.PUBLISH, "disk.1", seq=0)
        seqs = [ann.send(kinds.PUBLISH, "plain") for _ in range(3)]
        self.assertEqual(outcome(ann.answer(seqs[2])), (40, True, "not_done"))
        core.store()
        self.assertEqual([ann.answer(each).kind for each in seqs[:2]], [kinds.REPLY, kinds.REPLY])

    def test_under_way_is_bounded(self):
        """At ``under_way_max`` the peer is read no further; half of them done, it is again."""
        core = core_of(under_way_max=4)
        ann = core.guest("ann")
        for _ in range(4):
            ann.send(kinds.PUBLISH, "disk.1", seq=0)
            core.histories.submit()
        self.assertEqual(ann.peer.pauses, {"store"})
        core.store(1)
        self.assertEqual(ann.peer.pauses, {"store"})
        core.store(1)
        self.assertEqual(ann.peer.pauses, set())
        core.store()

    def test_pause_goes_with_the_session(self):
        """A session that comes back on another connection is not read there either."""
        core = core_of()
        ann = Guest(core)
        welcome = ann.hello(user="ann", features=["resume"])
        ann.send(kinds.PUBLISH, "disk.1", seq=0)
        push = ann.send(kinds.PUSH, "n", user="ann")
        ann.vanish()
        back = Guest(core)
        resume = {"session": welcome.session, "secret": welcome.secret, "received": 0}
        self.assertTrue(back.hello(resume=resume).resumed)
        self.assertEqual(back.peer.pauses, {"store"})
        core.store()
        self.assertEqual(back.peer.pauses, set())
        self.assertEqual(back.answer(push).kind, kinds.REPLY)

    def test_goodbye_goes_behind(self):
        """Who says goodbye leaves when what it sent before is done, also when its connection goes first."""
        for vanishes in (False, True):
            core = core_of()
            ann, bob = Guest(core), core.guest("bob")
            ann.hello(user="ann", features=["resume"])
            ann.send(kinds.PUBLISH, "disk.1", seq=0)
            ann.send(kinds.PUSH, "n", b"x", user="bob", seq=0)
            ann.send(kinds.GOODBYE, "", {"reason": kinds.NORMAL}, seq=0)
            if vanishes:
                ann.vanish()
            self.assertEqual(len(core.hub.sessions), 2)
            core.store()
            self.assertEqual(said(bob), [("push", "x")])
            self.assertEqual(len(core.hub.sessions), 1)
        self.assertFalse(Goodbye(kinds.NORMAL).reconnect)

    def test_session_ends_meanwhile(self):
        """The publication of a session that has ended is delivered; what waited behind it is not carried out."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.SUBSCRIBE, "disk.1")
        core.store()
        bob.take()
        ann.send(kinds.PUBLISH, "disk.1", b"x")
        ann.send(kinds.PUSH, "n", b"y", user="bob")
        core.sessions.close(ann.connection.session, kinds.KICKED)
        core.store()
        self.assertEqual(said(bob), [("event", "x")])
        self.assertEqual(core.router.behind.lines, {})

    def test_realm_goes_and_comes(self):
        """An event that was stored while its realm was away reaches the realm's new members."""
        core = core_of()
        ann = core.guest("ann", realm="r")
        ann.send(kinds.PUBLISH, "disk.1", b"x", seq=0)
        core.sessions.close(ann.connection.session, kinds.KICKED)
        bob = core.guest("bob", realm="r")
        bob.send(kinds.SUBSCRIBE, "disk.*")
        bob.take()
        core.store()
        self.assertEqual(said(bob), [("event", "x")])

    def test_behind_a_hook(self):
        """Hooks that suspend, or send a publication elsewhere, keep the order of the session."""
        waits: list[Deferred[Message]] = []

        def before(session: Any, message: Message) -> Any:
            if message.body == b"wait":
                waits.append(Deferred())
                return waits[-1]
            return Message(message.kind, "plain", message.body) if message.body == b"plain" else message

        core = core_of(hooks={"before_publish": before})
        ann, bob = core.guest("ann"), core.guest("bob")
        for name in ("disk.1", "plain"):
            bob.send(kinds.SUBSCRIBE, name)
        core.store()
        bob.take()
        for body in (b"1", b"plain", b"2", b"wait", b"3"):
            ann.send(kinds.PUBLISH, "disk.1", body, seq=0)
        core.store()
        self.assertEqual(said(bob), [("event", "1"), ("event", "plain"), ("event", "2")])
        waits[0].callback(Message(kinds.PUBLISH, "plain", b"waited"))
        core.store()
        self.assertEqual(said(bob), [("event", "waited"), ("event", "3")])
        self.assertEqual((core.router.behind.lines, core.router.held, ann.peer.pauses), ({}, {}, set()))

    def test_repeat_under_way(self):
        """A key whose first publication is still on its way to the disk is not stored twice."""
        core = core_of()
        ann = core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "disk.1")
        core.store()
        ann.take()
        seqs = [ann.send(kinds.PUBLISH, "disk.1", b"x", idempotency_key="k") for _ in range(2)]
        core.store()
        self.assertEqual([ann.answer(each).get(kinds.OFFSET) for each in seqs], [1, 1])
        self.assertEqual(len(ann.take(kinds.EVENT)), 1)

    def test_from_the_node(self):
        """Code in the node gets the sessions reached at once, or when the store is done; or its error."""
        core = core_of()
        self.assertEqual(core.node.publish("default", Message(kinds.PUBLISH, "mem.1")), 0)
        self.assertEqual(core.memory.logs["default", "mem.1"].last, 1)
        ann = core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "disk.1")
        core.store()
        later = core.node.publish("default", Message(kinds.PUBLISH, "disk.1"))
        assert isinstance(later, Deferred)
        self.assertNoResult(later)
        core.store()
        self.assertEqual(self.successResultOf(later), 1)
        core.durable.failing = errors.Full()
        failed = core.node.publish("default", Message(kinds.PUBLISH, "disk.1"))
        assert isinstance(failed, Deferred)
        core.store()
        self.failureResultOf(failed, errors.Full)

    def test_our_mistake_costs_one_publication(self):
        """When one delivery fails, those behind it in the batch go on."""
        core = core_of()
        ann = core.guest("ann")
        seqs = [ann.send(kinds.PUBLISH, "disk.1") for _ in range(2)]
        deliver, calls = core.hub.deliver, []

        def fails_once(*given: Any) -> int:
            calls.append(given)
            return 1 // (len(calls) - 1) and deliver(*given)

        self.patch(core.hub, "deliver", fails_once)
        core.store()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(ann.answer(seqs[1]).get(kinds.OFFSET), 2)
        self.assertEqual(core.histories.waiting_bytes, 0)

    def test_plans_are_bounded(self):
        """Names whose limits are remembered do not grow without end, and follow the configuration."""
        self.patch(histories, "PLANS_MAX", 2)
        core = core_of()
        for name in ("mem.1", "mem.2", "mem.3"):
            self.assertIs(core.histories.plan(name), core.histories.plan(name))
        self.assertLessEqual(len(core.histories._plans), 2)
        core.hub.reconfigure(Config())
        self.assertIsNone(core.histories.plan("mem.3"))
