"""What no single setting can tell: settings that do not fit together, name what is not there, or would be unsafe.

Safe by default: an address that other machines reach is refused while anonymous sessions are let in, unless
``auth.allow_anonymous`` says that this is meant.

Authenticators and certificates are checked by making them as the node does, so that a file which cannot be read or a
key that does not fit is told before the start. Nothing is listened on, fetched or started.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import attrs
from twisted.application.reactors import getReactorTypes
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from relay.config import Config, Http, Listener, WebSocket
from relay.config_mistakes import nearest
from relay.config_quic import Quic
from relay.config_udp import Udp
from relay.core.auth.authentication import Authentication
from relay.core.limits import is_loopback
from relay.core.queue_store import WEBHOOKS
from relay.errors import BadName, ConfigError
from relay.protocols.datagrams import datagram_address
from relay.protocols.kcp_endpoint import cipher_for, options_of
from relay.protocols.listen import endpoint_words
from relay.protocols.quic_endpoint import check_package
from relay.protocols.tls import context_of
from relay.wire.names import check_name, check_pattern

ENDPOINT_OPTIONS: Final = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "interface", "backlog"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}
"""Kinds of endpoints with their options, in the order in which they may stand without a name."""
PORT_MAX: Final = 65_535
OWN_PATHS: Final = ("/", "/healthz", "/readyz", "/metrics", "/relay.js", "/relay-queues.js")
"""Paths of the HTTP side that a WebSocket cannot have."""

WEBHOOK_SECRET_BYTES_MIN: Final = 16
CLUSTER_SECRET_BYTES_MIN: Final = 16

_HTTP_URL: Final = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+([/?][!-~]*)?")
_PLUGIN: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@attrs.frozen
class Endpoint:
    """A Twisted endpoint string in its parts."""

    kind: str
    options: dict[str, str]

    @property
    def interface(self) -> str:
        """The address that is listened on, '' for all."""
        return self.options.get("interface", "")

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.kind in ("tcp", "tcp6", "udp"):
            return self.interface == "localhost" or (self.interface != "" and is_loopback(self.interface))
        return self.kind == "unix"


def problems(config: Config) -> list[str]:
    """One sentence for each thing that is wrong, the settings of listeners first; none: the node can start."""
    found: list[str] = []
    checks = (
        _listeners, _anonymous, _certificates, _authentication, _channels, _queues, _webhooks, _cluster, _numbers,
        _others,
    )  # fmt: skip
    for check in checks:
        found += check(config)
    return found


def endpoint(address: str) -> Endpoint:
    """The parts of a listener's address. Raises ``ConfigError`` that says what is wrong with it."""
    if address.startswith("udp:"):
        host, port = datagram_address(address)
        return Endpoint("udp", {"port": str(port), "interface": "" if host in ("0.0.0.0", "::") else host})
    kind, *rest = [re.sub(r"\\(.)", r"\1", each) for each in endpoint_words(address)]
    names = ENDPOINT_OPTIONS.get(kind)
    if names is None:
        _check_foreign(kind, address)
        return Endpoint(kind, {})
    options: dict[str, str] = {}
    for index, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if not equals:
            if index >= len(names) or kind == "systemd":
                raise ConfigError(f"{address}: {word!r} is one part too many; options are name=value")
            name, value = names[index], word
        elif name not in names:
            raise ConfigError(f"{address}: {kind} has no option {name!r}{nearest(name, names)}")
        if name in options:
            raise ConfigError(f"{address}: {name} is there twice")
        options[name] = value
    _check_options(kind, options, address)
    return Endpoint(kind, options)


def _check_options(kind: str, options: dict[str, str], address: str) -> None:
    if kind in ("tcp", "tcp6"):
        port = options.get("port", "")
        if not port.isdecimal() or int(port) > PORT_MAX:
            raise ConfigError(f"{address}: expected a port from 0 to {PORT_MAX} after {kind}:, got {port!r}")
        interface = options.get("interface", "")
        if interface and interface != "localhost":
            try:
                version = ipaddress.ip_address(interface.partition("%")[0]).version
            except ValueError:
                raise ConfigError(f"{address}: expected an IP address as interface, got {interface!r}") from None
            if kind == "tcp6" and version == 4:
                raise ConfigError(f"{address}: {interface} is an IPv4 address; use tcp:")
    elif kind == "unix" and not options.get("address"):
        raise ConfigError(f"{address}: expected a path after unix:")
    elif kind == "systemd" and not ("domain" in options and ("index" in options) != ("name" in options)):
        raise ConfigError(f"{address}: systemd needs domain, and one of index and name")
    backlog = options.get("backlog", "1")
    if not backlog.isdecimal():
        raise ConfigError(f"{address}: expected a number as backlog, got {backlog!r}")


def _check_foreign(kind: str, address: str) -> None:
    """An endpoint that is none of the usual: Twisted, or a plugin of it, has to know it."""
    known = {each.prefix for each in getPlugins(IStreamServerEndpointStringParser)}
    if kind not in known:
        raise ConfigError(f"{address}: there is no kind of endpoint {kind!r}{nearest(kind, ENDPOINT_OPTIONS)}")
    try:
        serverFromString(cast(Any, None), address)  # only its syntax is looked at: no reactor is needed
    except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
        raise ConfigError(f"{address}: {error}") from None


# --- listeners ----------------------------------------------------------------------------------------------------


def _listeners(config: Config) -> Iterator[str]:
    labels: dict[str, int] = {}
    places: dict[tuple[str, str, str], int] = {}
    if not config.listeners:
        yield "listeners: at least one is expected"
    for index, listener in enumerate(config.listeners):
        path = f"listeners[{index}]"
        label = listener.label
        first = labels.setdefault(label, index)
        if first != index:
            yield f"{path}.name: {label!r} is the name of listeners[{first}] too"
        try:
            found = endpoint(listener.address)
        except ConfigError as error:
            yield f"{path}.address: {error}"
            continue
        if found.kind in ("tcp", "tcp6", "udp") and found.options["port"] != "0":
            place = (found.kind, found.options["port"], found.interface)
            first = places.setdefault(place, index)
            if first != index:
                yield f"{path}.address: {listener.address} is the address of listeners[{first}] too"
        if listener.reuse_port and found.kind not in ("tcp", "tcp6", "udp"):
            yield f"{path}.reuse_port: it is for tcp, tcp6 and udp, the address is {listener.address}"
        if (listener.transport == "stream") is (found.kind == "udp"):
            wanted = "udp:HOST:PORT" if found.kind != "udp" else "one for streams, such as tcp:8000"
            yield f"{path}.address: transport {listener.transport} needs {wanted}, the address is {listener.address}"
        yield from _spoken(listener, path)
        yield from _carried(listener, path)


def _spoken(listener: Listener, path: str) -> Iterator[str]:
    """What is spoken on a listener, and who may come."""
    if len(set(listener.protocols)) != len(listener.protocols):
        yield f"{path}.protocols: one of them is there twice"
    if listener.websocket != WebSocket() and "websocket" not in listener.protocols:
        yield f"{path}.websocket: has no effect without websocket in {path}.protocols"
    if listener.http != Http() and "http" not in listener.protocols:
        yield f"{path}.http: has no effect without http in {path}.protocols"
    if {"http", "websocket"} <= set(listener.protocols) and listener.websocket.path in OWN_PATHS:
        yield f"{path}.websocket.path: {listener.websocket.path} is a path of http; another is expected, such as /ws"
    if listener.secure is not None and listener.tls is not None:
        yield f"{path}.secure: the listener has tls already; one of the two is expected"
    if listener.secure is not None and "relay" not in listener.protocols:
        yield f"{path}.secure: it is for relay's stream protocol, which is not in {path}.protocols"
    try:
        check_name(listener.realm)
    except BadName as error:
        yield f"{path}.realm: {error}"
    for name in ("allow", "deny"):
        for index, network in enumerate(getattr(listener, name)):
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                yield f"{path}.{name}[{index}]: expected a network such as 10.0.0.0/8 or ::1/128, got {network!r}"


def _carried(listener: Listener, path: str) -> Iterator[str]:
    """What datagrams carry, and what they need."""
    carrier = listener.transport
    if carrier != "kcp" and listener.kcp is not None:
        yield f"{path}.kcp: has no effect without {path}.transport: kcp"
    if carrier != "udp" and listener.udp != Udp():
        yield f"{path}.udp: has no effect without {path}.transport: udp"
    if carrier != "quic" and listener.quic != Quic():
        yield f"{path}.quic: has no effect without {path}.transport: quic"
    if carrier == "stream":
        return
    if carrier == "kcp":
        yield from _kcp(listener, path)
    if listener.protocols != ("relay",):
        yield f"{path}.protocols: {carrier} carries relay"
    if carrier == "quic":
        yield from _quic(listener, path)
    elif listener.tls is not None:
        yield f"{path}.tls: it is for streams; {carrier} has encryption of its own"
    if listener.proxy_protocol:
        yield f"{path}.proxy_protocol: it is for streams"


def _kcp(listener: Listener, path: str) -> Iterator[str]:
    if listener.secure is not None:
        yield f"{path}.secure: kcp has ciphers of its own"
    if listener.kcp is None:
        yield f"{path}.kcp: transport kcp needs this section, with a key or a cipher that has none"
    else:
        yield from _raised(f"{path}.kcp", options_of, listener.kcp)
        yield from _raised(f"{path}.kcp", cipher_for, listener.kcp)


def _quic(listener: Listener, path: str) -> Iterator[str]:
    yield from _raised(f"{path}.transport", check_package)
    if listener.tls is None:
        yield f"{path}.tls: transport quic needs this section, with a certificate"
    elif listener.tls.plain:
        yield f"{path}.tls.plain: there is no QUIC without TLS"


def _anonymous(config: Config) -> Iterator[str]:
    """Safe by default."""
    auth = config.auth
    if auth.allow_anonymous or not auth.anonymous.enabled or "anonymous" not in auth.order:
        return
    for index, listener in enumerate(config.listeners):
        try:
            found = endpoint(listener.address)
        except ConfigError:
            continue  # _listeners tells it
        if not found.local:
            yield (
                f"listeners[{index}].address: other machines reach {listener.address} and anonymous sessions are let "
                "in; set auth.anonymous.enabled: false, listen on 127.0.0.1, or set auth.allow_anonymous: true if that "
                "is meant"
            )


def _certificates(config: Config) -> Iterator[str]:
    for index, listener in enumerate(config.listeners):
        if listener.tls is not None:
            yield from _raised(f"listeners[{index}].tls", context_of, listener.tls)


def _raised(path: str, make: Callable[..., object], *arguments: object) -> Iterator[str]:
    try:
        make(*arguments)
    except ConfigError as error:
        yield f"{path}: {error}" if path else str(error)


# --- sessions and channels ----------------------------------------------------------------------------------------


def _authentication(config: Config) -> Iterator[str]:
    nothing: Any = object()  # Any: reactor, HTTP client and threads, none of which is used before somebody comes
    yield from _raised("", Authentication, config.auth, nothing, nothing, nothing, (), lambda: 0.0)


def _channels(config: Config) -> Iterator[str]:
    for index, rule in enumerate(config.channels):
        try:
            check_pattern(rule.pattern)
        except BadName as error:
            yield f"channels[{index}].pattern: {error}"


def _queues(config: Config) -> Iterator[str]:
    named = [(f"pushes[{index}].pattern", rule.pattern, check_pattern) for index, rule in enumerate(config.pushes)]
    for index, queue in enumerate(config.queues):
        path = f"queues[{index}]"
        named.append((f"{path}.pattern", queue.pattern, check_pattern))
        if queue.dead_letter:
            named.append((f"{path}.dead_letter", queue.dead_letter, check_name))
        for least, most in (("lease_s", "lease_s_max"), ("backoff_s_min", "backoff_s_max")):
            if getattr(queue, least) > getattr(queue, most):
                yield f"{path}.{least}: {getattr(queue, least)} is more than {most}, which is {getattr(queue, most)}"
    for setting, name, check_ in named:
        try:
            check_(name)
        except BadName as error:
            yield f"{setting}: {error}"


def _webhooks(config: Config) -> Iterator[str]:
    first: dict[str, int] = {}
    for index, webhook in enumerate(config.webhooks):
        path = f"webhooks[{index}]"
        if first.setdefault(webhook.name, index) != index:
            yield f"{path}.name: {webhook.name!r} is the name of webhooks[{first[webhook.name]}] too"
        if not _HTTP_URL.fullmatch(webhook.url):
            yield f"{path}.url: expected an http:// or https:// URL, got {webhook.url!r}"
        if isinstance(webhook.secret, str) and len(webhook.secret.encode()) < WEBHOOK_SECRET_BYTES_MIN:
            yield f"{path}.secret: expected at least {WEBHOOK_SECRET_BYTES_MIN} bytes"
        if webhook.retry_s_min > webhook.retry_s_max:
            yield f"{path}.retry_s_min: {webhook.retry_s_min} is more than retry_s_max, which is {webhook.retry_s_max}"
        named = [("name", WEBHOOKS + webhook.name, check_name), ("realm", webhook.realm, check_name)]
        named += [(f"channels[{number}]", each, check_pattern) for number, each in enumerate(webhook.channels)]
        for setting, name, check_ in named:
            try:
                check_(name)
            except BadName as error:
                yield f"{path}.{setting}: {error}"


def _cluster(config: Config) -> Iterator[str]:
    """Nodes have one id and one address each; other machines link with a secret only."""
    cluster = config.cluster
    if cluster is None:
        return
    try:
        local = endpoint(cluster.listen).local
    except ConfigError as error:
        yield f"cluster.listen: {error}"
        local = True
    if not local and not cluster.secret:
        yield (
            f"cluster.secret: other machines reach {cluster.listen}, so nodes need a secret to prove themselves; "
            "listen on 127.0.0.1 if all of them are on this machine"
        )
    elif isinstance(cluster.secret, str) and 0 < len(cluster.secret.encode()) < CLUSTER_SECRET_BYTES_MIN:
        yield (
            f"cluster.secret: expected at least {CLUSTER_SECRET_BYTES_MIN} bytes, at random: "
            "whoever sees nodes shake hands can try out what could be guessed"
        )
    nodes = [peer.node for peer in cluster.peers]
    if cluster.node not in nodes:
        yield f"cluster.peers: this node, {cluster.node}, is expected among them"
    if not any(peer.voter for peer in cluster.peers):
        yield "cluster.peers: at least one voter is expected"
    for index, peer in enumerate(cluster.peers):
        first = nodes.index(peer.node)
        if first != index:
            yield f"cluster.peers[{index}].node: {peer.node} is the node of cluster.peers[{first}] too"
        try:
            clientFromString(cast(Any, None), peer.address)  # only its syntax is looked at: no reactor is needed
        except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
            yield f"cluster.peers[{index}].address: expected a client endpoint such as tcp:10.0.0.2:7400: {error}"


def _numbers(config: Config) -> Iterator[str]:
    """Pairs of which one bounds the other."""
    limits, timing = config.limits, config.timing
    for low, high, lower, higher in (
        (timing.heartbeat_s_min, timing.heartbeat_s, "timing.heartbeat_s_min", "timing.heartbeat_s"),
        (timing.resume_ack_bytes, timing.resume_bytes_max, "timing.resume_ack_bytes", "timing.resume_bytes_max"),
        (limits.deadline_s_default, limits.deadline_s_max, "limits.deadline_s_default", "limits.deadline_s_max"),
        (limits.metadata_bytes_max, limits.frame_bytes_max, "limits.metadata_bytes_max", "limits.frame_bytes_max"),
    ):
        if low > high:
            yield f"{lower}: {low} is more than {higher}, which is {high}"


def _others(config: Config) -> Iterator[str]:
    if config.reactor not in ("auto", "uv"):
        known = {"auto", "uv", *(each.shortName for each in getReactorTypes())}
        if config.reactor not in known:
            yield f"reactor: there is no reactor {config.reactor!r}{nearest(config.reactor, known)}"
    for index, plugin in enumerate(config.handlers.plugins):
        if not _PLUGIN.fullmatch(plugin):
            yield f"handlers.plugins[{index}]: expected module:attribute, got {plugin!r}"
