"""Datagrams with made-up source addresses against a KCP port: what they leave behind, and what they get.

    python -m relay.test.kcp_spoofed [--datagrams 1000000] [--cipher aes-256-gcm]

Each comes from an address of its own: noise, first segments of KCP in clear, sealed with another key, and damaged.
Printed: sessions, bytes out for each byte in, and how much the process has grown. Without encryption a first segment
that is right begins a session, of which ``unproven_max`` is the limit; with it none does.
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
from relay.test.test_kcp_port import KEY, World
from relay.wire.kcp import segment
from relay.wire.kcp.ciphers import CIPHERS, KEYLESS, cipher_of, key_of

BATCH = 64


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def datagrams(rng: random.Random, cipher: str) -> Iterator[bytes]:
    """Without end."""
    ours, others = (cipher_of(cipher, key_of(KEY)[::step]) for step in (1, -1))
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


def campaign(count: int, cipher: str, seed: int = 1) -> dict[str, Any]:
    """The figures."""
    rng = random.Random(seed)
    world = World(cipher=cipher, idle_timeout_s=10_000)
    source = datagrams(rng, cipher)
    came = went = 0
    before = 0
    for start in range(0, count, BATCH):
        batch = [
            (next(source), (f"198.{18 + (index >> 16) % 2}.{index >> 8 & 255}.{index & 255}", 1 + index % 65_000))
            for index in range(start, min(start + BATCH, count))
        ]
        came += sum(len(each) for each, _ in batch)
        world.port.receive(batch)
        world.clock.advance(0.001)
        went += sum(len(each) for sent in world.socket.sent.values() for each in sent)
        world.socket.sent = {}
        before = before or resident()
    sessions = len(world.port.sessions)
    allowed = 0 if cipher not in KEYLESS else world.settings.unproven_max
    return {
        "cipher": cipher, "datagrams": count, "sessions": sessions, "bytes out for a byte in": went / came,
        "growth in MB": (resident() - before) / 1e6, "ok": sessions <= allowed and went <= 3 * came,
    }  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.kcp_spoofed")
    parser.add_argument("--datagrams", type=int, default=1_000_000)
    parser.add_argument("--cipher", choices=CIPHERS, default="aes-256-gcm")
    options = parser.parse_args()
    return report(campaign(options.datagrams, options.cipher), False)


if __name__ == "__main__":
    sys.exit(main())
