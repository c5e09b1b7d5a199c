"""The state of one node of a group: the slots that all rules read and write, and the invariant of each.

The rules themselves are functions over it, one module per concern::

    machine ──▶ election     campaigns, votes, becoming follower, candidate, leader; ticks
            ──▶ leader       what a leader does with each message
            ──▶ follower     what everybody else does with it
            ──▶ replication  appends, snapshots and heartbeats that a leader sends; commitment
            ──▶ membership   configurations: restored, changed, left
            ──▶ reads        ReadIndex

A rule does not call the outside. What is to be sent waits in ``messages`` and ``messages_after_append`` for the next
Ready.
"""

from __future__ import annotations

from relay.cluster.raft.confchange import Changer, Configuration, Members
from relay.cluster.raft.log import RaftLog
from relay.cluster.raft.options import Options
from relay.cluster.raft.quorum import EVERY_INDEX
from relay.cluster.raft.read_only import ReadOnly
from relay.cluster.raft.tracker import Progress
from relay.cluster.raft.types import FOLLOWER, NONE, ConfState, HardState, Message, ReadState, SoftState


class RaftState:
    """One node of one group. Made by :func:`relay.cluster.raft.machine.new_raft`."""

    __slots__ = (
        "_incoming_progress",
        "_outgoing_progress",
        "configuration",
        "election_elapsed",
        "heartbeat_elapsed",
        "id",
        "is_learner",
        "lead",
        "lead_transferee",
        "log",
        "logger",
        "messages",
        "messages_after_append",
        "options",
        "peers",
        "pending_conf_index",
        "pending_reads",
        "progress",
        "randomized_election_timeout",
        "read_only",
        "read_states",
        "role",
        "term",
        "uncommitted_size",
        "vote",
        "votes",
    )

    def __init__(self, options: Options, log: RaftLog) -> None:
        # Checked; never changes.
        self.options = options
        self.logger = options.logger
        self.id = options.id
        # The latest term seen (paper 5.1). Never falls. Durable before any message of the term leaves.
        self.term = 0
        # Who got this node's vote in the term, or NONE (paper 5.2). Set at most once a term, and durable before the
        # answer leaves.
        self.vote = NONE
        # See RaftLog.
        self.log = log
        # FOLLOWER, PRE_CANDIDATE, CANDIDATE or LEADER (paper 5.1).
        self.role: int = FOLLOWER
        # The term's leader as far as known. Own id exactly while role is LEADER.
        self.lead = NONE
        # The configuration of the last applied change (thesis 4.1 uses the last appended; see membership).
        self.configuration = Configuration()
        # One per member, ids ascending. Meaningful on a leader; others keep it to know the members.
        self.progress: Members = {}
        # The same without this node: whom a leader sends to, ids ascending.
        self.peers: tuple[tuple[int, Progress], ...] = ()
        # The progress of the voters of each half, for counting.
        self._incoming_progress: tuple[Progress, ...] = ()
        self._outgoing_progress: tuple[Progress, ...] = ()
        # This node is a learner in its own configuration.
        self.is_learner = False
        # Who answered in the present campaign, and how. The first answer counts.
        self.votes: dict[int, bool] = {}
        # Ticks since the last campaign began, the leader was heard of or a vote was given; on a leader, since the last
        # check of the quorum.
        self.election_elapsed = 0
        # Ticks since the last heartbeat; a leader's only.
        self.heartbeat_elapsed = 0
        # Campaign after so many ticks: in [election_tick, 2 * election_tick), drawn anew with each change of role.
        self.randomized_election_timeout = options.election_tick
        # To whom leadership is being handed, or NONE (thesis 3.10). While set, proposals are dropped.
        self.lead_transferee = NONE
        # No change of membership is proposed before the applied index has reached this: there may be one unapplied up
        # to here (thesis 4.1: one at a time).
        self.pending_conf_index = 0
        # Payload bytes appended in this leadership and not known to be applied; an underestimate after an election.
        self.uncommitted_size = 0
        # Reads that wait for heartbeats; replaced with each change of role.
        self.read_only = ReadOnly(options.waiting_reads_max)
        # Reads that wait for the first commit of the term (thesis 6.4, step 1).
        self.pending_reads: list[Message] = []
        # Reads that may be served, for the next Ready.
        self.read_states: list[ReadState] = []
        # May leave before anything is durable. Never to this node.
        self.messages: list[Message] = []
        # Must not leave before everything unstable is durable: votes and acknowledgements, also this node's to itself
        # (thesis 3.8).
        self.messages_after_append: list[Message] = []

    def soft_state(self) -> SoftState:
        """Leader and role."""
        return SoftState(self.lead, self.role)

    def hard_state(self) -> HardState:
        """Term, vote and commit."""
        return HardState(self.term, self.vote, self.log.committed)

    def changer(self, *, anew: bool = False) -> Changer:
        """For a change of the present configuration, or ``anew`` of an empty one."""
        return Changer(
            Configuration() if anew else self.configuration,
            {} if anew else self.progress,
            self.log.last_index,
            self.options.inflight_max,
            self.options.inflight_size_max,
        )

    def install(self, configuration: Configuration, progress: Members) -> ConfState:
        """Make this the configuration; only the slots, none of the consequences."""
        self.configuration = configuration
        self.progress = progress
        self.peers = tuple((node, pr) for node, pr in progress.items() if node != self.id)
        self._incoming_progress = tuple(progress[node] for node in sorted(configuration.incoming))
        self._outgoing_progress = tuple(progress[node] for node in sorted(configuration.outgoing))
        own = progress.get(self.id)
        self.is_learner = own is not None and own.is_learner
        return configuration.conf_state()

    def quorum_match(self) -> int:
        """The highest index that is on a quorum (of both halves), as far as the leader knows (paper 5.3)."""
        if self._outgoing_progress:
            return min(_median_match(self._incoming_progress), _median_match(self._outgoing_progress))
        return _median_match(self._incoming_progress)

    def is_singleton(self) -> bool:
        """One voter only: this node's word is a quorum."""
        return len(self.configuration.incoming) == 1 and not self.configuration.outgoing

    def promotable(self) -> bool:
        """May campaign: a voter, with no snapshot still to be written."""
        own = self.progress.get(self.id)
        return own is not None and not own.is_learner and self.log.unstable.snapshot is None


def _median_match(voters: tuple[Progress, ...]) -> int:
    """:func:`relay.cluster.raft.quorum.committed_index` over the match indexes, without its look-ups."""
    if not voters:
        return EVERY_INDEX
    matches = [voter.match for voter in voters]
    matches.sort()
    return matches[(len(matches) - 1) // 2]
