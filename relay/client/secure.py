"""The framing of a client's connection in the secure channel (``docs/secure.md``): a stream's, sealed.

opening: preface, hello ─▶ answer comes: finish goes out, ``ready`` ─▶ records, which hold the stream's bytes
"""

from __future__ import annotations

from collections.abc import Callable

from relay.client.options import SecureChannel
from relay.client.plan import FIRST_USE, Address
from relay.client.stream import StreamFraming
from relay.errors import RelayError, RemoteProtocolError
from relay.wire.message import Message
from relay.wire.secure import MESSAGE_BYTES_MAX, PREFACE, ClientHandshake, fingerprint
from relay.wire.secure_records import StreamOpener, StreamSealer

LENGTH_BYTES = 2


class SecureFraming:
    """``stream`` is the framing inside. ``random_bytes``: so many unpredictable bytes."""

    def __init__(
        self, stream: StreamFraming, address: Address, options: SecureChannel, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.ready = False
        self.output = b""
        self._stream = stream
        self._address = address
        self._known = options.known
        self._failed: RelayError | None = None
        self._held = b""
        self._handshake = ClientHandshake(random_bytes(32), self._trusts, options.private)
        self._sealer: StreamSealer | None = None
        self._opener: StreamOpener | None = None
        hello = self._handshake.hello
        self.opening = PREFACE + len(hello).to_bytes(LENGTH_BYTES) + hello

    @property
    def failed(self) -> RelayError | None:
        """What the server, or somebody on the way, did wrong."""
        return self._failed or self._stream.failed

    def encode(self, message: Message) -> bytes:
        """``message`` in a record."""
        assert self._sealer is not None
        return self._sealer.seal(self._stream.encode(message))

    def receive(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes; ``failed`` is set when it cannot go on."""
        if self._failed is not None:
            return []
        messages: list[Message] = []
        try:
            if self._opener is None:
                data = self._answered(data)
            if self._opener is not None:
                for opened in self._opener.receive(data):
                    messages += self._stream.receive(opened)
        except RelayError as error:
            self._failed = error
        return messages

    def closing(self) -> bytes:
        """The word that nothing follows."""
        return b"" if self._sealer is None else self._sealer.end()

    def _answered(self, data: bytes) -> bytes:
        """Reads the answer; returns what follows it."""
        self._held += data
        length = int.from_bytes(self._held[:LENGTH_BYTES])
        if len(self._held) < LENGTH_BYTES + length or len(self._held) < LENGTH_BYTES:
            if length > MESSAGE_BYTES_MAX:
                raise RemoteProtocolError("no secure channel: the server answers with something else")
            return b""
        answer, rest = self._held[LENGTH_BYTES : LENGTH_BYTES + length], self._held[LENGTH_BYTES + length :]
        finish = self._handshake.receive(answer)
        keys = self._handshake.keys
        assert keys is not None
        self._sealer = StreamSealer(keys.suite, keys.sending)
        self._opener = StreamOpener(keys.suite, keys.receiving)
        self.output = len(finish).to_bytes(LENGTH_BYTES) + finish + self._sealer.seal(self._stream.opening)
        self.ready = True
        return rest

    def _trusts(self, identity: bytes) -> bool:
        found = fingerprint(identity)
        if self._address.key != FIRST_USE:
            return found == self._address.key
        return self._known.setdefault(self._address.known_as, found) == found
