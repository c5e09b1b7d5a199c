"""What a client is told once: who it is, its limits and its patience. Units are in the names."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import msgspec

from relay.errors import ConfigError

DATAGRAM_BUFFER_BYTES = 4_194_304
"""Wished for the kernel's buffer of a UDP socket: a window of datagrams arrives at once."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who the client says it is; all of it optional.

    ``token``: a bearer token. ``token_wanted``: the shell has a callback that makes tokens; it is asked before a
    connection is opened without one, and when the server wants a new one. ``info``: a small JSON value for hooks.
    """

    realm: str = ""
    user: str = ""
    device: str = ""
    password: str = ""
    token: str = ""
    token_wanted: bool = False
    info: Any = None  # Any: a small JSON value


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files for ``tls:``, ``wss:`` and ``quic:``. Without ``ca`` the system's authorities are trusted;
    ``certificate`` and ``key`` are shown to a server that asks for a client certificate ;
    ``server_name`` replaces the host of the URL."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""


class SecureChannel(msgspec.Struct, frozen=True, kw_only=True):
    """For addresses with a ``key``. ``private``: the client's own key, 32 bytes, shown to the server; b'' for none.
    ``known``: fingerprints by host and port, for keys taken at first use; a mapping that writes itself to a file
    remembers them beyond the process."""

    private: bytes = b""
    known: MutableMapping[str, str] = msgspec.field(default_factory=dict)


class KcpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """For ``kcp:``, the same as on the server: ``cipher`` and ``key`` (a pass phrase, or ``hex:`` and 64 digits) have
    to be; ``profile`` is ``default``, ``game`` or ``bulk``; ``mtu`` in bytes."""

    cipher: str = "aes-256-gcm"
    key: str = ""
    profile: str = "default"
    error_correction: str = "profile"
    """Or ``off``, or data and parity packets of a group, such as ``10/3``."""
    mtu: int = 1400

    def __repr__(self) -> str:
        return f"<KcpSettings {self.cipher} {self.profile}>"  # without the key


class ClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and time-outs of one client. Every queue and every wait of the client ends at one of these."""

    connect_timeout_s: float = 10.0
    """One attempt: from opening the transport until the welcome has arrived."""
    fallback_delay_s: float = 0.25
    """An address with several ways to it: the next one is begun this much after the one before, when the server has
    not answered by then (RFC 8305 section 5)."""
    connect_rounds_max: int = 1
    """How often all addresses are tried before the first connection is given up; 0: never given up."""
    reconnect_timeout_s: float = 0.0
    """How long to try after a connection was lost before the client closes; 0: without end."""
    backoff_s_min: float = 0.1
    """The wait before the n-th round of attempts is a random part of ``backoff_s_min * 2**n`` …"""
    backoff_s_max: float = 20.0
    """… which grows no further than this."""
    stable_s: float = 5.0
    """A connection that lived this long was a good one: the back-off starts again from ``backoff_s_min``."""
    request_timeout_s: float = 30.0
    """How long to wait for the answer of a request that gives no time-out of its own."""
    close_timeout_s: float = 5.0
    """A graceful close waits this long for answers and acknowledgements."""
    heartbeat_s: float = 0.0
    """Wish for the heartbeat interval; 0: the server's."""
    resume: bool = True
    """Ask for the feature ``resume``."""
    unacked_bytes_max: int = 1_048_576
    """Frames sent and not yet acknowledged are kept up to this size; more wait in the queue until the server has
    reported. So a resume never fails on this side for want of a frame."""
    queue_frames_max: int = 10_000
    """Frames that wait for a connection or for acknowledgements; beyond it a call fails with ``Full``."""
    queue_bytes_max: int = 8_388_608
    """The same in bytes of bodies, names and fields."""
    pending_max: int = 10_000
    """Requests waiting for their answer; beyond it a call fails with ``Full``."""
    calls_max: int = 1_000
    """Calls being answered at once; a pull beyond it is refused with ``limit``, temporarily."""
    events_max: int = 10_000
    """Events and replies that one iterator holds for a slow consumer; beyond it the iterator ends with ``Full``."""
    positions_max: int = 10_000
    """Channels with history whose position is remembered, so that what was missed can be asked for."""
    position_check_s: float = 60.0
    """A channel with history that was quiet for so long is asked whether something was missed; 0: never."""
    frame_bytes_max: int = 16_777_216
    """The largest frame or line that is taken from the server."""
    addresses_max: int = 32
    """Addresses kept, those that the server names included."""
    filters: tuple[str, ...] = ()
    """Transfer filters that this client undoes: what it may be sent without the server undoing them."""
    tls: TlsFiles = TlsFiles()
    secure: SecureChannel = msgspec.field(default_factory=SecureChannel)
    kcp: KcpSettings = KcpSettings()

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "fallback_delay_s", "backoff_s_min", "backoff_s_max", "request_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0, it is {getattr(self, name)!r}")
        for name in ("unacked_bytes_max", "queue_frames_max", "queue_bytes_max", "pending_max", "calls_max",
                     "events_max", "positions_max", "frame_bytes_max", "addresses_max"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, it is {getattr(self, name)!r}")
