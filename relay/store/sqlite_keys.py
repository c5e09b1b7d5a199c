"""Idempotency keys in the file: looked up for a whole transaction at once, written with it.

::

    look_up([(realm, owner, key), …])  ─▶ find(owner, key, now_ms) …  add(…) …  ─▶ flush
         one query for all of them         also what this transaction added
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from relay.store.sqlite_rows import Rows

_FIND: Final = Rows(
    "WITH wanted (place, realm, owner, key) AS (VALUES {rows})"
    " SELECT group_concat(wanted.place || ',' || keys.place || ',' || keys.until_ms) FROM wanted JOIN keys"
    " ON keys.realm = wanted.realm AND keys.owner = wanted.owner AND keys.key = wanted.key",
    4,
)
_WRITE: Final = Rows("REPLACE INTO keys VALUES {rows}", 5)
_OLDEST: Final = (
    "SELECT realm, owner, key FROM keys INDEXED BY keys_by_age WHERE until_ms <= ? ORDER BY until_ms LIMIT ?"
)
_REMOVE: Final = f"DELETE FROM keys WHERE (realm, owner, key) IN ({_OLDEST})"
_FOR_EVER_MS: Final = 1 << 62


class Keys:
    """The keys of all channels and queues."""

    def __init__(self, connection: sqlite3.Connection, keys_max: int) -> None:
        self._connection = connection
        self._keys_max = keys_max
        self._found: dict[tuple[int, str], tuple[int, int]] = {}
        self._added: list[tuple[int, int, str, int, int]] = []
        self._count = 0
        self.recount()

    def recount(self) -> None:
        """Count what the file holds: once, when it is opened."""
        self._count = self._connection.execute("SELECT count(*) FROM keys").fetchone()[0]

    def look_up(self, wanted: Sequence[tuple[int, int, str]]) -> None:
        """Read what the file says about these keys, each as realm, owner and key."""
        rows = [(place, *each) for place, each in enumerate(wanted)]
        numbers = [int(each) for each in _FIND.texts(self._connection, rows)]
        for index in range(0, len(numbers), 3):
            _, owner, key = wanted[numbers[index]]
            self._found[owner, key] = numbers[index + 1], numbers[index + 2]

    def find(self, owner: int, key: str, now_ms: int) -> int:
        """The offset or number stored under ``key``; 0 when there is none, or its window has passed."""
        place, until_ms = self._found.get((owner, key), (0, 0))
        return place if until_ms > now_ms else 0

    def add(self, realm: int, owner: int, key: str, place: int, until_ms: int) -> None:
        """Remember ``place`` under ``key``."""
        if (owner, key) not in self._found:
            self._count += 1
        self._found[owner, key] = place, until_ms
        self._added.append((realm, owner, key, place, until_ms))

    def flush(self) -> None:
        """Write what was added, before COMMIT."""
        added = self._added
        if not added:
            return
        last_wins = {each[1:3]: each for each in added}
        _WRITE.run(self._connection, list(last_wins.values()))
        added.clear()

    def ended(self, *, committed: bool) -> None:
        """The transaction is over."""
        self._found.clear()
        self._added.clear()
        if not committed:
            self.recount()

    def trim(self, now_ms: int, rows_max: int) -> int:
        """Remove at most ``rows_max`` keys: those whose window has passed and, when there are too many, the oldest.
        How many there were."""
        removed = self._remove(now_ms, rows_max)
        surplus = min(self._count - self._keys_max, rows_max - removed)
        return removed + (self._remove(_FOR_EVER_MS, surplus) if surplus > 0 else 0)

    def _remove(self, until_ms: int, rows_max: int) -> int:
        removed = self._connection.execute(_REMOVE, (until_ms, rows_max)).rowcount
        self._count -= removed
        return removed
