"""What a node on SQLite takes to give back what it keeps: recovery of many publications, and a start with many queues.

::

    recovery    10 000 publications ─▶ a new connection subscribes with ``last`` ─▶ the last of them has come
    queues      a file with 100 000 queues of one message each ─▶ process started ─▶ a consumer has one of them

Both are wall clock of a client on the other core, over TCP. Beside them stands the processor time of the node, which
other load changes less.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import attrs

from relay.bench.load import Load
from relay.bench.python_load import Client, Run
from relay.bench.server import Server, cores, cpu_s, node, pin, resident_bytes
from relay.bench.target import Figure
from relay.config_store import Store
from relay.errors import RelayError
from relay.records import Put
from relay.store.sqlite import SqliteStore
from relay.wire import kinds
from relay.wire.binary import LENGTH_BYTES, encode_frame, encode_stream
from relay.wire.handshake import Hello, SubscribeOptions, write
from relay.wire.message import Message

PUBLICATIONS: Final = 10_000
RECOVERY_MS_MOST: Final = 200.0
QUEUES: Final = 100_000
START_S_MOST: Final = 3.0
RSS_MB_MOST: Final = 300.0
PAYLOAD: Final = 200
WAIT_S: Final = 60.0
FILL: Final = 10_000


def _driven(address: str, drive: Callable[[Run], Awaitable[Any]]) -> Any:  # Any: what it gives
    """``drive`` with a client's side of ``address``, on the load's core. Raises ``RelayError`` for errors met."""
    run = Run(argparse.Namespace(**attrs.asdict(Load("recovery", address, payload=PAYLOAD))))
    usable = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()
    pin(cores()[1])
    try:
        found = asyncio.run(asyncio.wait_for(_awaited(drive, run), WAIT_S))
    finally:
        pin(usable)
    if run.errors:
        raise RelayError(run.first_error)
    return found


async def _awaited(drive: Callable[[Run], Awaitable[Any]], run: Run) -> Any:  # Any: as above
    return await drive(run)


async def _count(client: Client, kind: int, wanted: int, begin: Callable[[], None]) -> None:
    """Wait until so many of ``kind`` came after ``begin()``."""
    done = asyncio.get_running_loop().create_future()
    count = 0

    def took(message: Message) -> None:
        nonlocal count
        count += message.kind == kind
        if count == wanted and not done.done():
            done.set_result(None)

    client.on_message = took
    begin()
    await done


async def _publish(run: Run, channel: str) -> None:
    client = await run.connect()

    def begin() -> None:
        for seq in range(1, PUBLICATIONS + 1):
            client.send(Message(kinds.PUBLISH, channel, run.body(0), seq=seq))

    await _count(client, kinds.REPLY, PUBLICATIONS, begin)
    client.transport.close()


class Recovering(asyncio.Protocol):
    """Says hello and subscribes at once, and counts the events without a look into them: their decoding is no work of
    the node's."""

    def __init__(self, channel: str, done: asyncio.Future[float]) -> None:
        self._channel = channel
        self._done = done
        self._held = b""
        self._events = 0
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """``asyncio.Protocol``."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._began = time.perf_counter()
        subscribe = write(kinds.SUBSCRIBE, SubscribeOptions(last=PUBLICATIONS), 1, self._channel)
        transport.write(kinds.PREFACE + encode_stream(write(kinds.HELLO, Hello())) + encode_stream(subscribe))

    def data_received(self, data: bytes) -> None:
        """``asyncio.Protocol``."""
        data = self._held + data
        at, size = 0, len(data)
        while at + LENGTH_BYTES < size:
            end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES])
            if end > size:
                break
            kind = data[at + LENGTH_BYTES]
            self._events += kind == kinds.EVENT
            if kind in (kinds.ERROR, kinds.GOODBYE) and not self._done.done():
                self._done.set_exception(RelayError(repr(data[at:end])))
            at = end
        self._held = data[at:]
        if self._events == PUBLICATIONS and not self._done.done():
            self._done.set_result((time.perf_counter() - self._began) * 1000)


async def _recover(run: Run, channel: str) -> float:
    """Milliseconds from the connection to the last event."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[float] = loop.create_future()
    host, _, port = run.asked.address.partition("://")[2].rpartition(":")
    transport, _ = await loop.create_connection(lambda: Recovering(channel, done), host, int(port))
    try:
        return await done
    finally:
        transport.abort()


def recovery(server: Server, rounds: int = 7) -> list[Figure]:
    """Figures of both kinds of history, in turns."""
    address = server.addresses["tcp"]
    channels = {"memory": "memory.recovery", "durable": "durable.recovery"}
    found: dict[str, list[float]] = {kind: [] for kind in channels}
    cpu: dict[str, list[float]] = {kind: [] for kind in channels}
    for channel in channels.values():
        _driven(address, lambda run, channel=channel: _publish(run, channel))  # type: ignore[misc]  # mypy, defaults
    for _ in range(rounds):
        for kind, channel in channels.items():
            before = cpu_s(server.pid)
            found[kind].append(_driven(address, lambda run, channel=channel: _recover(run, channel)))  # type: ignore[misc]
            cpu[kind].append((cpu_s(server.pid) - before) * 1000)
    figures = []
    for kind, times in found.items():
        name = f"recovery of {PUBLICATIONS:,}, {kind}"
        figures.append(Figure(name, statistics.median(times), "ms", RECOVERY_MS_MOST, {"all_ms": times}))
        figures.append(Figure(f"{name}: processor time of the node", statistics.mean(cpu[kind]), "ms"))
    return figures


def fill(data: Path) -> None:
    """A data directory whose store has ``QUEUES`` queues with a message each."""
    data.mkdir(parents=True)
    store = SqliteStore(str(data / Store().file), Store(), lambda: int(time.time() * 1000), os.urandom)
    store.open()
    for first in range(0, QUEUES, FILL):
        batch = []
        for number in range(first, min(QUEUES, first + FILL)):
            frame = encode_frame(Message(kinds.PUSH, "job", bytes(PAYLOAD)))
            batch.append(Put("default", f"many.{number}", frame, int(time.time() * 1000)))
        store.queues.put(batch, lambda _: None)
        store.run_once()
        refused = [each.error for each in batch if each.error is not None]
        if refused:
            raise refused[0]
    store.stop()


async def _take(run: Run) -> None:
    client = await run.connect()
    consume = Message(kinds.CONSUME, f"many.{QUEUES - 1}", seq=1, fields={kinds.CREDITS: 1})
    await _count(client, kinds.PUSH, 1, lambda: client.send(consume))
    client.transport.close()


def queues(reactor: str) -> list[Figure]:
    """Figures of a start with many queues, beside one without any."""
    with node(reactor) as server:
        empty = {"start_s": server.start_s, "cpu_s": cpu_s(server.pid), "mb": resident_bytes(server.pid) / 2**20}
    began = 0.0

    def prepared(data: Path) -> None:
        nonlocal began
        fill(data)
        began = time.monotonic()

    with node(reactor, prepare=prepared) as server:
        _driven(server.addresses["tcp"], _take)
        took = time.monotonic() - began
        cpu = cpu_s(server.pid)
        megabytes = resident_bytes(server.pid) / 2**20
    beside = {"node_cpu_s": cpu, "empty": empty}
    return [
        Figure(f"start with {QUEUES:,} queues, to the first delivery", took, "s", START_S_MOST, beside),
        Figure("the same, processor time of the node", cpu, "s", START_S_MOST),
        Figure("resident then", megabytes, "MB", RSS_MB_MOST, {"empty_mb": empty["mb"]}),
    ]
