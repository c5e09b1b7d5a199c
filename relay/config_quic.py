"""The section ``quic`` of listeners."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from relay.config_types import Count, Positive, PositiveSeconds, Section


class Quic(Section, frozen=True, kw_only=True):
    """QUIC on a listener with `transport: quic`, which needs `tls` and the package `aioquic`; docs/quic.md."""

    mtu_bytes: Annotated[
        int, Meta(ge=1200, le=65_507, description="bytes of a datagram that is sent, at most; the path is not probed")
    ] = 1200
    idle_timeout_s: Annotated[
        PositiveSeconds, Meta(description="a connection of which nothing comes for this long is over")
    ] = 60.0
    retry: Annotated[
        Literal["always", "load", "never"],
        Meta(description="let new clients prove their address first, which costs them a round trip (Retry)"),
    ] = "load"
    retry_from: Annotated[
        Positive,
        Meta(
            description="with `retry: load`: from so many connections in the middle of their handshake, or false "
            "starts in a second, on"
        ),
    ] = 64
    opening_max: Annotated[Positive, Meta(description="connections in the middle of their handshake")] = 1024
    streams_max: Annotated[
        int, Meta(ge=1, le=1024, description="streams with a message each that a client may open beside its session")
    ] = 16
    stream_bytes_max: Annotated[
        int, Meta(ge=1024, le=2**30, description="largest message on such a stream; larger ones go on the session's")
    ] = 262_144
    queue_bytes_max: Annotated[
        Positive, Meta(description="bytes for one client that are not acknowledged before its outbox is paused")
    ] = 1_048_576
    tickets_max: Annotated[
        Count,
        Meta(
            description="clients that may come back with a shorter handshake and their hello in the first datagram "
            "(0-RTT), each ticket once; 0: none may"
        ),
    ] = 10_000
    key_log: Annotated[
        str, Meta(description="file that gets the keys of all connections (SSLKEYLOGFILE), for debugging; empty: none")
    ] = ""
