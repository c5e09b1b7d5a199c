"""relay's own protocol, version 1, as dialects: binary or JSON, on a stream or in messages.

Source: ``docs/protocol.md``. The machines are those of ``relay.wire``; here they get their names and encodings::

    BinaryStream     lengths before the frames          TCP, TLS, Unix sockets; both sides
    BinaryMessages   one frame per message              datagrams; a client's side of a WebSocket
    WebSocketBinary  the same, encoded as whole frames of a WebSocket server
    JsonLines        one object per line                TCP, TLS, Unix sockets; both sides
    JsonMessages     one object per message             a client's side of a WebSocket
    WebSocketJson    the same, encoded as whole frames of a WebSocket server

``receive`` of the message forms takes the payload of one message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.wire.binary import FRAME_BYTES_MAX_AT_FIRST, BinaryDecoder, decode_frame, encode_frame, encode_stream
from relay.wire.contracts import (
    BINARY_MESSAGE,
    BINARY_STREAM,
    JSON_LINE,
    JSON_MESSAGE,
    WS_BINARY,
    WS_JSON,
    Encoder,
)
from relay.wire.message import Message
from relay.wire.text import LineDecoder, decode_json, encode_json, encode_line
from relay.wire.websocket import BINARY, TEXT, server_frame


def encode_websocket_binary(message: Message) -> bytes:
    """``message`` in binary form as one frame of a WebSocket server."""
    return server_frame(BINARY, encode_frame(message))


def encode_websocket_json(message: Message) -> bytes:
    """``message`` in JSON form as one frame of a WebSocket server."""
    return server_frame(TEXT, encode_json(message))


class BinaryStream(BinaryDecoder):
    """The binary form on a stream. A server expects the preface; a client sends it (``relay.wire.kinds.PREFACE``)."""

    __slots__ = ()
    name = "relay.binary"
    encoding = BINARY_STREAM
    encode = staticmethod(encode_stream)


class JsonLines(LineDecoder):
    """The JSON form on a stream."""

    __slots__ = ()
    name = "relay.json"
    encoding = JSON_LINE
    encode = staticmethod(encode_line)


class _Messages:
    """What both message forms share: the size and the failure of one message."""

    __slots__ = ("failed", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX_AT_FIRST) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.failed: RemoteProtocolError | None = None

    def _receive(self, data: bytes, decode: Callable[[bytes], Message]) -> list[Message]:
        try:
            if len(data) > self.frame_bytes_max:
                raise FrameTooLarge(f"a message of {len(data)} bytes, at most {self.frame_bytes_max} are allowed")
            return [decode(data)]
        except RemoteProtocolError as error:
            self.failed = error
            return []


class BinaryMessages(_Messages):
    """The binary form where the transport keeps messages apart."""

    __slots__ = ()
    name = "relay.binary"
    encoding = BINARY_MESSAGE
    encode = staticmethod(encode_frame)

    def receive(self, data: bytes) -> list[Message]:
        """The message that ``data`` is, or none and ``failed``."""
        return self._receive(data, decode_frame)


class JsonMessages(_Messages):
    """The JSON form where the transport keeps messages apart."""

    __slots__ = ()
    name = "relay.json"
    encoding = JSON_MESSAGE
    encode = staticmethod(encode_json)

    def receive(self, data: bytes) -> list[Message]:
        """The message that ``data`` is, or none and ``failed``."""
        return self._receive(data, decode_json)


class WebSocketBinary(BinaryMessages):
    """A WebSocket server's side: what ``encode`` returns is written to the socket as it is."""

    __slots__ = ()
    encoding = WS_BINARY
    encode = staticmethod(encode_websocket_binary)


class WebSocketJson(JsonMessages):
    """A WebSocket server's side: what ``encode`` returns is written to the socket as it is."""

    __slots__ = ()
    encoding = WS_JSON
    encode = staticmethod(encode_websocket_json)


ENCODERS: Final[dict[int, Encoder]] = {
    BINARY_STREAM: encode_stream,
    BINARY_MESSAGE: encode_frame,
    JSON_LINE: encode_line,
    JSON_MESSAGE: encode_json,
    WS_BINARY: encode_websocket_binary,
    WS_JSON: encode_websocket_json,
}
