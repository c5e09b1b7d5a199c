"""How much more the file may hold: ``store.file_bytes_max`` less the pages in use, counted down until asked again.

Pages that trimming and acknowledgements set free count as room at once, though the file does not become smaller.
SQLite itself refuses to grow the file beyond ``page_max``, which lies above: acknowledgements and trimming, which may
need a page for a moment, still find one when publications are refused.
"""

from __future__ import annotations

import sqlite3
from typing import Final

RESERVE_BYTES: Final = 4_194_304
RESERVE_SHARE: Final = 20
"""Above the limit, SQLite may still use so much and one part in so many, for what makes room."""
ASKED_AGAIN: Final = 64
"""Transactions after which the file is asked again …"""
NEAR_BYTES: Final = 16_777_216
"""… or each time, when there is less room than this."""


class Room:
    """``bytes`` is what may still be added; ``refusing`` is why nothing may, when the disk was full."""

    def __init__(self, connection: sqlite3.Connection, path: str, file_bytes_max: int) -> None:
        self._connection = connection
        self._path = path
        self._max = file_bytes_max
        self._page_bytes: int = connection.execute("PRAGMA page_size").fetchone()[0]
        self._transactions = 0
        self.bytes = 0
        self.refusing = ""
        page_max = (file_bytes_max + file_bytes_max // RESERVE_SHARE + RESERVE_BYTES) // self._page_bytes
        connection.execute(f"PRAGMA max_page_count = {page_max}")
        self.ask()

    @property
    def used_bytes(self) -> int:
        """Pages in use."""
        execute = self._connection.execute
        pages: int = execute("PRAGMA page_count").fetchone()[0] - execute("PRAGMA freelist_count").fetchone()[0]
        return pages * self._page_bytes

    def ask(self) -> None:
        """Ask the file."""
        self.bytes = self._max - self.used_bytes
        self._transactions = 0

    def begin(self, refusing: str = "") -> None:
        """A transaction begins; ``refusing`` says why nothing may be added in it."""
        self.refusing = refusing
        if refusing:
            self.bytes = 0
            return
        self._transactions += 1
        if self._transactions >= ASKED_AGAIN or self.bytes < NEAR_BYTES:
            self.ask()

    def refuses(self, size: int) -> str:
        """Why ``size`` more bytes have no room, as a sentence; '' when they have."""
        if self.refusing:
            return self.refusing
        if self.bytes < size:
            return f"the store has no room: {self._path} is at its limit of {self._max} bytes"
        return ""
