"""The tables of docs/protocol.md and the numbers in the code are the same."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import TestCase

from relay import errors
from relay.wire import kinds

SPECIFICATION = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after ``heading``, without its head."""
    text = SPECIFICATION.read_text(encoding="utf-8").split(heading, 1)[1]
    lines = text.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def halves(rows: list[list[str]], width: int) -> list[list[str]]:
    """Rows of two tables side by side, as rows of one."""
    left = [row[:width] for row in rows]
    right = [row[-width:] for row in rows if len(row) > width]
    return [row for row in left + right if row[0]]


class Tables(TestCase):
    """Numbers are never given twice."""

    def test_kinds(self) -> None:
        """Section 3: numbers and names of kinds."""
        written = {int(row[0]): row[1] for row in table("## 3. Kinds") if row[0].isdigit()}
        self.assertEqual(written, kinds.KINDS)

    def test_flags(self) -> None:
        """Bits and names of flags."""
        self.assertEqual({int(row[0], 16): row[1] for row in table("### Flags")}, kinds.FLAGS)

    def test_fields(self) -> None:
        """Ids, names and types of fields."""
        written = {int(row[0]): (row[1], row[2]) for row in halves(table("### Fields"), 3)}
        self.assertEqual(written, kinds.FIELDS)

    def test_errors(self) -> None:
        """Section 8: number, name, temporary and outcome of errors; the configuration's never leaves the node."""
        written = {
            int(row[0]): (row[1], row[2] == "yes", row[3]) for row in halves(table("## 8. Errors and close reasons"), 4)
        }
        ours = {
            code: (each.label, each.temporary, each.outcome)
            for code, each in errors.BY_CODE.items()
            if each is not errors.ConfigError
        }
        self.assertEqual(written, ours)

    def test_close_reasons(self) -> None:
        """Section 8: number, name and reconnect of close reasons."""
        rows = halves(table("From 1000 on: the application's own."), 3)
        self.assertEqual({int(row[0]): (row[1], row[2] == "yes") for row in rows}, kinds.CLOSE_REASONS)

    def test_codecs_and_filters(self) -> None:
        """Section 4 lists them in sentences."""
        text = SPECIFICATION.read_text(encoding="utf-8")
        codecs = text.split("Codecs: ", 1)[1].split(";", 1)[0]
        self.assertEqual({int(n): name for n, name in re.findall(r"(\d+) (\w+)", codecs)}, kinds.CODECS)
        filters = re.sub(r"\([^)]*\)", "", text.split("first in the list: ", 1)[1].split(";", 1)[0])
        self.assertEqual({int(n): name for n, name in re.findall(r"(\d+) (\w+)", filters)}, kinds.FILTER_NAMES)

    def test_names_lead_back_to_their_numbers(self) -> None:
        """No name is given twice."""
        for numbers, names in (
            (kinds.KIND_NUMBERS, kinds.KINDS), (kinds.FLAG_NUMBERS, kinds.FLAGS), (kinds.CODEC_NUMBERS, kinds.CODECS),
            (kinds.FILTER_NUMBERS, kinds.FILTER_NAMES),
        ):  # fmt: skip
            self.assertEqual({number: name for name, number in numbers.items()}, names)
        self.assertEqual({number: kinds.FIELDS[number][0] for number in kinds.FIELDS}, {
            number: name for name, number in kinds.FIELD_NUMBERS.items()
        })  # fmt: skip
        self.assertTrue(all(1 <= number <= 127 for number in kinds.FIELDS))
        self.assertTrue(all(flag.bit_count() == 1 for flag in kinds.FLAGS))
