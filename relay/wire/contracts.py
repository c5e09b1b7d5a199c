"""Contracts of floors 0 and 1: what a dialect, a body codec and a transfer filter are to the rest."""

from __future__ import annotations

from typing import Final, Protocol

from relay.errors import RemoteProtocolError
from relay.wire.message import Message

# Encodings: dialect x form x framing as one small integer; receivers of one encoding share the same bytes.
# (Those of further dialects follow from 8 on.)
BINARY_STREAM: Final = 0
BINARY_MESSAGE: Final = 1
JSON_LINE: Final = 2
JSON_MESSAGE: Final = 3
WS_BINARY: Final = 4  # BINARY_MESSAGE inside one unmasked (server's) WebSocket frame
WS_JSON: Final = 5  # JSON_MESSAGE likewise


class Dialect(Protocol):
    """A wire protocol as a machine without I/O, one per connection.

    ``receive`` takes any chunk of the byte stream (or one whole message on message transports) and returns the
    messages completed by it, in order. When the peer broke the protocol it returns what was complete before that,
    sets ``failed`` to the ``RemoteProtocolError``, and must not be called again.
    """

    name: str
    encoding: int
    failed: RemoteProtocolError | None

    def receive(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes."""

    def encode(self, message: Message) -> bytes:
        """``message`` as the bytes for this connection's transport, framing included."""


class Encoder(Protocol):
    """The stateless half of a dialect: same message, same bytes, for every receiver of one encoding."""

    def __call__(self, message: Message) -> bytes:
        """The bytes of ``message``, framing included."""


class Filter(Protocol):
    """A transfer filter on a body."""

    name: str
    number: int

    def wrap(self, body: bytes) -> bytes:
        """``body`` filtered."""

    def unwrap(self, body: bytes, bytes_max: int) -> bytes:
        """The body back; ``FilterError`` when it is damaged or would be larger than ``bytes_max`` bytes."""
