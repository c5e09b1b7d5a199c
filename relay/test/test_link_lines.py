"""Tests of ``relay.cluster.link_lines``: what the log has of links."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.link_lines import NODES_MAX, STRANGERS_MAX, LinkLines
from relay.errors import RemoteProtocolError


def lines_said(test: SynchronousTestCase) -> list[str]:
    """The log's lines from now on, while ``test`` runs."""
    lines: list[str] = []

    def noted(event: Any) -> None:
        lines.append(formatEvent(event))

    observer: Any = noted  # Any: ILogObserver is any callable
    globalLogPublisher.addObserver(observer)
    test.addCleanup(globalLogPublisher.removeObserver, observer)
    return lines


class LinesTests(SynchronousTestCase):
    """Lines, and those that are left out."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.said = LinkLines(self.clock.seconds, 60.0)

    def test_many_strangers(self):
        """Strangers of many addresses have so many lines in a while, and one that says how many were left out."""
        lines = lines_said(self)
        said = self.said
        for number in range(1000):
            said.stranger(f"h{number}", RemoteProtocolError("why"))
        self.assertEqual(len(lines), STRANGERS_MAX)
        said.refused(2, "h2", RemoteProtocolError("why"))
        said.look()
        self.assertEqual(lines[STRANGERS_MAX:], [
            "cluster link with h2 refused: link to node 2: why",
            f"{1000 - STRANGERS_MAX} more lines about refused cluster links were left out",
        ])  # fmt: skip
        self.assertEqual(len(said._strangers._said), STRANGERS_MAX)
        self.clock.advance(60)
        said.look()
        for number in range(5):
            said.stranger(f"h{number}", RemoteProtocolError("why"))
        self.assertEqual(len(lines), STRANGERS_MAX + 2 + 5)
        for number in range(NODES_MAX + 10):
            said.refused(number, "h", RemoteProtocolError("why"))
        self.assertEqual(len(said._nodes._said), NODES_MAX)

    def test_comes_and_goes(self):
        """A link that comes and goes has a line for either, and then one for all that happened since."""
        lines = lines_said(self)
        said = self.said
        for _ in range(50):
            said.changed(2, stands=True)
            said.changed(2, stands=False)
        said.changed(2, stands=True)
        said.look()
        self.assertEqual(lines, ["linked to node 2", "the link to node 2 is gone"])
        self.clock.advance(60)
        said.look()
        said.look()
        self.assertEqual(lines[2:], ["the link to node 2 came or went 99 more times, and stands"])
        said.changed(2, stands=False)
        self.assertEqual(lines[3:], ["the link to node 2 is gone"])
