"""What only the leader proposes for the key-value state: its time, and the limits of its configuration.

While this node leads it looks ten times a second whether a lease waits for the time, and proposes it then. Its time
goes on from the latest that was proposed and counts by its own monotonic clock: no two nodes' clocks are compared, and
no lease ends early because one of them is wrong. Nor because one that led before had not noticed: its time is of a term
that is over, and does not count.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.commands import Limits, Operation, Result, SetLimits, Time
from relay.cluster.kv.machine import KeyValueMachine
from relay.errors import RelayError

LOOK_S: Final = 0.1

log = Logger()


class Timekeeper:
    """``limits``: what the state may hold by this node's configuration."""

    def __init__(self, machine: KeyValueMachine, keys: KeyValue, clock: IReactorTime, limits: Limits) -> None:
        self._machine = machine
        self._keys = keys
        self._clock = clock
        self._limits = limits
        self._term = 0  # in which this node leads
        self._ahead_ms = 0.0  # the group's time less this node's clock
        self._proposed: Operation | None = None
        self._look_at: IDelayedCall | None = None
        machine.led = self._led

    def stop(self) -> None:
        """Propose no more."""
        self._machine.led = None
        self._led(0)

    def now_ms(self) -> int:
        """The time that this node would propose."""
        own_ms = self._clock.seconds() * 1000
        self._ahead_ms = max(self._ahead_ms, self._machine.state.leases.time_ms - own_ms)
        return int(own_ms + self._ahead_ms)

    def _led(self, term: int) -> None:
        """This node leads in ``term``; 0: it does not."""
        self._term = term
        if self._look_at is not None:
            self._look_at.cancel()
            self._look_at = None
        self._proposed = None
        if term:
            self._ahead_ms = self._machine.state.leases.time_ms - self._clock.seconds() * 1000
            self._look_at = self._clock.callLater(LOOK_S, self._look)

    def _look(self) -> None:
        self._look_at = self._clock.callLater(LOOK_S, self._look)
        if self._proposed is not None:
            return
        state = self._machine.state
        now_ms = self.now_ms()
        if state.limits != self._limits:
            self._propose(SetLimits(self._limits))
        elif state.leases.wants_time(now_ms):
            self._propose(Time(now_ms, self._term))

    def _propose(self, operation: Operation) -> None:
        self._proposed = operation

        def done(result: Result, error: RelayError | None) -> None:
            # What failed is proposed again at the next look, if it is still wanted.
            if self._proposed is operation:
                self._proposed = None

        self._keys.propose_unnumbered(operation, done)
