"""WebSocket after the handshake: frames in, events out, for a server or a client, without extensions.

Source: RFC 6455 sections 5 (framing), 7.4 (close codes) and 8.1 (UTF-8). An event is a pair ``(opcode, payload)``: a
whole TEXT or BINARY message, PING, PONG, or CLOSE (``close_of`` reads its payload). Text is known to be UTF-8 when it
comes out, and is refused at its first wrong byte. What breaks the rules ends the machine with a close code::

    1002  a rule of framing    1007  text that is not UTF-8    1009  a message over message_bytes_max
"""

from __future__ import annotations

import codecs
from struct import Struct
from typing import Final

from relay.errors import FrameTooLarge, RemoteProtocolError

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

NO_STATUS: Final = 1005
PROTOCOL_ERROR: Final = 1002
INVALID_PAYLOAD: Final = 1007
MESSAGE_TOO_BIG: Final = 1009
# Codes that may stand in a close frame (RFC 6455 section 7.4; IANA's registry up to 1014). 3000-4999: anyone's.
CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))

CONTROL_BYTES_MAX: Final = 125

_U16: Final = Struct(">H")
_U64: Final = Struct(">Q")
_SHORT: Final = Struct(">BB")
_MIDDLE: Final = Struct(">BBH")
_LONG: Final = Struct(">BBQ")

_utf8 = codecs.getincrementaldecoder("utf-8")

Event = tuple[int, bytes]


# --- frames out ---------------------------------------------------------------------------------------------------


def _header(opcode: int, size: int, mask_bit: int) -> bytes:
    if size < 126:
        return _SHORT.pack(0x80 | opcode, mask_bit | size)
    if size < 65_536:
        return _MIDDLE.pack(0x80 | opcode, mask_bit | 126, size)
    return _LONG.pack(0x80 | opcode, mask_bit | 127, size)


def server_frame(opcode: int, payload: bytes) -> bytes:
    """One whole, unmasked frame."""
    return _header(opcode, len(payload), 0) + payload


def client_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One whole frame masked with the four bytes ``mask`` (which have to be unpredictable: RFC 6455 section 5.3)."""
    return _header(opcode, len(payload), 0x80) + mask + apply_mask(payload, mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """``payload`` masked or unmasked with the four bytes ``mask``."""
    size = len(payload)
    key = (mask * ((size + 3) >> 2))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame; the reason is cut to what fits (123 bytes)."""
    return _U16.pack(code) + reason.encode()[: CONTROL_BYTES_MAX - 2].decode(errors="ignore").encode()


def close_of(payload: bytes) -> tuple[int, str]:
    """Code and reason in the payload of a CLOSE event; 1005 when it is empty."""
    if not payload:
        return NO_STATUS, ""
    return int.from_bytes(payload[:2]), payload[2:].decode()


# --- frames in ----------------------------------------------------------------------------------------------------


class WebSocketMachine:
    """One direction of one connection: what the peer sends.

    ``server``: whether this side is the server (frames must be masked, else they must not be). ``failed`` is set
    once, with ``close_code`` to send; then, and after a CLOSE event, ``receive`` must not be called again.
    """

    __slots__ = (
        "_decoder", "_fin", "_held", "_key", "_left", "_message", "_opcode", "_server", "_type",
        "close_code", "failed", "message_bytes_max",
    )  # fmt: skip

    def __init__(self, server: bool, message_bytes_max: int) -> None:
        self.message_bytes_max = message_bytes_max
        self.failed: RemoteProtocolError | None = None
        self.close_code = 0
        self._server = server
        self._held = b""  # an incomplete frame header, or an incomplete control frame
        self._message = bytearray()  # what has come of a message that is not whole
        self._type = 0  # TEXT or BINARY inside a message, else 0
        self._decoder: codecs.IncrementalDecoder | None = None  # checks a TEXT message that is not whole
        self._left = 0  # bytes still to come of a data frame whose header was read
        self._key = b""  # its mask, turned to where the next byte stands; empty: not masked
        self._fin = False  # whether it is the last of its message
        self._opcode = 0

    def receive(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes, in order."""
        events: list[Event] = []
        if self._held:
            data = self._held + data
            self._held = b""
        try:
            at = self._continue(data, 0, events) if self._left else 0
            size = len(data)
            while at < size and not self._left:
                following = self._frame(data, at, events)
                if following == at:
                    self._held = data[at:]
                    break
                at = following
                if events and events[-1][0] == CLOSE:
                    break
        except UnicodeDecodeError:
            self._fail(RemoteProtocolError("text that is not UTF-8"), INVALID_PAYLOAD)
        except FrameTooLarge as error:
            self._fail(error, MESSAGE_TOO_BIG)
        except RemoteProtocolError as error:
            self._fail(error, PROTOCOL_ERROR)
        return events

    def _fail(self, error: RemoteProtocolError, close_code: int) -> None:
        self.failed = error
        self.close_code = close_code
        self._message = bytearray()

    def _frame(self, data: bytes, at: int, events: list[Event]) -> int:
        """Reads the frame at ``at``; returns where the next begins, or ``at`` when more is needed first."""
        size = len(data)
        if size - at < 2:
            return at
        first, second = data[at], data[at + 1]
        self._check_header(first, second)
        length = second & 0x7F
        start = at + 2
        if length == 126:
            start += 2
            if start > size:
                return at
            (length,) = _U16.unpack_from(data, at + 2)
            if length < 126:
                raise RemoteProtocolError("a length that is not in its shortest form")
        elif length == 127:
            start += 8
            if start > size:
                return at
            (length,) = _U64.unpack_from(data, at + 2)
            if length >> 63 or length < 65_536:
                raise RemoteProtocolError("a length over 2^63 or not in its shortest form")
        key = b""
        if second & 0x80:
            key = data[start : start + 4]
            start += 4
            if start > size:
                return at
        opcode = first & 0x0F
        if opcode >= CLOSE:
            if start + length > size:
                return at
            payload = data[start : start + length]
            events.append((opcode, self._control(opcode, apply_mask(payload, key) if key else payload)))
            return start + length
        if len(self._message) + length > self.message_bytes_max:
            raise FrameTooLarge(f"a message of more than {self.message_bytes_max} bytes")
        self._fin = first >= 0x80
        self._key = key
        self._left = length
        if opcode:
            self._type = opcode
        return self._continue(data, start, events)

    def _check_header(self, first: int, second: int) -> None:
        if first & 0x70:
            raise RemoteProtocolError("reserved bits are set and no extension was negotiated")
        if (second >= 0x80) is not self._server:
            raise RemoteProtocolError("a client's frames must be masked, a server's must not")
        opcode = first & 0x0F
        if opcode >= CLOSE:
            if opcode > PONG:
                raise RemoteProtocolError(f"the reserved opcode {opcode}")
            if first < 0x80:
                raise RemoteProtocolError("a control frame in fragments")
            if second & 0x7F > CONTROL_BYTES_MAX:
                raise RemoteProtocolError(f"a control frame of more than {CONTROL_BYTES_MAX} bytes")
            if opcode == CLOSE and second & 0x7F == 1:
                raise RemoteProtocolError("a close frame of one byte")
        elif opcode > BINARY:
            raise RemoteProtocolError(f"the reserved opcode {opcode}")
        elif (opcode == CONTINUATION) is not (self._type != 0):
            raise RemoteProtocolError("a continuation of nothing, or a message inside another")

    def _control(self, opcode: int, payload: bytes) -> bytes:
        """``payload``, checked when it is a close frame's."""
        if opcode == CLOSE and payload:
            code = int.from_bytes(payload[:2])
            if code not in CLOSE_CODES and not 3000 <= code <= 4999:
                raise RemoteProtocolError(f"the close code {code}")
            payload[2:].decode()
        return payload

    def _continue(self, data: bytes, at: int, events: list[Event]) -> int:
        """Takes what ``data`` has of the data frame that is being read; returns where it ends."""
        piece = data[at : at + self._left]
        if self._key:
            turn = len(piece) & 3
            plain = apply_mask(piece, self._key)
            if turn:
                self._key = self._key[turn:] + self._key[:turn]
        else:
            plain = piece
        self._left -= len(piece)
        whole = self._fin and not self._left
        if self._type == TEXT:
            if self._decoder is None:
                self._decoder = _utf8()
            self._decoder.decode(plain, whole)
        if not whole:
            self._message += plain
        else:
            payload = bytes(self._message + plain) if self._message else plain
            events.append((self._type, payload))
            self._message = bytearray()
            self._type = 0
            self._decoder = None
        return at + len(piece)
