"""What a native transport says about itself: its socket, lent to whoever asks, its addresses, its log prefix."""


from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ILoggingContext, ISystemHandle
from zope.interface import implementer

from relay.reactor.turn import Turn

if TYPE_CHECKING:
    from relay.reactor.uv import UvReactor


class BorrowedSocket(socket.socket):
    """A Python socket over a descriptor that uvloop owns: all of a socket's methods, but closing it only forgets it."""

    def close(self) -> None:
        """Let go of the descriptor without closing it."""
        self.detach()

    def __del__(self) -> None:
        self.detach()


def borrowed(transport: asyncio.BaseTransport) -> BorrowedSocket | None:
    """Return the socket of ``transport``, or None when it is closed.

    It is valid as long as the connection is: keep the transport, not the socket.
    """
    handle = transport.get_extra_info("socket")
    if handle is None or handle.fileno() < 0:
        return None
    return BorrowedSocket(handle.family, handle.type, handle.proto, handle.fileno())


def internet_address(name: tuple[Any, ...]) -> IPv4Address | IPv6Address:  # Any: host and numbers
    """Return Twisted's address for a socket name of TCP; a link-local IPv6 host carries its zone (``fe80::1%eth0``)."""
    if len(name) == 2:
        return IPv4Address("TCP", name[0], name[1])
    host = name[0]
    if name[3]:
        host = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    return IPv6Address("TCP", host, *name[1:])


def log_prefix_of(logger: object) -> str:
    """Return the log prefix of a protocol or factory: its own, or the name of its class."""
    if ILoggingContext.providedBy(logger):
        return str(logger.logPrefix())
    return logger.__class__.__name__


@implementer(ISystemHandle, ILoggingContext)
class Described:
    """Mixed into a stream: what programs ask a transport about itself."""

    __slots__ = ()

    uv: asyncio.Transport
    turn: Turn
    protocol: Any
    sessionno: int
    disconnected: bool

    @property
    def reactor(self) -> UvReactor:
        """The reactor that runs this connection."""
        return self.turn.reactor

    @property
    def socket(self) -> BorrowedSocket:
        """The connection's socket, lent: see ``getHandle``."""
        handle = None if self.disconnected else borrowed(self.uv)
        if handle is None:
            raise AttributeError("the connection is closed")
        handle.settimeout(0)
        return handle

    def getHandle(self) -> Any:  # Any: after startTLS it is the TLS connection
        """Return the socket, for its options and addresses.  It must not be read from, written to or kept."""
        return self.socket

    def fileno(self) -> int:
        """Return the descriptor, or -1 when the connection is lost."""
        handle = None if self.disconnected else borrowed(self.uv)
        return -1 if handle is None else handle.fileno()

    def logPrefix(self) -> str:
        """Return the prefix of what is logged while the protocol runs."""
        return self.logstr

    @property
    def logstr(self) -> str:
        """The log prefix: protocol and number."""
        return f"{log_prefix_of(self.protocol)},{self.sessionno}"
