"""``relay wal``: what it prints, its exit statuses, and that it changes nothing."""

from __future__ import annotations

import base64
import json
import os

from click.testing import CliRunner, Result
from twisted.trial import unittest

from relay.cli import wal as cli_wal
from relay.cli.main import cli
from relay.cluster.raft.types import HardState
from relay.errors import ConfigError
from relay.store.files import OsFiles
from relay.store.wal import WriteAheadLog
from relay.store.wal_format import LogDamaged, segment_name
from relay.store.wal_writer import GroupWrite
from relay.test.wal_model import SMALL, entries


class WalCommandTests(unittest.TestCase):
    """On a small log that was closed, or is still open."""

    def setUp(self):
        self.directory = self.mktemp()
        self.log = WriteAheadLog(OsFiles(), self.directory, SMALL)
        self.log.open()
        self.log.submit([GroupWrite(7, entries(1, 3, 40), HardState(1, 9, 2))])
        self.log.run_once()
        self.path = os.path.join(self.directory, segment_name(1))

    def tearDown(self):
        self.log.close()

    def run_command(self, *arguments: str) -> Result:
        """Run ``relay wal``; nothing in the directory is another one afterwards."""
        before = self.content()
        result = CliRunner().invoke(cli, ["wal", *arguments], standalone_mode=False)
        self.assertEqual(self.content(), before)
        return result

    def content(self) -> dict[str, bytes]:
        """All files."""
        found = {}
        for name in os.listdir(self.directory):
            with open(os.path.join(self.directory, name), "rb") as file:
                found[name] = file.read()
        return found

    def damage(self, offset: int, data: bytes) -> None:
        """Overwrite a part of the first segment."""
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_check(self):
        """A sound log: how much of it there is, and each group."""
        result = self.run_command("check", self.directory)
        self.assertEqual(result.return_value, 0)
        self.assertEqual(
            result.output.splitlines(),
            [
                f"{self.directory}: sound: segments 1 to 1, 1 spare; 6 records; ends at offset "
                f"{self.log.group(7).places()[-1] - (1 << 32) + 69 + 37} of segment 1",
                "group 7: entries 1 to 3, snapshot 0, term 1, vote 9, commit 2",
            ],
        )

    def test_check_as_json(self):
        """The same for programs."""
        result = self.run_command("check", "--json", self.directory)
        found = json.loads(result.output)
        self.assertEqual((result.return_value, found["sound"], found["torn_bytes"]), (0, True, 0))
        self.assertEqual(found["kinds"], {"mark": 1, "first": 1, "entry": 3, "hard_state": 1})
        self.assertEqual(found["groups"][0]["last_index"], 3)

    def test_torn_tail(self):
        """A torn tail is said, is no fault, and is left where it is."""
        self.damage(5000, b"torn")
        result = self.run_command("check", self.directory)
        self.assertEqual(result.return_value, 0)
        self.assertIn("a torn tail of", result.output)

    def test_damage(self):
        """Exit status 1, and file, offset and reason in one line or one object."""
        self.damage(4300, b"!")
        offset = self.log.group(7).places()[2] & 0xFFFFFFFF
        result = self.run_command("check", self.directory)
        self.assertEqual(result.return_value, 1)
        self.assertTrue(result.stderr.startswith(f"{self.path}: offset {offset}: a record fails its checksum, but"))
        self.assertEqual(len(result.stderr.splitlines()), 1)
        result = self.run_command("check", "--json", self.directory)
        self.assertEqual(result.return_value, 1)
        self.assertEqual(json.loads(result.output)["damage"]["offset"], offset)

    def test_dump(self):
        """A line for each record in order."""
        result = self.run_command("dump", self.directory)
        self.assertEqual(result.return_value, 0)
        lines = result.output.splitlines()
        self.assertEqual(lines[0], "1:4096 mark group=0 index=1 term=4096")
        self.assertEqual(lines[2], f"1:4162 entry group=7 index=1 term=1 bytes=40 {'01' * 24}…")
        self.assertEqual(lines[5].split(" ", 1)[1], "hard_state group=7 index=2 term=1 vote=9")
        self.assertEqual(len(lines), 6)

    def test_dump_as_json(self):
        """One object for each record of a group, with the whole payload."""
        result = self.run_command("dump", "--json", "--group", "7", self.directory)
        records = [json.loads(line) for line in result.output.splitlines()]
        self.assertEqual([record["kind"] for record in records], ["entry"] * 3 + ["hard_state"])
        self.assertEqual(base64.b64decode(records[0]["payload"]), bytes([1]) * 40)

    def test_dump_of_a_damaged_log(self):
        """What is before the damage, then the line that says where it is."""
        self.damage(4300, b"!")
        result = self.run_command("dump", self.directory)
        self.assertEqual(result.return_value, 1)
        self.assertEqual(len(result.stdout.splitlines()), 4)
        self.assertIn("a record fails its checksum", result.stderr)

    def test_no_log(self):
        """A directory that is missing, is a file, or holds no log: the command line is wrong, status 2."""
        empty = self.mktemp()
        os.mkdir(empty)
        for command in ("check", "dump"):
            for directory in (empty, empty + "x", self.path):
                result = self.run_command(command, directory)
                self.assertIsInstance(result.exception, ConfigError)

    def test_segments_that_come_and_go(self):
        """While a node is at work a scan that does not fit is made again; only a log at rest is called damaged."""
        scans = []

        def scan(directory: str) -> None:
            scans.append(directory)
            if len(scans) == 1:
                self.log.submit([GroupWrite(7, entries(4, 1, 2000))])
                self.log.run_once()
                while self.log.counters.segments_begun == 0:
                    self.log.submit([GroupWrite(7, entries(self.log.group(7).tail + 1, 1, 2000))])
                    self.log.run_once()
            raise LogDamaged("x", 0, "seems so")

        self.patch(cli_wal, "_scan", scan)
        self.assertRaises(LogDamaged, cli_wal._report, self.directory)
        self.assertEqual(len(scans), 2)
