"""The node's counters in Prometheus' text format, collected when somebody looks.

Names begin with ``relay_``; counters end with ``_total``, times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.web.resource import Resource
from twisted.web.server import Request

from relay.wire import kinds

if TYPE_CHECKING:
    from relay.core.gate import Gate
    from relay.core.metrics import Metrics

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()


Doors = Callable[[], Iterable[tuple[str, dict[str, int]]]]
"""Each listener's name, and its connections that ended before they were peers, by reason."""


Figures = Callable[[], dict[str, int]]
"""What the stores count: some of the names in ``STORE_COUNTERS`` and ``STORE_GAUGES``."""

STORE_COUNTERS: Final = {
    "commits": "Transactions of the store that were synced.",
    "messages": "Publications, messages and settlements in them, refused ones too.",
    "refusals": "Transactions that met a full disk.",
}
STORE_GAUGES: Final = {
    "full": "1 while the disk has no room.",
    "waiting_bytes": "What waits for the next transactions.",
    "room_bytes": "What the file may still take, as of a short while ago.",
    "memory_bytes": "What the store in memory holds.",
}


class NodeCollector(Collector):
    """Reads one node's tables when asked."""

    def __init__(self, gate: Gate, started_at: float, doors: Doors, figures: Figures = dict) -> None:
        self._figures = figures
        self._gate = gate
        self._doors = doors
        self._started_at = started_at

    def collect(self) -> Iterator[Metric]:
        """All families of one node."""
        metrics = self._gate.metrics
        yield from self._frames(metrics)
        yield from self._sessions(metrics)
        yield from self._work(metrics)
        yield from self._webhooks(metrics)
        yield from self._history(metrics)
        yield from self._queues(metrics)
        yield from self._stores()
        yield from self._process()

    def _frames(self, metrics: Metrics) -> Iterator[Metric]:
        for name, text, row in (
            ("relay_frames_in", "Frames received, by kind.", metrics.frames_in),
            ("relay_frames_out", "Frames sent, by kind.", metrics.frames_out),
            ("relay_body_bytes_in", "Bytes of bodies received, by kind.", metrics.bytes_in),
            ("relay_bytes_out", "Bytes of encoded frames sent, by kind.", metrics.bytes_out),
        ):
            family = CounterMetricFamily(name, text, labels=["kind"])
            for kind, label in kinds.KINDS.items():
                family.add_metric([label], row[kind])
            family.add_metric(["unknown"], sum(n for kind, n in enumerate(row) if kind not in kinds.KINDS))
            yield family
        yield CounterMetricFamily("relay_deliveries", "Copies handed to sessions.", value=metrics.delivered)
        yield CounterMetricFamily("relay_dropped_frames", "Frames left out for slow consumers.", value=metrics.drops)
        yield CounterMetricFamily("relay_orphan_replies", "Replies that nobody waited for.", value=metrics.orphans)

    def _sessions(self, metrics: Metrics) -> Iterator[Metric]:
        gate = self._gate
        hub = gate.hub
        live: dict[tuple[str, str], int] = {}
        queued = 0
        for connection in gate.connections:
            peer = connection.peer
            if connection.session is not None:
                labels = (peer.transport, peer.dialect)
                live[labels] = live.get(labels, 0) + 1
            queued += peer.queued_bytes()
        sessions = GaugeMetricFamily(
            "relay_sessions", "Sessions with a connection, by transport and dialect.", labels=["transport", "dialect"]
        )
        for pair, count in sorted(live.items()):
            sessions.add_metric(pair, count)
        yield sessions
        yield GaugeMetricFamily(
            "relay_sessions_detached", "Sessions that may be resumed.", value=gate.sessions.detached
        )
        yield GaugeMetricFamily("relay_connections", "Connections, with and without session.", len(gate.connections))
        yield GaugeMetricFamily("relay_queue_bytes", "Bytes that wait for peers.", value=queued)
        users = GaugeMetricFamily("relay_users", "Users with a session, by realm.", labels=["realm"])
        channels = GaugeMetricFamily("relay_channels", "Channels and patterns with members.", labels=["realm"])
        procedures = GaugeMetricFamily("relay_procedures", "Procedures with a provider.", labels=["realm"])
        for name, realm in sorted(hub.realms.items()):
            users.add_metric([name], len(realm.users))
            channels.add_metric([name], len(realm.channels))
            procedures.add_metric([name], len(realm.procedures))
        yield from (users, channels, procedures)
        for text, row, name, label in (
            ("Connections accepted, by listener.", metrics.accepted, "relay_accepted", "listener"),
            ("Connections and handshakes refused.", metrics.refused, "relay_refused", "reason"),
            ("Connections ended.", metrics.closes, "relay_closes", "reason"),
            ("Requests answered with an error.", metrics.errors, "relay_errors", "error"),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for key, count in sorted(row.items()):
                family.add_metric([key], count)
            yield family
        dropped = CounterMetricFamily(
            "relay_dropped", "Connections ended before they spoke a protocol.", labels=["listener", "reason"]
        )
        for listener, counts in self._doors():
            for reason, count in counts.items():
                dropped.add_metric([listener, reason], count)
        yield dropped
        yield CounterMetricFamily("relay_sessions_started", "Sessions begun.", value=metrics.sessions_started)
        yield CounterMetricFamily("relay_sessions_ended", "Sessions ended.", value=metrics.sessions_ended)
        yield CounterMetricFamily("relay_sessions_resumed", "Sessions resumed.", value=metrics.resumed)

    def _work(self, metrics: Metrics) -> Iterator[Metric]:
        yield CounterMetricFamily("relay_pull_deadlines", "Pulls that ran out of time.", value=metrics.deadlines)
        yield CounterMetricFamily("relay_held_frames", "Frames that waited for a hook or a store.", value=metrics.held)
        for text, row, name, label in (
            ("Calls of handlers.", metrics.handler_calls, "relay_handler_calls", "route"),
            ("Seconds in handlers.", metrics.handler_seconds, "relay_handler_seconds", "route"),
            ("Seconds in hooks.", metrics.hook_seconds, "relay_hook_seconds", "hook"),
            ("Hooks that failed.", metrics.hook_errors, "relay_hook_errors", "hook"),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for key, count in sorted(row.items()):
                family.add_metric([key], count)
            yield family
        yield GaugeMetricFamily("relay_event_loop_lag_seconds", "How late the last tick was.", value=metrics.lag_s)
        yield GaugeMetricFamily(
            "relay_event_loop_lag_max_seconds", "The latest tick since the start.", value=metrics.lag_s_max
        )

    def _history(self, metrics: Metrics) -> Iterator[Metric]:
        waiting = self._gate.router.histories.waiting_bytes
        yield GaugeMetricFamily("relay_history_waiting_bytes", "Publications that wait for the store.", value=waiting)
        recovered = CounterMetricFamily(
            "relay_recoveries", "Subscribes to channels with history, by what was recovered.", labels=["recovered"]
        )
        for result, count in sorted(metrics.recovered.items()):
            recovered.add_metric([result], count)
        yield recovered

    def _webhooks(self, metrics: Metrics) -> Iterator[Metric]:
        delivered = CounterMetricFamily("relay_webhook_delivered", "Events that a webhook took.", labels=["webhook"])
        failed = CounterMetricFamily("relay_webhook_failures", "Requests to a webhook that failed.", labels=["webhook"])
        waiting = GaugeMetricFamily("relay_webhook_waiting", "Events that wait to be told.", labels=["webhook"])
        dropped = CounterMetricFamily(
            "relay_webhook_dropped", "Events that are not told any more.", labels=["webhook", "reason"]
        )
        for name, counts in sorted(metrics.webhooks.items()):
            delivered.add_metric([name], counts.delivered)
            failed.add_metric([name], counts.failed)
            waiting.add_metric([name], counts.waiting)
            for reason, count in sorted(counts.dropped.items()):
                dropped.add_metric([name, reason], count)
        yield from (delivered, failed, waiting, dropped)

    def _queues(self, metrics: Metrics) -> Iterator[Metric]:
        desk = self._gate.router.queues.desk
        yield GaugeMetricFamily("relay_queues", "Queues that hold something or are consumed.", len(desk.queues))
        waiting = sum(queue.waiting for queue in desk.queues.values())
        yield GaugeMetricFamily("relay_queue_waiting", "Messages that wait or are held in queues.", waiting)
        dead = sum(queue.dead for queue in desk.queues.values())
        yield GaugeMetricFamily("relay_queue_dead_now", "Dead messages in queues.", dead)
        yield GaugeMetricFamily("relay_queue_putting", "Messages on their way to the store.", desk.putting)
        yield GaugeMetricFamily("relay_queue_settling", "Settlements on their way to the store.", desk.settling)
        for name, text, value in (
            ("relay_queue_put", "Messages that queues took.", metrics.queue_put),
            ("relay_queue_delivered", "Deliveries to consumers.", metrics.queue_delivered),
            ("relay_queue_acked", "Messages acknowledged.", metrics.queue_acked),
            ("relay_queue_returned", "Deliveries without success.", metrics.queue_returned),
            ("relay_queue_dead", "Messages given up.", metrics.queue_dead),
            ("relay_queue_expired", "Messages that expired in queues.", metrics.queue_expired),
        ):
            yield CounterMetricFamily(name, text, value=value)

    def _stores(self) -> Iterator[Metric]:
        figures = self._figures()
        for family, texts in ((CounterMetricFamily, STORE_COUNTERS), (GaugeMetricFamily, STORE_GAUGES)):
            for name, text in texts.items():
                if name in figures:
                    yield family(f"relay_store_{name}", text, value=figures[name])

    def _process(self) -> Iterator[Metric]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily(
            "process_cpu_seconds", "User and system time of the process.", value=usage.ru_utime + usage.ru_stime
        )
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", value=resident_bytes())
        yield GaugeMetricFamily("process_start_time_seconds", "Start, as Unix time.", value=self._started_at)
        family = CounterMetricFamily("python_gc_collections", "Garbage collections.", labels=["generation"])
        for generation, stats in enumerate(gc.get_stats()):
            family.add_metric([str(generation)], stats["collections"])
        yield family


def resident_bytes() -> int:
    """Memory of this process that is in RAM; where /proc is missing, the peak."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class MetricsResource(Resource):
    """``/metrics``."""

    isLeaf = True

    def __init__(self, gate: Gate, doors: Doors = tuple, figures: Figures = dict) -> None:
        Resource.__init__(self)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(NodeCollector(gate, time.time(), doors, figures))

    def add(self, collector: Collector) -> None:
        """Serve another part's families, too; their names are nobody else's."""
        self._registry.register(collector)

    def render_GET(self, request: Request) -> bytes:
        """The text format."""
        request.setHeader(b"content-type", CONTENT_TYPE)
        return bytes(generate_latest(self._registry))
