"""The stores of a node: what is kept in memory, what is durable. Each is made when it is first asked for.

::

    history_memory ─▶ MemoryStore
    history_durable, queue_store, presence ─▶ the store that ``store.kind`` names

``start`` opens those that were asked for until then, so a node with nothing durable opens no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from relay.config_store import Store
from relay.interfaces import IHistory, IPresence, IQueueStore
from relay.store.memory import MemoryStore

log = Logger()


class Stores:
    """``reactor`` is an IReactorTime that threads may call; ``now_s`` gives Unix time in s."""

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
        self._ticker: LoopingCall | None = None

    @property
    def history_memory(self) -> IHistory:
        """For channels whose publications may be lost when the node stops."""
        return self._in_memory().history

    @property
    def history_durable(self) -> IHistory:
        """For channels whose publications are on the disk when they are acknowledged."""
        return self._in_memory().history

    @property
    def queue_store(self) -> IQueueStore:
        """For queues; durable."""
        return self._in_memory().queues

    @property
    def presence(self) -> IPresence:
        """For last-seen times."""
        return self._in_memory().presence

    def _in_memory(self) -> MemoryStore:
        if self._memory is None:
            self._memory = MemoryStore(self._options, self._now_ms, self._random_bytes)
        return self._memory

    def _now_ms(self) -> int:
        return int(self._now_s() * 1000)

    def start(self) -> None:
        """Open what was asked for, and begin to trim. Raises ``ConfigError`` with one sentence."""
        ticker = self._ticker = LoopingCall(self._sweep)
        ticker.clock = self._reactor
        ticker.start(self._options.trim_interval_s, now=False).addErrback(
            lambda failure: log.failure("trimming the store in memory failed", failure)
        )

    def stop(self) -> Deferred[None]:
        """Write what waits and close; fires when that is done."""
        if self._ticker is not None and self._ticker.running:
            self._ticker.stop()
        return succeed(None)

    def _sweep(self) -> None:
        if self._memory is not None:
            self._memory.sweep()
