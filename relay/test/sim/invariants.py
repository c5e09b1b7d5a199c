"""What must hold after every event of a node. Each look costs little: only what has changed is looked at.

=====================  ===============================================================================================
one leader             a term of a group has at most one (paper 5.2)
complete               who becomes leader has every entry that was committed in earlier terms (paper 5.4)
no regress             neither a commit index nor a term falls while a node lives
matching               whoever commits an index has the same term there as whoever did before (paper 5.3)
on a quorum            what a leader commits is durable on a majority of the voters of its configuration (both halves)
durable first          an acknowledgement or a vote that leaves a node is in its log, synced (paper 5.2, thesis 3.8)
elected                the votes that made a leader are durable on a majority of the voters (both halves), its own too
agreed                 what is acknowledged to a leader is what the leader has (paper 5.3)
recovered              after a crash the log has everything that it said was durable
applied                every node applies the same command at an index, in order, each once, with the same result; no
                       entry that is not committed counts as applied
told                   what a group tells of a proposal or to a read agrees with what is applied: see ``promises``
acknowledged           what a client was told is done is there at the end: see ``clients``
=====================  ===============================================================================================

An error that ends a node must be one that a fault explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relay.cluster.frames import RAFT, URGENT, decode_raft
from relay.cluster.raft.types import LEADER, MSG_APP_RESP, MSG_VOTE_RESP
from relay.store.wal import WriteAheadLog
from relay.store.wal_format import LogDamaged
from relay.test.sim.promises import Promises

if TYPE_CHECKING:
    from relay.test.sim.node import Node
    from relay.test.sim.world import World


class Violation(BaseException):
    """An invariant does not hold. The run ends here, past whatever production code would catch."""


class _Seen:
    """What was seen last of one group on one node."""

    __slots__ = ("applied", "committed", "configuration", "durable", "role", "term")

    def __init__(self) -> None:
        self.applied = 0
        self.committed = 0
        self.configuration: Any = None  # Any: Configuration
        self.role = 0
        self.term = 0
        self.durable: tuple[int, int, int, int] | None = None  # last index and term, term, vote


class Invariants:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._leaders: dict[tuple[int, int], int] = {}
        self.committed: dict[int, list[int]] = {number: [0] for number in world.group_numbers}  # terms by index
        # The last index that was seen to be committed while a term was the latest known.
        self._committed_in: dict[int, dict[int, int]] = {number: {} for number in world.group_numbers}
        self._applied: dict[int, dict[int, tuple[bytes, Any]]] = {number: {} for number in world.group_numbers}
        self.promises = {number: Promises(self.violated) for number in world.group_numbers}
        self.elections = 0
        self.recoveries = 0

    def violated(self, what: str) -> None:
        """The run ends."""
        raise Violation(f"{self._world.schedule.now_s:.4f}: {what}")

    def seen(self, node: Node, group: int) -> _Seen:
        """Of a group on a node."""
        found = self._seen.get((node.number, group))
        if found is None:
            found = self._seen[(node.number, group)] = _Seen()
        return found

    # --- after every event ----------------------------------------------------------------------------------------

    def look(self, node: Node) -> None:
        """At all groups of a node."""
        assert node.groups is not None
        for group, replica in node.groups.replicas.items():
            raft = replica.raw.raft
            seen = self._seen[(node.number, group)]
            if raft.term != seen.term or raft.role != seen.role:
                self._role(node, group, raft, seen)
            if raft.log.committed != seen.committed:
                self._committed(node, group, raft, seen)
            if replica.applier.index > raft.log.committed:
                self.violated(
                    f"applied: node {node.number} is at {replica.applier.index}, {raft.log.committed} are committed"
                )
            if raft.configuration is not seen.configuration:
                if seen.configuration is not None:
                    self._world.faults.changed(node, raft)
                seen.configuration = raft.configuration

    def _role(self, node: Node, group: int, raft: Any, seen: _Seen) -> None:  # Any: RaftState
        if raft.term < seen.term:
            self.violated(f"no regress: node {node.number} goes from term {seen.term} to {raft.term}")
        was = seen.role == LEADER and seen.term == raft.term
        seen.term, seen.role = raft.term, raft.role
        if raft.role != LEADER or was:
            return
        self.elections += 1
        self._world.note("node {} leads group {} in term {}", node.number, group, raft.term)
        self._world.faults.elected(node)
        other = self._leaders.setdefault((group, raft.term), node.number)
        if other != node.number:
            self.violated(f"one leader: nodes {other} and {node.number} lead group {group} in term {raft.term}")
        for half in (raft.configuration.incoming, raft.configuration.outgoing):
            votes = [number for number in sorted(half) if self._voted(number, group, raft.term, node.number)]
            if half and len(votes) <= len(half) // 2:
                self.violated(
                    f"elected: node {node.number} leads in term {raft.term}, durable are the votes of {votes} of the "
                    f"voters {sorted(half)}"
                )
        terms = self.committed[group]
        # Its votes may have come late: what leaders of later terms committed meanwhile it need not have.
        last = max((index for term, index in self._committed_in[group].items() if term < raft.term), default=0)
        if raft.log.last_index < last:
            self.violated(f"complete: node {node.number} leads with {raft.log.last_index} of {last} entries")
        term = raft.log.term_or_zero(last)
        if term and term != terms[last]:
            self.violated(f"complete: node {node.number} leads, its entry {last} has term {term}, not {terms[last]}")

    def _voted(self, number: int, group: int, term: int, candidate: int) -> bool:
        """Whether a node's vote is durable; of one that knows a later term it is not known any more."""
        node = self._world.nodes.get(number)
        if node is None or node.log is None:
            return False
        state = node.log.group(group).hard_state
        return state.term > term or (state.term, state.vote) == (term, candidate)

    def _committed(self, node: Node, group: int, raft: Any, seen: _Seen) -> None:  # Any: RaftState
        committed = raft.log.committed
        if committed < seen.committed:
            self.violated(f"no regress: node {node.number} committed {seen.committed}, now {committed}")
        if committed > raft.log.last_index:
            self.violated(f"no regress: node {node.number} commits {committed} of {raft.log.last_index} entries")
        terms = self.committed[group]
        term_of = raft.log.term_or_zero
        for index in range(seen.committed + 1, committed + 1):
            term = term_of(index)
            if index < len(terms):
                if term and terms[index] and term != terms[index]:
                    self.violated(
                        f"matching: node {node.number} commits entry {index} of term {term}, "
                        f"others had term {terms[index]}"
                    )
            elif index == len(terms):
                terms.append(term)
            else:
                terms.extend([0] * (index - len(terms)) + [term])
        if len(terms) == committed + 1:
            self._committed_in[group][raft.term] = committed
        if raft.role == LEADER:
            # A change of membership that was applied in this very event did not count for its own commitment.
            halves = self._without_quorum(group, raft.configuration, committed, raft)
            if halves and seen.configuration not in (None, raft.configuration):
                halves = self._without_quorum(group, seen.configuration, committed, raft)
            if halves:
                self.violated(
                    f"on a quorum: node {node.number} commits entry {committed} of term "
                    f"{raft.log.term_or_zero(committed)}, which is durable on {halves}"
                )
        seen.committed = committed

    def _without_quorum(self, group: int, configuration: Any, index: int, raft: Any) -> str:
        """Which voters have an entry durably, if they are no majority; else ''."""  # Any: Configuration, RaftState
        term = raft.log.term_or_zero(index)
        for half in (configuration.incoming, configuration.outgoing):
            have = []
            for number in sorted(half):
                other = self._world.nodes.get(number)
                if other is None or other.log is None:
                    continue
                log = other.log.group(group)
                if log.first_index() > index or (log.last_index() >= index and log.term(index) == term):
                    have.append(number)
            if half and len(have) <= len(half) // 2:
                return f"{have} of the voters {sorted(half)}"
        return ""

    # --- messages -------------------------------------------------------------------------------------------------

    def sent(self, node: Node, to: int, lane: int, frame: bytes) -> None:
        """A frame leaves a node."""
        if lane != URGENT or frame[0] != RAFT or node.log is None:
            return
        for group, message in decode_raft(frame):
            kind = message.type
            if message.reject or kind not in (MSG_APP_RESP, MSG_VOTE_RESP):
                continue
            log = node.log.group(group)
            if kind == MSG_APP_RESP:
                if log.last_index() < message.index:
                    self.violated(
                        f"durable first: node {node.number} acknowledges {message.index} entries, "
                        f"{log.last_index()} are durable"
                    )
                if log.hard_state.term < message.term:
                    self.violated(
                        f"durable first: node {node.number} acknowledges in term {message.term}, durable is term "
                        f"{log.hard_state.term}"
                    )
                self._agrees(node, to, group, message.term, message.index)
            elif (log.hard_state.term, log.hard_state.vote) != (message.term, to) and (
                log.hard_state.term <= message.term
            ):
                self.violated(
                    f"durable first: node {node.number} votes for {to} in term {message.term}, durable is term "
                    f"{log.hard_state.term} and {log.hard_state.vote}"
                )

    def _agrees(self, node: Node, to: int, group: int, term: int, index: int) -> None:
        """What a node acknowledges is what the leader of the term has there."""
        other = self._world.nodes.get(to)
        if other is None or other.groups is None or node.groups is None:
            return
        leader, own = other.groups.replicas[group].raw.raft, node.groups.replicas[group].raw.raft
        if leader.role != LEADER or not leader.term == own.term == term:
            return
        theirs, ours = leader.log.term_or_zero(index), own.log.term_or_zero(index)
        if index > leader.log.last_index or (theirs and ours and theirs != ours):
            self.violated(
                f"agreed: node {node.number} acknowledges entry {index} of term {ours}, leader {to} has term {theirs}"
            )

    # --- lives ----------------------------------------------------------------------------------------------------

    def ended(self, node: Node) -> None:
        """The process of a node ends: remember what it said was durable."""
        assert node.log is not None
        for group in self._world.group_numbers:
            log = node.log.group(group)
            last = log.last_index()
            state = log.hard_state
            self.seen(node, group).durable = (last, log.term(last), state.term, state.vote)

    def started(self, node: Node, log: WriteAheadLog) -> None:
        """Its log is open again."""
        self.recoveries += 1
        for group in self._world.group_numbers:
            seen = self.seen(node, group)
            if seen.durable is None:
                continue
            last, last_term, term, vote = seen.durable
            found = log.group(group)
            state = found.hard_state
            if state.term < term or (state.term == term and vote and state.vote != vote):
                self.violated(
                    f"recovered: node {node.number} had term {term} and vote {vote}, now {state.term} and {state.vote}"
                )
            have = found.last_index()
            kept = have >= last and (found.first_index() > last + 1 or found.term(last) == last_term)
            if not kept and found.term(have) <= last_term:
                self.violated(
                    f"recovered: node {node.number} had entries up to {last} of term {last_term}, now up to {have} of "
                    f"term {found.term(have)}"
                )

    def beginning(self, node: Node, group: int) -> None:
        """A group of a node is about to be added: its state machine is empty, its indexes begin anew."""
        seen = self.seen(node, group)
        seen.applied = seen.committed = seen.role = 0
        # A term that was not durable may be forgotten; what was durable was compared.
        seen.term = 0

    def fatal(self, node: Node, error: BaseException) -> None:
        """A node ends itself."""
        if isinstance(error, OSError) or (isinstance(error, LogDamaged) and node.damaged):
            return
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError) or (node.damaged and isinstance(cause, LogDamaged)):
            return
        self.violated(f"node {node.number} ended itself: {error!r}")

    # --- the state machine ----------------------------------------------------------------------------------------

    def restored(self, node: Node, group: int) -> None:
        """A snapshot replaced its state: which index it is at is told by the next entry."""
        self.seen(node, group).applied = -1
        if node.groups is not None:
            self._world.faults.restored(node, node.groups.replicas[group].raw.raft.lead)

    def applied(self, node: Node, group: int, entries: Any, results: Any) -> None:  # Any: Entry and Result
        """The state machine of a node did ``entries``."""
        seen = self.seen(node, group)
        known = self._applied[group]
        last = seen.applied
        for entry, result in zip(entries, results, strict=True):
            index = entry.index
            if index <= last:
                self.violated(f"applied: node {node.number} applies entry {index} after entry {last}")
            before = known.get(index)
            if before is None:
                known[index] = (entry.data, result)
                self.promises[group].applied(index, entry.data, result)
            elif before[0] != entry.data:
                self.violated(f"applied: node {node.number} applies another command at {index}")
            elif before[1] != result:
                self.violated(f"applied: node {node.number} gives {result} at {index}, others gave {before[1]}")
            last = index
        seen.applied = last
