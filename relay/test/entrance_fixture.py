"""A listener without sockets: its factory on a ``Clock``, with the fake gate behind it and fake transports in front."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.web.resource import IResource

from relay.config import Limits, Listener, Slow, Timing
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.dialects.relay_v1 import ENCODERS
from relay.protocols.entrance import Entrance
from relay.protocols.greeting import GreetingFactory
from relay.protocols.http import PageFactory
from relay.protocols.websocket import OpeningFactory
from relay.test.fakes import FakeGate, WireTransport
from relay.wire import kinds
from relay.wire.binary import encode_frame, encode_stream
from relay.wire.message import Message
from relay.wire.text import encode_line
from relay.wire.websocket import BINARY, client_frame

CLIENT = IPv4Address("TCP", "192.0.2.7", 40_000)
LOCAL = UNIXAddress(None)
MASK = b"\x11\x22\x33\x44"


class Door:
    """``connect`` gives a transport whose other end is the listener; ``pass_time`` runs the reactor."""

    def __init__(
        self,
        *protocols: str,
        limits: Limits | None = None,
        timing: Timing | None = None,
        slow: Slow | None = None,
        root: IResource | None = None,
        on_receive: Callable[[Any, Message], object] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("name", "test")
        listener = Listener(address="tcp:0", protocols=protocols or ("relay",), **options)  # type: ignore[arg-type]
        self.clock = Clock()
        self.gate = FakeGate(on_receive)
        self.wheel = Wheel(self.clock)
        self.wheel.start()
        self.flusher = Flusher(lambda function: self.clock.callLater(0, function))
        self.entrance = Entrance(
            listener,
            self.gate,
            self.flusher,
            self.wheel,
            self.clock,
            limits or Limits(),
            timing or Timing(),
            slow or Slow(),
        )
        self.factory = GreetingFactory(self.entrance)
        if "websocket" in protocols:
            self.entrance.websockets = OpeningFactory(self.entrance)
        if root is not None:
            self.entrance.pages = PageFactory(self.entrance, root)
        self.transports: list[WireTransport] = []

    def connect(self, address: IAddress = CLIENT) -> WireTransport:
        """A connection from ``address`` that must be let in."""
        transport = self.attempt(address)
        assert transport is not None
        return transport

    def attempt(self, address: IAddress = CLIENT) -> WireTransport | None:
        """A connection from ``address``; None when it is closed at once."""
        protocol = self.factory.buildProtocol(address)
        if protocol is None:
            return None
        transport = WireTransport(address)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.transports.append(transport)
        return transport

    def turn(self) -> None:
        """The end of the reactor's turn: what was sent is written."""
        self.clock.advance(0)

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps of a tick; closed connections end."""
        for _ in range(int(seconds / 0.05) + 2):
            self.clock.advance(0.05)
            for transport in self.transports:
                transport.settle()


def echo(connection: Any, message: Message) -> None:  # Any: a FakeConnection
    """Send every message back."""
    connection.peer.send(ENCODERS[connection.peer.encoding](message))


def publication(name: str = "room", body: bytes = b"hi") -> Message:
    """Some message."""
    return Message(kinds.PUBLISH, name, body, kinds.TEXT)


def binary_stream(*messages: Message) -> bytes:
    """What a client of the binary stream form sends, with the preface."""
    return kinds.PREFACE + b"".join(map(encode_stream, messages))


def json_lines(*messages: Message) -> bytes:
    """What a client of the JSON stream form sends."""
    return b"".join(map(encode_line, messages))


def websocket_frames(*messages: Message) -> bytes:
    """What a client of the binary form sends over WebSocket."""
    return b"".join(client_frame(BINARY, encode_frame(each), MASK) for each in messages)


def request_head(
    path: str = "/ws", subprotocol: str = kinds.SUBPROTOCOL_BINARY, headers: Mapping[str, str | None] | None = None
) -> bytes:
    """The head of a WebSocket handshake; a header given as None is left out."""
    fields: dict[str, str | None] = {
        "Host": "relay.example:8080",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AQIDBAUGBwgJCgsMDQ4PEC==",
        "Sec-WebSocket-Protocol": subprotocol or None,
    }
    fields |= headers or {}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def opened(
    door: Door, subprotocol: str = kinds.SUBPROTOCOL_BINARY, headers: Mapping[str, str | None] | None = None
) -> WireTransport:
    """A WebSocket connection after its handshake, with nothing left in the transport."""
    transport = door.connect()
    transport.feed(request_head(subprotocol=subprotocol, headers=headers))
    response = transport.take()
    assert response.startswith(b"HTTP/1.1 101 "), response
    return transport
