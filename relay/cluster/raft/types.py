"""The values of Raft: entries, messages, snapshots, membership changes; numbers and names after etcd-io/raft.

All of them are frozen, so a message may be handed to several nodes of one process, kept by an unreliable network and
delivered twice without a copy. Sequences are tuples for the same reason.

Message kinds (the number is the one on the wire):

====  =====================  ===========================================================================================
 #    name                   meaning, and the fields used besides type, to, from, term
====  =====================  ===========================================================================================
0     MsgHup                 local: start an election
1     MsgBeat                local: the leader's heartbeat is due
2     MsgProp                propose ``entries``; followers forward it to the leader
3     MsgApp                 AppendEntries: ``index``/``log_term`` of the entry before ``entries``; ``commit``
4     MsgAppResp             ``index`` acknowledged; or ``reject`` of ``index`` with ``reject_hint``/``log_term``
5     MsgVote                RequestVote: ``index``/``log_term`` of the candidate's last entry; ``context`` of transfers
6     MsgVoteResp            the vote, ``reject`` or not
7     MsgSnap                InstallSnapshot: ``snapshot``
8     MsgHeartbeat           ``commit`` that the follower has for certain; ``context`` of reads
9     MsgHeartbeatResp       ``context`` returned
10    MsgUnreachable         local: the transport failed to deliver to ``from_``
11    MsgSnapStatus          local: the snapshot to ``from_`` arrived, or ``reject``: did not
12    MsgCheckQuorum         local: is a quorum still heard from?
13    MsgTransferLeader      hand leadership to ``from_``
14    MsgTimeoutNow          the leader tells its chosen successor to campaign at once
15    MsgReadIndex           a read whose identity is ``entries[0].data``
16    MsgReadIndexResp       the answer: ``index`` at or after which the read may be served
17    MsgPreVote             would you vote for me at ``term``?
18    MsgPreVoteResp         the answer
19    MsgStorageAppend       local: persist ``entries``, hard state and ``snapshot``; then deliver ``responses``
20    MsgStorageAppendResp   local: up to ``index``/``log_term`` is durable
21    MsgStorageApply        local: apply ``entries`` to the state machine; then deliver ``responses``
22    MsgStorageApplyResp    local: ``entries`` are applied
23    MsgForgetLeader        local: a follower stops believing in its leader (pre-votes may be granted)
====  =====================  ===========================================================================================
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

NONE: Final = 0
"""No node: the id of an absent leader or vote."""
LOCAL_APPEND_THREAD: Final = 2**64 - 1
"""The target of MsgStorageAppend: whoever writes the log of this node."""
LOCAL_APPLY_THREAD: Final = 2**64 - 2
"""The target of MsgStorageApply: whoever applies entries to this node's state machine."""
NO_LIMIT: Final = 2**64 - 1
"""A size in bytes that nothing reaches."""
ENTRY_OVERHEAD_BYTES: Final = 21
"""What an entry counts beyond its payload: a kind, a term, an index and a length, whatever their encoding."""

MSG_HUP: Final = 0
MSG_BEAT: Final = 1
MSG_PROP: Final = 2
MSG_APP: Final = 3
MSG_APP_RESP: Final = 4
MSG_VOTE: Final = 5
MSG_VOTE_RESP: Final = 6
MSG_SNAP: Final = 7
MSG_HEARTBEAT: Final = 8
MSG_HEARTBEAT_RESP: Final = 9
MSG_UNREACHABLE: Final = 10
MSG_SNAP_STATUS: Final = 11
MSG_CHECK_QUORUM: Final = 12
MSG_TRANSFER_LEADER: Final = 13
MSG_TIMEOUT_NOW: Final = 14
MSG_READ_INDEX: Final = 15
MSG_READ_INDEX_RESP: Final = 16
MSG_PRE_VOTE: Final = 17
MSG_PRE_VOTE_RESP: Final = 18
MSG_STORAGE_APPEND: Final = 19
MSG_STORAGE_APPEND_RESP: Final = 20
MSG_STORAGE_APPLY: Final = 21
MSG_STORAGE_APPLY_RESP: Final = 22
MSG_FORGET_LEADER: Final = 23

MESSAGE_NAMES: Final = (
    "MsgHup",
    "MsgBeat",
    "MsgProp",
    "MsgApp",
    "MsgAppResp",
    "MsgVote",
    "MsgVoteResp",
    "MsgSnap",
    "MsgHeartbeat",
    "MsgHeartbeatResp",
    "MsgUnreachable",
    "MsgSnapStatus",
    "MsgCheckQuorum",
    "MsgTransferLeader",
    "MsgTimeoutNow",
    "MsgReadIndex",
    "MsgReadIndexResp",
    "MsgPreVote",
    "MsgPreVoteResp",
    "MsgStorageAppend",
    "MsgStorageAppendResp",
    "MsgStorageApply",
    "MsgStorageApplyResp",
    "MsgForgetLeader",
)

LOCAL_MESSAGES: Final = frozenset(
    {
        MSG_HUP,
        MSG_BEAT,
        MSG_UNREACHABLE,
        MSG_SNAP_STATUS,
        MSG_CHECK_QUORUM,
        MSG_STORAGE_APPEND,
        MSG_STORAGE_APPEND_RESP,
        MSG_STORAGE_APPLY,
        MSG_STORAGE_APPLY_RESP,
    }
)
"""Kinds that are never sent to another node."""
RESPONSE_MESSAGES: Final = frozenset(
    {
        MSG_APP_RESP,
        MSG_VOTE_RESP,
        MSG_HEARTBEAT_RESP,
        MSG_UNREACHABLE,
        MSG_READ_INDEX_RESP,
        MSG_PRE_VOTE_RESP,
        MSG_STORAGE_APPEND_RESP,
        MSG_STORAGE_APPLY_RESP,
    }
)
"""Kinds that answer something: only a member of the configuration may send them."""
LOCAL_TARGETS: Final = frozenset({LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD})
"""The ids that stand for a thread of this node."""

ENTRY_NORMAL: Final = 0
ENTRY_CONF_CHANGE: Final = 1
ENTRY_CONF_CHANGE_V2: Final = 2
ENTRY_NAMES: Final = ("EntryNormal", "EntryConfChange", "EntryConfChangeV2")

ADD_NODE: Final = 0
REMOVE_NODE: Final = 1
UPDATE_NODE: Final = 2
ADD_LEARNER_NODE: Final = 3
CONF_CHANGE_NAMES: Final = (
    "ConfChangeAddNode",
    "ConfChangeRemoveNode",
    "ConfChangeUpdateNode",
    "ConfChangeAddLearnerNode",
)

TRANSITION_AUTO: Final = 0
"""One change: simple. Several: joint, left automatically."""
TRANSITION_JOINT_IMPLICIT: Final = 1
"""Joint, left automatically."""
TRANSITION_JOINT_EXPLICIT: Final = 2
"""Joint until the application proposes an empty change."""
TRANSITION_NAMES: Final = (
    "ConfChangeTransitionAuto",
    "ConfChangeTransitionJointImplicit",
    "ConfChangeTransitionJointExplicit",
)

FOLLOWER: Final = 0
CANDIDATE: Final = 1
LEADER: Final = 2
PRE_CANDIDATE: Final = 3
ROLE_NAMES: Final = ("StateFollower", "StateCandidate", "StateLeader", "StatePreCandidate")

READ_ONLY_SAFE: Final = 0
"""A read waits for a round of heartbeats (thesis 6.4)."""
READ_ONLY_LEASE_BASED: Final = 1
"""A read trusts the leader's lease, and with it every clock of the cluster (thesis 6.4.1)."""

Unsigned = Annotated[int, Meta(ge=0)]


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One position of the log. Logs that agree in ``(term, index)`` agree in all up to there (paper 5.3)."""

    type: Unsigned = ENTRY_NORMAL
    term: Unsigned = 0
    index: Unsigned = 0
    data: bytes = b""


class ConfState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A configuration as it is stored: ids ascending; ``voters_outgoing`` is not empty while it is joint."""

    voters: tuple[Unsigned, ...] = ()
    learners: tuple[Unsigned, ...] = ()
    voters_outgoing: tuple[Unsigned, ...] = ()
    learners_next: tuple[Unsigned, ...] = ()
    auto_leave: bool = False


class Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A state machine's content after the entry at ``index``, and the configuration that holds there."""

    data: bytes = b""
    index: Unsigned = 0
    term: Unsigned = 0
    conf_state: ConfState = ConfState()


class HardState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What must survive a restart besides the log (paper figure 2, "persistent state"; ``commit`` is a convenience)."""

    term: Unsigned = 0
    vote: Unsigned = NONE
    commit: Unsigned = 0


class SoftState(msgspec.Struct, frozen=True, gc=False):
    """What is only interesting while the process runs."""

    lead: int = NONE
    role: int = FOLLOWER


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """The read named ``request_ctx`` may be served once the applied index has reached ``index``."""

    index: int
    request_ctx: bytes


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One message; the table of the module says which fields a kind uses. The first seven are given by position."""

    type: Unsigned
    to: Unsigned = NONE
    from_: Unsigned = NONE
    term: Unsigned = 0
    """0: local, or a proposal or read, which belong to no term."""
    log_term: Unsigned = 0
    index: Unsigned = 0
    entries: tuple[Entry, ...] = ()
    commit: Unsigned = 0
    vote: Unsigned = NONE
    reject: bool = False
    reject_hint: Unsigned = 0
    context: bytes = b""
    snapshot: Snapshot | None = None
    responses: tuple[Message, ...] = ()
    """Only in MsgStorageAppend and MsgStorageApply: deliver these when the work is done."""


class ConfChangeSingle(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One step of a change: add, remove, update or add as learner. ``node_id`` 0 is skipped."""

    type: Unsigned = ADD_NODE
    node_id: Unsigned = NONE


class ConfChange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The one-step change of the first format."""

    type: Unsigned = ADD_NODE
    node_id: Unsigned = NONE
    context: bytes = b""


class ConfChangeV2(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Any number of steps; none at all (and an automatic transition) means: leave the joint configuration."""

    transition: Unsigned = TRANSITION_AUTO
    changes: tuple[ConfChangeSingle, ...] = ()
    context: bytes = b""


def as_v2(change: ConfChange | ConfChangeV2) -> ConfChangeV2:
    """The same change in the second format."""
    if isinstance(change, ConfChangeV2):
        return change
    return ConfChangeV2(TRANSITION_AUTO, (ConfChangeSingle(change.type, change.node_id),), change.context)


def leaves_joint(change: ConfChangeV2) -> bool:
    """Whether the change ends a joint configuration (thesis 4.3: the entry C_new)."""
    return change.transition == TRANSITION_AUTO and not change.changes


def enters_joint(change: ConfChangeV2) -> tuple[bool, bool]:
    """``(joint, auto_leave)``: whether joint consensus is used, and whether it is left without being asked."""
    if change.transition == TRANSITION_AUTO and len(change.changes) <= 1:
        return False, False
    return True, change.transition != TRANSITION_JOINT_EXPLICIT


def entries_size(entries: tuple[Entry, ...]) -> int:
    """The size in bytes that limits on messages and on applying count."""
    total = ENTRY_OVERHEAD_BYTES * len(entries)
    for entry in entries:
        total += len(entry.data)
    return total


def payloads_size(entries: tuple[Entry, ...]) -> int:
    """The size in bytes of the payloads alone: an empty entry counts nothing, so a leader can always append one."""
    total = 0
    for entry in entries:
        total += len(entry.data)
    return total


def limit_size(entries: tuple[Entry, ...], size_max: int) -> tuple[Entry, ...]:
    """The longest prefix of at most ``size_max`` bytes, but at least one entry if there is one."""
    if size_max >= NO_LIMIT or len(entries) <= 1:
        return entries
    total = ENTRY_OVERHEAD_BYTES + len(entries[0].data)
    for count in range(1, len(entries)):
        total += ENTRY_OVERHEAD_BYTES + len(entries[count].data)
        if total > size_max:
            return entries[:count]
    return entries
