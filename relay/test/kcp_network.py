"""Two KCP sessions and a network between them in simulated time: loss, duplication, delay, reordering, noise."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Final

import attrs

from relay.wire.kcp.ciphers import cipher_of
from relay.wire.kcp.options import KcpOptions
from relay.wire.kcp.session import KcpSession

KEY: Final = bytes(range(32))


@attrs.frozen
class Weather:
    """Parts of 1; ``delay_ms`` one way, ``jitter_ms`` more at random (which reorders)."""

    loss: float = 0.0
    twice: float = 0.0
    noise: float = 0.0
    delay_ms: int = 10
    jitter_ms: int = 0


class Pair:
    """``left`` and ``right`` with their network; time is ``now``. ``at_step(pair)`` runs at each step: at every
    millisecond when ``steady``, else whenever something happens."""

    def __init__(
        self, options: KcpOptions, weather: Weather, seed: int, cipher: str = "null", other: KcpOptions | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.weather = weather
        made = cipher_of(cipher, KEY)
        self.left = KcpSession(7, options, made, self.random.randbytes)
        self.right = KcpSession(7, other or options, made, self.random.randbytes)
        self.now = 0
        self.datagrams = 0
        self.steady = False
        self.at_step: Callable[[Pair], None] | None = None
        self._way: list[tuple[int, int, KcpSession, bytes]] = []

    def step(self) -> None:
        """One step: each side sends what is due, and gets what has arrived."""
        if self.at_step is not None:
            self.at_step(self)
        for sender, receiver in ((self.left, self.right), (self.right, self.left)):
            for datagram in sender.flush(self.now):
                self._send(receiver, datagram)
        self.now = self.now + 1 if self.steady else self._next()
        while self._way and self._way[0][0] <= self.now:
            _, _, receiver, datagram = heapq.heappop(self._way)
            receiver.receive_datagram(datagram, self.now)

    def _next(self) -> int:
        """When something happens next: something arrives, or a timer is due."""
        due = [each for each in (self.left.next_timer(), self.right.next_timer()) if each is not None]
        if self._way:
            due.append(self._way[0][0])
        return max(self.now + 1, min(due, default=0))

    def run(self, until: Callable[[], bool], within_ms: int) -> bool:
        """Step until it is so; False when it takes longer."""
        end = self.now + within_ms
        while not until():
            if self.now >= end:
                return False
            self.step()
        return True

    def _send(self, receiver: KcpSession, datagram: bytes) -> None:
        self.datagrams += 1
        chance, weather = self.random.random, self.weather
        if chance() < weather.loss:
            return
        if chance() < weather.noise:
            at = self.random.randrange(len(datagram))
            datagram = datagram[:at] + self.random.randbytes(1) + datagram[at + 1 :]
        for _ in range(2 if chance() < weather.twice else 1):
            due = self.now + weather.delay_ms + self.random.randrange(weather.jitter_ms + 1)
            heapq.heappush(self._way, (due, self.datagrams * 2 + _, receiver, datagram))
