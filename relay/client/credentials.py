"""The token of a client: shown at the next hello, replaced when it runs out or is refused."""

from __future__ import annotations

from relay.client.effects import Effect, WantToken
from relay.client.options import Identity

_INF = float("inf")


class Credentials:
    """``token``: to be shown; '' when there is none. ``fresh``: it was made since the last welcome, so that a refusal
    is a refusal of the application's best."""

    def __init__(self, identity: Identity, effects: list[Effect]) -> None:
        self.token = identity.token
        self.fresh = False
        self._made_when_wanted = identity.token_wanted
        self._asked = False
        self._until = _INF
        self._effects = effects

    def missing(self, now: float) -> bool:
        """Whether the application has to make a token before a hello is said."""
        return self._made_when_wanted and (not self.token or now >= self._until)

    def want(self) -> None:
        """Ask the application for a token, unless it makes none or is being asked."""
        if self._made_when_wanted and not self._asked:
            self._asked = True
            self._effects.append(WantToken())

    def made(self, token: str) -> None:
        """The application's new token."""
        self.token = token
        self.fresh = True
        self._asked = False
        self._until = _INF

    def not_made(self) -> None:
        """The application has none now."""
        self._asked = False

    def accepted(self, until: float | None, token: str | None = None) -> None:
        """The server took the token (or ``token``, by refresh); ``until``: when it runs out, if that was said."""
        if token is not None:
            self.token = token
            self._until = _INF
        self.fresh = False
        if until is not None:
            self._until = until

    def refused(self) -> bool:
        """The server did not take the token, or no longer: whether the application may have a better one."""
        if self.fresh or not self._made_when_wanted:
            return False
        self.token = ""
        return True
