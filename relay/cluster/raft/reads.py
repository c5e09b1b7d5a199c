"""Linearizable reads without an entry in the log (thesis 6.4)."""

from __future__ import annotations

from relay.cluster.raft.errors import RaftInvariantError
from relay.cluster.raft.replication import broadcast_heartbeat, committed_in_term
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import (
    MSG_READ_INDEX_RESP,
    NONE,
    READ_ONLY_SAFE,
    Message,
    ReadState,
)


def handle_read_index(r: RaftState, m: Message) -> None:
    """A read reached the leader.

    The commit index may be behind what an earlier leader acknowledged until something of the own term is committed
    (thesis 6.4, step 1). That holds for the only voter too: those removed before may have committed more than it knows.
    """
    if committed_in_term(r):
        _confirm(r, m)
    elif len(r.pending_reads) < r.options.waiting_reads_max:
        r.pending_reads.append(m)


def release_pending(r: RaftState) -> None:
    """The commit index moved: something of the term is committed now."""
    if not r.pending_reads:
        return
    if not committed_in_term(r):
        raise RaftInvariantError("pending MsgReadIndex should be released only after first commit in current term")
    waiting = r.pending_reads
    r.pending_reads = []
    for m in waiting:
        _confirm(r, m)


def handle_heartbeat_context(r: RaftState, m: Message) -> None:
    """A heartbeat that carried a read number came back."""
    r.read_only.acknowledge(m.from_, m.context)
    for request, index in r.read_only.advance(r.configuration.incoming, r.configuration.outgoing):
        respond(r, request, index)


def respond(r: RaftState, request: Message, index: int) -> None:
    """The read may be served at ``index``: tell whoever asked."""
    if request.from_ in (NONE, r.id):
        r.read_states.append(ReadState(index, request.entries[0].data))
    else:
        r.messages.append(Message(MSG_READ_INDEX_RESP, request.from_, r.id, r.term, 0, index, request.entries))


def _confirm(r: RaftState, m: Message) -> None:
    """Ask a quorum whether this is still the leader, unless it is one, or the lease says so (thesis 6.4.1)."""
    if r.is_singleton() or r.options.read_only != READ_ONLY_SAFE:
        respond(r, m, r.log.committed)
    elif r.read_only.add(m, r.log.committed):
        r.read_only.acknowledge(r.id, r.read_only.context())
        broadcast_heartbeat(r)
