"""The power cut itself: what a killed program synced stays, what it did not is gone."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay.test import power_cut

WRITER = """
import os, signal, sqlite3, sys
os.chdir(sys.argv[1])
def directory():
    fd = os.open(".", os.O_RDONLY); os.fsync(fd); os.close(fd)
"""
DIE = "\nos.kill(os.getpid(), signal.SIGKILL)\n"


class PowerCuts(SynchronousTestCase):
    """Programs in a process of their own, killed by themselves at a known place."""

    if shutil.which("cc") is None:
        skip = "no C compiler (cc)"

    def setUp(self):
        """A directory to write to and one for the log."""
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.data = self.place / "data"
        self.data.mkdir()
        self.log = self.place / "log"
        self.library = power_cut.build(self.place)

    def die(self, program: str) -> None:
        """Run ``program`` to the point at which it kills itself."""
        env = power_cut.environment(self.library, self.data, self.log)
        ran = subprocess.run(
            [sys.executable, "-c", WRITER + program + DIE, str(self.data)], env=env, capture_output=True, check=False
        )
        self.assertEqual((ran.returncode, ran.stderr), (-9, b""))

    def contents(self) -> dict[str, bytes]:
        """All files."""
        return {path.name: path.read_bytes() for path in self.data.iterdir()}

    def test_unsynced_bytes_are_lost(self):
        """Bytes, overwritten and appended, and sizes go back to the last sync."""
        self.die("""
f = os.open("a", os.O_RDWR | os.O_CREAT); os.write(f, b"synced"); os.fdatasync(f); directory()
os.pwrite(f, b"XX", 2); os.write(f, b" and more"); os.ftruncate(f, 3)
g = os.open("b", os.O_WRONLY | os.O_CREAT | os.O_APPEND); os.write(g, b"never")
with open("a", "ab") as h: h.write(b"tail")
""")
        self.assertEqual(self.contents(), {"a": b"syXtail", "b": b"never"})
        report = power_cut.cut(self.log, self.data)
        self.assertEqual(self.contents(), {"a": b"synced"})
        self.assertEqual((report.syncs, report.lost), (2, 6))

    def test_names(self):
        """Names removed and replaced without a sync of the directory come back; with one they stay."""
        self.die("""
for name in "abc":
    with open(name, "wb") as f: f.write(name.encode()); f.flush(); os.fsync(f.fileno())
directory()
os.unlink("a"); directory()
os.unlink("b"); os.rename("c", "d")
with open("new", "wb") as f: f.write(b"new"); f.flush(); os.fsync(f.fileno())
os.rename("new", "d")
""")
        self.assertEqual(self.contents(), {"d": b"new"})
        power_cut.cut(self.log, self.data)
        self.assertEqual(self.contents(), {"b": b"b", "c": b"c", "new": b"new"})

    def test_some_sectors(self):
        """What was not synced may be there in part, sector by sector, in any order; what was is there in whole."""
        seen = set()
        for seed in range(12):
            shutil.rmtree(self.data)
            self.data.mkdir()
            self.die("""
f = os.open("a", os.O_RDWR | os.O_CREAT); os.write(f, b"A" * 2048); os.fsync(f); directory()
os.pwrite(f, b"B" * 1536, 512)
""")
            power_cut.cut(self.log, self.data, random.Random(seed))
            content = self.contents()["a"]
            self.assertEqual(content[:512], b"A" * 512)
            sectors = [content[at : at + 512] for at in range(512, 2048, 512)]
            self.assertTrue(all(each in (b"A" * 512, b"B" * 512) for each in sectors))
            seen.add(tuple(each[:1] for each in sectors))
        self.assertGreater(len(seen), 3)

    def test_sqlite(self):
        """SQLite with ``synchronous=FULL`` keeps what it committed; with OFF it does not: the model has teeth."""
        kept = {}
        for level in ("FULL", "OFF"):
            shutil.rmtree(self.data)
            self.data.mkdir()
            self.die(f"""
d = sqlite3.connect("x.db", isolation_level=None)
d.execute("PRAGMA journal_mode=WAL"); d.execute("PRAGMA synchronous={level}"); d.execute("CREATE TABLE t (n)")
for n in range(20): d.execute("INSERT INTO t VALUES (?)", (n,))
d.execute("BEGIN"); d.execute("INSERT INTO t VALUES (99)")
""")
            power_cut.cut(self.log, self.data)
            try:
                connection = sqlite3.connect(self.data / "x.db")
                kept[level] = [row[0] for row in connection.execute("SELECT n FROM t")]
            except sqlite3.DatabaseError:
                kept[level] = []
            finally:
                connection.close()
        self.assertEqual(kept["FULL"], list(range(20)))
        self.assertLess(len(kept["OFF"]), 20)

    def test_what_cannot_be_followed(self):
        """A file mapped for shared writing makes the cut refuse, rather than prove nothing."""
        self.die("""
import mmap
f = os.open("a", os.O_RDWR | os.O_CREAT); os.write(f, bytes(4096)); m = mmap.mmap(f, 4096); m[:3] = b"abc"
""")
        self.assertRaises(power_cut.CannotFollow, power_cut.cut, self.log, self.data)
