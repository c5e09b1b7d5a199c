"""The disk of a node, and what the threads of its log and its snapshots do, one step at a time.

==============  ======================================================================================================
step            what ``relay.store.wal_thread`` does in a thread
==============  ======================================================================================================
take and write  when the log has work; again until there is a segment
sync            ``sync_s`` later; a fault makes it slow, or fail
complete        the batch crosses over to the loop
maintain        segments are made and removed
work            background work for snapshots, in order, each ``BACKGROUND_S`` after the one before
==============  ======================================================================================================

Between two steps anything may happen: a crash most of all.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from relay.errors import RelayError
from relay.store.wal import WriteAheadLog
from relay.store.wal_writer import Batch
from relay.test.simulated_files import SimulatedCrash, SimulatedFiles

HOP_S = 0.00005  # between the loop and a thread
BACKGROUND_S = 0.0005
ROOM_RETRY_S = 0.3
SEGMENT_S = 0.002  # to make a segment
SEGMENT_GLOB = ".wal"


class ProcessEnded(BaseException):
    """The process of this node is gone, in the middle of whatever it did."""


class SimDisk(SimulatedFiles):
    """A disk with faults that are set from outside and stay until they hit."""

    def __init__(self) -> None:
        super().__init__(1 << 40)
        self.fail_sync = False
        """The next sync fails."""
        self.crash_after = -1
        """Power is lost at so many calls from now; negative: never."""
        self.crash_after_snapshot = -1
        """The same, counted from when the next snapshot is whole and gets its name."""
        self.sync_factor = 1.0
        self.on_call = self._on_call

    def relent(self) -> None:
        """What was set and has not hit does not."""
        self.fail_sync = False
        self.crash_after = self.crash_after_snapshot = -1

    def call(self, name: str, path: str) -> None:
        """Let an operation fail when asked to; the list of calls is not kept."""
        if self.crash_after >= 0 or self.crash_after_snapshot >= 0 or self.fail_sync:
            self.on_call(name, path)

    def _on_call(self, name: str, path: str) -> None:
        if self.crash_after >= 0 and name not in ("read", "list", "open"):
            self.crash_after -= 1
            if self.crash_after < 0:
                raise SimulatedCrash
        if self.crash_after_snapshot >= 0 and name == "rename" and path.startswith("snapshots"):
            self.crash_after, self.crash_after_snapshot = self.crash_after_snapshot, -1
        if self.fail_sync and name in ("sync_data", "sync"):
            self.fail_sync = False
            raise OSError(errno.EIO, "Input/output error", path)

    def used(self) -> int:
        """Bytes of all files."""
        return sum(inode.size for inode in self._names.values())

    def flip(self, dice: Random) -> str:
        """Turn a bit of some file that is not the hint, where something is written; the file's name, or ''."""
        names = [name for name in self._names if not name.endswith(("synced", "lock"))]
        if not names:
            return ""
        name = dice.choice(sorted(names))
        content = bytearray(self.content(name))
        used = len(bytes(content).rstrip(b"\0"))
        if not used:
            return ""
        content[dice.randrange(used)] ^= 1 << dice.randrange(8)
        inode = self._names[name]
        dirty = dict(inode.dirty)
        self.damage(name, bytes(content))
        inode.dirty = dirty
        return name


class LogThread:
    """What ``LogThreads`` does; see the module."""

    __slots__ = ("_busy", "_dice", "_disk", "_later", "_log", "_maintaining", "_sync_s")

    def __init__(
        self, log: WriteAheadLog, disk: SimDisk, later: Callable[..., object], dice: Random, sync_s: float
    ) -> None:
        self._log = log
        self._disk = disk
        self._later = later
        self._dice = dice
        self._sync_s = sync_s
        self._busy = False
        self._maintaining = False
        log.on_work = self._wake
        log.on_maintenance = self._maintain_soon
        self._maintain_soon()

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self._later(HOP_S, self._take)

    def _take(self) -> None:
        queue = self._log.queue
        batch = queue.take() if queue.has_work() else None
        if batch is None:
            self._busy = False
        else:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        if self._log.write(batch):
            slow = self._disk.sync_factor
            self._later(self._sync_s * slow * (0.5 + self._dice.random()), self._sync, batch)
        else:
            self._maintain_soon()
            self._later(ROOM_RETRY_S if self._log.no_room else SEGMENT_S, self._write, batch)

    def _sync(self, batch: Batch) -> None:
        self._log.sync(batch)
        self._later(HOP_S, self._log.complete, batch)
        self._take()

    def _maintain_soon(self) -> None:
        if not self._maintaining:
            self._maintaining = True
            self._later(SEGMENT_S, self._maintain)

    def _maintain(self) -> None:
        self._maintaining = False
        if not self._log.maintain():
            self._maintaining = True
            self._later(ROOM_RETRY_S, self._maintain)


class Background:
    """Work in the order given, one piece at a time."""

    __slots__ = ("_later", "_queue")

    def __init__(self, later: Callable[..., object]) -> None:
        self._later = later
        self._queue: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], object]]] = deque()

    def __call__(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], object]) -> None:
        self._queue.append((work, done))
        if len(self._queue) == 1:
            self._later(BACKGROUND_S, self._run)

    def _run(self) -> None:
        work, done = self._queue[0]
        result: Any = None
        error: BaseException | None = None
        try:
            result = work()
        except (OSError, RelayError, ValueError) as failed:
            error = failed
        self._later(HOP_S, done, result, error)
        self._queue.popleft()
        if self._queue:
            self._later(BACKGROUND_S, self._run)
