"""The configuration of webhooks: who is told by HTTP of what happens in the node."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from relay.config_types import Count, Name, Positive, PositiveSeconds, Secret, Section, Text

OccurrenceName = Literal[
    "session_started", "session_ended", "user_online", "user_offline", "joined", "left", "occupied", "vacated"
]
OCCURRENCES: Final[tuple[OccurrenceName, ...]] = get_args(OccurrenceName)


class Webhook(Section, frozen=True, kw_only=True):
    """A URL that is told, by POST, of sessions, users and members of channels.

    What waits to be told is kept in the store, at least once, in order for each channel; docs/presence.md says how a
    receiver checks the signature.
    """

    name: Annotated[Name, Meta(description="label in logs and metrics; what waits to be told is kept under it")]
    url: Annotated[Text, Meta(description="`http://` or `https://` URL; redirects are not followed")]
    secret: Annotated[Secret, Meta(description="signs the requests, at least 16 bytes")]
    realm: Annotated[Name, Meta(description="the realm of which it is told")] = "default"
    events: Annotated[tuple[OccurrenceName, ...], Meta(min_length=1, description="what it is told")] = OCCURRENCES
    channels: Annotated[
        tuple[Name, ...], Meta(description="channels of which it is told, for `joined`, `left`, `occupied`, `vacated`")
    ] = ("**",)
    timeout_s: Annotated[PositiveSeconds, Meta(description="time for an answer")] = 10.0
    retry_s_min: Annotated[
        PositiveSeconds,
        Meta(description="the wait after a failure, a part of it random; doubled with each further one"),
    ] = 1.0
    retry_s_max: Annotated[PositiveSeconds, Meta(description="the longest wait")] = 300.0
    batch_max: Annotated[Positive, Meta(description="events in one request")] = 100
    parallel_max: Annotated[Positive, Meta(description="requests at once")] = 4
    pending_max: Annotated[Positive, Meta(description="events that wait; more are dropped and counted")] = 100_000
    pending_bytes_max: Annotated[Positive, Meta(description="bytes that wait; more are dropped and counted")] = (
        67_108_864
    )
    attempts_max: Annotated[
        Count, Meta(description="after so many attempts an event is dropped and counted; 0: no limit")
    ] = 0
    age_s_max: Annotated[PositiveSeconds, Meta(description="an event that waited this long is dropped and counted")] = (
        259_200.0
    )
