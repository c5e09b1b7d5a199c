"""What a leader knows about each node: how far its log matches, what was sent, whether it is heard from.

=========  ==========================  ==========================================================
from       to                          when
=========  ==========================  ==========================================================
probe      replicate                   an append was acknowledged
replicate  probe                       an append was rejected, or the transport reports a failure
any        snapshot                    the entry before the next append is compacted
snapshot   replicate                   an acknowledgement reaches our log
snapshot   probe                       the application reports the snapshot delivered or failed
=========  ==========================  ==========================================================

``probe`` sends one append per heartbeat and looks for the point where the logs part (paper 5.3, nextIndex);
``replicate`` pipelines without waiting (thesis 10.2.1), bounded by :class:`Inflights`; ``snapshot`` waits for one
(paper 7). All of it is the leader's guess, never needed for safety except ``match``.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from relay.cluster.raft.errors import RaftInvariantError

PROBE: Final = 0
REPLICATE: Final = 1
SNAPSHOT: Final = 2
PROGRESS_NAMES: Final = ("StateProbe", "StateReplicate", "StateSnapshot")


class Inflights:
    """The window of appends sent and not yet acknowledged, limited in messages and in bytes."""

    __slots__ = ("_bytes", "_bytes_max", "_count_max", "_window", "full")

    def __init__(self, count_max: int, bytes_max: int = 0) -> None:
        self._count_max = count_max
        # 0: no limit in bytes.
        self._bytes_max = bytes_max
        # The sum of the second members of the window.
        self._bytes = 0
        # (last index of the message, its payload bytes), indexes ascending; at most _count_max of them.
        self._window: deque[tuple[int, int]] = deque()
        # Whether a limit is reached; the byte limit may be overshot by one message. Kept, because every send asks.
        self.full = False

    def add(self, index: int, size: int) -> None:
        """A message whose last entry is ``index``, with ``size`` payload bytes, was sent. Indexes never fall."""
        if self.full:
            raise RaftInvariantError("cannot add into a Full inflights")
        window = self._window
        window.append((index, size))
        self._bytes += size
        self.full = len(window) >= self._count_max or 0 < self._bytes_max <= self._bytes

    def free_le(self, index: int) -> None:
        """Everything up to ``index`` is acknowledged, and with it all earlier messages."""
        window = self._window
        if not window or index < window[0][0]:
            return
        while window and window[0][0] <= index:
            self._bytes -= window.popleft()[1]
        self.full = len(window) >= self._count_max or 0 < self._bytes_max <= self._bytes

    def reset(self) -> None:
        """Forget what was sent."""
        if self._window:
            self._window.clear()
        self._bytes = 0
        self.full = False

    def count(self) -> int:
        """How many messages are in the window."""
        return len(self._window)


class Progress:
    """One node in the leader's eyes."""

    __slots__ = (
        "flow_paused",
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(
        self, inflights: Inflights, *, match: int = 0, next: int = 1, is_learner: bool = False, active: bool = False
    ) -> None:
        # The highest index at which the node's log is known to agree with ours (paper figure 2, matchIndex).
        # Never falls while we lead: everything committed is counted from it.
        self.match = match
        # The first entry of the next append (nextIndex). 0 <= match < next; entries between are in flight.
        self.next = next
        # The highest commit index sent. May fall when the node turns out to have missed it. In snapshot state it equals
        # pending_snapshot and next - 1.
        self.sent_commit = 0
        # PROBE, REPLICATE or SNAPSHOT: the machine in the module's drawing.
        self.state: int = PROBE
        # In snapshot state the index of the snapshot on its way, else 0.
        self.pending_snapshot = 0
        # Something was heard from the node since the last check of the quorum (thesis 6.2). Always true for the leader.
        self.recent_active = active
        # No append until the next heartbeat is answered: a probe is out, or the window is full.
        self.flow_paused = False
        # The window of the replicate state; empty in the others.
        self.inflights = inflights
        # Receives entries, does not count for anything (thesis 4.2.1).
        self.is_learner = is_learner

    def clone(self) -> Progress:
        """A copy to try a change of membership on; the window is shared."""
        other = Progress(
            self.inflights, match=self.match, next=self.next, is_learner=self.is_learner, active=self.recent_active
        )
        other.sent_commit = self.sent_commit
        other.state = self.state
        other.pending_snapshot = self.pending_snapshot
        other.flow_paused = self.flow_paused
        return other

    def forget(self, match: int, next: int) -> None:
        """Back to knowing nothing, as at the start of a term."""
        self.match = match
        self.next = next
        self.sent_commit = 0
        self.recent_active = False
        self._enter(PROBE)

    def become_probe(self) -> None:
        """Look for the point of agreement, one append at a time; from behind the snapshot if one was under way."""
        if self.state == SNAPSHOT:
            pending = self.pending_snapshot
            self._enter(PROBE)
            self.next = max(self.match + 1, pending + 1)
        else:
            self._enter(PROBE)
            self.next = self.match + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """The logs agree up to ``match``: pipeline from there."""
        self._enter(REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot at ``index`` is on its way: nothing else is sent until it is heard of."""
        self._enter(SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def sent_entries(self, count: int, size: int) -> None:
        """An append with ``count`` entries and ``size`` payload bytes left."""
        if self.state == REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size)
            # What fills the window, or leaves while it is full, is a probe: the next waits for a heartbeat's answer.
            self.flow_paused = self.inflights.full
        elif self.state == PROBE:
            # An empty append in probe state is sent to bring the follower back to replicate; it does not pause.
            if count:
                self.flow_paused = True
        else:
            raise RaftInvariantError(f"sending append in unhandled state {PROGRESS_NAMES[self.state]}")

    def can_bump_commit(self, index: int) -> bool:
        """Whether sending commit ``index`` can tell the node anything new: a commit beyond what it has cannot."""
        return index > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """The node acknowledged ``index``; False if that was known."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def maybe_decrease_to(self, rejected: int, hint: int) -> bool:
        """The node rejected an append at ``rejected`` and suggests ``hint``; False if the rejection is an old one."""
        if self.state == REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
            self.sent_commit = min(self.sent_commit, self.next - 1)
            return True
        # One probe is out at a time, so a rejection of anything else is stale.
        if self.next - 1 != rejected:
            return False
        self.next = max(min(rejected, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.flow_paused = False
        return True

    def is_paused(self) -> bool:
        """Whether appends are held back."""
        return self.state == SNAPSHOT or self.flow_paused

    def _enter(self, state: int) -> None:
        self.flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def __str__(self) -> str:
        parts = [f"{PROGRESS_NAMES[self.state]} match={self.match} next={self.next}"]
        if self.is_learner:
            parts.append("learner")
        if self.is_paused():
            parts.append("paused")
        if self.pending_snapshot:
            parts.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            parts.append("inactive")
        count = self.inflights.count()
        if count:
            parts.append(f"inflight={count}" + ("[full]" if self.inflights.full else ""))
        return " ".join(parts)


def describe_progress(progress: dict[int, Progress]) -> str:
    """A line per node, ids ascending and in decimal."""
    return "".join(f"{node}: {progress[node]}\n" for node in sorted(progress))
