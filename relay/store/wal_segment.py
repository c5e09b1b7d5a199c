"""A segment: one file of the write-ahead log, zero from its last record to its end.

A segment is made under a temporary name, filled with zeros, given its header, synced and renamed, and then the
directory is synced: under its final name it is whole or it is not there. From then on it only ever takes writes
that change no metadata, which is what makes fdatasync cheap.
"""

from __future__ import annotations

import errno
import os.path
from collections.abc import Callable

from relay.store.files import File, Files
from relay.store.wal_format import (
    HEADER_BYTES,
    RECORD_HEAD_BYTES,
    LogDamaged,
    Record,
    SegmentHeader,
    decode_record,
    decode_segment_header,
    encode_segment_header,
    segment_name,
)

TEMPORARY_SUFFIX = ".tmp"
NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
ZERO_BYTES_MAX = 1 << 20  # one write when a torn tail is overwritten


class Segment:
    """An open segment. ``end`` is where the next record goes; only the writer moves it."""

    __slots__ = ("end", "file", "path", "salt", "sequence", "size")

    def __init__(self, path: str, file: File, header: SegmentHeader, end: int = HEADER_BYTES) -> None:
        self.path = path
        self.file = file
        self.sequence = header.sequence
        self.salt = header.salt
        self.size = header.size
        self.end = end

    @classmethod
    def create(cls, files: Files, directory: str, header: SegmentHeader) -> Segment:
        """Make the file of ``header.size`` zero bytes durably. On OSError the temporary file is removed first."""
        path = os.path.join(directory, segment_name(header.sequence))
        temporary = path + TEMPORARY_SUFFIX
        file = files.create(temporary)
        try:
            file.zero_fill(header.size)
            file.write(0, encode_segment_header(header))
            file.sync()
            files.rename(temporary, path)
            files.sync_directory(directory)
        except OSError as error:
            file.close()
            if error.errno in NO_ROOM:
                files.unlink(temporary)
            raise
        return cls(path, file, header)

    @classmethod
    def open(cls, files: Files, directory: str, sequence: int, *, writable: bool) -> Segment:
        """Open an existing segment and check its header and length. Raises :class:`LogDamaged`."""
        path = os.path.join(directory, segment_name(sequence))
        file = files.open(path, writable=writable)
        try:
            header = decode_segment_header(file.read(0, HEADER_BYTES), path)
            if header.sequence != sequence:
                raise LogDamaged(path, 0, f"the file is segment {header.sequence} under another name")
            if file.size() != header.size:
                # It had its full length before it had its name, so no crash explains another one.
                raise LogDamaged(path, min(file.size(), header.size), f"{file.size()} bytes long, not {header.size}")
        except LogDamaged:
            file.close()
            raise
        return cls(path, file, header)

    def append(self, data: bytes) -> None:
        """Write ``data`` at ``end`` and move on. The caller has seen to it that there is room."""
        assert self.end + len(data) <= self.size
        self.file.write(self.end, data)
        self.end += len(data)

    def read_record(self, offset: int, payload_bytes: int) -> Record:
        """The record at ``offset``, checked again. Raises :class:`LogDamaged` when the disk gives back other bytes."""
        data = self.file.read(offset, RECORD_HEAD_BYTES + payload_bytes)
        record = decode_record(data, offset, self.salt, base=offset)
        if not isinstance(record, Record):
            raise LogDamaged(self.path, offset, record or "a record that was there is gone")
        return record

    def zero(self, start: int, stop: int) -> None:
        """Overwrite ``[start, stop)`` with zeros. Not synced."""
        while start < stop:
            length = min(ZERO_BYTES_MAX, stop - start)
            self.file.write(start, bytes(length))
            start += length


class SegmentSupply:
    """Makes segments ahead of need and removes those nobody needs.

    ``prepare``, ``remove`` and their file work may run in a thread of their own; ``take`` is the writer's. At most one
    thread calls each. ``ready`` is a plain list because appending and popping are single steps of the interpreter.
    """

    def __init__(
        self, files: Files, directory: str, size: int, count_max: int, salt: Callable[[], int], next_sequence: int = 1
    ) -> None:
        self._files = files
        self._directory = directory
        self._size = size
        self._count_max = count_max
        self._salt = salt
        self.next_sequence = next_sequence
        self.oldest_sequence = next_sequence
        self.ready: list[Segment] = []
        self.no_room: str | None = None  # why there is no segment ready, while it is so

    def prepare(self) -> bool:
        """Have one segment ready. False when the disk has no room now; other errors of the disk are raised."""
        if self.ready:
            return True
        if self.next_sequence - self.oldest_sequence >= self._count_max:
            self.no_room = f"the log has its {self._count_max} segments, and none can be removed"
            return False
        header = SegmentHeader(self.next_sequence, self._salt(), self._size)
        try:
            segment = Segment.create(self._files, self._directory, header)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.no_room = f"no room for segment {header.sequence} of {self._size} bytes: {error.strerror}"
            return False
        self.next_sequence += 1
        self.no_room = None
        self.ready.append(segment)
        return True

    def discard_ready(self) -> None:
        """Remove the segments made ahead, last first, so that no gap is left at any time."""
        while self.ready:
            segment = self.ready.pop()
            segment.file.close()
            self._files.unlink(segment.path)
            self._files.sync_directory(self._directory)
            self.next_sequence = segment.sequence

    def take(self) -> Segment | None:
        """The next segment, or None when it is not made yet."""
        return self.ready.pop(0) if self.ready else None

    def remove(self, segment: Segment) -> None:
        """Delete the oldest segment, durably: they go in order, and a gap found later would mean damage."""
        segment.file.close()
        self._files.unlink(segment.path)
        self._files.sync_directory(self._directory)
        self.oldest_sequence = segment.sequence + 1
