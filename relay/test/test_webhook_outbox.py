"""The outbox of a webhook: order, failures, limits, restarts (``relay.bridges.webhook_outbox``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.bridges.webhook_lanes import OVERHEAD_BYTES, Group
from relay.bridges.webhook_outbox import LOAD_MAX, Outbox
from relay.config_store import Store
from relay.core.metrics import WebhookCounts
from relay.core.wheel import Wheel
from relay.errors import Full, RelayError, Unavailable
from relay.records import Item, Put
from relay.store.memory import MemoryStore
from relay.store.memory_queues import MemoryQueues
from relay.test.core_fixture import Core
from relay.test.webhook_fixture import webhook


class World:
    """A clock and a store, which outlive the outboxes that run one after the other."""

    def __init__(self, **config: Any) -> None:  # Any: settings
        self.clock = Clock()
        self.wheel = Wheel(self.clock)
        self.wheel.start()
        self.store: Any = MemoryStore(Store(), self.now_ms, lambda size: b"x" * size).queues
        self.config = webhook(**config)
        self.start()

    def now_ms(self) -> int:
        """Unix time in ms."""
        return 1_000_000_000_000 + int(self.clock.seconds() * 1000)

    def start(self) -> None:
        """Another outbox on the same store, as after a restart."""
        self.counts = WebhookCounts()
        self.changes = 0
        self.outbox = Outbox(
            self.config, self.store, self.wheel, now_ms=self.now_ms, random=lambda: 1.0,
            later=lambda function: self.clock.callLater(0, function), counts=self.counts, changed=self.changed,
        )  # fmt: skip
        self.outbox.start()

    def changed(self) -> None:
        """There may be something to send."""
        self.changes += 1

    def take(self, *events: str) -> None:
        """Events in one turn; the lane is what is before the number: ``a1``."""
        for event in events:
            self.outbox.take(event[0], event.encode(), self.now_ms())
        self.clock.advance(0)

    def next(self, **more: bool) -> Group:
        """A group, which must be there."""
        group = self.outbox.next(**more)
        assert group is not None
        return group

    def kept(self) -> list[str]:
        """What the store has."""
        found: list[Item] = []
        self.store.load("default", "$webhook.w", 0, 10_000, False, found.extend)
        return [each.frame.decode("latin-1")[-2:] for each in found]


def told(group: Group | None) -> list[str]:
    """The events of a group."""
    return [] if group is None else [each.event.decode() for each in group.entries]


class OrderTests(SynchronousTestCase):
    """What goes when."""

    def test_in_order_for_each_lane(self):
        """While a lane's events are under way, its others wait; other lanes go on; a group has at most batch_max."""
        world = World(batch_max=3)
        world.take("a1", "a2", "b1", "b2", "c1")
        first, second = world.next(), world.next()
        self.assertEqual((told(first), told(second)), (["a1", "a2", "b1"], ["c1"]))
        world.take("a3", "d1")
        third = world.next()
        self.assertEqual(told(third), ["d1"])
        self.assertIsNone(world.outbox.next())
        world.outbox.delivered(second)
        self.assertIsNone(world.outbox.next())
        world.outbox.delivered(first)
        self.assertEqual(told(world.next()), ["a3", "b2"])
        self.assertEqual(world.kept(), ["b2", "a3", "d1"])

    def test_one_put_a_turn(self):
        """What happens in a turn is stored together; it is sent once it is stored."""
        world = World()
        batches: list[Sequence[Put]] = []
        self.patch(world.store, "put", lambda batch, done: batches.append(batch))
        for event in ("a1", "a2"):
            world.outbox.take("a", event.encode(), 0)
        self.assertEqual(batches, [])
        world.clock.advance(0)
        self.assertEqual([len(each) for each in batches], [2])
        self.assertIsNone(world.outbox.next())
        self.assertEqual({(each.queue, each.ordering_key) for each in batches[0]}, {("$webhook.w", "a")})

    def test_refused_event_is_found(self):
        """A refused group is cut until the refused event is alone; only its lane waits, and nothing else is counted."""
        world = World()
        world.take("a1", "b1", "c1", "c2", "c3", "d1")
        delivered: list[str] = []
        requests = 0
        while (group := world.outbox.next()) is not None:
            requests += 1
            if "c2" in told(group):
                world.outbox.failed(group, refused=True)
            else:
                delivered += told(group)
                world.outbox.delivered(group)
        self.assertEqual(sorted(delivered), ["a1", "b1", "c1", "d1"])
        self.assertLess(requests, 12)
        world.take("c4", "d2")
        self.assertEqual(told(world.next()), ["d2"])
        world.clock.pump([0.05] * 22)
        group = world.next()
        self.assertEqual((told(group), [each.attempts for each in group.entries]), (["c2"], [1]))
        world.outbox.delivered(group)
        self.assertEqual(told(world.next()), ["c3", "c4"])

    def test_waits_grow(self):
        """The wait doubles up to its maximum; a part of it is random."""
        world = World(retry_s_min=1.0, retry_s_max=60.0)
        self.assertEqual([world.outbox.wait_s(n) for n in (1, 2, 3, 7, 1000)], [1.0, 2.0, 4.0, 60.0, 60.0])
        self.patch(world.outbox, "_random", lambda: 0.0)
        self.assertEqual(world.outbox.wait_s(3), 2.0)

    def test_failed_otherwise(self):
        """A group that failed since nobody is there goes again as it is, or after new events when those are wanted."""
        world = World()
        world.take("a1", "b1")
        group = world.next()
        world.outbox.failed(group, refused=False)
        world.take("a2", "c1")
        self.assertEqual(told(world.next(new=True)), ["c1"])
        self.assertEqual(told(world.next(new=True)), ["a1", "b1"])
        self.assertIsNone(world.outbox.next())
        world.outbox.again(group)
        self.assertEqual(told(world.next()), ["a1", "b1"])

    def test_failed_in_turn(self):
        """Groups that failed go in turn: one that the receiver never answers does not keep the others back."""
        world = World(batch_max=1)
        world.take("a1", "b1", "c1")
        groups = [world.next() for _ in range(3)]
        for group in groups:
            world.outbox.failed(group, refused=False)
        order = []
        for _ in range(4):
            group = world.next()
            order += told(group)
            world.outbox.failed(group, refused=False)
        self.assertEqual(order, ["a1", "b1", "c1", "a1"])

    def test_never_answered(self):
        """A group that fails again and again while others are taken is cut, too; while none is taken it is not."""
        world = World()
        world.take("a1", "b1")
        for _ in range(5):
            world.outbox.failed(world.next(), refused=False)
        group = world.next()
        self.assertEqual(told(group), ["a1", "b1"])
        world.take("c1")
        world.outbox.delivered(world.next())
        world.outbox.failed(group, refused=False)
        self.assertEqual([told(world.next()), told(world.next())], [["a1"], ["b1"]])


class LimitTests(SynchronousTestCase):
    """What is dropped, and counted."""

    def test_pending(self):
        """Over ``pending_max`` or ``pending_bytes_max`` events are dropped; there is room again afterwards."""
        for config in ({"pending_max": 2}, {"pending_bytes_max": 2 * (OVERHEAD_BYTES + 2)}):
            world = World(**config)
            world.take("a1", "a2", "a3")
            world.take("b1")
            self.assertEqual((world.counts.waiting, world.counts.dropped), (2, {"full": 2}))
            world.outbox.delivered(world.next())
            world.take("a4")
            self.assertEqual((told(world.next()), world.counts.dropped), (["a4"], {"full": 2}))

    def test_attempts(self):
        """An event is dropped after ``attempts_max``; the next of its lane goes on."""
        world = World(attempts_max=2, batch_max=1)
        world.take("a1", "a2")
        for _ in range(2):
            world.outbox.failed(world.next(), refused=True)
            world.clock.pump([0.05] * 22)
        self.assertEqual((told(world.next()), world.counts.dropped, world.kept()), (["a2"], {"attempts": 1}, ["a2"]))

    def test_attempts_of_some(self):
        """In a group some may be spent before the others."""
        world = World(attempts_max=2)
        world.take("a1")
        world.outbox.failed(world.next(), refused=False)
        world.outbox.stop()
        world.start()
        world.take("a2")
        world.outbox.failed(world.next(), refused=False)
        self.assertEqual((told(world.next()), world.counts.dropped), (["a2"], {"attempts": 1}))

    def test_age(self):
        """An event that waited too long is dropped, those after it are not; in the store it expires by itself."""
        world = World(age_s_max=10.0)
        world.take("a1", "b1")
        world.outbox.failed(world.next(), refused=False)
        world.clock.pump([0.5] * 12)
        world.take("a2")
        world.clock.pump([0.5] * 9)
        self.assertEqual((told(world.next()), world.counts.dropped, world.counts.waiting), (["a2"], {"age": 2}, 1))
        self.assertEqual(world.kept(), ["a2"])
        world.clock.advance(10.0)
        self.assertEqual(world.kept(), [])

    def test_store_is_full(self):
        """What the store does not take is dropped; what it takes is told."""
        world = World()

        def put(batch: Sequence[Put], done: Callable[[Sequence[Put]], None]) -> None:
            batch[0].error = Full("no room")
            MemoryQueues.put(world.store, batch[1:], lambda stored: done(batch))

        self.patch(world.store, "put", put)
        world.take("a1", "a2")
        self.assertEqual((told(world.next()), world.counts.dropped, world.counts.waiting), (["a2"], {"store": 1}, 1))


class RestartTests(SynchronousTestCase):
    """The store remembers."""

    def test_goes_on(self):
        """What was not settled is told after a restart, before what is new, with its attempts; the rest is not."""
        world = World(batch_max=2)
        world.take("a1", "a2", "a3", "b1")
        world.outbox.delivered(world.next())
        world.outbox.failed(world.next(), refused=False)
        world.outbox.stop()
        self.assertIsNone(world.outbox.next())
        world.start()
        world.take("a4")
        self.assertEqual(world.counts.waiting, 3)
        group = world.next()
        self.assertEqual((told(group), [each.attempts for each in group.entries]), (["a3", "a4"], [1, 0]))

    def test_stopped_within_the_turn(self):
        """Events of the last turn are handed to the store by ``stop``."""
        world = World()
        world.outbox.take("a", b"a1", world.now_ms())
        world.outbox.stop()
        self.assertEqual(world.kept(), ["a1"])
        world.clock.advance(1)
        self.assertEqual(world.kept(), ["a1"])

    def test_many(self):
        """More than is read at once is read in parts; nothing goes before all is known."""
        world = World()
        count = LOAD_MAX + 7
        world.take(*["ab"[number % 2] + "x" for number in range(count)])
        world.outbox.stop()
        world.start()
        self.assertIsNone(world.outbox.next())
        world.clock.advance(0)
        self.assertEqual(world.counts.waiting, count)
        self.assertEqual(len(told(world.next())), 100)

    def test_store_cannot_be_read(self):
        """The store is asked again; meanwhile events are kept in memory."""
        world = World()
        world.take("a1")
        world.outbox.stop()
        load = world.store.load

        def fails(*args: Any) -> None:  # Any: those of ``load``
            args[-1](Unavailable("starting"))

        self.patch(world.store, "load", fails)
        world.start()
        world.take("a2")
        self.assertIsNone(world.outbox.next())
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        self.patch(world.store, "load", load)
        world.clock.pump([0.5] * 11)
        world.clock.advance(0)
        self.assertEqual(told(world.next()), ["a1", "a2"])

    def test_no_queue_of_others(self):
        """The queues of clients do not count what a webhook keeps in the same store."""
        world = World()
        world.take("a1")
        queues = Core().router.queues
        queues.open(world.store)
        self.assertEqual(queues.desk.queues, {})

    def test_damaged(self):
        """What the store gives back damaged is dropped and counted; the others go on."""
        world = World()
        world.store.put([Put("default", "$webhook.w", b"no frame", world.now_ms(), ordering_key="a")], lambda _: None)
        world.outbox.stop()
        world.start()
        world.take("a1")
        self.assertEqual((told(world.next()), world.counts.dropped), (["a1"], {"damaged": 1}))
        self.assertEqual(world.kept(), ["a1"])

    def test_settling_fails(self):
        """When the store does not take what was delivered, it is told again after a restart: at least once."""
        world = World()
        world.take("a1")

        def settle(batch: Any, done: Any) -> None:
            for each in batch:
                each.error = RelayError("disk")
            done(batch)

        self.patch(world.store, "settle", settle)
        world.outbox.delivered(world.next())
        self.assertIsNone(world.outbox.next())
        world.start()
        self.assertEqual(told(world.next()), ["a1"])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["send", "delivered", "refused", "unavailable"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["restart", "wait"]), st.none()),
    ),
    max_size=60,
)


class ModelTests(SynchronousTestCase):
    """Any interleaving."""

    @given(STEPS, st.integers(1, 4))
    @settings(max_examples=200, deadline=None)
    def test_all_in_order(self, steps, batch_max):
        """Each event is delivered, in the order of its lane; a second time only when the node was stopped meanwhile."""
        world = World(batch_max=batch_max)
        sent: list[Group] = []
        taken: dict[str, list[bytes]] = {lane: [] for lane in "abc"}
        done: dict[str, list[bytes]] = {lane: [] for lane in "abc"}

        def deliver(group: Group) -> None:
            for entry in group.entries:
                done[entry.lane].append(entry.event)
            world.outbox.delivered(group)

        for what, value in steps:
            if what == "take":
                event = f"{value}{len(taken[value])}".encode()
                taken[value].append(event)
                world.outbox.take(value, event, world.now_ms())
                world.clock.advance(0)
            elif what == "send":
                group = world.outbox.next(new=value > 2)
                sent += [] if group is None else [group]
            elif what == "wait":
                world.clock.pump([0.05] * 30)
            elif what == "restart":
                world.outbox.stop()
                world.start()
                world.clock.advance(0)
                sent = []
            elif sent:
                group = sent.pop(value % len(sent))
                if what == "delivered":
                    deliver(group)
                else:
                    world.outbox.failed(group, refused=what == "refused")
            self.assertEqual(len({lane for each in sent for lane in each.lanes()}), sum(len(g.lanes()) for g in sent))
        for group in sent:
            deliver(group)
        for _ in range(12):
            while (group := world.outbox.next()) is not None:
                deliver(group)
            world.clock.pump([1.0] * 30)
        self.assertEqual(done, taken)
        self.assertEqual((world.counts.waiting, world.kept(), world.counts.dropped), (0, [], {}))
        self.assertEqual((len(world.outbox._lanes), world.outbox._bytes), (0, 0))
