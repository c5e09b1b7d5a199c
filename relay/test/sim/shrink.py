"""A failing recipe, made smaller: fewer kinds of faults, less time, fewer operations, while it still fails.

Each kind of fault has its own dice, so that leaving one out changes the others only through what it did.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from relay.test.sim.world import Recipe, Report, World

Run = Callable[[Recipe], Report]


def run_recipe(recipe: Recipe) -> Report:
    """One run."""
    return World(recipe).run()


def shrink(report: Report, *, budget_s: float = 60.0, run: Run = run_recipe) -> Report:
    """The smallest failing run found within ``budget_s`` of real time; it begins from ``report``, which failed."""
    assert report.violation
    deadline = time.monotonic() + budget_s
    best = report

    def fails(recipe: Recipe) -> bool:
        nonlocal best
        if time.monotonic() > deadline:
            return False
        found = run(recipe)
        if found.violation:
            best = found
        return bool(found.violation)

    # It need not run on after the moment of the violation.
    fails(attrs.evolve(best.recipe, seconds=min(best.recipe.seconds, best.simulated_s + 0.01)))
    changed = True
    while changed and time.monotonic() < deadline:
        changed = False
        for kind in best.recipe.kinds:
            without = tuple(each for each in best.recipe.kinds if each != kind)
            changed = fails(attrs.evolve(best.recipe, kinds=without)) or changed
        for factor in (0.5, 0.75, 0.9):
            changed = fails(attrs.evolve(best.recipe, seconds=best.recipe.seconds * factor)) or changed
    for rate in (10.0, 30.0):
        if rate < best.recipe.rate and fails(attrs.evolve(best.recipe, rate=rate)):
            break
    return best


def command_of(recipe: Recipe) -> str:
    """What runs it again."""
    kinds = ",".join(recipe.kinds) or "none"
    return (
        f"python -m relay.test.sim --seed {recipe.seed} --nodes {recipe.nodes} --seconds {recipe.seconds:.6f} "
        f"--rate {recipe.rate:g} --faults {kinds} --verbose"
    )
