"""The log and its storage against plain lists."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.errors import (
    Compacted,
    RaftInvariantError,
    SnapshotOutOfDate,
    Unavailable,
)
from relay.cluster.raft.log import RaftLog, find_conflict_by_term, scan
from relay.cluster.raft.logger import SilentLogger
from relay.cluster.raft.storage import MemoryStorage
from relay.cluster.raft.types import ENTRY_OVERHEAD_BYTES, NO_LIMIT, ConfState, Entry, Snapshot, limit_size
from relay.test.raft_cluster import entries, stored

logs = st.lists(st.integers(1, 4), max_size=8).map(sorted)


def log_over(storage: MemoryStorage, unstable: tuple[Entry, ...] = (), size_max: int = NO_LIMIT) -> RaftLog:
    """A log with a tail that is not durable."""
    log = RaftLog(storage, SilentLogger(), size_max)
    if unstable:
        log.append(unstable)
    return log


def terms(log: RaftLog) -> list[int]:
    """The terms of everything from the first index on."""
    return [entry.term for entry in log.slice(log.first_index(), log.last_index + 1, NO_LIMIT)]


class LogTests(SynchronousTestCase):
    """The log, wherever its parts are."""

    @settings(max_examples=120, deadline=None)
    @given(logs, st.integers(0, 8), st.integers(0, 8))
    def test_it_does_not_matter_what_is_durable(self, content: list[int], durable: int, cut: int) -> None:
        """Entries, terms and slices are the same whether they come from the storage, the tail or both."""
        durable = min(durable, len(content))
        all_entries = entries(*content)
        log = log_over(stored(all_entries[:durable]), all_entries[durable:])
        self.assertEqual((log.last_index, log.last_term), (len(content), content[-1] if content else 0))
        self.assertEqual([log.term(index) for index in range(len(content) + 1)], [0, *content])
        self.assertRaises(Unavailable, log.term, len(content) + 1)
        low = min(cut, len(content))
        for high in range(low, len(content) + 1):
            self.assertEqual(log.slice(low + 1, high + 1, NO_LIMIT), all_entries[low:high])

    @settings(max_examples=120, deadline=None)
    @given(logs, st.integers(0, 8), logs, st.integers(0, 8), st.booleans())
    def test_append_against_a_list(self, ours: list[int], durable: int, theirs: list[int], at: int, fits: bool) -> None:
        """An append that fits leaves the log that the paper's rules leave; one that does not leaves it as it was."""
        durable, at = min(durable, len(ours)), min(at, len(theirs))
        if fits:
            theirs = [*ours[:at], *theirs[at:]]
            at = min(at, len(ours), len(theirs))
        log = log_over(stored(entries(*ours[:durable])), entries(*ours)[durable:])
        previous = theirs[at - 1] if at else 0
        last = log.maybe_append(previous, at, entries(*theirs[at:], first=at + 1), 0)
        if at > len(ours) or (at and ours[at - 1] != previous):
            self.assertIsNone(last)
            self.assertEqual(terms(log), ours)
            return
        expected = list(ours)
        for position, term in enumerate(theirs[at:], at):
            if position >= len(expected) or expected[position] != term:
                expected = [*expected[:position], term]
        self.assertEqual((last, terms(log)), (len(theirs), expected))

    @settings(max_examples=100, deadline=None)
    @given(logs, st.integers(0, 9), st.integers(0, 5))
    def test_where_two_logs_may_agree(self, content: list[int], index: int, term: int) -> None:
        """The highest position at or below the index whose term is not above the one given."""
        log = log_over(stored(entries(*content)))
        found = find_conflict_by_term(log, index, term)
        if index > len(content):
            self.assertEqual(found, (index, 0))
            return
        wanted = max((at for at in range(1, index + 1) if content[at - 1] <= term), default=0)
        self.assertEqual(found, (wanted, content[wanted - 1] if wanted else 0))

    def test_compacted_entries(self) -> None:
        """They are gone, but the term of the last of them is known."""
        storage = stored(entries(1, 1, 2, 2))
        storage.compact(2)
        log = log_over(storage)
        self.assertEqual((log.first_index(), log.term(2), log.committed, log.applied), (3, 1, 2, 2))
        self.assertRaises(Compacted, log.term, 1)
        self.assertRaises(Compacted, log.slice, 2, 4, NO_LIMIT)
        self.assertEqual((log.term_or_zero(1), log.matches(1, 1)), (0, False))
        self.assertEqual(find_conflict_by_term(log, 3, 0), (1, 0))

    def test_commit_and_apply_only_move_on(self) -> None:
        """Nothing is committed that is not there, nothing applied that is not committed, and nothing is taken back."""
        log = log_over(stored(entries(1, 1, 1)))
        log.commit_to(2)
        log.commit_to(1)
        self.assertEqual(log.committed, 2)
        self.assertRaises(RaftInvariantError, log.commit_to, 4)
        self.assertRaises(RaftInvariantError, log.applied_to, 3, 0)
        log.applied_to(2, 0)
        self.assertRaises(RaftInvariantError, log.applied_to, 1, 0)
        self.assertRaises(RaftInvariantError, log.accept_applying, 3, 0, True)

    def test_committed_entries_stay(self) -> None:
        """An append that would replace one is a contradiction somewhere."""
        log = log_over(stored(entries(1, 1, 1)))
        log.commit_to(2)
        self.assertRaises(RaftInvariantError, log.append, entries(2, first=2))
        self.assertRaises(RaftInvariantError, log.maybe_append, 1, 1, entries(2, first=2), 0)

    def test_what_is_handed_out_to_be_applied(self) -> None:
        """With asynchronous writes only what is durable; never while a snapshot waits."""
        log = log_over(stored(entries(1)), entries(1, first=2))
        log.commit_to(2)
        self.assertEqual(len(log.next_committed_entries(True)), 2)
        self.assertEqual(len(log.next_committed_entries(False)), 1)
        log.accept_applying(1, 0, False)
        self.assertFalse(log.has_next_committed_entries(False))
        self.assertTrue(log.has_next_committed_entries(True))
        log.restore(Snapshot(b"", 9, 3))
        self.assertFalse(log.has_next_committed_entries(True))
        self.assertEqual((log.last_index, log.last_term, log.first_index(), log.committed), (9, 3, 10, 9))
        self.assertEqual((log.term(9), log.snapshot().index), (3, 9))

    def test_scanning_in_pages(self) -> None:
        """Every entry is looked at, a page at a time, until one is found."""
        log = log_over(stored(entries(1, 1, 1)), entries(2, 2, first=4))
        seen: list[int] = []

        def looks_at(entry: Entry) -> bool:
            seen.append(entry.index)
            return entry.index == 4

        self.assertTrue(scan(log, 1, 6, 1, looks_at))
        self.assertEqual(seen, [1, 2, 3, 4])
        self.assertFalse(scan(log, 1, 4, NO_LIMIT, looks_at))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 200))
    def test_limit_size(self, payloads: list[bytes], size_max: int) -> None:
        """The longest prefix within the limit, and at least one entry."""
        all_entries = tuple(Entry(data=payload) for payload in payloads)
        cut = limit_size(all_entries, size_max)
        self.assertEqual(cut, all_entries[: len(cut)])
        sizes = [ENTRY_OVERHEAD_BYTES + len(payload) for payload in payloads]
        fitting = max((count for count in range(len(sizes) + 1) if sum(sizes[:count]) <= size_max), default=0)
        self.assertEqual(len(cut), max(fitting, min(1, len(sizes))))


class UnstableTests(SynchronousTestCase):
    """The tail that is not durable yet."""

    def test_entries_are_handed_out_once(self) -> None:
        """What is being written is not handed out again; what comes later is."""
        log = log_over(stored(), entries(1, 1))
        tail = log.unstable
        self.assertEqual(len(tail.next_entries()), 2)
        tail.accept_in_progress()
        self.assertEqual(tail.next_entries(), ())
        log.append(entries(1, first=3))
        self.assertEqual([entry.index for entry in tail.next_entries()], [3])

    def test_replaced_entries_are_handed_out_again(self) -> None:
        """A write under way above the cut counts for nothing."""
        log = log_over(stored(), entries(1, 1, 1))
        log.unstable.accept_in_progress()
        log.append(entries(2, first=2))
        self.assertEqual([(entry.term, entry.index) for entry in log.unstable.next_entries()], [(2, 2)])
        self.assertEqual(terms(log), [1, 2])
        log.append(entries(3, first=1))
        self.assertEqual([(entry.term, entry.index) for entry in log.unstable.next_entries()], [(3, 1)])

    def test_stable_to(self) -> None:
        """The prefix that the storage has goes; an entry of another term, or one that is not here, means nothing."""
        storage = stored()
        log = log_over(storage, entries(1, 1, 2))
        tail = log.unstable
        tail.accept_in_progress()
        tail.stable_to(1, 3)
        tail.stable_to(2, 9)
        self.assertEqual((tail.offset, len(tail.entries)), (1, 3))
        storage.append(entries(1, 1, 2))
        tail.stable_to(1, 2)
        self.assertEqual((tail.offset, len(tail.entries), tail.offset_in_progress), (3, 1, 4))
        tail.stable_to(1, 1)
        tail.stable_to(2, 3)
        self.assertEqual((tail.offset, tail.entries, terms(log)), (4, [], [1, 1, 2]))

    def test_a_snapshot_waits(self) -> None:
        """It is handed out once, and goes when the storage has it; another one that came since stays."""
        log = log_over(stored(entries(1)))
        tail = log.unstable
        log.restore(Snapshot(b"", 5, 2))
        self.assertIsNotNone(tail.next_snapshot())
        tail.accept_in_progress()
        self.assertIsNone(tail.next_snapshot())
        tail.stable_to(2, 5)
        log.restore(Snapshot(b"", 7, 2))
        tail.stable_snapshot_to(5)
        self.assertIsNotNone(tail.next_snapshot())
        tail.stable_snapshot_to(7)
        self.assertIsNone(tail.snapshot)

    def test_out_of_bounds(self) -> None:
        """What is not here cannot be had."""
        tail = log_over(stored(), entries(1, 1)).unstable
        for low, high in ((0, 1), (1, 4), (3, 2)):
            self.assertRaises(RaftInvariantError, tail.slice, low, high)


class MemoryStorageTests(SynchronousTestCase):
    """The storage in memory."""

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from(["append", "compact"]), st.integers(1, 9), st.integers(1, 4)), max_size=12)
    )
    def test_against_a_list(self, operations: list[tuple[str, int, int]]) -> None:
        """Appending replaces from the first index on; compacting drops up to an index."""
        storage, twin, gone, term = MemoryStorage(), [0], 0, 1
        for kind, index, count in operations:
            if kind == "compact":
                if gone < index < len(twin):
                    storage.compact(index)
                    gone = index
                elif index <= gone:
                    self.assertRaises(Compacted, storage.compact, index)
                else:
                    self.assertRaises(RaftInvariantError, storage.compact, index)
            elif index > len(twin):
                self.assertRaises(RaftInvariantError, storage.append, entries(term, first=index))
            else:
                term += 1
                storage.append(entries(*[term] * count, first=index))
                kept = twin[: max(index, gone + 1)]
                twin = (
                    kept + [term] * (index + count - len(kept))
                    if index + count > len(kept)
                    else kept + twin[len(kept) :]
                )
            self.assertEqual((storage.first_index(), storage.last_index()), (gone + 1, len(twin) - 1))
            self.assertEqual([storage.term(at) for at in range(gone, len(twin))], twin[gone:])

    def test_entries(self) -> None:
        """What is compacted or not there is refused; sizes are limited."""
        storage = stored(entries(1, 1, 1))
        self.assertEqual(storage.entries(1, 4, NO_LIMIT), entries(1, 1, 1))
        self.assertEqual(storage.entries(1, 4, 0), entries(1))
        self.assertRaises(RaftInvariantError, storage.entries, 1, 5, NO_LIMIT)
        storage.compact(3)
        self.assertRaises(Compacted, storage.entries, 3, 4, NO_LIMIT)
        self.assertRaises(Compacted, storage.term, 2)
        self.assertRaises(Unavailable, storage.term, 4)
        self.assertRaises(Unavailable, storage.entries, 4, 4, NO_LIMIT)

    def test_snapshots(self) -> None:
        """One is made of an entry that is there, taken only if it is newer, and replaces the log."""
        storage = stored(entries(1, 2))
        made = storage.create_snapshot(2, None, b"s")
        self.assertEqual((made.index, made.term, made.conf_state.voters), (2, 2, (1, 2, 3)))
        self.assertRaises(SnapshotOutOfDate, storage.create_snapshot, 2, None, b"s")
        self.assertRaises(RaftInvariantError, storage.create_snapshot, 3, None, b"s")
        self.assertRaises(SnapshotOutOfDate, storage.apply_snapshot, Snapshot(b"", 2, 2))
        storage.apply_snapshot(Snapshot(b"t", 7, 3, ConfState((1,))))
        self.assertEqual((storage.first_index(), storage.last_index(), storage.term(7)), (8, 7, 3))
        self.assertEqual(storage.initial_state()[1].voters, (1,))

    def test_the_first_configuration(self) -> None:
        """A snapshot of nothing may bring it."""
        storage = MemoryStorage()
        storage.apply_snapshot(Snapshot(b"", 0, 0, ConfState((1, 2))))
        self.assertEqual((storage.initial_state()[1].voters, storage.first_index()), ((1, 2), 1))
