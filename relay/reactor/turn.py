"""The turn: what runs once after everything that one wake-up of the event loop brought.

A turn is the batch of callbacks between two waits for input: all sockets that became readable, all timers that
came due.  Writes and callbacks of a turn are collected here and happen once, at its end::

    wait ─▶ read A ─▶ read B ─▶ timers ─▶ end of turn: callbacks, then one send per stream written to ─▶ wait

Nothing waits longer for it: the end of the turn comes before the loop sleeps again, with no system call between.

Cost on one core of a 2.5 GHz Xeon, with the call of an empty function: 0.2 us, and 1 us more for the first that asks
in a turn (one callback of the loop).  ``callLater(0, …)`` costs 4 to 7 us there.
"""
# ruff: noqa: N802, N803 - the names of methods and arguments are Twisted's

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.log import ILogContext
from zope.interface import Interface, implementer

if TYPE_CHECKING:
    from relay.reactor.uv import UvReactor

_log = Logger()


class Flushable(Protocol):
    """What can be on the dirty list: anything with output to send."""

    def flush(self) -> None:
        """Send what was written during the turn."""


class Speaking(Protocol):
    """What can be the source of a log message: a transport."""

    def logPrefix(self) -> str:
        """Return the prefix of messages logged on behalf of this transport."""


class IReactorTurn(Interface):
    """A reactor that can run a callable once at the end of its current turn."""

    def callAtTurnEnd(callable: Callable[[], object]) -> None:  # noqa: N805 - an interface has no self
        """Run ``callable`` at the end of this turn, before the sends of the turn.

        Callables run in the order in which they were given.  One that is given while the end of a turn is being
        run comes at the end of the next.  An exception is logged and does not disturb the others.  Must be called in
        the reactor's thread; it cannot be cancelled.
        """


class Turn:
    """The dirty list and the callbacks of the current turn of one reactor.

    ``dirty`` is appended to directly by streams, because it is the hottest line of the reactor; whoever appends
    also calls ``schedule`` unless ``scheduled``.  ``speaker`` is the transport whose protocol is running, or None.
    """

    __slots__ = ("_call_soon", "_calls", "dirty", "loop", "reactor", "scheduled", "speaker")

    def __init__(self, loop: AbstractEventLoop, reactor: UvReactor) -> None:
        self.loop = loop
        self.reactor = reactor
        self.dirty: list[Flushable] = []
        self.scheduled = False
        self.speaker: Speaking | None = None
        self._calls: list[Callable[[], object]] = []
        self._call_soon = loop.call_soon

    def schedule(self) -> None:
        """Ask the loop for the end of the turn; at most once in a turn."""
        self.scheduled = True
        self._call_soon(self._end)

    def call(self, function: Callable[[], object]) -> None:
        """Run ``function`` at the end of the turn."""
        self._calls.append(function)
        if not self.scheduled:
            self.schedule()

    def _end(self) -> None:
        # ``scheduled`` stays set until the end, so that what the callbacks write is sent below without another turn.
        calls = self._calls
        if calls:
            self._calls = []
            for function in calls:
                try:
                    function()
                except Exception:  # noqa: BLE001 - logged; one callback must not cost the others their turn
                    _log.failure("callback at the end of the turn failed")
        dirty = self.dirty
        self.dirty = []
        self.scheduled = False
        for stream in dirty:
            try:
                stream.flush()
            except Exception:  # noqa: BLE001 - logged; the other streams must still be sent
                _log.failure("sending at the end of the turn failed")
        if self._calls and not self.scheduled:
            self.schedule()


@implementer(IDelayedCall)
class _AtTurnEnd:
    """A call with no delay, in the shape of a delayed call."""

    def __init__(self, turn: Turn, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self._turn = turn
        self._function = function
        self._args = args
        self._active = True
        turn.call(self._run)

    def _run(self) -> None:
        if self._active:
            self._active = False
            self._function(*self._args)

    def getTime(self) -> float:
        """Return when the call is due, in seconds of the reactor: now."""
        return self._turn.reactor.seconds()

    def cancel(self) -> None:
        """Forget the call."""
        self._active = False

    def delay(self, secondsLater: float) -> None:
        """Refuse: the end of the turn does not move."""
        raise NotImplementedError("the end of the turn cannot be delayed")

    def reset(self, secondsFromNow: float) -> None:
        """Refuse: the end of the turn does not move."""
        raise NotImplementedError("the end of the turn cannot be delayed")

    def active(self) -> bool:
        """Return whether the call is still to come."""
        return self._active


@implementer(IReactorTime)
class TurnClock:
    """The reactor's clock, except that a call without delay runs at the end of the turn.

    Twisted's TLS protocol gathers small writes until ``clock.callLater(0, …)``; over this clock it encrypts them
    at the end of the same turn and without a timer.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def seconds(self) -> float:
        """Return the reactor's time in seconds."""
        return self._turn.reactor.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        """Run ``callable`` after ``delay`` seconds; with no delay and no keywords, at the end of the turn."""
        if delay == 0 and not kw:
            return _AtTurnEnd(self._turn, callable, args)
        return self._turn.reactor.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """Return the reactor's delayed calls."""
        return list(self._turn.reactor.getDelayedCalls())


class SpeakerContext(dict[str, object]):
    """The legacy log context of everything that the reactor runs: its "system" is the speaker's prefix.

    Twisted's reactors push a context around every event (1.2 us); this one is pushed once, and asks who is speaking
    only when something is logged.
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__(isError=0, system="-")
        self._turn = turn

    def __getitem__(self, key: str) -> object:
        """Return the value of ``key``; of "system", the speaker's prefix."""
        speaker = self._turn.speaker
        if key == "system" and speaker is not None:
            return speaker.logPrefix()
        return super().__getitem__(key)

    def copy(self) -> dict[str, object]:
        """Return a plain dict with the values of this moment, as ``twisted.python.log.msg`` starts from."""
        return {"isError": 0, "system": self["system"]}

    def pushed(self) -> dict[type[ILogContext], SpeakerContext]:
        """Return the frame for ``twisted.python.context.call``."""
        return {ILogContext: self}
