"""Bodies of the protocol's own kinds: hello, welcome, goodbye, subscribe, register and the like.

Source: ``docs/protocol.md`` sections 3, 5 and 8. They are JSON or MessagePack objects; unknown keys are ignored, so
that a newer peer can say more.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec

from relay.errors import BadBody
from relay.wire import kinds
from relay.wire.message import Message

Body = TypeVar("Body")

WHOLE_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON parser reads exactly."""


class Resume(msgspec.Struct, frozen=True):
    """Asks for a session to go on: its id, its secret, and how many of its session frames have arrived here."""

    session: str
    secret: str
    received: int = 0


class Hello(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first frame of a client."""

    version: str = kinds.VERSION
    realm: str = ""
    user: str = ""
    device: str = ""
    token: str = ""
    password: str = ""
    resume: Resume | None = None
    features: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    heartbeat_ms: int = 0
    client: str = ""
    info: Any = None  # Any: a small JSON value, for hooks


class Limits(msgspec.Struct, frozen=True):
    """What the server accepts, as the welcome says it."""

    frame_bytes_max: int = 0
    metadata_bytes_max: int = 0
    pending_pulls_max: int = 0
    subscriptions_max: int = 0
    registrations_max: int = 0


class Welcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The server's answer to hello."""

    session: str
    node: str = ""
    realm: str = ""
    version: str = kinds.VERSION
    user: str = ""
    device: str = ""
    secret: str = ""
    resumed: bool = False
    received: int = 0
    resume_window_ms: int = 0
    resume_ack_bytes: int = 0
    heartbeat_ms: int = 0
    expires_in_ms: int | None = None
    features: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()
    limits: Limits = Limits()


class Goodbye(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last frame. ``reconnect``: whether to come back; ``reconnect_to``: an address to prefer."""

    reason: int
    name: str = ""
    reconnect: bool = False
    reconnect_to: str = ""
    reconnect_after_ms: int = 0
    text: str = ""


class Position(msgspec.Struct, frozen=True):
    """A place in a channel's history: behind the publication with that offset."""

    offset: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)] = 0
    epoch: str = ""


class SubscribeOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of subscribe. ``presence``: joined and left, and the list of members, are wanted.

    At most one of ``since``, ``last`` and ``since_time`` (Unix time in ms) says what to recover; ``retained``: the
    channel's last value first. ``tags``: events that have them all; ``max_rate``: at most so many events a second (0:
    no limit), with ``latest`` the newest of each conflation key when there are more.
    """

    presence: bool = False
    role: str = ""
    info: Any = None  # Any: a small JSON value shown to other members
    since: Position | None = None
    last: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)] = 0
    since_time: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)] = 0
    retained: bool = False
    tags: dict[str, str] | None = None
    max_rate: Annotated[float, msgspec.Meta(ge=0)] = 0
    latest: bool = False


class Subscribed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of the reply to subscribe, beside presence. ``offset`` and ``epoch`` (where the channel keeps history): the
    position behind which the subscription's events begin. ``recovered``: None when nothing was to be recovered."""

    recovered: bool | None = None
    offset: int | None = None
    epoch: str = ""


class HistoryOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of history: offsets over ``after`` and under ``before`` (0: no bound), accepted at or after ``since_time``
    (Unix time in ms), from the oldest on or ``backwards``; ``limit`` 0: the ends only. ``epoch``: '' for any."""

    after: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)] = 0
    before: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)] = 0
    since_time: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)] = 0
    limit: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)] = 100
    backwards: bool = False
    epoch: str = ""
    tags: dict[str, str] | None = None


class HistoryEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of the last reply to history. ``first``: the oldest offset kept (``last`` + 1: none), ``last``: the newest
    ever given. ``next``: what ``after`` (``backwards``: ``before``) is for the next page; 0: this was all."""

    epoch: str = ""
    first: int = 0
    last: int = 0
    next: int = 0


class RegisterOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of register."""

    policy: str = "single"
    weight: int = 1


class BindOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of bind: a token, or (with the permission) a user's name, or neither to unbind."""

    token: str = ""
    user: str = ""


class RefreshOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of refresh from a client."""

    token: str


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member of a channel. ``since``: Unix time in ms. ``id``: what joined, left and lists have in common; absent
    where it is the session."""

    session: str
    user: str = ""
    device: str = ""
    role: str = ""
    info: Any = None  # Any: a small JSON value
    since: int = 0
    id: str = ""

    @property
    def key(self) -> str:
        """Its ``id``, whether it was said or not."""
        return self.id or self.session


class PresenceOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of presence of a channel. ``count_only``: how many, and no list."""

    count_only: bool = False


class Members(msgspec.Struct, frozen=True):
    """Reply to presence of a channel."""

    count: int
    members: tuple[Member, ...] = ()


class UserPresence(msgspec.Struct, frozen=True):
    """Reply to presence of a user. ``last_seen``: Unix time in ms; 0 for one who is here, or was never."""

    online: bool
    sessions: int = 0
    last_seen: int = 0


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """JSON body of an error that carries data."""

    message: str = ""
    data: Any = None  # Any: the application's


def read(message: Message, type_: type[Body]) -> Body:
    """The body of a message of the protocol's own kinds; an empty body is an empty object.

    Raises ``BadBody`` with a sentence that names the wrong key.
    """
    body = message.body
    try:
        if message.codec == kinds.MSGPACK:
            return msgspec.msgpack.decode(body or b"\x80", type=type_)
        if message.codec == kinds.JSON or not body:
            return msgspec.json.decode(body or b"{}", type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"body of {kinds.KINDS.get(message.kind, message.kind)}: {error}") from None
    raise BadBody(f"body of {kinds.KINDS.get(message.kind, message.kind)}: json or msgpack expected")


def write(kind: int, body: object, seq: int = 0, name: str = "") -> Message:
    """A message of the protocol's own kinds with ``body`` as JSON."""
    return Message(kind, name, msgspec.json.encode(body), kinds.JSON, 0, seq)
