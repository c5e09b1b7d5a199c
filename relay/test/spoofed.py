"""Datagrams with made-up source addresses against the ports of UDP transports: what they leave behind, what they get.

    python -m relay.test.spoofed [udp udp-secure kcp kcp-null …] [--datagrams 1000000] [--json]

Each comes from an address of its own that would not receive the answer: noise, beginnings as a client sends them, with
cookies of others, sealed with other keys, and damaged. For each transport are printed: sessions there are at the end,
bytes out for each byte in (over all, and the most that one address got), and how much the process has grown. Where
nothing is encrypted KCP has no proof of the address: a first segment that is right begins a session, of which
``unproven_max`` is the limit; everywhere else none may begin.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from relay.test import quic_fixture, quic_spoofed
from relay.test.test_kcp_port import KEY, World
from relay.test.test_udp import Post
from relay.wire import udp_packets as packets
from relay.wire.kcp import segment
from relay.wire.kcp.ciphers import KEYLESS, cipher_of, key_of
from relay.wire.secure import ClientHandshake

BATCH: Final = 64
AMPLIFICATION_MAX: Final = 3
GROWTH_BYTES_MAX: Final = 16_000_000
"""The process may grow by this much, whatever the number of datagrams."""

Place = tuple[str, int]


class Target(Protocol):
    """A port under test. ``allowed``: sessions that may be there at the end."""

    allowed: int

    def datagrams(self, rng: random.Random) -> Iterator[bytes]:
        """Without end."""

    def give(self, batch: list[tuple[bytes, Place]]) -> dict[Place, int]:
        """Let them arrive, and a millisecond pass; the bytes that were sent, by address."""

    def sessions(self) -> int:
        """How many there are."""


class KcpTarget:
    """KCP with one cipher."""

    def __init__(self, cipher: str) -> None:
        self.cipher = cipher
        self.world = World(cipher=cipher, idle_timeout_s=10_000)
        self.allowed = 0 if cipher not in KEYLESS else self.world.settings.unproven_max

    def datagrams(self, rng: random.Random) -> Iterator[bytes]:
        """Noise, first segments in clear, sealed with another key, and damaged."""
        ours, others = (cipher_of(self.cipher, key_of(KEY)[::step]) for step in (1, -1))
        while True:
            conv = rng.getrandbits(32)
            first = segment.HEADER.pack(conv, segment.PUSH, 0, 32, rng.getrandbits(32), 0, 0, 4) + rng.randbytes(4)
            nonce = rng.randbytes(ours.nonce_bytes)
            yield rng.randbytes(rng.randrange(1, 200))
            yield first
            yield others.seal(first, nonce)
            damaged = bytearray(ours.seal(first, nonce))
            damaged[rng.randrange(ours.nonce_bytes, len(damaged))] ^= 1 << rng.randrange(8)
            yield bytes(damaged)

    def give(self, batch: list[tuple[bytes, Place]]) -> dict[Place, int]:
        """See ``Target``."""
        self.world.port.receive(batch)
        self.world.clock.advance(0.001)
        sent, self.world.socket.sent = self.world.socket.sent, {}
        return {place: sum(map(len, datagrams)) for place, datagrams in sent.items()}

    def sessions(self) -> int:
        """See ``Target``."""
        return len(self.world.port.sessions)


class UdpTarget:
    """relay over UDP, with or without the secure channel."""

    allowed = 0

    def __init__(self, secure: bool) -> None:
        self.secure = secure
        self.post = Post(secure=secure)

    def datagrams(self, rng: random.Random) -> Iterator[bytes]:
        """Noise, hellos without cookie, with a made-up one and with one made for another address, packets and finishes
        of no connection."""
        secure = ClientHandshake(rng.randbytes(32), lambda _: True).hello if self.secure else b""
        while True:
            nonce = rng.randbytes(packets.NONCE_BYTES)
            cookie = self.post.port._openings._cookies.make(b"elsewhere", nonce, self.post.clock.seconds())
            yield rng.randbytes(rng.randrange(1, 300))
            yield packets.encode_hello(packets.Hello(nonce, secure=secure), packets.HELLO_BYTES_MIN)
            yield packets.encode_hello(packets.Hello(nonce, rng.randbytes(packets.COOKIE_BYTES), secure))
            yield packets.encode_hello(packets.Hello(nonce, cookie, secure), packets.HELLO_BYTES_MIN)
            yield bytes((packets.PACKET,)) + rng.randbytes(rng.randrange(100))
            yield bytes((packets.FINISH,)) + rng.randbytes(rng.randrange(100))

    def give(self, batch: list[tuple[bytes, Place]]) -> dict[Place, int]:
        """See ``Target``."""
        self.post.port.receive(batch)
        self.post.clock.advance(0.001)
        sent: dict[Place, int] = {}
        for datagram, place in self.post.wire.sent:
            sent[place] = sent.get(place, 0) + len(datagram)
        self.post.wire.sent = []
        return sent

    def sessions(self) -> int:
        """See ``Target``."""
        return len(self.post.port.connections) + len(self.post.port._openings)


class QuicTarget:
    """QUIC; connections in the middle of their handshake are counted by ``relay.test.quic_spoofed``."""

    allowed = 0

    def __init__(self) -> None:
        self.world = quic_fixture.World(retry="load")

    def datagrams(self, rng: random.Random) -> Iterator[bytes]:
        """Noise, first datagrams of real clients, the same damaged, and other versions."""
        return quic_spoofed.datagrams(rng, quic_spoofed.initials(self.world))

    def give(self, batch: list[tuple[bytes, Place]]) -> dict[Place, int]:
        """See ``Target``."""
        self.world.port.receive(batch)
        self.world.clock.advance(0.001)
        sent: dict[Place, int] = {}
        for datagram, place in self.world.wire.take():
            sent[place] = sent.get(place, 0) + len(datagram)
        return sent

    def sessions(self) -> int:
        """See ``Target``."""
        return len(self.world.gate.connections)


TARGETS: Final[dict[str, Callable[[], Target]]] = {
    "udp": lambda: UdpTarget(False),
    "udp-secure": lambda: UdpTarget(True),
    "kcp": lambda: KcpTarget("aes-256-gcm"),
    "kcp-aes": lambda: KcpTarget("aes"),
    "kcp-null": lambda: KcpTarget("null"),
    "quic": QuicTarget,
}
"""By name; a transport over datagrams that is new belongs here."""


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def campaign(name: str, count: int, seed: int = 1) -> dict[str, Any]:  # Any: figures for printing
    """The figures of one transport."""
    target = TARGETS[name]()
    source = target.datagrams(random.Random(seed))
    came = went = before = 0
    most = 0.0
    for start in range(0, count, BATCH):
        batch = [
            (next(source), (f"198.{18 + (index >> 16) % 2}.{index >> 8 & 255}.{index & 255}", 1 + index % 65_000))
            for index in range(start, min(start + BATCH, count))
        ]
        sent = target.give(batch)
        came += sum(len(each) for each, _ in batch)
        went += sum(sent.values())
        sizes = {place: len(each) for each, place in batch}
        # What goes to somebody who sent in an earlier batch is counted over all only.
        most = max([most, *(size / sizes[place] for place, size in sent.items() if sizes.get(place))])
        before = before or resident()
    grown = resident() - before
    sessions = target.sessions()
    return {
        "transport": name, "datagrams": count, "sessions": sessions, "bytes out for a byte in": round(went / came, 4),
        "most of one address": round(most, 3), "growth in MB": round(grown / 1e6, 1),
        "ok": sessions <= target.allowed and most <= AMPLIFICATION_MAX and went <= AMPLIFICATION_MAX * came
        and (grown <= GROWTH_BYTES_MAX or target.allowed > 0),
    }  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transports", nargs="*", metavar="transport", help=f"of {', '.join(TARGETS)}; all if none")
    parser.add_argument("--datagrams", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in options.transports:
        if name not in TARGETS:
            parser.error(f"{name} is none of {', '.join(TARGETS)}")
    good = True
    for name in options.transports or TARGETS:
        figures = campaign(name, options.datagrams)
        good = good and figures["ok"]
        if options.json:
            print(json.dumps(figures), flush=True)
        else:
            print("  ".join(f"{what} {value}" for what, value in figures.items()), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
