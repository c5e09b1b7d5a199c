"""The JSON form of the protocol: one object per message.

Source: ``docs/protocol.md`` section 2, "JSON form". Every message has one counterpart in the binary form. An inline
``body`` is carried as the bytes it came as.

msgspec reads the objects. It takes the last of two equal keys and skips what it is not asked for without looking at
its UTF-8; both are looked after here: text that is not ASCII is decoded once, and colons are counted. Each pair of
the outermost object has one colon plus those inside its value, so when the colons of all pairs that were read add up
to the colons of the text, no pair was skipped or overwritten.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from json import loads
from typing import Any, Final

import msgspec
from msgspec import Raw

from relay.errors import BadBody, BadName, FrameTooLarge, RemoteProtocolError
from relay.wire import kinds
from relay.wire.binary import FRAME_BYTES_MAX_AT_FIRST, NAME_BYTES_MAX
from relay.wire.kinds import FIELDS, OUTCOMES, REFUSE
from relay.wire.message import Fields, Message, Sender

UINT_MAX: Final = 2**64 - 1
SEQ_MAX: Final = 2**32 - 1
_FROM: Final = frozenset((kinds.FROM_USER, kinds.FROM_SESSION, kinds.FROM_DEVICE, kinds.FROM_REALM))

_to_json = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(str).decode
_integer = msgspec.json.Decoder(int).decode
_bytes = msgspec.json.Decoder(bytes).decode
_word = msgspec.json.Decoder(int | str).decode
_words = msgspec.json.Decoder(list[int | str]).decode
_strings = msgspec.json.Decoder(dict[str, str]).decode
_pairs = msgspec.json.Decoder(dict[str, Raw]).decode
_anything = msgspec.json.Decoder(Raw).decode

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


# --- fields: one reader and one writer per type -------------------------------------------------------------------


def _read_uint(raw: Raw) -> int:
    value = _integer(raw)
    if not 0 <= value <= UINT_MAX:
        raise RemoteProtocolError("an integer field is out of range")
    return value


def _write_uint(value: int) -> bytes:
    if type(value) is not int or not 0 <= value <= UINT_MAX:
        raise ValueError(f"{value!r} is no unsigned integer of 64 bits")
    return b"%d" % value


def _write_text(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError("a string expected")
    return _to_json(value)


def _write_bytes(value: bytes) -> bytes:
    return b'"%b"' % b64encode(value)


def _read_present(raw: Raw) -> bool:
    if bytes(raw) != b"true":
        raise RemoteProtocolError("a field that is only present is not true")
    return True


def _write_present(value: bool) -> bytes:
    if value is not True:
        raise ValueError("True expected")
    return b"true"


def _read_outcome(raw: Raw) -> str:
    value = _text(raw)
    if value not in OUTCOMES:
        raise RemoteProtocolError("an unknown outcome")
    return value


def _write_outcome(value: str) -> bytes:
    if value not in OUTCOMES:
        raise ValueError(f"{value!r} is no outcome")
    return _to_json(value)


def _read_map(raw: Raw) -> dict[str, str]:
    value = _strings(raw)
    if bytes(raw).count(b":") != len(value):
        _check_once(bytes(raw))
    for key, each in value.items():
        if not key or len(key.encode()) > 255 or len(each.encode()) > 0xFFFF:
            raise RemoteProtocolError("a key of a map is empty, or a key or value is too long")
    return value


def _write_map(value: dict[str, str]) -> bytes:
    for key, each in value.items():
        if not 1 <= len(key.encode()) <= 255 or len(each.encode()) > 0xFFFF:
            raise ValueError("a key is empty, or a key or value is too long")
    return _to_json(value)


def _read_filters(raw: Raw) -> Any:  # Any: a tuple, or the sentence of a refusal
    numbers = []
    for each in _words(raw):
        number = kinds.FILTER_NUMBERS.get(each) if isinstance(each, str) else each
        if number is None:
            return f"filter {each} is not known here"
        if not 0 <= number <= 255:
            raise RemoteProtocolError("a filter's number is out of range")
        numbers.append(number)
    if len(numbers) > kinds.FILTERS_MAX:
        raise RemoteProtocolError(f"{len(numbers)} filters, at most {kinds.FILTERS_MAX} are allowed")
    return tuple(numbers)


def _write_filters(value: tuple[int, ...]) -> bytes:
    if len(value) > kinds.FILTERS_MAX:
        raise ValueError("too many filters")
    return _to_json([kinds.FILTER_NAMES.get(each, each) for each in bytes(value)])


# Any: the type of a field's value follows from its number.
_BY_TYPE: Final[dict[str, tuple[Callable[[Raw], Any], Callable[[Any], bytes]]]] = {
    "uint": (_read_uint, _write_uint),
    "text": (_text, _write_text),
    "bytes": (_bytes, _write_bytes),
    "present": (_read_present, _write_present),
    "outcome": (_read_outcome, _write_outcome),
    "filters": (_read_filters, _write_filters),
    "map": (_read_map, _write_map),
}
_READERS: Final = {name: (number, _BY_TYPE[type_][0]) for number, (name, type_) in FIELDS.items()}
_READERS.update({"!" + name: reader for name, reader in list(_READERS.items())})
_WRITERS: Final = {number: (b',"%b":' % name.encode(), _BY_TYPE[type_][1]) for number, (name, type_) in FIELDS.items()}
_KINDS: Final = {number: b'{"kind":"%b"' % name.encode() for number, name in kinds.KINDS.items()}


# --- encoding -----------------------------------------------------------------------------------------------------


def stamp_json(sender: Sender) -> bytes:
    """The ``from_…`` keys of ``sender`` as a piece of an object, for ``Sender.json``."""
    values = ((kinds.FROM_USER, sender.user), (kinds.FROM_SESSION, sender.session), (kinds.FROM_DEVICE, sender.device))
    return b"".join([_WRITERS[number][0] + _to_json(text) for number, text in values if text])


def _flag_names(flags: int) -> list[str | int]:
    return [kinds.FLAGS.get(1 << bit, 1 << bit) for bit in range(16) if flags & 1 << bit]


def _body_json(message: Message, line: bool) -> bytes:
    """The keys of the body, and the end of the object."""
    body, codec = message.body, message.codec
    if not (message.fields and message.fields.get(kinds.FILTERS)):
        if codec == kinds.JSON:
            try:
                if not body.isascii():
                    body.decode()
                inline = bytes(_anything(body))
                if line and b"\n" in inline:
                    inline = msgspec.json.format(inline, indent=-1)
                return b',"body":%b}' % inline
            except _MALFORMED:
                pass  # what is not JSON goes as base64, below
        elif codec == kinds.TEXT:
            try:
                return b',"text":%b}' % _to_json(body.decode())
            except UnicodeDecodeError:
                pass  # likewise
        elif codec == kinds.RAW and not body:
            return b"}"
    if codec == kinds.RAW:
        return b',"data":"%b"}' % b64encode(body)
    return b',"codec":%b,"data":"%b"}' % (_to_json(kinds.CODECS.get(codec, codec)), b64encode(body))


def _encode(message: Message, line: bool) -> list[bytes]:
    kind = message.kind
    parts = [_KINDS.get(kind) or b'{"kind":%d' % kind]
    if message.seq:
        parts.append(b',"seq":%d' % message.seq)
    if message.name:
        parts.append(b',"name":' + _name_json(message.name))
    if message.flags:
        parts.append(b',"flags":' + _to_json(_flag_names(message.flags)))
    sender = message.sender
    if sender is not None:
        parts.append(sender.json)
    if message.fields:
        _fields_json(message.fields, sender is not None, parts)
    parts.append(_body_json(message, line))
    return parts


def _name_json(name: str) -> bytes:
    try:
        if len(name.encode()) > NAME_BYTES_MAX:
            raise BadName(f"a name of more than {NAME_BYTES_MAX} bytes")
        return _to_json(name)
    except UnicodeEncodeError:
        raise BadName("a name that is not UTF-8") from None


def _fields_json(fields: Fields, stamped: bool, parts: list[bytes]) -> None:
    number = 0
    try:
        for number, value in fields.items():
            # What a client wrote into from_... never leaves beside the server's stamp.
            if number == REFUSE or (stamped and number in _FROM):
                continue
            key, write = _WRITERS[number]
            parts.append(key)
            parts.append(write(value))
    except KeyError:
        raise BadBody(f"there is no field {number}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise BadBody(f"field {FIELDS[number][0]}: {error}") from None


def encode_json(message: Message) -> bytes:
    """``message`` as one JSON object; ``BadName`` or ``BadBody`` when it cannot be written."""
    return b"".join(_encode(message, line=False))


def encode_line(message: Message) -> bytes:
    """``message`` as one line, its end included."""
    parts = _encode(message, line=True)
    parts.append(b"\n")
    return b"".join(parts)


# --- decoding -----------------------------------------------------------------------------------------------------


def decode_json(data: bytes) -> Message:
    """The object in ``data`` (white space around it is allowed); raises ``RemoteProtocolError``."""
    try:
        if not data.isascii():
            data.decode()
        pairs = _pairs(data)
        colons = len(pairs)
        for raw in pairs.values():
            colons += bytes(raw).count(b":")
        if colons != data.count(b":"):
            _check_once(data)
        return _message(pairs)
    except _MALFORMED as error:
        raise RemoteProtocolError(f"not an object of the protocol: {error}") from None


def _check_once(data: bytes) -> None:
    """Refuses an object in which a key stands twice; objects inside it are the body's affair."""
    outermost: list[tuple[str, Any]] = []  # Any: a JSON value, not looked at

    def keep(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = pairs  # the outermost object ends last

    loads(data, object_pairs_hook=keep, parse_int=str, parse_float=str)
    if len({key for key, _ in outermost}) != len(outermost):
        raise RemoteProtocolError("a key is given twice")


def _message(pairs: dict[str, Raw]) -> Message:
    message = Message(0)
    fields: Fields = {}
    body_keys = 0
    codec: int | None = None
    for key, raw in pairs.items():
        reader = _READERS.get(key)
        if reader is not None:
            number, read = reader
            if number in fields:
                raise RemoteProtocolError(f"field {key} is given twice")
            fields[number] = read(raw)
        elif key == "kind":
            message.kind = _number(_word(raw), kinds.KIND_NUMBERS, 255, "kind", fields)
        elif key == "name":
            message.name = _text(raw)
            if len(message.name.encode()) > NAME_BYTES_MAX:
                raise RemoteProtocolError(f"a name of more than {NAME_BYTES_MAX} bytes")
        elif key == "seq":
            message.seq = _integer(raw)
            if not 0 <= message.seq <= SEQ_MAX:
                raise RemoteProtocolError("seq is out of range")
        elif key == "flags":
            for word in _words(raw):
                message.flags |= _number(word, kinds.FLAG_NUMBERS, 0xFFFF, "flag", fields)
        elif key == "codec":
            codec = _number(_word(raw), kinds.CODEC_NUMBERS, 255, "codec", fields)
        elif key in _BODIES:
            body_keys += 1
            message.codec, message.body = _BODIES[key](raw)
        elif key[:1] == "!":
            fields.setdefault(REFUSE, f"critical key {key} is not known here")
    if "kind" not in pairs:
        raise RemoteProtocolError("the object has no kind")
    if body_keys > 1:
        raise RemoteProtocolError("body, text and data exclude one another")
    if codec is not None:
        if body_keys and "data" not in pairs and codec != message.codec:
            raise RemoteProtocolError("codec contradicts the form of the body")
        message.codec = codec
    if message.flags & kinds.CRITICAL_FLAGS:
        fields.setdefault(REFUSE, f"critical flags 0x{message.flags & kinds.CRITICAL_FLAGS:04x} are not known here")
    if type(fields.get(kinds.FILTERS)) is str:
        fields.setdefault(REFUSE, fields.pop(kinds.FILTERS))
    message.fields = fields or None
    return message


def _number(word: int | str, names: dict[str, int], largest: int, what: str, fields: Fields) -> int:
    """The number that ``word`` is or names; a name that is not known makes the frame refused."""
    if type(word) is str:
        number = names.get(word)
        if number is None:
            fields.setdefault(REFUSE, f"{what} {word!r} is not known here")
            return 0
        return number
    assert isinstance(word, int)
    if not 0 <= word <= largest:
        raise RemoteProtocolError(f"a number of a {what} is out of range")
    return word


_BODIES: Final[dict[str, Callable[[Raw], tuple[int, bytes]]]] = {
    "body": lambda raw: (kinds.JSON, bytes(raw)),
    "text": lambda raw: (kinds.TEXT, _text(raw).encode()),
    "data": lambda raw: (kinds.RAW, _bytes(raw)),
}


class LineDecoder:
    """A stream of lines, in any chunks, as messages.

    ``frame_bytes_max`` bounds a line (without its end) and may be raised while it runs. ``failed`` is set once, then
    ``receive`` must not be called again. Empty lines are ignored.
    """

    __slots__ = ("_held", "failed", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX_AT_FIRST) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.failed: RemoteProtocolError | None = None
        self._held = bytearray()  # the beginning of a line

    def receive(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order; see ``relay.wire.contracts.Dialect``."""
        lines = data.split(b"\n")
        if self._held:
            self._held += lines[0]
            if len(lines) > 1:
                lines[0] = bytes(self._held)
                self._held = bytearray()
            else:
                lines[0] = b""
        messages: list[Message] = []
        try:
            if self._held:
                self._check_length(len(self._held))
                return messages
            rest = lines.pop()
            for line in lines:
                self._check_length(len(line))
                if line and not line.isspace():
                    messages.append(decode_json(line))
            self._check_length(len(rest))
            self._held += rest
        except RemoteProtocolError as error:
            self.failed = error
        return messages

    def _check_length(self, size: int) -> None:
        if size > self.frame_bytes_max:
            raise FrameTooLarge(f"a line of more than {self.frame_bytes_max} bytes")
