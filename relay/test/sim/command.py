"""The command: ``python -m relay.test.sim``.

==================================  ==================================================================================
``--seeds A-B`` ``--minutes M``     run the seeds one after the other, for at most so long of real time
``--seed N`` ``[--verbose]``        run one, with a line for whatever happens
``--seconds S``                     simulated time with faults of each run; default 20, then it has to settle
``--nodes N``                       voters at the beginning; default 3
``--rate R``                        operations a simulated second; default 100
``--faults KIND,KIND``              only these, or ``none``; default all
``--no-shrink``                     do not make a failing seed smaller
``--plant NAME``                    with this bug planted
``--mutants [NAME,NAME]``           each plant against the unit tests and the simulator; ``--layer L`` only one layer
==================================  ==================================================================================

The exit status is 1 when something was violated, and with ``--mutants`` when a plant that counts was not caught.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

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
    parser.add_argument("--plant", default="")
    parser.add_argument("--mutants", nargs="?", const="", default=None)
    parser.add_argument("--layer", default="")
    told = parser.parse_args(arguments)
    if told.mutants is not None:
        return run_mutants(told.mutants, told.layer, told.minutes)
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
    return _sweep(recipes, told.minutes, verbose=told.verbose, smaller=not told.no_shrink)


def _sweep(recipes: list[Recipe], minutes: float, *, verbose: bool, smaller: bool) -> int:
    started, cpu = time.monotonic(), time.process_time()
    reports: list[Report] = []
    for recipe in recipes:
        if time.monotonic() - started > minutes * 60:
            break
        report = World(recipe, verbose=verbose).run()
        reports.append(report)
        if report.violation:
            print(f"seed {recipe.seed}: {report.violation}")
            if smaller and not verbose:
                least = shrink(report)
                print(f"  smaller: {command_of(least.recipe)}")
                print(f"  there: {least.violation.splitlines()[0]}")
    _print(reports, len(recipes), time.process_time() - cpu, time.monotonic() - started)
    return 1 if any(report.violation for report in reports) else 0


def _print(reports: list[Report], wanted: int, cpu_s: float, real_s: float) -> None:
    simulated_s = sum(report.simulated_s for report in reports)
    faults: Counter[str] = sum((report.faults for report in reports), Counter())
    outcomes: Counter[str] = sum((report.outcomes for report in reports), Counter())
    print(f"seeds        {len(reports)} of {wanted}")
    print(f"simulated    {simulated_s:.1f} s in {real_s:.1f} s, {cpu_s:.1f} s of one core: {simulated_s / cpu_s:.0f} x")
    print(f"events       {sum(report.events for report in reports)}, {sum(report.frames for report in reports)} frames")
    print(f"elections    {sum(report.elections for report in reports)}")
    print(f"recoveries   {sum(report.recoveries for report in reports)}")
    print("faults       " + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())))
    print("operations   " + ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items())))
    if len(reports) == 1:
        print(f"digest       {reports[0].digest}")
    print(f"violations   {sum(bool(report.violation) for report in reports)}")
