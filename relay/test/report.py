"""Trial with totals: ``python -m relay.test.report [--totals=FILE] [options of trial] names``; ``bin/test`` calls it.

After trial's own summary each skipped test is listed with its reason; ``--totals`` names a file that receives one
line ``passed failed skipped``. Errors and unexpected successes count as failed, expected failures as passed.

======================  =====================================================================================
``RELAY_TEST_REACTOR``  the reactor under the tests, by twistd's name; default ``uv`` where it can be had
``RELAY_TEST_HANG_S``   after so many seconds the process prints where it is and exits; default 540
======================  =====================================================================================
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.application.reactors import getReactorTypes
from twisted.scripts import trial
from twisted.trial.reporter import Reporter

SKIPPED = "skipped: "
HANG_S_DEFAULT = "540"
"""Longer than all tests may take together. What waits in the reactor is ended by trial itself, after two minutes."""


def count(result: Reporter) -> tuple[int, int, int]:
    """The tests of ``result`` that passed, failed and were skipped."""
    passed = result.successes + len(result.expectedFailures)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    return passed, failed, len(result.skips)


def skipped_lines(result: Reporter) -> list[str]:
    """One line per skipped test: its name and the reason."""
    return [f"{SKIPPED}{test.id()}: {reason}" for test, reason in result.skips]


class Options(trial.Options):
    """Trial's options and ``--totals``; the reporter, whichever was asked for, also lists what was skipped."""

    optParameters = [["totals", None, None, "file that receives the totals"]]

    def postOptions(self) -> None:
        """Wrap the reporter that trial loaded."""
        super().postOptions()
        chosen: type[Reporter] = self["reporter"]
        totals: str | None = self["totals"]

        class Totals(chosen):  # type: ignore[valid-type, misc]  # the base is the one asked for on the command line
            """The chosen reporter, with the list of skipped tests and the file of totals at its end."""

            def done(self) -> None:
                super().done()
                for line in skipped_lines(self):
                    self._stream.write(line + "\n")
                if totals is not None:
                    Path(totals).write_text("{} {} {}\n".format(*count(self)), encoding="ascii")

        self["reporter"] = Totals


def default_reactor() -> str | None:
    """``uv`` where twistd knows relay's reactor and uvloop is there, else None: Twisted's own choice."""
    known = any(each.shortName == "uv" for each in getReactorTypes())
    return "uv" if known and importlib.util.find_spec("uvloop") is not None else None


def arguments(given: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Trial's arguments: the reactor from the environment, then what was given."""
    reactor = environ.get("RELAY_TEST_REACTOR") or default_reactor()
    return [*([f"--reactor={reactor}"] if reactor else []), *given]


def main() -> None:
    """Run trial; exits with its status."""
    faulthandler.dump_traceback_later(float(os.environ.get("RELAY_TEST_HANG_S") or HANG_S_DEFAULT), exit=True)
    sys.argv[1:] = arguments(sys.argv[1:], os.environ)
    scripts: Any = trial  # Any: trial.run makes its options by this module attribute, the one way to give it others
    scripts.Options = Options
    trial.run()


if __name__ == "__main__":
    main()
