"""What a leader sends, and when an entry is committed (paper 5.3, 5.4.2, 7; thesis 10.2).

Every function here is called on a leader only.
"""

from __future__ import annotations

from relay.cluster.raft.errors import RaftInvariantError, SnapshotUnavailable, StorageError
from relay.cluster.raft.logger import DEBUG, WARNING, say
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.tracker import REPLICATE, SNAPSHOT, Progress
from relay.cluster.raft.types import (
    MSG_APP,
    MSG_APP_RESP,
    MSG_HEARTBEAT,
    MSG_SNAP,
    NONE,
    Entry,
    Message,
    payloads_size,
)


def append_entries(r: RaftState, entries: tuple[Entry, ...]) -> bool:
    """Append to the leader's own log; False, and nothing done, over the limit of uncommitted payload.

    The leader acknowledges its own entries by a message to itself that waits for their durability, so it counts itself
    only after its disk does (thesis 10.2.1: it may send them before).
    """
    log = r.log
    index = log.last_index
    term = r.term
    if len(entries) == 1:  # fast path
        entry = entries[0]
        entries = (Entry(entry.type, term, index + 1, entry.data),)
    else:
        entries = tuple([Entry(e.type, term, position, e.data) for position, e in enumerate(entries, index + 1)])
    if not _count_uncommitted(r, entries):
        say(
            r.logger,
            WARNING,
            "%x appending new entries to log would exceed uncommitted entry size limit; dropping proposal",
            r.id,
        )
        return False
    last = log.append(entries)
    r.messages_after_append.append(Message(MSG_APP_RESP, r.id, r.id, term, 0, last))
    return True


def send_append(r: RaftState, to: int, pr: Progress) -> None:
    """Send an append to ``to``, if only to tell the commit index, unless it is paused."""
    maybe_send_append(r, to, pr, if_empty=True)


def maybe_send_append(r: RaftState, to: int, pr: Progress, if_empty: bool) -> bool:
    """Send an append, or a snapshot if the log does not reach back; False if paused, or empty and not ``if_empty``."""
    if pr.flow_paused or pr.state == SNAPSHOT:
        return False
    log = r.log
    previous = pr.next - 1
    last = log.last_index
    entries: tuple[Entry, ...] = ()
    if previous == last:  # fast path: nothing but the commit index
        previous_term = log.last_term
    else:
        try:
            previous_term = log.term(previous)
        except StorageError:
            return _maybe_send_snapshot(r, to, pr)
        # A full window still lets an empty append through: if all that filled it was lost, its rejection or
        # acknowledgement, prompted by a heartbeat, is what frees the window again.
        if previous < last and not (pr.state == REPLICATE and pr.inflights.full):
            try:
                entries = log.slice(pr.next, last + 1, r.options.message_size_max)
            except StorageError:
                return if_empty and _maybe_send_snapshot(r, to, pr)
    if not entries and not if_empty:
        return False
    committed = log.committed
    r.messages.append(Message(MSG_APP, to, r.id, r.term, previous_term, previous, entries, committed))
    pr.sent_entries(len(entries), payloads_size(entries) if entries else 0)
    pr.sent_commit = committed
    return True


def broadcast_append(r: RaftState) -> None:
    """An append to everybody, ids ascending."""
    for node, pr in r.peers:
        maybe_send_append(r, node, pr, if_empty=True)


def broadcast_heartbeat(r: RaftState) -> None:
    """A heartbeat to everybody, carrying the number of the last read that waits for one."""
    context = r.read_only.context()
    committed = r.log.committed
    for node, pr in r.peers:
        # A follower may hold conflicting entries above match, so it is told of no commit beyond it (paper 5.3).
        commit = min(pr.match, committed)
        r.messages.append(Message(MSG_HEARTBEAT, node, r.id, r.term, 0, 0, (), commit, NONE, False, 0, context))
        pr.sent_commit = commit


def maybe_commit(r: RaftState) -> bool:
    """Commit what a quorum holds, if it ends with an entry of the own term (paper 5.4.2, figure 8)."""
    index = r.quorum_match()
    log = r.log
    if index <= log.committed or log.term_or_zero(index) != r.term:
        return False
    log.commit_to(index)
    return True


def committed_in_term(r: RaftState) -> bool:
    """Whether something of the leader's own term is committed, so that its commit index is current (thesis 6.4)."""
    return r.log.term_or_zero(r.log.committed) == r.term


def count_applied(r: RaftState, size: int) -> None:
    """``size`` bytes of payload are applied and count as uncommitted no more."""
    r.uncommitted_size = max(0, r.uncommitted_size - size)


def _count_uncommitted(r: RaftState, entries: tuple[Entry, ...]) -> bool:
    """Count the payload; False if it does not fit. An empty payload always does, and any size if nothing is counted."""
    size = payloads_size(entries)
    total = r.uncommitted_size + size
    if r.uncommitted_size > 0 and size > 0 and total > r.options.uncommitted_size_max:
        return False
    r.uncommitted_size = total
    return True


def _maybe_send_snapshot(r: RaftState, to: int, pr: Progress) -> bool:
    """Send the latest snapshot, to a node that is heard from (paper 7)."""
    if not pr.recent_active:
        say(r.logger, DEBUG, "ignore sending snapshot to %x since it is not recently active", to)
        return False
    try:
        snapshot = r.log.snapshot()
    except SnapshotUnavailable:
        say(
            r.logger,
            DEBUG,
            "%x failed to send snapshot to %x because snapshot is temporarily unavailable",
            r.id,
            to,
        )
        return False
    if not snapshot.index:
        raise RaftInvariantError("need non-empty snapshot")
    say(
        r.logger,
        DEBUG,
        "%x [firstindex: %d, commit: %d] sent snapshot[index: %d, term: %d] to %x [%s]",
        r.id,
        r.log.first_index(),
        r.log.committed,
        snapshot.index,
        snapshot.term,
        to,
        pr,
    )
    pr.become_snapshot(snapshot.index)
    say(r.logger, DEBUG, "%x paused sending replication messages to %x [%s]", r.id, to, pr)
    r.messages.append(Message(MSG_SNAP, to, r.id, r.term, snapshot=snapshot))
    return True
