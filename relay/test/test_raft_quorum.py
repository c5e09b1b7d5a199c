"""Majorities and configurations against the plain definitions, on arbitrary input."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.confchange import (
    Changer,
    Configuration,
    Members,
    check_invariants,
    describe_conf_changes,
    parse_conf_changes,
    restore,
)
from relay.cluster.raft.errors import BadConfChange, RaftInvariantError
from relay.cluster.raft.quorum import (
    EVERY_INDEX,
    VOTE_LOST,
    VOTE_PENDING,
    VOTE_WON,
    committed_index,
    joint_committed_index,
    joint_vote_result,
    vote_result,
)
from relay.cluster.raft.state import _median_match
from relay.cluster.raft.tracker import Inflights, Progress
from relay.cluster.raft.types import (
    ADD_LEARNER_NODE,
    ADD_NODE,
    REMOVE_NODE,
    UPDATE_NODE,
    ConfChangeSingle,
)

voters = st.frozensets(st.integers(1, 8), max_size=6)
acknowledged = st.dictionaries(st.integers(1, 8), st.integers(0, 6))
votes = st.dictionaries(st.integers(1, 8), st.booleans())


def majorities(of: frozenset[int]) -> list[set[int]]:
    """Every set of more than half."""
    return [set(chosen) for size in range(len(of) // 2 + 1, len(of) + 1) for chosen in combinations(sorted(of), size)]


def committed_by_definition(of: frozenset[int], indexes: dict[int, int]) -> int:
    """The greatest index that all of some majority have reached."""
    if not of:
        return EVERY_INDEX
    return max(min(indexes.get(node, 0) for node in majority) for majority in majorities(of))


def vote_by_definition(of: frozenset[int], given_votes: dict[int, bool]) -> int:
    """Won if a majority said yes; pending if one still may have; else lost."""
    if not of or any(all(given_votes.get(node) for node in majority) for majority in majorities(of)):
        return VOTE_WON
    if any(all(given_votes.get(node, True) for node in majority) for majority in majorities(of)):
        return VOTE_PENDING
    return VOTE_LOST


class QuorumTests(SynchronousTestCase):
    """Counting."""

    @settings(max_examples=100, deadline=None)
    @given(voters, acknowledged)
    def test_committed_index(self, of: frozenset[int], indexes: dict[int, int]) -> None:
        """The index that some majority has reached, and no majority a greater one."""
        self.assertEqual(committed_index(of, indexes.get), committed_by_definition(of, indexes))

    @settings(max_examples=100, deadline=None)
    @given(voters, votes)
    def test_vote_result(self, of: frozenset[int], given_votes: dict[int, bool]) -> None:
        """Won, lost or open."""
        self.assertEqual(vote_result(of, given_votes), vote_by_definition(of, given_votes))

    @settings(max_examples=100, deadline=None)
    @given(voters, voters, acknowledged, votes)
    def test_joint(
        self, new: frozenset[int], old: frozenset[int], indexes: dict[int, int], given_votes: dict[int, bool]
    ) -> None:
        """A joint configuration decides what both halves decide, in either order."""
        expected = min(committed_by_definition(new, indexes), committed_by_definition(old, indexes))
        self.assertEqual(joint_committed_index(new, old, indexes.get), expected)
        self.assertEqual(joint_committed_index(old, new, indexes.get), expected)
        halves = {vote_by_definition(new, given_votes), vote_by_definition(old, given_votes)}
        result = VOTE_LOST if VOTE_LOST in halves else VOTE_PENDING if VOTE_PENDING in halves else VOTE_WON
        self.assertEqual(joint_vote_result(new, old, given_votes), result)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, 9), max_size=6))
    def test_the_leaders_own_count(self, matches: list[int]) -> None:
        """The count over progress objects, which avoids the look-ups, is the same as the count by id."""
        members = tuple(Progress(Inflights(1), match=match, next=match + 1) for match in matches)
        indexes = dict(enumerate(matches, 1))
        self.assertEqual(_median_match(members), committed_index(frozenset(indexes), indexes.get))


singles = st.builds(
    ConfChangeSingle,
    st.sampled_from([ADD_NODE, ADD_NODE, ADD_LEARNER_NODE, REMOVE_NODE, UPDATE_NODE]),
    st.integers(0, 6),
)
steps = st.lists(
    st.tuples(st.sampled_from(["simple", "enter", "leave"]), st.booleans(), st.lists(singles, max_size=4)), max_size=12
)


def changer(configuration: Configuration | None = None, progress: Members | None = None) -> Changer:
    """For one change."""
    return Changer(configuration or Configuration(), progress or {}, 7, 10, 0)


def learners_of(members: Members) -> dict[int, bool]:
    """Every member, and whether it is a learner."""
    return {node: progress.is_learner for node, progress in members.items()}


class ConfigurationTests(SynchronousTestCase):
    """Changes of the configuration."""

    @settings(max_examples=100, deadline=None)
    @given(steps)
    def test_any_sequence_of_changes(self, sequence: list[tuple[str, bool, list[ConfChangeSingle]]]) -> None:
        """Each change is refused without a trace or leads to a sound configuration, whose stored form restores it."""
        here = changer()
        for kind, auto_leave, changes in [("simple", False, [ConfChangeSingle(ADD_NODE, 1)]), *sequence]:
            before, learners = here.configuration, learners_of(here.progress)
            try:
                if kind == "simple":
                    result = here.simple(changes)
                    self.assertLessEqual(len(result[0].incoming ^ before.incoming), 1)
                elif kind == "enter":
                    result = here.enter_joint(auto_leave, changes)
                    self.assertEqual(result[0].outgoing, before.incoming)
                else:
                    result = here.leave_joint()
                    self.assertFalse(result[0].outgoing)
            except BadConfChange:
                self.assertEqual(here.configuration, before)
                self.assertEqual(learners_of(here.progress), learners)
                continue
            here.adopt(result)
            check_invariants(*result)
            self.assertEqual(list(result[1]), sorted(result[1]))
            again, members = restore(changer(), result[0].conf_state())
            self.assertEqual(again, result[0])
            self.assertEqual(
                {n: p.is_learner for n, p in members.items()}, {n: p.is_learner for n, p in result[1].items()}
            )

    @settings(max_examples=100, deadline=None)
    @given(st.frozensets(st.integers(1, 6), min_size=1), singles)
    def test_a_simple_change_keeps_majorities_in_touch(self, before: frozenset[int], single: ConfChangeSingle) -> None:
        """Every majority before and every majority after have a member in common (thesis 4.1)."""
        members = {node: Progress(Inflights(1)) for node in sorted(before)}
        try:
            after, _progress = changer(Configuration(before), members).simple((single,))
        except BadConfChange:
            return
        for old in majorities(before):
            for new in majorities(after.incoming):
                self.assertTrue(old & new)

    def test_the_notation(self) -> None:
        """``v1 l2 r3 u4`` and back; anything else is refused."""
        text = "v1 l2 r3 u4"
        self.assertEqual(describe_conf_changes(parse_conf_changes(text)), text)
        self.assertEqual(parse_conf_changes(" "), ())
        for wrong in ("v", "x1", "v-1", "vx", "1"):
            self.assertRaises(BadConfChange, parse_conf_changes, wrong)

    def test_a_configuration_that_contradicts_itself(self) -> None:
        """Whatever is wrong with it is found before a change is tried."""
        one = Progress(Inflights(1))
        learner = Progress(Inflights(1), is_learner=True)
        node = frozenset({1})
        for configuration, progress in (
            (Configuration(node), {}),
            (Configuration(node, learners=node), {1: learner}),
            (Configuration(learners=node), {1: one}),
            (Configuration(outgoing=node, learners=node), {1: learner}),
            (Configuration(node, learners_next=node), {1: one}),
            (Configuration(node, node, learners_next=node), {1: learner}),
            (Configuration(node, auto_leave=True), {1: one}),
        ):
            self.assertRaises(BadConfChange, changer(configuration, progress).simple, ())

    def test_an_unknown_step(self) -> None:
        """It is refused."""
        self.assertRaises(BadConfChange, changer().simple, (ConfChangeSingle(9, 1),))


class InflightsTests(SynchronousTestCase):
    """The window of messages in flight."""

    @settings(max_examples=100, deadline=None)
    @given(
        st.integers(1, 4),
        st.integers(0, 20),
        st.lists(
            st.one_of(st.tuples(st.just("add"), st.integers(0, 9)), st.tuples(st.just("free"), st.integers(0, 30)))
        ),
    )
    def test_against_a_list(self, count_max: int, bytes_max: int, operations: list[tuple[str, int]]) -> None:
        """It is full exactly when a limit is reached, and refuses to be filled further."""
        window = Inflights(count_max, bytes_max)
        twin: list[tuple[int, int]] = []
        index = 0
        for kind, value in operations:
            full = len(twin) >= count_max or (bytes_max > 0 and sum(size for _index, size in twin) >= bytes_max)
            self.assertEqual((window.full, window.count()), (full, len(twin)))
            if kind == "free":
                window.free_le(value)
                twin = [one for one in twin if one[0] > value]
            elif full:
                self.assertRaises(RaftInvariantError, window.add, index + 1, value)
            else:
                index += 1
                window.add(index, value)
                twin.append((index, value))
        window.reset()
        self.assertEqual((window.full, window.count()), (False, 0))
