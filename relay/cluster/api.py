"""The cluster's keys on one node, joined: the group's machine, access, time, elections, procedures and their door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from relay.cluster.election_beats import HeartbeatElections
from relay.cluster.elections import RaftElections
from relay.cluster.groups import Groups
from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.procedures import PREFIX, ClusterProcedures, KeyValueProcedures
from relay.cluster.timekeeper import Timekeeper
from relay.config_cluster import Cluster
from relay.core.doors import Door
from relay.interfaces import IRaftGroup

if TYPE_CHECKING:
    from relay.app import Application
    from relay.core.hub import Hub

GROUP: Final = 1
"""The number of the group that replicates the keys."""
NOT_YET: Final = "the cluster has not begun: this node waits for all other founding voters"


class ClusterApi:
    """``machines``: what the groups replicate. The others are there from ``start`` on."""

    def __init__(self, config: Cluster, hub: Hub) -> None:
        self.machine = KeyValueMachine()
        # Any: that it is one is declared where the type checker does not see it, in ``keyvalue``.
        self.machines: dict[int, Any] = {GROUP: self.machine}
        self.keys: KeyValue | None = None
        self.elections: RaftElections | None = None
        self.heartbeat_elections: HeartbeatElections | None = None
        self._config = config
        self._hub = hub
        self._timekeeper: Timekeeper | None = None
        self._door = hub.doors[PREFIX] = Door(PREFIX, config.api == "local", closed=NOT_YET)

    def start(self, groups: Groups, clock: IReactorTime, application: Application) -> None:
        """The groups are there: let code and clients use them."""
        group = groups.groups[GROUP]
        settings = self._config.keys
        keys = self.keys = KeyValue(
            self.machine, group, clock,
            write_timeout_s=settings.write_timeout_s, writes_max=settings.writes_max, watches_max=settings.watches_max,
        )  # fmt: skip
        self._timekeeper = Timekeeper(self.machine, keys, clock, settings.limits())
        self.elections = RaftElections(keys, f"node.{group.node}", settings.election_ttl_s, settings.candidacies_max)
        beats = self.heartbeat_elections = HeartbeatElections(
            f"node.{group.node}", clock, groups.say, candidacies_max=settings.candidacies_max
        )
        groups.inbound.said = beats.receive
        application.add(KeyValueProcedures(keys), own=True)
        application.add(ClusterProcedures(keys, lambda: self._status(group)), own=True)
        self._hub.local.update(application.providers())
        self._door.closed = ""

    def stop(self) -> Deferred[None]:
        """Give up the node's candidacies; before the group stops. Fires when that is done or cannot be."""
        self._door.closed = "the node stops"
        if self._timekeeper is not None:
            self._timekeeper.stop()
        if self.heartbeat_elections is not None:
            self.heartbeat_elections.stop()
        return succeed(None) if self.elections is None else self.elections.stop()

    def _status(self, group: IRaftGroup) -> dict[str, object]:
        """How this node sees the cluster."""
        found: dict[str, object] = attrs.asdict(group.status())
        found["role"] = str(found["role"]).removeprefix("State").lower()
        state = self.machine.state
        return {
            "cluster": self._config.name,
            "leading": group.leading,
            **found,
            "revision": state.keys.revision,
            "compacted": state.keys.history.compacted,
            "keys": len(state.keys),
            "bytes": state.keys.bytes,
            "leases": len(state.leases),
            "sessions": len(state.sessions),
            "addresses": {str(peer.node): peer.address for peer in self._config.peers},
        }
