"""Datagram ports: Twisted's own, except that uvloop receives.

Twisted's port makes and binds the socket and sends with it.  Where it would ask the reactor to watch the socket,
these give uvloop a duplicate of the descriptor, and uvloop calls back for each datagram (up to 32 in one wake-up).
"""
# ruff: noqa: N802, N815 - the names of methods and arguments are Twisted's

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from errno import ECONNREFUSED
from typing import Any

from twisted.internet import udp
from twisted.python import log

from relay.reactor.turn import Turn


class NativeDatagrams:
    """Mixed in before one of Twisted's datagram ports: uvloop receives for it."""

    _receiver: Receiver | None = None
    _closing = False
    _caught: tuple[tuple[bytes, Any], ...] = ()

    # Twisted's base classes are not typed; what is used of them:
    reactor: Any
    socket: socket.socket
    protocol: Any
    maxPacketSize: int
    connected: Any
    logstr: str
    _connectedAddr: Any

    @property
    def reading(self) -> bool:
        """Whether datagrams are received."""
        return self._receiver is not None

    def startReading(self) -> None:
        """Receive from the next turn on."""
        if self._receiver is None and self.connected and not self._closing:
            self.reactor.opened(self)
            self._receiver = Receiver(self.reactor.turn, self)
            self._receiver.start(self.socket.dup())
            caught, self._caught = self._caught, ()
            for data, address in caught:
                self.reactor.turn.loop.call_soon(self.received, data, address)

    def stopReading(self) -> None:
        """Receive no more; datagrams queue in the kernel."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.stop()

    def _loseConnection(self) -> None:
        # Twisted closes in the next turn; uvloop's duplicate of the descriptor must be closed before, or the address
        # would still be taken when the Deferred of stopListening fires.
        if not self.connected or self._closing:
            return
        self._closing = True
        receiver = self._receiver
        self.stopReading()
        if receiver is None:
            self.reactor.callLater(0, self.connectionLost)
        else:
            receiver.when_closed = self.connectionLost

    def connectionLost(self, reason: Any = None) -> None:  # Any: as in Twisted
        """Close the socket and tell the protocol."""
        self.stopReading()
        self.reactor.closed(self)
        super().connectionLost(reason)  # type: ignore[misc]  # Twisted's port follows in the MRO

    # What the receiver calls

    def received(self, data: bytes, address: Any) -> None:  # Any: a tuple of the family
        """Give one datagram to the protocol; its exceptions are logged.

        uvloop reads from the moment at which ``connection_made`` returns, even if the transport was closed in it.  So
        a port that was paused in its first turn may still be given datagrams, which it keeps until it is resumed.
        """
        if self._receiver is None:
            if self.connected and not self._closing:
                self._caught += ((data, address),)
            return
        turn: Turn = self.reactor.turn
        turn.speaker = self  # type: ignore[assignment]  # Twisted's port, which follows in the MRO, has logPrefix
        try:
            self.protocol.datagramReceived(data[: self.maxPacketSize], address[:2])
        except BaseException:  # noqa: BLE001 - logged, as in Twisted: a datagram port has no connection to close
            log.err()
        turn.speaker = None

    def refused(self) -> None:
        """Tell a protocol that is connected to one peer that nobody listens there."""
        if self._connectedAddr:
            self.protocol.connectionRefused()


class Receiver(asyncio.DatagramProtocol):
    """Faces uvloop for a datagram port, from one ``startReading`` to the next ``stopReading``."""

    def __init__(self, turn: Turn, port: NativeDatagrams) -> None:
        self._turn = turn
        self._port = port
        self._stopped = False
        self._transport: asyncio.BaseTransport | None = None
        self.when_closed: Any = None  # Any: a callable without arguments, called when the descriptor is closed

    def start(self, sock: socket.socket) -> None:
        """Give ``sock``, and with it its descriptor, to uvloop."""
        steps = self._turn.loop.create_datagram_endpoint(lambda: self, sock=sock)

        def last(waiter: asyncio.Future[None]) -> None:
            with suppress(StopIteration):
                steps.send(None)

        # As with streams: the coroutine waits only for its own connection_made, so no task is needed to run it.
        steps.send(None).add_done_callback(last)

    def stop(self) -> None:
        """Receive no more; the descriptor is closed in the next turn."""
        self._stopped = True
        if self._transport is not None:
            self._transport.abort()  # type: ignore[attr-defined]  # a datagram transport can be aborted

    # What uvloop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport, or close it if the port has stopped meanwhile."""
        self._transport = transport
        if self._stopped:
            self.stop()

    def datagram_received(self, data: bytes, addr: Any) -> None:  # Any: a tuple of the family
        """Pass it on."""
        self._port.received(data, addr)

    def error_received(self, exc: Exception) -> None:
        """Pass on a refusal; other errors of receiving are of single datagrams and mean nothing to a protocol."""
        if not self._stopped and isinstance(exc, OSError) and exc.errno == ECONNREFUSED:
            self._port.refused()

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish the port's close, once uvloop has closed the descriptor: it does so when this returns."""
        if self.when_closed is not None:
            self._turn.loop.call_soon(self.when_closed)


class UdpPort(NativeDatagrams, udp.Port):
    """A UDP port."""


class MulticastPort(NativeDatagrams, udp.MulticastPort):
    """A UDP port that can join groups."""
