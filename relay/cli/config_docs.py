"""The page ``docs/configuration.md``: an introduction, and a table for each section made from ``relay.config``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import msgspec.inspect as inspect

from relay import config_shape as shapes
from relay.config_auth import EVERYTHING
from relay.config_load import RESTART
from relay.config_types import SECONDS_MAX, SecretRef

INTRODUCTION: Final = """\
# Configuration

A node needs no configuration: without a file it listens on loopback with the defaults below. A file is YAML, JSON or
TOML, told by its extension, and holds only what differs:

    twistd -n relay --config=relay.yaml

[`docs/examples/relay.yaml`](examples/relay.yaml) is an example with comments. This page is made from the code by
`relay config docs`; `relay config schema` prints the same as a JSON Schema, for editors.

    relay config check relay.yaml     everything that is wrong with it; exit status 2 if anything is
    relay config show relay.yaml      the effective configuration, with defaults and environment, secrets masked
    relay config password             a hash for `auth.static`

**Mistakes stop the start.** A name that is no setting, a wrong value, a name given twice, a certificate that cannot be
read: one sentence says the file and line, the setting, what was expected and the nearest right name. The same holds for
a file that is read again; then the node goes on with what it had.

    relay.yaml:12: limits.frame_byte_max: there is no such setting; did you mean frame_bytes_max?

**Safe by default.** Anonymous sessions, which need no proof of identity, are let in by default; so a node with an
address that other machines reach refuses to start. Configure authentication and set `auth.anonymous.enabled: false`, or
say that it is meant with `auth.allow_anonymous: true`.

**Environment.** `RELAY_LIMITS__FRAME_BYTES_MAX=65536` sets `limits.frame_bytes_max`: two underscores go one level in,
in lists numbers count from 0 (`RELAY_LISTENERS__0__ADDRESS`), and the number after the last one appends. Values are
YAML, so also JSON; for settings that are text they are taken as they are. The environment counts before the file.

**Secrets.** Wherever a secret is expected (`secret`, `password_scrypt`) it may stand elsewhere:
`{file: /run/secrets/token-key}` or `{env: TOKEN_KEY}`. Newlines at the end of the file do not count.

**Units** are in the names: `_s` seconds, `_ms` milliseconds, `bytes`, `_per_s` a second; `_max` and `_min` are limits.
No time is longer than a year.

**Names and patterns** of channels, procedures and permissions: segments joined by `.`; in a pattern `*` stands for one
segment and a last `**` for all that follow; in permissions `{user}` is the session's own user. A section of permissions
names all that is allowed: an action that it leaves out is denied.

**Files** (certificates, keys, secrets, the log, the data directory) are relative to the directory in which the node was
started.
"""

LIVE: Final = """\
## Changes while the node runs

SIGHUP makes the node read its configuration again. What changed is taken over: limits, permissions and authentication,
certificates, log levels, timing, rules for slow receivers and channels. Listeners are known by their name: one that is
new starts, one that is gone accepts no more (its connections stay), one with another address is replaced. The log says
what needs a restart: {restart}.
"""

_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "bytes": "bytes"}


def page() -> str:
    """The page, as Markdown."""
    parts = [INTRODUCTION]
    places = sections()
    for paths, shape in places.values():
        parts.append("\n".join(_section(paths, shape, places)) + "\n")
    parts.append(LIVE.format(restart=", ".join(f"`{each}`" for each in RESTART)))
    return "\n".join(parts)


def sections() -> Places:
    """Every kind of section, in the order of the page, with the paths where it stands."""
    found: Places = {}

    def visit(shape: inspect.StructType, path: str) -> None:
        first = shape.cls not in found
        found.setdefault(shape.cls, ([], shape))[0].append(path)
        if first:
            for field in shape.fields:
                inner, is_list = _inner(field.type)
                if inner is not None and inner.cls is not SecretRef:
                    visit(inner, f"{path}.{field.encode_name}".lstrip(".") + ("[]" if is_list else ""))

    visit(shapes.root(), "")
    return found


def _inner(shape: inspect.Type) -> tuple[inspect.StructType | None, bool]:
    """The section inside a setting, and whether there is a list of it."""
    for each in shapes.choices(shape):
        if isinstance(each, inspect.VarTupleType):
            return shapes.section(each.item_type), True
    return shapes.section(shape), False


Places = dict[type, tuple[list[str], inspect.StructType]]


def _section(paths: list[str], shape: inspect.StructType, places: Places) -> Iterator[str]:
    yield f"## {_title(paths)}"
    yield ""
    yield _text(shape)
    yield ""
    if len(paths) > 1:
        yield f"Stands at {', '.join(f'`{each}`' for each in paths)}."
        yield ""
    yield "| setting | value | default | |"
    yield "|---|---|---|---|"
    for field in shape.fields:
        inner, _ = _inner(field.type)
        value, about = value_words(field), shapes.description(field.type)
        if inner is not None and inner.cls in places:
            value = value.replace("section", f"[section]({_anchor(places[inner.cls][0])})", 1)
            about = about or _text(inner).partition("\n")[0]
        cells = (f"`{field.encode_name}`", value, default_words(field), about)
        yield "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"


def _text(shape: inspect.StructType) -> str:
    """What the section's struct says about itself."""
    return re.sub(r"\n\s*", "\n", (shape.cls.__doc__ or "").strip())


def _title(paths: list[str]) -> str:
    """A section is called by its outermost path."""
    path = min(paths, key=lambda each: each.count("."))
    return f"`{path}`" if path else "At the top"


def _anchor(paths: list[str]) -> str:
    """The fragment that GitHub and others give the title."""
    return "#" + re.sub(r"[^a-z0-9_-]", "", _title(paths).lower().replace(" ", "-"))


def value_words(field: inspect.Field) -> str:
    """What the setting takes: kind, unit and bounds."""
    shape = field.type
    if shapes.is_secret(shape):
        return "secret" + (" or null" if _is_optional(shape) else "")
    kinds = [_kind(field.encode_name, each) for each in shapes.choices(shape)]
    return " or ".join(kinds)


def _is_optional(shape: inspect.Type) -> bool:
    return any(isinstance(each, inspect.NoneType) for each in shapes.choices(shape))


def _kind(name: str, shape: inspect.Type) -> str:
    match shape:
        case inspect.IntType() | inspect.FloatType():
            bounds = shapes.bounds(shape).replace(f" and at most {SECONDS_MAX}", "")
            return (unit(name) or ("number" if isinstance(shape, inspect.FloatType) else "whole number")) + bounds
        case inspect.LiteralType():
            return ", ".join(f"`{each}`" for each in shape.values)
        case inspect.VarTupleType():
            inner = shapes.section(shape.item_type)
            least = ", at least one" if shape.min_length else ""
            return ("list of sections" if inner is not None else f"list of {_items(shape.item_type)}") + least
        case inspect.DictType():
            return f"names with {_items(shape.value_type)}"
        case inspect.StructType():
            return "section"
    return shapes.words(shape)


def _items(shape: inspect.Type) -> str:
    found = shapes.bare(shape)
    return _kind("", found) if isinstance(found, inspect.LiteralType) else "texts"


def unit(name: str) -> str:
    """The unit that a setting's name tells, '' for none."""
    words = name.split("_")
    if "_per_s" in name:
        return f"{words[words.index('per') - 1]} a second"
    return next((_UNITS[word] for word in reversed(words) if word in _UNITS), "")


def default_words(field: inspect.Field) -> str:
    """The default, as it could be written."""
    if field.required:
        return "*required*"
    value = shapes.default(field)
    if value == EVERYTHING:
        return "everything but `bind`"
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    return f"`{json.dumps(brief(value), ensure_ascii=False)}`"


def brief(value: Any) -> Any:  # Any: a value of the structs in, one that JSON can hold out
    """``value`` without what is at its default."""
    if isinstance(value, msgspec.Struct):
        pairs = {
            field.encode_name: getattr(value, field.name)
            for field in shapes.struct(type(value)).fields
            if field.required or getattr(value, field.name) != shapes.default(field)
        }
        return {name: brief(each) for name, each in pairs.items()}
    return [brief(each) for each in value] if isinstance(value, tuple) else value
