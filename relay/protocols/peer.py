"""The core's view of one stream connection: frames out through an outbox, pauses by reason, and an orderly close.

    send ──▶ outbox ──▶ transport            close:  what waits is written ─▶ our half is closed ─▶ the peer closes
    pause("rate"), pause("hook")                                               (TLS: close_notify)   or the time is up:
    resume("rate")  ─▶ still paused                                                                  abort

Closing lingers: until the peer has closed too, what it still sends is read and forgotten, ``LINGER_BYTES_MAX`` at most.
Closing a socket with unread input would make the kernel answer with a reset, and a reset takes the goodbye frame away
from a peer that has not read it yet. Considered and not taken: ``loseConnection`` at once, which loses the goodbye of
every peer that was sending, that is, of all that are closed for what they send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.core.limits import is_loopback
from relay.core.outbox import CONTROL, Outbox, StraightOutbox
from relay.interfaces import IPeer
from relay.wire import kinds

if TYPE_CHECKING:
    from relay.core.wheel import Call
    from relay.protocols.entrance import Arrival, StreamTransport
    from relay.wire.contracts import Dialect

LINGER_BYTES_MAX: Final = 1_048_576
"""What is read and forgotten from a peer that was closed; one that goes on sending is cut off."""

SECURE: Final = frozenset(("tls", "wss"))
"""Labels of transports inside of TLS: they have a close of their own and know no half-close."""

NOT_PAUSED: Final[frozenset[str]] = frozenset()


@implementer(IPeer)
class Peer:
    """See the module. ``transport`` and ``dialect`` are labels; ``ended``: why it was closed, '' before.

    ``write``: where the outbox writes to, when that is not ``io`` itself.
    """

    __slots__ = (
        "_deadline", "_entrance", "_forgotten_bytes", "_io", "_orderly", "_pauses", "address", "apart", "certificate",
        "dialect", "encoding", "ended", "key", "listener", "local", "loose", "outbox", "send", "transport",
    )  # fmt: skip

    def __init__(
        self,
        arrival: Arrival,
        io: StreamTransport,
        transport: str,
        dialect: Dialect,
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        entrance = arrival.entrance
        self.transport = transport
        self.dialect = dialect.name
        self.encoding = dialect.encoding
        self.address = arrival.host
        self.listener = entrance.name
        self.certificate = arrival.certificate
        self.key = arrival.key
        self.local = is_loopback(arrival.host)
        self.loose: Callable[[bytes, str | None], None] | None = None
        self.apart = 0
        self.ended = ""
        self._orderly = False
        slow = entrance.listener.slow or entrance.slow
        # Relay's reactor says that it joins writes; what is compressed or encrypted on its way is joined before.
        straight = write is None and transport not in SECURE and getattr(io, "joins_writes", False)
        box = StraightOutbox if straight else Outbox
        self.outbox = box(entrance.flusher, write or io.write, slow, self._overflow)
        # A method that only called the outbox's would cost a sixth of each delivery.
        self.send = self.outbox.send
        self._entrance = entrance
        self._io: StreamTransport | None = io
        self._pauses = NOT_PAUSED
        self._deadline: Call | None = None
        self._forgotten_bytes = 0

    def queued_bytes(self) -> int:
        """What waits to be handed to the transport."""
        return self.outbox.queued_bytes

    def unsent(self) -> int:
        """Session frames certainly never handed to the transport; 0 while it is there, they may still be written."""
        return self.outbox.unsent()

    def watch(self, overflowed: Callable[[], None], skip_frame: Callable[[int], bytes]) -> None:
        """The core's part in the slow-consumer policy; nothing is called after the transport was lost."""
        if self._io is not None:
            self.outbox.on_overflow = overflowed
            self.outbox.skip_frame = skip_frame

    def pause(self, why: str) -> None:
        """Stop reading for one more reason. What was already read is still delivered."""
        if self._io is None or self.ended:
            return
        if not self._pauses:
            self._io.pauseProducing()
        self._pauses |= {why}

    def resume(self, why: str) -> None:
        """One reason less; reads again when it was the last."""
        if why in self._pauses:
            self._pauses -= {why}
            if not self._pauses and self._io is not None:
                self._io.resumeProducing()

    def close(self, reason: int, text: str = "") -> None:
        """Write what waits, close, and cut the peer off after ``close_timeout_s`` or when it sends on and on."""
        if not self.ended:
            name, _ = kinds.CLOSE_REASONS.get(reason, (str(reason), False))
            self.end(f"closed: {name}", self.last_frame(reason, text or name))

    # --- for the protocol that owns this peer -----------------------------------------------------------------------

    def last_frame(self, reason: int, text: str) -> bytes:
        """What the transport itself has to say at the end; b'' for nothing."""
        return b""

    def end(self, why: str, last: bytes, orderly: bool = False) -> None:
        """Begin to close, with ``last`` as the last bytes; ``why`` is for the log, ``orderly``: the peer asked."""
        io = self._io
        if io is None or self.ended:
            return
        self.ended = why
        self._orderly = orderly
        if last:
            self.outbox.send(last, None, CONTROL)
        self.outbox.close()
        io.unregisterProducer()
        if self._pauses:
            # The peer's end is noticed only while reading.
            self._pauses = NOT_PAUSED
            io.resumeProducing()
        entrance = self._entrance
        self._deadline = entrance.wheel.after(entrance.timing.close_timeout_s, io.abortConnection)
        lose_half = None if self.transport in SECURE else getattr(io, "loseWriteConnection", None)
        if lose_half is not None:
            lose_half()
        else:
            io.loseConnection()

    def forget(self, data: bytes) -> None:
        """Something came after ``close``."""
        self._forgotten_bytes += len(data)
        if self._forgotten_bytes > LINGER_BYTES_MAX and self._io is not None:
            self._io.abortConnection()

    def gone(self, reason: Failure) -> tuple[str, bool]:
        """The transport is lost: let go of everything. Returns the arguments of ``IConnection.lost``."""
        self.outbox.abandon()
        self._io = None
        self._pauses = NOT_PAUSED
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self.ended:
            return self.ended, self._orderly
        return reason.getErrorMessage(), reason.check(ConnectionDone) is not None

    def _overflow(self) -> None:
        # Before there is a session: nobody else is told.
        self.close(kinds.SLOW_CONSUMER)
