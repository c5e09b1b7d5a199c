"""relay over QUIC on a port: whose datagram is whose, how connections begin, and what leaves at the end of a turn.

    datagram ─▶ by connection id ─▶ its connection, from whatever address
             └▶ Initial ─┬─ too many begin, or always ─▶ Retry             nothing is kept
                         ├─ makes no sense ──────────▶ ignored            nothing is kept
                         └─▶ a connection, unproven: at most three times what came is sent
    all that came, to the protocols ─▶ end of turn: acknowledgements and answers, one call per client

Source: RFC 9000, RFC 9221 and ``docs/quic.md``. The clock must be fine and must not go back: the pacer of QUIC counts
in tens of microseconds, and the cached clock of an event loop makes it wait in circles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aioquic.quic.configuration import QuicConfiguration
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relay.config_quic import Quic
from relay.protocols.datagram_port import DatagramPort
from relay.protocols.datagrams import Address, Batch, DatagramSocket
from relay.protocols.deadlines import Deadlines
from relay.protocols.greeting import GreetingFactory
from relay.protocols.quic_opening import LONG_HEADER, Openings
from relay.protocols.quic_tickets import Tickets
from relay.protocols.quic_transport import ABORTED, QuicTransport
from relay.wire.quic_connection import CONNECTION_ID_BYTES, PACER_GRAIN_S, release

log = Logger()

AMPLIFICATION_MAX: Final = 3
SWEEP_S: Final = 5.0
"""Deadlines that are further away (an idle connection has no other) are looked at so often."""


class QuicPort(DatagramPort):
    """The connections of one listener. ``configuration()`` gives aioquic's for a new one; ``clock`` gives seconds.

    Counters: ``ignored`` datagrams that were nobody's, ``retries`` sent, ``resumed`` connections and those of them with
    ``early`` data, ``moved`` clients that changed their address, ``dropped`` messages apart that a client did not take.
    """

    def __init__(
        self,
        factory: GreetingFactory,
        settings: Quic,
        configuration: Callable[[], QuicConfiguration],
        reactor: Any,  # Any: IReactorTime, and for a real socket IReactorFDSet
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        super().__init__(factory, reactor)
        self.connections: dict[bytes, QuicTransport] = {}
        """By each of their connection ids."""
        self.transports: set[QuicTransport] = set()
        self.opening = 0
        self.ignored = self.retries = self.resumed = self.early = self.moved = self.dropped = 0
        self.queue_bytes_max = settings.queue_bytes_max
        self.nodelay = factory.entrance.listener.nodelay
        self.tickets = Tickets(settings.tickets_max)
        self.now_s = clock
        self._openings = Openings(self, settings, configuration, random_bytes)
        self._marked: list[QuicTransport] = []
        self._deadlines: Deadlines[QuicTransport] = Deadlines(reactor, clock, self._expired)
        self._sweeper: IDelayedCall | None = None

    def open(self, opened: DatagramSocket) -> None:
        """As ``DatagramPort``."""
        super().open(opened)
        self._sweeper = self._reactor.callLater(SWEEP_S, self._sweep)

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive(self, batch: Batch) -> None:
        """All datagrams of one wake-up; everything is read before anything is answered."""
        now = self.now_s()
        connections = self.connections
        touched: dict[QuicTransport, None] = {}
        for datagram, place in batch:
            if not datagram:
                continue
            if datagram[0] & LONG_HEADER:
                # Version (4 bytes), length of the id, the id (RFC 8999, 5.1).
                transport = connections.get(datagram[6 : 6 + datagram[5]]) if len(datagram) > 6 else None
            else:
                transport = connections.get(datagram[1 : 1 + CONNECTION_ID_BYTES])
            if transport is None:
                transport = None if self.closing else self._openings.begin(datagram, place, now)
                if transport is None:
                    self.ignored += 1
                    continue
            elif not self.give(transport, datagram, place, now):
                continue
            touched[transport] = None
        for transport in touched:
            transport.link.connection.acknowledge_now()
            self._take(transport)
            self.mark(transport)

    def give(self, transport: QuicTransport, datagram: bytes, place: Address, now: float) -> bool:
        """Let a connection have a datagram; False: that was its end."""
        connection = transport.link.connection
        if transport.opening:
            transport.budget += len(datagram) * AMPLIFICATION_MAX
        before = connection.get_peer_address()
        try:
            connection.receive_datagram(datagram, place, now)
        except Exception:  # noqa: BLE001 - logged; what a client made aioquic stumble over ends that client alone
            log.failure("a datagram met an error")
            transport.lost(ABORTED)
            return False
        if place != before and before is not None and connection.get_peer_address() == place:
            self.moved += 1
        return True

    def _take(self, transport: QuicTransport) -> None:
        try:
            transport.link.take()
        except Exception:  # noqa: BLE001 - logged; our mistake costs this connection, no other
            log.failure("a QUIC connection met an error")
            transport.lost(ABORTED)

    # --- for transports ---------------------------------------------------------------------------------------------

    def name(self, transport: QuicTransport, connection_id: bytes, yes: bool) -> None:
        """A connection id of a transport: from now on, or no longer."""
        if transport not in self.transports:
            return
        if yes:
            self.connections[connection_id] = transport
            transport.ids.add(connection_id)
        elif self.connections.get(connection_id) is transport:
            del self.connections[connection_id]
            transport.ids.discard(connection_id)

    def confirmed(self, transport: QuicTransport, resumed: bool, early: bool) -> None:
        """The handshake of a connection is complete."""
        if transport in self.transports:
            self.opening -= 1
        self.resumed += resumed
        self.early += early

    def forget(self, transport: QuicTransport) -> bool:
        """A connection is over: tell the client, and find it no more. False: it is known already."""
        if transport not in self.transports:
            return False
        connection = transport.link.connection
        # Who has not proved its address is told what aioquic has to say, and nothing when its time is up.
        if not transport.opening:
            transport.link.close()
        if connection.over:
            self._send_due(transport, self.now_s())
        self.opening -= transport.opening
        self.transports.remove(transport)
        for name in transport.ids:
            if self.connections.get(name) is transport:
                del self.connections[name]
        transport.ids.clear()
        connection.paused = True
        self.soon(lambda: release(connection))
        if self.closing and not self.transports:
            self.soon(self._close)
        return True

    # --- out --------------------------------------------------------------------------------------------------------

    def send(self, datagrams: list[bytes], place: Address) -> None:
        """Send by the socket, while there is one."""
        if self._socket is not None:
            self._socket.send(datagrams, place)

    def mark(self, transport: QuicTransport) -> None:
        """Something is to be sent, or to be looked at, at the end of the turn."""
        if not transport.marked:
            transport.marked = True
            if not self._marked:
                self._at_turn_end(self._flush)
            self._marked.append(transport)

    def _flush(self) -> None:
        marked, self._marked = self._marked, []
        for transport in marked:
            transport.marked = False
            if transport in self.transports:
                self._look(transport)

    def _look(self, transport: QuicTransport) -> None:
        now = self.now_s()
        self._send_due(transport, now)
        self._take(transport)
        transport.settle()
        if transport in self.transports:
            timer = transport.link.connection.get_timer()
            if timer is not None and timer - now < SWEEP_S:
                # One that has passed already must not make the loop turn at once, again and again.
                self._deadlines.add(transport, max(timer, now + PACER_GRAIN_S))

    def _send_due(self, transport: QuicTransport, now: float) -> None:
        sent = transport.link.connection.datagrams_to_send(now)
        if not sent:
            return
        place = sent[0][1]
        datagrams = [datagram for datagram, to in sent if to == place]
        if transport.opening:
            datagrams = within_budget(transport, datagrams)
        self.send(datagrams, place)
        # Another path is being probed: rare, and one datagram.
        for datagram, to in sent:
            if to != place:
                self.send([datagram], to)

    def soon(self, function: Callable[[], object]) -> None:
        """Call ``function`` when what runs now has returned."""
        self._reactor.callLater(0, function)

    # --- time -------------------------------------------------------------------------------------------------------

    def _expired(self, transport: QuicTransport) -> None:
        if transport in self.transports:
            transport.link.connection.handle_timer(self.now_s())
            self._look(transport)

    def _sweep(self) -> None:
        self._sweeper = self._reactor.callLater(SWEEP_S, self._sweep)
        now = self.now_s()
        for transport in list(self.transports):
            timer = transport.link.connection.get_timer()
            if timer is not None and timer - now < SWEEP_S:
                self._deadlines.add(transport, max(timer, now))

    # --- DatagramPort -------------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """As ``DatagramPort``."""
        return bool(self.transports)

    def _stop_timers(self) -> None:
        """As ``DatagramPort``."""
        self._deadlines.stop()
        if self._sweeper is not None and self._sweeper.active():
            self._sweeper.cancel()
        self._sweeper = None


def within_budget(transport: QuicTransport, datagrams: list[bytes]) -> list[bytes]:
    """What may be sent of ``datagrams`` to an address that is not proved. aioquic keeps to that; this does whatever it
    does."""
    if transport.link.connection.proven:
        return datagrams
    out = []
    for datagram in datagrams:
        if transport.budget < len(datagram):
            break
        transport.budget -= len(datagram)
        out.append(datagram)
    return out
