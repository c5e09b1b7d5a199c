"""Everything the core hands out, as text: the form that the scenario files compare.

Ids are hexadecimal, except in the change notation ``v1 l2 r3 u4``. Payloads are shown by a function of the caller, or
quoted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from relay.cluster.raft.codec import decode_conf_change
from relay.cluster.raft.confchange import describe_conf_changes
from relay.cluster.raft.errors import CodecError
from relay.cluster.raft.tracker import PROGRESS_NAMES
from relay.cluster.raft.types import (
    CONF_CHANGE_NAMES,
    ENTRY_NAMES,
    ENTRY_NORMAL,
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    MESSAGE_NAMES,
    NONE,
    ROLE_NAMES,
    TRANSITION_NAMES,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Message,
    ReadState,
    Snapshot,
    SoftState,
    as_v2,
)

if TYPE_CHECKING:
    from relay.cluster.raft.rawnode import Ready
    from relay.cluster.raft.status import Status

EntryFormatter = Callable[[bytes], str]

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quote(data: bytes) -> str:
    """``data`` in double quotes; what is not printable UTF-8 is escaped."""
    parts = ['"']
    for character in data.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if character in _ESCAPES:
            parts.append(_ESCAPES[character])
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable():
            parts.append(character)
        elif code < 0x80:
            parts.append(f"\\x{code:02x}")
        else:
            parts.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    parts.append('"')
    return "".join(parts)


def describe_hard_state(state: HardState) -> str:
    """``Term:1 Vote:2 Commit:3``, the vote only if there is one."""
    vote = f" Vote:{state.vote}" if state.vote != NONE else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def describe_soft_state(state: SoftState) -> str:
    """``Lead:1 State:StateLeader``."""
    return f"Lead:{state.lead} State:{ROLE_NAMES[state.role]}"


def describe_conf_state(state: ConfState) -> str:
    """``Voters:[1 2] VotersOutgoing:[] Learners:[] LearnersNext:[] AutoLeave:false``."""
    return (
        f"Voters:{_ids(state.voters)} VotersOutgoing:{_ids(state.voters_outgoing)} "
        f"Learners:{_ids(state.learners)} LearnersNext:{_ids(state.learners_next)} AutoLeave:{_bool(state.auto_leave)}"
    )


def describe_snapshot(snapshot: Snapshot) -> str:
    """``Index:4 Term:1 ConfState:…``."""
    return f"Index:{snapshot.index} Term:{snapshot.term} ConfState:{describe_conf_state(snapshot.conf_state)}"


def describe_conf_change(change: ConfChange | ConfChangeV2) -> str:
    """``transition:ConfChangeTransitionAuto changes:{type:ConfChangeAddNode node_id:3}``."""
    second = as_v2(change)
    parts = [f"transition:{TRANSITION_NAMES[second.transition]}"]
    parts += [f"changes:{{type:{CONF_CHANGE_NAMES[one.type]} node_id:{one.node_id}}}" for one in second.changes]
    if second.context:
        parts.append(f"context:{quote(second.context)}")
    return " ".join(parts)


def describe_read_states(states: Iterable[ReadState]) -> str:
    """``[{4 [97 98]}]``: index and the bytes of the context."""
    return "[" + " ".join(f"{{{state.index} {_ids(state.request_ctx)}}}" for state in states) + "]"


def describe_entry(entry: Entry, formatter: EntryFormatter | None = None) -> str:
    """``1/4 EntryNormal "data"``: term, index, kind, and the payload or the changes."""
    if entry.type == ENTRY_NORMAL:
        text = (formatter or quote)(entry.data)
    else:
        try:
            text = describe_conf_changes(as_v2(decode_conf_change(entry)).changes)
        except CodecError as error:
            text = str(error)
    return f"{entry.term}/{entry.index} {ENTRY_NAMES[entry.type]}" + (f" {text}" if text else "")


def describe_entries(entries: Iterable[Entry], formatter: EntryFormatter | None = None) -> str:
    """A line per entry."""
    return "".join(describe_entry(entry, formatter) + "\n" for entry in entries)


def describe_message(message: Message, formatter: EntryFormatter | None = None) -> str:
    """``1->2 MsgApp Term:1 Log:1/2 Commit:2 Entries:[1/3 EntryNormal ""]``; longer ones over several lines."""
    return _describe_message("", message, formatter)


def describe_ready(ready: Ready, formatter: EntryFormatter | None = None) -> str:
    """What a Ready holds, in the order in which it is to be handled."""
    parts = []
    if ready.soft_state is not None:
        parts.append(describe_soft_state(ready.soft_state) + "\n")
    if ready.hard_state is not None:
        parts.append(f"HardState {describe_hard_state(ready.hard_state)}\n")
    if ready.read_states:
        parts.append(f"ReadStates {describe_read_states(ready.read_states)}\n")
    if ready.entries:
        parts.append("Entries:\n" + describe_entries(ready.entries, formatter))
    if ready.snapshot is not None:
        parts.append(f"Snapshot {describe_snapshot(ready.snapshot)}\n")
    if ready.committed_entries:
        parts.append("CommittedEntries:\n" + describe_entries(ready.committed_entries, formatter))
    if ready.messages:
        parts.append("Messages:\n")
        parts += [describe_message(message, formatter) + "\n" for message in ready.messages]
    if not parts:
        return "<empty Ready>"
    return f"Ready MustSync={_bool(ready.must_sync)}:\n" + "".join(parts)


def describe_status(status: Status) -> str:
    """The status as a line of JSON, ids in hexadecimal."""
    value = {
        "id": f"{status.id:x}",
        "term": status.hard_state.term,
        "vote": f"{status.hard_state.vote:x}",
        "commit": status.hard_state.commit,
        "lead": f"{status.soft_state.lead:x}",
        "raftState": ROLE_NAMES[status.soft_state.role],
        "applied": status.applied,
        "progress": {
            f"{node:x}": {"match": pr.match, "next": pr.next, "state": PROGRESS_NAMES[pr.state]}
            for node, pr in status.progress.items()
        },
        "leadtransferee": f"{status.lead_transferee:x}",
    }
    return json.dumps(value, separators=(",", ":"))


def _describe_message(indent: str, m: Message, formatter: EntryFormatter | None) -> str:
    parts = [
        f"{indent}{_target(m.from_)}->{_target(m.to)} {MESSAGE_NAMES[m.type]} Term:{m.term} Log:{m.log_term}/{m.index}"
    ]
    if m.reject:
        parts.append(f" Rejected (Hint: {m.reject_hint})")
    if m.commit:
        parts.append(f" Commit:{m.commit}")
    if m.vote != NONE:
        parts.append(f" Vote:{m.vote}")
    if len(m.entries) == 1:
        parts.append(f" Entries:[{describe_entry(m.entries[0], formatter)}]")
    elif m.entries:
        parts.append(" Entries:[")
        parts += [f"\n{indent}  {describe_entry(entry, formatter)}" for entry in m.entries]
        parts.append(f"\n{indent}]")
    if m.snapshot is not None and m.snapshot.index:
        parts.append(f"\n{indent}  Snapshot: {describe_snapshot(m.snapshot)}")
    if m.responses:
        parts.append(" Responses:[")
        parts += ["\n" + _describe_message(indent + "  ", response, formatter) for response in m.responses]
        parts.append(f"\n{indent}]")
    return "".join(parts)


def _target(node: int) -> str:
    if node == NONE:
        return "None"
    if node == LOCAL_APPEND_THREAD:
        return "AppendThread"
    return "ApplyThread" if node == LOCAL_APPLY_THREAD else f"{node:x}"


def _ids(values: Iterable[int]) -> str:
    return "[" + " ".join(str(value) for value in values) + "]"


def _bool(value: bool) -> str:
    return "true" if value else "false"
