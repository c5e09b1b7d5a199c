"""The configuration: frozen, validated structs with every default and every limit, units in the names.

Only values live here. Reading files and the environment, secrets by reference and the sentences for mistakes are
``relay.config_load``'s; the page ``docs/configuration.md`` and the JSON Schema are made from these structs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
SlowPolicy = Literal["disconnect", "drop_oldest", "latest"]
DuplicateDevice = Literal["replace", "refuse"]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are mistakes."""


class SecretRef(_Section, frozen=True, kw_only=True):
    """A secret kept elsewhere: exactly one of the two."""

    file: str = ""
    env: str = ""


Secret = str | SecretRef


class Tls(_Section, frozen=True, kw_only=True):
    """Certificates of a listener; the files are watched and reloaded."""

    certificate: Annotated[str, Meta(description="PEM file with the certificate chain")]
    key: Annotated[str, Meta(description="PEM file with the private key")]
    client_ca: Annotated[str, Meta(description="PEM file of authorities for client certificates; '' asks for none")] = (
        ""
    )
    client_required: Annotated[bool, Meta(description="refuse clients without a certificate")] = False
    reload_check_s: Annotated[PositiveSeconds, Meta(description="how often the files are looked at")] = 10.0


class WebSocket(_Section, frozen=True, kw_only=True):
    """WebSocket on a listener."""

    path: Annotated[str, Meta(description="where it is")] = "/ws"
    origins: Annotated[
        tuple[str, ...], Meta(description="allowed Origin values with `*` as wildcard; empty: the same host only")
    ] = ()
    compression: Annotated[bool, Meta(description="offer permessage-deflate")] = False
    message_bytes_max: Annotated[Positive, Meta(description="a message of several fragments")] = 1_048_576


class Http(_Section, frozen=True, kw_only=True):
    """HTTP on a listener."""

    page: Annotated[bool, Meta(description="serve the page and /relay.js")] = True
    metrics: Annotated[bool, Meta(description="serve /metrics")] = True
    request_bytes_max: Annotated[Positive, Meta(description="size of a request head")] = 16_384
    idle_timeout_s: Annotated[PositiveSeconds, Meta(description="an idle HTTP connection is closed after this")] = 30.0


class Slow(_Section, frozen=True, kw_only=True):
    """What happens to a receiver that does not take what is sent to it."""

    policy: Annotated[
        SlowPolicy, Meta(description="`latest` keeps the newest frame of each conflation key, else drops the oldest")
    ] = "disconnect"
    queue_bytes_max: Annotated[Positive, Meta(description="bytes waiting for one peer before the policy acts")] = (
        1_048_576
    )
    stalled_s_max: Annotated[PositiveSeconds, Meta(description="no progress for this long closes the peer")] = 10.0


class Listener(_Section, frozen=True, kw_only=True):
    """An address, a transport and the dialects on it, with limits of its own."""

    name: Annotated[str, Meta(description="label in logs and metrics; '' is made from the address")] = ""
    address: Annotated[
        str, Meta(description="a Twisted endpoint string: tcp:8000:interface=127.0.0.1, unix:/run/relay.sock …")
    ]
    protocols: Annotated[
        tuple[Literal["relay", "http", "websocket"], ...],
        Meta(description="told apart by the first bytes; relay is the stream protocol in both forms"),
    ] = ("relay",)
    tls: Tls | None = None
    websocket: WebSocket = WebSocket()
    http: Http = Http()
    proxy_protocol: Annotated[bool, Meta(description="connections begin with a PROXY protocol header, v1 or v2")] = (
        False
    )
    backlog: Annotated[Positive, Meta(description="pending connections in the kernel")] = 4096
    reuse_port: Annotated[bool, Meta(description="several processes share the port")] = False
    realm: Annotated[str, Meta(description="realm of sessions whose hello and token name none")] = "default"
    allow: Annotated[tuple[str, ...], Meta(description="networks (CIDR) that may connect; empty: all")] = ()
    deny: Annotated[tuple[str, ...], Meta(description="networks (CIDR) that may not")] = ()
    slow: Slow | None = None
    nodelay: Annotated[bool, Meta(description="TCP_NODELAY")] = True


class Permit(_Section, frozen=True, kw_only=True):
    """Patterns of names per action; `{user}` is the session's own name. `**` allows all."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    push: Annotated[
        tuple[str, ...], Meta(description="users (patterns over their names) and procedures to push to")
    ] = ()
    call: tuple[str, ...] = ()
    register: tuple[str, ...] = ()
    broadcast: Annotated[tuple[str, ...], Meta(description="routes of pushes to all")] = ()
    presence: tuple[str, ...] = ()
    bind: Annotated[tuple[str, ...], Meta(description="users whose name the session may take")] = ()


EVERYTHING = Permit(
    publish=("**",),
    subscribe=("**",),
    push=("**",),
    call=("**",),
    register=("**",),
    presence=("**",),
    broadcast=("**",),
)


class Anonymous(_Section, frozen=True, kw_only=True):
    """Sessions without proof of identity."""

    enabled: bool = True
    names: Annotated[bool, Meta(description="the name in hello is believed")] = True
    permissions: Permit = EVERYTHING


class StaticUser(_Section, frozen=True, kw_only=True):
    """A user of the configuration. `relay config password` makes the hash."""

    name: str
    password_scrypt: Annotated[Secret, Meta(description="scrypt$N$r$p$salt$hash (base64)")]
    realm: str = "default"
    permissions: Permit = EVERYTHING
    subscriptions: tuple[str, ...] = ()


class Jwt(_Section, frozen=True, kw_only=True):
    """JSON Web Tokens. Exactly one of secret, public_key_file, jwks_url."""

    name: str = "jwt"
    algorithms: Annotated[tuple[Literal["HS256", "RS256", "ES256", "EdDSA"], ...], Meta(min_length=1)]
    secret: Annotated[Secret | None, Meta(description="for HS256, at least 32 bytes")] = None
    public_key_file: str = ""
    jwks_url: str = ""
    jwks_cache_s: PositiveSeconds = 300.0
    jwks_timeout_s: PositiveSeconds = 5.0
    audience: str = ""
    issuer: str = ""
    leeway_s: Seconds = 5.0
    user_claim: str = "sub"
    realm_claim: str = "realm"
    permissions_claim: Annotated[str, Meta(description="an object like `permissions`; absent: the default below")] = (
        "permissions"
    )
    subscriptions_claim: str = "subscriptions"
    permissions: Permit = EVERYTHING
    token_bytes_max: Positive = 8192


class CallOut(_Section, frozen=True, kw_only=True):
    """A URL that gets the hello as JSON and answers `{user, realm?, permissions?, subscriptions?, expires_in_s?}`."""

    name: str = "http"
    url: str
    secret: Annotated[Secret | None, Meta(description="sent as a bearer token")] = None
    timeout_s: PositiveSeconds = 5.0
    pending_max: Annotated[Positive, Meta(description="questions under way at once")] = 256
    response_bytes_max: Positive = 65_536
    permissions: Permit = EVERYTHING


class Auth(_Section, frozen=True, kw_only=True):
    """Who may come in; asked in the order `order`."""

    order: Annotated[tuple[str, ...], Meta(description="authenticators in turn; plugins come first")] = (
        "static", "jwt", "http", "anonymous",
    )  # fmt: skip
    static: tuple[StaticUser, ...] = ()
    jwt: tuple[Jwt, ...] = ()
    http: tuple[CallOut, ...] = ()
    anonymous: Anonymous = Anonymous()
    allow_anonymous: Annotated[bool, Meta(description="accept anonymous sessions on public addresses too")] = False
    duplicate_device: Annotated[DuplicateDevice, Meta(description="the same user and device a second time")] = "replace"
    scrypt_threads_max: Annotated[Positive, Meta(description="password checks at once")] = 2
    pending_max: Annotated[Positive, Meta(description="handshakes waiting for an answer")] = 4096
    expiry_warning_s: Annotated[Seconds, Meta(description="a refresh is asked for this long before expiry")] = 30.0


class Limits(_Section, frozen=True, kw_only=True):
    """Numbers of things, per session unless the name says otherwise."""

    connections_max: Annotated[Positive, Meta(description="in all")] = 100_000
    connections_per_address_max: Annotated[Positive, Meta(description="loopback is not counted")] = 1000
    accepts_per_s_max: Annotated[Positive, Meta(description="new connections a second, per listener")] = 20_000
    frame_bytes_max: Annotated[int, Meta(ge=1024, description="largest frame or line")] = 1_048_576
    frames_per_s_max: Annotated[Count, Meta(description="token bucket; 0: no limit")] = 0
    bytes_per_s_max: Annotated[Count, Meta(description="token bucket; 0: no limit")] = 0
    rate_burst_s: Annotated[PositiveSeconds, Meta(description="depth of the buckets, in seconds of their rate")] = 2.0
    rate_delay_s_max: Annotated[PositiveSeconds, Meta(description="delayed longer than this closes the session")] = 10.0
    subscriptions_max: Positive = 10_000
    registrations_max: Positive = 1000
    pending_pulls_max: Annotated[Positive, Meta(description="unanswered pulls of a session, each way")] = 10_000
    metadata_bytes_max: Positive = 8192
    body_filters_max: Annotated[int, Meta(ge=0, le=8)] = 8
    inflate_ratio_max: Annotated[Positive, Meta(description="an unwrapped body is at most this times larger")] = 100
    held_frames_max: Annotated[Positive, Meta(description="frames waiting behind a hook that suspends")] = 1000
    channels_max: Annotated[Positive, Meta(description="channels and patterns with members, in all")] = 1_000_000
    channel_members_max: Positive = 1_000_000
    presence_list_max: Annotated[Positive, Meta(description="members in one answer")] = 1000
    info_bytes_max: Annotated[Positive, Meta(description="presence info of a member")] = 1024
    sessions_per_user_max: Positive = 1000
    detached_sessions_max: Annotated[Positive, Meta(description="sessions waiting to be resumed, in all")] = 100_000
    deadline_s_default: Annotated[PositiveSeconds, Meta(description="of a pull that names none")] = 30.0
    deadline_s_max: PositiveSeconds = 600.0
    provider_grace_s: Annotated[Seconds, Meta(description="a vanished provider may come back this long")] = 0.0


class Timing(_Section, frozen=True, kw_only=True):
    """Heartbeats, time-outs and resume."""

    handshake_timeout_s: PositiveSeconds = 10.0
    heartbeat_s: Annotated[
        PositiveSeconds, Meta(description="silence after which a ping is sent; 2.5 times closes")
    ] = 25.0
    heartbeat_s_min: Annotated[PositiveSeconds, Meta(description="the shortest that a client may wish")] = 1.0
    resume_window_s: Annotated[
        Seconds, Meta(description="how long a session outlives its connection; 0: not at all")
    ] = 30.0
    resume_bytes_max: Annotated[Positive, Meta(description="unreported frames kept for a session")] = 1_048_576
    resume_ack_bytes: Annotated[Positive, Meta(description="a count is reported at least every so many bytes")] = 65_536
    close_timeout_s: Annotated[PositiveSeconds, Meta(description="a closing peer is cut off after this")] = 5.0
    drain_s: Annotated[Seconds, Meta(description="goodbyes of a stop are spread over this")] = 10.0

    def heartbeat_for(self, wished_ms: int) -> float:
        """The heartbeat, in seconds, of a client that wishes ``wished_ms`` (0: no wish)."""
        if not wished_ms:
            return self.heartbeat_s
        return max(self.heartbeat_s_min, min(wished_ms / 1000, self.heartbeat_s))


class ChannelRule(_Section, frozen=True, kw_only=True):
    """Options of the channels whose name matches; the first rule that matches counts."""

    pattern: str
    echo: Annotated[bool, Meta(description="false: publishers never get their own publications")] = True
    presence: Annotated[bool, Meta(description="who is here may be asked, joined and left are sent")] = True
    slow: Annotated[SlowPolicy | None, Meta(description="instead of the listener's policy")] = None
    timestamp: Annotated[bool, Meta(description="events carry accepted_at")] = False
    subscribe_for: Annotated[tuple[str, ...], Meta(description="users that are members always, all sessions")] = ()


class Handlers(_Section, frozen=True, kw_only=True):
    """Application code in the node."""

    plugins: Annotated[
        tuple[str, ...], Meta(description="module:attribute of plugins, beside those twisted.plugin finds")
    ] = ()
    discover: Annotated[bool, Meta(description="use what twisted.plugin finds")] = True
    slow_operation_ms: Annotated[Positive, Meta(description="a hook or handler slower than this is logged")] = 100
    running_max: Annotated[Positive, Meta(description="handlers under way at once")] = 10_000


class Log(_Section, frozen=True, kw_only=True):
    """What is written to the log."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warn", "error", "critical"] = "info"
    levels: Annotated[
        dict[str, Literal["debug", "info", "warn", "error", "critical"]], Meta(description="per name space")
    ] = {}


class Config(_Section, frozen=True, kw_only=True):
    """One node."""

    data: Annotated[str, Meta(description="directory of what the node keeps")] = "./relay-data"
    reactor: Annotated[str, Meta(description="auto, uv, epoll, or another of Twisted's names")] = "auto"
    addresses: Annotated[tuple[str, ...], Meta(description="addresses for clients, told in the welcome")] = ()
    listeners: tuple[Listener, ...] = (
        Listener(name="web", address="tcp:8080:interface=127.0.0.1", protocols=("http", "websocket")),
        Listener(name="stream", address="tcp:8000:interface=127.0.0.1", protocols=("relay",)),
    )
    auth: Auth = Auth()
    limits: Limits = Limits()
    timing: Timing = Timing()
    slow: Slow = Slow()
    channels: Annotated[tuple[ChannelRule, ...], Meta(description="rules by name pattern")] = ()
    handlers: Handlers = Handlers()
    log: Log = Log()
