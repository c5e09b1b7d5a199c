"""The JSON form: round trips, the bijection with the binary form, any chunking, garbage."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from relay.errors import BadBody, BadName, FrameTooLarge, RemoteProtocolError
from relay.test.strategies import chunks, cut_places, fields, messages, mutated, runs
from relay.wire import kinds
from relay.wire.binary import decode_frame, encode_frame
from relay.wire.message import Fields, Message, Sender
from relay.wire.text import LineDecoder, decode_json, encode_json, encode_line, stamp_json


def carried(message: Message, line: bool = False) -> Message:
    """``message`` as it arrives in JSON form: white space around an inline body is lost, on lines also inside it."""
    if message.codec == kinds.JSON and not message.get(kinds.FILTERS):
        try:
            message.body.decode()
            body = bytes(msgspec.json.decode(message.body, type=msgspec.Raw))
            if line and b"\n" in body:
                body = msgspec.json.format(body, indent=-1)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return message
        return msgspec.structs.replace(message, body=body)
    return message


def received(decoder: LineDecoder, pieces: list[bytes]) -> tuple[list[Message], str]:
    """What ``decoder`` gives out, and the label of its failure."""
    found: list[Message] = []
    for piece in pieces:
        found += decoder.receive(piece)
        if decoder.failed is not None:
            return found, decoder.failed.label
    return found, ""


def plain_lines(data: bytes, limit: int) -> tuple[list[Message], str]:
    """The decoder's plain twin, for a stream that is there in full."""
    found: list[Message] = []
    while data:
        line, end, data = data.partition(b"\n")
        if len(line) > limit:
            return found, "too_large"
        if end and line.strip():
            try:
                found.append(decode_json(line))
            except RemoteProtocolError as error:
                return found, error.label
    return found, ""


def doubled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads: an object that says under "" whether a key was doubled in it."""
    return {**dict(pairs), "": len(dict(pairs)) != len(pairs)}


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(st.text(max_size=4), each, max_size=3)),
    max_leaves=6,
)
keys = st.sampled_from(["kind", "seq", "name", "flags", "body", "text", "data", "codec", "user", "ttl_ms", "a:b", "!x"])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Objects with keys of the protocol, some doubled, some escaped, with values of any sort."""
    given_values: dict[str, Any] = {"kind": "publish", "seq": 3, "name": "a:b", "flags": ["more"], "user": "u:v"}
    pairs = ['"kind":"publish"'] if draw(st.booleans()) else []
    for key in draw(st.lists(keys, max_size=5)):
        value = given_values.get(key) if draw(st.booleans()) else draw(json_values)
        name = json.dumps(key)
        if draw(st.integers(0, 9)) == 0:
            name = '"' + "".join(f"\\u{ord(each):04x}" for each in key) + '"'
        pairs.append(name + draw(st.sampled_from([":", " : "])) + json.dumps(value, ensure_ascii=draw(st.booleans())))
    return ("{" + ",".join(pairs) + "}").encode()


class Objects(TestCase):
    """One object."""

    @given(messages())
    @runs(150)
    def test_an_object_comes_back_as_the_same_message(self, message: Message) -> None:
        """Decoding what was encoded gives an equal message, and the object is JSON to others as well."""
        encoded = encode_json(message)
        self.assertEqual(decode_json(encoded), carried(message))
        json.loads(encoded)

    @given(messages())
    @runs(150)
    def test_each_form_has_one_counterpart_in_the_other(self, message: Message) -> None:
        """Through the other form and back the frame is the same, byte for byte."""
        frame = encode_frame(carried(message))
        self.assertEqual(encode_frame(decode_json(encode_json(decode_frame(frame)))), frame)
        text = encode_json(message)
        self.assertEqual(encode_json(decode_frame(encode_frame(decode_json(text)))), text)

    @given(messages())
    @runs(150)
    def test_a_line_has_one_line_end(self, message: Message) -> None:
        """Whatever the body, the only line end is the last byte, and the line means the same."""
        line = encode_line(message)
        self.assertEqual(line.index(b"\n"), len(line) - 1)
        self.assertEqual(decode_json(line), carried(message, line=True))

    @given(objects())
    @runs(300)
    def test_a_doubled_key_is_never_overlooked(self, data: bytes) -> None:
        """The count of colons finds a doubled key of the outermost object exactly when there is one."""
        is_doubled = json.loads(data, object_pairs_hook=doubled)[""]
        try:
            decode_json(data)
        except RemoteProtocolError as error:
            if not is_doubled:
                self.assertNotEqual(str(error), "a key is given twice")
        else:
            self.assertFalse(is_doubled)

    @given(fields(3), st.binary(max_size=8))
    @runs(100)
    def test_the_fast_path_agrees_with_the_complete_one(self, extra: Fields | None, body: bytes) -> None:
        """A key that is ignored sends the object down the other path, to the same message."""
        message = Message(kinds.PUBLISH, "room.1", body, kinds.TEXT, 0, 7, extra)
        text = encode_json(message)
        self.assertEqual(decode_json(text), decode_json(text[:-1] + b',"ignored":[{"a":":"}]}'))

    @given(st.one_of(st.binary(max_size=60), mutated(messages().map(encode_json)), mutated(objects())))
    @runs(300)
    def test_garbage_is_a_protocol_error_and_nothing_else(self, data: bytes) -> None:
        """Whatever the bytes, there is a message that both forms can write, or ``RemoteProtocolError``."""
        try:
            message = decode_json(data)
        except RemoteProtocolError:
            return
        encode_frame(message)
        json.loads(encode_json(message))

    def test_names_that_are_not_known_make_the_frame_refused(self) -> None:
        """Also beside other keys; the sentence names the word."""
        for text in (
            '{"kind":"teleport"}',
            '{"kind":"publish","flags":["sideways"]}',
            '{"kind":"publish","codec":"sideways","data":""}',
            '{"kind":"publish","filters":["gzip","sideways"],"data":""}',
            '{"kind":"publish","!sideways":null}',
        ):
            refusal = decode_json(text.encode()).get(kinds.REFUSE)
            self.assertIn("teleport" if "teleport" in text else "sideways", refusal)

    def test_deep_nesting_does_no_harm(self) -> None:
        """A deeply nested body is no error for its receivers: it goes as base64, or is refused when it came inline."""
        for depth in (200, 750, 5000, 100_000):
            message = Message(kinds.PUBLISH, body=b"[" * depth + b"]" * depth, codec=kinds.JSON)
            encoded = encode_json(message)
            self.assertEqual(b'"body"' in encoded, depth == 200)
            self.assertEqual(decode_json(encoded), message)
        self.assertRaises(
            RemoteProtocolError, decode_json, b'{"kind":"publish","body":%b}' % (b"[" * 5000 + b"]" * 5000)
        )

    def test_long_arrays_are_not_deep(self) -> None:
        """Many brackets side by side stay inline."""
        message = Message(kinds.PUBLISH, body=b"[" + b"[],{}," * 2000 + b"1]", codec=kinds.JSON)
        self.assertIn(b'"body":[[],{}', encode_json(message))
        self.assertEqual(decode_json(encode_json(message)), message)

    def test_fields_too_long_for_the_binary_form_are_refused(self) -> None:
        """One field, or all together, over 65535 bytes have no counterpart."""
        for extra in ({"user": "u" * 65_536}, {"user": "u" * 40_000, "role": "r" * 40_000}):
            self.assertRaises(RemoteProtocolError, decode_json, json.dumps({"kind": "push", **extra}).encode())
        large = json.dumps({"kind": "push", "user": "u" * 60_000, "body": "b" * 60_000}).encode()
        self.assertEqual(len(decode_json(large).get(kinds.USER)), 60_000)

    def test_a_stamp_stands_in_for_what_the_client_wrote(self) -> None:
        """``from_…`` is the server's; other fields stay."""
        sender = Sender("default", "ann", "n.1", "phone")
        sender = Sender("default", "ann", "n.1", "phone", json=stamp_json(sender))
        written = Message(kinds.EVENT, "c", fields={kinds.FROM_USER: "eve", kinds.TTL_MS: 5}, sender=sender)
        self.assertEqual(
            decode_json(encode_json(written)).fields,
            {kinds.FROM_USER: "ann", kinds.FROM_SESSION: "n.1", kinds.FROM_DEVICE: "phone", kinds.TTL_MS: 5},
        )

    def test_what_cannot_be_written_is_said(self) -> None:
        """A name or a field that has no form raises an error of relay's."""
        wrong: list[tuple[Message, type[Exception]]] = [
            (Message(32, "n" * 256), BadName),
            (Message(32, "\ud800"), BadName),
            (Message(32, fields={kinds.TTL_MS: -1}), BadBody),
            (Message(32, fields={kinds.TTL_MS: True}), BadBody),
            (Message(32, fields={kinds.TTL_MS: 2**64}), BadBody),
            (Message(32, fields={kinds.USER: 5}), BadBody),
            (Message(32, fields={kinds.USER: "\ud800"}), BadBody),
            (Message(32, fields={kinds.ALL: False}), BadBody),
            (Message(32, fields={kinds.OUTCOME: "maybe"}), BadBody),
            (Message(32, fields={kinds.FILTERS: (1,) * 9}), BadBody),
            (Message(32, fields={kinds.METADATA: {"": "x"}}), BadBody),
            (Message(32, fields={kinds.MESSAGE_ID: "text"}), BadBody),
            (Message(32, fields={100: b""}), BadBody),
        ]
        for message, error in wrong:
            self.assertRaises(error, encode_json, message)
            self.assertRaises(error, encode_line, message)


class Lines(TestCase):
    """Objects on a stream."""

    streams = st.lists(st.one_of(messages().map(encode_line), st.sampled_from([b"\n", b"\r\n", b" \n"])), max_size=4)

    @given(streams.map(b"".join), cut_places)
    @runs(150)
    def test_any_chunking_gives_the_same_messages(self, data: bytes, cuts: list[int]) -> None:
        """What comes out does not depend on how the bytes were cut."""
        self.assertEqual(received(LineDecoder(1_000_000), chunks(data, cuts)), plain_lines(data, 1_000_000))

    @given(st.one_of(st.binary(max_size=80), mutated(streams.map(b"".join))), cut_places)
    @runs(300)
    def test_garbage_gives_what_was_whole_and_one_failure(self, data: bytes, cuts: list[int]) -> None:
        """Any bytes in any chunks give what the plain twin says."""
        self.assertEqual(received(LineDecoder(150), chunks(data, cuts)), plain_lines(data, 150))

    def test_a_line_that_never_ends_is_cut_off(self) -> None:
        """The limit ends the stream before the line does, in bounded memory."""
        decoder = LineDecoder(50_000)
        tracemalloc.start()
        fed = 0
        while decoder.failed is None:
            decoder.receive(b"xy")
            fed += 2
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertEqual(fed, 50_002)
        self.assertIsInstance(decoder.failed, FrameTooLarge)
        self.assertLess(peak, 3 * 50_000)

    def test_the_limit_may_be_raised_while_it_runs(self) -> None:
        """A longer line is let through once the limit is higher."""
        line = encode_line(Message(kinds.PUBLISH, body=b"x" * 500))
        decoder = LineDecoder(100)
        decoder.receive(line[:50])
        decoder.frame_bytes_max = 2000
        self.assertEqual(len(decoder.receive(line[50:])), 1)
