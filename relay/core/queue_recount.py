"""Counts what a queue holds once more, when it seems to be full.

The store drops what has expired without saying so; a queue that nobody consumes would stay full for ever. It is read
through, a chunk at a time, and what it holds less than was thought is room again. At most once in ``PERIOD_S``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from relay import errors
from relay.core.queue_window import OVERHEAD_BYTES
from relay.records import is_end

if TYPE_CHECKING:
    from relay.core.queue import Queue
    from relay.interfaces import IQueueStore
    from relay.records import Item

PERIOD_S: Final = 10.0
CHUNK: Final = 1000
CHUNK_BYTES: Final = 8_388_608


class Recount:
    """One reading of one queue. ``soon(f)`` calls ``f`` in a later turn; ``done`` is called at the end."""

    def __init__(
        self, queue: Queue, store: IQueueStore, soon: Callable[[Callable[[], None]], object], done: Callable[[], None]
    ) -> None:
        self._queue = queue
        self._store = store
        self._soon = soon
        self._done = done
        self._after = 0
        self._limit = CHUNK
        self._found = 0
        self._size = 0
        self._waiting = queue.waiting
        self._bytes = queue.bytes

    def step(self) -> None:
        """Read the next chunk."""
        self._limit = self._queue.chunk(CHUNK_BYTES, CHUNK)
        self._store.load(self._queue.realm, self._queue.name, self._after, self._limit, False, self._loaded)

    def _loaded(self, items: Sequence[Item] | errors.RelayError) -> None:
        if isinstance(items, errors.RelayError):
            self._done()
            return
        for item in items:
            self._size += len(item.frame) + OVERHEAD_BYTES
        self._found += len(items)
        if not is_end(items, self._limit):
            self._after = items[-1].number
            self._soon(self.step)
            return
        queue = self._queue
        # What came and went meanwhile is in the difference; what was read twice over makes the count too high at most.
        queue.waiting = max(0, min(queue.waiting, self._found + max(0, queue.waiting - self._waiting)))
        if not queue.dead:
            queue.bytes = max(0, min(queue.bytes, self._size + max(0, queue.bytes - self._bytes)))
        self._done()
