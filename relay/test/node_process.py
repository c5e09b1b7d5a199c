"""A real node: ``twistd relay`` as a process of its own, on free loopback ports, in a directory of its own.

Used by the tests and campaigns that need the whole way: signals, browsers, soak, garbage. Blocking; not for use inside
a reactor.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 60.0
STOP_S = 30.0


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:  # Any: a configuration as JSON
    """``over`` laid over ``base``, section by section."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


class NodeProcess:
    """``config`` is laid over a default with a web and a stream listener. ``log``: what the node wrote."""

    def __init__(self, config: dict[str, Any] | None = None, reactor: str = "auto") -> None:  # Any: as above
        self.folder = Path(tempfile.mkdtemp(prefix="relay-node-"))
        self.web, self.stream = free_port(), free_port()
        local = "interface=127.0.0.1"
        default = {
            "data": str(self.folder / "data"),
            "reactor": reactor,
            "listeners": [
                {"name": "web", "address": f"tcp:{self.web}:{local}", "protocols": ["http", "websocket"]},
                {"name": "stream", "address": f"tcp:{self.stream}:{local}", "protocols": ["relay"]},
            ],
            "timing": {"drain_s": 0.2},
        }
        self.config = merged(default, config or {})
        self.file = self.folder / "relay.json"
        self._log = (self.folder / "log").open("wb")
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """Of the node, beside the test's own."""

    @property
    def page(self) -> str:
        """The page's URL."""
        return f"http://127.0.0.1:{self.web}/"

    @property
    def websocket(self) -> str:
        """The WebSocket's URL."""
        return f"ws://127.0.0.1:{self.web}/ws"

    @property
    def tcp(self) -> str:
        """The stream listener's URL."""
        return f"tcp://127.0.0.1:{self.stream}"

    @property
    def log(self) -> str:
        """What the node wrote so far."""
        return (self.folder / "log").read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        """The node's process."""
        assert self.process is not None
        return self.process.pid

    def write_config(self) -> None:
        """(Re)write the configuration file from ``config``."""
        self.file.write_text(json.dumps(self.config))

    def start(self) -> NodeProcess:
        """Start it and wait until it is ready."""
        self.write_config()
        script = shutil.which("twistd", path=os.path.dirname(sys.executable)) or "twistd"
        twistd = [sys.executable, script, "--nodaemon", "--pidfile=", "relay", f"--config={self.file}"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RELAY_")}
        environment["PYTHONPATH"] = str(self.folder)  # for plugins that a test writes there
        environment |= self.environment
        self.process = subprocess.Popen(
            twistd, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=environment
        )
        deadline = time.monotonic() + START_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node did not start:\n{self.log}")
            # Waiting for the process is waiting for its end, too: no sleep that a dead node would wait out.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        return self

    def ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        try:
            with urllib.request.urlopen(self.page + "readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metrics(self) -> dict[str, float]:
        """All samples of ``/metrics``, by name with labels."""
        with urllib.request.urlopen(self.page + "metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def rss(self) -> int:
        """Resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send the node a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; returns the exit status. Kills it when it does not end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def close(self) -> None:
        """Stop it, if it runs, and remove what it left."""
        if self.process is not None:
            self.stop()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running(config: dict[str, Any] | None = None, reactor: str = "auto") -> Iterator[NodeProcess]:  # Any: as above
    """A node for the length of a ``with`` block."""
    node = NodeProcess(config, reactor)
    try:
        yield node.start()
    finally:
        node.close()


def report(figures: dict[str, Any], as_json: bool) -> int:  # Any: numbers and lists
    """Print a campaign's figures; the exit status that its ``ok`` means."""
    if as_json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:36} {value}")
    return 0 if figures["ok"] else 1
