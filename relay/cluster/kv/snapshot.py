"""Snapshots of the state: a stream of records, the same bytes for the same state.

    magic "RLYKV" · version u8 · ( length u32 · MessagePack [kind, content] )…

=========  ===========================================================================================================
kind       content
=========  ===========================================================================================================
head       ``[revision, time_ms, compacted, limits]``
pairs      some of the pairs, in order of their keys
leases     ``[[id, ttl_ms, deadline_ms or nil], …]`` by id; their keys are known from the pairs
sessions   one session: ``[id, used, floor, [[seq, result], …]]``, the least recently used first
events     some of the history, in order
end        ``[records before, SHA-256 of everything before]``
=========  ===========================================================================================================

The stream may be cut anywhere. It is written bit by bit while the state goes on: what it needs is copied first, and
pairs, events and results never change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, Final, TypeVar

import msgspec

from relay.cluster.kv.commands import Event, Limits, Pair, Result
from relay.cluster.kv.history import History, event_bytes
from relay.cluster.kv.leases import Lease, Leases
from relay.cluster.kv.sessions import Session, Sessions
from relay.cluster.kv.state import State
from relay.errors import InternalError

MAGIC: Final = b"RLYKV"
VERSION: Final = 1
RECORD_BYTES: Final = 65_536
"""A record ends when it has so much; one large pair may make it longer."""
RECORD_BYTES_MAX: Final = 64 << 20
CHUNK_BYTES_MAX: Final = 262_144

_LENGTH: Final = Struct("<I")
_encode: Final = msgspec.msgpack.Encoder().encode
T = TypeVar("T")


class BadSnapshot(InternalError):
    """A snapshot of another version, or damaged."""


class _Head(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    revision: int
    time_ms: int
    compacted: int
    limits: Limits


class _Lease(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    id: int
    ttl_ms: int
    deadline_ms: int | None


class _Session(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    id: int
    used: int
    floor: int
    results: list[tuple[int, Result]]


# --- writing ------------------------------------------------------------------------------------------------------


def write_snapshot(state: State) -> Iterator[bytes]:
    """``state`` as it is now, in chunks of at most 256 KiB, made when they are taken."""
    head = _Head(state.keys.revision, state.leases.time_ms, state.keys.history.compacted, state.limits)
    leases = [_Lease(each.id, each.ttl_ms, each.deadline_ms) for each in state.leases.all()]
    sessions = [_Session(each.id, each.used, each.floor, sorted(each.results.items())) for each in state.sessions.all()]
    return _chunks(_records(head, state.keys.pairs(), leases, sessions, state.keys.history.events()))


def _records(
    head: _Head, pairs: list[Pair], leases: list[_Lease], sessions: list[_Session], events: list[Event]
) -> Iterator[tuple[str, object]]:
    yield "head", head
    for some in _batches(pairs, [len(pair.key) + len(pair.value) for pair in pairs]):
        yield "pairs", some
    yield "leases", leases
    for session in sessions:
        yield "sessions", session
    for some_events in _batches(events, [event_bytes(event) for event in events]):
        yield "events", some_events


def _batches(values: list[T], sizes: list[int]) -> Iterator[list[T]]:
    """``values`` in pieces of about ``RECORD_BYTES``."""
    first = size = 0
    for place, value_bytes in enumerate(sizes):
        size += value_bytes
        if size >= RECORD_BYTES:
            yield values[first : place + 1]
            first, size = place + 1, 0
    if first < len(values):
        yield values[first:]


def _chunks(records: Iterator[tuple[str, object]]) -> Iterator[bytes]:
    digest = hashlib.sha256()
    buffer = bytearray(MAGIC + bytes((VERSION,)))
    count = 0
    for record in records:
        count += 1
        buffer += _framed(record)
        while len(buffer) >= CHUNK_BYTES_MAX:
            chunk = bytes(buffer[:CHUNK_BYTES_MAX])
            del buffer[:CHUNK_BYTES_MAX]
            digest.update(chunk)
            yield chunk
    digest.update(buffer)
    buffer += _framed(("end", [count, digest.digest()]))
    yield bytes(buffer)


def _framed(record: tuple[str, object]) -> bytes:
    data = _encode(record)
    return _LENGTH.pack(len(data)) + data


# --- reading ------------------------------------------------------------------------------------------------------


def read_snapshot(chunks: Iterable[bytes]) -> State:
    """The state in a snapshot. Raises ``BadSnapshot``."""
    found = _Found()
    for kind, content in _parsed(chunks):
        try:
            found.take(kind, content)
        except msgspec.ValidationError as error:
            raise BadSnapshot(f"a record {kind} of a snapshot: {error}") from None
    return found.state()


class _Found:
    """What the records so far say."""

    def __init__(self) -> None:
        self.head: _Head | None = None
        self.pairs: list[Pair] = []
        self.leases: list[_Lease] = []
        self.sessions: list[_Session] = []
        self.events: list[Event] = []

    def take(self, kind: str, content: Any) -> None:  # Any: decoded MessagePack, of the kind's type
        """One record."""
        match kind:
            case "head":
                self.head = msgspec.convert(content, _Head)
            case "pairs":
                self.pairs += msgspec.convert(content, list[Pair])
            case "leases":
                self.leases = msgspec.convert(content, list[_Lease])
            case "sessions":
                self.sessions.append(msgspec.convert(content, _Session))
            case "events":
                self.events += msgspec.convert(content, list[Event])
            case _:
                raise BadSnapshot(f"a snapshot has a record {kind!r}")

    def state(self) -> State:
        """All of it."""
        if self.head is None:
            raise BadSnapshot("a snapshot without its head")
        keys: dict[int, list[str]] = {}
        for pair in self.pairs:
            if pair.lease:
                keys.setdefault(pair.lease, []).append(pair.key)
        state = State()
        state.limits = self.head.limits
        state.keys.load(self.head.revision, self.pairs, History(self.head.compacted, self.events))
        state.leases = Leases(
            self.head.time_ms,
            [Lease(each.id, each.ttl_ms, each.deadline_ms, keys.get(each.id, ())) for each in self.leases],
        )
        state.sessions = Sessions(Session(each.id, each.used, each.floor, each.results) for each in self.sessions)
        return state


def _parsed(chunks: Iterable[bytes]) -> Iterator[tuple[str, Any]]:  # Any: as above
    """The records of a whole stream, but the last; each is checked for its length, all by the digest at the end."""
    digest = hashlib.sha256()
    buffer = bytearray()
    begun = False
    count = 0
    end: Sequence[Any] | None = None
    for chunk in chunks:
        buffer += chunk
        if not begun:
            if len(buffer) <= len(MAGIC):
                continue
            if buffer[: len(MAGIC)] != MAGIC or buffer[len(MAGIC)] != VERSION:
                raise BadSnapshot(f"not a snapshot of version {VERSION}")
            digest.update(buffer[: len(MAGIC) + 1])
            del buffer[: len(MAGIC) + 1]
            begun = True
        place = 0
        for framed in _whole(buffer):
            if end is not None:
                raise BadSnapshot("a snapshot goes on after its end")
            kind, content = _record(framed)
            place += len(framed)
            if kind == "end":
                end = content
                continue
            digest.update(framed)
            count += 1
            yield kind, content
        del buffer[:place]
    if buffer or end is None:
        raise BadSnapshot("a snapshot that is cut off")
    if list(end) != [count, digest.digest()]:
        raise BadSnapshot("a snapshot whose digest is not that of its content")


def _whole(buffer: bytearray) -> Iterator[bytes]:
    """The records, with their length, that ``buffer`` begins with."""
    place = 0
    while len(buffer) - place >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, place)
        if length > RECORD_BYTES_MAX:
            raise BadSnapshot(f"a record of {length} bytes in a snapshot")
        following = place + _LENGTH.size + length
        if following > len(buffer):
            return
        yield bytes(buffer[place:following])
        place = following


def _record(framed: bytes) -> tuple[str, Any]:  # Any: as above
    try:
        found: tuple[str, Any] = msgspec.msgpack.decode(memoryview(framed)[_LENGTH.size :], type=tuple[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSnapshot(f"a record of a snapshot cannot be read: {error}") from None
    return found
