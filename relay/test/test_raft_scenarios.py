"""The scenario files of the project hold, and the interpreter would say so if they did not."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay.test.raft_datadriven import ScenarioError, parse_command, parse_scenario
from relay.test.raft_scenarios import first_difference, main, run_file, without_log_lines

DATA = Path(__file__).parent / "data" / "raft"

GOOD = """\
log-level info
----
ok

add-nodes 1 voters=(1) index=2
----
INFO 1 switched to configuration voters=(1)
INFO 1 became follower at term 0
INFO newRaft 1 [peers: [1], term: 0, commit: 2, applied: 2, lastindex: 2, lastterm: 1]

campaign 1
----
INFO 1 is starting a new election at term 0
INFO 1 became candidate at term 1
"""


class ScenarioFileTests(SynchronousTestCase):
    """The files under data/raft."""

    def _check(self, prefix: str, at_least: int) -> None:
        files = sorted(path for path in DATA.glob("*.txt") if path.name.startswith(prefix))
        self.assertGreaterEqual(len(files), at_least)
        failures = []
        for path in files:
            passed, total, lines = run_file(path, "strict")
            failures += [f"{path.name}: {line}" for line in lines]
            self.assertEqual(passed + len(lines), total)
        self.assertEqual(failures, [])

    def test_all_files_hold_to_the_byte(self) -> None:
        """Every scenario holds at the strict level."""
        self._check("", 35)

    def test_log_lines_are_not_needed_at_protocol_level(self) -> None:
        """What holds to the byte also holds without the log lines."""
        for path in sorted(DATA.glob("*.txt")):
            _passed, _total, lines = run_file(path, "protocol")
            self.assertEqual(lines, [], path.name)


class CommandTests(SynchronousTestCase):
    """``python -m relay.test.raft_scenarios``."""

    def run_main(self, text: str, *options: str) -> tuple[int, str]:
        """The exit status and the output for a file with that text."""
        path = Path(self.mktemp())
        path.write_text(text)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = main([*options, str(path)])
        return status, output.getvalue().replace(str(path), "FILE")

    def test_a_file_that_holds(self) -> None:
        """One line with the numbers, exit status 0."""
        self.assertEqual(self.run_main(GOOD, "--level", "strict"), (0, "FILE 3/3\n"))

    def test_a_difference_is_shown_and_fails(self) -> None:
        """The first line that differs is named, and the status is 1."""
        status, output = self.run_main(GOOD.replace("candidate at term 1", "candidate at term 2"), "--level", "strict")
        self.assertEqual(status, 1)
        self.assertIn("FILE 2/3\n", output)
        self.assertIn("line 11, campaign: output line 2: expected 'INFO 1 became candidate at term 2'", output)

    def test_log_lines_are_ignored_by_default(self) -> None:
        """At protocol level a different log line, or none at all, is no difference; another kind of line is."""
        changed = GOOD.replace("INFO 1 became candidate at term 1\n", "")
        self.assertEqual(self.run_main(changed)[0], 0)
        self.assertEqual(self.run_main(changed, "--level", "strict")[0], 1)
        self.assertEqual(self.run_main(GOOD.replace("INFO 1 became candidate at term 1", "something"))[0], 1)

    def test_a_file_that_is_not_of_the_format(self) -> None:
        """It is told, and fails."""
        status, output = self.run_main("campaign 1\n")
        self.assertEqual(status, 1)
        self.assertIn("FILE: line 1: no ---- after the command", output)

    def test_a_lost_invariant_is_an_output(self) -> None:
        """A node that gives up is shown as such, and the file goes on."""
        text = "add-nodes 1 voters=(1) index=2\n----\nok\n\ncompact 1 9\n----\nok\n"
        status, output = self.run_main("log-level none\n----\nok\n\n" + text)
        self.assertEqual(status, 1)
        self.assertIn("FILE 2/3", output)
        self.assertIn("panic: compact 9 is out of bound lastindex(2)", output)

    def test_a_node_that_is_not_there(self) -> None:
        """A command to it fails alone."""
        status, output = self.run_main("campaign 7\n----\nok\n")
        self.assertEqual(status, 1)
        self.assertIn("error: no node 7", output)


class FormatTests(SynchronousTestCase):
    """The format of the files."""

    def test_arguments(self) -> None:
        """Flags, single values, lists with and without spaces, and the empty list."""
        command, arguments = parse_command("do 1 a=b c=(1, 2,3) d=()")
        self.assertEqual(command, "do")
        self.assertEqual(
            [(argument.key, argument.values) for argument in arguments],
            [("1", []), ("a", ["b"]), ("c", ["1", "2", "3"]), ("d", [])],
        )

    def test_comments_input_and_continuation(self) -> None:
        """Comments and blank lines are skipped between directives; a backslash joins lines; input ends at the rule."""
        text = "# one\n\nfirst a \\\n  b\nx y\nz\n----\nout\n\n# two\nsecond\n----\n\n"
        first, second = parse_scenario(text)
        self.assertEqual((first.line, first.command, [one.key for one in first.arguments]), (3, "first", ["a", "b"]))
        self.assertEqual((first.input, first.expected), ("x y\nz", "out\n"))
        self.assertEqual((second.command, second.expected), ("second", ""))

    def test_output_with_blank_lines(self) -> None:
        """Between two double rules an output may have blank lines."""
        (only,) = parse_scenario("do\n----\n----\na\n\nb\n----\n----\n")
        self.assertEqual(only.expected, "a\n\nb\n")
        self.assertRaises(ScenarioError, list, parse_scenario("do\n----\n----\na\n\nb\n----\n"))

    def test_log_lines(self) -> None:
        """Lines of the four levels go, at any depth of indentation; nothing left stands as ok."""
        self.assertEqual(without_log_lines("> 1 x\n  INFO a\n  b\nWARN c\nDEBUG d\nERROR e\n"), "> 1 x\n  b\n")
        self.assertEqual(without_log_lines("INFO a\n"), "ok\n")

    def test_first_difference(self) -> None:
        """Also where one text is the beginning of the other."""
        self.assertIn("line 2", first_difference("a\nb\n", "a\nc\n"))
        self.assertIn("line 2", first_difference("a\n", "a\nb\n"))
