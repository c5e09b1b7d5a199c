"""What nodes say to one another: frames of one kind each, many groups in one frame.

====  ============  ===================================================================================================
kind  name          content, behind the byte that says the kind
====  ============  ===================================================================================================
1     raft          ``group u32 · length u32 · message``, little-endian, as often as needed (``raft.codec``)
2     beats         MessagePack ``[[group, term, commit, context, quiet]…]``: MsgHeartbeat, one frame for all groups;
                    empty ones say that the node lives. ``quiet``: everything is replicated, do not expect more
3     beats back    ``[[group, term, context]…]``: MsgHeartbeatResp
4     propose       ``[group, boot, number, [data…]]``: commands for the leader. ``number`` is that of the first; they
                    ascend while the sender's process lives, ``boot`` is another one in each life
5     placed        ``[group, boot, number, count, index, term]``: they stand in the leader's log from ``index`` on, in
                    ``term``. ``index`` 0: they were not appended
6     chunk         ``[group, index, term, number, last, message, data]``: part ``number`` (from 0) of the snapshot at
                    ``(index, term)``; the first carries the MsgSnap it belongs to, ``data`` may be empty
7     chunk back    ``[group, index, term, number, accepted]``
8     said          bytes of no group, which may be lost: heartbeats of elections
====  ============  ===================================================================================================

Decoding is strict: whatever does not fit is a :class:`RemoteProtocolError`. Lengths are bounded by the link's frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from relay.cluster.raft.codec import decode_message
from relay.cluster.raft.types import Message
from relay.errors import RemoteProtocolError

RAFT: Final = 1
BEATS: Final = 2
BEATS_BACK: Final = 3
PROPOSE: Final = 4
PLACED: Final = 5
CHUNK: Final = 6
CHUNK_BACK: Final = 7
SAID: Final = 8

URGENT: Final = 0
BULK: Final = 1
SNAPSHOT: Final = 2
LANES: Final = 3

PART: Final = Struct("<II")
NOTHING: Final = b"\x02\x90"
"""Beats of no group: the node lives."""

Number = Annotated[int, Meta(ge=0)]
GroupNumber = Annotated[int, Meta(ge=1, lt=2**32)]


class Beat(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A leader's heartbeat for one group."""

    group: GroupNumber
    term: Number
    commit: Number
    context: bytes
    quiet: bool


class BeatBack(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Its answer."""

    group: GroupNumber
    term: Number
    context: bytes


class Propose(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Commands for the leader."""

    group: GroupNumber
    boot: Number
    number: Number
    data: list[bytes]


class Placed(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where commands stand in the leader's log; ``index`` 0: nowhere."""

    group: GroupNumber
    boot: Number
    number: Number
    count: Number
    index: Number
    term: Number


class Chunk(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A part of a snapshot."""

    group: GroupNumber
    index: Number
    term: Number
    number: Number
    last: bool
    message: bytes
    data: bytes


class ChunkBack(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """It was written, or the snapshot was given up."""

    group: GroupNumber
    index: Number
    term: Number
    number: Number
    accepted: bool


_encode = msgspec.msgpack.Encoder().encode
_BEATS: Final = msgspec.msgpack.Decoder(list[Beat])
_BEATS_BACK: Final = msgspec.msgpack.Decoder(list[BeatBack])
_PROPOSE: Final = msgspec.msgpack.Decoder(Propose)
_PLACED: Final = msgspec.msgpack.Decoder(Placed)
_CHUNK: Final = msgspec.msgpack.Decoder(Chunk)
_CHUNK_BACK: Final = msgspec.msgpack.Decoder(ChunkBack)
_KIND_BYTES: Final = tuple(bytes([kind]) for kind in range(SAID + 1))

T = TypeVar("T")


def encode_beats(beats: Sequence[Beat]) -> bytes:
    """Kind 2."""
    return _KIND_BYTES[BEATS] + _encode(beats)


def encode_beats_back(beats: Sequence[BeatBack]) -> bytes:
    """Kind 3."""
    return _KIND_BYTES[BEATS_BACK] + _encode(beats)


def encode_raft(parts: Sequence[bytes]) -> bytes:
    """Kind 1 of what :func:`raft_part` made."""
    return b"".join((_KIND_BYTES[RAFT], *parts))


def raft_part(group: int, message: bytes) -> bytes:
    """One message of a raft frame."""
    return PART.pack(group, len(message)) + message


def encode_propose(frame: Propose) -> bytes:
    """Kind 4."""
    return _KIND_BYTES[PROPOSE] + _encode(frame)


def encode_placed(frame: Placed) -> bytes:
    """Kind 5."""
    return _KIND_BYTES[PLACED] + _encode(frame)


def encode_chunk(frame: Chunk) -> bytes:
    """Kind 6."""
    return _KIND_BYTES[CHUNK] + _encode(frame)


def encode_chunk_back(frame: ChunkBack) -> bytes:
    """Kind 7."""
    return _KIND_BYTES[CHUNK_BACK] + _encode(frame)


def encode_said(data: bytes) -> bytes:
    """Kind 8."""
    return _KIND_BYTES[SAID] + data


def decode_beats(frame: bytes) -> list[Beat]:
    """Kind 2. Raises RemoteProtocolError, as all of these."""
    return _decoded(_BEATS, frame)


def decode_beats_back(frame: bytes) -> list[BeatBack]:
    """Kind 3."""
    return _decoded(_BEATS_BACK, frame)


def decode_propose(frame: bytes) -> Propose:
    """Kind 4."""
    return _decoded(_PROPOSE, frame)


def decode_placed(frame: bytes) -> Placed:
    """Kind 5."""
    return _decoded(_PLACED, frame)


def decode_chunk(frame: bytes) -> Chunk:
    """Kind 6."""
    return _decoded(_CHUNK, frame)


def decode_chunk_back(frame: bytes) -> ChunkBack:
    """Kind 7."""
    return _decoded(_CHUNK_BACK, frame)


def decode_raft(frame: bytes) -> Iterator[tuple[int, Message]]:
    """Kind 1: group and message."""
    offset, end = 1, len(frame)
    view = memoryview(frame)
    while offset < end:
        if end - offset < PART.size:
            raise RemoteProtocolError("a raft frame ends inside a head")
        group, length = PART.unpack_from(frame, offset)
        offset += PART.size
        if length > end - offset or not group:
            raise RemoteProtocolError(f"a raft frame has {length} bytes for group {group} and {end - offset} left")
        yield group, decode_message(view[offset : offset + length])
        offset += length


def _decoded(decoder: msgspec.msgpack.Decoder[T], frame: bytes) -> T:
    try:
        return decoder.decode(memoryview(frame)[1:])
    except (msgspec.DecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"a frame of kind {frame[0]}: {error}") from None
