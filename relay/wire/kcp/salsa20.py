"""Salsa20 (Bernstein; 20 rounds, 256-bit key, 64-bit nonce) for peers that use it; not a cipher to choose.

All blocks of a datagram are worked on at once: the sixteen words of the state stand in four large integers, one per
diagonal, whose lanes of 64 bits hold one word each, four words times all blocks. A quarter-round is then seven
operations on large integers for all columns of all blocks. 1400 bytes take about 0.1 ms (a loop over blocks: 2 ms).

Words of a diagonal: d0 = (0 5 10 15), d1 = (4 9 14 3), d2 = (8 13 2 7), d3 = (12 1 6 11). A column round works on them
as they are; for the row round d1, d2 and d3 are turned by 3, 2 and 1 places and change their parts, as in ChaCha.
"""

from __future__ import annotations

import sys
from array import array
from struct import Struct
from typing import Final

_KEY: Final = Struct("<8I")
_NONCE: Final = Struct("<2I")
_CONSTANTS: Final = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
_DIAGONALS: Final = ((0, 5, 10, 15), (4, 9, 14, 3), (8, 13, 2, 7), (12, 1, 6, 11))
BLOCK_BYTES: Final = 64


class Salsa20:
    """The key stream of one key (32 bytes)."""

    __slots__ = ("_key", "_masks")

    def __init__(self, key: bytes) -> None:
        self._key = _KEY.unpack(key)
        self._masks: dict[int, tuple[int, int]] = {}

    def stream(self, nonce: bytes, size: int) -> bytes:
        """``size`` bytes of key stream for a nonce of 8 bytes, from block 0 on."""
        blocks = (size + BLOCK_BYTES - 1) // BLOCK_BYTES
        masks = self._masks.get(blocks)
        if masks is None:
            every = int.from_bytes(b"\1\0\0\0\0\0\0\0" * blocks, "little")
            counter = int.from_bytes(b"".join(each.to_bytes(8, "little") for each in range(blocks)), "little")
            masks = self._masks[blocks] = every, counter
        every, counter = masks
        key, (low, high) = self._key, _NONCE.unpack(nonce)
        words = (
            _CONSTANTS[0], *key[:4], _CONSTANTS[1], low, high, 0, 0, _CONSTANTS[2], *key[4:], _CONSTANTS[3],
        )  # fmt: skip
        span = blocks * 64  # bits of one word of all blocks
        start = []
        for diagonal in _DIAGONALS:
            total = 0
            for lane, word in enumerate(diagonal):
                # Blocks are fewer than 2^32: their number is in word 8 alone.
                total |= (counter if word == 8 else words[word] * every) << span * lane
            start.append(total)
        lanes = (every | every << span | every << span * 2 | every << span * 3) * 0xFFFF_FFFF
        return _joined(_rounds(start, span, lanes), start, lanes, blocks)[:size]


def _rounds(start: list[int], span: int, lanes: int) -> list[int]:
    a, b, c, d = start
    one, two, three = span, span * 2, span * 3
    whole = (1 << span * 4) - 1
    for _ in range(20):
        t = a + d & lanes
        b ^= (t << 7 | t >> 25) & lanes
        t = b + a & lanes
        c ^= (t << 9 | t >> 23) & lanes
        t = c + b & lanes
        d ^= (t << 13 | t >> 19) & lanes
        t = d + c & lanes
        a ^= (t << 18 | t >> 14) & lanes
        # Rows become columns, and the other way round.
        b, d = (d >> one | d << three) & whole, (b >> three | b << one) & whole
        c = (c >> two | c << two) & whole
    return [a, b, c, d]


def _joined(worked: list[int], start: list[int], lanes: int, blocks: int) -> bytes:
    """The sums of the worked and the first state, word by word in the order of the key stream."""
    out = array("I", bytes(BLOCK_BYTES * blocks))
    for diagonal, after, before in zip(_DIAGONALS, worked, start, strict=True):
        halves = array("I", (after + before & lanes).to_bytes(blocks * 32, "little"))
        if sys.byteorder == "big":
            halves.byteswap()
        for lane, word in enumerate(diagonal):
            out[word::16] = halves[lane * blocks * 2 : (lane + 1) * blocks * 2 : 2]
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()
