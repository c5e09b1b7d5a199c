"""Servers that the bench starts: processes on one core, with their processor time and memory read from ``/proc``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from relay.errors import ConfigError

START_S: Final = 30.0
STOP_S: Final = 10.0
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
JWT_SECRET: Final = "bench-secret-of-thirty-two-bytes!!"


def cores() -> tuple[set[int], set[int]]:
    """Cores for the server and for the load: one of their own each where there are two, else the same for both."""
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()  # not on this system: pin does nothing
    usable = sorted(os.sched_getaffinity(0))
    return ({usable[0]}, {usable[1]}) if len(usable) > 1 else (set(usable), set(usable))


def pin(to: set[int]) -> None:
    """Keep this process on those cores, where the system can."""
    if to:
        os.sched_setaffinity(0, to)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """User and system time of a process and its living children so far, to a clock tick (usually 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S + sum(cpu_s(int(child)) for child in children)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_open(address: str) -> bool:
    """Whether somebody accepts connections at a URL; of datagrams nobody can tell."""
    scheme, _, rest = address.partition("?")[0].partition("://")
    if scheme in ("udp", "kcp", "quic"):
        return True
    family = socket.AF_UNIX if scheme == "unix" else socket.AF_INET
    host, _, port = rest.partition("/")[0].rpartition(":")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(rest if scheme == "unix" else (host, int(port)))
        except OSError:
            return False
        return True


class Server:
    """A process that serves ``addresses`` (transport -> URL) on the server's core while the ``with`` block lasts.

    ``start_s``: time from starting the process to its first accepted connection. ``log``: what it wrote.
    """

    def __init__(self, argv: Sequence[str], addresses: dict[str, str], folder: Path, pinned: bool = True) -> None:
        self.argv = list(argv)
        self.addresses = addresses
        self.folder = folder
        self.start_s = 0.0
        self._pinned = pinned
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def __enter__(self) -> Server:
        mine = cores()[0]
        began = time.monotonic()
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=(lambda: pin(mine)) if self._pinned else None,
            )  # fmt: skip
        for address in self.addresses.values():
            while not is_open(address):
                if self._process.poll() is not None or time.monotonic() - began > START_S:
                    self.__exit__()
                    raise ConfigError(f"{self.argv[0]} did not start: {self.log()[-1000:]}")
                time.sleep(0.005)
            self.start_s = self.start_s or time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A directory for a server, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="relay-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def node_config(at: Path, reactor: str, jwt: bool = False) -> tuple[dict[str, Any], dict[str, str]]:  # Any: JSON
    """A node's configuration with a stream, a Unix and a WebSocket listener, and its addresses."""
    stream, web = free_port(), free_port()
    local = "interface=127.0.0.1"
    config: dict[str, Any] = {  # Any: JSON
        "data": str(at / "data"),
        "reactor": reactor,
        "listeners": [
            {"name": "stream", "address": f"tcp:{stream}:{local}", "protocols": ["relay"]},
            {"name": "unix", "address": f"unix:{at}/socket", "protocols": ["relay"]},
            {"name": "web", "address": f"tcp:{web}:{local}", "protocols": ["http", "websocket"]},
        ],
        "channels": [
            {"pattern": "durable.**", "history": {"kind": "durable", "messages_max": 10_000}},
            {"pattern": "memory.**", "history": {"kind": "memory", "messages_max": 0}},
        ],
        "handlers": {"plugins": ["relay.bench.serving:plugin"], "discover": False},
        "limits": {"accepts_per_s_max": 1_000_000, "subscriptions_max": 1_000_000, "frame_bytes_max": 4_194_304},
        "slow": {"queue_bytes_max": 67_108_864},
        "timing": {"drain_s": 0.0, "close_timeout_s": 0.2},
        "log": {"level": "warn"},
    }
    if jwt:
        config["auth"] = {"order": ["jwt"], "jwt": [{"algorithms": ["HS256"], "secret": JWT_SECRET}]}
    urls = {"tcp": f"tcp://127.0.0.1:{stream}", "unix": f"unix://{at}/socket", "ws": f"ws://127.0.0.1:{web}/ws"}
    return config, urls


def add_transport(config: dict[str, Any], urls: dict[str, str], at: Path, name: str) -> None:  # Any: JSON
    """A listener beside those of ``node_config``: their figures are to stay what they are. Trust is RELAY_CA's."""
    if name in urls:
        return
    port = free_port()
    tls = {}
    if name in ("tls", "quic"):
        from relay.bench.certificates import make_certificate  # imports cryptography: only for who needs it

        certificate, key = make_certificate(str(at))
        os.environ["RELAY_CA"] = certificate
        tls = {"tls": {"certificate": certificate, "key": key}}
    stream = {"name": name, "address": f"tcp:{port}:interface=127.0.0.1", "protocols": ["relay"]}
    datagrams = {"name": name, "address": f"udp:127.0.0.1:{port}"}
    listener, urls[name] = {
        "tls": ({**stream, **tls}, f"tls://127.0.0.1:{port}"),
        "secure": ({**stream, "secure": {}}, f"tcp://127.0.0.1:{port}?key=first-use"),
        "udp": ({**datagrams, "transport": "udp"}, f"udp://127.0.0.1:{port}"),
        "udps": ({**datagrams, "transport": "udp", "secure": {}}, f"udp://127.0.0.1:{port}?key=first-use"),
        "kcp": ({**datagrams, "transport": "kcp", "kcp": {"key": "bench"}}, f"kcp://127.0.0.1:{port}?key=bench"),
        "quic": ({**datagrams, "transport": "quic", **tls}, f"quic://127.0.0.1:{port}"),
    }[name]
    config["listeners"].append(listener)


@contextlib.contextmanager
def node(
    reactor: str = "auto", jwt: bool = False, prepare: Callable[[Path], None] | None = None, transport: str = "tcp"
) -> Iterator[Server]:  # fmt: skip
    """A relay node of this installation. ``prepare(data)`` is called before, with its data directory's name;
    ``transport``: with a listener for this one, too."""
    with folder() as at:
        config, urls = node_config(at, reactor, jwt)
        add_transport(config, urls, at, transport)
        if prepare is not None:
            prepare(at / "data")
        (at / "relay.json").write_text(json.dumps(config))
        twistd = shutil.which("twistd", path=os.path.dirname(sys.executable)) or "twistd"
        argv = [sys.executable, twistd, "--nodaemon", "--pidfile=", "relay", f"--config={at}/relay.json"]
        with Server(argv, urls, at) as server:
            yield server


@contextlib.contextmanager
def process(argv: Iterable[str], addresses: dict[str, str]) -> Iterator[Server]:
    """Any other server."""
    with folder() as at, Server(list(argv), addresses, at) as server:
        yield server


@contextlib.contextmanager
def bare_echo(reactor: str = "uv") -> Iterator[Server]:
    """The bare echo of ``relay.bench.serving``."""
    port = free_port()
    argv = [sys.executable, "-m", "relay.bench.serving", reactor, str(port)]
    with process(argv, {"tcp": f"tcp://127.0.0.1:{port}"}) as server:
        yield server
