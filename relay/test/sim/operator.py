"""Whoever runs the cluster: a node that lost its disk is replaced by a new one, and sometimes a good one is.

::

    new node, empty disk ─▶ learner of all groups ─▶ (a while later) voter ─▶ the old one removed
                                                 └─▶ or both in one joint change ─┘

One replacement at a time, and none before a majority of the new voters has applied the one before and has rested: with
more at once a quorum's memory could be gone, which no protocol survives. A node that has the last change in its log,
but does not know that it is committed, still counts the old voters.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from relay.cluster.raft.errors import ProposalDropped
from relay.cluster.raft.types import ADD_NODE, LEADER, NONE, REMOVE_NODE, ConfChangeSingle, ConfChangeV2

if TYPE_CHECKING:
    from relay.cluster.replica import Replica
    from relay.test.sim.node import Node
    from relay.test.sim.world import World

LOOK_S = 0.3
REST_S = 1.5  # that a removed node goes on running
NODES_MAX = 40


class Operator:
    """See the module."""

    def __init__(self, world: World, dice: Random) -> None:
        self._world = world
        self._dice = dice
        self.old: int | None = None
        self.new = 0
        self.joint = False
        self.learn_until_s = 0.0
        self.rest_until_s = 0.0
        self.changed = False
        """The voters are not the founders any more, so nobody's configuration file names them."""

    @property
    def idle(self) -> bool:
        """No replacement is under way, and none is needed."""
        return self.old is None and self._world.schedule.now_s >= self.rest_until_s and not self._due()

    def start(self) -> None:
        """Begin to look."""
        self._world.schedule.later(LOOK_S, None, self._look)

    def replace(self, old: int) -> None:
        """Begin to replace ``old``."""
        world = self._world
        if self.old is not None or len(world.nodes) >= NODES_MAX:
            return
        self.old, self.new = old, max(world.nodes) + 1
        self.joint = self._dice.random() < 0.5
        self.learn_until_s = world.schedule.now_s + 3 * self._dice.random()
        self.changed = True
        world.note("node {} replaces node {}{}", self.new, old, ", jointly" if self.joint else "")
        world.add_node(self.new)

    def _due(self) -> list[int]:
        nodes = self._world.nodes
        return [number for number in self._world.members if nodes[number].lost or nodes[number].damaged]

    def _look(self) -> None:
        self._world.schedule.later(LOOK_S, None, self._look)
        if self.old is None:
            due = self._due()
            if due:
                self.replace(due[0])
            return
        done = True
        for group in self._world.group_numbers:
            done = self._step(group) and done
        if done:
            self._finish()

    def _step(self, group: int) -> bool:
        """The next step in one group; True when there is none."""
        leader = self._leader(group)
        if leader is None or leader.groups is None or self.old is None:
            return False
        raft = leader.groups.replicas[group].raw.raft
        if raft.configuration.outgoing or raft.pending_conf_index > raft.log.applied:
            return False
        pr = raft.progress.get(self.new)
        if pr is None:
            leader.enter(leader.group(group).add_learner, (self.new, _ignore))
        elif pr.is_learner:
            if self._world.schedule.now_s >= self.learn_until_s:
                if self.joint:
                    leader.enter(self._swap, (leader.groups.replicas[group],))
                else:
                    leader.enter(leader.group(group).promote, (self.new, _ignore))
        elif self.old in raft.progress:
            leader.enter(leader.group(group).remove, (self.old, _ignore))
        else:
            return self._is_known(group, raft.configuration.incoming)
        return False

    def _is_known(self, group: int, voters: Iterable[int]) -> bool:
        """Whether a majority has applied the removal."""
        know = []
        for number in voters:
            groups = self._world.nodes[number].groups
            know.append(groups is not None and self.old not in groups.replicas[group].raw.raft.progress)
        return sum(know) > len(know) // 2

    def _swap(self, replica: Replica) -> None:
        if replica.raw.raft.role != LEADER or replica.raw.raft.lead_transferee != NONE or self.old is None:
            return
        pr = replica.raw.raft.progress.get(self.new)
        if pr is None or replica.raw.raft.log.last_index - pr.match > replica.host.options.catch_up_entries_max:
            return
        changes = (ConfChangeSingle(ADD_NODE, self.new), ConfChangeSingle(REMOVE_NODE, self.old))
        replica.wake()
        try:
            replica.raw.propose_conf_change(ConfChangeV2(changes=changes))
        except ProposalDropped:
            return
        replica.host.mark(replica)

    def _finish(self) -> None:
        assert self.old is not None
        world, old = self._world, self.old
        world.members.discard(old)
        world.members.add(self.new)
        world.note("node {} has replaced node {}", self.new, old)
        world.schedule.later(REST_S, None, self._shut, old)
        self.old = None
        self.rest_until_s = world.schedule.now_s + REST_S

    def _shut(self, number: int) -> None:
        node = self._world.nodes[number]
        node.lost = True
        if node.groups is not None:
            node.end(power=False)

    def _leader(self, group: int) -> Node | None:
        found: Node | None = None
        term = 0
        for node in self._world.nodes.values():
            if node.groups is not None and node.paused_until_s <= self._world.schedule.now_s:
                raft = node.groups.replicas[group].raw.raft
                if raft.role == LEADER and raft.term > term:
                    found, term = node, raft.term
        return found


def _ignore(_: object, error: BaseException | None) -> None:
    """The next look sees what became of it."""
