"""What the network lets through: the round-trip time with its time-out, the congestion window, and the token bucket.

=================  ==============================================================  =====================================
``RoundTrip``      smoothed time and its variation, and the time-out from them     Jacobson; bounds of ``ikcp.c``
``Congestion``     segments that may be in flight, when ``nc`` is 0                slow start and avoidance by what was
                                                                                   acknowledged (RFC 3465)
``Pace``           bytes that may leave now, when there is a cap                   token bucket
=================  ==============================================================  =====================================

Losses of one window count once (NewReno, RFC 6582). A time-out that an old time stamp proves needless gives the window
back (Eifel, RFC 3522): on a busy machine a pause of 100 ms would cost it all.
"""

from __future__ import annotations

from typing import Final

from relay.wire.kcp.segment import WINDOW_MAX

RTO_MS_DEFAULT: Final = 200
RTO_MS_MIN: Final = 100
RTO_MS_MIN_NODELAY: Final = 30
RTO_MS_MAX: Final = 60_000
THRESHOLD_MIN: Final = 2
WINDOW_START: Final = 10
"""RFC 6928. ``ikcp.c`` begins with 1, and with the threshold of a path that has just lost something."""
BURST_BYTES_MIN: Final = 16_384
"""Of the token bucket: a message of some size leaves at once."""
BURST_MS: Final = 10


class RoundTrip:
    """``rto_ms`` is the time-out. ``nodelay`` lowers its least value, ``interval_ms`` is the least margin in it."""

    __slots__ = ("_interval_ms", "_least_ms", "_rtt_ms", "_variation_ms", "rto_ms")

    def __init__(self, nodelay: bool, interval_ms: int) -> None:
        self.rto_ms = RTO_MS_DEFAULT
        self._interval_ms = interval_ms
        self._least_ms = RTO_MS_MIN_NODELAY if nodelay else RTO_MS_MIN
        self._rtt_ms = 0
        self._variation_ms = 0

    def measured(self, rtt_ms: int) -> None:
        """Take one sample."""
        if not self._rtt_ms:
            self._rtt_ms = max(1, rtt_ms)
            self._variation_ms = rtt_ms >> 1
        else:
            delta = rtt_ms - self._rtt_ms
            self._rtt_ms = max(1, self._rtt_ms + (delta >> 3))
            # Slower when a sample is below the usual range: it is no sign of more variation.
            shift = 5 if rtt_ms < self._rtt_ms - self._variation_ms else 2
            self._variation_ms += (abs(delta) - self._variation_ms) >> shift
        rto_ms = self._rtt_ms + max(self._interval_ms, 4 * self._variation_ms)
        self.rto_ms = min(max(self._least_ms, rto_ms), RTO_MS_MAX)


class Congestion:
    """``window`` in segments. ``recover``: losses below this number are already paid for."""

    __slots__ = ("_before", "_bytes", "_mss", "_threshold", "recover", "window")

    def __init__(self, mss: int) -> None:
        self.window = WINDOW_START
        self.recover = 0
        self._mss = mss
        self._bytes = mss * WINDOW_START  # the window in finer steps, for avoidance
        self._threshold = WINDOW_MAX
        self._before: tuple[int, int, int] | None = None  # window, threshold and bytes before a time-out

    def grow(self, count: int, peer_window: int) -> None:
        """``count`` segments were acknowledged."""
        if self.window >= peer_window:
            return
        mss = self._mss
        if self.window < self._threshold:
            self.window += count
            self._bytes = self.window * mss
        else:
            self._bytes = max(self._bytes, mss)
            self._bytes += count * (mss * mss // self._bytes + mss // 16)
            self.window = max(self.window, self._bytes // mss)
        if self.window > peer_window:
            self._set(peer_window)

    def passed_over(self, in_flight: int, resend: int, next_sn: int) -> None:
        """Acks went past a segment: it is lost, others arrive."""
        self.recover = next_sn
        self._threshold = max(in_flight // 2, THRESHOLD_MIN)
        self._set(self._threshold + resend)

    def timed_out(self, window: int, next_sn: int) -> None:
        """Nothing was heard of a segment, with ``window`` in use."""
        self.recover = next_sn
        if self._before is None or self.window > 1:
            self._before = self.window, self._threshold, self._bytes
        self._threshold = max(window // 2, THRESHOLD_MIN)
        self._set(1)

    def judge(self, needless: bool) -> None:
        """The first ack of something sent again: whether it was of the first transmission after all."""
        if self._before is not None:
            if needless:
                self.window, self._threshold, self._bytes = self._before
            self._before = None

    def _set(self, window: int) -> None:
        self.window = window
        self._bytes = window * self._mss


class Pace:
    """A token bucket of ``rate`` bytes a second. ``budget``: bytes that may leave; less than 0 after a burst."""

    __slots__ = ("_at", "_burst", "_rate", "budget")

    def __init__(self, rate: int) -> None:
        assert rate > 0
        self._rate = rate
        self._burst = max(BURST_BYTES_MIN, rate * BURST_MS // 1000)
        self._at = -1
        self.budget = self._burst

    def refilled(self, now: int) -> int:
        """The budget at ``now``."""
        if self._at >= 0:
            self.budget = min(self._burst, self.budget + (now - self._at) * self._rate // 1000)
        self._at = now
        return self.budget

    def again_at(self, now: int, budget: int) -> int:
        """When there is something in the bucket again, from ``budget`` on."""
        return now + 1 + -budget * 1000 // self._rate
