"""The configuration's structs as a shape to walk: which settings there are, and what each expects, in words.

Used to tell mistakes (``relay.config_mistakes``), to read environment variables (``relay.config_env``) and to write
the documentation. A path is a tuple of names and indexes: ``("listeners", 0, "tls")`` is written ``listeners[0].tls``.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import msgspec
import msgspec.inspect as inspect

from relay.config import Config
from relay.config_types import WHOLE_MAX, SecretRef

Path = tuple[str | int, ...]

NAMES_LISTED_MAX: Final = 12
"""So many names are listed where none is near to the wrong one."""


@functools.cache
def struct(cls: type[msgspec.Struct]) -> inspect.StructType:
    """The shape of one section."""
    found = inspect.type_info(cls)
    assert isinstance(found, inspect.StructType)
    return found


def root() -> inspect.StructType:
    """The shape of the whole configuration."""
    return struct(Config)


def dotted(path: Path) -> str:
    """``path`` as people write it."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def bare(shape: inspect.Type) -> inspect.Type:
    """``shape`` without its description."""
    while isinstance(shape, inspect.Metadata):
        shape = shape.type
    return shape


def description(shape: inspect.Type) -> str:
    """What the setting is for, '' where it does not say."""
    if isinstance(shape, inspect.Metadata):
        return str((shape.extra_json_schema or {}).get("description", "")) or description(shape.type)
    return ""


def choices(shape: inspect.Type) -> list[inspect.Type]:
    """The kinds of value that are allowed: the members of a union, else the one."""
    found = bare(shape)
    return [bare(each) for each in found.types] if isinstance(found, inspect.UnionType) else [found]


def section(shape: inspect.Type) -> inspect.StructType | None:
    """The struct that a value may be."""
    return next((each for each in choices(shape) if isinstance(each, inspect.StructType)), None)


def is_secret(shape: inspect.Type) -> bool:
    """Whether values are secrets, which no message may show."""
    found = section(shape)
    return found is not None and found.cls is SecretRef


def field(shape: inspect.StructType, name: str) -> inspect.Field | None:
    """The setting ``name`` of a section."""
    return next((each for each in shape.fields if each.encode_name == name), None)


def default(setting: inspect.Field) -> object:
    """The value of a setting that is not given; it must not be required."""
    return setting.default if setting.default is not msgspec.NODEFAULT else setting.default_factory()


def child(shape: inspect.Type, step: str | int) -> inspect.Type | None:
    """What is expected one step further in; None where there is nothing."""
    for each in choices(shape):
        if isinstance(each, inspect.StructType) and isinstance(step, str):
            found = field(each, step)
            if found is not None:
                return found.type
        if isinstance(each, inspect.VarTupleType) and isinstance(step, int):
            return each.item_type
        if isinstance(each, inspect.DictType) and isinstance(step, str):
            return each.value_type
    return None


def at(path: Path) -> inspect.Type | None:
    """What is expected at ``path``; None where there is no such setting."""
    found: inspect.Type | None = root()
    for step in path:
        found = child(found, step) if found is not None else None
    return found


def words(shape: inspect.Type) -> str:
    """What a value has to be, as the end of "expected …"."""
    if is_secret(shape):
        kinds = ["text", "{file: PATH}", "{env: NAME}"]
    else:
        kinds = [_words(each) for each in choices(shape)]
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"


def _words(shape: inspect.Type) -> str:
    match shape:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{bounds(shape)}"
        case inspect.FloatType():
            return f"a number{bounds(shape)}"
        case inspect.StrType():
            return f"text{_length(shape)}"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, shape.values))}"
        case inspect.VarTupleType():
            return f"a list{' with at least one entry' if shape.min_length else ''}"
        case inspect.StructType() | inspect.DictType():
            return "a section of settings"
        case inspect.NoneType():
            return "null"
    raise AssertionError(f"the configuration has a kind of value without words: {shape!r}")


def bounds(shape: inspect.IntType | inspect.FloatType) -> str:
    """The bounds of a number, as the end of a sentence."""
    least = f" above {_number(shape.gt)}" if shape.gt is not None else ""
    if shape.ge is not None:
        least = f" of at least {_number(shape.ge)}"
    if shape.le is None or shape.le == WHOLE_MAX:
        return least
    return f"{least}{' and' if least else ''} at most {_number(shape.le)}"


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


def _length(shape: inspect.StrType) -> str:
    if shape.pattern is not None:
        return f" that matches {shape.pattern}"
    if shape.max_length is not None:
        return f" of {shape.min_length or 0} to {shape.max_length} characters"
    return " that is not empty" if shape.min_length else ""
