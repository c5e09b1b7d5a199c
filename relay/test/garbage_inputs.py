"""What the garbage campaign sends: frames that were good once, and bytes that never were."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Final

from relay.wire import kinds
from relay.wire.binary import encode_frame, encode_stream
from relay.wire.handshake import write
from relay.wire.message import Message
from relay.wire.text import encode_json

LENGTHS: Final = (0, 1, 11, 12, 0x7FFFFFFF, 0xFFFFFFFF, 0x0010_0001)
"""Values that a length field must survive: none, too little, the smallest, the largest, -1, one over the limit."""

SEEDS: Final = (
    Message(kinds.PUBLISH, "g.room", b"hello", kinds.TEXT, 0, 7),
    Message(kinds.PUBLISH, "g.room", b'{"a":[1,2]}', kinds.JSON, kinds.NO_ECHO, 8, {kinds.TTL_MS: 5000}),
    Message(kinds.PUBLISH, "g.room", b"x", 0, 0, 9, {kinds.METADATA: {"k": "v"}, kinds.PRIORITY: 3}),
    Message(kinds.PUBLISH, "g.room", b"zz", 0, 0, 9, {kinds.FILTERS: (1, 2, 3, 4)}),
    Message(kinds.SUBSCRIBE, "g.*", b'{"presence":true,"info":{"x":1}}', kinds.JSON, 0, 10),
    Message(kinds.UNSUBSCRIBE, "g.*", seq=11),
    Message(kinds.PUSH, "note", b"hi", 0, 0, 12, {kinds.USER: "nobody", kinds.DEVICE: "d"}),
    Message(kinds.PUSH, "note", b"hi", 0, 0, 12, {kinds.SESSION: "s-1"}),
    Message(kinds.PULL, "g.none", b"[1]", kinds.JSON, 0, 13, {kinds.DEADLINE_MS: 50}),
    Message(kinds.REPLY, seq=1), Message(kinds.ERROR, "", b"no", kinds.TEXT, 0, 2, {kinds.ERROR_CODE: 1001}),
    Message(kinds.CANCEL, seq=13), Message(kinds.REGISTER, "g.proc", b'{"policy":"random"}', kinds.JSON, 0, 14),
    Message(kinds.UNREGISTER, "g.proc", seq=15), Message(kinds.PRESENCE, "g.room", seq=16),
    Message(kinds.BIND, "", b'{"user":"root"}', kinds.JSON, 0, 17),
    Message(kinds.REFRESH, "", b'{"token":"x.y.z"}', kinds.JSON, 0, 18),
    Message(kinds.PING, seq=1, fields={kinds.RECEIVED: 3}), Message(kinds.PONG, fields={kinds.SKIPPED: 1}),
    Message(kinds.PUBLISH, "g.room", b"", 0, 0, 0, {kinds.FROM_USER: "root", kinds.FROM_REALM: "other"}),
    Message(kinds.HISTORY, "g.room", seq=20), Message(kinds.ACK, seq=21), Message(200, "later", b"x", 0, 0x00FF, 22),
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to four small injuries."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(7):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del out[at : at + rng.randint(1, 8)]
            case 4 if len(out) >= 4:
                start = min(at, len(out) - 4)
                out[start : start + 4] = struct.pack(">I", rng.choice(LENGTHS))
            case 5 if len(out) >= 2:
                start = min(at, len(out) - 2)
                out[start : start + 2] = struct.pack(">H", rng.choice((0, 1, 0xFFFF, 0xFF)))
            case _:
                out += out[at:]
                del out[4096:]
    return bytes(out)


def random_frame(rng: random.Random) -> Message:
    """A well-formed frame that makes little sense."""
    seed = rng.choice(SEEDS)
    fields = None if seed.fields is None else dict(seed.fields)
    name = rng.choice((seed.name, "", "a" * 255, "é\u0007", "$x"))
    return Message(
        rng.choice((seed.kind, seed.kind, rng.randrange(16, 256))), name,
        rng.choice((seed.body, b"", rng.randbytes(rng.randrange(200)))), rng.choice((seed.codec, rng.randrange(256))),
        rng.choice((seed.flags, rng.randrange(0x10000))), rng.choice((seed.seq, rng.randrange(1 << 32))), fields,
    )  # fmt: skip


def hello(binary: bool) -> bytes:
    """A valid login, framed for a stream."""
    message = write(kinds.HELLO, {"user": "garbage", "features": ["resume"], "heartbeat_ms": 60000})
    return kinds.PREFACE + encode_stream(message) if binary else encode_json(message) + b"\n"


def binary_units(rng: random.Random, count: int) -> list[bytes]:
    """Frames for a binary stream after a login: whole, mutated inside their length, or mutated with it."""
    units = []
    for _ in range(count):
        message = random_frame(rng) if rng.random() < 0.3 else rng.choice(SEEDS)
        frame = encode_frame(message)
        match rng.randrange(3):
            case 0:
                units.append(struct.pack(">I", len(frame)) + frame)
            case 1:
                inside = mutated(frame, rng)
                units.append(struct.pack(">I", max(len(inside), 0)) + inside)
            case _:
                units.append(mutated(struct.pack(">I", len(frame)) + frame, rng))
    return units


def json_units(rng: random.Random, count: int) -> list[bytes]:
    """Lines for a JSON stream after a login: mutated text, or JSON with wrong types."""
    units = []
    for _ in range(count):
        text = encode_json(rng.choice(SEEDS))
        if rng.random() < 0.5:
            units.append(mutated(text, rng).replace(b"\n", b" ") + b"\n")
        else:
            value = json.loads(text)
            value[rng.choice([*value, "seq", "flags", "metadata", "!new", "filters"])] = rng.choice(
                (None, -1, 1.5, "x", [], {}, True, 1 << 70, ["more", 7], {"": ""}, "\ud800")
            )
            units.append(json.dumps(value).encode() + b"\n")
    return units


def from_nowhere(rng: random.Random) -> bytes:
    """Bytes of a stranger: noise, a preface and noise, half a login, other protocols' beginnings, bad lengths."""
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: rng.randbytes(rng.randrange(1, 2000)),
        lambda: kinds.PREFACE + rng.randbytes(rng.randrange(1, 2000)),
        lambda: kinds.PREFACE + struct.pack(">I", rng.choice(LENGTHS)) + rng.randbytes(40),
        lambda: hello(True)[: rng.randrange(1, 60)],
        lambda: mutated(hello(True), rng),
        lambda: mutated(hello(False), rng),
        lambda: kinds.PREFACE + encode_stream(rng.choice(SEEDS)),
        lambda: b"{" * rng.randrange(1, 5000),
        lambda: b'{"kind":"hello","body":' + b"[" * 3000 + b"\n",
        lambda: b"\x16\x03\x01" + rng.randbytes(300),
        lambda: b"\r\n\r\n\0\r\nQUIT\n" + rng.randbytes(30),
    )
    return rng.choice(choices)()


def http_head(rng: random.Random) -> bytes:
    """An HTTP request that is wrong, or an upgrade that is."""
    good = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: relay.v1.json\r\n\r\n"
    )
    return rng.choice(
        (
            mutated(good, rng), good.replace(b"13", b"12"), good.replace(b"relay.v1.json", b"other"),
            good.replace(b"Host: x\r\n", b"Origin: http://evil.example\r\nHost: x\r\n"),
            b"GET / HTTP/1.1\r\nX: " + b"y" * 30_000, b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", good + rng.randbytes(200),
            good + bytes((0x81, 0xFF)) + rng.randbytes(100), good + bytes((0x8F, 0x80)) + rng.randbytes(4),
        )
    )  # fmt: skip
