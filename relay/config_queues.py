"""The configuration of queues: rules by name, when a push goes to an inbox, and the limits of the node."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from relay.config_types import Count, Name, Positive, PositiveSeconds, Seconds, Section


class QueueRule(Section, frozen=True, kw_only=True):
    """Options of the queues whose name matches; the first rule that matches counts.

    Inboxes are called `$inbox` here; a pattern matches them only when it begins with `$`.
    """

    pattern: Annotated[Name, Meta(description="name or pattern of queues")]
    lease_s: Annotated[
        PositiveSeconds, Meta(description="a message that is delivered has to be acknowledged within this")
    ] = 30.0
    lease_s_max: Annotated[PositiveSeconds, Meta(description="longest lease that a consumer may ask for")] = 3600.0
    deliveries_max: Annotated[
        Positive, Meta(description="a message that was delivered so often without success is dead")
    ] = 16
    backoff_s_min: Annotated[
        Seconds, Meta(description="wait before the second delivery; it doubles with each further one")
    ] = 1.0
    backoff_s_max: Annotated[Seconds, Meta(description="longest wait between two deliveries")] = 300.0
    ttl_s: Annotated[
        Seconds, Meta(description="a message expires after this at the latest, counted from when it is due; 0: never")
    ] = 0.0
    delay_s_max: Annotated[
        Seconds, Meta(description="how far ahead a message may be scheduled, and a nack may put one off")
    ] = 2_592_000.0
    idempotency_s: Annotated[
        PositiveSeconds, Meta(description="an idempotency key is remembered for this long, at least")
    ] = 120.0
    window: Annotated[
        int,
        Meta(
            ge=8, le=65_536, description="messages that the node holds in memory for consumers, beside delivered ones"
        ),
    ] = 256
    window_bytes: Annotated[Positive, Meta(description="the same in bytes; one message is held whatever its size")] = (
        1_048_576
    )
    held_bytes_max: Annotated[
        Positive, Meta(description="what one consumer may hold unacknowledged, in bytes; one message in any case")
    ] = 16_777_216
    retries_max: Annotated[
        Positive, Meta(description="messages that wait for another delivery; with so many, no others are delivered")
    ] = 1000
    messages_max: Annotated[Positive, Meta(description="messages that wait, delivered ones included")] = 1_000_000
    bytes_max: Annotated[
        Positive, Meta(description="the same in bytes, the dead included; each counts 128 bytes more than its frame")
    ] = 1_073_741_824
    consumers_max: Annotated[Positive, Meta(description="consumers of one queue")] = 1000
    dead_letter: Annotated[
        str, Meta(max_length=255, description="channel on which dead messages are published; empty: none")
    ] = ""


class PushRule(Section, frozen=True, kw_only=True):
    """Options of pushes to users whose name matches; the first rule that matches counts. A `level` in the push counts
    before it."""

    pattern: Annotated[Name, Meta(description="name or pattern of pushes")]
    inbox: Annotated[
        Literal["never", "away", "always"],
        Meta(description="put it into the user's inbox instead: not, when no session is connected, or in any case"),
    ] = "never"


class QueueLimits(Section, frozen=True, kw_only=True):
    """Limits of queues, of the node unless the description says otherwise."""

    queues_max: Annotated[Positive, Meta(description="queues that hold a message or have a consumer")] = 250_000
    consumers_max: Annotated[Positive, Meta(description="queues that one session consumes")] = 1000
    credits_max: Annotated[Positive, Meta(description="messages that one consumer may hold unacknowledged")] = 10_000
    pending_max: Annotated[
        Positive,
        Meta(description="puts on their way to the store; over it they are refused; so many acknowledgements, too, "
        "before delivering waits"),
    ] = 20_000  # fmt: skip
    pending_bytes_max: Annotated[Positive, Meta(description="puts on their way to the store, in bytes")] = 67_108_864
    memory_bytes_max: Annotated[
        Positive,
        Meta(
            description="messages of all queues that are in memory, in bytes; over it each consumer holds one at a time"
        ),
    ] = 268_435_456
    early_max: Annotated[
        Count,
        Meta(
            description="requests that wait while the queues are read at the start; over it, and over "
            "`pending_bytes_max`, they are refused"
        ),
    ] = 10_000
    peek_max: Annotated[Positive, Meta(description="messages that one answer lists")] = 1000
    peek_bytes_max: Annotated[
        Positive, Meta(description="bodies that one answer lists, in bytes; at least one message is listed")
    ] = 262_144
    offsets_max: Annotated[Positive, Meta(description="messages that one ack, nack or requeue may name")] = 10_000
