"""Messages and changes as bytes: there and back, and nothing but refusals for anything else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.codec import decode_conf_change, decode_message, encode_conf_change, encode_message
from relay.cluster.raft.errors import CodecError
from relay.cluster.raft.types import (
    ENTRY_CONF_CHANGE,
    ENTRY_CONF_CHANGE_V2,
    LOCAL_APPLY_THREAD,
    LOCAL_MESSAGES,
    MESSAGE_NAMES,
    MSG_APP,
    MSG_FORGET_LEADER,
    MSG_HEARTBEAT,
    MSG_HUP,
    MSG_PROP,
    MSG_STORAGE_APPEND,
    ConfChange,
    ConfChangeSingle,
    ConfChangeV2,
    ConfState,
    Entry,
    Message,
    Snapshot,
)

number = st.one_of(st.integers(0, 200), st.integers(0, 2**64 - 1))
data = st.binary(max_size=20)
ids = st.lists(number, max_size=3).map(tuple)
entry = st.builds(Entry, st.integers(0, 2), number, number, data)
snapshot = st.builds(Snapshot, data, number, number, st.builds(ConfState, ids, ids, ids, ids, st.booleans()))
kinds = [kind for kind in range(len(MESSAGE_NAMES)) if kind not in LOCAL_MESSAGES and kind != MSG_FORGET_LEADER]


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Anything that may cross the network."""
    kind = draw(st.sampled_from(kinds))
    index = draw(st.integers(0, 2**63))
    content = tuple(draw(st.lists(entry, max_size=3)))
    if kind == MSG_APP:
        content = tuple(Entry(e.type, e.term, index + 1 + at, e.data) for at, e in enumerate(content))
    return Message(
        kind,
        draw(number),
        draw(number),
        draw(number),
        draw(number),
        index,
        content,
        draw(number),
        draw(number),
        draw(st.booleans()),
        draw(number),
        draw(data),
        draw(st.none() | snapshot),
    )


class MessageTests(SynchronousTestCase):
    """Messages."""

    @settings(max_examples=60, deadline=None)
    @given(messages())
    def test_there_and_back(self, message: Message) -> None:
        """What is decoded is what was encoded, from bytes and from a view of a larger buffer."""
        encoded = encode_message(message)
        self.assertEqual(decode_message(encoded), message)
        self.assertEqual(decode_message(memoryview(b"x" + encoded + b"y")[1:-1]), message)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=60))
    def test_garbage(self, garbage: bytes) -> None:
        """Arbitrary bytes are a message or a CodecError, nothing else."""
        try:
            message = decode_message(garbage)
        except CodecError:
            return
        self.assertEqual(decode_message(encode_message(message)), message)

    @settings(max_examples=100, deadline=None)
    @given(messages(), st.data())
    def test_damage(self, message: Message, choice: st.DataObject) -> None:
        """A message with a byte changed or an end cut off is another message or a CodecError."""
        encoded = bytearray(encode_message(message))
        at = choice.draw(st.integers(0, len(encoded) - 1))
        encoded[at] ^= choice.draw(st.integers(1, 255))
        for damaged in (bytes(encoded), bytes(encoded[:at])):
            try:
                decode_message(damaged)
            except CodecError:
                continue

    def test_what_does_not_cross_the_network(self) -> None:
        """Local messages, messages with responses and unknown kinds are refused."""
        good = encode_message(Message(MSG_HEARTBEAT, 1, 2, 3))
        for kind in (*LOCAL_MESSAGES, MSG_FORGET_LEADER, len(MESSAGE_NAMES), 127):
            self.assertRaises(CodecError, decode_message, good[:1] + bytes([kind]) + good[2:])
        self.assertRaises(CodecError, decode_message, good[:-1] + b"\x91" + good)
        for ours in (Message(MSG_HUP), Message(MSG_STORAGE_APPEND, LOCAL_APPLY_THREAD, 1)):
            self.assertRaises(AssertionError, encode_message, ours)

    def test_entries_of_an_append_follow_each_other(self) -> None:
        """An append whose entries do not begin behind its index, or have a gap, is refused."""
        for indexes in ((6,), (5, 7), (5, 5)):
            entries = tuple(Entry(term=1, index=index) for index in indexes)
            self.assertRaises(CodecError, decode_message, encode_message(Message(MSG_APP, 1, 2, 3, 1, 4, entries)))

    def test_entries_are_of_a_known_kind(self) -> None:
        """Another kind would be applied by nobody."""
        message = Message(MSG_PROP, 1, 2, entries=(Entry(type=3),))
        self.assertRaises(CodecError, decode_message, encode_message(message))

    def test_a_large_claim_costs_nothing(self) -> None:
        """A length without the bytes is refused at once."""
        self.assertRaises(CodecError, decode_message, b"\xdd\xff\xff\xff\xff")
        start = encode_message(Message(MSG_APP))[:7]
        self.assertRaises(CodecError, decode_message, start[:7] + b"\xdd\xff\xff\xff\xff")

    def test_deep_nesting(self) -> None:
        """Responses within responses do not exhaust the stack."""
        head = encode_message(Message(MSG_HEARTBEAT))[:-1]
        self.assertRaises(CodecError, decode_message, (head + b"\x91") * 20000 + head + b"\x90")


class ConfChangeTests(SynchronousTestCase):
    """Changes of membership."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.one_of(
            st.builds(ConfChange, st.integers(0, 3), number, data),
            st.builds(
                ConfChangeV2,
                st.integers(0, 2),
                st.lists(st.builds(ConfChangeSingle, st.integers(0, 3), number), max_size=3).map(tuple),
                data,
            ),
        )
    )
    def test_there_and_back(self, change: ConfChange | ConfChangeV2) -> None:
        """Both formats."""
        kind, payload = encode_conf_change(change)
        self.assertEqual(decode_conf_change(Entry(kind, 1, 1, payload)), change)

    def test_nothing_is_an_empty_change(self) -> None:
        """No payload at all: it counts nothing against limits."""
        self.assertEqual(encode_conf_change(None), (ENTRY_CONF_CHANGE_V2, b""))
        self.assertEqual(decode_conf_change(Entry(ENTRY_CONF_CHANGE_V2)), ConfChangeV2())
        self.assertEqual(decode_conf_change(Entry(ENTRY_CONF_CHANGE)), ConfChange())

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from([ENTRY_CONF_CHANGE, ENTRY_CONF_CHANGE_V2]), st.binary(max_size=20))
    def test_garbage(self, kind: int, garbage: bytes) -> None:
        """Arbitrary bytes are a change of known steps or a CodecError."""
        try:
            change = decode_conf_change(Entry(kind, 1, 1, garbage))
        except CodecError:
            return
        self.assertEqual(encode_conf_change(change)[0], kind)

    def test_unknown_steps_and_transitions(self) -> None:
        """They are refused."""
        for change in (ConfChange(4, 1), ConfChangeV2(3), ConfChangeV2(0, (ConfChangeSingle(4, 1),))):
            kind, payload = encode_conf_change(change)
            self.assertRaises(CodecError, decode_conf_change, Entry(kind, 1, 1, payload))
