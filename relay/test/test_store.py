"""The stores: each against the contract, and what only one of them has."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import TestCase

from relay.config_store import Store
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


class MemoryQueueTests(InMemory, QueueContract, TestCase):
    """Queues in memory."""


class MemoryPresenceTests(InMemory, PresenceContract, TestCase):
    """Last-seen times in memory."""


class SqliteHistoryTests(HistoryContract, InFile):
    """Histories in a file."""


class SqliteQueueTests(QueueContract, InFile):
    """Queues in a file."""


class SqlitePresenceTests(PresenceContract, InFile):
    """Last-seen times in a file."""
