"""Running a load generator: the compiled one where Go is, else the one in Python; and what they report.

Both print lines of JSON: marks (``open``, ``begin``, ``end``), progress, and the result last; see ``bench/load``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

import relay
from relay.bench.server import cores, cpu_s, pin, resident_bytes
from relay.errors import RelayError

CHECKOUT: Final = Path(relay.__file__).parent.parent
SOURCE: Final = CHECKOUT / "bench" / "load"
BINARY: Final = CHECKOUT / "bench" / ".build" / "load"
COMPILED: Final = frozenset({"tcp", "unix", "ws"})
"""Transports of the compiled generator; the others are those of the one in Python."""
BUSY: Final = 0.9
"""A generator that used this part of its time or more was the limit, not the server."""


class LoadFailed(RelayError):
    """The generator could not do what it was asked; its text says why."""


@attrs.frozen
class Load:
    """What is asked of a generator; see ``bench/load/main.go`` for the meaning of each."""

    workload: str
    address: str
    dialect: str = "relay"
    connections: int = 100
    window: int = 1
    rate: float = 0.0
    payload: int = 128
    seconds: float = 3.0
    warmup: float = 0.5
    channels: int = 1000
    token: str = ""
    user: str = "u"
    channel: str = "bench"
    procedure: str = "bench.echo"

    def arguments(self) -> list[str]:
        """The command line."""
        return [f"-{name}={value}" for name, value in attrs.asdict(self).items()]


@attrs.frozen
class Result:
    """What came of it. ``cpu_us``: processor time of the server for one delivery, None for a server of others;
    ``ceiling``: the rate at which the generator would have been busy all the time."""

    load: Load
    rate: float
    count: int
    sent: int
    seconds: float
    errors: int
    latency_us: dict[str, float]
    generator_cpu_s: float
    histogram_ns: dict[int, int] = attrs.field(factory=dict, repr=False)
    cpu_s: float | None = None
    resident_bytes: int | None = None
    first_error: str = ""

    @property
    def cpu_us(self) -> float | None:
        """Microseconds of the server's processor time for each delivery, answer or connection."""
        return None if self.cpu_s is None or not self.count else self.cpu_s / self.count * 1e6

    @property
    def ceiling(self) -> float:
        """Deliveries a second at which one generator process would be busy all the time."""
        return self.count / self.generator_cpu_s if self.generator_cpu_s else float("inf")

    @property
    def generator_is_limit(self) -> bool:
        """Whether the figure says more of the generator than of the server."""
        return self.generator_cpu_s > BUSY * self.seconds

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """Everything but the histogram."""
        values = attrs.asdict(self, filter=lambda attribute, _: attribute.name != "histogram_ns")
        values["cpu_us"] = self.cpu_us
        values["ceiling"] = None if self.ceiling == float("inf") else self.ceiling
        values["generator_is_limit"] = self.generator_is_limit
        return values


def generator() -> tuple[list[str], str]:
    """The command of a generator, and '' or why it is not the compiled one. Builds that one when it is old or new."""
    if not SOURCE.is_dir():
        return _python(), "the sources of the compiled generator are in relay's repository only"
    sources = [*SOURCE.glob("*.go"), SOURCE / "go.mod"]
    if BINARY.exists() and all(each.stat().st_mtime <= BINARY.stat().st_mtime for each in sources):
        return [str(BINARY)], ""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        return _python(), "Go is not installed"
    BINARY.parent.mkdir(exist_ok=True)
    built = subprocess.run([go, "build", "-o", str(BINARY), "."], cwd=SOURCE, capture_output=True, text=True)
    if built.returncode:
        return _python(), f"go build failed: {built.stderr.strip()[:300]}"
    return [str(BINARY)], ""


PYTHON_ONLY: Final = frozenset(("queue",))
"""Workloads that the compiled generator does not have."""


def _python() -> list[str]:
    return [sys.executable, "-m", "relay.bench.python_load"]


def compiled_for(address: str) -> bool:
    """Whether the compiled generator speaks the transport of ``address``."""
    scheme, _, rest = address.partition("://")
    return scheme in COMPILED and "key=" not in rest.partition("?")[2]


def run(
    load: Load, pid: int | None = None, progress: Callable[[float, float], None] | None = None,
    marked: Callable[[str], None] | None = None,
) -> Result:  # fmt: skip
    """Run one generator against a server; ``pid`` is the server's, where its processor time can be read.

    ``progress(at_s, rate)`` is called about once a second, ``marked("begin")`` and ``("end")`` around what is measured.
    Raises ``LoadFailed``.
    """
    return run_all([load], pid, progress, marked)


def run_all(
    loads: list[Load],
    pid: int | Sequence[int] | None = None,
    progress: Callable[[float, float], None] | None = None,
    marked: Callable[[str], None] | None = None,
) -> Result:
    """Run several generators at once; the counts of their results are added, the time is the first one's.

    ``pid``: the server's process, or those of all its nodes, whose times and memory are added.
    """
    pids = [pid] if isinstance(pid, int) else list(pid or ())
    ours = any(each.workload in PYTHON_ONLY or not compiled_for(each.address) for each in loads)
    command = _python() if ours else generator()[0]
    mine = cores()[1]
    started = [
        subprocess.Popen(
            [*command, *load.arguments()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: pin(mine),
        )
        for load in loads
    ]  # fmt: skip
    try:
        cpu = [0.0, 0.0]
        resident = None
        results = []
        for number, process in enumerate(started):
            last: dict[str, Any] = {}  # Any: JSON
            assert process.stdout is not None
            for line in process.stdout:
                last = json.loads(line)
                if number == 0 and marked is not None and last.get("mark") in ("begin", "end"):
                    marked(last["mark"])
                if number == 0 and pids and last.get("mark") in ("begin", "end"):
                    cpu[last["mark"] == "end"] = sum(map(cpu_s, pids))
                    resident = sum(map(resident_bytes, pids))
                elif number == 0 and progress is not None and "progress" in last:
                    progress(last["progress"]["at_s"], last["progress"]["rate"])
            if process.wait() or "rate" not in last:
                assert process.stderr is not None
                raise LoadFailed(process.stderr.read().strip()[:500] or "the generator ended without a result")
            results.append(last)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    return _added(loads, results, cpu[1] - cpu[0] if pids else None, resident)


def _added(
    loads: list[Load], results: list[dict[str, Any]], cpu: float | None, resident: int | None  # Any: JSON
) -> Result:  # fmt: skip
    histogram: Counter[int] = Counter()
    for each in results:
        histogram.update({int(ns): count for ns, count in each["histogram_ns"].items()})
    latency = results[0]["latency_us"]
    if len(results) > 1:
        latency = {name: percentile_us(histogram, part) for name, part in PARTS.items()}
    return Result(
        loads[0],
        sum(each["rate"] for each in results),
        sum(each["count"] for each in results),
        sum(each["sent"] for each in results),
        results[0]["seconds"],
        sum(each["errors"] for each in results),
        latency,
        sum(each["cpu_s"] for each in results),
        dict(histogram),
        cpu,
        resident,
        next((each["first_error"] for each in results if each.get("first_error")), ""),
    )


PARTS: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}


def percentile_us(histogram: Counter[int], part: float) -> float:
    """The value in microseconds below which that part (0 to 1) of a histogram in nanoseconds lies."""
    rank = part * histogram.total()
    seen = 0
    for ns in sorted(histogram):
        seen += histogram[ns]
        if seen >= rank:
            return ns / 1000
    return 0.0
