"""What the writer of the SQLite store keeps in mind: the rows of realms, channels and queues that it met lately.

The rows are read when something is first stored in a channel or queue, changed here, and written back once in each
transaction. When a transaction is rolled back all of them are forgotten and read again: nothing here is then ahead of
the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from relay.records import Retention
from relay.store.budget import OVERHEAD_BYTES, Budget
from relay.store.forgotten import slot
from relay.store.sqlite_rows import Rows
from relay.store.sqlite_schema import FORGOTTEN, PUBLICATIONS

CACHED_MAX: Final = 100_000
"""Channels and queues whose rows are kept in mind, about 50 MB; beyond, all are forgotten after a commit."""
EPOCH_BYTES: Final = 8

_CHANNEL: Final = (
    "SELECT epoch, last, kept, bytes, retained_bytes, used_ms, messages_max, bytes_max, age_ms_max FROM channels"
    " WHERE realm = ? AND channel = ?"
)
_QUEUE: Final = (
    "SELECT last, waiting, waiting_bytes, dead, dead_bytes, generation, dead_generation, paused FROM queues"
    " WHERE realm = ? AND queue = ?"
)
_WRITE_CHANNELS: Final = Rows("REPLACE INTO channels VALUES {rows}", 11)
_WRITE_QUEUES: Final = Rows("REPLACE INTO queues VALUES {rows}", 10)


class ChannelRow:
    """A row of ``channels``; ``bytes`` are of frames alone, ``retained_bytes`` with what they are counted for."""

    __slots__ = (
        "before", "bytes", "changed", "epoch", "gone", "kept", "last", "number", "realm", "retained_bytes",
        "retention", "used_ms",
    )  # fmt: skip

    def __init__(self, realm: RealmRow, number: int, epoch: str) -> None:
        self.realm = realm
        self.number = number
        self.epoch = epoch
        self.last = 0
        self.kept = 0
        self.bytes = 0
        self.retained_bytes = 0
        self.used_ms = 0
        self.retention = Retention()
        self.gone = False
        self.changed = False  # since the last transaction; then ``before`` is the size at its end
        self.before = 0

    @property
    def size(self) -> int:
        """What the channel counts for."""
        return self.bytes + self.kept * OVERHEAD_BYTES + self.retained_bytes


class QueueRow:
    """A row of ``queues``; bytes are as they are counted."""

    __slots__ = (
        "before", "changed", "dead", "dead_bytes", "dead_generation", "generation", "last", "number", "paused", "realm",
        "waiting", "waiting_bytes",
    )  # fmt: skip

    def __init__(self, realm: RealmRow, number: int) -> None:
        self.realm = realm
        self.number = number
        self.last = 0
        self.waiting = 0
        self.waiting_bytes = 0
        self.dead = 0
        self.dead_bytes = 0
        self.generation = 1
        self.dead_generation = 1
        self.paused = 0
        self.changed = False
        self.before = 0

    @property
    def size(self) -> int:
        """What the queue counts for."""
        return self.waiting_bytes + self.dead_bytes


class RealmRow:
    """A realm, with its channels and queues by name and by number, as far as they were met."""

    __slots__ = ("channels", "channels_by_number", "name", "number", "queues", "queues_by_number")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.channels: dict[str, ChannelRow] = {}
        self.channels_by_number: dict[int, ChannelRow] = {}
        self.queues: dict[str, QueueRow] = {}
        self.queues_by_number: dict[int, QueueRow] = {}


class Names:
    """The rows, by name. Everything here happens in the writer, between BEGIN and COMMIT."""

    def __init__(
        self, connection: sqlite3.Connection, budget: Budget, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._connection = connection
        self._random_bytes = random_bytes
        self.budget = budget
        self.realms: dict[str, RealmRow] = {}
        self.realm_names: dict[int, str] = {}
        self._changed_channels: list[ChannelRow] = []
        self._changed_queues: list[QueueRow] = []
        self._cached = 0
        self.channels = 0
        self.queues = 0
        self._created = [0, 0]
        self._floor = 0  # the highest number that a queue gave which is forgotten
        self.count()

    def count(self) -> None:
        """Find out what the file holds: once, when it is opened."""
        execute = self._connection.execute
        self.realm_names = dict(execute("SELECT id, name FROM realms"))
        held = (
            f"SELECT realm, sum(bytes + kept * {OVERHEAD_BYTES} + retained_bytes) FROM channels GROUP BY realm"
            " UNION ALL SELECT realm, sum(waiting_bytes + dead_bytes) FROM queues GROUP BY realm"
        )
        for realm, size in execute(held):
            self.budget.add(self.realm_names[realm], size)
        row = execute("SELECT value FROM counters WHERE name = 'floor'").fetchone()
        self._floor = row[0] if row is not None else 0
        self.channels = execute("SELECT count(*) FROM channel_names").fetchone()[0]
        self.queues = execute("SELECT count(*) FROM queue_names").fetchone()[0]

    # --- the end of a transaction ---------------------------------------------------------------------------------

    def flush(self) -> int:
        """Write back what changed, before COMMIT; how many rows."""
        if self._changed_channels:
            rows = [_channel_values(each) for each in self._changed_channels if not each.gone]
            _WRITE_CHANNELS.run(self._connection, rows)
        if self._changed_queues:
            _WRITE_QUEUES.run(self._connection, [_queue_values(each) for each in self._changed_queues])
        return len(self._changed_channels) + len(self._changed_queues)

    def committed(self) -> None:
        """It is in the file now."""
        for channel in self._changed_channels:
            channel.changed = False
        for queue in self._changed_queues:
            queue.changed = False
        self._changed_channels.clear()
        self._changed_queues.clear()
        self._created = [0, 0]
        if self._cached > CACHED_MAX:
            self._forget()

    def rolled_back(self) -> None:
        """It is not, nor what else happened in the transaction."""
        for channel in self._changed_channels:
            self.budget.add(channel.realm.name, channel.before - channel.size)
        for queue in self._changed_queues:
            self.budget.add(queue.realm.name, queue.before - queue.size)
        self._changed_channels.clear()
        self._changed_queues.clear()
        self.channels -= self._created[0]
        self.queues -= self._created[1]
        self._created = [0, 0]
        self._forget()
        self.realm_names = dict(self._connection.execute("SELECT id, name FROM realms"))

    def _forget(self) -> None:
        self.realms.clear()
        self._cached = 0

    def touch_channel(self, channel: ChannelRow) -> None:
        """``channel`` is about to change. Asked before: ``if not channel.changed``."""
        channel.changed = True
        channel.before = channel.size
        self._changed_channels.append(channel)

    def touch_queue(self, queue: QueueRow) -> None:
        """``queue`` is about to change."""
        queue.changed = True
        queue.before = queue.size
        self._changed_queues.append(queue)

    # --- by name --------------------------------------------------------------------------------------------------

    def realm(self, name: str, *, create: bool) -> RealmRow | None:
        """The realm, from the file or new; None when it is not there and not to be made."""
        found = self.realms.get(name)
        if found is None:
            row = self._connection.execute("SELECT id FROM realms WHERE name = ?", (name,)).fetchone()
            if row is None:
                if not create:
                    return None
                row = (self._next_number(),)
                self._connection.execute("INSERT INTO realms VALUES (?, ?)", (row[0], name))
                self.realm_names[row[0]] = name
            found = self.realms[name] = RealmRow(name, row[0])
        return found

    def channel(self, realm: str, name: str, channels_max: int) -> ChannelRow | None:
        """The channel, from the file or new. With ``channels_max`` reached, 0 included, no new one: None."""
        in_realm = self.realm(realm, create=channels_max > self.channels)
        if in_realm is None:
            return None
        found = in_realm.channels.get(name)
        if found is not None:
            return found
        execute = self._connection.execute
        key = in_realm.number, name
        row = execute("SELECT channel FROM channel_names WHERE realm = ? AND name = ?", key).fetchone()
        if row is not None:
            found = self.channel_by_number(in_realm, row[0])
            assert found is not None
        elif self.channels >= channels_max:
            return None
        else:
            number = self._next_number()
            execute("INSERT INTO channel_names VALUES (?, ?, ?)", (*key, number))
            self.channels += 1
            self._created[0] += 1
            found = ChannelRow(in_realm, number, self._random_bytes(EPOCH_BYTES).hex())
            in_realm.channels_by_number[number] = found
            self._cached += 1
            self.touch_channel(found)
        in_realm.channels[name] = found
        return found

    def channel_by_number(self, realm: RealmRow, number: int) -> ChannelRow | None:
        """The row of a channel; None for one that was purged."""
        found = realm.channels_by_number.get(number)
        if found is None:
            row = self._connection.execute(_CHANNEL, (realm.number, number)).fetchone()
            if row is None:
                return None
            found = realm.channels_by_number[number] = ChannelRow(realm, number, row[0])
            _, found.last, found.kept, found.bytes, found.retained_bytes, found.used_ms, *retention = row
            found.retention = Retention(*retention)
            self._cached += 1
        return found

    def realm_by_number(self, number: int) -> RealmRow:
        """A realm that is there."""
        realm = self.realm(self.realm_names[number], create=False)
        assert realm is not None
        return realm

    def channel_name(self, channel: ChannelRow) -> str:
        """The name of a channel that is there."""
        key = channel.realm.number, channel.number
        sql = "SELECT name FROM channel_names WHERE realm = ? AND channel = ?"
        name: str = self._connection.execute(sql, key).fetchone()[0]
        return name

    def forget_channel(self, channel: ChannelRow, name: str) -> None:
        """Take the channel's number from its name: the next publication begins another channel, with another epoch.

        What it kept is garbage, to be removed in steps.
        """
        realm = channel.realm
        if not channel.changed:
            self.touch_channel(channel)
        self.budget.add(realm.name, -channel.size)
        channel.gone = True
        channel.kept = channel.bytes = channel.retained_bytes = 0
        realm.channels.pop(name, None)
        realm.channels_by_number.pop(channel.number, None)
        self.channels -= 1
        self._created[0] -= 1
        execute = self._connection.execute
        key = realm.number, channel.number
        execute("DELETE FROM channel_names WHERE realm = ? AND name = ?", (realm.number, name))
        execute("DELETE FROM channels WHERE realm = ? AND channel = ?", key)
        execute("DELETE FROM retained WHERE realm = ? AND channel = ?", key)
        execute("INSERT INTO garbage VALUES (?, ?, ?, 0)", (realm.number, PUBLICATIONS, channel.number))
        execute(
            "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
            (f"{FORGOTTEN}.{slot(realm.name, name)}",),
        )

    def queue(self, realm: str, name: str, queues_max: int) -> QueueRow | None:
        """The queue, as ``channel``."""
        in_realm = self.realm(realm, create=queues_max > self.queues)
        if in_realm is None:
            return None
        found = in_realm.queues.get(name)
        if found is not None:
            return found
        execute = self._connection.execute
        key = in_realm.number, name
        row = execute("SELECT queue FROM queue_names WHERE realm = ? AND name = ?", key).fetchone()
        if row is not None:
            found = self.queue_by_number(in_realm, row[0])
        elif self.queues >= queues_max:
            return None
        else:
            number = self._next_number()
            execute("INSERT INTO queue_names VALUES (?, ?, ?)", (*key, number))
            self.queues += 1
            self._created[1] += 1
            found = in_realm.queues_by_number[number] = QueueRow(in_realm, number)
            found.last = self._floor
            self._cached += 1
            self.touch_queue(found)
        in_realm.queues[name] = found
        return found

    def queue_by_number(self, realm: RealmRow, number: int) -> QueueRow:
        """The row of a queue that is there."""
        found = realm.queues_by_number.get(number)
        if found is None:
            row = self._connection.execute(_QUEUE, (realm.number, number)).fetchone()
            found = realm.queues_by_number[number] = QueueRow(realm, number)
            (
                found.last, found.waiting, found.waiting_bytes, found.dead, found.dead_bytes, found.generation,
                found.dead_generation, found.paused,
            ) = row  # fmt: skip
            self._cached += 1
        return found

    def forget_queue(self, queue: QueueRow, name: str) -> None:
        """Take the row of an empty queue, unchanged in this transaction, away."""
        realm = queue.realm
        realm.queues.pop(name, None)
        realm.queues_by_number.pop(queue.number, None)
        self.queues -= 1
        self._created[1] -= 1
        self._floor = max(self._floor, queue.last)  # it stays so after a rollback, which does no harm
        execute = self._connection.execute
        execute("REPLACE INTO counters VALUES ('floor', ?)", (self._floor,))
        execute("DELETE FROM queue_names WHERE realm = ? AND name = ?", (realm.number, name))
        execute("DELETE FROM queues WHERE realm = ? AND queue = ?", (realm.number, queue.number))

    def _next_number(self) -> int:
        """A number that nothing else has or had."""
        sql = "UPDATE counters SET value = value + 1 WHERE name = 'number' RETURNING value - 1"
        number: int = self._connection.execute(sql).fetchone()[0]
        return number


def _channel_values(channel: ChannelRow) -> tuple[Any, ...]:  # Any: SQL values
    retention = channel.retention
    return (
        channel.realm.number, channel.number, channel.epoch, channel.last, channel.kept, channel.bytes,
        channel.retained_bytes, channel.used_ms, retention.messages_max, retention.bytes_max, retention.age_ms_max,
    )  # fmt: skip


def _queue_values(queue: QueueRow) -> tuple[Any, ...]:  # Any: as above
    return (
        queue.realm.number, queue.number, queue.last, queue.waiting, queue.waiting_bytes, queue.dead, queue.dead_bytes,
        queue.generation, queue.dead_generation, queue.paused,
    )  # fmt: skip
