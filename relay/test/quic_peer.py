"""relay's server in the QUIC interop tests and measurements, in a process of its own.

    python -m relay.test.quic_peer FOLDER '[{"serve": "echo", "settings": {}}, …]'

starts one port for each, with the certificate that it makes in FOLDER, and prints their numbers as a JSON list; it
serves until its standard input ends. The ports are the product's ``QuicPort`` on relay's reactor.

=========  =============================================================================================
``serve``
=========  =============================================================================================
echo       the bytes of the session's stream, back
flow       two numbers of eight bytes: so many bytes back, after so many have come
gate       relay's stream protocol: each message comes back the way that it came
=========  =============================================================================================
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import msgspec
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Protocol

from relay.bench.certificates import make_certificate
from relay.config import Limits, Listener, Slow, Timing, Tls
from relay.config_quic import Quic
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.dialects.relay_v1 import ENCODERS
from relay.protocols.datagrams import DatagramSocket, bound_socket
from relay.protocols.entrance import Entrance, host_of
from relay.protocols.greeting import GreetingFactory
from relay.protocols.quic import QuicPort
from relay.protocols.quic_endpoint import certificate_of, server_configuration
from relay.test.fakes import FakeGate
from relay.test.kcp_peer import Counted, Echo
from relay.wire.binary import encode_stream
from relay.wire.message import Message, is_loose

CHUNK = bytes(index * 7 >> 3 & 0xFF for index in range(65_536))


class Flow(Counted):
    """Sends as many bytes as it is asked for, once as many have come as it was told."""

    def __init__(self, entrance: Entrance, host: str) -> None:
        super().__init__(entrance, host)
        self.head = b""
        self.back = self.coming = 0
        self.paused = False

    def connectionMade(self) -> None:
        """Be told when the way is full."""
        transport: Any = self.transport
        transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Count."""
        size = len(data)
        if len(self.head) < 16:
            missing = 16 - len(self.head)
            self.head += data[:missing]
            size = max(0, size - missing)
            if len(self.head) < 16:
                return
            self.back, self.coming = int.from_bytes(self.head[:8]), int.from_bytes(self.head[8:])
        self.coming -= size
        if self.coming <= 0:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """Full."""
        self.paused = True

    def resumeProducing(self) -> None:
        """There is room."""
        self.paused = False
        transport: Any = self.transport
        while self.back > 0 and self.coming <= 0 and not self.paused:
            chunk = CHUNK[: self.back]
            self.back -= len(chunk)
            transport.write(chunk)

    def stopProducing(self) -> None:
        """Over."""


PROTOCOLS: dict[str, type[Counted]] = {"echo": Echo, "flow": Flow}


class PlainFactory(GreetingFactory):
    """The real admission, and then a plain protocol."""

    def __init__(self, entrance: Entrance, made: type[Counted]) -> None:
        super().__init__(entrance)
        self.made = made

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        """One of them."""
        host = host_of(addr)
        if not self.admits(host):
            return None
        self.entrance.arrive(host)
        return self.made(self.entrance, host)


def send_back(connection: Any, message: Message) -> None:  # Any: a FakeConnection
    """Each message, the way that it came."""
    peer = connection.peer
    if is_loose(message, peer.apart):
        peer.loose(encode_stream(message), None)
    else:
        peer.send(ENCODERS[peer.encoding](message))


def listen(reactor: Any, folder: str, serve: str, settings: Quic) -> QuicPort:
    """A listening port on loopback."""
    paths = f"{folder}/certificate.pem", f"{folder}/key.pem"
    tls = Tls(certificate=paths[0], key=paths[1])
    loaded = certificate_of(tls)
    wheel = Wheel(reactor)
    wheel.start()
    flusher = Flusher(getattr(reactor, "callAtTurnEnd", None) or (lambda function: reactor.callLater(0, function)))
    listener = Listener(address="udp:127.0.0.1:0", transport="quic", tls=tls, quic=settings)
    limits = Limits(connections_max=1_000_000, accepts_per_s_max=1_000_000)
    entrance = Entrance(listener, FakeGate(send_back), flusher, wheel, reactor, limits, Timing(), Slow())
    factory = GreetingFactory(entrance) if serve == "gate" else PlainFactory(entrance, PROTOCOLS[serve])
    configuration = server_configuration(loaded, settings, None)
    port = QuicPort(factory, settings, lambda: configuration, reactor, time.monotonic, os.urandom)
    port.open(DatagramSocket(bound_socket(listener.address), reactor, port.receive))
    port.startListening()
    return port


def main() -> int:
    """The command."""
    from relay.reactor.uv import install

    install()
    from twisted.internet import reactor as installed
    from twisted.internet.stdio import StandardIO

    reactor: Any = installed
    folder = sys.argv[1]
    make_certificate(folder)
    wanted = json.loads(sys.argv[2])
    ports = [
        listen(reactor, folder, each["serve"], msgspec.convert(each.get("settings", {}), Quic)).getHost().port
        for each in wanted
    ]

    class Until(Protocol):
        """Standard input."""

        def connectionLost(self, reason: Any = None) -> None:
            """The end."""
            reactor.stop()

    StandardIO(Until())
    print(json.dumps(ports), flush=True)
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
