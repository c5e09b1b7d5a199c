"""Looking for another leader at once, where the old one's node is known to be gone.

::

    node lost ─▶ forget it as leader ─random campaign_ms─▶ campaign (pre-vote) ─▶ again, later, a few times,
                                                                                 while no leader is known

The random time keeps two followers from splitting the votes; a follower that has not noticed yet refuses, as it hears a
leader, which the second try gets over. Once in an election time-out for each node, however often its link breaks.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relay.cluster.raft.types import LEADER, NONE
from relay.cluster.replica import Host, Replica


class Campaigns:
    """See the module."""

    __slots__ = ("_calls", "_clock", "_host", "_last", "started")

    def __init__(self, host: Host, clock: IReactorTime) -> None:
        self._host = host
        self._clock = clock
        self._calls: set[IDelayedCall] = set()
        self._last: dict[int, int] = {}  # the tick at which each node was lost last
        self.started = 0

    def leader_lost(self, node: int, replicas: Iterable[Replica]) -> None:
        """``node`` is gone: the groups that it led among ``replicas`` look for another leader."""
        ticks, options = self._host.ticks, self._host.options
        if ticks - self._last.get(node, -options.election_ticks) < options.election_ticks:
            return
        led = [each for each in replicas if each.raw.raft.lead == node and each.raw.raft.role != LEADER]
        if not led:
            return
        self._last[node] = ticks
        for replica in led:
            replica.wake()
            replica.raw.forget_leader()
            self._host.mark(replica)
        self._later(led, 1)

    def stop(self) -> None:
        """No campaigns any more."""
        for call in self._calls:
            if call.active():
                call.cancel()
        self._calls.clear()

    def _later(self, replicas: list[Replica], attempt: int) -> None:
        options = self._host.options
        low, high = options.campaign_ms_min, options.campaign_ms_max
        if attempt > 1:
            # Long enough for the votes of the try before to be written and to come.
            low, high = high, 2 * high
        delay_ms = low + self._host.random_below(high - low)
        call = self._clock.callLater(delay_ms / 1000, self._campaign, replicas, attempt)
        self._calls = {each for each in self._calls if each.active()}
        self._calls.add(call)

    def _campaign(self, replicas: list[Replica], attempt: int) -> None:
        looking = [each for each in replicas if each.raw.raft.lead == NONE]
        try:
            for replica in looking:
                replica.wake()
                replica.raw.campaign()
                self.started += 1
                self._host.mark(replica)
        except Exception as error:  # noqa: BLE001 - a core that contradicts itself must not go on
            self._host.fail(error)
            return
        if looking and attempt < self._host.options.campaigns:
            self._later(looking, attempt + 1)
