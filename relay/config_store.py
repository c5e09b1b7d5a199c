"""Section ``store`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from relay.config_types import WHOLE_MAX, Count, Positive, PositiveSeconds, Section, Text


class Store(Section, frozen=True, kw_only=True):
    """Where histories, queues and last-seen times are kept, and how much of them."""

    kind: Annotated[
        Literal["sqlite", "memory"],
        Meta(description="where durable things go; `memory`: they are lost when the node stops"),
    ] = "sqlite"
    file: Annotated[Text, Meta(description="file of the SQLite store, relative to `data`")] = "relay.db"
    file_bytes_max: Annotated[
        int,
        Meta(
            ge=1_048_576,
            le=WHOLE_MAX,
            description="largest file, without its write-ahead log; at this size new messages are refused as `full`",
        ),
    ] = 17_179_869_184
    memory_bytes_max: Annotated[
        Positive, Meta(description="what a store in memory holds; each message counts 128 bytes more than its frame")
    ] = 268_435_456
    realm_bytes_max: Annotated[
        Count, Meta(description="histories and queues of one realm, in each store; counted likewise; 0: no limit")
    ] = 0
    user_bytes_max: Annotated[Positive, Meta(description="inbox of one user; counted likewise")] = 16_777_216
    waiting_bytes_max: Annotated[
        Positive, Meta(description="writes that wait for the disk; what is over it is refused as `full`")
    ] = 67_108_864
    commit_messages_max: Annotated[
        Positive, Meta(description="messages that one commit takes, at least one batch; the others wait for the next")
    ] = 10_000
    channels_max: Annotated[Positive, Meta(description="channels with a history, in each store")] = 1_000_000
    channel_idle_s: Annotated[
        PositiveSeconds,
        Meta(description="a channel whose publications have all gone is forgotten after this; its epoch changes then"),
    ] = 2_592_000.0
    queues_max: Annotated[Positive, Meta(description="queues, in each store")] = 1_000_000
    keys_max: Annotated[
        Positive, Meta(description="idempotency keys that are remembered, in each store; the oldest go first")
    ] = 1_000_000
    users_max: Annotated[
        Positive, Meta(description="users of a realm whose last-seen time is kept; the longest away go first")
    ] = 1_000_000
    trim_rows: Annotated[
        Positive, Meta(description="messages that one step of trimming removes; a step goes along with a commit")
    ] = 500
    trim_interval_s: Annotated[
        PositiveSeconds, Meta(description="how often the store looks for what is over its age or has expired")
    ] = 1.0
    cache_bytes: Annotated[Positive, Meta(description="page cache of the SQLite store")] = 33_554_432
    wal_bytes: Annotated[
        Positive, Meta(description="size of SQLite's write-ahead log at which it is copied into the file")
    ] = 8_388_608
