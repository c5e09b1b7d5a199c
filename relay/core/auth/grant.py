"""What an issuer says about a session (a token's claims, a call-out's answer), checked and made an ``Identity``.

The issuer is trusted to decide, not to be without mistakes: names outside the grammar or too many of them refuse the
session, so that nothing malformed gets into the core's tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.config_auth import Permit
from relay.config_types import Secret
from relay.core.identity import Identity
from relay.core.permissions import ACTIONS, permissions_for
from relay.errors import BadBody, BadName, ConfigError, RelayError, Unauthenticated
from relay.wire.names import check_pattern

NAME_BYTES_MAX: Final = 255
PATTERNS_MAX: Final = 1000  # per action; a token of 8 KiB holds fewer
SUBSCRIPTIONS_MAX: Final = 1000

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


class Declined(Unauthenticated):
    """Not this authenticator's to decide; the sentence is for when no other takes it either."""


class Grant(msgspec.Struct, frozen=True):
    """The answer of a call-out. ``user`` "" leaves the session unbound; ``realm`` "" is the listener's."""

    user: str | int
    realm: str = ""
    device: str = ""
    permissions: Permit | None = None
    subscriptions: tuple[str, ...] = ()
    expires_in_s: Annotated[float, Meta(gt=0)] | None = None
    token_id: str = ""


def check_user(text: str, what: str = "user") -> None:
    """Raises ``BadName`` unless ``text`` is 1-255 bytes of UTF-8 without control characters."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadName(f"a {what} that is not UTF-8") from None
    if not 1 <= size <= NAME_BYTES_MAX or _CONTROL.search(text):
        raise BadName(f"a {what} has 1 to {NAME_BYTES_MAX} bytes without control characters")


def identity_of(
    grant: Grant,
    *,
    method: str,
    permit: Permit,
    expires_at: float | None = None,
) -> Identity:
    """``grant`` as an identity; ``permit`` holds where it names no permissions.

    ``expires_at`` is Unix time in seconds. Raises ``BadName`` or ``BadBody`` when the grant cannot be used.
    """
    user = str(grant.user)
    for text, what in ((user, "user"), (grant.realm, "realm"), (grant.device, "device")):
        if text:
            check_user(text, what)
    if grant.permissions is not None:
        permit = grant.permissions
        for action in ACTIONS:
            _check_patterns(getattr(permit, action), PATTERNS_MAX)
    _check_patterns(grant.subscriptions, SUBSCRIPTIONS_MAX)
    return Identity(
        user=user,
        realm=grant.realm,
        permissions=permissions_for(permit, user),
        method=method,
        subscriptions=grant.subscriptions,
        expires_at=expires_at,
        token_id=grant.token_id,
        device=grant.device,
    )


def _check_patterns(patterns: tuple[str, ...], count_max: int) -> None:
    if len(patterns) > count_max:
        raise BadBody(f"{len(patterns)} patterns, at most {count_max} are allowed")
    for pattern in patterns:
        check_pattern(pattern)


def converted(value: Any, type_: Any, what: str) -> Any:  # Any: JSON in, a value of ``type_`` out
    """``value`` as ``type_``. Raises ``BadBody`` that names ``what``."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise BadBody(f"{what}: {error}") from None


def refused(error: RelayError, what: str) -> Unauthenticated:
    """``error`` of :func:`identity_of` as a refusal of the session."""
    return Unauthenticated(f"{what}: {error}")


def secret_text(secret: Secret | None, what: str) -> str:
    """A secret whose reference was followed when the configuration was read. Raises ``ConfigError``."""
    if not isinstance(secret, str) or not secret:
        raise ConfigError(f"{what}: the secret is missing or was not read from its file or variable")
    return secret


def check_permit(permit: Permit, what: str) -> None:
    """Raises ``ConfigError`` for a pattern outside the grammar."""
    for action in ACTIONS:
        check_configured(getattr(permit, action), f"{what}.{action}")


def check_configured(patterns: Iterable[str], what: str) -> None:
    """Raises ``ConfigError`` for a pattern of the configuration outside the grammar."""
    for pattern in patterns:
        try:
            check_pattern(pattern)
        except BadName as error:
            raise ConfigError(f"{what}: {error}") from None
