"""A cluster of processes on this machine: ``python -m relay.test.raft_processes`` measures it.

    --rounds N      kill -9 of the leader, N times: until a write is acknowledged again (default 20)
    --silent N      the same with SIGSTOP, N times (default 10)
    --load S        seconds of load with 1, 100 and 1000 outstanding (default 5; 0: none)
    --groups N      idle groups: CPU and memory after they are quiet (default 1000; 0: none)

The writes are proposed in the leader's process; every commit is fsynced on a majority.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

ANSWER_S = 60.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class NodeProcess:
    """One node; ``ask`` sends a command and waits for its answer."""

    def __init__(self, directory: Path, node: int, config: dict[str, Any]) -> None:
        self.node = node
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.config = directory / "config.json"
        self.config.write_text(json.dumps({**config, "data": str(directory / "data")}))
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def start(self) -> NodeProcess:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "relay.test.raft_node", str(self.config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._buffer = b""
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def tell(self, command: str) -> None:
        """Send a command."""
        assert self.process is not None
        stdin = cast(BinaryIO, self.process.stdin)
        stdin.write(command.encode() + b"\n")
        stdin.flush()

    def read(self, seconds: float = ANSWER_S) -> Any:
        """The next answer. Raises EOFError when the process ended, TimeoutError."""
        assert self.process is not None
        stdout = cast(BinaryIO, self.process.stdout)
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError(self.log.read_text("utf-8", "replace"))
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    raise EOFError(self.log.read_text("utf-8", "replace"))
                self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def ask(self, command: str, seconds: float = ANSWER_S) -> Any:
        self.tell(command)
        return self.read(seconds)

    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def rss_bytes(self) -> int:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self, number: int = signal.SIGKILL) -> int:
        """End the process and wait for it; its status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        status = process.wait(ANSWER_S)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                cast(BinaryIO, pipe).close()
        return status


class Processes:
    """``count`` founding voters. ``close`` ends what runs and removes what they kept."""

    def __init__(self, count: int = 3, groups: int = 1, **cluster: Any) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relay-raft-"))
        self.ports = free_ports(count + 1)
        self.nodes: dict[int, NodeProcess] = {}
        self._groups = groups
        self._cluster = cluster
        self.count = count
        for node in range(1, count + 1):
            self.nodes[node] = self.make(node)

    def peers(self, joining: int = 0) -> list[dict[str, Any]]:
        count = max(self.count, joining)
        return [
            {"node": node, "address": f"tcp:127.0.0.1:{self.ports[node - 1]}", "voter": node <= self.count}
            for node in range(1, count + 1)
        ]

    def make(
        self, node: int, *, joining: bool = False, directory: str = "", change: dict[str, Any] | None = None
    ) -> NodeProcess:
        """A node that is not started. ``joining``: not one of the founders. ``change``: another configuration."""
        config = {
            "name": "test",
            "node": node,
            "listen": f"tcp:{self.ports[node - 1]}:interface=127.0.0.1",
            "peers": self.peers(node if joining else 0),
            "secret": "the secret of the test",
            **self._cluster,
            **(change or {}),
        }
        place = self.directory / (directory or f"node{node}")
        return NodeProcess(place, node, {"groups": self._groups, "cluster": config})

    def start(self) -> Processes:
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            node.read()  # that it started
        return self

    def leader(self, seconds: float = ANSWER_S) -> NodeProcess:
        """Wait until one leads in the highest term of those that run."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            states = [(node, node.ask("status")) for node in self.nodes.values() if node.process is not None]
            leading = [(state["term"], node.node) for node, state in states if state["role"] == "StateLeader"]
            if leading and max(leading)[0] == max(state["term"] for _, state in states):
                return self.nodes[max(leading)[1]]
            time.sleep(0.01)
        raise TimeoutError("no leader")

    def level(self, seconds: float = ANSWER_S) -> None:
        """Wait until all have applied the same."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            states = [node.ask("status") for node in self.nodes.values()]
            if len({(state["leader"], state["applied"]) for state in states}) == 1 and states[0]["leader"]:
                return
            time.sleep(0.01)
        raise TimeoutError("the nodes do not come to the same state")

    def close(self) -> None:
        for node in self.nodes.values():
            node.end()
        shutil.rmtree(self.directory)


def failover_s(cluster: Processes, *, silent: bool = False) -> float:
    """Kill the leader, or have it say nothing (SIGSTOP); seconds until one of the others acknowledged a write.

    The node is back at the end.
    """
    leader = cluster.leader()
    others = [node for node in cluster.nodes.values() if node is not leader]
    begun = time.perf_counter()
    if silent:
        os.kill(leader.pid, signal.SIGSTOP)
    else:
        leader.end()
    for node in others:
        node.tell("put again")
    while True:
        # Each is asked again as soon as it failed: one of them may wait for the dead leader's answer for a while.
        for node in list(others):
            try:
                answer = node.read(0.001)
            except TimeoutError:
                continue
            if "result" in answer:
                found = time.perf_counter() - begun
                others.remove(node)
                for other in others:
                    other.read()
                if silent:
                    os.kill(leader.pid, signal.SIGCONT)
                else:
                    leader.start().read()
                cluster.level()
                return found
            node.tell("put again")


def measure_load(cluster: Processes, seconds: float) -> None:
    for outstanding in (1, 100, 1000):
        leader = cluster.leader()
        before = {node.node: node.cpu_s() for node in cluster.nodes.values()}
        found = leader.ask(f"load {seconds} {outstanding} 256")
        cpu = {node.node: node.cpu_s() - before[node.node] for node in cluster.nodes.values()}
        commits = found["per_s"] * seconds
        print(
            f"{outstanding:5} outstanding: {found['per_s']:8.0f} commits/s, p50 {found['p50_ms']:.2f} ms, "
            f"p99 {found['p99_ms']:.2f} ms, CPU {sum(cpu.values()) / commits * 1e6:.0f} us a commit on three nodes "
            f"(leader {cpu[leader.node] / commits * 1e6:.0f}) {found['errors'] or ''}"
        )


def measure_idle(groups: int) -> None:
    cluster = Processes(groups=groups)
    try:
        cluster.start()
        until = time.monotonic() + 120
        while time.monotonic() < until:
            time.sleep(2)
            states = [node.ask("leading") for node in cluster.nodes.values()]
            if all(state["quiet"] == groups for state in states) and max(s["leading"] for s in states) < groups / 2:
                break
        print(f"{groups} groups, led by each node: {[state['leading'] for state in states]}")
        before = [node.cpu_s() for node in cluster.nodes.values()]
        time.sleep(10)
        shares = [(node.cpu_s() - first) / 10 for node, first in zip(cluster.nodes.values(), before, strict=True)]
        memory = [node.rss_bytes() / 1e6 for node in cluster.nodes.values()]
        print(f"  CPU {', '.join(f'{share:.1%}' for share in shares)} of a core")
        print(f"  memory {', '.join(f'{each:.0f}' for each in memory)} MB")
    finally:
        cluster.close()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--silent", type=int, default=10)
    parser.add_argument("--load", type=float, default=5.0)
    parser.add_argument("--groups", type=int, default=1000)
    options = parser.parse_args(arguments)
    cluster = Processes()
    try:
        cluster.start()
        if options.load:
            measure_load(cluster, options.load)
        for name, rounds, silent in (("SIGKILL", options.rounds, False), ("SIGSTOP", options.silent, True)):
            times = sorted(failover_s(cluster, silent=silent) for _ in range(rounds))
            if times:
                p50, p99 = times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]
                print(f"{name} of the leader, {rounds} times: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
    finally:
        cluster.close()
    if options.groups:
        measure_idle(options.groups)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
