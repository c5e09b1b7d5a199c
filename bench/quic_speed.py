"""QUIC's speed: quic-go's client and relay's own against relay's server.

    python bench/quic_speed.py [--rounds 3] [--mbytes 100] [--mtu 1200]

One way in both directions, the handshake, and with a ticket the first answer (0-RTT). Each row is the median of the
rounds, with the smallest and largest. ``of a core``: bytes for each second of the processor that the server (and for
relay's client the client) took, which is the same on a machine that has other work. The server is the product's port
on relay's reactor, in a process of its own (``relay.test.quic_peer``); relay's client runs on asyncio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from typing import Any, Final

from kcp_speed import cpu_s, pinned

from relay.client.aio import AsyncioRuntime
from relay.client.options import ClientOptions, TlsFiles
from relay.client.plan import parse
from relay.test.interop import build, go
from relay.test.interop_quic import our_server, run

COUNT: Final = 40
"""Connections of which the median is taken."""


class FlowLine:
    """A ``relay.client.line.Line`` that asks for bytes, or sends them and waits for one."""

    def __init__(self, back: int, coming: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dropped = False
        self.back = back
        self.coming = coming
        self.full = False
        self.transport: Any = None
        self.ready = True
        self.opening: Any = None
        self.framing: Any = None

    def opened(self, transport: Any, reached: bool = True) -> None:
        """Ask."""
        self.transport = transport
        transport.write(self.back.to_bytes(8) + self.coming.to_bytes(8))
        self.go_on()

    def reached(self) -> None:
        """Nothing waits for that."""

    def go_on(self) -> None:
        """Send while there is room."""
        while self.coming > 0 and not self.full:
            chunk = bytes(min(65_536, self.coming))
            self.coming -= len(chunk)
            self.transport.write(chunk)

    def writable(self, yes: bool) -> None:
        """Room, or none."""
        self.full = not yes
        self.go_on()

    def received(self, data: bytes) -> None:
        """Count."""
        self.back -= len(data)
        if self.back <= 0 and not self.done.done():
            self.done.set_result(None)

    def lost(self, reason: str) -> None:
        """Too early."""
        if not self.done.done():
            self.done.set_exception(ConnectionError(reason))


async def own(port: int, folder: str, back: int, coming: int) -> float:
    """Seconds that relay's client takes."""
    options = ClientOptions(tls=TlsFiles(ca=f"{folder}/certificate.pem"))
    runtime = AsyncioRuntime(asyncio.get_running_loop(), options)
    line: Any = FlowLine(back, coming)
    start = time.monotonic()
    # In the JSON form the transport passes on whatever is written.
    line.opening = runtime.open(parse(f"quic://127.0.0.1:{port}?form=json"), line)
    await asyncio.wait_for(line.done, 120)
    seconds = time.monotonic() - start
    line.transport.abort()
    return seconds


def one_way(total: int, settings: dict[str, Any], client: str, upload: bool) -> dict[str, float]:
    """MB a second, and of a core."""
    with tempfile.TemporaryDirectory() as folder:
        served = our_server(folder, [{"serve": "flow", "settings": settings}], preexec_fn=pinned(0))
        with served as (pid, (port,)):
            before, own_before = cpu_s(pid), time.process_time()
            figures: dict[str, float] = {}
            if client == "quic-go":
                seconds = run("upload" if upload else "download", port, folder, f"-bytes={total}")["seconds"]
            else:
                seconds = asyncio.run(own(port, folder, 1 if upload else total, total if upload else 0))
                figures["client, of a core"] = total / 1e6 / (time.process_time() - own_before)
            figures["MB/s"] = total / 1e6 / seconds
            figures["server, of a core"] = total / 1e6 / max(cpu_s(pid) - before, 0.01)
            return figures


def opening() -> dict[str, float]:
    """Milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        served = our_server(folder, [{"serve": "gate"}], preexec_fn=pinned(0))
        with served as (pid, (port,)):
            before = cpu_s(pid)
            found = run("early", port, folder, f"-count={COUNT}")
            return {
                "handshake ms": found["handshake_ms"], "0-RTT first answer ms": found["early_ms"],
                "fastest handshake ms": found["handshake_min_ms"], "fastest answer ms": found["early_min_ms"],
                "server ms a connection": (cpu_s(pid) - before) / (2 * COUNT + 1) * 1000,
            }  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python bench/quic_speed.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mbytes", type=int, default=100)
    parser.add_argument("--mtu", type=int, default=1200)
    options = parser.parse_args()
    compiler = go()
    if compiler is None:
        print("Go is not installed")
        return 1
    build(compiler, "quic")
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})  # the client's, as in the other measurements
    settings = {"mtu_bytes": options.mtu}
    rows: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for client in ("quic-go", "relay"):
            for upload in (False, True):
                way = f"{client} to relay" if upload else f"relay to {client}"
                for what, figure in one_way(options.mbytes * 1_000_000, settings, client, upload).items():
                    rows.setdefault(f"{way}, {what}", []).append(figure)
        for what, figure in opening().items():
            rows.setdefault(what, []).append(figure)
    print(f"{'':40} {'median':>8} {'least':>8} {'most':>8}   (datagrams of {options.mtu} bytes)")
    for what, figures in rows.items():
        print(f"{what:40} {statistics.median(figures):8.1f} {min(figures):8.1f} {max(figures):8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
