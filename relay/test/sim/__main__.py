"""``python -m relay.test.sim``: see :mod:`relay.test.sim.command`. A plant is set before anything else is imported."""

from __future__ import annotations

import sys


def _planted() -> str:
    return sys.argv[sys.argv.index("--plant") + 1] if "--plant" in sys.argv[:-1] else ""


if __name__ == "__main__":
    if _planted():
        from relay.test.sim.loader import plant

        plant(_planted())
    from relay.test.sim.command import main

    sys.exit(main(sys.argv[1:]))
