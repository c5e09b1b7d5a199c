"""What a log must hold, said as plainly as possible, and random work for it: the twin that ``relay.store.wal`` is
compared with."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from relay.cluster.raft.types import ConfState, Entry, HardState, Snapshot
from relay.store.files import Files
from relay.store.wal import WriteAheadLog
from relay.store.wal_queue import LogFull
from relay.store.wal_storage import GroupLog
from relay.store.wal_writer import Batch, GroupWrite, LogOptions
from relay.test.simulated_files import SimulatedCrash, SimulatedFiles

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

DIRECTORY = "/log"

GroupState = tuple[int, int, tuple[Entry, ...], HardState, Snapshot]
State = dict[int, GroupState]
EMPTY: GroupState = (0, 0, (), HardState(), Snapshot())


class Died(Exception):
    """on_fatal was called."""


def die(error: BaseException) -> None:
    """An on_fatal for tests."""
    raise Died from error


def opened(disk: Files, options: LogOptions = SMALL) -> WriteAheadLog:
    """The log on ``disk``, recovered; it may not fail."""
    log = WriteAheadLog(disk, DIRECTORY, options, on_fatal=die, random_bytes=Random(7).randbytes)
    log.open()
    return log


def entries(first: int, count: int, size: int = 10, term: int = 1) -> list[Entry]:
    """Entries of ``size`` bytes."""
    return [Entry(0, term, index, bytes([index % 256]) * size) for index in range(first, first + count)]


def drain(log: WriteAheadLog) -> None:
    """Write all that waits, and what that leads to."""
    while log.run_once():
        pass


def fill(log: WriteAheadLog, group: int, count: int, size: int = 500) -> None:
    """Append ``count`` entries to ``group``, one write each."""
    for _ in range(count):
        log.submit([GroupWrite(group, entries(log.group(group).tail + 1, 1, size))])
        log.run_once()


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


class Life:
    """A log at work on a disk that may stop it at any call, and the list of what it has to answer for."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.disk = SimulatedFiles()
        self.steps: list[Step] = []  # submitted, in order
        self.acknowledged = 0  # how many of them
        self.lives = 0
        self.refused = 0
        self.counts: Counter[str] = Counter()

    def live(self, calls: int, turns: int) -> None:
        """Recover, compare, work until the disk stops after ``calls`` operations or ``turns`` are over.

        Then the power fails, or only the process ends.
        """
        self.lives += 1
        countdown = calls

        def stop_in_time(name: str, path: str) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                raise SimulatedCrash(name)

        self.disk.on_call = stop_in_time
        try:
            log = WriteAheadLog(self.disk, DIRECTORY, SMALL, on_fatal=die, random_bytes=self.dice.randbytes)
            log.open()
            self.compare(state_of(log))
            self.work(log, turns)
        except SimulatedCrash:
            pass
        self.counts.update({name: getattr(log.counters, name) for name in log.counters.__slots__})
        self.disk.on_call = lambda name, path: None
        if self.dice.random() < 0.7:
            self.disk.crash(self.dice)
        else:
            self.disk.kill()

    def compare(self, found: State) -> None:
        """What was recovered is a prefix of what was submitted, and has all that was acknowledged."""
        state = replayed(self.steps[: self.acknowledged])
        fits = self.acknowledged if visible(state) == found else None
        for count, step in enumerate(self.steps[self.acknowledged :], self.acknowledged + 1):
            advance(state, step)
            if visible(state) == found:
                fits = count
        if fits is None:
            raise AssertionError(f"life {self.lives}: no prefix from {self.acknowledged} of {len(self.steps)} steps")
        del self.steps[fits:]
        self.acknowledged = fits

    def work(self, log: WriteAheadLog, turns: int) -> None:
        """Random submissions, and the steps of the writer in between."""
        load = Workload.after(self.dice, log)
        batch: Batch | None = None
        written = False
        durable: deque[Batch] = deque()  # the loop may be late: the writer goes on meanwhile
        for _ in range(turns):
            chance = self.dice.random()
            if chance < 0.4:
                self.submit(log, load)
            elif chance < 0.5:
                log.maintain()
            elif durable and chance < 0.65:
                log.complete(durable.popleft())
            elif batch is None:
                batch, written = log.queue.take(), False
            elif not written:
                written = log.write(batch) or (log.maintain() and log.write(batch))
            else:
                log.sync(batch)
                durable.append(batch)
                batch = None

    def submit(self, log: WriteAheadLog, load: Workload) -> None:
        """Submit the next write, and add its records to what must come back once it was acknowledged."""
        end = [0]

        def acknowledge() -> None:
            self.acknowledged = max(self.acknowledged, end[0])

        try:
            write = load.submit(log, acknowledge, must_sync=self.dice.random() < 0.7)
        except LogFull:
            self.refused += 1
            return
        self.steps += steps_of(write)
        end[0] = len(self.steps)
