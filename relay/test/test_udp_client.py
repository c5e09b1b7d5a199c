"""A client's connection over UDP, without sockets."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.client.options import SecureChannel
from relay.client.plan import parse
from relay.client.udp import UdpConnection
from relay.wire import udp_packets as packets


class Runtime:
    """A client's event loop that does nothing by itself."""

    def now(self) -> float:
        """Always."""
        return 1.0

    def call_at(self, at: float, call: Any) -> Any:
        """Nothing is called."""
        return self

    def cancel(self) -> None:
        """Nothing was."""

    def random_bytes(self, size: int) -> bytes:
        """The same ones."""
        return bytes(range(size))


class ClientSide(SynchronousTestCase):
    """``relay.client.udp`` before the server has answered."""

    def test_forged_datagrams(self):
        """Nobody who does not know the nonce or the connection ends an attempt, or makes it go on."""
        for secure in ("", "?key=first-use"):
            sent: list[bytes] = []
            shut: list[bool] = []
            line: Any = None  # nothing is to reach it
            runtime: Any = Runtime()
            connection = UdpConnection(
                parse(f"udp://192.0.2.1{secure}"), SecureChannel(), runtime, line, sent.extend,
                lambda: shut.append(True),  # noqa: B023 - this round's
            )  # fmt: skip
            connection.start()
            for forged in (bytes((packets.GONE,)), bytes((packets.GONE,)) + bytes(8), b"", bytes((packets.ACCEPT,)),
                           packets.encode_accept(packets.Accept(b"whatever", b"12345678")),
                           packets.encode_retry(b"whatever", bytes(range(24))), bytes((packets.PACKET,)) + bytes(40),
                           packets.encode_hello(packets.Hello(bytes(range(8))))):  # fmt: skip
                connection.datagram(forged)
            self.assertEqual((len(sent), shut, connection.link), (1, [], None))
            connection.abort()
            self.assertEqual(shut, [True])
