"""One group on one node: the core, its state machine and its requests, driven in turns.

::

    received, tick, propose, appended ──▶ mark ──▶ work, once a turn:
        requests ─▶ core ─▶ Ready ─┬─▶ host.send       messages to other nodes, joined by node
                                   ├─▶ host.write      MsgStorageAppend: one submission of all groups; then ``appended``
                                   └─▶ machine.apply   MsgStorageApply, at once; then outcomes of proposals and reads

Nothing is called back to a user in the middle of this: outcomes are collected and told when the turn's work is done.

**Quiet groups.** A leader whose group had no work for ``quiet_ticks``, with everything replicated to all members that
are linked, tells them with its last heartbeat and stops ticking; so do followers that find the same. Any message of the
group, any proposal or read, and any change of a link to a member's node wakes it. That the leader's node lives is seen
by the node's own beats (``groups``), not the group's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from relay.cluster.applier import Applier
from relay.cluster.counters import Counters
from relay.cluster.frames import Beat, BeatBack, Placed, Propose
from relay.cluster.group_options import GroupOptions
from relay.cluster.outbound import Outbounds
from relay.cluster.ports import Stores
from relay.cluster.raft.errors import PeerNotFound, ProposalDropped
from relay.cluster.raft.options import Options
from relay.cluster.raft.rawnode import RawNode
from relay.cluster.raft.storage import Storage
from relay.cluster.raft.tracker import REPLICATE
from relay.cluster.raft.types import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_RESP,
    NONE,
    Entry,
    HardState,
    Message,
    Snapshot,
)
from relay.cluster.requests import Changes, Forwarders, Outcome, Proposals, Reads
from relay.errors import Unavailable
from relay.interfaces import IStateMachine


class Host(Protocol):
    """What a replica needs of its node."""

    node: int
    boot: int
    ticks: int
    options: GroupOptions
    stores: Stores
    out: Outbounds
    counters: Counters
    outcomes: list[Outcome]
    stopped: bool  # no proposals and reads are taken any more
    blocked: bool  # the log is full: no proposals are taken

    def mark(self, replica: Replica) -> None:
        """Have ``work`` called at the end of the turn."""

    def wake(self, replica: Replica) -> None:
        """Have ``tick`` called from now on."""

    def rest(self, replica: Replica) -> None:
        """No ticks any more."""

    def write(self, replica: Replica, write: Any, message: Message, *, must_sync: bool) -> None:  # Any: a write
        """To the log, with this turn's others; ``appended(message)`` when it is durable."""

    def random_below(self, bound: int) -> int:
        """Uniform in [0, bound)."""

    def fail(self, error: BaseException) -> None:
        """Going on could lose what was acknowledged."""


class Replica:
    """See the module. ``raw`` is the core; who calls it calls ``host.mark`` afterwards."""

    __slots__ = (
        "_forwarders", "_idle", "_leader", "_restored", "_term", "_voted", "applier", "changes", "host", "machine",
        "number", "on_log_grown", "on_snapshot_needed", "proposals", "quiet", "raw", "reads",
    )  # fmt: skip

    def __init__(self, number: int, host: Host, machine: IStateMachine, storage: Storage, applied: int) -> None:
        self.number = number
        self.host = host
        self.machine = machine
        # Ticks are not needed: see the module.
        self.quiet = False
        self.proposals = Proposals(host.outcomes)
        self.reads = Reads(host.outcomes, host.boot)
        self.changes = Changes(host.outcomes)
        self.on_log_grown: Callable[[], object] | None = None
        self.on_snapshot_needed: Callable[[Message], object] | None = None
        self._idle = 0
        self._leader = NONE
        self._term = 0
        # Term and vote that were handed to the log last; a commit index alone need not be durable.
        self._voted = (0, NONE)
        # The content of a snapshot that the core may take over.
        self._restored: tuple[Snapshot, Iterable[bytes]] | None = None
        self._forwarders = Forwarders()
        options = host.options
        self.raw = RawNode(
            Options(
                id=host.node,
                storage=storage,
                random_below=host.random_below,
                election_tick=options.election_ticks,
                heartbeat_tick=options.heartbeat_ticks,
                applied=applied,
                async_storage_writes=True,
                message_size_max=options.message_bytes_max,
                uncommitted_size_max=options.uncommitted_bytes_max,
                inflight_max=options.inflight_max,
                inflight_size_max=options.inflight_bytes_max,
                check_quorum=True,
                pre_vote=True,
                disable_proposal_forwarding=True,
                step_down_on_removal=True,
            )
        )
        self.applier = Applier(machine, applied, self.raw, self.proposals, self.reads, self.changes)

    # --- from outside ---------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """A message from another node."""
        if self.quiet:
            self.wake()
        try:
            self.raw.step(message)
        except PeerNotFound:
            return  # of a node that was removed a moment ago
        self.host.mark(self)

    def receive_beat(self, node: int, beat: Beat) -> None:
        """A heartbeat; ``quiet`` ones are the last."""
        raft = self.raw.raft
        if self.quiet:
            if beat.quiet and beat.term == raft.term and node == raft.lead:
                return
            self.wake()
        message = Message(
            MSG_HEARTBEAT, self.host.node, node, beat.term, 0, 0, (), beat.commit, NONE, False, 0, beat.context
        )
        self.raw.step(message)
        self.host.mark(self)
        if beat.quiet and beat.term == raft.term and node == raft.lead and self._settled():
            self._rest()

    def receive_beat_back(self, node: int, beat: BeatBack) -> None:
        """The answer to a heartbeat. One to a quiet group's last beat tells nothing."""
        if self.quiet and beat.term <= self.raw.raft.term:
            return
        message = Message(
            MSG_HEARTBEAT_RESP, self.host.node, node, beat.term, 0, 0, (), 0, NONE, False, 0, beat.context
        )
        self.receive(message)

    def receive_propose(self, node: int, frame: Propose) -> None:
        """Commands that another member forwards to this node as the leader. Each is appended once at most."""
        if not self._forwarders.is_new(node, frame.boot, frame.number, len(frame.data)):
            return
        index = 0
        sizes = [len(each) for each in frame.data]
        fits = sizes and min(sizes) > 0 and max(sizes) <= self.host.options.proposal_bytes_max
        if fits and self.leads() and not self.host.blocked:
            self.wake()
            index = self._append(frame.data)
            self.host.mark(self)
        term = self.raw.raft.term
        self.host.out.send_placed(node, Placed(self.number, frame.boot, frame.number, len(frame.data), index, term))

    def receive_snapshot(self, message: Message, chunks: Iterable[bytes]) -> None:
        """A snapshot is whole on this node's disk: let the core decide whether it is wanted."""
        assert message.snapshot is not None
        self._restored = (message.snapshot, chunks)
        self.receive(message)
        self.work()
        self._restored = None

    def wake(self) -> None:
        """Tick again."""
        self._idle = 0
        if self.quiet:
            self.quiet = False
            self.host.wake(self)

    def tick(self) -> None:
        """One tick of the node's clock. Only of groups that are not quiet."""
        if self.raw.raft.role == LEADER and self._becomes_quiet():
            return
        self.raw.tick()
        ticks = self.host.ticks
        before = ticks - self.host.options.request_ticks
        if self.proposals.count:
            self.proposals.expire(before)
        if self.reads.count:
            self.reads.expire(before)
        if len(self.changes):
            self.changes.expire(ticks)
        self.host.mark(self)

    def work(self) -> None:
        """Requests into the core, and everything out of it that it has to tell."""
        raw = self.raw
        if self.proposals.queued:
            self._push_proposals()
        if self.reads.count:
            self._ask_reads()
        send = self.host.out.send
        number = self.number
        while raw.has_ready():
            ready = raw.ready()
            for state in ready.read_states:
                self.reads.answered(state.request_ctx, state.index, self.host.ticks)
                self.reads.applied(self.applier.index)
            for message in ready.messages:
                to = message.to
                if to == LOCAL_APPEND_THREAD:
                    self._append_to_log(message)
                elif to == LOCAL_APPLY_THREAD:
                    self._apply(message)
                elif message.snapshot is not None:
                    assert self.on_snapshot_needed is not None
                    self.on_snapshot_needed(message)
                else:
                    send(number, message)
            if ready.soft_state is not None or (ready.hard_state is not None and ready.hard_state.term != self._term):
                self._notice_leader()

    def appended(self, message: Message) -> None:
        """What MsgStorageAppend asked for is durable: its answers may leave."""
        node = self.host.node
        for response in message.responses:
            if response.to != node:
                self.host.out.send(self.number, response)
                continue
            try:
                self.raw.step(response)
            except PeerNotFound:
                continue  # this node was removed while it wrote: its own word counts no more
        self.host.mark(self)

    def leads(self) -> bool:
        """Whether proposals can be appended here."""
        raft = self.raw.raft
        return raft.role == LEADER and raft.lead_transferee == NONE

    # --- inside ---------------------------------------------------------------------------------------------------

    def _append(self, data: list[bytes]) -> int:
        """Have the core append ``data``; the index of the first, or 0."""
        try:
            self.raw.propose_all(tuple([Entry(data=each) for each in data]))
        except ProposalDropped:
            return 0
        return self.raw.raft.log.last_index - len(data) + 1

    def _push_proposals(self) -> None:
        proposals, host = self.proposals, self.host
        raft = self.raw.raft
        while proposals.queued:
            if host.blocked and raft.role == LEADER:
                return
            if self.leads():
                data, dones = proposals.take(host.options.message_bytes_max)
                index = self._append(data)
                if index:
                    proposals.placed(index, raft.term, dones, host.ticks)
                else:
                    proposals.fail(dones, Unavailable("too much is not committed yet, or this node was removed"))
            elif raft.lead not in (NONE, host.node) and raft.role == FOLLOWER:
                data, dones = proposals.take(host.options.message_bytes_max)
                number = proposals.forwarded(raft.lead, dones, host.ticks)
                if not host.out.send_propose(raft.lead, Propose(self.number, host.boot, number, data)):
                    proposals.answered(number, 0, 0, 0, 0)
            else:
                return

    def _ask_reads(self) -> None:
        raft = self.raw.raft
        if raft.lead == NONE:
            return
        context = self.reads.ask(self.host.ticks, self.host.options.election_ticks)
        if context is not None:
            self.raw.read_index(context)

    def _append_to_log(self, m: Message) -> None:
        """MsgStorageAppend."""
        hard_state = HardState(m.term, m.vote, m.commit) if m.term or m.vote or m.commit else None
        snapshot = m.snapshot
        if snapshot is not None:
            assert self._restored is not None and self._restored[0] == snapshot, "a snapshot that nobody brought"
            self.applier.restore(*self._restored)
        write = None  # only answers, which wait for what was written before
        must_sync = bool(m.entries) or snapshot is not None
        if must_sync or hard_state is not None:
            write = self.host.stores.write(self.number, entries=m.entries, hard_state=hard_state, restore=snapshot)
        if hard_state is not None and (hard_state.term, hard_state.vote) != self._voted:
            self._voted = (hard_state.term, hard_state.vote)
            must_sync = True
        self.host.write(self, write, m, must_sync=must_sync)

    def _apply(self, message: Message) -> None:
        """MsgStorageApply: at once."""
        self.applier.apply(message.entries)
        for response in message.responses:
            self.raw.step(response)
        if self.applier.bytes_since > self.host.options.snapshot_log_bytes and self.on_log_grown is not None:
            self.applier.bytes_since = 0
            self.on_log_grown()

    def _notice_leader(self) -> None:
        raft = self.raw.raft
        if (raft.lead, raft.term) == (self._leader, self._term):
            return
        before = self._leader
        self._leader, self._term = raft.lead, raft.term
        self.wake()
        if raft.role == CANDIDATE:
            self.host.counters.elections += 1
        if raft.lead != before:
            self.reads.again()
            if raft.lead != NONE:
                self.host.counters.leader_changes += 1
                self.changes.led_by(raft.lead)
                self.proposals.led_by(raft.lead)
        self.machine.leader_changed(raft.lead, raft.term, raft.role == LEADER)
        self.host.mark(self)

    def _settled(self) -> bool:
        """Everything that is known here is committed and applied, and nobody waits."""
        log = self.raw.raft.log
        return (
            log.last_index == log.committed == self.applier.index == log.applied
            and not log.unstable.entries
            and not (self.proposals.count or self.reads.count or len(self.changes))
        )

    def _becomes_quiet(self) -> bool:
        """A leader's way to quiet; True when this was its last heartbeat."""
        if not self._settled():
            self._idle = 0
            return False
        self._idle += 1
        if self._idle < self.host.options.quiet_ticks:
            return False
        raft, host = self.raw.raft, self.host
        last = raft.log.last_index
        if raft.lead_transferee != NONE or raft.configuration.outgoing:
            return False
        reached = [(node, pr) for node, pr in raft.peers if host.out.linked_to(node)]
        if any(pr.match != last or pr.state != REPLICATE for _, pr in reached):
            return False
        voters = raft.configuration.incoming
        if sum(node in voters for node, _ in reached) + 1 <= len(voters) // 2:
            return False  # without a quorum check-quorum has to find out
        for node, _ in reached:
            host.out.send_beat(node, Beat(self.number, raft.term, last, b"", True))
        self._rest()
        host.mark(self)
        return True

    def _rest(self) -> None:
        self.quiet = True
        self._idle = 0
        # A follower's election time begins anew when it wakes.
        self.raw.raft.election_elapsed = 0
        self.host.rest(self)
