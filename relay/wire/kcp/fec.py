"""Error correction by kcp-go's FEC packets: groups of k data packets, followed by m of parity.

::

    offset 0   seqid  u32   number of the packet, parity counted; wraps at a multiple of k + m
           4   type   u16   0xf1 data, 0xf2 parity, 0xf3 out of band (seqid 0xffffffff; relay ignores these)
           6   size   u16   bytes of the payload + 2; in parity packets already a part of the code
           8   payload

Group = seqid div (k + m), place in it = seqid mod (k + m). The code runs over what follows offset 6, the shorter shards
padded with zeros. Any k of the k + m shards give the others back. A plain KCP payload has its command (81-84) at
offset 4 and a fragment number at 5, so the two are told apart by the u16 at offset 4. Source: xtaci/kcp-go ``fec.go``.

The decoder is told k and m by the pattern of types and numbers that comes, whatever this side is configured to send.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from relay.errors import RemoteProtocolError
from relay.wire.kcp.options import SHARDS_MAX
from relay.wire.kcp.reed_solomon import ReedSolomon
from relay.wire.kcp.segment import DATAGRAM_BYTES_MAX

DATA: Final = 0xF1
PARITY: Final = 0xF2
OUT_OF_BAND: Final = 0xF3
FEC_BYTES: Final = 8
NUMBER_MAX: Final = 0xFFFF_FFFF

GAP_MS_MAX: Final = 500
"""Packets of a group that are further apart than this get no parity: it would come too late to help."""
SHARDS_HELD_MAX: Final = 256
"""Packets of incomplete groups that are kept, at most 400 KB: one group of the largest size, or 19 of 10+3."""
DONE_MAX: Final = 32
"""Groups that are remembered because the rest of their packets is of no use."""
PULSES_MAX: Final = 768
"""Types that are remembered while k and m are looked for: three times the largest group."""

_HEADER: Final = Struct("<IHH")


def is_fec(payload: bytes) -> bool:
    """Whether this is an FEC packet, not a plain payload of KCP."""
    return len(payload) >= FEC_BYTES and payload[5] == 0 and DATA <= payload[4] <= OUT_OF_BAND


class FecEncoder:
    """Gives each payload its header, and after every k of them the m parity packets."""

    __slots__ = ("_at", "_code", "_limit", "_next", "_shards")

    def __init__(self, data: int, parity: int) -> None:
        self._code = ReedSolomon(data, parity)
        self._limit = NUMBER_MAX // (data + parity) * (data + parity)
        self._next = 0
        self._shards: list[bytes] = []
        self._at = 0

    def packets(self, payload: bytes, now: int) -> list[bytes]:
        """The packets to send for ``payload``."""
        code, shards = self._code, self._shards
        number = self._next
        packet = _HEADER.pack(number, DATA, len(payload) + 2) + payload
        if shards and now - self._at > GAP_MS_MAX:
            shards[0] = b""  # marks the group: no parity
        self._at = now
        shards.append(packet[6:])
        number += 1
        out = [packet]
        if len(shards) == code.data:
            if shards[0]:
                for index, parity in enumerate(code.encode(shards)):
                    out.append(_HEADER.pack(number + index, PARITY, 0)[:6] + parity)
            number += code.parity
            self._shards = []
        self._next = number if number < self._limit else 0
        return out


class FecDecoder:
    """Takes packets, gives payloads; those of lost packets as soon as enough of their group is there.

    ``data`` and ``parity`` are 0 until they are known. ``recovered`` counts packets.
    """

    __slots__ = ("_code", "_done", "_groups", "_held", "_pulses", "data", "parity", "recovered")

    def __init__(self, data: int = 0, parity: int = 0) -> None:
        self.data = data
        self.parity = parity
        self.recovered = 0
        self._code = ReedSolomon(data, parity) if data else None
        self._groups: dict[int, dict[int, bytes]] = {}
        self._done: dict[int, None] = {}
        self._held = 0
        self._pulses: dict[int, int] | None = {}

    def receive(self, packet: bytes) -> tuple[bytes, list[bytes]]:
        """The payload of ``packet`` itself (empty for parity), and those that were recovered by it.

        Raises ``RemoteProtocolError`` for a packet that is none.
        """
        if len(packet) < FEC_BYTES or len(packet) > DATAGRAM_BYTES_MAX:
            raise RemoteProtocolError("a packet of error correction of a wrong length")
        number, kind, size = _HEADER.unpack_from(packet)
        if kind == OUT_OF_BAND:
            return b"", []
        payload = b""
        if kind == DATA:
            if not 2 <= size <= len(packet) - 6:
                raise RemoteProtocolError("a packet of error correction with a wrong size")
            payload = packet[FEC_BYTES : size + 6]
        elif kind != PARITY:
            raise RemoteProtocolError(f"the unknown type {kind} of a packet of error correction")
        if not self._fits(number, kind):
            self._pulses = {} if self._pulses is None else self._pulses
        if self._pulses is not None:
            self._learn(number, kind)
        code = self._code
        if code is None or not self._fits(number, kind):
            return payload, []
        return payload, self._collect(code, number, packet)

    def _fits(self, number: int, kind: int) -> bool:
        """Whether a packet of this kind can have this number with the k and m that are known."""
        if self._code is None:
            return False
        return (number % self._code.shards < self._code.data) == (kind == DATA)

    def _collect(self, code: ReedSolomon, number: int, packet: bytes) -> list[bytes]:
        group, place = divmod(number, code.shards)
        if group in self._done:
            return []
        groups = self._groups
        shards = groups.get(group)
        if shards is None:
            shards = groups[group] = {}
        if place not in shards:
            shards[place] = packet[6:]
            self._held += 1
        if len(shards) < code.data:
            while self._held > SHARDS_HELD_MAX:
                # The one that was begun first; what is missing of it is sent again by KCP.
                self._held -= len(groups.pop(next(iter(groups))))
            return []
        self._held -= len(groups.pop(group))
        self._done[group] = None
        if len(self._done) > DONE_MAX:
            del self._done[next(iter(self._done))]
        missing = [each for each in range(code.data) if each not in shards]
        if not missing:
            return []
        out = []
        for shard in code.recover(shards, missing):
            size = int.from_bytes(shard[:2], "little")
            if 2 <= size <= len(shard):
                out.append(shard[2:size])
                self.recovered += 1
        return out

    def _learn(self, number: int, kind: int) -> None:
        """Look for a whole group, data then parity, between parity before it and data after it.

        Where parity was left out its numbers are missing, so such a stretch is never taken for a group.
        """
        pulses = self._pulses
        assert pulses is not None
        pulses[number] = kind
        if len(pulses) > PULSES_MAX:
            del pulses[next(iter(pulses))]
        if kind != PARITY and pulses.get(number - 1) != PARITY:
            return
        # A boundary: walk back from the parity before it.
        last = number if kind == PARITY else number - 1
        if pulses.get(last + 1) != DATA:
            return
        at = last
        while pulses.get(at) == PARITY:
            at -= 1
        parity = last - at
        first = at
        while pulses.get(at) == DATA:
            at -= 1
        data = first - at
        shards = data + parity
        begins = at + 1
        if not data or (begins and pulses.get(at) != PARITY) or begins % shards or shards > SHARDS_MAX:
            return
        self._pulses = None
        if (data, parity) != (self.data, self.parity):
            self.data, self.parity = data, parity
            self._code = ReedSolomon(data, parity)
            self._groups = {}
            self._done = {}
            self._held = 0
