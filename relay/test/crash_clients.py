"""Clients of the crash campaign: bare connections that write down every answer, and never try anything again."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from relay.test.crash_record import ChannelRecord, QueueRecord
from relay.wire import kinds
from relay.wire.binary import BinaryDecoder, encode_stream
from relay.wire.handshake import HistoryEnd, HistoryOptions, read, write
from relay.wire.message import Message

READ_BYTES: Final = 262_144
FRAME_BYTES_MAX: Final = 16_777_216
PAGE: Final = 1000


class Bare:
    """One connection. ``heard`` is called for each frame of the server; ``run`` ends with the connection."""

    def __init__(self, port: int, user: str) -> None:
        self.port = port
        self.user = user
        self.seq = 0
        self.open = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Connect, say hello, and listen to the end."""
        try:
            reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            hello = write(kinds.HELLO, {"user": self.user})
            self.writer.write(kinds.PREFACE + encode_stream(hello))
            decoder = BinaryDecoder(FRAME_BYTES_MAX)
            while data := await reader.read(READ_BYTES):
                for message in decoder.receive(data):
                    if message.kind == kinds.WELCOME:
                        self.open.set()
                        self.begin()
                    elif message.kind == kinds.PING:
                        self.say(Message(kinds.PONG, seq=message.seq))
                    else:
                        self.heard(message)
        except OSError:
            pass  # the node was killed: what was under way is unknown
        finally:
            if self.writer is not None:
                self.writer.close()
            self.ended()

    def say(self, message: Message) -> None:
        """Send a frame; nowhere when the node is dead."""
        assert self.writer is not None
        if not self.writer.is_closing():
            self.writer.write(encode_stream(message))

    def ask(self, message: Message) -> int:
        """Send a request; its number."""
        self.seq += 1
        message.seq = self.seq
        self.say(message)
        return self.seq

    def begin(self) -> None:
        """The welcome is there."""

    def heard(self, message: Message) -> None:
        """A frame came."""

    def ended(self) -> None:
        """The connection is gone."""


class Source(Bare):
    """Keeps ``window`` requests under way; bodies are ``PREFIX.USER.n``."""

    def __init__(self, port: int, user: str, prefix: str, window: int) -> None:
        super().__init__(port, user)
        self.prefix = prefix
        self.window = window
        self.under_way: dict[int, bytes] = {}
        self.count = 0

    def begin(self) -> None:
        """Fill the window."""
        assert self.writer is not None
        while len(self.under_way) < self.window and not self.writer.is_closing():
            body = f"{self.prefix}.{self.user}.{self.count}".encode()
            self.count += 1
            self.under_way[self.put(body)] = body

    def heard(self, message: Message) -> None:
        """Write down how it ended, and send another."""
        body = self.under_way.pop(message.seq, None)
        if body is None:
            return
        if message.kind == kinds.REPLY:
            self.acknowledged(body, message)
        elif message.get(kinds.OUTCOME) == "not_done":
            self.refused(body)
        else:
            self.lost(1)
        self.begin()

    def ended(self) -> None:
        """What was under way is unknown."""
        self.lost(len(self.under_way))

    def put(self, body: bytes) -> int:
        """Send one."""
        raise NotImplementedError

    def acknowledged(self, body: bytes, reply: Message) -> None:
        """It is stored."""
        raise NotImplementedError

    def refused(self, body: bytes) -> None:
        """It is not."""
        raise NotImplementedError

    def lost(self, count: int) -> None:
        """Nobody knows of ``count`` of them."""
        raise NotImplementedError


class Publisher(Source):
    """Publishes to a channel."""

    def __init__(self, port: int, user: str, prefix: str, window: int, channel: str, record: ChannelRecord) -> None:
        super().__init__(port, user, prefix, window)
        self.channel = channel
        self.record = record

    def put(self, body: bytes) -> int:
        """Send one."""
        self.record.send(f"{self.prefix}.{self.user}", body)
        return self.ask(Message(kinds.PUBLISH, self.channel, body))

    def acknowledged(self, body: bytes, reply: Message) -> None:
        """It is stored."""
        self.record.ack(body, reply.get(kinds.OFFSET), reply.get(kinds.EPOCH))

    def refused(self, body: bytes) -> None:
        """It is not."""
        self.record.refuse(body)

    def lost(self, count: int) -> None:
        """Nobody knows."""
        self.record.outcomes.unknown += count


class Putter(Source):
    """Puts messages into a queue."""

    def __init__(self, port: int, user: str, prefix: str, window: int, queue: str, record: QueueRecord) -> None:
        super().__init__(port, user, prefix, window)
        self.queue = queue
        self.record = record

    def put(self, body: bytes) -> int:
        """Send one."""
        return self.ask(Message(kinds.PUSH, "job", body, fields={kinds.QUEUE: self.queue}))

    def acknowledged(self, body: bytes, reply: Message) -> None:
        """It is stored."""
        self.record.ack(body, reply.get(kinds.OFFSET))

    def refused(self, body: bytes) -> None:
        """It is not."""
        self.record.refuse(body)

    def lost(self, count: int) -> None:
        """Nobody knows."""
        self.record.outcomes.unknown += count


class Subscriber(Bare):
    """Writes down every event of a channel."""

    def __init__(self, port: int, user: str, channel: str, record: ChannelRecord) -> None:
        super().__init__(port, user)
        self.channel = channel
        self.record = record
        self.events = 0

    def begin(self) -> None:
        """Subscribe."""
        self.ask(Message(kinds.SUBSCRIBE, self.channel))

    def heard(self, message: Message) -> None:
        """An event has left the node: it must have been stored."""
        if message.kind == kinds.EVENT:
            self.events += 1
            self.record.tell(message.get(kinds.OFFSET), message.body, message.get(kinds.EPOCH))


class Consumer(Bare):
    """Takes messages of a queue and acknowledges each; ``idle``: how many turns of the clock nothing came."""

    def __init__(self, port: int, user: str, queue: str, credits: int, record: QueueRecord) -> None:
        super().__init__(port, user)
        self.queue = queue
        self.credits = credits
        self.record = record
        self.settling: dict[int, bytes] = {}
        self.count = 0

    def begin(self) -> None:
        """Consume."""
        self.ask(Message(kinds.CONSUME, self.queue, fields={kinds.CREDITS: self.credits}))

    def heard(self, message: Message) -> None:
        """A delivery, or the answer to an acknowledgement."""
        if message.kind == kinds.PUSH:
            self.count += 1
            number = message.get(kinds.OFFSET)
            self.record.deliver(message.body, number)
            seq = self.ask(Message(kinds.ACK, self.queue, fields={kinds.OFFSET: number}))
            self.settling[seq] = message.body
        elif message.kind == kinds.REPLY and message.seq in self.settling:
            self.record.settle(self.settling.pop(message.seq))


class Reader(Bare):
    """Asks: for a part of a history, or for the state of a queue."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "reader")
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._pages: dict[int, list[Message]] = {}

    def heard(self, message: Message) -> None:
        """A part of an answer, or its end."""
        future = self._answers.get(message.seq)
        if future is None:
            return
        if message.flags & kinds.MORE:
            self._pages[message.seq].append(message)
        elif not future.done():
            future.set_result(message)

    async def answer(self, message: Message) -> tuple[Message, list[Message]]:
        """The final answer, and what came before it."""
        await self.open.wait()
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        seq = self.ask(message)
        self._answers[seq], self._pages[seq] = future, []
        final = await future
        if final.kind != kinds.REPLY:
            raise RuntimeError(f"{message.describe()}: {final.body!r}")
        del self._answers[seq]
        return final, self._pages.pop(seq)

    async def history(self, channel: str, after: int) -> tuple[list[tuple[int, bytes]], str]:
        """All publications over ``after``, and the epoch."""
        rows: list[tuple[int, bytes]] = []
        while True:
            options = HistoryOptions(after=rows[-1][0] if rows else after, limit=PAGE)
            final, page = await self.answer(write(kinds.HISTORY, options, name=channel))
            rows += [(each.get(kinds.OFFSET), each.body) for each in page]
            end = read(final, HistoryEnd)
            if not end.next:
                return rows, end.epoch

    async def queue(self, queue: str) -> dict[str, Any]:  # Any: JSON
        """What the node says of a queue."""
        final, _ = await self.answer(write(kinds.QUEUE_KIND, {"op": "info"}, name=queue))
        found: dict[str, Any] = msgspec.json.decode(final.body)
        return found
