"""The section ``kcp`` of listeners."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from relay.config_types import Count, Positive, PositiveSeconds, Secret, Section


class Kcp(Section, frozen=True, kw_only=True):
    """KCP on a listener with `transport: kcp`; `docs/kcp.md` says when to choose what."""

    profile: Annotated[
        Literal["default", "game", "bulk"],
        Meta(description="options for a purpose: general use, small messages that must be there soon, or files"),
    ] = "default"
    cipher: Annotated[
        Literal["aes-256-gcm", "aes-128-gcm", "aes", "aes-256", "aes-192", "aes-128", "salsa20", "xor", "none", "null"],
        Meta(
            description="encryption of datagrams; only the first two authenticate, the others are for peers that have "
            "nothing else"
        ),
    ] = "aes-256-gcm"
    key: Annotated[
        Secret | None, Meta(description="pass phrase, as kcptun takes it, or `hex:` and the 64 digits of a key")
    ] = None
    smux: Annotated[bool, Meta(description="also take sessions that hold many connections (smux 1 and 2)")] = True
    error_correction: Annotated[
        str,
        Meta(
            pattern=r"^(profile|off|[1-9][0-9]{0,2}/[1-9][0-9]{0,2})$",
            description="data and parity packets of a group that is sent, such as `10/3`; what comes is recognised",
        ),
    ] = "profile"
    mtu: Annotated[int, Meta(ge=128, le=1500, description="bytes of a datagram that is sent, at most")] = 1400
    window: Annotated[
        int, Meta(ge=0, le=65_535, description="segments that wait for an acknowledgement each way; 0: the profile's")
    ] = 0
    rate_bytes_max: Annotated[
        Count, Meta(description="bytes that are sent to one session a second; 0: the profile's")
    ] = 0
    idle_timeout_s: Annotated[
        PositiveSeconds, Meta(description="a session of which nothing comes for this long is over")
    ] = 90.0
    unproven_max: Annotated[
        Positive, Meta(description="sessions that have not shown yet that they receive at their address")
    ] = 4096
