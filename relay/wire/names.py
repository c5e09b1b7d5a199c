"""The grammar of names and patterns, and the table that finds the patterns a name belongs to.

Source: ``docs/protocol.md`` section 4. A name is 1-255 bytes of UTF-8 without control characters, segments joined
by ``.`` (a segment may be empty). In a pattern a segment ``*`` stands for exactly one segment and a last segment
``**`` for one or more; a name has neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Final, Generic, TypeVar

from relay.errors import BadName

NAME_BYTES_MAX: Final = 255
# Results that a table remembers: so many names, and so many values in all.
CACHED_NAMES_MAX: Final = 4096
CACHED_VALUES_MAX: Final = 65_536

T = TypeVar("T")

# What needs no closer look: at most 252 bytes, no star, no control character, no half of a surrogate pair.
_PLAIN_CHARACTERS: Final = NAME_BYTES_MAX // 4
_plain = re.compile(f"[^\x00-\x1f\x7f-\x9f*\ud800-\udfff]{{1,{_PLAIN_CHARACTERS}}}").fullmatch
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_WILD: Final = re.compile(r"(?:^|\.)\*\*?(?:\.|\Z)")
_DEEP_INSIDE: Final = re.compile(r"(?:^|\.)\*\*\.")


def _check(text: str, name_bytes_max: int) -> None:
    if not text:
        raise BadName("an empty name")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise BadName("a name that is not UTF-8") from None
    if size > name_bytes_max:
        raise BadName(f"a name of {size} bytes, at most {name_bytes_max} are allowed")
    if _CONTROL.search(text):
        raise BadName(f"a control character in the name {text!r}")


def check_name(text: str, name_bytes_max: int = NAME_BYTES_MAX) -> None:
    """Raises ``BadName`` unless ``text`` is a name (and no pattern)."""
    if name_bytes_max == NAME_BYTES_MAX and _plain(text):
        return
    _check(text, name_bytes_max)
    if "*" in text and _WILD.search(text):
        raise BadName(f"{text!r} is a pattern, a name is expected")


def check_pattern(text: str, name_bytes_max: int = NAME_BYTES_MAX) -> None:
    """Raises ``BadName`` unless ``text`` is a name or a pattern."""
    _check(text, name_bytes_max)
    if "*" in text and _DEEP_INSIDE.search(text):
        raise BadName(f"in {text!r} the segment ** is not the last")


def is_pattern(text: str) -> bool:
    """Whether ``text`` (which ``check_pattern`` lets through) has a wildcard, or else is a plain name."""
    return "*" in text and _WILD.search(text) is not None


def matches(pattern: str, name: str) -> bool:
    """Whether ``name`` belongs to ``pattern``; a pattern without wildcards is matched by itself only."""
    wanted, given = pattern.split("."), name.split(".")
    if wanted[-1] == "**":
        del wanted[-1]
        if len(given) <= len(wanted):
            return False
        del given[len(wanted) :]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


class _Node(Generic[T]):
    """The patterns that begin with the same segments: those that end here, those that go on, those with ``**``.

    ``segments`` lead here from the node above, which finds the first of them in ``following``; ``depth`` counts
    those from the root. The literal ones among the rest are compared at once: ``pick`` takes their places out of a
    name's segments, and what it takes must be ``wanted``; None when there are none.
    """

    __slots__ = ("deep", "depth", "ending", "following", "pick", "segments", "wanted")

    def __init__(self, segments: list[str], depth: int) -> None:
        self.depth = depth
        self.following: dict[str, _Node[T]] = {}
        self.ending: dict[T, None] = {}
        self.deep: dict[T, None] = {}
        self.led_by(segments)

    def led_by(self, segments: list[str]) -> None:
        """Be reached through ``segments`` from now on."""
        self.segments = segments
        self.pick: Callable[[list[str]], object] | None = None
        self.wanted: object = None
        start = self.depth - len(segments)
        places = [place for place, segment in enumerate(segments) if place and segment != "*"]
        if places:
            if len(places) == places[-1] - places[0] + 1:
                self.pick = itemgetter(slice(start + places[0], start + places[-1] + 1))
                self.wanted = segments[places[0] : places[-1] + 1]
            else:
                self.pick = itemgetter(*(start + place for place in places))
                self.wanted = itemgetter(*places)(segments)


class PatternTable(Generic[T]):
    """Values (hashable) under patterns, found by name.

    A trie by segments in which a node has values, or at least two ways on, or is the root: at most two nodes for a
    pattern, however long it is. What ``match`` costs depends on the patterns that agree with the name's beginning,
    not on the number of others; a node is visited at most once, so it never exceeds two steps for each pattern of
    the table. (A trie with a node for every segment would be walked to the end of the name below each of 2^n
    beginnings made of ``a`` and ``*``.) Results are remembered until the table changes. ``len`` is the number of pairs
    of pattern and value.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node([], 0)
        self._size = 0
        self._cache: dict[str, list[T]] = {}
        self._cached_values = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: T) -> bool:
        """Puts ``value`` under ``pattern`` (checked by the caller); False when it was there already."""
        segments = pattern.split(".")
        deep = segments[-1] == "**"
        if deep:
            del segments[-1]
        node = self._root
        while node.depth < len(segments):
            first = segments[node.depth]
            found = node.following.get(first)
            if found is None:
                found = node.following[first] = _Node(segments[node.depth :], len(segments))
            else:
                common = _common(found.segments, segments, node.depth)
                if common < len(found.segments):
                    found = node.following[first] = _split(found, common)
            node = found
        values = node.deep if deep else node.ending
        if value in values:
            return False
        values[value] = None
        self._size += 1
        self._forget()
        return True

    def remove(self, pattern: str, value: T) -> bool:
        """Takes ``value`` from under ``pattern``; False when it was not there."""
        segments = pattern.split(".")
        deep = segments[-1] == "**"
        if deep:
            del segments[-1]
        path = [self._root]
        while path[-1].depth < len(segments):
            depth = path[-1].depth
            found = path[-1].following.get(segments[depth])
            if found is None or found.segments != segments[depth : found.depth]:
                return False
            path.append(found)
        values = path[-1].deep if deep else path[-1].ending
        if value not in values:
            return False
        del values[value]
        self._prune(path)
        self._size -= 1
        self._forget()
        return True

    def _prune(self, path: list[_Node[T]]) -> None:
        """Drop the last node of ``path`` when it leads nowhere, and join what then is an unbranched way."""
        node = path.pop()
        if path and not (node.ending or node.deep or node.following):
            del path[-1].following[node.segments[0]]
            node = path.pop()
        if path and len(node.following) == 1 and not (node.ending or node.deep):
            (only,) = node.following.values()
            only.led_by(node.segments + only.segments)
            path[-1].following[node.segments[0]] = only

    def match(self, name: str) -> list[T]:
        """The values of all patterns that ``name`` belongs to (a value once per pattern). Not to be changed."""
        found = self._cache.get(name)
        if found is None:
            found = self._find(name) if self._size else []
            if len(self._cache) >= CACHED_NAMES_MAX or self._cached_values + len(found) > CACHED_VALUES_MAX:
                self._forget()
            self._cache[name] = found
            self._cached_values += len(found)
        return found

    def _find(self, name: str) -> list[T]:
        segments = name.split(".")
        size = len(segments)
        values: list[T] = []
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            depth = node.depth
            if depth == size:
                values += node.ending
                continue
            values += node.deep
            following = node.following
            if following:
                segment = segments[depth]
                # What was put in last is visited first: literals go before stars.
                star = following.get("*")
                if star is not None and star.depth <= size and (not star.pick or star.pick(segments) == star.wanted):
                    nodes.append(star)
                found = following.get(segment)
                if found is not None and found.depth <= size and found is not star:
                    if not found.pick or found.pick(segments) == found.wanted:
                        nodes.append(found)
        return values

    def _forget(self) -> None:
        if self._cache:
            self._cache = {}
            self._cached_values = 0


def _common(way: list[str], segments: list[str], start: int) -> int:
    """How many segments ``way`` shares with ``segments`` from ``start`` on."""
    length = min(len(way), len(segments) - start)
    return next((place for place in range(length) if way[place] != segments[start + place]), length)


def _split(node: _Node[T], length: int) -> _Node[T]:
    """A node above ``node`` that takes the first ``length`` segments of its way."""
    upper: _Node[T] = _Node(node.segments[:length], node.depth - len(node.segments) + length)
    node.led_by(node.segments[length:])
    upper.following[node.segments[0]] = node
    return upper
