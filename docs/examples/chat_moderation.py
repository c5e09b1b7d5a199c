"""A plugin that looks after chat rooms: hooks that rewrite and refuse publications, and procedures to steer it.

handlers: {plugins: ["chat_moderation:ChatModeration"]}      with this directory on PYTHONPATH

room.*                 publications: words of the list are replaced, muted users are refused
moderation.rooms.mute  {"user": "eve", "seconds": 60} → when it ends; for moderators
moderation.rooms.muted → who is muted now
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

import msgspec
from zope.interface import implementer

from relay.app import Context
from relay.errors import ApplicationError, Denied, Refused
from relay.interfaces import IRelayPlugin
from relay.wire import kinds
from relay.wire.message import Message

UNWANTED: Final = re.compile(r"\b(darn|heck)\b", re.IGNORECASE)
MODERATORS: Final = frozenset({"root"})
MUTED_MAX: Final = 10_000
NOT_A_MODERATOR: Final = 1403


class Mute(msgspec.Struct):
    """Body of moderation.rooms.mute."""

    user: str
    seconds: float = 60.0


class Rooms:
    """Its methods are procedures; the prefix and the class name them."""

    prefix = "moderation"

    def __init__(self, muted: dict[str, float]) -> None:
        self._muted = muted

    async def mute(self, ctx: Context, request: Mute) -> float:
        """Refuse what a user publishes, for a while. A struct as the only argument is the whole body."""
        if ctx.user not in MODERATORS:
            raise ApplicationError("only moderators mute", app_code=NOT_A_MODERATOR, outcome="not_done")
        if len(self._muted) >= MUTED_MAX:
            raise ApplicationError("too many are muted", temporary=True, outcome="not_done")
        self._muted[request.user] = time.time() + request.seconds
        await ctx.push_user(request.user, "muted", {"by": ctx.user, "seconds": request.seconds})
        return self._muted[request.user]

    def muted(self) -> list[str]:
        """Who is muted now."""
        return sorted(self._muted)


@implementer(IRelayPlugin)
class ChatModeration:
    """The plugin: what it has of ``IRelayPlugin`` is used."""

    name = "moderation"

    def __init__(self) -> None:
        self._muted: dict[str, float] = {}

    def routes(self) -> list[object]:
        """Objects whose methods become procedures."""
        return [Rooms(self._muted)]

    def before_publish(self, session: Any, message: Message) -> Message | None:
        """Called for every publication, so it is quick: no waiting, no log. None: as it was."""
        if not message.name.startswith("room."):
            return None
        if session.user in self._muted:
            raise Refused("you are muted")
        if message.fields is not None and kinds.FILTERS in message.fields:
            # Hooks see bodies as they were sent: a compressed one would walk past the list.
            raise Refused("publications in rooms are not compressed")
        if message.codec not in (kinds.TEXT, kinds.JSON):
            raise Refused("publications in rooms are text or JSON")
        text = message.body.decode("utf-8", "replace")
        clean = UNWANTED.sub(lambda found: "*" * len(found[0]), text)
        # Messages are shared and never changed: a rewritten one is a new one.
        return None if clean == text else msgspec.structs.replace(message, body=clean.encode())

    def before_subscribe(self, session: Any, name: str, options: Message) -> None:
        """Raising refuses; the result means nothing."""
        if name.startswith("room.staff") and session.user not in MODERATORS:
            raise Denied("that room is for moderators")

    def tick(self, now_s: float) -> None:
        """Once a second."""
        now = time.time()
        for user in [user for user, ends_at in self._muted.items() if ends_at <= now]:
            del self._muted[user]
