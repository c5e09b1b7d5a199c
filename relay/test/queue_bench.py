"""What queues cost: put, deliver and acknowledge through a node on SQLite, and a start with many queues.

    python -m relay.test.queue_bench [--seconds 10] [--queues 100000] [--json]

``rate``: messages a second that were put (answered when on the disk), delivered and acknowledged, 200 bytes each, over
one connection each way; ``node_us``: CPU time of the node for each, all its threads. ``start_s``: from starting the
process until it answers, with ``--queues`` queues that hold one message each, against ``empty_start_s``; ``rss_mb``
after it, against ``empty_rss_mb``. ``start_cpu_s``: CPU time until then, which other load does not change as much.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import time
from pathlib import Path
from typing import Any, Final

from relay.client.aio import connect
from relay.test.node_process import NodeProcess, report
from relay.wire import kinds
from relay.wire.binary import BinaryDecoder, encode_stream
from relay.wire.handshake import Hello, write
from relay.wire.message import Message

PAYLOAD: Final = bytes(200)
FILL_WINDOW: Final = 1000
START_POLL_S: Final = 0.01
DRAIN_S: Final = 60.0


class _Side(asyncio.Protocol):
    """One connection: frames in, frames out, one write for each read."""

    def __init__(self, user: str) -> None:
        self.out: list[bytes] = [kinds.PREFACE, encode_stream(write(kinds.HELLO, Hello(user=user)))]
        self.decoder = BinaryDecoder(1_048_576)
        self.transport: Any = None  # Any: a transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """``asyncio.Protocol``."""
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """``asyncio.Protocol``."""
        for message in self.decoder.receive(data):
            self.take(message)
        self.flush()

    def flush(self) -> None:
        """Write what there is."""
        if self.out:
            self.transport.write(b"".join(self.out))
            self.out.clear()

    def take(self, message: Message) -> None:
        """One frame."""


class Producer(_Side):
    """``window`` puts are unanswered at a time."""

    def __init__(self, window: int) -> None:
        super().__init__("producer")
        self.answered = 0
        self.seq = 0
        self.stopped = False
        for _ in range(window):
            self._put()

    def _put(self) -> None:
        self.seq += 1
        self.out.append(encode_stream(Message(kinds.PUSH, "job", PAYLOAD, 0, 0, self.seq, {kinds.QUEUE: "bench"})))

    def take(self, message: Message) -> None:
        """An answer: the next."""
        if message.kind == kinds.REPLY:
            self.answered += 1
            if not self.stopped:
                self._put()
        elif message.kind == kinds.ERROR:
            raise AssertionError(message)


class Worker(_Side):
    """Acknowledges what it gets, one by one."""

    def __init__(self, credits: int) -> None:
        super().__init__("worker")
        self.done = 0
        self._wanted = 0
        self._all = asyncio.Event()
        self.out.append(encode_stream(Message(kinds.CONSUME, "bench", seq=1, fields={kinds.CREDITS: credits})))

    async def all_of(self, messages: int) -> None:
        """Wait until so many are done."""
        self._wanted = messages
        if self.done < messages:
            await self._all.wait()

    def take(self, message: Message) -> None:
        """A delivery: done."""
        if message.kind == kinds.PUSH:
            self.done += 1
            if self.done == self._wanted:
                self._all.set()
            fields = {kinds.OFFSET: message.get(kinds.OFFSET)}
            self.out.append(encode_stream(Message(kinds.ACK, "bench", fields=fields)))
        elif message.kind == kinds.ERROR:
            raise AssertionError(message)


async def through(node: NodeProcess, seconds: float, window: int, credits: int) -> dict[str, Any]:
    """The figures of a steady flow."""
    loop = asyncio.get_running_loop()
    _, worker = await loop.create_connection(lambda: Worker(credits), "127.0.0.1", node.stream)
    _, producer = await loop.create_connection(lambda: Producer(window), "127.0.0.1", node.stream)
    await asyncio.sleep(min(2.0, seconds / 4))
    cpu, at, done = node.cpu_s(), time.monotonic(), worker.done
    await asyncio.sleep(seconds)
    cpu, at, done = node.cpu_s() - cpu, time.monotonic() - at, worker.done - done
    producer.stopped = True
    await asyncio.wait_for(worker.all_of(producer.seq), DRAIN_S)
    producer.transport.close()
    worker.transport.close()
    return {
        "rate": round(done / at), "node_us": round(cpu / max(1, done) * 1e6, 1), "node_cores": round(cpu / at, 2),
        "messages": producer.seq,
    }  # fmt: skip


async def fill(node: NodeProcess, queues: int) -> None:
    """One message into each of so many queues."""
    async with await connect(node.tcp, user="filler") as client:
        room = asyncio.Semaphore(FILL_WINDOW)

        async def put(number: int) -> None:
            async with room:
                await client.enqueue(f"many.{number}", PAYLOAD)

        for start in range(0, queues, FILL_WINDOW * 4):
            await asyncio.gather(*(put(number) for number in range(start, min(queues, start + FILL_WINDOW * 4))))


def timed_start(node: NodeProcess) -> float:
    """Start a node that was stopped; seconds until it has answered a question about a queue."""
    at = time.monotonic()
    node.start()

    async def ask() -> None:
        while True:
            with contextlib.suppress(OSError):
                async with await connect(node.tcp) as client:
                    await client.queue("many.1", "info")
                    return
            await asyncio.sleep(START_POLL_S)

    asyncio.run(ask())
    return time.monotonic() - at


def many(queues: int) -> dict[str, Any]:
    """The figures of a start."""
    node = NodeProcess({"limits": {"connections_max": 1000}})
    try:
        empty = timed_start(node)
        empty_bytes, empty_cpu = node.rss(), node.cpu_s()
        asyncio.run(fill(node, queues))
        node.stop()
        size = sum(each.stat().st_size for each in Path(node.folder / "data").glob("relay.db*"))
        start = timed_start(node)
        start_cpu = node.cpu_s()
        return {
            "queues": queues, "empty_start_s": round(empty, 2), "start_s": round(start, 2),
            "empty_start_cpu_s": round(empty_cpu, 2), "start_cpu_s": round(start_cpu, 2),
            "empty_rss_mb": round(empty_bytes / 2**20, 1), "rss_mb": round(node.rss() / 2**20, 1),
            "file_mb": round(size / 2**20, 1),
        }  # fmt: skip
    finally:
        node.close()


def flow(seconds: float, window: int, credits: int) -> dict[str, Any]:
    """The figures of a node of its own."""
    node = NodeProcess().start()
    try:
        return asyncio.run(through(node, seconds, window, credits))
    finally:
        node.close()


def main() -> int:
    """The command; 1 when a figure cannot be had."""
    parser = argparse.ArgumentParser(description="Measure queues through a node.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--window", type=int, default=2000, help="puts without their answer")
    parser.add_argument("--credits", type=int, default=2000)
    parser.add_argument("--queues", type=int, default=100_000, help="0: leave the start out")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    figures = flow(asked.seconds, asked.window, asked.credits)
    if asked.queues:
        figures |= many(asked.queues)
    return report({**figures, "ok": True}, asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
