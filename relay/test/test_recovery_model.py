"""A client that loses connections, sessions and frames sees every publication once, in order, or hears of the hole.

The real client on the real core (``relay.test.joined_client``), driven at random and held against what was published.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.test.fakes_history import FakeHistory
from relay.test.history_fixture import core_of
from relay.test.joined_client import JoinedClient
from relay.wire import kinds
from relay.wire.binary import decode_frame

CHECK_S = 5.0
NAMES = ("mem.1", "mem.2", "disk.1")

STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(NAMES), st.integers(1, 7)),
    st.tuples(st.just("own"), st.sampled_from(NAMES), st.integers(0, 1)),
    st.tuples(st.just("store"), st.just(""), st.integers(1, 3)),
    st.tuples(st.just("cut"), st.just(""), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 4)),
    st.tuples(st.just("left out"), st.just(""), st.integers(1, 3)),
    st.tuples(st.just("swallowed"), st.just(""), st.integers(1, 3)),
    st.tuples(st.just("trim"), st.sampled_from(NAMES), st.integers(0, 4)),
    st.tuples(st.just("lose"), st.sampled_from(NAMES), st.just(0)),
)


Step = tuple[str, str, int]


class World:
    """The server, the client, and what was published by whom."""

    def __init__(self, subscriptions: tuple[str, ...], page: int) -> None:
        self.core = core_of(page_messages_max=page, live_bytes_max=600, recovery_messages_max=1000)
        self.joined = JoinedClient(self.core, position_check_s=CHECK_S)
        self.subscriptions = subscriptions
        for name in subscriptions:
            self.joined.subscribe(name)
        self.core.store()
        self.joined.pump()
        self.harmed: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.own: set[bytes] = set()
        self.number = 0
        self.steps: list[Step] = []

    def step(self, what: str, name: str, count: int) -> None:
        """One thing that happens."""
        core, joined = self.core, self.joined
        self.steps.append((what, name, count))
        if what == "publish":
            guest = core.guest("publisher")
            for _ in range(count):
                self.number += 1
                guest.send(kinds.PUBLISH, name, b"%d" % self.number, seq=0)
            core.histories.submit()
            guest.vanish()
        elif what == "own":
            self.number += 1
            body = b"%d" % self.number
            if count:
                self.own.add(body)
            joined.publish(name, body, kinds.NO_ECHO if count else 0)
            core.histories.submit()
        elif what == "store":
            core.store(count)
        elif what == "cut":
            joined.cut(bool(count))
        elif what == "wait":
            joined.pass_time(count)
        elif what in ("left out", "swallowed"):
            joined.lose_events, joined.told = count, what == "left out"
        else:
            store = core.durable if name.startswith("disk") else core.memory
            if what == "trim":
                self.harmed[name] += 1
                store.trim("default", name, count)
            else:
                self._lose(store)
        joined.pump()

    def _lose(self, store: FakeHistory) -> None:
        """All of a store is lost, as by a restart of the node: no session outlives it, and all begins anew."""
        self.joined.cut(True)
        for session in list(self.core.hub.sessions.values()):
            self.core.sessions.end(session, "restart")
        for name in NAMES:
            if name.startswith("disk") == (store is self.core.durable):
                self.harmed[name] += 1
                store.lose("default", name)
        number = sum(self.harmed.values())
        self.core.histories._beginnings = (f"-memory {number}", f"-disk {number}")
        for name in NAMES:
            self.harmed[name] += 1

    def settle(self) -> None:
        """Everything that is under way ends, and the position checks have had their time."""
        self.joined.lose_events = 0
        for seconds in (*[1.0] * 6, *[0.05] * 30, CHECK_S * 2, *[0.05] * 60, *[1.0] * 6, *[0.05] * 30):
            self.core.store()
            self.joined.pass_time(seconds)

    def check(self, test: SynchronousTestCase) -> None:
        """Each channel: every publication once and in order, but for holes that were told; no hole without a cause."""
        for name in NAMES:
            seen = self.joined.seen.get(name, [])
            history = "\n".join([f"{name}: {seen}", *map(str, self.steps)])
            published = self._published(name)
            literal = name in self.subscriptions
            position, told = (0, published[0][1] if published else "") if literal else None, False
            for each in seen:
                if isinstance(each, bool):
                    test.assertTrue(each or self.harmed[name], f"recovered: false without a cause\n{history}")
                    told = told or not each
                    continue
                offset, epoch, body = each
                test.assertIn((offset, epoch, body), published, history)
                test.assertNotIn(body, self.own, history)
                if position is not None and epoch == position[1]:
                    test.assertGreater(offset, position[0], f"twice, or out of order\n{history}")
                if position is not None and not told:
                    test.assertEqual(self._between(published, position, (offset, epoch)), [], f"missing\n{history}")
                position, told = (offset, epoch), False
            if position is not None and not told:
                test.assertEqual(
                    self._between(published, position, (1 << 60, "")), [], f"missing at the end\n{history}"
                )

    def _published(self, name: str) -> list[tuple[int, str, bytes]]:
        store = self.core.durable if name.startswith("disk") else self.core.memory
        return [
            (each.offset, each.epoch, decode_frame(each.frame).body) for each in store.appended if each.channel == name
        ]

    def _between(
        self, published: list[tuple[int, str, bytes]], after: tuple[int, str], before: tuple[int, str]
    ) -> list[tuple[int, str, bytes]]:
        """What should have been delivered between two places."""
        places = [(offset, epoch) for offset, epoch, _ in published]
        first = places.index(after) + 1 if after in places else 0
        last = places.index(before) if before in places else len(places)
        return [each for each in published[first:last] if each[2] not in self.own]


class Recovering(SynchronousTestCase):
    """At random, and one by one."""

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from([NAMES, ("**",), ("mem.*", "disk.1"), ("mem.1", "**")]),
        st.sampled_from([1, 3, 100]),
        st.lists(STEPS, max_size=30),
    )
    def test_exactly_what_was_missed(self, subscriptions: tuple[str, ...], page: int, steps: list[Step]) -> None:
        """Whatever breaks, in whatever order."""
        world = World(subscriptions, page)
        for step in steps:
            world.step(*step)
        world.settle()
        world.check(self)

    def test_the_check_can_fail(self) -> None:
        """A client that does not look at offsets is found out."""
        world = World(("mem.1",), 10)
        world.joined.client._kinds[kinds.EVENT] = lambda message, now: world.joined.client.positions._deliver(message)
        for step in (("publish", "mem.1", 2), ("swallowed", "", 1), ("publish", "mem.1", 2)):
            world.step(*step)
        world.settle()
        with self.assertRaisesRegex(self.failureException, "missing"):
            world.check(self)
