"""Deadlines in milliseconds for many sessions on one timer, which is set only while there is one to wait for.

``relay.core.wheel`` ticks for ever at 50 ms; transports that send again after 30 ms need a finer one, and one that
costs nothing while all sessions are idle. An entry stands in one slot; adding it earlier moves it, the older place is
passed over then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

SLOT_MS: Final = 5


class Due(Protocol):
    """What can stand on the wheel. ``due`` is the wheel's: the slot, 0 for none."""

    due: int


D = TypeVar("D", bound=Due)


class FineWheel(Generic[D]):
    """``expire(entry)`` is called once a deadline has passed, at most a slot later. ``now()`` is in milliseconds."""

    __slots__ = ("_call", "_clock", "_expire", "_now", "_slot", "_slots")

    def __init__(self, clock: IReactorTime, now: Callable[[], int], expire: Callable[[D], None]) -> None:
        self._clock = clock
        self._now = now
        self._expire = expire
        self._slots: dict[int, list[D]] = {}
        self._slot = 0
        self._call: IDelayedCall | None = None

    def add(self, entry: D, at: int, now: int) -> None:
        """``entry`` is due at ``at``, unless it is due before that anyway."""
        slot = max(at, now + 1) // SLOT_MS + 1
        if entry.due and entry.due <= slot:
            return
        entry.due = slot
        standing = self._slots.get(slot)
        if standing is None:
            self._slots[slot] = [entry]
        else:
            standing.append(entry)
        if self._call is None:
            self._slot = now // SLOT_MS
            self._call = self._clock.callLater(SLOT_MS / 1000, self._turn)

    def stop(self) -> None:
        """No more calls."""
        self._slots.clear()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _turn(self) -> None:
        """A slot has passed, or several when the machine was busy."""
        current = self._now() // SLOT_MS
        slots = self._slots
        if current - self._slot <= len(slots):
            passed = [slot for slot in range(self._slot + 1, current + 1) if slot in slots]
        else:
            passed = sorted(slot for slot in slots if slot <= current)
        self._slot = current
        # Not None meanwhile: who is added by what is called must not set a second timer.
        for slot in passed:
            for entry in slots.pop(slot, ()):
                if entry.due == slot:
                    entry.due = 0
                    try:
                        self._expire(entry)
                    except Exception:  # noqa: BLE001 - logged; one session's mistake must not stop the others
                        log.failure("a deadline of a session failed")
        self._call = self._clock.callLater(SLOT_MS / 1000, self._turn) if slots else None
