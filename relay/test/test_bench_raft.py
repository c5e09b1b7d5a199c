"""``relay bench raft``: three nodes that only replicate, three of relay, and etcd's where it is installed."""

from __future__ import annotations

import json
import shutil
from unittest.mock import patch

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from relay.bench import raft
from relay.cli.bench import bench


class RaftBenchTests(SynchronousTestCase):
    """The command."""

    def test_runs(self):
        """Writes are acknowledged by each cluster; what is not installed is named as missing."""
        words = ["raft", "--window=20", "--seconds=0.5", "--warmup=0.1", "--rounds=1", "--json"]
        found = shutil.which
        with patch.object(shutil, "which", lambda name, **more: None if "etcd" in name else found(name, **more)):
            result = CliRunner().invoke(bench, words, catch_exceptions=False)
        self.assertEqual(result.exit_code, 0, result.output)
        figures = json.loads(result.stdout)
        rows = {row["server"]: row for row in figures["rows"]}
        self.assertEqual((sorted(rows), list(figures["missing"])), (["relay", "relay (log)"], ["etcd"]))
        for row in rows.values():
            self.assertEqual((row["outstanding"], row["errors"]), (20, 0), row)
            self.assertGreater(row["rate"], 0)
            self.assertGreater(row["cpu_us"], 0)
        lines = raft.table(figures)
        self.assertIn("etcd: missing: not installed: etcd, etcdctl", lines[-1])
        self.assertEqual(len(lines), 4)

    def test_medians(self):
        """Of several rounds the medians count, and the spread of the rates is kept."""
        cell = {"p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": 3.0, "generator_cpu_us": None, "errors": 0, "first_error": ""}
        found = raft._median([{**cell, "rate": rate} for rate in (5.0, 1.0, 3.0)])
        self.assertEqual((found["rate"], found["rate_min"], found["rate_max"]), (3.0, 1.0, 5.0))
        self.assertIsNone(found["generator_cpu_us"])
