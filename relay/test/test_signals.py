"""What signals do, and in which order they may come."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.trial.unittest import SynchronousTestCase

from relay.signals import Signals


class FakeReactor:
    """Calls at once; stops once, as the real one."""

    def __init__(self) -> None:
        self.stops = 0

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        """Now."""
        function(*args)

    def stop(self) -> None:
        """The second time raises."""
        if self.stops:
            raise ReactorNotRunning
        self.stops += 1


class SignalTests(SynchronousTestCase):
    """The node's handlers, called as Python would."""

    def setUp(self) -> None:
        """What was called is in ``done``."""
        self.done: list[str] = []
        self.reactor = FakeReactor()
        self.signals = Signals(self.reactor, lambda: self.done.append("drain"), lambda: self.done.append("reload"))

    def send(self, *numbers: int) -> None:
        """As if these signals came."""
        for number in numbers:
            self.signals._caught(number, None)

    def test_hangup_reloads(self) -> None:
        """SIGHUP reads the configuration again, as often as it comes."""
        self.send(signal.SIGHUP, signal.SIGHUP)
        self.assertEqual(self.done, ["reload", "reload"])

    def test_second_stops_at_once(self) -> None:
        """The first SIGTERM or SIGINT drains, the second stops, more do nothing; nor does the drain that ends then."""
        self.send(signal.SIGTERM)
        self.assertEqual((self.done, self.reactor.stops), (["drain"], 0))
        self.send(signal.SIGINT, signal.SIGTERM)
        self.signals.stop()
        self.assertEqual((self.done, self.reactor.stops), (["drain"], 1))

    def test_no_reload_while_draining(self) -> None:
        """A draining node does not open its listeners again."""
        self.send(signal.SIGTERM, signal.SIGHUP)
        self.assertEqual(self.done, ["drain"])
