"""KCP under a client: a session over datagrams as the transport of a line, on any event loop.

    line ◀─received── KcpConnection ◀─datagram── the shell's UDP socket
    line ──write────▶ KcpConnection ──send─────▶

The shell opens a UDP socket that is connected to the server and gives it what arrives. There is a timer only while
something is not acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from relay.client.options import KcpSettings
from relay.client.runtime import Runtime, Task
from relay.errors import ConfigError
from relay.wire.kcp.ciphers import KEYLESS, DatagramCipher, cipher_of, key_of
from relay.wire.kcp.options import KcpOptions, options_for
from relay.wire.kcp.session import KcpSession

if TYPE_CHECKING:
    from relay.client.line import Line

RESEND_S_MIN: Final = 0.005
"""Timers are not set closer than this: a retransmission is not worth more."""


def options_of(settings: KcpSettings) -> KcpOptions:
    """The options of a session. Raises ``ConfigError``."""
    return options_for(settings.profile, settings.error_correction, settings.mtu)


def cipher_for(settings: KcpSettings) -> DatagramCipher:
    """The cipher with its key. Raises ``ConfigError``."""
    if settings.cipher not in KEYLESS and not settings.key:
        raise ConfigError(f"kcp: the cipher {settings.cipher} needs a key")
    return cipher_of(settings.cipher, key_of(settings.key) if settings.key else b"")


class KcpConnection:
    """``relay.client.runtime.Transport``. ``send(datagrams)`` sends; ``shut()`` closes the socket, once."""

    def __init__(
        self,
        settings: KcpSettings,
        runtime: Runtime,
        line: Line,
        send: Callable[[Sequence[bytes]], object],
        shut: Callable[[], object],
    ) -> None:
        conv = int.from_bytes(runtime.random_bytes(4), "little")
        self.options = options_of(settings)
        self.session = KcpSession(conv, self.options, cipher_for(settings), runtime.random_bytes)
        self._runtime = runtime
        self._line = line
        self._send = send
        self._shut = shut
        self._high_bytes = self.options.send_window * self.options.mtu
        self._full = False
        self._reached = False
        self._closing = False
        self._over = False
        self._timer: Task | None = None
        self._timer_at = 0
        self._zero = int.from_bytes(runtime.random_bytes(4), "little")
        self._flushing: Task | None = None

    # --- the shell ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The socket is there. KCP has no handshake: the first answer is that to the line's first bytes."""
        self._line.opened(self, reached=False)

    def datagram(self, datagram: bytes) -> None:
        """One came."""
        if self._over:
            return
        session = self.session
        session.receive_datagram(datagram, self._now())
        if not self._reached and (session.kcp.una or session.kcp.expected):
            self._reached = True
            self._line.reached()
        data = session.receive()
        if data is not None:
            self._line.received(data)
        if self._over:
            return
        if self._flushing is None:
            # After what else is there to read: one answer for all of it.
            self._flushing = self._runtime.call_at(self._runtime.now(), self._flush)

    def refused(self, reason: str) -> None:
        """Nobody listens there, as the network says: an end only before anything was heard, for it may be forged."""
        if not self._reached:
            self._end(reason)

    # --- the line -------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send."""
        if self._over or self._closing:
            return
        self.session.send(data)
        if self._flushing is None:
            self._flush()
        if not self._full and self.session.kcp.queued_bytes > self._high_bytes:
            self._full = True
            self._line.writable(False)

    def close(self) -> None:
        """End once everything is acknowledged."""
        self._closing = True
        if not self.session.kcp.queued_bytes:
            self._end("closed")

    def abort(self) -> None:
        """End now."""
        self._end("closed")

    # --- inside ---------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._runtime.now() * 1000) + self._zero

    def _flush(self) -> None:
        self._flushing = None
        if self._over:
            return
        now = self._now()
        session = self.session
        datagrams = session.flush(now)
        if datagrams:
            self._send(datagrams)
        queued = session.kcp.queued_bytes
        if session.kcp.dead:
            self._end("the server does not answer")
        elif self._closing and not queued:
            self._end("closed")
        else:
            if self._full and queued <= self._high_bytes // 2:
                self._full = False
                self._line.writable(True)
            self._arm(now)

    def _arm(self, now: int) -> None:
        at = self.session.next_timer()
        if at is None or self._over:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it looks again then
            self._timer.cancel()
        self._timer_at = at
        wait_s = max(RESEND_S_MIN, (at - now) / 1000)
        self._timer = self._runtime.call_at(self._runtime.now() + wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._flushing is None:
            self._flush()

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        for task in (self._timer, self._flushing):
            if task is not None:
                task.cancel()
        self._timer = self._flushing = None
        self._shut()
        # Not from inside a call of the line.
        self._runtime.call_at(self._runtime.now(), lambda: self._line.lost(reason))
