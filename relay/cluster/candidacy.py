"""A candidate in an election, as whoever wants the duty sees it; both kinds of elections give the same.

    campaign ─▶ busy ──▶ standby ──▶ on-duty ──give_up──▶ out
                 ▲          │           │
                 └──────────┴───────────┘  it cannot tell: the lease is not renewed, nobody is heard

=======  =============================================================================================================
state    meaning
=======  =============================================================================================================
busy     it is being found out who is on duty; this candidate is not
standby  another one is on duty
on-duty  this one is
out      it gave up, or was never in
=======  =============================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from twisted.internet.defer import Deferred
from zope.interface import implementer

from relay.interfaces import ICandidacy

State = Literal["busy", "standby", "on-duty", "out"]
BUSY: Final = "busy"
STANDBY: Final = "standby"
ON_DUTY: Final = "on-duty"
OUT: Final = "out"

Token = tuple[int, int]


@implementer(ICandidacy)
class Candidacy:
    """The base: state, and who is told. ``leave`` does what giving up takes."""

    def __init__(
        self, election: str, value: bytes, changed: Callable[[ICandidacy], object],
        leave: Callable[[Candidacy], Deferred[None]],
    ) -> None:  # fmt: skip
        self.election = election
        self.value = value
        self.state: State = BUSY
        self.duty = ""
        self.token: Token | None = None
        self._changed = changed
        self._leave = leave

    def give_up(self) -> Deferred[None]:
        """As ``ICandidacy``."""
        return self._leave(self)

    def become(self, state: State, duty: str = "", token: Token | None = None) -> None:
        """Change, and tell; nothing when it is so already. A candidate that is out stays out."""
        if self.state == OUT or (state, duty, token) == (self.state, self.duty, self.token):
            return
        self.state, self.duty, self.token = state, duty, token
        self._changed(self)
