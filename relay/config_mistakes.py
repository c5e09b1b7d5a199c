"""Sentences for mistakes in a configuration: where it is, what was expected, and the nearest right name.

    relay.yaml:12: limits.frame_byte_max: there is no such setting; did you mean frame_bytes_max?
    relay.yaml:3: listeners[0].protocols[1]: expected one of http, relay, websocket, got "websockets"; did you mean …
    RELAY_TIMING__DRAIN_S: timing.drain_s: expected a number of at least 0 and at most 31622400, got "soon"

msgspec finds the mistake and names its place (``$.limits``); what was expected is looked up in the shape.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import msgspec.inspect as inspect

from relay import config_shape as shapes
from relay.config_shape import Path, dotted

VALUE_CHARACTERS_MAX: Final = 60

_PLACE: Final = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")


def nearest(wrong: str, right: Iterable[str]) -> str:
    """ "; did you mean …?" with the right name nearest to ``wrong``, or the list of those there are."""
    names = sorted(right)
    close = difflib.get_close_matches(wrong.lower().replace("-", "_"), names, 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    if not names or len(names) > shapes.NAMES_LISTED_MAX:
        return ""
    return f"; there are {', '.join(names)}" if len(names) > 1 else f"; there is {names[0]}"


def shown(value: object) -> str:
    """``value`` for a sentence: short, on one line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # YAML has names that are no text, and lists that hold themselves
        text = f"a {type(value).__name__}"
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}…"


def explain(
    error: msgspec.ValidationError, tree: Any, source: Callable[[Path], str]
) -> str:  # Any: what was read, of whatever kind
    """The sentence for what is wrong in ``tree``; ``source`` says where the value at a path comes from."""
    place = _PLACE.fullmatch(str(error))
    assert place is not None  # the pattern takes every text
    path, shape, value = _find(tree, place["path"] or "")
    what = place["what"]
    if place["key"] or (isinstance(value, dict) and not all(isinstance(key, str) for key in value)):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        what = f"names of settings are text, got {shown(wrong)} (quote it?)"
    elif unknown := _UNKNOWN.fullmatch(what):
        section = shapes.section(shape) if shape is not None else None
        names = [each.encode_name for each in section.fields] if section is not None else []
        path = (*path, unknown[1])
        what = f"there is no such setting{nearest(unknown[1], names)}"
    elif missing := _MISSING.fullmatch(what):
        what = f"{missing[1]} is missing"
    elif shape is not None:
        what = _expected(shape, value)
    return f"{source(path)}: {dotted(path)}: {what}" if path else f"{source(path)}: {what}"


def _expected(shape: inspect.Type, value: object) -> str:
    if shapes.is_secret(shape):
        return f"expected {shapes.words(shape)}"
    text = f"expected {shapes.words(shape)}, got {shown(value)}"
    literal = next((each for each in shapes.choices(shape) if isinstance(each, inspect.LiteralType)), None)
    if literal is not None and isinstance(value, str):
        close = difflib.get_close_matches(value.lower(), [str(each) for each in literal.values], 1, 0.5)
        text += f"; did you mean {close[0]}?" if close else ""
    return text


def _find(tree: Any, place: str) -> tuple[Path, inspect.Type | None, Any]:  # Any: as above
    """The path that msgspec wrote, what is expected there, and the value there."""
    path: Path = ()
    shape: inspect.Type | None = shapes.root()
    value = tree
    for name, index in _STEP.findall(place):
        step: str | int = name
        if index == "...":  # msgspec does not say which key of a dict
            step = _culprit(value, shapes.child(shape, "") if shape is not None else None)
        elif index:
            step = int(index)
        path = (*path, step)
        shape = shapes.child(shape, step) if shape is not None else None
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            value = None
    return path, shape, value


def _culprit(values: dict[str, object], shape: inspect.Type | None) -> str:
    """The key of the first value that is not one of the literals of ``shape``."""
    literal = shapes.bare(shape) if shape is not None else None
    allowed = literal.values if isinstance(literal, inspect.LiteralType) else ()
    return next((key for key, value in values.items() if value not in allowed), "…")
