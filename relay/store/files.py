"""What the write-ahead log and the snapshots need of a file system, as an interface of a few calls.

:class:`OsFiles` is the real one. A simulator puts a disk of its own under the same code by implementing
:class:`Files` and :class:`File`; what it may forget at a crash follows from these rules:

====================================  ==============================================================================
call                                  what it promises
====================================  ==============================================================================
``File.write``                        later reads see it; durable only after ``sync_data`` or ``sync`` of that file
``File.sync_data``, ``File.sync``     all earlier writes of that file are durable (fdatasync, fsync)
``Files.create|rename|unlink``        later calls see it; durable only after ``sync_directory`` of the directory
``Files.sync_directory``              all earlier creates, renames and unlinks in that directory are durable
====================================  ==============================================================================

Every call may raise ``OSError``. An error of ``write``, ``sync_data``, ``sync`` or ``sync_directory`` leaves it unknown
what reached the disk (the kernel may drop the dirty pages and report success the next time), so callers never retry.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Protocol

ZERO_CHUNK_BYTES = 1 << 20  # one write of zero_fill
ZERO_SYNC_BYTES = 4 << 20  # zero_fill syncs this often: what waits on the same disk waits for no more than this


class File(Protocol):
    """One open file. Offsets and lengths are in bytes."""

    def size(self) -> int:
        """The length of the file."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only where the file ends."""

    def write(self, offset: int, data: bytes) -> None:
        """Put all of ``data`` at ``offset``."""

    def zero_fill(self, length: int) -> None:
        """Make the file ``length`` zero bytes with blocks of their own, so that later writes change no metadata."""

    def sync_data(self) -> None:
        """Make what was written durable (fdatasync)."""

    def sync(self) -> None:
        """Make what was written and the file's metadata durable (fsync)."""

    def close(self) -> None:
        """Give the descriptor back. Nothing is synced."""


class Files(Protocol):
    """A file system as the log sees it. Paths are strings; relative ones are the implementation's business."""

    def list(self, directory: str) -> list[str]:
        """The names in ``directory``, sorted. Raises FileNotFoundError."""

    def make_directory(self, path: str) -> None:
        """Make ``path`` and what leads to it, durably; one that exists is fine, also one that a process made which
        ended before it could sync the name."""

    def create(self, path: str) -> File:
        """A new empty file for reading and writing; one of that name is emptied."""

    def open(self, path: str, *, writable: bool) -> File:
        """An existing file. Raises FileNotFoundError."""

    def lock(self, path: str) -> File:
        """Hold ``path`` (made when missing) against other processes until closed. Raises BlockingIOError when held."""

    def rename(self, old: str, new: str) -> None:
        """Give ``old`` the name ``new`` in one step, replacing what had it."""

    def unlink(self, path: str) -> None:
        """Remove a name."""

    def sync_directory(self, path: str) -> None:
        """Make the names in ``path`` durable."""


class OsFile:
    """A :class:`File` on a descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def size(self) -> int:
        """The length of the file."""
        return os.fstat(self._fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only where the file ends."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]  # one pread gives at most 2 GiB, and less after a signal
        have = len(data)
        while have < length:
            data = os.pread(self._fd, length - have, offset + have)
            if not data:
                break
            pieces.append(data)
            have += len(data)
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Put all of ``data`` at ``offset``."""
        done = os.pwrite(self._fd, data, offset)
        while done < len(data):
            done += os.pwrite(self._fd, memoryview(data)[done:], offset + done)

    def zero_fill(self, length: int) -> None:
        """Reserve ``length`` bytes first, so that a full disk says so at once, then write zeros and sync in steps."""
        os.posix_fallocate(self._fd, 0, length)
        zeros = bytes(min(ZERO_CHUNK_BYTES, length))
        unsynced = 0
        for offset in range(0, length, ZERO_CHUNK_BYTES):
            self.write(offset, zeros[: length - offset])
            unsynced += ZERO_CHUNK_BYTES
            if unsynced >= ZERO_SYNC_BYTES:
                os.fdatasync(self._fd)
                unsynced = 0

    def sync_data(self) -> None:
        """fdatasync."""
        os.fdatasync(self._fd)

    def sync(self) -> None:
        """fsync."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class OsFiles:
    """The file system of the machine."""

    def list(self, directory: str) -> list[str]:
        """The names in ``directory``, sorted. Raises FileNotFoundError."""
        return sorted(os.listdir(directory))

    def make_directory(self, path: str) -> None:
        """Make ``path`` and what leads to it, syncing each parent that got a new name.

        Whoever puts something into a directory has been here first. So one that is empty may be of a process that
        ended between the two steps, and its parent is synced again; one that holds something is durable.
        """
        parent = os.path.dirname(path)
        if not path or os.path.isdir(path):
            if path and not os.listdir(path):
                with contextlib.suppress(PermissionError):  # it may not be read: somebody else made what is in it
                    self.sync_directory(parent or ".")
            return
        self.make_directory(parent)
        os.mkdir(path, 0o700)
        self.sync_directory(parent or ".")

    def create(self, path: str) -> File:
        """A new empty file for reading and writing, for this user only."""
        return OsFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))

    def open(self, path: str, *, writable: bool) -> File:
        """An existing file. Raises FileNotFoundError."""
        return OsFile(os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC))

    def lock(self, path: str) -> File:
        """An exclusive flock. Raises BlockingIOError when another process has it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return OsFile(fd)

    def rename(self, old: str, new: str) -> None:
        """rename(2)."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """fsync of the directory."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
