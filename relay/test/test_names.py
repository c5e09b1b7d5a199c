"""Names, patterns, and the table that finds patterns by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from relay.errors import BadName
from relay.test.strategies import runs
from relay.wire import names
from relay.wire.names import PatternTable, check_name, check_pattern, is_pattern, matches

T = TypeVar("T")

segments = st.sampled_from(["a", "b", "*", "**", "", "é", "***", "a*", "$"])
dotted = st.lists(segments, min_size=1, max_size=6).map(".".join).filter(bool)


def passes(check: object, text: str) -> bool:
    """Whether ``check`` lets ``text`` through."""
    assert callable(check)
    try:
        check(text)
    except BadName:
        return False
    return True


def below(node: names._Node[T]) -> Iterator[names._Node[T]]:
    """All nodes of a table under ``node``."""
    for following in node.following.values():
        yield following
        yield from below(following)


def counted(table: PatternTable[str]) -> list[str]:
    """The look-ups that ``table`` makes in its nodes from now on."""
    visits: list[str] = []

    class Counting(dict[str, "names._Node[str]"]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]  # counts only
            visits.append(key)
            return super().get(key, default)

    for node in (table._root, *below(table._root)):
        node.following = Counting(node.following)
    return visits


class Grammar(TestCase):
    """docs/protocol.md section 4."""

    def test_names(self) -> None:
        """1-255 bytes of UTF-8, no control characters, segments joined by dots, also empty ones."""
        for text in ("a", "room.1", "zürich.日本", ".", "a..b", "a*b", "***", "$relay.x", "n" * 255, "é" * 127):
            check_name(text)
            check_pattern(text)
            self.assertFalse(is_pattern(text))
        for text in ("", "n" * 256, "é" * 128, "a\n", "a\x00b", "\x7f", "a\x85", "\x9f", "\ud800"):
            self.assertRaises(BadName, check_name, text)
            self.assertRaises(BadName, check_pattern, text)

    def test_patterns(self) -> None:
        """A segment * anywhere, ** as the last one only; neither in a name."""
        for text in ("*", "**", "a.*", "*.a", "a.*.b", "a.**", "*.**", ".**", "*."):
            check_pattern(text)
            self.assertTrue(is_pattern(text))
            self.assertRaises(BadName, check_name, text)
        for text in ("**.a", "a.**.b", "**.**", "**."):
            self.assertRaises(BadName, check_pattern, text)
            self.assertRaises(BadName, check_name, text)

    def test_the_limit_is_the_callers(self) -> None:
        """``name_bytes_max`` counts bytes."""
        check_name("éé", 4)
        self.assertRaises(BadName, check_name, "ééé", 5)

    @given(st.one_of(dotted, st.text(max_size=70), st.text(alphabet="aé日😀\x7f\x80*.\ud800", max_size=70)))
    @runs(300)
    def test_the_short_cut_agrees_with_the_rules(self, text: str) -> None:
        """A name is let through exactly when every rule by itself lets it through."""
        try:
            sized = 1 <= len(text.encode()) <= 255
        except UnicodeEncodeError:
            sized = False
        controls = any(ord(each) < 32 or 127 <= ord(each) < 160 for each in text)
        wild = any(segment in ("*", "**") for segment in text.split("."))
        self.assertEqual(passes(check_name, text), sized and not controls and not wild)

    @given(dotted)
    @runs(300)
    def test_every_pattern_is_a_name_or_has_a_wildcard(self, text: str) -> None:
        """What ``check_pattern`` lets through is a name exactly when ``is_pattern`` says no."""
        if passes(check_pattern, text):
            self.assertEqual(passes(check_name, text), not is_pattern(text))
        else:
            self.assertFalse(passes(check_name, text))

    def test_matches(self) -> None:
        """* is one segment, also an empty one; ** is one or more."""
        cases = {
            "a.b": {"a.b": True, "a": False, "a.b.c": False},
            "*": {"a": True, "a.b": False, "": True},
            "a.*": {"a.": True, "a": False, "a.b": True, "a.b.c": False},
            "a.*.c": {"a.b.c": True, "a..c": True, "a.c": False},
            "**": {"a": True, "a.b.c": True},
            "a.**": {"a": False, "a.": True, "a.b.c.d": True, "b.c": False},
            "*.**": {"a": False, "a.b": True},
            "a*": {"ab": False},
        }
        for pattern, name, expected in ((p, n, e) for p, found in cases.items() for n, e in found.items()):
            self.assertEqual(matches(pattern, name), expected, (pattern, name))


class Table(TestCase):
    """``PatternTable``."""

    patterns = dotted.filter(lambda text: passes(check_pattern, text))
    plain_names = dotted.filter(lambda text: passes(check_name, text))
    changes = st.lists(st.tuples(st.booleans(), patterns, st.integers(0, 2)), max_size=20)

    @given(changes, st.lists(plain_names, min_size=1, max_size=4))
    @runs(300)
    def test_it_finds_what_brute_force_finds(self, changes: list[tuple[bool, str, int]], asked: list[str]) -> None:
        """After every change, for every name, the values are those of the patterns that match."""
        table: PatternTable[tuple[str, int]] = PatternTable()
        held: set[tuple[str, int]] = set()
        for added, pattern, number in changes:
            pair = (pattern, number)
            if added:
                self.assertEqual(table.add(pattern, pair), pair not in held)
                held.add(pair)
            else:
                self.assertEqual(table.remove(pattern, pair), pair in held)
                held.discard(pair)
            self.assertEqual(len(table), len(held))
            for name in asked:
                expected = sorted(pair for pair in held if matches(pair[0], name))
                self.assertEqual(sorted(table.match(name)), expected)
                self.assertEqual(sorted(table.match(name)), expected)

    @given(changes)
    @runs(100)
    def test_it_keeps_nothing_of_what_was_removed(self, changes: list[tuple[bool, str, int]]) -> None:
        """An empty table has no nodes but its root."""
        table: PatternTable[int] = PatternTable()
        for _, pattern, number in changes:
            table.add(pattern, number)
        for _, pattern, number in changes:
            table.remove(pattern, number)
        self.assertEqual(len(table), 0)
        self.assertEqual(table._root.following, {})

    @given(changes)
    @runs(200)
    def test_a_node_is_kept_for_a_pattern_or_a_fork(self, changes: list[tuple[bool, str, int]]) -> None:
        """After every change there are at most two nodes per pattern, beside the root."""
        table: PatternTable[int] = PatternTable()
        held: set[tuple[str, int]] = set()
        for added, pattern, number in changes:
            if added:
                table.add(pattern, number)
                held.add((pattern, number))
            else:
                table.remove(pattern, number)
                held.discard((pattern, number))
            nodes = list(below(table._root))
            for node in nodes:
                self.assertTrue(node.ending or node.deep or len(node.following) > 1, node.segments)
            self.assertLessEqual(len(nodes), 2 * len({pattern for pattern, _ in held}))

    def test_a_match_takes_few_steps_for_each_pattern(self) -> None:
        """All beginnings made of a and * before long tails that fail late: two look-ups for each of two nodes."""
        for tail in (["a"] * 100, ["a", "*"] * 50):
            table: PatternTable[str] = PatternTable()
            patterns = [".".join([*start, *tail, last]) for start in product("a*", repeat=8) for last in "xy"]
            for pattern in patterns:
                table.add(pattern, pattern)
            visits = counted(table)
            self.assertEqual(table.match(".".join("a" * 109)), [])
            self.assertGreater(len(visits), len(patterns) // 2)
            self.assertLessEqual(len(visits), 4 * len(patterns))
            found = table.match(".".join("a" * 108 + "x"))
            self.assertEqual(sorted(found), sorted(pattern for pattern in patterns if pattern.endswith("x")))

    def test_unrelated_patterns_are_not_visited(self) -> None:
        """The nodes that a match reaches are as many among ten thousand other patterns as without them."""
        table: PatternTable[str] = PatternTable()
        for pattern in ("room.*.chat", "room.**", "*.1.*"):
            table.add(pattern, pattern)
        costs = []
        for others in (0, 10_000):
            for number in range(others):
                table.add(f"other{number}.*.x", "other")
                table.add(f"room.{number + 5}.x", "other")
            visits = counted(table)
            self.assertEqual(sorted(table.match("room.1.chat")), ["*.1.*", "room.**", "room.*.chat"])
            costs.append(len(visits))
        self.assertGreater(costs[0], 0)
        self.assertEqual(costs[0], costs[1])

    def test_the_memory_of_results_is_bounded(self) -> None:
        """Neither many names nor many values per name are remembered without end."""
        table: PatternTable[int] = PatternTable()
        for number in range(100):
            table.add("**", number)
        for number in range(names.CACHED_NAMES_MAX + 100):
            self.assertEqual(len(table.match(f"n{number}")), 100)
            self.assertLessEqual(sum(map(len, table._cache.values())), names.CACHED_VALUES_MAX)
        small: PatternTable[int] = PatternTable()
        for number in range(names.CACHED_NAMES_MAX + 100):
            small.match(f"n{number}")
        self.assertLessEqual(len(small._cache), names.CACHED_NAMES_MAX)
