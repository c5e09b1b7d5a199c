"""Writing the log: observers of twisted.logger for text and JSON, and levels that change while the node runs.

    text   2025-01-02T03:04:05.678Z info  relay.core.sessions: session s1 begins
    json   {"time":"2025-…","level":"info","logger":"relay.core.sessions","message":"…","fields":{"session":"s1"}}

One event is one line. What comes from outside cannot forge another: control characters are escaped, and the lines of
a traceback, which follow a text line, are indented. ``fields`` are the values that the program gave with the event;
those that JSON has no form for are text. A traceback is ``traceback`` in JSON.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
from twisted.logger import ILogFilterPredicate, ILogObserver, LogEvent, LogLevel, PredicateResult, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.config import Log
from relay.config_types import WHOLE_MAX
from relay.errors import ConfigError

NAMES_KNOWN_MAX: Final = 10_000
"""Names whose level is remembered; there are as many as modules that log."""
FIELD_CHARACTERS_MAX: Final = 4096

LogLevelConstant = Any
"""One of twisted.logger.LogLevel; Any because their library, constantly, has no types."""

_LEGACY_KEYS: Final = ("format", "message", "time", "system", "isError", "failure", "why")
_ESCAPES: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029",
}  # fmt: skip


@implementer(ILogFilterPredicate)
class Levels:
    """Which events are written: the level of the longest name in ``levels`` that the event's name begins with.

    ``relay.core`` is the beginning of ``relay.core.sessions``, not of ``relay.corex``.
    """

    def __init__(self, log: Log) -> None:
        self._known: dict[str, LogLevelConstant] = {}
        self._levels: dict[str, LogLevelConstant] = {}
        self._level: LogLevelConstant = LogLevel.info
        self.set(log)

    def set(self, log: Log) -> None:
        """Use the levels of ``log`` from the next event on."""
        self._level = LogLevel.levelWithName(log.level)
        self._levels = {name: LogLevel.levelWithName(level) for name, level in log.levels.items()}
        self._known = {}

    def level(self, name: str) -> LogLevelConstant:
        """The least level that is written of the events called ``name``."""
        found = self._known.get(name)
        if found is None:
            beginning = name
            while beginning and beginning not in self._levels:
                beginning = beginning.rpartition(".")[0]
            found = self._levels.get(beginning, self._level)
            if len(self._known) >= NAMES_KNOWN_MAX:
                self._known.clear()
            self._known[name] = found
        return found

    def __call__(self, event: LogEvent) -> LogLevelConstant:
        """As ``ILogFilterPredicate``: no for what is below its level, else maybe."""
        level = event.get("log_level")
        if level is not None and level < self.level(event.get("log_namespace") or ""):
            return PredicateResult.no
        return PredicateResult.maybe


def text_line(event: LogEvent) -> str:
    """The event as a line of text, with the lines of its traceback; ends with a newline."""
    name, level = event.get("log_namespace") or "-", _level(event)
    lines = [f"{_time(event)} {level:<5} {name}: {formatEvent(event).translate(_ESCAPES)}"]
    traceback = _traceback(event)
    if traceback:
        lines += [f"    {line.translate(_ESCAPES)}" for line in traceback.splitlines()]
    return "\n".join(lines) + "\n"


def json_line(event: LogEvent) -> str:
    """The event as one JSON object; ends with a newline."""
    line: dict[str, Any] = {  # Any: fields are whatever JSON has a form for
        "time": _time(event),
        "level": _level(event),
        "logger": event.get("log_namespace") or "",
        "message": formatEvent(event),
    }
    hidden = _LEGACY_KEYS if event.get("log_namespace") == "log_legacy" else ()
    fields = {key: _plain(value) for key, value in event.items() if not key.startswith("log_") and key not in hidden}
    if fields:
        line["fields"] = fields
    traceback = _traceback(event)
    if traceback:
        line["traceback"] = traceback
    return msgspec.json.encode(_encodable(line)).decode() + "\n"


FORMATS: Final[dict[str, Callable[[LogEvent], str]]] = {"text": text_line, "json": json_line}


class LogFile:
    """A file that lines are appended to; it is opened anew after it was renamed or removed, as logrotate does."""

    def __init__(self, path: str) -> None:
        """Opens the file. Raises ``ConfigError``."""
        self._path = Path(path).absolute()  # twistd changes its directory later
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigError(f"log.file: {path}: {error.strerror or error}") from None

    def write(self, text: str) -> None:
        """Append. Raises ``OSError``."""
        if self._moved():
            self._file.close()
            self._file = self._open()
        # Unbuffered: what cannot be written now is not tried again behind our back.
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> io.FileIO:
        return open(self._path, "ab", buffering=0)

    def _moved(self) -> bool:
        if self._file.closed:
            return True
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        mine = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev)


class _Stream:
    """A text stream such as standard output, flushed after each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._stream.flush()


@implementer(ILogObserver)
class LogWriter:
    """Writes the events that ``levels`` lets through. ``lost``: events that could not be written.

    When writing fails (a full disk) that is said once on ``complaints``, and again after it has worked in between.
    """

    def __init__(
        self, line: Callable[[LogEvent], str], levels: Levels, out: LogFile | _Stream, complaints: TextIO
    ) -> None:
        self._line = line
        self._levels = levels
        self._out = out
        self._complaints = complaints
        self._failing = False
        self.lost = 0

    def __call__(self, event: LogEvent) -> None:
        """As ``ILogObserver``."""
        if self._levels(event) is PredicateResult.no:
            return
        try:
            self._out.write(self._line(event))
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self.lost += 1
            if not self._failing:
                with suppress(OSError, ValueError):
                    self._complaints.write(f"relay: the log cannot be written: {error}\n")
                    self._complaints.flush()
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if isinstance(self._out, LogFile):
            self._out.close()


def observer(log: Log, levels: Levels, default_file: str = "") -> LogWriter:
    """The observer for ``log``; without ``log.file`` it writes to ``default_file``, else to standard output.

    Standard output and error are taken as they are now: twistd redirects them into the log later. Raises
    ``ConfigError`` for a file that cannot be opened.
    """
    path = log.file or default_file
    out: LogFile | _Stream = LogFile(path) if path else _Stream(sys.stdout)
    return LogWriter(FORMATS[log.format], levels, out, sys.stderr)


def _time(event: LogEvent) -> str:
    """The event's time in UTC (ISO 8601), to the millisecond."""
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return str(failure.getTraceback()) if isinstance(failure, Failure) else ""


def _plain(value: object) -> object:
    """``value`` where JSON has a form for it, else its text."""
    if value is None or isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) <= WHOLE_MAX):
        return value
    try:
        return str(value)[:FIELD_CHARACTERS_MAX]
    except Exception as error:  # noqa: BLE001 - the object's own __str__; a line must not be lost for it
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def _encodable(value: Any) -> Any:  # Any: the tree of one line
    """``value`` with lone surrogates escaped: JSON is UTF-8, which has none."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    return value
