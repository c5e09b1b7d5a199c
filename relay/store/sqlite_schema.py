"""The tables of the SQLite store, and how files of earlier versions become files of this one.

====================  ===========================================  ===================================================
table                 key                                          holds
====================  ===========================================  ===================================================
``realms``            id; name                                     a small number for each realm
``channel_names``     realm, name                                  a number for each channel, never given twice
``channels``          realm, channel                               epoch, highest offset, what is kept, retention
``publications``      realm, channel, offset                       frames
``retained``          realm, channel                               the last value of a channel
``queue_names``       realm, name                                  a number for each queue, never given twice
``queues``            realm, queue                                 highest number, what is there, generations, paused
``messages``          realm, queue, generation, number             messages that wait
``dead``              realm, queue, generation, number             dead messages, with the reason
``keys``              realm, owner, key                            idempotency keys: offset or number, until when
``users``             realm, user                                  when a user was last seen
``garbage``           realm, kind, owner                           what was purged and is removed in small steps
``counters``          name                                         the next number of a realm, channel or queue
====================  ===========================================  ===================================================

Every key begins with the realm. The indexes over times are for trimming, which is no realm's affair. ``highest`` stands
in a row of its own, so that neither trimming nor expiry gives a number free. A purge of a queue begins another
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

TABLES: Final = (
    "realms", "channel_names", "channels", "publications", "retained", "queue_names", "queues", "messages", "dead",
    "keys", "users", "garbage", "counters",
)  # fmt: skip

SCHEMA: Final = """
CREATE TABLE realms (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE channel_names (
    realm INTEGER NOT NULL, name TEXT NOT NULL, channel INTEGER NOT NULL, PRIMARY KEY (realm, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX channel_numbers ON channel_names (realm, channel);
CREATE TABLE channels (
    realm INTEGER NOT NULL, channel INTEGER NOT NULL, epoch TEXT NOT NULL, last INTEGER NOT NULL,
    kept INTEGER NOT NULL, bytes INTEGER NOT NULL, retained_bytes INTEGER NOT NULL, used_ms INTEGER NOT NULL,
    messages_max INTEGER NOT NULL, bytes_max INTEGER NOT NULL, age_ms_max INTEGER NOT NULL,
    PRIMARY KEY (realm, channel)
) WITHOUT ROWID;
CREATE TABLE publications (
    realm INTEGER NOT NULL, channel INTEGER NOT NULL, offset INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, frame BLOB NOT NULL, PRIMARY KEY (realm, channel, offset)
) WITHOUT ROWID;
CREATE INDEX publications_expiring ON publications (expires_ms) WHERE expires_ms > 0;
CREATE TABLE retained (
    realm INTEGER NOT NULL, channel INTEGER NOT NULL, offset INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, frame BLOB NOT NULL, PRIMARY KEY (realm, channel)
) WITHOUT ROWID;
CREATE INDEX retained_expiring ON retained (expires_ms) WHERE expires_ms > 0;
CREATE TABLE queue_names (
    realm INTEGER NOT NULL, name TEXT NOT NULL, queue INTEGER NOT NULL, PRIMARY KEY (realm, name)
) WITHOUT ROWID;
CREATE TABLE queues (
    realm INTEGER NOT NULL, queue INTEGER NOT NULL, last INTEGER NOT NULL, waiting INTEGER NOT NULL,
    waiting_bytes INTEGER NOT NULL, dead INTEGER NOT NULL, dead_bytes INTEGER NOT NULL,
    generation INTEGER NOT NULL, dead_generation INTEGER NOT NULL, paused INTEGER NOT NULL,
    PRIMARY KEY (realm, queue)
) WITHOUT ROWID;
CREATE TABLE messages (
    realm INTEGER NOT NULL, queue INTEGER NOT NULL, generation INTEGER NOT NULL, number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, priority INTEGER NOT NULL,
    deliveries INTEGER NOT NULL, ordering_key TEXT NOT NULL, frame BLOB NOT NULL,
    PRIMARY KEY (realm, queue, generation, number)
) WITHOUT ROWID;
CREATE INDEX messages_expiring ON messages (expires_ms) WHERE expires_ms > 0;
CREATE TABLE dead (
    realm INTEGER NOT NULL, queue INTEGER NOT NULL, generation INTEGER NOT NULL, number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, priority INTEGER NOT NULL,
    deliveries INTEGER NOT NULL, ordering_key TEXT NOT NULL, frame BLOB NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (realm, queue, generation, number)
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

MIGRATIONS: Final = {
    # Version 1 did not count what it kept, did not know last values, and looked for the highest offset in what was
    # kept: a channel whose publications have all gone begins another epoch.
    1: """
    ALTER TABLE channels RENAME TO channels_1;
    CREATE TABLE channels (
        realm INTEGER NOT NULL, channel INTEGER NOT NULL, epoch TEXT NOT NULL, last INTEGER NOT NULL,
        kept INTEGER NOT NULL, bytes INTEGER NOT NULL, retained_bytes INTEGER NOT NULL, used_ms INTEGER NOT NULL,
        messages_max INTEGER NOT NULL, bytes_max INTEGER NOT NULL, age_ms_max INTEGER NOT NULL,
        PRIMARY KEY (realm, channel)
    ) WITHOUT ROWID;
    INSERT INTO channels
        SELECT c.realm, c.channel, c.epoch, max(p.offset), count(*), sum(length(p.frame)), 0, max(p.at_ms),
            c.messages_max, c.bytes_max, c.age_ms_max
        FROM channels_1 c JOIN publications p ON p.realm = c.realm AND p.channel = c.channel
        GROUP BY c.realm, c.channel;
    DELETE FROM channel_names WHERE NOT EXISTS (
        SELECT 1 FROM channels c WHERE c.realm = channel_names.realm AND c.channel = channel_names.channel
    );
    DROP TABLE channels_1;
    CREATE TABLE retained (
        realm INTEGER NOT NULL, channel INTEGER NOT NULL, offset INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL, frame BLOB NOT NULL, PRIMARY KEY (realm, channel)
    ) WITHOUT ROWID;
    CREATE INDEX retained_expiring ON retained (expires_ms) WHERE expires_ms > 0;
    """,
}
"""SQL that makes version N + 1 out of version N."""
