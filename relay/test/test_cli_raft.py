"""``relay raft`` against a cluster of real nodes, and the cluster of docs/examples as one command."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

import relay
from relay import config_load
from relay.cli import raft_run
from relay.cli.raft import raft
from relay.config_check import problems
from relay.errors import ConfigError, Denied, RelayError, Unavailable
from relay.test import handover
from relay.test.cluster_processes import ClusterProcesses
from relay.test.node_process import free_port

EXAMPLES = Path(relay.__file__).parent.parent / "docs" / "examples" / "cluster"


def run(*words: str, stdin: bytes = b"", **more: Any) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(raft, [*words], input=stdin, **more)


class InitTests(SynchronousTestCase):
    """Files of a new cluster."""

    def test_files(self) -> None:
        """They are valid, name one another, and are those of docs/examples."""
        folder = Path(self.mktemp())
        result = run("init", str(folder))
        self.assertEqual((result.exit_code, result.stdout.count("twistd -n relay --config=")), (0, 3))
        for node in (1, 2, 3):
            config = config_load.load(str(folder / f"n{node}.yaml"), {})
            self.assertEqual(problems(config), [])
            assert config.cluster is not None
            self.assertEqual(([peer.node for peer in config.cluster.peers], config.cluster.node), ([1, 2, 3], node))
            example = config_load.load(str(EXAMPLES / f"n{node}.yaml"), {})
            self.assertEqual(config, example)

    def test_not_over_others(self) -> None:
        """Files that are there stay, unless they are to be replaced."""
        folder = Path(self.mktemp())
        run("init", str(folder), "--nodes", "1")
        (folder / "n1.yaml").write_text("mine")
        result = run("init", str(folder), standalone_mode=False)
        self.assertEqual((result.return_value, (folder / "n1.yaml").read_text()), (2, "mine"))
        self.assertFalse((folder / "n2.yaml").exists())
        result = run("init", str(folder), "--force", "--json")
        self.assertEqual(json.loads(result.stdout)["files"], [str(folder / f"n{node}.yaml") for node in (1, 2, 3)])
        self.assertNotEqual((folder / "n1.yaml").read_text(), "mine")

    def test_machines(self) -> None:
        """Over several machines nodes prove themselves by a secret, which is made and only the owner reads."""
        folder = Path(self.mktemp())
        result = run("init", str(folder), "--host", "10.0.0.1", "--host", "10.0.0.2", "--host", "fd00::3")
        self.assertEqual(result.exit_code, 0, result.output)
        secret = folder / "cluster-secret"
        self.assertEqual(secret.stat().st_mode & 0o777, 0o600)
        for node in (1, 2, 3):
            config = config_load.load(str(folder / f"n{node}.yaml"), {})
            self.assertEqual(problems(config), [])
            assert config.cluster is not None
            self.assertEqual(config.cluster.secret, secret.read_text().strip())
        self.assertEqual(run("init", str(folder), "--force", "--host", "a", "--host", "b").exit_code, 2)

    def test_needs_the_secret(self) -> None:
        """Without it a node that other machines reach does not start."""
        folder = Path(self.mktemp())
        run("init", str(folder), "--host", "10.0.0.1", "--nodes", "1")
        (folder / "cluster-secret").unlink()
        self.assertRaises(ConfigError, config_load.load, str(folder / "n1.yaml"), {})


class StatusTests(SynchronousTestCase):
    """Exit statuses of writes."""

    def ended(self, error: RelayError, as_json: bool) -> tuple[int, str]:
        """Status and complaint of a write that fails with ``error``."""

        async def fail(client: Any, options: dict[str, Any]) -> int:
            raise error

        complaint = io.StringIO()
        with contextlib.redirect_stderr(complaint):
            status = asyncio.run(_guard(fail, as_json))
        return status, complaint.getvalue()

    def test_unknown(self) -> None:
        """A write whose end is unknown has a status of its own, and says so."""
        lost = Unavailable("the link broke", outcome="unknown")
        status, complaint = self.ended(lost, as_json=False)
        self.assertEqual((status, "it may have been done" in complaint), (6, True))
        status, complaint = self.ended(lost, as_json=True)
        self.assertEqual((status, json.loads(complaint)["outcome"]), (6, "unknown"))

    def test_not_done(self) -> None:
        """One that surely was not done fails as others do."""
        self.assertEqual(self.ended(Unavailable("no leader"), as_json=False)[0], 1)
        self.assertEqual(self.ended(Denied("no"), as_json=False)[0], 4)


async def _guard(command: Any, as_json: bool) -> int:
    client: Any = None  # nothing is asked of it
    return await raft_run.guarded(command)(client, {"as_json": as_json})


class ClusterTests(SynchronousTestCase):
    """Three nodes as processes, and a fourth that joins."""

    def setUp(self) -> None:
        self.processes = ClusterProcesses(3, 1)
        self.addCleanup(self.processes.close)
        for node in (1, 2, 3):
            self.processes.nodes[node].start()
        asyncio.run(self.processes.leader(1, 2, 3))

    def ask(self, *words: str, node: int = 1, status: int = 0, stdin: bytes = b"") -> str:
        """Run a command on a node (0: all); what it wrote, or what it complained of."""
        nodes = (1, 2, 3) if not node else (node,)
        urls = [word for each in nodes for word in ("--url", self.processes.url(each))]
        result = run(*words, *urls, "--timeout", "30", stdin=stdin)
        self.assertEqual(result.exit_code, status, result.output + repr(result.exception))
        return result.stderr if status else result.stdout

    def test_commands(self) -> None:
        """One cluster for what does not harm it."""
        self.check_keys()
        self.check_watch()
        self.check_handover()
        self.check_group()
        self.check_metrics()

    def check_metrics(self) -> None:
        """Each node serves what it sees of the cluster; one leads, all links stand, writes were synced."""
        every = [self.processes.nodes[node].metrics() for node in (1, 2, 3)]
        self.assertEqual([found["relay_cluster_begun"] for found in every], [1, 1, 1])
        self.assertEqual(sum(found['relay_cluster_group_leading{group="1"}'] for found in every), 1)
        links = [
            found[f'relay_cluster_link_up{{direction="{direction}",peer="{peer}"}}']
            for node, found in enumerate(every, 1)
            for peer in (1, 2, 3, 4)
            for direction in ("in", "out")
            if peer != node
        ]
        self.assertEqual((sum(links), len(links)), (12, 18))  # the fourth node does not run
        self.assertGreater(sum(found['relay_cluster_proposals_total{outcome="ok"}'] for found in every), 5)
        for found in every:
            self.assertGreater(found["relay_cluster_log_sync_seconds_count"], 0)
            self.assertGreater(found["relay_cluster_log_sync_seconds_sum"], 0)

    def check_keys(self) -> None:
        """What one node takes another has; conditions and missing keys have exit statuses; bytes stay bytes."""
        self.assertRegex(self.ask("put", "k/1", "blue"), r"^k/1 is set at revision \d+\n$")
        self.assertEqual(self.ask("get", "k/1", node=2), "blue")
        pair = json.loads(self.ask("get", "k/1", "--json", node=3))
        self.assertEqual((pair["value"], pair["version"]), ("blue", 1))
        self.assertIn("conflict", self.ask("put", "k/1", "red", "--absent", status=1))
        self.ask("put", "k/1", "red", "--revision", str(pair["revision"]), node=3)
        self.ask("put", "k/1", "green", "--equals", "red", node=2)
        self.ask("put", "k/2", "-", stdin=b"\xff\x00")
        self.assertEqual(self.ask("get", "k/", "--prefix", node=2), "k/1\tgreen\nk/2\t(2 bytes)\n")
        self.assertEqual(self.ask("get", "k/", "--prefix", "--keys", "--stale"), "k/1\nk/2\n")
        self.assertIn("not found", self.ask("get", "none", status=1))
        error = json.loads(self.ask("get", "none", "--json", status=1))
        self.assertEqual((error["error"], error["outcome"]), ("not_found", "not_done"))
        self.assertRegex(self.ask("delete", "k/", "--prefix"), r"^2 deleted")
        self.ask("delete", "k/1", status=1)
        self.assertEqual(run("put", "a", "b", "--url", "tcp://127.0.0.1:1", "--timeout", "1").exit_code, 3)

    def check_watch(self) -> None:
        """From a revision on, on another node, each change once."""
        first = int(self.ask("put", "w/1", "a").split()[-1])
        self.ask("put", "w/2", "b")
        self.ask("delete", "w/1")
        out = self.ask("watch", "w/", "--revision", str(first), "--count", "3", node=2)
        self.assertEqual([line.split("\t")[1:] for line in out.splitlines()], [
            ["put", "w/1", "a"], ["put", "w/2", "b"], ["delete", "w/1"],
        ])  # fmt: skip
        out = self.ask("watch", "w/", "--revision", str(first), "--count", "1", "--json", node=3)
        self.assertEqual(json.loads(out)["key"], "w/1")

    def check_group(self) -> None:
        """Status of all nodes; transfer; a snapshot; what only the leader does finds it among several nodes."""
        leader = asyncio.run(self.processes.leader(1, 2, 3))
        views = [json.loads(line) for line in self.ask("status", "--json", node=0).splitlines()]
        self.assertEqual([view["node"] for view in views], [1, 2, 3])
        self.assertEqual({view["leader"] for view in views}, {leader})
        out = self.ask("status", node=leader)
        self.assertIn(f"node {leader} of test: leader, node {leader} leads, term ", out)
        self.assertIn("voters 1 2 3, learners -", out)
        self.assertEqual(out.count("voter replicate, has "), 3)
        target = leader % 3 + 1
        self.assertEqual(self.ask("transfer", str(target), node=0), f"node {target} leads\n")
        self.assertRegex(self.ask("snapshot"), r"^snapshot at index \d+")
        self.assertEqual(asyncio.run(self.processes.leader(1, 2, 3)), target)
        follower = target % 3 + 1
        self.assertIn(f"node {target} leads", self.ask("member", "add", "9", node=follower, status=1))

    def test_members_and_a_killed_leader(self) -> None:
        """A fourth node joins, catches up, gets a vote; the leader is killed, nothing is lost; it comes back; the
        fourth leaves."""
        self.ask("put", "m", "before")
        self.processes.nodes[4].start()
        self.ask("member", "add", "4", node=0)
        self.until("promote")
        self.assertEqual(self.ask("get", "m", node=4), "before")
        leader = asyncio.run(self.processes.leader(1, 2, 3, 4))
        watch = self.watch_on(leader, "m", 2)
        self.processes.nodes[leader].signal(signal.SIGKILL)
        process = self.processes.nodes[leader].process
        assert process is not None
        process.wait()
        others = [node for node in (1, 2, 3) if node != leader]
        self.ask("put", "m", "after", node=others[0])
        self.assertEqual(self.ask("get", "m", node=others[1]), "after")
        # A file that names other voters than the log stops the start: it has to be told of the new one.
        self.processes.nodes[leader].config["cluster"]["peers"][3]["voter"] = True
        self.processes.nodes[leader].start()
        self.assertEqual(self.ask("get", "m", node=leader), "after")
        out, complaint = watch.communicate(timeout=60)
        self.assertEqual(([line.split("\t")[3] for line in out.splitlines()], watch.returncode), (
            ["before", "after"], 0,
        ), complaint)  # fmt: skip
        if asyncio.run(self.processes.leader(1, 2, 3, 4)) == 4:
            self.ask("transfer", "1", node=4)
            self.assertEqual(asyncio.run(self.processes.leader(1, 2, 3)), 1)
        self.assertNotIn("4", self.until("remove"))

    def watch_on(self, node: int, key: str, count: int) -> subprocess.Popen[str]:
        """A watch from the key's first revision on, as a process; it lives through the end of its node."""
        first = json.loads(self.ask("get", key, "--json", node=node))["create_revision"]
        words = [
            "raft",
            "watch",
            key,
            "--revision",
            str(first),
            "--count",
            str(count),
            "--url",
            self.processes.url(node),
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", "from relay.cli.main import main; main()", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(process.kill)
        assert process.stdout is not None
        # The first change is there before the node goes.
        self.assertTrue(select.select([process.stdout], [], [], 60)[0])
        return process

    def until(self, change: str) -> str:
        """Promote or remove node 4, as soon as that can be."""
        urls = [word for node in (1, 2, 3) for word in ("--url", self.processes.url(node))]
        for _ in range(300):
            result = run("member", change, "4", *urls, "--timeout", "30")
            if result.exit_code == 0:
                return result.stdout
        raise AssertionError(result.output)

    def check_handover(self) -> None:
        """A duty changes hands over real nodes, with growing tokens; how fast is printed."""
        figures = asyncio.run(handover.measure(self.processes, 5))
        print(figures, file=sys.__stderr__)
        self.assertTrue(figures["tokens grow"])


class ExampleTests(SynchronousTestCase):
    """docs/examples/cluster."""

    def test_start(self) -> None:
        """One command starts three nodes that elect a leader, and stops them."""
        folder = Path(self.mktemp()).resolve()
        shutil.copytree(EXAMPLES, folder)
        ports: dict[str, str] = {}
        for file in sorted(folder.glob("n*.yaml")):
            text = re.sub(
                r"\b(?:80|74)\d\d\b", lambda found: ports.setdefault(found[0], str(free_port())), file.read_text()
            )
            file.write_text(text)
        twistd = shutil.which("twistd", path=str(Path(sys.executable).parent)) or "twistd"
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(folder / "start")], cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={"TWISTD": twistd, "PATH": "/usr/bin:/bin"}, start_new_session=True,
            )  # fmt: skip
        try:
            urls = [word for port in ("8001", "8002", "8003") for word in ("--url", f"tcp://127.0.0.1:{ports[port]}")]
            for _ in range(300):
                result = run("status", *urls, "--timeout", "30")
                if result.exit_code == 0 or process.poll() is not None:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            self.assertEqual(result.exit_code, 0, result.output + (folder / "log").read_text())
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(60), 0)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
