"""What every store of queues and of last-seen times has to keep to: see ``store_contract``."""

from __future__ import annotations

from typing import Any

from zope.interface.verify import verifyObject

from relay.errors import Full, NotFound
from relay.interfaces import IPresence, IQueueStore
from relay.records import ACKED, DEAD, PRIORITY_DEFAULT, REMOVED, RETRY, REVIVED, QueueState, Settle
from relay.store.budget import OVERHEAD_BYTES
from relay.test.store_contract import ODD_FRAMES, Contract


class QueueContract(Contract):
    """``IQueueStore``."""

    async def test_queue_interface(self) -> None:
        """It is what it says."""
        verifyObject(IQueueStore, self.store().queues)

    async def test_numbers(self) -> None:
        """Numbers of a queue are 1, 2, 3 …; a queue of another realm is another one."""
        store = self.store()
        batch = [self.message(b"%d" % n, "qp"[n % 2], "rs"[n % 3 == 0]) for n in range(30)]
        await self.put(store, *batch[:11])
        await self.put(store, *batch[11:])
        for realm in "rs":
            for queue in "qp":
                mine = [each for each in batch if (each.realm, each.queue) == (realm, queue)]
                self.assertEqual([each.number for each in mine], list(range(1, len(mine) + 1)))

    async def test_items(self) -> None:
        """Every field comes back as it was stored."""
        store = self.store()
        later = self.now_ms + 10**6
        batch = [
            self.message(frame, due_ms=later, expires_ms=later * (n % 2), priority=n % 3, ordering_key='k",é' * (n % 2))
            for n, frame in enumerate(ODD_FRAMES)
        ]
        await self.put(store, *batch, self.message(b"plain"))
        items = await self.load(store)
        for item, put in zip(items, batch, strict=False):
            self.assertEqual(
                (item.number, item.at_ms, item.due_ms, item.expires_ms, item.priority, item.ordering_key, item.frame),
                (put.number, put.at_ms, put.due_ms, put.expires_ms, put.priority, put.ordering_key, put.frame),
            )
            self.assertEqual((item.deliveries, item.reason), (0, ""))
        self.assertEqual((items[-1].priority, items[-1].frame), (PRIORITY_DEFAULT, b"plain"))

    async def test_load(self) -> None:
        """``load`` gives numbers over ``after``, ascending, at most ``limit``."""
        store = self.store()
        await self.put(store, *[self.message() for _ in range(9)])
        self.assertEqual(await self.numbers(store, after=2, limit=3), [3, 4, 5])
        self.assertEqual(await self.numbers(store, after=9), [])
        self.assertEqual(await self.numbers(store, limit=0), [])
        self.assertEqual(await self.numbers(store, queue="other"), [])

    async def test_acked(self) -> None:
        """An acknowledged message is gone; its number is not given again."""
        store = self.store()
        await self.put(store, *[self.message() for _ in range(3)])
        for number in (2, 1, 3):
            self.assertEqual((await self.settle(store, number, ACKED)).error, None)
        self.assertEqual(await self.numbers(store), [])
        self.assertEqual(await self.put(store, self.message()), [4])

    async def test_settled_together(self) -> None:
        """A batch may settle messages of many queues in different ways."""
        store = self.store()
        await self.put(store, *[self.message(queue=f"q{n % 5}") for n in range(50)])
        batch = [Settle("r", f"q{n % 5}", n // 5 + 1, (ACKED, RETRY, DEAD)[n % 3], reason="r") for n in range(45)]
        await self.ask(store, store.queues.settle, batch)
        self.assertEqual([each.error for each in batch], [None] * 45)
        left: dict[str, list[int]] = {f"q{n}": [] for n in range(5)}
        for n in range(50):
            if n >= 45 or n % 3 == 1:
                left[f"q{n % 5}"].append(n // 5 + 1)
        self.assertEqual({queue: await self.numbers(store, queue=queue) for queue in left}, left)

    async def test_settled_twice(self) -> None:
        """The second time there is no such message any more, also within one batch."""
        store = self.store()
        await self.put(store, self.message())
        batch = [Settle("r", "q", 1, ACKED), Settle("r", "q", 1, ACKED)]
        await self.ask(store, store.queues.settle, batch)
        self.assertEqual([type(each.error) for each in batch], [type(None), NotFound])
        self.assertIsInstance((await self.settle(store, 1, ACKED)).error, NotFound)

    async def test_not_found(self) -> None:
        """Numbers and queues that are not there are told, whatever number comes."""
        store = self.store()
        await self.put(store, self.message())
        for action in (ACKED, RETRY, DEAD, REVIVED, REMOVED):
            for queue, number in (("q", 2), ("other", 1), ("q", 0), ("q", 2**63 - 1)):
                settle = await self.settle(store, number, action, queue)
                self.assertIsInstance(settle.error, NotFound, (action, queue, number))
        self.assertEqual(await self.numbers(store), [1])

    async def test_settled_without_done(self) -> None:
        """Who need not know passes no ``done``."""
        store = self.store()
        await self.put(store, self.message(), self.message())
        store.queues.settle([Settle("r", "q", 1, ACKED)], None)
        self.assertEqual((await self.settle(store, 2, ACKED)).error, None)
        self.assertEqual(await self.numbers(store), [])

    async def test_retry(self) -> None:
        """A postponed message stays, with the time and the deliveries that were given."""
        store = self.store()
        await self.put(store, self.message(b"m"), self.message())
        await self.settle(store, 1, RETRY, deliveries=3, due_ms=self.now_ms + 500)
        item, other = await self.load(store)
        self.assertEqual((item.deliveries, item.due_ms, item.frame), (3, self.now_ms + 500, b"m"))
        self.assertEqual((other.deliveries, other.due_ms), (0, 0))

    async def test_dead_and_revived(self) -> None:
        """A dead message is apart, with its reason; revived it waits again under its number, with no deliveries."""
        store = self.store()
        await self.put(store, self.message(b"m", ordering_key="o", priority=2), self.message())
        self.assertEqual((await self.settle(store, 1, DEAD, deliveries=5, reason="too often")).error, None)
        self.assertEqual(await self.numbers(store), [2])
        (item,) = await self.load(store, dead=True)
        self.assertEqual((item.number, item.deliveries, item.reason, item.frame), (1, 5, "too often", b"m"))
        self.assertIsInstance((await self.settle(store, 1, ACKED)).error, NotFound)
        self.assertEqual((await self.settle(store, 1, REVIVED)).error, None)
        self.assertEqual(await self.numbers(store, dead=True), [])
        item, _ = await self.load(store)
        self.assertEqual((item.number, item.deliveries, item.reason, item.ordering_key), (1, 0, "", "o"))
        self.assertEqual((item.priority, item.frame), (2, b"m"))

    async def test_removed(self) -> None:
        """A dead message can be removed; one that waits cannot, that way."""
        store = self.store()
        await self.put(store, self.message(), self.message())
        self.assertIsInstance((await self.settle(store, 1, REMOVED)).error, NotFound)
        await self.settle(store, 1, DEAD)
        self.assertEqual((await self.settle(store, 1, REMOVED)).error, None)
        self.assertEqual(await self.numbers(store, dead=True), [])
        self.assertEqual(await self.numbers(store), [2])

    async def test_expiry(self) -> None:
        """An expired message is left out at once and removed later; the dead and the revived do not expire."""
        store = self.store()
        await self.put(store, *[self.message(expires_ms=self.now_ms + 10) for _ in range(3)], self.message())
        await self.settle(store, 1, DEAD)
        self.now_ms += 10
        self.assertEqual(await self.numbers(store), [4])
        self.assertEqual((await self.settle(store, 2, DEAD, reason="expired")).error, None)
        self.now_ms += 60_000
        await self.trimmed(store)
        self.assertEqual((await self.states(store))["r", "q"].waiting, 1)
        self.assertIsInstance((await self.settle(store, 3, ACKED)).error, NotFound)
        self.assertEqual(await self.numbers(store, dead=True), [1, 2])
        await self.settle(store, 1, REVIVED)
        await self.trimmed(store)
        self.assertEqual(await self.numbers(store), [1, 4])

    async def test_states(self) -> None:
        """All queues that hold something or are paused, with what they hold."""
        store = self.store()
        await self.put(store, *[self.message(bytes(10)) for _ in range(4)], self.message(queue="p", realm="s"))
        await self.put(store, self.message(queue="empty"))
        await self.settle(store, 1, ACKED, "empty")
        await self.settle(store, 1, ACKED)
        await self.settle(store, 3, DEAD)
        await self.ask(store, store.queues.pause, "r", "paused", True)
        self.assertEqual(
            await self.states(store),
            {
                ("r", "q"): QueueState("r", "q", 2, 1, 3 * (OVERHEAD_BYTES + 10), 2, 4),
                ("s", "p"): QueueState("s", "p", 1, 0, OVERHEAD_BYTES + 1, 1, 1),
                ("r", "paused"): QueueState("r", "paused", 0, 0, 0, 0, 0, True),
            },
        )

    async def test_pause(self) -> None:
        """A pause is kept until it is taken back; one of a queue that is not there makes none when taken back."""
        store = self.store(queues_max=1)
        self.assertEqual(await self.ask(store, store.queues.pause, "r", "none", False), None)
        await self.put(store, self.message())
        await self.ask(store, store.queues.pause, "r", "q", True)
        self.assertEqual((await self.states(store))["r", "q"].paused, True)
        await self.ask(store, store.queues.pause, "r", "q", False)
        self.assertEqual((await self.states(store))["r", "q"].paused, False)
        self.assertIsInstance(await self.ask(store, store.queues.pause, "r", "p", True), Full)

    async def test_purge(self) -> None:
        """A purge removes all that wait, or all dead ones, says how many, and numbers go on."""
        store = self.store()
        await self.put(store, *[self.message() for _ in range(6)])
        for number in (2, 3):
            await self.settle(store, number, DEAD)
        self.assertEqual(await self.ask(store, store.queues.purge, "r", "q", False), 4)
        self.assertEqual(await self.numbers(store), [])
        self.assertEqual(await self.numbers(store, dead=True), [2, 3])
        await self.settle(store, 3, REVIVED)
        self.assertEqual(await self.put(store, self.message()), [7])
        await self.trimmed(store)
        self.assertEqual(await self.numbers(store), [3, 7])
        self.assertEqual(await self.ask(store, store.queues.purge, "r", "q", True), 1)
        await self.trimmed(store)
        self.assertEqual(await self.numbers(store, dead=True), [])
        self.assertEqual(await self.ask(store, store.queues.purge, "r", "other", False), 0)
        self.assertEqual((await self.states(store))["r", "q"].waiting, 2)

    async def test_repeated_key(self) -> None:
        """Within its window a key gets the first one's number, also when that message is gone already."""
        store = self.store()
        until = self.now_ms + 1000
        await self.put(store, self.message(), self.message(key="k", key_until_ms=until))
        await self.settle(store, 2, ACKED)
        again = self.message(key="k", key_until_ms=until)
        self.assertEqual(await self.put(store, again), [2])
        self.assertEqual(again.repeated, True)
        self.assertEqual(await self.numbers(store), [1])
        self.now_ms += 1000
        self.assertEqual(await self.put(store, self.message(key="k", key_until_ms=self.now_ms + 9)), [3])

    async def test_queue_full(self) -> None:
        """``queue_bytes_max`` of a message is what its queue may hold, dead ones included."""
        store = self.store()
        limit = 2 * (OVERHEAD_BYTES + 50)
        batch = [self.message(bytes(50), queue_bytes_max=limit) for _ in range(3)]
        await self.ask(store, store.queues.put, batch)
        self.assertEqual([each.number for each in batch], [1, 2, 0])
        self.assertIsInstance(batch[2].error, Full)
        await self.settle(store, 1, DEAD)
        refused = self.message(bytes(50), queue_bytes_max=limit)
        await self.ask(store, store.queues.put, [refused])
        self.assertIsInstance(refused.error, Full)
        self.assertEqual(await self.put(store, self.message(bytes(50), "other", queue_bytes_max=limit)), [1])
        await self.settle(store, 2, ACKED)
        self.assertEqual(await self.put(store, self.message(bytes(50), queue_bytes_max=limit)), [3])

    async def test_realm_full(self) -> None:
        """Queues and histories of a realm share its limit."""
        store = self.store(realm_bytes_max=3 * (OVERHEAD_BYTES + 100))
        await self.append(store, self.publication(bytes(100)))
        batch = [self.message(bytes(100)) for _ in range(3)]
        await self.ask(store, store.queues.put, batch)
        self.assertEqual([each.number for each in batch], [1, 2, 0])
        self.assertIsInstance(batch[2].error, Full)
        await self.settle(store, 1, ACKED)
        self.assertEqual(await self.append(store, self.publication(bytes(100))), [2])

    async def test_queues_max(self) -> None:
        """A queue too many is refused."""
        store = self.store(queues_max=2)
        batch = [self.message(queue=each) for each in "abc"]
        await self.ask(store, store.queues.put, batch)
        self.assertEqual([type(each.error) for each in batch], [type(None), type(None), Full])

    async def test_empty_queues_forgotten(self) -> None:
        """Near ``queues_max`` empty queues are forgotten, but for paused ones and those with keys; no number is given
        twice."""
        store = self.store(queues_max=10)
        await self.put(store, *[self.message(queue=f"q{n % 8}") for n in range(24)], self.message(queue="full"))
        key: dict[str, Any] = {"key": "k", "key_until_ms": self.now_ms + 1000}
        await self.put(store, self.message(queue="keyed", **key))
        await self.settle(store, 1, ACKED, "keyed")
        for n in range(8):
            for number in (1, 2, 3):
                await self.settle(store, number, ACKED, f"q{n}")
        await self.ask(store, store.queues.pause, "r", "q0", True)
        refused = self.message(queue="new")
        await self.ask(store, store.queues.put, [refused])
        self.assertIsInstance(refused.error, Full)
        await self.trimmed(store)
        self.assertEqual(await self.put(store, self.message(queue="new"), self.message(queue="q3")), [4, 4])
        self.assertEqual(await self.put(store, self.message(queue="q0"), self.message(queue="full")), [4, 2])
        self.assertEqual(await self.put(store, self.message(queue="keyed", **key)), [1])
        self.assertEqual((await self.states(store))["r", "q0"].paused, True)

    async def test_completion_order(self) -> None:
        """Puts and settlements complete in the order of submission."""
        store = self.store()
        await self.put(store, *[self.message() for _ in range(20)])
        order: list[int] = []
        for n in range(20):
            store.queues.put([self.message(context=2 * n)], lambda batch: order.append(batch[0].context))
            settle = Settle("r", "q", n + 1, ACKED, context=2 * n + 1)
            store.queues.settle([settle], lambda batch: order.append(batch[0].context))
        waited = self.settled(store)
        if waited is not None:
            await waited
        self.assertEqual(order, list(range(40)))
        self.assertEqual(await self.numbers(store), list(range(21, 41)))


class PresenceContract(Contract):
    """``IPresence``."""

    async def test_presence_interface(self) -> None:
        """It is what it says."""
        verifyObject(IPresence, self.store().presence)

    async def test_last_seen(self) -> None:
        """The latest time of each user in each realm; 0 for who was never here."""
        store = self.store()
        store.presence.seen([("r", "u", 5), ("r", "v", 6), ("s", "u", 7), ("r", "u", 4)])
        for _ in range(2):
            for realm, user, at_ms in (("r", "u", 5), ("r", "v", 6), ("s", "u", 7), ("s", "v", 0), ("t", "u", 0)):
                self.assertEqual(await self.ask(store, store.presence.last_seen, realm, user), at_ms)
            await self.trimmed(store)
        store.presence.seen([("r", "u", 9)])
        await self.trimmed(store)
        self.assertEqual(await self.ask(store, store.presence.last_seen, "r", "u"), 9)

    async def test_users_max(self) -> None:
        """Of too many users of a realm those longest away are forgotten."""
        store = self.store(users_max=3)
        store.presence.seen([("r", f"u{n}", 100 + n) for n in range(5)] + [("s", "u", 1)])
        await self.trimmed(store)
        found = [await self.ask(store, store.presence.last_seen, "r", f"u{n}") for n in range(5)]
        self.assertEqual(found, [0, 0, 102, 103, 104])
        self.assertEqual(await self.ask(store, store.presence.last_seen, "s", "u"), 1)
