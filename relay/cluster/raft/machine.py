"""The machine: one message in, the state changed, messages out (paper figure 2, "rules for servers").

The term of a message is judged first, the same for every role (paper 5.1). Then one table per role says which function
handles the kind of message; kinds that mean nothing to a role are in no table.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.cluster.raft import election, follower, leader, reads
from relay.cluster.raft.log import RaftLog
from relay.cluster.raft.logger import INFO, fail, say
from relay.cluster.raft.membership import applied_snapshot, applied_to, restore_configuration
from relay.cluster.raft.options import Options
from relay.cluster.raft.replication import broadcast_heartbeat, count_applied
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import (
    ENTRY_OVERHEAD_BYTES,
    LEADER,
    MESSAGE_NAMES,
    MSG_APP,
    MSG_APP_RESP,
    MSG_BEAT,
    MSG_CHECK_QUORUM,
    MSG_FORGET_LEADER,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_RESP,
    MSG_HUP,
    MSG_PRE_VOTE,
    MSG_PRE_VOTE_RESP,
    MSG_PROP,
    MSG_READ_INDEX,
    MSG_READ_INDEX_RESP,
    MSG_SNAP,
    MSG_SNAP_STATUS,
    MSG_STORAGE_APPEND_RESP,
    MSG_STORAGE_APPLY_RESP,
    MSG_TIMEOUT_NOW,
    MSG_TRANSFER_LEADER,
    MSG_UNREACHABLE,
    MSG_VOTE,
    MSG_VOTE_RESP,
    NONE,
    HardState,
    Message,
    Snapshot,
    entries_size,
)

Handler = Callable[[RaftState, Message], None]


def new_raft(options: Options) -> RaftState:
    """A node as its storage remembers it, following nobody. ``options`` is checked first."""
    options = options.checked()
    log = RaftLog(options.storage, options.logger, options.committed_size_max)
    r = RaftState(options, log)
    hard_state, conf_state = options.storage.initial_state()
    last_index, last_term = log.last_index, log.last_term
    restore_configuration(r, conf_state)
    if hard_state != HardState():
        if not log.committed <= hard_state.commit <= last_index:
            raise fail(
                r.logger,
                "%x state.commit %d is out of range [%d, %d]",
                r.id,
                hard_state.commit,
                log.committed,
                last_index,
            )
        log.committed = hard_state.commit
        r.term = hard_state.term
        r.vote = hard_state.vote
    if options.applied > 0:
        # What was applied was committed, even if the commit index, which need not be durable, was lost in a crash.
        log.commit_to(options.applied)
        log.applied_to(options.applied, 0)
    election.become_follower(r, r.term, NONE)
    say(
        r.logger,
        INFO,
        "newRaft %x [peers: [%s], term: %d, commit: %d, applied: %d, lastindex: %d, lastterm: %d]",
        r.id,
        ",".join(f"{node:x}" for node in r.configuration.voters()),
        r.term,
        log.committed,
        log.applied,
        last_index,
        last_term,
    )
    return r


def tick(r: RaftState) -> None:
    """One tick of the clock."""
    if r.role == LEADER:
        leader.tick_heartbeat(r)
    else:
        election.tick_election(r)


def step(r: RaftState, m: Message) -> None:
    """Handle one message. :class:`ProposalDropped` is raised for a proposal that nobody appended."""
    term = m.term
    if term != r.term and term != 0 and _judge_term(r, m):
        return
    handler = _HANDLERS[r.role][m.type]
    if handler is not None:
        handler(r, m)


def storage_appended(r: RaftState, term: int, log_term: int, index: int, snapshot: Snapshot | None) -> None:
    """Everything handed out while the term was ``term`` is durable: the log up to ``index``, and ``snapshot``."""
    if index:
        if 0 < term < r.term:
            # A write of a later term may be on its way that replaces these entries: they must stay here until then, or
            # a read of the storage would see neither. The answer to that later write will free them.
            say(
                r.logger,
                INFO,
                "%x [term: %d] ignored entry appends from a %s message with lower term [term: %d]",
                r.id,
                r.term,
                MESSAGE_NAMES[MSG_STORAGE_APPEND_RESP],
                term,
            )
        else:
            r.log.unstable.stable_to(log_term, index)
    if snapshot is not None:
        # Committed state, valid in every term.
        applied_snapshot(r, snapshot)


def storage_applied(r: RaftState, index: int, count: int, size: int) -> None:
    """``count`` entries of ``size`` bytes, the last at ``index``, are in the state machine."""
    applied_to(r, index, size)
    if r.uncommitted_size:
        count_applied(r, size - count * ENTRY_OVERHEAD_BYTES)


def _judge_term(r: RaftState, m: Message) -> bool:
    """A message of another term than ours: follow a later one, refuse an earlier one. True if that is all."""
    if m.term < r.term:
        _refuse_past(r, m)
        return True
    kind = m.type
    if kind in (MSG_VOTE, MSG_PRE_VOTE):
        options = r.options
        in_lease = options.check_quorum and r.lead != NONE and r.election_elapsed < options.election_tick
        if in_lease and m.context != election.TRANSFER_CONTEXT:
            # Who hears a leader helps nobody to depose it (thesis 4.2.3).
            say(
                r.logger,
                INFO,
                "%x [logterm: %d, index: %d, vote: %x] ignored %s from %x [logterm: %d, index: %d] at term %d: "
                "lease is not expired (remaining ticks: %d)",
                r.id,
                r.log.last_term,
                r.log.last_index,
                r.vote,
                MESSAGE_NAMES[kind],
                m.from_,
                m.log_term,
                m.index,
                r.term,
                options.election_tick - r.election_elapsed,
            )
            return True
    if kind == MSG_PRE_VOTE or (kind == MSG_PRE_VOTE_RESP and not m.reject):
        # Neither is of a term that anybody has entered yet. A rejection is: that of the node that rejects.
        return False
    say(
        r.logger,
        INFO,
        "%x [term: %d] received a %s message with higher term from %x [term: %d]",
        r.id,
        r.term,
        MESSAGE_NAMES[kind],
        m.from_,
        m.term,
    )
    election.become_follower(r, m.term, m.from_ if kind in (MSG_APP, MSG_HEARTBEAT, MSG_SNAP) else NONE)
    return False


def _refuse_past(r: RaftState, m: Message) -> None:
    """A message of an earlier term (paper 5.1)."""
    kind = m.type
    if kind in (MSG_HEARTBEAT, MSG_APP) and (r.options.check_quorum or r.options.pre_vote):
        # A leader that lags behind. Our votes do not reach it (leases, pre-votes), so without this answer it would not
        # learn our term, and we could neither win nor follow.
        r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term))
    elif kind == MSG_PRE_VOTE:
        # Without an answer, nodes with and without pre-vote could wait for each other for ever.
        say(
            r.logger,
            INFO,
            "%x [logterm: %d, index: %d, vote: %x] rejected %s from %x [logterm: %d, index: %d] at term %d",
            r.id,
            r.log.last_term,
            r.log.last_index,
            r.vote,
            MESSAGE_NAMES[kind],
            m.from_,
            m.log_term,
            m.index,
            r.term,
        )
        r.messages_after_append.append(Message(MSG_PRE_VOTE_RESP, m.from_, r.id, r.term, reject=True))
    elif kind == MSG_STORAGE_APPEND_RESP:
        _handle_storage_append_response(r, m)
    else:
        say(
            r.logger,
            INFO,
            "%x [term: %d] ignored a %s message with lower term from %x [term: %d]",
            r.id,
            r.term,
            MESSAGE_NAMES[kind],
            m.from_,
            m.term,
        )


def _handle_hup(r: RaftState, m: Message) -> None:
    election.start_election(r)


def _handle_beat(r: RaftState, m: Message) -> None:
    broadcast_heartbeat(r)


def _handle_check_quorum(r: RaftState, m: Message) -> None:
    leader.check_quorum(r)


def _handle_storage_append_response(r: RaftState, m: Message) -> None:
    storage_appended(r, m.term, m.log_term, m.index, m.snapshot)


def _handle_storage_apply_response(r: RaftState, m: Message) -> None:
    if m.entries:
        storage_applied(r, m.entries[-1].index, len(m.entries), entries_size(m.entries))


def _table(*parts: dict[int, Handler]) -> tuple[Handler | None, ...]:
    handlers: dict[int, Handler] = {}
    for part in parts:
        handlers.update(part)
    return tuple(handlers.get(kind) for kind in range(len(MESSAGE_NAMES)))


_EVERYBODY: dict[int, Handler] = {
    MSG_HUP: _handle_hup,
    MSG_STORAGE_APPEND_RESP: _handle_storage_append_response,
    MSG_STORAGE_APPLY_RESP: _handle_storage_apply_response,
    MSG_VOTE: election.handle_vote_request,
    MSG_PRE_VOTE: election.handle_vote_request,
}
_NOT_LEADING: dict[int, Handler] = {
    MSG_APP: follower.handle_append,
    MSG_HEARTBEAT: follower.handle_heartbeat,
    MSG_SNAP: follower.handle_snapshot,
}
_FOLLOWING: dict[int, Handler] = {
    MSG_PROP: follower.forward_proposal,
    MSG_TRANSFER_LEADER: follower.forward_transfer,
    MSG_FORGET_LEADER: follower.forget_leader,
    MSG_TIMEOUT_NOW: follower.campaign_now,
    MSG_READ_INDEX: follower.forward_read_index,
    MSG_READ_INDEX_RESP: follower.handle_read_index_response,
}
_CAMPAIGNING: dict[int, Handler] = {
    MSG_PROP: follower.drop_proposal,
    MSG_VOTE_RESP: follower.count_vote,
    MSG_PRE_VOTE_RESP: follower.count_vote,
    MSG_TIMEOUT_NOW: follower.ignore_campaign_now,
}
_LEADING: dict[int, Handler] = {
    MSG_BEAT: _handle_beat,
    MSG_CHECK_QUORUM: _handle_check_quorum,
    MSG_PROP: leader.handle_proposal,
    MSG_READ_INDEX: reads.handle_read_index,
    MSG_APP_RESP: leader.handle_append_response,
    MSG_HEARTBEAT_RESP: leader.handle_heartbeat_response,
    MSG_SNAP_STATUS: leader.handle_snapshot_status,
    MSG_UNREACHABLE: leader.handle_unreachable,
    MSG_TRANSFER_LEADER: leader.handle_transfer,
}
_NO_USE: dict[int, Handler] = {
    kind: leader.note_no_progress for kind in range(len(MESSAGE_NAMES)) if kind != MSG_FORGET_LEADER
}

_HANDLERS = (
    _table(_EVERYBODY, _NOT_LEADING, _FOLLOWING),
    _table(_EVERYBODY, _NOT_LEADING, _CAMPAIGNING),
    _table(_NO_USE, _EVERYBODY, _LEADING),
    _table(_EVERYBODY, _NOT_LEADING, _CAMPAIGNING),
)
"""By role, then by kind of message."""
