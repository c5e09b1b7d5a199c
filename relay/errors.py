"""The errors of relay: one hierarchy, numbered on the wire.

Every error that can reach another party carries three facts: ``code`` (a number of the table below), ``temporary``
(the same request may succeed later) and ``outcome`` (``not_done``: it had no effect; ``unknown``: it may have had).
The table is part of the protocol (``docs/protocol.md``, "Errors"); numbers are never given twice. Codes from
:data:`APPLICATION_CODE_MIN` on belong to applications.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Outcome = Literal["not_done", "unknown"]

APPLICATION_CODE_MIN = 1000


class RelayError(Exception):
    """The root. ``str(error)`` is a sentence for a person; ``code``, ``temporary`` and ``outcome`` are for programs."""

    code: ClassVar[int] = 1
    label: ClassVar[str] = "internal"
    temporary: bool = False
    outcome: Outcome = "not_done"

    def __init__(self, message: str = "", *, temporary: bool | None = None, outcome: Outcome | None = None) -> None:
        super().__init__(message or self.label.replace("_", " "))
        if temporary is not None:
            self.temporary = temporary
        if outcome is not None:
            self.outcome = outcome


class InternalError(RelayError):
    """Something of relay's own went wrong; it is logged there with a traceback."""

    outcome: Outcome = "unknown"


class ConfigError(RelayError):
    """The configuration cannot be used; the sentence says file, path, what was expected and the nearest right name."""

    code = 2
    label = "configuration"


# --- what a peer sent ---------------------------------------------------------------------------------------------


class RemoteProtocolError(RelayError):
    """The peer broke the protocol: its connection ends with close reason ``protocol``."""

    code = 10
    label = "protocol"


class FrameTooLarge(RemoteProtocolError):
    """A frame, or what it unpacks to, is over a limit: the connection ends with close reason ``too_large``."""

    code = 11
    label = "too_large"


class Unsupported(RelayError):
    """A kind, a critical flag, a critical field or an option that this side does not know."""

    code = 12
    label = "unsupported"


class BadName(RelayError):
    """A name or pattern outside the grammar of names."""

    code = 13
    label = "bad_name"


class BadBody(RelayError):
    """The body or a field of a well-formed frame does not say what its kind needs."""

    code = 14
    label = "bad_body"


class FilterError(RelayError):
    """A transfer filter is unknown, fails its check, or inflates past the limit."""

    code = 15
    label = "filter"


# --- who may ------------------------------------------------------------------------------------------------------


class Unauthenticated(RelayError):
    """No accepted proof of identity."""

    code = 20
    label = "unauthenticated"


class Denied(RelayError):
    """The session's permissions do not allow this."""

    code = 21
    label = "denied"


class Expired(RelayError):
    """The session's credentials have run out or were revoked."""

    code = 22
    label = "expired"


class AuthUnavailable(RelayError):
    """Whoever decides (a key URL, a call-out, a plugin) does not answer."""

    code = 23
    label = "auth_unavailable"
    temporary = True


class Refused(RelayError):
    """A hook of the application refused this one message."""

    code = 24
    label = "refused"


# --- who is there -------------------------------------------------------------------------------------------------


class NoReceiver(RelayError):
    """The addressed user, device, session or node is not here."""

    code = 30
    label = "no_receiver"
    temporary = True


class NoProvider(RelayError):
    """Nobody answers that procedure now."""

    code = 31
    label = "no_provider"
    temporary = True


class ProviderLost(RelayError):
    """The provider vanished after it was asked."""

    code = 32
    label = "provider_lost"
    temporary = True
    outcome: Outcome = "unknown"


class DeadlineExceeded(RelayError):
    """No answer within the deadline."""

    code = 33
    label = "deadline"
    temporary = True
    outcome: Outcome = "unknown"


class Cancelled(RelayError):
    """The one who asked took the question back."""

    code = 34
    label = "cancelled"
    outcome: Outcome = "unknown"


class NotFound(RelayError):
    """The subscription, registration, message or other thing named does not exist."""

    code = 35
    label = "not_found"


class Conflict(RelayError):
    """It exists already, or in another form."""

    code = 36
    label = "conflict"


class Gone(RelayError):
    """The part of a history that was asked for is kept no more: look at the state, then go on from there."""

    code = 37
    label = "gone"


# --- how much -----------------------------------------------------------------------------------------------------


class RateExceeded(RelayError):
    """Too much at once."""

    code = 40
    label = "rate"
    temporary = True


class LimitExceeded(RelayError):
    """A number of things (subscriptions, registrations, pending pulls …) is at its limit."""

    code = 41
    label = "limit"


class Full(RelayError):
    """A store or queue has no room."""

    code = 42
    label = "full"
    temporary = True


class Unavailable(RelayError):
    """The node is stopping, starting, or lost what it needs."""

    code = 43
    label = "unavailable"
    temporary = True


class ConnectionClosed(RelayError):
    """The session ended before the answer came."""

    code = 44
    label = "connection_closed"
    temporary = True
    outcome: Outcome = "unknown"


# --- from applications --------------------------------------------------------------------------------------------


class ApplicationError(RelayError):
    """A provider's own error: ``app_code`` (>= 1000 when it gave one) and ``data`` (JSON) are the provider's."""

    code = APPLICATION_CODE_MIN
    label = "application"
    outcome: Outcome = "unknown"

    def __init__(
        self,
        message: str = "",
        *,
        app_code: int = APPLICATION_CODE_MIN,
        data: object = None,
        temporary: bool | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        super().__init__(message, temporary=temporary, outcome=outcome)
        self.app_code = app_code
        self.data = data


class RemoteError(RelayError):
    """An error with a number that this side has no class for."""

    def __init__(self, message: str, number: int, *, temporary: bool, outcome: Outcome) -> None:
        super().__init__(message, temporary=temporary, outcome=outcome)
        self.number = number


def _subclasses(of: type[RelayError]) -> list[type[RelayError]]:
    found = []
    for each in of.__subclasses__():
        found.append(each)
        found.extend(_subclasses(each))
    return found


BY_CODE: dict[int, type[RelayError]] = {
    each.code: each for each in _subclasses(RelayError) if each not in (RemoteError, ApplicationError)
}


def number_of(error: RelayError) -> int:
    """The number that goes on the wire for ``error``."""
    if isinstance(error, ApplicationError):
        return error.app_code
    if isinstance(error, RemoteError):
        return error.number
    return error.code


def from_wire(number: int, message: str, *, temporary: bool, outcome: Outcome, data: object = None) -> RelayError:
    """The error that another party reported, as the class with that number.

    An unknown number below 1000 becomes :class:`RemoteError`, one from 1000 on :class:`ApplicationError`.
    """
    if number >= APPLICATION_CODE_MIN:
        return ApplicationError(message, app_code=number, data=data, temporary=temporary, outcome=outcome)
    known = BY_CODE.get(number)
    if known is None:
        return RemoteError(message, number, temporary=temporary, outcome=outcome)
    return known(message, temporary=temporary, outcome=outcome)
