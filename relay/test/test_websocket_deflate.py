"""permessage-deflate on a listener: Autobahn's protocol keeps such connections, and they mean the same to the core."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.config import Slow
from relay.errors import FrameTooLarge
from relay.protocols.websocket import WINDOW_BITS, Opening, frames_of
from relay.test.entrance_fixture import MASK, echo, opened, publication, request_head, websocket_frames
from relay.test.test_websocket import DEFLATE, closing, compressing
from relay.wire import kinds
from relay.wire.binary import encode_frame
from relay.wire.websocket import BINARY, CLOSE, PING, PONG, TEXT, client_frame, close_payload, server_frame


def deflated(payload: bytes, opcode: int = BINARY) -> bytes:
    """A compressed message of a client, as one frame (RFC 7692 section 7.2.1)."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -WINDOW_BITS)
    body = (squeeze.compress(payload) + squeeze.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")
    frame = bytearray(client_frame(opcode, body, MASK))
    frame[0] |= 0x40
    return bytes(frame)


def inflated(data: bytes) -> list[bytes]:
    """The payloads of a server's frames, each of which is compressed."""
    expand = zlib.decompressobj(-15)
    return [expand.decompress(payload + b"\x00\x00\xff\xff") for _, payload in frames_of(data)]


class ExtensionTests(SynchronousTestCase):
    """permessage-deflate, on Autobahn's protocol."""

    def setUp(self) -> None:
        self.door = compressing(on_receive=echo)

    def test_negotiated(self):
        """It is agreed on when the listener allows it and the client offers it."""
        transport = self.door.connect()
        transport.feed(request_head(headers=DEFLATE))
        self.assertIn(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12\r\n", transport.take())
        self.assertIsInstance(transport.protocol, Opening)
        self.assertNotIsInstance(opened(self.door).protocol, Opening)

    def test_small_windows(self):
        """A client that asks for a smaller window gets it; one that cannot choose its own keeps it."""
        for offer, answer in (
            ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=10"),
            ("permessage-deflate", "permessage-deflate"),
            ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ):
            transport = self.door.connect()
            transport.feed(request_head(headers={"Sec-WebSocket-Extensions": offer}))
            self.assertIn(f"Sec-WebSocket-Extensions: {answer}\r\n".encode(), transport.take())
            transport.feed(deflated(encode_frame(publication("x", b"y" * 9000))))
            self.door.turn()
            self.assertEqual(inflated(transport.take()), [encode_frame(publication("x", b"y" * 9000))])

    def test_both_ways(self):
        """Messages are inflated on the way in and deflated on the way out, in order, with pings between."""
        transport = opened(self.door, headers=DEFLATE)
        body = b"again and " * 500
        transport.feed(deflated(encode_frame(publication("one", body))) + client_frame(PING, b"mark", MASK))
        transport.feed(deflated(encode_frame(publication("two"))), step=1)
        self.assertEqual(self.door.gate.last.names, ["one", "two"])
        self.door.turn()
        written = transport.take()
        self.assertLess(len(written), 500)
        frames = list(frames_of(written))
        self.assertEqual(frames.pop(1), (PONG, b"mark"))
        self.assertEqual(
            inflated(b"".join(server_frame(*each) for each in frames)),
            [encode_frame(publication("one", body)), encode_frame(publication("two"))],
        )

    def test_bomb(self):
        """A message that inflates over ``message_bytes_max`` ends the connection as too large."""
        transport = opened(self.door, headers=DEFLATE)
        transport.feed(deflated(b"\x00" * 10_000_000))
        self.assertIsInstance(self.door.gate.last.errors[0], FrameTooLarge)
        self.assertEqual(closing(transport)[0], 4000 + kinds.TOO_LARGE)

    def test_broken_frames(self):
        """Frames against the rules, and what cannot be inflated, end it with a close frame; the core hears once."""
        for broken in (b"\x83\x80" + MASK, b"\xc2\x84" + MASK + b"\xff\xff\xff\xff", client_frame(TEXT, b"{}", MASK)):
            transport = opened(self.door, headers=DEFLATE)
            transport.feed(broken + deflated(encode_frame(publication())))
            transport.feed(deflated(encode_frame(publication())))
            self.assertEqual((len(self.door.gate.last.errors), self.door.gate.last.names), (1, []))
            self.assertEqual((closing(transport)[0], transport.ended), (4000 + kinds.PROTOCOL, "half"))

    def test_we_close(self):
        """The core's close is a close frame, and who does not answer is cut off."""
        transport = opened(self.door, headers=DEFLATE)
        self.door.gate.last.peer.close(kinds.KICKED, "out")
        self.assertEqual((closing(transport), transport.ended), ((4005, "out"), "half"))
        self.door.pass_time(6)
        self.assertEqual((transport.ended, self.door.entrance.open), ("aborted", 0))
        self.assertEqual(self.door.gate.last.ends, [("closed: kicked", False)])

    def test_client_closes(self):
        """A client's close is answered with its code."""
        transport = opened(self.door, headers=DEFLATE)
        transport.feed(client_frame(CLOSE, close_payload(3001, "done"), MASK))
        self.assertEqual(closing(transport), (3001, ""))
        transport.lose()
        self.assertEqual(self.door.gate.last.ends, [("the client closed: 3001 done", True)])
        self.assertEqual(self.door.entrance.open, 0)

    def test_bad_close(self):
        """A close code that must not be sent, and a reason that is no UTF-8, break the protocol."""
        for payload in (b"\x03\xe7", b"\x03\xed", b"\x03\xe8\xff"):
            transport = opened(self.door, headers=DEFLATE)
            transport.feed(client_frame(CLOSE, payload, MASK))
            self.assertEqual(closing(transport)[0], 4000 + kinds.PROTOCOL)

    def test_deaf_client(self):
        """What waits for a client that does not read is bounded here, too."""
        listener = compressing(slow=Slow(queue_bytes_max=10_000))
        transport = opened(listener, headers=DEFLATE)
        transport.producer.pauseProducing()
        transport.feed(client_frame(PING, b"x" * 100, MASK) * 200)
        self.assertEqual(listener.gate.last.peer.ended, "closed: slow_consumer")

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=8),
        st.lists(st.integers(1, 100), max_size=20),
    )
    def test_both_objects_agree(self, parts, sizes):
        """The same bytes, in any chunks, with or without the extension agreed on, mean the same to the core."""

        def stream() -> Iterable[bytes]:
            for ping, body in parts:
                yield client_frame(PING, body[:125], MASK) if ping else websocket_frames(publication("x", body))

        heard = []
        for headers in (None, DEFLATE):
            listener = compressing()
            transport = opened(listener, headers=headers)
            data = b"".join(stream())
            for size in sizes:
                transport.feed(data[:size])
                data = data[size:]
            transport.feed(data)
            listener.turn()
            heard.append(([each.body for each in listener.gate.last.messages], transport.take()))
        self.assertEqual(heard[0], heard[1])
