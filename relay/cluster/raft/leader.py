"""What a leader does with messages and ticks (paper 5.3; thesis 3.10, 6.2, 10.2)."""

from __future__ import annotations

from relay.cluster.raft.election import become_follower
from relay.cluster.raft.log import find_conflict_by_term
from relay.cluster.raft.logger import DEBUG, INFO, WARNING, say
from relay.cluster.raft.proposals import propose
from relay.cluster.raft.quorum import VOTE_WON, joint_vote_result
from relay.cluster.raft.reads import handle_heartbeat_context, release_pending
from relay.cluster.raft.replication import (
    broadcast_append,
    broadcast_heartbeat,
    maybe_commit,
    maybe_send_append,
    send_append,
)
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.tracker import PROBE, REPLICATE, SNAPSHOT, Progress
from relay.cluster.raft.types import LEADER, MSG_TIMEOUT_NOW, NONE, READ_ONLY_SAFE, Message


def tick_heartbeat(r: RaftState) -> None:
    """A tick of the leader: check the quorum each election timeout, send heartbeats each heartbeat timeout."""
    r.heartbeat_elapsed += 1
    r.election_elapsed += 1
    if r.election_elapsed >= r.options.election_tick:
        r.election_elapsed = 0
        if r.options.check_quorum:
            check_quorum(r)
        # A transfer that did not end within an election timeout is given up (thesis 3.10).
        if r.role == LEADER:
            r.lead_transferee = NONE
    if r.role == LEADER and r.heartbeat_elapsed >= r.options.heartbeat_tick:
        r.heartbeat_elapsed = 0
        broadcast_heartbeat(r)


def check_quorum(r: RaftState) -> None:
    """Step down if no quorum was heard from since the last check (thesis 6.2)."""
    active = {node: pr.recent_active for node, pr in r.progress.items()}
    if joint_vote_result(r.configuration.incoming, r.configuration.outgoing, active) != VOTE_WON:
        say(r.logger, WARNING, "%x stepped down to follower since quorum is not active", r.id)
        become_follower(r, r.term, NONE)
    for _node, pr in r.peers:
        pr.recent_active = False


def handle_proposal(r: RaftState, m: Message) -> None:
    """MsgProp."""
    propose(r, m.entries)


def handle_append_response(r: RaftState, m: Message) -> None:
    """MsgAppResp, also the leader's own, which comes when its disk is done."""
    pr = r.progress.get(m.from_)
    if pr is None:
        note_no_progress(r, m)
        return
    pr.recent_active = True
    if m.reject:
        _handle_rejection(r, m, pr)
        return
    index = m.index
    # An acknowledgement of nothing new still ends a probe that only asked whether the follower is there.
    if not (pr.maybe_update(index) or (pr.match == index and pr.state == PROBE)):
        return
    if pr.state == REPLICATE:
        pr.inflights.free_le(index)
    elif pr.state == PROBE:
        pr.become_replicate()
    elif pr.match + 1 >= r.log.first_index():
        # Whatever snapshot it was that the follower got, our log can go on from there.
        say(
            r.logger,
            DEBUG,
            "%x recovered from needing snapshot, resumed sending replication messages to %x [%s]",
            r.id,
            m.from_,
            pr,
        )
        pr.become_probe()
        pr.become_replicate()
    if maybe_commit(r):
        release_pending(r)
        broadcast_append(r)
    elif m.from_ != r.id and pr.can_bump_commit(r.log.committed):
        # Not needed, a heartbeat would tell it too; but this is sooner.
        send_append(r, m.from_, pr)
    if m.from_ != r.id:
        # The window may have room for several messages now.
        while pr.next <= r.log.last_index and maybe_send_append(r, m.from_, pr, if_empty=False):
            pass
        if m.from_ == r.lead_transferee and pr.match == r.log.last_index:
            say(r.logger, INFO, "%x sent MsgTimeoutNow to %x after received MsgAppResp", r.id, m.from_)
            _send_timeout_now(r, m.from_)


def handle_heartbeat_response(r: RaftState, m: Message) -> None:
    """MsgHeartbeatResp: the follower is there; what was held back may go on, and reads may be confirmed."""
    pr = _progress(r, m)
    if pr is None:
        return
    pr.recent_active = True
    pr.flow_paused = False
    # If all that fills the window was lost, an empty append finds out. In probe state one is needed even with nothing
    # to send, to come back to replicate.
    if pr.match < r.log.last_index or pr.state == PROBE:
        send_append(r, m.from_, pr)
    if m.context and r.options.read_only == READ_ONLY_SAFE:
        handle_heartbeat_context(r, m)


def handle_snapshot_status(r: RaftState, m: Message) -> None:
    """MsgSnapStatus: the application delivered a snapshot, or failed to."""
    pr = _progress(r, m)
    if pr is None or pr.state != SNAPSHOT:
        return
    if m.reject:
        # Else the probe would begin behind a snapshot that the follower does not have.
        pr.pending_snapshot = 0
    pr.become_probe()
    say(
        r.logger,
        DEBUG,
        "%x snapshot " + ("failed" if m.reject else "succeeded") + ", resumed sending replication messages to %x [%s]",
        r.id,
        m.from_,
        pr,
    )
    # Delivered: its acknowledgement comes first. Failed: not again before a heartbeat is answered.
    pr.flow_paused = True


def handle_unreachable(r: RaftState, m: Message) -> None:
    """MsgUnreachable: the transport lost something, probably appends of the pipeline."""
    pr = _progress(r, m)
    if pr is None:
        return
    if pr.state == REPLICATE:
        pr.become_probe()
    say(r.logger, DEBUG, "%x failed to send message to %x because it is unreachable [%s]", r.id, m.from_, pr)


def handle_transfer(r: RaftState, m: Message) -> None:
    """MsgTransferLeader to ``from_``: bring it up to date, then tell it to campaign (thesis 3.10)."""
    pr = _progress(r, m)
    if pr is None:
        return
    if pr.is_learner:
        say(r.logger, DEBUG, "%x is learner. Ignored transferring leadership", r.id)
        return
    target, previous = m.from_, r.lead_transferee
    if previous != NONE:
        if previous == target:
            say(
                r.logger,
                INFO,
                "%x [term %d] transfer leadership to %x is in progress, ignores request to same node %x",
                r.id,
                r.term,
                target,
                target,
            )
            return
        r.lead_transferee = NONE
        say(r.logger, INFO, "%x [term %d] abort previous transferring leadership to %x", r.id, r.term, previous)
    if target == r.id:
        say(r.logger, DEBUG, "%x is already leader. Ignored transferring leadership to self", r.id)
        return
    say(r.logger, INFO, "%x [term %d] starts to transfer leadership to %x", r.id, r.term, target)
    # It has an election timeout from now.
    r.election_elapsed = 0
    r.lead_transferee = target
    if pr.match == r.log.last_index:
        _send_timeout_now(r, target)
        say(
            r.logger,
            INFO,
            "%x sends MsgTimeoutNow to %x immediately as %x already has up-to-date log",
            r.id,
            target,
            target,
        )
    else:
        send_append(r, target, pr)


def note_no_progress(r: RaftState, m: Message) -> None:
    """Any other message: of no use to a leader."""
    _progress(r, m)


def _handle_rejection(r: RaftState, m: Message, pr: Progress) -> None:
    """The follower's log has no such entry: probe further back, a whole term at a time (paper 5.3, end).

    The follower said that its entry at ``reject_hint`` is of term ``log_term``. Where our terms are higher than that,
    the logs cannot agree below ``reject_hint``: terms never fall along a log.
    """
    say(
        r.logger,
        DEBUG,
        "%x received MsgAppResp(rejected, hint: (index %d, term %d)) from %x for index %d",
        r.id,
        m.reject_hint,
        m.log_term,
        m.from_,
        m.index,
    )
    probe = m.reject_hint
    if m.log_term > 0:
        probe, _term = find_conflict_by_term(r.log, m.reject_hint, m.log_term)
    if pr.maybe_decrease_to(m.index, probe):
        say(r.logger, DEBUG, "%x decreased progress of %x to [%s]", r.id, m.from_, pr)
        if pr.state == REPLICATE:
            pr.become_probe()
        send_append(r, m.from_, pr)


def _progress(r: RaftState, m: Message) -> Progress | None:
    pr = r.progress.get(m.from_)
    if pr is None:
        say(r.logger, DEBUG, "%x no progress available for %x", r.id, m.from_)
    return pr


def _send_timeout_now(r: RaftState, to: int) -> None:
    r.messages.append(Message(MSG_TIMEOUT_NOW, to, r.id, r.term))
