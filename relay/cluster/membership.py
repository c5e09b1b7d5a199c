"""Nodes that were members of this node's groups and are not any more: they are dialled no longer.

::

    member of a group here ──in no configuration any more──▶ dropped: not dialled, not on ``/metrics``
       ▲       ▲                                               │ it says more than that it lives: see below
       │       └──────────── in a configuration again ─────────┤
       │                                                       ▼
       └──────────── in a configuration again ─────────── dialled, and dropped when its own link is gone

Who was never a member is left alone: it may become one. What a node was before this one started is known of the
founders, and of what the log and the snapshot still have.

A dropped node that asks for a vote or sends entries may be a member again in the others' eyes: this node's log may be
behind. It could not be answered without a link, and that log could stay behind for ever; so it gets one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twisted.logger import Logger

from relay.cluster.raft.confchange import Configuration
from relay.cluster.replica import Replica
from relay.cluster.transport import TcpTransport

log = Logger()


class Membership:
    """See the module. ``look`` is called now and then, and once before the groups apply anything."""

    __slots__ = ("_behind", "_dropped", "_members", "_node", "_removed", "_replicas", "_seen", "_transport", "_were")

    def __init__(
        self, node: int, replicas: Mapping[int, Replica], transport: TcpTransport, founders: Iterable[int]
    ) -> None:
        self._node = node
        self._replicas = replicas
        self._transport = transport
        self._were = set(founders)  # members, now or earlier
        self._members: frozenset[int] = frozenset()
        self._seen: dict[int, Configuration] = {}  # of each group, as it was at the last look
        self._dropped: set[int] = set()
        self._removed = False
        # Groups that have not applied what their logs had at the start: it may have changes of membership.
        self._behind = {number: replica.raw.raft.log.last_index for number, replica in replicas.items()}

    def look(self) -> None:
        """Drop who is no member any more."""
        self._find_members()
        if not self._members or self._is_behind():
            return
        for node in self._dropped & self._members:
            self._dropped.discard(node)
            address = self._transport.dropped.get(node)
            if address is not None:
                self._transport.add(node, address)
        for node in self._were - self._members - {self._node}:
            if node in self._transport.dialers and not (node in self._dropped and self._is_linked(node)):
                if node not in self._dropped:
                    log.info("node {node} was removed from the cluster: it is not dialled any more", node=node)
                self._dropped.add(node)
                self._transport.drop(node)
        removed = self._node in self._were and self._node not in self._members
        if removed and not self._removed:
            log.warn("this node, {node}, was removed from the cluster: it can be stopped", node=self._node)
        self._removed = removed

    def _find_members(self) -> None:
        changed = False
        for number, replica in self._replicas.items():
            configuration = replica.raw.raft.configuration
            if self._seen.get(number) is not configuration:
                self._seen[number] = configuration
                changed = True
        if changed:
            every = self._seen.values()
            self._members = frozenset().union(*(each.incoming | each.outgoing | each.learners for each in every))
            self._were |= self._members

    def _is_behind(self) -> bool:
        for number, last in list(self._behind.items()):
            replica = self._replicas[number]
            if replica.applier.index >= min(last, replica.raw.raft.log.last_index):
                del self._behind[number]
        return bool(self._behind)

    def _is_linked(self, node: int) -> bool:
        return any(link.node == node and not link.ended for link in self._transport.incoming)
