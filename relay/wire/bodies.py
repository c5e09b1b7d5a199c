"""Bodies as values: what the five codecs that relay itself can read turn into, and back.

Used where relay or an application looks into a body (handlers, the SDK, the command); a body that is only forwarded
never comes here. Source of the codec numbers: ``docs/protocol.md`` section 4, "Bodies".
"""

from __future__ import annotations

from typing import Any

import msgspec

from relay.errors import BadBody
from relay.wire import kinds

_ERRORS = (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, OverflowError, RecursionError)


def encode_body(value: Any, codec: int) -> bytes:  # Any: whatever the codec can carry
    """``value`` as a body of that codec; ``BadBody`` when it cannot be, or relay does not write that codec."""
    try:
        if codec == kinds.JSON:
            return msgspec.json.encode(value)
        if codec == kinds.MSGPACK:
            return msgspec.msgpack.encode(value)
        if codec == kinds.TEXT and isinstance(value, str):
            return value.encode()
        if codec == kinds.RAW and isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
    except _ERRORS as error:
        raise BadBody(f"not to be written as {kinds.CODECS[codec]}: {error}") from None
    raise BadBody(f"a {type(value).__name__} is not to be written as {kinds.CODECS.get(codec, f'codec {codec}')}")


def decode_body(body: bytes, codec: int, type: Any = Any) -> Any:  # Any: what the caller asks for
    """The value in ``body``, as ``type`` (anything msgspec understands).

    raw gives bytes, text a string, json and msgpack what they hold. ``BadBody`` when the body is damaged or no
    ``type``, or relay does not read that codec.
    """
    try:
        if codec == kinds.JSON:
            return msgspec.json.decode(body, type=type)
        if codec == kinds.MSGPACK:
            return msgspec.msgpack.decode(body, type=type)
        if codec == kinds.TEXT:
            return msgspec.convert(body.decode(), type)
        if codec == kinds.RAW:
            return body if type in (Any, bytes) else msgspec.convert(body, type)
    except _ERRORS as error:
        raise BadBody(f"{kinds.CODECS[codec]} body: {error}") from None
    raise BadBody(f"a body in {kinds.CODECS.get(codec, f'codec {codec}')} is not read here")


def body_of(value: Any) -> tuple[bytes, int]:  # Any: whatever an application publishes
    """Body and codec for ``value``: bytes as raw, a string as text, anything else as JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), kinds.RAW
    if isinstance(value, str):
        return encode_body(value, kinds.TEXT), kinds.TEXT
    return encode_body(value, kinds.JSON), kinds.JSON
