"""What a node does when it is told by signals.

    SIGTERM, SIGINT   drain: admit nobody, say goodbye to everybody, stop; exit status 0. A second one stops at once.
    SIGHUP            read the configuration again and apply what can change live; not while draining, when listeners
                      that are closed must stay closed

twistd sends itself the signal that stopped its reactor (status 143), so the node has handlers of its own while it runs;
they only wake the reactor, which does the rest in its own thread of control.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

log = Logger()

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """``reactor`` is woken by ``callFromThread``; ``drain`` begins an orderly stop, ``reload`` reads again."""

    def __init__(self, reactor: Any, drain: Callable[[], None], reload: Callable[[], None]) -> None:
        # Any: IReactorCore and IReactorFromThreads together.
        self._reactor = reactor
        self._drain = drain
        self._reload = reload
        self._draining = False
        self._before: dict[int, Any] = {}  # Any: what signal.signal gives back

    def install(self) -> None:
        """Take the signals over; in the main thread only, once the reactor runs."""
        for number in STOPPING:
            self._before[number] = signal.signal(number, self._caught)
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._caught)

    def remove(self) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def stop(self) -> None:
        """Stop the reactor; a further signal, or the end of a drain, may find it stopping already."""
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._act, number)

    def _act(self, number: int) -> None:
        if number == signal.SIGHUP:
            if self._draining:
                log.info("SIGHUP: nothing is read while draining")
            else:
                self._reload()
        elif self._draining:
            log.info("stopping at once")
            self.stop()
        else:
            self._draining = True
            log.info("{name}: draining", name=signal.Signals(number).name)
            self._drain()
