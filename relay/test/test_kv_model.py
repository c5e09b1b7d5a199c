"""The key-value state machine against a model made of plain dicts, and its snapshots."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.kv import commands as c
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.raft.types import Entry
from relay.errors import Gone

KEYS = ("a", "a/1", "a/2", "ab", "b", "ü")
LEASES = (2, 3, 5)
FIRST = [c.Command(c.Grant(100)), c.Command(c.Grant(250))]
"""So that there are leases 2 and 3."""

keys = st.sampled_from(KEYS)
values = st.binary(max_size=3)
compares = st.one_of(
    st.builds(
        c.Compare, keys, st.sampled_from(("create", "mod", "version", "lease")), st.sampled_from(("=", "!=", "<", ">")),
        st.integers(0, 6),
    ),
    st.builds(c.Compare, keys, st.just("value"), st.sampled_from(("=", "!=", "<", ">")), values),
)  # fmt: skip
steps = st.one_of(
    st.builds(c.Put, keys, values, st.one_of(st.just(0), st.sampled_from(LEASES))),
    st.builds(c.Delete, keys),
    st.builds(c.DeletePrefix, st.sampled_from(("", "a", "a/"))),
    st.builds(c.Get, keys),
)
some_steps = st.lists(steps, max_size=3).map(tuple)
operations = st.one_of(
    st.builds(c.Txn, some_steps, st.lists(compares, max_size=2).map(tuple), some_steps),
    st.builds(c.Txn, some_steps),
    st.builds(c.Grant, st.sampled_from((100, 250))),
    st.builds(c.Keep, st.lists(st.sampled_from(LEASES), max_size=2).map(tuple)),
    st.builds(c.Revoke, st.sampled_from(LEASES)),
    st.builds(c.Time, st.integers(0, 1000)),
)
commands = st.builds(c.Command, operations, st.sampled_from((0, 0, 1)), st.integers(1, 6), st.integers(0, 3))

leased = st.one_of(
    st.builds(
        lambda key, lease: c.Txn((c.Put(key, b"", lease),)), st.sampled_from(("a", "b")), st.sampled_from((0, 2, 3))
    ),
    st.builds(c.Keep, st.sampled_from(((2,), (3,), (2, 3)))),
    st.builds(c.Time, st.sampled_from((50, 120, 190, 260, 330, 400, 470))),
    st.builds(c.Revoke, st.sampled_from((2, 3))),
).map(c.Command)


class Model:
    """The same, naively: every key's value and numbers in a dict, every event ever."""

    def __init__(self) -> None:
        self.pairs: dict[str, c.Pair] = {}
        self.revision = 0
        self.events: list[c.Event] = []
        self.leases: dict[int, list[int | None]] = {}  # id -> [ttl, deadline]
        self.time = 0
        self.done: dict[int, c.Result] = {}
        self.floor = 0

    def command(self, index: int, command: c.Command) -> c.Result:
        if not command.client:
            return self.do(index, command.operation)
        self.floor = max(self.floor, command.ack)
        self.done = {seq: result for seq, result in self.done.items() if seq > self.floor}
        if command.seq in self.done:
            return self.done[command.seq]
        if command.seq <= self.floor:
            return c.Result(self.revision, "forgotten")
        self.done[command.seq] = self.do(index, command.operation)
        return self.done[command.seq]

    def do(self, index: int, operation: c.Operation) -> c.Result:
        before = dict(self.pairs)
        result = getattr(self, f"do_{type(operation).__name__.lower()}")(index, operation)
        if isinstance(result, str):
            self.pairs = before
            return c.Result(self.revision, result)  # type: ignore[arg-type]  # one of the labels
        changed = [key for key in sorted({*before, *self.pairs}) if before.get(key) is not self.pairs.get(key)]
        if changed:
            self.revision += 1
        for key in changed:
            pair = self.pairs.get(key)
            if pair is not None:
                self.events.append(c.Event(pair))
            else:
                gone = c.Pair(key, b"", before[key].create_revision, self.revision, 0)
                self.events.append(c.Event(gone, deleted=True))
        return c.Result(self.revision, "", "", result[0], result[1], result[2])

    def do_txn(self, index: int, txn: c.Txn) -> Any:
        held = all(map(self.holds, txn.compare))
        before = dict(self.pairs)
        written: list[str] = []
        outputs: list[Any] = []
        prefixes = [step.prefix for step in (txn.then if held else txn.otherwise) if isinstance(step, c.DeletePrefix)]
        for step in txn.then if held else txn.otherwise:
            if isinstance(step, c.Get):
                outputs.append(before.get(step.key))
            elif isinstance(step, c.Put):
                if step.lease and step.lease not in self.leases:
                    return "no_lease"
                old = self.pairs.get(step.key)
                create, version = (old.create_revision, old.version + 1) if old else (self.revision + 1, 1)
                self.pairs[step.key] = c.Pair(step.key, step.value, create, self.revision + 1, version, step.lease)
                outputs.append(old.mod_revision if old else 0)
                written.append(step.key)
            else:
                match = step.key.__eq__ if isinstance(step, c.Delete) else lambda key, p=step.prefix: key.startswith(p)
                gone = [key for key in self.pairs if match(key)]
                for key in gone:
                    del self.pairs[key]
                outputs.append(len(gone))
                written += [step.key] if isinstance(step, c.Delete) else []
        twice = len(written) != len(set(written)) or any(key.startswith(each) for key in written for each in prefixes)
        if len(prefixes) > 1:
            return "limit"
        return "invalid" if twice else (held, tuple(outputs), ())

    def holds(self, compare: c.Compare) -> bool:
        pair = self.pairs.get(compare.key)
        names = {"create": "create_revision", "mod": "mod_revision"}
        if compare.what == "value":
            if pair is None:
                return compare.relation == "!="
            found: Any = pair.value
        else:
            found = getattr(pair, names.get(compare.what, compare.what), 0)
        wanted: Any = compare.operand
        return bool(
            {"=": found == wanted, "!=": found != wanted, "<": found < wanted, ">": found > wanted}[compare.relation]
        )

    def do_grant(self, index: int, grant: c.Grant) -> Any:
        self.leases[index] = [grant.ttl_ms, None]
        return True, (), (index,)

    def do_keep(self, index: int, keep: c.Keep) -> Any:
        for lease in keep.leases:
            if lease in self.leases:
                self.leases[lease][1] = None
        return True, (), tuple(lease for lease in keep.leases if lease not in self.leases)

    def do_revoke(self, index: int, revoke: c.Revoke) -> Any:
        if revoke.lease not in self.leases:
            return "no_lease"
        return True, (self.end(revoke.lease),), ()

    def end(self, lease: int) -> int:
        gone = [key for key, pair in self.pairs.items() if pair.lease == lease]
        for key in gone:
            del self.pairs[key]
        del self.leases[lease]
        return len(gone)

    def do_time(self, index: int, time: c.Time) -> Any:
        self.time = max(self.time, time.now_ms)
        for lease in sorted(self.leases):
            ttl, deadline = self.leases[lease]
            assert ttl is not None
            if deadline is None:
                self.leases[lease][1] = self.time + ttl
            elif deadline <= self.time:
                self.end(lease)
        return True, (), ()


def digest(machine: KeyValueMachine) -> str:
    """The hash of all of a state."""
    return hashlib.sha256(b"".join(machine.snapshot())).hexdigest()


def restored(machine: KeyValueMachine, size: int = 7) -> KeyValueMachine:
    """Another machine with the same state, from chunks cut elsewhere."""
    data = b"".join(machine.snapshot())
    other = KeyValueMachine()
    other.restore(data[place : place + size] for place in range(0, len(data), size))
    return other


class ModelTests(SynchronousTestCase):
    """Any commands: the same results, keys and events as the model."""

    @settings(max_examples=150, deadline=None)
    @given(st.lists(commands, max_size=40), st.integers(0, 40), st.integers(1, 50))
    def test_as_the_model(self, given_commands: list[c.Command], restart_at: int, chunk: int) -> None:
        """Results, pairs, revisions and what a watch from any revision sees agree; a snapshot changes nothing."""
        self.compare(given_commands, restart_at, chunk)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(leased, max_size=14), st.integers(0, 16))
    def test_leases_as_the_model(self, given_commands: list[c.Command], restart_at: int) -> None:
        """The same for commands that mostly concern two leases."""
        self.compare(given_commands, restart_at, 50)

    def compare(self, given_commands: list[c.Command], restart_at: int, chunk: int) -> None:
        """Apply the commands to both."""
        machine, model = KeyValueMachine(), Model()
        machine.apply([Entry(index=1, term=1, data=c.encode(c.Command(c.Open())))])
        for index, command in enumerate(FIRST + given_commands, 2):
            if index == restart_at:
                machine = restored(machine, chunk)
            (result,) = machine.apply([Entry(index=index, term=1, data=c.encode(command))])
            expected = model.command(index, command)
            # Of several mistakes in one command, which is told is nobody's business.
            self.assertEqual((result.error == "", result.revision), (expected.error == "", expected.revision))
            if not expected.error:
                self.assertEqual(result, expected)
            self.assertEqual(machine.state.keys.pairs(), [model.pairs[key] for key in sorted(model.pairs)])
        for revision in range(1, model.revision + 2):
            found, following, _ = machine.state.keys.history.since(revision, "a", 1000)
            wanted = [each for each in model.events if each.revision >= revision and each.pair.key.startswith("a")]
            self.assertEqual(sorted(found, key=order), wanted)
            self.assertEqual(following, model.revision + 1)
        self.assertEqual(digest(machine), digest(restored(machine)))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(commands, max_size=30), st.integers(1, 8))
    def test_batches(self, given_commands: list[c.Command], size: int) -> None:
        """How entries are batched changes nothing."""
        entries = [Entry(index=n, term=1, data=c.encode(each)) for n, each in enumerate(FIRST + given_commands, 2)]
        one, many = KeyValueMachine(), KeyValueMachine()
        results = [result for entry in entries for result in one.apply([entry])]
        batches = [entries[place : place + size] for place in range(0, len(entries), size)]
        self.assertEqual([result for batch in batches for result in many.apply(batch)], results)
        self.assertEqual(digest(one), digest(many))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(commands, max_size=30), st.integers(1, 5), st.integers(1, 12))
    def test_watch_in_pieces(self, given_commands: list[c.Command], events_max: int, kept: int) -> None:
        """A watch that reads in pieces sees each event once, in order; when it is too late it is told."""
        machine = KeyValueMachine()
        limits = c.Limits(history_events_max=kept)
        machine.apply([Entry(index=1, term=1, data=c.encode(c.Command(c.SetLimits(limits))))])
        seen: list[c.Event] = []
        machine.changed = lambda events: seen.extend(events or [])
        for index, command in enumerate(FIRST + given_commands, 2):
            machine.apply([Entry(index=index, term=1, data=c.encode(command))])
        history = machine.state.keys.history
        self.assertLessEqual(len(history), kept)
        self.assertRaises(Gone, history.since, history.compacted, "", events_max)
        following, skip, found = history.compacted + 1, 0, []
        while following <= machine.state.keys.revision:
            some, following, skip = history.since(following, "", events_max, 200, skip)
            self.assertLessEqual(len(some), events_max)
            found += some
        self.assertEqual(found, [each for each in seen if each.revision > history.compacted])


def order(event: c.Event) -> tuple[int, str]:
    """The model's order within a revision is that of keys, the machine's that of its steps."""
    return event.revision, event.pair.key
