"""What a node counts: plain integers, read by a collector when somebody looks.

Rows of ``frames_in`` and the like are indexed by the frame's kind (0-255). ``bytes_in`` counts bodies as they were
decoded, ``bytes_out`` whole encoded frames.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

KIND_ROWS: Final = 256


class WebhookCounts:
    """Of one webhook: events delivered, requests that failed, events that wait, events dropped by reason."""

    __slots__ = ("delivered", "dropped", "failed", "waiting")

    def __init__(self) -> None:
        self.delivered = 0
        self.failed = 0
        self.waiting = 0
        self.dropped: defaultdict[str, int] = defaultdict(int)


class Metrics:
    """The counters of one node; never reset."""

    __slots__ = (
        "accepted", "bytes_in", "bytes_out", "closes", "deadlines", "delivered", "drops", "errors", "frames_in",
        "frames_out", "goodbyes", "handler_calls", "handler_seconds", "held", "hook_errors", "hook_seconds", "lag_s",
        "lag_s_max", "orphans", "queue_acked", "queue_dead", "queue_delivered", "queue_expired", "queue_put",
        "queue_returned", "recovered", "refused", "resumed", "sessions_ended", "sessions_started", "webhooks",
    )  # fmt: skip

    def __init__(self) -> None:
        self.frames_in = [0] * KIND_ROWS
        self.frames_out = [0] * KIND_ROWS
        self.bytes_in = [0] * KIND_ROWS
        self.bytes_out = [0] * KIND_ROWS
        self.accepted: defaultdict[str, int] = defaultdict(int)
        """Connections by listener."""
        self.refused: defaultdict[str, int] = defaultdict(int)
        """Connections and handshakes refused, by reason."""
        self.closes: defaultdict[str, int] = defaultdict(int)
        """Connections ended, by reason."""
        self.errors: defaultdict[str, int] = defaultdict(int)
        """Requests answered with an error, by its name."""
        self.drops = 0
        """Frames left out for slow consumers."""
        self.delivered = 0
        """Copies handed to sessions by ``deliver``."""
        self.sessions_started = 0
        self.sessions_ended = 0
        self.resumed = 0
        self.recovered: defaultdict[str, int] = defaultdict(int)
        """Subscribes to channels with history: ``yes`` and ``no``, or ``none`` where nothing was asked for."""
        self.deadlines = 0
        """Pulls that ran out of time."""
        self.orphans = 0
        """Replies that nobody waited for."""
        self.queue_put = 0
        """Messages that queues took; likewise delivered to consumers, acknowledged, returned without success …"""
        self.queue_delivered = 0
        self.queue_acked = 0
        self.queue_returned = 0
        self.queue_dead = 0
        self.queue_expired = 0
        self.held = 0
        """Frames that waited behind a hook or a store."""
        self.goodbyes = 0
        self.handler_calls: defaultdict[str, int] = defaultdict(int)
        self.handler_seconds: defaultdict[str, float] = defaultdict(float)
        self.hook_seconds: defaultdict[str, float] = defaultdict(float)
        self.hook_errors: defaultdict[str, int] = defaultdict(int)
        self.webhooks: dict[str, WebhookCounts] = {}
        self.lag_s = 0.0
        self.lag_s_max = 0.0
