"""Tests of ``relay.logs``."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogFilterPredicate, ILogObserver, Logger, LogLevel, PredicateResult
from twisted.python import log as legacy_log
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay import logs
from relay.config import Log
from relay.errors import ConfigError

MOMENT_S = 1_735_787_045.6789
MOMENT = "2025-01-02T03:04:05.678Z"


def event(**values: Any) -> dict[str, Any]:
    """An event as ``Logger`` makes them."""
    return {
        "log_time": MOMENT_S,
        "log_level": LogLevel.info,
        "log_namespace": "relay.core.sessions",
        "log_format": "",
    } | values


class LevelsTests(SynchronousTestCase):
    """Levels per name, changed while the node runs."""

    def level(self, levels: logs.Levels, name: str) -> str:
        return str(levels.level(name).name)

    def test_longest_beginning_counts(self):
        """The level of an event is that of the longest name that its own begins with, by segments."""
        levels = logs.Levels(Log(level="warn", levels={"relay": "info", "relay.core": "debug"}))
        found = {
            name: self.level(levels, name) for name in ("relay", "relay.core.sessions", "relay.corex", "twisted", "")
        }
        self.assertEqual(
            found,
            {"relay": "info", "relay.core.sessions": "debug", "relay.corex": "info", "twisted": "warn", "": "warn"},
        )

    def test_changed_live(self):
        """``set`` counts for the next event, also of names that were asked for before."""
        levels = logs.Levels(Log())
        debug = event(log_level=LogLevel.debug)
        self.assertIs(levels(debug), PredicateResult.no)
        levels.set(Log(levels={"relay.core": "debug"}))
        self.assertIs(levels(debug), PredicateResult.maybe)
        levels.set(Log())
        self.assertIs(levels(debug), PredicateResult.no)

    def test_predicate(self):
        """It can stand where twisted.logger wants a filter; an event without a level is written."""
        levels = logs.Levels(Log(level="critical"))
        verifyObject(ILogFilterPredicate, levels)
        self.assertIs(levels({"log_format": "x"}), PredicateResult.maybe)

    def test_known_names_are_bounded(self):
        """Names made up on the way do not fill the memory."""
        levels = logs.Levels(Log())
        for number in range(logs.NAMES_KNOWN_MAX + 10):
            levels.level(f"x{number}")
        self.assertLessEqual(len(levels._known), logs.NAMES_KNOWN_MAX)


class TextTests(SynchronousTestCase):
    """The text format."""

    def test_line(self):
        """Time in UTC, level, name and message are one line."""
        line = logs.text_line(event(log_format="session {session} begins", session="s1"))
        self.assertEqual(line, f"{MOMENT} info  relay.core.sessions: session s1 begins\n")

    def test_traceback_is_indented(self):
        """The lines of a traceback follow, indented, so that they are none of their own."""
        written = io.StringIO()
        logger = Logger("relay.test", observer=_writer(written))
        try:
            raise ValueError("one\ntwo")
        except ValueError:
            logger.failure("it broke")
        first, *rest = written.getvalue().splitlines()
        self.assertTrue(first.endswith("critical relay.test: it broke"), first)
        self.assertTrue(rest and all(line.startswith("    ") for line in rest), rest)
        self.assertIn("ValueError: one", written.getvalue())

    @given(st.text())
    @settings(max_examples=200, deadline=None)
    def test_nobody_forges_a_line(self, text):
        """Whatever a message holds, it is one line."""
        line = logs.text_line(event(log_format="{text}", text=text))
        self.assertEqual((len(line.splitlines()), line[-1]), (1, "\n"), line)
        line = logs.json_line(event(log_format="{text}", text=text))
        self.assertEqual((line.count("\n"), line[-1]), (1, "\n"), line)


class JsonTests(SynchronousTestCase):
    """The JSON format."""

    def test_line(self):
        """Time, level, name, message and the values given with it are one object."""
        line = logs.json_line(event(log_format="{user} came", user="ann", tries=3, quick=True, limit=None))
        self.assertEqual(
            json.loads(line),
            {
                "time": MOMENT,
                "level": "info",
                "logger": "relay.core.sessions",
                "message": "ann came",
                "fields": {"user": "ann", "tries": 3, "quick": True, "limit": None},
            },
        )

    def test_no_fields(self):
        """An event without values has no ``fields``."""
        self.assertNotIn("fields", json.loads(logs.json_line(event(log_format="started"))))

    def test_values_without_json(self):
        """What JSON has no form for is text; an object that fails at that does not lose the line."""

        class Broken:
            def __str__(self):
                raise RuntimeError("no")

        line = json.loads(
            logs.json_line(event(log_format="x", path=Path("/a"), big=2**70, broken=Broken(), half="\ud800"))
        )
        self.assertEqual(
            line["fields"],
            {
                "path": "/a",
                "big": str(2**70),
                "broken": "<Broken without text: RuntimeError>",
                "half": "\\ud800",
            },
        )

    def test_traceback(self):
        """A failure's traceback is a member of its own."""
        written = io.StringIO()
        logger = Logger("relay.test", observer=_writer(written, "json"))
        try:
            raise ValueError("broken")
        except ValueError:
            logger.failure("it {what}", what="failed")
        line = json.loads(written.getvalue())
        self.assertEqual(
            (line["message"], line["level"], line["fields"]), ("it failed", "critical", {"what": "failed"})
        )
        self.assertIn("ValueError: broken", line["traceback"])

    def test_legacy_events(self):
        """Events of Twisted's older interface are written without its internal values."""
        written: list[str] = []
        publisher = legacy_log.LogPublisher()
        publisher._publishPublisher.addObserver(lambda each: written.append(logs.json_line(each)))
        publisher.msg("an old event", system="somewhere")
        line = json.loads(written[0])
        self.assertEqual((line["message"], line.get("fields")), ("an old event", None))


class WriterTests(SynchronousTestCase):
    """Where lines go."""

    def path(self) -> Path:
        return Path(self.mktemp())

    def observer(self, log: Log, default_file: str = "") -> logs.LogWriter:
        found = logs.observer(log, logs.Levels(log), default_file)
        self.addCleanup(found.close)
        return found

    def test_observer(self):
        """The observer is one; what is below its level is not written."""
        path = self.path()
        observer = self.observer(Log(file=str(path), level="warn"))
        verifyObject(ILogObserver, observer)
        observer(event(log_format="not this"))
        observer(event(log_format="but this", log_level=LogLevel.error))
        self.assertEqual(path.read_text(), f"{MOMENT} error relay.core.sessions: but this\n")

    def test_default_file(self):
        """A default file (a daemon has no standard output) counts where the configuration names none."""
        default, named = self.path(), self.path()
        self.observer(Log(), str(default))(event(log_format="a"))
        log = Log(file=str(named))
        self.observer(log, str(default))(event(log_format="b"))
        self.assertEqual((default.read_text().count("\n"), named.read_text().count("\n")), (1, 1))

    def test_standard_output(self):
        """Without a file lines go to the standard output of the time when the observer was made."""
        written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        self.patch(sys, "stdout", written)
        observer = self.observer(Log())
        self.patch(sys, "stdout", io.StringIO())
        observer(event(log_format="räume"))
        self.assertTrue(written.buffer.getvalue().endswith(b"r\\xe4ume\n"))

    def test_format(self):
        """``log.format`` chooses the lines."""
        path = self.path()
        log = Log(file=str(path), format="json")
        self.observer(log)(event(log_format="a"))
        self.assertEqual(json.loads(path.read_text())["message"], "a")

    def test_renamed_file(self):
        """After the file was renamed (logrotate) a new one is begun, without a signal."""
        path = self.path()
        observer = self.observer(Log(file=str(path)))
        observer(event(log_format="old"))
        path.rename(f"{path}.1")
        observer(event(log_format="new"))
        self.assertIn("old", Path(f"{path}.1").read_text())
        self.assertTrue(path.read_text().endswith(": new\n"))

    def test_file_that_cannot_be_opened(self):
        """A file that cannot be opened is one clear sentence at the start."""
        path = self.path() / "there" / "log"
        error = self.assertRaises(ConfigError, logs.observer, Log(file=str(path)), logs.Levels(Log()))
        self.assertEqual(str(error), f"log.file: {path}: No such file or directory")

    def test_full_disk(self):
        """A full disk costs the lines, is said once, and said again when it was better in between."""
        if not os.path.exists("/dev/full"):
            self.skipTest("there is no /dev/full")
        complaints, path = io.StringIO(), self.path()
        path.symlink_to("/dev/full")
        writer = logs.LogWriter(logs.text_line, logs.Levels(Log()), logs.LogFile(str(path)), complaints)
        self.addCleanup(writer.close)
        writer(event(log_format="a"))
        writer(event(log_format="b"))
        self.assertEqual(writer.lost, 2)
        self.assertEqual(
            complaints.getvalue(), "relay: the log cannot be written: [Errno 28] No space left on device\n"
        )
        path.unlink()
        writer(event(log_format="c"))
        path.unlink()
        path.symlink_to("/dev/full")
        writer(event(log_format="d"))
        self.assertEqual((writer.lost, complaints.getvalue().count("\n")), (3, 2))

    def test_closed_output(self):
        """Standard output that somebody closed costs the lines and nothing else."""
        stream = io.StringIO()
        writer = _writer(stream)
        stream.close()
        writer(event(log_format="a"))
        self.assertEqual(writer.lost, 1)


def _writer(stream: io.StringIO, form: str = "text") -> logs.LogWriter:
    levels = logs.Levels(Log(level="debug"))
    return logs.LogWriter(logs.FORMATS[form], levels, logs._Stream(stream), io.StringIO())
