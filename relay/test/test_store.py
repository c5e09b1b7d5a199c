"""The stores: each against the contract, and what only one of them has."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import TestCase

from relay.config_store import Store
from relay.errors import Full
from relay.records import Retention
from relay.store.budget import OVERHEAD_BYTES
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from relay.test.store_contract import HistoryContract
from relay.test.store_contract_queues import PresenceContract, QueueContract

TRIMMED_TICKS = 70
"""Enough for what is looked at once in 60."""


class InMemory:
    """Makes stores in memory."""

    now_ms: int

    def store(self, **settings: Any) -> MemoryStore:
        """See ``store_contract``."""
        return MemoryStore(Store(**settings), lambda: self.now_ms, os.urandom)

    def settled(self, store: MemoryStore) -> None:
        """It is."""

    async def trimmed(self, store: MemoryStore) -> None:
        """See ``store_contract``."""
        for _ in range(3):
            store.sweep()


class InFile(TestCase):
    """Makes SQLite stores, without their threads."""

    now_ms: int

    def store(self, **settings: Any) -> SqliteStore:
        """See ``store_contract``."""
        self.path = os.path.join(self.mktemp(), "relay.db")
        return self.opened(**settings)

    def opened(self, **settings: Any) -> SqliteStore:
        """The store in ``self.path``."""
        store = SqliteStore(self.path, Store(**settings), lambda: self.now_ms, os.urandom, on_fatal=self.fail)
        store.open()
        store.writer._connection.execute("PRAGMA synchronous = OFF")  # what is waited for here is no disk
        self.addCleanup(store.stop)
        return store

    def settled(self, store: SqliteStore) -> None:
        """See ``store_contract``."""
        store.run_once()

    async def trimmed(self, store: SqliteStore) -> None:
        """See ``store_contract``."""
        for _ in range(TRIMMED_TICKS):
            store.tick()
            store.run_once()


class MemoryHistoryTests(InMemory, HistoryContract, TestCase):
    """Histories in memory."""

    async def test_memory_full(self) -> None:
        """At ``memory_bytes_max`` what is new is refused, but in channels that let go of something for it."""
        store = self.store(memory_bytes_max=4 * (OVERHEAD_BYTES + 100))
        few = Retention(messages_max=2)
        await self.append(store, *[self.publication(bytes(100), retention=few) for _ in range(5)])
        await self.append(store, *[self.publication(bytes(100), channel="d") for _ in range(2)])
        for refused in (self.publication(bytes(100), channel="d"), self.publication(bytes(100), channel="e")):
            await self.ask(store, store.history.append, [refused])
            self.assertIsInstance(refused.error, Full)
        put = self.message(bytes(100))
        await self.ask(store, store.queues.put, [put])
        self.assertIsInstance(put.error, Full)
        self.assertEqual(await self.append(store, self.publication(bytes(100), retention=few)), [6])
        await self.ask(store, store.history.purge, "r", "d")
        self.assertEqual(await self.append(store, self.publication(bytes(100), channel="e")), [1])


class MemoryQueueTests(InMemory, QueueContract, TestCase):
    """Queues in memory."""


class MemoryPresenceTests(InMemory, PresenceContract, TestCase):
    """Last-seen times in memory."""


class SqliteHistoryTests(HistoryContract, InFile):
    """Histories in a file."""

    async def test_commit_messages_max(self) -> None:
        """A commit takes so many messages, at least one batch; the others wait for the next."""
        store = self.store(commit_messages_max=10)
        commits = store.writer.counters.commits
        batches = [[self.publication() for _ in range(count)] for count in (4, 6, 1, 30, 1)]
        for batch in batches:
            store.history.append(batch, lambda _: None)
        store.run_once()
        self.assertEqual(store.writer.counters.commits - commits, 4)
        self.assertEqual([each.offset for batch in batches for each in batch], list(range(1, 43)))


class SqliteQueueTests(QueueContract, InFile):
    """Queues in a file."""


class SqlitePresenceTests(PresenceContract, InFile):
    """Last-seen times in a file."""
