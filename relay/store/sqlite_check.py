"""Looks at the file of a SQLite store: its structure, and whether what it counts is what it holds.

A commit changes rows and counts together, so counts that are wrong mean that something else wrote to the file, or that
relay has a mistake. ``MISTAKES`` are questions whose rows are mistakes; none of them changes anything.
"""

from __future__ import annotations

import os.path
import sqlite3
from typing import Final

import attrs

from relay.errors import ConfigError
from relay.store.budget import OVERHEAD_BYTES
from relay.store.sqlite_file import connect
from relay.store.sqlite_schema import APPLICATION_ID, VERSION

CACHE_BYTES: Final = 16_777_216
SHOWN_MAX: Final = 20
"""Mistakes of one kind that are listed."""

_HELD_QUEUE: Final = (
    "SELECT realm, queue, generation, count(*) AS n, sum(length(frame) + {overhead}) AS size, max(number) AS highest"
    " FROM {table} GROUP BY realm, queue, generation"
)
_HELD_MESSAGES: Final = _HELD_QUEUE.format(table="messages", overhead=OVERHEAD_BYTES)
_HELD_DEAD: Final = _HELD_QUEUE.format(table="dead", overhead=OVERHEAD_BYTES)

MISTAKES: Final = {
    "channel {} counts other publications than it has": (
        "SELECT c.channel FROM channels c LEFT JOIN (SELECT realm, channel, count(*) AS n, sum(length(frame)) AS size,"
        " max(offset) AS highest FROM publications GROUP BY realm, channel) p USING (realm, channel)"
        " WHERE c.kept <> ifnull(p.n, 0) OR c.bytes <> ifnull(p.size, 0)"
    ),
    "channel {} has an offset above its highest": (
        "SELECT channel FROM channels c WHERE last < (SELECT offset FROM publications p WHERE p.realm = c.realm"
        " AND p.channel = c.channel ORDER BY offset DESC LIMIT 1)"
    ),
    "channel {} counts another last value than it has": (
        "SELECT c.channel FROM channels c LEFT JOIN retained USING (realm, channel)"
        f" WHERE c.retained_bytes <> ifnull(length(retained.frame) + {OVERHEAD_BYTES}, 0)"
    ),
    "channel {} has no name": (
        "SELECT channel FROM channels c WHERE NOT EXISTS (SELECT 1 FROM channel_names n WHERE n.realm = c.realm"
        " AND n.channel = c.channel)"
    ),
    "channel {} has a name and no row": (
        "SELECT channel FROM channel_names n WHERE NOT EXISTS (SELECT 1 FROM channels c WHERE c.realm = n.realm"
        " AND c.channel = n.channel)"
    ),
    "publications of channel {}, which is not there": (
        "SELECT DISTINCT channel FROM publications p WHERE NOT EXISTS (SELECT 1 FROM channels c"
        " WHERE c.realm = p.realm AND c.channel = p.channel) AND NOT EXISTS (SELECT 1 FROM garbage g"
        " WHERE g.realm = p.realm AND g.kind = 'publications' AND g.owner = p.channel)"
    ),
    "queue {} counts other messages than it has": (
        f"SELECT q.queue FROM queues q LEFT JOIN ({_HELD_MESSAGES}) m USING (realm, queue, generation)"
        " WHERE q.waiting <> ifnull(m.n, 0) OR q.waiting_bytes <> ifnull(m.size, 0) OR q.last < ifnull(m.highest, 0)"
    ),
    "queue {} counts other dead messages than it has": (
        f"SELECT q.queue FROM queues q LEFT JOIN ({_HELD_DEAD}) d ON d.realm = q.realm AND d.queue = q.queue"
        " AND d.generation = q.dead_generation"
        " WHERE q.dead <> ifnull(d.n, 0) OR q.dead_bytes <> ifnull(d.size, 0) OR q.last < ifnull(d.highest, 0)"
    ),
    "queue {} has a name and no row": (
        "SELECT queue FROM queue_names n WHERE NOT EXISTS (SELECT 1 FROM queues q WHERE q.realm = n.realm"
        " AND q.queue = n.queue)"
    ),
    "queue {} has no name": (
        "SELECT queue FROM queues q WHERE NOT EXISTS (SELECT 1 FROM queue_names n WHERE n.realm = q.realm"
        " AND n.queue = q.queue)"
    ),
    "number {} was given and may be given again": (
        "SELECT max(number) FROM (SELECT max(channel) AS number FROM channel_names UNION ALL SELECT max(queue)"
        " FROM queue_names UNION ALL SELECT max(id) FROM realms)"
        " HAVING max(number) >= (SELECT value FROM counters WHERE name = 'number')"
    ),
    "realm {} is not there": (
        "SELECT realm FROM channel_names WHERE realm NOT IN (SELECT id FROM realms)"
        " UNION SELECT realm FROM queue_names WHERE realm NOT IN (SELECT id FROM realms)"
    ),
}
"""What is wrong with the things that a question gives, and the question."""


@attrs.frozen
class Report:
    """What ``look`` found. ``problems`` are sentences; none: the file is sound."""

    version: int
    realms: int
    channels: int
    publications: int
    queues: int
    messages: int
    dead: int
    keys: int
    users: int
    bytes: int
    free_bytes: int
    problems: list[str]


def opened(path: str, *, readonly: bool) -> sqlite3.Connection:
    """A connection to a file that says it is a store. Raises ``ConfigError``; ``sqlite3.Error`` when it is damaged."""
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: no store is here")
    try:
        connection = connect(path, CACHE_BYTES, readonly=readonly)
    except sqlite3.OperationalError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise ConfigError(f"{path} is not a relay store")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise ConfigError(f"{path} is of version {version}, made by a later relay")
    except BaseException:
        connection.close()
        raise
    return connection


def look(connection: sqlite3.Connection) -> Report:
    """Read all of the file, as of one moment. Raises ``sqlite3.Error`` when that is not possible."""
    execute = connection.execute
    execute("BEGIN")
    try:
        version = execute("PRAGMA user_version").fetchone()[0]
        problems = [row[0] for row in execute(f"PRAGMA integrity_check({SHOWN_MAX})") if row[0] != "ok"]
        if not problems and version == VERSION:
            problems = mistakes(connection)

        def count(table: str) -> int:
            number: int = execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            return number

        page_bytes = execute("PRAGMA page_size").fetchone()[0]
        return Report(
            version=version,
            realms=count("realms"),
            channels=count("channel_names"),
            publications=count("publications"),
            queues=count("queue_names"),
            messages=count("messages"),
            dead=count("dead"),
            keys=count("keys"),
            users=count("users"),
            bytes=execute("PRAGMA page_count").fetchone()[0] * page_bytes,
            free_bytes=execute("PRAGMA freelist_count").fetchone()[0] * page_bytes,
            problems=[" ".join(each.split()) for each in problems],
        )
    finally:
        execute("COMMIT")


def mistakes(connection: sqlite3.Connection) -> list[str]:
    """What is wrong in a file with a sound structure."""
    found = []
    for sentence, question in MISTAKES.items():
        rows = connection.execute(f"{question} LIMIT {SHOWN_MAX}").fetchall()
        found += [sentence.format(row[0]) for row in rows]
    return found
