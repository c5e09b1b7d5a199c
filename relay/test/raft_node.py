"""One node of a cluster as a process, for tests and measurements: a command a line on standard input, JSON lines back.

    python -m relay.test.raft_node CONFIG.json          {"data": …, "groups": N, "cluster": {…}, "reactor": "auto"}

======================================  ==============================================================================
``status``                              of group 1
``put TEXT``                            propose; the outcome
``load SECONDS OUTSTANDING BYTES``      propose as fast as outcomes come; commits/s and latencies in ms
``member add|promote|remove NODE``      the outcome: voters, learners …
``transfer NODE``                       the outcome
``leading``                             how many groups this node leads, and how many are quiet
======================================  ==============================================================================
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver

from relay.bench.raft_node import Counter
from relay.cluster.groups import Groups
from relay.cluster_parts import make_cluster
from relay.config_cluster import Cluster
from relay.errors import ConfigError
from relay.interfaces import IStateMachine
from relay.tap import GC_THRESHOLDS, choose_reactor


class Load:
    """Keeps ``outstanding`` proposals under way for some time."""

    def __init__(self, groups: Groups, seconds: float, outstanding: int, size: int, told: Any) -> None:
        self.group = groups.groups[1]
        self.data = os.urandom(size)
        self.until = time.perf_counter() + seconds
        self.begun = time.perf_counter()
        self.waiting = 0
        self.latencies: list[float] = []
        self.errors: dict[str, int] = {}
        self.told = told
        for _ in range(outstanding):
            self.propose()

    def propose(self) -> None:
        self.waiting += 1
        start = time.perf_counter()

        def done(result: object, error: Exception | None) -> None:
            now = time.perf_counter()
            self.waiting -= 1
            if error is None:
                self.latencies.append(now - start)
            else:
                self.errors[str(error)] = self.errors.get(str(error), 0) + 1
            if now < self.until and error is None:
                self.propose()
            elif not self.waiting:
                self.tell(now)

        self.group.propose(self.data, done)

    def tell(self, now: float) -> None:
        found = sorted(self.latencies) or [0.0]
        self.told(
            {
                "per_s": len(self.latencies) / (now - self.begun),
                "p50_ms": found[len(found) // 2] * 1000,
                "p99_ms": found[len(found) * 99 // 100] * 1000,
                "errors": self.errors,
            }
        )


class Commands(LineReceiver):
    """Standard input and output."""

    delimiter = b"\n"

    def __init__(self) -> None:
        self.groups: Groups | None = None

    def tell(self, what: object) -> None:
        self.sendLine(json.dumps(what).encode())

    def started(self, groups: Groups) -> None:
        self.groups = groups
        # As relay.tap does.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self.tell({"started": groups.node})

    def lineReceived(self, line: bytes) -> None:
        name, *words = line.decode().split()
        if self.groups is None:
            self.tell({"error": "not started", "outcome": "not_done"})
            return
        group = self.groups.groups[1]
        if name == "status":
            self.tell(attrs.asdict(group.status()))
        elif name == "put":
            group.propose(words[0].encode(), self.outcome)
        elif name == "load":
            Load(self.groups, float(words[0]), int(words[1]), int(words[2]), self.tell)
        elif name == "member":
            method = {"add": group.add_learner, "promote": group.promote, "remove": group.remove}[words[0]]
            method(int(words[1]), self.outcome)
        elif name == "transfer":
            group.transfer(int(words[0]), self.outcome)
        elif name == "leading":
            every = self.groups.groups.values()
            quiet = sum(each.status().quiet for each in every)
            self.tell({"leading": sum(each.leading for each in every), "quiet": quiet})

    def outcome(self, result: Any, error: Any) -> None:
        if error is None:
            self.tell({"result": msgspec.to_builtins(result)})
        else:
            self.tell({"error": str(error), "outcome": error.outcome})


def main(path: str) -> int:
    config = json.loads(Path(path).read_text())
    choose_reactor(config.get("reactor", "auto"))
    from twisted.internet import reactor

    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    commands = Commands()
    StandardIO(commands)
    machines: dict[int, IStateMachine] = {number: Counter() for number in range(1, config.get("groups", 1) + 1)}
    try:
        service = make_cluster(
            msgspec.convert(config["cluster"], Cluster), Path(config["data"]), reactor, machines, commands.started
        )
    except ConfigError as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    reactor.callWhenRunning(service.startService)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
