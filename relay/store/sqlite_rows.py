"""Statements over many rows in few steps.

Python's sqlite3 lets go of the interpreter's lock around each step of a statement, and the writer then waits until the
loop lets go of it in turn: with a row a step a busy loop makes a commit ten times longer. So few rows go in with one
step, many by powers of two, up to ``ROWS_MAX`` with one step, and answers come out as one text.

    17 rows ─▶ one statement with 17 rows
    77 rows ─▶ one statement with 64 rows, one with 13
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

ROWS_MAX: Final = 512
"""Twice as many are not faster; a statement is parsed once for each number of rows."""
EXACT_MAX: Final = 32
"""So many rows go with one step: commits that are waited for have few."""
VARIABLES_MAX: Final = 32_766
"""SQLite's own limit for a statement, as it is compiled by default."""


class Rows:
    """A statement with ``{rows}`` where ``(?, …), (?, …)`` go, ``columns`` in each."""

    __slots__ = ("_columns", "_power_max", "_sql", "_statements")

    def __init__(self, sql: str, columns: int) -> None:
        assert "{rows}" in sql
        self._sql = sql
        self._columns = columns
        self._power_max = min(ROWS_MAX, VARIABLES_MAX // columns).bit_length() - 1
        self._statements: dict[int, str] = {}

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:  # Any: SQL values
        """Execute it with all ``rows``, in their order."""
        place = 0
        left = len(rows)
        while left:
            count = self._next(left)
            connection.execute(self._statement(count), list(chain.from_iterable(rows[place : place + count])))
            place += count
            left -= count

    def texts(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> list[str]:  # Any: as above
        """Execute it as a query whose one answer is a text with commas, '' or NULL; all their parts."""
        found: list[str] = []
        place = 0
        left = len(rows)
        while left:
            count = self._next(left)
            flat = list(chain.from_iterable(rows[place : place + count]))
            text = connection.execute(self._statement(count), flat).fetchone()[0]
            if text:
                found += text.split(",")
            place += count
            left -= count
        return found

    def _next(self, left: int) -> int:
        """How many of ``left`` rows go next."""
        return left if left <= EXACT_MAX else 1 << min(left.bit_length() - 1, self._power_max)

    def _statement(self, count: int) -> str:
        sql = self._statements.get(count)
        if sql is None:
            row = "(" + ",".join("?" * self._columns) + ")"
            sql = self._statements[count] = self._sql.replace("{rows}", ",".join([row] * count))
        return sql
