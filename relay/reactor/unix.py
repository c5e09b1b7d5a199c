"""UNIX streams: addresses, and passing descriptors (``IUNIXTransport``) over uvloop's transport.

uvloop reads with ``read(2)``, which loses descriptors, and cannot send them.  So

- to send one, the socket is used directly while uvloop has nothing to write;
- to receive one, and only for a protocol that provides ``IFileDescriptorReceiver``, each read is preceded by a
  ``recvmsg`` that only looks (MSG_PEEK).  Linux duplicates the descriptors for whoever looks and ends the look at the
  message that carries them, so the read that follows is given room for exactly the bytes that were seen and cannot
  pass by another descriptor.  (On systems other than Linux descriptors are not received.)

Descriptors that arrive for other protocols are closed by the kernel, without a message in the log.
"""
# ruff: noqa: N803 - the names of methods and arguments are Twisted's

from __future__ import annotations

import array
import asyncio
import os
import socket
from typing import Any, cast

from twisted.internet import main
from twisted.internet.address import UNIXAddress
from twisted.internet.error import FileDescriptorOverrun
from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IPushProducer,
    ITCPTransport,
    ITLSTransport,
    IUNIXTransport,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.reactor.handle import borrowed, log_prefix_of
from relay.reactor.stream import Facing, Stream
from relay.reactor.tcp import ClientSide
from relay.reactor.tls import ContextFactory, start_tls
from relay.reactor.turn import Turn

#: More descriptors than this in the queue pause a producer, as in Twisted.
_DESCRIPTORS_QUEUED_MAX = 64

#: A look takes at most this much, and descriptors at most so many: Linux's limit for one message (SCM_MAX_FD).
_LOOK_BYTES = 64 * 1024
_DESCRIPTORS_PER_MESSAGE_MAX = 253
_ANCILLARY_BYTES = socket.CMSG_SPACE(_DESCRIPTORS_PER_MESSAGE_MAX * array.array("i").itemsize)
_LOOK = socket.MSG_PEEK | getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@implementer(IUNIXTransport, ITCPTransport, ITLSTransport)
class UnixStream(Stream):
    """A connection over a UNIX socket.  It has the methods of a TCP connection too, as in Twisted."""

    __slots__ = ("_descriptors", "_host", "_peer")

    is_client = False
    TLS = False

    def __init__(self, turn: Turn, uv: asyncio.Transport, owner: Any) -> None:  # Any: a port or a connector
        super().__init__(turn, uv, owner)
        self._descriptors: list[int] = []
        self._host: UNIXAddress | None = None
        self._peer: UNIXAddress | None = None

    def open(self, protocol: Protocol) -> None:
        """Begin to serve ``protocol`` over the socket."""
        self.getHost()
        self.getPeer()  # both are asked for again when the socket is gone
        super().open(protocol)

    def getHost(self) -> UNIXAddress:  # type: ignore[override]  # not the internet address of ITCPTransport
        """Return our address: the path that was listened on."""
        if self._host is None:
            self._host = UNIXAddress(self.uv.get_extra_info("sockname"))
        return self._host

    def getPeer(self) -> UNIXAddress:  # type: ignore[override]  # not the internet address of ITCPTransport
        """Return the peer's address, which has no name unless the peer bound its socket."""
        if self._peer is None:
            self._peer = UNIXAddress(self.uv.get_extra_info("peername") or None)
        return self._peer

    def getTcpNoDelay(self) -> bool:
        """Return False: there is nothing to delay."""
        return False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: there is nothing to delay."""

    def getTcpKeepAlive(self) -> bool:
        """Return the option of the socket, which has no effect here."""
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Set the option of the socket, which has no effect here."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def startTLS(self, contextFactory: ContextFactory, normal: bool = True) -> None:
        """Put TLS between the protocol and the socket from the next byte on; see ``ITLSTransport``."""
        start_tls(self, contextFactory, self.is_client == bool(normal))

    # Descriptors

    def sendFileDescriptor(self, fileno: int) -> None:
        """Send the descriptor ``fileno`` with the next byte written; it must stay open until then.

        At the end of the turn there must be a byte for each descriptor, else the connection is closed with
        ``FileDescriptorOverrun``.
        """
        self._descriptors.append(fileno)
        self._touch()
        if len(self._descriptors) > _DESCRIPTORS_QUEUED_MAX and self.streamingProducer and not self.producerPaused:
            if self.producer is not None:
                self.producerPaused = self._on_drain = True
                cast(IPushProducer, self.producer).pauseProducing()

    def flush(self) -> None:
        """Send what was written, descriptors first."""
        if self._descriptors and not self._blocked and self._reason is None:
            self._send_descriptors()
        super().flush()

    def _send(self) -> None:
        if self._descriptors:
            self._send_descriptors()
            if self._blocked or not self._size:
                return
        super()._send()

    def _send_descriptors(self) -> None:
        queue = self._descriptors
        handle = borrowed(self.uv)
        if handle is None:
            return
        if len(queue) > self._size:
            self._end(Failure(FileDescriptorOverrun()))
            return
        data = b"".join(self._out)
        sent = 0
        try:
            for descriptor in queue:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
                handle.sendmsg([data[sent : sent + 1]], rights)
                sent += 1
        except BlockingIOError:
            self._await_room(handle)
        except OSError:
            self._end(Failure(main.CONNECTION_LOST))
            return
        del queue[:sent]
        self._out = [data[sent:]]
        self._size = len(data) - sent

    def _await_room(self, handle: socket.socket) -> None:
        # uvloop does not watch its own descriptors for others, hence the copy.
        self._blocked = True
        copy = os.dup(handle.fileno())
        self.turn.loop.add_writer(copy, self._room, copy)

    def _room(self, copy: int) -> None:
        self.turn.loop.remove_writer(copy)
        os.close(copy)
        self.resume_writing()

    def _hold(self) -> Facing | None:
        return DescriptorReader(self) if IFileDescriptorReceiver.providedBy(self.protocol) else super()._hold()


class UnixServer(UnixStream):
    """An accepted connection, or an adopted one."""

    __slots__ = ()

    @property
    def logstr(self) -> str:
        """The log prefix: protocol, number, and the path."""
        return f"{log_prefix_of(self.protocol)},{self.sessionno},{_text(self.getHost())}"

    def __repr__(self) -> str:
        name = self.protocol.__class__.__name__
        return f"<{name} #{self.sessionno} on {_text(self.getHost())}>"


class UnixClient(ClientSide, UnixStream):
    """A connection made by ``connectUNIX``."""

    __slots__ = ()

    def getHost(self) -> UNIXAddress:
        """Return an address without a name, as Twisted does."""
        return UNIXAddress(None)

    def getPeer(self) -> UNIXAddress:
        """Return the path that was connected to."""
        if self._peer is None:
            self._peer = self.owner.getDestination()
        return self._peer


class DescriptorReader(Facing, asyncio.BufferedProtocol):
    """Faces uvloop for a stream whose protocol takes descriptors, for its whole life: looks before each read."""

    def __init__(self, stream: Stream) -> None:
        self._room = bytearray(1)
        self._data = b""
        self._descriptors: list[int] = []
        super().__init__(stream)
        stream.turn.loop.call_soon(self._begin)

    def release(self) -> None:
        """Deliver what was caught, then read again; called in a turn of its own."""
        stream = self._stream
        if stream.reading:
            data, self._data = self._data, b""
            if data:
                self._deliver(data)
        if stream.reading:
            stream.uv.resume_reading()

    def _begin(self) -> None:
        # uvloop has begun to read in any case; what it found while we were paused was caught.
        if not self._stream.reading:
            self._stream.uv.pause_reading()

    def _deliver(self, data: bytes) -> None:
        stream = self._stream
        descriptors, self._descriptors = self._descriptors, []
        try:
            for descriptor in descriptors:
                receiver = cast(IFileDescriptorReceiver, stream.protocol)
                receiver.fileDescriptorReceived(descriptor)
        except BaseException:  # noqa: BLE001 - any error of the application closes its connection
            stream.fail(Failure())
        if stream._reason is None:
            stream.data_received(data)

    # What uvloop calls

    def get_buffer(self, sizehint: int) -> bytearray:
        """Look at what has arrived; return room for exactly that."""
        handle = borrowed(self._stream.uv)
        seen = 0
        try:
            if handle is not None:
                data, ancillary, _, _ = handle.recvmsg(_LOOK_BYTES, _ANCILLARY_BYTES, _LOOK)
                seen = len(data)
                for level, kind, content in ancillary:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        received = array.array("i")
                        received.frombytes(content[: len(content) - len(content) % received.itemsize])
                        self._descriptors.extend(received)
        except OSError:
            seen = 0  # the read that follows fails in the same way, and tells uvloop
        self._room = bytearray(seen or 1)  # with nothing seen, the read finds the end of input
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Deliver what was read; the next read comes in the next turn, after another look."""
        data = bytes(self._room[:nbytes])
        stream = self._stream
        stream.uv.pause_reading()
        if stream.reading:
            self._deliver(data)
        else:
            self._data += data
        stream.turn.loop.call_soon(self.release)

    def eof_received(self) -> bool:
        """Pass it on."""
        return self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on; close the descriptors that nobody took."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        super().connection_lost(exc)


def _text(address: UNIXAddress) -> str:
    name = address.name
    return os.fsdecode(name) if name is not None else "None"
