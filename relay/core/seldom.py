"""Log lines about what may happen a thousand times a second: one now and then, with the number of those left out."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

PERIOD_S: Final = 1.0
KEYS_MAX: Final = 1000


class Seldom:
    """``due`` lets one through per key and ``period_s``."""

    __slots__ = ("_clock", "_left_out", "_period_s", "_spoken_at")

    def __init__(self, clock: IReactorTime, period_s: float = PERIOD_S) -> None:
        self._clock = clock
        self._period_s = period_s
        self._spoken_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def due(self, key: str) -> int | None:
        """How many of ``key`` were left out since the last line, when it is time for another; else None."""
        now = self._clock.seconds()
        spoken_at = self._spoken_at.get(key)
        if spoken_at is not None and now - spoken_at < self._period_s:
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return None
        if spoken_at is None and len(self._spoken_at) >= KEYS_MAX:
            self._spoken_at.clear()
            self._left_out.clear()
        self._spoken_at[key] = now
        return self._left_out.pop(key, 0)
