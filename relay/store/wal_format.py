"""The bytes of the write-ahead log: segment headers, records and the synced hint. No I/O.

All integers are little-endian. A segment is ``header (4096) · records · zeros``; a record is::

    0        4        8      9       13       21      29
    | len u32| crc u32| type | group | index  | term   | payload …
                        u8     u32     u64      u64

``len`` counts the bytes from ``type`` on (21 + payload), so 0 is where the records end. ``crc`` is CRC-32C over
``salt u64 · offset u64 · type … payload``, where ``salt`` is the segment's random number and ``offset`` the record's
place in the file: bytes of another file, of another place or of an earlier life of the disk block do not pass.
``docs/wal.md`` is the reference, with the recovery rules.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

import attrs
from crc32c import crc32c

from relay.cluster.raft.types import Entry
from relay.errors import RelayError

VERSION = 1
HEADER_BYTES = 4096  # a page of its own: no record write ever touches the header's sectors
RECORD_HEAD_BYTES = 29
RECORD_FIXED_BYTES = 21  # what ``len`` counts beside the payload
SEGMENT_BYTES_MIN = 16 << 10
SEGMENT_BYTES_MAX = 1 << 30

SEQUENCE_SHIFT = 32  # a place is sequence << 32 | offset: where a record stands in the whole log
OFFSET_MASK = (1 << SEQUENCE_SHIFT) - 1

_SEGMENT_MAGIC = b"RLYWAL\r\n"  # a transfer as text would change it
_SYNCED_MAGIC = b"RLYSYN\r\n"
_SEGMENT_HEADER = Struct("<8sIIQQQ")  # magic, version, header bytes, sequence, salt, size
_SYNCED = Struct("<8sIQQQ")  # magic, version, sequence, salt, offset
_CRC = Struct("<I")
_SEAL = Struct("<QQ")  # salt, offset
_SEALED = Struct("<QQBIQQ")  # the same, then what follows the crc
_RECORD = Struct("<IIBIQQ")
_U64 = Struct("<Q")

MARK_BYTES = RECORD_HEAD_BYTES + 8
END_BYTES = RECORD_HEAD_BYTES
FIRST_BYTES = RECORD_HEAD_BYTES
SYNCED_BYTES = _SYNCED.size + 4


class Kind(IntEnum):
    """The types of record. What ``index``, ``term`` and the payload hold is in the comments.

    Entry kinds are 1 + the number of Raft's entry type, copies 4 above, so both convert by arithmetic.
    """

    ENTRY = 1  # an entry of the log; drops what the group had at this index and above
    ENTRY_CONF_CHANGE = 2
    ENTRY_CONF_CHANGE_V2 = 3
    COPY = 5  # the entry that the group has at (index, term), moved here; drops nothing
    COPY_CONF_CHANGE = 6
    COPY_CONF_CHANGE_V2 = 7
    HARD_STATE = 16  # index = commit, term = term, payload = vote u64
    SNAPSHOT = 17  # a snapshot up to (index, term) exists; payload = configuration state, opaque here
    COMPACT = 18  # entries up to index are dropped; term = term of the entry at index
    RESTORE = 19  # the whole log is replaced by the snapshot (index, term); payload as SNAPSHOT
    REMOVE = 20  # the group is gone from this node
    MARK = 32  # group 0, index = segment, term = own offset, payload = salt: all before this place is synced
    FIRST = 34  # group 0, index = the oldest segment still needed: earlier ones may be gone, it may not
    END = 33  # group 0, index = segment + 1: the log goes on there; this segment is synced


COPY_KINDS = frozenset((Kind.COPY, Kind.COPY_CONF_CHANGE, Kind.COPY_CONF_CHANGE_V2))
COPY_OF_ENTRY = Kind.COPY - Kind.ENTRY


class LogDamaged(RelayError):
    """The log or a snapshot cannot be trusted: the node must not start. ``str`` is one line: file, offset, reason."""

    label = "log_damaged"

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class SegmentHeader(NamedTuple):
    """What stands at the start of a segment and never changes."""

    sequence: int  # 1, 2, 3 …; also the file's name
    salt: int
    size: int  # of the file, in bytes


@attrs.define
class Record:
    """One record as it was read. ``end`` is where the next one starts."""

    kind: int
    group: int
    index: int
    term: int
    payload: bytes
    offset: int
    end: int


class Synced(NamedTuple):
    """The hint file: everything before ``offset`` of segment ``sequence`` was synced when this was written."""

    sequence: int
    salt: int
    offset: int


def segment_name(sequence: int) -> str:
    """The file name of a segment: 16 hexadecimal digits, so that names sort as numbers do."""
    return f"{sequence:016x}.wal"


def segment_sequence(name: str) -> int | None:
    """The number of the segment with this file name, or None for other files."""
    stem, _, suffix = name.partition(".")
    if suffix != "wal" or len(stem) != 16 or not set(stem) <= set("0123456789abcdef"):
        return None
    return int(stem, 16)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first 4096 bytes of a segment; what follows the checksum is zero."""
    fixed = _SEGMENT_HEADER.pack(_SEGMENT_MAGIC, VERSION, HEADER_BYTES, header.sequence, header.salt, header.size)
    return (fixed + _CRC.pack(crc32c(fixed))).ljust(HEADER_BYTES, b"\0")


def decode_segment_header(data: bytes, path: str) -> SegmentHeader:
    """Read a segment's header. Raises :class:`LogDamaged` naming ``path``."""
    size = _SEGMENT_HEADER.size
    if len(data) < HEADER_BYTES:
        raise LogDamaged(path, len(data), "the file ends within the segment header")
    fixed = data[:size]
    magic, version, header_bytes, sequence, salt, segment_bytes = _SEGMENT_HEADER.unpack(fixed)
    if magic != _SEGMENT_MAGIC:
        raise LogDamaged(path, 0, "not a segment of a write-ahead log")
    if _CRC.unpack_from(data, size)[0] != crc32c(fixed):
        raise LogDamaged(path, 0, "the segment header fails its checksum")
    if version != VERSION or header_bytes != HEADER_BYTES:
        raise LogDamaged(path, 8, f"segment format {version} is not known here, only {VERSION}")
    return SegmentHeader(sequence, salt, segment_bytes)


def encode_record(salt: int, offset: int, kind: int, group: int, index: int, term: int, payload: bytes) -> bytes:
    """One record for ``offset`` of the segment with ``salt``."""
    sealed = _SEALED.pack(salt, offset, kind, group, index, term)
    crc = crc32c(payload, crc32c(sealed))
    return _RECORD.pack(RECORD_FIXED_BYTES + len(payload), crc, kind, group, index, term) + payload


def encode_entries(
    out: list[bytes], places: array[int], salt: int, place: int, group: int, entries: Sequence[Entry], shift: int
) -> int:
    """Append the records of ``entries`` to ``out`` and their places to ``places``; the place after the last.

    ``place`` is ``sequence << 32 | offset`` of the first, ``shift`` what turns an entry's type into a record's. The
    same as :func:`encode_record` for each, without its calls: this is the loop that all payload goes through.
    """
    put, note, seal, pack = out.append, places.append, _SEALED.pack, _RECORD.pack
    for entry in entries:
        data, kind, index, term = entry.data, entry.type + shift, entry.index, entry.term
        length = RECORD_FIXED_BYTES + len(data)
        crc = crc32c(data, crc32c(seal(salt, place & OFFSET_MASK, kind, group, index, term)))
        put(pack(length, crc, kind, group, index, term))
        put(data)
        note(place)
        place += 8 + length
    return place


def decode_record(data: bytes | memoryview, offset: int, salt: int, base: int = 0) -> Record | str | None:
    """The record at ``offset`` of a segment of which ``data`` holds the bytes from ``base`` on.

    None where ``len`` is 0 or fewer than four bytes are left; a string saying why the bytes there are no record. The
    type may be one that is not known here.
    """
    at = offset - base
    left = len(data) - at
    if left >= RECORD_HEAD_BYTES:  # fast path: all but the last few bytes of a segment
        length, crc, kind, group, index, term = _RECORD.unpack_from(data, at)
        if length == 0:
            return None
        after = at + 8 + length
        if RECORD_FIXED_BYTES <= length <= left - 8:
            if crc32c(data[at + 8 : after], crc32c(_SEAL.pack(salt, offset))) != crc:
                return "a record fails its checksum"
            return Record(kind, group, index, term, bytes(data[at + RECORD_HEAD_BYTES : after]), offset, base + after)
        return f"a record cannot have length {length} here"
    if left < 4 or not any(data[at : at + 4]):
        return None
    return "no record fits here"


def encode_mark(salt: int, offset: int, sequence: int) -> bytes:
    """The record that says: everything before ``offset`` of this segment, and all earlier segments, are synced."""
    return encode_record(salt, offset, Kind.MARK, 0, sequence, offset, _U64.pack(salt))


def find_mark(data: bytes, start: int, salt: int) -> int | None:
    """The offset of a valid mark at or after ``start`` in the bytes of a whole segment, or None.

    A mark's payload is the segment's salt, so candidates are found by searching for eight bytes.
    """
    needle = _U64.pack(salt)
    found = data.find(needle, start + RECORD_HEAD_BYTES)
    while found >= 0:
        offset = found - RECORD_HEAD_BYTES
        record = decode_record(data, offset, salt)
        if isinstance(record, Record) and record.kind == Kind.MARK and record.term == offset:
            return offset
        found = data.find(needle, found + 1)
    return None


def encode_vote(vote: int) -> bytes:
    """The payload of a hard-state record."""
    return _U64.pack(vote)


def decode_vote(payload: bytes) -> int:
    """The vote in a hard-state record. Raises ValueError on another length."""
    if len(payload) != 8:
        raise ValueError(f"a hard state has 8 bytes of payload, not {len(payload)}")
    return int(_U64.unpack(payload)[0])


def encode_synced(synced: Synced) -> bytes:
    """The content of the hint file."""
    fixed = _SYNCED.pack(_SYNCED_MAGIC, VERSION, synced.sequence, synced.salt, synced.offset)
    return fixed + _CRC.pack(crc32c(fixed))


def decode_synced(data: bytes) -> Synced | None:
    """The hint, or None when the bytes are not one: a hint that cannot be read is no evidence of anything."""
    if len(data) != SYNCED_BYTES:
        return None
    fixed = data[:-4]
    magic, version, sequence, salt, offset = _SYNCED.unpack(fixed)
    if magic != _SYNCED_MAGIC or version != VERSION or _CRC.unpack_from(data, len(fixed))[0] != crc32c(fixed):
        return None
    return Synced(sequence, salt, offset)
