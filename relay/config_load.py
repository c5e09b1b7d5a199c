"""Reading the configuration: a file, then ``RELAY_…`` variables over it, then secrets by reference.

    load(path, environ)     file ─▶ tree ─▶ with variables ─▶ Config ─▶ with secrets read
                            config_files    config_env        config    here; mistakes: config_mistakes
    check(config)           what no single setting can tell (``relay.config_check``)
    differences(old, new)   what a running node can take over, and what needs a restart

An empty file, or none, is the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import msgspec.inspect as inspect

from relay import config_shape as shapes
from relay.config import Config
from relay.config_env import override, variable_at
from relay.config_files import Tree, read_file, read_text
from relay.config_mistakes import explain
from relay.config_shape import Path, dotted
from relay.config_types import SecretRef
from relay.errors import ConfigError

SECRET_BYTES_MAX: Final = 64 * 1024
MASK: Final = "********"


class SecretText(str):
    """A secret that does not show itself when a struct with it is printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


def load(path: str | None, environ: Mapping[str, str]) -> Config:
    """The configuration with secrets read. Raises ``ConfigError`` with one sentence for the first mistake."""
    config = read(path, environ)
    try:
        return follow_secrets(config, environ)
    except ConfigError as error:
        raise ConfigError(f"{path or 'the environment'}: {error}") from None


def read(path: str | None, environ: Mapping[str, str]) -> Config:
    """The configuration with references to secrets left as they are. Raises ``ConfigError``."""
    tree: Tree = {}
    line = None
    if path is not None:
        tree, line = read_file(path)
    overrides: dict[Path, str] = {}
    if isinstance(tree, dict):
        tree = _without_empty_sections(tree, shapes.root())
        overrides = override(tree, environ)

    def source(place: Path) -> str:
        variable = variable_at(overrides, place)
        if variable is not None:
            return variable
        number = line(place) if line is not None else None
        return (path or "the environment") + ("" if number is None else f":{number}")

    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(error, tree, source)) from None
    except RecursionError:
        raise ConfigError(f"{source(())}: nested too deeply") from None


def check(config: Config) -> None:
    """Raises ``ConfigError`` for what does not fit together, does not exist or would be unsafe."""
    from relay.config_check import problems  # it needs most of relay: only who checks waits for that

    found = problems(config)
    if found:
        more = f" (and {len(found) - 1} more: relay config check lists them)" if len(found) > 1 else ""
        raise ConfigError(found[0] + more)


def _without_empty_sections(tree: dict[str, Tree], shape: inspect.StructType) -> dict[str, Tree]:
    """Sections of which only the name is there (``limits:`` in YAML is null) are left out: they are the defaults."""
    found = {}
    for name, value in tree.items():
        field = shapes.field(shape, name) if isinstance(name, str) else None
        inner = shapes.bare(field.type) if field is not None else None
        if isinstance(inner, inspect.StructType):
            if value is None:
                continue
            if isinstance(value, dict):
                value = _without_empty_sections(value, inner)
        found[name] = value
    return found


# --- what changed -------------------------------------------------------------------------------------------------

RESTART: Final = (
    "data", "reactor", "store", "handlers", "cluster", "log.format", "log.file", "auth.scrypt_threads_max",
)  # fmt: skip
"""Settings, or beginnings of their paths, that a running node cannot take over."""


def differences(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Paths of the settings that differ: those that can change in a running node, and those that need a restart.

    Listeners are told apart by their name, ``listeners.web``, other lists are one setting. A listener whose address
    changed can be replaced while the node runs, so it is no reason for a restart.
    """
    changed: list[str] = []
    _compare(old, new, "", changed)
    restart = [each for each in changed if any(each == one or each.startswith(f"{one}.") for one in RESTART)]
    return [each for each in changed if each not in restart], restart


def _compare(old: msgspec.Struct, new: msgspec.Struct, prefix: str, changed: list[str]) -> None:
    for name in old.__struct_fields__:
        before, after, path = getattr(old, name), getattr(new, name), prefix + name
        if before == after:
            continue
        if path == "listeners":
            one, other = ({each.label: each for each in value} for value in (before, after))
            for label in dict.fromkeys([*one, *other]):
                if label not in one or label not in other:
                    changed.append(f"{path}.{label} ({'added' if label in other else 'removed'})")
                elif one[label] != other[label]:
                    _compare(one[label], other[label], f"{path}.{label}.", changed)
        elif isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            _compare(before, after, f"{path}.", changed)
        else:
            changed.append(path)


# --- secrets ------------------------------------------------------------------------------------------------------


def follow_secrets(config: Config, environ: Mapping[str, str]) -> Config:
    """``config`` with every secret's text in place of its reference. Raises ``ConfigError``."""

    def follow(secret: str | SecretRef, path: Path) -> SecretText:
        if isinstance(secret, str):
            return SecretText(secret)
        if bool(secret.file) == bool(secret.env):
            raise ConfigError(f"{dotted(path)}: exactly one of file and env is expected")
        if secret.env:
            text = environ.get(secret.env, "")
            if not text:
                raise ConfigError(f"{dotted(path)}: the variable {secret.env} is not set")
        else:
            what = f"{dotted(path)}: {secret.file}"
            text = read_text(secret.file, SECRET_BYTES_MAX, what).rstrip("\r\n")
            if not text:
                raise ConfigError(f"{what}: the file is empty")
        return SecretText(text)

    found = _with_secrets(config, (), follow)
    assert isinstance(found, Config)
    return found


def mask_secrets(config: Config) -> Config:
    """``config`` for showing: secrets that stand in it are replaced by asterisks, references stay."""

    def mask(secret: str | SecretRef, path: Path) -> str | SecretRef:
        return MASK if isinstance(secret, str) else secret

    found = _with_secrets(config, (), mask)
    assert isinstance(found, Config)
    return found


def _with_secrets(value: Any, path: Path, use: Callable[[Any, Path], object]) -> Any:  # Any: one value of the structs
    """``value`` with ``use(secret, path)`` for every secret in it."""
    if isinstance(value, tuple):
        return tuple(_with_secrets(each, (*path, index), use) for index, each in enumerate(value))
    if not isinstance(value, msgspec.Struct):
        return value
    shape = shapes.struct(type(value))
    changes = {}
    for each in shape.fields:
        old, place = getattr(value, each.name), (*path, each.encode_name)
        if shapes.is_secret(each.type):
            changes[each.name] = old if old is None else use(old, place)
        else:
            changes[each.name] = _with_secrets(old, place, use)
    return msgspec.structs.replace(value, **changes)
