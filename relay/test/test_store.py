"""The stores: each against the contract, and what only one of them has."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from relay.config_store import Store
from relay.errors import Full
from relay.interfaces import IEventHistory
from relay.records import Append, Range, Retention
from relay.store.budget import OVERHEAD_BYTES
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from relay.test.store_contract import NOW_MS, HistoryContract
from relay.test.store_contract_queues import PresenceContract, QueueContract
from relay.wire import kinds
from relay.wire.binary import encode_frame
from relay.wire.message import Message, Sender

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


class KeptEventsTests(TestCase):
    """``keep``, beside its plain twin: ``append`` of the same event as a frame."""

    def test_interface(self) -> None:
        """It is what it says."""
        verifyObject(IEventHistory, MemoryStore(Store(), lambda: NOW_MS, os.urandom).history)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.integers(0, 120), st.integers(0, 40), st.booleans(), st.integers(0, 3)),
            max_size=120,
        ),
        st.builds(Retention, st.sampled_from([0, 1, 2, 20]), st.sampled_from([0, 500, 4000]), st.sampled_from([0, 60])),
        st.sampled_from([0, 3000]),
        st.sampled_from([1, 3000, 1 << 20]),
    )
    def test_twin(self, steps: Any, retention: Retention, realm_bytes_max: int, memory_bytes_max: int) -> None:
        """Whatever is published where and when, under whatever limits: the same offsets, refusals and pages, and in the
        end the same is counted."""
        self.now_ms = NOW_MS
        limits = Store(realm_bytes_max=realm_bytes_max, memory_bytes_max=memory_bytes_max)
        stores = [MemoryStore(limits, lambda: self.now_ms, lambda size: bytes(size)) for _ in range(2)]
        senders = [None, Sender("r", "u", "s", "", b"\x06\x00\x01u", b"")]
        for channel, size, later_ms, sent, look in steps:
            self.now_ms += later_ms
            event = Message(kinds.EVENT, channel, bytes(size), kinds.JSON, kinds.LATEST, 0, None, senders[sent])
            append = Append("r", channel, encode_frame(event), self.now_ms, retention)
            stores[0].history.append([append], lambda _: None)
            try:
                stores[1].history.keep("r", event, self.now_ms, retention)
            except Full:
                self.assertIsInstance(append.error, Full)
                self.assertIsNone(event.fields)
            else:
                self.assertEqual(event.fields, {kinds.OFFSET: append.offset, kinds.EPOCH: append.epoch})
            if not look:
                self._same(stores)
        self._same(stores)
        self.assertEqual(stores[0].budget.bytes, stores[1].budget.bytes)
        self.assertEqual(stores[0].budget.realms, stores[1].budget.realms)

    def _same(self, stores: list[MemoryStore]) -> None:
        for channel in "ab":
            pages: list[Any] = []
            for store in stores:
                store.history.read(Range("r", channel, limit=1000), pages.append)
            self.assertEqual(*pages)

    def test_slack_is_bounded(self) -> None:
        """What ``keep`` has not cut off yet is at most an eighth, and at most 64 publications and 64 KiB."""
        for retention, size, most in (
            (Retention(messages_max=16), 10, 18), (Retention(messages_max=2000), 10, 2064),
            (Retention(bytes_max=2000), 80, 2250 // 93), (Retention(bytes_max=1_000_000), 980, 1_065_536 // 993),
        ):  # fmt: skip
            store = MemoryStore(Store(), lambda: NOW_MS, os.urandom)
            held = []
            for _ in range(3 * most):
                store.history.keep("r", Message(kinds.EVENT, "c", bytes(size)), NOW_MS, retention)
                held.append(store.budget.bytes)
            self.assertLessEqual(max(held), (most + 1) * (size + 13 + OVERHEAD_BYTES))
            store.history.read(Range("r", "c", limit=1), lambda _: None)
            frames = store.budget.bytes // (size + 13 + OVERHEAD_BYTES)
            self.assertLessEqual(frames, retention.messages_max or retention.bytes_max // (size + 13))


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
