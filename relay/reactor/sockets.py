"""The socket methods of the reactor, each on a native transport."""
# ruff: noqa: N802, N803 - the names of methods and arguments are Twisted's
# mypy: disallow-untyped-calls=False
# Most of Twisted's ports and connectors have no types.

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.interfaces import IConnector, IListeningPort, IProtocolFactory
from twisted.internet.protocol import AbstractDatagramProtocol, ClientFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from relay.reactor.connector import Bind, TcpConnector, UnixConnector
from relay.reactor.datagram import MulticastPort, UdpPort
from relay.reactor.port import TcpPort, UnixPort
from relay.reactor.stream import Opening, Stream, hand_over
from relay.reactor.tcp import TcpServer
from relay.reactor.tls import ContextFactory
from relay.reactor.turn import Turn, TurnClock
from relay.reactor.unix import UnixServer

_STREAM_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_DATAGRAM_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class NativeSockets:
    """Mixed in before a reactor: ``IReactorTCP``, ``-SSL``, ``-UNIX``, ``-UDP``, ``-Multicast`` and ``-Socket``.

    The arguments are those of Twisted's interfaces.  A ``backlog`` is passed to the system as it is given.
    """

    turn: Turn

    def listenTCP(
        self, port: Any, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> TcpPort:  # Any: a number, or the object that Twisted's makeBinding returns
        """Listen on a TCP port.  Raises ``CannotListenError``."""
        listening = TcpPort(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def connectTCP(
        self, host: str, port: int, factory: ClientFactory, timeout: float = 30.0, bindAddress: Bind = None
    ) -> IConnector:
        """Connect to a TCP port, within ``timeout`` seconds."""
        connector = TcpConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def listenSSL(
        self,
        port: Any,  # Any: as in listenTCP
        factory: IProtocolFactory,
        contextFactory: ContextFactory,
        backlog: int = 50,
        interface: str = "",
    ) -> TcpPort:
        """Listen on a TCP port for TLS connections.  Raises ``CannotListenError``."""
        over_tls = TLSMemoryBIOFactory(contextFactory, False, factory, clock=TurnClock(self.turn))
        listening = self.listenTCP(port, over_tls, backlog, interface)
        listening._type = "TLS"
        return listening

    def connectSSL(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        contextFactory: ContextFactory,
        timeout: float = 30.0,
        bindAddress: Bind = None,
    ) -> IConnector:
        """Connect to a TCP port and start TLS, within ``timeout`` seconds for the connection."""
        over_tls: Any = TLSMemoryBIOFactory(contextFactory, True, factory, clock=TurnClock(self.turn))
        return self.connectTCP(host, port, over_tls, timeout, bindAddress)

    def listenUNIX(
        self,
        address: Any,  # Any: a str or bytes; Twisted's port says bytes and takes both
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> UnixPort:
        """Listen on a UNIX stream socket.  Raises ``CannotListenError``."""
        listening = UnixPort(address, factory, backlog, mode, self, wantPID)
        listening.startListening()
        return listening

    def connectUNIX(
        self, address: str | bytes, factory: ClientFactory, timeout: float = 30, checkPID: bool = False
    ) -> IConnector:
        """Connect to a UNIX stream socket, within ``timeout`` seconds."""
        connector = UnixConnector(address, factory, timeout, self, checkPID)
        connector.connect()
        return connector

    def listenUDP(
        self, port: int, protocol: AbstractDatagramProtocol, interface: str = "", maxPacketSize: int = 8192
    ) -> UdpPort:
        """Receive and send datagrams on a UDP port.  Raises ``CannotListenError``."""
        listening = UdpPort(port, protocol, interface, maxPacketSize, self)
        listening.startListening()
        return listening

    def listenMulticast(
        self,
        port: int,
        protocol: AbstractDatagramProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> MulticastPort:
        """Receive and send datagrams on a UDP port that can join groups.  Raises ``CannotListenError``."""
        reactor: Any = self  # a reactor, once this is mixed in
        listening = MulticastPort(port, protocol, interface, maxPacketSize, reactor, listenMultiple)
        listening.startListening()
        return listening

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> IListeningPort:
        """Accept from a listening socket that somebody else made.

        Its options stay as they are, and so does its backlog, except that a UNIX socket, which does not tell what it
        has, gets the system's maximum.
        """
        if addressFamily not in _STREAM_FAMILIES:
            raise UnsupportedAddressFamily(addressFamily)
        listening: Any  # Twisted's two ports have no typed base in common
        if addressFamily == socket.AF_UNIX:
            listening = UnixPort._fromListeningDescriptor(self, fileDescriptor, factory)
            listening.backlog = socket.SOMAXCONN
        else:
            listening = TcpPort._fromListeningDescriptor(self, fileDescriptor, addressFamily, factory)
        listening.startListening()
        return listening  # type: ignore[no-any-return]

    def adoptStreamConnection(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> Stream | None:
        """Serve a connected socket that somebody else made; return its transport, or None if the factory refused it."""
        if addressFamily not in _STREAM_FAMILIES:
            raise UnsupportedAddressFamily(addressFamily)
        sock = socket.fromfd(fileDescriptor, addressFamily, socket.SOCK_STREAM)
        sock.setblocking(False)
        stream: Any  # one of two classes, whose addresses differ
        if addressFamily == socket.AF_UNIX:
            stream = UnixServer(self.turn, Opening(sock), None)
            address = stream.getHost()  # the peer has no name
        else:
            stream = TcpServer(self.turn, Opening(sock), None)
            address = stream.getPeer()
            stream.sessionno = address.port
        protocol: Any = factory.buildProtocol(address)
        if protocol is None:
            sock.close()
            return None
        hand_over(stream, sock)
        stream.open(protocol)
        return stream  # type: ignore[no-any-return]

    def adoptDatagramPort(
        self, fileDescriptor: int, addressFamily: int, protocol: AbstractDatagramProtocol, maxPacketSize: int = 8192
    ) -> IListeningPort:
        """Receive and send on a UDP socket that somebody else made."""
        if addressFamily not in _DATAGRAM_FAMILIES:
            raise UnsupportedAddressFamily(addressFamily)
        listening: Any = UdpPort._fromListeningDescriptor(self, fileDescriptor, addressFamily, protocol, maxPacketSize)
        listening.startListening()
        return listening  # type: ignore[no-any-return]
