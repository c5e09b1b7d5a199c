"""When which fault begins. Each kind has dice of its own, so that leaving one out does not move the others.

==============  ======================================================================================================
kind            what happens
==============  ======================================================================================================
delay           one direction of a link becomes slow, up to 80 ms, or one lane of it
loss            frames are lost, one by one; so ``duplicate`` and ``reorder``
partition       one node, or two, and the others do not hear each other
oneway          one direction of one link is cut
rift            a leader has just changed its voters: links break between it, the new nodes or some others, and the rest
upset           a leader has just been elected: its process stops for a while or for good, or one direction of its links
reset           a link breaks
slow            a disk takes up to a hundred times as long to sync
power           a node loses power: unsynced sectors are lost, kept or torn
kill            a process is killed: its disk has everything that was written
all             all nodes lose power at once
call            power is lost in the middle of a step, at one of the next calls of the disk, or behind a snapshot
midway          a node has just taken over a snapshot: it loses power, or its disk is slow and its leader ends
sync            fsync fails
full            a disk has no room for a while, sometimes until its log is full
flip            a process is killed, and a bit of a file of it has turned
stall           a process does not run for a while
drift           clocks run at rates of their own (from the start)
erase           a data directory is emptied
member          a good node is replaced
transfer        leadership is handed over, sometimes again and again, or away from a node whose links are slow
snapshot        a node takes a snapshot
retake          a node has just changed its voters: it takes a snapshot, and may start again from that; or there is a
                new leader, and all take two
==============  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

from relay.cluster.frames import LANES
from relay.cluster.raft.types import LEADER
from relay.test.sim.network import DELAY_S, Direction

if TYPE_CHECKING:
    from relay.test.sim.node import Node
    from relay.test.sim.world import World

MEAN_S: Final[dict[str, float]] = {
    "delay": 3.0,
    "loss": 6.0,
    "duplicate": 6.0,
    "reorder": 6.0,
    "partition": 6.0,
    "oneway": 6.0,
    "rift": 1e9,
    "upset": 1e9,
    "reset": 4.0,
    "slow": 6.0,
    "power": 7.0,
    "kill": 7.0,
    "all": 25.0,
    "call": 9.0,
    "midway": 1e9,
    "sync": 15.0,
    "full": 12.0,
    "flip": 20.0,
    "stall": 5.0,
    "drift": 1e9,
    "erase": 20.0,
    "member": 14.0,
    "transfer": 7.0,
    "snapshot": 5.0,
    "retake": 1e9,
}
"""Between two of a kind, on average; each seed has it half as often, as often or twice as often. Not of those that are
there from the start, or come when something else happens."""
SELF_TIMED: Final = ("drift", "rift", "upset", "midway", "retake")
KINDS: Final = tuple(MEAN_S)
DRIFT: Final = 0.2
HOT_S: Final = 1.0
POLL_FOR_S: Final = 0.3


class Faults:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = {kind: Random(f"{world.recipe.seed} fault {kind}") for kind in KINDS}
        self._mean_s = {kind: MEAN_S[kind] * dice.choice((0.5, 1.0, 2.0)) for kind, dice in self._dice.items()}
        self._actions: dict[str, Callable[[Random], object]] = {
            kind: getattr(self, f"_{kind}") for kind in KINDS if kind not in SELF_TIMED
        }
        self._heals: dict[int, Callable[[], object]] = {}  # what ends a fault that lasts
        self._number = 0
        self.calm = False

    def start(self) -> None:
        """The first of each kind."""
        for kind in self._world.recipe.kinds:
            if kind not in SELF_TIMED:
                self._next(kind)

    def rate(self, number: int) -> float:
        """How fast the clock of a node runs."""
        if "drift" not in self._world.recipe.kinds:
            return 1.0
        return 1.0 + DRIFT * (2 * Random(f"{self._world.recipe.seed} rate {number}").random() - 1)

    def stop(self) -> None:
        """No more faults, and an end of all that last."""
        self.calm = True
        for heal in list(self._heals.values()):
            heal()
        for node in self._world.nodes.values():
            node.disk.relent()
        self._heals.clear()

    def _next(self, kind: str) -> None:
        self._world.schedule.later(
            self._dice[kind].expovariate(1 / self._mean_s[kind]), None, self._happen, kind
        )

    def _happen(self, kind: str) -> None:
        if self.calm:
            return
        if self._actions[kind](self._dice[kind]) is not False:
            self._world.count(kind)
        self._next(kind)

    def _for(self, seconds: float, heal: Callable[[], object]) -> None:
        """``heal`` after ``seconds``, or when all faults end."""
        self._number += 1
        number = self._number
        self._heals[number] = heal

        def end() -> None:
            if self._heals.pop(number, None) is not None:
                heal()

        self._world.schedule.later(seconds, None, end)

    def _running(self, dice: Random) -> Node | None:
        nodes = [node for node in self._world.nodes.values() if node.groups is not None]
        return dice.choice(nodes) if nodes else None

    def _pair(self, dice: Random) -> tuple[int, int]:
        a, b = dice.sample(list(self._world.nodes), 2)
        return a, b

    # --- network --------------------------------------------------------------------------------------------------

    def _delay(self, dice: Random) -> None:
        direction = self._world.network.direction(*self._pair(dice))
        delay_s = 0.08 * dice.random() ** 2
        lane = dice.randrange(2 * LANES)
        delays_s = [delay_s if lane >= LANES or lane == each else DELAY_S for each in range(LANES)]
        self._delay_for(0.5 + 2 * dice.random(), direction, delays_s)

    def _delay_for(self, seconds: float, direction: Direction, delays_s: list[float]) -> None:
        direction.delay_s = delays_s
        self._for(seconds, lambda: setattr(direction, "delay_s", [DELAY_S] * LANES))

    def _loss(self, dice: Random) -> None:
        self._lossy("loss", 0.2 * dice.random(), dice)

    def _duplicate(self, dice: Random) -> None:
        self._lossy("duplicate", 0.2 * dice.random(), dice)

    def _reorder(self, dice: Random) -> None:
        self._lossy("reorder", 0.2 * dice.random(), dice)

    def _lossy(self, name: str, chance: float, dice: Random) -> None:
        network = self._world.network
        setattr(network, name, chance)
        network.lossy = True
        self._world.clients.poll(POLL_FOR_S)

        def heal() -> None:
            setattr(network, name, 0.0)
            network.lossy = network.loss + network.duplicate + network.reorder > 0

        self._for(0.3 + 2 * dice.random(), heal)

    def _partition(self, dice: Random) -> None:
        nodes = list(self._world.nodes)
        some = set(dice.sample(nodes, 1 if dice.random() < 0.7 else 2))
        pairs = [(a, b) for a in nodes for b in nodes if (a in some) != (b in some)]
        self._cut(pairs, dice)
        self._world.note("partition of {}", sorted(some))

    def _oneway(self, dice: Random) -> None:
        pair = self._pair(dice)
        self._cut([pair], dice)
        self._world.note("nothing from {} to {}", *pair)

    def _cut(self, pairs: list[tuple[int, int]], dice: Random) -> None:
        network = self._world.network
        for pair in pairs:
            network.hold(*pair)
        late = dice.random() < 0.5

        def heal() -> None:
            for pair in pairs:
                network.release(*pair, late=late)
            network.link_all()

        self._for(0.1 + 6 * dice.random() ** 3, heal)

    def changed(self, node: Node, raft: Any) -> None:  # Any: RaftState
        """A node has another configuration. If majorities need not overlap, it is between the nodes that know of it and
        those that do not yet."""
        dice = self._wanted("retake", 0.15)
        if dice is not None:
            self._world.schedule.later(0.0, node, self._retake, dice, node)
        dice = self._wanted("rift", 0.5) if raft.role == LEADER else None
        if dice is None:
            return
        voters = raft.configuration
        fresh = set(voters.incoming) - set(voters.outgoing)
        if not voters.outgoing or dice.random() < 0.5:
            fresh = {number for number in self._world.nodes if dice.random() < 0.4}
        some = fresh | {node.number}
        pairs = [(a, b) for a in self._world.nodes for b in self._world.nodes if (a in some) != (b in some)]
        if pairs:
            self._world.count("rift")
            self._world.note("rift: {} of node {}, which changed its voters", sorted(some), node.number)
            for pair in pairs:
                self._world.network.reset(*pair)  # what it tells of the change does not arrive
            self._cut(pairs, dice)
            self._world.clients.hot_until_s = self._world.schedule.now_s + HOT_S

    def _wanted(self, kind: str, chance: float) -> Random | None:
        """The dice of a kind that comes when something else happens, if it comes now."""
        if self.calm or kind not in self._world.recipe.kinds:
            return None
        dice = self._dice[kind]
        return dice if dice.random() < chance else None

    def elected(self, node: Node) -> None:
        """A node leads. What made the one before it fail is often not over."""
        dice = self._wanted("retake", 0.1)
        if dice is not None:
            for delay_s in (0.0, 0.2 * dice.random()):
                self._world.schedule.later(delay_s, None, self._take_all)
        dice = self._wanted("upset", 0.2)
        if dice is not None:
            self._world.schedule.later(0.03 * dice.random() ** 2, None, self._upset, dice, node, node.life)

    def _upset(self, dice: Random, node: Node, life: int) -> None:
        if self.calm or node.life != life:
            return
        self._world.count("upset")
        self._world.note("node {}, which was just elected, meets a fault", node.number)
        chance = dice.random()
        if chance < 0.5:
            node.pause(0.2 + dice.random())
        elif chance < 0.7:
            node.end(power=dice.random() < 0.5)
        else:
            others = [number for number in self._world.nodes if number != node.number]
            there = dice.random() < 0.5
            self._cut([(node.number, each) if there else (each, node.number) for each in others], dice)

    def _reset(self, dice: Random) -> None:
        self._world.network.reset(*self._pair(dice))

    # --- disk -----------------------------------------------------------------------------------------------------

    def _slow(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        self._slow_down(node, dice)
        return None

    def _slow_down(self, node: Node, dice: Random) -> None:
        disk = node.disk
        disk.sync_factor = 100 * dice.random() + 1
        self._for(0.2 + dice.random(), lambda: setattr(disk, "sync_factor", 1.0))

    def _sync(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        node.disk.fail_sync = True
        return None

    def _full(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        disk = node.disk
        disk.capacity_bytes = disk.used() + dice.randrange(20_000)
        self._world.note("the disk of node {} is full", node.number)
        self._for(0.5 + 12 * dice.random() ** 2, lambda: setattr(disk, "capacity_bytes", 1 << 40))
        return None

    def _call(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        if dice.random() < 0.5:
            node.disk.crash_after = dice.randrange(40)
        else:
            node.disk.crash_after_snapshot = dice.randrange(8)
        return None

    def restored(self, node: Node, leader: int) -> None:
        """A node takes over a snapshot, which its log does not know yet."""
        dice = self._wanted("midway", 0.3)
        if dice is None:
            return
        gone = node
        if dice.random() < 0.5 and leader in self._world.nodes:
            gone = self._world.nodes[leader]
            self._slow_down(node, dice)
        self._world.count("midway")
        self._world.schedule.later(0.01 * dice.random(), None, self._end_life, dice, gone, gone.life)

    def _flip(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None or not self._all_well():
            return False
        node.end(power=False)
        name = node.disk.flip(dice)
        node.damaged = bool(name)
        self._world.note("a bit of {} of node {} has turned", name or "nothing", node.number)
        return None

    def _erase(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None or not self._all_well() or node.number not in self._world.members:
            return False
        self._world.note("the data directory of node {} is gone", node.number)
        node.erase()
        return None

    def _all_well(self) -> bool:
        """Nobody has lost its disk."""
        return self._world.operator.idle and not any(
            self._world.nodes[number].lost or self._world.nodes[number].erased for number in self._world.members
        )

    # --- processes ------------------------------------------------------------------------------------------------

    def _power(self, dice: Random) -> bool | None:
        return self._end(dice, power=True)

    def _kill(self, dice: Random) -> bool | None:
        return self._end(dice, power=False)

    def _end(self, dice: Random, *, power: bool) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        self._world.note("node {} {}", node.number, "loses power" if power else "is killed")
        node.end(power=power)
        return None

    def _all(self, dice: Random) -> None:
        self._world.note("all nodes lose power")
        for node in list(self._world.nodes.values()):
            if node.groups is not None:
                node.end(power=True)

    def _stall(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        seconds = 0.05 + 2 * dice.random() ** 2
        self._world.note("node {} does not run for {:.2f} s", node.number, seconds)
        node.pause(seconds)
        return None

    # --- what operators do ----------------------------------------------------------------------------------------

    def _member(self, dice: Random) -> bool | None:
        if not self._all_well():
            return False
        self._world.operator.replace(dice.choice(sorted(self._world.members)))
        return None

    def _transfer(self, dice: Random, back: int = 0) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        group = node.group(dice.choice(self._world.group_numbers))
        target = back if back in self._world.members else dice.choice((0, *sorted(self._world.members)))
        if dice.random() < 0.3 and group.leader in self._world.nodes:
            delay_s = 0.08 * dice.random()
            for other in self._world.nodes:
                if other != group.leader:
                    direction = self._world.network.direction(group.leader, other)
                    self._delay_for(0.3 + dice.random(), direction, [delay_s] * LANES)
            self._world.schedule.later(0.1, node, group.transfer, target, _ignore)
        else:
            node.enter(group.transfer, (target, _ignore))
        if dice.random() < 0.4:
            back = group.leader if dice.random() < 0.5 else 0
            self._world.schedule.later(0.3 * dice.random(), None, self._transfer_again, dice, back)
        return None

    def _transfer_again(self, dice: Random, back: int) -> None:
        """As whoever restarts nodes one after the other does, sometimes back to who led before."""
        if not self.calm:
            self._transfer(dice, back)

    def _snapshot(self, dice: Random) -> bool | None:
        node = self._running(dice)
        if node is None:
            return False
        node.enter(node.group(dice.choice(self._world.group_numbers)).take_snapshot, (_ignore,))
        return None

    def _take_all(self) -> None:
        for node in list(self._world.nodes.values()):
            if node.groups is not None:
                for number in self._world.group_numbers:
                    node.enter(node.group(number).take_snapshot, (_ignore,))

    def _retake(self, dice: Random, node: Node) -> None:
        self._world.count("retake")
        for number in self._world.group_numbers:
            node.group(number).take_snapshot(_ignore)
        if dice.random() < 0.3:
            self._world.schedule.later(0.05 * dice.random(), None, self._end_life, dice, node, node.life)

    def _end_life(self, dice: Random, node: Node, life: int) -> None:
        """A node ends, unless it did already."""
        if not self.calm and node.life == life and node.groups is not None:
            node.end(power=dice.random() < 0.5)


def _ignore(_: object, error: BaseException | None) -> None:
    """Whatever comes of it."""
