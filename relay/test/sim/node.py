"""One node: the production code that a process would run, over a simulated disk, network and clock.

It is put together as ``relay.cluster_parts`` and ``relay.cluster.service`` do it. A life of a node goes from ``start``
to ``end``; what was scheduled for an earlier life does not happen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from relay.cluster.group import Group
from relay.cluster.group_start import mark_log, prepare
from relay.cluster.groups import Groups
from relay.cluster.identity import Identity
from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.commands import Limits
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.ports import Stores
from relay.cluster.timekeeper import Timekeeper
from relay.errors import ConfigError
from relay.interfaces import IStateMachine
from relay.store.snapshots import SnapshotStore
from relay.store.wal import LogStopped, WriteAheadLog
from relay.store.wal_format import LogDamaged
from relay.store.wal_queue import LogFull
from relay.store.wal_writer import GroupWrite, LogOptions
from relay.test.sim.disk import Background, LogThread, ProcessEnded, SimDisk
from relay.test.sim.network import SimTransport
from relay.test.sim.promises import CheckedGroup
from relay.test.sim.schedule import NodeClock
from relay.test.simulated_files import SimulatedCrash

if TYPE_CHECKING:
    from relay.test.sim.world import World

LOG_OPTIONS = LogOptions(
    segment_bytes=64 << 10,
    segments_max=64,
    record_bytes_max=16 << 10,
    batch_bytes_max=32 << 10,
    submission_bytes_max=48 << 10,
    queue_bytes_max=128 << 10,
    groups_max=8,
    conf_state_bytes_max=256,
    cache_bytes_max=32 << 10,
    cache_group_bytes_max=4 << 10,
    copy_bytes_max=4 << 10,
)
"""Small, so that in half a minute segments end and go, and entries are read back from the disk."""
LIMITS = Limits(sessions_max=24, session_results_max=256, history_events_max=200)
WRITE_TIMEOUT_S = 4.0
RESTART_S = 0.3


@implementer(IStateMachine)
class CheckedMachine(KeyValueMachine):
    """The production state machine; what it applies is compared with what other nodes applied."""

    def __init__(self, node: Node, group: int) -> None:
        super().__init__()
        self._node = node
        self._group = group

    def apply(self, entries: Any) -> Any:  # Any: a sequence of Entry; results
        """Apply, then compare."""
        results = super().apply(entries)
        self._node.world.invariants.applied(self._node, self._group, entries, results)
        return results

    def restore(self, chunks: Any) -> None:
        """Restore."""
        super().restore(chunks)
        self._node.world.invariants.restored(self._node, self._group)


class SimIdentity(Identity):
    """The identity file, on a disk that loses nothing: its writing is not what is simulated."""

    def save(self) -> None:
        """Nothing can be lost."""


class Node:
    """See the module. ``groups`` is None while the process does not run."""

    def __init__(self, world: World, number: int, founders: tuple[int, ...]) -> None:
        self.world = world
        self.number = number
        self.founders = founders
        self.dice = Random(f"{world.recipe.seed} node {number}")
        self.disk = SimDisk()
        self.identity = self._new_identity()
        self.life = 0
        self.paused_until_s = 0.0
        self.rate = 1.0
        self.groups: Groups | None = None
        self.log: WriteAheadLog | None = None
        self.keys: dict[int, KeyValue] = {}
        self.machines: dict[int, CheckedMachine] = {}
        self.lost = False  # its disk is not to be trusted: it never comes back
        self.erased = False  # its directory was emptied
        self.damaged = False  # a bit was flipped: it may refuse to start
        self._turn_ends: list[Callable[[], object]] = []
        self._entered = False

    def _new_identity(self) -> SimIdentity:
        return SimIdentity(Path("identity.json"), "sim", self.number, self.dice.randbytes(16))

    # --- events ---------------------------------------------------------------------------------------------------

    def enter(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Everything that happens in this node's process happens in here; then the turn ends."""
        if self._entered:  # a handshake in the middle of another event
            function(*arguments)
            return
        self._entered = True
        try:
            function(*arguments)
            ends = self._turn_ends
            while ends:
                ends.pop(0)()
            if self.groups is not None:
                self.world.invariants.look(self)
        except SimulatedCrash:
            self.world.note("node {} loses power in a call of its disk", self.number)
            self.end(power=True)
        except ProcessEnded as ended:
            self.world.note("node {} ended itself: {}", self.number, ended)
            self.end(power=self.dice.random() < 0.5)
        except LogStopped as stopped:
            self.world.note("node {} stops: {}", self.number, stopped)
            self.end(power=False)
        finally:
            self._entered = False

    def later(self, delay_s: float, function: Callable[..., object], *arguments: Any) -> object:
        """For threads of this life."""
        return self.world.schedule.later(delay_s, self, function, *arguments)

    def _fatal(self, error: BaseException) -> None:
        self.world.invariants.fatal(self, error)
        raise ProcessEnded(repr(error))

    # --- lives ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life, unless the disk refuses it."""
        if self.groups is not None or self.lost or (self.erased and not self._come_back()):
            return
        self.life += 1
        self._turn_ends.clear()
        self.paused_until_s = 0.0
        self.enter(self._start, ())

    def _start(self) -> None:
        world = self.world
        log = WriteAheadLog(self.disk, "wal", LOG_OPTIONS, on_fatal=self._fatal, random_bytes=self.dice.randbytes)
        snapshots = SnapshotStore(self.disk, "snapshots", on_fatal=self._fatal)
        try:
            log.open()
            snapshots.open()
            stores = Stores(log, snapshots, GroupWrite, Background(self.later))
            self._write(log, mark_log(stores, self.number, self.identity.number, used=self.identity.used))
            self.identity.use()
            for number in world.group_numbers:
                self._write(log, prepare(stores, number, self.founders))
            groups = self._groups(stores)
            world.invariants.started(self, log)
            self.log = log
            for number in world.group_numbers:
                self._add(groups, number)
        except (LogDamaged, ConfigError) as error:
            self._refuse(str(error))
            return
        except LogFull as error:
            world.note("node {} has no room to start: {}", self.number, error)
            self._again()
            return
        except OSError as error:
            world.note("node {}: its disk fails at the start: {}", self.number, error)
            self._again()
            return
        self.groups = groups
        LogThread(log, self.disk, self.later, self.dice, world.sync_s)
        groups.start()
        world.note("node {} starts its life {}", self.number, self.life)
        world.network.link_all()

    def _again(self) -> None:
        self.disk.kill()
        self.life += 1
        self.world.schedule.later(RESTART_S, None, self.start)

    def _refuse(self, why: str) -> None:
        self.world.note("node {} refuses to start: {}", self.number, why)
        self.disk.kill()
        self.life += 1
        self.lost = True
        if not self.damaged:
            self.world.invariants.violated(f"node {self.number} refuses to start: {why}")

    def _write(self, log: WriteAheadLog, writes: list[Any]) -> None:  # Any: writes of the log
        if writes:
            log.submit(writes)
            while log.run_once():
                pass

    def _groups(self, stores: Stores) -> Groups:
        world = self.world
        self.clock = NodeClock(world.schedule, self, self.rate, self.dice.random() * 1000)
        return Groups(
            self.number,
            stores=stores,
            transport=SimTransport(world.network, self),
            clock=self.clock,  # type: ignore[arg-type]  # of IReactorTime only what is used
            at_turn_end=self._turn_ends.append,
            random_below=self.dice.randrange,
            options=world.group_options,
            on_fatal=self._fatal,
        )

    def _add(self, groups: Groups, number: int) -> None:
        machine = self.machines[number] = CheckedMachine(self, number)
        self.world.invariants.beginning(self, number)
        group = groups.add(number, machine, voters=self.founders if not self.world.operator.changed else ())
        clock: Any = self.clock
        checked: Any = CheckedGroup(group, self.world.invariants.promises[number])
        keys = self.keys[number] = KeyValue(machine, checked, clock, write_timeout_s=WRITE_TIMEOUT_S)
        Timekeeper(machine, keys, clock, LIMITS)

    def end(self, *, power: bool) -> None:
        """The process is gone; with ``power`` the machine's memory is, too."""
        if self.groups is None:
            self.life += 1
            self.disk.crash(self.dice) if power else self.disk.kill()
            self._restart()
            return
        self.world.invariants.ended(self)
        self.life += 1
        self.world.graveyard.append((self.groups, self.keys))
        self.groups = None
        self.keys = {}
        self.disk.crash_after = -1
        self.disk.fail_sync = False
        if power:
            self.disk.crash(self.dice)
        else:
            self.disk.kill()
        self.world.clients.ended(self.number)
        self.world.network.gone(self.number)
        self._restart()

    def _restart(self) -> None:
        delay_s = RESTART_S * (0.1 + 6 * self.dice.random() ** 3)
        self.world.schedule.later(delay_s, None, self.start)

    def erase(self) -> None:
        """The data directory is lost: whoever starts here is somebody else under the same id."""
        self.end(power=True)
        self.disk = SimDisk()
        self.identity = self._new_identity()
        self.erased = True

    def _come_back(self) -> bool:
        """As the service does with an emptied directory: nothing before all others were met, which refuse it."""
        world = self.world
        others = [node for node in world.nodes.values() if node.groups is not None and node is not self]
        refusals = [node.identity.refusal(self.number, self.identity.incarnation) for node in others]
        if any(refusals):
            world.note("node {} is refused: its directory was emptied", self.number)
            self.lost = True
        elif len(others) < len(world.members) - 1:
            world.schedule.later(RESTART_S, None, self.start)
        else:
            world.note("node {} comes back with an emptied directory", self.number)
            self.erased = False
        return not self.erased

    def pause(self, seconds: float) -> None:
        """The process does not run for a while, as after SIGSTOP, and does not notice."""
        self.paused_until_s = max(self.paused_until_s, self.world.schedule.now_s + seconds)
        self.world.network.paused(self.number, self.paused_until_s)

    # --- looks ----------------------------------------------------------------------------------------------------

    def refuses(self, other: Node) -> bool:
        """Whether the handshake ends in a refusal."""
        if self.identity.refusal(other.number, other.identity.incarnation):
            return True
        self.identity.meet(other.number, other.identity.incarnation)
        return False

    def group(self, number: int) -> Group:
        """A group of this node, which runs."""
        assert self.groups is not None
        return self.groups.groups[number]

    def digest(self, number: int) -> str:
        """Of the state of a group: equal states give equal digests."""
        return hashlib.sha256(b"".join(self.machines[number].snapshot())).hexdigest()

