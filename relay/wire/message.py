"""One message of relay's protocol, in whatever form it came and in whatever form it leaves.

A ``Message`` is what every dialect decodes to and encodes from. The body is opaque bytes under a codec id; relay
never looks inside a body that it only forwards. Immutable by agreement: a message that was handed to ``deliver`` is
shared by all its receivers and by their resume buffers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from relay.wire.kinds import CONFLATION_KEY, FIELDS, KINDS, LATEST, SESSION_KIND_MIN, UNRELIABLE

# Values by field type (relay.wire.kinds.FIELDS): uint -> int, text and outcome -> str, bytes -> bytes,
# present -> True, map -> dict[str, str], filters -> tuple[int, ...]. Any, because the number decides which.
Fields = dict[int, Any]


class Sender(msgspec.Struct, frozen=True, gc=False):
    """Who a message is from, stamped by the server: shared by all messages of one session.

    ``binary`` and ``json`` are the encoded ``from_…`` fields, made once (see ``relay.wire.binary.stamp`` and
    ``relay.wire.text.stamp_json``), so that stamping a message is joining bytes.
    """

    realm: str
    user: str
    session: str
    device: str = ""
    binary: bytes = b""
    json: bytes = b""


class Message(msgspec.Struct, gc=False):
    """``kind``, ``flags``, ``codec``: numbers of ``relay.wire.kinds``. ``seq``: 0, or the number that pairs a request
    with its answer. ``name``: channel, pattern, procedure or route. ``fields``: None when there are none.
    ``sender``: set by the server only; a decoder on the client side leaves ``from_…`` in ``fields``.
    """

    kind: int
    name: str = ""
    body: bytes = b""
    codec: int = 0
    flags: int = 0
    seq: int = 0
    fields: Fields | None = None
    sender: Sender | None = None

    def get(self, number: int, default: Any = None) -> Any:  # Any: the field's number decides the type
        """The field of that number, or ``default``."""
        return default if self.fields is None else self.fields.get(number, default)

    def describe(self) -> str:
        """A short line for logs and for people: kind, seq, name, field names, body size."""
        parts = [KINDS.get(self.kind, f"kind {self.kind}")]
        if self.seq:
            parts.append(f"#{self.seq}")
        if self.name:
            parts.append(self.name)
        if self.fields:
            parts.append("{" + " ".join(FIELDS[n][0] if n in FIELDS else str(n) for n in self.fields) + "}")
        parts.append(f"{len(self.body)} B")
        return " ".join(parts)


def counted(message: Message, apart: int) -> Message:
    """``message`` for the session's own way, where it counts: without the flags of those that are carried apart.

    For what is sent again after a resume, and what answers a request for history: it has a place among the others.
    """
    if not is_loose(message, apart):
        return message
    return msgspec.structs.replace(message, flags=message.flags & ~apart)


def latest_key(message: Message) -> str | None:
    """Of loose messages with the same key only the newest counts; None: each counts."""
    return f"{message.name} {message.get(CONFLATION_KEY, '')}" if message.flags & LATEST else None


def is_loose(message: Message, apart: int = UNRELIABLE) -> bool:
    """Whether a transport carries this one apart from the session's frames: it is not counted as one there.

    ``apart``: the flags of messages that it carries so; a transport that may lose frames those that are unreliable.
    """
    return bool(message.flags & apart) and not message.seq and message.kind >= SESSION_KIND_MIN
