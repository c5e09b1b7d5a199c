"""Messages as frames or lines on a stream: the framing of a client's TCP, TLS and Unix socket connections."""

from __future__ import annotations

from collections.abc import Callable

from relay.errors import RelayError
from relay.wire import binary, kinds, text
from relay.wire.message import Message


class StreamFraming:
    """Frames or lines on a stream."""

    def __init__(self, form: str, frame_bytes_max: int) -> None:
        self.ready = True
        self.output = b""
        self._decoder: binary.BinaryDecoder | text.LineDecoder
        if form == "json":
            self.opening = b""
            self.encode: Callable[[Message], bytes] = text.encode_line
            self._decoder = text.LineDecoder(frame_bytes_max)
        else:
            self.opening = kinds.PREFACE
            self.encode = binary.encode_stream
            self._decoder = binary.BinaryDecoder(frame_bytes_max)

    @property
    def failed(self) -> RelayError | None:
        """What the server did wrong, once it did."""
        return self._decoder.failed

    def receive(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes."""
        return self._decoder.receive(data)

    def closing(self) -> bytes:
        """The last bytes."""
        return b""


class FrameFraming(StreamFraming):
    """Frames with their lengths for a transport that keeps them apart: no preface, and the binary form alone."""

    def __init__(self, frame_bytes_max: int) -> None:
        super().__init__("binary", frame_bytes_max)
        self.opening = b""
