"""relay over UDP on a port: hellos and cookies, whose datagram is whose, and what leaves at the end of a turn.

::

    hello ─ no cookie ──▶ retry                            nothing is kept
          └ cookie ─────▶ accept ─▶ (secure: finish) ─▶ a connection
    packet ─▶ by connection id ─▶ its transport, from whatever address
    all that came, to the protocols ─▶ end of turn: acknowledgements and answers, one call per client

Source: ``docs/udp.md``. The clock must be fine and must not go back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet import error
from twisted.python.failure import Failure

from relay.config_udp import Udp
from relay.errors import RemoteProtocolError
from relay.protocols.datagram_port import DatagramPort
from relay.protocols.datagrams import Address, Batch
from relay.protocols.fine_wheel import FineWheel
from relay.protocols.greeting import GreetingFactory
from relay.protocols.udp_opening import Openings
from relay.protocols.udp_transport import UdpTransport, is_newer
from relay.wire import udp_packets as packets
from relay.wire.udp_link import TOKEN_BYTES

AMPLIFICATION_MAX: Final = 3
GIVEN_UP: Final = Failure(error.ConnectionLost("frames were not acknowledged"))
ENDED: Final = Failure(error.ConnectionDone())


class UdpPort(DatagramPort):
    """The connections of one listener. ``clock`` gives seconds. Counters: ``ignored`` datagrams that were nobody's,
    ``dropped`` frames that did not fit or did not matter enough, ``moved`` clients that changed their address."""

    def __init__(
        self,
        factory: GreetingFactory,
        settings: Udp,
        reactor: Any,  # Any: IReactorTime, and for a real socket IReactorFDSet
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        super().__init__(factory, reactor)
        self.connections: dict[bytes, UdpTransport] = {}
        self.ignored = 0
        self.dropped = 0
        self.moved = 0
        self.queue_bytes_max = settings.queue_bytes_max
        self.nodelay = factory.entrance.listener.nodelay
        self._settings = settings
        self.now_s = clock
        self._random_bytes = random_bytes
        self._openings = Openings(self, settings, random_bytes)
        self._marked: list[UdpTransport] = []
        self._wheel: FineWheel[UdpTransport] = FineWheel(reactor, self._now_ms, self._expired)

    def _now_ms(self) -> int:
        return int(self.now_s() * 1000)

    # --- in -----------------------------------------------------------------------------------------------------------

    def receive(self, batch: Batch) -> None:
        """All datagrams of one wake-up."""
        now = self.now_s()
        connections = self.connections
        for datagram, place in batch:
            if datagram and datagram[0] == packets.PACKET:
                transport = connections.get(datagram[1 : packets.HEAD_BYTES])
                if transport is not None:
                    self._packet(transport, datagram, place, now)
                else:
                    self.ignored += 1
                    self.gone(datagram, place)
            elif not datagram or not self._openings.receive(datagram, place, now):
                self.ignored += 1

    def _packet(self, transport: UdpTransport, datagram: bytes, place: Address, now: float) -> None:
        content = None if transport.protocol is None else transport.open(datagram)
        if content is None:
            self.ignored += 1
            return
        if place != transport.place:
            if not is_newer(transport.link, content):
                self.ignored += 1
                return
            self._move(transport, place, now)
        if transport.unproven:
            transport.budget += len(datagram) * AMPLIFICATION_MAX
            if now - transport.challenged_at > transport.link.round_trip.rto_s:
                # The challenge, or its answer, was lost.
                transport.challenged_at = now
                transport.link.challenge(transport.token)
        try:
            transport.deliver(content, now)
        except RemoteProtocolError:
            # Without the secure channel anybody on the path can write such a packet: it ends nothing.
            self.ignored += 1
            return
        link = transport.link
        if transport.unproven and link.proved and link.proved == transport.token:
            transport.unproven = False
        if link.ended:
            transport.lost(ENDED)
        else:
            self.mark(transport)

    def _move(self, transport: UdpTransport, place: Address, now: float) -> None:
        self.moved += 1
        transport.place = place
        transport.unproven = True
        transport.budget = 0
        transport.token = self._random_bytes(TOKEN_BYTES)
        transport.challenged_at = now
        transport.link.challenge(transport.token)

    def gone(self, datagram: bytes, place: Address) -> None:
        """Tell who sent ``datagram`` that there is no such connection; with less than it sent."""
        if len(datagram) > packets.HEAD_BYTES:
            self.send([bytes((packets.GONE,)) + datagram[1 : packets.HEAD_BYTES]], place)

    # --- out ----------------------------------------------------------------------------------------------------------

    def mark(self, transport: UdpTransport) -> None:
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
            self._look(transport)

    def _look(self, transport: UdpTransport) -> None:
        now = self.now_s()
        link = transport.link
        if self.connections.get(transport.connection) is not transport:
            return
        if link.ended:
            transport.lost(ENDED)
            return
        datagrams = transport.datagrams(now)
        if datagrams:
            self.send(self._within_budget(transport, datagrams) if transport.unproven else datagrams, transport.place)
        transport.settle()
        timer = link.next_timer()
        if timer is not None:
            self._wheel.add(transport, int(timer * 1000), int(now * 1000))

    def _within_budget(self, transport: UdpTransport, datagrams: list[bytes]) -> list[bytes]:
        out = []
        for datagram in datagrams:
            if transport.budget < len(datagram):
                break  # it counts as lost, and is sent again when more has come from there
            transport.budget -= len(datagram)
            out.append(datagram)
        return out

    def send(self, datagrams: list[bytes], place: Address) -> None:
        """Send all to one address."""
        if self._socket is not None and datagrams:
            self._socket.send(datagrams, place)

    def soon(self, function: Callable[[], object]) -> None:
        """Call ``function`` when what runs now has returned."""
        self._reactor.callLater(0, function)

    def _expired(self, transport: UdpTransport) -> None:
        now = self.now_s()
        transport.link.timer(now)
        # Whatever is under way has a timer: it is enough to look here.
        if transport.link.oldest_s(now) > self._settings.give_up_s:
            transport.lost(GIVEN_UP)
        else:
            self._look(transport)

    def forget(self, transport: UdpTransport) -> bool:
        """A connection is over; False when that was known."""
        if self.connections.pop(transport.connection, None) is None:
            return False
        self._openings.forget(transport)
        self.send(transport.end(), transport.place)
        if self.closing and not self.connections:
            self._close()
        return True

    # --- DatagramPort -------------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """As ``DatagramPort``."""
        return bool(self.connections)

    def _stop_timers(self) -> None:
        """As ``DatagramPort``."""
        self._wheel.stop()
