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
# Codes that may stand in a close frame (RFC 6455 section 7.4 and IANA's registry; 1014 is a gateway's, and Autobahn
# refuses it as well). 3000-4999: anyone's.
CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013))

CONTROL_BYTES_MAX: Final = 125

_U16: Final = Struct(">H")
_U64: Final = Struct(">Q")
_SHORT: Final = Struct(">BB")
_MIDDLE: Final = Struct(">BBH")
_LONG: Final = Struct(">BBQ")

# From this size on the tables are faster than one large integer (measured by bench/wire.py).
_BY_TABLE_BYTES_MIN: Final = 1024
_REPEATS: Final = tuple(int.from_bytes(b"\0\0\0\1" * words) for words in range(_BY_TABLE_BYTES_MIN // 4 + 1))
_XOR_TABLES: Final = tuple(bytes(byte ^ key for byte in range(256)) for key in range(256))

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
    size = len(payload)
    if size < 126:
        return _SHORT.pack(0x80 | opcode, size) + payload
    return _header(opcode, size, 0) + payload


def client_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One whole frame masked with the four bytes ``mask`` (which have to be unpredictable: RFC 6455 section 5.3)."""
    return _header(opcode, len(payload), 0x80) + mask + apply_mask(payload, mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """``payload`` masked or unmasked with the four bytes ``mask`` (RFC 6455 section 5.3)."""
    size = len(payload)
    if size < _BY_TABLE_BYTES_MIN:
        # As one large integer: the mask times 0x…00000001_00000001 is the mask over and over.
        surplus = -size & 3
        if surplus:
            key = int.from_bytes(mask) * _REPEATS[(size >> 2) + 1] >> (surplus << 3)
        else:
            key = int.from_bytes(mask) * _REPEATS[size >> 2]
        return (int.from_bytes(payload) ^ key).to_bytes(size)
    # Every fourth byte meets the same byte of the mask: four look-ups by table, each at the speed of C.
    plain = bytearray(size)
    for place in range(4):
        plain[place::4] = payload[place::4].translate(_XOR_TABLES[mask[place]])
    return bytes(plain)


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
        "_fin", "_held", "_left", "_mask", "_message", "_server", "_tail", "_type",
        "close_code", "failed", "message_bytes_max",
    )  # fmt: skip

    def __init__(self, server: bool, message_bytes_max: int) -> None:
        self.message_bytes_max = message_bytes_max
        self.failed: RemoteProtocolError | None = None
        self.close_code = 0
        self._server = server
        self._held = b""  # an incomplete frame header or control frame: less than 140 bytes
        self._message = bytearray()  # what has come of a message that is not whole
        self._type = 0  # TEXT or BINARY inside a message, else 0
        self._tail = b""  # the beginning of a character at the end of what has come of a TEXT message
        self._left = 0  # bytes still to come of a data frame whose header was read
        self._mask = b""  # its mask, turned to where the next byte stands; empty: not masked
        self._fin = False  # whether it is the last of its message

    def receive(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes, in order."""
        events: list[Event] = []
        if self._held:
            data = self._held + data
            self._held = b""
        try:
            at = self._payload(data, 0, events) if self._left else 0
            if not self._left:
                self._frames(data, at, events)
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

    def _frames(self, data: bytes, at: int, events: list[Event]) -> None:
        """Reads frames from ``at`` on, as far as they go."""
        size = len(data)
        mask_bit = 0x80 if self._server else 0
        short_max = min(CONTROL_BYTES_MAX, self.message_bytes_max)
        while at < size:
            # Fast path: a short data frame that is a whole message and is here in full.
            first = data[at]
            if (first == 0x82 or first == 0x81) and at + 6 <= size and not self._type:
                length = data[at + 1] - mask_bit
                start = at + 6 if mask_bit else at + 2
                end = start + length
                if 0 <= length <= short_max and end <= size:
                    payload = data[start:end]
                    if mask_bit:
                        payload = apply_mask(payload, data[at + 2 : start])
                    if first == 0x81 and not payload.isascii():
                        payload.decode()
                    events.append((first & 0x0F, payload))
                    at = end
                    continue
            following = self._frame(data, at, events)
            if following == at:
                self._held = data[at:]
                return
            if self._left or (events and events[-1][0] == CLOSE):
                return
            at = following

    def _frame(self, data: bytes, at: int, events: list[Event]) -> int:
        """Reads one frame of any sort at ``at``, or the beginning of a data frame.

        Returns where it ends, or ``at`` when more is needed first.
        """
        size = len(data)
        if size - at < 2:
            return at
        first, second = data[at], data[at + 1]
        self._check_header(first, second)
        length = second & 0x7F
        mask_at = at + (2 if length < 126 else 4 if length == 126 else 10)
        start = mask_at + 4 if self._server else mask_at
        if start > size:
            return at
        if length > CONTROL_BYTES_MAX:
            length = self._long_length(data, at + 2, length)
        mask = data[mask_at:start]
        opcode = first & 0x0F
        if opcode >= CLOSE:
            if start + length > size:
                return at
            payload = data[start : start + length]
            if mask:
                payload = apply_mask(payload, mask)
            if opcode == CLOSE:
                self._check_close(payload)
            events.append((opcode, payload))
            return start + length
        if len(self._message) + length > self.message_bytes_max:
            raise FrameTooLarge(f"a message of more than {self.message_bytes_max} bytes")
        if opcode:
            self._type = opcode
        self._fin = first >= 0x80
        self._mask = mask
        self._left = length
        return self._payload(data, start, events)

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

    def _long_length(self, data: bytes, at: int, form: int) -> int:
        """The length at ``at`` in two bytes (``form`` 126) or eight (127)."""
        length: int
        if form == 126:
            (length,) = _U16.unpack_from(data, at)
            shorter = length < 126
        else:
            (length,) = _U64.unpack_from(data, at)
            shorter = length < 65_536
        if shorter or length >> 63:
            raise RemoteProtocolError("a length over 2^63, or not in its shortest form")
        return length

    def _check_close(self, payload: bytes) -> None:
        if payload:
            code = int.from_bytes(payload[:2])
            if code not in CLOSE_CODES and not 3000 <= code <= 4999:
                raise RemoteProtocolError(f"the close code {code}")
            payload[2:].decode()

    def _payload(self, data: bytes, at: int, events: list[Event]) -> int:
        """Takes what ``data`` has, from ``at`` on, of the data frame that is being read; returns where it ends."""
        piece = data[at : at + self._left]
        size = len(piece)
        at += size
        mask = self._mask
        if mask:
            piece = apply_mask(piece, mask)
            turn = size & 3
            if turn:
                self._mask = mask[turn:] + mask[:turn]
        self._left -= size
        whole = self._fin and not self._left
        if self._type == TEXT:
            self._tail = _check_utf8(self._tail + piece, whole)
        if not whole:
            self._message += piece
        else:
            events.append((self._type, bytes(self._message + piece) if self._message else piece))
            self._message = bytearray()
            self._type = 0
        return at


def _check_utf8(data: bytes, whole: bool) -> bytes:
    """Raises ``UnicodeDecodeError`` at the first wrong byte; returns the beginning of a character at the end."""
    _, size = codecs.utf_8_decode(data, "strict", whole)
    tail = data[size:]
    if tail[:1] == b"\xed" and tail[1:] >= b"\xa0":
        # Half a surrogate pair: Python waits for its third byte, but no byte would make it right.
        raise UnicodeDecodeError("utf-8", data, size, len(data), "a surrogate")
    return tail
