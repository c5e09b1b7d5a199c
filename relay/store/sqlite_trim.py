"""Removes what is over its limits, has expired or was purged: a few rows along with each commit.

::

    always      channels with more than their retention says, as the appends noticed, and some slack
    at a tick   the same exactly · expired publications, last values and messages · keys · garbage · the next channels
                (age, long idle) · users

A tick puts every kind of work on the list; each transaction does the first of them up to ``store.trim_rows`` rows, and
a kind leaves the list when it found nothing. A transaction that found nothing to do writes nothing and costs no sync.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from relay.config_store import Store
from relay.records import Retention
from relay.store.budget import FORGET_SHARE, OVERHEAD_BYTES
from relay.store.memory_queues import EXPIRED_GRACE_MS
from relay.store.sqlite_channels import ChannelWriter
from relay.store.sqlite_keys import Keys
from relay.store.sqlite_names import ChannelRow, Names
from relay.store.sqlite_prune import Coming, prune
from relay.store.sqlite_schema import MESSAGES, PUBLICATIONS

SLACK_SHARE: Final = 8
SLACK_MIN: Final = 16
SLACK_MAX: Final = 1000
SLACK_BYTES_MIN: Final = 16_384
"""Between ticks a channel may keep an eighth more than its retention says, within these bounds: it is then trimmed by
many publications at once, which costs as much as by one."""
OVER_MAX: Final = 64
"""Channels that one transaction trims."""
SWEEP_CHANNELS: Final = 1000
"""Channels of which a tick looks at the age: all of 100 000 take 100 ticks."""
USERS_EVERY: Final = 60
"""Ticks between two looks at the number of users, which takes some ms for each 100 000."""

_EXPIRED: Final = "INDEXED BY {table}_expiring WHERE expires_ms > 0 AND expires_ms <= ? ORDER BY expires_ms LIMIT ?"
_SWEEP: Final = (
    "WITH page AS (SELECT * FROM channels WHERE (realm, channel) > (?1, ?2) ORDER BY realm, channel LIMIT ?3)"
    " SELECT max((realm << 40) + channel), group_concat(CASE WHEN"
    " (kept > 0 AND age_ms_max > 0 AND (SELECT at_ms FROM publications p WHERE p.realm = page.realm"
    " AND p.channel = page.channel ORDER BY offset LIMIT 1) < ?4 - age_ms_max)"
    " OR (messages_max > 0 AND kept > messages_max) OR (bytes_max > 0 AND bytes > bytes_max)"
    " OR (kept = 0 AND retained_bytes = 0 AND used_ms < ?5) THEN realm || ',' || channel END) FROM page"
)
_REALM_BITS: Final = 40
_EMPTY: Final = (
    "WITH page AS (SELECT * FROM queue_names WHERE (realm, name) > (?, ?) ORDER BY realm, name LIMIT ?)"
    " SELECT n.realm, n.name, n.queue, q.waiting = 0 AND q.dead = 0 AND q.paused = 0"
    " AND NOT EXISTS (SELECT 1 FROM keys k WHERE k.realm = n.realm AND k.owner = n.queue AND k.until_ms > ?)"
    " FROM page n JOIN queues q ON q.realm = n.realm AND q.queue = n.queue ORDER BY n.realm, n.name"
)


class Trimmer:
    """See the module. Everything happens in the writer, inside a transaction."""

    def __init__(
        self, connection: sqlite3.Connection, names: Names, channels: ChannelWriter, keys: Keys, options: Store
    ) -> None:
        self._connection = connection
        self._names = names
        self._channels = channels
        self._keys = keys
        self._options = options
        self._work: deque[Callable[[int, int], int]] = deque()
        self._exact: dict[ChannelRow, None] = {}
        self._swept = (0, 0)
        self._sweep_due = False
        self._queues_swept: tuple[int, str] = (0, "")
        self._ticks = 0
        self.removed = 0
        """Rows, since the start."""

    @property
    def busy(self) -> bool:
        """Whether a transaction of its own is worth while."""
        return bool(self._exact or self._work)

    def tick(self) -> None:
        """Look at everything again."""
        self._exact = dict(self._channels.over)
        self._sweep_due = True
        self._work = deque((
            self._expired_publications, self._expired_retained, self._expired_messages, self._old_keys, self._garbage,
            self._sweep, self._empty_queues,
        ))  # fmt: skip
        self._ticks += 1
        if self._ticks % USERS_EVERY == 1:
            self._work.append(self._users)

    def give_up(self) -> None:
        """The transaction failed: leave it until the next tick."""
        self._work.clear()
        self._exact.clear()

    def step(self, now_ms: int) -> None:
        """Remove at most ``store.trim_rows`` rows."""
        left = self._options.trim_rows
        if self._exact:
            left -= self._over(self._exact, now_ms, left, exact=True)
        if self._channels.over and left > 0:
            left -= self._over(self._channels.over, now_ms, left, exact=False)
        while self._work and left > 0:
            removed = self._work[0](now_ms, left)
            left -= removed
            if not removed:
                self._work.popleft()
        self.removed += self._options.trim_rows - left

    # --- channels -------------------------------------------------------------------------------------------------

    def _over(self, over: dict[ChannelRow, None], now_ms: int, rows_max: int, *, exact: bool) -> int:
        removed = 0
        for channel in list(islice(over, OVER_MAX)):
            del over[channel]
            if channel.gone:
                continue
            if not exact and _within_slack(channel):
                over[channel] = None  # behind the others
                continue
            coming = Coming(channel.retention, 0, 0, now_ms)
            removed += prune(self._connection, self._names, channel, coming, rows_max - removed)
            if _is_over(channel, channel.retention):
                over[channel] = None
            elif exact:
                self._channels.over.pop(channel, None)
            if removed >= rows_max:
                break
        return removed

    def _sweep(self, now_ms: int, rows_max: int) -> int:
        """Look at the next channels, once a tick."""
        if not self._sweep_due:
            return 0
        self._sweep_due = False
        idle_ms = now_ms - int(self._options.channel_idle_s * 1000)
        place, text = self._connection.execute(_SWEEP, (*self._swept, SWEEP_CHANNELS, now_ms, idle_ms)).fetchone()
        if place is None:
            self._swept = (0, 0)
            return 0
        self._swept = (place >> _REALM_BITS, place & ((1 << _REALM_BITS) - 1))
        numbers = [int(each) for each in text.split(",")] if text else []
        removed = 0
        for index in range(0, len(numbers), 2):
            channel = self._names.channel_by_number(self._names.realm_by_number(numbers[index]), numbers[index + 1])
            if channel is None:
                continue
            if not channel.kept and not channel.retained_bytes:
                if channel.used_ms < idle_ms:
                    self._names.forget_channel(channel, self._names.channel_name(channel))
                continue
            coming = Coming(channel.retention, 0, 0, now_ms)
            pruned = prune(self._connection, self._names, channel, coming, max(1, rows_max - removed))
            removed += pruned
            if pruned and removed >= rows_max:
                # Not all of it may be gone: begin again with this channel.
                self._swept = (numbers[index], numbers[index + 1] - 1)
                self._sweep_due = True
                break
        return removed

    # --- what has expired -----------------------------------------------------------------------------------------

    def _expired_publications(self, now_ms: int, rows_max: int) -> int:
        found = self._take_expired(PUBLICATIONS, "id", "channel", "0", now_ms, rows_max)
        for realm, number, _, size in found:
            channel = self._names.channel_by_number(self._names.realm_by_number(realm), number)
            if channel is not None:
                if not channel.changed:
                    self._names.touch_channel(channel)
                channel.kept -= 1
                channel.bytes -= size
                self._names.budget.add(channel.realm.name, -size - OVERHEAD_BYTES)
        return len(found)

    def _expired_retained(self, now_ms: int, rows_max: int) -> int:
        found = self._take_expired("retained", "realm, channel", "channel", "0", now_ms, rows_max)
        for realm, number, _, _ in found:
            channel = self._names.channel_by_number(self._names.realm_by_number(realm), number)
            if channel is not None:
                if not channel.changed:
                    self._names.touch_channel(channel)
                self._names.budget.add(channel.realm.name, -channel.retained_bytes)
                channel.retained_bytes = 0
        return len(found)

    def _expired_messages(self, now_ms: int, rows_max: int) -> int:
        found = self._take_expired(MESSAGES, "id", "queue", "generation", now_ms - EXPIRED_GRACE_MS, rows_max)
        for realm, number, generation, size in found:
            queue = self._names.queue_by_number(self._names.realm_by_number(realm), number)
            if queue.generation == generation:
                if not queue.changed:
                    self._names.touch_queue(queue)
                queue.waiting -= 1
                queue.waiting_bytes -= size + OVERHEAD_BYTES
                self._names.budget.add(queue.realm.name, -size - OVERHEAD_BYTES)
        return len(found)

    def _take_expired(
        self, table: str, key: str, owner: str, generation: str, until_ms: int, rows_max: int
    ) -> list[tuple[int, int, int, int]]:
        """Remove rows that have expired: realm, owner, generation and length of the frame of each."""
        expired = _EXPIRED.format(table=table)
        text = self._connection.execute(
            f"SELECT group_concat(realm || ',' || owner || ',' || generation || ',' || size) FROM (SELECT realm,"
            f" {owner} AS owner, {generation} AS generation, length(frame) AS size FROM {table} {expired})",
            (until_ms, rows_max),
        ).fetchone()[0]
        if not text:
            return []
        sql = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} {expired})"
        self._connection.execute(sql, (until_ms, rows_max))
        numbers = [int(each) for each in text.split(",")]
        return list(zip(*(iter(numbers),) * 4, strict=True))

    # --- the others -----------------------------------------------------------------------------------------------

    def _old_keys(self, now_ms: int, rows_max: int) -> int:
        return self._keys.trim(now_ms, rows_max)

    def _garbage(self, now_ms: int, rows_max: int) -> int:
        execute = self._connection.execute
        row = execute("SELECT realm, kind, owner, generation FROM garbage LIMIT 1").fetchone()
        if row is None:
            return 0
        realm, kind, owner, generation = row
        if kind == PUBLICATIONS:
            which, values = "realm = ? AND channel = ?", [realm, owner]
        else:
            which, values = "realm = ? AND queue = ? AND generation <= ?", [realm, owner, generation]
        sql = f"DELETE FROM {kind} WHERE id IN (SELECT id FROM {kind} WHERE {which} LIMIT ?)"
        removed = execute(sql, (*values, rows_max)).rowcount
        if removed < rows_max:
            execute("DELETE FROM garbage WHERE realm = ? AND kind = ? AND owner = ?", (realm, kind, owner))
        return max(1, removed)  # there may be more

    def _empty_queues(self, now_ms: int, rows_max: int) -> int:
        """Forget the empty ones of the next queues, once a tick, when there are nearly too many."""
        names = self._names
        if names.queues < self._options.queues_max * FORGET_SHARE:
            return 0
        rows = self._connection.execute(_EMPTY, (*self._queues_swept, rows_max, now_ms)).fetchall()
        self._queues_swept = (rows[-1][0], rows[-1][1]) if rows else (0, "")
        for realm, name, number, empty in rows:
            queue = names.queue_by_number(names.realm_by_number(realm), number) if empty else None
            if queue is not None and not queue.changed:
                names.forget_queue(queue, name)
        return 0

    def _users(self, now_ms: int, rows_max: int) -> int:
        execute = self._connection.execute
        users_max = self._options.users_max
        row = execute("SELECT realm, count(*) FROM users GROUP BY realm HAVING count(*) > ? LIMIT 1", (users_max,))
        found = row.fetchone()
        if found is None:
            return 0
        realm, count = found
        oldest = "SELECT realm, user FROM users INDEXED BY users_by_age WHERE realm = ? ORDER BY seen_ms LIMIT ?"
        sql = f"DELETE FROM users WHERE (realm, user) IN ({oldest})"
        return execute(sql, (realm, min(rows_max, count - users_max))).rowcount


def _is_over(channel: ChannelRow, retention: Retention) -> bool:
    return bool(
        (retention.messages_max and channel.kept > retention.messages_max)
        or (retention.bytes_max and channel.bytes > retention.bytes_max)
    )


def _within_slack(channel: ChannelRow) -> bool:
    """Whether it is not worth while to trim the channel yet."""
    retention = channel.retention
    slack = min(max(retention.messages_max // SLACK_SHARE, SLACK_MIN), SLACK_MAX)
    slack_bytes = max(retention.bytes_max // SLACK_SHARE, SLACK_BYTES_MIN)
    return not (
        (retention.messages_max and channel.kept > retention.messages_max + slack)
        or (retention.bytes_max and channel.bytes > retention.bytes_max + slack_bytes)
    )
