"""HTTP/1.1 on a listener, and the request head that decides between it and WebSocket.

    RequestHead ── upgrade to websocket, and the listener has it ─▶ relay.protocols.websocket
                └─ anything else, and the listener has http ──────▶ Channel ─▶ the tree of IResource from tap

The head is collected here and looked at once, before any of twisted.web's or Autobahn's objects exist: a WebSocket
connection never pays for an HTTP channel. Considered and not taken: a resource in the tree that takes the connection
over (Autobahn's ``WebSocketResource``) as the only way, which makes an HTTP channel and a request first, some 20 KB and
0.5 ms for each connection. It is what happens, below, to an upgrade on a connection that served requests before
(proxies that keep connections do that).

Limits: the first head must be complete within the handshake time-out, each further request (head and body) within
``idle_timeout_s`` after the response before it; a head is bounded by ``request_bytes_max``, a body by
``BODY_BYTES_MAX``; bodies in chunks, of unknown length, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from relay.protocols.entrance import Arrival, Entrance, Step, pass_on

if TYPE_CHECKING:
    from relay.protocols.websocket import OpeningFactory

log = Logger()

HEAD_END: Final = b"\r\n\r\n"
BODY_BYTES_MAX: Final = 65_536
"""Enough for a form or a command of the admin interface; messages come by other ways."""

UPGRADE: Final = re.compile(rb"\r\nupgrade[ \t]*:[^\r\n]*\bwebsocket\b", re.IGNORECASE)


def error_response(code: int, sentence: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A whole response that ends the connection: status, ``headers``, and ``sentence`` as plain text."""
    body = sentence.encode() + b"\n"
    lines = [
        f"HTTP/1.1 {int(code)} {HTTPStatus(code).phrase}",
        *(f"{name}: {value}" for name, value in headers),
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + HEAD_END + body


class RequestHead(Step):
    """Collects the first request's head, then hands the connection over."""

    __slots__ = ()

    def step(self) -> None:
        """Look for the end of the head."""
        entrance = self.arrival.entrance
        end = self.data.find(HEAD_END)
        if end < 0 or end > entrance.listener.http.request_bytes_max:
            if len(self.data) > entrance.listener.http.request_bytes_max:
                self.refuse(error_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head is too large"))
            return
        data, self.data = self.data, b""
        websockets = entrance.websockets
        if websockets is not None and (entrance.pages is None or UPGRADE.search(data, 0, end)):
            websockets.serve(self.arrival, self.transport, data, end + len(HEAD_END))
        elif entrance.pages is not None:
            self.arrival.arrived()
            pass_on(self.transport, entrance.pages.channel(self.arrival), data)
        else:
            self.drop()


class Channel(HTTPChannel):
    """One connection that speaks HTTP; ``arrival`` knows the client behind a proxy."""

    arrival: Arrival

    def getPeer(self) -> IAddress:
        """The client's address, also behind a proxy that names it."""
        remote = self.arrival.remote
        assert remote is not None
        return remote

    def dataReceived(self, data: bytes) -> None:
        """Requests; nothing after one that was refused, also inside of TLS, which delivers until both sides closed."""
        transport: Any = self.transport  # Any: Twisted's transports have more than ITransport
        if transport is None or transport.disconnecting:
            return
        try:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # twisted.web has no types
        except Exception:  # noqa: BLE001 - logged; our mistake, or twisted.web's, must not reach the reactor
            log.failure("an HTTP connection met an error")
            transport.abortConnection()

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted's name
        """Bytes alone do not prolong the time: a request has to be complete within it."""

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
        """Refuse a body that is larger than anything served here needs."""
        if self.length is None or self.length > BODY_BYTES_MAX:
            self.arrival.entrance.refused += 1
            code = HTTPStatus.LENGTH_REQUIRED if self.length is None else HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            assert self.transport is not None
            self.transport.write(error_response(code, f"at most {BODY_BYTES_MAX} bytes, with their length"))
            self.loseConnection()  # type: ignore[no-untyped-call]  # twisted.web has no types
            return
        super().allHeadersReceived()  # type: ignore[no-untyped-call]  # twisted.web has no types

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # as HTTPChannel has it
        """One connection less."""
        self.arrival.entrance.leave(self.arrival.host)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]  # twisted.web has no types


class PageFactory(Site):
    """HTTP of one listener: ``root`` is the tree of resources."""

    protocol = Channel  # type: ignore[assignment]  # any protocol will do; Site means HTTP/2 too
    noisy = False

    def __init__(self, entrance: Entrance, root: IResource) -> None:
        super().__init__(  # type: ignore[no-untyped-call]  # twisted.web has no types
            root,
            timeout=entrance.listener.http.idle_timeout_s,
            reactor=entrance.clock,
            parsePOSTFormSubmission=False,
        )
        self.entrance = entrance

    def channel(self, arrival: Arrival) -> Channel:
        """The protocol of one connection."""
        http = self.entrance.listener.http
        self.timeOut = http.idle_timeout_s
        channel = self.buildProtocol(arrival.remote)  # type: ignore[no-untyped-call]  # twisted.web has no types
        assert isinstance(channel, Channel)
        channel.arrival = arrival
        channel.totalHeadersSize = channel.MAX_LENGTH = http.request_bytes_max
        return channel

    def getResourceFor(self, request: Request) -> Any:  # noqa: N802 - Twisted's name; Any: it has no types
        """The resource of a request; where the WebSocket is, what upgrades to it."""
        request.setHeader(b"server", b"relay")  # not which software answers
        websockets = self.entrance.websockets
        if websockets is not None and request.path == self.entrance.listener.websocket.path.encode():
            return Upgrade(websockets)
        return super().getResourceFor(request)  # type: ignore[no-untyped-call]  # twisted.web has no types


class Upgrade(Resource):
    """The WebSocket's path, asked for on a connection that HTTP has already."""

    isLeaf = True

    def __init__(self, websockets: OpeningFactory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # twisted.web has no types
        self._websockets = websockets

    def render(self, request: Request) -> Any:  # Any: twisted.web's bytes, or a number for "later"
        """Hand the connection over when an upgrade is asked for, else say that it is needed."""
        if b"websocket" not in (request.getHeader(b"upgrade") or b"").lower():
            request.setResponseCode(HTTPStatus.UPGRADE_REQUIRED, b"Upgrade Required")
            request.setHeader(b"upgrade", b"websocket")
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return b"a WebSocket is here\n"
        channel: Any = request.channel  # Any: a Channel, and its transport
        arrival = channel.arrival
        transport, channel.transport = channel.transport, None
        transport.unregisterProducer()
        transport.resumeProducing()
        head = [request.method + b" " + request.uri + b" HTTP/1.1"]
        for name, values in request.requestHeaders.getAllRawHeaders():
            head.extend(name + b": " + value for value in values)
        arrival.expect(transport)
        pass_on(transport, self._websockets.opening(arrival), b"\r\n".join(head) + HEAD_END)
        return NOT_DONE_YET
