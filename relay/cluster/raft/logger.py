"""What the core says about itself: a level and a line, both free when nobody listens.

The levels are numbers, so the test for them is one comparison; a line is formatted only behind it. There is no line on
the path of a message that goes well.
"""

from __future__ import annotations

from typing import Final, Protocol

from relay.cluster.raft.errors import RaftInvariantError

DEBUG: Final = 0
INFO: Final = 1
WARNING: Final = 2
ERROR: Final = 3
FATAL: Final = 4
SILENT: Final = 5
LEVEL_NAMES: Final = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")


class Logger(Protocol):
    """Takes the lines of one node."""

    level: int
    """Lines below it are not even formatted."""

    def write(self, level: int, line: str) -> None:
        """One line, without its end."""


class SilentLogger:
    """Listens to nothing."""

    level: int = SILENT

    def write(self, level: int, line: str) -> None:
        """Nothing: no line is at or above the level."""


def say(logger: Logger, level: int, form: str, *values: object) -> None:
    """Write ``form % values`` if the logger listens at ``level``."""
    if logger.level <= level:
        logger.write(level, form % values)


def fail(logger: Logger, form: str, *values: object) -> RaftInvariantError:
    """Write at FATAL and return the error to raise: an invariant is lost."""
    line = form % values
    if logger.level <= FATAL:
        logger.write(FATAL, line)
    return RaftInvariantError(line)
