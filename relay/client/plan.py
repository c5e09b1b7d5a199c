"""Where to connect next and when: addresses in turn, back-off with full jitter.

    tcp://HOST:PORT   tls://HOST:PORT   unix:PATH   udp://HOST:PORT   kcp://HOST:PORT   quic://HOST:PORT
    ws://HOST[:PORT]/PATH   wss://HOST[:PORT]/PATH   [?form=json]
    tcp://HOST:PORT?key=SHA256:…      the secure channel (docs/secure.md), to the server that has this key
    tcp://HOST:PORT?key=first-use     likewise, the server's key being taken at first use; both also with udp://
    kcp://HOST:PORT?cipher=…&key=…&profile=…&error_correction=…&mtu=…     what is not there is of ClientOptions.kcp
    auto://HOST:PORT[?key=…]          udp, else tcp, at that port; both in the secure channel with a key

An address may have **others** to the same place, less liked ones, for networks that let the best one not through:
those of ``auto``, or all that follow the first where the caller says ``prefer``. They are tried together, each a little
after the one before (``relay.client.race``); the one that the server answered is tried first for ``REMEMBER_S``.

A client starts at a random address, so that many clients spread over the nodes; a failed attempt goes on to the next
address at once; after a round over all of them it waits a random part of a span that doubles from round to round
("full jitter": the attempts of many clients spread evenly, which is what a node that just came back needs). A
connection that was established and broke is retried at the same address first: that node has the session. A goodbye
may name an address to prefer and a time to wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import parse_qs, parse_qsl, urlsplit

import msgspec

from relay.client.options import ClientOptions
from relay.errors import ConfigError
from relay.wire import kinds, udp_link, udp_packets

DEFAULT_PORTS = {"tcp": 8000, "tls": 8443, "udp": 8000, "kcp": 8000, "quic": 8443, "ws": 80, "wss": 443}
SECURE = frozenset({"tls", "wss", "unix", "quic"})
DATAGRAM_HEARTBEAT_S = 15.0
"""NATs forget a mapping of UDP that was silent for 30 s (RFC 4787 asks for two minutes; many do less)."""
REMEMBER_S = 600.0
"""So long the way that worked goes first; then the best one is tried again, for the network may have changed."""
FORMS = ("binary", "json")
KCP_KEYS = frozenset({"cipher", "key", "profile", "error_correction", "mtu"})
"""What the query of a kcp address may say: fields of ``KcpSettings``."""
OPEN, FENCED, PROVED = range(3)
"""How an address is protected: not at all; by a secret or a key that nobody vouches for; by proof of the server."""
FIRST_USE = "first-use"
AUTO = ("udp", "tcp")
"""What ``auto`` stands for, the best first; all of them are protected alike."""
_FINGERPRINT = re.compile("SHA256:[A-Za-z0-9+/]{43}")
REDIRECTS_MAX = 4  # attempts in a row that a server may send elsewhere
_DOUBLINGS_MAX = 30  # beyond it every back-off is at its limit: keeps the power small


class Address(msgspec.Struct, frozen=True):
    """One place to connect to. ``path``: of the socket (unix) or of the request with its query (ws, wss).

    ``key``: the fingerprint of the server's key, or ``FIRST_USE``; '' without the secure channel. ``kcp``: names and
    values that stand for those of ``KcpSettings``. ``others``: to the same place, to be fallen back to, in order.
    """

    scheme: str
    host: str
    port: int
    path: str
    form: str = "binary"
    key: str = ""
    kcp: tuple[tuple[str, str], ...] = ()
    others: tuple[Address, ...] = ()

    @property
    def ways(self) -> tuple[Address, ...]:
        """It and the others, in order of preference."""
        return (self, *self.others)

    @property
    def known_as(self) -> str:
        """Under what the server's key is remembered that was taken at first use: the same for every transport."""
        return self.path if self.scheme == "unix" else str(self).partition("://")[2]

    @property
    def protection(self) -> int:
        """``OPEN``, ``FENCED`` or ``PROVED``: of the least protected way."""
        own = OPEN
        if self.scheme in SECURE or self.key not in ("", FIRST_USE):
            own = PROVED
        elif self.key or self.scheme == "kcp":
            own = FENCED
        return min([own, *(other.protection for other in self.others)])

    @property
    def websocket(self) -> bool:
        """Whether the transport is a WebSocket."""
        return self.scheme in ("ws", "wss")

    @property
    def tls(self) -> bool:
        """Whether the transport is encrypted by TLS."""
        return self.scheme in ("tls", "wss")

    @property
    def frame_bytes_max(self) -> int:
        """The largest frame that the transport takes; 0: of any size."""
        if self.scheme != "udp":
            return 0
        overhead = udp_packets.HEAD_BYTES + udp_link.CONTENT_BYTES + (udp_packets.SEAL_BYTES if self.key else 0)
        return udp_packets.MTU_BYTES_DEFAULT - overhead

    @property
    def heartbeat_s(self) -> float:
        """The heartbeat to wish for when the application has no wish; 0: the server's."""
        return DATAGRAM_HEARTBEAT_S if self.scheme in ("udp", "kcp", "quic") else 0.0

    @property
    def apart(self) -> int:
        """Flags of messages that the transport carries apart from the session's frames, and outside of their count."""
        if self.scheme == "udp":
            return kinds.UNRELIABLE
        # In the JSON form all go on the one stream.
        return kinds.UNRELIABLE | kinds.INDEPENDENT if self.scheme == "quic" and self.form == "binary" else 0

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def __repr__(self) -> str:
        return f"<Address {self}>"  # without secrets of ``kcp``


def parse(url: str) -> Address:
    """The address that ``url`` names; raises ``ConfigError`` with a sentence that says what is wrong."""
    scheme, _, rest = url.partition("://")
    if scheme == "auto":
        return preferred([parse(f"{each}://{rest}") for each in AUTO])
    if scheme == "kcp":
        return _kcp(url)
    return _parse(url)


def preferred(addresses: Sequence[Address]) -> Address:
    """One address whose ways are all of these, the best first. Raises ``ConfigError`` when there is none."""
    ways = [way for address in addresses for way in address.ways]
    if not ways:
        raise ConfigError("no address to connect to")
    first, *others = (msgspec.structs.replace(way, others=()) for way in dict.fromkeys(ways))
    return msgspec.structs.replace(first, others=tuple(others))


def _kcp(url: str) -> Address:
    """A kcp address: without its query in any message, for that has secrets."""
    plain, _, query = url.partition("?")
    pairs = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))  # a pass phrase may have a plus sign
    form = pairs.pop("form", "binary")
    for name in pairs:
        if name not in KCP_KEYS:
            raise ConfigError(f"{plain}: {name} is no option of kcp; there are {', '.join(sorted(KCP_KEYS))} and form")
    if not pairs.get("mtu", "1400").isdecimal():
        raise ConfigError(f"{plain}: mtu must be a number of bytes")
    return msgspec.structs.replace(_parse(f"{plain}?form={form}"), kcp=tuple(sorted(pairs.items())))


def _parse(url: str) -> Address:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    form = query.pop("form", ["binary"])[-1]
    # A plus sign is a space in a query; no fingerprint has one.
    key = query.get("key", [""])[-1].replace(" ", "+") if parts.scheme in ("tcp", "udp", "unix") else ""
    if key and key != FIRST_USE and not _FINGERPRINT.fullmatch(key):
        raise ConfigError(f"{url}: key must be SHA256: and 43 letters, as relay key show prints it, or {FIRST_USE}")
    if parts.scheme == "udp" and form != "binary":
        raise ConfigError(f"{url}: udp carries the binary form")
    if form not in FORMS:
        raise ConfigError(f"{url}: form must be binary or json, not {form!r}")
    if parts.scheme == "unix":
        path = parts.netloc + parts.path
        if not path:
            raise ConfigError(f"{url}: the path of the socket is missing")
        return Address("unix", "", 0, path, form, key)
    if parts.scheme not in DEFAULT_PORTS:
        raise ConfigError(f"{url}: expected tcp://, tls://, unix:, udp://, kcp://, quic://, ws://, wss:// or auto://")
    try:
        port = parts.port
    except ValueError:
        raise ConfigError(f"{url}: the port must be a number from 1 to 65535") from None
    if not parts.hostname:
        raise ConfigError(f"{url}: the host is missing")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{parts.scheme}://{parts.hostname}: user and password do not belong into the address")
    path = ""
    if parts.scheme in ("ws", "wss"):
        rest = "&".join(each for each in parts.query.split("&") if each and not each.startswith("form="))
        path = (parts.path or "/ws") + (f"?{rest}" if rest else "")
    elif parts.path not in ("", "/"):
        raise ConfigError(f"{url}: a {parts.scheme} address has no path")
    return Address(parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme], path, form, key)


class Plan:
    """The sequence of attempts. ``draw``: a random number in [0, 1) for each call."""

    def __init__(self, addresses: Iterable[Address], options: ClientOptions, draw: Callable[[], float]) -> None:
        self.addresses = list(dict.fromkeys(addresses))[: options.addresses_max]
        if not self.addresses:
            raise ConfigError("no address to connect to")
        self.rounds = 0
        self._options = options
        self._draw = draw
        self._index = int(draw() * len(self.addresses)) % len(self.addresses)
        self._tried = 0
        self._redirects = 0
        self._preferred: Address | None = None
        self._protection = min(each.protection for each in self.addresses)
        self._worked: tuple[Address, Address, float] | None = None  # of which address, which way, until when

    @property
    def address(self) -> Address:
        """The address of the attempt that is due."""
        return self._preferred or self.addresses[self._index]

    def ways(self, now: float) -> list[Address]:
        """Those of the address that is due, in the order in which to try them."""
        address = self.address
        ways = list(address.ways)
        if self._worked is not None and self._worked[0] == address and now < self._worked[2]:
            ways.remove(self._worked[1])
            ways.insert(0, self._worked[1])
        return ways

    def answered(self, way: Address, now: float) -> None:
        """The server said welcome this way."""
        address = self.address
        known = self._worked
        if way == address.ways[0]:
            self._worked = None
        elif known is None or known[:2] != (address, way) or known[2] <= now:
            self._worked = address, way, now + REMEMBER_S

    def _backoff_s(self) -> float:
        doubled = self._options.backoff_s_min * 2.0 ** min(self.rounds, _DOUBLINGS_MAX)
        return self._draw() * min(self._options.backoff_s_max, doubled)

    def failed(self) -> float:
        """The attempt failed before the welcome: how long to wait, in seconds, until the next one."""
        if self._preferred is not None:
            self._preferred = None
            return 0.0
        self._index = (self._index + 1) % len(self.addresses)
        self._tried += 1
        if self._tried < len(self.addresses):
            return 0.0
        self._tried = 0
        self.rounds += 1
        return self._backoff_s()

    def dropped(self, lived_s: float, wait_s: float = 0.0, prefer: str = "") -> float:
        """An established connection is gone after ``lived_s``: how long to wait, in seconds, until the next attempt.

        ``wait_s`` and ``prefer`` are what the server's goodbye asked for.
        """
        self._tried = self._redirects = 0
        self.rounds = 0 if lived_s >= self._options.stable_s else self.rounds + 1
        self._preferred = self._acceptable(prefer)
        return wait_s + self._backoff_s()

    def redirected(self, wait_s: float, prefer: str) -> float:
        """The attempt was answered by a goodbye that names an address or a time: how long to wait, in seconds."""
        self._redirects += 1
        address = self._acceptable(prefer)
        if address is None or self._redirects > REDIRECTS_MAX:
            return max(wait_s, self.failed())
        self._preferred = address
        return wait_s

    def learn(self, urls: Iterable[str]) -> None:
        """Addresses that the server named: tried after those that the caller gave."""
        for url in urls:
            address = self._acceptable(url)
            if address is not None and address not in self.addresses:
                if len(self.addresses) >= self._options.addresses_max:
                    return
                self.addresses.append(address)

    def _acceptable(self, url: str) -> Address | None:
        """``url`` as an address, None when it is none or protects less than those that the caller gave."""
        if not url:
            return None
        try:
            address = parse(url)
        except ConfigError:
            return None  # from a newer server, perhaps: the addresses that are known remain
        if address.protection < self._protection:
            return None
        form = self.addresses[0].form
        if "form=" in url or any(way.scheme == "udp" for way in address.ways):
            return address
        return msgspec.structs.replace(address, form=form)
