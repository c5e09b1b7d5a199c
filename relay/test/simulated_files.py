"""A disk that forgets: :class:`relay.store.files.Files` in memory, with crashes, torn sectors and errors on request.

What was written since the last sync of a file is kept per sector of 512 bytes, every version of it. At a crash each
such sector becomes, by the dice given, what was durable, any version written since, or (torn) the beginning of one and
the end of the other: so unsynced writes are lost, kept, torn and reordered. Names created, renamed and removed since
the last sync of their directory are each kept or lost, too.

A failed sync does what Linux does: the dirty sectors count as clean but are not on the disk. Who syncs again gets a
success and loses them at the next crash.
"""

from __future__ import annotations

import errno
import os.path
from collections.abc import Callable
from random import Random

SECTOR_BYTES = 512
ZERO_SECTOR = bytes(SECTOR_BYTES)


class SimulatedCrash(BaseException):
    """The machine stops here; nobody but the test catches it."""


class _Inode:
    """The content of a file as a running machine sees it, and what of it survives a crash for certain."""

    __slots__ = ("dirty", "durable", "durable_size", "sectors", "size")

    def __init__(self) -> None:
        self.sectors: dict[int, bytes] = {}
        self.size = 0
        self.durable: dict[int, bytes] = {}
        self.durable_size = 0
        self.dirty: dict[int, list[bytes]] = {}  # versions since the last sync, oldest first

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        first, last = offset // SECTOR_BYTES, (offset + length + SECTOR_BYTES - 1) // SECTOR_BYTES
        sectors = self.sectors
        data = b"".join([sectors.get(number, ZERO_SECTOR) for number in range(first, last)])
        start = offset - first * SECTOR_BYTES
        return data[start : start + length]

    def write(self, offset: int, data: bytes) -> None:
        self.size = max(self.size, offset + len(data))
        at = 0
        while at < len(data):
            number, start = divmod(offset + at, SECTOR_BYTES)
            count = min(SECTOR_BYTES - start, len(data) - at)
            old = self.sectors.get(number, ZERO_SECTOR)
            new = old[:start] + data[at : at + count] + old[start + count :]
            self.sectors[number] = new
            self.dirty.setdefault(number, []).append(new)
            at += count

    def sync(self) -> None:
        for number in self.dirty:
            self.durable[number] = self.sectors[number]
        self.durable_size = self.size
        self.dirty.clear()

    def crash(self, dice: Random) -> None:
        # Sector writes beyond the size that survives cannot be seen.
        self.size = self.durable_size if dice.random() < 0.5 else self.size
        for number, versions in self.dirty.items():
            before = self.durable.get(number, ZERO_SECTOR)
            after = dice.choice(versions)
            chance = dice.random()
            if chance < 0.4:
                self.durable[number] = after
            elif chance < 0.6:
                cut = dice.randrange(SECTOR_BYTES)
                first, second = (before, after) if dice.random() < 0.5 else (after, before)
                self.durable[number] = first[:cut] + second[cut:]
        self.dirty.clear()
        self.sectors = dict(self.durable)
        self.durable_size = self.size


class SimulatedFile:
    """An open file of a :class:`SimulatedFiles`; useless after a crash."""

    def __init__(self, disk: SimulatedFiles, path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._life = disk.life
        self.open = True
        disk.opened.add(self)

    def _call(self, name: str) -> None:
        assert self.open and self._life == self._disk.life, f"{name} of {self._path}, which is closed"
        self._disk.call(name, self._path)

    def size(self) -> int:
        """The length of the file."""
        return self._inode.size

    def read(self, offset: int, length: int) -> bytes:
        """As written, synced or not."""
        self._call("read")
        return self._inode.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Kept in memory until synced."""
        self._call("write")
        self._disk.reserve(max(0, offset + len(data) - self._inode.size))
        self._inode.write(offset, data)

    def zero_fill(self, length: int) -> None:
        """Zeros, unsynced."""
        self._call("zero_fill")
        self._disk.reserve(max(0, length - self._inode.size))
        self._inode.write(0, bytes(length))

    def sync_data(self) -> None:
        """All of the file is durable, or it is not and never will be."""
        self._sync("sync_data")

    def sync(self) -> None:
        """As sync_data."""
        self._sync("sync")

    def _sync(self, name: str) -> None:
        try:
            self._call(name)
        except OSError:
            self._inode.dirty.clear()
            raise
        self._inode.sync()

    def close(self) -> None:
        """Nothing is synced by it."""
        assert self.open, f"{self._path} is closed twice"
        self.open = False
        self._disk.opened.discard(self)
        self._disk.unlock(self._path, self)


class SimulatedFiles:
    """One disk. ``on_call(name, path)`` is asked before each operation and may raise OSError or SimulatedCrash."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.capacity_bytes = capacity_bytes
        self.on_call: Callable[[str, str], object] = lambda name, path: None
        self.calls: list[tuple[str, str]] = []  # since the last crash
        self.life = 0
        self.opened: set[SimulatedFile] = set()
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        # Per directory, what happened to its names since it was synced: (old name or "", new name or "", inode).
        self._pending: dict[str, list[tuple[str, str, _Inode]]] = {}
        self._directories: set[str] = {"", "/"}
        self._locks: dict[str, SimulatedFile] = {}

    # --- Files ----------------------------------------------------------------------------------------------------

    def list(self, directory: str) -> list[str]:
        """The names in ``directory``, sorted."""
        self.call("list", directory)
        if directory not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", directory)
        return sorted(os.path.basename(path) for path in self._names if os.path.dirname(path) == directory)

    def make_directory(self, path: str) -> None:
        """Directories are durable at once."""
        self._directories.add(path)

    def create(self, path: str) -> SimulatedFile:
        """A new empty file."""
        self.call("create", path)
        inode = self._names[path] = _Inode()
        self._changed("", path, inode)
        return SimulatedFile(self, path, inode)

    def open(self, path: str, *, writable: bool) -> SimulatedFile:
        """An existing file."""
        self.call("open", path)
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return SimulatedFile(self, path, self._names[path])

    def lock(self, path: str) -> SimulatedFile:
        """Held until closed or crashed."""
        if path in self._locks:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked", path)
        file = self._locks[path] = SimulatedFile(self, path, _Inode())
        return file

    def rename(self, old: str, new: str) -> None:
        """In one step, durable with the directory."""
        self.call("rename", new)
        inode = self._names.pop(old)
        self._names[new] = inode
        self._changed(old, new, inode)

    def unlink(self, path: str) -> None:
        """Durable with the directory."""
        self.call("unlink", path)
        self._changed(path, "", self._names.pop(path))

    def sync_directory(self, path: str) -> None:
        """All changes of names in ``path`` are durable."""
        self.call("sync_directory", path)
        for old, new, inode in self._pending.pop(path, ()):
            self._apply(old, new, inode)

    # --- what happens to it ---------------------------------------------------------------------------------------

    def crash(self, dice: Random) -> None:
        """Power is lost and comes back: all handles are dead, what was not synced is anybody's guess."""
        self.life += 1
        self.calls.clear()
        self._locks.clear()
        self.opened.clear()
        for changes in self._pending.values():
            for old, new, inode in changes:
                if dice.random() < 0.5:
                    self._apply(old, new, inode)
        self._pending.clear()
        self._names = dict(self._durable_names)
        for inode in {id(inode): inode for inode in self._names.values()}.values():
            inode.crash(dice)

    def kill(self) -> None:
        """The process is killed: what it wrote is all there, only its handles and locks are gone."""
        self.life += 1
        self.calls.clear()
        self._locks.clear()
        self.opened.clear()

    def content(self, path: str) -> bytes:
        """What a reader of the file would see."""
        inode = self._names[path]
        return inode.read(0, inode.size)

    def damage(self, path: str, content: bytes) -> None:
        """The file has this content now, durably, whoever wrote it."""
        inode = self._names[path]
        whole = content.ljust(-(-len(content) // SECTOR_BYTES) * SECTOR_BYTES, b"\0")
        inode.sectors = {at // SECTOR_BYTES: whole[at : at + SECTOR_BYTES] for at in range(0, len(whole), SECTOR_BYTES)}
        inode.durable = dict(inode.sectors)
        inode.size = inode.durable_size = len(content)
        inode.dirty.clear()

    def delete(self, path: str) -> None:
        """The file is gone, durably, and nobody knows why."""
        del self._names[path]
        self._durable_names.pop(path, None)

    def copy(self) -> SimulatedFiles:
        """Another disk with what a reader would see of this one, all of it durable, nothing open."""
        other = SimulatedFiles(self.capacity_bytes)
        other._directories = set(self._directories)
        for path, inode in self._names.items():
            twin = _Inode()
            twin.sectors, twin.size = dict(inode.sectors), inode.size
            twin.durable, twin.durable_size = dict(inode.sectors), inode.size
            other._names[path] = other._durable_names[path] = twin
        return other

    # --- inside ---------------------------------------------------------------------------------------------------

    def call(self, name: str, path: str) -> None:
        """Note an operation, and let it fail when asked to."""
        self.calls.append((name, path))
        self.on_call(name, path)

    def reserve(self, more: int) -> None:
        """Raises ENOSPC when ``more`` bytes do not fit."""
        if more and sum(inode.size for inode in self._names.values()) + more > self.capacity_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    def unlock(self, path: str, file: SimulatedFile) -> None:
        """``file`` was closed."""
        if self._locks.get(path) is file:
            del self._locks[path]

    def _changed(self, old: str, new: str, inode: _Inode) -> None:
        self._pending.setdefault(os.path.dirname(new or old), []).append((old, new, inode))

    def _apply(self, old: str, new: str, inode: _Inode) -> None:
        if old and self._durable_names.get(old) is inode:
            del self._durable_names[old]
        if new:
            self._durable_names[new] = inode
