"""Seeds until one fails, and in JSON what failed after how much simulated time: what ``mutants`` starts for each plant.

Every fourth seed has five nodes: what one follower of two has acknowledged is committed, so some bugs need more.

``python -m relay.test.sim.until_caught --plant NAME A-B SECONDS``; an empty name plants nothing.
"""

from __future__ import annotations

import json
import sys

if __name__ == "__main__":
    from relay.test.sim.loader import plant

    if sys.argv[2]:
        plant(sys.argv[2])
    from relay.test.sim.world import Recipe, World

    low, _, high = sys.argv[3].partition("-")
    simulated_s = 0.0
    caught = ""
    for seed in range(int(low), int(high) + 1):
        nodes = 3 if seed % 4 else 5
        report = World(Recipe(seed, seconds=float(sys.argv[4]), nodes=nodes)).run()
        simulated_s += report.simulated_s
        caught = report.violation
        if caught:
            break
    print(json.dumps({"caught": caught[:300], "seconds": round(simulated_s, 1), "seed": seed if caught else 0}))
