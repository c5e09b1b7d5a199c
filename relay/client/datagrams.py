"""Transports over datagrams under a client: which one an address names, and what the event loop's shell needs of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from relay.client.options import ClientOptions
from relay.client.plan import Address
from relay.client.runtime import Runtime, Task, Transport
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.client.line import Line

SCHEMES = frozenset({"udp", "kcp", "quic"})


class DatagramConnection(Transport, Protocol):
    """A connection over a UDP socket that the shell has connected to the server."""

    def start(self) -> None:
        """The socket is there."""

    def datagram(self, datagram: bytes) -> None:
        """One came."""

    def refused(self, reason: str) -> None:
        """Nobody listens there, as the network says."""


class DatagramOpening:
    """What is under way between asking for a connection and its being open. ``task`` makes the socket and then is over,
    long before the server has answered: who gives up cancels this."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.connection: DatagramConnection | None = None

    def cancel(self) -> None:
        """Stop it, and close the socket."""
        if self.connection is not None:
            self.connection.abort()
        elif self.task is not None:
            self.task.cancel()


Make = Callable[[Callable[[Sequence[bytes]], object], Callable[[], object]], DatagramConnection]
"""Makes the connection, given what sends datagrams and what closes the socket."""


def maker(address: Address, options: ClientOptions, runtime: Runtime, line: Line) -> Make:
    """What makes connections to ``address``. Making one raises ``ConfigError`` for options that do not fit."""
    # Both import cryptography: only for who needs it.
    if address.scheme == "kcp":
        from relay.client.kcp import KcpConnection

        values: dict[str, Any] = dict(address.kcp)  # Any: the fields of KcpSettings
        if "mtu" in values:
            values["mtu"] = int(values["mtu"])
        kcp = msgspec.structs.replace(options.kcp, **values)
        return lambda send, shut: KcpConnection(kcp, runtime, line, send, shut)
    if address.scheme == "quic":
        try:
            from relay.client.quic import QuicConnection
        except ImportError as error:
            raise ConfigError(f"quic: needs aioquic: pip install 'relay-messaging[quic]' ({error})") from None

        return lambda send, shut: QuicConnection(address, options.tls, runtime, line, send, shut)
    from relay.client.udp import UdpConnection

    return lambda send, shut: UdpConnection(address, options.secure, runtime, line, send, shut)
