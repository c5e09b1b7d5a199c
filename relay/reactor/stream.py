"""A stream connection: a Twisted transport on one side, a protocol of uvloop's native transport on the other.

::

    uvloop ──data_received──▶ Stream ──dataReceived──▶ protocol          one call in between
    uvloop ◀──write (joined)── Stream ◀──write──────── protocol

Life of a connection.  Whatever ends it, ``connectionLost`` of the protocol comes from one place, uvloop's
``connection_lost``, in a later turn than the cause and never inside one of our methods::

    peer's FIN, abortConnection, an error of the application ──┐
    loseConnection ──drained──▶ close ─────────────────────────┴──▶ connection_lost ──▶ protocol.connectionLost

The reason is the first line that fits: what was noted when the end was decided (aborted, the application's error);
no error from uvloop: ``ConnectionDone``; else ``ConnectionLost``.
"""
# ruff: noqa: N802 - the names of methods and arguments are Twisted's

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any, cast

from twisted.internet import main
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Protocol
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.reactor.handle import Described, borrowed
from relay.reactor.outgoing import Outgoing
from relay.reactor.turn import Turn

_DONE = Failure(main.CONNECTION_DONE)
_LOST = Failure(main.CONNECTION_LOST)

_LINGER_NONE = struct.pack("ii", 1, 0)  # close with a reset and drop what is not sent: l_onoff 1, l_linger 0


@implementer(IConsumer, IPushProducer)
class Stream(Outgoing, Described):
    """A connected socket of any family.

    ``owner`` is the port that accepted it or the connector that made it (None when it was adopted); ``sessionno``
    is its number among the connections of the port.  Subclasses know the family and who the owner is.
    """

    __slots__ = ("__weakref__", "_eof", "_held", "owner", "reading", "sessionno")

    def __init__(self, turn: Turn, uv: asyncio.Transport, owner: Any) -> None:  # Any: a port or a connector
        super().__init__(turn, uv)
        self.owner = owner
        self.sessionno = 0
        self.reading = True
        self._eof = False
        self._held: Facing | None = None

    # What uvloop calls (asyncio.Protocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take uvloop's transport; if uvloop accepted the connection, ask the port for a protocol."""
        before, self.uv = self.uv, cast(asyncio.Transport, transport)
        if before is UNOPENED:
            protocol = self.owner.accepted(self)
            if protocol is not None:
                self.open(protocol)
        elif before.is_closing():
            self.uv.abort()
        if self.protocol is None:
            self.uv.abort()  # refused, or lost already
        else:
            self._ready()

    def data_received(self, data: bytes) -> None:
        """Give ``data`` to the protocol; its exceptions close the connection."""
        turn = self.turn
        turn.speaker = self
        try:
            self.protocol.dataReceived(data)  # type: ignore[union-attr]  # there is one as long as there is data
        except BaseException:  # noqa: BLE001 - any error of the application closes its connection
            self.fail(Failure())
        turn.speaker = None

    def eof_received(self) -> bool:
        """Tell a half-closeable protocol, or end the connection; what is not sent is dropped then, as in Twisted."""
        self._eof = True
        self.reading = False
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is None:
            self.uv.abort()
        else:
            try:
                half.readConnectionLost()
            except BaseException:  # noqa: BLE001 - any error of the application closes its connection
                self.fail(Failure())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol; uvloop closes the descriptor as soon as this returns."""
        self.connectionLost(_DONE if exc is None else _LOST)

    # The life of the connection

    def open(self, protocol: Protocol) -> None:
        """Begin to serve ``protocol`` over the socket; an error of its ``makeConnection`` closes the connection."""
        self.protocol = protocol
        self.connected = self._writable = True
        turn = self.turn
        turn.reactor.opened(self)
        speaker, turn.speaker = turn.speaker, self
        try:
            protocol.makeConnection(self)
        except BaseException:  # noqa: BLE001 - any error of the application closes its connection
            self.fail(Failure())
        turn.speaker = speaker

    def _ready(self) -> None:
        # Output may flow, now that uvloop has the socket; a pause that was asked for meanwhile must be kept.
        self.uv.set_write_buffer_limits(high=0)
        self._blocked = False
        if self._size or self._on_drain:
            self._touch()
        self._held = self._hold()

    def _hold(self) -> Facing | None:
        # Returns whoever has to face uvloop in our place.
        return None if self.reading else Held(self)

    def connectionLost(self, reason: Failure) -> None:
        """Give up the connection now: tell the producer, then the protocol.  Does nothing the second time."""
        if self.disconnected:
            return
        self.disconnected = True
        self.connected = self.reading = False
        self._drop()
        turn = self.turn
        turn.reactor.closed(self)
        if self._reason is None or not self._reason.check(ConnectionAborted):
            self._shutdown(socket.SHUT_RDWR)  # FIN now, and also when another process has a copy of the descriptor
        self.uv.abort()
        self._held = None
        producer, self.producer = self.producer, None
        protocol, self.protocol = self.protocol, None
        speaker, turn.speaker = turn.speaker, self
        try:
            if producer is not None:
                producer.stopProducing()
            if protocol is not None:
                protocol.connectionLost(self._reason or reason)
        except BaseException:  # noqa: BLE001 - logged: there is no connection left to close
            log.err(None, "while a connection was being lost")
        turn.speaker = speaker

    def abortConnection(self) -> None:
        """Close at once with a reset; what is not sent is dropped.  The reason is ``ConnectionAborted``."""
        if self.disconnected or self._reason is not None:
            return
        self._end(Failure(ConnectionAborted()))

    def fail(self, failure: Failure) -> None:
        """Log ``failure``, an error of the application, and close at once with it as the reason."""
        log.err(failure)
        self._end(failure)

    def _end(self, reason: Failure) -> None:
        self._reason = reason
        self.reading = False
        self._drop()
        if reason.check(ConnectionAborted):
            handle = borrowed(self.uv)
            if handle is not None:
                with suppress(OSError):  # the peer was faster
                    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.uv.abort()

    # IPushProducer: the reading side

    def pauseProducing(self) -> None:
        """Stop reading; what the peer sends stays in the kernel."""
        self.stopReading()

    def resumeProducing(self) -> None:
        """Read again, unless the connection is being closed."""
        if not self.disconnecting:
            self.startReading()

    def stopProducing(self) -> None:
        """Close the connection."""
        self.loseConnection()

    def stopReading(self) -> None:
        """Stop reading."""
        self.reading = False
        self.uv.pause_reading()

    def startReading(self) -> None:
        """Read again; what was caught while uvloop was starting comes first."""
        if not self.connected or self._eof or self.reading or self._reason is not None:
            return
        self.reading = True
        held = self._held
        if held is None:
            self.uv.resume_reading()
        else:
            self.turn.loop.call_soon(held.release)

    @property
    def waiting(self) -> bool:
        """Whether there is output that the kernel has not taken."""
        return self.connected and self.unsent > 0


class Facing(asyncio.BaseProtocol):
    """Faces uvloop in a stream's place; passes on what it does not do differently."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        stream.uv.set_protocol(self)

    def release(self) -> None:
        """Go on reading; called in a turn of its own when the stream resumes."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._stream.resume_writing()


class Held(Facing, asyncio.Protocol):
    """Takes a stream's place while uvloop starts to read although the stream is paused.

    uvloop reads from the moment at which ``connection_made`` returns.  A protocol that paused inside of its
    ``connectionMade`` must not see data before it resumes; so in that one turn what arrives is caught here.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._data = b""
        self._eof = False
        stream.turn.loop.call_soon(self._pause)

    def _pause(self) -> None:
        stream = self._stream
        if stream.reading:
            self.release()
        else:
            stream.uv.pause_reading()
            if not (self._data or self._eof):
                self._step_aside()

    def release(self) -> None:
        """Give the stream what was caught, and its place, if it still wants to read."""
        stream = self._stream
        if stream._held is not self or not stream.reading:
            return
        self._step_aside()
        stream.uv.resume_reading()
        if self._data:
            stream.data_received(self._data)
        if self._eof and stream.connected:
            stream.eof_received()

    def _step_aside(self) -> None:
        self._stream._held = None
        if not self._stream.disconnected:
            self._stream.uv.set_protocol(self._stream)

    # What uvloop calls

    def data_received(self, data: bytes) -> None:
        """Catch ``data``, and stop reading."""
        self._data += data
        self._stream.uv.pause_reading()

    def eof_received(self) -> bool:
        """Note the end of input."""
        self._eof = True
        return True


class Opening(asyncio.Transport):
    """Stands for uvloop's transport from the moment a socket is handed over until uvloop answers, one turn later."""

    def __init__(self, sock: socket.socket | None) -> None:
        super().__init__({"socket": sock})
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # Any: as in asyncio
        """Return the socket, or one of its addresses."""
        sock = super().get_extra_info("socket")
        if sock is None:
            return default
        if name == "sockname":
            return sock.getsockname()
        if name == "peername":
            return sock.getpeername()
        return sock if name == "socket" else default

    def is_closing(self) -> bool:
        """Return whether the connection is to be closed as soon as uvloop has it."""
        return self._closing

    def abort(self) -> None:
        """Close the connection as soon as uvloop has it."""
        self._closing = True

    def pause_reading(self) -> None:
        """Nothing to do: the stream knows."""

    def resume_reading(self) -> None:
        """Nothing to do: the stream knows."""

    def get_write_buffer_size(self) -> int:
        """Return 0: nothing can have been written."""
        return 0


#: Stands for the transport of a connection that uvloop has accepted and not yet presented.
UNOPENED = Opening(None)


def hand_over(stream: Stream, sock: socket.socket) -> None:
    """Give the connected socket ``sock``, and with it its descriptor, to uvloop for ``stream``.

    uvloop answers with ``connection_made`` in the next turn.  Raises ``OSError`` if it cannot take the socket.
    """
    # uvloop offers this as a coroutine that waits only for its own connection_made; so no task is needed to run it.
    steps = stream.turn.loop.connect_accepted_socket(lambda: stream, sock)

    def last(waiter: asyncio.Future[None]) -> None:
        with suppress(StopIteration):
            steps.send(None)

    steps.send(None).add_done_callback(last)
