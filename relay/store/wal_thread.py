"""The two threads of a write-ahead log: one writes and syncs, one makes segments ahead and removes old ones.

Making a segment writes 64 MiB of zeros; in the writer that would be a pause of a tenth of a second or more each time.
Everything that touches the storages happens in the loop: a batch crosses over once, by ``call_in_loop``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from relay.store.wal import LogStopped, WriteAheadLog
from relay.store.wal_writer import Batch

ROOM_RETRY_S = 1.0  # how long a full disk is left alone before the next attempt


class LogThreads:
    """Runs an opened log until ``stop``. ``call_in_loop(f, *args)`` is ``reactor.callFromThread`` or alike;
    ``seconds()``, a clock for differences, is asked before and after each sync."""

    def __init__(
        self,
        log: WriteAheadLog,
        call_in_loop: Callable[..., object],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._call_in_loop = call_in_loop
        self._seconds = seconds
        self._wake = threading.Condition()
        self._waiting = False
        self._stopping = False
        self._ended = False
        self._stopped: Callable[[], object] | None = None
        self._maintenance = threading.Event()
        self._segment_made = threading.Event()
        self._writer = threading.Thread(target=self._run_writer, name="wal-writer", daemon=True)
        self._keeper = threading.Thread(target=self._run_maintenance, name="wal-segments", daemon=True)

    def start(self) -> None:
        """Start both threads."""
        self._log.on_work = self._wake_writer
        self._log.on_maintenance = self._maintenance.set
        self._maintenance.set()
        self._keeper.start()
        self._writer.start()

    def stop(self, stopped: Callable[[], object]) -> None:
        """Write what is queued, then end; ``stopped`` is called in the loop after all completions. Close the log then.

        When the disk has no room for what is queued it stays unwritten and is never acknowledged.
        """
        with self._wake:
            self._stopped = stopped
            self._stopping = True
            self._segment_made.set()
            self._wake.notify()
            if self._ended:
                self._call_in_loop(stopped)

    def _wake_writer(self) -> None:
        # The writer sets the flag before it looks at the queue, the loop appends before it looks at the flag.
        if self._waiting:
            with self._wake:
                self._wake.notify()

    def _run_writer(self) -> None:
        log, seconds = self._log, self._seconds
        try:
            while (batch := self._next_batch()) is not None and self._written(batch):
                begun = seconds()
                log.sync(batch)
                log.sync_times.add(seconds() - begun)
                self._call_in_loop(log.complete, batch)
        except LogStopped:
            pass  # on_fatal was called, and returned only because it is not the default one
        except Exception as error:  # noqa: BLE001 - a mistake of ours here must not leave everyone waiting
            log.fail(error)
        with self._wake:
            self._ended = True
            self._maintenance.set()
        self._keeper.join()
        with self._wake:
            if self._stopped is not None:
                self._call_in_loop(self._stopped)

    def _next_batch(self) -> Batch | None:
        queue = self._log.queue
        if not queue.has_work() and not self._stopping:
            with self._wake:
                self._waiting = True
                while not queue.has_work() and not self._stopping:
                    self._wake.wait()
                self._waiting = False
        return queue.take()

    def _written(self, batch: Batch) -> bool:
        """Write ``batch``, waiting for a segment if need be. False when stopped before there was one."""
        while not self._log.write(batch):
            self._segment_made.clear()
            self._maintenance.set()
            self._segment_made.wait(ROOM_RETRY_S)
            if self._stopping and self._log.no_room is not None:
                return False
        return True

    def _run_maintenance(self) -> None:
        log = self._log
        try:
            while not self._ended:
                log.maintain()
                self._segment_made.set()
                self._maintenance.wait(ROOM_RETRY_S if log.no_room is not None else None)
                self._maintenance.clear()
        except LogStopped:
            pass
        except Exception as error:  # noqa: BLE001 - as above
            log.fail(error)
        self._segment_made.set()
