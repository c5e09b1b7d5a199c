"""The binary form: round trips, any chunking, garbage, limits."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from relay.errors import BadBody, BadName, FrameTooLarge, RemoteProtocolError
from relay.test.strategies import chunks, cut_places, messages, mutated, runs
from relay.test.vectors import plain
from relay.wire import kinds
from relay.wire.binary import BinaryDecoder, decode_frame, encode_frame, encode_stream, is_loose_frame, stamp
from relay.wire.kinds import PREFACE
from relay.wire.message import Message, Sender, is_loose


def received(decoder: BinaryDecoder, pieces: list[bytes]) -> tuple[list[Message], str]:
    """What ``decoder`` gives out, and the label of its failure."""
    found: list[Message] = []
    for piece in pieces:
        found += decoder.receive(piece)
        if decoder.failed is not None:
            return found, decoder.failed.label
    return found, ""


def plain_stream(data: bytes, limit: int) -> tuple[list[Message], str]:
    """The decoder's plain twin: one frame after the other off a stream that is there in full."""
    found: list[Message] = []
    at = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if length > limit:
            return found, "too_large"
        if length < 12:
            return found, "protocol"
        header = data[at + 4 : at + 16]
        if len(header) == 12 and 12 + header[8] + int.from_bytes(header[10:12]) > length:
            return found, "protocol"
        if at + 4 + length > len(data):
            break
        try:
            found.append(decode_frame(data[at + 4 : at + 4 + length]))
        except RemoteProtocolError as error:
            return found, error.label
        at += 4 + length
    return found, ""


streams = st.lists(messages().map(encode_stream), max_size=4).map(b"".join)


class Frames(TestCase):
    """One frame, without a stream around it."""

    @given(messages(), st.booleans(), st.booleans())
    def test_loose_by_the_header(self, message: Message, loose: bool, counted: bool):
        """Whether a frame may be lost is the same by its header as by the message."""
        message.flags = message.flags | kinds.UNRELIABLE if loose else message.flags & ~kinds.UNRELIABLE
        message.seq = message.seq if counted else 0
        frame = encode_frame(message)
        self.assertEqual(is_loose_frame(frame), is_loose(decode_frame(frame)))
        self.assertFalse(is_loose_frame(frame[:11]))

    @given(messages())
    @runs(150)
    def test_a_frame_comes_back_as_the_same_message(self, message: Message) -> None:
        """Decoding what was encoded gives an equal message."""
        self.assertEqual(decode_frame(encode_frame(message)), message)

    @given(messages(), st.binary(max_size=9), st.binary(max_size=9))
    @runs(50)
    def test_a_frame_may_stand_inside_other_bytes(self, message: Message, before: bytes, after: bytes) -> None:
        """``start`` and ``end`` bound what is read."""
        frame = encode_frame(message)
        inside = before + frame + after
        self.assertEqual(decode_frame(inside, len(before), len(before) + len(frame)), message)

    @given(messages())
    @runs(50)
    def test_a_stream_frame_is_the_length_and_the_frame(self, message: Message) -> None:
        """The length counts what follows it."""
        frame = encode_frame(message)
        self.assertEqual(encode_stream(message), len(frame).to_bytes(4) + frame)

    @given(st.one_of(st.binary(max_size=60), mutated(messages().map(encode_frame))))
    @runs(400)
    def test_garbage_is_a_protocol_error_and_nothing_else(self, data: bytes) -> None:
        """Whatever the bytes, there is a message that can be written again, or ``RemoteProtocolError``."""
        try:
            message = decode_frame(data)
        except RemoteProtocolError:
            return
        bare, _ = plain(message)
        bare.flags &= ~kinds.CRITICAL_FLAGS
        self.assertEqual(decode_frame(encode_frame(bare)), bare)

    def test_every_length_at_its_limits(self) -> None:
        """Length, name_bytes, field_bytes, a field's length and a map's two, at 0, at the maximum and off by one."""
        sent = Message(kinds.PUSH, "name", b"body", 0, 0, 1, {kinds.METADATA: {"key": "value"}, kinds.USER: "ann"})
        stream = encode_stream(sent)
        # Where each stands: the header's at 0, 12 and 14, metadata's after 16 bytes and the name.
        for at, size in ((0, 4), (12, 1), (14, 2), (21, 2), (23, 1), (27, 2)):
            right = int.from_bytes(stream[at : at + size])
            largest = 256**size - 1
            for wrong in {0, 1, largest, largest - 1, right - 1, right + 1} - {right}:
                changed = stream[:at] + wrong.to_bytes(size) + stream[at + size :]
                found, label = received(BinaryDecoder(65_536), [changed])
                self.assertEqual((found, label), plain_stream(changed, 65_536))
                self.assertNotEqual(found, [sent])
        self.assertEqual(received(BinaryDecoder(65_536), [stream]), ([sent], ""))

    def test_what_must_be_refused_carries_a_sentence(self) -> None:
        """Critical flags leave a sentence under REFUSE; a kind that is not known does not."""
        message = decode_frame(bytes.fromhex("20000100 00000005 00000000"))
        self.assertIn("0x0100", message.get(kinds.REFUSE))
        self.assertIsNone(decode_frame(bytes.fromhex("5a000000 00000005 00000000")).fields)

    def test_a_stamp_stands_in_for_what_the_client_wrote(self) -> None:
        """``from_…`` is the server's; other fields stay; an empty device is left out."""
        sender = Sender("default", "ann", "n.1")
        sender = Sender("default", "ann", "n.1", binary=stamp(sender))
        written = Message(
            kinds.EVENT, "c", fields={kinds.FROM_USER: "eve", kinds.FROM_REALM: "x", kinds.TTL_MS: 5}, sender=sender
        )
        self.assertEqual(
            decode_frame(encode_frame(written)).fields,
            {kinds.FROM_USER: "ann", kinds.FROM_SESSION: "n.1", kinds.TTL_MS: 5},
        )
        bare = Message(kinds.EVENT, "c", sender=sender)
        self.assertEqual(decode_frame(encode_frame(bare)).fields, {kinds.FROM_USER: "ann", kinds.FROM_SESSION: "n.1"})

    def test_what_cannot_be_written_is_said(self) -> None:
        """A name or a field that has no form raises an error of relay's, in both framings."""
        wrong: list[tuple[Message, type[Exception]]] = [
            (Message(32, "n" * 256), BadName),
            (Message(32, "\ud800"), BadName),
            (Message(32, seq=2**32), BadBody),
            (Message(256), BadBody),
            (Message(32, fields={kinds.TTL_MS: -1}), BadBody),
            (Message(32, fields={kinds.TTL_MS: 2**64}), BadBody),
            (Message(32, fields={kinds.TTL_MS: "5"}), BadBody),
            (Message(32, fields={kinds.USER: 5}), BadBody),
            (Message(32, fields={kinds.USER: "\ud800"}), BadBody),
            (Message(32, fields={kinds.USER: "u" * 65_536}), BadBody),
            (Message(32, fields={kinds.USER: "u" * 65_000, kinds.ROLE: "r" * 1000}), BadBody),
            (Message(32, fields={kinds.ALL: False}), BadBody),
            (Message(32, fields={kinds.OUTCOME: "maybe"}), BadBody),
            (Message(32, fields={kinds.FILTERS: (1,) * 9}), BadBody),
            (Message(32, fields={kinds.METADATA: {"": "x"}}), BadBody),
            (Message(32, fields={kinds.METADATA: {"k" * 256: "x"}}), BadBody),
            (Message(32, fields={100: b""}), BadBody),
        ]
        for message, error in wrong:
            self.assertRaises(error, encode_frame, message)
            self.assertRaises(error, encode_stream, message)


class Streams(TestCase):
    """Frames on a stream."""

    @given(streams, cut_places, st.booleans())
    @runs(150)
    def test_any_chunking_gives_the_same_messages(self, data: bytes, cuts: list[int], preface: bool) -> None:
        """What comes out does not depend on how the bytes were cut."""
        sent = PREFACE + data if preface else data
        found, label = received(BinaryDecoder(65_536, preface), chunks(sent, cuts))
        self.assertEqual((found, label), plain_stream(data, 65_536))

    @given(st.one_of(st.binary(max_size=80), mutated(streams)), cut_places)
    @runs(400)
    def test_garbage_gives_what_was_whole_and_one_failure(self, data: bytes, cuts: list[int]) -> None:
        """Any bytes in any chunks give what the plain twin says."""
        found = received(BinaryDecoder(200, preface=False), chunks(data, cuts))
        self.assertEqual(found, plain_stream(data, 200))

    @given(streams)
    @runs(20)
    def test_byte_by_byte(self, data: bytes) -> None:
        """One byte at a time is only slower."""
        single = [data[at : at + 1] for at in range(len(data))]
        self.assertEqual(received(BinaryDecoder(65_536), single), plain_stream(data, 65_536))

    def test_a_wrong_preface_fails_at_its_first_wrong_byte(self) -> None:
        """The first byte that is not the preface's ends the stream."""
        decoder = BinaryDecoder(1000, preface=True)
        self.assertEqual(decoder.receive(PREFACE[:2]), [])
        self.assertIsNone(decoder.failed)
        self.assertEqual(decoder.receive(b"X"), [])
        self.assertIsInstance(decoder.failed, RemoteProtocolError)

    def test_the_limit_may_be_raised_while_it_runs(self) -> None:
        """A frame over the first limit is let through once the limit is higher, also in the middle of a stream."""
        large = encode_stream(Message(32, body=bytes(5000)))
        decoder = BinaryDecoder(1000)
        self.assertEqual(len(decoder.receive(encode_stream(Message(20)))), 1)
        decoder.frame_bytes_max = 10_000
        self.assertEqual(len(decoder.receive(large)), 1)
        decoder.frame_bytes_max = 1000
        decoder.receive(large)
        self.assertIsInstance(decoder.failed, FrameTooLarge)

    def test_memory_is_bounded_by_the_frame(self) -> None:
        """A frame that comes one or two bytes at a time takes no more than a few times its size."""
        size = 60_000
        data = encode_stream(Message(32, body=bytes(range(250)) * (size // 250)))
        for step in (1, 2):
            pieces = [data[at : at + step] for at in range(0, len(data) - 5, step)]
            decoder = BinaryDecoder(65_536)
            tracemalloc.start()
            for piece in pieces:
                decoder.receive(piece)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLess(peak, 3 * size)
            self.assertEqual([message.body for message in decoder.receive(data[len(pieces) * step :])], [data[16:]])
