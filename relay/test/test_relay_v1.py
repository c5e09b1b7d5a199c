"""relay's own protocol as dialects: the contract, the encodings, the WebSocket frames around messages."""

from __future__ import annotations

from hypothesis import given
from twisted.trial.unittest import TestCase

from relay.dialects.relay_v1 import (
    ENCODERS,
    BinaryMessages,
    BinaryStream,
    JsonLines,
    JsonMessages,
    WebSocketBinary,
    WebSocketJson,
)
from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.test.strategies import messages, runs
from relay.wire import contracts
from relay.wire.binary import encode_frame
from relay.wire.contracts import Dialect
from relay.wire.message import Message
from relay.wire.text import encode_json
from relay.wire.websocket import BINARY, TEXT, WebSocketMachine


class Dialects(TestCase):
    """All six."""

    def dialects(self) -> list[Dialect]:
        """One of each."""
        return [BinaryStream(), BinaryMessages(), JsonLines(), JsonMessages(), WebSocketBinary(), WebSocketJson()]

    def test_each_encoding_has_one_dialect_and_one_encoder(self) -> None:
        """The encoder is what the dialect's ``encode`` does."""
        self.assertEqual(sorted(each.encoding for each in self.dialects()), sorted(ENCODERS))
        self.assertEqual(
            sorted(ENCODERS),
            [
                contracts.BINARY_STREAM, contracts.BINARY_MESSAGE, contracts.JSON_LINE, contracts.JSON_MESSAGE,
                contracts.WS_BINARY, contracts.WS_JSON,
            ],
        )  # fmt: skip
        message = Message(32, "c", b"body", 1, 0, 5)
        for dialect in self.dialects():
            self.assertEqual(dialect.encode(message), ENCODERS[dialect.encoding](message))

    def test_a_message_passes_from_one_side_to_the_other(self) -> None:
        """What one encodes the other receives."""
        message = Message(32, "c", b"body", 1, 0, 5)
        for each in (BinaryStream, BinaryMessages, JsonLines, JsonMessages):
            self.assertEqual(each().receive(each().encode(message)), [message])

    @given(messages())
    @runs(50)
    def test_a_servers_websocket_dialect_writes_whole_frames(self, message: Message) -> None:
        """A client's WebSocket finds one message of the right sort in it, and the client's dialect reads that."""
        machine = WebSocketMachine(False, 1_000_000)
        self.assertEqual(machine.receive(WebSocketBinary.encode(message)), [(BINARY, encode_frame(message))])
        self.assertEqual(machine.receive(WebSocketJson.encode(message)), [(TEXT, encode_json(message))])

    def test_a_broken_message_sets_failed(self) -> None:
        """Nothing is raised; the reason stands in ``failed``."""
        for dialect in self.dialects():
            self.assertIsNone(dialect.failed)
            self.assertEqual(dialect.receive(b"\x00\x00\x00\x01 this is nothing\n"), [])
            self.assertIsInstance(dialect.failed, RemoteProtocolError)

    def test_a_message_over_the_limit_sets_failed(self) -> None:
        """In every form, with the error that closes as too_large."""
        large = Message(32, body=bytes(200))
        dialects: list[Dialect] = [BinaryStream(100), JsonLines(100), BinaryMessages(100), JsonMessages(100)]
        for dialect in dialects:
            self.assertEqual(dialect.receive(dialect.encode(large)), [])
            self.assertIsInstance(dialect.failed, FrameTooLarge)
