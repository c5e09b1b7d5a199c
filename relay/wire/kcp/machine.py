"""The reliable half of KCP: numbered segments, acknowledgements, retransmission and windows, for one side of a session.

    send ─▶ queue ─▶ in flight ──flush──▶ payloads          payloads ──input──▶ early ─▶ ready ─▶ receive
                        │    ▲                                          │
                        └────┘ time-out, fast or early                 └─▶ acks ──flush──▶ payloads
                               retransmission

``now`` is milliseconds of any clock that does not go back. ``input`` takes what ``flush`` of the other side gave (one
payload is one datagram, before error correction and encryption). After ``input``, ``send`` or when ``next_timer`` is
due call ``flush``; a machine without anything to wait for has no timer, so that an idle session costs nothing.

What differs from ``ikcp.c``: there is no ``update`` with a fixed beat (``interval_ms`` is only a part of the
retransmission time-out); only acks that say more than ``una`` are sent, and the last (kcp-go does so, too); and
``relay.wire.kcp.congestion``.

Invariants: ``in_flight`` holds segments from ``una`` (the oldest not acknowledged) to ``next_sn`` in order; ``early``
only numbers from ``expected`` up to a window further; at most two receive windows of data are held.
"""

from __future__ import annotations

from typing import Final

from relay.errors import RemoteProtocolError
from relay.wire.kcp.congestion import RTO_MS_MAX, Congestion, Pace, RoundTrip
from relay.wire.kcp.options import KcpOptions
from relay.wire.kcp.segment import (
    ACK,
    ASK,
    DATAGRAM_BYTES_MAX,
    FRAGMENTS_MAX,
    HALF,
    HEADER,
    HEADER_BYTES,
    MASK,
    PUSH,
    TELL,
    Segment,
    near,
)

WINDOW_PEER_DEFAULT: Final = 32
EARLY_MAX: Final = 4
"""Segments in flight with which fast retransmission may never see enough acks."""
PROBE_MS_MIN: Final = 500
PROBE_MS_MAX: Final = 120_000
NEVER: Final = 1 << 62

_pack = HEADER.pack
_unpack = HEADER.unpack_from


class Kcp:
    """One side of one conversation; see the module.

    ``dead``: a segment had ``dead_after`` time-outs. ``proven``: the peer echoed a time stamp that only who
    receives at its address can know. ``queued_bytes``: handed to ``send`` and not acknowledged.
    """

    __slots__ = (
        "_acks", "_ask", "_congestion", "_early", "_fast", "_mss", "_mtu", "_options", "_pace", "_pace_at",
        "_peer_window", "_probe_at", "_probe_wait_ms", "_queue", "_ready", "_resend_at", "_round_trip", "_tell", "conv",
        "dead", "expected", "in_flight", "next_sn", "proven", "queued_bytes", "resent", "una",
    )  # fmt: skip

    def __init__(self, conv: int, options: KcpOptions, mtu: int) -> None:
        self.conv = conv
        self.dead = False
        self.proven = False
        self.queued_bytes = 0
        self.resent = 0
        self._options = options
        self._mtu = mtu
        self._mss = mtu - HEADER_BYTES
        # out
        self._queue: list[tuple[int, bytes]] = []
        self.in_flight: dict[int, Segment] = {}
        self.una = 0
        self.next_sn = 0
        self._peer_window = WINDOW_PEER_DEFAULT
        self._round_trip = RoundTrip(options.nodelay, options.interval_ms)
        self._congestion = None if options.nc else Congestion(self._mss)
        self._pace = Pace(options.rate_bytes_max) if options.rate_bytes_max else None
        self._pace_at = NEVER
        self._resend_at = NEVER  # not later than the first time-out of what is in flight
        self._fast = False  # whether an ack went past something in flight
        self._probe_at = NEVER
        self._probe_wait_ms = 0
        self._ask = False
        self._tell = False
        # in
        self.expected = 0
        self._early: dict[int, tuple[int, bytes]] = {}
        self._ready: list[tuple[int, bytes]] = []
        self._acks: list[tuple[int, int]] = []

    # --- out ------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Queue ``data``: a message, or in stream mode a piece of the stream. Raises ``ValueError`` for a message that
        needs more fragments than there are or than the window holds."""
        size, mss = len(data), self._mss
        if not size:
            return
        queue = self._queue
        if self._options.stream:
            at = 0
            if queue:
                _, last = queue[-1]
                room = mss - len(last)
                if room > 0:
                    queue[-1] = (0, last + data[:room])
                    at = room
            for start in range(at, size, mss):
                queue.append((0, data[start : start + mss]))
        else:
            count = (size + mss - 1) // mss
            if count > min(FRAGMENTS_MAX, self._options.send_window):
                raise ValueError(f"a message of {size} bytes needs {count} fragments")
            for index in range(count):
                queue.append((count - index - 1, data[index * mss : (index + 1) * mss]))
        self.queued_bytes += size

    def flush(self, now: int) -> list[bytes]:
        """The payloads that are due, each at most one datagram of the MTU."""
        out: list[bytes] = []
        options, mtu = self._options, self._mtu
        head = max(0, options.receive_window - len(self._ready))
        parts = self._control(now, head)
        if len(parts) * HEADER_BYTES > mtu:
            step = mtu // HEADER_BYTES
            while len(parts) > step:
                out.append(b"".join(parts[:step]))
                del parts[:step]
        size = HEADER_BYTES * len(parts)
        window = min(options.send_window, self._peer_window)
        if self._congestion is not None:
            window = min(window, self._congestion.window)
        room = self.una + window - self.next_sn
        budget = self._pace.refilled(now) if self._pace is not None else NEVER
        self._pace_at = NEVER
        due: list[Segment] = []
        if self.in_flight and (self._fast or now >= self._resend_at):
            due, budget = self._overdue(now, not (self._queue and room > 0), window, budget)
        if self._queue and room > 0:
            budget = self._moved(due, room, now, budget)
        if self._pace is not None:
            self._pace.budget = budget
        conv, una, ts = self.conv, self.expected & MASK, now & MASK
        for segment in due:
            segment.ts = ts
            segment.resend_at = now + segment.rto
            data = segment.data
            length = len(data) + HEADER_BYTES
            if size + length > mtu and parts:
                out.append(b"".join(parts))
                parts = []
                size = 0
            parts.append(_pack(conv, PUSH, segment.frg, head, ts, segment.sn & MASK, una, length - HEADER_BYTES))
            parts.append(data)
            size += length
        if parts:
            out.append(b"".join(parts))
        return out

    def next_timer(self) -> int | None:
        """When ``flush`` is due next, in milliseconds of the same clock; None: not before something happens."""
        if self._acks or self._ask or self._tell:
            return 0
        at = self._pace_at
        if self.in_flight:
            at = min(at, self._resend_at)
        elif self._queue and self._peer_window == 0:
            at = min(at, self._probe_at)
        return at if at < NEVER else None

    # --- in -------------------------------------------------------------------------------------------------------

    def input(self, payload: bytes, now: int, regular: bool = True) -> None:
        """Take a payload of the other side. ``regular`` False: it was recovered and is older than it looks, so window
        and round-trip time are not taken from it. Raises ``RemoteProtocolError`` for what is no KCP of this
        conversation; what stood before the mistake counts."""
        size = len(payload)
        at = 0
        una_before = self.una
        acked = -1
        acked_ts = 0
        while at < size:
            if at + HEADER_BYTES > size:
                raise RemoteProtocolError("the rest of a datagram is shorter than a segment")
            conv, cmd, frg, window, ts, sn, una, length = _unpack(payload, at)
            at += HEADER_BYTES
            end = at + length
            if conv != self.conv:
                raise RemoteProtocolError("a segment of another conversation")
            if end > size or length > DATAGRAM_BYTES_MAX:
                raise RemoteProtocolError("a segment longer than its datagram")
            if regular:
                self._peer_window = window
            if cmd == ACK:
                sn = near(sn, self.next_sn)
                segment = self.in_flight.get(sn)
                if segment is not None:
                    if segment.ts == ts:
                        self.proven = True
                    if segment.again and self._congestion is not None:
                        self._congestion.judge((ts - segment.ts) & MASK >= HALF)
                    del self.in_flight[sn]
                    self.queued_bytes -= len(segment.data)
                if acked < sn < self.next_sn:
                    acked = sn
                    acked_ts = ts
            elif cmd == PUSH:
                sn = near(sn, self.expected)
                if frg >= self._options.receive_window:
                    raise RemoteProtocolError("a message of more fragments than the receive window")
                self._arrived(sn, ts, frg, payload, at, end)
            elif cmd == ASK:
                self._tell = True
            elif cmd != TELL:
                raise RemoteProtocolError(f"the unknown command {cmd}")
            una = near(una, self.next_sn)
            if self.una < una <= self.next_sn:
                self._acknowledged(una)
            at = end
        if acked >= 0:
            self._heard_ack(acked, acked_ts, now, regular)
        if self.una > una_before and self._congestion is not None:
            self._congestion.grow(self.una - una_before, self._peer_window)

    def receive(self) -> bytes | None:
        """The next message, or in stream mode everything there is; None when there is nothing whole."""
        ready = self._ready
        if not ready:
            return None
        full = len(ready) >= self._options.receive_window
        if self._options.stream:
            data = ready[0][1] if len(ready) == 1 else b"".join([each for _, each in ready])
            self._ready = []
        else:
            count = ready[0][0] + 1
            if len(ready) < count:
                return None
            data = b"".join([each for _, each in ready[:count]])
            del ready[:count]
        if full or self._early:
            self._advance()
            self._tell = self._tell or full
        return data

    def readable(self) -> bool:
        """Whether ``receive`` would give something."""
        ready = self._ready
        return bool(ready) and (self._options.stream or len(ready) > ready[0][0])

    def fresh(self, cmd: int, sn: int, una: int) -> bool:
        """Whether a segment with these (wire) numbers tells something new: data or an acknowledgement not seen yet."""
        sn, una = near(sn, self.expected), near(una, self.next_sn)
        within = self.expected <= sn < self.expected + self._options.receive_window
        return (cmd == PUSH and within and sn not in self._early) or self.una < una <= self.next_sn

    # --- inside: in -----------------------------------------------------------------------------------------------

    def _arrived(self, sn: int, ts: int, frg: int, payload: bytes, at: int, end: int) -> None:
        window = self._options.receive_window
        expected = self.expected
        if sn >= expected + window:
            return
        acks = self._acks
        if len(acks) < window * 2:
            acks.append((sn, ts))
        # Fast path: the next in order, and room for it.
        if sn == expected and len(self._ready) < window:
            self._ready.append((frg, payload[at:end]))
            self.expected = expected + 1
            if self._early:
                self._advance()
        elif sn >= expected and sn not in self._early:
            self._early[sn] = (frg, payload[at:end])

    def _advance(self) -> None:
        """Move what is next in order from ``early`` to ``ready``, as far as the window has room."""
        early, ready = self._early, self._ready
        sn = self.expected
        while sn in early and len(ready) < self._options.receive_window:
            ready.append(early.pop(sn))
            sn += 1
        self.expected = sn

    def _acknowledged(self, una: int) -> None:
        in_flight = self.in_flight
        for sn in range(self.una, una):
            segment = in_flight.pop(sn, None)
            if segment is not None:
                self.queued_bytes -= len(segment.data)
        self.una = una

    def _heard_ack(self, acked: int, ts: int, now: int, regular: bool) -> None:
        """The highest number among the acks of a payload, with its time stamp."""
        in_flight = self.in_flight
        una = self.una
        while una < self.next_sn and una not in in_flight:
            una += 1
        self.una = una
        if una < acked:
            for sn, segment in in_flight.items():
                if sn >= acked:
                    break
                # What was sent before it was sent again says nothing about whether that arrived.
                passed = (ts - segment.ts) & MASK
                if passed < HALF and (passed or not segment.again):
                    segment.fast += 1
            self._fast = True
        rtt = (now - ts) & MASK
        if regular and rtt <= RTO_MS_MAX:
            self._round_trip.measured(rtt)

    # --- inside: out ----------------------------------------------------------------------------------------------

    def _control(self, now: int, head: int) -> list[bytes]:
        """Acks and questions about windows, as segments without data."""
        parts: list[bytes] = []
        conv, una = self.conv, self.expected & MASK
        acks = self._acks
        if acks:
            expected = self.expected
            last = acks[-1]
            for sn, ts in acks:
                if sn >= expected:
                    parts.append(_pack(conv, ACK, 0, head, ts, sn & MASK, una, 0))
            if last[0] < expected:
                parts.append(_pack(conv, ACK, 0, head, last[1], last[0] & MASK, una, 0))
            self._acks = []
        if self._peer_window == 0 and self._queue:
            if not self._probe_wait_ms:
                self._probe_wait_ms = PROBE_MS_MIN
                self._probe_at = now + PROBE_MS_MIN
            elif now >= self._probe_at:
                self._probe_wait_ms = min(PROBE_MS_MAX, self._probe_wait_ms * 3 // 2)
                self._probe_at = now + self._probe_wait_ms
                self._ask = True
        elif self._probe_wait_ms:
            self._probe_wait_ms = 0
            self._probe_at = NEVER
        if self._ask:
            parts.append(_pack(conv, ASK, 0, head, 0, 0, una, 0))
            self._ask = False
        if self._tell:
            parts.append(_pack(conv, TELL, 0, head, 0, 0, una, 0))
            self._tell = False
        return parts

    def _overdue(self, now: int, nothing_new: bool, window: int, budget: int) -> tuple[list[Segment], int]:
        """What is to be sent again, within ``budget`` bytes, and what is left of them.

        Early retransmission (RFC 5827; kcp-go has a coarser form): one ack past a segment is enough when there is
        little in flight and nothing new to send, for then no further acks will come.
        """
        options = self._options
        due: list[Segment] = []
        after = options.resend
        early = nothing_new and len(self.in_flight) < EARLY_MAX
        congestion, rto_ms = self._congestion, self._round_trip.rto_ms
        recover = congestion.recover if congestion is not None else NEVER
        passed = lost = held = False
        first = NEVER
        for segment in self.in_flight.values():
            fast = after and segment.fast and (segment.fast >= after or early)
            if not fast and now < segment.resend_at:
                first = min(first, segment.resend_at)
                continue
            if budget <= 0:
                held = True
                assert self._pace is not None
                first = min(first, self._pace.again_at(now, budget))
                break
            if fast:
                segment.rto = rto_ms
                passed = passed or segment.sn >= recover
            else:
                segment.rto = min(RTO_MS_MAX, segment.rto + (rto_ms // 2 if options.nodelay else rto_ms))
                lost = lost or segment.sn >= recover
                segment.late += 1
                if segment.late >= options.dead_after:
                    self.dead = True
            segment.fast = 0
            segment.again = True
            due.append(segment)
            budget -= len(segment.data) + HEADER_BYTES
            first = min(first, now + segment.rto)
        self._fast = held
        self._resend_at = first
        self.resent += len(due)
        if congestion is not None:
            if passed:
                congestion.passed_over(self.next_sn - self.una, after, self.next_sn)
            if lost:
                congestion.timed_out(window, self.next_sn)
        return due, budget

    def _moved(self, due: list[Segment], room: int, now: int, budget: int) -> int:
        """Move from the queue into flight, at most ``room`` segments and ``budget`` bytes; returns what is left."""
        queue, in_flight = self._queue, self.in_flight
        sn, rto = self.next_sn, self._round_trip.rto_ms
        count = 0
        for frg, data in queue[:room]:
            if budget <= 0:
                assert self._pace is not None
                self._pace_at = self._pace.again_at(now, budget)
                break
            segment = in_flight[sn] = Segment(sn, frg, data)
            segment.rto = rto
            due.append(segment)
            budget -= len(data) + HEADER_BYTES
            sn += 1
            count += 1
        if count:
            del queue[:count]
            self.next_sn = sn
            self._resend_at = min(self._resend_at, now + rto)
        return budget
