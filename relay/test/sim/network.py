"""Links between nodes, and what may happen to a frame on its way.

A link keeps the promise of ``IRaftTransport``: while it stands, frames of a lane arrive in order, each once. A
partition holds frames back, in one direction or both; when it ends they arrive, late, or the link is reset. A reset
loses what is under way; each end notices on its own, and the link comes back after a while.

The faults ``loss``, ``duplicate`` and ``reorder`` go beyond that promise, single frame by single frame: the core and
the groups above it must be safe on any network. A frame that is reordered arrives after later ones of its lane, one
that is doubled arrives again; mostly soon, sometimes half a second later.

Each lane is a stream of its own, and may be slow while the others are not. A process that did not run for a while comes
to its links one after the other: what waits on one is read before what came earlier on another, and a client may be
first.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from zope.interface import implementer

from relay.cluster.frames import LANES
from relay.interfaces import IRaftTransport

if TYPE_CHECKING:
    from relay.test.sim.node import Node
    from relay.test.sim.world import World

NOTICE_S = 0.01  # until an end notices that its link is gone
DELAY_S = 0.0004
LATE_S = 0.5  # of what is doubled or reordered, at most
TURN_S = 0.02  # until a process that runs again has come to all its links, at most


class Direction:
    """Frames from one node to another."""

    __slots__ = ("delay_s", "epoch", "held", "last_s", "open", "read_s", "waiting")

    def __init__(self) -> None:
        self.open = False  # the sender believes that the link stands
        self.epoch = 0  # frames of an earlier one are lost
        self.held = 0  # partitions that cut this direction
        self.waiting: list[tuple[int, bytes]] = []
        self.delay_s = [DELAY_S] * LANES
        self.read_s = 0.0  # not before
        self.last_s = [0.0] * LANES


@implementer(IRaftTransport)
class SimTransport:
    """One life of a node's end of all its links."""

    __slots__ = ("_network", "_node")

    def __init__(self, network: Network, node: Node) -> None:
        self._network = network
        self._node = node

    def send(self, node: int, lane: int, frame: bytes) -> bool:
        """See IRaftTransport."""
        return self._network.send(self._node, node, lane, frame)

    def waiting_bytes(self, node: int, lane: int) -> int:
        """Nothing waits in front of the network."""
        return 0

    def drop(self, node: int) -> None:
        """A node was removed."""
        self._network.reset(self._node.number, node, back=False)


class Network:
    """All links. ``loss``, ``duplicate`` and ``reorder`` are the chances of a frame."""

    def __init__(self, world: World, dice: Random) -> None:
        self._world = world
        self._dice = dice
        self._directions: dict[tuple[int, int], Direction] = {}
        self.loss = self.duplicate = self.reorder = 0.0
        self.lossy = False
        self.frames = 0

    def direction(self, source: int, target: int) -> Direction:
        """That from ``source`` to ``target``."""
        found = self._directions.get((source, target))
        if found is None:
            found = self._directions[(source, target)] = Direction()
        return found

    # --- frames ---------------------------------------------------------------------------------------------------

    def send(self, source: Node, target: int, lane: int, frame: bytes) -> bool:
        """A frame on its way."""
        direction = self._directions.get((source.number, target))
        if direction is None or not direction.open:
            return False
        self._world.invariants.sent(source, target, lane, frame)
        self.frames += 1
        if direction.held:
            direction.waiting.append((lane, frame))
            return True
        self._carry(source.number, target, direction, lane, frame)
        return True

    def _carry(self, source: int, target: int, direction: Direction, lane: int, frame: bytes) -> None:
        schedule, random = self._world.schedule, self._dice.random
        delay_s = direction.delay_s[lane] * (0.5 + random())
        at_s = max(schedule.now_s + delay_s, direction.last_s[lane])
        if self.lossy:
            chance = random()
            if chance < self.loss:
                self._world.count("loss")
                return
            if chance < self.loss + self.duplicate:
                self._world.count("duplicate")
                schedule.later(at_s - schedule.now_s + LATE_S * random() ** 5, None, self._arrive, source, target,
                               direction, direction.epoch, frame)  # fmt: skip
            elif chance < self.loss + self.duplicate + self.reorder:
                self._world.count("reorder")
                at_s += LATE_S * random() ** 5
                schedule.later(at_s - schedule.now_s, None, self._arrive, source, target, direction,
                               direction.epoch, frame)  # fmt: skip
                return
        direction.last_s[lane] = at_s
        schedule.later(
            at_s - schedule.now_s, None, self._arrive, source, target, direction, direction.epoch, frame
        )

    def _arrive(self, source: int, target: int, direction: Direction, epoch: int, frame: bytes) -> None:
        if direction.epoch != epoch:
            return
        node = self._world.nodes[target]
        if node.groups is None:
            return
        now_s = self._world.schedule.now_s
        if direction.read_s > now_s:
            # In the socket's buffer, in order, before anything that comes later.
            self._world.schedule.later(
                direction.read_s - now_s, None, self._arrive, source, target, direction, epoch, frame
            )
            return
        self._world.trace(source, target, frame)
        node.enter(node.groups.received, (source, frame))

    def paused(self, number: int, until_s: float) -> None:
        """A process reads nothing until then."""
        for other in self._world.nodes:
            if other != number:
                self.direction(other, number).read_s = until_s + TURN_S * self._dice.random()

    # --- links ----------------------------------------------------------------------------------------------------

    def link(self, a: int, b: int) -> None:
        """Both ends shake hands, if both run and want each other."""
        one, other = self._world.nodes[a], self._world.nodes[b]
        there, back = self.direction(a, b), self.direction(b, a)
        if one.groups is None or other.groups is None or there.open or back.open or there.held or back.held:
            return
        if one.refuses(other) or other.refuses(one):
            return
        for direction in (there, back):
            direction.open = True
            direction.epoch += 1
            direction.waiting.clear()
            direction.read_s = 0.0
        one.enter(one.groups.linked, (b,))
        if other.groups is not None and back.open:
            other.enter(other.groups.linked, (a,))

    def link_all(self) -> None:
        """All that can be linked, as nodes do that dial again and again."""
        numbers = list(self._world.nodes)
        for place, a in enumerate(numbers):
            for b in numbers[place + 1 :]:
                self.link(a, b)

    def reset(self, a: int, b: int, *, back: bool = True) -> None:
        """The link between two nodes breaks; what is under way is lost."""
        dice, schedule = self._dice, self._world.schedule
        for source, target in ((a, b), (b, a)):
            direction = self.direction(source, target)
            if not direction.open:
                continue
            direction.epoch += 1
            direction.waiting.clear()
            schedule.later(NOTICE_S * dice.random(), None, self._notice, source, target, direction.epoch)
        if back:
            schedule.later(0.02 + 0.2 * dice.random(), None, self.link, a, b)

    def _notice(self, source: int, target: int, epoch: int) -> None:
        direction = self.direction(source, target)
        if not direction.open or direction.epoch != epoch:
            return
        node = self._world.nodes[source]
        if node.groups is not None and node.paused_until_s > self._world.schedule.now_s:
            wait_s = node.paused_until_s - self._world.schedule.now_s
            self._world.schedule.later(wait_s, None, self._notice, source, target, epoch)
            return
        direction.open = False
        if node.groups is not None:
            node.enter(node.groups.unlinked, (target,))

    def gone(self, number: int) -> None:
        """The process of a node ended: the others hear of it from its kernel, if nothing cuts them off, behind what it
        had sent."""
        for other in self._world.nodes.values():
            if other.number == number:
                continue
            mine, theirs = self.direction(number, other.number), self.direction(other.number, number)
            mine.open = False
            mine.waiting.clear()
            theirs.epoch += 1
            theirs.waiting.clear()
            if theirs.open and not mine.held:
                schedule = self._world.schedule
                delay_s = max(NOTICE_S * self._dice.random(), max(mine.last_s) - schedule.now_s)
                schedule.later(delay_s, None, self._notice, other.number, number, theirs.epoch)
                schedule.later(delay_s + 0.001, None, self._unreachable, other, other.life, number)
            elif theirs.open:
                self._world.schedule.later(1.0, None, self._notice, other.number, number, theirs.epoch)

    def _unreachable(self, node: Node, life: int, number: int) -> None:
        if node.life == life and node.groups is not None and self._world.nodes[number].groups is None:
            node.enter(node.groups.unreachable, (number,))

    # --- partitions -----------------------------------------------------------------------------------------------

    def hold(self, source: int, target: int) -> None:
        """Nothing gets through from ``source`` to ``target``."""
        self.direction(source, target).held += 1

    def release(self, source: int, target: int, *, late: bool) -> None:
        """It gets through again: with what was held back, or after a reset."""
        direction = self.direction(source, target)
        direction.held -= 1
        if direction.held:
            return
        waiting, direction.waiting = direction.waiting, []
        if late:
            for lane, frame in waiting:
                self._carry(source, target, direction, lane, frame)
        else:
            self.reset(source, target)
