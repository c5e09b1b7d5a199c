"""Outgoing connections: an attempt to connect a socket, and the connectors that own the attempts.

Twisted's connectors hold the state (connecting, connected, disconnected), the time-out and the factory; here an
attempt takes the place of Twisted's client transport until the socket is connected::

    make socket, bind ─▶ (a turn later) resolve the name ─▶ connect ─▶ writable ─▶ hand over to uvloop ─▶ stream
         └───────────────────────┴──────────────────────────┴───────────┴── an error, the time-out ─▶ connectionFailed

A socket that is connecting is watched for writability once; from then on uvloop's transport has it.
"""
# ruff: noqa: N802 - the names of methods and arguments are Twisted's

from __future__ import annotations

import os
import socket
from errno import EAGAIN, EINPROGRESS, EISCONN
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import BadFileError, ConnectBindError, UserError, getConnectError
from twisted.internet.protocol import Protocol
from twisted.python import lockfile
from twisted.python.failure import Failure

from relay.reactor.stream import Opening, Stream, hand_over
from relay.reactor.tcp import TcpClient
from relay.reactor.unix import UnixClient

_UNIX_RETRY_INTERVAL_S = 0.01  # a UNIX socket whose peer's backlog is full cannot be waited for, only asked again

Bind = Any  # None, (host, port), or the object that Twisted's makeBinding returns


class Attempt:
    """One attempt to connect; its connector sees it as a transport that is not connected yet."""

    logstr = "Uninitialized"  # as in Twisted, until there is a protocol

    def __init__(self, connector: Any, reactor: Any) -> None:  # Any: Twisted's connector, and our reactor
        self.connector = connector
        self.reactor = reactor
        self.socket: socket.socket | None = None
        self._watched = False

    def prepare(self) -> None:
        """Make the socket, so that errors of binding are known first; go on in the next turn."""
        try:
            self.socket = self.make_socket()
        except OSError as error:
            self.reactor.callLater(0, self.failIfNotConnected, ConnectBindError(error.errno, error.strerror))
        else:
            self.reactor.callLater(0, self.start)

    def make_socket(self) -> socket.socket:
        """Return a socket that does not block, bound if that was asked for.  Raises ``OSError``."""
        raise NotImplementedError

    def find_address(self) -> Any:  # Any: what the socket's connect takes, or a Deferred of it
        """Find the address to connect to."""
        raise NotImplementedError

    def make_stream(self, sock: socket.socket, address: Any) -> Stream:  # Any: as in connect
        """Return a stream for the socket, which is connected to ``address``."""
        raise NotImplementedError

    def start(self) -> None:
        """Find the address, then connect to it."""
        maybeDeferred(self.find_address).addCallback(self.connect).addErrback(self.failIfNotConnected)

    def connect(self, address: Any) -> None:  # Any: a tuple of TCP, or a path
        """Connect the socket; ends in ``_connected`` or ``failIfNotConnected``."""
        sock = self.socket
        if sock is None:
            return  # given up meanwhile
        code = sock.connect_ex(address)
        loop = self.reactor.turn.loop
        if code in (0, EISCONN):
            self._connected(sock, address)
        elif code == EINPROGRESS:
            self._watched = True
            loop.add_writer(sock.fileno(), self._writable, sock, address)
        elif code == EAGAIN and sock.family == socket.AF_UNIX:
            loop.call_later(_UNIX_RETRY_INTERVAL_S, self.connect, address)
        else:
            self.failIfNotConnected(getConnectError((code, os.strerror(code))))

    def _writable(self, sock: socket.socket, address: Any) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.failIfNotConnected(getConnectError((code, os.strerror(code))))
        else:
            self._unwatch(sock)
            self._connected(sock, address)

    def _unwatch(self, sock: socket.socket) -> None:
        if self._watched:
            self._watched = False
            self.reactor.turn.loop.remove_writer(sock.fileno())

    def _connected(self, sock: socket.socket, address: Any) -> None:
        connector = self.connector
        stream: Any = self.make_stream(sock, address)
        hand_over(stream, sock)
        self.connector = self.socket = None
        connector.transport = stream
        protocol = connector.buildProtocol(stream.getPeer())
        stream.open(protocol if protocol is not None else Protocol())
        if protocol is None:
            stream.loseConnection()

    # What the connector calls

    def failIfNotConnected(self, reason: BaseException | Failure) -> None:
        """Give up with ``reason``, unless that has happened already or the socket is connected."""
        connector, self.connector = self.connector, None
        if connector is None:
            return
        sock, self.socket = self.socket, None
        if sock is not None:
            self._unwatch(sock)
            sock.close()
        connector.connectionFailed(reason if isinstance(reason, Failure) else Failure(reason))

    def stopConnecting(self) -> None:
        """Give up because the user asked for it."""
        self.failIfNotConnected(UserError())


class TcpAttempt(Attempt):
    """An attempt to connect to a host and port."""

    def __init__(self, connector: TcpConnector, reactor: Any) -> None:  # Any: our reactor
        super().__init__(connector, reactor)
        self._host: str = connector.host
        self._port: int = connector.port
        self._bind: Bind = connector.bindAddress

    def make_socket(self) -> socket.socket:
        """Return a TCP socket of the host's family (IPv4 for a name), bound to the connector's ``bindAddress``."""
        family = socket.AF_INET6 if isIPv6Address(self._host) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if self._bind is not None:
            try:
                bind(sock, self._bind)
            except BaseException:
                sock.close()
                raise
        return sock

    def find_address(self) -> Any:  # Any: a tuple, or a Deferred of one
        """Find the host's address, with the reactor's resolver unless it is a literal.  Raises ``OSError``."""
        if isIPAddress(self._host):
            return (self._host, self._port)
        if isIPv6Address(self._host):
            address = _numeric_ipv6(self._host, self._port)
            host = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
            return (host, *address[1:])
        return self.reactor.resolve(self._host).addCallback(lambda found: (found, self._port))

    def make_stream(self, sock: socket.socket, address: Any) -> TcpClient:  # Any: a tuple of two or four
        """Return a stream for the socket, which is connected to ``address``."""
        stream = TcpClient(self.reactor.turn, Opening(sock), self.connector)
        stream.addr = (self._host, self._port, *address[2:])
        stream.realAddress = address
        return stream


class UnixAttempt(Attempt):
    """An attempt to connect to a path."""

    def __init__(self, connector: UnixConnector, reactor: Any) -> None:  # Any: our reactor
        super().__init__(connector, reactor)
        self._path = os.fsencode(UNIXAddress(connector.address).name or b"")
        self._check_pid = connector.checkPID

    def make_socket(self) -> socket.socket:
        """Return a UNIX stream socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock

    def find_address(self) -> bytes:
        """Return the path.  Raises ``BadFileError`` if its lock file should be held by somebody and is not."""
        if self._check_pid and not lockfile.isLocked(self._path + b".lock"):
            raise BadFileError(self._path)
        return self._path

    def make_stream(self, sock: socket.socket, address: bytes) -> UnixClient:
        """Return a stream for the socket."""
        return UnixClient(self.reactor.turn, Opening(sock), self.connector)


class TcpConnector(tcp.Connector):
    """Twisted's connector of TCP, over our attempts."""

    def _makeTransport(self) -> TcpAttempt:  # type: ignore[override]  # Twisted's type is its own transport
        attempt = TcpAttempt(self, self.reactor)
        attempt.prepare()
        return attempt


class UnixConnector(unix.Connector):
    """Twisted's connector of UNIX sockets, over our attempts."""

    def _makeTransport(self) -> UnixAttempt:  # type: ignore[override]  # Twisted's type is its own transport
        attempt = UnixAttempt(self, self.reactor)
        attempt.prepare()
        return attempt


def bind(sock: socket.socket, binding: Bind) -> None:
    """Bind ``sock`` to ``binding``, with the options of it.  Raises ``OSError``."""
    if isinstance(binding, tuple):
        binding = tcp.makeBinding(*binding)
    if binding._reuseAddress:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if binding._reusePort:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    host, port = binding._address, binding._port
    sock.bind(_numeric_ipv6(host, port) if isIPv6Address(host) else (host, port))


def _numeric_ipv6(host: str, port: int) -> tuple[str, int, int, int]:
    # The literal may name a zone (RFC 4007 section 11), which only getaddrinfo turns into a number.  It also turns a
    # port that is out of range into another, so the port is kept away from it.
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(host, 1, socket.AF_INET6, socket.SOCK_STREAM, 0, numeric)[0][4]
    return (str(found[0]), port, int(found[2]), int(found[3]))  # type: ignore[misc]  # four parts for AF_INET6
