"""The format of scenario files: commands with the output they must have.

::

    # a comment
    command key=value key=(a,b) flag
    optional lines of input
    ----
    the expected output, up to a blank line

An output that itself has blank lines stands between two lines ``----`` above it and two below it. A command may go on
in the next line after a backslash. ``key=(a, b)`` has two values, ``flag`` none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SEPARATOR = "----"
_ARGUMENT = re.compile(r"([^\s=]+)(?:=(\([^)]*\)|[^\s]*))?")


class ScenarioError(Exception):
    """The file, or a command in it, is not of the format; the sentence names the line."""


@dataclass
class Argument:
    """One argument of a command."""

    key: str
    values: list[str] = field(default_factory=list)


@dataclass
class Directive:
    """One command with its input and the output it must have."""

    line: int
    command: str
    arguments: list[Argument]
    input: str
    expected: str


def parse_command(line: str) -> tuple[str, list[Argument]]:
    """The command and the arguments of one line."""
    parts = [(match[1], match[2]) for match in _ARGUMENT.finditer(line)]
    if not parts:
        raise ScenarioError("an empty command")
    arguments = []
    for key, value in parts[1:]:
        if value is None:
            arguments.append(Argument(key))
        elif value.startswith("("):
            arguments.append(Argument(key, [one for one in re.split(r"[,\s]+", value[1:-1]) if one]))
        else:
            arguments.append(Argument(key, [value]))
    return parts[0][0], arguments


def parse_scenario(text: str) -> Iterator[Directive]:
    """The directives of a file; :class:`ScenarioError` for one that does not end."""
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        start = position
        line = lines[position].strip()
        position += 1
        if not line or line.startswith("#"):
            continue
        while line.endswith("\\") and position < len(lines):
            line = line[:-1] + " " + lines[position].strip()
            position += 1
        given = []
        while position < len(lines) and lines[position] != SEPARATOR:
            given.append(lines[position])
            position += 1
        if position >= len(lines):
            raise ScenarioError(f"line {start + 1}: no {SEPARATOR} after the command")
        expected, position = _expected(lines, position + 1, start)
        command, arguments = parse_command(line)
        yield Directive(start + 1, command, arguments, "\n".join(given), expected)


def _expected(lines: list[str], position: int, start: int) -> tuple[str, int]:
    """The expected output that begins at ``position``, and where the next directive may begin."""
    output: list[str] = []
    if position < len(lines) and lines[position] == SEPARATOR:
        position += 1
        while position + 1 < len(lines):
            if lines[position] == SEPARATOR and lines[position + 1] == SEPARATOR:
                return "".join(line + "\n" for line in output), position + 2
            output.append(lines[position])
            position += 1
        raise ScenarioError(f"line {start + 1}: the output does not end with {SEPARATOR} twice")
    while position < len(lines) and lines[position].strip():
        output.append(lines[position])
        position += 1
    return "".join(line + "\n" for line in output), position
