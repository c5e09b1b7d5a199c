"""What users of a group wait for: proposals and reads, from being asked to their outcome.

A proposal::

    queued ──leader here──▶ placed at (index, term) ──that index applied──▶ done: same term: the result
       │                        ▲                                                 other term: failed for certain
       └──leader elsewhere──▶ forwarded ──its answer: placed, or refused: failed for certain
                                │
                                └──link lost, another leader, time-out──▶ unknown

The leader appends a command once, at one ``(index, term)``. If another term's entry is applied at that index, the
command is nowhere (log matching, paper 5.3): so the outcome is certain without an identity in the entry. What is placed
and not applied when time is up is unknown: it may still be committed by a later leader.

While no leader is known, or leadership is being handed over, proposals stay queued until time is up.

A read is asked of the leader together with all others that came before it was sent (one ReadIndex under way at a time),
and done when this node has applied the index that the answer names. Its context is this process's own, so an answer to
an earlier life of the node cannot be taken for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final

from relay.cluster.raft.types import ConfState, Entry
from relay.errors import DeadlineExceeded, RelayError, Unavailable

Done = Callable[[Any, RelayError | None], object]  # Any: what the state machine's apply returned
Outcome = tuple[Done, Any, RelayError | None]

OVERWRITTEN: Final = "another leader's entry took its place"
BOOTS_MAX: Final = 8
"""Lives of one node whose forwarded proposals are told apart."""


class Block:
    """Consecutive proposals in the log: that of ``dones[0]`` at ``first``, all in ``term``."""

    __slots__ = ("dones", "first", "term", "tick")

    def __init__(self, first: int, term: int, dones: Sequence[Done], tick: int) -> None:
        self.first = first
        self.term = term
        self.dones = dones
        self.tick = tick


class Proposals:
    """The proposals of one group on this node. ``outcomes`` is where results go, to be told at the turn's end.
    ``done``, ``not_done`` and ``unknown`` count how they ended."""

    __slots__ = (
        "_forwarded", "_number", "_outcomes", "_placed", "_queued_tick", "count", "done", "not_done", "queued",
        "queued_dones", "unknown",
    )  # fmt: skip

    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes
        self.count = 0
        self.done = 0
        self.not_done = 0
        self.unknown = 0
        self.queued: list[bytes] = []
        self.queued_dones: list[Done] = []
        self._queued_tick = 0
        # Ascending by ``first``; blocks of different terms may overlap until one of them is applied.
        self._placed: deque[Block] = deque()
        # By the number of the first: whom it was sent to, what waits, since when.
        self._forwarded: dict[int, tuple[int, Sequence[Done], int]] = {}
        self._number = 0

    def add(self, data: bytes, done: Done, tick: int) -> None:
        """A new one."""
        if not self.queued:
            self._queued_tick = tick
        self.queued.append(data)
        self.queued_dones.append(done)
        self.count += 1

    def take(self, bytes_max: int) -> tuple[list[bytes], list[Done]]:
        """The oldest that are queued, up to ``bytes_max``, at least one."""
        queued, dones = self.queued, self.queued_dones
        size = 0
        for at, data in enumerate(queued):
            size += len(data)
            if size > bytes_max and at:
                self.queued, self.queued_dones = queued[at:], dones[at:]
                return queued[:at], dones[:at]
        self.queued, self.queued_dones = [], []
        return queued, dones

    def placed(self, first: int, term: int, dones: Sequence[Done], tick: int) -> None:
        """They stand in the leader's log."""
        block = Block(first, term, dones, tick)
        blocks = self._placed
        if not blocks or blocks[-1].first <= first:
            blocks.append(block)
            return
        self._placed = deque(sorted((*blocks, block), key=lambda each: each.first))

    def forwarded(self, node: int, dones: Sequence[Done], tick: int) -> int:
        """They are being sent to the leader; the number to send along."""
        number = self._number + 1
        self._number += len(dones)
        self._forwarded[number] = (node, dones, tick)
        return number

    def answered(self, number: int, index: int, term: int, applied: int, tick: int) -> None:
        """The leader said where they are; 0: nowhere."""
        waiting = self._forwarded.pop(number, None)
        if waiting is None:
            return
        dones = waiting[1]
        if not index:
            self.fail(dones, Unavailable("the node asked does not lead, or has no room"))
        elif index <= applied:
            self.fail(dones, Unavailable("applied before its place was known", outcome="unknown"))
        else:
            self.placed(index, term, dones, tick)

    def fail(self, dones: Sequence[Done], error: RelayError) -> None:
        """They end with ``error``."""
        self.count -= len(dones)
        if error.outcome == "not_done":
            self.not_done += len(dones)
        else:
            self.unknown += len(dones)
        self._outcomes.extend(zip(dones, repeat(None), repeat(error)))

    def applied(self, entries: Sequence[Entry], results: Sequence[object]) -> None:
        """``entries`` were applied, each with its result at the same place of ``results``."""
        blocks = self._placed
        if not blocks:
            return
        first, last = entries[0].index, entries[-1].index
        kept: list[Block] = []
        while blocks and blocks[0].first <= last:
            block = blocks.popleft()
            at = block.first - first
            count = min(len(block.dones), len(entries) - at)
            rest = block.dones[count:]
            if rest:
                kept.append(Block(last + 1, block.term, rest, block.tick))
            term = block.term
            if entries[at].term == term and entries[at + count - 1].term == term:  # fast path: all of them
                self._outcomes.extend(zip(block.dones[:count], results[at : at + count], repeat(None)))
                self.count -= count
                self.done += count
                continue
            for done, entry, result in zip(block.dones, entries[at : at + count], results[at:], strict=False):
                if entry.term == term:
                    self._outcomes.append((done, result, None))
                    self.count -= 1
                    self.done += 1
                else:
                    self.fail((done,), Unavailable(OVERWRITTEN))
        blocks.extendleft(reversed(kept))

    def skipped(self, index: int) -> None:
        """A snapshot took the place of the entries up to ``index``: what their outcome was cannot be known here."""
        while self._placed and self._placed[0].first <= index:
            block = self._placed.popleft()
            count = min(len(block.dones), index - block.first + 1)
            self.fail(block.dones[:count], Unavailable("replaced by a snapshot", outcome="unknown"))
            if count < len(block.dones):
                self._placed.appendleft(Block(index + 1, block.term, block.dones[count:], block.tick))

    def lost(self, node: int) -> None:
        """The link to ``node`` ended: what it did not answer may have arrived or not."""
        for number in [each for each, (to, _, _) in self._forwarded.items() if to == node]:
            dones = self._forwarded.pop(number)[1]
            self.fail(dones, Unavailable("the link to the leader was lost", outcome="unknown"))

    def led_by(self, leader: int) -> None:
        """``leader`` leads now. An earlier one that has not answered may have appended them before it fell silent."""
        for number in [each for each, (to, _, _) in self._forwarded.items() if to != leader]:
            dones = self._forwarded.pop(number)[1]
            self.fail(dones, Unavailable("the leader was replaced before it answered", outcome="unknown"))

    def expire(self, before: int) -> None:
        """What was asked before tick ``before`` ends."""
        if self.queued and self._queued_tick < before:
            dones, self.queued, self.queued_dones = self.queued_dones, [], []
            self.fail(dones, DeadlineExceeded("no leader was found", outcome="not_done"))
        for number in [each for each, (_, _, tick) in self._forwarded.items() if tick < before]:
            self.fail(self._forwarded.pop(number)[1], DeadlineExceeded("the leader did not answer"))
        while self._placed and self._placed[0].tick < before:
            self.fail(self._placed.popleft().dones, DeadlineExceeded("not committed in time"))

    def end(self, reason: str) -> None:
        """The group ends on this node."""
        dones, self.queued, self.queued_dones = self.queued_dones, [], []
        self.fail(dones, Unavailable(reason))
        for _, forwarded, _ in self._forwarded.values():
            self.fail(forwarded, Unavailable(reason, outcome="unknown"))
        self._forwarded.clear()
        while self._placed:
            self.fail(self._placed.popleft().dones, Unavailable(reason, outcome="unknown"))


class Reads:
    """The reads of one group on this node."""

    __slots__ = (
        "_asked", "_asked_tick", "_boot", "_count", "_outcomes", "_ready", "_since", "_waiting", "_waiting_tick",
        "count", )  # fmt: skip

    def __init__(self, outcomes: list[Outcome], boot: int) -> None:
        self._outcomes = outcomes
        self._boot = boot.to_bytes(8, "little")
        self.count = 0  # reads without their outcome
        self._count = 0  # ReadIndex requests made
        self._waiting: list[Done] = []  # for the next request
        self._waiting_tick = 0
        self._asked: list[Done] = []  # for the answer to the last one
        self._since = 0  # when the oldest of them came
        self._asked_tick = 0
        self._ready: deque[tuple[int, list[Done], int]] = deque()  # for the index to be applied; ascending

    def add(self, done: Done, tick: int) -> None:
        """A new one."""
        if not self._waiting:
            self._waiting_tick = tick
        self._waiting.append(done)
        self.count += 1

    def ask(self, tick: int, again_ticks: int) -> bytes | None:
        """The context of a request to be made now, or None: no read waits, or one is under way.

        One that was not answered within ``again_ticks`` is made again, with the reads that came since.
        """
        if self._asked:
            if tick - self._asked_tick < again_ticks:
                return None
        elif self._waiting:
            self._since = self._waiting_tick
        else:
            return None
        self._asked += self._waiting
        self._waiting = []
        self._asked_tick = tick
        self._count += 1
        return self._context()

    def again(self) -> None:
        """The leader is another one: ask anew at once."""
        if self._asked:
            self._waiting = self._asked + self._waiting
            self._waiting_tick = self._since
            self._asked = []

    def answered(self, context: bytes, index: int, tick: int) -> None:
        """The last request may be served at ``index``; answers to earlier ones are late."""
        if context == self._context() and self._asked:
            self._ready.append((index, self._asked, tick))
            self._asked = []

    def applied(self, index: int) -> None:
        """This node shows everything up to ``index``."""
        ready = self._ready
        while ready and ready[0][0] <= index:
            self._end(ready.popleft()[1], None)

    def expire(self, before: int) -> None:
        """Reads that wait since before tick ``before`` fail."""
        error = DeadlineExceeded("no leader confirmed the read", outcome="not_done")
        if self._asked and self._since < before:
            dones, self._asked = self._asked, []
            self._end(dones, error)
        if self._waiting and self._waiting_tick < before:
            dones, self._waiting = self._waiting, []
            self._end(dones, error)
        while self._ready and self._ready[0][2] < before:
            self._end(self._ready.popleft()[1], DeadlineExceeded("not applied in time", outcome="not_done"))

    def end(self, error: RelayError) -> None:
        """All fail."""
        self._end([*self._asked, *self._waiting, *(done for _, dones, _ in self._ready for done in dones)], error)
        self._asked, self._waiting = [], []
        self._ready.clear()

    def _end(self, dones: Sequence[Done], error: RelayError | None) -> None:
        self.count -= len(dones)
        self._outcomes.extend(zip(dones, repeat(None), repeat(error)))

    def _context(self) -> bytes:
        return self._boot + self._count.to_bytes(8, "little")


class Changes:
    """Changes of membership and transfers of leadership that were asked for on this node."""

    __slots__ = ("_changes", "_outcomes", "_transfers")

    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes
        self._changes: list[tuple[int, int, Done]] = []  # where it stands: index and term
        self._transfers: list[tuple[int, int, Done]] = []  # give up at this tick; the leader to be

    def __len__(self) -> int:
        return len(self._changes) + len(self._transfers)

    def proposed(self, index: int, term: int, done: Done) -> None:
        """A change of membership was appended."""
        self._changes.append((index, term, done))

    def transferring(self, until: int, node: int, done: Done) -> None:
        """Leadership is being handed to ``node``."""
        self._transfers.append((until, node, done))

    def applied(self, entry: Entry, members: ConfState | None) -> None:
        """``entry`` was applied; ``members``: it changed them."""
        for change in [each for each in self._changes if each[0] <= entry.index]:
            self._changes.remove(change)
            index, term, done = change
            if (index, term) == (entry.index, entry.term) and members is not None:
                self._outcomes.append((done, members, None))
            else:
                self._outcomes.append((done, None, Unavailable(OVERWRITTEN)))

    def skipped(self) -> None:
        """A snapshot took the place of entries."""
        changes, self._changes = self._changes, []
        for _, _, done in changes:
            self._outcomes.append((done, None, Unavailable("replaced by a snapshot", outcome="unknown")))

    def led_by(self, leader: int) -> None:
        """``leader`` leads."""
        for transfer in [each for each in self._transfers if each[1] == leader]:
            self._transfers.remove(transfer)
            self._outcomes.append((transfer[2], None, None))

    def expire(self, tick: int) -> None:
        """Transfers that took too long are given up."""
        for transfer in [each for each in self._transfers if each[0] <= tick]:
            self._transfers.remove(transfer)
            self._outcomes.append((transfer[2], None, DeadlineExceeded("leadership was not taken over")))

    def end(self, reason: str) -> None:
        """The group ends on this node."""
        for _, _, done in (*self._changes, *self._transfers):
            self._outcomes.append((done, None, Unavailable(reason, outcome="unknown")))
        self._changes, self._transfers = [], []


class Forwarders:
    """Which forwarded proposals were seen: each is appended once at most, whatever the network does."""

    __slots__ = ("_boots",)

    def __init__(self) -> None:
        # By node, then by life of it, the number of the last one.
        self._boots: dict[int, dict[int, int]] = {}

    def is_new(self, node: int, boot: int, first: int, count: int) -> bool:
        """Whether ``count`` proposals numbered from ``first`` on come from ``node`` for the first time."""
        boots = self._boots.setdefault(node, {})
        if first <= boots.get(boot, 0):
            return False
        boots[boot] = first + count - 1
        if len(boots) > BOOTS_MAX:
            del boots[next(iter(boots))]
        return True
