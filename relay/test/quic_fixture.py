"""A QUIC port behind the real entrance, and aioquic clients, without sockets: datagrams pass by hand on a ``Clock``."""

from __future__ import annotations

import random
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import SessionTicket
from twisted.internet.task import Clock

from relay.bench.certificates import make_certificate
from relay.config import Limits, Listener, Slow, Timing, Tls
from relay.config_quic import Quic
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.protocols.entrance import Entrance
from relay.protocols.greeting import GreetingFactory
from relay.protocols.quic import QuicPort
from relay.protocols.quic_endpoint import certificate_of, server_configuration
from relay.protocols.tls import TlsContexts
from relay.test.entrance_fixture import echo
from relay.test.fakes import FakeGate
from relay.wire import kinds
from relay.wire.binary import BinaryDecoder, encode_stream
from relay.wire.message import Message
from relay.wire.quic_connection import ALPN, CONNECTION_ID_BYTES, WINDOW_BYTES, BoundedConnection
from relay.wire.quic_link import QuicLink

HOME = ("192.0.2.7", 40_000)
AWAY = ("198.51.100.9", 50_000)
NODE = ("192.0.2.1", 8443)
STEP_S = 0.0005

Datagram = tuple[bytes, Any]


class Wire:
    """The port's socket: what was sent, and to whom."""

    place = NODE

    def __init__(self) -> None:
        self.sent: list[Datagram] = []
        self.open = True

    def send(self, datagrams: list[bytes], place: Any) -> None:
        """Keep them."""
        self.sent += [(datagram, place) for datagram in datagrams]

    def start(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """No more."""
        self.open = False

    def take(self) -> list[Datagram]:
        """What was sent since the last time."""
        taken, self.sent = self.sent, []
        return taken


class Client:
    """The other side: a link whose session's stream and messages apart are kept."""

    def __init__(
        self,
        world: World,
        place: Any = HOME,
        ticket: SessionTicket | None = None,
        datagrams: int | None = 65_535,
        alpn: str = ALPN,
        shown: tuple[str, str] | None = None,
    ) -> None:
        self.world = world
        self.place = place
        self.data = b""
        self.prefaced = False
        self.messages: list[Message] = []
        self.tickets: list[SessionTicket] = []
        self.over: tuple[str, bool] | None = None
        self.resumed = self.early = self.complete = False
        made = QuicConfiguration(
            is_client=True, alpn_protocols=[alpn], connection_id_length=CONNECTION_ID_BYTES, server_name="127.0.0.1",
            max_datagram_frame_size=datagrams, max_stream_data=WINDOW_BYTES, session_ticket=ticket,
        )  # fmt: skip
        if shown is not None:
            made.load_cert_chain(*shown)
        made.load_verify_locations(cadata=Path(world.certificate).read_bytes())
        self.connection = BoundedConnection(made, 16, 65_536, session_ticket_handler=self.tickets.append)
        self.link = QuicLink(self.connection, self)
        self.decoder = BinaryDecoder(1_048_576)
        self.frames: list[Message] = []
        world.clients.append(self)

    def connect(self) -> Client:
        """Begin, and let all happen that follows at once."""
        self.start()
        self.world.settle()
        return self

    def start(self) -> None:
        """Begin."""
        self.connection.connect(NODE, self.world.now())

    def say(self, *messages: Message) -> None:
        """Send frames on the session's stream, the preface before the first."""
        data = b"".join(map(encode_stream, messages))
        self.link.write(data if self.prefaced else kinds.PREFACE + data)
        self.prefaced = True
        self.world.settle()

    def datagrams(self) -> list[Datagram]:
        """What it has to send now, with its address."""
        return [(datagram, self.place) for datagram, _ in self.connection.datagrams_to_send(self.world.now())]

    # --- relay.wire.quic_link.Sink

    def received(self, data: bytes) -> None:
        """Bytes."""
        self.data += data
        self.frames += self.decoder.receive(data)

    def apart(self, message: Message) -> None:
        """A message."""
        self.messages.append(message)

    def confirmed(self, resumed: bool, early: bool) -> None:
        """Complete."""
        self.complete = True
        self.resumed, self.early = resumed, early

    def ended(self, reason: str, clean: bool) -> None:
        """Over."""
        self.over = self.over or (reason, clean)

    def named(self, connection_id: bytes, yes: bool) -> None:
        """One of its ids."""


class World:
    """See the module. ``pass_on(datagram, to_port)`` may drop datagrams (None) or change them."""

    def __init__(
        self, limits: Limits | None = None, on_receive: Any = echo, client_ca: bytes = b"", required: bool = False,
        **settings: Any,
    ) -> None:  # fmt: skip
        self.settings = msgspec.convert(settings, Quic)
        self.clock = Clock()
        self.clock.advance(100)
        self.gate = FakeGate(on_receive)
        self.wheel = Wheel(self.clock)
        self.wheel.start()
        self.flusher = Flusher(lambda function: self.clock.callLater(0, function))
        self.folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.certificate, self.key = make_certificate(self.folder)
        tls = Tls(certificate=self.certificate, key=self.key)
        if client_ca:
            path = Path(self.folder, "authority.pem")
            path.write_bytes(client_ca)
            tls = msgspec.structs.replace(tls, client_ca=str(path), client_required=required)
        self.contexts = TlsContexts(tls, self.clock, certificate_of)
        listener = Listener(name="quic", address="udp:0.0.0.0:8443", transport="quic", tls=tls, quic=self.settings)
        self.entrance = Entrance(
            listener, self.gate, self.flusher, self.wheel, self.clock, limits or Limits(), Timing(), Slow()
        )
        self.port = QuicPort(
            GreetingFactory(self.entrance), self.settings,
            lambda: server_configuration(self.contexts.current, self.settings, None),
            self.clock, self.clock.seconds, random.Random(1).randbytes,
        )  # fmt: skip
        self.wire = Wire()
        self.port.open(self.wire)  # type: ignore[arg-type]  # what is used of it is there
        self.clients: list[Client] = []
        self.pass_on: Callable[[bytes, bool], bytes | None] = lambda datagram, to_port: datagram
        self.came: dict[Any, int] = {}
        self.went: dict[Any, int] = {}

    def now(self) -> float:
        """Seconds."""
        return self.clock.seconds()

    def give(self, *datagrams: Datagram) -> None:
        """Let datagrams arrive in one wake-up."""
        for datagram, place in datagrams:
            self.came[place] = self.came.get(place, 0) + len(datagram)
        self.port.receive(list(datagrams))
        self.clock.advance(0)

    def exchange(self) -> bool:
        """What both sides have to send now, once; whether there was anything."""
        said = False
        self.clock.advance(0)
        for client in self.clients:
            sent = [self.pass_on(datagram, True) for datagram, _ in client.connection.datagrams_to_send(self.now())]
            arriving = [(datagram, client.place) for datagram in sent if datagram is not None]
            said = said or bool(sent)
            if arriving:
                self.give(*arriving)
        for datagram, place in self.wire.take():
            said = True
            self.went[place] = self.went.get(place, 0) + len(datagram)
            kept = self.pass_on(datagram, False)
            for client in self.clients:
                if kept is not None and client.place == place:
                    client.connection.receive_datagram(kept, NODE, self.now())
        for client in self.clients:
            client.connection.acknowledge_now()
            client.link.take()
        return said

    def settle(self, seconds: float = 0.0) -> None:
        """Until nothing is said any more, and for that long."""
        until = self.now() + seconds
        quiet = 0
        while quiet < 4 or self.now() < until:
            quiet = 0 if self.exchange() else quiet + 1
            self.clock.advance(STEP_S if seconds < 1 else 0.05)
            for client in self.clients:
                timer = client.connection.get_timer()
                if timer is not None and timer <= self.now():
                    client.connection.handle_timer(self.now())

    @property
    def peers(self) -> list[Any]:
        """The peers that the core met."""
        return [connection.peer for connection in self.gate.connections]

    @property
    def heard(self) -> list[Message]:
        """The messages that came, of all connections."""
        return [message for connection in self.gate.connections for message in connection.messages]
