"""The way out: session frames wait here for a connection, for the transport and for acknowledgements.

    offer ──▶ queue ──▶ transmit ──▶ transport
                           └──▶ ledger (until acknowledged; sent again after a resume)

A frame is transmitted in the call that offers it whenever nothing stands before it. The ledger's size is the window:
when ``unacked_bytes_max`` are unacknowledged, further frames wait, so that nothing needed for a resume is thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from relay.client.effects import Effect, Send
from relay.client.ledger import Ledger, Outgoing
from relay.client.options import ClientOptions
from relay.errors import FrameTooLarge, Full
from relay.wire import binary, kinds, text
from relay.wire.message import Message, counted, is_loose

_COMPACT_FROM = 64  # withdrawn frames tolerated in the queue before it is looked through
_INF = float("inf")


class Outbound:
    """Queue and window of one client. ``too_large`` is called for a frame over the server's limit."""

    def __init__(self, options: ClientOptions, effects: list[Effect]) -> None:
        self.ledger: Ledger | None = None
        self.frame_bytes_max = 0
        self.form = "binary"
        self.apart = 0
        """Flags of messages that the transport carries apart, and may lose: they are neither counted nor kept."""
        self.blocked = False
        self.queued_frames = 0
        self.queued_bytes = 0
        self.too_large: Callable[[Outgoing, FrameTooLarge, float], None] | None = None
        self._options = options
        self._effects = effects
        self._queue: deque[Outgoing] = deque()
        self._aside: deque[Outgoing] = deque()
        self._ready = False
        self._writable = True

    @property
    def idle(self) -> bool:
        """Whether nothing waits, neither to be sent nor to be acknowledged."""
        return not self.queued_frames and not (self.ledger and self.ledger.kept)

    @property
    def roomy(self) -> bool:
        """Whether the queue is less than half full."""
        options = self._options
        return self.queued_frames * 2 < options.queue_frames_max and self.queued_bytes * 2 < options.queue_bytes_max

    def offer(self, outgoing: Outgoing, now: float, *, forced: bool = False) -> None:
        """Send ``outgoing`` now or as soon as it may go. Raises ``Full`` when the queue is at a limit, except for a
        ``forced`` frame: those of the client's own, whose number is bounded elsewhere."""
        if self._ready and self._writable and not self._queue and self._window(outgoing):
            self._transmit(outgoing, now)
            return
        options = self._options
        if not forced and (
            self.queued_frames >= options.queue_frames_max
            or (self.queued_frames and self.queued_bytes + outgoing.size > options.queue_bytes_max)
        ):
            raise Full("too much waits to be sent to the server")
        self._append(outgoing)

    def _append(self, outgoing: Outgoing) -> None:
        self._queue.append(outgoing)
        self.queued_frames += 1
        self.queued_bytes += outgoing.size

    def withdraw(self, outgoing: Outgoing) -> None:
        """Take back a frame that was not sent."""
        if outgoing.sent or outgoing.dropped:
            return
        outgoing.dropped = True
        self.queued_frames -= 1
        self.queued_bytes -= outgoing.size
        if len(self._queue) > 2 * self.queued_frames + _COMPACT_FROM:
            self._queue = deque(each for each in self._queue if not each.dropped)

    def flush(self, now: float) -> None:
        """Send what may go."""
        self.blocked = False
        while self._ready and self._writable and self._queue:
            outgoing = self._queue[0]
            if outgoing.dropped:
                self._queue.popleft()
                continue
            if not self._window(outgoing):
                self.blocked = True
                return
            self._queue.popleft()
            self.queued_frames -= 1
            self.queued_bytes -= outgoing.size
            self._transmit(outgoing, now)

    def writable(self, yes: bool, now: float) -> None:
        """The transport takes more, or has enough for now."""
        self._writable = yes
        if yes:
            self.flush(now)

    def detach(self) -> None:
        """The transport is gone."""
        self._ready = False
        self._writable = True
        self.blocked = False

    def resume(self, received: int, now: float) -> None:
        """The session goes on, and the server has ``received`` frames: the others are sent again, then the queue.

        Raises ``RemoteProtocolError`` for an impossible number.
        """
        assert self.ledger is not None
        self.ledger.acknowledge(received)
        # Those that another transport would have carried apart are counted already.
        self._effects.extend(Send(counted(outgoing.message, self.apart)) for outgoing in self.ledger.kept)
        self._ready = True
        self.flush(now)

    def renew(self, ledger: Ledger | None) -> int:
        """A new session: what was sent is over, what means something in the old one only is dropped, the rest is set
        aside until :meth:`restore`. Returns how many sent frames were unacknowledged and are not answered for."""
        lost = 0
        if self.ledger is not None:
            lost = sum(1 for outgoing in self.ledger.kept if not outgoing.bound and not outgoing.message.seq)
        self.ledger = ledger
        for outgoing in self._queue:
            if outgoing.bound:
                outgoing.dropped = True
        self._aside = deque(each for each in self._queue if not each.dropped)
        self._queue = deque()
        self.queued_frames = self.queued_bytes = 0
        return lost

    def restore(self, now: float) -> None:
        """Put what was set aside behind what has been offered since, and start sending."""
        for outgoing in self._aside:
            if not outgoing.dropped:
                self._append(outgoing)
        self._aside = deque()
        self._ready = True
        self.flush(now)

    def _window(self, outgoing: Outgoing) -> bool:
        ledger = self.ledger
        if ledger is None or not ledger.kept or ledger.kept_bytes + outgoing.size <= self._options.unacked_bytes_max:
            return True
        self.blocked = True
        return False

    def _transmit(self, outgoing: Outgoing, now: float) -> None:
        message = outgoing.message
        if message.kind == kinds.PULL and outgoing.deadline != _INF:
            message.fields = message.fields or {}
            message.fields[kinds.DEADLINE_MS] = max(1, int((outgoing.deadline - now) * 1000))
        if self.frame_bytes_max and 8 * outgoing.size > self.frame_bytes_max:  # 8: the worst that JSON makes of a body
            size = self._exact_size(message)
            if size > self.frame_bytes_max:
                assert self.too_large is not None
                outgoing.dropped = True
                limit = self.frame_bytes_max
                self.too_large(outgoing, FrameTooLarge(f"the frame has {size} bytes, the server takes {limit}"), now)
                return
        outgoing.sent = True
        if self.ledger is not None and not (self.apart and is_loose(message, self.apart)):
            self.ledger.keep(outgoing)
        self._effects.append(Send(message))

    def _exact_size(self, message: Message) -> int:
        if self.form == "json":
            return len(text.encode_json(message))
        return len(binary.encode_frame(message))
