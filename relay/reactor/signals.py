"""Signals under uvloop: Twisted's own, and SIGCHLD, which Twisted would hear of through a descriptor that uvloop takes.

While it runs, uvloop has the interpreter's wake-up descriptor (``signal.set_wakeup_fd``).  Twisted learns of ended
processes by exactly that descriptor, so under uvloop it would never reap.  Here SIGCHLD has a Python handler instead,
which uvloop runs as soon as the signal wakes it.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from twisted.internet import process


class Signals:
    """Twisted's handling of signals with our own for SIGCHLD: installed and uninstalled by the reactor.

    ``others`` is what the reactor's base class installs for SIGINT, SIGTERM and SIGBREAK.
    """

    def __init__(self, others: Any, loop: asyncio.AbstractEventLoop) -> None:  # Any: private to Twisted
        self._others = others
        self._loop = loop
        self._installed = False

    def install(self) -> None:
        """Install all handlers, and reap what ended before."""
        self._others.install()
        signal.signal(signal.SIGCHLD, self._child_ended)
        signal.siginterrupt(signal.SIGCHLD, False)
        self._installed = True
        process.reapAllProcesses()

    def uninstall(self) -> None:
        """Put the system's default for SIGCHLD back; for the others this does what Twisted does."""
        if self._installed:
            self._installed = False
            self._others.uninstall()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _child_ended(self, signum: int, frame: object) -> None:
        self._loop.call_soon_threadsafe(process.reapAllProcesses)
