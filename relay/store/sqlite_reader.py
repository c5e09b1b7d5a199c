"""What is read from the SQLite store: queries for a thread of their own, beside the writer.

Frames come out joined, with their lengths in a text beside them: one step of a statement instead of one for each row,
for the reason in ``relay.store.sqlite_rows``. ``group_concat`` takes blobs as they are, and in the order in which its
subquery gives the rows; the lengths are compared with what came.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from relay.errors import NotFound, RelayError, Unavailable
from relay.records import Item, Page, Publication, QueueState, Range
from relay.store.budget import READ_BYTES_MAX
from relay.store.forgotten import slot
from relay.store.sqlite_file import is_busy
from relay.store.sqlite_schema import FORGOTTEN

_CHANNEL: Final = (
    "SELECT c.realm, c.channel, c.epoch, c.last, c.retained_bytes FROM realms r JOIN channel_names n ON n.realm = r.id"
    " JOIN channels c ON c.realm = n.realm AND c.channel = n.channel WHERE r.name = ? AND n.name = ?"
)
_LIVE: Final = "realm = ? AND channel = ? AND (expires_ms = 0 OR expires_ms > ?)"
_FIRST: Final = f"SELECT offset FROM publications WHERE {_LIVE} ORDER BY offset LIMIT 1"
_RETAINED: Final = f"SELECT offset, at_ms, expires_ms, frame FROM retained WHERE {_LIVE}"
_NEAREST: Final = (
    "SELECT offset, at_ms FROM publications WHERE realm = ? AND channel = ? AND offset >= ? ORDER BY offset LIMIT 1"
)
_PAGE: Final = (
    "SELECT group_concat(offset || ',' || at_ms || ',' || expires_ms || ',' || length(frame)),"
    " CAST(group_concat(frame, '') AS BLOB) FROM (SELECT offset, at_ms, expires_ms, frame FROM (SELECT *,"
    " sum(length(frame)) OVER (ORDER BY offset {order} ROWS UNBOUNDED PRECEDING) - length(frame) AS before"
    f" FROM (SELECT offset, at_ms, expires_ms, frame FROM publications WHERE {_LIVE}"
    " AND offset > ? AND offset < ? ORDER BY offset {order} LIMIT ?)) WHERE before < ? ORDER BY offset {order})"
)
_PAGE_FORWARDS: Final = _PAGE.format(order="ASC")
_PAGE_BACKWARDS: Final = _PAGE.format(order="DESC")
_QUEUE: Final = (
    "SELECT q.realm, q.queue, q.generation, q.dead_generation FROM realms r JOIN queue_names n ON n.realm = r.id"
    " JOIN queues q ON q.realm = n.realm AND q.queue = n.queue WHERE r.name = ? AND n.name = ?"
)
_ITEMS: Final = (
    "SELECT json_group_array(json_array(number, at_ms, due_ms, expires_ms, priority, deliveries, ordering_key,"
    " length(frame), reason)), CAST(group_concat(frame, '') AS BLOB) FROM (SELECT * FROM (SELECT *,"
    " sum(length(frame)) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - length(frame) AS before"
    " FROM (SELECT *{reason} FROM {table} WHERE realm = ? AND queue = ? AND generation = ? AND number > ?"
    " AND (expires_ms = 0 OR expires_ms > ?) ORDER BY number LIMIT ?)) WHERE before < ? ORDER BY number)"
)
_WAITING: Final = _ITEMS.format(table="messages", reason=", '' AS reason")
_DEAD: Final = _ITEMS.format(table="dead", reason="")
_STATES: Final = (
    "SELECT r.name, n.name, q.waiting, q.dead, q.waiting_bytes + q.dead_bytes, ifnull((SELECT number FROM messages m"
    " WHERE m.realm = q.realm AND m.queue = q.queue AND m.generation = q.generation ORDER BY number LIMIT 1), 0),"
    " q.last, q.paused FROM queue_names n JOIN queues q ON q.realm = n.realm AND q.queue = n.queue"
    " JOIN realms r ON r.id = n.realm WHERE q.waiting > 0 OR q.dead > 0 OR q.paused"
)
_SEEN: Final = "SELECT u.seen_ms FROM realms r JOIN users u ON u.realm = r.id WHERE r.name = ? AND u.user = ?"
_FORGOTTEN: Final = "SELECT ifnull(sum(value), 0) FROM counters WHERE name IN (?, ?)"
_OFFSET_MAX: Final = (1 << 63) - 1


class SqliteReader:
    """The reading connection; one thread at a time. Everything raises ``sqlite3.Error``."""

    def __init__(self, connection: sqlite3.Connection, now_ms: Callable[[], int]) -> None:
        self._connection = connection
        self._now_ms = now_ms

    def read(self, wanted: Range) -> Page:
        """As ``IHistory.read``."""
        execute = self._connection.execute
        execute("BEGIN")  # all of it as of one moment
        try:
            row = execute(_CHANNEL, (wanted.realm, wanted.channel)).fetchone()
            if row is None:
                return Page("", 1, 0, forgotten=self._forgotten(wanted))
            realm, channel, epoch, last, retained_bytes = row
            live = realm, channel, self._now_ms()
            found = execute(_FIRST, live).fetchone()
            first = found[0] if found is not None else last + 1
            retained = None
            if retained_bytes:
                value = execute(_RETAINED, live).fetchone()
                retained = Publication(*value) if value is not None else None
            publications: tuple[Publication, ...] = ()
            if wanted.limit > 0:
                after = min(wanted.after, _OFFSET_MAX)
                if wanted.since_ms:
                    after = max(after, self._first_since(realm, channel, first, last, wanted.since_ms) - 1)
                sql = _PAGE_BACKWARDS if wanted.backwards else _PAGE_FORWARDS
                before = min(wanted.before or _OFFSET_MAX, _OFFSET_MAX)
                bytes_max = wanted.bytes_max or READ_BYTES_MAX
                text, frames = execute(sql, (*live, after, before, wanted.limit, bytes_max)).fetchone()
                publications = _publications(text, frames)
            forgotten = 0 if wanted.after else self._forgotten(wanted)
            return Page(epoch, first, last, publications, retained, None, forgotten)
        finally:
            execute("COMMIT")

    def _forgotten(self, wanted: Range) -> int:
        place = str(slot(wanted.realm, wanted.channel))
        number: int = self._connection.execute(_FORGOTTEN, (FORGOTTEN, f"{FORGOTTEN}.{place}")).fetchone()[0]
        return number

    def load(self, realm: str, queue: str, after: int, limit: int, *, dead: bool) -> Sequence[Item]:
        """As ``IQueueStore.load``."""
        execute = self._connection.execute
        execute("BEGIN")
        try:
            row = execute(_QUEUE, (realm, queue)).fetchone()
            if row is None or limit <= 0:
                return []
            number, queue_number, generation, dead_generation = row
            after = min(after, _OFFSET_MAX)
            if dead:
                sql, place = _DEAD, (number, queue_number, dead_generation, after, -1)  # the dead do not expire
            else:
                sql, place = _WAITING, (number, queue_number, generation, after, self._now_ms())
            return _items(*execute(sql, (*place, limit, READ_BYTES_MAX)).fetchone())
        finally:
            execute("COMMIT")

    def states(self) -> Sequence[QueueState]:
        """As ``IQueueStore.states``."""
        rows: list[Any] = self._connection.execute(_STATES).fetchall()  # Any: SQL values
        return [
            QueueState(realm, queue, waiting, dead, size, first, last, bool(paused))
            for realm, queue, waiting, dead, size, first, last, paused in rows
        ]

    def last_seen(self, realm: str, user: str) -> int:
        """As ``IPresence.last_seen``."""
        row = self._connection.execute(_SEEN, (realm, user)).fetchone()
        return int(row[0]) if row is not None else 0

    def _first_since(self, realm: int, channel: int, low: int, last: int, since_ms: int) -> int:
        """The lowest offset that was accepted at or after ``since_ms``, found by halving: times grow with offsets."""
        high = last + 1
        while low < high:
            middle = (low + high) // 2
            row = self._connection.execute(_NEAREST, (realm, channel, middle)).fetchone()
            if row is None or row[1] >= since_ms:
                high = middle
            else:
                low = row[0] + 1
        return low


class Read:
    """One question: made in the loop, answered by the reader, completed in the loop."""

    __slots__ = ("_ask", "_done", "_failed", "_result")

    def __init__(
        self,
        ask: Callable[[SqliteReader], object],
        done: Callable[[Any], None],  # Any: what ``ask`` gives, or what ``failed`` does
        failed: Callable[[RelayError], object],
    ) -> None:
        self._ask = ask
        self._done = done
        self._failed = failed
        self._result: object = None

    def run(self, reader: SqliteReader) -> None:
        """Find the answer. Raises ``sqlite3.Error`` when the file cannot be trusted any more."""
        try:
            self._result = self._ask(reader)
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
            self.fail(Unavailable("the store's file is in use by another program"))
        except (OverflowError, UnicodeEncodeError) as error:  # what nobody can have stored
            self.fail(NotFound(f"it cannot be looked for: {error}"))

    def fail(self, error: RelayError) -> None:
        """There is no answer."""
        self._result = self._failed(error)

    def complete(self) -> None:
        """Tell whoever asked."""
        self._done(self._result)


def _publications(text: str | None, frames: bytes | None) -> tuple[Publication, ...]:
    if not text or frames is None:
        return ()
    numbers = [int(each) for each in text.split(",")]
    found = []
    place = 0
    for index in range(0, len(numbers), 4):
        offset, at_ms, expires_ms, size = numbers[index : index + 4]
        found.append(Publication(offset, at_ms, expires_ms, frames[place : place + size]))
        place += size
    assert place == len(frames)
    return tuple(found)


def _items(text: str, frames: bytes | None) -> list[Item]:
    found = []
    place = 0
    rows: list[Any] = msgspec.json.decode(text)  # Any: SQL values
    for number, at_ms, due_ms, expires_ms, priority, deliveries, ordering_key, size, reason in rows:
        frame = (frames or b"")[place : place + size]
        found.append(Item(number, at_ms, due_ms, expires_ms, priority, deliveries, ordering_key, frame, reason))
        place += size
    assert place == len(frames or b"")
    return found
