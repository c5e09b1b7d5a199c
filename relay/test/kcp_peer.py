"""relay's side in the KCP interop tests and measurements: servers in a process of its own, and a client on asyncio.

    python -m relay.test.kcp_peer '[{"settings": {"cipher": "null"}, "serve": "echo", "loss": 0}, …]' [--reactor epoll]

starts one port for each and prints their numbers as a JSON list; it serves until its standard input ends. ``serve`` is
``echo`` or ``discard``. The ports are the product's ``KcpPort`` behind a factory whose protocols are plain.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Protocol

from relay.client.aio import AsyncioRuntime
from relay.client.kcp import KcpConnection
from relay.client.options import DATAGRAM_BUFFER_BYTES, ClientOptions, KcpSettings
from relay.config import Limits, Listener, Slow, Timing
from relay.config_kcp import Kcp
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.protocols.datagrams import Address, DatagramSocket, bound_socket
from relay.protocols.entrance import Entrance, host_of
from relay.protocols.greeting import GreetingFactory
from relay.protocols.kcp import KcpPort
from relay.protocols.kcp_endpoint import cipher_for, options_of
from relay.test.fakes import FakeGate
from relay.wire.kcp import smux


class Counted(Protocol):
    """Leaves the entrance when it ends."""

    def __init__(self, entrance: Entrance, host: str) -> None:
        self.entrance = entrance
        self.host = host

    def connectionLost(self, reason: Any = None) -> None:
        """One less."""
        self.entrance.leave(self.host)


class Echo(Counted):
    """Sends back; reads no more while the peer does not take it."""

    def connectionMade(self) -> None:
        """Pauses are passed on."""
        transport: Any = self.transport
        transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Back."""
        transport: Any = self.transport
        transport.write(data)

    def pauseProducing(self) -> None:
        """The way back is full."""
        transport: Any = self.transport
        transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It has room."""
        transport: Any = self.transport
        transport.resumeProducing()

    def stopProducing(self) -> None:
        """Over."""


class Discard(Counted):
    """Throws away."""

    def dataReceived(self, data: bytes) -> None:
        """Nothing."""


PROTOCOLS: dict[str, type[Counted]] = {"echo": Echo, "discard": Discard}


class PlainFactory(GreetingFactory):
    """The real admission, and then a plain protocol."""

    kind: type[Counted] = Echo

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        """A protocol, if one more may come."""
        host = host_of(addr)
        if not self.admits(host):
            return None
        self.entrance.arrive(host)
        made: Any = self.kind(self.entrance, host)
        return made  # type: ignore[no-any-return]  # Twisted's Protocol provides it


class LossySocket(DatagramSocket):
    """Leaves out ``loss`` of 100 datagrams that are sent."""

    loss = 0

    def send(self, datagrams: Sequence[bytes], place: Address) -> None:
        """The others."""
        if self.loss:
            datagrams = [each for each in datagrams if random.randrange(100) >= self.loss]
        super().send(datagrams, place)


def listen(reactor: Any, settings: Kcp, serve: str = "echo", loss: int = 0) -> KcpPort:
    """A port on loopback that serves."""
    listener = Listener(name="kcp", address="udp:127.0.0.1:0", transport="kcp", kcp=settings)
    wheel = Wheel(reactor)
    limits = Limits(connections_max=100_000, accepts_per_s_max=100_000)
    entrance = Entrance(
        listener, FakeGate(), Flusher(lambda function: reactor.callLater(0, function)), wheel, reactor,
        limits, Timing(), Slow(),
    )  # fmt: skip
    factory = PlainFactory(entrance)
    factory.kind = PROTOCOLS[serve]
    port = KcpPort(
        factory, settings, options_of(settings), cipher_for(settings), reactor, time.monotonic, os.urandom
    )
    opened = LossySocket(bound_socket(listener.address), reactor, port.receive)
    opened.loss = loss
    port.open(opened)
    port.startListening()
    return port


def main(arguments: list[str]) -> None:
    """The process."""
    name = arguments[arguments.index("--reactor") + 1] if "--reactor" in arguments else "uv"
    if name == "uv":
        from relay.reactor import uv

        uv.install()
    from twisted.internet import reactor as installed
    from twisted.internet.stdio import StandardIO

    reactor: Any = installed
    ports = [
        listen(reactor, msgspec.convert(each["settings"], Kcp), each.get("serve", "echo"), each.get("loss", 0))
        for each in json.loads(arguments[0])
    ]

    class Until(Protocol):
        """Standard input."""

        def connectionLost(self, reason: Any = None) -> None:
            """The end."""
            reactor.stop()

    StandardIO(Until())
    print(json.dumps([int(port.getHost().port) for port in ports]), flush=True)
    reactor.run()


# --- the client ---------------------------------------------------------------------------------------------------


class EchoLine:
    """A ``relay.client.line.Line`` that sends ``total`` bytes, on ``streams`` of smux ``version`` if there are any, and
    compares what comes back. ``done``: whether it was the same. ``half_close``: each stream's direction is ended after
    its data (smux before 1.5.5x takes that for the end of both)."""

    def __init__(self, total: int, version: int = 0, streams: int = 1, half_close: bool = True) -> None:
        self.half_close = half_close
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.sent = random.Random(total).randbytes(total)
        self.got: dict[int, bytearray] = {}
        self.transport: Any = None
        self.mux = smux.Smux(True, version) if version else None
        self.count = streams if version else 1

    def opened(self, transport: Any) -> None:
        """Send all."""
        self.transport = transport
        if self.mux is None:
            self.got[0] = bytearray()
            transport.write(self.sent)
            return
        for _ in range(self.count):
            sid = self.mux.open()
            self.got[sid] = bytearray()
            self.mux.send(sid, self.sent)
            if self.half_close:
                self.mux.finish(sid)
        self.flush()

    def flush(self) -> None:
        """What smux wants to send."""
        assert self.mux is not None
        output, self.mux.output = self.mux.output, []
        if output:
            self.transport.write(b"".join(output))

    def received(self, data: bytes) -> None:
        """Collect."""
        if self.mux is None:
            self.got[0] += data
        else:
            for what, sid, piece in self.mux.input(data):
                if what == smux.DATA:
                    self.got[sid] += piece
                    self.mux.consumed(sid, len(piece))
            self.flush()
        if all(len(each) >= len(self.sent) for each in self.got.values()) and not self.done.done():
            self.done.set_result(all(each == self.sent for each in self.got.values()))

    def reached(self) -> None:
        """The server has answered."""

    def writable(self, yes: bool) -> None:
        """All is given at once; the session queues."""

    def lost(self, reason: str) -> None:
        """Too early."""
        if not self.done.done():
            self.done.set_result(False)


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, make: Callable[[Any], KcpConnection]) -> None:
        self.make = make

    def connection_made(self, transport: Any) -> None:
        """Open."""
        transport.get_extra_info("socket").setsockopt(1, 8, DATAGRAM_BUFFER_BYTES)
        self.connection = self.make(transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """One came."""
        self.connection.datagram(data)


async def echoed(port: int, settings: KcpSettings, line: EchoLine, loss: int = 0, timeout_s: float = 60.0) -> bool:
    """Whether a server on loopback sends back what the product's client connection sends."""
    loop = asyncio.get_running_loop()
    runtime = AsyncioRuntime(loop, ClientOptions(kcp=settings))

    def make(transport: Any) -> KcpConnection:
        def send(datagrams: Sequence[bytes]) -> None:
            for datagram in datagrams:
                if random.randrange(100) >= loss:
                    transport.sendto(datagram)

        taken: Any = line
        connection = KcpConnection(settings, runtime, taken, send, transport.close)
        line.opened(connection)
        return connection

    _, protocol = await loop.create_datagram_endpoint(lambda: _Socket(make), remote_addr=("127.0.0.1", port))
    try:
        return await asyncio.wait_for(line.done, timeout_s)
    except TimeoutError:
        return False
    finally:
        protocol.connection.abort()


if __name__ == "__main__":
    main(sys.argv[1:])
