"""A Raft group that is none: one log that all members apply after a fixed delay, for tests of what stands on groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from zope.interface import implementer

from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.commands import Limits
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.raft.types import Entry
from relay.cluster.timekeeper import Timekeeper
from relay.errors import RelayError, Unavailable
from relay.interfaces import IRaftGroup

DELAY_S = 0.002


class FakeCluster:
    """Members 1 … n; the first leads. ``cut``: members that hear nothing and are not heard."""

    def __init__(self, clock: Clock, members: int = 3, limits: Limits | None = None, **options: Any) -> None:
        self.clock = clock
        self.log: list[Entry] = []
        self.term = 1
        self.leader = 1
        self.cut: set[int] = set()
        self.lose_answers = 0
        """So many proposals are done, but their proposer hears only that the end is unknown."""
        self.lose_proposals = 0
        """So many are not done, and their proposer hears the same."""
        self.members = {node: FakeGroup(self, node) for node in range(1, members + 1)}
        self.keys = {node: KeyValue(group.machine, group, clock, **options) for node, group in self.members.items()}
        self.timekeepers = [
            Timekeeper(group.machine, self.keys[node], clock, limits or Limits())
            for node, group in self.members.items()
        ]
        self.lead(1)

    def lead(self, leader: int) -> None:
        """``leader`` (0: nobody) leads from now on."""
        self.leader = leader
        self.term += 1
        for node, group in self.members.items():
            if node not in self.cut:
                group.machine.leader_changed(leader, self.term, node == leader)

    def spread(self) -> None:
        """Members that are not cut off apply what they lack."""
        for node, group in self.members.items():
            if node not in self.cut:
                group.catch_up()

    def run(self, seconds: float) -> None:
        """Time passes."""
        for _ in range(round(seconds / DELAY_S)):
            self.clock.advance(DELAY_S)


@implementer(IRaftGroup)
class FakeGroup:
    """One member's view."""

    number = 1

    def __init__(self, cluster: FakeCluster, node: int) -> None:
        self.node = node
        self.machine = KeyValueMachine()
        self.applied = 0
        self._cluster = cluster
        self._waiting: dict[int, Callable[[Any, RelayError | None], object]] = {}

    @property
    def leader(self) -> int:
        """As known here."""
        return 0 if self.node in self._cluster.cut else self._cluster.leader

    @property
    def term(self) -> int:
        """The term."""
        return self._cluster.term

    @property
    def leading(self) -> bool:
        """Whether this is the leader."""
        return self.leader == self.node

    def catch_up(self) -> None:
        """Apply what is in the log."""
        entries = self._cluster.log[self.applied :]
        if not entries:
            return
        self.applied = len(self._cluster.log)
        results = self.machine.apply(entries)
        for entry, result in zip(entries, results, strict=True):
            done = self._waiting.pop(entry.index, None)
            if done is not None:
                done(result, None)

    def propose(self, data: bytes, done: Callable[[Any, RelayError | None], object]) -> None:
        """As ``IRaftGroup``."""
        cluster = self._cluster
        if not self.leader:
            done(None, Unavailable("no leader"))
            return

        def arrived() -> None:
            if self.node in cluster.cut or not cluster.leader:
                done(None, Unavailable("no answer", outcome="unknown"))
            elif cluster.lose_proposals:
                cluster.lose_proposals -= 1
                done(None, Unavailable("no answer", outcome="unknown"))
            else:
                index = len(cluster.log) + 1
                cluster.log.append(Entry(index=index, term=cluster.term, data=data))
                if cluster.lose_answers:
                    cluster.lose_answers -= 1
                    done(None, Unavailable("no answer", outcome="unknown"))
                else:
                    self._waiting[index] = done
                cluster.clock.callLater(DELAY_S, cluster.spread)

        cluster.clock.callLater(DELAY_S, arrived)

    def read_index(self, done: Callable[[None, RelayError | None], object]) -> None:
        """As ``IRaftGroup``."""
        if not self.leader:
            done(None, Unavailable("no leader"))
        else:
            self.catch_up()
            done(None, None)

    def status(self) -> Any:
        """Nothing of interest."""
        return {}

    def transfer(self, node: int, done: Callable[[None, RelayError | None], object]) -> None:
        """As ``IRaftGroup``."""
        self._cluster.lead(node or next(each for each in self._cluster.members if each != self._cluster.leader))
        done(None, None)

    def add_learner(self, node: int, done: Callable[[Any, RelayError | None], object]) -> None:
        """Members do not change here."""
        done(None, Unavailable("not here"))

    promote = remove = add_learner

    def take_snapshot(self, done: Callable[[Any, RelayError | None], object]) -> None:
        """Replace the state by its own snapshot, as a member that fell behind does."""
        chunks = list(self.machine.snapshot())
        self.machine.restore(chunks)
        done(self.applied, None)
