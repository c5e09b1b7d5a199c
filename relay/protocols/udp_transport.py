"""One connection over UDP as a transport: whole frames in and out, each in a datagram of its own.

    datagrams ─▶ UdpPort ─▶ UdpTransport ─▶ UdpLink ─▶ frames ─▶ Stream ─▶ core
    core ─▶ outbox ─▶ write: frames with their lengths ─▶ UdpLink ─▶ contents ─▶ sealed ─▶ UdpPort

What is written are frames of the binary stream form, one or several, never a part of one. A frame that does not fit
into a datagram is replaced: an answer by the error ``too_large``, anything else by a report of one frame left out.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import error
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.dialects.relay_v1 import BinaryMessages
from relay.errors import FrameTooLarge, RemoteProtocolError
from relay.wire import kinds
from relay.wire.binary import LENGTH_BYTES, decode_frame, encode_frame, encode_stream, is_loose_frame
from relay.wire.contracts import BINARY_STREAM
from relay.wire.message import Message
from relay.wire.secure import ChannelKeys, ServerHandshake
from relay.wire.secure_records import REKEY_S, DatagramOpener, DatagramSealer
from relay.wire.udp_link import CONTENT, UdpLink
from relay.wire.udp_packets import HEAD_BYTES, PACKET

if TYPE_CHECKING:
    from relay.protocols.entrance import Arrival
    from relay.protocols.udp import UdpPort

log = Logger()

DONE: Final = Failure(error.ConnectionDone())
ABORTED: Final = Failure(error.ConnectionAborted())
HELD_FRAMES_MAX: Final = 256
"""Frames of a client that is paused …"""
HELD_BYTES_MAX: Final = 262_144
"""… and their bytes, whichever is reached first."""
_KINDS_ANSWERING: Final = frozenset((kinds.REPLY, kinds.ERROR))


class DatagramFrames(BinaryMessages):
    """Whole frames in, frames with their lengths out: a turn's frames are written together and stay apart."""

    __slots__ = ()
    encoding = BINARY_STREAM
    encode = staticmethod(encode_stream)


class UdpTransport:
    """See the module. ``place``: where the client is now; ``unproven``: it has not answered from there yet, and gets
    at most ``budget`` bytes more. ``due``: the slot of the port's wheel, 0 for none."""

    __slots__ = (
        "_closing", "_full", "_head", "_opener", "_paused", "_paused_bytes", "_port", "_producer", "_rekey_at",
        "_sealer", "accepted", "address", "arrival", "budget", "challenged_at", "connection", "due", "handshake",
        "joins_writes", "link", "marked", "nodelay", "opening", "place", "protocol", "token", "unproven",
    )  # fmt: skip

    def __init__(
        self, port: UdpPort, connection: bytes, link: UdpLink, address: IAddress, place: Any, opening: tuple[Any, bytes]
    ) -> None:
        self.connection = connection
        self.link = link
        self.address = address
        self.place = place
        self.opening = opening
        """Where and with which nonce it began: a hello that is repeated gets ``accepted`` again."""
        self.accepted = b""
        self.handshake: ServerHandshake | None = None
        self.arrival: Arrival | None = None
        """Until the handshake of the secure channel has ended."""
        self.protocol: IProtocol | None = None
        self.unproven = False
        self.challenged_at = 0.0
        self.budget = 0
        self.token = b""
        self.due = 0
        self.marked = False
        self.nodelay = port.nodelay
        self.joins_writes = True  # each frame is a datagram of its own anyway
        self._port = port
        self._head = bytes((PACKET,)) + connection
        self._sealer: DatagramSealer | None = None
        self._opener: DatagramOpener | None = None
        self._rekey_at = 0.0
        self._producer: Any = None  # Any: an IPushProducer
        self._full = False
        self._paused: list[bytes] | None = None
        self._paused_bytes = 0
        self._closing = False

    # --- the port -----------------------------------------------------------------------------------------------------

    def secure(self, keys: ChannelKeys, now: float) -> None:
        """Seal and open from now on."""
        self.handshake = None
        self._sealer = DatagramSealer(keys.suite, keys.sending)
        self._opener = DatagramOpener(keys.suite, keys.receiving)
        self._rekey_at = now + REKEY_S

    def open(self, datagram: bytes) -> bytes | None:
        """The content of a packet; None for a forged or doubled one."""
        if self._opener is None:
            return datagram[HEAD_BYTES:]
        return self._opener.open(datagram[HEAD_BYTES:], self._head)

    @property
    def full(self) -> bool:
        """Whether no more is taken in."""
        return self._paused is not None and (
            len(self._paused) >= HELD_FRAMES_MAX or self._paused_bytes >= HELD_BYTES_MAX
        )

    def deliver(self, content: bytes, now: float) -> None:
        """Give the frames in ``content`` to the protocol. Raises ``RemoteProtocolError``."""
        if self.full:
            # Its frame comes again; what it acknowledges must not wait, or we would give the client up.
            self.link.acknowledged(content, now)
            return
        for frame, reliable in self.link.receive(content, now):
            if not reliable and not is_loose_frame(frame):
                raise RemoteProtocolError("a frame that has to be counted was sent as one that may be lost")
            if self._paused is not None:
                self._paused.append(frame)
                self._paused_bytes += len(frame)
            elif self.protocol is not None:
                self.protocol.dataReceived(frame)

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now."""
        sealer, head = self._sealer, self._head
        if sealer is None:
            return [head + content for content in self.link.transmit(now)]
        if now >= self._rekey_at:
            self._rekey_at = now + REKEY_S
            sealer.rekey()
        return [head + sealer.seal(content, head) for content in self.link.transmit(now)]

    def settle(self) -> None:
        """After acknowledgements: let the producer go on, or the close be complete."""
        link = self.link
        if self._full and link.waiting_bytes * 2 <= self._port.queue_bytes_max:
            self._full = False
            if self._producer is not None:
                self._producer.resumeProducing()
        if self._closing and not link.waiting and not link.under_way:
            self.lost(DONE)

    def end(self) -> list[bytes]:
        """The datagram that says that it is over."""
        content = self.link.end()
        sealed = content if self._sealer is None else self._sealer.seal(content, self._head)
        return [self._head + sealed]

    def lost(self, reason: Failure) -> None:
        """The connection is over; does nothing the second time."""
        port = self._port
        if not port.forget(self):
            return
        protocol, self.protocol = self.protocol, None
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.stopProducing()
            if protocol is not None:
                protocol.connectionLost(reason)
        except Exception:  # noqa: BLE001 - logged; our mistake must not reach the reactor
            log.failure("the end of a UDP connection met an error")

    # --- StreamTransport ----------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send the frames in ``data``; they leave at the end of the turn."""
        if self._closing or self.protocol is None:
            return
        link = self.link
        at, end = 0, len(data)
        while at < end:
            start = at + LENGTH_BYTES
            at = start + int.from_bytes(data[at:start])
            try:
                link.send(data[start:at])
            except FrameTooLarge as too_large:
                self._port.dropped += 1
                instead = instead_of(data[start:at], too_large)
                if instead:
                    link.send(instead)
        self._port.mark(self)
        if not self._full and link.waiting_bytes > self._port.queue_bytes_max:
            self._full = True
            if self._producer is not None:
                self._producer.pauseProducing()

    def loosely(self, frame: bytes, key: str | None) -> None:
        """Send a frame that may be lost; one that does not fit, or that the link is too full for, is."""
        if self._closing or self.protocol is None:
            return
        if self._full or len(frame) - LENGTH_BYTES > self.link.frame_bytes_max:
            self._port.dropped += 1
            return
        if key is None:
            self.link.send_once(frame[LENGTH_BYTES:])
        else:
            self.link.send_latest(frame[LENGTH_BYTES:], zlib.crc32(key.encode()) & 0xFFFF)
        self._port.mark(self)

    def loseConnection(self) -> None:
        """End once everything is acknowledged."""
        if not self._closing:
            self._closing = True
            self._port.mark(self)

    def abortConnection(self) -> None:
        """End now."""
        self._closing = True
        self._port.soon(partial(self.lost, ABORTED))

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # Any: an IPushProducer
        """``producer`` is told when too much waits for the window."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Tell nobody."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Hand over nothing more: what comes is held, and soon ignored, so that the client sends it again."""
        if self._paused is None:
            self._paused = []

    def resumeProducing(self) -> None:
        """Hand over again, what came meanwhile first."""
        if self._paused is not None and self.protocol is not None:
            self._port.soon(self._resume)

    def _resume(self) -> None:
        held, self._paused = self._paused, None
        self._paused_bytes = 0
        for at, frame in enumerate(held or ()):
            if self._paused is not None:  # somebody paused again
                self._paused[:0] = (held or [])[at:]
                self._paused_bytes = sum(map(len, self._paused))
                return
            if self.protocol is not None:
                self.protocol.dataReceived(frame)

    def getPeer(self) -> IAddress:
        """Where the connection began."""
        return self.address


def is_newer(link: UdpLink, content: bytes) -> bool:
    """Whether it is a packet after all that came: only such a one may say that the client has moved."""
    return len(content) >= CONTENT.size and CONTENT.unpack_from(content)[0] > link.received.newest


def instead_of(frame: bytes, too_large: FrameTooLarge) -> bytes:
    """What is sent for a frame that does not fit; b'' for nothing."""
    message = decode_frame(frame)
    if message.kind in _KINDS_ANSWERING and message.seq:
        fields = {kinds.ERROR_CODE: FrameTooLarge.code, kinds.OUTCOME: "unknown"}
        return encode_frame(Message(kinds.ERROR, "", str(too_large).encode(), kinds.TEXT, 0, message.seq, fields))
    if message.kind >= kinds.SESSION_KIND_MIN:
        return encode_frame(Message(kinds.PONG, fields={kinds.SKIPPED: 1}))
    return b""
