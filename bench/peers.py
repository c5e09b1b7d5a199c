"""The servers that relay is compared with: how each is started, and why it is missing where it cannot be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from relay.bench.server import Server, bare_echo, folder, free_port, node, process
from relay.errors import RelayError

HERE = Path(__file__).parent
BUILD = HERE / ".build"
VENV = BUILD / "venv" / "bin"
NPM = BUILD / "npm" / "node_modules" / "socket.io"
SBIN = "/usr/sbin:/usr/local/sbin"
FAILED_MAX = 200


class Missing(Exception):
    """A peer that is not here; its text says why."""


@attrs.frozen
class Peer:
    """``dialect`` and ``transport`` are what the generator speaks to it."""

    name: str
    version: str
    server: Server
    dialect: str
    transport: str = "tcp"

    @property
    def address(self) -> str:
        """Where the generator connects to."""
        return self.server.addresses[self.transport]


def executable(name: str) -> str:
    """The path of an installed program."""
    found = shutil.which(name) or shutil.which(name, path=SBIN)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def output(*argv: str) -> str:
    """What a command prints."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd="/tmp")
    return (done.stdout + done.stderr).strip()


def venv() -> Path:
    """A virtual environment with crossbar and socketify; made at first use."""
    if not (VENV / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV.parent)], check=True)
    if not (VENV / "crossbar").exists():
        subprocess.run([VENV / "pip", "install", "-q", "crossbar", "socketify"], check=False, stdout=subprocess.DEVNULL)
    return VENV


@contextlib.contextmanager
def nats() -> Iterator[Peer]:
    """nats-server of the distribution."""
    program = executable("nats-server")
    port = free_port()
    argv = [program, "-a", "127.0.0.1", "-p", str(port)]
    with process(argv, {"tcp": f"tcp://127.0.0.1:{port}"}) as server:
        yield Peer("nats-server", output(program, "--version").split()[-1], server, "nats")


@contextlib.contextmanager
def mosquitto() -> Iterator[Peer]:
    """mosquitto of the distribution, QoS 0."""
    program = executable("mosquitto")
    port = free_port()
    with folder() as at:
        conf = at / "mosquitto.conf"
        conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_type error\nset_tcp_nodelay true\n")
        conf.chmod(0o644)
        at.chmod(0o755)
        with Server([program, "-c", str(conf)], {"tcp": f"tcp://127.0.0.1:{port}"}, at) as server:
            version = re.search(r"\d+\.\d+\.\d+", output(program, "-h"))
            yield Peer("mosquitto", version.group() if version else "?", server, "mqtt")


@contextlib.contextmanager
def crossbar() -> Iterator[Peer]:
    """crossbar from PyPI: WAMP over RawSocket with JSON."""
    program = venv() / "crossbar"
    if not program.exists():
        raise Missing("crossbar cannot be installed from PyPI here")
    port = free_port()
    config = json.loads((HERE / "peers" / "crossbar.json").read_text())
    config["workers"][0]["transports"][0]["endpoint"]["port"] = port
    with folder() as at:
        (at / "config.json").write_text(json.dumps(config))
        argv = [str(program), "start", "--cbdir", str(at), "--loglevel", "warn"]
        with Server(argv, {"tcp": f"tcp://127.0.0.1:{port}"}, at) as server:
            yield Peer("crossbar", package("crossbar"), server, "wamp")


def package(name: str) -> str:
    """The version of a package in the peers' virtual environment."""
    return output(str(VENV / "python"), "-c", f"import importlib.metadata as m; print(m.version({name!r}))")


@contextlib.contextmanager
def socketify() -> Iterator[Peer]:
    """uWebSockets by way of socketify from PyPI."""
    python = venv() / "python"
    if subprocess.run([python, "-c", "import socketify"], capture_output=True).returncode:
        raise Missing("socketify cannot be imported: " + output(str(python), "-c", "import socketify")[-FAILED_MAX:])
    port = free_port()
    argv = [str(python), str(HERE / "peers" / "topics_server.py"), str(port)]
    with process(argv, {"ws": f"ws://127.0.0.1:{port}/ws"}) as server:
        yield Peer("uWebSockets (socketify)", package("socketify"), server, "topics", "ws")


@contextlib.contextmanager
def socket_io() -> Iterator[Peer]:
    """Socket.IO from npm."""
    program = executable("node")
    if not NPM.is_dir():
        NPM.parent.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [executable("npm"), "install", "--silent", "--prefix", str(NPM.parent.parent), "socket.io"], check=False
        )
    if not NPM.is_dir():
        raise Missing("socket.io cannot be installed from npm here")
    port = free_port()
    os.environ["SOCKETIO"] = str(NPM)
    argv = [program, str(HERE / "peers" / "socketio_server.js"), str(port)]
    with process(argv, {"ws": f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"}) as server:
        version = json.loads((NPM / "package.json").read_text())["version"]
        yield Peer("socket.io", f"{version} on node {output(program, '--version')}", server, "socketio", "ws")


@contextlib.contextmanager
def relay(reactor: str, transport: str = "tcp", jwt: bool = False) -> Iterator[Peer]:
    """This checkout."""
    with node(reactor, jwt) as server:
        yield Peer(f"relay ({reactor}, {transport})", commit(), server, "relay", transport)


@contextlib.contextmanager
def bare() -> Iterator[Peer]:
    """A server that only echoes, on relay's reactor."""
    with bare_echo("uv") as server:
        yield Peer("bare echo (uv)", commit(), server, "bare")


@contextlib.contextmanager
def autobahn() -> Iterator[Peer]:
    """Autobahn's handshake and nothing else, on relay's reactor."""
    port = free_port()
    argv = [sys.executable, str(HERE / "peers" / "handshake_server.py"), "uv", str(port)]
    with process(argv, {"ws": f"ws://127.0.0.1:{port}/ws"}) as server:
        version = output(sys.executable, "-c", "import importlib.metadata as m; print(m.version('autobahn'))")
        yield Peer("Autobahn's handshake (uv)", version, server, "websocket", "ws")


def go_module(path: str) -> None:
    """Teleport (erpc) and due: raises ``Missing`` with the Go command's own words when the module is not to be had."""
    with folder() as at:
        go = shutil.which("go") or "/usr/local/go/bin/go"
        if not Path(go).exists():
            raise Missing("Go is not installed")
        subprocess.run([go, "mod", "init", "peers"], cwd=at, capture_output=True)
        got = subprocess.run([go, "get", f"{path}@latest"], cwd=at, capture_output=True, text=True, timeout=120)
        if got.returncode:
            # What the module's server answered, without where it is.
            words = " ".join(got.stderr.rpartition("server response:")[2].split())
            raise Missing(f"go get {path}@latest failed: {words[-FAILED_MAX:]}")
    raise Missing("the module is to be had, but there is no driver for it yet")


def commit() -> str:
    """The checkout's commit."""
    return output("git", "-C", str(HERE), "rev-parse", "--short", "HEAD")


def started(stack: contextlib.ExitStack, missing: dict[str, str]) -> dict[str, Peer]:
    """All peers, started; those that cannot be are in ``missing`` with the reason."""
    found: dict[str, Peer] = {}
    wanted = {
        "relay": lambda: relay("uv"),
        "relay-epoll": lambda: relay("epoll"),
        "nats": nats,
        "mosquitto": mosquitto,
        "crossbar": crossbar,
        "socketify": socketify,
        "socket.io": socket_io,
        "bare": bare,
        "autobahn": autobahn,
        "relay-jwt": lambda: relay("uv", "ws", jwt=True),
    }
    for name, start in wanted.items():
        try:
            found[name] = stack.enter_context(start())
        except (Missing, RelayError, OSError) as error:
            missing[name] = str(error)
    if "relay" in found:
        found["relay-ws"] = attrs.evolve(found["relay"], name="relay (uv, WebSocket)", transport="ws")
    for name, path in (("Teleport/erpc", "github.com/andeya/erpc/v7"), ("due", "github.com/dobyte/due/v2")):
        try:
            go_module(path)
        except (Missing, subprocess.TimeoutExpired) as error:
            missing[name] = str(error)
    return found
