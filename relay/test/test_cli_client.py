"""The commands that talk to a node, as processes against a node over real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial import unittest

from relay import errors
from relay.cli import client
from relay.cli.client_status import page_of, samples
from relay.cli.exits import exit_status
from relay.client import tx
from relay.client.link import CannotConnect
from relay.config_queues import PushRule
from relay.errors import ConfigError
from relay.test.client_node import ClientNode

PROGRAM = "import sys; from relay.cli import client; getattr(client, sys.argv[1]).main(sys.argv[2:], sys.argv[1])"


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Command(ProcessProtocol):
    """One run of a command."""

    program = PROGRAM

    def __init__(self, *words: str, stdin: bytes = b"") -> None:
        self.out = b""
        self.err = b""
        self.ended: Deferred[int] = Deferred()
        self._stdin = stdin
        self._wanted: list[tuple[bytes, Deferred[None]]] = []
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RELAY_")}
        arguments = [sys.executable, "-c", self.program, *words]
        self.process: Any = IReactorProcess(reactor).spawnProcess(self, sys.executable, arguments, environment)

    def said(self, text: bytes) -> Deferred[None]:
        """Fires when the command has written ``text`` to either output."""
        deferred: Deferred[None] = Deferred()
        self._wanted.append((text, deferred))
        self._look()
        return deferred

    def _look(self) -> None:
        for wanted in self._wanted[:]:
            if wanted[0] in self.out or wanted[0] in self.err:
                self._wanted.remove(wanted)
                wanted[1].callback(None)

    # --- ProcessProtocol ------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """It runs."""
        self.transport.write(self._stdin)  # type: ignore[union-attr]  # it is there now
        self.transport.closeStdin()  # type: ignore[union-attr]  # as above

    def outReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Its standard output."""
        self.out += data
        self._look()

    def errReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Its standard error."""
        self.err += data
        self._look()

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        """It is over."""
        value: Any = reason.value  # Any: ProcessDone or ProcessTerminated
        for _, deferred in self._wanted:
            deferred.errback(AssertionError(f"ended with {value.exitCode}: {self.out!r} {self.err!r}"))
        self.ended.callback(value.exitCode if value.signal is None else -value.signal)


class CommandTests(unittest.TestCase):
    """What people and scripts see."""

    timeout = 60

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        """A node."""
        folder = tempfile.mkdtemp(prefix="relay")
        self.addCleanup(shutil.rmtree, folder)
        self.node = ClientNode(reactor, folder, pushes=(PushRule(pattern="news", inbox="away"),))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.node.stop()))
        return Deferred.fromCoroutine(self.node.start())

    def command(self, *words: str, user: str = "", stdin: bytes = b"") -> Command:
        """Start a command on the node."""
        url = self.node.url("ws" if words[0] == "status" else "tcp")
        more = ["--user", user] if user else []
        command = Command(words[0], "--url", url, *more, *words[1:], stdin=stdin)

        async def stop() -> None:
            if not command.ended.called:
                command.process.signalProcess("KILL")
                await command.ended

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return command

    async def output(self, *words: str, user: str = "", stdin: bytes = b"", status: int = 0) -> str:
        """Run a command to its end; what it wrote to its standard output, or (when it fails) error."""
        command = self.command(*words, user=user, stdin=stdin)
        found = await command.ended
        self.assertEqual(found, status, command.err.decode())
        return (command.err if status else command.out).decode()

    async def test_history(self) -> None:
        """What is kept can be read, and comes first when one subscribes; a key publishes once."""
        for number in range(5):
            out = await self.output("pub", "lobby", str(number), "--json", user="ann")
        epoch = json.loads(out)["epoch"]
        again = [await self.output("pub", "lobby", "5", "--json", "--once", "k") for _ in range(2)]
        self.assertEqual([json.loads(each)["offset"] for each in again], [6, 6])
        lines = (await self.output("history", "lobby", "--last", "3")).splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["4", "5", "6"])
        self.assertIn("<ann>  4", lines[1])
        lines = (await self.output("history", "lobby", "--after", "1", "--limit", "2", "--json")).splitlines()
        self.assertEqual([json.loads(line)["value"] for line in lines], ["1", "2"])
        out = await self.output("sub", "lobby", "--last", "2", "--count", "2", "--json")
        self.assertEqual([json.loads(line)["offset"] for line in out.splitlines()], [5, 6])
        out = await self.output("sub", "lobby", "--since", f"4:{epoch}", "--count", "2", "--json")
        self.assertEqual([json.loads(line)["offset"] for line in out.splitlines()], [5, 6])
        self.assertIn("OFFSET:EPOCH", await self.output("sub", "lobby", "--since", "x", status=2))
        self.assertIn("exactly one", await self.output("sub", "a", "b", "--since", "1:e", status=2))
        self.assertIn("stands alone", await self.output("history", "lobby", "--last", "1", "--after", "1", status=2))
        self.assertIn("keeps no history", await self.output("history", "other", status=1))

    async def test_pub_and_sub(self) -> None:
        """sub prints what pub publishes, as lines for people or as JSON, and ends after --count."""
        people = self.command("sub", "room.*", "--count", "3", user="bob")
        machine = self.command("sub", "room.*", "--count", "3", "--json")
        await people.said(b"listening as bob")
        while sum(bool(each.subscriptions) for each in self.node.hub.sessions.values()) < 2:
            await self.node.turn()
        out = await self.output("pub", "room.1", "hello", "--meta", "a=b", user="ann")
        self.assertEqual(out, "published to room.1, 2 sessions reached\n")
        out = await self.output("pub", "room.2", '{"a": 1}', "--codec", "json", "--json")
        self.assertEqual(json.loads(out), {"channel": "room.2", "reached": 2})
        await self.output("pub", "room.3", "-", stdin=b"\xff\xfe")
        self.assertEqual((await people.ended, await machine.ended), (0, 0))
        lines = people.out.decode().splitlines()
        self.assertEqual(lines[0], "room.1  <ann>  hello")
        self.assertRegex(lines[1], r'^room\.2  <.{1,8}>  {"a": 1}$')
        self.assertTrue(lines[2].endswith("(2 bytes)"))
        events = [json.loads(line) for line in machine.out.splitlines()]
        self.assertEqual([(each["name"], each["codec"]) for each in events],
                         [("room.1", "text"), ("room.2", "json"), ("room.3", "raw")])  # fmt: skip
        self.assertEqual([each["value"] for each in events], ["hello", {"a": 1}, {"base64": "//4="}])
        self.assertEqual((events[0]["user"], events[0]["metadata"]), ("ann", {"a": "b"}))

    async def test_pub_of_lines(self) -> None:
        """--lines publishes each line of the standard input."""
        sub = self.command("sub", "c", "--count", "3")
        await sub.said(b"listening")
        out = await self.output("pub", "c", "--lines", stdin=b"one\ntwo\nthree")
        self.assertEqual(out.count("1 session reached"), 3)
        await sub.ended
        self.assertEqual([line.split()[-1] for line in sub.out.decode().splitlines()], ["one", "two", "three"])

    async def test_serve_and_call(self) -> None:
        """A shell command answers: body in, output out, its failure is the caller's error; call prints the answer."""
        serve = self.command("serve", "upper", "tr a-z A-Z; test -z \"$RELAY_FROM_METADATA\" || true", user="bob")
        exact = self.command("serve", "fail", "--", "sh", "-c", "echo $RELAY_FROM_USER is wrong >&2; exit 3")
        await serve.said(b"answering upper")
        await exact.said(b"answering fail")
        self.assertEqual(await self.output("call", "upper", "hello", "--stream"), "HELLO\n")
        out = await self.output("call", "upper", "-", "--json", stdin=b"abc")
        self.assertEqual(json.loads(out), {"value": "ABC", "codec": "text", "metadata": {}})
        err = await self.output("call", "fail", "x", "--json", user="ann", status=1)
        self.assertEqual(
            json.loads(err),
            {"error": "application", "code": 1000, "message": "ann is wrong", "temporary": False, "outcome": "unknown"},
        )
        serve.process.signalProcess("TERM")
        self.assertEqual(await serve.ended, 0)
        self.assertIn("upper  <", serve.out.decode())

    async def test_a_command_is_stopped_when_nobody_waits(self) -> None:
        """The caller's deadline ends the command, and with it what it started."""
        mark = f"{self.node.folder}/mark"
        serve = self.command("serve", "slow", f"echo $$ > {mark}; sleep 600")
        await serve.said(b"answering")
        err = await self.output("call", "slow", "--timeout", "2", status=5)
        # The client's own deadline, or the node's, whichever is told first.
        self.assertRegex(err, "^relay: deadline: (the provider had )?no answer in time\n$")
        pid = int(Path(mark).read_text())  # noqa: ASYNC240 - a test may wait for a file of two bytes
        while is_running(pid):
            await self.node.turn()
        serve.process.signalProcess("INT")
        self.assertEqual(await serve.ended, 0)

    async def test_push(self) -> None:
        """push says how many were reached, and fails when nobody was."""
        sub = self.command("sub", "--pushes", "note.*", "--count", "1", user="bob")
        await sub.said(b"listening as bob")
        out = await self.output("push", "note.x", "hi", "--to", "bob", user="ann")
        self.assertEqual(out, "1 of 1 session reached\n")
        await sub.ended
        self.assertEqual(sub.out.decode(), "note.x  <ann>  hi\n")
        err = await self.output("push", "note.x", "hi", "--to", "nobody", status=1)
        self.assertIn("relay: ", err)
        out = await self.output("push", "news", "hi", "--to", "bob", user="ann")
        self.assertEqual(out, "stored in the inbox of bob as 1\n")

    async def test_presence(self) -> None:
        """Who is in a channel, with what they tell of themselves; how many; whether a user is here."""
        sub = self.command("sub", "room.1", user="bob")
        await sub.said(b"listening as bob")
        out = await self.output("presence", "room.1", user="ann")
        self.assertRegex(out, r"^bob  since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S+  \S+\n$")
        (member,) = [json.loads(line) for line in (await self.output("presence", "room.1", "--json")).splitlines()]
        self.assertEqual(member["user"], "bob")
        self.assertEqual(await self.output("presence", "room.1", "--count"), "1\n")
        self.assertEqual(await self.output("presence", "--of", "bob"), "here, 1 session\n")
        self.assertEqual(await self.output("presence", "--of", "eve"), "never seen\n")
        found = json.loads(await self.output("presence", "--of", "eve", "--json"))
        self.assertEqual(found, {"user": "eve", "online": False, "sessions": 0, "last_seen": 0})
        await self.output("presence", "room.1", "--of", "bob", status=2)
        await self.output("presence", status=2)

    async def test_presence_events(self) -> None:
        """sub --presence shows who comes and goes."""
        sub = self.command("sub", "room.*", "--presence", "--count", "4")
        await sub.said(b"listening")
        other = self.command("sub", "room.1", "--count", "1", user="bob")
        await other.said(b"listening")
        await self.output("pub", "room.1", "x", user="bob")
        self.assertEqual(await sub.ended, 0)
        self.assertEqual([line.split()[-1] for line in sub.out.decode().splitlines()][:2], ["occupied", "joined"])

    async def test_exit_statuses(self) -> None:
        """2 usage, 3 cannot connect, 4 refused, 5 timed out, 1 else: each with one clear line."""
        for words, user, status, text in (
            (("pub", "c", "x", "--url", "http://nowhere"), "", 2, "expected tcp://"),
            (("sub", "closed"), "limited", 4, "relay: denied: subscribe to closed"),
            (("pub", "c", "x", "--token", "bad"), "tokened", 4, "the token is not good"),
            (("call", "nobody.there"), "", 1, "relay: no provider: nobody provides nobody.there"),
            (("sub", "c", "--count", "1", "--for", "0.1"), "", 5, "0 of 1 messages"),
        ):
            err = await self.output(*words, user=user, status=status)
            self.assertIn(text, err)
            self.assertNotIn("Traceback", err)
        command = Command("pub", "c", "x", "--url", "tcp://127.0.0.1:1")
        self.assertEqual(await command.ended, 3)
        self.assertEqual(
            command.err.decode().splitlines(),
            ["relay: unavailable: cannot connect to tcp://127.0.0.1:1: Connection refused"],
        )

    async def test_sub_through_a_broken_connection(self) -> None:
        """A reconnect is said on the standard error, and nothing is missed."""
        sub = self.command("sub", "c", "--count", "2", user="bob")
        await sub.said(b"listening")
        self.node.break_connections("bob")
        await self.output("pub", "c", "one")
        await sub.said(b"connected again, nothing was missed")
        await self.output("pub", "c", "two")
        self.assertEqual(await sub.ended, 0)
        self.assertEqual([line.split()[-1] for line in sub.out.decode().splitlines()], ["one", "two"])

    async def test_a_reader_that_goes_away(self) -> None:
        """`relay sub | head -1`: the end of the reader is the end of the command, and no failure."""
        sub = self.command("sub", "c")
        await sub.said(b"listening")
        sub.process.closeStdout()
        await self.output("pub", "c", "one")
        self.assertEqual(await sub.ended, 0, sub.err)
        self.assertNotIn(b"Traceback", sub.err)

    async def test_status(self) -> None:
        """status reads health and metrics; what cannot be reached is said."""
        session = await tx.connect(reactor, self.node.url("tcp"))
        out = await self.output("status")
        self.assertRegex(out, r"^http://127\.0\.0\.1:\d+ is ready\n")
        self.assertRegex(out, r"sessions +1\n")
        facts = json.loads(await self.output("status", "--json"))
        self.assertEqual((facts["healthy"], facts["ready"], facts["metrics"]["relay_sessions"]), (True, True, 1.0))
        await session.close()
        command = Command("status", "--url", "http://127.0.0.1:1")
        self.assertEqual(await command.ended, 3)
        self.assertEqual(
            command.err.decode(), "relay: unavailable: cannot reach http://127.0.0.1:1/healthz: Connection refused\n"
        )

    async def test_ctrl_c(self) -> None:
        """Interrupted, a listener ends with 0, a question with 130, and neither with a traceback."""
        for words, status in ((("sub", "c"), 0), (("call", "wait", "--to", "bob"), 130)):
            bob = await tx.connect(reactor, self.node.url("tcp"), user="bob")
            asked: Deferred[None] = Deferred()
            bob.on_pull("wait", partial(note, asked))
            command = self.command(*words)
            await (command.said(b"listening") if words[0] == "sub" else asked)
            command.process.signalProcess(signal.SIGINT)
            self.assertEqual(await command.ended, status)
            self.assertNotIn(b"Traceback", command.err)
            await bob.close()


def note(asked: Deferred[None], pull: object) -> Deferred[None]:
    """A handler that never answers."""
    asked.callback(None)
    return Deferred()


class UsageTests(unittest.TestCase):
    """What is said without a node."""

    def test_wrong_usage_ends_with_2(self) -> None:
        """Missing patterns, targets and names, and options that mean nothing."""
        for name, words, text in (
            ("sub", [], "PATTERN"), ("push", ["note"], "--to"), ("push", ["note", "--to", "a", "--all"], "one of"),
            ("pub", [], "CHANNEL"), ("serve", ["p"], "COMMAND"), ("call", ["p", "--timeout", "0"], "timeout"),
            ("call", ["p", "--timeout", "nan"], "finite"), ("sub", ["c", "--for", "inf"], "finite"),
            ("serve", ["p", "x", "--policy", "best"], "policy"),
        ):  # fmt: skip
            result = CliRunner().invoke(getattr(client, name), words)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(text, result.output)

    def test_metadata_must_be_pairs(self) -> None:
        """--meta KEY=VALUE."""
        result = CliRunner().invoke(client.pub, ["c", "x", "--meta", "nothing"])
        self.assertEqual(result.exit_code, 2)
        self.assertIn("relay: configuration: --meta nothing: KEY=VALUE expected", result.output)

    def test_every_error_has_its_status(self) -> None:
        """Exit statuses by the class of the error."""
        for error, status in (
            (errors.Denied(), 4), (errors.Expired(), 4), (errors.Refused(), 4), (errors.Unauthenticated(), 4),
            (errors.DeadlineExceeded(), 5), (errors.ConfigError(), 2), (CannotConnect(), 3), (errors.Full(), 1),
            (errors.ApplicationError(), 1),
        ):  # fmt: skip
            self.assertEqual(exit_status(error), status)


class StatusTests(unittest.TestCase):
    """Parts of status."""

    def test_where_the_page_is(self) -> None:
        """The page's address follows from the URL that the other commands use."""
        for url, page in {
            "http://h:81/x": "http://h:81", "https://h": "https://h", "ws://h:82/ws": "http://h:82",
            "tcp://h:8000": "http://h:8080", "tls://[::1]:1": "https://[::1]:8080",
        }.items():  # fmt: skip
            self.assertEqual(page_of(url), page)
        self.assertRaises(ConfigError, page_of, "unix:/x")

    def test_samples(self) -> None:
        """Metrics are summed over their labels; comments and nonsense are left out."""
        text = '# HELP a b\na{x="1"} 2\na{x="2"} 3.5\nb 1e3\nc nonsense\n'
        self.assertEqual(samples(text), {"a": 5.5, "b": 1000.0})
