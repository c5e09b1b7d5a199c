"""What the users of a Raft group hold: :class:`relay.interfaces.IRaftGroup` over a replica of this node."""

from __future__ import annotations

from typing import Any

import attrs
from zope.interface import implementer

from relay.cluster.group_snapshots import GroupSnapshots
from relay.cluster.raft.errors import ProposalDropped
from relay.cluster.raft.tracker import PROGRESS_NAMES, REPLICATE
from relay.cluster.raft.types import (
    ADD_LEARNER_NODE,
    ADD_NODE,
    LEADER,
    NONE,
    REMOVE_NODE,
    ROLE_NAMES,
    ConfChange,
)
from relay.cluster.replica import Replica
from relay.cluster.requests import Done
from relay.errors import BadBody, Conflict, Full, RelayError, Unavailable
from relay.interfaces import IRaftGroup


@attrs.frozen
class MemberProgress:
    """A member in the leader's eyes."""

    node: int
    match: int  # its log agrees with the leader's up to here
    state: str  # StateProbe, StateReplicate or StateSnapshot
    active: bool  # heard from since the quorum was last looked at
    learner: bool


@attrs.frozen
class GroupStatus:
    """A group on one node at one moment. Indexes count entries of the log from 1."""

    number: int
    node: int
    role: str  # StateFollower, StatePreCandidate, StateCandidate or StateLeader
    leader: int
    term: int
    first: int  # the oldest entry still in the log
    last: int
    committed: int
    applied: int
    snapshot: int  # the index of the newest snapshot, 0: none
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    outgoing: tuple[int, ...]  # voters that are being replaced
    quiet: bool  # no heartbeats, as there is no work
    waiting: int  # proposals and reads of this node without their outcome
    progress: tuple[MemberProgress, ...]  # on the leader


@implementer(IRaftGroup)
class Group:
    """See :class:`relay.interfaces.IRaftGroup`."""

    __slots__ = ("_replica", "_snapshots", "node", "number")

    def __init__(self, replica: Replica, snapshots: GroupSnapshots) -> None:
        self.number = replica.number
        self.node = replica.host.node
        self._replica = replica
        self._snapshots = snapshots

    @property
    def leader(self) -> int:
        """The leader's node id as far as known, or 0."""
        return self._replica.raw.raft.lead

    @property
    def term(self) -> int:
        """The term."""
        return self._replica.raw.raft.term

    @property
    def leading(self) -> bool:
        """Whether this node leads."""
        return self._replica.raw.raft.role == LEADER

    @property
    def applied(self) -> int:
        """The index that the state machine shows."""
        return self._replica.applier.index

    def propose(self, data: bytes, done: Done) -> None:
        """Have ``data`` committed and applied."""
        replica = self._replica
        host, proposals = replica.host, replica.proposals
        if not 0 < len(data) <= host.options.proposal_bytes_max:
            self._refuse(done, BadBody(f"a proposal has 1 to {host.options.proposal_bytes_max} bytes, not {len(data)}"))
        elif proposals.count >= host.options.proposals_max:
            self._refuse(done, Full(f"{proposals.count} proposals wait"))
        elif host.stopped:
            self._refuse(done, Unavailable("the node is stopping"))
        else:
            proposals.add(data, done, host.ticks)
            replica.wake()
            host.mark(replica)

    def read_index(self, done: Done) -> None:
        """Wait until the state machine shows what was acknowledged before this call."""
        replica = self._replica
        host = replica.host
        if replica.reads.count >= host.options.reads_max:
            self._tell(done, Full(f"{replica.reads.count} reads wait"))
        elif host.stopped:
            self._tell(done, Unavailable("the node is stopping"))
        else:
            replica.reads.add(done, host.ticks)
            replica.wake()
            host.mark(replica)

    def status(self) -> GroupStatus:
        """How it stands."""
        replica = self._replica
        raft = replica.raw.raft
        log = raft.log
        conf_state = raft.configuration.conf_state()
        members = raft.progress.items() if raft.role == LEADER else ()
        return GroupStatus(
            number=self.number,
            node=self.node,
            role=ROLE_NAMES[raft.role],
            leader=raft.lead,
            term=raft.term,
            first=log.first_index(),
            last=log.last_index,
            committed=log.committed,
            applied=replica.applier.index,
            snapshot=self._snapshots.taking.newest_index,
            voters=conf_state.voters,
            learners=conf_state.learners,
            outgoing=conf_state.voters_outgoing,
            quiet=replica.quiet,
            waiting=replica.proposals.count + replica.reads.count,
            progress=tuple(
                MemberProgress(
                    node, pr.match, PROGRESS_NAMES[pr.state], node == self.node or pr.recent_active, pr.is_learner
                )
                for node, pr in members
            ),
        )

    def transfer(self, node: int, done: Done) -> None:
        """Hand leadership to ``node``, or with 0 to the voter that is best caught up."""
        replica = self._replica
        raft = replica.raw.raft
        if raft.role == LEADER:
            target = node or self._best_successor()
            if target not in raft.configuration.incoming or target == self.node:
                why = f"node {target} is not another voter" if target else "no other voter is there"
                self._tell(done, Conflict(why))
                return
        elif raft.lead == NONE or not node:
            self._tell(done, Unavailable("no leader is known" if raft.lead == NONE else f"node {raft.lead} leads"))
            return
        elif raft.lead == node:
            self._tell(done, None)
            return
        else:
            target = node
        host = replica.host
        replica.wake()
        replica.changes.transferring(host.ticks + 2 * host.options.election_ticks, target, done)
        replica.raw.transfer_leadership(target)
        host.mark(replica)

    def add_learner(self, node: int, done: Done) -> None:
        """Make ``node`` receive the log without a vote."""
        raft = self._replica.raw.raft
        if node in raft.progress:
            self._tell(done, Conflict(f"node {node} is a member"))
        elif not 0 < node < 1 << 53:
            self._tell(done, BadBody(f"a node's id is a number from 1 to 2^53 - 1, not {node}"))
        else:
            self._change(ConfChange(ADD_LEARNER_NODE, node), done)

    def promote(self, node: int, done: Done) -> None:
        """Make a learner that has caught up a voter."""
        replica = self._replica
        raft = replica.raw.raft
        pr = raft.progress.get(node)
        lacking = raft.log.last_index - pr.match if pr is not None else 0
        if pr is None or not pr.is_learner:
            self._tell(done, Conflict(f"node {node} is not a learner"))
        elif raft.role == LEADER and (
            pr.state != REPLICATE or not pr.recent_active or lacking > replica.host.options.catch_up_entries_max
        ):
            error = Conflict(f"node {node} has not caught up: it lacks {lacking} entries", temporary=True)
            self._tell(done, error)
        else:
            self._change(ConfChange(ADD_NODE, node), done)

    def remove(self, node: int, done: Done) -> None:
        """Take ``node`` out of the group."""
        raft = self._replica.raw.raft
        if node not in raft.progress:
            self._tell(done, Conflict(f"node {node} is not a member"))
        elif raft.configuration.incoming == {node}:
            self._tell(done, Conflict(f"node {node} is the only voter"))
        else:
            self._change(ConfChange(REMOVE_NODE, node), done)

    def take_snapshot(self, done: Done) -> None:
        """Snapshot now, and compact what two snapshots cover."""
        self._snapshots.taking.take(done)

    def _change(self, change: ConfChange, done: Done) -> None:
        replica = self._replica
        raft = replica.raw.raft
        if not replica.leads():
            where = f"node {raft.lead} leads" if raft.lead not in (NONE, self.node) else "no leader is known"
            self._tell(done, Unavailable(f"changes of membership are made on the leader: {where}"))
            return
        if raft.pending_conf_index > raft.log.applied or raft.configuration.outgoing:
            self._tell(done, Conflict("another change of membership is under way", temporary=True))
            return
        replica.wake()
        try:
            replica.raw.propose_conf_change(change)
        except ProposalDropped:
            self._tell(done, Unavailable("too much is not committed yet, or this node was removed"))
            return
        replica.changes.proposed(raft.log.last_index, raft.term, done)
        replica.host.mark(replica)

    def _best_successor(self) -> int:
        """The voter that has most of the log and is heard from, or 0."""
        raft = self._replica.raw.raft
        linked = self._replica.host.out.linked_to
        voters = raft.configuration.incoming
        found = [(pr.match, -node) for node, pr in raft.peers if node in voters and linked(node)]
        return -max(found)[1] if found else NONE

    def _refuse(self, done: Done, error: RelayError) -> None:
        """A proposal that is not taken."""
        self._replica.proposals.not_done += 1
        self._tell(done, error)

    def _tell(self, done: Done, error: RelayError | None, result: Any = None) -> None:  # Any: whatever was asked for
        """The outcome at the end of this turn, as all of them."""
        replica = self._replica
        replica.host.outcomes.append((done, result, error))
        replica.host.mark(replica)
