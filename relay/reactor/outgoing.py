"""The write side of a stream: writes of a turn joined into one send, producers, half-close and orderly close.

States of the write side, by what stands between a write and the kernel::

    empty ──write──▶ dirty ──end of turn, or 64 KiB──▶ sent ──kernel took all──▶ empty
                                                        └────kernel full─────▶ blocked ──drained──▶ empty or dirty

While blocked nothing is handed to uvloop: everything written waits here and is sent joined when uvloop reports that
its own buffer is empty (its limits are set to zero, so it reports exactly that).  "Drained" is the only moment at
which a producer is resumed, a half-close is sent or the connection is closed; it is never inside ``write``.
"""
# ruff: noqa: N802, N803 - the names of methods and arguments are Twisted's

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

from twisted.internet.interfaces import IHalfCloseableProtocol, IProducer, IPullProducer, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from relay.reactor.handle import borrowed
from relay.reactor.turn import Turn

#: Joined output is sent without waiting for the end of the turn once it is this long: a pipe's worth, at which
#: the cost of the call is small beside the cost of the copy.
FLUSH_BYTES = 64 * 1024

#: Above this, and when the pieces are large, the pieces are handed over as they are (``writev``) instead of copied.
JOIN_BYTES_MAX = 128 * 1024
_PIECE_BYTES_LARGE = 16 * 1024

_NOTHING: list[bytes] = []  # shared by all streams with nothing to send; never appended to


class JoinedOutput(asyncio.Protocol):
    """What is written to a stream in one turn, sent in one piece at its end.

    Subclasses say what happens when the output has drained, if ``_on_drain`` is set.
    """

    #: Says to programs that need not join small writes themselves that this is done here.
    joins_writes = True

    __slots__ = (
        "_blocked",
        "_on_drain",
        "_out",
        "_size",
        "_writable",
        "bufferSize",
        "connected",
        "producer",
        "producerPaused",
        "streamingProducer",
        "turn",
        "uv",
    )

    def __init__(self, turn: Turn, uv: asyncio.Transport) -> None:
        self.turn = turn
        self.uv = uv
        self.connected = False
        self.producer: IProducer | None = None
        self.streamingProducer = False
        self.producerPaused = False
        self.bufferSize = FLUSH_BYTES
        self._out = _NOTHING
        self._size = 0  # bytes in _out; 0 exactly when there is nothing in it
        self._blocked = True  # until uvloop has the socket
        self._writable = False  # connected and not half-closed
        self._on_drain = False  # whether anybody waits for the output to have drained: a producer, or a close

    def write(self, data: bytes) -> None:
        """Send ``data`` at the end of the turn, joined with everything else that is written to this stream.

        Ignored when the connection is lost or its write side is closed.  Raises ``TypeError`` for anything but bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        if not self._writable:
            return
        size = self._size
        if size:
            self._out.append(data)
        elif data:
            self._out = [data]
            turn = self.turn
            turn.dirty.append(self)
            if not turn.scheduled:
                turn.schedule()
        self._size = size = size + len(data)
        if size > self.bufferSize:
            self._overflow()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send the pieces of ``iovec``, as ``write`` does; nothing is sent if one of them is not bytes."""
        pieces = list(iovec)
        for piece in pieces:
            if not isinstance(piece, bytes):
                raise TypeError("Data must be bytes")
        self.write(b"".join(pieces))

    @property
    def unsent(self) -> int:
        """Bytes written and not yet taken by the kernel."""
        return self._size + self.uv.get_write_buffer_size()

    # The end of the turn, and uvloop

    def flush(self) -> None:
        """Send what was written, unless the kernel is full; then do what waited for that."""
        if self._blocked:
            return
        size = self._size
        if size:
            out = self._out
            # Fast path: one piece; in here, as a call for each stream of each turn would cost 60 ns.
            if len(out) == 1:
                self._out = _NOTHING
                self._size = 0
                self.uv.write(out[0])
            else:
                self._send()
        if self._on_drain and self.connected and not self._blocked:
            self._drained()

    def pause_writing(self) -> None:
        """Note that the kernel did not take everything (uvloop calls this inside of its ``write``)."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Go on: the kernel has taken everything that uvloop had."""
        self._blocked = False
        self.flush()

    # Inside

    def _touch(self) -> None:
        turn = self.turn
        turn.dirty.append(self)
        if not turn.scheduled:
            turn.schedule()

    def _send(self) -> None:
        out = self._out
        size = self._size
        self._out = _NOTHING
        self._size = 0
        if len(out) == 1:
            self.uv.write(out[0])
        elif size <= JOIN_BYTES_MAX or size < len(out) * _PIECE_BYTES_LARGE:
            self.uv.write(b"".join(out))
        else:
            self.uv.writelines(out)

    def _overflow(self) -> None:
        if self._size >= FLUSH_BYTES and not self._blocked:
            self._send()
        if self.producer is None or not self.streamingProducer or self.producerPaused:
            return
        if self.unsent > self.bufferSize:
            self.producerPaused = self._on_drain = True
            cast(IPushProducer, self.producer).pauseProducing()

    def _drop(self) -> None:
        self._out = _NOTHING
        self._size = 0
        self._writable = False

    def _drained(self) -> None:
        raise NotImplementedError


class Outgoing(JoinedOutput):
    """Base of a stream transport: ``IConsumer`` and the writing half of ``ITransport``.

    Names without underscore are those of Twisted's own transports, which programs read.  Subclasses provide
    ``stopReading`` and ``fail``.
    """

    __slots__ = ("_reason", "_write_ending", "disconnected", "disconnecting", "protocol")

    def __init__(self, turn: Turn, uv: asyncio.Transport) -> None:
        super().__init__(turn, uv)
        self.protocol: Protocol | None = None
        self.disconnected = False
        self.disconnecting = False
        self._write_ending = False
        self._reason: Failure | None = None  # why the connection is being ended, once that is decided

    def loseConnection(self, _connDone: object = None) -> None:
        """Close once everything is sent and no producer is waiting; nothing more is read from now on."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._on_drain = True
            self.stopReading()
            self._touch()

    def loseWriteConnection(self) -> None:
        """Close the write side once everything is sent; the protocol then hears ``writeConnectionLost``."""
        self._write_ending = True
        self._on_drain = True
        self._touch()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Take data from ``producer``: a push producer if ``streaming``, else one that is pulled when drained.

        Raises ``RuntimeError`` when there is one already.
        """
        if self.producer is not None:
            raise RuntimeError(
                f"Cannot register producer {producer}, because producer {self.producer} was never unregistered."
            )
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer = producer
        self.streamingProducer = streaming
        self.producerPaused = False
        if not streaming:
            self._on_drain = True
            cast(IPullProducer, producer).resumeProducing()

    def unregisterProducer(self) -> None:
        """Forget the producer; a close that waited for it goes on."""
        self.producer = None
        if self.connected and self.disconnecting:
            self._touch()

    def stopConsuming(self) -> None:
        """Forget the producer and close."""
        self.unregisterProducer()
        self.loseConnection()

    def stopReading(self) -> None:
        """Stop delivering what the peer sends."""
        raise NotImplementedError

    def fail(self, failure: Failure) -> None:
        """Log ``failure`` and close the connection at once with it as the reason."""
        raise NotImplementedError

    # Inside

    def _drained(self) -> None:
        producer = self.producer
        if self._reason is not None:
            return
        if producer is not None and (self.producerPaused or not self.streamingProducer):
            self.producerPaused = False
            # Nobody waits any more, and the flush of each turn need not ask; unless the producer pauses again.
            self._on_drain = self.disconnecting or self._write_ending or not self.streamingProducer
            try:
                cast(IPullProducer, producer).resumeProducing()
            except BaseException:  # noqa: BLE001 - any error of the application closes its connection
                self.fail(Failure())
        elif self.disconnecting:
            self._writable = False
            self.uv.close()
        elif self._write_ending and self._writable:
            self._writable = False
            self._close_write()

    def _close_write(self) -> None:
        self._shutdown(socket.SHUT_WR)
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is not None:
            try:
                half.writeConnectionLost()
            except BaseException:  # noqa: BLE001 - any error of the application closes its connection
                self.fail(Failure())

    def _shutdown(self, how: int) -> None:
        handle = borrowed(self.uv)
        if handle is not None:
            # An error means that the peer was faster: the connection is gone, and uvloop reports that itself.
            with suppress(OSError):
                handle.shutdown(how)
