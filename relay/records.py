"""What the stores are asked to keep, and what they give back: plain values, the same for every kind of store.

    Append  ─▶ IHistory.append     ─▶ the same Append with offset and epoch, or an error
    Range   ─▶ IHistory.read       ─▶ Page of Publications
    Put     ─▶ IQueueStore.put     ─▶ the same Put with its number, or an error
    Settle  ─▶ IQueueStore.settle  ─▶ the same Settle, or with an error
               IQueueStore.load    ─▶ Items

``…_ms`` in the name of a point in time is Unix time in ms; 0 stands for "none". A ``frame`` is the message in the
binary form of the protocol without length, ``seq``, offset and epoch: what a receiver gets is made from it without a
look at the body. The objects a batch consists of come back filled: a store makes no object per message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from relay.errors import RelayError

PRIORITIES: Final = 3
"""Levels of a queue: 0 is served first, 1 is what a message without ``priority`` has, 2 comes last."""
PRIORITY_DEFAULT: Final = 1
LOAD_BYTES_MIN: Final = 1_048_576
"""``IQueueStore.load`` gives fewer messages than were asked for only at the end, or when their frames have so many
bytes."""


class Retention(msgspec.Struct, frozen=True, gc=False):
    """How much of a channel is kept; 0: no such limit. What is over any of them goes, the oldest first."""

    messages_max: int = 0
    bytes_max: int = 0
    age_ms_max: int = 0


class Append(msgspec.Struct, gc=False):
    """One publication to be stored. ``error`` is None and ``offset`` set when it was."""

    realm: str
    channel: str
    frame: bytes
    at_ms: int
    retention: Retention
    expires_ms: int = 0
    key: str = ""
    """Idempotency key, unique in its channel until ``key_until_ms``; '' for none."""
    key_until_ms: int = 0
    retained: bool = False
    """It is the channel's last value from now on, also when it is trimmed from the history."""
    context: Any = None  # Any: whatever the caller wants to find again in ``done``
    offset: int = 0
    epoch: str = ""
    repeated: bool = False
    """A message with this key is stored already: ``offset`` is that one's, and nothing was stored now."""
    error: RelayError | None = None


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One publication as it was stored."""

    offset: int
    at_ms: int
    expires_ms: int
    frame: bytes

    @property
    def size(self) -> int:
        """Bytes of the frame."""
        return len(self.frame)


class Range(msgspec.Struct, frozen=True, gc=False):
    """A part of a channel's history: offsets over ``after`` and under ``before`` (0: no bound), accepted at or after
    ``since_ms``, from the oldest on, or with ``backwards`` from the newest; at most ``limit`` and about ``bytes_max``,
    at least one (0: as much as the store gives at once). Whoever has not met the end goes on from the last one.
    ``limit`` 0 asks for the ends only."""

    realm: str
    channel: str
    after: int = 0
    before: int = 0
    since_ms: int = 0
    limit: int = 0
    bytes_max: int = 0
    backwards: bool = False


class Page(msgspec.Struct, frozen=True, gc=False):
    """The answer to a ``Range``. ``first``: the oldest offset still kept, ``last``: the newest that was ever given
    (``first`` is ``last`` + 1 when nothing is kept). Expired publications are left out, as if they were not kept.
    ``forgotten``: a number that is another one after the channel was forgotten; known where ``after`` is 0."""

    epoch: str
    first: int
    last: int
    publications: tuple[Publication, ...] = ()
    retained: Publication | None = None
    error: RelayError | None = None
    forgotten: int = 0


class Put(msgspec.Struct, gc=False):
    """One message for a queue. ``error`` is None and ``number`` set when it was stored."""

    realm: str
    queue: str
    frame: bytes
    at_ms: int
    due_ms: int = 0
    """Not to be delivered before."""
    expires_ms: int = 0
    priority: int = PRIORITY_DEFAULT
    ordering_key: str = ""
    key: str = ""
    key_until_ms: int = 0
    queue_bytes_max: int = 0
    """What the queue may hold with this one, else ``Full``; for an inbox ``store.user_bytes_max``. 0: no such limit."""
    context: Any = None  # Any: as in Append
    number: int = 0
    """1, 2, 3 … in its queue, in the order of storing; never given twice. An empty queue may be forgotten when there
    are nearly too many; it then goes on with a higher number."""
    repeated: bool = False
    error: RelayError | None = None


ACKED: Final = 0
"""Done with: it is removed."""
RETRY: Final = 1
"""To be delivered again, not before ``due_ms``; ``deliveries`` is kept."""
DEAD: Final = 2
"""Given up: it stays, apart from the others, with ``reason``."""
REVIVED: Final = 3
"""A dead one is to be delivered again, with ``deliveries`` 0."""
REMOVED: Final = 4
"""A dead one is removed."""


class Settle(msgspec.Struct, gc=False):
    """What became of one message of a queue."""

    realm: str
    queue: str
    number: int
    action: int
    deliveries: int = 0
    due_ms: int = 0
    reason: str = ""
    context: Any = None  # Any: as in Append
    error: RelayError | None = None
    """``NotFound``: there is no such message (any more)."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """One message of a queue as it was stored. ``reason`` is '' unless it is dead."""

    number: int
    at_ms: int
    due_ms: int
    expires_ms: int
    priority: int
    deliveries: int
    ordering_key: str
    frame: bytes
    reason: str = ""


class QueueState(msgspec.Struct, frozen=True, gc=False):
    """What a store holds of one queue. ``first``, ``last``: numbers of the oldest waiting and of the newest ever."""

    realm: str
    queue: str
    waiting: int
    dead: int
    bytes: int
    first: int
    last: int
    paused: bool = False


def is_end(items: Sequence[Item], limit: int) -> bool:
    """Whether the queue has no more behind ``items``, of which ``limit`` were asked for."""
    return not items or (len(items) < limit and sum(len(each.frame) for each in items) < LOAD_BYTES_MIN)
