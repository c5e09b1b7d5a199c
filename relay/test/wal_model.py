"""What a log must hold, said as plainly as possible, and random work for it: the twin that ``relay.store.wal`` is
compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from relay.cluster.raft.types import ConfState, Entry, HardState, Snapshot
from relay.store.wal import WriteAheadLog
from relay.store.wal_storage import GroupLog
from relay.store.wal_writer import GroupWrite, LogOptions

SMALL = LogOptions(
    segment_bytes=16 << 10,
    segments_max=12,
    segments_kept=3,
    record_bytes_max=2048,
    batch_bytes_max=4096,
    submission_bytes_max=4096,
    queue_bytes_max=8192,
    queue_length_max=32,
    groups_max=4,
    conf_state_bytes_max=64,
    cache_bytes_max=2000,
    cache_group_bytes_max=1000,
    copy_bytes_max=1500,
)
"""Limits so small that a test reaches all of them."""

GroupState = tuple[int, int, tuple[Entry, ...], HardState, Snapshot]
State = dict[int, GroupState]
EMPTY: GroupState = (0, 0, (), HardState(), Snapshot())


def state_of(log: WriteAheadLog) -> State:
    """What the storages of ``log`` show, without groups that have nothing."""
    found = {number: group_state(log.group(number)) for number in log.table.numbers()}
    return visible(found)


def visible(state: State) -> State:
    """Without groups that have nothing: whether such a group was ever named does not matter."""
    return {number: group for number, group in state.items() if group != EMPTY}


def group_state(group: GroupLog) -> GroupState:
    """What one storage shows, through the methods that the Raft core uses."""
    base = group.first_index() - 1
    last = group.last_index()
    entries = group.entries(base + 1, last + 1) if last > base else ()
    assert [group.term(entry.index) for entry in entries] == [entry.term for entry in entries]
    hard_state, conf_state = group.initial_state()
    assert conf_state == group.snapshot().conf_state
    return base, group.term(base), entries, hard_state, group.snapshot()


Step = tuple[int, str, object]


def steps_of(write: GroupWrite) -> list[Step]:
    """The records of ``write``, which was submitted, in order."""
    group = write.group
    if write.remove:
        return [(group, "remove", None)]
    steps: list[Step] = []
    if write.restore is not None:
        steps.append((group, "restore", write.restore))
    steps += [(group, "entry", entry) for entry in write.entries]
    if write.hard_state is not None:
        steps.append((group, "hard", write.hard_state))
    if write.snapshot is not None:
        steps.append((group, "snapshot", write.snapshot))
    if write.compact:
        steps.append((group, "compact", (write.compact, write.compact_term)))
    return steps


def replayed(steps: list[Step]) -> State:
    """The state after ``steps``."""
    state: State = {}
    for step in steps:
        advance(state, step)
    return state


def advance(state: State, step: Step) -> None:
    """Do one step."""
    group, kind, value = step
    base, base_term, entries, hard, snapshot = state.get(group, EMPTY)
    if kind == "remove":
        state.pop(group, None)
        return
    if kind == "entry":
        assert isinstance(value, Entry)
        if value.index > base:
            assert value.index <= base + len(entries) + 1
            entries = (*entries[: value.index - base - 1], value)
    elif kind == "hard":
        assert isinstance(value, HardState)
        hard = value
    elif kind == "snapshot":
        assert isinstance(value, Snapshot)
        snapshot = value
    elif kind == "restore":
        assert isinstance(value, Snapshot)
        base, base_term, entries, snapshot = value.index, value.term, (), value
    else:
        assert isinstance(value, tuple)
        index, term = value
        if index > base:
            base, base_term, entries = index, term, entries[index - base :]
    state[group] = (base, base_term, entries, hard, snapshot)


@dataclass(frozen=True)
class _Group:
    term: int = 1
    last: int = 0
    commit: int = 0  # never overwritten
    base: int = 0


@dataclass
class Workload:
    """Random writes such as a Raft node makes: only what is not committed is overwritten, only what is is compacted."""

    dice: Random
    groups: dict[int, _Group] = field(default_factory=dict)

    @classmethod
    def after(cls, dice: Random, log: WriteAheadLog) -> Workload:
        """Going on with what ``log`` holds."""
        work = cls(dice)
        for number in log.table.numbers():
            group = log.group(number)
            last = group.last_index()
            term = max(group.term(last), group.hard_state.term, 1)
            work.groups[number] = _Group(term, last, group.first_index() - 1, group.first_index() - 1)
        return work

    def submit(self, log: WriteAheadLog, done: Callable[[], object], *, must_sync: bool) -> GroupWrite:
        """Another write is submitted; when that raises, nothing has changed here either."""
        number = self.dice.choice((1, 1, 1, 2, 2, 3))
        write, after = self._next(number, self.groups.get(number, _Group()), log.group(number))
        log.submit([write], done, must_sync=must_sync)
        self.groups[number] = after
        return write

    def _next(self, number: int, group: _Group, stored: GroupLog) -> tuple[GroupWrite, _Group]:
        dice = self.dice
        chance = dice.random()
        if chance < 0.02:
            return GroupWrite(number, remove=True), _Group()
        if chance < 0.05:
            return self._restore(number, group)
        if chance < 0.25 and group.base < group.commit:
            base = dice.randint(group.base + 1, group.commit)
            snapshot = Snapshot(b"", base, stored.term(base), self._conf_state())
            return GroupWrite(number, snapshot=snapshot, compact=base), replace(group, base=base)
        if chance < 0.35:
            if not stored.pending:  # otherwise what is stored may be about to be overwritten
                group = replace(group, commit=dice.randint(group.commit, group.last))
            return GroupWrite(number, hard_state=HardState(group.term, dice.randrange(4), group.commit)), group
        return self._append(number, group)

    def _append(self, number: int, group: _Group) -> tuple[GroupWrite, _Group]:
        dice = self.dice
        first, term = group.last + 1, group.term
        if group.last > group.commit and dice.random() < 0.2:
            first = dice.randint(group.commit + 1, group.last)
            term += 1
        entries = []
        for index in range(first, first + dice.randint(1, 5)):
            data = dice.randbytes(dice.choice((0, 1, 20, 100, 300)))
            entries.append(Entry(dice.choice((0, 0, 0, 1, 2)), term, index, data))
        hard = HardState(term, 1, group.commit) if dice.random() < 0.5 else None
        return GroupWrite(number, entries, hard), replace(group, term=term, last=entries[-1].index)

    def _restore(self, number: int, group: _Group) -> tuple[GroupWrite, _Group]:
        index, term = group.last + self.dice.randint(1, 50), group.term + 1
        snapshot = Snapshot(b"", index, term, self._conf_state())
        return GroupWrite(number, (), HardState(term, 0, index), snapshot), _Group(term, index, index, index)

    def _conf_state(self) -> ConfState:
        return ConfState(tuple(sorted(self.dice.sample(range(1, 9), 3))))
