"""What an application gets and gives: events, questions, results; and the messages made of what it gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

import msgspec

from relay.errors import BadBody
from relay.wire import handshake, kinds
from relay.wire.bodies import body_of, decode_body, encode_body
from relay.wire.message import Fields, Message

INFLATE_RATIO_MAX = 100
INFLATE_BYTES_MAX = 16_777_216
_READABLE = frozenset({kinds.RAW, kinds.TEXT, kinds.JSON, kinds.MSGPACK})
_UNREAD: Any = object()  # Any: stands where any value may


class Extras(TypedDict, total=False):
    """Fields that may go with a message, by their names in ``docs/protocol.md`` section 3."""

    ttl_ms: int
    idempotency_key: str
    ordering_key: str
    conflation_key: str
    priority: int
    traceparent: str
    tracestate: str
    metadata: dict[str, str]
    tags: dict[str, str]


class Targets(Extras, total=False):
    """Where a push or pull goes (section 4): none of these is the procedure of that name."""

    user: str
    device: str
    session: str
    procedure: str
    provider: str
    node: str
    all: bool
    queue: str
    level: int
    deliver_at: int


class Event:
    """A message from the server: an event, push, pull or reply, or that somebody comes or goes."""

    __slots__ = ("_value", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self._value: Any = _UNREAD

    @property
    def kind(self) -> str:
        """``event``, ``joined``, ``left``, ``occupied``, ``vacated``, ``push``, ``pull`` or ``reply``."""
        return kinds.KINDS.get(self.message.kind, str(self.message.kind))

    @property
    def name(self) -> str:
        """The channel, or the name of the push or pull."""
        return self.message.name

    @property
    def body(self) -> bytes:
        """The body's bytes, transfer filters undone. Raises ``FilterError``."""
        numbers = self.message.get(kinds.FILTERS)
        if not numbers:
            return self.message.body
        from relay.wire import filters  # zlib, zstd and crc32c are not wanted at every start

        return filters.unwrap(self.message.body, numbers, INFLATE_RATIO_MAX, INFLATE_BYTES_MAX)

    @property
    def codec(self) -> str | int:
        """The body's codec: its name, or its number when it has none."""
        return kinds.CODECS.get(self.message.codec, self.message.codec)

    @property
    def value(self) -> Any:  # Any: whatever was sent
        """The body as a value: text as ``str``, json and msgpack as what they hold, all else as ``bytes``.

        Raises ``BadBody`` or ``FilterError`` when it is damaged.
        """
        if self._value is _UNREAD:
            codec = self.message.codec
            self._value = decode_body(self.body, codec) if codec in _READABLE else self.body
        return self._value

    @property
    def sender_user(self) -> str:
        """The user it is from; '' for an unbound session or the server itself. Stamped by the server."""
        return str(self.message.get(kinds.FROM_USER, ""))

    @property
    def sender_session(self) -> str:
        """The session it is from."""
        return str(self.message.get(kinds.FROM_SESSION, ""))

    @property
    def sender_device(self) -> str:
        """The device it is from."""
        return str(self.message.get(kinds.FROM_DEVICE, ""))

    @property
    def offset(self) -> int | None:
        """Its place in the channel's history, where there is one; with ``epoch``."""
        offset: int | None = self.message.get(kinds.OFFSET)
        return offset

    @property
    def epoch(self) -> str:
        """The life of the channel's history that ``offset`` counts in."""
        return str(self.message.get(kinds.EPOCH, ""))

    @property
    def retained(self) -> bool:
        """Whether it is the channel's last value, sent because the subscription asked for it."""
        return bool(self.message.flags & kinds.RETAINED)

    @property
    def metadata(self) -> dict[str, str]:
        """The sender's key-value pairs."""
        found: dict[str, str] = self.message.get(kinds.METADATA, {})
        return found

    @property
    def fields(self) -> dict[str, Any]:  # Any: the field's name decides the type
        """All fields, by name."""
        return {kinds.FIELDS[number][0]: value for number, value in (self.message.fields or {}).items() if number}

    @property
    def member(self) -> handshake.Member:
        """Who joined or left. Raises ``BadBody`` when the message is neither."""
        return handshake.read(self.message, handshake.Member)

    def __repr__(self) -> str:
        return f"<Event {self.message.describe()}>"


class Pull(Event):
    """A question to a provider. ``deadline``: when the caller stops waiting, on the clock of the event loop (reactor);
    infinity when it does not."""

    __slots__ = ("deadline",)

    def __init__(self, message: Message, deadline: float) -> None:
        super().__init__(message)
        self.deadline = deadline


class Answer(msgspec.Struct, frozen=True):
    """What a provider returns when it wants to say more than a value. ``codec``: None chooses by the value."""

    value: Any  # Any: whatever the codec can carry
    codec: str | int | None = None
    metadata: dict[str, str] | None = None


class Published(msgspec.Struct, frozen=True):
    """The result of a publish: sessions reached; offset and epoch where the channel keeps history."""

    reached: int
    offset: int | None = None
    epoch: str | None = None


class History(msgspec.Struct, frozen=True):
    """A part of a channel's history. ``first``: the oldest offset that is kept, ``last``: the newest ever given.
    ``next``: where to go on (``after``, or going backwards ``before``); 0: there is no more."""

    events: tuple[Event, ...]
    epoch: str
    first: int
    last: int
    next: int


class Pushed(msgspec.Struct, frozen=True):
    """The result of a push: sessions that it was for, and those that it reached. ``offset``: its number in the user's
    inbox or the queue, when it was stored there instead."""

    addressed: int
    reached: int
    offset: int | None = None


def encode(value: Any, codec: str | int | None) -> tuple[bytes, int]:  # Any: whatever the codec can carry
    """Body and codec number: bytes as raw, strings as text, all else as JSON, or as ``codec`` says.

    Bytes under a codec that relay does not write itself are taken as they are. Raises ``BadBody``.
    """
    if codec is None:
        return body_of(value)
    number = kinds.CODEC_NUMBERS.get(codec) if isinstance(codec, str) else codec
    if number is None or not 0 <= number <= 255:
        raise BadBody(f"{codec!r} is no codec; {', '.join(kinds.CODEC_NUMBERS)} or a number from 0 to 255 are")
    if number not in _READABLE and isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), number
    return encode_body(value, number), number


def fields_of(extras: dict[str, Any]) -> Fields | None:  # Any: the field's name decides the type
    """Keyword arguments as fields; ``None``, ``False`` and empty maps are left out. Raises ``BadBody``."""
    fields: Fields = {}
    for name, value in extras.items():
        number = kinds.FIELD_NUMBERS.get(name)
        if number is None:
            raise BadBody(f"there is no field {name}")
        if value is None or value is False or value == {}:
            continue
        if kinds.FIELDS[number][1] == "uint" and (type(value) is not int or value < 0):
            raise BadBody(f"{name}: a whole number, not less than 0, expected")
        fields[number] = value
    return fields or None


def compose(
    kind: int,
    name: str,
    value: Any,  # Any: whatever the codec can carry
    extras: dict[str, Any],  # Any: the field's name decides the type
    codec: str | int | None = None,
    flags: Iterable[str] = (),
    filters: Iterable[str] = (),
) -> Message:
    """A message with ``value`` as its body. Raises ``BadBody`` or ``FilterError``."""
    body, number = encode(value, codec)
    fields = fields_of(extras)
    bits = 0
    for flag in flags:
        if flag not in kinds.FLAG_NUMBERS:
            raise BadBody(f"{flag!r} is no flag; {', '.join(kinds.FLAG_NUMBERS)} are")
        bits |= kinds.FLAG_NUMBERS[flag]
    chosen = tuple(filters)
    if chosen:
        from relay.wire.filters import known, wrap  # as above

        numbers = known()
        for each in chosen:
            if each not in numbers:
                raise BadBody(f"{each!r} is no filter; {', '.join(numbers)} are")
        applied = tuple(numbers[each] for each in chosen)
        body = wrap(body, applied)
        fields = {**(fields or {}), kinds.FILTERS: applied}
    return Message(kind, name, body, number, bits, 0, fields)
