"""Frames of the protocol put together from single bytes, and the shapes of test vectors.

Apart from ``relay.wire`` on purpose: with it ``relay.test.make_vectors`` writes what the encoders are held against.
"""

from __future__ import annotations

from typing import Any

Vector = dict[str, Any]  # Any: JSON


def frame(
    kind: int,
    name: bytes = b"",
    fields: bytes = b"",
    body: bytes = b"",
    *,
    codec: int = 0,
    flags: int = 0,
    seq: int = 0,
    reserved: int = 0,
) -> bytes:
    """A frame without its length: 12 bytes of header, name, fields, body (section 2)."""
    header = bytes((kind, codec, flags >> 8, flags & 0xFF))
    header += bytes((seq >> 24 & 0xFF, seq >> 16 & 0xFF, seq >> 8 & 0xFF, seq & 0xFF))
    header += bytes((len(name), reserved, len(fields) >> 8, len(fields) & 0xFF))
    assert len(header) == 12
    return header + name + fields + body


def field(number: int, value: bytes) -> bytes:
    """A field: id, length in two bytes, value."""
    return bytes((number, len(value) >> 8, len(value) & 0xFF)) + value


def pair(key: bytes, value: bytes) -> bytes:
    """An entry of a map: length of the key in one byte, key, length of the value in two, value."""
    return bytes((len(key),)) + key + bytes((len(value) >> 8, len(value) & 0xFF)) + value


def sized(data: bytes) -> bytes:
    """A frame of a stream: the length in four bytes, then the frame."""
    size = len(data)
    return bytes((size >> 24, size >> 16 & 0xFF, size >> 8 & 0xFF, size & 0xFF)) + data


def good(
    name: str,
    description: str,
    message: dict[str, Any],
    binary: bytes | None = None,
    text: str | None = None,
    **more: Any,  # Any: JSON
) -> Vector:
    """A vector that is understood."""
    vector: Vector = {"name": name, "description": description, "message": message}
    if binary is not None:
        vector["binary"] = binary.hex()
    if text is not None:
        vector["json"] = text
    return vector | more


def bad(
    name: str,
    description: str,
    binary: bytes | None = None,
    text: str | None = None,
    **more: Any,  # Any: JSON
) -> Vector:
    """A vector that breaks the protocol."""
    vector: Vector = {"name": name, "description": description, "error": "protocol"}
    if binary is not None:
        vector["binary"] = binary.hex()
    if text is not None:
        vector["json"] = text
    return vector | more


def stream(name: str, description: str, data: bytes | str, messages: list[Vector], **more: Any) -> Vector:  # Any: JSON
    """A vector of a binary stream, given as bytes or in hex."""
    data = bytes.fromhex(data) if isinstance(data, str) else data
    return {"name": name, "description": description, "messages": messages, "stream": data.hex(), **more}


def lines(name: str, description: str, text: str, messages: list[Vector], **more: Any) -> Vector:  # Any: JSON
    """A vector of a stream of lines."""
    return {"name": name, "description": description, "messages": messages, "lines": text, **more}


def inline(kind: str, body: bytes) -> str:
    """An object that has a kind and an inline body only."""
    return f'{{"kind":"{kind}","body":{body.decode()}}}'
