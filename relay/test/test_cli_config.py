"""Tests of the command ``relay``: its frame, and ``relay config``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import yaml
from click.testing import CliRunner, Result

import relay
from relay import config_load
from relay.cli import main
from relay.cli.config import config
from relay.cli.config_docs import page, sections, unit
from relay.config import Config
from relay.core.passwords import parse
from relay.errors import ConfigError, DeadlineExceeded, Denied, RelayError
from relay.test.config_fixture import ConfigCase

DOCS = Path(relay.__file__).parents[1] / "docs"


class CommandCase(ConfigCase):
    """Runs commands in this process."""

    def run_command(self, *arguments: str, input: str | None = None, **environ: str) -> Result:
        """The command's result, in an environment of only these variables."""
        known = {name: None for name in os.environ if name.startswith("RELAY_")}
        return CliRunner(env={**known, **environ}).invoke(config, arguments, input=input, standalone_mode=False)


class ConfigCommandTests(CommandCase):
    """``relay config``."""

    def test_check(self):
        """A valid file is said to be, with status 0."""
        path = self.file("data: x")
        result = self.run_command("check", path)
        self.assertEqual((result.stdout, result.return_value), (f"{path}: valid\n", 0))

    def test_check_tells_everything(self):
        """All problems are listed on standard error, with status 2."""
        path = self.file("listeners: []\nreactor: epol\n")
        result = self.run_command("check", path)
        self.assertEqual(
            result.stderr.splitlines(),
            [
                f"{path}: listeners: at least one is expected",
                f"{path}: reactor: there is no reactor 'epol'; did you mean epoll?",
            ],
        )
        self.assertEqual((result.stdout, result.return_value), ("", 2))

    def test_check_json(self):
        """With --json the result is an object, also of a file that cannot be read."""
        path = self.file("limits: 3")
        result = self.run_command("check", "--json", path)
        self.assertEqual(
            json.loads(result.stdout),
            {"valid": False, "problems": [f"{path}:1: limits: expected a section of settings, got 3"]},
        )
        self.assertEqual(result.return_value, 2)
        self.assertEqual(json.loads(self.run_command("check", "--json", self.file("")).stdout)["valid"], True)

    def test_check_takes_the_environment(self):
        """Variables of the environment count, as they do for the node."""
        result = self.run_command("check", self.file(""), RELAY_REACTOR="epol")
        self.assertIn("there is no reactor 'epol'", result.stderr)

    def test_show(self):
        """What is shown is the effective configuration: it can be loaded again and is the same."""
        text = "limits: {channels_max: 5}\nauth: {static: [{name: änn, password_scrypt: {env: KEY}}]}\n"
        path = self.file(text)
        for option, name in (("--json", "a.json"), (None, "a.yaml")):
            shown = self.run_command("show", *filter(None, [option]), path, RELAY_TIMING__DRAIN_S="3").stdout
            environ = {"RELAY_TIMING__DRAIN_S": "3"}
            self.assertEqual(config_load.read(self.file(shown, name), {}), config_load.read(path, environ))
            self.assertIn("änn", shown)

    def test_show_defaults(self):
        """Without a file the defaults are shown, with every section."""
        self.assertEqual(msgspec.convert(yaml.safe_load(self.run_command("show").stdout), Config), Config())

    def test_show_masks_secrets(self):
        """Secrets do not appear; where they come from does."""
        path = self.file(
            "auth: {jwt: [{algorithms: [HS256], secret: hunter2}, {algorithms: [HS256], secret: {file: /a/b}}]}"
        )
        shown = self.run_command("show", path).stdout
        self.assertNotIn("hunter2", shown)
        found = yaml.safe_load(shown)["auth"]["jwt"]
        self.assertEqual([each["secret"] for each in found], [config_load.MASK, {"file": "/a/b"}])

    def test_show_mistakes(self):
        """A mistake is raised as what the frame turns into one line."""
        self.assertIsInstance(self.run_command("show", self.file("limts: 3")).exception, ConfigError)

    def test_schema(self):
        """The schema is JSON that knows the settings."""
        schema = json.loads(self.run_command("schema").stdout)
        self.assertIn("2020-12", schema["$schema"])
        self.assertIn("frame_bytes_max", schema["$defs"]["Limits"]["properties"])

    def test_password(self):
        """The hash is one that the node takes, of the password that was given."""
        for options, text in (([], "hunter2\nhunter2\n"), (["--stdin"], "hunter2\r\n")):
            result = self.run_command("password", *options, input=text)
            line = result.stdout.splitlines()[-1]
            self.assertNotIn("hunter2", line)
            found = parse(line)
            self.assertEqual((found.verify("hunter2"), found.verify("hunter3")), (True, False))

    def test_bad_password(self):
        """An empty password is refused."""
        self.assertIsInstance(self.run_command("password", "--stdin", input="\n").exception, ConfigError)


class DocumentationTests(CommandCase):
    """The generated page."""

    def test_page_is_current(self):
        """``docs/configuration.md`` is what ``relay config docs`` prints."""
        path = DOCS / "configuration.md"
        if not path.exists():
            self.skipTest("the documentation is not installed")
        self.assertEqual(self.run_command("docs").stdout, path.read_text("utf-8"), "run: relay config docs > docs/…")

    def test_page_is_complete(self):
        """Every setting has its line, and every link to a section its title."""
        text = page()
        for _, shape in sections().values():
            for field in shape.fields:
                self.assertIn(f"\n| `{field.encode_name}` | ", text)
        titles = {line[3:].lower() for line in text.splitlines() if line.startswith("## ")}
        anchors = {"".join(each for each in title if each.isalnum() or each in "_-") for title in titles}
        links = {part.partition(")")[0] for part in text.split("](#")[1:]}
        self.assertEqual(links - anchors, set())
        self.assertGreater(len(links), 10)

    def test_units(self):
        """The unit of a number is told by its name."""
        self.assertEqual(
            [unit(name) for name in ("drain_s", "deadline_s_max", "slow_operation_ms", "queue_bytes_max",
                                     "frames_per_s_max", "connections_per_address_max", "backlog")],
            ["seconds", "seconds", "milliseconds", "bytes", "frames a second", "", ""],
        )  # fmt: skip


class FrameTests(CommandCase):
    """``relay`` itself."""

    def outcome(self, raised: BaseException | None, returned: object = None) -> tuple[int, str]:
        """The exit status and what is on standard error when a command ends so."""
        self.patch(main, "COMMANDS", {})
        runner = CliRunner()

        @click.command("made-up")
        def command():
            if raised is not None:
                raise raised
            return returned

        self.patch(main.cli, "commands", {"made-up": command})
        with runner.isolation() as outputs:
            status = main.run(["made-up"])
            return status, outputs[1].getvalue().decode()

    def test_statuses(self):
        """A failure is one line on standard error, and its kind is the exit status; Ctrl-C ends the line it is on."""
        for error, status, line in (
            (ConfigError("a: b"), 2, "relay: a: b\n"),
            (Denied("no\nway"), 4, "relay: no way\n"),
            (DeadlineExceeded(), 5, "relay: deadline\n"),
            (RelayError("broken"), 1, "relay: broken\n"),
            (FileNotFoundError(2, "No such file", "/a"), 1, "relay: /a: No such file\n"),
            (KeyboardInterrupt(), 130, "\n"),
        ):
            self.assertEqual(self.outcome(error), (status, line))

    def test_returned_status(self):
        """A command may return its status; None is 0."""
        self.assertEqual([self.outcome(None, value)[0] for value in (None, 0, 7)], [0, 0, 7])

    def test_unknown_command(self):
        """A command that there is not is wrong use."""
        with CliRunner().isolation() as outputs:
            self.assertEqual(main.run(["confg"]), 2)
            self.assertIn("No such command 'confg'", outputs[1].getvalue().decode())

    def test_help_imports_no_command(self):
        """Listing and completing the commands imports none of them, nor Twisted, msgspec or YAML."""
        script = (
            "import sys\nfrom relay.cli import main\nmain.run(['--help'])\n"
            "main.cli.shell_complete(main.click.Context(main.cli), 'co')\n"
            "print(sorted({'twisted', 'msgspec', 'yaml', 'relay.cli.config'} & set(sys.modules)))"
        )
        printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        self.assertEqual(printed.splitlines()[-1], "[]")
        for name in ("config", "completion"):
            self.assertIn(f"  {name}", printed)

    def test_every_command_is_there(self):
        """Each command of the table is one, and says what it is for."""
        context = click.Context(main.cli)
        for name in main.cli.list_commands(context):
            command = main.cli.get_command(context, name)
            assert command is not None
            self.assertEqual((command.name, bool(command.help)), (name, True))

    def test_completion(self):
        """The scripts for completion name the variable that makes the command complete."""
        for shell in ("bash", "zsh", "fish"):
            with CliRunner().isolation() as outputs:
                self.assertEqual(main.run(["completion", shell]), 0)
                self.assertIn(f"{main.COMPLETION_VARIABLE}={shell}_complete", outputs[0].getvalue().decode())

    def test_completes(self):
        """Commands are completed with their help."""
        found = main.cli.shell_complete(click.Context(main.cli), "co")
        self.assertEqual(
            [(each.value, each.help) for each in found],
            [
                ("config", "Check and show configurations."),
                ("completion", "Print a script that completes this command."),
            ],
        )
