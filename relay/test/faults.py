"""Three nodes as processes, and what goes wrong with processes, networks and disks while clients write and read.

    python -m relay.test.faults --rounds 50                     all faults in turn, in an order drawn from --seed
    python -m relay.test.faults --rounds 200 --how kill-leader  those named only; with commas
    python -m relay.test.faults --list                          their names

Each round ends with everything mended, and compared: acknowledged writes that are not there (lost), the histories that
all nodes tell, linearizability of each key, equal states, one leader in each term; after the last round the nodes' logs
are compared entry by entry. Prints, by fault, the time from the fault until the next write that was begun after it is
acknowledged, and the counts; exit status 1 for any problem. Nodes run in network namespaces of their own where that is
allowed; without, faults of the network are skipped, and the reason is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

from relay.errors import RelayError
from relay.test import faults_network
from relay.test.faults_clients import Traffic
from relay.test.faults_cluster import FaultCluster
from relay.test.faults_kinds import FAULTS, Fault, missing_mount, missing_strace
from relay.test.faults_logs import log_differences
from relay.test.faults_scene import Scene

SAME: Final = ("revision", "keys", "bytes", "leases", "sessions", "applied", "voters")
"""What all nodes say of themselves once they are level."""
LOOK_S: Final = 0.05
LEVEL_S: Final = 60.0


class Campaign:
    """All rounds; ``figures`` in the end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.dice = random.Random(options.seed)
        self.skipped: dict[str, str] = {}
        self.recovered_s: dict[str, list[float]] = defaultdict(list)
        self.rounds: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.problems: list[str] = []
        self.leaders: dict[int, set[int]] = defaultdict(set)  # by term

    async def run(self) -> dict[str, Any]:  # Any: the figures
        """The figures."""
        begun = time.monotonic()
        chosen = self._chosen()
        cluster = FaultCluster(namespaces="network" not in self.skipped)
        urls = {node: each.url for node, each in cluster.nodes.items()}
        traffic = Traffic(urls, self.options.workers, self.options.seed)
        looking = asyncio.create_task(self._look(cluster))
        try:
            cluster.start()
            await cluster.leader()
            await traffic.open()
            for number, fault in enumerate(chosen):
                await self._round(number, fault, cluster, traffic)
                if self.problems or (self.options.seconds and time.monotonic() - begun > self.options.seconds):
                    break
        except (TimeoutError, RelayError) as error:
            self.problems.append(f"after {self.rounds.total()} rounds: {error!r}")
        finally:
            looking.cancel()
            await traffic.close()
            if self.problems:
                self._keep_logs(cluster)
            await self._end(cluster)
        return self._figures(time.monotonic() - begun)

    def _chosen(self) -> list[Fault]:
        """The faults of all rounds, without those that cannot be here."""
        with tempfile.TemporaryDirectory(prefix="relay-faults-") as folder:
            why = {
                "network": "--no-namespaces" if self.options.no_namespaces else faults_network.missing(),
                "strace": missing_strace(Path(folder)),
                "mount": missing_mount(Path(folder)),
            }
        self.skipped = {need: reason for need, reason in why.items() if reason}
        names = self.options.how.split(",") if self.options.how else list(FAULTS)
        possible = [FAULTS[name] for name in names if FAULTS[name].needs not in self.skipped]
        chosen: list[Fault] = []
        while possible and len(chosen) < self.options.rounds:
            chosen += self.dice.sample(possible, len(possible))
        return chosen[: self.options.rounds]

    async def _round(self, number: int, fault: Fault, cluster: FaultCluster, traffic: Traffic) -> None:
        leader = await cluster.leader()
        starts = {node: len(watcher.events) for node, watcher in traffic.watchers.items()}
        gone = {node: watcher.gone for node, watcher in traffic.watchers.items()}
        traffic.begin(f"r{number}.")
        scene = Scene(cluster, traffic, self.dice, leader, self.options.hold)
        await scene.before()
        await fault.run(scene)
        cluster.start()
        await cluster.leader()
        await traffic.quiesce()
        problems = scene.problems + await self._compare(cluster, traffic, starts, gone)
        counts = self.counts[fault.name]
        counts.update(traffic.record.counts())
        counts["injected"] += scene.injected
        self.rounds[fault.name] += 1
        took_s = scene.recovered_s()
        if took_s is not None:
            self.recovered_s[fault.name].append(took_s)
        else:
            problems.append("no write was acknowledged after the fault")
        if problems:
            self.problems += [f"round {number}, {fault.name}: {each}" for each in problems]
        if self.options.verbose:
            shown = "-" if took_s is None else f"{took_s * 1000:.0f} ms"
            nodes = f"leader {scene.leader.node}, follower {scene.follower.node}"
            print(f"round {number}: {fault.name}, {nodes}: {shown}", flush=True)
        for watcher in traffic.watchers.values():
            watcher.events.clear()
        await traffic.forget(leader if leader in cluster.nodes else max(cluster.nodes))

    # --- what has to be true ----------------------------------------------------------------------------------------

    async def _compare(
        self, cluster: FaultCluster, traffic: Traffic, starts: dict[int, int], gone: dict[int, int]
    ) -> list[str]:
        found: list[str] = []
        revision = max([await traffic.final_reads(node) for node in cluster.nodes])
        histories = {}
        for node, watcher in traffic.watchers.items():
            if not await watcher.reached(revision):
                found.append(f"node {node} does not tell what was changed up to revision {revision}")
            elif watcher.gone == gone.get(node) and node in starts:
                told = watcher.events[starts[node] :]
                histories[node] = [each for each in told if each[1].startswith(traffic.prefix)]
            else:
                self.counts["all"]["histories with a gap"] += 1
        if not histories:
            return [*found, "no node told a whole history"]
        reference, *others = histories.values()
        if any(each != reference for each in others):
            found.append(f"nodes tell different histories: {sorted(histories)}")
        lost = traffic.record.lost(reference)
        self.counts["all"]["lost"] += len(lost)
        found += lost[:5] + traffic.record.problems(reference)
        pairs = [await traffic.pairs(node) for node in cluster.nodes]
        if any(each != pairs[0] for each in pairs):
            found.append("nodes have different pairs")
        found += await self._same_state(cluster)
        twice = {term: nodes for term, nodes in self.leaders.items() if len(nodes) > 1}
        return found + [f"term {term} had the leaders {nodes}" for term, nodes in twice.items()]

    async def _same_state(self, cluster: FaultCluster) -> list[str]:
        """Wait until all have applied the same; what is still different then."""
        until = time.monotonic() + LEVEL_S
        while True:
            states = [await cluster.status(node) for node in cluster.nodes]
            seen = [tuple(map(str, (state[name] for name in SAME))) for state in states if state is not None]
            if len(seen) == len(states) and len(set(seen)) == 1:
                return []
            if time.monotonic() > until:
                return [f"nodes differ in {SAME}: {seen}"]
            await asyncio.sleep(LOOK_S)

    async def _look(self, cluster: FaultCluster) -> None:
        """Who leads in which term, as each node says."""
        while True:
            for node in list(cluster.nodes):
                if node not in cluster.nodes or not cluster.nodes[node].running:
                    continue
                status = await cluster.status(node)
                if status is not None and status["leader"]:
                    self.leaders[status["term"]].add(status["leader"])
            await asyncio.sleep(LOOK_S)

    async def _end(self, cluster: FaultCluster) -> None:
        """Stop all, compare their logs, and remove everything."""
        for node in cluster.nodes.values():
            node.kill()
        if not self.problems:
            directories = {node: each.data / "cluster" / "log" for node, each in cluster.nodes.items()}
            self.problems += log_differences(directories)
        cluster.close()

    def _keep_logs(self, cluster: FaultCluster) -> None:
        kept = Path(tempfile.mkdtemp(prefix="relay-faults-logs-"))
        for node in (*cluster.nodes.values(), *cluster.retired):
            (kept / f"n{node.node}.log").write_text(node.log)
        print(f"what the nodes wrote is in {kept}", file=sys.stderr)

    def _figures(self, seconds: float) -> dict[str, Any]:  # Any: as above
        totals: Counter[str] = Counter()
        for each in self.counts.values():
            totals.update(each)
        return {
            "seed": self.options.seed,
            "rounds": self.rounds.total(),
            "seconds": round(seconds, 1),
            "load_average": round(os.getloadavg()[0], 1),
            "faults": {
                name: {
                    "rounds": self.rounds[name],
                    "p50_ms": _percentile_ms(times, 0.5),
                    "p99_ms": _percentile_ms(times, 0.99),
                    **{key: self.counts[name][key] for key in ("acknowledged", "unknown", "injected")},
                }
                for name, times in sorted(self.recovered_s.items())
            },
            **{key: totals[key] for key in ("acknowledged", "refused", "not_done", "unknown", "reads", "lost")},
            "terms": len(self.leaders),
            "histories_with_a_gap": totals["histories with a gap"],
            "skipped": self.skipped,
            "problems": self.problems,
            "ok": not self.problems and self.rounds.total() > 0,
        }


def _percentile_ms(times: list[float], part: float) -> float:
    """The nearest rank: the smallest of them that ``part`` of them do not exceed."""
    return round(sorted(times)[max(0, math.ceil(len(times) * part) - 1)] * 1000, 1)


def show(figures: dict[str, Any]) -> None:  # Any: as above
    """A table for people."""
    print(f"{'fault':20} {'rounds':>6} {'p50 ms':>8} {'p99 ms':>8} {'acknowledged':>12} {'unknown':>8} {'injected':>8}")
    for name, each in figures["faults"].items():
        print(
            f"{name:20} {each['rounds']:6} {each['p50_ms']:8.0f} {each['p99_ms']:8.0f} {each['acknowledged']:12} "
            f"{each['unknown']:8} {each['injected'] or '':>8}"
        )
    for key, value in figures.items():
        if key not in ("faults", "skipped", "problems"):
            print(f"{key:20} {value}")
    for need, reason in figures["skipped"].items():
        names = ", ".join(fault.name for fault in FAULTS.values() if fault.needs == need)
        print(f"skipped, no {need}: {reason}: {names}")
    if not figures["skipped"]:
        print("skipped              nothing")
    for problem in figures["problems"]:
        print(f"PROBLEM: {problem}")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=20)
    made.add_argument("--how", default="", help="names of faults, with commas; default: all")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--seconds", type=float, default=0.0, help="begin no round after so many")
    made.add_argument("--hold", type=float, default=1.5, help="seconds that faults last at most behind the next write")
    made.add_argument("--workers", type=int, default=2, help="clients of each node that write and read all the time")
    made.add_argument("--no-namespaces", action="store_true", help="on loopback, without faults of the network")
    made.add_argument("--json", action="store_true")
    made.add_argument("--verbose", action="store_true", help="a line for each round")
    made.add_argument("--list", action="store_true", help="the names of the faults")
    return made


async def _run(options: argparse.Namespace) -> dict[str, Any]:  # Any: the figures
    """A campaign that leaves nothing behind when it is told to end."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await Campaign(options).run()


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    options = parser().parse_args(arguments)
    if options.list:
        print("\n".join(FAULTS))
        return 0
    unknown = [name for name in options.how.split(",") if name and name not in FAULTS]
    if unknown:
        print(f"no fault is called {', '.join(unknown)}; --list has the names", file=sys.stderr)
        return 2
    figures = asyncio.run(_run(options))
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
