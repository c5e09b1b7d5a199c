"""QUIC under a client: a connection over datagrams as the transport of a line, on any event loop.

    line ◀─ session's stream, messages apart ── QuicConnection ◀─datagram── the shell's UDP socket
    line ── preface and frames, or lines ─────▶ QuicConnection ──send─────▶

The shell opens a UDP socket that is connected to the server and gives it what arrives. With a ticket of an earlier
connection of this process to the same server the hello goes out with the first datagram (0-RTT) and the server knows
the client without certificates; each ticket is used once.

The clock is not the event loop's, which some cache and count in milliseconds: the pacer of QUIC needs a fine one.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import SessionTicket

from relay.client.options import TlsFiles
from relay.client.plan import Address
from relay.client.runtime import Runtime, Task
from relay.errors import ConfigError
from relay.wire.binary import LENGTH_BYTES, decode_frame
from relay.wire.message import Message, is_loose, latest_key
from relay.wire.quic_connection import ALPN, CONNECTION_ID_BYTES, WINDOW_BYTES, BoundedConnection
from relay.wire.quic_link import FLAGS_AT, QuicLink

if TYPE_CHECKING:
    from relay.client.line import Line

IDLE_TIMEOUT_S: Final = 60.0
QUEUE_BYTES_MAX: Final = 1_048_576
"""What is not acknowledged by the server before the line has to wait."""
STREAMS_MAX: Final = 64
STREAM_BYTES_MAX: Final = 1_048_576
"""Messages that the server may have on streams of their own at a time, and how large."""
DATAGRAM_FRAME_BYTES_MAX: Final = 65_535
HELD_MAX: Final = 1024
"""Messages apart that came before the welcome, which was lost and is sent again."""
TICKETS_MAX: Final = 256
TICKETS_EACH_MAX: Final = 4
TIMER_S_MIN: Final = 0.0005
ANSWER_AFTER: Final = 8
"""Datagrams that are acknowledged together, when there is nothing else to be sent."""

_tickets: dict[str, list[SessionTicket]] = {}
"""Of this process, by address, server name and who vouches for it; forgotten with it."""


def forget_tickets() -> None:
    """The next connections begin anew, everywhere."""
    _tickets.clear()


def _remember(place: str, ticket: SessionTicket) -> None:
    known = _tickets.setdefault(place, [])
    known.append(ticket)
    del known[:-TICKETS_EACH_MAX]
    if len(_tickets) > TICKETS_MAX:
        del _tickets[next(iter(_tickets))]


def _ticket(place: str) -> SessionTicket | None:
    known = _tickets.get(place)
    while known:
        ticket = known.pop()
        if ticket.is_valid:
            return ticket
    return None


def configuration_of(files: TlsFiles, host: str) -> QuicConfiguration:
    """A verifying configuration. Raises ``ConfigError`` when a file cannot be used."""
    made = QuicConfiguration(
        is_client=True, alpn_protocols=[ALPN], connection_id_length=CONNECTION_ID_BYTES, idle_timeout=IDLE_TIMEOUT_S,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES_MAX, max_stream_data=WINDOW_BYTES,
        server_name=files.server_name or host,
    )  # fmt: skip
    try:
        if files.ca:
            with open(files.ca, "rb") as file:
                made.load_verify_locations(cadata=file.read())
        else:
            found = ssl.get_default_verify_paths()
            made.load_verify_locations(cafile=found.cafile, capath=found.capath)
        if files.certificate:
            made.load_cert_chain(files.certificate, files.key or None)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{files.certificate}: not usable for QUIC ({error})") from None
    return made


class QuicConnection:
    """``relay.client.runtime.Transport``. ``send(datagrams)`` sends; ``shut()`` closes the socket, once.

    ``resumed`` and ``early``: how the handshake went, known once it is complete.
    """

    def __init__(
        self,
        address: Address,
        files: TlsFiles,
        runtime: Runtime,
        line: Line,
        send: Callable[[Sequence[bytes]], object],
        shut: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        made = configuration_of(files, address.host)
        # Who shows a ticket sees no certificate: the ticket is worth what the one was that it came after.
        self._place = f"{address.host}:{address.port} {made.server_name} {files.ca} {files.certificate}"
        made.session_ticket = _ticket(self._place)
        self._apart = address.apart
        self._early = made.session_ticket is not None
        self._runtime = runtime
        self._line = line
        self._send = send
        self._shut = shut
        self._clock = clock
        self._peer = ("server", 0)  # the socket is connected: the address is a name
        place = self._place
        self.link = QuicLink(
            BoundedConnection(
                made, STREAMS_MAX, STREAM_BYTES_MAX, session_ticket_handler=lambda ticket: _remember(place, ticket)
            ),
            self,
        )
        self.resumed = self.early = False
        self._prefaced = False
        self._held: list[Message] = []
        self._unanswered = 0
        self._full = False
        self._closing = False
        self._over = False
        self._timer: Task | None = None
        self._timer_at = 0.0
        self._flushing: Task | None = None

    # --- the shell --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The socket is there: begin, and with a ticket say hello at once."""
        self.link.connection.connect(self._peer, self._clock())
        if self._early:
            self._line.opened(self, reached=False)
        self._flush()

    def datagram(self, datagram: bytes) -> None:
        """One came."""
        if self._over:
            return
        connection = self.link.connection
        connection.receive_datagram(datagram, self._peer, self._clock())
        self.link.take()
        # An event loop hands over one at a time: an answer to each would cost both sides more than what it answers.
        # A single one waits for aioquic's timer, a millisecond.
        self._unanswered += 1
        if self._unanswered >= ANSWER_AFTER or not connection.confirmed or connection.queued_bytes():
            self._flush_soon()
        elif self._unanswered == 1:
            self._arm()

    def refused(self, reason: str) -> None:
        """Nobody listens there, as the network says: an end only before anything was heard, for it may be forged."""
        if not self.link.connection.begun:
            self._end(reason)

    # --- the line ---------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send what the framing made; it leaves soon, together."""
        if self._over or self._closing:
            return
        link = self.link
        if not self._apart:
            link.write(data)
        elif not self._prefaced:
            self._prefaced = True
            link.write(data)
        else:
            self._write_frames(data)
        self._flush_soon()
        if not self._full and link.connection.queued_bytes() > QUEUE_BYTES_MAX:
            self._full = True
            self._line.writable(False)

    def close(self) -> None:
        """End once everything is acknowledged."""
        if not self._closing and not self._over:
            self._closing = True
            self.link.finish()
            self._flush_soon()

    def abort(self) -> None:
        """End now."""
        self._end("closed")

    # --- relay.wire.quic_link.Sink ----------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes of the session's stream."""
        self._line.received(data)
        if self._held and self._line.ready:
            held, self._held = self._held, []
            for message in held:
                self._line.apart(message)

    def apart(self, message: Message) -> None:
        """A message beside it; one that overtook the welcome waits."""
        if self._held or not self._line.ready:
            if len(self._held) < HELD_MAX:
                self._held.append(message)
            else:
                self.link.dropped += 1
            return
        self._line.apart(message)

    def confirmed(self, resumed: bool, early: bool) -> None:
        """The server is who it should be."""
        self.resumed, self.early = resumed, early
        if self._apart and not self.link.connection.datagram_bytes_max:
            self._end("the server takes no DATAGRAM frames: ?form=json works without")
        elif self._early:
            self._line.reached()
        else:
            self._line.opened(self)

    def ended(self, reason: str, clean: bool) -> None:
        """The connection is over."""
        self._end(reason)

    def named(self, connection_id: bytes, yes: bool) -> None:
        """There is one connection on this socket."""

    # --- inside -----------------------------------------------------------------------------------------------------

    def _write_frames(self, data: bytes) -> None:
        """Frames with their lengths: those that travel apart are taken out of the rest."""
        link, apart = self.link, self._apart
        start = at = 0
        end = len(data)
        while at < end:
            frame = at
            flags = int.from_bytes(data[at + LENGTH_BYTES + FLAGS_AT : at + LENGTH_BYTES + FLAGS_AT + 2])
            at += LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES])
            # Fast path: hardly any has one of the flags.
            if flags & apart:
                message = decode_frame(data[frame + LENGTH_BYTES : at])
                if is_loose(message, apart):
                    link.write(data[start:frame])
                    link.send_apart(data[frame:at], latest_key(message))
                    start = at
        if start < end:
            link.write(data[start:])

    def _flush_soon(self) -> None:
        if self._flushing is None and not self._over:
            # After what else is there to read and to write: one datagram where one is enough.
            self._flushing = self._runtime.call_at(self._runtime.now(), self._flush)

    def _flush(self) -> None:
        self._flushing = None
        if self._over:
            return
        connection = self.link.connection
        self._unanswered = 0
        connection.acknowledge_now()
        self._transmit()
        self.link.take()
        if self._over or (not self._full and not self._closing):
            self._arm()
            return
        queued = connection.queued_bytes()
        if self._closing and not queued:
            self._end("closed")
            return
        if self._full and queued * 2 <= QUEUE_BYTES_MAX:
            self._full = False
            self._line.writable(True)
        self._arm()

    def _transmit(self) -> None:
        sent = self.link.connection.datagrams_to_send(self._clock())
        if sent:
            self._send([datagram for datagram, _ in sent])

    def _arm(self) -> None:
        at = self.link.connection.get_timer()
        if at is None or self._over:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it looks again then
            self._timer.cancel()
        self._timer_at = at
        wait_s = max(TIMER_S_MIN, at - self._clock())
        self._timer = self._runtime.call_at(self._runtime.now() + wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        if not self._over:
            self.link.connection.handle_timer(self._clock())
            self._flush_soon()

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if self.link.connection.started:
            self.link.close()
            self._transmit()
        for task in (self._timer, self._flushing):
            if task is not None:
                task.cancel()
        self._timer = self._flushing = None
        self._shut()
        # Not from inside a call of the line.
        self._runtime.call_at(self._runtime.now(), lambda: self._line.lost(reason))
