"""What an idle connection costs: memory and processor time of accepting, by transport and reactor.

    python -m relay.test.connection_memory [--connections 5000] [--transport ws|tcp] [--reactor epoll|uv]

The clients are in a process of their own, on loopback. The listener's connections meet a core that only keeps them, so
that what is measured is the transport's and this package's part; sessions come on top.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import signal
import socket
import time
from typing import Any

from twisted.application.reactors import installReactor
from twisted.web.resource import Resource
from zope.interface import implementer

from relay.config import Limits, Listener, Slow, Timing
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.errors import RelayError
from relay.interfaces import IConnection, IGate, IPeer
from relay.protocols.listen import ListenerService
from relay.wire import kinds
from relay.wire.message import Message

HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept-Language: en\r\nOrigin: http://127.0.0.1:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: relay.v1.bin\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n\r\n"
)
OPENING = {"ws": HEAD, "tcp": kinds.PREFACE}
POLL_S = 0.05


@implementer(IConnection)
class Kept:
    """A connection of which nothing is wanted."""

    __slots__ = ("peer",)

    def __init__(self, peer: IPeer) -> None:
        self.peer = peer

    def receive(self, message: Message) -> None:
        """Nothing comes."""

    def failed(self, error: RelayError) -> None:
        """Nothing fails."""

    def lost(self, text: str, clean: bool) -> None:
        """It is over."""


@implementer(IGate)
class Keeper:
    """Admits all, and keeps them."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def admit(self, address: str, listener: str) -> int:
        """Always."""
        return 0

    def connected(self, peer: IPeer) -> IConnection:
        """Keep it."""
        self.kept.append(Kept(peer))
        return self.kept[-1]


def resident_bytes() -> int:
    """This process's resident memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def call(port: int, count: int, opening: bytes) -> int:
    """Start a process that opens ``count`` connections one after another and keeps them; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        opened = []
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", port)))
            opened[-1].sendall(opening)
        signal.pause()
    finally:
        os._exit(0)


def measure(reactor: Any, count: int, transport: str) -> str:  # Any: the reactor, whichever interfaces it provides
    """Open the connections; a sentence with the figures."""
    keeper = Keeper()
    wheel = Wheel(reactor)
    wheel.start()
    listener = Listener(name="t", address="tcp:0:interface=127.0.0.1", protocols=("relay", "http", "websocket"))
    flusher = Flusher(lambda function: reactor.callLater(0, function))
    service = ListenerService(listener, reactor, keeper, flusher, wheel, Limits(), Timing(), Slow(), Resource())
    service.startService()
    figures: list[str] = []

    def begin() -> None:
        pid = call(service.port(), count, OPENING[transport])
        gc.collect()
        look(pid, resident_bytes(), time.process_time())

    def look(pid: int, bytes_before: int, time_before: float) -> None:
        if len(keeper.kept) < count:
            reactor.callLater(POLL_S, look, pid, bytes_before, time_before)
            return
        spent = (time.process_time() - time_before) / count
        gc.collect()
        each = (resident_bytes() - bytes_before) // count
        figures.append(f"{count} idle {transport} connections: {each} bytes and {spent * 1e6:.0f} us each")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reactor.stop()

    reactor.callWhenRunning(begin)
    reactor.run()
    return figures[0]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--transport", choices=sorted(OPENING), default="ws")
    parser.add_argument("--reactor", default="epoll")
    options = parser.parse_args()
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    installReactor(options.reactor)
    from twisted.internet import reactor

    print(f"{options.reactor}: {measure(reactor, options.connections, options.transport)}")


if __name__ == "__main__":
    main()
