"""The cluster's keys on one node, joined: the group's machine, access, time, elections, procedures and their door."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from relay.cluster.elections import RaftElections
from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.procedures import PREFIX, ClusterProcedures, KeyValueProcedures
from relay.cluster.timekeeper import Timekeeper
from relay.config_cluster import ClusterKeys
from relay.core.doors import Door
from relay.interfaces import IRaftGroup

if TYPE_CHECKING:
    from relay.app import Application
    from relay.core.hub import Hub

GROUP: Final = 1
"""The number of the group that replicates the keys."""


class ClusterApi:
    """``machine`` is what group ``GROUP`` replicates. ``keys`` and ``elections`` are there from ``start`` on."""

    def __init__(self, settings: ClusterKeys, local: bool) -> None:
        self.machine = KeyValueMachine()
        self.keys: KeyValue | None = None
        self.elections: RaftElections | None = None
        self._settings = settings
        self._local = local
        self._timekeeper: Timekeeper | None = None

    def start(
        self,
        group: IRaftGroup,
        clock: IReactorTime,
        application: Application,
        hub: Hub,
        status: Callable[[], dict[str, object]],
    ) -> None:
        """The group is there: let code and clients use it. ``status``: how this node sees the cluster."""
        settings = self._settings
        keys = self.keys = KeyValue(
            self.machine, group, clock,
            write_timeout_s=settings.write_timeout_s, writes_max=settings.writes_max, watches_max=settings.watches_max,
        )  # fmt: skip
        self._timekeeper = Timekeeper(self.machine, keys, clock, settings.limits())
        self.elections = RaftElections(keys, f"node.{group.node}", settings.election_ttl_s)
        application.add(KeyValueProcedures(keys), own=True)
        application.add(ClusterProcedures(keys, status), own=True)
        hub.local.update(application.providers())
        hub.doors[PREFIX] = Door(PREFIX, self._local)

    def stop(self) -> Deferred[None]:
        """Give up the node's candidacies; before the group stops. Fires when that is done or cannot be."""
        if self._timekeeper is not None:
            self._timekeeper.stop()
        return succeed(None) if self.elections is None else self.elections.stop()
