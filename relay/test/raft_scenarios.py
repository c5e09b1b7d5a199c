"""``python -m relay.test.raft_scenarios [--level protocol|strict] FILE...``: do the scenario files hold?

Three kinds of files are told apart by their first command:

============  ====================================  ===========================================
kind          commands                              judges
============  ====================================  ===========================================
quorum        committed, vote                       majorities and joint majorities
confchange    simple, enter-joint, leave-joint      changes of configurations
interaction   everything else                       whole nodes, see ``raft_interaction``
============  ====================================  ===========================================

A line per file, ``FILE passed/total``; below it the first difference of each directive that does not hold. The exit
status is 1 when any does not. ``strict`` compares every byte, ``protocol`` ignores the nodes' log lines on both sides.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

from relay.cluster.raft.confchange import Changer, Configuration, parse_conf_changes
from relay.cluster.raft.errors import BadConfChange, RaftInvariantError
from relay.cluster.raft.quorum import (
    VOTE_NAMES,
    committed_index,
    describe_acknowledged,
    describe_index,
    describe_joint_acknowledged,
    joint_committed_index,
    joint_vote_result,
    vote_result,
)
from relay.cluster.raft.tracker import describe_progress
from relay.test import raft_interaction
from relay.test.raft_bench import Bench
from relay.test.raft_datadriven import Argument, Directive, ScenarioError, parse_scenario

LEVELS = ("protocol", "strict")
_LOG_LINE = re.compile(r"\s*(DEBUG|INFO|WARN|ERROR) ")

Runner = Callable[[Directive], str]


def quorum_runner() -> Runner:
    """Runs ``committed`` and ``vote``; each directive stands alone."""
    return _run_quorum


def confchange_runner() -> Runner:
    """Runs ``simple``, ``enter-joint`` and ``leave-joint`` on one configuration; each moves the log on by an entry."""
    changer = Changer(Configuration(), {}, last_index=0, inflight_max=10, inflight_bytes_max=0)

    def _run(directive: Directive) -> str:
        try:
            changes = parse_conf_changes(directive.input)
            if directive.command == "simple":
                result = changer.simple(changes)
            elif directive.command == "enter-joint":
                flags = [argument.values for argument in directive.arguments if argument.key == "autoleave"]
                result = changer.enter_joint(flags == [["true"]], changes)
            elif directive.command != "leave-joint":
                return "unknown command"
            elif changes:
                return "this command takes no input"
            else:
                result = changer.leave_joint()
        except BadConfChange as error:
            return str(error)
        finally:
            changer.last_index += 1
        changer.adopt(result)
        return f"{changer.configuration}\n{describe_progress(changer.progress)}"

    return _run


def _run_quorum(directive: Directive) -> str:
    given = {argument.key: argument for argument in directive.arguments}
    joint = "cfgj" in given
    incoming = _ids(given.get("cfg"))
    outgoing = _ids(given.get("cfgj"))
    names = dict.fromkeys(incoming + outgoing)
    values = [value for key in ("idx", "votes") if key in given for value in given[key].values]
    if len(values) != len(names):
        return f"error: mismatched input (explicit or _) for voters {sorted(names)}: {values}"
    known = {node: value for node, value in zip(names, values, strict=True) if value != "_"}
    if directive.command == "vote":
        votes = {node: value == "y" for node, value in known.items()}
        result = joint_vote_result(incoming, outgoing, votes) if joint else vote_result(incoming, votes)
        text = VOTE_NAMES[result] + "\n"
        # A half more that decides everything, and the halves exchanged, make no difference.
        if joint_vote_result(outgoing, incoming, votes) != result:
            text += "<-- via symmetry\n"
        return text
    indexes = {node: int(value) for node, value in known.items()}
    if joint:
        table = describe_joint_acknowledged(incoming, outgoing, indexes.get)
        index = joint_committed_index(incoming, outgoing, indexes.get)
    else:
        table = describe_acknowledged(incoming, indexes.get)
        index = committed_index(incoming, indexes.get)
    if joint_committed_index(outgoing, incoming, indexes.get) != index:
        table += "<-- via symmetry\n"
    return f"{table}{describe_index(index)}\n"


def _ids(argument: Argument | None) -> list[int]:
    return [] if argument is None or argument.values == ["zero"] else [int(value) for value in argument.values]


_RUNNERS: dict[str, Callable[[], Runner]] = {
    "committed": quorum_runner,
    "vote": quorum_runner,
    "simple": confchange_runner,
    "enter-joint": confchange_runner,
    "leave-joint": confchange_runner,
}


def interaction_runner() -> Runner:
    """Runs everything else, on a bench that begins empty."""
    bench = Bench()
    return lambda directive: raft_interaction.run(bench, directive)


def without_log_lines(text: str) -> str:
    """The text without the nodes' log lines; if nothing else was there, what stands for nothing."""
    return "".join(line for line in text.splitlines(keepends=True) if not _LOG_LINE.match(line)) or "ok\n"


def first_difference(expected: str, actual: str) -> str:
    """The first line in which two texts differ."""
    pairs = zip_longest(expected.split("\n"), actual.split("\n"))
    for number, (wanted, got) in enumerate(pairs, 1):
        if wanted != got:
            return f"output line {number}: expected {wanted!r}, got {got!r}"
    return "no difference"


def run_file(path: Path, level: str) -> tuple[int, int, list[str]]:
    """How many directives of a file hold, how many there are, and a line for each that does not hold."""
    passed, failures = 0, []
    directives = list(parse_scenario(path.read_text(encoding="utf-8")))
    if not directives:
        raise ScenarioError(f"{path}: no directive")
    run = _RUNNERS.get(directives[0].command, interaction_runner)()
    for directive in directives:
        try:
            actual = run(directive)
        except RaftInvariantError as error:
            actual = f"panic: {error}"
        except (ScenarioError, ValueError, IndexError) as error:
            actual = f"error: {error}"
        if not actual.endswith("\n"):
            actual += "\n"
        expected = directive.expected
        if level == "protocol":
            expected, actual = without_log_lines(expected), without_log_lines(actual)
        if expected == actual:
            passed += 1
        else:
            failures.append(f"line {directive.line}, {directive.command}: {first_difference(expected, actual)}")
    return passed, len(directives), failures


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.raft_scenarios", description="run raft scenario files")
    parser.add_argument("--level", choices=LEVELS, default="protocol", help="what is compared (default: protocol)")
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    status = 0
    for path in options.files:
        try:
            passed, total, failures = run_file(path, options.level)
        except (OSError, ScenarioError, ValueError) as error:
            print(f"{path}: {error}")
            status = 1
            continue
        print(f"{path} {passed}/{total}")
        for failure in failures:
            print(f"  {failure}")
        if failures:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
