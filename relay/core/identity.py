"""Who a session speaks for, as an authenticator found it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from relay.core.permissions import Permissions


@attrs.frozen(eq=False)
class Identity:
    """What an authenticator found out.

    ``user``: "" while unbound. ``expires_at``: Unix seconds, None: never. ``token_id``: for revocation, "" when the
    method has none. ``subscriptions``: channels that the server subscribes for the session. ``method``: the
    authenticator's name.
    """

    user: str
    realm: str
    permissions: Permissions
    method: str
    subscriptions: tuple[str, ...] = ()
    expires_at: float | None = None
    token_id: str = ""
    device: str = ""
