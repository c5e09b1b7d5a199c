"""What happens in a node that others may want to hear of outside it: sessions, members of channels, users.

``Hub.on_occurrence`` gets each, in the order in which they happen; it is None while nobody listens.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Occurrence(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """``event``: one of ``relay.config_webhooks.OCCURRENCES``. ``at``, ``since``: Unix time in
    ms. ``member``: the member's id where that is not its session. ``reason``: why a session ended."""

    event: str
    realm: str
    at: int
    channel: str = ""
    user: str = ""
    session: str = ""
    device: str = ""
    member: str = ""
    role: str = ""
    info: Any = None  # Any: a small JSON value, the member's own
    since: int = 0
    reason: str = ""
