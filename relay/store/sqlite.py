"""The store in a SQLite file: what it acknowledged is on the disk.

::

    loop      history, queues, presence ─▶ submit ─▶ waiting ─▶ take      complete ─▶ done(batch), in order
                                        ─▶ ask ────▶ questions            answered ─▶ done(page …), in order
    threads                                       run ─▶ SqliteWriter ──────╯
    (sqlite_threads)                              run ─▶ SqliteReader

``open`` is called in the thread that starts the node, before anything listens. A test drives the same code without
threads by ``run_once``. ``docs/store.md`` has the promise, the limits and the figures.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from relay.config_store import Store
from relay.errors import Full, RelayError, Unavailable
from relay.interfaces import IHistory, IPresence, IQueueStore
from relay.records import Append, Item, Page, Put, QueueState, Range, Settle
from relay.store.sqlite_file import StoreFile, end_process
from relay.store.sqlite_ops import AppendOp, CallOp, Op, PutOp, SettleOp
from relay.store.sqlite_reader import Read, SqliteReader
from relay.store.sqlite_threads import SqliteThreads
from relay.store.sqlite_writer import SqliteWriter

log = Logger()


class SqliteStore:
    """``history``, ``queues`` and ``presence`` are the stores; ``now_ms`` gives Unix time in ms, from any thread.

    ``on_fatal`` is called, in whatever thread, with what makes the file unusable; the default ends the process.
    """

    def __init__(
        self,
        path: str,
        options: Store,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        *,
        on_fatal: Callable[[BaseException], object] = end_process,
    ) -> None:
        self.path = path
        self.options = options
        self.history = SqliteHistory(self)
        self.queues = SqliteQueues(self)
        self.presence = SqlitePresence(self)
        self.waiting: deque[Op] = deque()
        self.questions: deque[Read] = deque()
        self.failed: BaseException | None = None
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._on_fatal = on_fatal
        self._file = StoreFile(path, options.cache_bytes)
        self._connections: list[sqlite3.Connection] = []
        self._writer: SqliteWriter | None = None
        self._reader: SqliteReader | None = None
        self._threads: SqliteThreads | None = None
        self._waiting_bytes = 0
        self._refused_bytes = 0
        self._stopped: Deferred[None] | None = None
        self._full_told = False
        self._full_seen = 0

    # --- life -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file, or make it. Raises ``ConfigError`` with one sentence."""
        connection = self._file.open()
        try:
            self._connections.append(connection)
            self._writer = SqliteWriter(connection, self.path, self.options, self._now_ms, self._random_bytes)
            reader = self._file.reader()
            self._connections.append(reader)
            self._reader = SqliteReader(reader, self._now_ms)
        except sqlite3.Error as error:
            self._close()
            raise self._file.refusal(error) from None

    def start(self, call_in_loop: Callable[..., object]) -> None:
        """Begin to work; ``call_in_loop`` is ``reactor.callFromThread``."""
        keeper = self._file.keeper()
        self._connections.append(keeper)
        self._threads = SqliteThreads(self, keeper, self.options.wal_bytes, call_in_loop)
        self._threads.start()

    def stop(self) -> Deferred[None]:
        """Store what waits, then close; nothing can be submitted any more. Fires when the file is closed."""
        again: Deferred[None] = Deferred()
        if self._stopped is not None:
            self._stopped.chainDeferred(again)
            return again
        self.presence.flush()
        self._stopped = Deferred()
        self._stopped.chainDeferred(again)
        if self._threads is not None:
            self._threads.stop()
        else:
            self._close()
            self._stopped.callback(None)
        return again

    @property
    def writer(self) -> SqliteWriter:
        """For the writer's thread."""
        assert self._writer is not None, "the store is not open"
        return self._writer

    @property
    def reader(self) -> SqliteReader:
        """For the reader's thread."""
        assert self._reader is not None, "the store is not open"
        return self._reader

    def figures(self) -> dict[str, int]:
        """See ``Stores.figures``; empty before it is open. ``room_bytes``: what the file may still take."""
        writer = self._writer
        if writer is None:
            return {}
        counters = writer.counters
        return {
            "commits": counters.commits, "messages": counters.messages, "refusals": counters.full,
            "full": int(bool(writer.full)), "waiting_bytes": self._waiting_bytes,
            "room_bytes": max(0, writer.room.bytes),
        }  # fmt: skip

    def tick(self) -> None:
        """Once in ``store.trim_interval_s``: look for what is to be trimmed, and write who was seen."""
        self.presence.flush()
        self._tell_room()
        self.submit(CallOp(lambda writer: writer.trimmer.tick(), None))

    def run_once(self) -> None:
        """What the threads do, in this one, until nothing is left to do: for tests and tools."""
        while self.has_work():
            ops = self.take()
            self.writer.run(ops)
            self.complete(ops)
        while self.questions:
            question = self.questions.popleft()
            question.run(self.reader)
            self.answered([question])

    # --- the loop's side ------------------------------------------------------------------------------------------

    def submit(self, op: Op) -> None:
        """Have ``op`` done. What is over ``store.waiting_bytes_max`` is refused, in its turn; when as much again waits
        to be refused, at once."""
        if self._stopped is not None or self.failed is not None:
            op.fail(Unavailable("the store is closed"))
            op.complete()
            return
        limit = self.options.waiting_bytes_max
        if self._waiting_bytes + op.size > limit and self._waiting_bytes:
            op.refused = True
            op.fail(Full(f"the store is slow: {self._waiting_bytes} bytes wait for the disk"))
            if self._refused_bytes + op.size > limit:
                op.complete()
                return
            self._refused_bytes += op.size
        else:
            self._waiting_bytes += op.size
        self.waiting.append(op)
        if self._threads is not None:
            self._threads.wake_writer()

    def ask(self, question: Read) -> None:
        """Have ``question`` answered."""
        if self._stopped is not None or self.failed is not None:
            question.fail(Unavailable("the store is closed"))
            question.complete()
            return
        self.questions.append(question)
        if self._threads is not None:
            self._threads.wake_reader()

    def complete(self, ops: Sequence[Op]) -> None:
        """``ops`` are stored, or have an error: tell their owners."""
        for op in ops:
            if op.refused:
                self._refused_bytes -= op.size
            else:
                self._waiting_bytes -= op.size
        for op in ops:
            try:
                op.complete()
            except Exception:  # noqa: BLE001 - a mistake of one owner must not keep the others from knowing
                log.failure("completing what was stored")
        full = self.writer.full
        if full and not self._full_told:
            self._full_told = True
            log.error("{full}; what is to be stored is refused until there is room", full=full)

    def answered(self, questions: Sequence[Read]) -> None:
        """``questions`` have their answers: tell who asked."""
        for each in questions:
            try:
                each.complete()
            except Exception:  # noqa: BLE001 - as above
                log.failure("completing what was read")

    def closed(self) -> None:
        """The threads have ended: close the file. What still waits, after a failure, is told that it is lost."""
        lost = [*self.waiting]
        self.waiting.clear()
        for op in lost:
            if not op.refused:
                op.fail(Unavailable("the store has failed"))
        self.complete(lost)
        questions = [*self.questions]
        self.questions.clear()
        for question in questions:
            question.fail(Unavailable("the store has failed"))
        self.answered(questions)
        self._close()
        if self._stopped is not None:
            self._stopped.callback(None)

    # --- the threads' side ----------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether a transaction is worth while."""
        return bool(self.waiting) or (self._writer is not None and self._writer.trimmer.busy and self._stopped is None)

    def take(self) -> list[Op]:
        """What goes into the next transaction; none: only trimming."""
        ops: list[Op] = []
        left = self.options.commit_messages_max
        waiting = self.waiting
        while waiting:
            messages = waiting[0].messages
            if ops and messages > left:
                break
            left -= messages
            ops.append(waiting.popleft())
        return ops

    def fail(self, error: BaseException) -> None:
        """The file cannot be used any more."""
        if self.failed is None:
            self.failed = error
        self._on_fatal(error)

    def _close(self) -> None:
        for each in self._connections:
            each.close()
        self._connections.clear()
        self._file.close()

    def _tell_room(self) -> None:
        """Say that there is room again, when nothing has met a full disk for some time: small things fit while large
        ones do not."""
        if self._writer is None:
            return
        met = self._writer.counters.full
        if self._full_told and met == self._full_seen and not self._writer.full:
            self._full_told = False
            log.info("the disk of {path} has room again", path=self.path)
        self._full_seen = met


@implementer(IHistory)
class SqliteHistory:
    """``IHistory`` of a SQLite store."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def append(self, batch: Sequence[Append], done: Callable[[Sequence[Append]], None]) -> None:
        """As ``IHistory``."""
        self._store.submit(AppendOp(batch, done))

    def read(self, wanted: Range, done: Callable[[Page], None]) -> None:
        """As ``IHistory``."""
        self._store.ask(Read(lambda reader: reader.read(wanted), done, lambda error: Page("", 1, 0, error=error)))

    def purge(self, realm: str, channel: str, done: Callable[[RelayError | None], None]) -> None:
        """As ``IHistory``."""
        self._store.submit(CallOp(lambda writer: writer.channels.purge(realm, channel), done))


@implementer(IQueueStore)
class SqliteQueues:
    """``IQueueStore`` of a SQLite store."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def put(self, batch: Sequence[Put], done: Callable[[Sequence[Put]], None]) -> None:
        """As ``IQueueStore``."""
        self._store.submit(PutOp(batch, done))

    def settle(self, batch: Sequence[Settle], done: Callable[[Sequence[Settle]], None] | None) -> None:
        """As ``IQueueStore``."""
        self._store.submit(SettleOp(batch, done))

    def load(
        self, realm: str, queue: str, after: int, limit: int, dead: bool,
        done: Callable[[Sequence[Item] | RelayError], None],
    ) -> None:  # fmt: skip
        """As ``IQueueStore``."""
        self._store.ask(Read(lambda reader: reader.load(realm, queue, after, limit, dead=dead), done, _itself))

    def states(self, done: Callable[[Sequence[QueueState] | RelayError], None]) -> None:
        """As ``IQueueStore``."""
        self._store.ask(Read(lambda reader: reader.states(), done, _itself))

    def purge(self, realm: str, queue: str, dead: bool, done: Callable[[int | RelayError], None]) -> None:
        """As ``IQueueStore``."""
        self._store.submit(CallOp(lambda writer: writer.queues.purge(realm, queue, dead=dead), done))

    def pause(self, realm: str, queue: str, paused: bool, done: Callable[[RelayError | None], None]) -> None:
        """As ``IQueueStore``."""
        self._store.submit(CallOp(lambda writer: writer.queues.pause(realm, queue, paused=paused), done))


@implementer(IPresence)
class SqlitePresence:
    """``IPresence`` of a SQLite store: who was seen is written at the next tick, and known before."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._unwritten: dict[tuple[str, str], int] = {}
        self._writing: list[dict[tuple[str, str], int]] = []

    def seen(self, batch: Sequence[tuple[str, str, int]]) -> None:
        """As ``IPresence``."""
        unwritten = self._unwritten
        for realm, user, at_ms in batch:
            unwritten[realm, user] = max(at_ms, unwritten.get((realm, user), 0))
        if len(unwritten) >= self._store.options.commit_messages_max:
            self.flush()

    def last_seen(self, realm: str, user: str, done: Callable[[int | RelayError], None]) -> None:
        """As ``IPresence``."""
        for unwritten in (self._unwritten, *reversed(self._writing)):
            at_ms = unwritten.get((realm, user))
            if at_ms is not None:
                done(at_ms)
                return
        self._store.ask(Read(lambda reader: reader.last_seen(realm, user), done, _itself))

    def flush(self) -> None:
        """Have everything written."""
        if not self._unwritten:
            return
        writing = self._unwritten
        self._unwritten = {}
        self._writing.append(writing)
        rows = [(realm, user, at_ms) for (realm, user), at_ms in writing.items()]

        def done(_: object) -> None:
            self._writing.remove(writing)

        self._store.submit(CallOp(lambda writer: writer.seen(rows), done))


def _itself(error: Any) -> Any:  # Any: a RelayError
    return error
