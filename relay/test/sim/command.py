"""The command: ``python -m relay.test.sim``.

==================================  ==================================================================================
``--seeds A-B`` ``--minutes M``     run the seeds one after the other, for at most so long of real time
``--seed N`` ``[--verbose]``        run one, with a line for whatever happens
``--seconds S``                     simulated time with faults of each run; default 20, then it has to settle
``--nodes N``                       voters at the beginning; default 3
``--rate R``                        operations a simulated second; default 100
``--faults KIND,KIND``              only these, or ``none``; default all
``--no-shrink``                     do not make a failing seed smaller
``--jobs N``                        so many processes share the seeds, or the plants; default 1
``--plant NAME``                    with this bug planted
``--mutants [NAME,NAME]``           each plant against the unit tests and the simulator; ``--layer L`` only one layer
==================================  ==================================================================================

The exit status is 1 when something was violated, and with ``--mutants`` when a plant that counts was not caught.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from relay.test.sim.faults import KINDS
from relay.test.sim.mutants import run_mutants
from relay.test.sim.shrink import command_of, shrink
from relay.test.sim.world import Recipe, Report, World


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.sim")
    parser.add_argument("--seeds", default="1-20")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--faults", default="")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plant", default="")
    parser.add_argument("--mutants", nargs="?", const="", default=None)
    parser.add_argument("--layer", default="")
    told = parser.parse_args(arguments)
    if told.mutants is not None:
        return run_mutants(told.mutants, told.layer, told.minutes, told.jobs)
    kinds = () if told.faults == "none" else tuple(told.faults.split(",")) if told.faults else KINDS
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        parser.error(f"no kind of fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if told.seed is not None:
        first = last = told.seed
    else:
        low, _, high = told.seeds.partition("-")
        first, last = int(low), int(high or low)
    recipes = [
        Recipe(seed, seconds=told.seconds, nodes=told.nodes, kinds=kinds, rate=told.rate)
        for seed in range(first, last + 1)
    ]
    return _sweep(recipes, told)


def _run(recipe: Recipe, verbose: bool, deadline: float) -> tuple[Report | None, float]:
    """A run, unless time is up, and its processor time."""
    if time.monotonic() > deadline:
        return None, 0.0
    cpu = time.process_time()
    return World(recipe, verbose=verbose).run(), time.process_time() - cpu


def _runs(recipes: list[Recipe], told: argparse.Namespace) -> Iterator[tuple[Report | None, float]]:
    deadline = time.monotonic() + told.minutes * 60
    if told.jobs <= 1:
        for recipe in recipes:
            yield _run(recipe, told.verbose, deadline)
        return
    # Forked: a planted bug stays planted.
    with ProcessPoolExecutor(told.jobs, get_context("fork")) as pool:
        for begun in [pool.submit(_run, recipe, told.verbose, deadline) for recipe in recipes]:
            yield begun.result()


def _sweep(recipes: list[Recipe], told: argparse.Namespace) -> int:
    started = time.monotonic()
    cpu_s = 0.0
    reports: list[Report] = []
    for report, spent_s in _runs(recipes, told):
        if report is None:
            continue
        reports.append(report)
        cpu_s += spent_s
        if report.violation:
            print(f"seed {report.recipe.seed}: {report.violation}")
            if not told.no_shrink and not told.verbose:
                least = shrink(report)
                print(f"  smaller: {command_of(least.recipe)}")
                print(f"  there: {least.violation.splitlines()[0]}")
    _print(reports, len(recipes), cpu_s, time.monotonic() - started)
    return 1 if any(report.violation for report in reports) else 0


def _print(reports: list[Report], wanted: int, cpu_s: float, real_s: float) -> None:
    simulated_s = sum(report.simulated_s for report in reports)
    faults: Counter[str] = sum((report.faults for report in reports), Counter())
    outcomes: Counter[str] = sum((report.outcomes for report in reports), Counter())
    print(f"seeds        {len(reports)} of {wanted}")
    speed = simulated_s / cpu_s if cpu_s else 0.0
    print(f"simulated    {simulated_s:.1f} s in {real_s:.1f} s, {cpu_s:.1f} s of one core: {speed:.0f} x")
    print(f"events       {sum(report.events for report in reports)}, {sum(report.frames for report in reports)} frames")
    print(f"elections    {sum(report.elections for report in reports)}")
    print(f"recoveries   {sum(report.recoveries for report in reports)}")
    print("faults       " + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())))
    print("operations   " + ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items())))
    if len(reports) == 1:
        print(f"digest       {reports[0].digest}")
    print(f"violations   {sum(bool(report.violation) for report in reports)}")
