"""Stand-ins for the other side of a package border; each is verified against its interface in ``test_peer.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.errors import FrameTooLarge, RelayError
from relay.interfaces import IConnection, IGate, IPeer
from relay.wire import kinds
from relay.wire.message import Message


@implementer(IConnection)
class FakeConnection:
    """Records what a transport tells the core. ``on_receive`` runs for each message."""

    def __init__(self, peer: Any, on_receive: Callable[[Any, Message], object] | None = None) -> None:
        self.peer = peer
        self.messages: list[Message] = []
        self.errors: list[RelayError] = []
        self.ends: list[tuple[str, bool]] = []
        self.on_receive = on_receive

    def receive(self, message: Message) -> None:
        """Keep it."""
        self.messages.append(message)
        if self.on_receive is not None:
            self.on_receive(self, message)

    def failed(self, error: RelayError) -> None:
        """Close, as the core does."""
        self.errors.append(error)
        self.peer.close(kinds.TOO_LARGE if isinstance(error, FrameTooLarge) else kinds.PROTOCOL, str(error))

    def lost(self, text: str, clean: bool) -> None:
        """Keep it."""
        self.ends.append((text, clean))

    @property
    def names(self) -> list[str]:
        """The names of the messages, in order."""
        return [message.name for message in self.messages]


@implementer(IGate)
class FakeGate:
    """Admits whom ``refuse`` does not name; ``connections`` are the peers' in order of arrival."""

    def __init__(self, on_receive: Callable[[Any, Message], object] | None = None) -> None:
        self.connections: list[FakeConnection] = []
        self.asked: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}
        self.on_receive = on_receive

    def admit(self, address: str, listener: str) -> int:
        """0, or what ``refuse`` says of the address."""
        self.asked.append((address, listener))
        return self.refuse.get(address, 0)

    def connected(self, peer: IPeer) -> IConnection:
        """A connection that records."""
        connection = FakeConnection(peer, self.on_receive)
        self.connections.append(connection)
        return connection

    @property
    def last(self) -> FakeConnection:
        """The youngest connection."""
        return self.connections[-1]


class WireTransport(StringTransport):
    """A StringTransport that ends as a socket does: ``protocol`` hears of it, once, when the test says so.

    ``ended`` says how it was closed: "half" (our side), "lost" or "aborted"; the last one counts.
    """

    def __init__(self, peer: IAddress | None = None) -> None:
        super().__init__(peerAddress=peer)
        self.protocol: Any = None
        self.producer: Any = None
        self.ended = ""
        self.gone = False
        self.nodelay = False

    def feed(self, data: bytes, step: int = 0) -> None:
        """Let ``data`` arrive, in pieces of ``step`` bytes when it is given, unless the connection is closed."""
        step = step or len(data) or 1
        for at in range(0, len(data), step):
            if not self.gone and self.ended not in ("lost", "aborted"):
                self.protocol.dataReceived(data[at : at + step])

    def take(self) -> bytes:
        """What was written since the last time."""
        data: bytes = self.value()
        self.clear()
        return data

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone, by the peer's doing when there is no ``error``."""
        if not self.gone:
            self.gone = True
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(Failure(error or ConnectionDone()))

    def settle(self) -> None:
        """What the reactor does in its next turn: an abort, or a close with nothing left to write, takes effect."""
        if self.ended == "aborted":
            self.lose(ConnectionAborted())
        elif self.ended == "lost":
            self.lose()

    # --- ITCPTransport ----------------------------------------------------------------------------------------------

    def unregisterProducer(self) -> None:
        """As Twisted's: also when there is none."""
        self.producer = None

    def loseConnection(self) -> None:
        """As Twisted's: nothing more is read."""
        super().loseConnection()
        self.ended = self.ended if self.ended == "aborted" else "lost"

    def loseWriteConnection(self) -> None:
        """Our half is closed."""
        self.ended = self.ended or "half"

    def abortConnection(self) -> None:
        """Cut off."""
        super().abortConnection()
        self.ended = "aborted"

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Keep it."""
        self.nodelay = bool(enabled)
