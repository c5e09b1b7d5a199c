"""``relay store``: what it prints and changes, on sound and damaged files."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import TestCase

from relay.cli.main import cli
from relay.config_store import Store
from relay.errors import ConfigError
from relay.records import DEAD, Append, Put, Range, Retention, Settle
from relay.store.sqlite import SqliteStore
from relay.store.sqlite_repair import NUMBERS_SKIPPED

PAGE_BYTES = 4096
CHANNELS = 20
EACH = 60


class StoreCommandTests(TestCase):
    """On a small store."""

    def setUp(self) -> None:
        self.directory = self.mktemp()
        self.path = os.path.join(self.directory, "relay.db")
        store = self.opened()
        for n in range(CHANNELS):
            batch = [Append("r", f"c{n}", b"%d %d " % (n, m) * 20, 1000 + m, Retention()) for m in range(EACH)]
            store.history.append(batch, lambda _: None)
        store.queues.put([Put("r", "q", b"m%d" % n, 1000) for n in range(3)], lambda _: None)
        store.run_once()
        store.queues.settle([Settle("r", "q", 2, DEAD, 5, reason="too often")], None)
        store.run_once()
        store.stop()

    def opened(self) -> SqliteStore:
        """The store, as a node opens it."""
        store = SqliteStore(self.path, Store(), lambda: 5000, os.urandom, on_fatal=self.fail)
        store.open()
        self.addCleanup(store.stop)
        return store

    def run_command(self, *arguments: str) -> Result:
        """Run ``relay store``."""
        return CliRunner().invoke(cli, ["store", *arguments], standalone_mode=False)

    def execute(self, sql: str) -> None:
        """Change the file behind relay's back."""
        with sqlite3.connect(self.path) as connection:
            connection.execute(sql)
        connection.close()

    def pages_of(self, store: SqliteStore, channel: str) -> Any:
        """What a channel has."""
        pages: list[Any] = []
        store.history.read(Range("r", channel, limit=1000), pages.append)
        store.run_once()
        return pages[0]

    def test_check(self) -> None:
        """A sound store: what it holds; nothing is changed."""
        before = Path(self.path).read_bytes()
        for where in (self.path, self.directory):
            result = self.run_command("check", where)
            self.assertEqual((result.exception, result.return_value), (None, 0))
            self.assertIn("sound: version 2; 1 realms; 1200 publications in 20 channels; 2 messages", result.output)
        self.assertEqual(Path(self.path).read_bytes(), before)
        report = json.loads(self.run_command("check", "--json", self.path).output)
        self.assertEqual((report["sound"], report["publications"], report["problems"]), (True, 1200, []))

    def test_check_while_running(self) -> None:
        """Also while a node has it open, with what is still in the log."""
        store = self.opened()
        store.history.append([Append("r", "new", b"x", 1, Retention())], lambda _: None)
        store.run_once()
        result = self.run_command("check", self.path)
        self.assertIn("1201 publications in 21 channels", result.output)
        for command in ("repair", "compact"):
            error = self.run_command(command, self.path).exception
            self.assertIsInstance(error, ConfigError)
            self.assertRegex(str(error), "in use by another process: stop the node first$")

    def test_not_there(self) -> None:
        """No file, no store, no database."""
        other = self.mktemp()
        sqlite3.connect(other).execute("CREATE TABLE t (x)").connection.close()
        for command in ("check", "dump", "repair", "compact"):
            self.assertRegex(str(self.run_command(command, "nowhere").exception), "^nowhere: no store is here$")
            self.assertRegex(str(self.run_command(command, other).exception), "is not a relay store$")
        garbage = self.mktemp()
        Path(garbage).write_bytes(b"garbage" * 1000)
        result = self.run_command("check", garbage)
        self.assertEqual((result.return_value, result.output), (1, f"{garbage}: file is not a database\n"))
        self.assertRegex(str(self.run_command("repair", garbage).exception), "nothing can be read from it")

    def test_wrong_counts(self) -> None:
        """Counts that are wrong are told, and counted again in place."""
        self.execute("UPDATE channels SET kept = 7 WHERE channel = (SELECT min(channel) FROM channels)")
        self.execute("UPDATE queues SET waiting = 7, last = 1")
        self.execute("UPDATE counters SET value = 1")
        result = self.run_command("check", self.path)
        self.assertEqual(result.return_value, 1)
        for problem in (
            "channel 2 counts other publications than it has",
            "queue 22 counts other messages than it has",
            "number 22 was given and may be given again",
        ):
            self.assertIn(f"{self.path}: {problem}\n", result.output)
        result = self.run_command("repair", self.path)
        self.assertIn("counted again", result.output)
        self.assertEqual(self.run_command("check", self.path).return_value, 0)
        self.assertEqual(self.run_command("repair", self.path).output, f"{self.path}: sound, nothing to repair\n")
        store = self.opened()
        puts = [Put("r", "q", b"", 1)]
        store.queues.put(puts, lambda _: None)
        store.run_once()
        self.assertEqual(puts[0].number, 4)

    def test_damaged(self) -> None:
        """From a damaged file everything is saved that stands on other pages; every channel has another epoch."""
        store = self.opened()
        sound = {f"c{n}": self.pages_of(store, f"c{n}") for n in range(CHANNELS)}
        store.stop()
        data = bytearray(Path(self.path).read_bytes())
        place = data.index(b"7 30 7 30 7 30") // PAGE_BYTES * PAGE_BYTES
        data[place : place + 200] = b"\xa5" * 200
        Path(self.path).write_bytes(data)
        self.assertRaises(ConfigError, self.opened)
        self.assertEqual(self.run_command("check", self.path).return_value, 1)
        result = self.run_command("repair", self.path)
        self.assertEqual((result.exception, result.return_value), (None, 0))
        self.assertIn(f"the damaged file is {self.path}.damaged\n", result.output)
        self.assertIn("not all could be read of publications\n", result.output)
        self.assertEqual(Path(f"{self.path}.damaged").read_bytes(), data)
        self.assertEqual(self.run_command("check", self.path).return_value, 0)
        store = self.opened()
        lost = 0
        for name, before in sound.items():
            page = self.pages_of(store, name)
            self.assertNotIn(page.epoch, ("", before.epoch))
            self.assertEqual(page.last, before.last)
            self.assertEqual([each for each in before.publications if each in page.publications], [*page.publications])
            lost += len(before.publications) - len(page.publications)
        self.assertTrue(0 < lost < 60, lost)
        puts = [Put("r", "q", b"", 1)]
        store.queues.put(puts, lambda _: None)
        store.run_once()
        self.assertEqual(puts[0].number, 4 + NUMBERS_SKIPPED)

    def test_damaged_anywhere(self) -> None:
        """Whichever page is damaged, a repaired store is sound, or nothing could be read."""
        sound = Path(self.path).read_bytes()
        for page in range(1, len(sound) // PAGE_BYTES, 7):
            data = bytearray(sound)
            data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = b"\x5a" * PAGE_BYTES
            Path(self.path).write_bytes(data)
            result = self.run_command("repair", self.path)
            self.assertEqual((result.exception, result.return_value), (None, 0), page)
            self.assertEqual(self.run_command("check", self.path).return_value, 0, page)
            self.opened().stop()

    def test_dump(self) -> None:
        """Publications and messages, an object a line, all or those of one name."""
        lines = [json.loads(line) for line in self.run_command("dump", self.path).output.splitlines()]
        self.assertEqual(len(lines), CHANNELS * EACH + 3)
        (line,) = (each for each in lines if each.get("channel") == "c3" and each["offset"] == 5)
        self.assertEqual(base64.b64decode(line["frame"]), b"3 4 " * 20)
        lines = [json.loads(line) for line in self.run_command("dump", "--queue=q", self.path).output.splitlines()]
        self.assertEqual([(each["number"], each["dead"], each["reason"]) for each in lines], [
            (1, False, ""), (3, False, ""), (2, True, "too often"),
        ])  # fmt: skip
        result = self.run_command("dump", "--channel=c4", "--realm=r", self.path)
        self.assertEqual(len(result.output.splitlines()), EACH)
        self.assertEqual(self.run_command("dump", "--realm=other", self.path).output, "")

    def test_compact(self) -> None:
        """A compacted file has no free pages, and everything that it had."""
        store = self.opened()
        for n in range(CHANNELS - 1):
            store.history.purge("r", f"c{n}", lambda _: None)
        store.tick()
        store.run_once()
        before = self.pages_of(store, f"c{CHANNELS - 1}")
        store.stop()
        size = os.path.getsize(self.path)
        result = self.run_command("compact", self.path)
        self.assertEqual(result.output, f"{self.path}: {size} bytes, now {os.path.getsize(self.path)}\n")
        self.assertTrue(os.path.getsize(self.path) < size / 2)
        self.assertEqual(self.run_command("check", self.path).return_value, 0)
        self.assertEqual(self.pages_of(self.opened(), f"c{CHANNELS - 1}"), before)
