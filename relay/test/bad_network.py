"""A proxy that behaves like a bad network: it swallows what is under way, then resets; or is not there for a while.

Runs on an asyncio loop of the caller. Each connection through it is a pair of pumps; ``break_one`` lets a pair swallow
up to some bytes in each direction (the sender believes them sent: they are lost) and then resets both ends.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

READ_BYTES: Final = 65_536
SWALLOW_S: Final = 0.5
"""A link that swallows is reset after this at the latest."""
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends a reset


class Link:
    """One connection through the proxy. ``swallow``: bytes still to be lost per direction before the reset."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.breaking = False
        self.swallow = 0
        self.swallowed = 0

    def reset(self) -> None:
        """Both ends get a reset, at once."""
        for writer in (self.near, self.far):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


class BadNetwork:
    """Listens on ``port`` (of the system's choice) and connects to ``target``. ``lost_bytes``: swallowed so far."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.port = 0
        self.links: set[Link] = set()
        self.lost_bytes = 0
        self.breaks = 0
        self.down = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Reset everything and listen no more."""
        if self._server is not None:
            self._server.close()
        for link in list(self.links):
            link.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_one(self, link: Link, swallow: int) -> None:
        """From now on ``link`` delivers nothing; after ``swallow`` bytes in a direction, or ``expire``, it is reset."""
        if not link.breaking:
            link.breaking = True
            link.swallow = swallow
            self.breaks += 1
            asyncio.get_running_loop().call_later(SWALLOW_S, link.reset)

    async def away(self, seconds: float) -> None:
        """Reset all connections and accept none for ``seconds``."""
        self.down = True
        for link in list(self.links):
            link.reset()
        await asyncio.sleep(seconds)
        self.down = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.down:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, far_writer)
        self.links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, far_writer), self._pump(link, far_reader, writer))
        except asyncio.CancelledError:
            # Only ``stop`` cancels; asyncio's stream server would log the cancellation as an error.
            pass
        finally:
            self.links.discard(link)
            link.reset()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lost = 0
        try:
            while data := await reader.read(READ_BYTES):
                if link.breaking:
                    lost += len(data)
                    self.lost_bytes += len(data)
                    if lost >= link.swallow:
                        link.reset()
                        return
                else:
                    writer.write(data)
                    await writer.drain()
            if not link.breaking and writer.can_write_eof():
                writer.write_eof()
        except OSError:
            link.reset()
