"""What the client's core asks its shell to do, in order, after a call into the core has returned.

``waiter``, ``listener`` and ``provider`` are objects of the shell; the core hands them back and never looks inside.
"""

from __future__ import annotations

from typing import Any

import msgspec

from relay.client.plan import Address
from relay.errors import RelayError
from relay.wire.message import Message


class Connect(msgspec.Struct, frozen=True):
    """Open a transport, beside others that may be opening; report ``connected(attempt)`` or ``lost(attempt)``."""

    attempt: int
    address: Address


class Chosen(msgspec.Struct, frozen=True):
    """Of the transports that were asked for, this one is used from now on; a ``Hangup`` comes for each other."""

    attempt: int


class Send(msgspec.Struct, frozen=True):
    """Send a message on the chosen transport, or on that of ``attempt`` when it is not 0."""

    message: Message
    attempt: int = 0


class Hangup(msgspec.Struct, frozen=True):
    """Close the transport, whatever its state. ``abort``: do not wait for what is buffered."""

    attempt: int
    abort: bool


class WantToken(msgspec.Struct, frozen=True):
    """Get a token from the application; report ``token`` or ``token_failed``."""


class Resolve(msgspec.Struct, frozen=True):
    """What was asked has been answered with ``value``: a Message, or None when there is nothing to say."""

    waiter: Any
    value: Message | None


class Reject(msgspec.Struct, frozen=True):
    """What was asked failed."""

    waiter: Any
    error: RelayError


class Progress(msgspec.Struct, frozen=True):
    """One of several answers; others follow."""

    waiter: Any
    message: Message


class Deliver(msgspec.Struct, frozen=True):
    """An event, push or who comes and goes, for each of ``listeners``; with none, for the client's default callback."""

    listeners: tuple[Any, ...]
    message: Message


class Call(msgspec.Struct, eq=False):
    """A pull that this client is answering. ``deadline``: on the core's clock."""

    message: Message
    provider: Any
    deadline: float = float("inf")
    done: bool = False


class Invoke(msgspec.Struct, frozen=True):
    """Start answering ``call``."""

    call: Call


class Revoke(msgspec.Struct, frozen=True):
    """Stop answering ``call``: nobody waits for it any more."""

    call: Call


class Ended(msgspec.Struct, frozen=True):
    """A subscription or registration is over without the shell having asked; ``error`` None: the client closed."""

    listener: Any
    error: RelayError | None


class Changed(msgspec.Struct, frozen=True):
    """The connection changed. ``state``: ``connecting``, ``ready`` or ``waiting``.

    With ``ready``: ``resumed`` says whether the session went on. If not, and it is not the first, it is a new session:
    ``lost`` frames that nobody waits for were sent and may not have arrived. With ``waiting``: ``reason`` and
    ``wait_s`` until the next attempt.
    """

    state: str
    address: Address
    resumed: bool = False
    lost: int = 0
    reason: str = ""
    wait_s: float = 0.0


class Recovered(msgspec.Struct, frozen=True):
    """After a new session, or when events were missing: whether what ``channel`` published meanwhile is delivered."""

    channel: str
    recovered: bool


class Gap(msgspec.Struct, frozen=True):
    """The server left out ``frames`` messages because this client was too slow."""

    frames: int


class Notice(msgspec.Struct, frozen=True):
    """Something failed that nobody waits for: a publish without answer, a bind after a reconnect. ``name``: what."""

    name: str
    error: RelayError


class Closed(msgspec.Struct, frozen=True):
    """The client is closed for good; ``error`` None: because the application wished it. The last effect."""

    error: RelayError | None


Effect = (
    Connect | Chosen | Send | Hangup | WantToken | Resolve | Reject | Progress | Deliver | Invoke | Revoke | Ended
    | Changed | Recovered | Gap | Notice | Closed
)  # fmt: skip
