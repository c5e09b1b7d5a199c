"""Listeners for every transport on a ``NodeProcess``, for the campaigns that go over all of them.

=======  ==============================================
tcp      relay's stream, with ``ws`` on the node's page
secure   a stream in the secure channel
udp      a frame a datagram
udps     the same in the secure channel
kcp      KCP with AES-GCM, profile ``game``
quic     QUIC with a certificate of the test
=======  ==============================================
"""

from __future__ import annotations

import socket
from typing import Any, Final

import attrs

from relay.bench.certificates import make_certificate
from relay.client.options import ClientOptions, KcpSettings, TlsFiles
from relay.client.plan import FIRST_USE
from relay.test.node_process import NodeProcess, free_port

KCP: Final = KcpSettings(key="campaign", profile="game")
DATAGRAMS: Final = frozenset({"udp", "udps", "kcp", "quic"})


@attrs.frozen
class Way:
    """One transport of a node. ``url`` gives the URL, also at a proxy's port; ``body_bytes_max``: what fits."""

    name: str
    port: int
    form: str
    body_bytes_max: int = 1_000_000

    def url(self, port: int = 0) -> str:
        """For clients."""
        return self.form.format(port or self.port)

    @property
    def datagrams(self) -> bool:
        """Whether a proxy in between has to carry datagrams."""
        return self.name in DATAGRAMS


def client_options(node: NodeProcess, **more: Any) -> ClientOptions:  # Any: of ClientOptions
    """What clients need for every way to ``node``."""
    return ClientOptions(kcp=KCP, tls=TlsFiles(ca=str(node.folder / "certificate.pem")), **more)


def free_datagram_port() -> int:
    """A loopback port for UDP that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def every_transport(node: NodeProcess, **limits: Any) -> dict[str, Way]:  # Any: keys of the section ``kcp``
    """Add the listeners to ``node``, which has not started; the ways to it by name."""
    secure = free_port()
    udp, udps, kcp, quic = (free_datagram_port() for _ in range(4))
    certificate, key = make_certificate(str(node.folder))
    node.config["listeners"] += [
        {"name": "secure", "address": f"tcp:{secure}:interface=127.0.0.1", "protocols": ["relay"], "secure": {}},
        {"name": "udp", "address": f"udp:127.0.0.1:{udp}", "transport": "udp"},
        {"name": "udps", "address": f"udp:127.0.0.1:{udps}", "transport": "udp", "secure": {}},
        {
            "name": "kcp", "address": f"udp:127.0.0.1:{kcp}", "transport": "kcp",
            "kcp": {"key": KCP.key, "profile": KCP.profile, **limits},
        },
        {
            "name": "quic", "address": f"udp:127.0.0.1:{quic}", "transport": "quic",
            "tls": {"certificate": certificate, "key": key},
        },
    ]  # fmt: skip
    ways = (
        Way("tcp", node.stream, "tcp://127.0.0.1:{}"), Way("ws", node.web, "ws://127.0.0.1:{}/ws"),
        Way("secure", secure, f"tcp://127.0.0.1:{{}}?key={FIRST_USE}"), Way("udp", udp, "udp://127.0.0.1:{}", 1000),
        Way("udps", udps, f"udp://127.0.0.1:{{}}?key={FIRST_USE}", 1000), Way("kcp", kcp, "kcp://127.0.0.1:{}"),
        Way("quic", quic, "quic://127.0.0.1:{}"),
    )  # fmt: skip
    return {way.name: way for way in ways}
