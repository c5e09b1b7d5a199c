"""Snapshots beside the log: one file each, whole under its name or not there, the newest two of a group kept.

A file, all integers little-endian::

    | magic 8 "RLYSNP\\r\\n" | version u32 | group u32 | index u64 | term u64 | metadata len u32 | crc u32 | metadata |
    | len u32 | crc u32 | chunk |   as often as needed, len > 0
    | 0 u32   | chunks u32 | bytes u64 | sha256 32 |

``crc`` is CRC-32C, of a chunk's bytes and, in the header, of what stands before it and the metadata: a reader that
streams a snapshot to another node notices damage at the chunk. The SHA-256 is over everything before it. ``metadata``
is the encoded configuration state. The name is ``group-index-term.snap``, each in hexadecimal.

A snapshot is written as ``.tmp`` under a number of its own (a node may take one while it receives the same one from its
leader), synced, renamed, and the directory synced; then older ones beyond two are removed. Compact the log only up to
the older of the two (:meth:`SnapshotStore.oldest_kept`): when the newer one turns out to be damaged the node can still
start from the one before. Errors of fsync end the process, as in the log; a full disk only fails the one snapshot.
"""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Callable, Iterator
from itertools import count
from struct import Struct
from typing import NamedTuple

import attrs
from crc32c import crc32c

from relay.cluster.raft.types import ConfState, Snapshot
from relay.errors import Full
from relay.store.files import File, Files
from relay.store.wal import LogStopped, end_process
from relay.store.wal_format import LogDamaged
from relay.store.wal_segment import NO_ROOM, TEMPORARY_SUFFIX
from relay.store.wal_storage import decode_conf_state, encode_conf_state

VERSION = 1
KEPT = 2
CHUNK_BYTES_MAX = 1 << 20
METADATA_BYTES_MAX = 64 << 10
SUFFIX = ".snap"
DAMAGED_SUFFIX = ".damaged"

_MAGIC = b"RLYSNP\r\n"
_HEADER = Struct("<8sIIQQI")
_CRC = Struct("<I")
_CHUNK = Struct("<II")
_TRAILER = Struct("<IIQ")
_DIGEST_BYTES = 32
_HEADER_BYTES = _HEADER.size + _CRC.size


class SnapshotFull(Full):
    """The disk has no room for the snapshot; its file is gone again."""


class SnapshotId(NamedTuple):
    """Which snapshot: the state of ``group`` after the entry at ``position``, an index of the log."""

    group: int
    position: int
    term: int

    @property
    def file_name(self) -> str:
        """Names of one group sort by index."""
        return f"{self.group:08x}-{self.position:016x}-{self.term:016x}{SUFFIX}"

    @classmethod
    def from_name(cls, name: str) -> SnapshotId | None:
        """The snapshot with this file name, or None for other files."""
        if not name.endswith(SUFFIX):
            return None
        parts = name[: -len(SUFFIX)].split("-")
        try:
            numbers = [int(part, 16) for part in parts]
        except ValueError:
            return None
        if len(numbers) != 3:
            return None
        found = cls(*numbers)
        return found if found.file_name == name else None


@attrs.frozen
class SnapshotInfo:
    """What a verified snapshot file says of itself."""

    id: SnapshotId
    conf_state: ConfState
    chunks: int
    length: int  # bytes in all chunks
    sha256: bytes  # of the file before it: equal files have equal digests

    def as_raft(self, data: bytes = b"") -> Snapshot:
        """The snapshot as the Raft core passes it on; ``data`` is whatever the service sends along with it."""
        return Snapshot(data, self.id.position, self.id.term, self.conf_state)


class SnapshotWriter:
    """A snapshot being written; ``write`` chunks in order, then ``commit`` or ``abort``. May be used in a thread."""

    def __init__(self, store: SnapshotStore, identity: SnapshotId, conf_state: ConfState) -> None:
        self._store = store
        self.id = identity
        self._conf_state = conf_state
        self._path = os.path.join(store.directory, identity.file_name)
        self._temporary = f"{self._path}.{next(store.numbers)}{TEMPORARY_SUFFIX}"
        self._digest = hashlib.sha256()
        self._offset = 0
        self._chunks = 0
        self._bytes = 0
        self._file: File | None = store.files.create(self._temporary)
        metadata = encode_conf_state(conf_state)
        if len(metadata) > METADATA_BYTES_MAX:
            self.abort()
            raise ValueError(f"a configuration of {len(metadata)} bytes")
        fixed = _HEADER.pack(_MAGIC, VERSION, identity.group, identity.position, identity.term, len(metadata))
        self._put(fixed + _CRC.pack(crc32c(metadata, crc32c(fixed))) + metadata)

    def write(self, chunk: bytes) -> None:
        """Add ``chunk``, at most 1 MiB. Raises SnapshotFull when the disk is, and the snapshot is given up."""
        if not 0 < len(chunk) <= CHUNK_BYTES_MAX:
            raise ValueError(f"a chunk of {len(chunk)} bytes")
        self._put(_CHUNK.pack(len(chunk), crc32c(chunk)) + chunk)
        self._chunks += 1
        self._bytes += len(chunk)

    def commit(self) -> SnapshotInfo:
        """Make the snapshot durable under its name, and remove what is older than two."""
        self._put(_TRAILER.pack(0, self._chunks, self._bytes))
        digest = self._digest.digest()
        self._put(digest)
        file = self._open_file()
        self._file = None
        files = self._store.files
        with self._store.fatal():
            file.sync()
            file.close()
            files.rename(self._temporary, self._path)
            files.sync_directory(self._store.directory)
        self._store.prune(self.id.group)
        return SnapshotInfo(self.id, self._conf_state, self._chunks, self._bytes, digest)

    def abort(self) -> None:
        """Give the snapshot up; doing it twice, or after ``commit``, does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._store.files.unlink(self._temporary)

    def _open_file(self) -> File:
        if self._file is None:
            raise LogStopped("the snapshot was committed or given up")
        return self._file

    def _put(self, data: bytes) -> None:
        try:
            self._open_file().write(self._offset, data)
        except OSError as error:
            self.abort()
            if error.errno in NO_ROOM:
                raise SnapshotFull(f"no room for {self._path}: {error.strerror}") from error
            raise
        self._digest.update(data)
        self._offset += len(data)


class SnapshotReader:
    """The chunks of one snapshot file, each checked; after the last, the length and the digest of the whole."""

    def __init__(self, files: Files, path: str, identity: SnapshotId) -> None:
        self._path = path
        self._id = identity
        self._file = files.open(path, writable=False)
        self._digest = hashlib.sha256()
        self._offset = 0
        self.info: SnapshotInfo | None = None  # set when all chunks were read and everything fits
        try:
            self.conf_state = self._read_header()
        except LogDamaged:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        """The chunks. Raises LogDamaged at the first thing that is not as it was written."""
        chunks = total = 0
        while True:
            length, second = _CHUNK.unpack(self._take(_CHUNK.size))
            if not length:
                break
            if length > CHUNK_BYTES_MAX:
                raise self._damaged(f"a chunk of {length} bytes")
            chunk = self._take(length)
            if crc32c(chunk) != second:
                raise self._damaged("a chunk fails its checksum")
            chunks += 1
            total += length
            yield chunk
        (total_said,) = Struct("<Q").unpack(self._take(8))
        if (second, total_said) != (chunks, total):
            raise self._damaged(f"{chunks} chunks of {total} bytes, not {second} of {total_said}")
        expected = self._digest.digest()
        digest = self._take(_DIGEST_BYTES)
        if digest != expected:
            raise self._damaged("the digest is another one")
        if self._file.size() != self._offset:
            raise self._damaged("something follows the digest")
        self.info = SnapshotInfo(self._id, self.conf_state, chunks, total, digest)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_header(self) -> ConfState:
        head = self._take(_HEADER_BYTES)
        magic, version, group, index, term, length = _HEADER.unpack_from(head)
        if magic != _MAGIC or version != VERSION or length > METADATA_BYTES_MAX:
            raise self._damaged("not a snapshot, or of another version")
        metadata = self._take(length)
        if _CRC.unpack_from(head, _HEADER.size)[0] != crc32c(metadata, crc32c(head[: _HEADER.size])):
            raise self._damaged("the header fails its checksum")
        if (group, index, term) != self._id:
            raise self._damaged("the file has the name of another snapshot")
        try:
            return decode_conf_state(metadata)
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _take(self, length: int) -> bytes:
        data = self._file.read(self._offset, length)
        if len(data) < length:
            raise self._damaged("the file ends too early")
        self._digest.update(data)
        self._offset += length
        return data

    def _damaged(self, reason: str) -> LogDamaged:
        return LogDamaged(self._path, self._offset, reason)


class SnapshotStore:
    """The snapshots of all groups of a node, in one directory. Everything blocks: call it in a thread."""

    def __init__(
        self, files: Files, directory: str, *, on_fatal: Callable[[BaseException], object] = end_process
    ) -> None:
        self.files = files
        self.directory = directory
        self.numbers = count()
        """Of files that are being written."""
        self._on_fatal = on_fatal

    def open(self) -> None:
        """Make the directory when missing, and remove snapshots that were not finished.

        What is found is durable before anybody relies on it: a process that was killed between renaming a snapshot
        and syncing the directory leaves a name that only the cache has, and the log lets go of entries for it.
        """
        self.files.make_directory(self.directory)
        names = self.files.list(self.directory)
        for name in names:
            if name.endswith(TEMPORARY_SUFFIX):
                self.files.unlink(os.path.join(self.directory, name))
        if names:
            self.files.sync_directory(self.directory)

    def kept(self, group: int) -> list[SnapshotId]:
        """The snapshots of ``group`` by their names, newest first."""
        names = self.files.list(self.directory)
        found = [identity for name in names if (identity := SnapshotId.from_name(name)) and identity.group == group]
        return sorted(found, reverse=True)

    def create(self, group: int, index: int, term: int, conf_state: ConfState) -> SnapshotWriter:
        """Begin a snapshot of the state after the entry at ``index``."""
        return SnapshotWriter(self, SnapshotId(group, index, term), conf_state)

    def read(self, identity: SnapshotId) -> SnapshotReader:
        """Open a snapshot. Raises FileNotFoundError, and LogDamaged when its header is damaged."""
        return SnapshotReader(self.files, os.path.join(self.directory, identity.file_name), identity)

    def verify(self, identity: SnapshotId) -> SnapshotInfo:
        """Read a snapshot from end to end. Raises LogDamaged."""
        reader = self.read(identity)
        try:
            for _ in reader:
                pass
        finally:
            reader.close()
        assert reader.info is not None
        return reader.info

    def newest(self, group: int) -> tuple[SnapshotInfo | None, list[LogDamaged]]:
        """The newest snapshot that is whole, and what is wrong with newer ones.

        Those are set aside under another name, so that they do not count among the two that are kept.
        """
        damaged: list[LogDamaged] = []
        for identity in self.kept(group):
            try:
                return self.verify(identity), damaged
            except LogDamaged as error:
                damaged.append(error)
                self._set_aside(identity)
        return None, damaged

    def oldest_kept(self, group: int) -> int:
        """The index up to which the log of ``group`` may be compacted: both snapshots then reach it. 0 without two."""
        kept = self.kept(group)
        return kept[KEPT - 1].position if len(kept) >= KEPT else 0

    def prune(self, group: int) -> None:
        """Remove all but the newest two snapshots of ``group``."""
        old = self.kept(group)[KEPT:]
        with self.fatal():
            for identity in old:
                self.files.unlink(os.path.join(self.directory, identity.file_name))
            if old:
                self.files.sync_directory(self.directory)

    def remove_group(self, group: int) -> None:
        """Remove all snapshots of a group that left this node."""
        with self.fatal():
            for identity in self.kept(group):
                self.files.unlink(os.path.join(self.directory, identity.file_name))
            self.files.sync_directory(self.directory)

    def _set_aside(self, identity: SnapshotId) -> None:
        path = os.path.join(self.directory, identity.file_name)
        with self.fatal():
            self.files.rename(path, path + DAMAGED_SUFFIX)
            self.files.sync_directory(self.directory)

    def fatal(self) -> _Fatal:
        """A ``with`` block in which an error of the disk ends the process."""
        return _Fatal(self._on_fatal)


class _Fatal:
    def __init__(self, on_fatal: Callable[[BaseException], object]) -> None:
        self._on_fatal = on_fatal

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            self._on_fatal(error)
            raise LogStopped(f"it failed: {error}") from error
