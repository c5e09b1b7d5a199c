"""The stores of a node: what is kept in memory, what is durable. Each is made when it is first asked for.

::

    history_memory ─────────────────────────▶ MemoryStore
    history_durable, queue_store, presence ─▶ the store that ``store.kind`` names

``start`` opens those that were asked for until then, so a node with nothing durable opens no file and does not load
SQLite. One that is first asked for later, after a new configuration, is opened there and then.
"""

from __future__ import annotations

import os
import os.path
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from relay.config_store import Store
from relay.interfaces import IHistory, IPresence, IQueueStore
from relay.store.memory import MemoryStore

if TYPE_CHECKING:
    from relay.store.sqlite import SqliteStore

log = Logger()


class Stores:
    """``reactor`` is an IReactorTime that threads may call; ``now_s`` gives Unix time in s, from any thread."""

    def __init__(
        self,
        options: Store,
        data: str,
        reactor: Any,  # Any: IReactorTime and IReactorFromThreads
        now_s: Callable[[], float],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._options = options
        self._data = data
        self._reactor = reactor
        self._now_s = now_s
        self._random_bytes = random_bytes
        self._memory: MemoryStore | None = None
        self._sqlite: SqliteStore | None = None
        self._ticker: LoopingCall | None = None

    # --- the stores -----------------------------------------------------------------------------------------------

    @property
    def history_memory(self) -> IHistory:
        """For channels whose publications may be lost when the node stops."""
        return self._in_memory().history

    @property
    def history_durable(self) -> IHistory:
        """For channels whose publications are on the disk when they are acknowledged. Raises ``ConfigError``."""
        return self._durable().history

    @property
    def queue_store(self) -> IQueueStore:
        """For queues; durable. Raises ``ConfigError``."""
        return self._durable().queues

    @property
    def presence(self) -> IPresence:
        """For last-seen times; durable. Raises ``ConfigError``."""
        return self._durable().presence

    def _in_memory(self) -> MemoryStore:
        if self._memory is None:
            self._memory = MemoryStore(self._options, self._now_ms, self._random_bytes)
        return self._memory

    def _durable(self) -> MemoryStore | SqliteStore:
        if self._options.kind == "memory":
            return self._in_memory()
        if self._sqlite is None:
            from relay.store.sqlite import SqliteStore

            path = os.path.join(self._data, self._options.file)
            store = SqliteStore(path, self._options, self._now_ms, self._random_bytes)
            if self._ticker is not None:
                self._open(store)
            self._sqlite = store
        return self._sqlite

    def _now_ms(self) -> int:
        return int(self._now_s() * 1000)

    def figures(self) -> dict[str, int]:
        """What the stores count, as far as they are in use; ``full`` is 1 while the disk has no room."""
        figures: dict[str, int] = {}
        if self._memory is not None:
            figures["memory_bytes"] = self._memory.budget.bytes
        if self._sqlite is not None:
            figures |= self._sqlite.figures()
        return figures

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open what was asked for, and begin to trim. Raises ``ConfigError`` with one sentence."""
        if self._sqlite is not None:
            self._open(self._sqlite)
        ticker = self._ticker = LoopingCall(self._tick)
        ticker.clock = self._reactor
        ticker.start(self._options.trim_interval_s, now=False).addErrback(
            lambda failure: log.failure("trimming the stores has failed", failure)
        )

    def stop(self) -> Deferred[None]:
        """Write what waits and close; fires when that is done."""
        if self._ticker is None:
            return succeed(None)
        if self._ticker.running:
            self._ticker.stop()
        return self._sqlite.stop() if self._sqlite is not None else succeed(None)

    def _open(self, store: SqliteStore) -> None:
        store.open()
        store.start(self._reactor.callFromThread)

    def _tick(self) -> None:
        if self._memory is not None:
            self._memory.sweep()
        if self._sqlite is not None:
            self._sqlite.tick()
