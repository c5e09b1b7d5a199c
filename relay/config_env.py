"""``RELAY_…`` environment variables over the configuration's tree.

``RELAY_LIMITS__FRAME_BYTES_MAX=65536`` sets ``limits.frame_bytes_max``; two underscores go one level in, and in lists
numbers count from 0 (``RELAY_LISTENERS__0__ADDRESS``; the number after the last one appends). A value is YAML, so also
JSON; for settings that are text it is taken as it is. Where the file does not say, the default is what is changed.
Variables without two underscores that are no setting are not relay's (``RELAY_PORT`` of a container platform).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import msgspec
import msgspec.inspect as inspect
import yaml

from relay import config_shape as shapes
from relay.config_files import Tree, parse_json, parse_yaml
from relay.config_mistakes import nearest, shown
from relay.config_shape import Path, dotted
from relay.errors import ConfigError

PREFIX: Final = "RELAY_"
LEVEL: Final = "__"


def override(tree: dict[str, Tree], environ: Mapping[str, str]) -> dict[Path, str]:
    """Set in ``tree`` what ``RELAY_…`` variables say; the paths that were set, with their variables.

    Raises ``ConfigError`` where a variable leads nowhere; wrong values and names show when the tree is converted.
    """
    named = []
    for variable, value in environ.items():
        if variable.startswith(PREFIX):
            steps = variable[len(PREFIX) :].lower().split(LEVEL)
            if len(steps) > 1 or shapes.at((steps[0],)) is not None:
                named.append(([(int(step), "") if step.isdecimal() else (0, step) for step in steps], variable, value))
    done: dict[Path, str] = {}
    # Whole sections before what is in them, entries of lists by number.
    for _, variable, value in sorted(named, key=lambda each: (len(each[0]), each[0])):
        _set(tree, variable, value, done)
    return done


def _set(tree: dict[str, Tree], variable: str, value: str, done: dict[Path, str]) -> None:
    """Set one value in ``tree``; ``done`` gets its path, and those of the sections made for it."""
    place: Tree = tree
    shape: inspect.Type = shapes.root()
    path: Path = ()
    steps = variable[len(PREFIX) :].lower().split(LEVEL)
    for number, name in enumerate(steps):
        step: str | int = int(name) if isinstance(place, list) and name.isdecimal() else name
        inner = shapes.child(shape, step)
        if inner is None or (isinstance(step, int) and step > len(place)):
            raise ConfigError(f"{variable}: {_nowhere(shape, place, path, step)}")
        path = (*path, step)
        if number == len(steps) - 1:
            _put(place, step, _value(value, inner))
            done[path] = variable
            return
        if not _is(inner, inspect.StructType, inspect.VarTupleType, inspect.DictType):
            raise ConfigError(f"{variable}: {dotted(path)} is {shapes.words(inner)}: there is nothing in it to set")
        found = _inside(place, step)
        if found is None or (shapes.is_secret(inner) and isinstance(found, str)):
            default = _default(shape, step)
            _put(place, step, default if isinstance(default, dict | list) else _empty(inner))
            done[path] = variable
        place, shape = _inside(place, step), inner
        if not isinstance(place, dict | list):
            raise ConfigError(f"{variable}: {dotted(path)}: expected {shapes.words(inner)}, got {shown(place)}")


def _nowhere(shape: inspect.Type, place: Tree, path: Path, step: str | int) -> str:
    """Why there is nothing at ``step`` of ``path``."""
    if isinstance(place, list):
        return f"{dotted(path)} is a list of {len(place)}: expected a number from 0 to {len(place)}, got {step}"
    section = shapes.section(shape)
    names = [each.encode_name for each in section.fields] if section is not None else []
    return f"{dotted((*path, step))}: there is no such setting{nearest(str(step), names)}"


def _inside(place: Tree, step: str | int) -> Tree:
    try:
        return place[step]
    except (KeyError, IndexError, TypeError):
        return None


def _put(place: Tree, step: str | int, value: Tree) -> None:
    if isinstance(place, list) and step == len(place):
        place.append(value)
    else:
        place[step] = value


def _is(shape: inspect.Type, *kinds: type[inspect.Type]) -> bool:
    return any(isinstance(each, kinds) for each in shapes.choices(shape))


def _empty(shape: inspect.Type) -> Tree:
    return [] if _is(shape, inspect.VarTupleType) else {}


def _default(shape: inspect.Type, step: str | int) -> Tree:
    """The default of a setting as a tree; None where it has none."""
    section = shapes.section(shape)
    field = shapes.field(section, step) if section is not None and isinstance(step, str) else None
    if field is None or field.required:
        return None
    return _listed(msgspec.to_builtins(shapes.default(field)))


def _listed(tree: Tree) -> Tree:
    """``tree`` with lists for tuples, so that entries can be set."""
    if isinstance(tree, dict):
        return {name: _listed(value) for name, value in tree.items()}
    return [_listed(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _value(text: str, shape: inspect.Type) -> Tree:
    """A variable's value: YAML, but for what is text."""
    try:
        value = _parsed(text)
    except (yaml.YAMLError, ConfigError, ValueError, RecursionError):
        return text
    if not _is(shape, inspect.StrType, inspect.LiteralType):
        return value
    if value is None and _is(shape, inspect.NoneType):
        return None
    return value if isinstance(value, dict) and shapes.section(shape) is not None else text


def _parsed(text: str) -> Tree:
    """JSON, where it is that: PyYAML does not join the two halves of a character that JSON escapes. Else YAML."""
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return parse_yaml(text)


def variable_at(overrides: Mapping[Path, str], place: Path) -> str | None:
    """The variable that set what is at ``place``, or around it."""
    for length in range(len(place), 0, -1):
        if place[:length] in overrides:
            return overrides[place[:length]]
    return None
