"""Histories of the key-value state under faults: real groups of three nodes in one process, clients on all of them.

    python -m relay.test.kv_histories [--seeds 1-100] [--json]

Links break and are mended, leaders are killed and come back, the word where a write stands in the log is lost; by a
seed. An error with ``not_done`` counts as not having happened, one with ``unknown`` as perhaps.
"""

from __future__ import annotations

import argparse
import sys
from random import Random
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relay.cluster.frames import PLACED
from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.commands import Compare, Get, Limits, Put, Result, Txn
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.timekeeper import Timekeeper
from relay.errors import RelayError
from relay.test import group_cluster
from relay.test.linearizability import Operation, linearizable
from relay.test.node_process import report
from relay.test.test_kv_model import digest

KEY = "register"
WORKERS = 5
STEPS = 400
STEP_S = 0.01


def register(state: str, operation: Operation) -> str | None:
    """One register: '' while there is no key. An operation whose end is unknown has no result."""
    known = operation.returned is not None
    if operation.action == "read":
        return state if state == operation.result else None
    if operation.action == "write":
        return str(operation.argument)
    old, new = operation.argument
    if known and operation.result != (state == old):
        return None
    return str(new) if state == old else state


class Run:
    """One seed: ``operations`` is the history, ``outcomes`` counts how they ended."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.cluster = group_cluster.GroupCluster(seed=seed)
        self.keys: dict[int, KeyValue] = {}
        for node in (1, 2, 3):
            self.use(node)
        self.operations: list[Operation] = []
        self.outcomes = {"done": 0, "not_done": 0, "unknown": 0, "kills": 0, "cuts": 0}
        self.moment = 0
        self.busy: dict[int, int] = {}  # worker -> node
        self.dead: list[int] = []

    def use(self, node: int) -> None:
        """Stand on the group of a node that has just started."""
        member = self.cluster[node]
        machine: Any = member.machines[1]
        clock = self.cluster.clock_of(member)
        self.keys[node] = KeyValue(machine, member.group(), clock, write_timeout_s=1.5)
        Timekeeper(machine, self.keys[node], clock, Limits())

    def go(self) -> None:
        """All of it."""
        self.cluster.elect()
        for number in range(STEPS):
            self.faults(number)
            for worker in range(WORKERS):
                if worker not in self.busy:
                    self.begin(worker)
            self.cluster.run(STEP_S)
        self.mend()
        self.cluster.run(12)

    def faults(self, number: int) -> None:
        """Something breaks, or is mended."""
        match self.dice.randrange(60):
            case 0 if not self.dead:
                leader = self.cluster.leader()
                if leader is not None:
                    self.kill(leader.node)
            case 1 | 2 if self.dead:
                self.restart()
            case 3:
                a, b = self.dice.sample((1, 2, 3), 2)
                self.outcomes["cuts"] += 1
                self.cluster.cut(a, b)
            case 4 | 5:
                self.mend()
            case 6:
                self.cluster.delay_s = lambda lane, frame: 5.0 if frame[0] == PLACED else group_cluster.STEP_S
            case 7 | 8:
                self.cluster.delay_s = lambda lane, frame: group_cluster.STEP_S

    def kill(self, node: int) -> None:
        """A process ends; who waited there never hears."""
        self.outcomes["kills"] += 1
        self.cluster.kill(node)
        self.dead.append(node)
        for worker, where in list(self.busy.items()):
            if where == node:
                del self.busy[worker]

    def restart(self) -> None:
        """It comes back."""
        node = self.dead.pop()
        self.cluster.restart(node)
        self.use(node)

    def mend(self) -> None:
        """All is well again."""
        if self.dead:
            self.restart()
        for pair in list(self.cluster.cuts):
            self.cluster.mend(*pair)

    def begin(self, worker: int) -> None:
        """A worker asks something of some node."""
        node = self.dice.choice([each for each in (1, 2, 3) if each not in self.dead])
        keys = self.keys[node]
        called = self.moment = self.moment + 1
        value = f"v{called}"
        waiting: Deferred[Any]
        match self.dice.randrange(3):
            case 0:
                action: tuple[str, Any] = ("read", None)
                waiting = Deferred.fromCoroutine(self.read(keys))
            case 1:
                action = ("write", value)
                waiting = Deferred.fromCoroutine(keys.execute(Txn((Put(KEY, value.encode()),))))
            case _:
                pair = keys.state.keys.get(KEY)
                old = "" if pair is None else pair.value.decode()
                action = ("cas", (old, value))
                same = Compare(KEY, "value", "=", old.encode()) if old else Compare(KEY, "create", "=", 0)
                waiting = Deferred.fromCoroutine(keys.execute(Txn((Put(KEY, value.encode()),), (same,), (Get(KEY),))))
        place = len(self.operations)
        self.operations.append(Operation(*action, None, called, None))
        self.busy[worker] = node
        waiting.addBoth(self.end, worker, node, place)

    async def read(self, keys: KeyValue) -> str:
        """What is there, linearizably."""
        await keys.barrier()
        pair = keys.state.keys.get(KEY)
        return "" if pair is None else pair.value.decode()

    def end(self, outcome: Any, worker: int, node: int, place: int) -> None:
        """An operation has ended."""
        self.busy.pop(worker, None)
        operation = self.operations[place]
        self.moment += 1
        if isinstance(outcome, Failure):
            error: Any = outcome.value  # Any: checked here
            if not isinstance(error, RelayError):
                outcome.raiseException()
            self.outcomes[error.outcome] += 1
            if error.outcome == "not_done":
                self.operations[place] = Operation("none", None, None, operation.called, self.moment)
            return
        self.outcomes["done"] += 1
        result = outcome.succeeded if isinstance(outcome, Result) else outcome
        self.operations[place] = Operation(operation.action, operation.argument, result, operation.called, self.moment)

    def history(self) -> list[Operation]:
        """What happened, or may have: without reads that have no result."""
        return [
            each
            for each in self.operations
            if each.action != "none" and not (each.action == "read" and each.returned is None)
        ]


def campaign(first: int, last: int) -> dict[str, Any]:  # Any: numbers and lists
    """The figures of all seeds from ``first`` to ``last``."""
    sums: dict[str, Any] = {"seeds": last - first + 1}
    broken: list[int] = []
    with patch.object(group_cluster, "ListMachine", KeyValueMachine):
        for seed in range(first, last + 1):
            run = Run(seed)
            run.go()
            members: Any = run.cluster.running()  # Any: their machines are those patched in
            states = {digest(each.machines[1]) for each in members}
            if len(members) != 3 or len(states) != 1 or not linearizable(run.history(), "", register):
                broken.append(seed)
            for name, count in run.outcomes.items():
                sums[name] = sums.get(name, 0) + count
    return {**sums, "not linearizable, or nodes that differ": broken, "ok": not broken}


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.kv_histories", description=__doc__)
    parser.add_argument("--seeds", default="1-100")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    first, _, last = given.seeds.partition("-")
    return report(campaign(int(first), int(last or first)), given.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
