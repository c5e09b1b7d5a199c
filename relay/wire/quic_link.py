"""One QUIC connection of relay, as both sides have it: a session's stream, and messages apart from it. No I/O.

    stream 0          the session: relay's stream protocol, in either form, as over TCP
    unidirectional    one frame of the binary form, without its length, then the end of the stream: ``independent``
    DATAGRAM          number (2 bytes), key (2), a frame: ``unreliable``. With a key other than 0 the number tells an
                      older one of the same key (the flag ``latest``), which is passed over

What travels apart is in no resume count, whichever way it takes in the end: an unreliable frame that no packet holds
goes on a stream of its own, and what may not open one, or is larger than the peer takes there, goes on the session's.

Source: ``docs/quic.md``. ``now`` is a fine clock in seconds that never runs backwards.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, Protocol

from aioquic.quic import events

from relay.errors import RemoteProtocolError
from relay.wire import kinds
from relay.wire.binary import LENGTH_BYTES, decode_frame
from relay.wire.message import Message, is_loose
from relay.wire.quic_connection import SESSION_STREAM, BoundedConnection

APART: Final = kinds.UNRELIABLE | kinds.INDEPENDENT
"""Flags of messages that travel apart from the session's stream."""
DATAGRAM_HEAD: Final = Struct(">HH")
DATAGRAMS_WAITING_MAX: Final = 256
"""Unreliable frames that wait for the congestion window; beyond it the oldest is dropped."""
KEYS_MAX: Final = 1024
"""Keys of ``latest`` whose newest number is remembered; the longest known is forgotten for a new one."""
FLAGS_AT: Final = 2
"""Where the flags of a frame stand, two bytes."""
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
"""Codes with which the application closes."""

_HALF_U16: Final = 0x8000


class Sink(Protocol):
    """Who takes what comes."""

    def received(self, data: bytes) -> None:
        """Bytes of the session's stream."""

    def apart(self, message: Message) -> None:
        """A message that came apart from it."""

    def confirmed(self, resumed: bool, early: bool) -> None:
        """The handshake is complete; ``early``: data before that were taken."""

    def ended(self, reason: str, clean: bool) -> None:
        """The connection, or the session's stream, is over."""

    def named(self, connection_id: bytes, yes: bool) -> None:
        """The peer may use (or uses no longer) this id of ours."""


class QuicLink:
    """See the module. ``dropped``: unreliable and independent frames that were not sent."""

    __slots__ = ("_early", "_keys", "_number", "_sink", "connection", "dropped")

    def __init__(self, connection: BoundedConnection, sink: Sink) -> None:
        self.connection = connection
        self.dropped = 0
        self._sink = sink
        self._keys: dict[int, int] = {}
        self._number = 0
        self._early: dict[int, bytes] = {}

    # --- in ---------------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """Hand over what has come."""
        connection, sink = self.connection, self._sink
        while (event := connection.next_event()) is not None:
            kind = type(event)
            # Fast path: almost all are these.
            if kind is events.StreamDataReceived:
                self._stream_data(event)
            elif kind is events.DatagramFrameReceived:
                self._datagram(event.data)  # type: ignore[attr-defined]  # by its type
            else:
                _OTHERS.get(kind, _ignored)(sink, event)
        if connection.over:
            # aioquic tells it only when the closing period has passed.
            sink.ended(*connection.outcome)

    def _stream_data(self, event: Any) -> None:  # Any: StreamDataReceived
        stream = event.stream_id
        if stream == SESSION_STREAM:
            if event.data:
                self._sink.received(event.data)
            if event.end_stream:
                self._sink.ended("the peer ended the session's stream", True)
            return
        frame = self._early.pop(stream, b"") + event.data
        if not event.end_stream:
            self._early[stream] = frame  # as long as the window of a stream at most
        elif frame:
            self._apart(frame)

    def _datagram(self, data: bytes) -> None:
        if len(data) < DATAGRAM_HEAD.size:
            self.fail("a DATAGRAM frame without its head")
            return
        number, key = DATAGRAM_HEAD.unpack_from(data)
        if key and not self._is_latest(number, key):
            return
        self._apart(data[DATAGRAM_HEAD.size :])

    def _is_latest(self, number: int, key: int) -> bool:
        keys = self._keys
        newest = keys.get(key)
        if newest is not None and not 0 < (number - newest) & 0xFFFF < _HALF_U16:
            return False
        if newest is None and len(keys) >= KEYS_MAX:
            del keys[next(iter(keys))]
        keys[key] = number
        return True

    def _apart(self, frame: bytes) -> None:
        try:
            message = decode_frame(frame)
        except RemoteProtocolError as error:
            self.fail(str(error))
            return
        if not is_loose(message, APART):
            self.fail("a frame that has to be counted came apart from the session's stream")
            return
        self._sink.apart(message)

    # --- out --------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send on the session's stream."""
        if data and not self.connection.over:
            self.connection.send_stream_data(SESSION_STREAM, data)

    def send_apart(self, frame: bytes, key: str | None) -> None:
        """Send a frame, given with its length, apart. Of unreliable ones with the same ``key`` the newest counts."""
        connection = self.connection
        if connection.over:
            self.dropped += 1
            return
        size = len(frame) - LENGTH_BYTES
        flags = int.from_bytes(frame[LENGTH_BYTES + FLAGS_AT : LENGTH_BYTES + FLAGS_AT + 2])
        if flags & kinds.UNRELIABLE and size + DATAGRAM_HEAD.size <= connection.datagram_bytes_max:
            waiting = connection.waiting_datagrams
            if len(waiting) >= DATAGRAMS_WAITING_MAX:
                waiting.popleft()
                self.dropped += 1
            self._number = (self._number + 1) & 0xFFFF
            head = DATAGRAM_HEAD.pack(self._number, 0 if key is None else zlib.crc32(key.encode()) % 0xFFFF + 1)
            connection.send_datagram_frame(head + frame[LENGTH_BYTES:])
        elif size <= connection.stream_bytes_max and connection.may_open():
            stream = connection.get_next_available_stream_id(is_unidirectional=True)
            connection.send_stream_data(stream, frame[LENGTH_BYTES:], end_stream=True)
        else:
            connection.send_stream_data(SESSION_STREAM, frame)

    def finish(self) -> None:
        """Nothing more comes on the session's stream; one that the peer has not even begun needs no end."""
        if not self.connection.over and self.connection.in_session:
            self.connection.send_stream_data(SESSION_STREAM, b"", end_stream=True)

    def close(self, code: int = NO_ERROR, reason: str = "") -> None:
        """Close at once, with the next datagrams."""
        self.connection.close(error_code=code, reason_phrase=reason)

    def fail(self, reason: str) -> None:
        """The peer broke the protocol."""
        self.close(PROTOCOL_ERROR, reason)
        self._sink.ended(reason, False)


def first_frame_bytes(data: bytes) -> int:
    """How many bytes the first frame or line of a session's stream has, its preface included; 0: not yet known."""
    if data[:1] == kinds.PREFACE[:1]:
        start = len(kinds.PREFACE)
        if len(data) < start + LENGTH_BYTES:
            return 0
        return start + LENGTH_BYTES + int.from_bytes(data[start : start + LENGTH_BYTES])
    return data.find(b"\n") + 1


def _ignored(sink: Sink, event: Any) -> None:  # Any: an event that says nothing to us
    """PingAcknowledged and the like."""


def _reset(sink: Sink, event: Any) -> None:  # Any: StreamReset, StopSendingReceived
    if event.stream_id == SESSION_STREAM:
        sink.ended("the peer reset the session's stream", False)


_OTHERS: Final[dict[type, Callable[[Sink, Any], None]]] = {  # Any: each takes its own type of event
    events.HandshakeCompleted: lambda sink, event: sink.confirmed(event.session_resumed, event.early_data_accepted),
    events.StreamReset: _reset,
    events.StopSendingReceived: _reset,
    events.ConnectionIdIssued: lambda sink, event: sink.named(event.connection_id, True),
    events.ConnectionIdRetired: lambda sink, event: sink.named(event.connection_id, False),
}
