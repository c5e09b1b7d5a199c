"""The grammar of names and patterns, and the table that finds the patterns a name belongs to.

Source: ``docs/protocol.md`` section 4. A name is 1-255 bytes of UTF-8 without control characters, segments joined
by ``.`` (a segment may be empty). In a pattern a segment ``*`` stands for exactly one segment and a last segment
``**`` for one or more; a name has neither.
"""

from __future__ import annotations

import re
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
    """The patterns that begin with the same segments: those that end here, those that go on, those with ``**``."""

    __slots__ = ("deep", "ending", "following")

    def __init__(self) -> None:
        self.following: dict[str, _Node[T]] = {}
        self.ending: dict[T, None] = {}
        self.deep: dict[T, None] = {}


class PatternTable(Generic[T]):
    """Values (hashable) under patterns, found by name.

    A trie by segments: what ``match`` costs depends on the name's segments and on the patterns that agree with its
    beginning, not on the number of others. Results are remembered until the table changes. ``len`` is the number of
    pairs of pattern and value.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._size = 0
        self._cache: dict[str, list[T]] = {}
        self._cached_values = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: T) -> bool:
        """Puts ``value`` under ``pattern`` (checked by the caller); False when it was there already."""
        segments = pattern.split(".")
        deep = segments[-1] == "**"
        node = self._root
        for segment in segments[:-1] if deep else segments:
            found = node.following.get(segment)
            if found is None:
                found = node.following[segment] = _Node()
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
        path = [self._root]
        for segment in segments[:-1] if deep else segments:
            found = path[-1].following.get(segment)
            if found is None:
                return False
            path.append(found)
        values = path[-1].deep if deep else path[-1].ending
        if value not in values:
            return False
        del values[value]
        while len(path) > 1 and not (path[-1].following or path[-1].ending or path[-1].deep):
            path.pop()
            del path[-1].following[segments[len(path) - 1]]
        self._size -= 1
        self._forget()
        return True

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
        values: list[T] = []
        nodes = [self._root]
        for segment in name.split("."):
            reached = []
            for node in nodes:
                values += node.deep
                following = node.following
                if following:
                    literal = following.get(segment)
                    if literal is not None:
                        reached.append(literal)
                    star = following.get("*")
                    if star is not None and star is not literal:
                        reached.append(star)
            nodes = reached
            if not nodes:
                return values
        for node in nodes:
            values += node.ending
        return values

    def _forget(self) -> None:
        if self._cache:
            self._cache = {}
            self._cached_values = 0
