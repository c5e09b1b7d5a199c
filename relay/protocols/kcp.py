"""KCP on a UDP port: which datagram is whose, when which session has to be looked at, and what leaves in one call.

::

    batch of datagrams ─▶ cipher ─▶ by address ─┬─▶ its session
                                                ├─▶ a session that moved (authenticated ciphers only)
                                                └─▶ a new session: its first segment is PUSH 0, and it may come in
    all that came, to the protocols ─▶ end of turn: acknowledgements and answers, one call per session

A datagram that does not pass the cipher, is no KCP from end to end, or belongs to nobody leaves nothing behind. What is
sent to an address that has not yet shown that it receives there is at most three times what came from it, and so many
sessions at once may be in that state (``unproven_max``).

Time: retransmissions stand on a fine wheel that turns only while something stands on it; idle sessions are
looked at together every ``SWEEP_S``. The clock must be fine and must not go back; its zero is random here, so that the
time stamps which prove an address cannot be guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet import error
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.config_kcp import Kcp
from relay.protocols.datagram_port import DatagramPort
from relay.protocols.datagrams import Address, Batch, DatagramSocket, address_of
from relay.protocols.entrance import host_of
from relay.protocols.fine_wheel import FineWheel
from relay.protocols.greeting import GreetingFactory
from relay.protocols.kcp_smux import Carrier
from relay.protocols.kcp_transport import KcpTransport
from relay.wire.kcp import segment, smux
from relay.wire.kcp.ciphers import DatagramCipher
from relay.wire.kcp.fec import DATA, FEC_BYTES
from relay.wire.kcp.options import KcpOptions
from relay.wire.kcp.session import KcpSession, first_payload

log = Logger()

SWEEP_S: Final = 5.0
AMPLIFICATION_MAX: Final = 3
REPLACE_SILENCE_MS: Final = 5000
"""Without authentication a new conversation from the same address ends the old one only after such a silence; else
anybody who can write another's address into a datagram could end its session."""
SMUX_VERSIONS: Final = (1, 2)

TIMED_OUT: Final = Failure(error.TimeoutError("nothing came for the idle time-out"))
DEAD: Final = Failure(error.ConnectionLost("a segment was sent in vain again and again"))
REPLACED: Final = Failure(error.ConnectionLost("the peer began anew"))


class KcpPort(DatagramPort):
    """The sessions of one listener. ``clock`` gives seconds, ``random_bytes(n)`` nonces. Counters: ``undecided``
    datagrams that were nobody's, ``moved`` sessions that changed their address."""

    def __init__(
        self,
        factory: GreetingFactory,
        settings: Kcp,
        options: KcpOptions,
        cipher: DatagramCipher,
        reactor: Any,  # Any: IReactorTime, and for a real socket IReactorFDSet
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        super().__init__(factory, reactor)
        self.sessions: dict[Address, KcpTransport] = {}
        self.undecided = 0
        self.moved = 0
        self.full: set[KcpTransport] = set()
        self.high_bytes = options.send_window * options.mtu
        self.low_bytes = self.high_bytes // 2
        self.nodelay = factory.entrance.listener.nodelay
        self._settings = settings
        self._options = options
        self._cipher = cipher
        self._clock = clock
        self._random_bytes = random_bytes
        self._zero = int.from_bytes(random_bytes(4), "little")
        self._convs: dict[int, KcpTransport] = {}
        self._unproven = 0
        self._marked: list[KcpTransport] = []
        self._wheel = FineWheel(reactor, self.now, self._expired)
        self._sweeper: IDelayedCall | None = None

    def open(self, opened: DatagramSocket) -> None:
        """As ``DatagramPort``."""
        super().open(opened)
        self._sweeper = self._reactor.callLater(SWEEP_S, self._sweep)

    def now(self) -> int:
        """Milliseconds."""
        return int(self._clock() * 1000) + self._zero

    # --- in -------------------------------------------------------------------------------------------------------

    def receive(self, batch: Batch) -> None:
        """All datagrams of one wake-up."""
        now = self.now()
        opened, sessions = self._cipher.open, self.sessions
        touched: dict[KcpTransport, None] = {}
        conv_of = segment.conv_of
        strangers = 0
        for datagram, place in batch:
            payload = opened(datagram)
            if not payload:
                strangers += 1
                continue
            transport = sessions.get(place)
            # Fast path: it is of the conversation that this address has. Parity does not say of which it is.
            if transport is None or (
                conv_of(payload) != transport.session.kcp.conv
                if len(payload) < 24 or payload[4] <= segment.TELL
                else payload[4] == DATA and conv_of(payload, FEC_BYTES) != transport.session.kcp.conv
            ):
                transport = self._arrived(payload, place, transport, now)
                if transport is None:
                    strangers += 1
                    continue
            transport.heard_at = now
            if transport.unproven:
                transport.budget += len(datagram) * AMPLIFICATION_MAX
            transport.session.input(payload, now)
            touched[transport] = None
        self.undecided += strangers
        self.factory.entrance.unknown += strangers
        for transport in touched:
            transport.marked = True
        for transport in touched:
            if transport.unproven and transport.session.kcp.proven:
                self._prove(transport)
            transport.deliver()
        self._marked += touched
        if touched:
            # After the outboxes, which asked for the end of the turn while messages were delivered.
            self._at_turn_end(self._flush)

    def _arrived(self, payload: bytes, place: Address, known: KcpTransport | None, now: int) -> KcpTransport | None:
        """The session of a payload that is not simply the next of its address; None: nobody's."""
        plain = first_payload(payload)
        first = segment.first_of(plain)
        if first is None:
            return None
        conv, cmd, sn, _ = first
        authenticated = self._cipher.authenticated
        if authenticated:
            mover = self._convs.get(conv)
            if mover is not None and mover is not known:
                return self._move(mover, first, place, known)
        if cmd != segment.PUSH or sn != 0 or len(plain) == segment.HEADER_BYTES:
            return None
        if known is not None:
            if not authenticated and now - known.heard_at < REPLACE_SILENCE_MS:
                return None
            known.lost(REPLACED)
        return self._begin(conv, plain[segment.HEADER_BYTES], place, now)

    def _move(
        self, mover: KcpTransport, first: tuple[int, int, int, int], place: Address, known: KcpTransport | None
    ) -> KcpTransport | None:
        """The peer's address changed: believed when the datagram says something that no old one can say again."""
        if known is not None or not mover.session.kcp.fresh(*first[1:]):
            return None
        self.sessions.pop(mover.place, None)
        mover.place = place
        self.sessions[place] = mover
        self.moved += 1
        if not mover.unproven:
            mover.unproven = True
            mover.budget = 0
            self._unproven += 1
        mover.session.kcp.proven = False
        return mover

    def _begin(self, conv: int, first: int, place: Address, now: int) -> KcpTransport | None:
        if self.closing or self._unproven >= self._settings.unproven_max or conv in self._convs:
            return None
        address = address_of(place)
        carried = first if self._settings.smux and first in SMUX_VERSIONS else 0
        protocol = self._carrier(carried, address) if carried else self.factory.buildProtocol(address)
        if protocol is None:
            return None
        session = KcpSession(conv, self._options, self._cipher, self._random_bytes)
        transport = KcpTransport(self, session, address, place, now)
        self.sessions[place] = transport
        if self._cipher.authenticated:
            self._convs[conv] = transport
        self._unproven += 1
        transport.protocol = protocol
        protocol.makeConnection(transport)  # type: ignore[arg-type]  # what is used of ITransport is there
        return transport

    def _carrier(self, version: int, address: IAddress) -> IProtocol | None:
        host, entrance = host_of(address), self.factory.entrance
        if not self.factory.admits(host):
            entrance.refused += 1
            return None
        entrance.arrive(host)
        carrier = Carrier(version, address, self.factory.buildProtocol)
        carrier.over(lambda: entrance.leave(host))
        return carrier

    def _prove(self, transport: KcpTransport) -> None:
        transport.unproven = False
        self._unproven -= 1

    # --- out ------------------------------------------------------------------------------------------------------

    def send(self, transport: KcpTransport) -> None:
        """Send what is due of a session, now."""
        now = self.now()
        session = transport.session
        datagrams = session.flush(now)
        if datagrams:
            if transport.unproven:
                datagrams = self._within_budget(transport, datagrams)
            if datagrams and self._socket is not None:
                self._socket.send(datagrams, transport.place)
        if session.kcp.dead:
            self.soon(lambda: transport.lost(DEAD))
            return
        timer = session.kcp.next_timer()
        if timer is not None:
            self._wheel.add(transport, timer, now)

    def _within_budget(self, transport: KcpTransport, datagrams: list[bytes]) -> list[bytes]:
        out = []
        for datagram in datagrams:
            if transport.budget < len(datagram):
                break  # it counts as lost, and is sent again when more has come from there
            transport.budget -= len(datagram)
            out.append(datagram)
        return out

    def _flush(self) -> None:
        marked, self._marked = self._marked, []
        for transport in marked:
            transport.marked = False
            self._expired(transport)

    def soon(self, function: Callable[[], object]) -> None:
        """Call ``function`` when what runs now has returned."""
        self._reactor.callLater(0, function)

    # --- time -----------------------------------------------------------------------------------------------------

    def _expired(self, transport: KcpTransport) -> None:
        """It is time to look at a session."""
        if transport.protocol is None:
            return
        try:
            self.send(transport)
            transport.settle()
        except Exception:  # noqa: BLE001 - logged; our mistake must not cost the other sessions of the turn
            log.failure("a KCP session met an error")
            transport.abortConnection()

    def _sweep(self) -> None:
        """End sessions that say nothing any more, and keep the connections of smux alive."""
        self._sweeper = self._reactor.callLater(SWEEP_S, self._sweep)
        oldest = self.now() - int(self._settings.idle_timeout_s * 1000)
        for transport in list(self.sessions.values()):
            if transport.heard_at < oldest:
                transport.lost(TIMED_OUT)
            elif type(transport.protocol) is Carrier:
                transport.protocol.beat(int(smux.KEEPALIVE_S / SWEEP_S), int(smux.SILENCE_S / SWEEP_S))

    def forget(self, transport: KcpTransport) -> None:
        """A session is over."""
        if self.sessions.get(transport.place) is transport:
            del self.sessions[transport.place]
        conv = transport.session.kcp.conv
        if self._convs.get(conv) is transport:
            del self._convs[conv]
        self.full.discard(transport)
        if transport.unproven:
            self._prove(transport)
        if self.closing and not self.sessions:
            self._close()

    # --- DatagramPort -------------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """As ``DatagramPort``."""
        return bool(self.sessions)

    def _stop_timers(self) -> None:
        """As ``DatagramPort``."""
        self._wheel.stop()
        if self._sweeper is not None and self._sweeper.active():
            self._sweeper.cancel()
        self._sweeper = None
