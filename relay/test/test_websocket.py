"""WebSocket on a listener: the handshake and its refusals, the small object after it, and extensions on Autobahn."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IProtocol
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from zope.interface.verify import verifyObject

from relay.config import Limits, Slow, Timing, WebSocket
from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.protocols.entrance import Arrival, Step
from relay.protocols.peer import Peer
from relay.protocols.stream import Stream
from relay.protocols.websocket import Opening, frames_of
from relay.test.entrance_fixture import (
    MASK,
    Door,
    echo,
    opened,
    publication,
    request_head,
    websocket_frames,
)
from relay.test.fakes import WireTransport
from relay.wire import kinds, websocket
from relay.wire.binary import encode_frame
from relay.wire.message import Message
from relay.wire.text import encode_json
from relay.wire.websocket import BINARY, CLOSE, PING, PONG, TEXT, client_frame, close_payload, server_frame

NAMES = ["one", "two", "three"]
MESSAGES = [publication(name) for name in NAMES]
DEFLATE: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}

ODD: dict[str, str | None] = {"Connection": "Upgrade, close"}
"""Not what clients send: opened by Autobahn."""


def door(**options: Any) -> Door:  # Any: of Door and Listener
    """A listener with WebSocket alone."""
    return Door("websocket", **options)


def compressing(**options: Any) -> Door:  # Any: of Door and Listener
    """A listener that offers permessage-deflate."""
    return Door("websocket", websocket=WebSocket(compression=True, message_bytes_max=100_000), **options)


def status_of(response: bytes) -> int:
    """The status code of a response that is whole."""
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
    assert int(fields[b"content-length"]) == len(body), response
    assert fields[b"connection"] == b"close", response
    return int(lines[0].split()[1])


def closing(transport: WireTransport) -> tuple[int, str]:
    """Code and text of the close frame that was written last."""
    opcode, payload = list(frames_of(transport.take()))[-1]
    assert opcode == CLOSE
    return websocket.close_of(payload)


class HandshakeTests(SynchronousTestCase):
    """Who gets a WebSocket."""

    def response(self, head: bytes, **options: Any) -> bytes:  # Any: of Door and Listener
        """What a listener answers to ``head``."""
        transport = door(**options).connect()
        transport.feed(head)
        return transport.take()

    def test_binary(self):
        """The subprotocol chooses the form: binary."""
        listener = door()
        opened(listener).feed(websocket_frames(*MESSAGES))
        peer = listener.gate.last.peer
        self.assertEqual((listener.gate.last.names, peer.dialect, peer.transport), (NAMES, "relay.binary", "ws"))

    def test_json(self):
        """The subprotocol chooses the form: JSON."""
        listener = door()
        transport = opened(listener, kinds.SUBPROTOCOL_JSON)
        transport.feed(b"".join(client_frame(TEXT, encode_json(each), MASK) for each in MESSAGES))
        self.assertEqual((listener.gate.last.names, listener.gate.last.peer.dialect), (NAMES, "relay.json"))

    def test_response(self):
        """The response names the subprotocol and no extension, and proves that the key was read (RFC 6455 1.3)."""
        response = self.response(request_head(headers={"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **DEFLATE}))
        self.assertIn(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", response)
        self.assertIn(b"Sec-WebSocket-Protocol: relay.v1.bin\r\n", response)
        self.assertNotIn(b"Extensions", response)

    def test_first_known_subprotocol(self):
        """Of several subprotocols the first that is known counts, in the client's order."""
        response = self.response(request_head(subprotocol="mqtt, relay.v1.json, relay.v1.bin"))
        self.assertIn(b"Sec-WebSocket-Protocol: relay.v1.json\r\n", response)

    def test_no_subprotocol(self):
        """A client that names none of ours is told which there are."""
        for subprotocol in ("", "mqtt"):
            response = self.response(request_head(subprotocol=subprotocol))
            self.assertEqual(status_of(response), 400)
            self.assertIn(b"relay.v1.bin, relay.v1.json", response)

    def test_path(self):
        """The WebSocket is at its path, with any query, and nowhere else."""
        self.assertIn(b" 101 ", self.response(request_head("/ws?token=1")))
        self.assertEqual(status_of(self.response(request_head("/other"))), 404)
        self.assertIn(b" 101 ", self.response(request_head("/other"), websocket=WebSocket(path="/other")))

    def test_origin(self):
        """Pages of other hosts are refused, unless they are listed."""
        same, other = {"Origin": "http://relay.example:8080"}, {"Origin": "https://other.example"}
        self.assertIn(b" 101 ", self.response(request_head(headers=same)))
        self.assertEqual(status_of(self.response(request_head(headers=other))), 403)
        listed = WebSocket(origins=("https://*.example",))
        self.assertIn(b" 101 ", self.response(request_head(headers=other), websocket=listed))
        self.assertEqual(status_of(self.response(request_head(headers=same), websocket=listed)), 403)

    def test_bad_requests(self):
        """What is no handshake gets an HTTP error with a sentence, and the connection is closed."""
        for headers, status in (
            ({"Sec-WebSocket-Key": None}, 400),
            ({"Sec-WebSocket-Key": "short"}, 400),
            ({"Sec-WebSocket-Version": None}, 400),
            ({"Sec-WebSocket-Version": "12"}, 400),
            ({"Host": None}, 400),
            ({"Connection": None}, 400),
            ({"Upgrade": None}, 426),
            ({"Origin": "nonsense"}, 400),
            ({"Sec-WebSocket-Protocol": "relay.v1.bin, relay.v1.bin"}, 400),
        ):
            listener = door()
            transport = listener.connect()
            transport.feed(request_head(headers=headers))
            self.assertEqual((status_of(transport.take()), transport.ended), (status, "lost"), headers)
            transport.settle()
            self.assertEqual((listener.entrance.open, listener.entrance.refused), (0, 1))
        self.assertEqual(status_of(self.response(request_head().replace(b"GET", b"PUT", 1))), 405)
        self.assertEqual(status_of(self.response(request_head().replace(b"HTTP/1.1", b"HTTP/1.0"))), 505)

    def test_versions(self):
        """Another version is told the one that is spoken (RFC 6455 section 4.4)."""
        response = self.response(request_head(headers={"Sec-WebSocket-Version": "25"}))
        self.assertIn(b"Sec-WebSocket-Version: 13\r\n", response)

    def test_large_head(self):
        """A head over ``request_bytes_max`` is refused, whether its end has come or not."""
        for end in (b"", b"\r\n\r\n"):
            response = self.response(b"GET /ws HTTP/1.1\r\nX: " + b"x" * 20_000 + end)
            self.assertEqual(status_of(response), 431)

    def test_slow_head(self):
        """A head that is not complete within the handshake time-out ends the connection."""
        listener = door(timing=Timing(handshake_timeout_s=3.0))
        transport = listener.connect()
        for byte in b"GET /ws HTTP":
            transport.feed(bytes([byte]))
            listener.pass_time(0.4)
        self.assertEqual((transport.ended, listener.entrance.open), ("aborted", 0))

    def test_refused_and_still_there(self):
        """One that was refused and does not let the connection close is cut off."""
        listener = door(timing=Timing(handshake_timeout_s=3.0))
        transport = listener.connect()
        transport.feed(request_head("/other"))
        self.assertEqual(transport.ended, "lost")
        for _ in range(80):
            listener.clock.advance(0.05)
        self.assertEqual(transport.ended, "aborted")

    def test_pieces(self):
        """The handshake may come byte by byte."""
        listener = door()
        transport = listener.connect()
        transport.feed(request_head() + websocket_frames(*MESSAGES), step=1)
        self.assertIn(b" 101 ", transport.take())
        self.assertEqual(listener.gate.last.names, NAMES)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 400))
    def test_frames_with_the_handshake(self, at):
        """Frames that come in one read with the handshake, or with its end, are not lost."""
        listener = door()
        transport = listener.connect()
        data = request_head() + websocket_frames(*MESSAGES)
        transport.feed(data[:at])
        transport.feed(data[at:])
        self.assertEqual(listener.gate.last.names, NAMES)

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(["GET ", "HEAD ", "OPTIONS "]),
        st.text(max_size=20),
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["Host", "Upgrade", "Connection", "Origin", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
                     "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "X"]
                ),
                st.one_of(st.text(max_size=20), st.sampled_from(["websocket", "upgrade", "13", "relay.v1.bin"])),
            ),
            max_size=10,
        ),
    )  # fmt: skip
    def test_garbage(self, method, target, fields):
        """Any head gets one whole HTTP error, or waits for its end; nothing is raised or logged as our mistake."""
        listener = door()
        transport = listener.connect()
        lines = [f"{method}/{target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        transport.feed("\r\n".join(lines).encode() + b"\r\n\r\n")
        response = transport.take()
        self.assertIn(status_of(response), (400, 403, 404, 405, 426, 505))
        self.assertEqual(transport.ended, "lost")


class ConversationTests(SynchronousTestCase):
    """A connection after its handshake."""

    def setUp(self) -> None:
        self.door = door(on_receive=echo)
        self.transport = opened(self.door)

    def test_interface(self):
        """What serves it is a protocol of ours, and Autobahn's object is gone."""
        self.assertTrue(verifyObject(IProtocol, self.transport.protocol))
        self.assertNotIsInstance(self.transport.protocol, Opening)

    def test_autobahn_is_released(self):
        """Without an extension nothing holds Autobahn's object after the handshake."""
        transport = self.door.connect()
        head = request_head(headers=ODD)
        transport.feed(head[:-1])
        held: list[Any] = []
        original = Opening.onOpen

        def on_open(opening: Opening) -> None:
            held.append(weakref.ref(opening))
            original(opening)

        self.patch(Opening, "onOpen", on_open)
        transport.feed(head[-1:])
        gc.collect()
        self.assertEqual((len(held), held[0]()), (1, None))
        websockets = self.door.entrance.websockets
        assert websockets is not None
        self.assertEqual(websockets.countConnections, 0)

    def test_nothing_left(self):
        """A connection that is over, whatever it was, is gone without the collector's help."""
        listener = compressing()
        heads = (
            request_head(), request_head(headers=ODD), request_head(headers=DEFLATE), request_head("/other"),
            b"GET /ws", b"",
        )  # fmt: skip

        def run(head: bytes) -> None:
            transport = listener.connect()
            transport.feed(head)
            listener.turn()
            transport.lose()
            transport.protocol = None
            listener.transports.clear()
            listener.gate.connections.clear()

        def alive() -> int:
            return sum(isinstance(each, Opening | Stream | Peer | Step | Arrival) for each in gc.get_objects())

        for head in heads:
            run(head)
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        before = alive()
        for head in heads:
            run(head)
        self.assertEqual(alive(), before)

    def test_answers(self):
        """Frames of one turn leave in one write; each message is one frame."""
        self.transport.feed(websocket_frames(*MESSAGES))
        self.door.turn()
        self.assertEqual(self.transport.take(), b"".join(server_frame(BINARY, encode_frame(each)) for each in MESSAGES))

    def test_ping(self):
        """A ping is answered with its payload, in the order of what else is sent; a pong is ignored."""
        self.transport.feed(
            websocket_frames(MESSAGES[0]) + client_frame(PING, b"mark", MASK) + client_frame(PONG, b"x", MASK)
        )
        self.door.turn()
        self.assertEqual([opcode for opcode, _ in frames_of(self.transport.value())], [BINARY, PONG])
        self.assertTrue(self.transport.value().endswith(server_frame(PONG, b"mark")))

    def test_pings_of_a_deaf_client(self):
        """A client that sends pings and never reads is closed as a slow consumer: answers are bounded, too."""
        listener = door(slow=Slow(queue_bytes_max=10_000))
        transport = opened(listener)
        transport.producer.pauseProducing()
        transport.feed(client_frame(PING, b"x" * 100, MASK) * 200)
        self.assertEqual(listener.gate.last.peer.ended, "closed: slow_consumer")

    def test_fragments(self):
        """A message in fragments is one message."""
        frame = encode_frame(MESSAGES[0])
        first, second = bytearray(client_frame(BINARY, frame[:5], MASK)), client_frame(0, frame[5:], MASK)
        first[0] &= 0x7F
        self.transport.feed(bytes(first) + client_frame(PING, b"", MASK) + second)
        self.assertEqual(self.door.gate.last.names, NAMES[:1])

    def test_client_closes(self):
        """A close is answered with its code, our half is closed, and the core hears that it was orderly."""
        self.transport.feed(websocket_frames(*MESSAGES) + client_frame(CLOSE, close_payload(1001, "moving"), MASK))
        self.assertEqual((closing(self.transport), self.transport.ended), ((1001, ""), "half"))
        self.transport.lose()
        self.assertEqual(self.door.gate.last.ends, [("the client closed: 1001 moving", True)])

    def test_client_closes_without_a_code(self):
        """An empty close is answered by an empty one."""
        self.transport.feed(client_frame(CLOSE, b"", MASK))
        self.assertEqual(self.transport.take(), server_frame(CLOSE, b""))

    def test_nothing_after_its_close(self):
        """What a client sends after its close is not delivered."""
        self.transport.feed(client_frame(CLOSE, b"", MASK) + websocket_frames(*MESSAGES))
        self.transport.feed(websocket_frames(*MESSAGES))
        self.assertEqual(self.door.gate.last.names, [])

    def test_close_codes(self):
        """We close with 1000 for normal, else with 4000 and the reason; the text is cut to what a frame holds."""
        for reason, (name, _) in kinds.CLOSE_REASONS.items():
            transport = opened(self.door)
            self.door.gate.last.peer.close(reason)
            self.assertEqual(closing(transport), (1000 if reason == kinds.NORMAL else 4000 + reason, name))
        transport = opened(self.door)
        self.door.gate.last.peer.close(kinds.KICKED, "ü" * 100)
        self.assertEqual(closing(transport), (4005, "ü" * 61))

    def test_wrong_opcode(self):
        """Text where binary was agreed, and binary where text was, break the protocol."""
        for subprotocol, opcode in ((kinds.SUBPROTOCOL_BINARY, TEXT), (kinds.SUBPROTOCOL_JSON, BINARY)):
            transport = opened(self.door, subprotocol)
            transport.feed(client_frame(opcode, b"{}", MASK))
            self.assertIsInstance(self.door.gate.last.errors[0], RemoteProtocolError)
            self.assertEqual(closing(transport)[0], 4000 + kinds.PROTOCOL)

    def test_broken_frames(self):
        """Frames against the rules, and payloads that are no frames of ours, end it; what came before is delivered."""
        for broken in (server_frame(BINARY, b"unmasked"), b"\x83\x80" + MASK, client_frame(BINARY, b"short", MASK)):
            transport = opened(self.door)
            transport.feed(websocket_frames(*MESSAGES) + broken + websocket_frames(*MESSAGES))
            self.assertEqual(self.door.gate.last.names, NAMES)
            self.assertEqual(len(self.door.gate.last.errors), 1)
            self.assertEqual(closing(transport)[0], 4000 + kinds.PROTOCOL)

    def test_large_messages(self):
        """A message over ``message_bytes_max``, or over the frame limit, ends it before it is kept."""
        listener = door(websocket=WebSocket(message_bytes_max=70_000), limits=Limits(frame_bytes_max=2000))
        for header in (b"\x82\xff" + (70_001).to_bytes(8), b"\x82\xff" + (2**62).to_bytes(8)):
            transport = opened(listener)
            transport.feed(header + MASK)
            self.assertIsInstance(listener.gate.last.errors[0], FrameTooLarge)
            self.assertEqual(closing(transport)[0], 4000 + kinds.TOO_LARGE)
        transport = opened(listener)
        transport.feed(websocket_frames(publication(), publication(body=b"x" * 2000)))
        self.assertEqual(len(listener.gate.last.messages), 1)
        self.assertEqual(closing(transport)[0], 4000 + kinds.TOO_LARGE)

    def test_our_mistake(self):
        """An exception of ours is logged and closes this connection."""

        def mistake(connection: Any, message: Message) -> None:
            raise ZeroDivisionError

        listener = door(on_receive=mistake)
        transport = opened(listener)
        transport.feed(websocket_frames(*MESSAGES))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(closing(transport)[0], 4000 + kinds.INTERNAL)

    def test_memory(self):
        """An idle connection keeps less than 3 KB beside its transport; Autobahn's object alone would be 7 KB."""
        count = 200
        listener = door()
        opened(listener)
        gc.collect()
        tracemalloc.start()
        try:
            transports = [opened(listener) for _ in range(count)]
            gc.collect()
            kept = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(False, "*/twisted/*"), tracemalloc.Filter(False, "*/relay/test/*")]
            )
        finally:
            tracemalloc.stop()
        self.assertEqual(len(transports), count)
        self.assertLess(sum(each.size for each in kept.statistics("filename")) / count, 3000)


class SharedPortTests(SynchronousTestCase):
    """WebSocket beside other protocols."""

    def test_one_port(self):
        """All forms on one listener, each found by its first bytes."""
        listener = Door("relay", "http", "websocket", root=Resource())
        opened(listener).feed(websocket_frames(*MESSAGES))
        listener.connect().feed(kinds.PREFACE)
        listener.connect().feed(b"{")
        self.assertEqual([each.peer.transport for each in listener.gate.connections], ["ws", "tcp", "tcp"])

    def test_only_http(self):
        """Without ``websocket`` an upgrade is a request like others: it gets the page, not a WebSocket."""
        listener = Door("http", root=Resource())
        transport = listener.connect()
        transport.feed(request_head())
        self.assertIn(b" 404 ", transport.take())

    def test_configured_again(self):
        """Other options count for connections to come."""
        listener = door()
        opened(listener)
        old = listener.entrance.listener
        options = WebSocket(path="/new", compression=True)
        listener.entrance.listener = msgspec.structs.replace(old, websocket=options)
        assert listener.entrance.websockets is not None
        listener.entrance.websockets.configure()
        transport = listener.connect()
        transport.feed(request_head("/new", headers=DEFLATE))
        self.assertIn(b"permessage-deflate", transport.take())
