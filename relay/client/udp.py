"""relay over UDP under a client: a connection over datagrams as the transport of a line, on any event loop.

    hello ─▶ retry ─▶ hello with cookie ─▶ accept ─▶ (secure: finish) ─▶ open: the line begins

Source: ``docs/udp.md``. The shell opens a UDP socket that is connected to the server and gives it what arrives. Frames
pass with their lengths, as on a stream: that is how the line writes and reads them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from relay.client.options import SecureChannel
from relay.client.plan import FIRST_USE, Address
from relay.client.runtime import Runtime, Task
from relay.errors import FrameTooLarge, RelayError, RemoteProtocolError
from relay.wire import kinds
from relay.wire import udp_packets as packets
from relay.wire.binary import LENGTH_BYTES, decode_frame, is_loose_frame
from relay.wire.message import latest_key
from relay.wire.secure import ClientHandshake, fingerprint
from relay.wire.secure_records import OVERHEAD_BYTES, REKEY_S, DatagramOpener, DatagramSealer
from relay.wire.udp_link import UdpLink

if TYPE_CHECKING:
    from relay.client.line import Line

HELLO_AGAIN_S: Final = 0.25
"""After this without an answer the hello is sent again, then after twice as long each time."""
GIVE_UP_S: Final = 10.0
"""A frame that the server does not acknowledge for this long ends the connection."""
QUEUE_BYTES_MAX: Final = 65_536
TIMER_S_MIN: Final = 0.001


class UdpConnection:
    """``relay.client.runtime.Transport``. ``send(datagrams)`` sends; ``shut()`` closes the socket, once."""

    def __init__(
        self,
        address: Address,
        options: SecureChannel,
        runtime: Runtime,
        line: Line,
        send: Callable[[Sequence[bytes]], object],
        shut: Callable[[], object],
    ) -> None:
        self._address = address
        self._known = options.known
        self._runtime = runtime
        self._line = line
        self._send = send
        self._shut = shut
        self._nonce = runtime.random_bytes(packets.NONCE_BYTES)
        self._cookie = packets.NO_COOKIE
        self._handshake = (
            ClientHandshake(runtime.random_bytes(32), self._trusts, options.private) if address.key else None
        )
        self._finish = b""
        self._again_s = HELLO_AGAIN_S
        self._head = b""
        self._sealer: DatagramSealer | None = None
        self._opener: DatagramOpener | None = None
        self._rekey_at = 0.0
        self.link: UdpLink | None = None
        self._heard = False
        self._full = False
        self._closing = False
        self._over = False
        self._timer: Task | None = None
        self._flushing: Task | None = None

    # --- the shell ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The socket is there: say hello."""
        self._say()

    def datagram(self, datagram: bytes) -> None:
        """One came. What makes no sense is ignored: anybody can send it."""
        if self._over or not datagram:
            return
        what = datagram[0]
        try:
            if what == packets.PACKET and self.link is not None and datagram[: packets.HEAD_BYTES] == self._head:
                self._packet(datagram)
            elif what == packets.RETRY and self.link is None:
                nonce, cookie = packets.decode_retry(datagram)
                if nonce == self._nonce and cookie != self._cookie:
                    self._cookie = cookie
                    self._say()
            elif what == packets.ACCEPT and self.link is None:
                self._accepted(packets.decode_accept(datagram))
            elif what == packets.GONE and self.link is not None and datagram[1:] == self._head[1:]:
                self._end("the server knows the connection no more")
        except RemoteProtocolError:
            return
        except RelayError as error:  # another identity than the one expected
            self._end(str(error))

    def refused(self, reason: str) -> None:
        """Nobody listens there, as the network says: an end only before anything was heard, for it may be forged."""
        if not self._heard:
            self._end(reason)

    # --- the line -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send the frames in ``data``; they leave together, soon."""
        link = self.link
        if self._over or self._closing or link is None:
            return
        now = self._runtime.now()
        at, end = 0, len(data)
        while at < end:
            start = at + LENGTH_BYTES
            at = start + int.from_bytes(data[at:start])
            self._write(link, data[start:at], now)
        self._flush_soon()
        if not self._full and link.waiting_bytes > QUEUE_BYTES_MAX:
            self._full = True
            self._line.writable(False)

    def close(self) -> None:
        """End once everything is acknowledged."""
        self._closing = True
        self._flush_soon()

    def abort(self) -> None:
        """End now."""
        self._end("closed")

    # --- opening ------------------------------------------------------------------------------------------------------

    def _say(self) -> None:
        """Hello, or finish, once more; and again later."""
        if self._timer is not None:
            self._timer.cancel()
        if self.link is None:
            secure = self._handshake.hello if self._handshake is not None else b""
            self._send([packets.encode_hello(packets.Hello(self._nonce, self._cookie, secure))])
        elif self._finish and not self._heard:
            self._send([self._finish])
        else:
            self._timer = None
            return
        self._timer = self._runtime.call_at(self._runtime.now() + self._again_s, self._say_again)

    def _say_again(self) -> None:
        self._timer = None
        if not self._over:
            self._again_s *= 2
            self._say()

    def _accepted(self, accept: packets.Accept) -> None:
        if accept.nonce != self._nonce:
            return
        overhead = packets.HEAD_BYTES
        head = bytes((packets.PACKET,)) + accept.connection
        if self._handshake is not None:
            finish = self._handshake.receive(accept.secure)
            keys = self._handshake.keys
            assert keys is not None
            overhead += OVERHEAD_BYTES
            self._sealer = DatagramSealer(keys.suite, keys.sending)
            self._opener = DatagramOpener(keys.suite, keys.receiving)
            self._rekey_at = self._runtime.now() + REKEY_S
            self._finish = bytes((packets.FINISH,)) + accept.connection + finish
        self._head = head
        self.link = UdpLink(packets.MTU_BYTES_DEFAULT - overhead)
        self._again_s = HELLO_AGAIN_S
        self._heard = self._handshake is None
        self._say()
        self._line.opened(self)

    def _trusts(self, identity: bytes) -> bool:
        found = fingerprint(identity)
        if self._address.key != FIRST_USE:
            return found == self._address.key
        return self._known.setdefault(self._address.known_as, found) == found

    # --- packets ------------------------------------------------------------------------------------------------------

    def _packet(self, datagram: bytes) -> None:
        link = self.link
        assert link is not None
        content: bytes | None = datagram[packets.HEAD_BYTES :]
        if self._opener is not None:
            content = self._opener.open(datagram[packets.HEAD_BYTES :], self._head)
        if content is None:
            return
        frames = link.receive(content, self._runtime.now())
        if not self._heard:
            self._heard = True
            self._say()  # finish has arrived
        self._flush_soon()
        data = b"".join(
            len(frame).to_bytes(LENGTH_BYTES) + frame for frame, reliable in frames if reliable or is_loose_frame(frame)
        )
        if data:
            self._line.received(data)
        if link.ended:
            self._end("the server closed the connection")

    def _write(self, link: UdpLink, frame: bytes, now: float) -> None:
        try:
            if not is_loose_frame(frame):
                link.send(frame)
                return
            message = decode_frame(frame)
            if not message.flags & kinds.LATEST:
                link.send_once(frame)
            else:
                link.send_latest(frame, zlib.crc32((latest_key(message) or "").encode()) & 0xFFFF)
        except FrameTooLarge as error:
            # The client's core asks before; what is left is a hello, which has to be shorter.
            self._runtime.call_at(now, lambda error=error: self._end(str(error)))  # type: ignore[misc]

    def _flush_soon(self) -> None:
        if self._flushing is None and not self._over:
            # After what else is there to read and to write: one datagram where one is enough.
            self._flushing = self._runtime.call_at(self._runtime.now(), self._flush)

    def _flush(self) -> None:
        self._flushing = None
        link = self.link
        if self._over or link is None:
            return
        now = self._runtime.now()
        self._send(self._sealed(link.transmit(now), now))
        if self._closing and not link.waiting and not link.under_way:
            self._end("closed")
        else:
            if self._full and link.waiting_bytes * 2 <= QUEUE_BYTES_MAX:
                self._full = False
                self._line.writable(True)
            self._arm(link, now)

    def _sealed(self, contents: list[bytes], now: float) -> list[bytes]:
        head, sealer = self._head, self._sealer
        if sealer is None:
            return [head + content for content in contents]
        if now >= self._rekey_at:
            self._rekey_at = now + REKEY_S
            sealer.rekey()
        return [head + sealer.seal(content, head) for content in contents]

    def _arm(self, link: UdpLink, now: float) -> None:
        at = link.next_timer()
        if not self._heard:
            return  # the timer is finish's; frames go out with what the server answers
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = self._runtime.call_at(max(at, now + TIMER_S_MIN), self._due)

    def _due(self) -> None:
        self._timer = None
        link = self.link
        if link is None or self._over:
            return
        now = self._runtime.now()
        link.timer(now)
        # Whatever is under way has a timer: it is enough to look here.
        if link.oldest_s(now) > GIVE_UP_S:
            self._end("the server does not answer")
        else:
            self._flush()

    def _end(self, reason: str) -> None:
        if self._over:
            return
        if self.link is not None:
            self._send(self._sealed([self.link.end()], self._runtime.now()))
        self._over = True
        for task in (self._timer, self._flushing):
            if task is not None:
                task.cancel()
        self._timer = self._flushing = None
        self._shut()
        # Not from inside a call of the line.
        self._runtime.call_at(self._runtime.now(), lambda: self._line.lost(reason))
