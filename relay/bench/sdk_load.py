"""Connections of the load generator in Python over the transports that only the client library speaks.

TLS, WebSocket, the secure channel, UDP, KCP and QUIC: the library's framing and transport, without its core, so that
the generator counts its own frames. RELAY_CA names the PEM file to trust for TLS and QUIC, RELAY_KCP_KEY KCP's key.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

from relay.client.aio import AsyncioRuntime
from relay.client.framing import Framing, framing_for
from relay.client.options import ClientOptions, KcpSettings, TlsFiles
from relay.client.plan import parse
from relay.wire.message import Message

PLAIN: Final = ("tcp", "unix")
"""What the generator speaks by itself, where the address has no query."""


def is_plain(address: str) -> bool:
    """Whether none of this is needed."""
    return address.partition("://")[0] in PLAIN and "?" not in address


class SdkLine:
    """In the place of ``relay.client.line.Line``: bytes of one connection to messages and back."""

    def __init__(self, framing: Framing, opened: Callable[[SdkLine], None], received: Callable[[Message], None],
                 lost: Callable[[str], None]) -> None:  # fmt: skip
        self._framing = framing
        self._opened = opened
        self._received = received
        self._lost = lost
        self._begun = False
        self.transport: Any = None  # Any: one of the client library's

    def send(self, message: Message) -> None:
        """One frame."""
        self.transport.write(self._framing.encode(message))

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def _begin(self) -> None:
        if self._framing.ready and not self._begun:
            self._begun = True
            self._opened(self)

    # --- the client library's transports ------------------------------------------------------------------------------

    def opened(self, transport: Any, reached: bool = True) -> None:
        """It is open."""
        self.transport = transport
        if self._framing.opening:
            transport.write(self._framing.opening)
        self._begin()

    def reached(self) -> None:
        """The server has answered."""

    def received(self, data: bytes) -> None:
        """Bytes came."""
        framing = self._framing
        messages = framing.receive(data)
        if framing.output:
            output, framing.output = framing.output, b""
            self.transport.write(output)
        self._begin()
        for message in messages:
            self._received(message)
        if framing.failed is not None:
            self._lost(str(framing.failed))

    def writable(self, yes: bool) -> None:
        """The window of the workload bounds what is under way."""

    def lost(self, reason: str) -> None:
        """It is gone."""
        self._lost(reason)


def open_line(
    address: str, opened: Callable[[SdkLine], None], received: Callable[[Message], None], lost: Callable[[str], None]
) -> None:
    """Begin to connect to ``address``, a URL of the client library. Raises ``ConfigError``."""
    loop = asyncio.get_running_loop()
    options = ClientOptions(
        tls=TlsFiles(ca=os.environ.get("RELAY_CA", "")), kcp=KcpSettings(key=os.environ.get("RELAY_KCP_KEY", ""))
    )
    found = parse(address)
    # Any: it does what a Line does.
    line: Any = SdkLine(framing_for(found, options, os.urandom), opened, received, lost)
    AsyncioRuntime(loop, options).open(found, line)
