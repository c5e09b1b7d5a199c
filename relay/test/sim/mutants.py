"""Each plant against the unit tests of its layer, and against the simulator, in processes of their own.

Verdicts are kept in ``relay/test/data/sim_verdicts.json`` with the fingerprint of the module that has the bug in it,
and the simulator's with its own: as long as those are the same they are not found out again. The tests stop at the
first failure; a plant that does not come to an end in time counts as caught by them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import relay
from relay.test.sim.plants import PLANTS, UNIT_TESTS, Plant

FILE: Final = Path(relay.__file__).parent / "test" / "data" / "sim_verdicts.json"
UNIT_CPU_S_MAX: Final = 240
SIMULATOR_CPU_S_MAX: Final = 180
"""Of processor time: how long it takes on a busy machine says nothing."""
SEEDS: Final = "1-300"
SECONDS: Final = 20

TRIAL: Final = """
import sys
from relay.test.sim.loader import plant
plant(sys.argv.pop(1))
from twisted.scripts.trial import run
run()
"""

SIMULATED: Final = ("caught", "seconds", "simulator")

Verdict = dict[str, Any]  # Any: JSON


def load() -> dict[str, Verdict]:
    """The verdicts that are kept."""
    if not FILE.exists():
        return {}
    found: dict[str, Verdict] = json.loads(FILE.read_text("utf-8"))
    return found


def fingerprint(plant: Plant) -> str:
    """Of the module with the bug in it, as it is now."""
    path = Path(relay.__file__).parent.parent / (plant.module.replace(".", "/") + ".py")
    return plant.fingerprint(path.read_text("utf-8"))


def simulator() -> str:
    """The fingerprint of the simulator, whatever is planted."""
    mark = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.name.startswith("plants") and path.name not in ("mutants.py", "command.py"):
            mark.update(path.read_bytes())
    return mark.hexdigest()[:16]


def run_mutants(names: str, layer: str, minutes: float, jobs: int = 1) -> int:
    """The plants of these names (all when empty) and this layer, for so long; the exit status."""
    chosen = [PLANTS[name] for name in names.split(",")] if names else list(PLANTS.values())
    chosen = [plant for plant in chosen if not layer or plant.layer == layer]
    deadline = time.monotonic() + minutes * 60
    verdicts = load()
    mark = simulator()
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        for judged in [pool.submit(_judge, plant, verdicts.get(plant.name), mark, deadline) for plant in chosen]:
            judged.result()
    return _print(chosen, load())


def _judge(plant: Plant, known: Verdict | None, by: str, deadline: float) -> None:
    """What is not known of a plant yet, as far as time allows; ``by``: the simulator's fingerprint."""
    mark = fingerprint(plant)
    verdict = {"fingerprint": mark, "layer": plant.layer}
    if known is not None and known["fingerprint"] == mark:
        verdict |= {key: known[key] for key in ("unit", *SIMULATED) if key in known}
    if verdict.get("simulator") != by:
        verdict = {key: value for key, value in verdict.items() if key not in SIMULATED}
    if "unit" not in verdict and time.monotonic() < deadline:
        verdict["unit"] = _unit(plant)
    if not verdict.get("unit", "?") and "seconds" not in verdict and time.monotonic() < deadline:
        verdict.update(_simulate(plant), simulator=by)
    if verdict != known:
        _save(plant.name, verdict)


def _save(name: str, verdict: Verdict) -> None:
    """With what other processes have found meanwhile."""
    beside = Path(tempfile.gettempdir()) / "relay-sim-verdicts.lock"
    with beside.open("a+", encoding="utf-8") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        verdicts = load()
        verdicts[name] = verdict
        FILE.write_text(json.dumps(dict(sorted(verdicts.items())), indent=1) + "\n", "utf-8")


def _unit(plant: Plant) -> str:
    """The first test that fails, or '' when none does."""
    with tempfile.TemporaryDirectory(prefix="relay-mutant-") as scratch:
        command = [sys.executable, "-c", TRIAL, plant.name, "-x", "--reporter=text", f"--temp-directory={scratch}/t"]
        command += [f"relay.test.{module}" for module in UNIT_TESTS[plant.layer]]
        done = _run(command, UNIT_CPU_S_MAX)
    if not done.returncode:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("relay.test.")]
    return failed[0] if failed else f"status {done.returncode}"


def _run(command: list[str], cpu_s: int) -> subprocess.CompletedProcess[str]:
    """Run it for so much processor time at most; a negative status is that of the signal that ended it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _simulate(plant: Plant) -> Verdict:
    """Whether the simulator catches it, what it says, and after how much simulated time. A seed that fails without the
    bug, too, shows another one: then this raises ``RuntimeError``, as nothing that is measured here means anything."""
    found = _until_caught(plant.name, SEEDS)
    seed = found.pop("seed", 0)
    if seed:
        without = _until_caught("", f"{seed}-{seed}")
        if without["caught"]:
            raise RuntimeError(f"seed {seed} fails without any bug planted: {without['caught']}")
    return found


def _until_caught(name: str, seeds: str) -> Verdict:
    command = [sys.executable, "-m", "relay.test.sim.until_caught", "--plant", name, seeds, str(SECONDS)]
    done = _run(command, SIMULATOR_CPU_S_MAX)
    if done.returncode < 0:
        return {"seconds": 0.0, "caught": ""}
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "{}"
    found: Verdict = json.loads(last) if last.startswith("{") else {}
    if "seconds" not in found:  # it did not even begin, or a node ran away
        lines = done.stderr.strip().splitlines()
        return {"seconds": 0.0, "caught": lines[-1] if lines else f"status {done.returncode}"}
    return found


def _is_known(plant: Plant, verdicts: dict[str, Verdict]) -> bool:
    verdict = verdicts.get(plant.name, {})
    return "unit" in verdict and verdict["fingerprint"] == fingerprint(plant)


def _print(chosen: list[Plant], verdicts: dict[str, Verdict]) -> int:
    known = [(plant, verdicts[plant.name]) for plant in chosen if _is_known(plant, verdicts)]
    mark = simulator()
    counted = [(plant, each) for plant, each in known if not each["unit"] and each.get("simulator") == mark]
    caught = [(plant, verdict) for plant, verdict in counted if verdict["caught"]]
    for plant, verdict in counted:
        after = f"{verdict['seconds']:8.1f} s" if verdict["caught"] else "   missed"
        print(f"{plant.layer:7} {plant.name:40} {after}  {verdict['caught'][:100].partition(chr(10))[0]}")
    times = sorted(verdict["seconds"] for _, verdict in caught)
    print(f"planted                         {len(chosen)}, of which {len(known)} have a verdict")
    print(f"caught by the unit tests alone  {sum(bool(verdict['unit']) for _, verdict in known)}")
    print(f"not caught by them              {len(counted)}")
    share = len(caught) / len(counted) if counted else 0.0
    print(f"of these caught here            {len(caught)} ({share:.1%})")
    if times:
        print(f"after simulated seconds         median {times[len(times) // 2]:.1f}, most {times[-1]:.1f}")
    return 0 if len(caught) == len(counted) else 1
