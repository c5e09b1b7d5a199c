"""Messages and membership changes as bytes: MessagePack arrays in the order of the fields.

``[type, to, from, term, log_term, index, [entry…], commit, vote, reject, reject_hint, context, snapshot, []]`` with an
entry as ``[type, term, index, data]`` and a snapshot as ``[data, index, term, [voters, learners, outgoing, next,
auto_leave]]``. The format has no version of its own: the handshake of the link carries it, and a change of the fields
is a new version there. A membership change is ``[type, node, context]`` or ``[transition, [[type, node]…], context]``;
no bytes at all are an empty change (leave the joint configuration), whose payload therefore counts nothing.

Decoding is strict: other shapes, negative numbers, unknown kinds, entries that do not follow their predecessor and
messages that only a node may send to itself raise :class:`CodecError`, and nothing else does. Memory is bounded by the
input: a length is believed only as far as there are bytes behind it.
"""

from __future__ import annotations

import msgspec

from relay.cluster.raft.errors import CodecError
from relay.cluster.raft.types import (
    CONF_CHANGE_NAMES,
    ENTRY_CONF_CHANGE,
    ENTRY_CONF_CHANGE_V2,
    ENTRY_NAMES,
    LOCAL_MESSAGES,
    MESSAGE_NAMES,
    MSG_APP,
    MSG_FORGET_LEADER,
    TRANSITION_NAMES,
    ConfChange,
    ConfChangeV2,
    Entry,
    Message,
)

_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_conf_change = msgspec.msgpack.Decoder(ConfChange).decode
_decode_conf_change_v2 = msgspec.msgpack.Decoder(ConfChangeV2).decode

_NEVER_ON_THE_WIRE = LOCAL_MESSAGES | {MSG_FORGET_LEADER}


def encode_message(message: Message) -> bytes:
    """The bytes for another node. Local messages have no encoding: asking for it is a mistake of ours."""
    assert message.type not in _NEVER_ON_THE_WIRE and not message.responses, "a local message has no encoding"
    return _encode(message)


def decode_message(data: bytes | memoryview) -> Message:
    """The message in ``data``, which must be one that another node may send; else :class:`CodecError`."""
    try:
        message = _decode_message(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CodecError(f"no raft message: {error}") from None
    kind = message.type
    if kind >= len(MESSAGE_NAMES) or kind in _NEVER_ON_THE_WIRE or message.responses:
        raise CodecError(f"no raft message: kind {kind} does not cross the network")
    entries = message.entries
    if entries:
        if kind == MSG_APP and (
            entries[0].index != message.index + 1 or entries[-1].index != message.index + len(entries)
        ):
            raise CodecError("no raft message: entries out of order")
        for entry in entries:
            if entry.type >= len(ENTRY_NAMES):
                raise CodecError(f"no raft message: entry kind {entry.type}")
    return message


def encode_conf_change(change: ConfChange | ConfChangeV2 | None) -> tuple[int, bytes]:
    """``(entry type, payload)`` of a change; None is the empty change with an empty payload."""
    if change is None:
        return ENTRY_CONF_CHANGE_V2, b""
    if isinstance(change, ConfChange):
        return ENTRY_CONF_CHANGE, _encode(change)
    return ENTRY_CONF_CHANGE_V2, _encode(change)


def decode_conf_change(entry: Entry) -> ConfChange | ConfChangeV2:
    """The change in an entry of one of the two types; :class:`CodecError` if its payload is none."""
    first_format = entry.type == ENTRY_CONF_CHANGE
    if not entry.data:
        return ConfChange() if first_format else ConfChangeV2()
    try:
        change = _decode_conf_change(entry.data) if first_format else _decode_conf_change_v2(entry.data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CodecError(f"no membership change: {error}") from None
    if isinstance(change, ConfChange):
        kinds = [change.type]
    else:
        kinds = [single.type for single in change.changes]
        if change.transition >= len(TRANSITION_NAMES):
            raise CodecError(f"no membership change: transition {change.transition}")
    if any(kind >= len(CONF_CHANGE_NAMES) for kind in kinds):
        raise CodecError("no membership change: unknown kind of step")
    return change
