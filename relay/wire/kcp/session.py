"""One KCP session between datagrams and bytes: the machine, with error correction around it.

    datagram ─▶ cipher.open ─▶ input ─▶ FEC ─▶ Kcp ─▶ receive ─▶ bytes
    datagrams ◀─ cipher.seal ◀─ flush ◀─ FEC ◀─ Kcp ◀─ send ◀─── bytes

Pure: the clock and the source of randomness are arguments. A server opens datagrams before it knows the session, so
``input`` takes payloads; ``receive_datagram`` is for a client, which has one session and one cipher.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.errors import RemoteProtocolError
from relay.wire.kcp.ciphers import DatagramCipher
from relay.wire.kcp.fec import FecDecoder, FecEncoder, is_fec
from relay.wire.kcp.machine import Kcp
from relay.wire.kcp.options import KcpOptions


class KcpSession:
    """See the module. ``random_bytes(n)`` gives nonces. ``wrong``: payloads that were no KCP of this session."""

    __slots__ = ("_cipher", "_decoder", "_encoder", "_random_bytes", "kcp", "options", "wrong")

    def __init__(
        self, conv: int, options: KcpOptions, cipher: DatagramCipher, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.options = options
        self.kcp = Kcp(conv, options, options.segment_mtu(cipher.overhead))
        self.wrong = 0
        self._cipher = cipher
        self._random_bytes = random_bytes
        self._encoder = FecEncoder(options.data_shards, options.parity_shards) if options.data_shards else None
        self._decoder: FecDecoder | None = None

    def send(self, data: bytes) -> None:
        """Queue a message, or in stream mode a piece of the stream; ``flush`` sends it."""
        self.kcp.send(data)

    def input(self, payload: bytes, now: int) -> None:
        """Take a payload from the peer; what is wrong in it is counted, not raised, for it may be anybody's."""
        kcp = self.kcp
        try:
            if not is_fec(payload):
                kcp.input(payload, now)
                return
            decoder = self._decoder
            if decoder is None:
                decoder = self._decoder = FecDecoder(self.options.data_shards, self.options.parity_shards)
            plain, recovered = decoder.receive(payload)
            if plain:
                kcp.input(plain, now)
            for each in recovered:
                kcp.input(each, now, False)
        except RemoteProtocolError:
            self.wrong += 1

    def receive_datagram(self, datagram: bytes, now: int) -> None:
        """Take a datagram from the peer; one that does not pass the cipher is counted in ``wrong``."""
        payload = self._cipher.open(datagram)
        if payload is None:
            self.wrong += 1
        else:
            self.input(payload, now)

    def receive(self) -> bytes | None:
        """What arrived: a message, or in stream mode all there is; None when there is nothing."""
        return self.kcp.receive()

    def flush(self, now: int) -> list[bytes]:
        """The datagrams that are due."""
        payloads = self.kcp.flush(now)
        encoder = self._encoder
        if encoder is not None and payloads:
            payloads = [packet for payload in payloads for packet in encoder.packets(payload, now)]
        cipher = self._cipher
        size = cipher.nonce_bytes
        if not size:
            return payloads
        if len(payloads) == 1:
            return [cipher.seal(payloads[0], self._random_bytes(size))]
        # One call for all nonces: it costs as much as the encryption of half a packet.
        chance = self._random_bytes(size * len(payloads))
        seal = cipher.seal
        return [seal(each, chance[at * size : at * size + size]) for at, each in enumerate(payloads)]

    def next_timer(self) -> int | None:
        """When ``flush`` is due next, in milliseconds; None: not before something happens."""
        return self.kcp.next_timer()

    @property
    def recovered(self) -> int:
        """Packets that error correction gave back."""
        return self._decoder.recovered if self._decoder is not None else 0


def first_payload(payload: bytes) -> bytes:
    """What a payload of an unknown sender carries: the content of an FEC data packet, or itself; empty for parity."""
    if not is_fec(payload):
        return payload
    try:
        return FecDecoder().receive(payload)[0]
    except RemoteProtocolError:
        return b""
