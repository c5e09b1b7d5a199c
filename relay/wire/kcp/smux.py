"""smux, versions 1 and 2: many streams inside one, with flow control, keep-alive and half-close; no I/O.

::

    offset 0   version  u8    1 or 2; both sides use the same
           1   command  u8    0 SYN, 1 FIN, 2 PSH, 3 NOP, 4 UPD (version 2)
           2   length   u16   bytes that follow
           4   stream   u32   3, 5, 7 … opened by the client, 2, 4, 6 … by the server; 0 in NOP
           8   data           of UPD: consumed u32, window u32

All little-endian. Source: xtaci/smux ``frame.go``, ``session.go``, ``stream.go``.

Flow control. Version 2: of each stream a sender may have ``window`` bytes that the receiver has not consumed; the
window begins with 262 144 and UPD tells another. Version 1: nothing for a single stream; the reader of the whole has to
stop when too much is held (``held_bytes``). FIN ends one direction; a stream is gone when both have ended.

An event is ``(what, stream, data)``; the owner calls ``consumed`` for what it took of a stream.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from relay.errors import RemoteProtocolError
from relay.wire.kcp.segment import MASK

SYN: Final = 0
FIN: Final = 1
PSH: Final = 2
NOP: Final = 3
UPD: Final = 4

OPENED: Final = "opened"
DATA: Final = "data"
ENDED: Final = "ended"
WRITABLE: Final = "writable"

HEADER_BYTES: Final = 8
FRAME_BYTES_MAX: Final = 32_768
"""Of data in frames that this side sends; smux's default, which its receivers take."""
PEER_WINDOW_START: Final = 262_144
WINDOW_BYTES: Final = 1_048_576
"""What this side advertises in version 2: 64 KiB, smux's default, is 1.3 MB/s at 50 ms."""
STREAMS_MAX: Final = 4096
"""Of one session, opened by the peer."""
KEEPALIVE_S: Final = 10
SILENCE_S: Final = 30

_HEADER: Final = Struct("<BBHI")
_UPDATE: Final = Struct("<BBHIII")

Event = tuple[str, int, bytes]


class _Stream:
    """``sent`` and ``peer_consumed`` count bytes of our direction, ``received``, ``consumed`` of the other."""

    __slots__ = (
        "consumed", "ended_here", "ended_there", "fin_waits", "peer_consumed", "peer_window", "received", "sent",
        "told", "waiting", "waiting_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sent = 0
        self.peer_consumed = 0
        self.peer_window = PEER_WINDOW_START
        self.received = 0
        self.consumed = 0
        self.told = -1
        self.waiting: list[bytes] = []
        self.waiting_bytes = 0
        self.ended_here = False
        self.ended_there = False
        self.fin_waits = False


class Smux:
    """One side of one session. ``output`` collects what is to be sent; the owner takes and clears it.

    ``held_bytes``: delivered and not consumed, over all streams. ``heard``: whether something came since the owner
    cleared it (for the time-out; a NOP every ``KEEPALIVE_S`` by ``keep_alive`` keeps the peer's from passing).
    """

    __slots__ = ("_client", "_input", "_next", "_version", "heard", "held_bytes", "output", "streams", "streams_max")

    def __init__(self, client: bool, version: int, streams_max: int = STREAMS_MAX) -> None:
        assert version in (1, 2)
        self.streams: dict[int, _Stream] = {}
        self.streams_max = streams_max
        self.output: list[bytes] = []
        self.held_bytes = 0
        self.heard = False
        self._client = client
        self._version = version
        self._next = 1 if client else 0
        self._input = b""

    # --- in -------------------------------------------------------------------------------------------------------

    def input(self, data: bytes) -> list[Event]:
        """What ``data`` completes. Raises ``RemoteProtocolError``: the session is over."""
        events: list[Event] = []
        self.heard = True
        if self._input:
            data = self._input + data
        at, size = 0, len(data)
        while at + HEADER_BYTES <= size:
            version, command, length, sid = _HEADER.unpack_from(data, at)
            if version != self._version:
                raise RemoteProtocolError(f"smux version {version}, expected {self._version}")
            if command > UPD or (command == UPD and (version != 2 or length != 8)):
                raise RemoteProtocolError(f"the smux command {command} of {length} bytes in version {version}")
            if command not in (PSH, UPD) and length:
                raise RemoteProtocolError(f"the smux command {command} with data")
            end = at + HEADER_BYTES + length
            if end > size:
                break
            self._frame(command, sid, data, at + HEADER_BYTES, end, events)
            at = end
        self._input = data[at:]
        return events

    def _frame(self, command: int, sid: int, data: bytes, at: int, end: int, events: list[Event]) -> None:
        stream = self.streams.get(sid)
        if command == SYN:
            if stream is None:
                self._accept(sid, events)
        elif stream is None:
            return  # closed here already, or never opened: smux drops it, too
        elif command == PSH:
            self._pushed(stream, sid, data[at:end], events)
        elif command == FIN:
            if not stream.ended_there:
                stream.ended_there = True
                events.append((ENDED, sid, b""))
                self._forget_ended(sid, stream)
        elif command == UPD:
            stream.peer_consumed = int.from_bytes(data[at : at + 4], "little")
            stream.peer_window = int.from_bytes(data[at + 4 : end], "little")
            if stream.waiting or stream.fin_waits:
                self._push(sid, stream)
                if not stream.waiting and sid in self.streams:
                    events.append((WRITABLE, sid, b""))

    def _accept(self, sid: int, events: list[Event]) -> None:
        if sid & 1 == self._client or not sid:
            raise RemoteProtocolError(f"a stream with the number {sid} is not the peer's to open")
        if len(self.streams) >= self.streams_max:
            # Refused: the peer sees its end at once.
            self.output.append(_HEADER.pack(self._version, FIN, 0, sid))
            return
        self.streams[sid] = _Stream()
        events.append((OPENED, sid, b""))

    def _pushed(self, stream: _Stream, sid: int, data: bytes, events: list[Event]) -> None:
        if stream.ended_there or not data:
            return
        stream.received += len(data)
        if self._version == 2:
            held = stream.received - stream.consumed
            # Before it was told ours, a peer may use the window that it begins with.
            if held > max(WINDOW_BYTES, PEER_WINDOW_START) + FRAME_BYTES_MAX:
                raise RemoteProtocolError("a stream sent more than its window")
        self.held_bytes += len(data)
        events.append((DATA, sid, data))

    def consumed(self, sid: int, count: int) -> None:
        """``count`` bytes of a stream were taken: the peer may send as many more."""
        self.held_bytes -= count
        stream = self.streams.get(sid)
        if stream is None:
            return
        stream.consumed += count
        if self._version == 2 and not stream.ended_there:
            if stream.told < 0 or stream.consumed - stream.told >= WINDOW_BYTES // 2:
                stream.told = stream.consumed
                self.output.append(_UPDATE.pack(2, UPD, 8, sid, stream.consumed & MASK, WINDOW_BYTES))

    # --- out ------------------------------------------------------------------------------------------------------

    def open(self) -> int:
        """Open a stream; returns its number."""
        self._next += 2
        sid = self._next
        self.streams[sid] = _Stream()
        self.output.append(_HEADER.pack(self._version, SYN, 0, sid))
        return sid

    def send(self, sid: int, data: bytes) -> int:
        """Send on a stream, as much as its window lets; the rest waits here. Returns the bytes that wait."""
        stream = self.streams.get(sid)
        if stream is None or stream.ended_here or stream.fin_waits or not data:
            return 0
        stream.waiting.append(data)
        stream.waiting_bytes += len(data)
        self._push(sid, stream)
        return stream.waiting_bytes

    def finish(self, sid: int) -> None:
        """End our direction after what waits."""
        stream = self.streams.get(sid)
        if stream is not None and not stream.ended_here:
            stream.fin_waits = True
            self._push(sid, stream)

    def reset(self, sid: int) -> None:
        """Forget a stream: what waits is not sent, what comes is dropped."""
        stream = self.streams.pop(sid, None)
        if stream is not None and not stream.ended_here:
            self.output.append(_HEADER.pack(self._version, FIN, 0, sid))

    def keep_alive(self) -> None:
        """Send a sign of life."""
        self.output.append(_HEADER.pack(self._version, NOP, 0, 0))

    def _push(self, sid: int, stream: _Stream) -> None:
        """Send what the window lets."""
        version, output = self._version, self.output
        waiting = stream.waiting
        room = stream.waiting_bytes
        if version == 2:
            # Counters on the wire have 32 bits; what is under way is less than that.
            under_way = (stream.sent - stream.peer_consumed) & MASK
            room = min(room, stream.peer_window - under_way)
        if room > 0:
            data = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            for start in range(0, room, FRAME_BYTES_MAX):
                piece = data[start : min(start + FRAME_BYTES_MAX, room)]
                output.append(_HEADER.pack(version, PSH, len(piece), sid))
                output.append(piece)
            stream.sent += room
            stream.waiting_bytes -= room
            stream.waiting = [data[room:]] if stream.waiting_bytes else []
        if stream.fin_waits and not stream.waiting_bytes:
            stream.fin_waits = False
            stream.ended_here = True
            output.append(_HEADER.pack(version, FIN, 0, sid))
            self._forget_ended(sid, stream)

    def _forget_ended(self, sid: int, stream: _Stream) -> None:
        if stream.ended_here and stream.ended_there:
            self.streams.pop(sid, None)
