"""The cluster's part of ``/metrics``: groups, elections, snapshots, links and the log, read when somebody looks.

Nothing is counted here and nothing is kept: attributes of the running parts are read. Names begin with
``relay_cluster_``. Sums and counts by state are over all groups, however many there are; lines of their own have only
the ``groups_max`` groups with the lowest numbers (``cluster.metrics_groups_max``). The same ones each time: series that
come and go spoil every rate and every alert that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from relay.cluster.frames import BULK, SNAPSHOT, URGENT
from relay.cluster.groups import Groups
from relay.cluster.raft.types import LEADER, NONE
from relay.cluster.replica import Replica
from relay.cluster.service import ClusterService
from relay.cluster.transport import TcpTransport
from relay.store.wal import WriteAheadLog

LANE_NAMES: Final = {URGENT: "urgent", BULK: "bulk", SNAPSHOT: "snapshots"}

GROUP_GAUGES: Final[tuple[tuple[str, str, Callable[[Replica], int]], ...]] = (
    ("term", "The group's term.", lambda each: each.raw.raft.term),
    ("leading", "1 while this node leads the group.", lambda each: each.raw.raft.role == LEADER),
    ("has_leader", "1 while a leader is known here.", lambda each: each.raw.raft.lead != NONE),
    ("commit_index", "The last entry that a majority has, as known here.", lambda each: each.raw.raft.log.committed),
    ("applied_index", "The last entry that this node's state shows.", lambda each: each.applier.index),
    ("last_index", "The last entry of this node's log.", lambda each: each.raw.raft.log.last_index),
    ("proposals_waiting", "Proposals of this node without their outcome.", lambda each: each.proposals.count),
    ("reads_waiting", "Reads of this node without their outcome.", lambda each: each.reads.count),
)
"""Of one group: name behind ``relay_cluster_group_``, text, value."""


class ClusterCollector(Collector):
    """Reads one node's cluster when asked. ``groups()`` is None until they have begun."""

    def __init__(
        self, groups: Callable[[], Groups | None], transport: TcpTransport, log: WriteAheadLog, groups_max: int
    ) -> None:
        self._groups = groups
        self._transport = transport
        self._log = log
        self._groups_max = groups_max

    def collect(self) -> Iterator[Metric]:
        """All families. Until the groups have begun those of the log and the links."""
        groups = self._groups()
        yield GaugeMetricFamily(
            "relay_cluster_begun", "1 once this node takes part in its groups.", value=groups is not None
        )
        yield from self._log_families()
        yield from self._link_families(groups)
        if groups is not None:
            yield from self._sums(groups)
            yield from self._counter_families(groups)
            yield from self._group_families(groups)

    # --- all groups ---------------------------------------------------------------------------------------------------

    def _sums(self, groups: Groups) -> Iterator[Metric]:
        states = {"leading": 0, "following": 0, "leaderless": 0}
        outcomes = {"ok": 0, "not_done": 0, "unknown": 0}
        proposals_waiting = reads_waiting = 0
        behind: dict[int, int] = {}
        for replica in groups.replicas.values():
            proposals, raft = replica.proposals, replica.raw.raft
            outcomes["ok"] += proposals.done
            outcomes["not_done"] += proposals.not_done
            outcomes["unknown"] += proposals.unknown
            proposals_waiting += proposals.count
            reads_waiting += replica.reads.count
            if raft.role == LEADER:
                states["leading"] += 1
                for node, entries in _behind(replica):
                    behind[node] = max(behind.get(node, 0), entries)
            else:
                states["leaderless" if raft.lead == NONE else "following"] += 1
        yield _gauges("relay_cluster_groups", "Groups of this node, by what it is in them.", "state", states)
        yield GaugeMetricFamily(
            "relay_cluster_groups_active", "Groups that are not quiet.", value=len(groups.turn.active)
        )
        yield GaugeMetricFamily(
            "relay_cluster_proposals_waiting", "Proposals of this node without their outcome.", value=proposals_waiting
        )
        yield GaugeMetricFamily(
            "relay_cluster_reads_waiting", "Reads of this node without their outcome.", value=reads_waiting
        )
        yield _gauges(
            "relay_cluster_member_behind_entries",
            "Entries that a member lacks, the most of all groups that this node leads.",
            "member",
            {str(node): entries for node, entries in sorted(behind.items())},
        )
        yield _counters("relay_cluster_proposals", "Proposals of this node that ended.", "outcome", outcomes)

    def _counter_families(self, groups: Groups) -> Iterator[Metric]:
        counters = groups.turn.counters
        for name, text, value in (
            ("relay_cluster_elections", "Terms in which this node asked for votes.", counters.elections),
            ("relay_cluster_leader_changes", "Leaders that became known, the same again too.", counters.leader_changes),
            ("relay_cluster_unknown_groups", "Frames for groups that are not here.", groups.inbound.unknown),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield _counters(
            "relay_cluster_snapshots",
            "Snapshots that were written here, that other members have taken over, and that came from a leader.",
            "what",
            {
                "taken": counters.snapshots_taken,
                "sent": counters.snapshots_sent,
                "received": counters.snapshots_received,
            },
        )
        yield _counters(
            "relay_cluster_snapshot_failures",
            "Snapshots that were given up.",
            "what",
            {
                "taken": counters.snapshots_untaken,
                "sent": counters.snapshots_unsent,
                "received": counters.snapshots_unreceived,
            },
        )

    # --- each group ---------------------------------------------------------------------------------------------------

    def _group_families(self, groups: Groups) -> Iterator[Metric]:
        shown = [(str(number), groups.replicas[number]) for number in sorted(groups.replicas)[: self._groups_max]]
        for name, text, value in GROUP_GAUGES:
            family = GaugeMetricFamily(f"relay_cluster_group_{name}", text, labels=["group"])
            for group, replica in shown:
                family.add_metric([group], value(replica))
            yield family
        family = GaugeMetricFamily(
            "relay_cluster_group_behind_entries",
            "Entries of a group that a member lacks, told by the node that leads it.",
            labels=["group", "member"],
        )
        for group, replica in shown:
            if replica.raw.raft.role == LEADER:
                for node, entries in _behind(replica):
                    family.add_metric([group, str(node)], entries)
        yield family

    # --- links --------------------------------------------------------------------------------------------------------

    def _link_families(self, groups: Groups | None) -> Iterator[Metric]:
        dialers = sorted(self._transport.dialers.items())
        heard_from = {link.node for link in self._transport.incoming if not link.ended}
        up = GaugeMetricFamily(
            "relay_cluster_link_up",
            "1 while the link to the peer (out) and the one from it (in) stand.",
            labels=["peer", "direction"],
        )
        made = CounterMetricFamily("relay_cluster_links_made", "Links to a peer that came to stand.", labels=["peer"])
        waiting = GaugeMetricFamily(
            "relay_cluster_link_waiting_bytes", "What waits for the link to a peer.", labels=["peer", "lane"]
        )
        silent = GaugeMetricFamily(
            "relay_cluster_link_silent_seconds", "How long nothing came from a linked peer.", labels=["peer"]
        )
        for node, dialer in dialers:
            peer, link = str(node), dialer.link
            up.add_metric([peer, "out"], link is not None and link.stands)
            up.add_metric([peer, "in"], node in heard_from)
            made.add_metric([peer], dialer.ups)
            for lane, name in LANE_NAMES.items():
                waiting.add_metric([peer, name], self._transport.waiting_bytes(node, lane))
        if groups is not None:
            turn = groups.turn
            for node, outbound in sorted(turn.out.nodes.items()):
                if outbound.linked:
                    silent.add_metric([str(node)], (turn.ticks - outbound.heard) * turn.options.tick_s)
        yield from (up, made, waiting, silent)
        yield CounterMetricFamily(
            "relay_cluster_links_refused",
            "Links that did not come to be, or ended by what came on them.",
            value=self._transport.refusals,
        )

    # --- log ----------------------------------------------------------------------------------------------------------

    def _log_families(self) -> Iterator[Metric]:
        log, counters, options = self._log, self._log.counters, self._log.options
        segment_bytes = options.segment_bytes
        for name, text, value in (
            ("segments", "Files of the log, those made ahead too.", counters.segments),
            ("bytes", "What they take on the disk.", counters.segments * segment_bytes),
            ("room_bytes", "What the log may still take.", (options.segments_max - counters.segments) * segment_bytes),
            ("waiting_bytes", "What waits for the next syncs.", log.queue.pending_bytes),
            ("full", "1 while no further segment can be made.", log.no_room is not None),
        ):
            yield GaugeMetricFamily(f"relay_cluster_log_{name}", text, value=value)
        for name, text, value in (
            ("submissions", "Turns whose writes were synced.", counters.submissions),
            ("written_bytes", "Bytes that were synced.", counters.bytes),
            ("refusals", "Submissions that had no room and are tried again.", counters.refused),
        ):
            yield CounterMetricFamily(f"relay_cluster_log_{name}", text, value=value)
        times = log.sync_times
        yield HistogramMetricFamily(
            "relay_cluster_log_sync_seconds", "How long a sync took.", buckets=times.buckets(), sum_value=times.sum_s
        )


def collector(service: ClusterService) -> ClusterCollector:
    """For the cluster of a node."""
    log = service.kept.stores.log
    assert isinstance(log, WriteAheadLog)
    return ClusterCollector(lambda: service.groups, service.transport, log, service.config.metrics_groups_max)


def _behind(replica: Replica) -> Iterator[tuple[int, int]]:
    """Of a group that this node leads: how many entries each other member lacks."""
    raft = replica.raw.raft
    last = raft.log.last_index
    for node, progress in raft.peers:
        yield node, last - progress.match


def _gauges(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
