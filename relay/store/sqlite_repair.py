"""Makes a store that a node can start from out of one that it refuses.

::

    structure sound ─▶ count again, in place
    damaged ─────────▶ copy what can be read into a new file, count, put it in the old one's place; the old one is kept
                       as ``….damaged``, ``….damaged-2`` …

What was on a damaged page is lost. Nobody can tell which publications those were, so after a copy every channel begins
another epoch: whoever resumes is told that the history is not the one it knew, and nobody is told that nothing is
missing. Numbers of queues go on well above the highest that was found. Names that were lost are ``recovered.N``.
"""

from __future__ import annotations

import os
import os.path
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from relay.errors import ConfigError
from relay.store.budget import OVERHEAD_BYTES
from relay.store.files import OsFiles
from relay.store.sqlite_check import CACHE_BYTES, look, opened
from relay.store.sqlite_file import LOCK_SUFFIX, connect, is_full, prepare
from relay.store.sqlite_names import EPOCH_BYTES
from relay.store.sqlite_schema import FORGOTTEN

NEW_SUFFIX: Final = ".repaired"
DAMAGED_SUFFIX: Final = ".damaged"
NUMBERS_SKIPPED: Final = 1_000_000
"""A queue whose highest number may be lost goes on so much higher: more than it gave since what was found."""
ROWS_AT_ONCE: Final = 1000

_KEYS: Final = {
    "realms": "id",
    "channel_names": "realm, name",
    "channels": "realm, channel",
    "retained": "realm, channel",
    "queue_names": "realm, name",
    "queues": "realm, queue",
    "keys": "realm, owner, key",
    "users": "realm, user",
    "garbage": "realm, kind, owner",
    "counters": "name",
    "publications": "id",
    "messages": "id",
    "dead": "id",
}
_OWNED: Final = {
    "publications": ("channel", "channel_names", "offset"),
    "messages": ("queue", "queue_names", "generation, number"),
    "dead": ("queue", "queue_names", "generation, number"),
}
"""Large tables, read a second time for each owner by itself: what the one index cannot reach the other may."""

RECOUNT: Final = f"""
INSERT OR IGNORE INTO realms SELECT realm, 'recovered.' || realm FROM (
    SELECT realm FROM publications UNION SELECT realm FROM messages UNION SELECT realm FROM dead
    UNION SELECT realm FROM channel_names UNION SELECT realm FROM queue_names);
DELETE FROM channel_names WHERE NOT EXISTS (SELECT 1 FROM channels c WHERE c.realm = channel_names.realm
    AND c.channel = channel_names.channel) AND NOT EXISTS (SELECT 1 FROM publications p
    WHERE p.realm = channel_names.realm AND p.channel = channel_names.channel);
INSERT OR IGNORE INTO channels SELECT realm, channel, '', 0, 0, 0, 0, 0, 0, 0, 0 FROM (
    SELECT DISTINCT realm, channel FROM publications p WHERE NOT EXISTS (SELECT 1 FROM garbage g
    WHERE g.realm = p.realm AND g.kind = 'publications' AND g.owner = p.channel));
INSERT OR IGNORE INTO channel_names SELECT realm, 'recovered.' || channel, channel FROM channels c
    WHERE NOT EXISTS (SELECT 1 FROM channel_names n WHERE n.realm = c.realm AND n.channel = c.channel);
UPDATE channels SET
    kept = (SELECT count(*) FROM publications p WHERE p.realm = channels.realm AND p.channel = channels.channel),
    bytes = ifnull((SELECT sum(length(frame)) FROM publications p WHERE p.realm = channels.realm
        AND p.channel = channels.channel), 0),
    retained_bytes = ifnull((SELECT length(frame) + {OVERHEAD_BYTES} FROM retained r WHERE r.realm = channels.realm
        AND r.channel = channels.channel), 0),
    last = max(last, ifnull((SELECT max(offset) FROM publications p WHERE p.realm = channels.realm
        AND p.channel = channels.channel), 0));
DELETE FROM retained WHERE NOT EXISTS (SELECT 1 FROM channels c WHERE c.realm = retained.realm
    AND c.channel = retained.channel);
INSERT OR IGNORE INTO queues SELECT realm, queue, {NUMBERS_SKIPPED} + max(number), 0, 0, 0, 0, max(w), max(d), 0 FROM (
    SELECT realm, queue, number, generation AS w, 1 AS d FROM messages
    UNION ALL SELECT realm, queue, number, 1, generation FROM dead) GROUP BY realm, queue;
INSERT OR IGNORE INTO queues SELECT realm, queue, {NUMBERS_SKIPPED}, 0, 0, 0, 0, 1, 1, 0 FROM queue_names;
INSERT OR IGNORE INTO queue_names SELECT realm, 'recovered.' || queue, queue FROM queues q
    WHERE NOT EXISTS (SELECT 1 FROM queue_names n WHERE n.realm = q.realm AND n.queue = q.queue);
UPDATE queues SET
    (waiting, waiting_bytes, last) = (SELECT count(*), ifnull(sum(length(frame) + {OVERHEAD_BYTES}), 0),
        max(queues.last, ifnull(max(number), 0)) FROM messages m
        WHERE m.realm = queues.realm AND m.queue = queues.queue AND m.generation = queues.generation);
UPDATE queues SET
    (dead, dead_bytes, last) = (SELECT count(*), ifnull(sum(length(frame) + {OVERHEAD_BYTES}), 0),
        max(queues.last, ifnull(max(number), 0)) FROM dead d
        WHERE d.realm = queues.realm AND d.queue = queues.queue AND d.generation = queues.dead_generation);
INSERT INTO counters VALUES ('{FORGOTTEN}', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1;
REPLACE INTO counters SELECT 'number', max(1 + ifnull((SELECT max(channel) FROM channels), 0),
    1 + ifnull((SELECT max(queue) FROM queues), 0), 1 + ifnull((SELECT max(id) FROM realms), 0),
    1 + ifnull((SELECT max(owner) FROM garbage), 0),
    ifnull((SELECT value FROM counters WHERE name = 'number'), 0));
"""


@attrs.frozen
class Repair:
    """What was done. ``kept_as`` is the damaged file's new name, '' when it was repaired in place; ``rows`` per table
    that the new file has; ``unread`` tables of which something could not be read."""

    kept_as: str
    problems: list[str]
    rows: dict[str, int]
    unread: list[str]


class Held:
    """The lock of a file that no node may have open meanwhile."""

    def __init__(self, path: str) -> None:
        try:
            self._lock = OsFiles().lock(path + LOCK_SUFFIX)
        except BlockingIOError:
            raise ConfigError(f"{path} is in use by another process: stop the node first") from None

    def release(self) -> None:
        """Let others have it."""
        self._lock.close()


def repair(path: str, random_bytes: Callable[[int], bytes] = os.urandom) -> Repair:
    """Repair the store at ``path``. Raises ``ConfigError`` when it is no store, in use, or there is no room."""
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: no store is here")
    held = Held(path)
    try:
        try:
            problems = _in_place(path)
            return Repair("", problems, {}, [])
        except sqlite3.DatabaseError as error:
            if is_full(error):
                raise ConfigError(f"{path}: the disk is full") from None
            return _copy(path, str(error), random_bytes)
    finally:
        held.release()


def compact(path: str) -> tuple[int, int]:
    """Write the store anew without its free pages; bytes of the file before and after. Raises ``ConfigError``."""
    connection = opened(path, readonly=False)
    held = Held(path)
    try:
        before = os.path.getsize(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if is_full(error):
            raise ConfigError(f"{path}: the disk is full; compacting needs as much room again as is in use") from None
        raise
    finally:
        connection.close()
        held.release()
    return before, os.path.getsize(path)


def _in_place(path: str) -> list[str]:
    """Count again in a file with a sound structure; what was wrong. Raises ``sqlite3.DatabaseError`` when it is not."""
    connection = opened(path, readonly=False)
    try:
        prepare(connection, path)
        report = look(connection)
        if not report.problems:
            return []
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        _recount(connection)
        left = look(connection).problems
        if left:
            raise sqlite3.DatabaseError(left[0])
        return report.problems
    finally:
        connection.close()


def _recount(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for each in RECOUNT.split(";"):
            if each.strip():
                connection.execute(each)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _copy(path: str, problem: str, random_bytes: Callable[[int], bytes]) -> Repair:
    new_path = path + NEW_SUFFIX
    _remove(new_path)
    try:
        old = connect(path, CACHE_BYTES)
        old.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: nothing can be read from it ({error}): restore a copy, or begin anew") from None
    new = connect(new_path, CACHE_BYTES, create=True)
    try:
        prepare(new, new_path)
        unread = [table for table in _KEYS if not _copy_table(old, new, table)]
        _recount(new)
        new.execute("BEGIN IMMEDIATE")
        for realm, channel in new.execute("SELECT realm, channel FROM channels").fetchall():
            epoch = random_bytes(EPOCH_BYTES).hex()
            sql = "UPDATE channels SET epoch = ? WHERE realm = ? AND channel = ?"
            new.execute(sql, (epoch, realm, channel))
        new.execute("UPDATE queues SET last = last + ?", (NUMBERS_SKIPPED,))
        new.execute("COMMIT")
        rows = {table: new.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _KEYS}
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if is_full(error):
            raise ConfigError(f"{new_path}: the disk is full") from None
        raise
    finally:
        old.close()
        new.close()
    return Repair(_put_in_place(path, new_path), [problem], rows, unread)


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> bool:
    """Copy what can be read; False when something could not be."""
    reading = _Reading(old, table)
    new.execute("BEGIN IMMEDIATE")
    columns = len(new.execute(f"PRAGMA table_info({table})").fetchall())
    sql = f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * columns)})"
    for row in reading.rows(new):
        if len(row) == columns and not any(each is None for each in row):
            new.execute(sql, row)
    new.execute("COMMIT")
    return reading.complete


class _Reading:
    """Reads a table from both its ends, and a large one from both ends of each owner."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection = connection
        self._table = table
        self.complete = True

    def rows(self, new: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:  # Any: SQL values
        """Rows, some of them twice. ``new`` has the names already."""
        yield from self._both_ways("", (), _KEYS[self._table])
        if self._table in _OWNED and not self.complete:
            owner, names, key = _OWNED[self._table]
            for realm, number in new.execute(f"SELECT realm, {owner} FROM {names}").fetchall():
                yield from self._both_ways(f"WHERE realm = ? AND {owner} = ?", (realm, number), key)

    def _both_ways(self, where: str, values: tuple[int, ...], key: str) -> Iterator[tuple[Any, ...]]:  # Any: as above
        before = self.complete
        self.complete = True
        yield from self._one_way(where, values, key, "ASC")
        if not self.complete:
            yield from self._one_way(where, values, key, "DESC")
        self.complete = self.complete and before

    def _one_way(
        self, where: str, values: tuple[int, ...], key: str, way: str
    ) -> Iterator[tuple[Any, ...]]:  # Any: as above
        order = ", ".join(f"{each} {way}" for each in key.split(", "))
        try:
            cursor = self._connection.execute(f"SELECT * FROM {self._table} {where} ORDER BY {order}", values)
            while rows := cursor.fetchmany(1):
                yield from rows
        except sqlite3.Error:  # what comes after it cannot be read this way; that is what this is for
            self.complete = False


def _put_in_place(path: str, new_path: str) -> str:
    """The new file takes the old one's name; the name that the old one has then."""
    number = 1
    while True:
        kept_as = f"{path}{DAMAGED_SUFFIX}" + (f"-{number}" if number > 1 else "")
        if not os.path.exists(kept_as):
            break
        number += 1
    files = OsFiles()
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            files.rename(path + suffix, kept_as + suffix)
    files.rename(path, kept_as)
    files.rename(new_path, path)
    files.sync_directory(os.path.dirname(path) or ".")
    return kept_as


def _remove(path: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)
