"""Datagrams with made-up source addresses against a QUIC port: what they leave behind, and what they get.

    python -m relay.test.quic_spoofed [--datagrams 1000000] [--retry load]

Each comes from an address of its own: noise with short and long headers, first datagrams of real clients, the same
damaged, and another version. Printed: sessions, connections in the middle of their handshake (``retry_from`` is their
limit), bytes out for each byte in, of all and of the address that got most, and how much the process has grown.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relay.test.node_process import report
from relay.test.quic_fixture import Client, World

BATCH = 64
REAL = 100
"""First datagrams of real clients; they are used again and again, from other addresses."""


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def initials(world: World) -> list[bytes]:
    """What clients send first."""
    found = []
    for _ in range(REAL):
        client = Client(world)
        client.start()
        found.append(client.datagrams()[0][0])
    world.clients.clear()
    return found


def datagrams(rng: random.Random, real: list[bytes]) -> Iterator[bytes]:
    """Without end."""
    while True:
        yield bytes((0x40 | rng.randrange(64),)) + rng.randbytes(rng.randrange(200))
        yield bytes((0xC0 | rng.randrange(64),)) + b"\0\0\0\1\x08" + rng.randbytes(1200)
        yield rng.choice(real)
        damaged = bytearray(rng.choice(real))
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        yield bytes(damaged)
        yield bytes((0xC0,)) + rng.randbytes(4) + b"\x08" + rng.randbytes(8) + b"\x08" + rng.randbytes(1180)


def campaign(count: int, retry: str, seed: int = 1) -> dict[str, Any]:
    """The figures."""
    rng = random.Random(seed)
    world = World(retry=retry)
    source = datagrams(rng, initials(world))
    came = went = before = most = 0
    worst = 0.0
    for start in range(0, count, BATCH):
        batch = [
            (next(source), (f"198.{18 + (index >> 16) % 2}.{index >> 8 & 255}.{index & 255}", 1 + index % 65_000))
            for index in range(start, min(start + BATCH, count))
        ]
        sizes = {place: len(datagram) for datagram, place in batch}
        came += sum(sizes.values())
        world.port.receive(batch)
        world.clock.advance(0.001)
        back: dict[Any, int] = {}
        for datagram, place in world.wire.take():
            back[place] = back.get(place, 0) + len(datagram)
        went += sum(back.values())
        # What is sent again later goes to addresses of earlier batches.
        worst = max([worst, *(size / sizes[place] for place, size in back.items() if place in sizes)])
        most = max(most, len(world.port.transports))
        before = before or resident()
    sessions = len(world.gate.connections)
    return {
        "retry": retry, "datagrams": count, "sessions": sessions, "in handshake at most": most,
        "bytes out for a byte in": went / came, "of one address": worst, "growth in MB": (resident() - before) / 1e6,
        "ok": sessions == 0 and most <= world.settings.retry_from + BATCH and went <= 3 * came and worst <= 3,
    }  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.quic_spoofed")
    parser.add_argument("--datagrams", type=int, default=1_000_000)
    parser.add_argument("--retry", choices=("load", "always", "never"), default="load")
    options = parser.parse_args()
    return report(campaign(options.datagrams, options.retry), False)


if __name__ == "__main__":
    sys.exit(main())
