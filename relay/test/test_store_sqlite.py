"""What only a store in a file can do: come back after a restart, be full, be damaged, be of an earlier version."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relay.config_store import Store
from relay.errors import ConfigError, Full, InternalError, Unavailable
from relay.records import ACKED, DEAD, RETRY, Append, Put, Retention, Settle
from relay.store.budget import OVERHEAD_BYTES
from relay.store.sqlite import SqliteStore
from relay.store.sqlite_file import EXIT_STATUS_FATAL
from relay.store.sqlite_rows import ROWS_MAX, Rows
from relay.store.sqlite_schema import APPLICATION_ID, VERSION
from relay.test.store_contract import Contract
from relay.test.test_store import InFile

SCHEMA_1 = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = 1;
CREATE TABLE realms (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE channel_names (realm INTEGER NOT NULL, name TEXT NOT NULL, channel INTEGER NOT NULL,
    PRIMARY KEY (realm, name)) WITHOUT ROWID;
CREATE UNIQUE INDEX channel_numbers ON channel_names (realm, channel);
CREATE TABLE channels (realm INTEGER NOT NULL, channel INTEGER NOT NULL, epoch TEXT NOT NULL,
    messages_max INTEGER NOT NULL, bytes_max INTEGER NOT NULL, age_ms_max INTEGER NOT NULL,
    PRIMARY KEY (realm, channel)) WITHOUT ROWID;
CREATE TABLE publications (realm INTEGER NOT NULL, channel INTEGER NOT NULL, offset INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, frame BLOB NOT NULL,
    PRIMARY KEY (realm, channel, offset)) WITHOUT ROWID;
CREATE INDEX publications_expiring ON publications (expires_ms) WHERE expires_ms > 0;
CREATE TABLE queue_names (realm INTEGER NOT NULL, name TEXT NOT NULL, queue INTEGER NOT NULL,
    PRIMARY KEY (realm, name)) WITHOUT ROWID;
CREATE TABLE queues (realm INTEGER NOT NULL, queue INTEGER NOT NULL, last INTEGER NOT NULL, waiting INTEGER NOT NULL,
    waiting_bytes INTEGER NOT NULL, dead INTEGER NOT NULL, dead_bytes INTEGER NOT NULL, generation INTEGER NOT NULL,
    dead_generation INTEGER NOT NULL, paused INTEGER NOT NULL, PRIMARY KEY (realm, queue)) WITHOUT ROWID;
CREATE TABLE messages (realm INTEGER NOT NULL, queue INTEGER NOT NULL, generation INTEGER NOT NULL,
    number INTEGER NOT NULL, at_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    priority INTEGER NOT NULL, deliveries INTEGER NOT NULL, ordering_key TEXT NOT NULL, frame BLOB NOT NULL,
    PRIMARY KEY (realm, queue, generation, number)) WITHOUT ROWID;
CREATE INDEX messages_expiring ON messages (expires_ms) WHERE expires_ms > 0;
CREATE TABLE dead (realm INTEGER NOT NULL, queue INTEGER NOT NULL, generation INTEGER NOT NULL,
    number INTEGER NOT NULL, at_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    priority INTEGER NOT NULL, deliveries INTEGER NOT NULL, ordering_key TEXT NOT NULL, frame BLOB NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY (realm, queue, generation, number)) WITHOUT ROWID;
CREATE TABLE keys (realm INTEGER NOT NULL, owner INTEGER NOT NULL, key TEXT NOT NULL, place INTEGER NOT NULL,
    until_ms INTEGER NOT NULL, PRIMARY KEY (realm, owner, key)) WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (until_ms);
CREATE TABLE users (realm INTEGER NOT NULL, user TEXT NOT NULL, seen_ms INTEGER NOT NULL,
    PRIMARY KEY (realm, user)) WITHOUT ROWID;
CREATE INDEX users_by_age ON users (realm, seen_ms);
CREATE TABLE garbage (realm INTEGER NOT NULL, kind TEXT NOT NULL, owner INTEGER NOT NULL, generation INTEGER NOT NULL,
    PRIMARY KEY (realm, kind, owner)) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('number', 5);
INSERT INTO realms VALUES (1, 'r');
INSERT INTO channel_names VALUES (1, 'c', 2), (1, 'gone', 3);
INSERT INTO channels VALUES (1, 2, 'first epoch', 100, 0, 0), (1, 3, 'other epoch', 1, 0, 0);
INSERT INTO publications VALUES (1, 2, 7, 1000, 0, x'61'), (1, 2, 8, 2000, 0, x'626263');
INSERT INTO queue_names VALUES (1, 'q', 4);
INSERT INTO queues VALUES (1, 4, 3, 1, 129, 0, 0, 1, 1, 0);
INSERT INTO messages VALUES (1, 4, 1, 3, 1000, 0, 0, 1, 2, '', x'6d');
"""
CHILD = """
import os, sqlite3, sys
from twisted.internet import reactor
from relay.config_store import Store
from relay.records import Append, Retention
from relay.store.sqlite import SqliteStore
from relay.test.test_store_sqlite import Faulty, io_error
sqlite3.connect, real = (lambda *a, **k: real(*a, factory=Faulty, **k)), sqlite3.connect
store = SqliteStore(sys.argv[1], Store(), lambda: 1, os.urandom)
store.open()
store.start(reactor.callFromThread)
def told(batch):
    print("told", batch[0].error, flush=True)
def go():
    Faulty.fault = io_error
    store.history.append([Append("r", "c", b"x", 1, Retention())], told)
reactor.callWhenRunning(go)
reactor.run()
"""


class Faulty(sqlite3.Connection):
    """A connection of which ``fault`` sees every statement first, and may raise."""

    fault: Callable[[str], None] | None = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """As sqlite3's."""
        fault = Faulty.fault
        if fault is not None:
            fault(sql)
        return super().execute(sql, *parameters)


def error_with(code: int, message: str) -> sqlite3.OperationalError:
    """An error as sqlite3 raises it."""
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def io_error(sql: str) -> None:
    """A commit whose sync fails."""
    if sql == "COMMIT":
        raise error_with(sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error")


class FileCase(Contract, InFile):
    """Stores in files, opened again and again."""

    def restarted(self, store: SqliteStore, **settings: Any) -> SqliteStore:
        """The same file in another store."""
        store.stop()
        return self.opened(**settings)

    def write(self, data: bytes) -> None:
        """Make this the file."""
        Path(self.path).write_bytes(data)

    def faulty(self) -> None:
        """From now on connections have faults."""
        real = sqlite3.connect
        self.patch(sqlite3, "connect", lambda *args, **named: real(*args, factory=Faulty, **named))
        self.addCleanup(setattr, Faulty, "fault", None)


class RestartTests(FileCase):
    """What was acknowledged is there again."""

    async def test_history(self) -> None:
        """Publications, epoch, last value and keys survive, and offsets go on."""
        store = self.store()
        fields: dict[str, Any] = {"key": "k", "key_until_ms": self.now_ms + 1000, "retained": True}
        await self.append(store, *[self.publication(b"%d" % n) for n in range(5)], self.publication(**fields))
        before = await self.page(store)
        store = self.restarted(store)
        self.assertEqual(await self.page(store), before)
        self.assertEqual(await self.append(store, self.publication(**fields), self.publication()), [6, 7])

    async def test_offsets_after_trimming(self) -> None:
        """Offsets go on after a restart when everything was trimmed, or has expired, before it."""
        store = self.store()
        await self.append(store, self.publication(retention=Retention(age_ms_max=5)))
        await self.append(store, self.publication(channel="d", expires_ms=self.now_ms + 5))
        await self.append(store, self.publication(bytes(9), channel="e", retention=Retention(bytes_max=2)))
        self.now_ms += 1000
        await self.trimmed(store)
        count = "SELECT count(*) FROM publications"
        self.assertEqual(store.writer._connection.execute(count).fetchone(), (0,))
        store = self.restarted(store)
        for channel in "cde":
            self.assertEqual(await self.append(store, self.publication(channel=channel)), [2])

    async def test_queues(self) -> None:
        """Messages, the dead, pauses and numbers survive; settled ones do not come back."""
        store = self.store()
        await self.put(store, *[self.message(b"%d" % n) for n in range(4)])
        await self.settle(store, 4, ACKED)
        await self.settle(store, 2, DEAD, reason="why")
        await self.settle(store, 1, RETRY, deliveries=2, due_ms=5)
        await self.ask(store, store.queues.pause, "r", "q", True)
        before = await self.load(store), await self.load(store, dead=True), await self.states(store)
        store = self.restarted(store)
        self.assertEqual((await self.load(store), await self.load(store, dead=True), await self.states(store)), before)
        self.assertEqual(await self.put(store, self.message()), [5])

    async def test_budget(self) -> None:
        """What a realm holds is counted again at the start."""
        store = self.store()
        await self.append(store, *[self.publication(bytes(10), retained=True) for _ in range(3)])
        await self.put(store, *[self.message(bytes(10)) for _ in range(3)], self.message(realm="s"))
        await self.settle(store, 2, DEAD)
        held = dict(store.writer.budget.realms)
        self.assertEqual(held, {"r": 7 * (OVERHEAD_BYTES + 10), "s": OVERHEAD_BYTES + 1})
        store = self.restarted(store)
        self.assertEqual(store.writer.budget.realms, held)

    async def test_purge_of_much(self) -> None:
        """What a purge left for trimming does not come back after a restart, and goes in steps."""
        store = self.store(trim_rows=10)
        await self.append(store, *[self.publication() for _ in range(35)])
        await self.put(store, *[self.message() for _ in range(35)])
        await self.ask(store, store.history.purge, "r", "c")
        await self.ask(store, store.queues.purge, "r", "q", False)
        store = self.restarted(store, trim_rows=10)
        self.assertEqual((await self.page(store)).last, 0)
        self.assertEqual(await self.numbers(store), [])
        rows = "SELECT (SELECT count(*) FROM publications) + (SELECT count(*) FROM messages)"
        execute = store.writer._connection.execute
        left = [execute(rows).fetchone()[0]]
        store.tick()
        while store.has_work():
            store.writer.run(store.take())
            left.append(execute(rows).fetchone()[0])
        self.assertEqual((left[0], left[-1]), (70, 0))
        self.assertTrue(all(0 <= before - after <= 10 for before, after in pairwise(left)), left)


class FullTests(FileCase):
    """No room."""

    async def test_file_limit(self) -> None:
        """At the limit of the file what is new is refused; settling makes room, without a restart."""
        store = self.store(file_bytes_max=1_048_576)
        numbers: list[int] = []
        refused: list[Put] = []
        while not refused:
            batch = [self.message(bytes(5000)) for _ in range(20)]
            await self.ask(store, store.queues.put, batch)
            refused = [each for each in batch if each.error is not None]
            numbers += [each.number for each in batch if each.error is None]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        self.assertIsInstance(refused[0].error, Full)
        self.assertTrue(0.9 < store.writer.room.used_bytes / 1_048_576 < 1.1, store.writer.room.used_bytes)
        publication = self.publication(bytes(5000))
        await self.ask(store, store.history.append, [publication])
        self.assertIsInstance(publication.error, Full)
        settled = [Settle("r", "q", number, ACKED) for number in numbers[:50]]
        await self.ask(store, store.queues.settle, settled)
        self.assertEqual({each.error for each in settled}, {None})
        self.assertEqual(await self.put(store, self.message(bytes(5000))), [len(numbers) + 1])

    async def test_disk_full(self) -> None:
        """A transaction that the disk has no room for gives no offsets; what makes room is done all the same."""
        self.faulty()
        store = self.store()
        await self.append(store, self.publication())
        await self.put(store, self.message())

        def full(sql: str) -> None:
            if sql.startswith("INSERT INTO publications"):
                raise error_with(sqlite3.SQLITE_FULL, "database or disk is full")

        Faulty.fault = full
        batch = [self.publication(), self.publication(channel="new", key="k", key_until_ms=self.now_ms + 99)]
        answers: list[Any] = []
        store.history.append(batch, answers.append)
        store.queues.settle([Settle("r", "q", 1, ACKED)], answers.append)
        store.run_once()
        self.assertEqual([type(each.error) for each in batch], [Full, Full])
        told = [(each.error.temporary, each.error.outcome) for each in batch if each.error is not None]
        self.assertEqual(told, [(True, "not_done")] * 2)
        self.assertEqual([each.offset for each in batch], [0, 0])
        self.assertEqual(answers[1][0].error, None)
        self.assertEqual(await self.numbers(store), [])
        self.assertEqual([store.figures()[name] for name in ("refusals", "full", "waiting_bytes")], [1, 1, 0])
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        Faulty.fault = None
        again = [self.publication(), self.publication(channel="new", key="k", key_until_ms=self.now_ms + 99)]
        self.assertEqual(await self.append(store, *again), [2, 1])
        self.assertEqual([each.repeated for each in again], [False, False])
        self.assertEqual([store.figures()[name] for name in ("full", "messages")], [0, 7])
        held = dict(store.writer.budget.realms)
        self.assertEqual(self.restarted(store).writer.budget.realms, held)

    async def test_disk_full_at_commit(self) -> None:
        """Also when only the commit finds it, and when nothing at all can be written."""
        self.faulty()
        store = self.store()
        await self.append(store, self.publication())

        def full(sql: str) -> None:
            if sql == "COMMIT":
                raise error_with(sqlite3.SQLITE_FULL, "database or disk is full")

        Faulty.fault = full
        append, put, settle = self.publication(), self.message(), Settle("r", "q", 1, ACKED)
        store.history.append([append], lambda _: None)
        store.queues.put([put], lambda _: None)
        store.queues.settle([settle], None)
        purged: list[Any] = []
        store.history.purge("r", "c", purged.append)
        store.run_once()
        self.assertEqual([type(each) for each in (append.error, put.error, settle.error, *purged)], [Full] * 4)
        Faulty.fault = None
        self.assertEqual(await self.append(store, self.publication()), [2])

    async def test_busy(self) -> None:
        """While another program holds the file, nothing is stored, temporarily."""
        self.faulty()
        store = self.store()

        def busy(sql: str) -> None:
            if sql == "BEGIN IMMEDIATE":
                raise error_with(sqlite3.SQLITE_BUSY, "database is locked")

        Faulty.fault = busy
        append = self.publication()
        await self.ask(store, store.history.append, [append])
        self.assertIsInstance(append.error, Unavailable)
        Faulty.fault = None
        self.assertEqual(await self.append(store, self.publication()), [1])

    async def test_unfit(self) -> None:
        """A number that no file takes costs its own batch and no other."""
        store = self.store()
        batches = [
            [self.publication()],
            [self.publication(), self.publication(expires_ms=2**64)],
            [self.publication()],
        ]
        for batch in batches:
            store.history.append(batch, lambda _: None)
        settle = Settle("r", "q", 2**64, ACKED)
        await self.put(store, self.message())
        await self.ask(store, store.queues.settle, [settle])
        self.assertEqual([each.offset for batch in batches for each in batch], [1, 0, 0, 2])
        error = batches[1][0].error
        self.assertIsInstance(error, InternalError)
        assert error is not None
        self.assertEqual(error.outcome, "not_done")
        self.assertIsInstance(settle.error, InternalError)
        self.assertEqual(await self.numbers(store, after=2**64), [])

    async def test_waiting_bytes(self) -> None:
        """What is over ``waiting_bytes_max`` is refused in its turn, as long as not too much of that waits, too."""
        store = self.store(waiting_bytes_max=1000)
        order: list[int] = []
        batches = [[self.publication(bytes(400), context=n)] for n in range(5)]
        for batch in batches:
            store.history.append(batch, lambda batch: order.append(batch[0].context))
        self.assertEqual(order, [2, 3, 4])
        store.run_once()
        self.assertEqual(order, [2, 3, 4, 0, 1])
        self.assertEqual([type(batch[0].error) for batch in batches], [type(None), Full, Full, Full, Full])
        self.assertEqual(await self.append(store, self.publication(bytes(2000))), [2])


class FatalTests(FileCase):
    """What cannot be trusted any more."""

    def test_end_of_process(self) -> None:
        """After a sync that failed the process is gone, with status 70 and one line; nobody was told anything."""
        path = os.path.join(self.mktemp(), "relay.db")
        found = subprocess.run(
            [sys.executable, "-c", CHILD, path], capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
        self.assertEqual((found.returncode, found.stdout), (EXIT_STATUS_FATAL, ""))
        self.assertRegex(found.stderr, r"\Arelay: fatal: store: .*disk I/O error\n\Z")

    def test_on_fatal(self) -> None:
        """Whoever chose not to end the process: what was under way is unknown, what comes later is refused."""
        self.faulty()
        path = os.path.join(self.mktemp(), "relay.db")
        errors: list[BaseException] = []
        store = SqliteStore(path, Store(), lambda: self.now_ms, os.urandom, on_fatal=errors.append)
        store.open()
        store.start(reactor.callFromThread)  # type: ignore[attr-defined]  # the reactor is a module to mypy
        Faulty.fault = io_error
        told: Deferred[Any] = Deferred()
        store.history.append([self.publication()], told.callback)

        def check(batch: list[Append]) -> Deferred[None]:
            error = batch[0].error
            self.assertIsInstance(error, Unavailable)
            assert error is not None
            self.assertEqual((error.outcome, len(errors)), ("unknown", 1))
            later = self.publication()
            store.history.append([later], lambda _: None)
            self.assertIsInstance(later.error, Unavailable)
            assert later.error is not None
            self.assertEqual(later.error.outcome, "not_done")
            return store.stop()

        return told.addCallback(check)  # type: ignore[return-value]  # trial waits for it


class OpenTests(FileCase):
    """The file at the start."""

    def refused(self, pattern: str, **settings: Any) -> None:
        """It is, with one line."""
        error = self.assertRaises(ConfigError, self.opened, **settings)
        self.assertRegex(str(error), pattern)
        self.assertNotIn("\n", str(error))

    async def test_in_use(self) -> None:
        """A second store on the same file is refused, until the first is closed."""
        store = self.store()
        self.refused("relay.db is in use by another process$")
        self.restarted(store)

    async def test_garbage(self) -> None:
        """A file that is no database is refused."""
        self.path = os.path.join(self.mktemp())
        self.write(b"garbage " * 1000)
        self.refused(r"is damaged \(file is not a database\): see `relay store check`")

    def content(self) -> bytes:
        """The file."""
        return Path(self.path).read_bytes()

    async def test_damaged(self) -> None:
        """A file with a broken page is refused, whichever page it is."""
        store = self.store()
        await self.append(store, *[self.publication(bytes(300), f"c{n}") for n in range(200)])
        await self.put(store, *[self.message(bytes(300), f"q{n}") for n in range(200)])
        store.stop()
        sound = self.content()
        for page in range(2, len(sound) // 4096, 5):
            damaged = bytearray(sound)
            damaged[page * 4096 : page * 4096 + 100] = b"\xa5" * 100
            self.write(bytes(damaged))
            self.refused(r"is damaged \(")
        self.write(sound[: len(sound) // 2])
        self.refused(r"is damaged \(")
        self.write(sound)
        self.assertEqual(await self.append(self.opened(), self.publication(channel="c7")), [2])

    async def test_other_database(self) -> None:
        """A database that is no store, or of a later version, or without a table, is refused and left alone."""
        self.path = self.mktemp()
        with sqlite3.connect(self.path) as connection:
            connection.execute("CREATE TABLE something (x)")
        self.refused("is not a relay store$")
        store = self.store()
        store.stop()
        with sqlite3.connect(self.path) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        self.refused(f"is of version {VERSION + 1}, made by a later relay; this one knows up to {VERSION}$")
        with sqlite3.connect(self.path) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("DROP TABLE keys")
        self.refused(r"is damaged \(without table keys\)")

    async def test_migration(self) -> None:
        """A file of version 1 becomes one of this version, with everything in it."""
        self.path = self.mktemp()
        connection = sqlite3.connect(self.path)
        connection.executescript(SCHEMA_1)
        connection.close()
        store = self.opened()
        page = await self.page(store)
        self.assertEqual((page.epoch, page.first, page.last), ("first epoch", 7, 8))
        self.assertEqual([each.frame for each in page.publications], [b"a", b"bbc"])
        self.assertEqual(await self.append(store, self.publication(b"", retained=True)), [9])
        self.assertEqual(await self.append(store, self.publication(channel="gone")), [1])
        self.assertNotIn((await self.page(store, "gone")).epoch, ("", "other epoch"))
        (item,) = await self.load(store)
        self.assertEqual((item.number, item.deliveries, item.frame), (3, 2, b"m"))
        self.assertEqual(await self.put(store, self.message()), [4])
        fresh = self.schema(self.path)
        self.store()
        self.assertEqual(fresh, self.schema(self.path))

    def schema(self, path: str) -> set[tuple[str, str]]:
        """Tables, indexes and their columns."""
        found = set()
        connection = sqlite3.connect(path)
        for name, kind in connection.execute("SELECT name, type FROM sqlite_master").fetchall():
            pragma = "table_info" if kind == "table" else "index_info"
            found.add((name, repr(connection.execute(f"PRAGMA {pragma}({name})").fetchall())))
        connection.close()
        return found

    async def test_settings(self) -> None:
        """Commits are synced, in the log's mode; the file is for its owner only."""
        store = self.store()
        store.stop()
        store = SqliteStore(self.path, Store(), lambda: self.now_ms, os.urandom)
        store.open()
        self.addCleanup(store.stop)
        execute = store.writer._connection.execute
        self.assertEqual(execute("PRAGMA journal_mode").fetchone(), ("wal",))
        self.assertEqual(execute("PRAGMA synchronous").fetchone(), (2,))
        self.assertEqual(os.stat(self.path).st_mode & 0o077, 0)


class RowsTests(TestCase):
    """Many rows with few steps."""

    def test_any_number(self) -> None:
        """Any number of rows goes in, in their order."""
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        self.addCleanup(connection.close)
        write = Rows("INSERT INTO t VALUES {rows}", 2)
        read = Rows("WITH w (a) AS (VALUES {rows}) SELECT group_concat((SELECT b FROM t WHERE t.a = w.a)) FROM w", 1)
        for count in (0, 1, 2, 3, 7, 64, ROWS_MAX - 1, ROWS_MAX, ROWS_MAX + 1, 3 * ROWS_MAX + 5):
            connection.execute("DELETE FROM t")
            rows = [(n, n * n) for n in range(count)]
            write.run(connection, rows)
            self.assertEqual(connection.execute("SELECT a, b FROM t ORDER BY a").fetchall(), rows)
            backwards = [(n,) for n in reversed(range(count))]
            self.assertEqual(read.texts(connection, backwards), [str(n * n) for (n,) in backwards])
