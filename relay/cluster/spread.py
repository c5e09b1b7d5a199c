"""Which node leads: spread evenly while all run, handed over before one stops, and when its disk is full.

A node knows the leader of every group that it is a member of. Who leads more than its share of the groups (rounded up,
over the nodes that are linked and this one) hands some over each look, to a voter that leads less and whose log is
complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from relay.cluster.group import Group
from relay.cluster.raft.types import LEADER, NONE
from relay.cluster.replica import Host, Replica
from relay.errors import RelayError

TRANSFERS_MAX: Final = 16
"""Leaderships handed over in one look: each is an election, and none is urgent."""


class Spread:
    """See the module."""

    __slots__ = ("_deadline", "_groups", "_host", "_replicas", "_retired", "handed_over")

    def __init__(self, host: Host, replicas: Mapping[int, Replica], groups: Mapping[int, Group]) -> None:
        self._host = host
        self._replicas = replicas
        self._groups = groups
        self._retired: Callable[[], object] | None = None
        self._deadline = 0
        self.handed_over = 0

    def tick(self) -> None:
        """Look, when it is time."""
        if self._retired is not None:
            self._retire_some()
        elif len(self._groups) > 1 and self._host.ticks % self._host.options.spread_ticks == 0:
            self._spread_some()

    def retire(self, done: Callable[[], object]) -> None:
        """Hand over everything; ``done`` when nothing is led here that another could lead, or after two election
        time-outs."""
        self._retired = done
        self._deadline = self._host.ticks + 2 * self._host.options.election_ticks
        self._retire_some()

    def relieve(self) -> None:
        """This node's log takes nothing: what it leads, no one else can write either. Let others lead."""
        for number, replica in self._replicas.items():
            if replica.raw.raft.lead_transferee == NONE and self._can_give(replica):
                self._groups[number].transfer(0, self._handed_over)

    def _retire_some(self) -> None:
        led = [number for number, replica in self._replicas.items() if self._can_give(replica)]
        if not led or self._host.ticks >= self._deadline:
            retired, self._retired = self._retired, None
            if retired is not None:
                retired()
            return
        for number in led:
            if self._replicas[number].raw.raft.lead_transferee == NONE:
                self._groups[number].transfer(0, self._handed_over)

    def _can_give(self, replica: Replica) -> bool:
        raft = replica.raw.raft
        linked = self._host.out.linked_to
        return raft.role == LEADER and any(linked(node) for node in raft.configuration.incoming if node != raft.id)

    def _spread_some(self) -> None:
        led: Counter[int] = Counter({self._host.node: 0})
        mine = []
        for number, replica in self._replicas.items():
            raft = replica.raw.raft
            if raft.lead != NONE:
                led[raft.lead] += 1
            if raft.role == LEADER:
                mine.append(number)
                for node in raft.configuration.incoming:
                    if self._host.out.linked_to(node):
                        led[node] += 0
        share = -(-len(self._replicas) // len(led))
        for number in mine[: min(TRANSFERS_MAX, len(mine) - share)] if len(mine) > share else ():
            raft = self._replicas[number].raw.raft
            last = raft.log.last_index
            able = [
                (led[node], node)
                for node, pr in raft.peers
                if node in raft.configuration.incoming and pr.match == last and self._host.out.linked_to(node)
            ]
            if able and raft.lead_transferee == NONE and min(able)[0] < share:
                target = min(able)[1]
                led[target] += 1
                self._groups[number].transfer(target, self._handed_over)

    def _handed_over(self, _: object, error: RelayError | None) -> None:
        if error is None:
            self.handed_over += 1
