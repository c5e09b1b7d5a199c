"""Elections by heartbeats: light, without a log, and weaker.

    every ``interval_s`` each candidate tells all nodes:  [version, election, candidate, epoch, state]
    nobody heard on duty for ``timeout_s`` ─▶ the first living candidate by name is on duty, with the next epoch
    two on duty hear one another           ─▶ the one with the lower epoch (or later name) steps back
    give_up                                ─▶ tells so at once; the next does not wait for a time-out

**Two candidates may be on duty at once**, as long as they do not hear one another: under a partition each side has its
own, for its whole length, and after a loss of messages for as long as it lasts. The token ``(epoch, 0)`` mostly grows,
but two may have the same: it is no fence. Use it where two at once are a waste and not a damage; else use
``relay.cluster.elections``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from relay.cluster.candidacy import BUSY, ON_DUTY, OUT, STANDBY, Candidacy
from relay.cluster.kv.ballots import check_election
from relay.errors import BadName, Conflict, LimitExceeded, RemoteProtocolError
from relay.interfaces import ICandidacy, IElections

VERSION: Final = 1
INTERVAL_S: Final = 0.5
TIMEOUTS: Final = 3
"""Intervals of silence after which a candidate is taken to be gone."""
CANDIDACIES_MAX: Final = 1000
OTHERS_MAX: Final = 1000
"""Candidates of one election that are remembered; further ones are not heard."""


class Beat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a candidate tells."""

    version: Literal[1]
    election: str
    candidate: str
    epoch: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    state: Literal["busy", "standby", "on-duty", "out"]


class _Other:
    """Another candidate as it was heard last."""

    __slots__ = ("epoch", "heard_at_s", "on_duty")

    def __init__(self, epoch: int, on_duty: bool, heard_at_s: float) -> None:
        self.epoch = epoch
        self.on_duty = on_duty
        self.heard_at_s = heard_at_s


class _Race:
    """One election: this node's candidacy and the others."""

    def __init__(self, candidacy: Candidacy, now_s: float) -> None:
        self.candidacy = candidacy
        self.others: dict[str, _Other] = {}
        self.epoch = 0  # the highest that was heard or taken
        self.listening_since_s = now_s


_decoder: Final = msgspec.msgpack.Decoder(Beat)


@implementer(IElections)
class HeartbeatElections:
    """``send`` brings bytes to all other nodes, or loses them; they call ``receive`` there."""

    def __init__(
        self,
        candidate: str,
        clock: IReactorTime,
        send: Callable[[bytes], object],
        interval_s: float = INTERVAL_S,
        candidacies_max: int = CANDIDACIES_MAX,
    ) -> None:
        self.candidate = candidate
        self._clock = clock
        self._send = send
        self._interval_s = interval_s
        self._timeout_s = interval_s * TIMEOUTS
        self._candidacies_max = candidacies_max
        self._races: dict[str, _Race] = {}
        self._tick: IDelayedCall | None = None

    # --- IElections -----------------------------------------------------------------------------------------------

    def campaign(self, election: str, changed: Callable[[ICandidacy], object], value: bytes = b"") -> Candidacy:
        """As ``IElections``; others do not see ``value``."""
        mistake = check_election(election, self.candidate)
        if mistake:
            raise BadName(mistake)
        if election in self._races:
            raise Conflict(f"{self.candidate} is a candidate of {election}")
        if len(self._races) >= self._candidacies_max:
            raise LimitExceeded(f"{self._candidacies_max} candidacies are the limit")
        candidacy = Candidacy(election, value, changed, self._give_up)
        race = self._races[election] = _Race(candidacy, self._clock.seconds())
        self._tell(race)
        if self._tick is None:
            self._tick = self._clock.callLater(self._interval_s, self._beat)
        return candidacy

    def stop(self) -> Deferred[None]:
        """As ``IElections``."""
        for race in list(self._races.values()):
            self._give_up(race.candidacy)
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        return succeed(None)

    def _give_up(self, candidacy: Candidacy) -> Deferred[None]:
        race = self._races.get(candidacy.election)
        if race is not None and race.candidacy is candidacy:
            del self._races[candidacy.election]
            candidacy.become(OUT)
            self._tell(race)
        return succeed(None)

    # --- beats ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """What another node sent. Raises ``RemoteProtocolError``."""
        try:
            beat = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(f"a heartbeat of an election: {error}") from None
        race = self._races.get(beat.election)
        if race is None or beat.candidate == self.candidate:
            return
        if beat.state == OUT:
            race.others.pop(beat.candidate, None)
        elif beat.candidate in race.others or len(race.others) < OTHERS_MAX:
            race.others[beat.candidate] = _Other(beat.epoch, beat.state == ON_DUTY, self._clock.seconds())
        race.epoch = max(race.epoch, beat.epoch)
        self._judge(race)

    def _beat(self) -> None:
        self._tick = self._clock.callLater(self._interval_s, self._beat) if self._races else None
        for race in list(self._races.values()):
            self._judge(race)
            self._tell(race)

    def _tell(self, race: _Race) -> None:
        candidacy = race.candidacy
        epoch = candidacy.token[0] if candidacy.token else race.epoch
        self._send(msgspec.msgpack.encode(Beat(VERSION, candidacy.election, self.candidate, epoch, candidacy.state)))

    def _judge(self, race: _Race) -> None:
        """Who is on duty by what was heard."""
        now_s = self._clock.seconds()
        candidacy = race.candidacy
        for name in [name for name, each in race.others.items() if now_s - each.heard_at_s >= self._timeout_s]:
            del race.others[name]
        claims = [(-each.epoch, name) for name, each in race.others.items() if each.on_duty]
        if candidacy.token is not None:
            claims.append((-candidacy.token[0], self.candidate))
        if claims:
            # The highest epoch, then the first name: all who hear the same judge the same.
            first = min(claims)[1]
            if first != self.candidate:
                candidacy.become(STANDBY, first)
        elif now_s - race.listening_since_s < self._timeout_s:
            candidacy.become(BUSY)  # somebody on duty may not have been heard yet
        elif min([self.candidate, *race.others]) == self.candidate:
            race.epoch += 1
            candidacy.become(ON_DUTY, self.candidate, (race.epoch, 0))
            self._tell(race)
        else:
            candidacy.become(BUSY)
