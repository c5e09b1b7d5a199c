"""The books of a session for its resume: what was sent and not yet acknowledged, what was received.

Both sides count session frames (``docs/protocol.md`` section 6); no frame carries its number. Invariants:

- ``sent`` is the number of session frames given to the transport in this session, ``sent - len(kept)`` of which the
  server has acknowledged; ``kept`` holds the others in order.
- ``received`` is the number of session frames taken from the server, gaps that it reported included.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from relay.errors import RemoteProtocolError
from relay.wire import kinds
from relay.wire.message import Message

_FRAME_BYTES = 16  # length, kind, codec, flags, seq, sizes
_FIELD_BYTES = 3


class Outgoing(msgspec.Struct, eq=False):
    """A session frame on its way. ``sent``: the transport had it at least once; ``dropped``: it must not be sent any
    more; ``bound``: it means something in this session only (an answer, a cancel, a subscription)."""

    message: Message
    size: int
    deadline: float = float("inf")
    bound: bool = False
    sent: bool = False
    dropped: bool = False


def _value_bytes(value: Any) -> int:  # Any: relay.wire.message.Fields
    if isinstance(value, (str, bytes, tuple)):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + len(text) + _FIELD_BYTES for key, text in value.items())
    return 8


def size_of(message: Message) -> int:
    """About the bytes of a frame. It bounds memory and paces reports, so it need not be exact."""
    size = _FRAME_BYTES + len(message.name) + len(message.body)
    if message.fields:
        for value in message.fields.values():
            size += _FIELD_BYTES + _value_bytes(value)
    return size


class Ledger:
    """The books of one session. ``report_bytes``: how many bytes may arrive between two reports."""

    def __init__(self, report_bytes: int) -> None:
        self.sent = 0
        self.received = 0
        self.kept: deque[Outgoing] = deque()
        self.kept_bytes = 0
        self._report_bytes = report_bytes
        self._unreported_bytes = 0

    def keep(self, outgoing: Outgoing) -> None:
        """One more frame was sent."""
        self.sent += 1
        self.kept.append(outgoing)
        self.kept_bytes += outgoing.size

    def acknowledge(self, received: int) -> bool:
        """The server has so many of our frames; whether that is news.

        Raises ``RemoteProtocolError`` when it claims frames that were never sent, or takes back what it said.
        """
        acknowledged = self.sent - len(self.kept)
        if not acknowledged <= received <= self.sent:
            raise RemoteProtocolError(
                f"the server counts {received} session frames, between {acknowledged} and {self.sent} are possible"
            )
        for _ in range(received - acknowledged):
            self.kept_bytes -= self.kept.popleft().size
        return received > acknowledged

    def heard(self, message: Message) -> bool:
        """One more session frame arrived; whether a report is due."""
        self.received += 1
        if not self._report_bytes:
            return False
        self._unreported_bytes += size_of(message)
        return self._unreported_bytes >= self._report_bytes

    def skip(self, frames: int) -> None:
        """The server left out so many frames; they count as received."""
        self.received += frames

    def report(self) -> dict[int, Any]:  # Any: relay.wire.message.Fields
        """The fields of a ping or pong that tell the server the count."""
        self._unreported_bytes = 0
        return {kinds.RECEIVED: self.received}
