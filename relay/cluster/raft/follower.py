"""What followers, candidates and pre-candidates do with messages (paper 5.1, 5.3, 7)."""

from __future__ import annotations

from relay.cluster.raft.election import CAMPAIGN_TRANSFER, become_follower, handle_vote_response, hup
from relay.cluster.raft.errors import ProposalDropped
from relay.cluster.raft.log import find_conflict_by_term
from relay.cluster.raft.logger import DEBUG, ERROR, INFO, say
from relay.cluster.raft.membership import restore_snapshot
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import (
    FOLLOWER,
    MSG_APP_RESP,
    MSG_HEARTBEAT_RESP,
    MSG_PRE_VOTE_RESP,
    MSG_PROP,
    MSG_READ_INDEX,
    MSG_VOTE_RESP,
    NONE,
    PRE_CANDIDATE,
    READ_ONLY_LEASE_BASED,
    ROLE_NAMES,
    Message,
    ReadState,
    Snapshot,
)


def handle_append(r: RaftState, m: Message) -> None:
    """MsgApp from the leader of this term: append, commit, acknowledge, or say where the logs may still agree."""
    if r.role == FOLLOWER:  # fast path: as in _follow
        r.election_elapsed = 0
        r.lead = m.from_
    else:
        become_follower(r, m.term, m.from_)
    log = r.log
    index = m.index
    if index < log.committed:
        # Long known: the leader's idea of us is old.
        last: int | None = log.committed
    else:
        last = log.maybe_append(m.log_term, index, m.entries, m.commit)
    if last is not None:
        r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, last))
        return
    say(
        r.logger,
        DEBUG,
        "%x [logterm: %d, index: %d] rejected MsgApp [logterm: %d, index: %d] from %x",
        r.id,
        log.term_or_zero(index),
        index,
        m.log_term,
        index,
        m.from_,
    )
    # Up to ``index`` the leader's terms are at most m.log_term, so nothing of ours with a higher one can agree: skip it
    # in one step (paper 5.3, end). The leader does the same with the term returned.
    hint, hint_term = find_conflict_by_term(log, min(index, log.last_index), m.log_term)
    r.messages_after_append.append(
        Message(MSG_APP_RESP, m.from_, r.id, r.term, hint_term, index, (), 0, NONE, True, hint)
    )


def handle_heartbeat(r: RaftState, m: Message) -> None:
    """MsgHeartbeat: the leader lives; its commit index never goes beyond what it knows we have."""
    _follow(r, m)
    r.log.commit_to(m.commit)
    r.messages.append(Message(MSG_HEARTBEAT_RESP, m.from_, r.id, r.term, 0, 0, (), 0, NONE, False, 0, m.context))


def handle_snapshot(r: RaftState, m: Message) -> None:
    """MsgSnap: take it, and acknowledge what we have then."""
    _follow(r, m)
    snapshot = m.snapshot or Snapshot()
    restored = restore_snapshot(r, snapshot)
    say(
        r.logger,
        INFO,
        "%x [commit: %d] " + ("restored" if restored else "ignored") + " snapshot [index: %d, term: %d]",
        r.id,
        r.log.committed,
        snapshot.index,
        snapshot.term,
    )
    index = r.log.last_index if restored else r.log.committed
    r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, index))


def forward_proposal(r: RaftState, m: Message) -> None:
    """MsgProp at a follower: pass it to the leader, if there is one and that is wanted."""
    if r.lead == NONE:
        drop_proposal(r, m)
    if r.options.disable_proposal_forwarding:
        say(r.logger, INFO, "%x not forwarding to leader %x at term %d; dropping proposal", r.id, r.lead, r.term)
        raise ProposalDropped
    r.messages.append(Message(MSG_PROP, r.lead, m.from_ or r.id, entries=m.entries))


def drop_proposal(r: RaftState, m: Message) -> None:
    """MsgProp where no leader is known."""
    say(r.logger, INFO, "%x no leader at term %d; dropping proposal", r.id, r.term)
    raise ProposalDropped


def forward_transfer(r: RaftState, m: Message) -> None:
    """MsgTransferLeader at a follower: the leader decides (thesis 3.10)."""
    if r.lead == NONE:
        say(r.logger, INFO, "%x no leader at term %d; dropping leader transfer msg", r.id, r.term)
        return
    r.messages.append(Message(m.type, r.lead, m.from_ or r.id, r.term))


def forward_read_index(r: RaftState, m: Message) -> None:
    """MsgReadIndex at a follower: the leader knows the index (thesis 6.4, "followers")."""
    if r.lead == NONE:
        say(r.logger, INFO, "%x no leader at term %d; dropping index reading msg", r.id, r.term)
        return
    r.messages.append(Message(MSG_READ_INDEX, r.lead, m.from_ or r.id, entries=m.entries))


def handle_read_index_response(r: RaftState, m: Message) -> None:
    """MsgReadIndexResp: a read that this node forwarded may be served at ``index``."""
    if len(m.entries) != 1:
        say(
            r.logger,
            ERROR,
            "%x invalid format of MsgReadIndexResp from %x, entries count: %d",
            r.id,
            m.from_,
            len(m.entries),
        )
        return
    r.read_states.append(ReadState(m.index, m.entries[0].data))


def forget_leader(r: RaftState, m: Message) -> None:
    """MsgForgetLeader: the application knows that the leader is gone, so pre-votes and votes need not wait.

    Refused where reads trust the leader's lease, which rests on nobody voting during it.
    """
    if r.options.read_only == READ_ONLY_LEASE_BASED:
        say(r.logger, ERROR, "ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
        return
    if r.lead != NONE:
        say(r.logger, INFO, "%x forgetting leader %x at term %d", r.id, r.lead, r.term)
        r.lead = NONE


def campaign_now(r: RaftState, m: Message) -> None:
    """MsgTimeoutNow: the leader chose us (thesis 3.10). No pre-vote: this is no return from a partition."""
    say(
        r.logger,
        INFO,
        "%x [term %d] received MsgTimeoutNow from %x and starts an election to get leadership.",
        r.id,
        r.term,
        m.from_,
    )
    hup(r, CAMPAIGN_TRANSFER)


def ignore_campaign_now(r: RaftState, m: Message) -> None:
    """MsgTimeoutNow at a candidate, which campaigns already."""
    say(
        r.logger,
        DEBUG,
        "%x [term %d state %s] ignored MsgTimeoutNow from %x",
        r.id,
        r.term,
        ROLE_NAMES[r.role],
        m.from_,
    )


def count_vote(r: RaftState, m: Message) -> None:
    """MsgVoteResp or MsgPreVoteResp at a candidate: only that of its present phase counts."""
    if m.type == (MSG_PRE_VOTE_RESP if r.role == PRE_CANDIDATE else MSG_VOTE_RESP):
        handle_vote_response(r, m)


def _follow(r: RaftState, m: Message) -> None:
    """A message that only the leader of this term sends."""
    if r.role == FOLLOWER:
        r.election_elapsed = 0
        r.lead = m.from_
    else:
        become_follower(r, m.term, m.from_)
