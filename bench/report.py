"""Parts of ``docs/benchmarks.md``: each script writes its own between two marks and leaves the rest alone."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"
TITLE = """# Benchmarks

What relay does on one core, beside others in the same run. The parts below are written by `bench/compare` and
`bench/scale`; where and when they ran stands at the top of each. One reading applies to all: a machine is noisy and
its absolute rates mean little, so figures are ratios against a peer that ran in the same round, and processor time of
the server (user and system, of its whole process tree) for one delivery. `relay bench --help` measures a node of
yours.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write(part: str, text: str) -> None:
    """Replace ``part`` of the page, or put it at the end."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    page = PAGE.read_text("utf-8") if PAGE.exists() else TITLE
    new = f"{begin}\n{text.strip()}\n{end}"
    old = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page = old.sub(lambda _: new, page) if old.search(page) else f"{page.rstrip()}\n\n{new}\n"
    PAGE.write_text(page, "utf-8")


def machine() -> str:
    """Processor, cores, kernel, Python."""
    model = "?"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release()}, Python {platform.python_version()}"


def busy_share() -> tuple[int, int]:
    """Ticks that all cores were busy, and all their ticks, since the machine started."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
