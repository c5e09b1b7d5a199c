"""What a frame costs on one core: ``python bench/wire.py [--repeat=N]``.

Nanoseconds per frame, the best of several rounds (others use the machine too): encoding and decoding in each form,
64-byte and 1 KB bodies, with and without fields, amortised over a read of 64 KiB where it says so; WebSocket frames;
patterns; records of the secure channel, without its changes of keys and handshakes. Large frames come in reads of 64
KiB and are given in milliseconds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns

from relay.dialects.relay_v1 import BinaryStream, JsonLines, WebSocketBinary, WebSocketJson
from relay.wire import kinds
from relay.wire.binary import decode_frame, encode_frame, encode_stream, stamp
from relay.wire.contracts import Dialect
from relay.wire.message import Message, Sender
from relay.wire.names import PatternTable, check_name
from relay.wire.secure import AES_256_GCM, CHACHA20_POLY1305
from relay.wire.secure_records import DatagramOpener, DatagramSealer, StreamOpener, StreamSealer
from relay.wire.text import decode_json, encode_json, stamp_json
from relay.wire.websocket import BINARY, TEXT, WebSocketMachine, apply_mask, client_frame

READ_BYTES = 65_536
RECORDS = 250
ROUND_NS = 20_000_000
MASK = b"\x37\xfa\x21\x3d"

Row = tuple[str, float]


def best(call: Callable[[], object], rounds: int, per_call: int = 1) -> float:
    """Nanoseconds for one of the ``per_call`` things that ``call`` does, in the best of ``rounds``."""
    start = perf_counter_ns()
    call()
    times = max(1, ROUND_NS // max(1, perf_counter_ns() - start) // 4)
    fastest = float("inf")
    for _ in range(rounds):
        start = perf_counter_ns()
        for _ in range(times):
            call()
        fastest = min(fastest, (perf_counter_ns() - start) / times)
    return fastest / per_call


def message(size: int, *, fields: bool = False, json: bool = False) -> Message:
    """A publication with a body of ``size`` bytes; ``fields``: a time to live, a key and two pairs of metadata."""
    extra = {kinds.TTL_MS: 5000, kinds.ORDERING_KEY: "k1", kinds.METADATA: {"a": "1", "trace": "00-11-22"}}
    body = b'{"t":"%b"}' % (b"x" * (size - 8)) if json else os.urandom(size)
    return Message(kinds.PUBLISH, "room.1", body, kinds.JSON if json else kinds.RAW, 0, 7, extra if fields else None)


def binary(rounds: int) -> list[Row]:
    """The binary form."""
    rows = []
    for size in (64, 1024):
        for fields in (False, True):
            sent = message(size, fields=fields)
            what = f"{size} B{', with fields' if fields else ''}"
            one = encode_stream(sent)
            count = READ_BYTES // len(one)
            read, decoder, frame = one * count, BinaryStream(), encode_frame(sent)
            rows += [
                (f"binary encode, {what}", best(partial(encode_stream, sent), rounds)),
                (
                    f"binary decode, {what}, out of 64 KiB",
                    best(partial(decoder.receive, read), rounds, count),
                ),
                (f"binary decode, {what}, alone", best(partial(decode_frame, frame), rounds)),
            ]
    ann = Sender("default", "ann", "n1.s1")
    ann = Sender("default", "ann", "n1.s1", "", stamp(ann), stamp_json(ann))
    event = message(64)
    event.sender = ann
    rows.append(("binary encode, 64 B, stamped event", best(partial(encode_stream, event), rounds)))
    rows.append(("JSON encode, 64 B, stamped event", best(partial(encode_json, event), rounds)))
    return rows


def text(rounds: int) -> list[Row]:
    """The JSON form."""
    rows = []
    for size in (64, 1024):
        for fields in (False, True):
            sent = message(size, fields=fields, json=True)
            what = f"{size} B{', with fields' if fields else ''}"
            line = JsonLines.encode(sent)
            count = READ_BYTES // len(line)
            read, decoder, bare = line * count, JsonLines(), encode_json(sent)
            rows += [
                (f"JSON encode, {what}", best(partial(encode_json, sent), rounds)),
                (
                    f"JSON decode, {what}, out of 64 KiB",
                    best(partial(decoder.receive, read), rounds, count),
                ),
                (f"JSON decode, {what}, alone", best(partial(decode_json, bare), rounds)),
            ]
    return rows


def websocket(rounds: int) -> list[Row]:
    """Masks, and whole reads of a server."""
    rows = []
    for size in (16, 64, 256, 1023, 1024, 4096, 65_536):
        payload = os.urandom(size)
        rows.append((f"unmask {size} B", best(partial(apply_mask, payload, MASK), rounds)))
    for opcode, what, sent in ((BINARY, "binary", message(64)), (TEXT, "JSON", message(64, json=True))):
        one = client_frame(opcode, encode_frame(sent) if opcode == BINARY else encode_json(sent), MASK)
        count = READ_BYTES // len(one)
        read, machine = one * count, WebSocketMachine(True, READ_BYTES)
        dialect = WebSocketBinary() if opcode == BINARY else WebSocketJson()
        rows += [
            (f"WebSocket receive, 64 B {what}, frame only", best(partial(machine.receive, read), rounds, count)),
            (
                f"WebSocket receive, 64 B {what}, with message",
                best(partial(both, machine, dialect, read), rounds, count),
            ),
            (f"WebSocket encode, 64 B {what}", best(partial(dialect.encode, sent), rounds)),
        ]
    return rows


def both(machine: WebSocketMachine, dialect: Dialect, read: bytes) -> None:
    """What a server does with a read."""
    for _, payload in machine.receive(read):
        dialect.receive(payload)


def names(rounds: int) -> list[Row]:
    """The pattern table with ten thousand patterns, and the grammar."""
    table: PatternTable[int] = PatternTable()
    for number in range(10_000):
        table.add(f"room{number}.*", number)
    asked = [f"room{number}.x" for number in range(3000)]

    def fresh() -> None:
        table._forget()
        for name in asked:
            table.match(name)

    def cached() -> None:
        for name in asked:
            table.match(name)

    return [
        ("pattern match, not seen before", best(fresh, rounds, len(asked))),
        ("pattern match, seen before", best(cached, rounds, len(asked))),
        ("check_name", best(partial(check_name, "room.1.chat"), rounds)),
    ]


def secure(rounds: int) -> list[Row]:
    """Records of 128 bytes in the secure channel, as on a stream and as datagrams. Every record opens once: those to be
    opened are sealed before the clock runs."""
    rows = []
    body = os.urandom(128)
    for suite, name in ((AES_256_GCM, "AES-256-GCM"), (CHACHA20_POLY1305, "ChaCha20")):
        secret = os.urandom(32)
        stream, datagrams = StreamSealer(suite, secret), DatagramSealer(suite, secret)
        rows.append((f"secure stream seal, 128 B, {name}", best(partial(stream.seal, body), rounds)))
        rows.append((f"secure datagram seal, 128 B, {name}", best(partial(datagrams.seal, body, bytes(9)), rounds)))
        fastest = {"stream": float("inf"), "datagram": float("inf")}
        for _ in range(rounds * 8):  # short ones: others use the machine
            stream, datagrams = StreamSealer(suite, secret), DatagramSealer(suite, secret)
            records = [stream.seal(body) for _ in range(RECORDS)]
            opener = StreamOpener(suite, secret)
            start = perf_counter_ns()
            for record in records:
                for _ in opener.receive(record):
                    pass
            fastest["stream"] = min(fastest["stream"], (perf_counter_ns() - start) / RECORDS)
            records = [datagrams.seal(body, bytes(9)) for _ in range(RECORDS)]
            other = DatagramOpener(suite, secret)
            start = perf_counter_ns()
            for record in records:
                other.open(record, bytes(9))
            fastest["datagram"] = min(fastest["datagram"], (perf_counter_ns() - start) / RECORDS)
            assert not other.refused
        rows += [(f"secure {what} open, 128 B, {name}", cost) for what, cost in fastest.items()]
    return rows


def large(rounds: int) -> list[Row]:
    """Frames of 8 MiB in reads of 64 KiB, in nanoseconds."""
    body = os.urandom(8 * 1024 * 1024)
    stream = encode_stream(Message(kinds.PUBLISH, body=body))
    masked = client_frame(BINARY, body, MASK)
    streams = [stream[at : at + READ_BYTES] for at in range(0, len(stream), READ_BYTES)]
    frames = [masked[at : at + READ_BYTES] for at in range(0, len(masked), READ_BYTES)]
    decoder, machine = BinaryStream(2**24), WebSocketMachine(True, 2**24)

    return [
        ("binary decode, 8 MiB", best(partial(feed, decoder.receive, streams), rounds)),
        ("WebSocket receive, 8 MiB", best(partial(feed, machine.receive, frames), rounds)),
    ]


def feed(receive: Callable[[bytes], Sequence[object]], pieces: list[bytes]) -> None:
    """Gives ``receive`` one thing in pieces."""
    found = [each for piece in pieces for each in receive(piece)]
    assert len(found) == 1


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=15, help="rounds, of which the best counts")
    rounds = options.parse_args().repeat
    for part in (binary, text, websocket, names, secure, large):
        for what, cost in part(rounds):
            shown = f"{cost:10.0f} ns" if cost < 1_000_000 else f"{cost / 1e6:10.2f} ms"
            print(f"{what:50} {shown}")


if __name__ == "__main__":
    main()
