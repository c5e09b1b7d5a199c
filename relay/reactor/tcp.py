"""TCP streams: addresses and socket options on top of the common stream."""
# ruff: noqa: N803, N815 - the names of methods and arguments are Twisted's

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ITCPTransport, ITLSTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.reactor.handle import internet_address, log_prefix_of
from relay.reactor.stream import Stream
from relay.reactor.tls import ContextFactory, start_tls


@implementer(ITCPTransport, ITLSTransport)
class TcpStream(Stream):
    """A TCP connection."""

    __slots__ = ()

    #: Whether this side is the TLS client when ``startTLS`` does not say otherwise.
    is_client = False

    #: What TCP_NODELAY is to begin with: uvloop sets it on every connection.
    nodelay = True

    #: Whether the bytes go through TLS; see ``ISSLTransport`` for a better way to ask.
    TLS = False

    def getHost(self) -> IPv4Address | IPv6Address:
        """Return our address."""
        return internet_address(self.uv.get_extra_info("sockname"))

    def getPeer(self) -> IPv4Address | IPv6Address:
        """Return the peer's address; also after the connection was lost."""
        return internet_address(self.uv.get_extra_info("peername"))

    def getTcpNoDelay(self) -> bool:
        """Return whether small segments are sent at once; uvloop sets this on every connection."""
        return bool(self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Send small segments at once, or gather them in the kernel (Nagle's algorithm, RFC 896)."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        """Return whether the kernel probes an idle connection."""
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Let the kernel probe an idle connection, or not."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def startTLS(self, contextFactory: ContextFactory, normal: bool = True) -> None:
        """Put TLS between the protocol and the socket from the next byte on; see ``ITLSTransport``."""
        start_tls(self, contextFactory, self.is_client == bool(normal))


class TcpServer(TcpStream):
    """An accepted connection, or an adopted one."""

    __slots__ = ()

    @property
    def server(self) -> Any:  # Any: the port, a subclass of Twisted's untyped one
        """The port that accepted the connection, or None when it was adopted."""
        return self.owner

    @property
    def logstr(self) -> str:
        """The log prefix: protocol, number, and the peer's host."""
        return f"{log_prefix_of(self.protocol)},{self.sessionno},{self.getPeer().host}"

    def __repr__(self) -> str:
        name = self.protocol.__class__.__name__
        return f"<{name} #{self.sessionno} on {self.getHost().port}>"


class ClientSide(Stream):
    """Mixed into the streams of connections that we made: the connector hears of the end too."""

    __slots__ = ()

    is_client = True

    @property
    def connector(self) -> Any:  # Any: the connector, a subclass of Twisted's untyped one
        """The connector that made the connection; None after it was lost."""
        return self.owner

    @property
    def logstr(self) -> str:
        """The log prefix: protocol and role."""
        return f"{log_prefix_of(self.protocol)},client"

    def connectionLost(self, reason: Failure) -> None:
        """Give up the connection; the protocol hears of it first, then the connector."""
        connector, self.owner = self.owner, None  # the connector keeps us: no cycle should be left
        super().connectionLost(reason)
        if connector is not None:
            connector.connectionLost(self._reason or reason)


class TcpClient(ClientSide, TcpStream):
    """A connection made by ``connectTCP``.

    ``addr`` is what was asked for: the host, perhaps a name, and the port.  ``realAddress`` is what was connected to.
    """

    __slots__ = ("addr", "realAddress")

    addr: tuple[Any, ...]
    realAddress: tuple[Any, ...]

    def getPeer(self) -> IPv4Address | IPv6Address:
        """Return the address that was connected to; also when the peer has left already."""
        return internet_address(self.realAddress)

    def __repr__(self) -> str:
        return f"<{self.__class__} to {self.addr} at {id(self):x}>"
