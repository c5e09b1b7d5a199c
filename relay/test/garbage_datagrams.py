"""Garbage in the datagrams of connections that have logged in: for the campaign of ``relay.test.garbage``.

Each attacker connects with the product's own client over UDP, KCP or QUIC, and from then on what that sends passes
through its hands: some datagrams are injured, sent twice, kept for later or made up, some frames are injured before
they are sealed. The node must neither fail nor let others notice.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from relay.client.aio import AsyncioRuntime
from relay.client.datagrams import maker
from relay.client.options import ClientOptions
from relay.client.plan import parse
from relay.errors import RelayError
from relay.test.garbage_inputs import binary_units, hello, mutated
from relay.wire import kinds

INJURED: Final = 0.5
UNITS: Final = 20
OPEN_S_MAX: Final = 3.0
KEPT_MAX: Final = 50


class _Line:
    """In the place of the client's line: speaks frames that are wrong."""

    def __init__(self) -> None:
        self.transport: Any = None  # Any: a connection over datagrams
        self.open = asyncio.get_running_loop().create_future()
        self.over = False
        self.ready = True

    def opened(self, transport: Any, reached: bool = True) -> None:
        """The server has answered, or there is nothing to wait for."""
        self.transport = transport
        if not self.open.done():
            self.open.set_result(None)

    def reached(self) -> None:
        """It has."""

    def received(self, data: bytes) -> None:
        """Whatever."""

    def apart(self, message: bytes) -> None:
        """Whatever came on a stream of its own."""

    def writable(self, yes: bool) -> None:
        """It is all the same."""

    def lost(self, reason: str) -> None:
        """The server closed it, as it should."""
        self.over = True
        if not self.open.done():
            self.open.cancel()


class _Attack(asyncio.DatagramProtocol):
    """One socket, and the client's connection on it."""

    def __init__(self, make: Any, rng: random.Random, tried: Counter[str], name: str) -> None:
        self._make = make
        self._rng = rng
        self._tried = tried
        self._name = name
        self._kept: list[bytes] = []
        self.injuring = False
        self.transport: Any = None
        self.connection: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self.connection = self._make(self._send, transport.close)
        self.connection.start()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """One came."""
        self.connection.datagram(data)

    def _send(self, datagrams: Sequence[bytes]) -> None:
        rng = self._rng
        for datagram in datagrams:
            if not self.injuring or rng.random() >= INJURED:
                self.transport.sendto(datagram)
                continue
            self._tried[f"after login: {self._name}"] += 1
            what = rng.randrange(4)
            if what == 0:
                self.transport.sendto(mutated(datagram, rng))
            elif what == 1:
                self.transport.sendto(datagram)
                self.transport.sendto(datagram)
            elif what == 2 and self._kept:
                self.transport.sendto(rng.choice(self._kept))
            else:
                # The head as it was, which names the connection, and anything behind it.
                self.transport.sendto(datagram[: rng.randrange(len(datagram) + 1)] + rng.randbytes(rng.randrange(40)))
            if len(self._kept) < KEPT_MAX:
                self._kept.append(datagram)


async def attack(url: str, options: ClientOptions, rng: random.Random, tried: Counter[str]) -> None:
    """One connection's worth."""
    loop = asyncio.get_running_loop()
    address = parse(url)
    line = _Line()
    taken: Any = line  # Any: it is no Line, and does what one does here
    make: Callable[..., Any] = maker(address, options, AsyncioRuntime(loop, options), taken)
    name = f"{address.scheme}{' in the secure channel' if address.key else ''}"
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Attack(make, rng, tried, name), remote_addr=(address.host, address.port)
    )
    try:
        async with asyncio.timeout(OPEN_S_MAX):
            await line.open
        login = hello(True)
        line.transport.write(login if address.scheme != "udp" else login.removeprefix(kinds.PREFACE))
        await asyncio.sleep(0.02)
        protocol.injuring = True
        for unit in binary_units(rng, rng.randint(1, UNITS)):
            if line.over:
                break
            # Over UDP a frame is a datagram: the length before it is the client's own business.
            length = len(unit) - 4
            framed = unit if address.scheme != "udp" else max(length, 0).to_bytes(4) + unit[4:]
            tried[f"after login: {name}"] += 1
            with suppress(RelayError):  # the client itself refuses to send it
                line.transport.write(framed)
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
    except (TimeoutError, asyncio.CancelledError):
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
    finally:
        protocol.connection.abort()
        transport.close()
