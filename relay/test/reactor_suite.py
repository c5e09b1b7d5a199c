"""Twisted's own reactor tests, run against our reactor and beside it against Twisted's epoll reactor.

    python -m relay.test.reactor_suite [--reactor uv|epoll|both] [--limit SECONDS] [MODULE ...]

Prints for each module what passed, failed and was skipped on each reactor, and how many connections, ports and
datagram endpoints went over uvloop's native transports and how many over add_reader.  The exit status is 1 when

- a test fails on uv that does not fail on epoll (or, with ``--reactor uv``, that fails at all), or
- a module of ``NATIVE`` served a stream or its listener by add_reader.

Each test has a time limit.  A test that does not end in it has failed: its process is killed and the module goes on
in another.  A test that is not to count is named in ``EXCLUDED``, with the reason; it runs and is listed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

import relay

#: The modules that have to be as on epoll, and the one that is reported apart.
MODULES = ("tcp", "tls", "unix", "udp", "time", "core", "base", "threads", "fdset", "process")
APART = ("endpoints",)

#: Modules in which no stream and no listener may be served by add_reader.
NATIVE = ("tcp", "tls", "unix")

#: Tests that fail on uv by design, and why.
EXCLUDED = {
    "twisted.internet.test.test_unix.UNIXTestsBuilder.test_avoidLeakingFileDescriptors": (
        "it expects a line in the log about descriptors that arrive for a protocol which does not take any; here the "
        "kernel closes them and nobody learns of it (to look for them would add half to the cost of a small read)"
    ),
}

_LIMIT_S = 60.0
_STARTUP_LIMIT_S = 60.0  # until the first test begins: the imports


@attrs.define
class ModuleRun:
    """The outcomes of one module on one reactor."""

    outcomes: dict[str, str] = attrs.field(factory=dict)
    why: dict[str, str] = attrs.field(factory=dict)
    counts: Counter[str] = attrs.field(factory=Counter)

    def end(self, identity: str, outcome: str, why: str) -> None:
        """Note the end of a test."""
        excluded = outcome == "failed" and identity in EXCLUDED
        self.outcomes[identity] = "excluded" if excluded else outcome
        self.why[identity] = why

    def having(self, outcome: str) -> set[str]:
        """Return the ids of the tests with this outcome."""
        return {identity for identity, had in self.outcomes.items() if had == outcome}

    def numbers(self) -> list[int]:
        """Return how many passed, failed, were skipped, are excluded."""
        return [len(self.having(outcome)) for outcome in ("passed", "failed", "skipped", "excluded")]


def run_module(reactor: str, name: str, limit_s: float) -> ModuleRun:
    """Run the test module ``name`` against ``reactor``, in as many processes as it takes to get past the hangs."""
    run = ModuleRun()
    while not run_process(run, reactor, f"twisted.internet.test.test_{name}", limit_s):
        pass
    return run


def run_process(run: ModuleRun, reactor: str, module: str, limit_s: float) -> bool:
    """Run what is left of ``module`` in one process; return whether it came to the end of the module."""
    source = str(Path(relay.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+", errors="replace") as output:
        child = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-c", "from relay.test.reactor_child import main; main()"),
                *(reactor, module, str(writing), *run.outcomes),
            ],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": path},
            pass_fds=[writing],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        os.close(writing)
        try:
            running = follow(run, reading, limit_s)
        finally:
            os.close(reading)
            child.kill()
            child.wait()
        if running is not None:
            output.seek(0)
            said = output.read()[-2000:]
            run.end(running or module, "failed", f"did not end within {limit_s:g} s, or took its process down\n{said}")
    return not running


def follow(run: ModuleRun, reading: int, limit_s: float) -> str | None:
    """Read reports until the end; return the test that was running if there was none, "" if none had begun."""
    running = ""
    text = b""
    deadline = time.monotonic() + _STARTUP_LIMIT_S
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(reading, 65536)
        if not chunk:
            break
        *lines, text = (text + chunk).split(b"\n")
        for line in lines:
            report: dict[str, Any] = json.loads(line)
            if "done" in report:
                return None
            if "start" in report:
                running = report["start"]
                deadline = time.monotonic() + limit_s
            else:
                run.counts.update(report["counts"])
                run.end(report["end"], report["outcome"], report["why"])
                deadline = time.monotonic() + _STARTUP_LIMIT_S
    return running


_KINDS = ("connections", "ports", "datagrams")


def table(runs: dict[str, dict[str, ModuleRun]]) -> str:
    """Return the results of ``runs`` (by module, then reactor) as text."""
    reactors = list(next(iter(runs.values())))
    tests = "passed failed skipped excl."
    head = f"{'module':<10}" + "".join(f" | {name}: {tests}".ljust(len(name) + 34) for name in reactors)
    lines = [head + (" | native: conn. ports dgram | add_reader: conn. ports dgram other" if "uv" in reactors else "")]
    lines.append("-" * len(lines[0]))
    for module, by_reactor in runs.items():
        line = f"{module:<10}"
        for name in reactors:
            passed, failed, skipped, excluded = by_reactor[name].numbers()
            line += f" | {'':<{len(name)}}  {passed:>6} {failed:>6} {skipped:>7} {excluded:>5}"
        if "uv" in reactors:
            had = by_reactor["uv"].counts
            native = [had[f"native {kind}"] for kind in _KINDS]
            readers = [had[f"add_reader {kind}"] for kind in (*_KINDS, "others")]
            line += " |         {:>5} {:>5} {:>5}".format(*native)
            line += " |             {:>5} {:>5} {:>5} {:>5}".format(*readers)
        lines.append(line)
    return "\n".join(lines)


def faults(runs: dict[str, dict[str, ModuleRun]]) -> list[str]:
    """Return what makes the suite fail, one text each."""
    found = []
    for module, by_reactor in runs.items():
        uv = by_reactor.get("uv")
        if uv is None:
            continue
        epoll = by_reactor.get("epoll", ModuleRun())
        only = sorted(uv.having("failed") - epoll.having("failed"))
        found += [f"fails on uv: {identity}\n{uv.why[identity]}" for identity in only]
        if module in NATIVE:
            strays = {kind: uv.counts[f"add_reader {kind}"] for kind in ("connections", "ports")}
            found += [f"test_{module}: {n} {kind} were served by add_reader" for kind, n in strays.items() if n]
            if not uv.counts["native connections"]:
                found.append(f"test_{module}: no connection went over a native transport")
    return found


def notes(runs: dict[str, dict[str, ModuleRun]]) -> list[str]:
    """Return what a reader of the table should know: exclusions, and what fails on epoll too."""
    said = []
    for by_reactor in runs.values():
        excluded = sorted(by_reactor.get("uv", ModuleRun()).having("excluded"))
        said += [f"excluded: {identity}\n    {EXCLUDED[identity]}" for identity in excluded]
        failing = sorted(by_reactor.get("epoll", ModuleRun()).having("failed"))
        said += [f"fails on epoll too: {identity}" for identity in failing]
    return said


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.reactor_suite", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--reactor", choices=("uv", "epoll", "both"), default="both")
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="seconds that one test may take")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="tcp, tls, …; by default all")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("hamcrest") is None:
        parser.error("Twisted's tests import PyHamcrest, which is not installed")
    wanted = [name.removeprefix("test_") for name in options.modules] or [*MODULES, *APART]
    reactors = ("uv", "epoll") if options.reactor == "both" else (options.reactor,)
    runs: dict[str, dict[str, ModuleRun]] = {}
    for module in wanted:
        runs[module] = {reactor: run_module(reactor, module, options.limit) for reactor in reactors}
    apart = {module: run for module, run in runs.items() if module in APART}
    for part in ({module: run for module, run in runs.items() if module not in APART}, apart):
        if part:
            print(table(part), end="\n\n")
    print("\n".join(notes(runs)))
    found = faults(runs)
    print("\n".join(found) if found else "ok: nothing fails on uv that does not fail on epoll")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
