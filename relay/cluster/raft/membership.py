"""Configurations on a running node: restored with a snapshot, changed by an applied entry, left by themselves.

A change takes effect when its entry is *applied*, not when it is appended (thesis 4.1 does the latter). Both are safe
as long as one change at a time is under way and nobody campaigns with a committed change unapplied, which
``pending_conf_index`` and ``election.hup`` see to.
"""

from __future__ import annotations

from relay.cluster.raft.confchange import Configuration, Members, restore
from relay.cluster.raft.describe import describe_conf_state
from relay.cluster.raft.election import become_follower
from relay.cluster.raft.errors import ProposalDropped, RaftInvariantError
from relay.cluster.raft.logger import DEBUG, INFO, WARNING, say
from relay.cluster.raft.proposals import propose
from relay.cluster.raft.replication import broadcast_append, maybe_commit, maybe_send_append
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import (
    ENTRY_CONF_CHANGE_V2,
    FOLLOWER,
    LEADER,
    NONE,
    ConfChangeV2,
    ConfState,
    Entry,
    Snapshot,
    enters_joint,
    leaves_joint,
)


def apply_conf_change(r: RaftState, change: ConfChangeV2) -> ConfState:
    """A committed change was applied: make it the configuration. :class:`BadConfChange` if it does not fit."""
    changer = r.changer()
    if leaves_joint(change):
        result = changer.leave_joint()
    else:
        joint, auto_leave = enters_joint(change)
        result = changer.enter_joint(auto_leave, change.changes) if joint else changer.simple(change.changes)
    return switch_to(r, *result)


def restore_configuration(r: RaftState, state: ConfState) -> None:
    """Make the stored ``state`` the configuration, as at a start or with a snapshot."""
    restored = switch_to(r, *restore(r.changer(anew=True), state))
    wanted = ConfState(
        tuple(sorted(state.voters)),
        tuple(sorted(state.learners)),
        tuple(sorted(state.voters_outgoing)),
        tuple(sorted(state.learners_next)),
        state.auto_leave,
    )
    if restored != wanted:
        raise RaftInvariantError(
            f"unable to restore config {describe_conf_state(wanted)}: got {describe_conf_state(restored)}"
        )


def switch_to(r: RaftState, configuration: Configuration, progress: Members) -> ConfState:
    """Install a configuration, and as leader act on it: step down, commit by the new quorum, greet new members."""
    state = r.install(configuration, progress)
    say(r.logger, INFO, "%x switched to configuration %s", r.id, configuration)
    if r.role != LEADER:
        return state
    if r.id not in progress or r.is_learner:
        # Removed or demoted (thesis 4.2.2): leads on, without counting itself, until deposed, or steps down if told to.
        if r.options.step_down_on_removal:
            become_follower(r, r.term, NONE)
        return state
    if not configuration.incoming:
        return state
    if maybe_commit(r):
        # A smaller quorum may have more in common.
        broadcast_append(r)
    else:
        # A new member need not wait for the next heartbeat.
        for node, pr in r.peers:
            maybe_send_append(r, node, pr, if_empty=False)
    if r.lead_transferee not in configuration.incoming and r.lead_transferee not in configuration.outgoing:
        r.lead_transferee = NONE
    return state


def applied_to(r: RaftState, index: int, size: int) -> None:
    """Everything up to ``index`` is applied; a leader then leaves a joint configuration that is to be left."""
    log = r.log
    log.applied_to(max(index, log.applied), size)
    if r.configuration.auto_leave and r.role == LEADER and log.applied >= r.pending_conf_index:
        try:
            # An empty payload: the limit of uncommitted bytes cannot refuse it.
            propose(r, (Entry(ENTRY_CONF_CHANGE_V2),))
        except ProposalDropped as error:
            # A transfer is under way. Tried again with the next applied entry, here or by the next leader.
            say(
                r.logger,
                DEBUG,
                "not initiating automatic transition out of joint configuration %s: %s",
                r.configuration,
                error,
            )
        else:
            say(r.logger, INFO, "initiating automatic transition out of joint configuration %s", r.configuration)


def applied_snapshot(r: RaftState, snapshot: Snapshot) -> None:
    """A snapshot is durable and in the state machine."""
    r.log.unstable.stable_snapshot_to(snapshot.index)
    applied_to(r, snapshot.index, 0)


def restore_snapshot(r: RaftState, snapshot: Snapshot) -> bool:
    """Replace log and configuration by a snapshot from the leader (paper 7); False if not needed or not usable."""
    index, term = snapshot.index, snapshot.term
    if index <= r.log.committed:
        return False
    if r.role != FOLLOWER:
        # Cannot be: whoever receives one became a follower first. If it were, a new term is the safe way out.
        say(r.logger, WARNING, "%x attempted to restore snapshot as leader; should never happen", r.id)
        become_follower(r, r.term + 1, NONE)
        return False
    state = snapshot.conf_state
    # Who is in learners_next is in voters_outgoing too.
    if r.id not in state.voters and r.id not in state.learners and r.id not in state.voters_outgoing:
        say(
            r.logger,
            WARNING,
            "%x attempted to restore snapshot but it is not in the ConfState %s; should never happen",
            r.id,
            describe_conf_state(state),
        )
        return False
    log = r.log
    if log.matches(term, index):
        say(
            r.logger,
            INFO,
            "%x [commit: %d, lastindex: %d, lastterm: %d] fast-forwarded commit to snapshot [index: %d, term: %d]",
            r.id,
            log.committed,
            log.last_index,
            log.last_term,
            index,
            term,
        )
        log.commit_to(index)
        return False
    log.restore(snapshot)
    r.votes = {}
    restore_configuration(r, state)
    say(
        r.logger,
        INFO,
        "%x [commit: %d, lastindex: %d, lastterm: %d] restored snapshot [index: %d, term: %d]",
        r.id,
        log.committed,
        log.last_index,
        log.last_term,
        index,
        term,
    )
    return True
