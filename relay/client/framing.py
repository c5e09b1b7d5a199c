"""Messages as the bytes of a client's connection and back, without I/O: WebSocket here, streams beside.

A framing is made for one connection. ``opening`` is sent first; ``receive`` takes any chunk; when ``ready`` is True
messages may be encoded; ``output`` has bytes that must go out by themselves (WebSocket pongs, closes).

The WebSocket handshake is that of RFC 6455 section 4.1: one GET, answered by 101 with the subprotocol asked for.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Union

from relay.client.options import ClientOptions
from relay.client.plan import Address
from relay.client.stream import FrameFraming, StreamFraming
from relay.errors import RelayError, RemoteProtocolError, Unavailable
from relay.wire import binary, kinds, text, websocket
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.client.secure import SecureFraming

HEAD_BYTES_MAX = 16_384  # of the answer to the WebSocket request
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class WebSocketFraming:
    """Messages on a WebSocket. ``random_bytes``: so many unpredictable bytes, for the key and the masks."""

    def __init__(self, address: Address, frame_bytes_max: int, random_bytes: Callable[[int], bytes]) -> None:
        self.ready = False
        self.failed: RelayError | None = None
        self.output = b""
        json = address.form == "json"
        self._opcode = websocket.TEXT if json else websocket.BINARY
        self._write = text.encode_json if json else binary.encode_frame
        self._read: Callable[[bytes], Message] = text.decode_json if json else binary.decode_frame
        self._subprotocol = kinds.SUBPROTOCOL_JSON if json else kinds.SUBPROTOCOL_BINARY
        self._random_bytes = random_bytes
        self._machine = websocket.WebSocketMachine(False, frame_bytes_max)
        self._head = b""
        self._closed = False
        key = b64encode(random_bytes(16))
        self._accept = b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
        self.opening = self._request(address, key.decode())

    def _request(self, address: Address, key: str) -> bytes:
        host = f"[{address.host}]" if ":" in address.host else address.host
        lines = (
            f"GET {address.path} HTTP/1.1",
            f"Host: {host}:{address.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: {self._subprotocol}",
            "", "",
        )  # fmt: skip
        return "\r\n".join(lines).encode()

    def encode(self, message: Message) -> bytes:
        """``message`` as one masked WebSocket message."""
        return websocket.client_frame(self._opcode, self._write(message), self._random_bytes(4))

    def receive(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes; ``failed`` is set when the server broke a rule."""
        messages: list[Message] = []
        if self._closed:
            return messages
        try:
            if not self.ready:
                data = self._handshake(data)
            if data:
                self._take(data, messages)
        except RelayError as error:
            self.failed = error
        return messages

    def closing(self) -> bytes:
        """The close frame, unless the server has had one."""
        if self._closed or not self.ready:
            return b""
        self._closed = True
        return self._control(websocket.CLOSE, websocket.close_payload(1000))

    def _control(self, opcode: int, payload: bytes) -> bytes:
        return websocket.client_frame(opcode, payload, self._random_bytes(4))

    def _take(self, data: bytes, messages: list[Message]) -> None:
        for opcode, payload in self._machine.receive(data):
            if opcode == self._opcode:
                messages.append(self._read(payload))
            elif opcode == websocket.PING:
                self.output += self._control(websocket.PONG, payload)
            elif opcode == websocket.CLOSE:
                self._closed = True
                self.output += self._control(websocket.CLOSE, payload)
            elif opcode != websocket.PONG:
                raise RemoteProtocolError("a WebSocket message of the wrong type for the subprotocol")
        if self._machine.failed is not None:
            raise self._machine.failed

    def _handshake(self, data: bytes) -> bytes:
        """Reads the answer's head; returns what follows it."""
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > HEAD_BYTES_MAX:
                raise RemoteProtocolError("the answer to the WebSocket request is too long")
            return b""
        self._head = b""
        status, *lines = head.decode("latin-1").split("\r\n")
        words = status.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1."):
            raise RemoteProtocolError("no HTTP answer to the WebSocket request")
        if words[1] != "101":
            raise Unavailable(f"the WebSocket request was answered by {' '.join(words[1:])}")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("upgrade", "").lower() != "websocket" or headers.get("sec-websocket-accept") != self._accept:
            raise RemoteProtocolError("the answer to the WebSocket request is none of WebSocket's")
        if headers.get("sec-websocket-protocol") != self._subprotocol:
            raise Unavailable(f"the server does not speak {self._subprotocol} at this path")
        if "sec-websocket-extensions" in headers:
            raise RemoteProtocolError("the server uses a WebSocket extension that was not offered")
        self.ready = True
        return rest


Framing = Union[StreamFraming, WebSocketFraming, "SecureFraming"]


def framing_for(address: Address, options: ClientOptions, random_bytes: Callable[[int], bytes]) -> Framing:
    """The framing of a new connection to ``address``."""
    if address.websocket:
        return WebSocketFraming(address, options.frame_bytes_max, random_bytes)
    if address.scheme == "udp":
        return FrameFraming(options.frame_bytes_max)
    stream = StreamFraming(address.form, options.frame_bytes_max)
    if not address.key:
        return stream
    from relay.client.secure import SecureFraming  # imports cryptography: only for who needs it

    return SecureFraming(stream, address, options.secure, random_bytes)
