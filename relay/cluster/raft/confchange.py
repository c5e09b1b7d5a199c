"""Changing the configuration: one voter at a time, or any number by joint consensus (thesis 4.1, 4.3; paper 6).

::

    (1 2 3)  ── simple v4 ──▶  (1 2 3 4)
    (1 2 3)  ── enter_joint v4 r1 ──▶  (2 3 4)&&(1 2 3)  ── leave_joint ──▶  (2 3 4)

Nothing here changes its arguments: a change that turns out to be impossible leaves no trace. A voter that is to become
a learner while it is still in the outgoing half waits in ``learners_next``, because no node is voter and learner at
once. ``describe`` and ``parse`` translate ``v1 l2 r3 u4`` (voter, learner, remove, update).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from relay.cluster.raft.errors import BadConfChange
from relay.cluster.raft.quorum import describe_joint_voters, describe_voters
from relay.cluster.raft.tracker import Inflights, Progress
from relay.cluster.raft.types import (
    ADD_LEARNER_NODE,
    ADD_NODE,
    NONE,
    REMOVE_NODE,
    UPDATE_NODE,
    ConfChangeSingle,
    ConfState,
)

_LETTERS = {ADD_NODE: "v", ADD_LEARNER_NODE: "l", REMOVE_NODE: "r", UPDATE_NODE: "u"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}


class Configuration(msgspec.Struct, frozen=True):
    """Who votes and who learns."""

    incoming: frozenset[int] = frozenset()
    """The voters; of a joint configuration the new ones. Disjoint from ``learners``."""
    outgoing: frozenset[int] = frozenset()
    """The voters being replaced; empty unless the configuration is joint. Disjoint from ``learners``."""
    learners: frozenset[int] = frozenset()
    """Nodes that receive the log and do not count."""
    learners_next: frozenset[int] = frozenset()
    """Voters of ``outgoing`` that become learners when the joint configuration is left; a subset of ``outgoing``."""
    auto_leave: bool = False
    """The leader leaves the joint configuration by itself once it is applied; False when not joint."""

    def __str__(self) -> str:
        text = "voters=" + describe_joint_voters(self.incoming, self.outgoing)
        if self.learners:
            text += " learners=" + describe_voters(self.learners)
        if self.learners_next:
            text += " learners_next=" + describe_voters(self.learners_next)
        return text + " autoleave" if self.auto_leave else text

    def voters(self) -> list[int]:
        """The voters of both halves, ascending."""
        return sorted(self.incoming | self.outgoing)

    def conf_state(self) -> ConfState:
        """The form that snapshots carry."""
        return ConfState(
            tuple(sorted(self.incoming)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.learners_next)),
            self.auto_leave,
        )


Members = dict[int, Progress]
"""Every member's progress, ids ascending."""


class Changer:
    """Computes the configuration and the progress map that follow from a change."""

    __slots__ = (
        "_incoming",
        "_inflight_bytes_max",
        "_inflight_max",
        "_learners",
        "_learners_next",
        "_outgoing",
        "_progress",
        "configuration",
        "last_index",
        "progress",
    )

    def __init__(
        self,
        configuration: Configuration,
        progress: Members,
        last_index: int,
        inflight_max: int,
        inflight_bytes_max: int,
    ) -> None:
        self.configuration = configuration
        self.progress = progress
        # Where a new member is probed first.
        self.last_index = last_index
        self._inflight_max = inflight_max
        self._inflight_bytes_max = inflight_bytes_max
        # The result in the making; between calls it means nothing.
        self._incoming: set[int] = set()
        self._outgoing: frozenset[int] = frozenset()
        self._learners: set[int] = set()
        self._learners_next: set[int] = set()
        self._progress: Members = {}

    def simple(self, changes: Iterable[ConfChangeSingle]) -> tuple[Configuration, Members]:
        """At most one voter differs afterwards, so every majority before meets every majority after (thesis 4.1)."""
        self._begin()
        if self._outgoing:
            raise BadConfChange("can't apply simple config change in joint config")
        self._apply(changes)
        if len(self._incoming ^ self.configuration.incoming) > 1:
            raise BadConfChange("more than one voter changed without entering joint config")
        return self._finish(auto_leave=False)

    def enter_joint(self, auto_leave: bool, changes: Iterable[ConfChangeSingle]) -> tuple[Configuration, Members]:
        """The voters become the outgoing half, and the changes make the incoming half (thesis 4.3: C_old,new)."""
        self._begin()
        if self._outgoing:
            raise BadConfChange("config is already joint")
        if not self._incoming:
            raise BadConfChange("can't make a zero-voter config joint")
        self._outgoing = frozenset(self._incoming)
        self._apply(changes)
        return self._finish(auto_leave)

    def leave_joint(self) -> tuple[Configuration, Members]:
        """The incoming half decides alone (C_new); who is in neither half nor a learner is forgotten."""
        self._begin()
        if not self._outgoing:
            raise BadConfChange("can't leave a non-joint config")
        for node in self._learners_next:
            self._learners.add(node)
            self._progress[node].is_learner = True
        self._learners_next.clear()
        for node in self._outgoing:
            if node not in self._incoming and node not in self._learners:
                del self._progress[node]
        self._outgoing = frozenset()
        return self._finish(auto_leave=False)

    def adopt(self, result: tuple[Configuration, Members]) -> None:
        """Make a result the starting point of the next change."""
        self.configuration, self.progress = result

    def _begin(self) -> None:
        check_invariants(self.configuration, self.progress)
        self._incoming = set(self.configuration.incoming)
        self._outgoing = self.configuration.outgoing
        self._learners = set(self.configuration.learners)
        self._learners_next = set(self.configuration.learners_next)
        self._progress = {node: progress.clone() for node, progress in self.progress.items()}

    def _finish(self, auto_leave: bool) -> tuple[Configuration, Members]:
        configuration = Configuration(
            frozenset(self._incoming),
            self._outgoing,
            frozenset(self._learners),
            frozenset(self._learners_next),
            auto_leave,
        )
        progress = {node: self._progress[node] for node in sorted(self._progress)}
        check_invariants(configuration, progress)
        return configuration, progress

    def _apply(self, changes: Iterable[ConfChangeSingle]) -> None:
        for change in changes:
            if change.node_id == NONE:
                # The application replaced the id by zero: it decided not to make this step.
                continue
            if change.type == ADD_NODE:
                self._make_voter(change.node_id)
            elif change.type == ADD_LEARNER_NODE:
                self._make_learner(change.node_id)
            elif change.type == REMOVE_NODE:
                self._remove(change.node_id)
            elif change.type != UPDATE_NODE:
                raise BadConfChange(f"unexpected conf type {change.type}")
        if not self._incoming:
            raise BadConfChange("removed all voters")

    def _make_voter(self, node: int) -> None:
        progress = self._progress.get(node)
        if progress is None:
            self._add(node, is_learner=False)
            return
        progress.is_learner = False
        self._learners.discard(node)
        self._learners_next.discard(node)
        self._incoming.add(node)

    def _make_learner(self, node: int) -> None:
        progress = self._progress.get(node)
        if progress is None:
            self._add(node, is_learner=True)
            return
        if progress.is_learner:
            return
        self._remove(node)
        self._progress[node] = progress
        if node in self._outgoing:
            self._learners_next.add(node)
        else:
            progress.is_learner = True
            self._learners.add(node)

    def _remove(self, node: int) -> None:
        if node not in self._progress:
            return
        self._incoming.discard(node)
        self._learners.discard(node)
        self._learners_next.discard(node)
        if node not in self._outgoing:
            del self._progress[node]

    def _add(self, node: int, is_learner: bool) -> None:
        (self._learners if is_learner else self._incoming).add(node)
        # Probed from the end of our log; counted as active, so that a check of the quorum right after the change does
        # not depose us for the silence of somebody who was never asked.
        self._progress[node] = Progress(
            Inflights(self._inflight_max, self._inflight_bytes_max),
            next=max(self.last_index, 1),
            is_learner=is_learner,
            active=True,
        )


def check_invariants(configuration: Configuration, progress: Members) -> None:
    """Raises :class:`BadConfChange` when a configuration and a progress map cannot belong together."""
    joint = configuration.outgoing
    for node in sorted(configuration.incoming | joint | configuration.learners | configuration.learners_next):
        if node not in progress:
            raise BadConfChange(f"no progress for {node}")
    for node in sorted(configuration.learners_next):
        if node not in joint:
            raise BadConfChange(f"{node} is in LearnersNext, but not Voters[1]")
        if progress[node].is_learner:
            raise BadConfChange(f"{node} is in LearnersNext, but is already marked as learner")
    for node in sorted(configuration.learners):
        if node in joint:
            raise BadConfChange(f"{node} is in Learners and Voters[1]")
        if node in configuration.incoming:
            raise BadConfChange(f"{node} is in Learners and Voters[0]")
        if not progress[node].is_learner:
            raise BadConfChange(f"{node} is in Learners, but is not marked as learner")
    if not joint and configuration.auto_leave:
        raise BadConfChange("AutoLeave must be false when not joint")


def restore(changer: Changer, state: ConfState) -> tuple[Configuration, Members]:
    """The configuration that ``state`` describes, built by the changes that lead to it from an empty ``changer``."""
    incoming = [ConfChangeSingle(REMOVE_NODE, node) for node in state.voters_outgoing]
    incoming += [ConfChangeSingle(ADD_NODE, node) for node in state.voters]
    incoming += [ConfChangeSingle(ADD_LEARNER_NODE, node) for node in state.learners]
    incoming += [ConfChangeSingle(ADD_LEARNER_NODE, node) for node in state.learners_next]
    if not state.voters_outgoing:
        for change in incoming:
            changer.adopt(changer.simple((change,)))
    else:
        # The outgoing half first, as if it were all there is; then everything else at once, as entering it.
        for node in state.voters_outgoing:
            changer.adopt(changer.simple((ConfChangeSingle(ADD_NODE, node),)))
        changer.adopt(changer.enter_joint(state.auto_leave, incoming))
    return changer.configuration, changer.progress


def describe_conf_changes(changes: Sequence[ConfChangeSingle]) -> str:
    """``v1 l2 r3 u4``."""
    return " ".join(f"{_LETTERS.get(change.type, 'unknown')}{change.node_id}" for change in changes)


def parse_conf_changes(text: str) -> tuple[ConfChangeSingle, ...]:
    """The inverse of :func:`describe_conf_changes`; :class:`BadConfChange` for anything else."""
    changes = []
    for token in text.split():
        kind = _KINDS.get(token[0])
        if len(token) < 2:
            raise BadConfChange(f"unknown token {token}")
        if kind is None:
            raise BadConfChange(f"unknown input: {token}")
        if not (token[1:].isascii() and token[1:].isdigit()):
            raise BadConfChange(f"no node id: {token}")
        changes.append(ConfChangeSingle(kind, int(token[1:])))
    return tuple(changes)
