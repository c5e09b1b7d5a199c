"""``relay bench raft``: commits a second of three nodes here, each fsynced on a majority; beside etcd.

=============  =======================================================================================================
relay          ``$raft.put`` over TCP, asked of the leader: the way of a client
relay (log)    proposals in the leader's own process, a state machine that counts: replication alone
etcd           Debian's ``etcd``, three nodes, ``Put`` over gRPC, asked of the leader
=============  =======================================================================================================

All clusters run at once, and are loaded in turn, round by round, so that what else the machine does takes from all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from relay.bench.load import Load, generator, run_all
from relay.bench.server import START_S, Server, cpu_s, folder, free_port, is_open
from relay.client.aio import connect
from relay.errors import ConfigError, Unavailable

OUTSTANDING: Final = (1, 100, 1000)
CONNECTIONS_MAX: Final = 10
"""Of a client; what is outstanding is spread over them."""
PAYLOAD_BYTES: Final = 256
NODES: Final = 3
ANSWER_S: Final = 60.0
LEADER_S: Final = 60.0
POLL_S: Final = 0.2


class Missing(ConfigError):
    """Something to compare with is not installed."""


class Target:
    """Three nodes that were started. ``measure`` loads them once."""

    name = ""
    servers: Sequence[Server] = ()

    def measure(self, outstanding: int, payload: int, seconds: float, warmup: float) -> dict[str, Any]:  # Any: numbers
        """rate, p50_ms, p99_ms, cpu_us of a commit on all nodes, errors."""
        raise NotImplementedError

    @property
    def pids(self) -> list[int]:
        """Of the nodes."""
        return [server.pid for server in self.servers]


class Clients(Target):
    """Loaded from outside, by the compiled generator."""

    def __init__(self, name: str, workload: str, servers: Sequence[Server], address: str) -> None:
        self.name = name
        self.servers = servers
        self._workload = workload
        self._address = address

    def measure(self, outstanding: int, payload: int, seconds: float, warmup: float) -> dict[str, Any]:  # Any: as above
        """See the class."""
        connections = min(outstanding, CONNECTIONS_MAX)
        load = Load(
            self._workload, self._address, connections=connections, window=outstanding, payload=payload,
            seconds=seconds, warmup=warmup,
        )  # fmt: skip
        result = run_all([load], self.pids)
        return {
            "rate": result.rate,
            "p50_ms": result.latency_us["p50"] / 1000,
            "p99_ms": result.latency_us["p99"] / 1000,
            "cpu_us": result.cpu_us,
            "generator_cpu_us": result.generator_cpu_s / max(1, result.count) * 1e6,
            "errors": result.errors,
            "first_error": result.first_error,
        }


class Within(Target):
    """Loaded in the leader's process; see :mod:`relay.bench.raft_node`."""

    name = "relay (log)"

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes
        self._leader = self._find_leader()

    @property
    def pids(self) -> list[int]:
        """Of the nodes."""
        return [process.pid for process in self._processes]

    def measure(self, outstanding: int, payload: int, seconds: float, warmup: float) -> dict[str, Any]:  # Any: as above
        """See the class."""
        before = sum(map(cpu_s, self.pids))
        found = _ask(self._leader, f"load {warmup} {seconds} {outstanding} {payload}")
        cpu = sum(map(cpu_s, self.pids)) - before
        commits = max(1, found["count"]) * (warmup + seconds) / seconds
        errors = sum(found["errors"].values())
        return {
            **{name: found[name] for name in ("rate", "p50_ms", "p99_ms")},
            "cpu_us": cpu / commits * 1e6,
            "generator_cpu_us": None,  # it is part of the leader
            "errors": errors,
            "first_error": next(iter(found["errors"]), ""),
        }

    def _find_leader(self) -> subprocess.Popen[str]:
        until = time.monotonic() + LEADER_S
        while time.monotonic() < until:
            leaders = {_ask(process, "status")["leader"] for process in self._processes}
            if len(leaders) == 1 and leaders != {0}:
                return self._processes[int(leaders.pop()) - 1]
            time.sleep(0.05)
        raise ConfigError("the nodes found no leader")


def _ask(process: subprocess.Popen[str], command: str) -> dict[str, Any]:  # Any: JSON
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(command + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise ConfigError(f"a node ended with status {process.wait(ANSWER_S)}")
    answer: dict[str, Any] = json.loads(line)
    return answer


# --- starting them ------------------------------------------------------------------------------------------------


def _sections(at: Path) -> list[dict[str, Any]]:  # Any: configurations as JSON
    """The configuration's section ``cluster`` of each node."""
    ports = [free_port() for _ in range(NODES)]
    peers = [{"node": node, "address": f"tcp:127.0.0.1:{port}"} for node, port in enumerate(ports, 1)]
    return [
        {
            "data": str(at / f"n{node}"),
            "cluster": {
                "name": "bench", "node": node, "listen": f"tcp:{port}:interface=127.0.0.1", "peers": peers,
                "keys": {"writes_max": 2 * max(OUTSTANDING), "session_results_max": 8 * max(OUTSTANDING)},
            },
        }
        for node, port in enumerate(ports, 1)
    ]  # fmt: skip


def _check_generator() -> None:
    why = generator()[1]
    if why:
        raise Missing(f"only the compiled generator writes keys: {why}")


@contextlib.contextmanager
def relay_nodes(reactor: str) -> Iterator[Target]:
    """Three nodes of this installation. Raises ``Missing``."""
    _check_generator()
    with folder() as at, contextlib.ExitStack() as stack:
        twistd = shutil.which("twistd", path=str(Path(sys.executable).parent)) or "twistd"
        waiting, urls = [], []
        for number, config in enumerate(_sections(at), 1):
            port, place = free_port(), at / f"s{number}"
            place.mkdir()
            listener = {"name": "stream", "address": f"tcp:{port}:interface=127.0.0.1", "protocols": ["relay"]}
            timing = {"drain_s": 0.0, "close_timeout_s": 0.2}
            config.update(listeners=[listener], reactor=reactor, timing=timing, log={"level": "warn"})
            (place / "relay.json").write_text(json.dumps(config))
            argv = [sys.executable, twistd, "--nodaemon", "--pidfile=", "relay", f"--config={place}/relay.json"]
            urls.append(f"tcp://127.0.0.1:{port}")
            waiting.append(Server(argv, {"tcp": urls[-1]}, place, pinned=False))
        servers = [stack.enter_context(each) for each in waiting]
        yield Clients("relay", "put", servers, urls[_relay_leader(urls) - 1])


def _relay_leader(urls: Sequence[str]) -> int:
    """The leader's id, once it is known."""


    async def look() -> int:
        until = time.monotonic() + LEADER_S
        async with await connect(urls[0]) as client:
            while time.monotonic() < until:
                with contextlib.suppress(Unavailable):  # before the cluster is founded
                    leader = int((await client.pull("$raft.status", {})).value["leader"])
                    if leader:
                        return leader
                await asyncio.sleep(POLL_S)
        raise ConfigError("the nodes found no leader")

    return asyncio.run(look())


@contextlib.contextmanager
def log_nodes(reactor: str) -> Iterator[Target]:
    """Three nodes that only replicate."""
    with folder() as at:
        processes: list[subprocess.Popen[str]] = []
        logs: list[IO[str]] = []
        try:
            for number, config in enumerate(_sections(at), 1):
                file = at / f"n{number}.json"
                file.write_text(json.dumps({**config, "reactor": reactor}))
                log: IO[str] = (at / f"n{number}.log").open("w")
                logs.append(log)
                argv = [sys.executable, "-m", "relay.bench.raft_node", str(file)]
                pipe = subprocess.PIPE
                processes.append(subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=log, text=True))
            yield Within(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        with contextlib.suppress(BrokenPipeError):
                            stream.close()
            for log in logs:
                log.close()


@contextlib.contextmanager
def etcd_nodes(_: str) -> Iterator[Target]:
    """Three nodes of etcd with its defaults. Raises ``Missing``."""
    lacking = [name for name in ("etcd", "etcdctl") if shutil.which(name) is None]
    if lacking:
        raise Missing(f"not installed: {', '.join(lacking)}; Debian's packages are etcd-server and etcd-client")
    _check_generator()
    with folder() as at, contextlib.ExitStack() as stack:
        clients, peers = [free_port() for _ in range(NODES)], [free_port() for _ in range(NODES)]
        members = ",".join(f"n{number}=http://127.0.0.1:{port}" for number, port in enumerate(peers))
        servers = []
        for number in range(NODES):
            place = at / f"n{number}"
            place.mkdir()
            client, peer = f"http://127.0.0.1:{clients[number]}", f"http://127.0.0.1:{peers[number]}"
            argv = [
                "etcd", f"--name=n{number}", f"--data-dir={place}/data", "--initial-cluster-state=new",
                f"--initial-cluster={members}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", "--log-level=error",
            ]  # fmt: skip
            # The address is waited for below: a first node alone serves nobody.
            servers.append(stack.enter_context(Server(argv, {}, place, pinned=False)))
        addresses = [f"127.0.0.1:{port}" for port in clients]
        yield Clients("etcd", "etcd", servers, f"tcp://{_etcd_leader(addresses)}")


def _etcd_leader(addresses: Sequence[str]) -> str:
    """The leader's address, once it is known."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if all(is_open(f"tcp://{each}") for each in addresses):
            argv = ["etcdctl", f"--endpoints={','.join(addresses)}", "endpoint", "status", "-w", "json"]
            done = subprocess.run(argv, capture_output=True, text=True, env={"ETCDCTL_API": "3"}, check=False)
            for each in json.loads(done.stdout or "[]"):
                status = each["Status"]
                if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                    return str(each["Endpoint"])
        time.sleep(POLL_S)
    raise ConfigError("etcd found no leader")


TARGETS: Final = {"relay": relay_nodes, "relay (log)": log_nodes, "etcd": etcd_nodes}


# --- measuring ----------------------------------------------------------------------------------------------------


def measure(
    outstanding: Sequence[int], payload: int, seconds: float, warmup: float, rounds: int, reactor: str
) -> dict[str, Any]:  # Any: JSON
    """All cells, ``rounds`` times: the medians, and of the rates the smallest and the largest too."""
    missing: dict[str, str] = {}
    cells: dict[tuple[str, int], list[dict[str, Any]]] = {}  # Any: as ``Target.measure``
    with contextlib.ExitStack() as stack:
        targets = []
        for name, start in TARGETS.items():
            try:
                targets.append(stack.enter_context(start(reactor)))
            except Missing as error:
                missing[name] = str(error)
        for _ in range(rounds):
            for each in outstanding:
                for target in targets:
                    found = target.measure(each, payload, seconds, warmup)
                    cells.setdefault((target.name, each), []).append(found)
    rows = [{"server": name, "outstanding": each, **_median(found)} for (name, each), found in cells.items()]
    return {
        "payload": payload, "seconds": seconds, "rounds": rounds, "missing": missing,
        "rows": sorted(rows, key=lambda row: (row["outstanding"], list(TARGETS).index(row["server"]))),
    }  # fmt: skip


def _median(found: list[dict[str, Any]]) -> dict[str, Any]:  # Any: numbers
    rates = [each["rate"] for each in found]
    middle = {
        name: statistics.median([each[name] for each in found]) if found[0][name] is not None else None
        for name in ("rate", "p50_ms", "p99_ms", "cpu_us", "generator_cpu_us")
    }
    errors = sum(each["errors"] for each in found)
    first = next((each["first_error"] for each in found if each["first_error"]), "")
    return {**middle, "rate_min": min(rates), "rate_max": max(rates), "errors": errors, "first_error": first}


def table(figures: dict[str, Any]) -> list[str]:  # Any: JSON
    """Lines for people."""
    lines = [
        f"{'outstanding':>11}  {'server':12} {'commits/s':>10} {'least':>9} {'most':>9} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'µs of CPU each, three nodes':>28}"
    ]
    lines += [
        f"{row['outstanding']:11}  {row['server']:12} {row['rate']:10,.0f} {row['rate_min']:9,.0f} "
        f"{row['rate_max']:9,.0f} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f} {row['cpu_us']:28.0f}"
        + (f"  {row['errors']} errors: {row['first_error']}" if row["errors"] else "")
        for row in figures["rows"]
    ]
    lines += [f"{name}: missing: {why}" for name, why in figures["missing"].items()]
    return lines
