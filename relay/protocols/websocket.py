"""WebSocket (RFC 6455): opened by a handshake of ours or by Autobahn's, then a small object of ours carries it.

    RequestHead ─┬─ the common request (relay.wire.upgrade) ──────────────────────▶ WebSocket over relay.wire.websocket
                 └─▶ Opening (Autobahn: handshake) ─┬─ no extension ──────────────▶ the same
                                                    └─ permessage-deflate: stays, and hands events to a WebSocket

Autobahn's protocol object takes some 8 KB, 130 us to open a connection and 15-30 us a message; it is for what is
seldom: extensions, requests in another form, and all that are refused. ``WebSocket`` is what a connection keeps: the
switch drops every reference to the Opening, and bytes that came together with the handshake go to the new object.
The subprotocol chooses the dialect; a client that offers none of ours is refused, because the two forms cannot be told
apart later. A refused handshake is an HTTP response with a status, a length and a sentence.

Close codes: 1000 for ``normal``, else 4000 + close reason; a client's own close is answered with its own code.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import txaio
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.core.limits import is_loopback
from relay.core.outbox import CONTROL
from relay.dialects.relay_v1 import WebSocketBinary, WebSocketJson
from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.protocols import origin
from relay.protocols.entrance import Arrival, Entrance, pass_on
from relay.protocols.http import error_response
from relay.protocols.peer import Peer
from relay.protocols.stream import BoundedDialect, Stream
from relay.wire import kinds, upgrade, websocket
from relay.wire.websocket import Event, WebSocketMachine, server_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = Logger()

SUBPROTOCOLS: Final[dict[str, tuple[type[WebSocketBinary | WebSocketJson], int]]] = {
    kinds.SUBPROTOCOL_BINARY: (WebSocketBinary, websocket.BINARY),
    kinds.SUBPROTOCOL_JSON: (WebSocketJson, websocket.TEXT),
}
"""Subprotocol -> its dialect and the opcode of its messages."""

CODE_NORMAL: Final = 1000

WINDOW_BITS: Final = 12
MEMORY_LEVEL: Final = 5
"""zlib's memory for a connection that compresses: 32 KB and 11 KB; by default it would be 256 KB and 40 KB."""


class WebSocketPeer(Peer):
    """A peer whose last word is a close frame."""

    __slots__ = ()

    def last_frame(self, reason: int, text: str) -> bytes:
        """The close frame with the code of ``reason``."""
        code = CODE_NORMAL if reason == kinds.NORMAL else kinds.WEBSOCKET_CLOSE_BASE + reason
        return server_frame(websocket.CLOSE, websocket.close_payload(code, text))

    def answer(self, payload: bytes) -> None:
        """The client closes: answer with its own code (RFC 6455 section 5.5.1)."""
        code, text = websocket.close_of(payload)
        frame = server_frame(websocket.CLOSE, payload[:2])
        self.end(f"the client closed: {code} {text}".rstrip(), frame, orderly=True)


class WebSocket(Stream):
    """A connection after its handshake. ``opcode``: what its messages are, TEXT or BINARY."""

    __slots__ = ("machine", "opcode")

    peer: WebSocketPeer

    def __init__(
        self, entrance: Entrance, peer: WebSocketPeer, dialect: BoundedDialect, opcode: int, machine: WebSocketMachine
    ) -> None:
        super().__init__(entrance, peer, dialect)
        self.opcode = opcode
        self.machine = machine

    def dataReceived(self, data: bytes) -> None:
        """Frames to events, events to messages."""
        peer = self.peer
        if peer.ended:
            peer.forget(data)
            return
        machine = self.machine
        try:
            self.take(machine.receive(data))
            if machine.failed is not None:
                self.fail(machine.failed)
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
            self.broken()

    def take(self, events: Iterable[Event]) -> None:
        """Messages to the core; pings and closes are answered here."""
        peer = self.peer
        dialect = self.dialect
        for opcode, payload in events:
            # Fast path: a message.
            if opcode == self.opcode:
                for message in dialect.receive(payload):
                    self.receive(message)
                if dialect.failed is not None:
                    self.fail(dialect.failed)
            elif opcode == websocket.PING:
                peer.outbox.send(server_frame(websocket.PONG, payload), None, CONTROL)
            elif opcode == websocket.CLOSE:
                peer.answer(payload)
            elif opcode != websocket.PONG:
                self.fail(RemoteProtocolError(f"a {'text' if opcode == websocket.TEXT else 'binary'} message"))
            if peer.ended:
                return


def denied(arrival: Arrival, path: str, page: str, host: str) -> tuple[int, str] | None:
    """HTTP status and sentence for a request that may not open a WebSocket, by its path, Origin and Host; else None."""
    entrance = arrival.entrance
    options = entrance.listener.websocket
    if path != options.path:
        return 404, "there is no WebSocket here"
    if not origin.allows(options.origins, page, host):
        return 403, "pages of this origin may not connect"
    # A page of some site may have reached a loopback listener by a name of its own.
    guarded = entrance.anonymous and is_loopback(arrival.host) and not options.origins
    if guarded and page and not origin.names_this_machine(host):
        return 403, "anonymous sessions are for pages of this machine; see websocket.origins"
    return None


def spoken(offered: Iterable[str]) -> str | None:
    """The first of the client's subprotocols that is spoken here."""
    return next((each for each in offered if each in SUBPROTOCOLS), None)


def connection_of(
    arrival: Arrival, transport: Any, subprotocol: str, write: Callable[[bytes], object] | None = None
) -> WebSocket:  # Any: whatever transport carries it
    """What serves a connection from now on; ``write``: where its frames go, when that is not the transport."""
    entrance = arrival.entrance
    dialect_of, opcode = SUBPROTOCOLS[subprotocol]
    dialect = dialect_of()
    peer = WebSocketPeer(arrival, transport, "wss" if arrival.secure else "ws", dialect, write)
    machine = WebSocketMachine(True, entrance.listener.websocket.message_bytes_max)
    return WebSocket(entrance, peer, dialect, opcode, machine)


class Opening(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn has no types
    """Autobahn's side of one connection: the handshake, and everything where an extension was negotiated."""

    data: bytes
    transport: Any
    log = txaio.make_logger(level="none")  # a refused handshake is counted, not logged

    def __init__(self, arrival: Arrival) -> None:
        super().__init__()
        self.arrival = arrival
        self.entrance = arrival.entrance
        self.carried: WebSocket | None = None

    def onConnect(self, request: Any) -> str:  # Any: autobahn has no types
        """Look at path, origin and subprotocols. Raises ``ConnectionDeny`` with an HTTP status."""
        denial = denied(self.arrival, request.path, request.origin, request.headers.get("host", ""))
        if denial is not None:
            raise ConnectionDeny(*denial)
        subprotocol = spoken(request.protocols)
        if subprotocol is None:
            raise ConnectionDeny(400, f"the subprotocol has to be one of {', '.join(SUBPROTOCOLS)}")
        return subprotocol

    def onOpen(self) -> None:
        """The handshake is done: a small object takes over."""
        self.arrival.arrived()
        transport = self.transport
        carry = bool(self.websocket_extensions_in_use)
        write = self.write_frames if carry else None
        connection = connection_of(self.arrival, transport, self.websocket_protocol_in_use, write)
        if carry:
            self.carried = connection
            connection.makeConnection(transport)
            return
        data, self.data = self.data, b""
        self.transport = None
        self.factory.countConnections -= 1
        pass_on(transport, connection, data)

    # --- with an extension: Autobahn's events to the WebSocket, its frames to Autobahn ------------------------------

    def write_frames(self, data: bytes) -> None:
        """Send whole frames, as the outbox joins them, by Autobahn's means."""
        for opcode, payload in frames_of(data):
            if opcode == websocket.CLOSE:
                self.sendCloseFrame(int.from_bytes(payload[:2]) if payload else None, payload[2:] or None)
            elif opcode == websocket.PONG:
                self.sendPong(payload)
            else:
                self.sendMessage(payload, opcode == websocket.BINARY)

    def event(self, opcode: int, payload: bytes) -> None:
        """One event of the client."""
        carried = self.carried
        if carried is not None and not carried.peer.ended:
            try:
                carried.take(((opcode, payload),))
            except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
                carried.broken()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803 - autobahn's name
        """A message, inflated and checked."""
        self.event(websocket.BINARY if isBinary else websocket.TEXT, payload)

    def onPing(self, payload: bytes) -> None:
        """Answered through the outbox, which is bounded."""
        self.event(websocket.PING, payload)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:  # noqa: N803 - autobahn's name
        """The client closes."""
        payload = b"" if code is None else code.to_bytes(2) + (reasonRaw or b"")
        try:
            number, _ = websocket.close_of(payload)
        except UnicodeDecodeError:
            self._fail_connection(websocket.INVALID_PAYLOAD, "a close reason that is not UTF-8")
            return True
        if payload and number not in websocket.CLOSE_CODES and not 3000 <= number <= 4999:
            self._fail_connection(websocket.PROTOCOL_ERROR, f"the close code {number}")
            return True
        self.event(websocket.CLOSE, payload)
        return True

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        # Autobahn's one place for a client that breaks the rules; its own way would be to drop without a word.
        carried = self.carried
        if carried is not None:
            too_big = code == websocket.MESSAGE_TOO_BIG
            carried.fail(FrameTooLarge(reason) if too_big else RemoteProtocolError(reason))

    # --- a handshake that is refused --------------------------------------------------------------------------------

    def sendHttpErrorResponse(
        self,
        code: int,
        reason: str,
        responseHeaders: Iterable[tuple[str, str]] | None = None,  # noqa: N803 - autobahn's name
    ) -> None:
        """A whole response, not only a status line."""
        self.entrance.refused += 1
        headers = list(responseHeaders or ())
        if code == HTTPStatus.UPGRADE_REQUIRED:
            headers.append(("Upgrade", "websocket"))
        self.sendData(error_response(code, reason, headers))

    # --- IProtocol --------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """The request head, and with an extension everything after it."""
        carried = self.carried
        if carried is not None and carried.peer.ended:
            carried.peer.forget(data)
            return
        try:
            super().dataReceived(data)
        except Exception:  # noqa: BLE001 - what Autobahn cannot read is the client's fault
            if carried is not None:
                carried.broken()
            elif self.transport is not None:
                self.failHandshake("the request cannot be read")

    def connectionLost(self, reason: Failure) -> None:
        """Pass it on; without a WebSocket it never was one."""
        super().connectionLost(reason)
        # Autobahn's Deferred has fired with this object: a cycle that only the collector would find.
        self.is_closed = self.is_open = self.transport = None
        carried, self.carried = self.carried, None
        if carried is not None:
            carried.connectionLost(reason)
        else:
            self.arrival.arrived()
            self.entrance.leave(self.arrival.host)


class OpeningFactory(WebSocketServerFactory):  # type: ignore[misc]  # autobahn has no types
    """The WebSocket of one listener: Autobahn's settings, taken from the configuration."""

    noisy = False

    def __init__(self, entrance: Entrance) -> None:
        super().__init__(protocols=list(SUBPROTOCOLS), server=None, reactor=entrance.clock)
        self.entrance = entrance
        self._compression = False
        self.configure()

    def configure(self) -> None:
        """Take the listener's configuration, for connections to come."""
        options = self.entrance.listener.websocket
        self._compression = options.compression
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxFramePayloadSize=options.message_bytes_max,
            maxMessagePayloadSize=options.message_bytes_max,
            failByDrop=True,
            # Time is watched by the arrival and the peer, origins by onConnect.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            allowNullOrigin=True,
            tcpNoDelay=self.entrance.listener.nodelay,
            perMessageCompressionAccept=_deflate if options.compression else _no_extension,
        )
        # Autobahn would copy these settings to each connection and format them for a log line that nobody reads,
        # 0.3 of the 0.5 ms of a handshake; as attributes of a class of their own they are there already.
        settings = {name: getattr(self, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
        plain = {name: staticmethod(value) if callable(value) else value for name, value in settings.items()}
        self._protocol = type("Opening", (Opening,), {**plain, "CONFIG_ATTRS": ()})

    def serve(self, arrival: Arrival, transport: Any, data: bytes, end: int) -> None:  # Any: whatever carries it
        """Open the WebSocket of the request head ``data[:end]``, or refuse it; what follows in ``data`` is for it."""
        # Fast path: the common request, when it may come in. All else is Autobahn's.
        request = upgrade.read(data[:end])
        if request is not None and not (request.deflate and self._compression):
            subprotocol = spoken(request.protocols)
            if subprotocol is not None and denied(arrival, request.path, request.origin, request.host) is None:
                transport.write(upgrade.response(request, subprotocol))
                arrival.arrived()
                pass_on(transport, connection_of(arrival, transport, subprotocol), data[end:])
                return
        pass_on(transport, self.opening(arrival), data)

    def opening(self, arrival: Arrival) -> Opening:
        """The protocol that begins with the request head of ``arrival``."""
        protocol: Opening = self._protocol(arrival)
        protocol.factory = self
        return protocol


def _deflate(offers: Iterable[Any]) -> Any:  # Any: autobahn has no types
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(
                offer,
                request_max_window_bits=WINDOW_BITS if offer.accept_max_window_bits else 0,
                window_bits=min(WINDOW_BITS, offer.request_max_window_bits or WINDOW_BITS),
                mem_level=MEMORY_LEVEL,
            )
    return None


def _no_extension(offers: Iterable[Any]) -> None:  # Any: autobahn has no types
    return None


def frames_of(data: bytes) -> Iterator[Event]:
    """The frames that ``server_frame`` made, apart again. ``data`` has whole frames only."""
    at = 0
    while at < len(data):
        opcode = data[at] & 0x0F
        length = data[at + 1]
        at += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[at : at + size])
            at += size
        yield opcode, data[at : at + length]
        at += length
