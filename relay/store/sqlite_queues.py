"""The writer's side of queues: numbers are given here, in the order of the puts, when the rows go in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from relay.config_store import Store
from relay.errors import Full, NotFound, RelayError
from relay.records import ACKED, DEAD, REMOVED, RETRY, REVIVED, Put, Settle
from relay.store.budget import OVERHEAD_BYTES
from relay.store.sqlite_keys import Keys
from relay.store.sqlite_names import Names, QueueRow
from relay.store.sqlite_room import Room
from relay.store.sqlite_rows import Rows
from relay.store.sqlite_schema import DEAD_MESSAGES, MESSAGES

_KEY: Final = "realm, queue, generation, number"
_COLUMNS: Final = f"{_KEY}, at_ms, due_ms, expires_ms, priority, deliveries, ordering_key, frame"
_WRITE: Final = Rows(f"INSERT INTO messages ({_COLUMNS}) VALUES {{rows}}", 11)


def _find(table: str) -> Rows:
    """For each wanted message its id and the length of its frame, 0 and 0 for one that is not there."""
    mine = "realm = w.realm AND queue = w.queue AND generation = w.generation AND number = w.number"
    sql = (
        f"WITH w ({_KEY}) AS (VALUES {{rows}}) SELECT group_concat(ifnull("
        f"(SELECT id || ',' || length(frame) FROM {table} WHERE {mine}), '0,0')) FROM w"
    )
    return Rows(sql, 4)


def _removal(table: str) -> Rows:
    return Rows(f"DELETE FROM {table} WHERE id IN (VALUES {{rows}})", 1)


_FIND: Final = {MESSAGES: _find(MESSAGES), DEAD_MESSAGES: _find(DEAD_MESSAGES)}
_REMOVE: Final = {MESSAGES: _removal(MESSAGES), DEAD_MESSAGES: _removal(DEAD_MESSAGES)}
_POSTPONE: Final = Rows(
    "WITH w (id, deliveries, due_ms) AS (VALUES {rows}) UPDATE messages"
    " SET deliveries = w.deliveries, due_ms = w.due_ms FROM w WHERE messages.id = w.id",
    3,
)
_BURY: Final = Rows(
    f"WITH w (id, deliveries, generation, reason) AS (VALUES {{rows}}) INSERT INTO dead ({_COLUMNS}, reason)"
    " SELECT m.realm, m.queue, w.generation, m.number, m.at_ms, m.due_ms, m.expires_ms, m.priority,"
    " w.deliveries, m.ordering_key, m.frame, w.reason FROM w CROSS JOIN messages m ON m.id = w.id",
    4,
)
_REVIVE: Final = Rows(
    f"WITH w (id, due_ms, generation) AS (VALUES {{rows}}) INSERT INTO messages ({_COLUMNS})"
    " SELECT d.realm, d.queue, w.generation, d.number, d.at_ms, w.due_ms, 0, d.priority,"
    " 0, d.ordering_key, d.frame FROM w CROSS JOIN dead d ON d.id = w.id",
    3,
)


class QueueWriter:
    """Puts, settlements, purges and pauses. Puts, or settlements of one kind, are collected until something of
    another kind comes or ``flush``."""

    def __init__(self, connection: sqlite3.Connection, names: Names, keys: Keys, room: Room, options: Store) -> None:
        self._connection = connection
        self._names = names
        self._keys = keys
        self._room = room
        self._options = options
        self._rows: list[tuple[Any, ...]] = []  # Any: SQL values
        self._action = -1
        self._settled: dict[tuple[int, int], tuple[QueueRow, Settle]] = {}  # by queue and number

    def keys_of(self, batch: Iterable[Put]) -> list[tuple[int, int, str]]:
        """The keys of ``batch`` that may be known, for ``Keys.look_up``."""
        wanted = []
        for each in batch:
            if each.key:
                queue = self._names.queue(each.realm, each.queue, 0)
                if queue is not None:
                    wanted.append((queue.realm.number, queue.number, each.key))
        return wanted

    # --- what is submitted ----------------------------------------------------------------------------------------

    def put(self, batch: Iterable[Put]) -> None:
        """As ``IQueueStore.put``; an item without an error is stored when the transaction is committed."""
        if self._settled:
            self._settle_collected()
        realms = self._names.realms
        budget = self._names.budget
        room = self._room
        rows = self._rows
        for each in batch:
            realm = realms.get(each.realm)
            queue = realm.queues.get(each.queue) if realm is not None else None
            frame = each.frame
            size = len(frame) + OVERHEAD_BYTES
            if queue is None:
                queue = self._find(each, size)
                if queue is None:
                    continue
            if each.key and self._repeated(queue, each):
                continue
            held = queue.waiting_bytes + queue.dead_bytes + size
            if room.bytes < size or budget.realm_bytes_max or 0 < each.queue_bytes_max < held:
                refused = self._refusal(each, size, held)
                if refused:
                    each.error = Full(refused)
                    continue
            if not queue.changed:
                self._names.touch_queue(queue)
            number = each.number = queue.last = queue.last + 1
            queue.waiting += 1
            queue.waiting_bytes += size
            room.bytes -= size
            budget.add(each.realm, size)
            realm_number = queue.realm.number
            rows.append((
                realm_number, queue.number, queue.generation, number, each.at_ms, each.due_ms, each.expires_ms,
                each.priority, 0, each.ordering_key, frame,
            ))  # fmt: skip
            if each.key:
                self._keys.add(realm_number, queue.number, each.key, number, each.key_until_ms)

    def settle(self, batch: Sequence[Settle]) -> None:
        """As ``IQueueStore.settle``."""
        self._write_puts()
        names = self._names
        for each in batch:
            queue = names.queue(each.realm, each.queue, 0)
            if queue is None:
                each.error = NotFound(_missing(each))
                continue
            place = queue.number, each.number
            if each.action != self._action or place in self._settled:
                self._settle_collected()
                self._action = each.action
            self._settled[place] = queue, each

    def purge(self, realm: str, name: str, *, dead: bool) -> int | RelayError:
        """As ``IQueueStore.purge``: what was there belongs to a generation that is garbage now."""
        self.flush()
        queue = self._names.queue(realm, name, 0)
        if queue is None:
            return 0
        count = queue.dead if dead else queue.waiting
        if not count:
            return 0
        if not queue.changed:
            self._names.touch_queue(queue)
        kind, generation = (DEAD_MESSAGES, queue.dead_generation) if dead else (MESSAGES, queue.generation)
        self._connection.execute(
            "REPLACE INTO garbage VALUES (?, ?, ?, ?)", (queue.realm.number, kind, queue.number, generation)
        )
        if dead:
            self._names.budget.add(realm, -queue.dead_bytes)
            queue.dead = queue.dead_bytes = 0
            queue.dead_generation += 1
        else:
            self._names.budget.add(realm, -queue.waiting_bytes)
            queue.waiting = queue.waiting_bytes = 0
            queue.generation += 1
        return count

    def pause(self, realm: str, name: str, *, paused: bool) -> RelayError | None:
        """As ``IQueueStore.pause``."""
        queue = self._names.queue(realm, name, self._options.queues_max if paused else 0)
        if queue is None:
            return Full(f"the store has {self._names.queues} queues, its limit") if paused else None
        if not queue.changed:
            self._names.touch_queue(queue)
        queue.paused = int(paused)
        return None

    # --- the end of a transaction ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was collected."""
        self._write_puts()
        self._settle_collected()

    def rolled_back(self) -> None:
        """Forget what was collected."""
        self._rows.clear()
        self._settled.clear()

    # --- parts ----------------------------------------------------------------------------------------------------

    def _find(self, put: Put, size: int) -> QueueRow | None:
        """The queue of a message, new if need be; None, with the error in ``put``, when it may not be."""
        queue = self._names.queue(put.realm, put.queue, 0)
        if queue is not None:
            return queue
        refused = self._refusal(put, size, size)
        if not refused:
            queue = self._names.queue(put.realm, put.queue, self._options.queues_max)
            if queue is not None:
                return queue
            refused = f"the store has {self._names.queues} queues, its limit"
        put.error = Full(refused)
        return None

    def _refusal(self, put: Put, size: int, held: int) -> str:
        if 0 < put.queue_bytes_max < held:
            return f"the queue has no room: its limit is {put.queue_bytes_max} bytes"
        return self._room.refuses(size) or self._names.budget.refuses(put.realm, size)

    def _repeated(self, queue: QueueRow, put: Put) -> bool:
        number = self._keys.find(queue.number, put.key, put.at_ms)
        if number:
            put.number = number
            put.repeated = True
        return bool(number)

    def _write_puts(self) -> None:
        if self._rows:
            _WRITE.run(self._connection, self._rows)
            self._rows.clear()

    def _settle_collected(self) -> None:
        """Do what was collected with the messages that are there, and count."""
        if not self._settled:
            return
        table = DEAD_MESSAGES if self._action in (REVIVED, REMOVED) else MESSAGES
        keys = []
        for queue, each in self._settled.values():
            generation = queue.dead_generation if table is DEAD_MESSAGES else queue.generation
            keys.append((queue.realm.number, queue.number, generation, each.number))
        numbers = [int(each) for each in _FIND[table].texts(self._connection, keys)]
        found = []
        for place, (queue, each) in enumerate(self._settled.values()):
            row = numbers[2 * place]
            if not row:
                each.error = NotFound(_missing(each))
                continue
            found.append((row, queue, each))
            self._count(queue, numbers[2 * place + 1] + OVERHEAD_BYTES)
        self._settled.clear()
        self._write_settled(table, found)

    def _count(self, queue: QueueRow, size: int) -> None:
        """One message of ``size`` leaves its place for where the action puts it."""
        action = self._action
        if action == RETRY:
            return
        if not queue.changed:
            self._names.touch_queue(queue)
        if action in (ACKED, REMOVED):
            self._names.budget.add(queue.realm.name, -size)
        waiting = {ACKED: -1, DEAD: -1, REVIVED: 1, REMOVED: 0}[action]
        dead = {ACKED: 0, DEAD: 1, REVIVED: -1, REMOVED: -1}[action]
        queue.waiting += waiting
        queue.waiting_bytes += waiting * size
        queue.dead += dead
        queue.dead_bytes += dead * size

    def _write_settled(self, table: str, found: list[tuple[int, QueueRow, Settle]]) -> None:
        """``found`` has the id of each row."""
        connection = self._connection
        if self._action == RETRY:
            _POSTPONE.run(connection, [(row, each.deliveries, each.due_ms) for row, _, each in found])
            return
        if self._action == DEAD:
            rows = [(row, each.deliveries, queue.dead_generation, each.reason) for row, queue, each in found]
            _BURY.run(connection, rows)
        elif self._action == REVIVED:
            _REVIVE.run(connection, [(row, each.due_ms, queue.generation) for row, queue, each in found])
        _REMOVE[table].run(connection, [(row,) for row, _, _ in found])


def _missing(settle: Settle) -> str:
    return f"there is no message {settle.number} in queue {settle.queue}"
