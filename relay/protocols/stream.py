"""One connection that speaks a dialect: bytes to the dialect, its messages to the core, nothing else.

    transport ──dataReceived──▶ Stream ──▶ dialect.receive ──▶ connection.receive, for each message

It is not derived from Twisted's ``Protocol``, whose instances have a dictionary each; ``IProtocol`` is three methods.
An exception that is no ``RelayError`` is our own mistake: it is logged and costs this connection, no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.errors import FrameTooLarge, RelayError
from relay.wire import kinds
from relay.wire.contracts import Dialect

if TYPE_CHECKING:
    from relay.interfaces import IConnection
    from relay.protocols.entrance import Entrance
    from relay.protocols.peer import Peer
    from relay.wire.message import Message

log = Logger()


class BoundedDialect(Dialect, Protocol):
    """A dialect with a bound that may be raised while it runs."""

    frame_bytes_max: int


@implementer(IProtocol)
class Stream:
    """``receive`` is where messages go: after the first of them, the core's ``IConnection.receive`` itself."""

    __slots__ = ("connection", "dialect", "entrance", "peer", "receive", "transport")

    def __init__(self, entrance: Entrance, peer: Peer, dialect: BoundedDialect) -> None:
        self.entrance = entrance
        self.peer = peer
        self.dialect = dialect
        self.transport: Any = None  # Any: whatever transport carries it
        self.connection: IConnection | None = None
        self.receive = self._receive_first

    def fail(self, error: RelayError) -> None:
        """The peer broke the rules: the core says goodbye; whatever it does, the peer is closed."""
        if self.peer.ended:
            return
        if self.connection is not None:
            self.connection.failed(error)
        self.peer.close(kinds.TOO_LARGE if isinstance(error, FrameTooLarge) else kinds.PROTOCOL, str(error))

    def broken(self) -> None:
        """We made a mistake: log the exception that is being handled, and close this connection."""
        log.failure(
            "a connection of listener {listener} from {address!r} met an error",
            listener=self.peer.listener,
            address=self.peer.address,
        )
        self.peer.close(kinds.INTERNAL)

    def apart(self, message: Message) -> None:
        """A message that the transport carried beside the stream; before the first of the stream it means nothing."""
        if self.peer.ended or self.receive == self._receive_first:
            return
        try:
            self.receive(message)
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
            self.broken()

    # --- IProtocol --------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:  # Any: whatever transport carries it
        """As Twisted's ``Protocol`` has it."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Introduce the peer to the core."""
        self.transport.registerProducer(self.peer.outbox, True)
        try:
            self.connection = self.entrance.gate.connected(self.peer)
        except Exception:  # noqa: BLE001 - logged; our mistake, or a plugin's, must not reach the reactor
            self.broken()

    def dataReceived(self, data: bytes) -> None:
        """Everything that ``data`` completes, to the core."""
        peer = self.peer
        if peer.ended:
            peer.forget(data)
            return
        try:
            for message in self.dialect.receive(data):
                self.receive(message)
                if peer.ended:
                    return
            if self.dialect.failed is not None:
                self.fail(self.dialect.failed)
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
            self.broken()

    def connectionLost(self, reason: Failure) -> None:
        """Tell the core, and let go of everything."""
        self.entrance.leave(self.peer.address)
        text, clean = self.peer.gone(reason)
        connection, self.connection = self.connection, None
        self.transport = None
        self.receive = _nowhere
        if connection is not None:
            try:
                connection.lost(text, clean)
            except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
                log.failure("the end of a connection met an error")

    def _receive_first(self, message: Message) -> None:
        # Until something came that looks like a hello, frames are bounded by what every client may assume.
        assert self.connection is not None
        self.dialect.frame_bytes_max = self.entrance.limits.frame_bytes_max
        self.receive = self.connection.receive
        self.receive(message)


def _nowhere(message: Message) -> None:
    """Takes the place of a connection that is gone."""
