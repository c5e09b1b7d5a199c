from collections.abc import Callable
from typing import Any

from relay.wire.message import Message

VERSION: int

def take(data: bytes, at: int, length_max: int, make: Callable[..., Message], messages: list[Message], /) -> int: ...
def frame(
    kind: int, codec: int, flags: int, seq: int, name: str, body: bytes,
    section: bytes | None, fields: dict[int, Any] | None, /,
) -> bytes | None: ...
