"""Files of the configuration: YAML, JSON and TOML into a tree of dicts, lists and scalars; names given twice refused.

The format is told by the extension. For YAML the line of a setting can be looked up, so that mistakes can name it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from relay.config_shape import Path
from relay.errors import ConfigError

FILE_BYTES_MAX: Final = 4 * 1024 * 1024

Tree = Any
"""What a file holds. Any: it is not yet known to be right."""
Line = Callable[[Path], int | None]
"""Gives the line of what is at a path; None where that is not known."""


def read_file(path: str) -> tuple[Tree, Line]:
    """What the file holds (nothing: an empty dict), and where. Raises ``ConfigError``."""
    parse = _PARSERS.get(FilePath(path).suffix.lower())
    if parse is None:
        raise ConfigError(f"{path}: a name that ends in {', '.join(_PARSERS)} is expected")
    text = read_text(path, FILE_BYTES_MAX, path)
    try:
        tree, line = parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}{error}") from None
    except (ValueError, OverflowError) as error:  # a date or number that Python has no value for
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    return ({} if tree is None else tree), line


def read_text(path: str, bytes_max: int, what: str) -> str:
    """The text of a file of at most ``bytes_max`` bytes. Raises ``ConfigError`` that begins with ``what``."""
    try:
        with open(path, "rb") as file:
            data = file.read(bytes_max + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ConfigError(f"{what}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > bytes_max:
        raise ConfigError(f"{what}: more than {bytes_max} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what}: not UTF-8 (byte {error.start})") from None


def parse_yaml(text: str) -> Tree:
    """The tree of a YAML text. Raises ``yaml.YAMLError`` or ``ValueError``."""
    return yaml.load(text, _Loader)  # a subclass of SafeLoader


def parse_json(text: str) -> Tree:
    """The tree of a JSON text. Raises ``json.JSONDecodeError``, or ``ConfigError`` for a name given twice."""

    def unique(pairs: list[tuple[str, Tree]]) -> dict[str, Tree]:
        found: dict[str, Tree] = {}
        for name, value in pairs:
            if name in found:
                raise ConfigError(f": {name} is there twice")
            found[name] = value
        return found

    return json.loads(text, object_pairs_hook=unique)


class _Loader(yaml.SafeLoader):
    """YAML in which a name cannot be given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # Any: as PyYAML has it
        """Compose, then look for names given twice."""
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"{key.value} is there twice, first in line {seen[key.value]}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.value] = key.start_mark.line + 1
        return node


def _yaml(text: str) -> tuple[Tree, Line]:
    try:
        tree = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        said = [each for each in (error.context, error.problem) if each]
        raise ConfigError(f"{line}: {', '.join(said) or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f": {' '.join(str(error).split())}") from None
    return tree, lambda path: _yaml_line(yaml.compose(text, _Loader), path)


def _yaml_line(node: yaml.Node | None, path: Path) -> int | None:
    """The line of what is at ``path``, or of the innermost thing around it."""
    line = None
    for step in path:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if getattr(pair[0], "value", None) == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = (node.value[step], node.value[step])
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _no_line(path: Path) -> int | None:
    return None


def _json(text: str) -> tuple[Tree, Line]:
    try:
        tree = parse_json(text) if text.strip() else None
    except json.JSONDecodeError as error:
        raise ConfigError(f":{error.lineno}: {error.msg}") from None
    return tree, _no_line


def _toml(text: str) -> tuple[Tree, Line]:
    try:
        return tomllib.loads(text), _no_line
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f": {error}") from None


_PARSERS: Final = {".yaml": _yaml, ".yml": _yaml, ".json": _json, ".toml": _toml}
