"""One run: a recipe, everything that it makes, and what must hold at the end.

At the end all faults stop. Then within ``SETTLE_S`` there must be a leader of each group, every member must have
applied everything, nobody may wait for an outcome any more, writes on each node must succeed without being repeated,
the states of all must have one digest, and the history must be linearizable.
"""

from __future__ import annotations

import gc
import hashlib
import traceback
from collections import Counter
from random import Random
from typing import Any

import attrs

from relay.cluster.group_options import GroupOptions
from relay.test.sim.clients import Clients
from relay.test.sim.faults import KINDS, Faults
from relay.test.sim.invariants import Invariants, Violation
from relay.test.sim.network import Network
from relay.test.sim.node import Node
from relay.test.sim.operator import Operator
from relay.test.sim.schedule import Schedule

SETTLE_S = 40.0
LOOK_S = 0.25


@attrs.frozen
class Recipe:
    """All that decides a run. ``rate``: operations a second."""

    seed: int
    seconds: float = 30.0
    nodes: int = 3
    kinds: tuple[str, ...] = KINDS
    rate: float = 100.0


@attrs.define
class Report:
    """What came of a run."""

    recipe: Recipe
    violation: str = ""
    simulated_s: float = 0.0
    events: int = 0
    elections: int = 0
    recoveries: int = 0
    frames: int = 0
    faults: Counter[str] = attrs.field(factory=Counter)
    outcomes: Counter[str] = attrs.field(factory=Counter)
    digest: str = ""


class World:
    """See the module. ``run`` once."""

    def __init__(self, recipe: Recipe, *, verbose: bool = False) -> None:
        self.recipe = recipe
        self.verbose = verbose
        self.digest = hashlib.blake2b(digest_size=16)
        self.failed: BaseException | None = None
        self.faults_counted: Counter[str] = Counter()
        # What ended lives left behind: if it were collected, coroutines that wait for ever would be closed, and run on.
        self.graveyard: list[Any] = []
        self.schedule = Schedule()
        dice = Random(f"{recipe.seed} world")
        self.group_numbers = (1, 2) if recipe.seed % 3 == 0 else (1,)
        self.sync_s = dice.choice((0.0005, 0.002, 0.008))
        self.group_options = GroupOptions(
            message_bytes_max=dice.choice((1 << 10, 8 << 10)),
            inflight_max=dice.choice((4, 32)),
            inflight_bytes_max=dice.choice((8 << 10, 16 << 10)),
            uncommitted_bytes_max=dice.choice((4 << 10, 24 << 10)),
            snapshot_log_bytes=dice.choice((4 << 10, 16 << 10, 64 << 10)),
            snapshot_chunk_bytes=2 << 10,
            snapshot_window=2,
            snapshot_ticks=60,
            request_ticks=dice.choice((20, 60)),
            frame_bytes_max=32 << 10,
            catch_up_entries_max=64,
            quiet_ticks=dice.choice((2, 6, 20)),
        )
        self.invariants = Invariants(self)
        self.network = Network(self, Random(f"{recipe.seed} network"))
        self.faults = Faults(self)
        self.operator = Operator(self, Random(f"{recipe.seed} operator"))
        founders = tuple(range(1, recipe.nodes + 1))
        self.members = set(founders)
        self.nodes: dict[int, Node] = {}
        for number in founders:
            self._make(number, founders)
        for node in self.nodes.values():
            for other in self.nodes.values():
                if other is not node:
                    node.identity.meet(other.number, other.identity.incarnation)
            node.identity.found(founders)
        self.clients = Clients(self, Random(f"{recipe.seed} clients"), recipe.rate)

    def _make(self, number: int, founders: tuple[int, ...]) -> Node:
        node = self.nodes[number] = Node(self, number, founders)
        node.rate = self.faults.rate(number)
        return node

    # --- what the parts call --------------------------------------------------------------------------------------

    def add_node(self, number: int) -> None:
        """A new node with an empty disk, which is no member yet."""
        self._make(number, ()).start()

    def count(self, kind: str) -> None:
        """A fault happened."""
        self.faults_counted[kind] += 1

    def note(self, form: str, *values: object) -> None:
        """A line of the replay."""
        if self.verbose:
            print(f"{self.schedule.now_s:9.4f} {form.format(*values)}")

    def trace(self, source: int, target: int, frame: bytes) -> None:
        """A frame arrives."""
        self.digest.update(b"%d %d %d " % (self.schedule.now_s * 1e6, source, target))
        self.digest.update(frame)

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """All of it. Nothing is collected meanwhile: when that happens is not the seed's, and it costs a sixth."""
        report = Report(self.recipe)
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._run()
        except Violation as violation:
            report.violation = str(violation)
            self.note("{}", report.violation)
        except Exception as error:  # noqa: BLE001 - of production code: the run has found it
            report.violation = f"{self.schedule.now_s:.4f}: {error!r}"
            self.note("{}", traceback.format_exc())
        finally:
            if collecting:
                gc.enable()
        report.simulated_s = self.schedule.now_s
        report.events = self.schedule.count
        report.elections = self.invariants.elections
        report.recoveries = self.invariants.recoveries
        report.frames = self.network.frames
        report.faults = self.faults_counted
        report.outcomes = self.clients.outcomes
        report.digest = self.digest.hexdigest()
        return report

    def _run(self) -> None:
        for node in list(self.nodes.values()):
            node.start()
        self.faults.start()
        self.operator.start()
        self.clients.start()
        self._until(self.recipe.seconds)
        self.note("all faults end")
        self.faults.stop()
        self._until(self.schedule.now_s + 2.0)
        self.clients.running = False
        self._settle()
        self._write_everywhere()
        self._judge()

    def _until(self, until_s: float) -> None:
        while self.schedule.now_s < until_s:
            self.schedule.run(min(until_s, self.schedule.now_s + LOOK_S))
            if self.failed is not None:
                raise self.failed
            self.network.link_all()

    def _settle(self) -> None:
        deadline_s = self.schedule.now_s + SETTLE_S
        why = self._unsettled()
        while why:
            if self.schedule.now_s > deadline_s:
                self.invariants.violated(f"liveness: {SETTLE_S:g} s after the last fault {why}")
            self._until(self.schedule.now_s + LOOK_S)
            why = self._unsettled()

    def _write_everywhere(self) -> None:
        before = self.clients.outcomes["ok"]
        for number in sorted(self.members) * 2:
            self.schedule.later(0.0, self.nodes[number], self.clients.must_succeed, number)
            self._until(self.schedule.now_s + LOOK_S)
        self._settle()
        missing = before + self.clients.demanded - self.clients.outcomes["ok"]
        if missing:
            self.invariants.violated(f"liveness: {missing} writes fail where nothing stands in their way")

    def _unsettled(self) -> str:
        if not self.operator.idle:
            return f"node {self.operator.old} is not replaced"
        if self.clients.waiting:
            return f"{self.clients.waiting} operations wait"
        for group in self.group_numbers:
            have: dict[int, Any] = {}
            for number in sorted(self.members):
                groups = self.nodes[number].groups
                if groups is None:
                    return f"node {number} does not run"
                replica = groups.replicas[group]
                raft = replica.raw.raft
                have[number] = (raft.term, raft.lead, raft.log.last_index, raft.log.committed, replica.applier.index)
            if len(set(have.values())) != 1 or have[min(have)][1] not in self.members:
                return f"(term, leader, last, committed, applied) of group {group} by node are {have}"
            _, _, last, committed, applied = have[min(have)]
            if not last == committed == applied:
                return f"group {group} has {last} entries, {committed} committed, {applied} applied"
        return ""

    def _judge(self) -> None:
        nodes = [self.nodes[number] for number in sorted(self.members)]
        for group in self.group_numbers:
            terms = self.invariants.committed[group]
            last = nodes[0].group(group).applied
            if last < len(terms) - 1:
                self.invariants.violated(f"acknowledged: {len(terms) - 1} entries were committed, {last} are there")
            digests = {node.number: node.digest(group) for node in nodes}
            if len(set(digests.values())) != 1:
                self.invariants.violated(f"the states of group {group} differ: {digests}")
        self.clients.last_reads(nodes[-1].keys)
        unexplained = self.clients.unexplained()
        if unexplained:
            self.invariants.violated(unexplained)
