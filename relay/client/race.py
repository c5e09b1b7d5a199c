"""Several ways to one server, tried together: the best first, the next a little later, until the server has answered.

    waiting ── begin ──▶ running ── the server answers on one ──▶ won; what ran besides waits again
                           └── lost, time-out ──▶ out

Source: RFC 8305 ("Happy Eyeballs"), for transports instead of addresses: a network may let UDP through or not, and says
nothing when it does not. The hello is sent to the winner alone, so that there are never two sessions; only a transport
that has no handshake of its own (KCP) is given the hello to find out whether anybody is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from relay.client.effects import Changed, Chosen, Connect, Effect, Hangup
from relay.client.options import ClientOptions
from relay.client.plan import Address

_INF = float("inf")


class Race:
    """The attempts of one link. ``running``: ways by the number of their attempt; ``attempt``, ``way``: the newest, or
    the winner; ``next_at``: when another is to be begun; ``deadline``: when all that run are given up."""

    __slots__ = ("_effects", "_number", "_options", "_waiting", "_why", "attempt", "deadline", "greeted", "next_at",
                 "running", "way")  # fmt: skip

    def __init__(self, way: Address, options: ClientOptions, effects: list[Effect]) -> None:
        self.attempt = 0
        self.way = way
        self.running: dict[int, Address] = {}
        self.greeted: set[int] = set()
        """Attempts that were given the hello before the server has answered there."""
        self.next_at = _INF
        self.deadline = _INF
        self._number = 0
        self._options = options
        self._effects = effects
        self._waiting: deque[Address] = deque()
        self._why: list[str] = []

    def open(self, ways: Iterable[Address], now: float) -> None:
        """Begin with the first of ``ways``; there is at least one."""
        self._waiting = deque(ways)
        self._why = []
        self.begin(now)

    def begin(self, now: float) -> None:
        """Begin with the next."""
        self._number += 1
        self.attempt = self._number
        self.way = self.running[self.attempt] = self._waiting.popleft()
        self.next_at = now + self._options.fallback_delay_s if self._waiting else _INF
        self.deadline = now + self._options.connect_timeout_s
        self._effects.append(Changed("connecting", self.way))
        self._effects.append(Connect(self.attempt, self.way))

    def win(self, attempt: int) -> None:
        """The server has answered there. The others are given up; they are begun again should this one disappoint."""
        self.way = self.running.pop(attempt)
        self.attempt = attempt
        self._effects.append(Chosen(attempt))
        self._effects.extend(Hangup(other, True) for other in self.running)
        self._waiting.extendleft(reversed(self.running.values()))
        self.running = {}
        self.greeted.clear()
        self.next_at = _INF

    def out(self, attempt: int, reason: str) -> None:
        """That attempt, a running one or the winner, led nowhere."""
        way = self.running.pop(attempt, self.way)
        self.greeted.discard(attempt)
        self._why.append(f"{way}: {reason}")

    def give_up(self, reason: str) -> None:
        """None of those that run is waited for any longer."""
        for attempt in list(self.running):
            self._effects.append(Hangup(attempt, True))
            self.out(attempt, reason)

    def go_on(self, now: float) -> str:
        """After one is out: '' when there are others, of which the next is begun; else why there are none."""
        if self._waiting:
            self.begin(now)
        elif not self.running:
            return "; ".join(self._why) if len(self._why) > 1 else self._why[0].removeprefix(f"{self.way}: ")
        return ""
