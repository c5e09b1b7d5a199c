"""Roles and elections (paper 5.2, 5.4.1; thesis 3.4, 3.6, 4.2.3, 6.2, 9.6).

::

                 times out (pre-vote)          majority of pre-votes         majority of votes
    follower ─────────────────────▶ pre-candidate ──────────▶ candidate ──────────────▶ leader
       ▲   │  told to by the leader (transfer), or no pre-vote    ▲                        │
       │   └──────────────────────────────────────────────────────┘                        │
       └── a higher term, a leader of this term, a lost vote, no quorum heard (leader) ◀───┘
"""

from __future__ import annotations

from typing import Final

from relay.cluster.raft.errors import RaftInvariantError
from relay.cluster.raft.log import scan
from relay.cluster.raft.logger import DEBUG, INFO, WARNING, fail, say
from relay.cluster.raft.quorum import VOTE_LOST, VOTE_WON, joint_vote_result
from relay.cluster.raft.read_only import ReadOnly
from relay.cluster.raft.replication import append_entries, broadcast_append
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import (
    CANDIDATE,
    ENTRY_NORMAL,
    FOLLOWER,
    LEADER,
    MESSAGE_NAMES,
    MSG_PRE_VOTE,
    MSG_PRE_VOTE_RESP,
    MSG_VOTE,
    MSG_VOTE_RESP,
    NONE,
    PRE_CANDIDATE,
    Entry,
    Message,
)

CAMPAIGN_PRE_ELECTION: Final = "CampaignPreElection"
"""Ask for pre-votes first."""
CAMPAIGN_ELECTION: Final = "CampaignElection"
"""Ask for votes."""
CAMPAIGN_TRANSFER: Final = "CampaignTransfer"
"""Ask for votes at the leader's own wish: voters ignore their lease."""
TRANSFER_CONTEXT: Final = CAMPAIGN_TRANSFER.encode()


def reset(r: RaftState, term: int) -> None:
    """What every change of role does: a later term clears the vote; counters, reads and progress start anew."""
    if r.term != term:
        r.term = term
        r.vote = NONE
    r.lead = NONE
    r.election_elapsed = 0
    r.heartbeat_elapsed = 0
    r.randomized_election_timeout = r.options.election_tick + r.options.random_below(r.options.election_tick)
    r.lead_transferee = NONE
    r.votes = {}
    last = r.log.last_index
    for node, pr in r.progress.items():
        pr.forget(last if node == r.id else 0, last + 1)
    r.pending_conf_index = 0
    r.uncommitted_size = 0
    r.read_only = ReadOnly(r.options.waiting_reads_max)


def become_follower(r: RaftState, term: int, lead: int) -> None:
    """Follow ``lead``, or nobody yet, in ``term``."""
    reset(r, term)
    r.lead = lead
    r.role = FOLLOWER
    say(r.logger, INFO, "%x became follower at term %d", r.id, r.term)


def become_candidate(r: RaftState) -> None:
    """Enter the next term and vote for oneself (paper 5.2)."""
    if r.role == LEADER:
        raise RaftInvariantError("invalid transition [leader -> candidate]")
    reset(r, r.term + 1)
    r.vote = r.id
    r.role = CANDIDATE
    say(r.logger, INFO, "%x became candidate at term %d", r.id, r.term)


def become_pre_candidate(r: RaftState) -> None:
    """Ask without changing term or vote (thesis 9.6)."""
    if r.role == LEADER:
        raise RaftInvariantError("invalid transition [leader -> pre-candidate]")
    r.votes = {}
    r.lead = NONE
    r.role = PRE_CANDIDATE
    say(r.logger, INFO, "%x became pre-candidate at term %d", r.id, r.term)


def become_leader(r: RaftState) -> None:
    """Lead the term, beginning with an empty entry of it, which commits what came before (paper 5.4.2, 8)."""
    if r.role == FOLLOWER:
        raise RaftInvariantError("invalid transition [follower -> leader]")
    reset(r, r.term)
    r.lead = r.id
    r.role = LEADER
    own = r.progress[r.id]
    own.become_replicate()
    own.recent_active = True
    # There may be a change of membership anywhere in the uncommitted tail: propose none before all of it is applied.
    r.pending_conf_index = r.log.last_index
    if not append_entries(r, (Entry(ENTRY_NORMAL),)):
        raise fail(r.logger, "empty entry was dropped")
    say(r.logger, INFO, "%x became leader at term %d", r.id, r.term)


def tick_election(r: RaftState) -> None:
    """A tick of anybody but a leader."""
    r.election_elapsed += 1
    if r.election_elapsed >= r.randomized_election_timeout and r.promotable():
        r.election_elapsed = 0
        start_election(r)


def start_election(r: RaftState) -> None:
    """The election timeout passed, or the application wants a campaign."""
    hup(r, CAMPAIGN_PRE_ELECTION if r.options.pre_vote else CAMPAIGN_ELECTION)


def hup(r: RaftState, campaign_type: str) -> None:
    """Campaign if this node may.

    Not with a committed change of membership unapplied: this node's idea of a majority would be the old one
    (configurations take effect here when they are applied, unlike in thesis 4.1).
    """
    if r.role == LEADER:
        say(r.logger, DEBUG, "%x ignoring MsgHup because already leader", r.id)
        return
    if not r.promotable():
        say(r.logger, WARNING, "%x is unpromotable and can not campaign", r.id)
        return
    log = r.log
    if scan(log, log.applied + 1, log.committed + 1, log.applying_size_max, _changes_membership):
        say(
            r.logger,
            WARNING,
            "%x cannot campaign at term %d since there are still pending configuration changes to apply",
            r.id,
            r.term,
        )
        return
    say(r.logger, INFO, "%x is starting a new election at term %d", r.id, r.term)
    campaign(r, campaign_type)


def campaign(r: RaftState, campaign_type: str) -> None:
    """Ask every voter for its vote or pre-vote; the own one too waits until it is durable (paper 5.2)."""
    if campaign_type == CAMPAIGN_PRE_ELECTION:
        become_pre_candidate(r)
        request, response, term = MSG_PRE_VOTE, MSG_PRE_VOTE_RESP, r.term + 1
    else:
        become_candidate(r)
        request, response, term = MSG_VOTE, MSG_VOTE_RESP, r.term
    last_term, last_index = r.log.last_term, r.log.last_index
    context = TRANSFER_CONTEXT if campaign_type == CAMPAIGN_TRANSFER else b""
    for node in r.configuration.voters():
        if node == r.id:
            r.messages_after_append.append(Message(response, r.id, r.id, term))
            continue
        say(
            r.logger,
            INFO,
            "%x [logterm: %d, index: %d] sent %s request to %x at term %d",
            r.id,
            last_term,
            last_index,
            MESSAGE_NAMES[request],
            node,
            r.term,
        )
        r.messages.append(Message(request, node, r.id, term, last_term, last_index, context=context))


def handle_vote_request(r: RaftState, m: Message) -> None:
    """Answer MsgVote or MsgPreVote: at most one vote a term, and only for a log as complete as ours (paper 5.2, 5.4.1).

    Learners vote too: one that was promoted may not know it yet, and its vote may be the one that is needed.
    """
    pre_vote = m.type == MSG_PRE_VOTE
    may_vote = (
        # The same vote again,
        r.vote == m.from_
        # the first in a term whose leader is not known,
        or (r.vote == NONE and r.lead == NONE)
        # or a pre-vote for a later term, which binds to nothing.
        or (pre_vote and m.term > r.term)
    )
    granted = may_vote and r.log.is_up_to_date(m.log_term, m.index)
    if r.logger.level <= INFO:
        say(
            r.logger,
            INFO,
            "%x [logterm: %d, index: %d, vote: %x] "
            + ("cast %s for" if granted else "rejected %s from")
            + " %x [logterm: %d, index: %d] at term %d",
            r.id,
            r.log.last_term,
            r.log.last_index,
            r.vote,
            MESSAGE_NAMES[m.type],
            m.from_,
            m.log_term,
            m.index,
            r.term,
        )
    response = MSG_PRE_VOTE_RESP if pre_vote else MSG_VOTE_RESP
    if not granted:
        r.messages_after_append.append(Message(response, m.from_, r.id, r.term, reject=True))
        return
    # The answer carries the term that was asked for: a pre-candidate's peers ignore answers of their past.
    r.messages_after_append.append(Message(response, m.from_, r.id, m.term))
    if not pre_vote:
        r.election_elapsed = 0
        r.vote = m.from_


def handle_vote_response(r: RaftState, m: Message) -> None:
    """Count an answer of the present campaign; win, lose, or wait for more (paper 5.2)."""
    say(
        r.logger,
        INFO,
        "%x received %s" + (" rejection" if m.reject else "") + " from %x at term %d",
        r.id,
        MESSAGE_NAMES[m.type],
        m.from_,
        r.term,
    )
    r.votes.setdefault(m.from_, not m.reject)
    if r.logger.level <= INFO:
        counted = [r.votes[node] for node, pr in r.progress.items() if not pr.is_learner and node in r.votes]
        say(
            r.logger,
            INFO,
            "%x has received %d %s votes and %d vote rejections",
            r.id,
            counted.count(True),
            MESSAGE_NAMES[m.type],
            counted.count(False),
        )
    result = joint_vote_result(r.configuration.incoming, r.configuration.outgoing, r.votes)
    if result == VOTE_WON:
        if r.role == PRE_CANDIDATE:
            campaign(r, CAMPAIGN_ELECTION)
        else:
            become_leader(r)
            broadcast_append(r)
    elif result == VOTE_LOST:
        # The term stays: a rejected pre-vote's higher term was dealt with before the answer came here.
        become_follower(r, r.term, NONE)


def _changes_membership(entry: Entry) -> bool:
    return entry.type != ENTRY_NORMAL
