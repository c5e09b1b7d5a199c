"""The short opening handshake (``relay.wire.upgrade``) beside its plain twin, Autobahn's."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.config import WebSocket
from relay.protocols.websocket import Opening
from relay.test.entrance_fixture import MASK, Door, publication, request_head, websocket_frames
from relay.wire import kinds, upgrade
from relay.wire.websocket import CLOSE, client_frame, close_payload

KEY = "AQIDBAUGBwgJCgsMDQ4PEC=="
AFTER = websocket_frames(publication("one"), publication("two")) + client_frame(CLOSE, close_payload(1000, ""), MASK)

CHROME = """GET /ws?x=1 HTTP/1.1
Host: localhost:8080
Connection: Upgrade
Pragma: no-cache
Cache-Control: no-cache
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36
Upgrade: websocket
Origin: http://localhost:8080
Sec-WebSocket-Version: 13
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-US,en;q=0.9
Cookie: a=b; c="d"
Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits
Sec-WebSocket-Protocol: relay.v1.json
"""
FIREFOX = """GET /ws HTTP/1.1
Host: localhost:8080
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0
Accept: */*
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Sec-WebSocket-Version: 13
Origin: http://localhost:8080
Sec-WebSocket-Protocol: relay.v1.json, relay.v1.bin
Sec-WebSocket-Extensions: permessage-deflate
Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==
Connection: keep-alive, Upgrade
Sec-Fetch-Dest: empty
Upgrade: websocket
"""
BARE = f"""GET /ws HTTP/1.1
Host: [::1]:8080
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: {KEY}
Sec-WebSocket-Version: 13
Sec-WebSocket-Protocol: relay.v1.bin
"""


def head_of(text: str) -> bytes:
    """A request head from lines."""
    return text.replace("\n", "\r\n").encode() + b"\r\n"


noise = st.text(st.characters(max_codepoint=0x17F), max_size=12)
near = st.text("upgradewbsockt,;= /:.-_[]13AZ+\t\x0b\x0c\x1c\x85\xa0\r\n", max_size=14)
odd = st.one_of(noise, near)
VALUES: dict[str, list[str]] = {
    "Host": ["relay.example:8080", "a", "[::1]:80", "[::1]", "a:", "a:99999", "a:x", "a:b:1", ""],
    "Upgrade": ["websocket", "WebSocket", " websocket\t", "h2c, websocket", "h2c"],
    "Connection": ["Upgrade", "keep-alive, Upgrade", "Upgrade, close", "close"],
    "Sec-WebSocket-Version": ["13", " 13 ", "+13", "1_3", "013", "8", "13, 8"],
    "Sec-WebSocket-Key": [KEY, KEY[:-1], "=" * 24, KEY.replace("A", "-"), f" {KEY}", "\u0661" * 22 + "=="],
    "Sec-WebSocket-Protocol": [
        "relay.v1.bin", "relay.v1.json", "mqtt, relay.v1.bin", "relay.v1.bin,relay.v1.bin", "relay.v1.bin,", "mqtt",
    ],
    "Origin": [
        "http://relay.example:8080", "https://a", "null", "http://", "http://a:99999", "http://[a]", "http://[::1]",
        "file://x", "http://a:", "http://relay.example:8080/x", "HTTP://RELAY.example:8080",
    ],
    "Sec-WebSocket-Extensions": [
        "permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame",
        "permessage-deflate; client_max_window_bits=99", "permessage-deflate; nonsense", "permessage-bzip2",
    ],
    "X-Forwarded-For": ["192.0.2.1"],
    "Content-Length": ["5"],
}  # fmt: skip
REQUESTS = [
    "GET /ws HTTP/1.1", "GET /ws?a=b&c HTTP/1.1", "GET /other HTTP/1.1", "GET /ws#x HTTP/1.1", "GET //ws HTTP/1.1",
    "GET http://a/ws HTTP/1.1", "GET /ws HTTP/1.0", "get /ws HTTP/1.1", "PUT /ws HTTP/1.1", "GET /ws;p HTTP/1.1",
    "GET  /ws HTTP/1.1", "GET /ws HTTP/1.1 ", "GET /ws?[ HTTP/1.1", "GET /%77s HTTP/1.1",
]  # fmt: skip
USUAL = {
    "Host": "relay.example:8080", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY, "Sec-WebSocket-Protocol": "relay.v1.bin",
}  # fmt: skip
ORIGINS = [(), ("http://relay.*", "https://a"), ("*",)]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A request head: what is common, with few or many things that are not."""
    lines = list(USUAL.items())
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(list(VALUES)))
        value = draw(st.one_of(st.sampled_from(VALUES[name]), odd))
        change = draw(st.sampled_from(["replace", "replace", "replace", "again", "leave out"]))
        if change != "again":
            lines = [each for each in lines if each[0] != name]
        if change != "leave out":
            lines.insert(draw(st.integers(0, len(lines))), (name, value))
    colon = draw(st.sampled_from([": "] * 6 + [":", " : ", ":\t", ""]))
    end = draw(st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "\x0b", "\r\n "]))
    fold = draw(st.sampled_from([str] * 4 + [str.lower, str.upper]))
    usual, others = st.just(REQUESTS[0]), odd.map(lambda text: f"GET /ws{text} HTTP/1.1")
    request = draw(st.one_of(usual, usual, usual, st.sampled_from(REQUESTS), others))
    text = request + "\r\n" + "".join(fold(name) + colon + value + end for name, value in lines) + "\r\n"
    return text.encode("utf-8", "replace")


def transcript(case: SynchronousTestCase, data: bytes, short: object, **options: Any) -> tuple[list[Any], bool]:
    """All that client and core see of a connection, and whether Autobahn was asked."""
    asked: list[Any] = []
    door = Door("websocket", **options)
    factory = door.entrance.websockets
    assert factory is not None
    made = factory.opening

    def opening(arrival: Any) -> Opening:  # Any: an Arrival
        asked.append(arrival)
        return made(arrival)

    case.patch(factory, "opening", opening)
    case.patch(upgrade, "read", READ if short else lambda head: None)
    transport = door.connect()
    transport.feed(data)
    door.turn()
    seen: list[Any] = [transport.take(), transport.ended, door.entrance.refused, type(transport.protocol).__name__]
    seen += [
        [each.names, each.peer.transport, each.peer.dialect, each.peer.ended, len(each.errors)]
        for each in door.gate.connections
    ]
    transport.lose()
    seen += [door.entrance.open, len(door.wheel)]
    return seen, bool(asked)


READ = upgrade.read


class UpgradeTests(SynchronousTestCase):
    """Our handshake is Autobahn's, for fewer requests."""

    @settings(max_examples=500, deadline=None)
    @given(heads(), st.booleans(), st.sampled_from(ORIGINS), st.booleans())
    @example(request_head(), False, (), False)
    def test_as_its_plain_twin(self, head: bytes, compression: bool, origins: tuple[str, ...], more: bool) -> None:
        """Whatever is asked: the bytes and the conversation that Autobahn alone would give."""
        options = WebSocket(compression=compression, origins=origins)
        data = head + AFTER if more else head
        short, _ = transcript(self, data, True, websocket=options)
        self.assertEqual(short, transcript(self, data, False, websocket=options)[0])

    def test_each_value_as_its_plain_twin(self) -> None:
        """The same for one thing at a time, each once."""
        heads = [request_head(headers={name: value}) for name, values in VALUES.items() for value in values]
        heads += [request_head().replace(REQUESTS[0].encode(), each.encode()) for each in REQUESTS]
        for head in heads:
            for origins in ORIGINS:
                short, long = (transcript(self, head, each, websocket=WebSocket(origins=origins)) for each in (1, 0))
                self.assertEqual(short[0], long[0], head)

    def test_usual_clients_take_it(self) -> None:
        """Browsers and plain clients need no Autobahn; one that offers to compress does where that is wanted."""
        for text in (CHROME, FIREFOX, BARE):
            for compression in (False, True):
                options = WebSocket(compression=compression, origins=("http://localhost*",))
                seen, asked = transcript(self, head_of(text), True, websocket=options)
                self.assertIn(b" 101 ", seen[0])
                self.assertEqual(asked, (compression and "deflate;" in text) or (compression and text is FIREFOX))

    def test_request(self) -> None:
        """What is read: path without query, host, origin, subprotocols in order, key."""
        self.assertEqual(
            upgrade.read(head_of(FIREFOX.replace("/ws", "/a/b?c"))),
            upgrade.Request(
                "/a/b", "localhost:8080", "http://localhost:8080",
                [kinds.SUBPROTOCOL_JSON, kinds.SUBPROTOCOL_BINARY], KEY, True,
            ),
        )  # fmt: skip

    def test_proof(self) -> None:
        """The response proves that the key was read (the example of RFC 6455 section 1.3)."""
        request = upgrade.Request("/", "a", "", ["p"], "dGhlIHNhbXBsZSBub25jZQ==", False)
        self.assertIn(b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", upgrade.response(request, "p"))

    def test_long_heads_take_no_time(self) -> None:
        """The pattern reads each byte once: heads at the limit of their size, nearly right, are refused at once."""
        for filler in (b"a" * 60_000, b"X: y\r\n" * 10_000 + b"Z", b"X:" + b" " * 60_000, b":" * 60_000):
            self.assertIsNone(upgrade.read(b"GET /ws HTTP/1.1\r\n" + filler + b"\x00\r\n\r\n"))
