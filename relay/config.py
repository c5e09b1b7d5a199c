"""The configuration: frozen, validated structs with every default and every limit, units in the names.

Only values live here and in the modules ``relay.config_…`` beside it, one for the types and one for each large section.
Reading files and the environment, secrets by reference and the sentences for mistakes are
``relay.config_load``'s, checks across settings ``relay.config_check``'s; the page ``docs/configuration.md`` and the
JSON Schema are made from these structs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.config_auth import Auth
from relay.config_cluster import Cluster
from relay.config_history import ChannelHistory, HistoryLimits
from relay.config_kcp import Kcp
from relay.config_queues import PushRule, QueueLimits, QueueRule
from relay.config_quic import Quic
from relay.config_store import Store
from relay.config_types import NAME_BYTES_MAX, Count, Name, Positive, PositiveSeconds, Seconds, Section, Text
from relay.config_udp import Udp
from relay.config_webhooks import Webhook

SlowPolicy = Literal["disconnect", "drop_oldest", "latest"]
Level = Literal["debug", "info", "warn", "error", "critical"]


class Tls(Section, frozen=True, kw_only=True):
    """Certificates of a listener; the files are watched and reloaded."""

    certificate: Annotated[Text, Meta(description="PEM file with the certificate and those between it and its root")]
    key: Annotated[Text, Meta(description="PEM file with the private key")]
    client_ca: Annotated[
        str, Meta(description="PEM file with authorities for client certificates; empty: clients are asked for none")
    ] = ""
    client_required: Annotated[bool, Meta(description="refuse clients without a certificate; needs `client_ca`")] = (
        False
    )
    plain: Annotated[bool, Meta(description="the same port also takes connections without TLS")] = False
    reload_check_s: Annotated[PositiveSeconds, Meta(description="how often the files are looked at")] = 10.0


class Secure(Section, frozen=True, kw_only=True):
    """The secure channel on a listener, where TLS is not used: docs/secure.md."""

    plain: Annotated[bool, Meta(description="the same port also takes connections without it")] = False


class WebSocket(Section, frozen=True, kw_only=True):
    """WebSocket on a listener."""

    path: Annotated[str, Meta(description="path of the URL that opens a WebSocket", pattern="^/[^?#\\s]*$")] = "/ws"
    origins: Annotated[
        tuple[Text, ...],
        Meta(description="allowed Origin values, with `*` as wildcard; empty: pages of the same host only"),
    ] = ()
    compression: Annotated[bool, Meta(description="offer permessage-deflate")] = False
    message_bytes_max: Annotated[Positive, Meta(description="largest message, all its fragments together")] = 1_048_576


class Http(Section, frozen=True, kw_only=True):
    """HTTP on a listener."""

    page: Annotated[bool, Meta(description="serve the page at / and the browser's module /relay.js")] = True
    metrics: Annotated[
        Literal["off", "local", "public"],
        Meta(description="serve /metrics for Prometheus: to nobody, to this machine (not through a proxy), or to all"),
    ] = "local"
    request_bytes_max: Annotated[Positive, Meta(description="largest head of a request")] = 16_384
    idle_timeout_s: Annotated[PositiveSeconds, Meta(description="an idle HTTP connection is closed after this")] = 30.0


class Slow(Section, frozen=True, kw_only=True):
    """What happens to a receiver that does not take what is sent to it."""

    policy: Annotated[
        SlowPolicy,
        Meta(
            description="`disconnect` closes the connection, `drop_oldest` drops the oldest waiting frames, `latest` "
            "keeps the newest frame of each conflation key and else drops the oldest"
        ),
    ] = "disconnect"
    queue_bytes_max: Annotated[Positive, Meta(description="bytes waiting for one receiver before the policy acts")] = (
        1_048_576
    )
    stalled_s_max: Annotated[
        PositiveSeconds, Meta(description="a receiver that takes nothing for this long is closed, whatever the policy")
    ] = 10.0


class Listener(Section, frozen=True, kw_only=True):
    """An address, a transport and the protocols on it, with limits of its own."""

    name: Annotated[
        str, Meta(max_length=NAME_BYTES_MAX, description="label in logs and metrics; empty: the address")
    ] = ""
    address: Annotated[
        Text,
        Meta(
            description="a Twisted endpoint string: `tcp:8000:interface=127.0.0.1`, `tcp6:8000`, "
            "`unix:/run/relay.sock`, `systemd:domain=INET:index=0`; for datagrams `udp:HOST:PORT`"
        ),
    ]
    transport: Annotated[
        Literal["stream", "kcp", "udp", "quic"],
        Meta(description="what carries the protocols; all but `stream` need a `udp:` address"),
    ] = "stream"
    protocols: Annotated[
        tuple[Literal["relay", "http", "websocket"], ...],
        Meta(
            min_length=1,
            description="what is spoken here, told apart by the first bytes; `relay` is the stream protocol in both "
            "its forms",
        ),
    ] = ("relay",)
    tls: Annotated[Tls | None, Meta(description="encrypt; without this section connections are plain")] = None
    secure: Annotated[
        Secure | None,
        Meta(description="the secure channel, for relay's stream protocol; `relay key show` prints the node's key"),
    ] = None
    websocket: WebSocket = WebSocket()
    http: Http = Http()
    kcp: Annotated[Kcp | None, Meta(description="options of `transport: kcp`, which needs this section")] = None
    udp: Annotated[Udp, Meta(description="options of `transport: udp`")] = Udp()
    quic: Annotated[Quic, Meta(description="options of `transport: quic`")] = Quic()
    proxy_protocol: Annotated[
        bool, Meta(description="connections begin with a PROXY protocol header, version 1 or 2")
    ] = False
    backlog: Annotated[
        Annotated[int, Meta(gt=0, le=65_535)],
        Meta(description="connections that wait in the kernel until they are accepted"),
    ] = 4096
    reuse_port: Annotated[bool, Meta(description="several processes listen on the same port (SO_REUSEPORT)")] = False
    realm: Annotated[Name, Meta(description="realm of sessions whose proof of identity and hello name none")] = (
        "default"
    )
    allow: Annotated[tuple[Text, ...], Meta(description="networks (CIDR) that may connect; empty: all")] = ()
    deny: Annotated[tuple[Text, ...], Meta(description="networks (CIDR) that may not; counts before `allow`")] = ()
    slow: Annotated[Slow | None, Meta(description="for receivers on this listener, instead of the node's `slow`")] = (
        None
    )
    nodelay: Annotated[bool, Meta(description="send small packets at once (TCP_NODELAY)")] = True

    @property
    def label(self) -> str:
        """Its name in logs and metrics, and on its peers."""
        return self.name or self.address


class Limits(Section, frozen=True, kw_only=True):
    """Limits, per session unless the description says otherwise."""

    connections_max: Annotated[Positive, Meta(description="connections of the node")] = 100_000
    connections_per_address_max: Annotated[
        Positive, Meta(description="connections from one address; loopback is not counted")
    ] = 1000
    accepts_per_s_max: Annotated[Positive, Meta(description="new connections a second, per listener")] = 20_000
    frame_bytes_max: Annotated[
        int, Meta(ge=1024, le=2**31 - 1, description="largest frame of the stream protocol, or line")
    ] = 1_048_576
    frames_per_s_max: Annotated[Count, Meta(description="frames from a session (token bucket); 0: no limit")] = 0
    bytes_per_s_max: Annotated[Count, Meta(description="bytes from a session (token bucket); 0: no limit")] = 0
    rate_burst_s: Annotated[PositiveSeconds, Meta(description="depth of the buckets, in seconds of their rate")] = 2.0
    rate_delay_s_max: Annotated[
        PositiveSeconds, Meta(description="a session over its rate is delayed; over this it is closed")
    ] = 10.0
    subscriptions_max: Annotated[Positive, Meta(description="subscriptions")] = 10_000
    registrations_max: Annotated[Positive, Meta(description="procedures that a session provides")] = 1000
    patterns_max: Annotated[
        Positive, Meta(description="patterns among the subscriptions, and again among the registrations")
    ] = 256
    pending_pulls_max: Annotated[Positive, Meta(description="pulls without their answer yet, each way")] = 10_000
    metadata_bytes_max: Annotated[
        int, Meta(gt=0, le=49_152, description="metadata and other fields of a message, keys and values")
    ] = 8192
    inflate_ratio_max: Annotated[
        Positive, Meta(description="a body without its transfer filters is at most this many times larger")
    ] = 100
    held_frames_max: Annotated[Positive, Meta(description="frames that wait behind a hook or a store")] = 5000
    channels_max: Annotated[Positive, Meta(description="channels and patterns with members, of the node")] = 1_000_000
    channel_members_max: Annotated[Positive, Meta(description="members of one channel")] = 1_000_000
    memberships_max: Annotated[
        Positive, Meta(description="users that code in the node made members of channels, in all")
    ] = 100_000
    presence_list_max: Annotated[Positive, Meta(description="members that one presence answer lists")] = 1000
    absent_members_max: Annotated[
        Positive,
        Meta(description="members, and users, of the node that may be back within their grace; more leave at once"),
    ] = 100_000
    info_bytes_max: Annotated[Positive, Meta(description="what a member tells others about itself, as JSON")] = 1024
    sessions_per_user_max: Annotated[Positive, Meta(description="sessions of one user")] = 1000
    detached_sessions_max: Annotated[
        Positive, Meta(description="sessions of the node without a connection, waiting to be resumed")
    ] = 100_000
    deadline_s_default: Annotated[PositiveSeconds, Meta(description="deadline of a pull that names none")] = 30.0
    deadline_s_max: Annotated[PositiveSeconds, Meta(description="longest deadline that a pull may name")] = 600.0
    provider_grace_s: Annotated[
        Seconds, Meta(description="a provider that vanished with a pull may come back this long; 0: not at all")
    ] = 0.0


class Timing(Section, frozen=True, kw_only=True):
    """Heartbeats, time-outs and resume."""

    handshake_timeout_s: Annotated[
        PositiveSeconds, Meta(description="a connection that is no session after this is closed")
    ] = 10.0
    heartbeat_s: Annotated[
        PositiveSeconds, Meta(description="a ping is sent after this long a silence; 2.5 times as long closes")
    ] = 25.0
    heartbeat_s_min: Annotated[PositiveSeconds, Meta(description="shortest heartbeat that a client may wish")] = 1.0
    resume_window_s: Annotated[
        Seconds, Meta(description="a session outlives its connection for this long; 0: not at all")
    ] = 30.0
    resume_bytes_max: Annotated[
        Positive, Meta(description="frames kept for a session until the client reports that it has them")
    ] = 1_048_576
    resume_ack_bytes: Annotated[
        Positive, Meta(description="each side reports what it has at least every so many bytes")
    ] = 65_536
    presence_grace_s: Annotated[
        Seconds,
        Meta(
            description="who leaves a channel, or is a user whose last session ends, and is back after less than this, "
            "was never away for others; a session that waits to be resumed has not left"
        ),
    ] = 0.0
    close_timeout_s: Annotated[PositiveSeconds, Meta(description="a closing connection is cut off after this")] = 5.0
    drain_s: Annotated[Seconds, Meta(description="the goodbyes of a stopping node are spread over this")] = 10.0

    def heartbeat_for(self, wished_ms: int) -> float:
        """The heartbeat, in seconds, of a client that wishes ``wished_ms`` (0: no wish)."""
        if not wished_ms:
            return self.heartbeat_s
        return max(self.heartbeat_s_min, min(wished_ms / 1000, self.heartbeat_s))


class ChannelRule(Section, frozen=True, kw_only=True):
    """Options of the channels whose name matches; the first rule that matches counts."""

    pattern: Annotated[Name, Meta(description="name or pattern of channels")]
    echo: Annotated[bool, Meta(description="publishers that are members get their own publications too")] = True
    presence: Annotated[bool, Meta(description="who is there may be asked; who comes and goes is told")] = True
    presence_grace_s: Annotated[Seconds | None, Meta(description="instead of `timing.presence_grace_s`")] = None
    joined_left: Annotated[
        bool, Meta(description="joined and left are told; off for large channels: the count may be asked")
    ] = True
    slow: Annotated[SlowPolicy | None, Meta(description="instead of the listener's policy for slow receivers")] = None
    timestamp: Annotated[bool, Meta(description="events carry the time at which they were accepted")] = False
    subscribe_for: Annotated[tuple[Name, ...], Meta(description="users that are always members, all sessions")] = ()
    history: Annotated[
        ChannelHistory | None, Meta(description="keep publications, so that who was away gets what it missed")
    ] = None


class Handlers(Section, frozen=True, kw_only=True):
    """Application code in the node."""

    plugins: Annotated[
        tuple[Text, ...], Meta(description="plugins as `module:attribute`, beside those that twisted.plugin finds")
    ] = ()
    discover: Annotated[bool, Meta(description="use the plugins that twisted.plugin finds")] = True
    slow_operation_ms: Annotated[Positive, Meta(description="a hook or handler that takes longer is logged")] = 100
    running_max: Annotated[Positive, Meta(description="handlers under way at once")] = 10_000


class Log(Section, frozen=True, kw_only=True):
    """What is written to the log."""

    format: Annotated[Literal["text", "json"], Meta(description="a line of text, or a JSON object a line")] = "text"
    file: Annotated[
        str,
        Meta(description="file to append to, opened anew when it was renamed or removed; empty: standard output"),
    ] = ""
    level: Annotated[Level, Meta(description="least level that is written")] = "info"
    levels: Annotated[
        dict[str, Level],
        Meta(description="other levels for parts, by the name at the beginning of a line: `relay.core: debug`"),
    ] = msgspec.field(default_factory=lambda: {"twisted": "warn", "log_legacy": "warn"})


class Config(Section, frozen=True, kw_only=True):
    """One node."""

    data: Annotated[Text, Meta(description="directory for what the node keeps; made when it is not there")] = (
        "./relay-data"
    )
    reactor: Annotated[
        Text,
        Meta(
            description="`auto` (relay's own where uvloop is, else Twisted's), `uv`, `epoll`, or another of Twisted's"
        ),
    ] = "auto"
    addresses: Annotated[
        tuple[Text, ...], Meta(description="addresses under which clients reach the node; the welcome tells them")
    ] = ()
    listeners: Annotated[tuple[Listener, ...], Meta(description="where the node listens")] = (
        Listener(name="web", address="tcp:8080:interface=127.0.0.1", protocols=("http", "websocket")),
        Listener(name="stream", address="tcp:8000:interface=127.0.0.1", protocols=("relay",)),
    )
    auth: Auth = Auth()
    limits: Limits = Limits()
    timing: Timing = Timing()
    slow: Slow = Slow()
    channels: Annotated[tuple[ChannelRule, ...], Meta(description="options of channels by name")] = (
        ChannelRule(pattern="lobby", history=ChannelHistory()),
    )
    history: HistoryLimits = HistoryLimits()
    queues: Annotated[tuple[QueueRule, ...], Meta(description="options of queues by name")] = ()
    pushes: Annotated[tuple[PushRule, ...], Meta(description="options of pushes to users by name")] = ()
    queue_limits: QueueLimits = QueueLimits()
    store: Store = Store()
    webhooks: Annotated[tuple[Webhook, ...], Meta(description="URLs that are told of sessions, users and members")] = ()
    handlers: Handlers = Handlers()
    cluster: Annotated[Cluster | None, Meta(description="be one node of several; without this section: alone")] = None
    log: Log = Log()
