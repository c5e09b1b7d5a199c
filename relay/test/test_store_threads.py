"""The stores of a node: the SQLite store with its threads on the reactor, and which store is made when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relay.config_store import Store
from relay.errors import ConfigError, Unavailable
from relay.records import ACKED, Range, Retention, Settle
from relay.store import sqlite
from relay.store.sqlite import SqliteStore
from relay.store.stores import Stores
from relay.test.store_contract import Contract


class ThreadTests(Contract, TestCase):
    """With the threads, on the reactor."""

    def stores(self, **settings: Any) -> Stores:
        """The stores of a node, not yet started."""
        self.directory = self.mktemp()
        stores = Stores(Store(**settings), self.directory, reactor, lambda: self.now_ms / 1000)
        self.addCleanup(stores.stop)
        return stores

    async def test_group_commit(self) -> None:
        """What comes during a commit goes into the next one; all complete in order, after their commit."""
        stores = self.stores()
        history = stores.history_durable
        stores.start()
        order: list[int] = []
        last: Deferred[None] = Deferred()

        def done(batch: Any) -> None:
            order.append(batch[0].offset)
            if len(order) == 3000:
                last.callback(None)

        for _ in range(3000):
            history.append([self.publication()], done)
        await last
        self.assertEqual(order, list(range(1, 3001)))
        assert stores._sqlite is not None
        self.assertTrue(stores._sqlite.writer.counters.commits < 300)

    async def test_concurrent(self) -> None:
        """Appends, puts, settlements and reads all at once, while the log is copied, with nothing lost."""
        stores = self.stores(wal_bytes=65_536, trim_interval_s=0.01)
        history, queues, presence = stores.history_durable, stores.queue_store, stores.presence
        stores.start()
        ends: list[Deferred[Any]] = []

        def ask(method: Callable[..., None], *arguments: Any) -> Deferred[Any]:
            answer: Deferred[Any] = Deferred()
            method(*arguments, answer.callback)
            return answer

        def settle(batch: Any) -> Deferred[Any]:
            presence.seen([("r", f"u{each.number}", each.number) for each in batch])
            return ask(queues.settle, [Settle("r", each.queue, each.number, ACKED) for each in batch])

        for n in range(200):
            ends.append(ask(history.append, [self.publication(bytes(500), f"c{n % 7}") for _ in range(10)]))
            ends.append(ask(queues.put, [self.message(bytes(200), f"q{n % 5}") for _ in range(10)]).addCallback(settle))
            ends.append(ask(history.read, Range("r", f"c{n % 7}", limit=1000)))
        results = await gatherResults(ends)
        for page in results[2::3]:
            offsets = [each.offset for each in page.publications]
            self.assertEqual(offsets, list(range(1, len(offsets) + 1)))
        self.assertEqual([each.error for batch in results[1::3] for each in batch], [None] * 2000)
        pages = await gatherResults([ask(history.read, Range("r", f"c{n}", limit=1000)) for n in range(7)])
        self.assertEqual(sum(len(page.publications) for page in pages), 2000)
        self.assertEqual(await ask(queues.states), [])
        await stores.stop()
        self.assertEqual(sorted(os.listdir(self.directory)), ["relay.db", "relay.db.lock"])

    async def test_stop_writes(self) -> None:
        """What was submitted before the stop is stored; what comes after it is refused, and so are questions."""
        stores = self.stores()
        history, queues, presence = stores.history_durable, stores.queue_store, stores.presence
        stores.start()
        answers: list[Any] = []
        for _ in range(100):
            history.append([self.publication()], answers.append)
        presence.seen([("r", "u", 5)])
        stopped = stores.stop()
        late = self.publication()
        history.append([late], lambda _: None)
        self.assertIsInstance(late.error, Unavailable)
        states: list[Any] = []
        queues.states(states.append)
        self.assertIsInstance(states[0], Unavailable)
        await stopped
        self.assertEqual([batch[0].offset for batch in answers], list(range(1, 101)))
        again = SqliteStore(os.path.join(self.directory, "relay.db"), Store(), lambda: self.now_ms, os.urandom)
        again.open()
        self.addCleanup(again.stop)
        self.assertEqual(again.reader.read(Range("r", "c", limit=1)).last, 100)
        self.assertEqual(again.reader.last_seen("r", "u"), 5)

    async def test_full_is_told_once(self) -> None:
        """While a disk has room for small things only, that is said once; and once that there is room for all."""
        told: list[str] = []
        self.patch(sqlite.log, "error", lambda text, **_: told.append("full"))
        self.patch(sqlite.log, "info", lambda text, **_: told.append("room"))
        store = SqliteStore(os.path.join(self.mktemp(), "relay.db"), Store(), lambda: self.now_ms, os.urandom)
        store.open()
        self.addCleanup(store.stop)
        for _ in range(4):
            store.writer.full = "the disk is full"
            store.writer.counters.full += 1
            store.complete([])
            store.writer.full = ""
            store.complete([])
            store.tick()
        self.assertEqual(told, ["full"])
        store.tick()
        store.tick()
        self.assertEqual(told, ["full", "room"])

    def log_bytes(self) -> int:
        """How large the log is."""
        return os.path.getsize(os.path.join(self.directory, "relay.db-wal"))

    async def test_log_bounded(self) -> None:
        """The log is copied into the file while publications go on, and does not grow without end."""
        stores = self.stores(wal_bytes=65_536)
        history = stores.history_durable
        stores.start()
        sizes = []
        for _ in range(150):
            answer: Deferred[Any] = Deferred()
            history.append([self.publication(bytes(20_000)) for _ in range(5)], answer.callback)
            await answer
            sizes.append(self.log_bytes())
        self.assertTrue(max(sizes) < 5_000_000, max(sizes))

    async def test_nothing_durable(self) -> None:
        """A node that asks for nothing durable opens no file."""
        stores = self.stores()
        self.assertTrue(stores.history_memory)
        stores.start()
        await stores.stop()
        self.assertFalse(self.made())

    def made(self) -> bool:
        """Whether the directory is there."""
        return os.path.exists(self.directory)

    def garbage(self) -> Path:
        """A file that is no store, where the store would be."""
        os.makedirs(self.directory)
        path = Path(self.directory, "relay.db")
        path.write_bytes(b"garbage " * 1000)
        return path

    def refused(self, stores: Stores) -> None:
        """The queue store cannot be had."""
        with self.assertRaises(ConfigError):
            stores.queue_store  # noqa: B018 - what it does is looked at

    async def test_first_asked_later(self) -> None:
        """What is asked for after the start is opened at once; what is refused then is told to whoever asks."""
        stores = self.stores()
        stores.start()
        path = self.garbage()
        self.refused(stores)
        os.remove(path)
        answer: Deferred[Any] = Deferred()
        stores.queue_store.put([self.message()], answer.callback)
        self.assertEqual((await answer)[0].number, 1)

    async def test_memory_for_all(self) -> None:
        """With ``kind: memory`` everything is in memory, and trimmed once in a while."""
        clock = Clock()
        stores = Stores(Store(kind="memory"), self.mktemp(), clock, lambda: self.now_ms / 1000)
        history = stores.history_durable
        self.assertTrue(stores.history_memory is history)
        stores.start()
        history.append([self.publication(retention=Retention(age_ms_max=1))], lambda _: None)
        self.now_ms += 10_000
        assert stores._memory is not None
        self.assertTrue(stores._memory.budget.bytes)
        clock.pump([1.0, 1.0])
        self.assertEqual(stores._memory.budget.bytes, 0)
        await stores.stop()
