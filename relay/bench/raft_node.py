"""One node of a cluster that only replicates, for ``relay bench raft``: a command a line in, JSON lines out.

    python -m relay.bench.raft_node CONFIG.json          {"data": …, "cluster": {…}, "reactor": "auto"}

``status`` answers with the leader's id as this node knows it; ``load WARMUP SECONDS OUTSTANDING BYTES`` keeps so many
proposals under way, and answers with their rate and latencies. The state machine counts: what is measured is the way
through the log of a majority.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from zope.interface import implementer

from relay.cluster.groups import Groups
from relay.cluster.raft.types import Entry
from relay.cluster_parts import make_cluster
from relay.config_cluster import Cluster
from relay.errors import ConfigError
from relay.interfaces import IStateMachine
from relay.tap import GC_THRESHOLDS, choose_reactor

GROUP: Final = 1


@implementer(IStateMachine)
class Counter:
    """The state is how many commands there were."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        """The number of each."""
        first = self.count + 1
        self.count += len(entries)
        return range(first, self.count + 1)

    def snapshot(self) -> Iterator[bytes]:
        """The count."""
        return iter([self.count.to_bytes(8, "big")])

    def restore(self, chunks: Iterable[bytes]) -> None:
        """The count."""
        self.count = int.from_bytes(b"".join(chunks), "big")

    def leader_changed(self, leader: int, term: int, leading: bool) -> None:
        """Nothing depends on it."""


class Load:
    """Proposals one after another, ``outstanding`` at a time; ``told`` gets the figures."""

    def __init__(self, groups: Groups, warmup_s: float, seconds: float, outstanding: int, size: int, told: Any) -> None:
        # Any: a callable
        self._group = groups.groups[GROUP]
        self._data = os.urandom(size)
        self._begin = time.perf_counter() + warmup_s
        self._until = self._begin + seconds
        self._seconds = seconds
        self._waiting = 0
        self._latencies: list[float] = []
        self._errors: dict[str, int] = {}
        self._told = told
        for _ in range(outstanding):
            self._propose()

    def _propose(self) -> None:
        self._waiting += 1
        start = time.perf_counter()

        def done(result: object, error: Exception | None) -> None:
            now = time.perf_counter()
            self._waiting -= 1
            if error is not None:
                self._errors[str(error)] = self._errors.get(str(error), 0) + 1
            elif self._begin <= now < self._until:
                self._latencies.append(now - start)
            if now < self._until and error is None:
                self._propose()
            elif not self._waiting:
                self._tell()

        self._group.propose(self._data, done)

    def _tell(self) -> None:
        found = sorted(self._latencies) or [0.0]
        self._told(
            {
                "count": len(self._latencies),
                "rate": len(self._latencies) / self._seconds,
                "p50_ms": found[len(found) // 2] * 1000,
                "p99_ms": found[len(found) * 99 // 100] * 1000,
                "errors": self._errors,
            }
        )


def _serve(reactor: Any, lines: Any) -> Any:  # Any: Twisted's, untyped
    """The protocol of standard input; ``lines`` is called with each."""
    from twisted.internet.stdio import StandardIO
    from twisted.protocols.basic import LineReceiver

    class Commands(LineReceiver):
        """Bytes to lines."""

        delimiter = b"\n"

        def lineReceived(self, line: bytes) -> None:
            """A command."""
            lines(line.decode().split())

        def connectionLost(self, reason: object = None) -> None:
            """Whoever measured is gone."""
            if reactor.running:
                reactor.stop()

    commands: Any = Commands()  # Any: untyped
    StandardIO(commands)
    return commands


def main(path: str) -> int:
    """Run the node; its exit status."""
    config = json.loads(Path(path).read_text("utf-8"))
    choose_reactor(config.get("reactor", "auto"))
    from twisted.internet import reactor as installed

    reactor: Any = installed  # Any: a module, as far as types go
    there: list[Groups] = []

    def tell(what: object) -> None:
        commands.sendLine(json.dumps(what).encode())

    def line(words: list[str]) -> None:
        if words[0] == "status":
            tell({"leader": there[0].groups[GROUP].leader if there else 0})
        elif words[0] == "load":
            Load(there[0], float(words[1]), float(words[2]), int(words[3]), int(words[4]), tell)

    def started(groups: Groups) -> None:
        there.append(groups)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    commands = _serve(reactor, line)
    machines: dict[int, IStateMachine] = {GROUP: Counter()}
    cluster = msgspec.convert(config["cluster"], Cluster)
    try:
        service = make_cluster(cluster, Path(config["data"]), reactor, machines, started)
    except ConfigError as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    reactor.callWhenRunning(service.startService)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
