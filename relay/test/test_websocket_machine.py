"""The WebSocket machine, compared event for event with Autobahn's protocols."""

from __future__ import annotations

import tracemalloc
from base64 import b64encode
from hashlib import sha1
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase

from relay.errors import FrameTooLarge
from relay.test.strategies import chunks, cut_places, mutated, runs
from relay.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WebSocketMachine,
    apply_mask,
    client_frame,
    close_of,
    close_payload,
    server_frame,
)

MESSAGE_BYTES_MAX = 300
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

Seen = tuple[list[tuple[int, bytes]], int]


class Recording:
    """Mixed into Autobahn's protocols: notes events, and the code with which the connection is failed.

    Nothing is noted after a close frame: as a client Autobahn reads on until the server ends the connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, bytes]] = []
        self.code = 0
        self.closed = False

    def note(self, opcode: int, payload: bytes) -> None:
        """Keeps an event."""
        if not self.closed:
            self.events.append((opcode, payload))
        self.closed = self.closed or opcode == CLOSE

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803  # Autobahn's name
        """A whole message."""
        self.note(BINARY if isBinary else TEXT, payload)

    def onPing(self, payload: bytes) -> None:
        """A ping."""
        self.note(PING, payload)

    def onPong(self, payload: bytes) -> None:
        """A pong."""
        self.note(PONG, payload)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> Any:  # noqa: N803  # Any: Autobahn's
        """A close frame, which Autobahn checks in here."""
        result = super().onCloseFrame(code, reasonRaw)  # type: ignore[misc]  # Autobahn's, by the other base
        if not self.code:
            self.note(CLOSE, b"" if code is None else code.to_bytes(2) + (reasonRaw or b""))
        return result

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        if not self.closed:
            self.code = self.code or code
        super()._fail_connection(code, reason)  # type: ignore[misc]  # as above


class RecordingServer(Recording, WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn is not typed
    """A server."""


class RecordingClient(Recording, WebSocketClientProtocol):  # type: ignore[misc]  # as above
    """A client."""


OPTIONS = {
    "openHandshakeTimeout": 0,
    "closeHandshakeTimeout": 0,
    "failByDrop": True,
    "maxMessagePayloadSize": MESSAGE_BYTES_MAX,
}


class Transport(StringTransport):
    """Autobahn unregisters a producer on closing, also where there is none; sockets allow that."""

    def unregisterProducer(self) -> None:
        """Allows it too."""
        self.producer = None


class Twin:
    """Autobahn after a handshake over a transport in memory."""

    def __init__(self, server: bool) -> None:
        if server:
            factory = WebSocketServerFactory(reactor=Clock())
            factory.setProtocolOptions(**OPTIONS)
            factory.protocol = RecordingServer
        else:
            factory = WebSocketClientFactory("ws://localhost/", reactor=Clock())
            factory.setProtocolOptions(serverConnectionDropTimeout=0, **OPTIONS)
            factory.protocol = RecordingClient
        self.protocol: Any = factory.buildProtocol(None)  # Any: Autobahn is not typed
        transport = Transport()
        self.protocol.makeConnection(transport)
        if server:
            self.protocol.dataReceived(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
        else:
            (key,) = (
                line.split(b":")[1].strip()
                for line in transport.value().split(b"\r\n")
                if line.lower().startswith(b"sec-websocket-key")
            )
            accept = b64encode(sha1(key + GUID, usedforsecurity=False).digest())
            self.protocol.dataReceived(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
        assert self.protocol.state == self.protocol.STATE_OPEN

    def receive(self, data: bytes) -> Seen:
        """What ``data`` brought: the events, and the close code of a failure."""
        self.protocol.events = []
        if not self.protocol.code:
            self.protocol.dataReceived(data)
        return self.protocol.events, self.protocol.code


def framed(first: int, payload: bytes, mask: bytes | None, form: int = 0) -> bytes:
    """A frame put together by hand; ``form``: 0, or 126 or 127 for a length in that form whatever its size."""
    size = len(payload)
    form = form or (125 if size < 126 else 126 if size < 65_536 else 127)
    sizes = [bytes((size & 0x7F,)), b"\x7e" + (size & 0xFFFF).to_bytes(2), b"\x7f" + size.to_bytes(8)][form - 125]
    if mask is None:
        return bytes((first,)) + sizes + payload
    return bytes((first, sizes[0] | 0x80)) + sizes[1:] + mask + bytes(b ^ mask[i & 3] for i, b in enumerate(payload))


texts = st.one_of(st.text(max_size=20), st.integers(0, 310).map(lambda size: "x" * size)).map(
    lambda text: text.encode()
)
not_texts = st.sampled_from([b"\xf4\x90\x80\x80", b"\xed\xa0\x80", b"\xce", b"\xba\xe1", b"\xe2\x82\x28", b"\xc0\xaf"])
closings = st.one_of(
    st.just(b""),
    st.tuples(st.sampled_from([1000, 1001, 1011, 3000, 4999, 999, 1005, 1016, 5000]), st.one_of(texts, not_texts)).map(
        lambda pair: (pair[0].to_bytes(2) + pair[1])[:125]
    ),
)
seldom = st.integers(0, 40).map(lambda number: number == 13)  # a number that hypothesis does not favour


@st.composite
def message(draw: st.DrawFn, masks: st.SearchStrategy[bytes | None]) -> bytes:
    """A message in one or more fragments with control frames between them, or a closing; seldom something wrong."""
    opcode = draw(st.sampled_from([TEXT, TEXT, BINARY]))
    payload = draw(not_texts if draw(seldom) else texts)
    if draw(seldom):
        payload = bytes(draw(st.integers(65_530, 65_540)))
    pieces = chunks(payload, draw(st.lists(st.integers(0, 40), max_size=2))) or [b""]
    sent = b""
    for at, piece in enumerate(pieces):
        for control in draw(st.lists(st.sampled_from([PING, PONG]), max_size=1)):
            sent += framed(0x80 | control, draw(texts)[: 126 if draw(seldom) else 125], draw(masks))
        first = (CONTINUATION if at else opcode) | (0x80 if piece is pieces[-1] else 0)
        if draw(seldom):
            first ^= draw(st.sampled_from([0x80, 0x40, 0x20, 0x10, 0x08, 0x02, 0x01]))
        sent += framed(first, piece, draw(masks), draw(st.sampled_from([126, 127])) if draw(seldom) else 0)
    if draw(seldom):
        sent += framed(0x80 | CLOSE, draw(closings), draw(masks))
    return sent


def conversation(server: bool) -> st.SearchStrategy[bytes]:
    """Several messages of a client (to a server) or of a server."""
    mask = st.tuples(st.binary(min_size=4, max_size=4), seldom)
    masks = mask.map(lambda pair: pair[0] if pair[1] is not server else None)
    return st.lists(message(masks), min_size=1, max_size=5).map(b"".join)


class Against(TestCase):
    """The machine and Autobahn are given the same chunks and must say the same after each."""

    def compare(self, server: bool, pieces: list[bytes]) -> None:
        """Feeds both, until either says that it is over."""
        twin, machine = Twin(server), WebSocketMachine(server, MESSAGE_BYTES_MAX)
        for piece in pieces:
            expected, code = twin.receive(piece)
            self.assertEqual(machine.receive(piece), expected)
            self.assertEqual(machine.close_code, code)
            self.assertEqual(machine.failed is not None, code != 0)
            if code or any(opcode == CLOSE for opcode, _ in expected):
                return

    @given(conversation(True), cut_places)
    @runs(200)
    def test_a_servers_side(self, data: bytes, cuts: list[int]) -> None:
        """Frames of clients, right and wrong, in any chunks."""
        self.compare(True, chunks(data, cuts))

    @given(conversation(False), cut_places)
    @runs(100)
    def test_a_clients_side(self, data: bytes, cuts: list[int]) -> None:
        """Frames of servers likewise."""
        self.compare(False, chunks(data, cuts))

    @given(mutated(conversation(True)), cut_places)
    @runs(120)
    def test_changed_bytes(self, data: bytes, cuts: list[int]) -> None:
        """Bytes changed, left out and doubled."""
        self.compare(True, chunks(data, cuts))

    @given(st.binary(max_size=200), cut_places, st.booleans())
    @runs(120)
    def test_garbage(self, data: bytes, cuts: list[int], server: bool) -> None:
        """Bytes of no sort."""
        self.compare(server, chunks(data, cuts))

    @given(conversation(True).map(lambda data: data[:700]))
    @runs(30)
    def test_byte_by_byte(self, data: bytes) -> None:
        """A wrong byte is refused when it comes, not when its frame is whole."""
        self.compare(True, [data[at : at + 1] for at in range(len(data))])

    def test_text_fails_at_its_first_wrong_byte(self) -> None:
        """Inside an incomplete frame, across fragments, and at the end of a message in the middle of a character."""
        mask = b"\x01\x02\x03\x04"
        whole = client_frame(TEXT, b"abc\xf4\x90\x80\x80xyz", mask)
        for end in range(1, len(whole)):
            self.compare(True, [whole[:end], whole[end:]])
        for piece in (
            b"\xed\xa0\x80",
            b"\xed\x9f\xbf",
            b"\xe0\x9f\xbf",
            b"\xf0\x8f\xbf\xbf",
            b"\xf4\x8f\xbf\xbf",
            b"\xf5",
            b"\xc1\x80",
        ):
            sent = client_frame(TEXT, piece, mask)
            self.compare(True, [sent[at : at + 1] for at in range(len(sent))])
        for parts in ((b"\xce", b"\xba"), (b"\xce", b""), (b"\xe2", b"\x28"), (b"\xf0\x9f", b"\x98\x80")):
            first, last = client_frame(TEXT, parts[0], mask), client_frame(CONTINUATION, parts[1], mask)
            self.compare(True, [bytes((first[0] & 0x7F,)) + first[1:], last, client_frame(PING, b"", mask)])

    def test_every_close_code(self) -> None:
        """Those of RFC 6455 and IANA's registry, and 3000-4999."""
        for code in (*range(990, 1020), 2999, 3000, 4000, 4999, 5000, 65_535):
            self.compare(True, [client_frame(CLOSE, code.to_bytes(2), b"abcd")])
        for payload in (b"", b"\x03\xe8\xff", b"\x03\xe8" + "bye é".encode()):
            self.compare(True, [client_frame(CLOSE, payload, b"abcd")])


class Frames(TestCase):
    """What goes out, and the limits of what comes in."""

    @given(st.binary(max_size=3000), st.binary(min_size=4, max_size=4))
    @runs(200)
    def test_the_mask_is_applied_as_the_rfc_says(self, payload: bytes, mask: bytes) -> None:
        """Against the plain twin, byte by byte; small and large; masking twice is nothing."""
        plain = bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))
        self.assertEqual(apply_mask(payload, mask), plain)
        self.assertEqual(apply_mask(plain, mask), payload)

    def test_frames_in_each_form_of_length(self) -> None:
        """A server's frames for a client's machine, a client's for a server's."""
        for size in (0, 1, 125, 126, 127, 65_535, 65_536, 200_000):
            payload = bytes(size)
            self.assertEqual(WebSocketMachine(False, size).receive(server_frame(BINARY, payload)), [(BINARY, payload)])
            sent = client_frame(BINARY, payload, b"1234")
            self.assertEqual(WebSocketMachine(True, size).receive(sent), [(BINARY, payload)])

    def test_close_payloads(self) -> None:
        """Code and reason come back; a long reason is cut between characters; an empty one is 1005."""
        self.assertEqual(close_of(close_payload(4002, "drain")), (4002, "drain"))
        self.assertEqual(close_of(b""), (1005, ""))
        cut = close_payload(1000, "é" * 100)
        self.assertEqual((len(cut), close_of(cut)), (124, (1000, "é" * 61)))

    def test_a_message_over_the_limit_is_refused_from_its_header(self) -> None:
        """In one frame, and with the fragment that passes the limit, before any of its bytes."""
        for data in (
            client_frame(BINARY, bytes(1001), b"1234")[:8],
            bytes((0x02,)) + client_frame(BINARY, bytes(600), b"1234")[1:] + client_frame(0, bytes(401), b"1234")[:8],
        ):
            machine = WebSocketMachine(True, 1000)
            self.assertEqual(machine.receive(data), [])
            self.assertIsInstance(machine.failed, FrameTooLarge)
            self.assertEqual(machine.close_code, 1009)

    def test_what_was_whole_before_a_failure_comes_out(self) -> None:
        """Events before the wrong frame are not lost."""
        machine = WebSocketMachine(True, 1000)
        data = client_frame(TEXT, b"a", b"1234") + client_frame(PING, b"", b"1234") + b"\xff\xff"
        self.assertEqual(machine.receive(data), [(TEXT, b"a"), (PING, b"")])
        self.assertEqual(machine.close_code, 1002)

    def test_memory_is_bounded_by_the_message(self) -> None:
        """Many empty fragments, or single bytes, take no more than a few times the limit."""
        fragment = bytes((BINARY,)) + client_frame(BINARY, b"", b"1234")[1:]
        empty = bytes((CONTINUATION,)) + fragment[1:]
        long_frame = client_frame(TEXT, b"x" * 50_000, b"1234")
        for pieces in ([fragment] + [empty] * 20_000, [long_frame[at : at + 2] for at in range(0, 50_000, 2)]):
            machine = WebSocketMachine(True, 50_000)
            tracemalloc.start()
            for piece in pieces:
                machine.receive(piece)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertIsNone(machine.failed)
            self.assertLess(peak, 150_000)
