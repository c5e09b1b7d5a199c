"""The tables of the SQLite store, and how files of earlier versions become files of this one.

====================  ===========================================  ===================================================
table                 key                                          holds
====================  ===========================================  ===================================================
``realms``            id; name                                     a small number for each realm
``channel_names``     realm, name                                  a number for each channel, never given twice
``channels``          realm, channel                               epoch, highest offset, what is kept, retention
``publications``      realm, channel, offset; id                   frames
``retained``          realm, channel                               the last value of a channel
``queue_names``       realm, name                                  a number for each queue, never given twice
``queues``            realm, queue                                 highest number, what is there, generations, paused
``messages``          realm, queue, generation, number; id         messages that wait
``dead``              realm, queue, generation, number; id         dead messages, with the reason
``keys``              realm, owner, key                            idempotency keys: offset or number, until when
``users``             realm, user                                  when a user was last seen
``garbage``           realm, kind, owner                           what was purged and is removed in small steps
``counters``          name                                         the next number of a realm, channel or queue
====================  ===========================================  ===================================================

Every key begins with the realm; the indexes over times are for trimming, which is no realm's affair. Frames lie in the
order of their coming, by ``id``, and are found by an index: clustered by channel, as in version 1, a commit for 100
channels wrote a page for each of them, six times as much, and took three times as long. The highest offset or number
stands in a row of its own, so that neither trimming nor expiry gives one free. A purge of a queue begins another
generation, that of a channel takes its number away: both are one small write, however much was there.

``PRAGMA application_id`` says that a file is a relay store, ``PRAGMA user_version`` in which version.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x524C5953
"""``RLYS``."""
VERSION: Final = 2

PUBLICATIONS: Final = "publications"
MESSAGES: Final = "messages"
DEAD_MESSAGES: Final = "dead"
FORGOTTEN: Final = "forgotten"
"""Counts channels that are forgotten, with a dot and a number those of one part of all, see ``relay.store.forgotten``.
It begins somewhere, so that a new file in the place of a lost one is told apart."""

TABLES: Final = (
    "realms", "channel_names", "channels", "publications", "retained", "queue_names", "queues", "messages", "dead",
    "keys", "users", "garbage", "counters",
)  # fmt: skip

_CHANNELS: Final = """
CREATE TABLE channels (
    realm INTEGER NOT NULL, channel INTEGER NOT NULL, epoch TEXT NOT NULL, last INTEGER NOT NULL,
    kept INTEGER NOT NULL, bytes INTEGER NOT NULL, retained_bytes INTEGER NOT NULL, used_ms INTEGER NOT NULL,
    messages_max INTEGER NOT NULL, bytes_max INTEGER NOT NULL, age_ms_max INTEGER NOT NULL,
    PRIMARY KEY (realm, channel)
) WITHOUT ROWID;
CREATE TABLE retained (
    realm INTEGER NOT NULL, channel INTEGER NOT NULL, offset INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, frame BLOB NOT NULL, PRIMARY KEY (realm, channel)
) WITHOUT ROWID;
CREATE INDEX retained_expiring ON retained (expires_ms) WHERE expires_ms > 0;
"""
_FRAMES: Final = """
CREATE TABLE publications (
    id INTEGER PRIMARY KEY, realm INTEGER NOT NULL, channel INTEGER NOT NULL, offset INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, frame BLOB NOT NULL
);
CREATE UNIQUE INDEX publications_by_offset ON publications (realm, channel, offset);
CREATE INDEX publications_expiring ON publications (expires_ms) WHERE expires_ms > 0;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, realm INTEGER NOT NULL, queue INTEGER NOT NULL, generation INTEGER NOT NULL,
    number INTEGER NOT NULL, at_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    priority INTEGER NOT NULL, deliveries INTEGER NOT NULL, ordering_key TEXT NOT NULL, frame BLOB NOT NULL
);
CREATE UNIQUE INDEX messages_by_number ON messages (realm, queue, generation, number);
CREATE INDEX messages_expiring ON messages (expires_ms) WHERE expires_ms > 0;
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, realm INTEGER NOT NULL, queue INTEGER NOT NULL, generation INTEGER NOT NULL,
    number INTEGER NOT NULL, at_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    priority INTEGER NOT NULL, deliveries INTEGER NOT NULL, ordering_key TEXT NOT NULL, frame BLOB NOT NULL,
    reason TEXT NOT NULL
);
CREATE UNIQUE INDEX dead_by_number ON dead (realm, queue, generation, number);
"""
_OTHERS: Final = """
CREATE TABLE realms (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE channel_names (
    realm INTEGER NOT NULL, name TEXT NOT NULL, channel INTEGER NOT NULL, PRIMARY KEY (realm, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX channel_numbers ON channel_names (realm, channel);
CREATE TABLE queue_names (
    realm INTEGER NOT NULL, name TEXT NOT NULL, queue INTEGER NOT NULL, PRIMARY KEY (realm, name)
) WITHOUT ROWID;
CREATE TABLE queues (
    realm INTEGER NOT NULL, queue INTEGER NOT NULL, last INTEGER NOT NULL, waiting INTEGER NOT NULL,
    waiting_bytes INTEGER NOT NULL, dead INTEGER NOT NULL, dead_bytes INTEGER NOT NULL,
    generation INTEGER NOT NULL, dead_generation INTEGER NOT NULL, paused INTEGER NOT NULL,
    PRIMARY KEY (realm, queue)
) WITHOUT ROWID;
CREATE TABLE keys (
    realm INTEGER NOT NULL, owner INTEGER NOT NULL, key TEXT NOT NULL, place INTEGER NOT NULL,
    until_ms INTEGER NOT NULL, PRIMARY KEY (realm, owner, key)
) WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (until_ms);
CREATE TABLE users (
    realm INTEGER NOT NULL, user TEXT NOT NULL, seen_ms INTEGER NOT NULL, PRIMARY KEY (realm, user)
) WITHOUT ROWID;
CREATE INDEX users_by_age ON users (realm, seen_ms);
CREATE TABLE garbage (
    realm INTEGER NOT NULL, kind TEXT NOT NULL, owner INTEGER NOT NULL, generation INTEGER NOT NULL,
    PRIMARY KEY (realm, kind, owner)
) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('number', 1);
"""
_BEGIN_FORGOTTEN: Final = f"INSERT INTO counters VALUES ('{FORGOTTEN}', 1 + abs(random() % 4294967296));"
SCHEMA: Final = _CHANNELS + _FRAMES + _OTHERS + _BEGIN_FORGOTTEN

MIGRATIONS: Final = {
    # Version 1 clustered frames by channel and queue, did not count what a channel kept, knew no last values, and
    # looked for the highest offset in what was kept: a channel that keeps nothing begins another epoch.
    1: f"""
    ALTER TABLE channels RENAME TO channels_1;
    ALTER TABLE publications RENAME TO publications_1;
    ALTER TABLE messages RENAME TO messages_1;
    ALTER TABLE dead RENAME TO dead_1;
    DROP INDEX publications_expiring;
    DROP INDEX messages_expiring;
    {_CHANNELS}
    {_FRAMES}
    INSERT INTO publications (realm, channel, offset, at_ms, expires_ms, frame)
        SELECT * FROM publications_1 ORDER BY at_ms, realm, channel, offset;
    INSERT INTO messages
        (realm, queue, generation, number, at_ms, due_ms, expires_ms, priority, deliveries, ordering_key, frame)
        SELECT * FROM messages_1 ORDER BY at_ms, realm, queue, generation, number;
    INSERT INTO dead
        (realm, queue, generation, number, at_ms, due_ms, expires_ms, priority, deliveries, ordering_key, frame, reason)
        SELECT * FROM dead_1;
    INSERT INTO channels
        SELECT c.realm, c.channel, c.epoch, max(p.offset), count(*), sum(length(p.frame)), 0, max(p.at_ms),
            c.messages_max, c.bytes_max, c.age_ms_max
        FROM channels_1 c JOIN publications_1 p ON p.realm = c.realm AND p.channel = c.channel
        GROUP BY c.realm, c.channel;
    DELETE FROM channel_names WHERE NOT EXISTS (
        SELECT 1 FROM channels c WHERE c.realm = channel_names.realm AND c.channel = channel_names.channel
    );
    DROP TABLE channels_1;
    DROP TABLE publications_1;
    DROP TABLE messages_1;
    DROP TABLE dead_1;
    {_BEGIN_FORGOTTEN}
    """,
}
"""SQL that makes version N + 1 out of version N."""
