"""The reactor: Twisted's asyncio reactor on a uvloop loop, with the sockets on uvloop's native transports.

What goes where::

    listenTCP, listenSSL, listenUNIX, adoptStreamPort      port.py        uvloop accepts
    connectTCP, connectSSL, connectUNIX                    connector.py   a descriptor, then a stream
    their connections, and adoptStreamConnection           stream.py      uvloop reads and writes
    listenUDP, listenMulticast, adoptDatagramPort          datagram.py    uvloop receives
    the end of a turn, joined writes                       turn.py, outgoing.py
    processes, terminals, standard input, UNIX datagrams,
    whoever calls addReader or addWriter                   inherited      the loop's add_reader and add_writer
    timers, threads, signals                               inherited, improved below

Install it with ``relay.reactor.uv.install()`` before anything imports ``twisted.internet.reactor``, or start with
``twistd --reactor=uv`` or ``trial --reactor=uv``.
"""
# ruff: noqa: N802, N803 - the names of methods and arguments are Twisted's
# mypy: disallow-untyped-calls=False
# Most of Twisted's asyncio reactor has no types.

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import uvloop
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.internet.main import installReactor
from twisted.logger import Logger
from twisted.python import context, threadable
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.reactor.datagram import NativeDatagrams
from relay.reactor.port import NativePort
from relay.reactor.signals import Signals
from relay.reactor.sockets import NativeSockets
from relay.reactor.stream import Stream
from relay.reactor.turn import IReactorTurn, SpeakerContext, Turn

_log = Logger()

Native = Stream | NativePort | NativeDatagrams

#: Timers of the loop count whole milliseconds.
_TICK_S = 0.001


@implementer(IReactorTurn)
class UvReactor(NativeSockets, AsyncioSelectorReactor):  # type: ignore[misc]  # connectTCP is generic in Twisted
    """Twisted's reactor over uvloop; ``loop`` is a uvloop loop, by default a new one."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        loop = loop if loop is not None else uvloop.new_event_loop()
        loop.set_exception_handler(_log_loop_error)
        self.turn = Turn(loop, self)
        self._native: set[Native] = set()
        self._log_context = SpeakerContext(self.turn)
        self._wake_at = math.inf  # when _onTimer is due, in seconds of the reactor; -inf while it runs
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(loop)

    # IReactorTurn

    def callAtTurnEnd(self, callable: Callable[[], object]) -> None:
        """Run ``callable`` once at the end of this turn, before the sends of the turn; costs 0.2 us.

        See ``relay.reactor.turn.IReactorTurn``.
        """
        self.turn.call(callable)

    # Native transports

    def opened(self, native: Native) -> None:
        """Note a stream or port that has begun to use a native transport."""
        self._native.add(native)

    def closed(self, native: Native) -> None:
        """Forget a stream or port."""
        self._native.discard(native)

    # IReactorFDSet

    def addReader(self, reader: IReadDescriptor) -> None:
        """Watch ``reader``; a native transport is resumed."""
        if isinstance(reader, Native):
            reader.startReading()
        else:
            super().addReader(reader)

    def removeReader(self, reader: IReadDescriptor) -> None:
        """Stop watching ``reader``; a native transport is paused."""
        if isinstance(reader, Native):
            reader.stopReading()
        else:
            super().removeReader(reader)

    def addWriter(self, writer: IWriteDescriptor) -> None:
        """Watch ``writer``; a native transport sends of itself."""
        if not isinstance(writer, Native):
            super().addWriter(writer)

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        """Stop watching ``writer``; a native transport is left to send what it has."""
        if not isinstance(writer, Native):
            super().removeWriter(writer)

    def removeAll(self) -> list[Any]:  # Any: anything with connectionLost
        """Stop watching everything that is being watched, and return it."""
        natives = [native for native in self._native if _watched(native)]
        self._native.difference_update(natives)
        for native in natives:
            native.stopReading()
        return [*super().removeAll(), *natives]

    def getReaders(self) -> list[Any]:  # Any: as in Twisted
        """Return what is being read from."""
        return [*super().getReaders(), *(native for native in self._native if native.reading)]

    def getWriters(self) -> list[Any]:  # Any: as in Twisted
        """Return what has output that the kernel has not taken."""
        return [*super().getWriters(), *filter(_waiting, self._native)]

    # IReactorCore

    def run(self, installSignalHandlers: bool = True) -> None:
        """Run until ``stop``."""
        context.call(self._log_context.pushed(), super().run, installSignalHandlers)

    def _signalsFactory(self) -> Signals:
        return Signals(ReactorBase._signalsFactory(self), self.turn.loop)

    # IReactorTime.  The base class asks for the time and sorts all new calls at each call; only the earliest matters.

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        """Call ``callable`` after ``delay`` seconds, to the next millisecond."""
        call = ReactorBase.callLater(self, delay, callable, *args, **kw)
        if call.time < self._wake_at:
            self._wake(call.time)
        return call

    def _moveCallLaterSooner(self, delayedCall: DelayedCall) -> None:
        ReactorBase._moveCallLaterSooner(self, delayedCall)
        if self._wake_at > 0:
            self._reschedule()

    def _wake(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = when
        # Rounded up: a timer that fires early finds nothing to do, and would be set again and again until it is time.
        ticks = math.ceil((when - self.seconds()) / _TICK_S)
        self._timer = self.turn.loop.call_later(max(0, ticks) * _TICK_S, self._onTimer)

    def _onTimer(self) -> None:
        self._wake_at = -math.inf
        self._timer = None
        try:
            self.runUntilCurrent()
        finally:
            self._wake_at = math.inf
            self._reschedule()

    def _reschedule(self) -> None:
        wait = self.timeout()
        if wait is not None:
            self._wake(self.seconds() + wait)

    # IReactorFromThreads

    def callFromThread(  # type: ignore[override]  # the base classes disagree on the first name
        self, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        """Call ``callable`` in the reactor's thread as soon as possible; may be called from threads and signals."""
        loop = self.turn.loop
        if threadable.isInIOThread():
            # One round more, so that a call that asks for itself again lets what is due come first.
            loop.call_soon_threadsafe(loop.call_soon, _run_from_thread, callable, args, kwargs)
        else:
            loop.call_soon_threadsafe(_run_from_thread, callable, args, kwargs)


def _waiting(native: Native) -> bool:
    return isinstance(native, Stream) and native.waiting


def _watched(native: Native) -> bool:
    return native.reading or _waiting(native)


def _run_from_thread(function: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    with _log.failuresHandled("while handling thread call"):
        function(*args, **kwargs)


def _log_loop_error(loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
    message = details.get("message", "unhandled error")
    failed = details.get("exception")
    if failed is None:
        _log.error("uvloop: {message}", message=message)
    else:
        _log.failure("uvloop: {message}", failure=Failure(failed), message=message)


def install(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Make this Twisted's reactor, and its loop the current one of asyncio.  Raises if there is a reactor already."""
    reactor = UvReactor(loop)
    asyncio.set_event_loop(reactor.turn.loop)
    installReactor(reactor)
