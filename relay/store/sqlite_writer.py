"""One transaction for everything that waits: what the writer thread does, without the thread.

::

    BEGIN IMMEDIATE ─▶ look up keys ─▶ write each ─▶ flush ─▶ trim ─▶ rows of channels and queues ─▶ COMMIT
         │ SQLITE_FULL: ROLLBACK, forget all rows in mind, once more with what needs room refused as ``Full``
         │ SQLITE_BUSY: ROLLBACK, all fail with ``Unavailable``
         ╰ anything else: StoreFailed, and the caller ends the process

Nothing is completed before COMMIT has returned, with ``synchronous = FULL`` after the sync of the log. Offsets and
numbers that a rolled-back transaction gave are given again: nobody has seen them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

from relay.config_store import Store
from relay.errors import Full, InternalError, Unavailable
from relay.records import Append, Put
from relay.store.budget import Budget
from relay.store.sqlite_channels import ChannelWriter
from relay.store.sqlite_file import is_busy, is_full
from relay.store.sqlite_keys import Keys
from relay.store.sqlite_names import Names
from relay.store.sqlite_ops import AppendOp, Op, PutOp
from relay.store.sqlite_queues import QueueWriter
from relay.store.sqlite_room import Room
from relay.store.sqlite_rows import Rows
from relay.store.sqlite_trim import Trimmer

PAGE_SHARE: Final = 4096
"""What a row that changed in some page costs in the log, about: all of the page."""

UNFIT: Final = (OverflowError, UnicodeEncodeError)
"""Numbers over 63 bits, text that is not Unicode: they should have been refused where they came in."""

_SEEN: Final = Rows(
    "INSERT INTO users VALUES {rows} ON CONFLICT (realm, user) DO UPDATE SET seen_ms = max(seen_ms, excluded.seen_ms)",
    3,
)


class StoreFailed(Exception):
    """The file cannot be trusted any more; nothing is acknowledged after this."""


class SqliteCounters:
    """Plain counters, read at scrape time."""

    __slots__ = ("commits", "full", "messages")

    def __init__(self) -> None:
        self.commits = 0
        self.messages = 0  # appended, put and settled, the refused ones included
        self.full = 0  # transactions that met a full disk


class SqliteWriter:
    """The writing connection and all that goes with it; one thread at a time."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        options: Store,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._connection = connection
        self._path = path
        self._now_ms = now_ms
        self.counters = SqliteCounters()
        self.budget = Budget(0, options.realm_bytes_max)
        self.names = Names(connection, self.budget, random_bytes)
        self.keys = Keys(connection, options.keys_max)
        self.room = Room(connection, path, options.file_bytes_max)
        self.channels = ChannelWriter(connection, self.names, self.keys, self.room, options)
        self.queues = QueueWriter(connection, self.names, self.keys, self.room, options)
        self.trimmer = Trimmer(connection, self.names, self.channels, self.keys, options)
        self.logged_bytes = 0
        """About what went into the log; whoever copies it sets it back."""
        self.full = ""
        """Why the disk has no room, while it is so."""

    def run(self, ops: Sequence[Op]) -> None:
        """Do ``ops``, and some trimming, in one transaction. Afterwards each is stored or has an error.

        Raises ``StoreFailed``; then nobody knows about any of them.
        """
        ops = [op for op in ops if not op.refused]
        try:
            error = self._attempt(ops, "")
        except UNFIT as what:
            self._run_each(ops, what)
            return
        if error is None:
            self.full = ""
        elif is_full(error):
            self.counters.full += 1
            self.full = f"the store has no room: the disk of {self._path} is full"
            self.trimmer.give_up()
            for op in ops:
                op.reset()
            # What makes room may still be possible.
            error = self._attempt(ops, self.full) if ops else None
            if error is not None and is_full(error):
                for op in ops:
                    op.fail(Full(self.full))
                error = None
        if error is not None:
            if not is_busy(error):
                raise StoreFailed(f"{self._path}: {error}") from error
            for op in ops:
                op.fail(Unavailable(f"{self._path} is in use by another program"))

    def _run_each(self, ops: Sequence[Op], what: Exception) -> None:
        """One of ``ops`` holds a number or text that does not go into the file: find it, and do the others."""
        self._roll_back()
        if len(ops) > 1:
            for op in ops:
                self.run([op])
            return
        for op in ops:
            op.fail(InternalError(f"it cannot be stored: {what}", outcome="not_done"))

    def seen(self, batch: Sequence[tuple[str, str, int]]) -> None:
        """As ``IPresence.seen``, in a transaction."""
        rows = []
        for name, user, at_ms in batch:
            realm = self.names.realm(name, create=True)
            assert realm is not None
            rows.append((realm.number, user, at_ms))
        if not self.room.refusing:
            _SEEN.run(self._connection, rows)

    def checkpoint(self) -> None:
        """Copy the log into the file, as far as no reader needs it. Raises ``StoreFailed``."""
        checkpoint(self._connection, self._path)

    def _attempt(self, ops: Sequence[Op], refusing: str) -> sqlite3.Error | None:
        """One transaction; the error after which nothing of it is stored."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self.room.begin(refusing)
            self._look_up_keys(ops)
            self._write(ops)
            self.channels.flush()
            self.queues.flush()
            self.keys.flush()
            self.trimmer.step(self._now_ms())
            rows = self.names.flush()
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return error
        self.names.committed()
        self.keys.ended(committed=True)
        self.counters.commits += 1
        self.logged_bytes += (rows + 1) * PAGE_SHARE
        for op in ops:
            self.counters.messages += op.messages
            self.logged_bytes += op.size
        return None

    def _write(self, ops: Sequence[Op]) -> None:
        """Do ``ops`` in their order, but for one thing: appends and puts have nothing to do with one another, so each
        kind is done for many batches at once, until something of another kind comes."""
        appends: list[Sequence[Append]] = []
        puts: list[Sequence[Put]] = []
        for op in ops:
            if type(op) is AppendOp:
                appends.append(op.batch)
            elif type(op) is PutOp:
                puts.append(op.batch)
            else:
                self._write_batches(appends, puts)
                op.write(self)
        self._write_batches(appends, puts)

    def _write_batches(self, appends: list[Sequence[Append]], puts: list[Sequence[Put]]) -> None:
        if appends:
            self.channels.append(chain.from_iterable(appends))
            appends.clear()
        if puts:
            self.queues.put(chain.from_iterable(puts))
            puts.clear()

    def _look_up_keys(self, ops: Sequence[Op]) -> None:
        wanted: list[tuple[int, int, str]] = []
        for op in ops:
            if op.keyed:
                wanted += op.keys(self)
        if wanted:
            self.keys.look_up(wanted)

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self.channels.rolled_back()
            self.queues.rolled_back()
            self.names.rolled_back()
            self.keys.ended(committed=False)
        except sqlite3.Error as error:
            raise StoreFailed(f"{self._path}: {error}") from error


def checkpoint(connection: sqlite3.Connection, path: str) -> int:
    """Copy the log into the file; the bytes of the log that is in use, copied or not.

    A full disk leaves it for later. Raises ``StoreFailed`` for other errors.
    """
    try:
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        page_bytes: int = connection.execute("PRAGMA page_size").fetchone()[0]
        return max(0, int(pages)) * page_bytes
    except sqlite3.Error as error:
        if is_full(error) or is_busy(error):
            return 0
        raise StoreFailed(f"{path}: {error}") from error
