"""Nodes with groups in one process: the production code over disks, links and a clock in memory.

Frames take 1 ms, a write to the log 1 ms, background work 1 ms. ``cluster.links[(a, b)]`` is cut with ``cut``; a node
is killed with ``kill`` and comes back with what its disk had synced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

from twisted.internet.task import Clock
from zope.interface import implementer

from relay.cluster.group import Group
from relay.cluster.group_options import GroupOptions
from relay.cluster.group_start import prepare
from relay.cluster.groups import Groups
from relay.cluster.ports import Stores
from relay.cluster.raft.types import Entry
from relay.errors import RelayError
from relay.interfaces import IRaftTransport, IStateMachine
from relay.store.snapshots import SnapshotStore
from relay.store.wal import WriteAheadLog
from relay.store.wal_writer import GroupWrite, LogOptions
from relay.test.simulated_files import SimulatedFiles

STEP_S = 0.001
LOG_OPTIONS = LogOptions(
    segment_bytes=1 << 20,
    record_bytes_max=64 << 10,
    batch_bytes_max=256 << 10,
    submission_bytes_max=256 << 10,
    queue_bytes_max=1 << 20,
    groups_max=64,
    conf_state_bytes_max=256,
)


@implementer(IStateMachine)
class ListMachine:
    """Keeps the commands in order; the result is their number."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.leaders: list[tuple[int, int, bool]] = []
        self.restored = 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        results = []
        for entry in entries:
            self.commands.append(entry.data)
            results.append(len(self.commands))
        return results

    def snapshot(self) -> Iterator[bytes]:
        return iter([b"".join(len(each).to_bytes(4, "big") + each for each in self.commands) or b"\0\0\0\0"])

    def restore(self, chunks: Iterable[bytes]) -> None:
        data = b"".join(chunks)
        self.commands = []
        self.restored += 1
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            if length:
                self.commands.append(data[at + 4 : at + 4 + length])
            at += 4 + length

    def leader_changed(self, leader: int, term: int, leading: bool) -> None:
        self.leaders.append((leader, term, leading))


@implementer(IRaftTransport)
class MemoryTransport:
    """One node's end of all links."""

    def __init__(self, cluster: GroupCluster, node: int) -> None:
        self.cluster = cluster
        self.node = node
        self.sent: list[tuple[int, int, bytes]] = []

    def send(self, node: int, lane: int, frame: bytes) -> bool:
        return self.cluster.carry(self, node, lane, frame)

    def waiting_bytes(self, node: int, lane: int) -> int:
        return 0

    def drop(self, node: int) -> None:
        self.cluster.cut(self.node, node)


class Member:
    """One node: its disk, and while it runs its groups."""

    def __init__(self, cluster: GroupCluster, node: int, **options: Any) -> None:  # Any: of GroupOptions
        self.cluster = cluster
        self.node = node
        self.disk = SimulatedFiles(1 << 28)
        self.options = GroupOptions(**options)
        self.machines: dict[int, ListMachine] = {}
        self.groups: Groups | None = None
        self.transport = MemoryTransport(cluster, node)
        self.fatal: list[BaseException] = []
        self.life = 0

    def start(self, numbers: Iterable[int], founders: Sequence[int]) -> Member:
        self.life += 1
        life = self.life
        clock = self.cluster.clock
        log = WriteAheadLog(
            self.disk, "wal", LOG_OPTIONS, on_fatal=self.fatal.append, random_bytes=self.cluster.dice.randbytes
        )
        log.open()
        snapshots = SnapshotStore(self.disk, "snapshots", on_fatal=self.fatal.append)
        snapshots.open()

        def background(work: Callable[[], Any], done: Callable[[Any, BaseException | None], object]) -> None:
            def run() -> None:
                if self.life != life:
                    return
                try:
                    result = work()
                except Exception as error:  # noqa: BLE001 - handed on
                    done(None, error)
                else:
                    done(result, None)

            clock.callLater(STEP_S, run)

        def write_soon() -> None:
            clock.callLater(STEP_S, lambda: self.life == life and log.run_once())

        log.on_work = write_soon
        stores = Stores(log, snapshots, GroupWrite, background)
        for number in numbers:
            for write in prepare(stores, number, founders):
                log.submit([write])
        while log.run_once():
            pass
        groups = self.groups = Groups(
            self.node,
            stores=stores,
            transport=self.transport,
            clock=self.cluster.clock_of(self),
            at_turn_end=lambda function: clock.callLater(0, lambda: self.life == life and function()),
            random_below=self.cluster.dice.randrange,
            options=self.options,
            on_fatal=self.fatal.append,
        )
        self.log = log
        for number in numbers:
            self.machines[number] = ListMachine()
            groups.add(number, self.machines[number])
        groups.start()
        return self

    def group(self, number: int = 1) -> Group:
        assert self.groups is not None
        return self.groups.groups[number]


class _LifeClock:
    """The cluster's clock for one life of a node: a dead node's calls do nothing."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._life = member.life

    def seconds(self) -> float:
        return self._member.cluster.clock.seconds()

    def callLater(self, delay: float, function: Callable[..., object], *arguments: object) -> Any:  # Any: IDelayedCall
        return self._member.cluster.clock.callLater(
            delay, lambda: self._member.life == self._life and function(*arguments)
        )


class GroupCluster:
    """``nodes`` members, all linked, with groups ``numbers`` founded by ``founders`` (default: all nodes)."""

    def __init__(
        self, nodes: int = 3, numbers: Sequence[int] = (1,), *, founders: int = 0, seed: int = 1, **options: Any
    ) -> None:  # Any: of GroupOptions
        self.clock = Clock()
        self.dice = Random(seed)
        self.numbers = tuple(numbers)
        self.founders = tuple(range(1, (founders or nodes) + 1))
        self.members = {node: Member(self, node, **options) for node in range(1, nodes + 1)}
        self.cuts: set[frozenset[int]] = set()
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.delay_s: Callable[[int, bytes], float] = lambda lane, frame: STEP_S
        self.refused: list[RelayError] = []
        for member in self.members.values():
            member.start(self.numbers, self.founders if member.node in self.founders else ())
        for node in self.members:
            self.link(node)

    def __getitem__(self, node: int) -> Member:
        return self.members[node]

    def clock_of(self, member: Member) -> Any:  # Any: IReactorTime, as far as it is used
        return _LifeClock(member)

    # --- network --------------------------------------------------------------------------------------------------

    def alive(self, node: int) -> bool:
        return self.members[node].groups is not None

    def joined(self, a: int, b: int) -> bool:
        return self.alive(a) and self.alive(b) and frozenset((a, b)) not in self.cuts

    def carry(self, source: MemoryTransport, node: int, lane: int, frame: bytes) -> bool:
        if node not in self.members or not self.joined(source.node, node):
            return False
        self.frames.append((source.node, node, lane, frame))
        target = self.members[node]
        lives = (self.members[source.node].life, target.life)

        def arrive() -> None:
            if target.groups is None or not self.joined(source.node, node):
                return
            if lives == (self.members[source.node].life, target.life):
                target.groups.received(source.node, frame)

        self.clock.callLater(self.delay_s(lane, frame), arrive)
        return True

    def link(self, node: int) -> None:
        """Links of ``node`` to all that run."""
        for other, member in self.members.items():
            if other != node and self.joined(node, other):
                assert member.groups is not None
                member.groups.linked(node)
                mine = self.members[node].groups
                assert mine is not None
                mine.linked(other)

    def cut(self, a: int, b: int) -> None:
        """The link between two nodes breaks, and cannot be had again; both notice."""
        self.cuts.add(frozenset((a, b)))
        for node, other in ((a, b), (b, a)):
            groups = self.members[node].groups
            if groups is not None:
                groups.unlinked(other)

    def mend(self, a: int, b: int) -> None:
        self.cuts.discard(frozenset((a, b)))
        self.link(a)

    def kill(self, node: int) -> None:
        """The process is gone: the others' links break, and nobody answers there."""
        member = self.members[node]
        member.life += 1
        member.groups = None
        member.disk.crash(self.dice)
        for other, each in self.members.items():
            if other != node and each.groups is not None and frozenset((node, other)) not in self.cuts:
                each.groups.unlinked(node)
                each.groups.unreachable(node)

    def restart(self, node: int) -> Member:
        member = self.members[node].start(self.numbers, self.founders if node in self.founders else ())
        self.link(node)
        return member

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.clock.advance(STEP_S)

    def until(self, wanted: Callable[[], object], seconds: float = 20.0) -> Any:  # Any: what ``wanted`` gives
        """Let time pass until ``wanted()`` is true; what it gave."""
        for _ in range(round(seconds / STEP_S)):
            found = wanted()
            if found:
                return found
            self.clock.advance(STEP_S)
        raise AssertionError(f"not within {seconds} s of the cluster's time")

    # --- groups ---------------------------------------------------------------------------------------------------

    def leader(self, number: int = 1) -> Member | None:
        """The node that leads in the latest term, if there is one and it runs."""
        leading = [each for each in self.running() if each.group(number).leading]
        return max(leading, key=lambda each: each.group(number).term) if leading else None

    def running(self) -> list[Member]:
        return [each for each in self.members.values() if each.groups is not None]

    def elect(self, number: int = 1) -> Member:
        found = self.until(lambda: self.leader(number))
        assert isinstance(found, Member)
        return found

    def propose(self, member: Member, data: bytes, number: int = 1) -> list[Any]:  # Any: [result, error] once there
        outcome: list[Any] = []
        member.group(number).propose(data, lambda result, error: outcome.extend((result, error)))
        return outcome

    def call(self, method: Callable[..., object], *arguments: object) -> Any:  # Any: the result
        """Call a method that takes ``done``, wait for it, and give its result or raise its error."""
        outcome: list[Any] = []
        method(*arguments, lambda result, error: outcome.extend((result, error)))
        self.until(lambda: outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def commands(self, node: int, number: int = 1) -> list[bytes]:
        return self.members[node].machines[number].commands


def others(cluster: GroupCluster, member: Member) -> list[Member]:
    """Those that run besides ``member``."""
    return [each for each in cluster.running() if each is not member]
