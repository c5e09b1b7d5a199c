"""Asynchronous storage writes: the messages to and from the threads that write the log and apply entries.

::

    node ── MsgStorageAppend (entries, hard state, snapshot) ──▶ append thread ── after fsync ──▶ its ``responses``
    node ── MsgStorageApply (committed entries) ───────────────▶ apply thread ── when applied ──▶ its ``responses``

Each thread works in order and loses nothing; the two run independently. Among the responses are those to other nodes
that had to wait for durability, and one to the node itself.

**Why MsgStorageAppendResp carries the term, and the last entry of the log rather than of this write.** Three writes may
be under way: entries X of term 1, entries Y of term 2 that replace them, and X again, sent by the first leader elected
anew in term 3. When the first write is done, X is in the storage and X is what the unstable tail holds, yet the second
write will put Y there once more. So an answer counts only if the term has not changed since the write was handed out.
A change of term itself causes a write (the hard state), whose answer vouches for the whole tail at that time.
"""

from __future__ import annotations

from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    MSG_STORAGE_APPEND,
    MSG_STORAGE_APPEND_RESP,
    MSG_STORAGE_APPLY,
    MSG_STORAGE_APPLY_RESP,
    NONE,
    Entry,
    HardState,
    Message,
    Snapshot,
)


def storage_append(
    r: RaftState, entries: tuple[Entry, ...], hard_state: HardState | None, snapshot: Snapshot | None
) -> Message | None:
    """The write that a Ready with these members needs, or None. Without responses it need not be durable."""
    waiting = tuple(r.messages_after_append)
    if not (entries or hard_state or snapshot or waiting):
        return None
    if r.log.unstable.entries or snapshot:
        waiting = (*waiting, storage_append_response(r, snapshot))
    return Message(
        MSG_STORAGE_APPEND,
        LOCAL_APPEND_THREAD,
        r.id,
        # All zero where there is no change of the hard state: nothing to be written then.
        term=hard_state.term if hard_state else 0,
        vote=hard_state.vote if hard_state else NONE,
        commit=hard_state.commit if hard_state else 0,
        entries=entries,
        snapshot=snapshot,
        responses=waiting,
    )


def storage_append_response(r: RaftState, snapshot: Snapshot | None) -> Message:
    """What the append thread answers when all that is unstable now is durable."""
    log = r.log
    tail = bool(log.unstable.entries)
    return Message(
        MSG_STORAGE_APPEND_RESP,
        r.id,
        LOCAL_APPEND_THREAD,
        r.term,
        log.last_term if tail else 0,
        log.last_index if tail else 0,
        snapshot=snapshot,
    )


def storage_apply(r: RaftState, entries: tuple[Entry, ...]) -> Message:
    """Apply ``entries``. Of no term: what is committed is so for ever."""
    response = Message(MSG_STORAGE_APPLY_RESP, r.id, LOCAL_APPLY_THREAD, entries=entries)
    return Message(MSG_STORAGE_APPLY, LOCAL_APPLY_THREAD, r.id, entries=entries, responses=(response,))
