"""Echo and fan-out on relay's reactor and on Twisted's, in the same run.

    python bench/reactor_echo.py [--rounds 5] [--seconds 2] [--connections 1000] [--reactors uv,epoll,asyncio,bare]

Workloads: ``echo-1``, every connection has one frame of 128 bytes in flight; ``echo-32``, it sends 32 frames at once
and waits for all, which the server writes one by one; ``fan-out``, one connection publishes with 20 frames in flight
and the server writes each to all connections; ``tls-1``, as echo-1 over TLS 1.3; ``unix-1``, over a UNIX socket.

Reactors: ``uv`` is ours, ``epoll`` Twisted's default on Linux, ``asyncio`` Twisted's asyncio reactor on a uvloop loop,
``bare`` an asyncio protocol on uvloop without Twisted, where each frame is one ``transport.write``.

For each round each reactor serves each workload in a process of its own on core 0; the load comes from uvloop in this
process, on core 1.  Printed are the median rate, and the median processor time of the server (user and system) for
one frame delivered, with the smallest and largest, and the ratios to epoll.  Processor time is the steadier
figure; where the load generator is the limit (``busy`` of the server well under 100 %), only that one counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import uvloop

FRAME = b"x" * 128
PUBLISHED_AT_ONCE = 20
WORKLOADS = ("echo-1", "echo-32", "fan-out", "tls-1", "unix-1")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# The server


def serve(name: str, workload: str, address: str) -> None:
    """Serve ``workload`` on the reactor ``name`` until killed; say "ready" once it listens."""
    if name == "bare":
        uvloop.run(serve_bare(workload, address))
        return
    if name == "uv":
        from relay.reactor import uv

        uv.install()
    elif name == "asyncio":
        from twisted.internet import asyncioreactor

        asyncioreactor.install(uvloop.new_event_loop())
    else:
        from twisted.internet import epollreactor

        epollreactor.install()
    from twisted.internet import protocol
    from twisted.internet import reactor as installed
    from twisted.internet import ssl as twisted_ssl

    reactor: Any = installed  # its interfaces are not those of its type
    connections: list[Any] = []  # of the protocols below

    class Frames(protocol.Protocol):
        """Takes frames out of what arrives, and answers them one by one."""

        rest = b""

        def connectionMade(self) -> None:
            connections.append(self)

        def dataReceived(self, data: bytes) -> None:
            data = self.rest + data
            end = len(data) - len(data) % len(FRAME)
            self.rest = data[end:]
            for start in range(0, end, len(FRAME)):
                self.answer(data[start : start + len(FRAME)])

        def answer(self, frame: bytes) -> None:
            assert self.transport is not None
            self.transport.write(frame)

    class FanOut(Frames):
        def answer(self, frame: bytes) -> None:
            for connection in connections:
                connection.transport.write(frame)

    factory: Any = protocol.Factory.forProtocol(FanOut if workload == "fan-out" else Frames)
    factory.noisy = False
    if workload == "unix-1":
        reactor.listenUNIX(address, factory, backlog=4096)
    elif workload == "tls-1":
        context = twisted_ssl.DefaultOpenSSLContextFactory(f"{address}/key", f"{address}/cert")
        print(reactor.listenSSL(0, factory, context, backlog=4096, interface="127.0.0.1").getHost().port)
    else:
        print(reactor.listenTCP(0, factory, backlog=4096, interface="127.0.0.1").getHost().port)
    reactor.callWhenRunning(print, "ready", flush=True)
    reactor.run()


async def serve_bare(workload: str, address: str) -> None:
    """Serve without Twisted."""
    connections: list[asyncio.Transport] = []

    class Frames(asyncio.Protocol):
        """The same as above."""

        rest = b""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: asyncio.Transport = transport  # type: ignore[assignment]
            connections.append(self.transport)

        def data_received(self, data: bytes) -> None:
            data = self.rest + data
            end = len(data) - len(data) % len(FRAME)
            self.rest = data[end:]
            for start in range(0, end, len(FRAME)):
                frame = data[start : start + len(FRAME)]
                for transport in connections if workload == "fan-out" else [self.transport]:
                    transport.write(frame)

    loop = asyncio.get_running_loop()
    if workload == "unix-1":
        await loop.create_unix_server(Frames, address, backlog=4096)
    else:
        context = None
        if workload == "tls-1":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{address}/cert", f"{address}/key")
        server = await loop.create_server(Frames, "127.0.0.1", 0, backlog=4096, ssl=context)
        print(server.sockets[0].getsockname()[1])
    print("ready", flush=True)
    await asyncio.Event().wait()


# The load


class Load(asyncio.Protocol):
    """One connection of the load: keeps ``depth`` frames in flight."""

    delivered = 0  # bytes, of all connections

    def __init__(self, depth: int) -> None:
        self._batch = FRAME * depth
        self._awaited = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def begin(self) -> None:
        """Send the first frames."""
        self._awaited = len(self._batch)
        self._transport.write(self._batch)

    def data_received(self, data: bytes) -> None:
        """Count; send again when all is answered."""
        Load.delivered += len(data)
        self._awaited -= len(data)
        if self._awaited <= 0 and self._batch:
            self._awaited += len(self._batch)
            self._transport.write(self._batch)


class Publisher(Load):
    """The connection that publishes: one frame for each that comes back to it."""

    def data_received(self, data: bytes) -> None:
        """Count; publish as many frames as came."""
        Load.delivered += len(data)
        self._awaited += len(data)
        frames, self._awaited = divmod(self._awaited, len(FRAME))
        if frames:
            self._transport.write(FRAME * frames)

    def begin(self) -> None:
        """Publish the first frames."""
        self._transport.write(FRAME * PUBLISHED_AT_ONCE)


class Stalled(RuntimeError):
    """The server was not given the processor at all: a machine shared with others."""


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def load(workload: str, address: str, port: int, connections: int, seconds: float, pid: int) -> list[float]:
    """Run the load; return the rate in frames a second, the server's microseconds for a frame, how busy it was."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if workload == "fan-out":
        makers = [lambda: Load(0)] * (connections - 1) + [lambda: Publisher(1)]
    else:
        makers = [lambda: Load(32 if workload == "echo-32" else 1)] * connections
    made: list[Load] = []
    for make in makers:
        if workload == "unix-1":
            _, one = await loop.create_unix_connection(make, address)
        else:
            _, one = await loop.create_connection(make, "127.0.0.1", port, ssl=context if workload == "tls-1" else None)
        made.append(one)
    for one in made[-1:] if workload == "fan-out" else made:
        one.begin()
    await asyncio.sleep(0.3)
    bytes_before, used_before, began = Load.delivered, cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    frames = (Load.delivered - bytes_before) / len(FRAME)
    used, took = cpu_s(pid) - used_before, time.monotonic() - began
    if not frames:
        raise Stalled(f"{workload}: nothing came back in {took:.1f} s")
    return [frames / took, 1e6 * used / frames, used / took]


def measure(name: str, workload: str, connections: int, seconds: float, directory: str) -> list[float]:
    """Start a server, load it, stop it; return what ``load`` returns."""
    address = f"{directory}/{name}" if workload == "unix-1" else directory
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--serve", name, workload, address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )
    try:
        assert server.stdout is not None
        port = 0
        while (line := server.stdout.readline().strip()) != "ready":
            port = int(line)
        figures: list[float] = uvloop.run(load(workload, address, port, connections, seconds, server.pid))
        return figures
    finally:
        server.kill()
        server.wait()
        if workload == "unix-1":
            Path(address).unlink(missing_ok=True)


def make_certificate(directory: str) -> None:
    """Write a key and a certificate signed with it."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-days", "2", "-keyout", f"{directory}/key", "-out", f"{directory}/cert"),
        ],
        check=True,
        capture_output=True,
    )


def main() -> None:
    """Run as the command line says, and print a table."""
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--reactors", default="uv,epoll,asyncio,bare")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    reactors, workloads = options.reactors.split(","), options.workloads.split(",")
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        make_certificate(directory)
        for _ in range(options.rounds):
            for workload in workloads:
                for name in reactors:
                    try:
                        figures = measure(name, workload, options.connections, options.seconds, directory)
                    except Stalled as stalled:
                        print(f"{name}, {stalled}; this round counts one less", file=sys.stderr)
                        continue
                    found[workload, name].append(figures)
                    print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{options.connections} connections, {options.rounds} rounds of {options.seconds:g} s")
    print("workload  reactor     frames/s   (min … max)           us each  (min … max)     busy   rate  cpu (x epoll)")
    for workload in workloads:
        for name in reactors:
            rates, costs, busy = zip(*found[workload, name], strict=True)
            line = f"{workload:<9} {name:<8} {statistics.median(rates):>11,.0f}"
            line += f"   {min(rates):>9,.0f} … {max(rates):>9,.0f}"
            line += f"   {statistics.median(costs):>8.2f}   {min(costs):>5.2f} … {max(costs):<6.2f}"
            line += f"  {statistics.median(busy):>5.0%}"
            if "epoll" in reactors:
                epoll_rates, epoll_costs, _ = zip(*found[workload, "epoll"], strict=True)
                line += f"   {statistics.median(rates) / statistics.median(epoll_rates):>4.2f}"
                line += f"  {statistics.median(epoll_costs) / statistics.median(costs):>4.2f}"
            print(line)


if __name__ == "__main__":
    main()
