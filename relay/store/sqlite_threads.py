"""The three threads of a SQLite store: one writes, one reads, one copies the log into the file.

::

    loop ─ submit ─▶ waiting ─▶ writer: everything that waits, in one transaction ─▶ loop, once for all of it
    loop ─ ask ────▶ questions ▶ reader: one after the other                      ─▶ loop, once for what was ready
                                 writer ─ enough in the log ─▶ keeper: checkpoint

What is submitted while a commit runs is in the next one: group commit. The keeper copies while the writer goes on; the
log begins anew when all of it was copied, so when it has become large all the same the writer copies the rest itself,
which is little.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relay.errors import Unavailable
from relay.store.sqlite_ops import Op
from relay.store.sqlite_reader import Read
from relay.store.sqlite_writer import StoreFailed, checkpoint

if TYPE_CHECKING:
    from relay.store.sqlite import SqliteStore

READS_MAX: Final = 64
"""Answers that cross to the loop together, at most."""
SELF_COPIED: Final = 4
"""When the log is so many times ``store.wal_bytes``, the writer copies."""

SWITCH_INTERVAL_S: Final = 0.0005
"""The writer asks for the interpreter's lock after each step of a statement; a busy loop lets go of it after this, in
the whole process. With Python's own 5 ms a commit of a few steps takes longer than the disk."""


class SqliteThreads:
    """Runs an opened store until ``stop``. ``call_in_loop(f, *args)`` is ``reactor.callFromThread`` or alike."""

    def __init__(
        self, store: SqliteStore, keeper: sqlite3.Connection, wal_bytes: int, call_in_loop: Callable[..., object]
    ) -> None:
        self._store = store
        self._connection = keeper
        self._wal_bytes = wal_bytes
        self._call_in_loop = call_in_loop
        self._stopping = False
        self._written = threading.Condition()
        self._writer_waits = False
        self._asked = threading.Condition()
        self._reader_waits = False
        self._copy = threading.Event()
        self._copying = threading.Lock()
        self._uncopied = 0  # bytes logged since a copying began, about
        self._behind = False  # the log is much larger than it should be
        self._ended = False  # the writer has
        self._writer = threading.Thread(target=self._run_writer, name="store-writer", daemon=True)
        self._reader = threading.Thread(target=self._run_reader, name="store-reader", daemon=True)
        self._keeper = threading.Thread(target=self._run_keeper, name="store-keeper", daemon=True)

    def start(self) -> None:
        """Start them."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        for each in (self._writer, self._reader, self._keeper):
            each.start()

    def stop(self) -> None:
        """Finish what waits, then end; ``store.closed`` is called in the loop when the last has ended."""
        self._stopping = True
        with self._written:
            self._written.notify()

    def wake_writer(self) -> None:
        """Something was submitted."""
        # The writer sets the flag before it looks at the queue, the loop appends before it looks at the flag.
        if self._writer_waits:
            with self._written:
                self._written.notify()

    def wake_reader(self) -> None:
        """Something was asked."""
        if self._reader_waits:
            with self._asked:
                self._asked.notify()

    # --- the writer -----------------------------------------------------------------------------------------------

    def _run_writer(self) -> None:
        store = self._store
        writer = store.writer
        ops: list[Op] = []
        try:
            while self._work():
                ops = store.take()
                writer.run(ops)
                if ops:
                    self._call_in_loop(store.complete, ops)
                    ops = []
                self._after_commit()
        except Exception as error:  # noqa: BLE001 - also a mistake of ours must not leave everyone waiting
            store.fail(error)
            for op in ops:
                if not op.refused:
                    op.fail(Unavailable("the store has failed", outcome="unknown"))
            self._call_in_loop(store.complete, ops)
        self._ended = True
        with self._asked:
            self._asked.notify()
        self._copy.set()
        self._reader.join()
        self._keeper.join()
        self._call_in_loop(store.closed)

    def _work(self) -> bool:
        """Wait for something to do; False when there is nothing more."""
        store = self._store
        if store.has_work():
            return True
        with self._written:
            self._writer_waits = True
            while not store.has_work() and not self._stopping:
                self._written.wait()
            self._writer_waits = False
        return store.has_work()

    def _after_commit(self) -> None:
        writer = self._store.writer
        if writer.logged_bytes >= self._wal_bytes:
            self._uncopied += writer.logged_bytes
            writer.logged_bytes = 0
            self._copy.set()
        if self._behind or self._uncopied >= self._wal_bytes * SELF_COPIED:
            with self._copying:  # commits wait here for the keeper: else the log would grow without end
                self._behind = False
                self._uncopied = 0
                writer.checkpoint()

    # --- the others -----------------------------------------------------------------------------------------------

    def _run_reader(self) -> None:
        store = self._store
        questions = store.questions
        try:
            while True:
                if not questions:
                    with self._asked:
                        self._reader_waits = True
                        while not questions and not self._ended:
                            self._asked.wait()
                        self._reader_waits = False
                if not questions:
                    return  # the writer has ended: what it stored last can be read until then
                answered: list[Read] = []
                while questions and len(answered) < READS_MAX:
                    each = questions.popleft()
                    each.run(store.reader)
                    answered.append(each)
                self._call_in_loop(store.answered, answered)
        except Exception as error:  # noqa: BLE001 - as above
            store.fail(error)

    def _run_keeper(self) -> None:
        try:
            while not self._ended:
                self._copy.wait()
                self._copy.clear()
                with self._copying:
                    self._uncopied = 0  # what is logged from now on counts again
                    size = checkpoint(self._connection, self._store.path)
                if size >= self._wal_bytes * SELF_COPIED:
                    self._behind = True
        except StoreFailed as error:
            self._store.fail(error)
