"""The KCP segment: its header, numbers and constants.

::

    offset 0   conv  u32   which conversation; chosen by the client
           4   cmd   u8    81 PUSH, 82 ACK, 83 WASK (asks for the window), 84 WINS (tells it)
           5   frg   u8    how many fragments of the message follow; 0 in stream mode
           6   wnd   u16   free receive window of the sender, in segments
           8   ts    u32   milliseconds of the sender; an ACK repeats the PUSH's
          12   sn    u32   number of the segment
          16   una   u32   the number that the sender expects next: all before have arrived
          20   size  u32   bytes of data that follow

All little-endian; a datagram holds one or more. Numbers on the wire are 32 bits and wrap; inside they never do
(``near`` finds the full number). Source: skywind3000/kcp ``ikcp.c`` and xtaci/kcp-go ``kcp.go``.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

PUSH: Final = 81
ACK: Final = 82
ASK: Final = 83
TELL: Final = 84

HEADER: Final = Struct("<IBBHIIII")
HEADER_BYTES: Final = 24

MASK: Final = 0xFFFF_FFFF
HALF: Final = 0x8000_0000

DATAGRAM_BYTES_MAX: Final = 1500
"""No datagram of KCP is longer: what an Ethernet carries. kcp-go has the same limit."""
MTU_DEFAULT: Final = 1400
FRAGMENTS_MAX: Final = 255
WINDOW_MAX: Final = 65_535


def near(wire: int, reference: int) -> int:
    """The full number whose lowest 32 bits are ``wire`` and which is nearest to ``reference``."""
    distance = (wire - reference) & MASK
    return reference + distance - (distance & HALF) * 2


class Segment:
    """One segment that was sent and is not acknowledged. Times are milliseconds; ``fast``: acks that went past
    it since it was sent last; ``again``: whether it was sent more than once; ``late``: time-outs that it had."""

    __slots__ = ("again", "data", "fast", "frg", "late", "resend_at", "rto", "sn", "ts")

    def __init__(self, sn: int, frg: int, data: bytes) -> None:
        self.sn = sn
        self.frg = frg
        self.data = data
        self.ts = 0
        self.rto = 0
        self.resend_at = 0
        self.fast = 0
        self.again = False
        self.late = 0


def conv_of(payload: bytes, at: int = 0) -> int:
    """The conversation of the segment at ``at``, where there are four bytes."""
    return int.from_bytes(payload[at : at + 4], "little")


def first_of(payload: bytes) -> tuple[int, int, int, int] | None:
    """conv, cmd, sn and una of the first segment of a payload that is whole from end to end; None when it is not.

    Whole: each length fits, all segments are of one conversation, and every command is known.
    """
    size = len(payload)
    at = 0
    found: tuple[int, int, int, int] | None = None
    while at + HEADER_BYTES <= size:
        conv, cmd, _, _, _, sn, una, length = HEADER.unpack_from(payload, at)
        if not PUSH <= cmd <= TELL:
            return None
        if found is None:
            found = conv, cmd, sn, una
        elif found[0] != conv:
            return None
        at += HEADER_BYTES + length
    return found if at == size else None
