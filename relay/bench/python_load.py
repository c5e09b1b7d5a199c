"""The load generator for machines without Go: the same arguments and lines of JSON as ``bench/load``, relay only.

It speaks the binary form over TCP and Unix sockets, and by the client library (``sdk_load``) over all other transports,
on uvloop where that is there, and is slower than the node that it drives in most workloads: its result says so by
``cpu_s``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from relay.bench.sdk_load import SdkLine, is_plain, open_line
from relay.errors import RelayError
from relay.wire import kinds
from relay.wire.binary import BinaryDecoder, encode_stream
from relay.wire.message import Message

CONNECT_AT_ONCE: Final = 16
LINGER_NONE: Final = struct.pack("ii", 1, 0)
STEPS: Final = 64
"""Buckets of latency in each power of two."""


def bucket_ns(ns: int) -> int:
    """The upper end of the bucket of a latency; known to 1.6 %."""
    if ns < STEPS:
        return ns
    shift = ns.bit_length() - STEPS.bit_length()
    return ((ns >> shift) + 1) << shift


class Client(asyncio.Protocol):
    """One connection. ``on_message`` gets what the node sends after the welcome. ``line``: by the client library."""

    def __init__(self, run: Run, hello: dict[str, str]) -> None:
        self._run = run
        self._hello = hello
        self._decoder = BinaryDecoder(1 << 24)
        self._waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.transport: Any = None  # Any: uvloop's or asyncio's
        self.line: SdkLine | None = None
        self.on_message: Callable[[Message], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self.transport = transport
        self.transport.write(kinds.PREFACE)
        self.begin()

    def begin(self, line: SdkLine | None = None) -> None:
        """The way is open: say hello."""
        self.line = line
        hello = Message(kinds.HELLO, body=json.dumps(self._hello).encode(), codec=kinds.JSON)
        self.send(hello)

    def data_received(self, data: bytes) -> None:
        """Everything that one read brought."""
        for message in self._decoder.receive(data):
            self.take(message)

    def take(self, message: Message) -> None:
        """One frame of the node."""
        if message.kind == kinds.PING:
            self.send(Message(kinds.PONG, seq=message.seq))
        elif message.kind == kinds.PONG:
            return
        elif message.kind in (kinds.GOODBYE, kinds.ERROR):
            self._run.fail(message.body.decode("utf-8", "replace"))
            if not self._waiting.done():
                self._waiting.set_exception(RelayError(message.body.decode("utf-8", "replace")))
        elif not self._waiting.done():
            self._waiting.set_result(message)
        elif self.on_message is not None:
            self.on_message(message)

    def lost(self, reason: str) -> None:
        """The client library's connection is gone."""
        self._run.fail(reason)
        self.connection_lost(ConnectionError(reason))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for ever."""
        if not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionError("the node closed the connection"))

    def send(self, message: Message) -> None:
        """One frame."""
        if self.line is None:
            self.transport.write(encode_stream(message))
        else:
            self.line.send(message)

    def abort(self) -> None:
        """Drop the connection: a stream with a reset."""
        if self.line is not None:
            self.line.abort()
            return
        sock = self.transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self.transport.abort()

    async def answer(self) -> Message:
        """The welcome, or the answer to what was asked before the workload began."""
        return await self._waiting

    async def ask(self, message: Message) -> None:
        """Send something and wait for its answer."""
        self._waiting = asyncio.get_running_loop().create_future()
        self.send(message)
        await self.answer()


class Run:
    """What was asked for, and what is counted."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.count = 0
        self.sent = 0
        self.errors = 0
        self.first_error = ""
        self.histogram: Counter[int] = Counter()
        self._padding: bytes = b"x" * max(0, asked.payload - 16)
        self._tasks: list[asyncio.Task[None]] = []

    def fail(self, text: str) -> None:
        """Count an error."""
        self.errors += 1
        self.first_error = self.first_error or text

    def body(self, at_ns: int) -> bytes:
        """A body with its time."""
        return f"{at_ns:016x}".encode() + self._padding

    def arrived(self, message: Message) -> None:
        """Count a delivery with its latency."""
        self.count += 1
        self.histogram[bucket_ns(max(0, time.monotonic_ns() - int(message.body[:16], 16)))] += 1

    async def connect(self, user: str = "") -> Client:
        """A session."""
        hello = {"token": self.asked.token} if self.asked.token else {"user": user} if user else {}
        loop = asyncio.get_running_loop()
        scheme, _, rest = self.asked.address.partition("://")
        if not is_plain(self.asked.address):
            client = Client(self, hello)
            open_line(self.asked.address, client.begin, client.take, client.lost)
        elif scheme == "unix":
            _, client = await loop.create_unix_connection(lambda: Client(self, hello), rest)
        else:
            host, _, port = rest.rpartition(":")
            _, client = await loop.create_connection(lambda: Client(self, hello), host, int(port))
        await client.answer()
        return client

    async def connect_all(self, count: int, user: str = "") -> list[Client]:
        """Several sessions, a few at a time."""
        found: list[Client] = []
        for first in range(0, count, CONNECT_AT_ONCE):
            numbers = range(first, min(first + CONNECT_AT_ONCE, count))
            found += await asyncio.gather(*(self.connect(f"{user}{each}" if user else "") for each in numbers))
        return found

    def pace(self, send: Callable[[int, int], None]) -> None:
        """Call ``send(number, intended_ns)`` ``rate`` times a second, from now on."""

        async def go() -> None:
            began = time.monotonic_ns()
            number = 0
            while True:
                intended = began + int(number * 1e9 / self.asked.rate)
                wait_s = (intended - time.monotonic_ns()) / 1e9
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                send(number, intended)
                number += 1

        self._tasks.append(asyncio.get_running_loop().create_task(go()))

    # --- workloads ------------------------------------------------------------------------------------------------

    async def echo(self) -> None:
        """Calls, ``window`` in flight on each connection, or ``rate`` a second over all."""
        clients = await self.connect_all(self.asked.connections, self.asked.user)

        def call(client: Client, seq: int, at_ns: int) -> None:
            client.send(Message(kinds.PULL, self.asked.procedure, self.body(at_ns), seq=seq))

        def answered(client: Client) -> Callable[[Message], None]:
            def again(message: Message) -> None:
                self.arrived(message)
                if not self.asked.rate:
                    call(client, message.seq, time.monotonic_ns())

            return again

        for client in clients:
            client.on_message = answered(client)
        if self.asked.rate:
            self.pace(lambda number, at_ns: call(clients[number % len(clients)], number + 2, at_ns))
            return
        for client in clients:
            for seq in range(self.asked.window):
                call(client, seq + 2, time.monotonic_ns())

    async def rpc(self) -> None:
        """The same, answered by another client."""
        provider = await self.connect()
        await provider.ask(Message(kinds.REGISTER, self.asked.procedure, seq=1))
        provider.on_message = lambda asked: provider.send(Message(kinds.REPLY, body=asked.body, seq=asked.seq))
        self.asked.window = max(1, self.asked.window // self.asked.connections)
        await self.echo()

    async def fanout(self) -> None:
        """One publisher, many subscribers."""
        clients = await self.connect_all(self.asked.connections)
        for client in clients:
            await client.ask(Message(kinds.SUBSCRIBE, self.asked.channel, seq=1))
        publisher = await self.connect()

        def publish(_: int, at_ns: int) -> None:
            self.sent += 1
            publisher.send(Message(kinds.PUBLISH, self.asked.channel, self.body(at_ns)))

        delivered = [0]

        def arrived(message: Message) -> None:
            self.arrived(message)
            delivered[0] += 1
            if not self.asked.rate and delivered[0] % len(clients) == 0:
                publish(0, time.monotonic_ns())

        for client in clients:
            client.on_message = arrived
        if self.asked.rate:
            self.pace(publish)
            return
        for _ in range(self.asked.window):
            publish(0, time.monotonic_ns())

    async def push(self) -> None:
        """Pairs of users."""
        receivers = await self.connect_all(self.asked.connections, f"{self.asked.user}to")
        senders = await self.connect_all(self.asked.connections, f"{self.asked.user}from")

        def send(number: int, at_ns: int) -> None:
            self.sent += 1
            pair = number % len(senders)
            to = {kinds.USER: f"{self.asked.user}to{pair}"}
            senders[pair].send(Message(kinds.PUSH, "m", self.body(at_ns), fields=to))

        def arrived(message: Message) -> None:
            self.arrived(message)
            if not self.asked.rate:
                send(self.sent, time.monotonic_ns())

        for receiver in receivers:
            receiver.on_message = arrived
        if self.asked.rate:
            self.pace(send)
            return
        for number in range(self.asked.window):
            send(number, time.monotonic_ns())

    async def queue(self) -> None:
        """Producers and consumers of one queue: each put is answered when it is on the disk, each delivery is
        acknowledged."""
        name = f"{self.asked.channel}.queue"
        workers = await self.connect_all(self.asked.connections, f"{self.asked.user}to")
        producers = await self.connect_all(self.asked.connections, f"{self.asked.user}from")
        window = max(1, self.asked.window // len(producers))

        def put(producer: Client) -> None:
            self.sent += 1
            body = self.body(time.monotonic_ns())
            producer.send(Message(kinds.PUSH, "m", body, seq=self.sent & 0xFFFF_FFFF, fields={kinds.QUEUE: name}))

        def take(worker: Client) -> Callable[[Message], None]:
            def taken(message: Message) -> None:
                self.arrived(message)
                worker.send(Message(kinds.ACK, name, fields={kinds.OFFSET: message.get(kinds.OFFSET)}))

            return taken

        for worker in workers:
            await worker.ask(Message(kinds.CONSUME, name, seq=1, fields={kinds.CREDITS: window}))
            worker.on_message = take(worker)
        for producer in producers:
            producer.on_message = lambda _, producer=producer: put(producer)
            for _ in range(window):
                put(producer)

    async def store(self) -> None:
        """Publishers whose publications are answered when a history has them, ``window`` unanswered in all."""
        publishers = await self.connect_all(self.asked.connections)

        def publish(publisher: Client, channel: str, waiting: deque[int]) -> None:
            self.sent += 1
            at_ns = time.monotonic_ns()
            waiting.append(at_ns)
            publisher.send(Message(kinds.PUBLISH, channel, self.body(at_ns), seq=self.sent & 0xFFFF_FFFF))

        for number, publisher in enumerate(publishers):
            channel = f"{self.asked.channel}.{number % self.asked.channels}"
            waiting: deque[int] = deque()

            # Answers come in the order of the publications.
            def answered(
                _: Message, publisher: Client = publisher, channel: str = channel, waiting: deque[int] = waiting
            ) -> None:
                self.count += 1
                self.histogram[bucket_ns(time.monotonic_ns() - waiting.popleft())] += 1
                publish(publisher, channel, waiting)

            publisher.on_message = answered
            for _ in range(max(1, self.asked.window // len(publishers))):
                publish(publisher, channel, waiting)

    async def connect_storm(self) -> None:
        """Sessions opened and dropped with a reset, by ``window`` workers."""

        async def work(number: int) -> None:
            while True:
                began = time.monotonic_ns()
                client = await self.connect(f"{self.asked.user}{number}")
                self.count += 1
                self.histogram[bucket_ns(time.monotonic_ns() - began)] += 1
                client.abort()

        loop = asyncio.get_running_loop()
        self._tasks += [loop.create_task(work(number)) for number in range(self.asked.window)]

    async def idle(self) -> None:
        """Sessions that do nothing."""
        self.count = len(await self.connect_all(self.asked.connections))


def _emit(value: object) -> None:
    print(json.dumps(value), flush=True)


async def _measure(run: Run) -> None:
    asked = run.asked
    _emit({"mark": "open"})
    await asyncio.sleep(asked.warmup)
    run.histogram.clear()
    _emit({"mark": "begin"})
    count, sent, cpu, began = run.count, run.sent, time.process_time(), time.monotonic()
    while (left := began + asked.seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 1.0))
        took = time.monotonic() - began
        _emit({"progress": {"at_s": took, "rate": (run.count - count) / took}})
    counted, took, used = run.count - count, time.monotonic() - began, time.process_time() - cpu
    _emit({"mark": "end"})
    from relay.bench.load import PARTS, percentile_us

    latency = {name: percentile_us(run.histogram, part) for name, part in PARTS.items()}
    _emit(
        {
            "count": counted, "seconds": took, "rate": counted / took, "sent": run.sent - sent, "errors": run.errors,
            "first_error": run.first_error, "cpu_s": used, "latency_us": latency,
            "histogram_ns": {str(ns): count for ns, count in run.histogram.items()},
        }
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prefix_chars="-")
    for name, kind in (
        ("workload", str), ("address", str), ("dialect", str), ("connections", int), ("window", int),
        ("rate", float), ("payload", int), ("seconds", float), ("warmup", float), ("channels", int), ("token", str),
        ("user", str), ("channel", str), ("procedure", str),
    ):  # fmt: skip
        parser.add_argument(f"-{name}", type=kind)
    return parser.parse_args()


async def _main(asked: argparse.Namespace) -> None:
    run = Run(asked)
    workloads = {
        "echo": run.echo, "rpc": run.rpc, "fanout": run.fanout, "push": run.push, "connect": run.connect_storm,
        "idle": run.idle, "queue": run.queue, "store": run.store,
    }  # fmt: skip
    workload = workloads.get(asked.workload)
    if workload is None or asked.dialect != "relay":
        raise RelayError("the generator in Python knows no such workload or form: install Go")
    await workload()
    await _measure(run)


def main() -> None:
    """The command."""
    asked = _arguments()
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    try:
        with runner:
            runner.run(_main(asked))
    except (RelayError, OSError) as error:
        sys.exit(f"load: {error}")


if __name__ == "__main__":
    main()
