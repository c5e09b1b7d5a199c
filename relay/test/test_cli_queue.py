"""``relay queue``, as processes against a node over real sockets."""

from __future__ import annotations

import json
import shutil
import tempfile
from typing import Any

from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relay.cli.main import cli
from relay.test.client_node import ClientNode
from relay.test.test_cli_client import Command


class QueueCommand(Command):
    """One run of ``relay queue``."""

    program = "import sys; from relay.cli.main import run; sys.exit(run(['queue', *sys.argv[1:]]))"


class Queues(TestCase):
    """Each command once, the way a person uses it."""

    timeout = 90

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        """A node."""
        folder = tempfile.mkdtemp(prefix="relay")
        self.addCleanup(shutil.rmtree, folder)
        self.node = ClientNode(reactor, folder)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.node.stop()))
        return Deferred.fromCoroutine(self.node.start())

    def command(self, *words: str, user: str = "", stdin: bytes = b"") -> QueueCommand:
        """Start a command on the node."""
        more = ["--user", user] if user else []
        command = QueueCommand(words[0], "--url", self.node.url("tcp"), *more, *words[1:], stdin=stdin)

        async def stop() -> None:
            if not command.ended.called:
                command.process.signalProcess("KILL")
                await command.ended

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return command

    async def output(self, *words: str, status: int = 0, **more: Any) -> str:
        """Run a command to its end; what it wrote to its standard output, or (when it fails) error."""
        command = self.command(*words, **more)
        self.assertEqual(await command.ended, status, command.err.decode())
        return (command.err if status else command.out).decode()

    async def test_put_look_take(self) -> None:
        """Messages are put, shown, paused, taken; an inbox is one's own."""
        self.assertEqual(await self.output("put", "jobs", "one", "--name", "job", user="ann"), "stored in jobs as 1\n")
        out = await self.output("put", "jobs", "--lines", "--priority", "0", "--json", stdin=b"two\n3")
        self.assertEqual([json.loads(line)["offset"] for line in out.splitlines()], [2, 3])
        for _ in range(2):
            await self.output("put", "news", "hi", "--to", "bob", "--once", "k", "--meta", "a=b", user="ann")
        out = await self.output("peek", "jobs", "--limit", "2")
        self.assertEqual(
            out.splitlines(), ["1  job  <ann>  one", "2  jobs  <>  two  [priority 0]", "there are more: --after 2"]
        )
        self.assertIn("waiting    3\n", await self.output("info", "jobs"))
        self.assertEqual(json.loads(await self.output("pause", "jobs", "--json")), {"paused": True})
        await self.output("resume", "jobs")
        took = await self.output("consume", "jobs", "--count", "3", "--credits", "1")
        self.assertEqual(sorted(line.split()[-1] for line in took.splitlines()), ["3", "one", "two"])
        inbox = json.loads(await self.output("consume", "$inbox", "--count", "1", "--json", user="bob"))
        self.assertEqual((inbox["value"], inbox["name"], inbox["metadata"]), ("hi", "news", {"a": "b"}))
        self.assertIn("waiting    0\n", await self.output("info", "$inbox", user="bob"))

    async def test_commands_and_dead_messages(self) -> None:
        """A shell command's status settles; what died is listed, requeued, removed."""
        for value in ("good", "bad"):
            await self.output("put", "quick.work", value)
        work = self.command("consume", "quick.work", "--", "grep", "-q", "good")
        await work.said(b"2 (2 deliveries)  quick.work")
        while "dead       1" not in await self.output("info", "quick.work"):
            pass
        work.process.signalProcess("INT")
        self.assertEqual(await work.ended, 0)
        self.assertIn("  bad  [deliveries 2; status 1, delivery 2]", await self.output("dead", "quick.work"))
        refused = await self.output("requeue", "quick.work", status=2)
        self.assertIn("Error: either --offset or --all is needed", refused)
        self.assertIn("not in the range", await self.output("put", "quick.work", "1", "--in", "inf", status=2))
        self.assertEqual(await self.output("requeue", "quick.work", "--offset", "2"), "requeued   1\n")
        await self.output("requeue", "quick.work", "--offset", "2", status=1)
        self.assertEqual(await self.output("remove", "quick.work", "--all"), "removed    0\n")
        self.assertEqual(await self.output("purge", "quick.work"), "removed    1\n")
        await self.output("info", "quick.work", user="limited", status=4)

    def test_help(self) -> None:
        """All commands have a line of help."""
        shown = CliRunner().invoke(cli, ["queue", "--help"])
        self.assertEqual(shown.exit_code, 0)
        for name in ("put", "consume", "info", "peek", "dead", "pause", "resume", "purge", "requeue", "remove"):
            self.assertRegex(shown.output, rf"\n  {name} +\S")
