"""What a frame over UDP takes of a core: ``python bench/udp_speed.py [--seconds 1] [--rounds 3] [--profile]``.

relay's UDP port with the reading and the writing of its socket, and what a node has between port and core (peer,
stream, dialect, outbox), in this process; so are the clients, which use the same link. Each of 50 clients has a socket
of its own and sends or gets 16 frames of 128 bytes a turn. A row is the processor time of the server's side for one
frame, in microseconds, the median of the rounds with the smallest and largest, and what a core of its own makes of it.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import Clock

from relay.config import Secure
from relay.config_udp import Udp
from relay.protocols.datagrams import DatagramSocket, bound_socket
from relay.protocols.udp import UdpPort
from relay.test.entrance_fixture import Door
from relay.wire import kinds
from relay.wire import udp_packets as packets
from relay.wire.binary import encode_frame, encode_stream
from relay.wire.message import Message
from relay.wire.secure import ClientHandshake
from relay.wire.secure_records import OVERHEAD_BYTES, DatagramOpener, DatagramSealer
from relay.wire.udp_link import UdpLink

CLIENTS: Final = 50
FRAMES: Final = 16
BODY_BYTES: Final = 128
NODE: Final = bytes(range(32))


class Turns(Clock):
    """A clock that is the real one, and a reactor that reads and ends its turns when it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.ending: list[Callable[[], None]] = []

    def callAtTurnEnd(self, function: Callable[[], None]) -> None:  # noqa: N802 - relay's reactor has it
        """Keep."""
        self.ending.append(function)

    def addReader(self, reader: Any) -> None:  # noqa: N802 - Twisted's name
        """It is read from by hand."""

    def removeReader(self, reader: Any) -> None:  # noqa: N802 - Twisted's name
        """Nor any more."""

    def end(self) -> None:
        """The end of a turn."""
        while self.ending:
            calls, self.ending = self.ending, []
            for function in calls:
                function()


class World:
    """A port on a real socket, and the gate behind it, which counts."""

    def __init__(self, secure: bool) -> None:
        self.got = 0
        options: dict[str, Any] = {"secure": Secure()} if secure else {}
        self.door = Door(on_receive=self._receive, **options)
        self.door.entrance.identity = NODE if secure else b""
        self.reactor = Turns()
        self.door.entrance.flusher.at_turn_end = self.reactor.callAtTurnEnd
        reactor: Any = self.reactor
        self.port = UdpPort(self.door.factory, Udp(window_max=1024), reactor, time.monotonic, os.urandom)
        self.socket = DatagramSocket(bound_socket("udp:127.0.0.1:0"), reactor, self.port.receive)
        self.port.open(self.socket)
        self.place = self.socket.place
        self.clients = [Client(self, secure) for _ in range(CLIENTS)]

    def _receive(self, connection: Any, message: Message) -> None:
        self.got += 1

    def turn(self) -> None:
        """Read all that is there, and answer it."""
        for _ in range(4):
            self.socket.doRead()
        self.reactor.end()
        now = time.monotonic()
        self.reactor.advance(max(0.0, now - self.reactor.seconds()) if self.reactor.seconds() else now)
        self.reactor.end()

    @property
    def peers(self) -> list[Any]:
        """Those that the core knows."""
        return [connection.peer for connection in self.door.gate.connections]


class Client:
    """The other side of one connection, on a socket of its own."""

    def __init__(self, world: World, secure: bool) -> None:
        self.got = 0
        self.sealer: DatagramSealer | None = None
        self.opener: DatagramOpener | None = None
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_194_304)
        self.socket.connect(world.place)
        self.socket.setblocking(False)
        trust = ClientHandshake(os.urandom(32), lambda _: True)
        nonce, hello = os.urandom(8), trust.hello if secure else b""
        self.socket.send(packets.encode_hello(packets.Hello(nonce, secure=hello)))
        world.turn()
        _, cookie = packets.decode_retry(self.socket.recv(2048))
        self.socket.send(packets.encode_hello(packets.Hello(nonce, cookie, hello)))
        world.turn()
        accept = packets.decode_accept(self.socket.recv(2048))
        self.head = bytes((packets.PACKET,)) + accept.connection
        self.link = UdpLink(1200 - packets.HEAD_BYTES - (OVERHEAD_BYTES if secure else 0))
        if secure:
            self.socket.send(bytes((packets.FINISH,)) + accept.connection + trust.receive(accept.secure))
            assert trust.keys is not None
            self.sealer = DatagramSealer(trust.keys.suite, trust.keys.sending)
            self.opener = DatagramOpener(trust.keys.suite, trust.keys.receiving)
            world.turn()

    def flush(self) -> None:
        """Send what is to be sent."""
        for content in self.link.transmit(time.monotonic()):
            self.socket.send(self.head + (content if self.sealer is None else self.sealer.seal(content, self.head)))

    def hear(self) -> None:
        """Take what came, and acknowledge it."""
        while True:
            try:
                datagram = self.socket.recv(2048)
            except BlockingIOError:
                break
            content: bytes | None = datagram[packets.HEAD_BYTES :]
            if self.opener is not None:
                content = self.opener.open(datagram[packets.HEAD_BYTES :], self.head)
            if content is not None:
                self.got += len(self.link.receive(content, time.monotonic()))
        self.flush()


def measure(secure: bool, out: bool, loose: bool, seconds: float, profile: cProfile.Profile | None) -> float:
    """The server's microseconds for one frame."""
    world = World(secure)
    flags = kinds.UNRELIABLE if loose else 0
    message = Message(kinds.EVENT if out else kinds.PUBLISH, "room.1", bytes(BODY_BYTES), kinds.RAW, flags)
    frame, stream = encode_frame(message), encode_stream(message)
    for client in world.clients:  # the peer is met with its first frame
        client.link.send(frame)
        client.flush()
    world.turn()
    peers = world.peers
    assert len(peers) == CLIENTS
    world.got = 0
    used, spent, end = time.thread_time, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        for client in world.clients:
            for _ in range(0 if out else FRAMES):
                if loose:
                    client.link.send_once(frame)
                else:
                    client.link.send(frame)
            client.flush()
        began = used()
        if profile is not None:
            profile.enable()
        if out:
            for peer in peers:
                for _ in range(FRAMES):
                    if loose:
                        peer.loose(stream, None)
                    else:
                        peer.send(stream)
        world.turn()
        if profile is not None:
            profile.disable()
        spent += used() - began
        for client in world.clients:
            client.hear()
    for client in world.clients:
        client.socket.close()
    count = sum(client.got for client in world.clients) if out else world.got
    return spent / max(count, 1) * 1e6


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also where the time goes, for each row")
    options = parser.parse_args()
    rows = [(secure, out, loose) for secure in (False, True) for out in (False, True) for loose in (True, False)]
    found: dict[tuple[bool, bool, bool], list[float]] = {row: [] for row in rows}
    for _ in range(options.rounds):
        for row in rows:
            found[row].append(measure(*row, options.seconds, None))
    for (secure, out, loose), values in found.items():
        name = f"{'out' if out else 'in'}, {'unreliable' if loose else 'reliable'}{', secure' if secure else ''}"
        middle = statistics.median(values)
        print(f"{name:34} {middle:5.2f} us ({min(values):.2f}-{max(values):.2f})  {1000 / middle:6.0f} k/s of a core")
    if options.profile:
        for row in rows:
            profile = cProfile.Profile()
            measure(*row, options.seconds, profile)
            print(row)
            profile.print_stats("tottime")


if __name__ == "__main__":
    main()
