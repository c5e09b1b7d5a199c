"""Listening ports: Twisted's own, except that uvloop accepts.

Twisted's port makes, binds and names the socket, takes the lock file of a UNIX socket, logs and tells the factory.
Where it would ask the reactor to watch the socket (``startReading``), these give uvloop a duplicate of the listening
descriptor.  So a port can be paused and resumed, and its own socket is there for ``getHost`` until it is closed.

libuv accepts one connection for each time it waits for input.  With thousands of busy connections a turn takes
milliseconds, and a wave of reconnecting clients would be let in one by one; so when turns are that long, the port
accepts more by itself, as many as would make 5000 a second, and hands them over.

Some versions of libuv close a listener when ``accept`` fails for a reason other than the connection (no memory, no
descriptors in the system), and uvloop does not say so.  A check once a second notices that and listens again.
"""
# ruff: noqa: N802 - the names of methods and arguments are Twisted's

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python import log

from relay.reactor.stream import UNOPENED, Opening, Stream, hand_over
from relay.reactor.tcp import TcpServer
from relay.reactor.turn import Turn
from relay.reactor.unix import UnixServer

_CHECK_INTERVAL_S = 1.0

#: How many connections are accepted at least, when as many come.
_ACCEPTS_PER_S = 5000
_LONG_TURN_S = 0.002
_ACCEPTS_PER_TURN_MAX = 64  # each costs about 50 us until the protocol has it

_log = Logger()


class NativePort:
    """Mixed in before one of Twisted's ports: uvloop listens for it.

    Of the port it uses what Twisted's classes set: ``socket``, ``backlog``, ``factory``, ``connected``.
    """

    _stream_type: type[Stream]
    _server: asyncio.Server | None = None
    _accepted_at = 0.0  # seconds of time.monotonic
    _check: asyncio.TimerHandle | None = None

    # Twisted's base classes are not typed; what is used of them:
    reactor: Any
    socket: socket.socket
    factory: Any
    backlog: Any
    connected: Any
    sessionno: int

    @property
    def reading(self) -> bool:
        """Whether connections are accepted."""
        return self._server is not None

    def startReading(self) -> None:
        """Accept connections from the next turn on."""
        if self._server is not None or not self.connected:
            return
        turn: Turn = self.reactor.turn
        self.reactor.opened(self)
        sock = self.socket.dup()
        backlog = self.backlog if self.backlog is not None else backlog_of(sock)
        steps = turn.loop.create_server(self._build_stream, sock=sock, backlog=backlog)
        try:
            steps.send(None)  # does not wait for anything when it is given a socket
        except StopIteration as done:
            self._server = done.value
        self._check = turn.loop.call_later(_CHECK_INTERVAL_S, self._check_server)

    def stopReading(self) -> None:
        """Accept no more; clients queue in the kernel as long as the port's own socket is open."""
        if self._check is not None:
            self._check.cancel()
            self._check = None
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def connectionLost(self, reason: Any) -> None:  # Any: as in Twisted
        """Close the socket and tell the factory."""
        self.stopReading()
        self.reactor.closed(self)
        super().connectionLost(reason)  # type: ignore[misc]  # Twisted's port follows in the MRO

    def _build_stream(self) -> Stream:
        # uvloop has accepted a connection and asks for its protocol.
        now = time.monotonic()
        took, self._accepted_at = now - self._accepted_at, now
        turn: Turn = self.reactor.turn
        if took > _LONG_TURN_S:
            turn.loop.call_soon(self._accept_more, min(int(took * _ACCEPTS_PER_S), _ACCEPTS_PER_TURN_MAX))
        return self._stream_type(turn, UNOPENED, self)

    def _accept_more(self, most: int) -> None:
        for _ in range(most):
            if self._server is None:
                return
            try:
                sock, _ = self.socket.accept()
            except OSError:
                return  # there is none, or it has gone; other errors libuv meets at its next accept
            sock.setblocking(False)
            stream = self._stream_type(self.reactor.turn, Opening(sock), self)
            protocol = self.accepted(stream)
            if protocol is None:
                sock.close()
            else:
                hand_over(stream, sock)
                stream.open(protocol)

    def accepted(self, stream: Stream) -> Protocol | None:
        """Return the factory's protocol for a new connection, or None to refuse it; number the connection."""
        if not self.connected:
            return None  # stopped meanwhile
        stream.sessionno = self.sessionno
        self.sessionno += 1
        try:
            peer = cast(ITransport, stream).getPeer()
        except (OSError, TypeError):
            return None  # the peer has left already: its socket has no name, or uvloop has None for it
        try:
            protocol: Protocol | None = self.factory.buildProtocol(peer)
        except BaseException:  # noqa: BLE001 - logged; an error of the factory refuses the connection
            log.err(None, "while building the protocol of a connection")
            return None
        return protocol

    def _check_server(self) -> None:
        server = self._server
        self._check = None
        if server is None:
            return
        if any(sock is None or sock.fileno() < 0 for sock in server.sockets):
            _log.error("{port} could not accept and lost its listener; listening again", port=self)
            self.stopReading()
            self.startReading()
        else:
            self._check = self.reactor.turn.loop.call_later(_CHECK_INTERVAL_S, self._check_server)


class TcpPort(NativePort, tcp.Port):
    """A TCP port."""

    _stream_type = TcpServer


class UnixPort(NativePort, unix.Port):
    """A port on a UNIX stream socket."""

    _stream_type = UnixServer


def backlog_of(sock: socket.socket) -> int:
    """Return how many connections may wait on the listening ``sock`` (listening again would change it).

    Linux tells it in ``tcpi_sacked`` of TCP_INFO, a 32-bit number at offset 28; elsewhere the system's maximum is used.
    """
    if hasattr(socket, "TCP_INFO") and sock.family in (socket.AF_INET, socket.AF_INET6):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        if len(info) == 32:
            return int(struct.unpack_from("=I", info, 28)[0])
    return socket.SOMAXCONN
