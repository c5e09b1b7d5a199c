"""One connection of a client, between the event loop's transport and the core's link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.client.framing import Framing
from relay.client.runtime import Task, Transport

if TYPE_CHECKING:
    from relay.client.driver import Driver
    from relay.wire.message import Message

LINGER_S = 2.0
"""A closed transport that does not get rid of its last bytes is cut off after this."""


class Line:
    """One connection as the event loop sees it; what comes after ``drop`` is ignored."""

    def __init__(self, driver: Driver, attempt: int, framing: Framing) -> None:
        self.framing = framing
        self.attempt = attempt
        self.transport: Transport | None = None
        self.opening: Task | None = None
        self._driver = driver
        self._out: list[bytes] = []
        self.dropped = False
        self._linger: Task | None = None

    # --- the event loop calls -------------------------------------------------------------------------------------

    def opened(self, transport: Transport, reached: bool = True) -> None:
        """The transport is open. ``reached``: the server has answered already; else there follows a ``reached``."""
        if self.dropped:
            transport.abort()
            return
        self.transport = transport
        if self.framing.opening:
            transport.write(self.framing.opening)
        if self.framing.ready:
            self._driver.run(lambda now: self._driver.core.link.connected(self.attempt, now, reached))

    def reached(self) -> None:
        """The server has answered on a transport that was opened without an answer."""
        if not self.dropped and self.framing.ready:
            self._driver.run(lambda now: self._driver.core.link.connected(self.attempt, now))

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self.dropped:
            return
        framing, link = self.framing, self._driver.core.link
        was_ready = framing.ready
        messages = framing.receive(data)
        if framing.output and self.transport is not None:
            output, framing.output = framing.output, b""
            self.transport.write(output)

        def feed(now: float) -> None:
            if framing.ready and not was_ready:
                link.connected(self.attempt, now)
            if framing.ready:
                link.received(self.attempt, messages, now)
            if framing.failed is not None and not self.dropped:
                if framing.ready:
                    link.failed(self.attempt, framing.failed, now)
                else:
                    self._driver.drop(self)
                    link.lost(self.attempt, str(framing.failed), now)

        self._driver.run(feed)

    @property
    def ready(self) -> bool:
        """Whether the session's messages may come: the welcome has."""
        return self._driver.core.link.state == "ready"

    def apart(self, message: Message) -> None:
        """A message came that the transport carries apart from the frames of the stream."""
        if not self.dropped:
            self._driver.run(lambda now: self._driver.core.link.received(self.attempt, [message], now))

    def writable(self, yes: bool) -> None:
        """The transport's buffer is low (or full)."""
        if not self.dropped:
            self._driver.run(lambda now: self._driver.core.outbound.writable(yes, now))

    def lost(self, reason: str) -> None:
        """The transport is gone, or could not be opened."""
        self.transport = self.opening = None
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._driver.gone(self)
        if not self.dropped:
            self.dropped = True
            self._driver.run(lambda now: self._driver.core.link.lost(self.attempt, reason, now))

    # --- the driver calls -----------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send with the next flush."""
        self._out.append(frame)

    def flush(self) -> None:
        """One write for what was sent."""
        if self._out and self.transport is not None:
            data = b"".join(self._out)
            self._out = []
            self.transport.write(data)

    def drop(self, abort: bool) -> None:
        """Close; nothing more is heard of it."""
        self.dropped = True
        if self.transport is not None:
            self._out.append(self.framing.closing())
            self.flush()
            if abort:
                self.transport.abort()
            else:
                runtime = self._driver.runtime
                self._linger = runtime.call_at(runtime.now() + LINGER_S, self._cut)
                self.transport.close()
        elif self.opening is not None:
            self.opening.cancel()

    def _cut(self) -> None:
        self._linger = None
        if self.transport is not None:
            self.transport.abort()
