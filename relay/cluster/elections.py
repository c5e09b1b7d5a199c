"""Elections by the replicated state: at most one candidate of each is on duty, with a fencing token.

    one lease for all candidacies of this node, renewed three times in its life
    grant ─▶ campaign … ─▶ the state settles who is on duty ─▶ every node sees the key change ─▶ on-duty / standby
    give_up ─▶ resign: the same entry of the log makes the next one on duty

A candidate claims to be on duty only while its lease surely lasts: ``ttl``, less what clocks may differ, from when the
last successful renewal was *sent*. A node that is cut off becomes busy by its own clock before the state gives the duty
to another. What remains is a process that is stopped between looking at its state and acting: for that there is the
token.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from relay.cluster.candidacy import BUSY, ON_DUTY, OUT, STANDBY, Candidacy
from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.ballots import PREFIX, candidate_key, check_election, duty_of, election_of
from relay.cluster.kv.commands import Campaign, Event, Grant, Keep, Resign, Revoke
from relay.core.seldom import Seldom
from relay.errors import BadName, Conflict, LimitExceeded, NotFound, RelayError
from relay.interfaces import ICandidacy, IElections

TTL_S: Final = 5.0
"""How long a crashed candidate keeps its duty at least: ten elections of the group's leader."""
RENEWALS: Final = 3
DRIFT: Final = 0.05
"""By so much of its length a candidate ends its lease early: its clock and the leader's may differ so much in rate."""
AGAIN_S: Final = 0.2
"""After something failed: about the shortest election of the group's leader."""
CANDIDACIES_MAX: Final = 1000

log = Logger()


@implementer(IElections)
class RaftElections:
    """The candidacies of one candidate, for instance a node. ``candidate``: its name, one of each name in a cluster."""

    def __init__(
        self, keys: KeyValue, candidate: str, ttl_s: float = TTL_S, candidacies_max: int = CANDIDACIES_MAX
    ) -> None:
        self.candidate = candidate
        self._keys = keys
        self._clock = keys.clock
        self._ttl_s = ttl_s
        self._candidacies_max = candidacies_max
        self._candidacies: dict[str, Candidacy] = {}
        self._lease = 0
        self._valid_until_s = 0.0
        self._granting = False
        self._joining: set[str] = set()
        self._renewal: IDelayedCall | None = None
        self._expiry: IDelayedCall | None = None
        self._end: Callable[[], None] | None = None
        self._seldom = Seldom(keys.clock)

    # --- IElections -----------------------------------------------------------------------------------------------

    def campaign(self, election: str, changed: Callable[[ICandidacy], object], value: bytes = b"") -> Candidacy:
        """As ``IElections``."""
        mistake = check_election(election, self.candidate)
        if mistake:
            raise BadName(mistake)
        if election in self._candidacies:
            raise Conflict(f"{self.candidate} is a candidate of {election}")
        if len(self._candidacies) >= self._candidacies_max:
            raise LimitExceeded(f"{self._candidacies_max} candidacies are the limit")
        if self._end is None:
            self._end = self._keys.listen(PREFIX, self._seen)
        candidacy = self._candidacies[election] = Candidacy(election, value, changed, self._give_up)
        self._background(self._join(candidacy) if self._lease else self._grant())
        return candidacy

    def stop(self) -> Deferred[None]:
        """As ``IElections``; the lease ends too."""
        leaving = gatherResults([each.give_up() for each in list(self._candidacies.values())], consumeErrors=True)

        def over(_: object) -> Deferred[None]:
            lease = self._lease
            self._forget_lease()
            if self._end is not None:
                self._end()
                self._end = None
            return Deferred.fromCoroutine(self._revoke(lease) if lease else _nothing())

        return leaving.addBoth(over)

    # --- the lease ------------------------------------------------------------------------------------------------

    async def _grant(self) -> None:
        """Have a lease, and with it all candidacies."""
        if self._granting:
            return
        self._granting = True
        try:
            while not self._lease and self._candidacies:
                sent_at_s = self._clock.seconds()
                try:
                    granted = await self._keys.execute(Grant(int(self._ttl_s * 1000)))
                except RelayError as error:
                    await self._wait("a lease for elections", error)
                    continue
                self._lease = granted.ids[0]
                self._renewed(sent_at_s)
        finally:
            self._granting = False
        for candidacy in list(self._candidacies.values()):
            self._background(self._join(candidacy))

    def _renewed(self, sent_at_s: float) -> None:
        """The lease lasts for ``ttl`` from ``sent_at_s`` on; that may be over, then the next renewal is due now."""
        self._stop_timers()
        self._valid_until_s = sent_at_s + self._ttl_s * (1 - DRIFT)
        left_s = self._valid_until_s - self._clock.seconds()
        after_s = self._ttl_s / RENEWALS if left_s > 0 else 0
        self._renewal = self._clock.callLater(after_s, lambda: self._background(self._renew(self._lease)))
        if left_s > 0:
            self._expiry = self._clock.callLater(left_s, self._expired)
        else:
            self._expired()

    def _expired(self) -> None:
        """The lease may be over; whether it is only the state can tell."""
        self._expiry = None
        for candidacy in list(self._candidacies.values()):
            candidacy.become(BUSY)

    async def _renew(self, lease: int) -> None:
        if not self._candidacies:
            # Nobody needs it any more; the next candidacy gets another.
            self._forget_lease()
            await self._revoke(lease)
            return
        while lease == self._lease and self._lease:
            sent_at_s = self._clock.seconds()
            try:
                kept = await self._keys.execute(Keep((lease,)))
            except RelayError as error:
                await self._wait("renewing the lease of elections", error)
                continue
            if lease != self._lease:
                return
            if kept.ids:
                self._lost()
                return
            self._renewed(sent_at_s)
            self._look_at_all()
            return

    def _lost(self) -> None:
        """The lease is over in the state, and with it all candidacies: begin anew, at the end of every queue."""
        self._forget_lease()
        for candidacy in list(self._candidacies.values()):
            candidacy.become(BUSY)
        self._background(self._grant())

    def _forget_lease(self) -> None:
        self._lease = 0
        self._valid_until_s = 0.0
        self._stop_timers()

    def _stop_timers(self) -> None:
        for call in (self._renewal, self._expiry):
            if call is not None and call.active():
                call.cancel()
        self._renewal = self._expiry = None

    async def _revoke(self, lease: int) -> None:
        try:
            await self._keys.execute(Revoke(lease))
        except RelayError as error:
            log.info("the lease of elections ends by itself: {error}", error=str(error))

    # --- candidacies ----------------------------------------------------------------------------------------------

    async def _join(self, candidacy: Candidacy) -> None:
        election = candidacy.election
        if election in self._joining:
            return
        self._joining.add(election)
        try:
            await self._campaign(election, candidacy)
        finally:
            self._joining.discard(election)
        if candidacy.state == OUT and election not in self._candidacies:
            # It gave up while it joined, and the resignation may have come first.
            await self._resign(election, self._lease)
        else:
            self._look(election)

    async def _campaign(self, election: str, candidacy: Candidacy) -> None:
        while self._lease and self._candidacies.get(election) is candidacy:
            lease = self._lease
            try:
                await self._keys.execute(Campaign(election, self.candidate, lease, candidacy.value))
            except NotFound:
                if lease == self._lease:
                    self._lost()
                return
            except RelayError as error:
                await self._wait(f"joining the election {election}", error)
                continue
            return

    def _give_up(self, candidacy: Candidacy) -> Deferred[None]:
        if candidacy.state == OUT:
            return Deferred.fromCoroutine(_nothing())
        candidacy.become(OUT)
        if self._candidacies.get(candidacy.election) is candidacy:
            del self._candidacies[candidacy.election]
        return Deferred.fromCoroutine(self._resign(candidacy.election, self._lease))

    async def _resign(self, election: str, lease: int) -> None:
        """Leave for certain: until then, or until the lease is over, the others wait."""
        while lease and lease == self._lease:
            try:
                await self._keys.execute(Resign(election, self.candidate, lease))
            except NotFound:
                return
            except RelayError as error:
                await self._wait(f"giving up {election}", error)
                continue
            return

    # --- what the state says --------------------------------------------------------------------------------------

    def _seen(self, events: list[Event] | None) -> None:
        """Keys of elections have changed. ``changed`` of an application is called in a later turn."""
        if events is None:
            self._clock.callLater(0, self._look_at_all)
            return
        for election in {election_of(event.pair.key) for event in events}:
            if election in self._candidacies:
                self._clock.callLater(0, self._look, election)

    def _look_at_all(self) -> None:
        for election in list(self._candidacies):
            self._look(election)

    def _look(self, election: str) -> None:
        candidacy = self._candidacies.get(election)
        if candidacy is None or not self._lease:
            return
        keys = self._keys.state.keys
        duty = duty_of(keys, election)
        own = keys.get(candidate_key(election, self.candidate))
        if own is None:
            # Not yet, or no more: an earlier resignation from the same election came late.
            candidacy.become(BUSY)
            self._background(self._join(candidacy))
        elif duty is None or own.lease != self._lease or self._clock.seconds() >= self._valid_until_s:
            candidacy.become(BUSY)
        elif duty.candidate == self.candidate:
            candidacy.become(ON_DUTY, duty.candidate, duty.token)
        else:
            candidacy.become(STANDBY, duty.candidate)

    # --- in the background ----------------------------------------------------------------------------------------

    async def _wait(self, what: str, error: RelayError) -> None:
        others = self._seldom.due(what)
        if others is not None:
            log.info("{what}: {error}; again ({others} more times unreported)", what=what, error=error, others=others)
        await deferLater(self._clock, AGAIN_S)

    def _background(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:  # Any: what it waits for
        Deferred.fromCoroutine(coroutine).addErrback(lambda failure: log.failure("elections", failure))


async def _nothing() -> None:
    """Done already."""
