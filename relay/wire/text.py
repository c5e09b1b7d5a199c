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
from msgspec import UNSET, Raw, UnsetType

from relay.errors import BadBody, BadName, FrameTooLarge, RemoteProtocolError
from relay.wire import kinds
from relay.wire.binary import FIELD_SECTION_BYTES_MAX, FRAME_BYTES_MAX_AT_FIRST, NAME_BYTES_MAX, write_fields
from relay.wire.kinds import FIELDS, OUTCOMES, REFUSE
from relay.wire.message import Fields, Message, Sender

UINT_MAX: Final = 2**64 - 1
SEQ_MAX: Final = 2**32 - 1
# Of one entry of a map: what the binary form has room for.
KEY_BYTES_MAX: Final = 255
VALUE_BYTES_MAX: Final = 65_535
# msgspec follows nested objects as deep as Python's recursion limit and the caller's stack let it. A body goes inline
# only when so many more levels would do, lest a receiver with a deeper stack take it for a broken object.
DEPTH_SPARE: Final = 300
_FROM: Final = frozenset((kinds.FROM_USER, kinds.FROM_SESSION, kinds.FROM_DEVICE, kinds.FROM_REALM))

_to_json = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(str).decode
_integer = msgspec.json.Decoder(int).decode
_bytes = msgspec.json.Decoder(bytes).decode
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
    text = bytes(raw)
    if text.count(b":") != len(value):
        _check_once(text)
    if "" in value:
        raise RemoteProtocolError("a key of a map is empty")
    if len(text) > KEY_BYTES_MAX:
        for key, each in value.items():
            if len(key.encode()) > KEY_BYTES_MAX or len(each.encode()) > VALUE_BYTES_MAX:
                raise RemoteProtocolError("a key or a value of a map is too long")
    return value


def _write_map(value: dict[str, str]) -> bytes:
    for key, each in value.items():
        if not 1 <= len(key.encode()) <= KEY_BYTES_MAX or len(each.encode()) > VALUE_BYTES_MAX:
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


def encode_json(message: Message) -> bytes:
    """``message`` as one JSON object; ``BadName`` or ``BadBody`` when it cannot be written."""
    return _encode(message, b"")


def encode_line(message: Message) -> bytes:
    """``message`` as one line, its end included; raises as ``encode_json``."""
    return _encode(message, b"\n")


def _encode(message: Message, line_end: bytes) -> bytes:
    """The object, and ``line_end``; when that is not empty there is no other line end in the result."""
    kind = message.kind
    head = _KINDS.get(kind) or b'{"kind":%d' % kind
    if message.seq:
        head += b',"seq":%d' % message.seq
    if message.name:
        head += _name_json(message.name)
    if message.flags:
        flags = message.flags
        head += b',"flags":' + _to_json([kinds.FLAGS.get(1 << bit, 1 << bit) for bit in range(16) if flags >> bit & 1])
    if message.sender is not None:
        head += message.sender.json
    fields = message.fields
    filtered = False
    if fields is not None:
        head += _fields_json(fields, message.sender is not None)
        filtered = bool(fields.get(kinds.FILTERS))
    body, codec = message.body, message.codec
    if codec == kinds.RAW and not body:
        return b"%b}%b" % (head, line_end)
    if codec == kinds.JSON and not filtered:
        inline = _inline(body, line_end)
        if inline:
            return b'%b,"body":%b}%b' % (head, inline, line_end)
    elif codec == kinds.TEXT and not filtered:
        try:
            return b'%b,"text":%b}%b' % (head, _to_json(body.decode()), line_end)
        except UnicodeDecodeError:
            pass  # what is not text goes as base64
    if codec != kinds.RAW:
        head += b',"codec":' + _to_json(kinds.CODECS.get(codec, codec))
    return b'%b,"data":"%b"}%b' % (head, b64encode(body), line_end)


def _name_json(name: str) -> bytes:
    try:
        # A character has at most four bytes: short names need not be measured.
        if len(name) * 4 > NAME_BYTES_MAX and len(name.encode()) > NAME_BYTES_MAX:
            raise BadName(f"a name of more than {NAME_BYTES_MAX} bytes")
        return b',"name":' + _to_json(name)
    except UnicodeEncodeError:
        raise BadName("a name that is not UTF-8") from None


def _fields_json(fields: Fields, stamped: bool) -> bytes:
    parts = []
    number = REFUSE
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
    return b"".join(parts)


def _inline(body: bytes, line_end: bytes) -> bytes:
    """``body`` as it stands in an object; empty when it is not JSON, or nested too deep for the receiver."""
    try:
        if not body.isascii():
            body.decode()
        inline = bytes(_anything(body))
        if inline.count(b"[") + inline.count(b"{") > DEPTH_SPARE:
            _anything(b"[" * DEPTH_SPARE + inline + b"]" * DEPTH_SPARE)
        if line_end and b"\n" in inline:
            return msgspec.json.format(inline, indent=-1)
    except _MALFORMED:
        return b""
    return inline


# --- decoding -----------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct, gc=False):
    """The keys of header and body; those of fields are skipped."""

    kind: int | str
    seq: int = 0
    name: str = ""
    flags: tuple[int | str, ...] = ()
    body: Raw = Raw()
    text: str | UnsetType = UNSET
    data: bytes = b""
    codec: int | str | UnsetType = UNSET


_head = msgspec.json.Decoder(_Head).decode
_NESTED: Final = ("body", *(name for name, type_ in FIELDS.values() if type_ == "map"))


def decode_json(data: bytes) -> Message:
    """The object in ``data`` (white space around it is allowed); raises ``RemoteProtocolError``.

    What this side must refuse (a critical key, or a kind, flag, codec or filter whose name it does not know) is a
    sentence in the field REFUSE.
    """
    try:
        if not data.isascii():
            data.decode()
        head = _head(data)
        # Fast path: no other keys than kind, seq, name, and body or text.
        name, seq, codec = head.name, head.seq, kinds.RAW
        colons = data.count(b":") - 1
        if name:
            colons -= 1
        if seq:
            colons -= 1
        body = bytes(head.body)
        if body:
            colons -= 1 + body.count(b":")
            codec = kinds.JSON
        elif head.text is not UNSET:
            colons -= 1
            codec = kinds.TEXT
            body = head.text.encode()
        kind = kinds.KIND_NUMBERS.get(head.kind)  # type: ignore[arg-type]  # a number is no key of it
        if kind and not colons and 0 <= seq <= SEQ_MAX and len(name) * 4 <= NAME_BYTES_MAX:
            return Message(kind, name, body, codec, 0, seq)
        return _decode_pairs(data, head)
    except _MALFORMED as error:
        raise RemoteProtocolError(f"not an object of the protocol: {error}") from None


def _decode_pairs(data: bytes, head: _Head) -> Message:
    """The complete path: looks at every key."""
    pairs = _pairs(data)
    colons = data.count(b":") - len(pairs)
    if colons:
        # Body and maps are where colons are; the other values are looked at only when those do not explain them all.
        for key in _NESTED:
            if key in pairs:
                colons -= bytes(pairs[key]).count(b":")
        if colons and colons != sum(bytes(raw).count(b":") for key, raw in pairs.items() if key not in _NESTED):
            _check_once(data)
    if not 0 <= head.seq <= SEQ_MAX:
        raise RemoteProtocolError("seq is out of range")
    if len(head.name.encode()) > NAME_BYTES_MAX:
        raise RemoteProtocolError(f"a name of more than {NAME_BYTES_MAX} bytes")
    fields: Fields = {}
    for key, raw in pairs.items():
        reader = _READERS.get(key)
        if reader is not None:
            number, read = reader
            if number in fields:
                raise RemoteProtocolError(f"{FIELDS[number][0]} is given twice")
            fields[number] = read(raw)
        elif key[:1] == "!":
            fields.setdefault(REFUSE, f"critical key {key} is not known here")
    if type(fields.get(kinds.FILTERS)) is str:
        fields.setdefault(REFUSE, fields.pop(kinds.FILTERS))
    if len(data) > FIELD_SECTION_BYTES_MAX:
        # Only now can the fields be too long for the binary form, which is always shorter.
        _check_section(fields)
    kind = _number(head.kind, kinds.KIND_NUMBERS, 0xFF, "kind", fields)
    flags = 0
    for word in head.flags:
        flag = _number(word, kinds.FLAG_NUMBERS, 0xFFFF, "flag", fields)
        if flag == word and flag.bit_count() != 1:
            raise RemoteProtocolError(f"{flag} is not the value of one flag")
        flags |= flag
    if flags & kinds.CRITICAL_FLAGS:
        fields.setdefault(REFUSE, f"critical flags 0x{flags & kinds.CRITICAL_FLAGS:04x} are not known here")
    body, codec = _body(pairs, head, fields)
    return Message(kind, head.name, body, codec, flags, head.seq, fields or None)


def _check_section(fields: Fields) -> None:
    """Refuses fields that have no counterpart in the binary form."""
    try:
        size = len(write_fields(fields))
    except BadBody as error:
        raise RemoteProtocolError(f"fields that are too long: {error}") from None
    if size > FIELD_SECTION_BYTES_MAX:
        raise RemoteProtocolError(f"fields of more than {FIELD_SECTION_BYTES_MAX} bytes")


def _body(pairs: dict[str, Raw], head: _Head, fields: Fields) -> tuple[bytes, int]:
    """Body and codec, of which at most one of three keys speaks."""
    if ("body" in pairs) + ("text" in pairs) + ("data" in pairs) > 1:
        raise RemoteProtocolError("body, text and data exclude one another")
    named = kinds.RAW
    if head.codec is not UNSET:
        named = _number(head.codec, kinds.CODEC_NUMBERS, 0xFF, "codec", fields)
    if "body" in pairs:
        body, codec = bytes(head.body), kinds.JSON
    elif head.text is not UNSET:
        body, codec = head.text.encode(), kinds.TEXT
    else:
        return head.data, named
    if head.codec is not UNSET and named != codec:
        raise RemoteProtocolError("codec says another thing than the key of the body")
    return body, codec


def _number(word: int | str, names: dict[str, int], largest: int, what: str, fields: Fields) -> int:
    """The number that ``word`` is or names; a name that is not known makes the frame refused."""
    if isinstance(word, str):
        number = names.get(word)
        if number is None:
            fields.setdefault(REFUSE, f"{what} {word!r} is not known here")
            return 0
        return number
    if not 0 <= word <= largest:
        raise RemoteProtocolError(f"a number of a {what} is out of range")
    return word


def _check_once(data: bytes) -> None:
    """Refuses an object in which a key stands twice; objects inside it are the body's affair."""
    outermost: list[tuple[str, Any]] = []  # Any: a JSON value, not looked at

    def keep(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = pairs  # the outermost object ends last

    loads(data, object_pairs_hook=keep, parse_int=str, parse_float=str)
    if len({key for key, _ in outermost}) != len(outermost):
        raise RemoteProtocolError("a key is given twice")


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
            for line in filter(None, lines):
                self._check_length(len(line))
                if not line.isspace():
                    messages.append(decode_json(line))
            self._check_length(len(rest))
            self._held += rest
        except RemoteProtocolError as error:
            self.failed = error
        return messages

    def _check_length(self, size: int) -> None:
        if size > self.frame_bytes_max:
            raise FrameTooLarge(f"a line of more than {self.frame_bytes_max} bytes")
