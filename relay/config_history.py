"""The configuration of channel history: what a rule keeps, and the node's limits for recovery."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from relay.config_types import Count, Positive, Seconds, Section


class ChannelHistory(Section, frozen=True, kw_only=True):
    """What is kept of the publications of a channel. What is over any of the limits goes, the oldest first."""

    kind: Annotated[
        Literal["memory", "durable"],
        Meta(
            description="`memory`: while the node runs; `durable`: on the disk, acknowledged and delivered only when "
            "it is there"
        ),
    ] = "memory"
    messages_max: Annotated[Count, Meta(description="publications of one channel; 0: no such limit")] = 1000
    bytes_max: Annotated[Count, Meta(description="bytes of one channel's publications; 0: no such limit")] = 8_388_608
    age_s_max: Annotated[Seconds, Meta(description="age of a publication; 0: no such limit")] = 86_400.0
    ttl_s: Annotated[Seconds, Meta(description="a publication without `ttl_ms` expires after this; 0: not at all")] = (
        0.0
    )
    retained: Annotated[
        bool,
        Meta(description="every publication is the channel's last value, as if it had the flag `retained`"),
    ] = False


class HistoryLimits(Section, frozen=True, kw_only=True):
    """Limits of history and recovery, for the node."""

    idempotency_window_s: Annotated[
        Seconds, Meta(description="an idempotency key is remembered for this long; 0: keys are not looked at")
    ] = 120.0
    waiting_bytes_max: Annotated[
        Positive, Meta(description="publications that wait for the store; what is over it is refused as `full`")
    ] = 67_108_864
    under_way_max: Annotated[
        Positive,
        Meta(description="publications of one session that wait for the store before the session is read no further"),
    ] = 1000
    recovery_messages_max: Annotated[
        Positive, Meta(description="publications that one subscribe recovers; more: `recovered` is false")
    ] = 20_000
    recoveries_max: Annotated[
        Positive, Meta(description="subscribes that are reading history at once; the others wait their turn")
    ] = 256
    page_messages_max: Annotated[
        Positive, Meta(description="publications read at once, for a recovery or one answer to `history`")
    ] = 1000
    page_bytes_max: Annotated[Positive, Meta(description="the same in bytes; one publication may be larger")] = 262_144
    live_bytes_max: Annotated[
        Positive,
        Meta(
            description="new publications kept for a recovery while it reads (what is more is read again later), or "
            "for a subscription with `latest` until their turn"
        ),
    ] = 1_048_576
    reads_per_session_max: Annotated[
        Positive, Meta(description="`history` requests of one session under way at once")
    ] = 8
    conflation_keys_max: Annotated[
        Positive, Meta(description="conflation keys of one subscription whose newest event waits for its turn")
    ] = 1000
    tags_max: Annotated[Positive, Meta(description="tags that a subscription may ask for")] = 16
