"""The client on asyncio. Nothing of Twisted is imported.

async with await connect("tcp://127.0.0.1:8000", user="ann") as client:
    await client.publish("room.1", {"text": "hello"})
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from relay.client.api import Client, open_client
from relay.client.datagrams import SCHEMES, DatagramOpening, Make, maker
from relay.client.line import Line
from relay.client.options import DATAGRAM_BUFFER_BYTES, ClientOptions, TlsFiles
from relay.client.plan import Address
from relay.client.runtime import Runtime, Task, Waiter
from relay.errors import ConfigError

__all__ = ["Client", "ClientOptions", "connect"]

log = logging.getLogger("relay.client")


async def connect(*urls: str, **settings: Any) -> Client:  # Any: the keyword arguments of open_client
    """A client connected to one of ``urls``; keywords, callbacks and errors: :func:`relay.client.api.open_client`."""
    options = settings.get("options") or ClientOptions()
    runtime = AsyncioRuntime(asyncio.get_running_loop(), options)
    return await open_client(runtime, random.random, urls, **settings)


class _FutureWaiter(asyncio.Future[Any]):
    """``relay.client.runtime.Waiter``."""

    def succeed(self, value: Any) -> None:
        """Set the result."""
        if not self.done():
            self.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Set the exception."""
        if not self.done():
            self.set_exception(error)


class _Output:
    """``relay.client.runtime.Transport`` on an asyncio transport."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.close = transport.close
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Send, or buffer; after the connection broke, and before ``connection_lost`` says so, nothing."""
        if not self._transport.is_closing():
            self._transport.write(data)


def _reason(error: Exception) -> str:
    """The system's words for the error: asyncio's leave out which it was."""
    if isinstance(error, ConnectionError | TimeoutError) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _LineProtocol(asyncio.Protocol):
    """One connection: bytes to the line, and whether the transport takes more."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """``asyncio.Protocol``."""
        # uvloop's transports are no subclass of asyncio's; they do the same.
        self._line.opened(_Output(cast(asyncio.Transport, transport)))

    def data_received(self, data: bytes) -> None:
        """``asyncio.Protocol``."""
        self._line.received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """``asyncio.Protocol``."""
        self._line.lost("the server closed the connection" if error is None else _reason(error))

    def pause_writing(self) -> None:
        """``asyncio.Protocol``."""
        self._line.writable(False)

    def resume_writing(self) -> None:
        """``asyncio.Protocol``."""
        self._line.writable(True)


class _DatagramProtocol(asyncio.DatagramProtocol):
    """A UDP socket, connected to the server."""

    def __init__(self, make: Make) -> None:
        self._transport: asyncio.DatagramTransport | None = None
        self.connection = make(self._send, self._shut)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """``asyncio.DatagramProtocol``."""
        self._transport = cast(asyncio.DatagramTransport, transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER_BYTES)
        self.connection.start()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """``asyncio.DatagramProtocol``."""
        self.connection.datagram(data)

    def error_received(self, exc: Exception) -> None:
        """``asyncio.DatagramProtocol``."""
        self.connection.refused(_reason(exc))

    def _send(self, datagrams: Sequence[bytes]) -> None:
        assert self._transport is not None
        for datagram in datagrams:
            self._transport.sendto(datagram)

    def _shut(self) -> None:
        if self._transport is not None:
            self._transport.close()


class AsyncioRuntime:
    """``relay.client.runtime.Runtime`` on one asyncio event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ClientOptions) -> None:
        self._loop = loop
        self._options = options
        self._tls = options.tls
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references only

    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    def call_at(self, at: float, call: Callable[[], None]) -> Task:
        """A timer of the loop."""
        return self._loop.call_at(at, call)

    def waiter(self) -> Waiter:
        """A future of the loop."""
        return _FutureWaiter(loop=self._loop)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        """A task of the loop."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def random_bytes(self, size: int) -> bytes:
        """From the operating system."""
        return os.urandom(size)

    def report(self, what: str, error: BaseException) -> None:
        """To the logger ``relay.client``."""
        log.error("%s: %s", what, error, exc_info=error)

    def open(self, address: Address, line: Line) -> Task:
        """Connect in a task."""
        if address.scheme not in SCHEMES:
            return self.spawn(self._open(address, line))
        opening = DatagramOpening()
        opening.task = self.spawn(self._open_datagrams(address, line, opening))
        return opening

    async def _open(self, address: Address, line: Line) -> None:
        try:
            if address.scheme == "unix":
                await self._loop.create_unix_connection(lambda: _LineProtocol(line), address.path)
                return
            context = tls_context(self._tls) if address.tls else None
            name = (self._tls.server_name or address.host) if address.tls else None
            await self._loop.create_connection(
                lambda: _LineProtocol(line), address.host, address.port, ssl=context, server_hostname=name
            )
        except OSError as error:  # also ssl.SSLError and name resolution
            line.lost(_reason(error))

    async def _open_datagrams(self, address: Address, line: Line, opening: DatagramOpening) -> None:
        try:
            made = _DatagramProtocol(maker(address, self._options, self, line))
            await self._loop.create_datagram_endpoint(lambda: made, remote_addr=(address.host, address.port))
            opening.connection = made.connection
        except ConfigError as error:
            line.lost(str(error))
        except OSError as error:
            line.lost(_reason(error))


def tls_context(files: TlsFiles) -> Any:  # Any: ssl.SSLContext; ssl is imported when it is needed
    """A verifying TLS context. Raises ``OSError`` when a file cannot be read."""
    import ssl

    context = ssl.create_default_context(cafile=files.ca or None)
    if files.certificate:
        context.load_cert_chain(files.certificate, files.key or None)
    return context


_check: type[Runtime] = AsyncioRuntime
