"""All tests in several processes: ``python -m relay.test.parallel --jobs=2 --totals=FILE --temp-directory=DIR``.

The modules are dealt to more chunks than there are processes, the large ones first; each chunk is a trial of its own
(``relay.test.report``), whose output is printed when it is done. Trial's own ``--jobs`` is not used: there one result
that does not fit into a message of its protocol ends the worker, and every test after that is an error.

A chunk that ends without totals (it crashed, or hung and was ended) is one failure. What was skipped is listed last.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import attrs

from relay.test.report import SKIPPED

CHUNKS_PER_JOB = 4


@attrs.frozen
class Outcome:
    """What one chunk did."""

    passed: int
    failed: int
    skipped: int
    output: str
    seconds: float


def test_modules() -> list[str]:
    """The names of all test modules, the largest first."""
    paths = sorted(Path(__file__).parent.glob("test_*.py"), key=lambda path: (-path.stat().st_size, path.name))
    return [f"relay.test.{path.stem}" for path in paths]


def chunks(modules: Sequence[str], count: int) -> list[list[str]]:
    """``modules`` dealt like cards to at most ``count``."""
    return [list(modules[first::count]) for first in range(min(count, len(modules)))]


def run(names: Sequence[str], directory: Path) -> Outcome:
    """Run the tests called ``names`` in a process of their own, in ``directory``."""
    directory.mkdir(parents=True)
    totals = directory / "totals"
    command = [sys.executable, "-m", "relay.test.report", "--reporter=text", f"--totals={totals}"]
    begin = time.monotonic()
    process = subprocess.run(
        [*command, f"--temp-directory={directory / 'trial'}", *names],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    output = process.stdout.decode("utf-8", "replace")
    seconds = time.monotonic() - begin
    try:
        passed, failed, skipped = map(int, totals.read_text("ascii").split())
    except (OSError, ValueError):
        output += f"\nended with status {process.returncode} and without totals: {' '.join(names)}\n"
        return Outcome(0, 1, 0, output, seconds)
    return Outcome(passed, failed or int(process.returncode != 0), skipped, output, seconds)


def main() -> int:
    """Run everything; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.parallel")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--totals", type=Path, required=True)
    parser.add_argument("--temp-directory", type=Path, required=True)
    options = parser.parse_args()
    dealt = chunks(test_modules(), max(1, options.jobs) * CHUNKS_PER_JOB)
    done: list[Outcome] = []
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        running = [pool.submit(run, names, options.temp_directory / str(n)) for n, names in enumerate(dealt)]
        for future in as_completed(running):
            outcome = future.result()
            done.append(outcome)
            lines = [line for line in outcome.output.splitlines() if not line.startswith(SKIPPED)]
            print("\n".join(lines), f"\n-- {len(done)} of {len(dealt)} parts, {outcome.seconds:.0f} s", flush=True)
    for outcome in done:
        for line in outcome.output.splitlines():
            if line.startswith(SKIPPED):
                print(line)
    passed, failed, skipped = (sum(getattr(each, name) for each in done) for name in ("passed", "failed", "skipped"))
    options.totals.write_text(f"{passed} {failed} {skipped}\n", encoding="ascii")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
