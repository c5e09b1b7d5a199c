"""The section ``udp`` of listeners."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from relay.config_types import Positive, PositiveSeconds, Section


class Udp(Section, frozen=True, kw_only=True):
    """relay over UDP on a listener with `transport: udp`; docs/udp.md."""

    mtu_bytes: Annotated[int, Meta(ge=512, le=65_507, description="bytes of a datagram that is sent, at most")] = 1200
    window_max: Annotated[
        int, Meta(ge=8, le=1024, description="frames to one client that are under way without an acknowledgement")
    ] = 256
    queue_bytes_max: Annotated[
        Positive, Meta(description="bytes of one client that wait for the window before its outbox is paused")
    ] = 65_536
    give_up_s: Annotated[
        PositiveSeconds, Meta(description="a client that does not acknowledge a frame for this long is lost")
    ] = 10.0
    opening_max: Annotated[
        Positive, Meta(description="connections in the middle of the secure channel's handshake")
    ] = 4096
