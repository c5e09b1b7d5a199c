"""Removes the oldest publications of one channel that are over its retention, a bounded number at a time."""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from relay.records import Retention
from relay.store.budget import OVERHEAD_BYTES
from relay.store.sqlite_names import ChannelRow, Names

ROWS_MAX: Final = 500
"""Rows of one step when somebody waits for the room."""

# One text, and so one step: see relay.store.sqlite_rows.
_OLDEST: Final = (
    "SELECT group_concat(offset || ',' || at_ms || ',' || length(frame)) FROM (SELECT offset, at_ms, frame"
    " FROM publications WHERE realm = ? AND channel = ? ORDER BY offset LIMIT ?)"
)
_REMOVE: Final = "DELETE FROM publications WHERE realm = ? AND channel = ? AND offset <= ?"


class Coming(NamedTuple):
    """Against what a channel is measured: the retention, and publications that are about to be added."""

    retention: Retention
    more: int
    more_bytes: int
    now_ms: int


def prune(
    connection: sqlite3.Connection, names: Names, channel: ChannelRow, coming: Coming, rows_max: int
) -> int:
    """Remove what is over, at most ``rows_max`` publications; how many there were.

    What was appended to the channel before has been written.
    """
    retention = coming.retention
    surplus = channel.kept + coming.more - retention.messages_max if retention.messages_max else 0
    surplus_bytes = channel.bytes + coming.more_bytes - retention.bytes_max if retention.bytes_max else 0
    oldest_ms = coming.now_ms - retention.age_ms_max if retention.age_ms_max else 0
    if surplus <= 0 and surplus_bytes <= 0 and not oldest_ms:
        return 0
    key = channel.realm.number, channel.number
    text = connection.execute(_OLDEST, (*key, rows_max)).fetchone()[0]
    if not text:
        return 0
    numbers = [int(each) for each in text.split(",")]
    removed = removed_bytes = last = 0
    for place in range(0, len(numbers), 3):
        offset, at_ms, size = numbers[place : place + 3]
        if removed >= surplus and removed_bytes >= surplus_bytes and at_ms >= oldest_ms:
            break
        removed += 1
        removed_bytes += size
        last = offset
    if removed:
        if not channel.changed:
            names.touch_channel(channel)
        connection.execute(_REMOVE, (*key, last))
        channel.kept -= removed
        channel.bytes -= removed_bytes
        names.budget.add(channel.realm.name, -removed_bytes - removed * OVERHEAD_BYTES)
    return removed
