"""Checks ``docs/protocol-vectors.json`` against this implementation: ``python -m relay.test.vectors``.

Every vector, also cut in two at each byte and fed byte by byte; both forms in Python; then the JSON form in the
browser module, by node. Prints totals; the exit status is 1 when anything is wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from relay.dialects.relay_v1 import BinaryMessages, BinaryStream, JsonLines, JsonMessages
from relay.wire.contracts import Dialect
from relay.wire.kinds import FIELD_NUMBERS, FIELDS, PREFACE, REFUSE
from relay.wire.message import Message

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "protocol-vectors.json"
BROWSER_MODULE = ROOT / "relay" / "admin" / "static" / "relay.js"
BROWSER_CHECK = Path(__file__).with_name("vectors.mjs")
NODE_TIMEOUT_S = 60

Vector = dict[str, Any]  # Any: JSON


def load() -> list[Vector]:
    """The vectors, each with the ``frame_bytes_max`` that holds for it."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    return [{"frame_bytes_max": document["frame_bytes_max"]} | vector for vector in document["vectors"]]


def message_of(written: Vector) -> Message:
    """The message that a vector describes."""
    fields: dict[int, Any] = {}  # Any: by the field's type
    for name, value in written.get("fields", {}).items():
        number = FIELD_NUMBERS[name]
        type_ = FIELDS[number][1]
        fields[number] = bytes.fromhex(value) if type_ == "bytes" else tuple(value) if type_ == "filters" else value
    return Message(
        written["kind"],
        written.get("name", ""),
        bytes.fromhex(written.get("body", "")),
        written.get("codec", 0),
        written.get("flags", 0),
        written.get("seq", 0),
        fields or None,
    )


def plain(message: Message) -> tuple[Message, bool]:
    """``message`` without the sentence of a refusal, and whether it had one."""
    fields = dict(message.fields or {})
    refused = fields.pop(REFUSE, None) is not None
    bare = Message(message.kind, message.name, message.body, message.codec, message.flags, message.seq, fields or None)
    return bare, refused


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """``data`` whole, in two parts at each byte, and byte by byte."""
    yield [data]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]


class Check:
    """Goes through vectors; ``totals`` counts what was compared, ``wrong`` says what did not agree."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.wrong: list[str] = []

    def vector(self, vector: Vector) -> None:
        """Checks one vector in all its forms."""
        self.totals["vectors"] += 1
        limit = vector["frame_bytes_max"]
        if "binary" in vector:
            data = bytes.fromhex(vector["binary"])
            self._receive(vector, "binary messages", lambda: BinaryMessages(limit), [[data]])
            sized = PREFACE + len(data).to_bytes(4) + data
            self._receive(vector, "binary streams", lambda: BinaryStream(limit, preface=True), cuts(sized))
            self._encode(vector, BinaryMessages, data)
            self._encode(vector, BinaryStream, len(data).to_bytes(4) + data)
        if "json" in vector:
            data = vector["json"].encode()
            self._receive(vector, "json messages", lambda: JsonMessages(limit), [[data]])
            line = data.replace(b"\n", b" ") + b"\n"
            self._receive(vector, "json streams", lambda: JsonLines(limit), cuts(line))
            self._encode(vector, JsonMessages, data)
            self._encode(vector, JsonLines, line)
        if "stream" in vector:
            stream = PREFACE + bytes.fromhex(vector["stream"])
            self._receive(vector, "binary streams", lambda: BinaryStream(limit, preface=True), cuts(stream))
        if "lines" in vector:
            self._receive(vector, "json streams", lambda: JsonLines(limit), cuts(vector["lines"].encode()))

    def _receive(
        self, vector: Vector, form: str, make: Callable[[], Dialect], ways: Iterator[list[bytes]] | list[list[bytes]]
    ) -> None:
        written = vector.get("messages", [vector["message"]] if "message" in vector else [])
        expected = [(message_of(each), vector.get("refused", False)) for each in written]
        for chunks in ways:
            dialect = make()
            received: list[Message] = []
            for chunk in chunks:
                received += dialect.receive(chunk)
                if dialect.failed is not None:
                    break
            error = None if dialect.failed is None else dialect.failed.label
            self.totals[form] += 1
            if [plain(each) for each in received] != expected or error != vector.get("error"):
                self.wrong.append(f"{vector['name']}, {form} in {len(chunks)} chunks: {received} {dialect.failed}")

    def _encode(self, vector: Vector, dialect: type[Dialect], data: bytes) -> None:
        if "again" in vector and dialect is JsonMessages:
            data = vector["again"].encode()
        elif "error" in vector or vector.get("decode_only"):
            return
        self.totals["encoded"] += 1
        encoded = dialect.encode(message_of(vector["message"]))  # type: ignore[call-arg,arg-type]  # a static method
        if encoded != data:
            self.wrong.append(f"{vector['name']}, {dialect.__name__} writes {encoded!r}")


def browser() -> str:
    """What the browser module's check prints; ``RuntimeError`` when it fails, empty when there is no such module."""
    if not BROWSER_MODULE.exists():
        return ""
    command = ["node", str(BROWSER_CHECK), str(FILE), str(BROWSER_MODULE)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=NODE_TIMEOUT_S, check=False)
    if ended.returncode:
        raise RuntimeError(ended.stdout + ended.stderr)
    return ended.stdout.strip()


def main() -> int:
    """Checks everything and prints totals; returns the exit status."""
    check = Check()
    for vector in load():
        check.vector(vector)
    for line in check.wrong:
        print(f"wrong: {line}")
    print(", ".join(f"{count} {what}" for what, count in check.totals.items()))
    try:
        print(f"browser: {browser() or 'no module, nothing checked'}")
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        print(f"wrong: browser: {error}")
        return 1
    print(f"{len(check.wrong)} wrong")
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
