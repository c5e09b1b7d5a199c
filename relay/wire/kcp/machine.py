"""The reliable half of KCP: numbered segments, acknowledgements, retransmission and windows, for one side of a session.

    send ─▶ queue ─▶ in flight ──flush──▶ payloads          payloads ──input──▶ early ─▶ ready ─▶ receive
                        │    ▲                                          │
                        └────┘ time-out, fast or early                 └─▶ acks ──flush──▶ payloads
                               retransmission

``now`` is milliseconds of any clock that does not go back. ``input`` takes what ``flush`` of the other side gave (one
payload is one datagram, before error correction and encryption). After ``input``, ``send`` or when ``next_timer`` is
due call ``flush``; a machine without anything to wait for has no timer, so that an idle session costs nothing.

What differs from ``ikcp.c``: there is no ``update`` with a fixed beat (``interval_ms`` is only a part of the
retransmission time-out); only acks that say more than ``una`` are sent, and the last (kcp-go does so, too); the
congestion window grows by what was acknowledged (RFC 3465), as acks are joined; and a token bucket caps the rate.

Invariants: ``in_flight`` holds segments from ``una`` (the oldest not acknowledged) to ``next_sn`` in order; ``early``
only numbers from ``expected`` up to a window further; at most two receive windows of data are held.
"""

from __future__ import annotations

from typing import Final

from relay.errors import RemoteProtocolError
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
    WINDOW_MAX,
    Segment,
    near,
)

RTO_MS_DEFAULT: Final = 200
RTO_MS_MIN: Final = 100
RTO_MS_MIN_NODELAY: Final = 30
RTO_MS_MAX: Final = 60_000
WINDOW_PEER_DEFAULT: Final = 32
THRESHOLD_MIN: Final = 2
CWND_START: Final = 10
"""RFC 6928. ``ikcp.c`` begins with 1, and with the threshold of a path that has just lost something."""
EARLY_MAX: Final = 4
"""Segments in flight with which fast retransmission may never see enough acks."""
PROBE_MS_MIN: Final = 500
PROBE_MS_MAX: Final = 120_000
BURST_BYTES_MIN: Final = 16_384
"""Of the token bucket: a message of some size leaves at once."""
BURST_MS: Final = 10
NEVER: Final = 1 << 62

_pack = HEADER.pack
_unpack = HEADER.unpack_from


class Kcp:
    """One side of one conversation; see the module.

    ``dead``: a segment had ``dead_after`` time-outs. ``proven``: the peer echoed a time stamp that only who
    receives at its address can know. ``queued_bytes``: handed to ``send`` and not acknowledged.
    """

    __slots__ = (
        "_acks", "_ask", "_before", "_burst_bytes", "_cwnd", "_early", "_fast", "_incr", "_mss", "_mtu", "_options",
        "_pace_at", "_pace_bytes", "_paced_at", "_peer_window", "_probe_at", "_probe_wait_ms", "_queue", "_ready",
        "_recover", "_resend_at", "_rto", "_rtt", "_rtt_var", "_tell", "_threshold", "conv", "dead", "expected",
        "in_flight", "next_sn", "proven", "queued_bytes", "resent", "una",
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
        self._rtt = 0
        self._rtt_var = 0
        self._rto = RTO_MS_DEFAULT
        self._resend_at = NEVER  # not later than the first time-out of what is in flight
        self._fast = False  # whether an ack went past something in flight
        self._cwnd = CWND_START
        self._incr = self._mss * CWND_START
        self._threshold = WINDOW_MAX
        self._before: tuple[int, int, int] | None = None  # window, threshold and _incr before a time-out
        self._recover = 0  # losses below this number are already paid for
        self._probe_at = NEVER
        self._probe_wait_ms = 0
        self._ask = False
        self._tell = False
        self._burst_bytes = max(BURST_BYTES_MIN, options.rate_bytes_max * BURST_MS // 1000)
        self._pace_bytes = self._burst_bytes
        self._paced_at = -1
        self._pace_at = NEVER
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
        if not options.nc:
            window = min(window, self._cwnd)
        room = self.una + window - self.next_sn
        budget = self._refilled(now) if options.rate_bytes_max else NEVER
        due: list[Segment] = []
        if self.in_flight and (self._fast or now >= self._resend_at):
            due, budget = self._overdue(now, not (self._queue and room > 0), window, budget)
        if self._queue and room > 0:
            budget = self._moved(due, room, now, budget)
        if options.rate_bytes_max:
            self._pace_bytes = budget
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
                    if self._before is not None and segment.again:
                        self._judge((ts - segment.ts) & MASK >= HALF)
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
        if self.una > una_before and not self._options.nc:
            self._grow(self.una - una_before)

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
            self._measured(rtt)

    def _judge(self, earlier: bool) -> None:
        """The first ack of something sent again after a time-out. When it repeats an ``earlier`` time stamp, the first
        transmission had arrived: the time-out was a mistake, and the window is what it was (Eifel, RFC 3522)."""
        assert self._before is not None
        if earlier:
            self._cwnd, self._threshold, self._incr = self._before
        self._before = None

    def _measured(self, rtt: int) -> None:
        if not self._rtt:
            self._rtt = max(1, rtt)
            self._rtt_var = rtt >> 1
        else:
            delta = rtt - self._rtt
            self._rtt = max(1, self._rtt + (delta >> 3))
            delta = abs(delta)
            # Slower when a sample is below the usual range: it is no sign of more variation.
            shift = 5 if rtt < self._rtt - self._rtt_var else 2
            self._rtt_var += (delta - self._rtt_var) >> shift
        least = RTO_MS_MIN_NODELAY if self._options.nodelay else RTO_MS_MIN
        rto = self._rtt + max(self._options.interval_ms, 4 * self._rtt_var)
        self._rto = min(max(least, rto), RTO_MS_MAX)

    def _grow(self, count: int) -> None:
        """The congestion window after ``count`` segments were acknowledged."""
        if self._cwnd >= self._peer_window:
            return
        mss = self._mss
        if self._cwnd < self._threshold:
            self._cwnd += count
            self._incr = self._cwnd * mss
        else:
            self._incr = max(self._incr, mss)
            self._incr += count * (mss * mss // self._incr + mss // 16)
            self._cwnd = max(self._cwnd, self._incr // mss)
        if self._cwnd > self._peer_window:
            self._cwnd = self._peer_window
            self._incr = self._cwnd * mss

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
        changed = lost = held = False
        first = NEVER
        for segment in self.in_flight.values():
            fast = after and segment.fast and (segment.fast >= after or early)
            if not fast and now < segment.resend_at:
                first = min(first, segment.resend_at)
                continue
            if budget <= 0:
                held = True
                first = min(first, self._pace(now, budget))
                break
            if fast:
                segment.rto = self._rto
                changed = changed or segment.sn >= self._recover
            else:
                segment.rto = min(RTO_MS_MAX, segment.rto + (self._rto // 2 if options.nodelay else self._rto))
                lost = lost or segment.sn >= self._recover
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
        if changed or lost:
            # What is lost out of one window counts once (NewReno, RFC 6582).
            self._recover = self.next_sn
        if changed:
            self._threshold = max((self.next_sn - self.una) // 2, THRESHOLD_MIN)
            self._cwnd = self._threshold + after
            self._incr = self._cwnd * self._mss
        if lost:
            if self._before is None or self._cwnd > 1:
                self._before = self._cwnd, self._threshold, self._incr
            self._threshold = max(window // 2, THRESHOLD_MIN)
            self._cwnd = 1
            self._incr = self._mss
        return due, budget

    def _moved(self, due: list[Segment], room: int, now: int, budget: int) -> int:
        """Move from the queue into flight, at most ``room`` segments and ``budget`` bytes; returns what is left."""
        queue, in_flight = self._queue, self.in_flight
        sn, rto = self.next_sn, self._rto
        count = 0
        for frg, data in queue[:room]:
            if budget <= 0:
                self._pace_at = self._pace(now, budget)
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

    def _refilled(self, now: int) -> int:
        """What the token bucket holds at ``now``, in bytes."""
        self._pace_at = NEVER
        if self._paced_at >= 0:
            gained = (now - self._paced_at) * self._options.rate_bytes_max // 1000
            self._pace_bytes = min(self._burst_bytes, self._pace_bytes + gained)
        self._paced_at = now
        return self._pace_bytes

    def _pace(self, now: int, budget: int) -> int:
        """When the bucket holds something again."""
        return now + 1 + -budget * 1000 // self._options.rate_bytes_max
