"""A UDP socket that reads many datagrams per wake-up and sends many per system call.

Where Linux can (UDP_GRO, UDP_SEGMENT; since 5.0) datagrams of one size to or from one address pass the kernel as one
piece of up to 64 KiB: 1.5 M a second instead of 250 k. Elsewhere, and for peers that send one at a time, each is one
call. What the kernel does not take is dropped, as a network would: protocols over it send again what matters.

Reactor: ``addReader`` (IReactorFDSet), which relay's and Twisted's have.
"""
# ruff: noqa: N802 - the names of methods are Twisted's

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import Struct
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

from relay.errors import ConfigError

log = Logger()

READS_MAX: Final = 64
"""System calls of one wake-up: others get their turn after that."""
BUFFER_BYTES: Final = 4_194_304
"""Wished for the kernel's buffers; what is granted depends on ``net.core.rmem_max`` and on privileges."""
DATAGRAM_BYTES_MAX: Final = 65_535
SEGMENTS_MAX: Final = 64
SEGMENTED_BYTES_MAX: Final = 65_000
PORT_MAX: Final = 65_535

_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SIZE: Final = Struct("=H")
_ANCILLARY_BYTES: Final = 64

Address = tuple[Any, ...]
"""As the socket gives it: host and port, and for IPv6 two numbers more."""
Batch = list[tuple[bytes, Address]]


def datagram_address(address: str) -> tuple[str, int]:
    """Host and port of ``udp:HOST:PORT`` (an IPv6 host may stand in brackets). Raises ``ConfigError``."""
    kind, _, rest = address.replace("\\", "").partition(":")
    host, colon, port = rest.rpartition(":")
    if kind != "udp" or not colon or not host:
        raise ConfigError(f"{address}: expected udp:HOST:PORT")
    if not port.isdecimal() or int(port) > PORT_MAX:
        raise ConfigError(f"{address}: expected a port from 0 to {PORT_MAX}, got {port!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bound_socket(address: str, reuse_port: bool = False) -> socket.socket:
    """A bound, non-blocking UDP socket. Raises ``ConfigError`` for the address, ``OSError`` when it is taken."""
    host, port = datagram_address(address)
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )[0]
    except OSError:
        if host != "localhost":
            raise ConfigError(f"{address}: expected an IP address, got {host!r}") from None
        family, place = socket.AF_INET, ("127.0.0.1", port)
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setblocking(False)
        made.bind(place)
    except BaseException:
        made.close()
        raise
    return made


def address_of(place: Address) -> IPv4Address | IPv6Address:
    """A socket's address as Twisted has it."""
    if len(place) == 2:
        return IPv4Address("UDP", place[0], place[1])
    return IPv6Address("UDP", *place)


@implementer(IReadDescriptor)
class DatagramSocket:
    """``receive(batch)`` is called once per wake-up. ``dropped``: datagrams that the kernel did not take."""

    def __init__(self, made: socket.socket, reactor: IReactorFDSet, receive: Callable[[Batch], None]) -> None:
        self.dropped = 0
        self._socket = made
        self._reactor = reactor
        self._receive = receive
        self._buffer = bytearray(DATAGRAM_BYTES_MAX)
        self._view = memoryview(self._buffer)
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                made.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except OSError:
                with suppress(OSError):
                    made.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        self._segmented = _can(made, _UDP_SEGMENT, 0)
        _can(made, _UDP_GRO, 1)

    @property
    def place(self) -> Address:
        """The address that it is bound to."""
        found: Address = self._socket.getsockname()
        return found

    def start(self) -> None:
        """Read."""
        self._reactor.addReader(self)

    def close(self) -> None:
        """Read and send no more."""
        self._reactor.removeReader(self)
        self._socket.close()

    def send(self, datagrams: Sequence[bytes], place: Address) -> None:
        """Send all to one address, runs of one size in one call each."""
        count = len(datagrams)
        at = 0
        while at < count:
            size = len(datagrams[at])
            end = at + 1
            if self._segmented and count - at > 1 and size:
                most = min(count, at + SEGMENTS_MAX, at + SEGMENTED_BYTES_MAX // size)
                while end < most and len(datagrams[end]) == size:
                    end += 1
                # The last of a run may be shorter.
                if end < most and 0 < len(datagrams[end]) < size:
                    end += 1
            if end - at == 1:
                self._send_one(datagrams[at], place)
            else:
                self._send_run(datagrams[at:end], size, place)
            at = end

    def _send_one(self, datagram: bytes, place: Address) -> None:
        try:
            self._socket.sendto(datagram, place)
        except OSError:
            # A full buffer, or an error of an earlier datagram that the kernel tells now.
            self.dropped += 1

    def _send_run(self, run: Sequence[bytes], size: int, place: Address) -> None:
        try:
            self._socket.sendmsg(run, [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SIZE.pack(size))], 0, place)
        except BlockingIOError:
            self.dropped += len(run)
        except OSError:
            # An interface that cannot: a path MTU below the size, or no checksums in hardware.
            for datagram in run:
                self._send_one(datagram, place)

    # --- IReadDescriptor --------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._socket.fileno()

    def doRead(self) -> None:
        """Read what is there."""
        batch: Batch = []
        receive, buffer, view = self._socket.recvmsg_into, [self._buffer], self._view
        for _ in range(READS_MAX):
            try:
                size, ancillary, _, place = receive(buffer, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError:
                continue  # an answer of the network to something that was sent
            if not ancillary:
                batch.append((bytes(view[:size]), place))
                continue
            step = int.from_bytes(ancillary[0][2], sys.byteorder) or size
            batch += [(bytes(view[start : min(start + step, size)]), place) for start in range(0, size, step)]
        if batch:
            try:
                self._receive(batch)
            except Exception:  # noqa: BLE001 - logged; the reactor would close the socket of all for one mistake
                log.failure("datagrams met an error")

    def connectionLost(self, reason: Any) -> None:  # Any: as in Twisted
        """The reactor stops."""
        self._socket.close()

    def logPrefix(self) -> str:
        """In the log."""
        return "udp"


def _can(made: socket.socket, option: int, value: int) -> bool:
    try:
        made.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError:
        return False
    return True
