"""Addresses, and the bytes of a client's connection."""

from __future__ import annotations

import ast
import hashlib
import re
from base64 import b64encode
from itertools import pairwise
from pathlib import Path
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from relay.client.framing import HEAD_BYTES_MAX, WebSocketFraming, framing_for
from relay.client.options import ClientOptions
from relay.client.plan import Address, parse
from relay.client.stream import StreamFraming
from relay.errors import BadBody, ConfigError, FrameTooLarge, RelayError, RemoteProtocolError, Unavailable
from relay.wire import binary, kinds, text, websocket
from relay.wire.message import Message

MESSAGES = [Message(kinds.EVENT, "room.1", b"hello", kinds.TEXT), Message(kinds.PONG, seq=3)]


def fixed(size: int) -> bytes:
    """Random bytes that are not."""
    return bytes(range(size))


def answer(subprotocol: str, *, status: str = "101 Switching Protocols", accept: str = "", more: str = "") -> bytes:
    """A server's answer to the WebSocket request that ``fixed`` makes."""
    key = b64encode(fixed(16))
    good = b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    return (
        f"HTTP/1.1 {status}\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept or good}\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n{more}\r\n"
    ).encode()


class AddressTests(unittest.TestCase):
    """URLs of servers."""

    def test_every_scheme(self) -> None:
        """tcp, tls, unix, ws and wss, with their defaults."""
        for url, expected in {
            "tcp://h": Address("tcp", "h", 8000, ""),
            "tcp://[::1]:9/?form=json": Address("tcp", "::1", 9, "", "json"),
            "tls://h:9": Address("tls", "h", 9, ""),
            "unix:/run/relay.sock": Address("unix", "", 0, "/run/relay.sock"),
            "unix:///run/relay.sock?form=json": Address("unix", "", 0, "/run/relay.sock", "json"),
            "ws://h:8080": Address("ws", "h", 8080, "/ws"),
            "wss://h/a/b?x=1&form=json&y=2": Address("wss", "h", 443, "/a/b?x=1&y=2", "json"),
        }.items():
            self.assertEqual(parse(url), expected)
            self.assertEqual(parse(str(expected)), Address(*expected.__reduce__()[1][:4]))

    def test_what_is_wrong_is_said(self) -> None:
        """An address that cannot be used is one clear sentence."""
        for url, word in {
            "http://h": "tcp://", "h:8000": "tcp://", "tcp://:8000": "host", "tcp://h:x": "port", "unix:": "path",
            "tcp://h?form=xml": "form", "tcp://a:b@h": "user", "tcp://h/path": "path",
        }.items():  # fmt: skip
            self.assertIn(word, str(self.assertRaises(ConfigError, parse, url)))

    def test_limits_are_checked(self) -> None:
        """A limit of nothing is a mistake."""
        for options in ({"request_timeout_s": 0.0}, {"pending_max": 0}, {"backoff_s_min": -1.0}):
            self.assertRaises(ConfigError, ClientOptions, **options)


class StreamTests(unittest.TestCase):
    """Both forms on a stream."""

    def test_both_forms(self) -> None:
        """The binary form begins with the preface, the JSON form with its first object."""
        for form, opening, encode in (
            ("binary", kinds.PREFACE, binary.encode_stream), ("json", b"", text.encode_line),
        ):  # fmt: skip
            framing = framing_for(Address("tcp", "h", 1, "", form), ClientOptions(frame_bytes_max=65_536), fixed)
            self.assertEqual((framing.opening, framing.ready), (opening, True))
            data = b"".join(map(encode, MESSAGES))
            self.assertEqual(framing.receive(data[:9]) + framing.receive(data[9:]), MESSAGES)
            self.assertEqual([framing.encode(each) for each in MESSAGES], [encode(each) for each in MESSAGES])
            self.assertEqual(framing.closing(), b"")

    def test_a_frame_over_the_limit_fails(self) -> None:
        """frame_bytes_max bounds what a server may send."""
        framing = StreamFraming("binary", 1000)
        framing.receive(binary.encode_stream(Message(kinds.EVENT, "c", bytes(2000))))
        self.assertIsInstance(framing.failed, FrameTooLarge)


class WebSocketTests(unittest.TestCase):
    """RFC 6455, the client's side."""

    def framing(self, form: str = "binary") -> WebSocketFraming:
        """One that waits for the server's answer."""
        return WebSocketFraming(parse(f"ws://host:81/path?form={form}"), 65_536, fixed)

    def open(self, form: str = "binary") -> WebSocketFraming:
        """One whose handshake is done."""
        framing = self.framing(form)
        subprotocol = kinds.SUBPROTOCOL_JSON if form == "json" else kinds.SUBPROTOCOL_BINARY
        self.assertEqual(framing.receive(answer(subprotocol)), [])
        self.assertTrue(framing.ready)
        return framing

    def test_the_request(self) -> None:
        """Section 4.1: the request names host, key, version and subprotocol."""
        lines = self.framing().opening.decode().split("\r\n")
        self.assertEqual(lines[0], "GET /path HTTP/1.1")
        for line in (
            "Host: host:81", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: relay.v1.bin", "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==",
        ):  # fmt: skip
            self.assertIn(line, lines)
        self.assertEqual(lines[-2:], ["", ""])

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(["binary", "json"]), st.lists(st.integers(0, 400), max_size=8))
    def test_any_chunking_gives_the_same(self, form: str, cuts: list[int]) -> None:
        """Handshake, messages, ping and close in any pieces: the same messages, the same answers."""
        encode = text.encode_json if form == "json" else binary.encode_frame
        opcode = websocket.TEXT if form == "json" else websocket.BINARY
        frames = [websocket.server_frame(opcode, encode(each)) for each in MESSAGES]
        close = websocket.close_payload(4002, "drain")
        data = b"".join([
            answer(kinds.SUBPROTOCOL_JSON if form == "json" else kinds.SUBPROTOCOL_BINARY), frames[0],
            websocket.server_frame(websocket.PING, b"hi"), frames[1], websocket.server_frame(websocket.CLOSE, close),
        ])  # fmt: skip
        framing = self.framing(form)
        ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
        messages = []
        for start, end in pairwise(ends):
            messages += framing.receive(data[start:end])
        self.assertEqual(messages, MESSAGES)
        self.assertIsNone(framing.failed)
        server = websocket.WebSocketMachine(True, 1000)
        self.assertEqual(server.receive(framing.output), [(websocket.PONG, b"hi"), (websocket.CLOSE, close)])
        self.assertEqual(framing.closing(), b"")

    def test_messages_out_are_masked(self) -> None:
        """A server's machine reads what the client writes, then the close."""
        framing = self.open()
        server = websocket.WebSocketMachine(True, 1000)
        events = server.receive(framing.encode(MESSAGES[0]) + framing.closing())
        self.assertEqual(events[0], (websocket.BINARY, binary.encode_frame(MESSAGES[0])))
        self.assertEqual(websocket.close_of(events[1][1])[0], 1000)
        self.assertEqual(framing.closing(), b"")

    def test_answers_that_are_not_accepted(self) -> None:
        """Another status, key, subprotocol, an extension, no HTTP, or a head without end."""
        good = kinds.SUBPROTOCOL_BINARY
        for data, error, word in (
            (answer(good, status="403 Forbidden"), Unavailable, "403 Forbidden"),
            (answer(good, accept="AAAA"), RemoteProtocolError, "WebSocket"),
            (answer("chat"), Unavailable, "relay.v1.bin"),
            (answer(good, more="Sec-WebSocket-Extensions: x\r\n"), RemoteProtocolError, "extension"),
            (b"SSH-2.0-x\r\n\r\n", RemoteProtocolError, "HTTP"),
            (b"HTTP/1.1 101 " + bytes(HEAD_BYTES_MAX), RemoteProtocolError, "too long"),
        ):
            framing = self.framing()
            framing.receive(data)
            self.assertIsInstance(framing.failed, error)
            self.assertIn(word, str(framing.failed))
            self.assertFalse(framing.ready)

    def test_the_wrong_type_of_message_fails(self) -> None:
        """Text under the binary subprotocol breaks it."""
        framing = self.open()
        framing.receive(websocket.server_frame(websocket.TEXT, b"{}"))
        self.assertIsInstance(framing.failed, RemoteProtocolError)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.binary(max_size=200), max_size=5), st.booleans())
    def test_garbage_fails_and_nothing_else(self, chunks: list[bytes], opened: bool) -> None:
        """Whatever a server sends, receive does not raise."""
        framing = self.open() if opened else self.framing()
        for chunk in chunks:
            if framing.failed is None:
                framing.receive(chunk)
        self.assertTrue(framing.failed is None or isinstance(framing.failed, RelayError))


class ComposeTests(unittest.TestCase):
    """Values, fields and filters of an application as messages."""

    def test_values_and_fields(self) -> None:
        """bytes raw, str text, all else JSON; fields by name."""
        from relay.client.events import Event, compose

        for value, codec in ((b"\xff", "raw"), ("héllo", "text"), ({"a": [1, None]}, "json"), (None, "json")):
            event = Event(compose(kinds.PUBLISH, "c", value, {"ttl_ms": 5, "metadata": {"k": "v"}, "all": False}))
            self.assertEqual((event.value, event.codec), (value, codec))
            self.assertEqual(event.fields, {"ttl_ms": 5, "metadata": {"k": "v"}})
        packed = Event(compose(kinds.PUBLISH, "c", {"a": 1}, {}, "msgpack", ("no_echo",), ("crc32c", "gzip")))
        self.assertEqual((packed.value, packed.message.flags), ({"a": 1}, kinds.NO_ECHO))
        self.assertEqual(packed.message.get(kinds.FILTERS), (kinds.CRC32C, kinds.GZIP))
        self.assertEqual(Event(compose(kinds.PUBLISH, "c", b"\x08\x01", {}, "protobuf")).value, b"\x08\x01")

    def test_what_cannot_be_sent_is_said(self) -> None:
        """Unknown fields, flags, filters and codecs, and values that have no JSON."""
        from relay.client.events import compose

        for value, extras, codec, flags, filters in (
            (1, {"nope": 1}, None, (), ()), (1, {"ttl_ms": -1}, None, (), ()), (1, {"ttl_ms": True}, None, (), ()),
            (1, {}, "nope", (), ()), (1, {}, None, ("nope",), ()), (1, {}, None, (), ("nope",)),
            (object(), {}, None, (), ()), (1, {}, "text", (), ()), (1, {}, 300, (), ()),
        ):  # fmt: skip
            self.assertRaises(BadBody, compose, kinds.PUBLISH, "c", value, extras, codec, flags, filters)


class PageTests(unittest.TestCase):
    """docs/clients.md."""

    def test_every_option_is_there_with_its_default(self) -> None:
        """The table of options names each one, and says the default that it has."""
        page = Path(__file__).parents[2] / "docs" / "clients.md"
        if not page.exists():
            raise SkipTest("the documentation is not installed")
        told: dict[str, str] = {}
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            names = re.findall(r"`(\w+)`", cells[1]) if len(cells) > 3 else []
            values = cells[2].replace("\u00a0", " ").split(",") if names else []
            if len(names) == len(values):
                told.update(zip(names, (value.strip().replace(" ", "") for value in values), strict=True))
        for name in ClientOptions.__struct_fields__:
            default = getattr(ClientOptions(), name)
            words = {"resume": "true", "filters": "none", "tls": "thesystem's", "secure": "nokey", "kcp": "nokey"}
            self.assertEqual(told.get(name), words.get(name) or f"{default:.10g}", name)

    def test_its_programs_are_programs(self) -> None:
        """The examples compile, and use what there is."""
        page = Path(__file__).parents[2] / "docs" / "clients.md"
        if not page.exists():
            raise SkipTest("the documentation is not installed")
        programs = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        self.assertEqual(len(programs), 3)
        for program in programs:
            compile(program, "docs/clients.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
