"""The cluster of a fault campaign: ``twistd relay`` as processes, each in its network namespace where there are any.

Clients reach every node by a Unix socket, whatever happens to the network between the nodes. Blocking but for
``leader`` and ``status``.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from relay.cli.raft_run import Answer, ask
from relay.client.aio import connect
from relay.client.options import ClientOptions
from relay.errors import RelayError
from relay.test.faults_network import Network
from relay.test.node_process import free_port, merged

PORT: Final = 7400
WAIT_S: Final = 90.0
"""For what has to happen; a loaded machine takes its time."""
LOOK_S: Final = 0.05
CLIENT: Final = ClientOptions(
    connect_timeout_s=2.0, connect_rounds_max=0, backoff_s_min=0.02, backoff_s_max=0.2, request_timeout_s=4.0,
    resume=False,
)  # fmt: skip
"""Comes back soon, and never gives up."""
ONCE: Final = ClientOptions(connect_timeout_s=2.0, request_timeout_s=2.0, resume=False)


class FaultNode:
    """One node. ``change`` is laid over its configuration at the next start."""

    def __init__(self, cluster: FaultCluster, node: int) -> None:
        self.node = node
        self.cluster = cluster
        self.folder = cluster.folder / f"n{node}"
        self.folder.mkdir()
        self.data = self.folder / "data"
        self.data.mkdir()
        self.log_file = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = PORT if cluster.network is not None else free_port()
        self.change: dict[str, Any] = {}  # Any: a configuration as JSON

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"unix:{self.folder}/socket"

    @property
    def address(self) -> str:
        """Where other nodes reach it, an endpoint string."""
        network = self.cluster.network
        return f"tcp:{network.address(self.node) if network is not None else '127.0.0.1'}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def config(self) -> dict[str, Any]:  # Any: as above
        """Its configuration."""
        cluster = self.cluster
        interface = "0.0.0.0" if cluster.network is not None else "127.0.0.1"
        peers = [
            {"node": each.node, "address": each.address, "voter": each.node in cluster.voters}
            for each in cluster.nodes.values()
        ]
        base = {
            "data": str(self.data),
            "listeners": [{"name": "stream", "address": f"unix:{self.folder}/socket", "protocols": ["relay"]}],
            "timing": {"drain_s": 0.2},
            "log": {"level": "info"},
            "cluster": {
                "name": "faults",
                "node": self.node,
                "listen": f"tcp:{self.port}:interface={interface}",
                "peers": peers,
                "secret": "the secret of the faults",
                # Small, so that a round is enough to see snapshots and logs that begin behind them.
                "snapshot_log_bytes": cluster.snapshot_log_bytes,
            },
        }
        return merged(base, self.change)

    def start(self) -> None:
        """Start it; it is not waited for."""
        file = self.folder / "relay.json"
        file.write_text(json.dumps(self.config()))
        script = shutil.which("twistd", path=os.path.dirname(sys.executable)) or "twistd"
        argv = [sys.executable, script, "--nodaemon", "--pidfile=", "relay", f"--config={file}"]
        if self.cluster.network is not None:
            argv = self.cluster.network.inside(self.node, argv)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def ended(self, seconds: float = WAIT_S) -> int | None:
        """Wait for its end; the status, or None when it lives on."""
        assert self.process is not None
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status = self.process.poll()
            if status is not None:
                return status
            await asyncio.sleep(LOOK_S)
        return None


class FaultCluster:
    """``nodes`` by id; the first three found it. ``close`` ends and removes everything."""

    def __init__(self, *, namespaces: bool, snapshot_log_bytes: int = 1 << 20) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-faults-"))
        self.network = Network() if namespaces else None
        self.snapshot_log_bytes = snapshot_log_bytes
        self.voters: set[int] = {1, 2, 3}
        self.nodes: dict[int, FaultNode] = {}
        self.retired: list[FaultNode] = []
        try:
            for node in sorted(self.voters):
                self.add(node)
        except BaseException:
            self.close()
            raise

    def add(self, node: int) -> FaultNode:
        """A node that is not started."""
        if self.network is not None:
            self.network.add(node)
        self.nodes[node] = made = FaultNode(self, node)
        return made

    def others(self, node: int) -> list[FaultNode]:
        """All but one."""
        return [each for each in self.nodes.values() if each.node != node]

    def start(self) -> None:
        """Start all that do not run."""
        for each in self.nodes.values():
            if not each.running:
                each.start()

    async def status(self, node: int) -> Answer | None:
        """The node's view; None while it cannot be asked."""
        try:
            client = await asyncio.wait_for(connect(self.nodes[node].url, options=ONCE), ONCE.connect_timeout_s)
        except (RelayError, TimeoutError):
            return None
        try:
            return await ask(client, "status")
        except RelayError:
            return None
        finally:
            await client.close()

    async def leader(self, *among: int) -> int:
        """The node that leads, once all of ``among`` (default: all) say the same. Raises TimeoutError."""
        until = time.monotonic() + WAIT_S
        wanted = among or tuple(self.nodes)
        while True:
            found = [await self.status(node) for node in wanted]
            leaders = {(each["leader"], each["term"]) for each in found if each is not None}
            if None not in found and len(leaders) == 1 and leaders <= {(n, t) for n in wanted for _, t in leaders}:
                return int(leaders.pop()[0])
            if time.monotonic() > until:
                raise TimeoutError(f"no leader: {found}")
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """See the class."""
        for each in (*self.nodes.values(), *self.retired):
            each.signal(signal.SIGCONT)
            each.kill()
            if os.path.ismount(each.data):
                subprocess.run(["umount", "--lazy", str(each.data)], check=False)
        if self.network is not None:
            self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)
