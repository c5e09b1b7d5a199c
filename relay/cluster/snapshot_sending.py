"""Snapshots to members that lack more than the log has.

::

    MsgSnap of the core ─▶ reader in the background ─▶ chunks, at most ``snapshot_window`` not acknowledged
                                                       ─▶ the last one acknowledged ─▶ core: delivered

Chunks go in the transport's last lane, so that heartbeats and entries pass them. One that fails is told to the core as
failed; it asks again after the next heartbeat that is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relay.cluster.frames import Chunk, ChunkBack
from relay.cluster.raft.codec import encode_message
from relay.cluster.raft.types import Message
from relay.cluster.replica import Replica
from relay.cluster.snapshot_taking import SnapshotHost


class _Sending:
    """A snapshot on its way to ``node``."""

    __slots__ = ("acknowledged", "chunks", "ended", "message", "node", "reader", "reading", "sent", "tick")

    def __init__(self, node: int, message: Message, tick: int) -> None:
        self.node = node
        self.message = message
        self.tick = tick  # of the last progress
        self.reader: Any = None  # Any: SnapshotReader, and
        self.chunks: Iterator[bytes] | None = None  # its chunks
        self.reading = True
        self.sent = 0
        self.acknowledged = 0
        self.ended = False


class Sending:
    """See the module; one group's."""

    __slots__ = ("_host", "_replica", "_sending", "_stores")

    def __init__(self, replica: Replica, host: SnapshotHost) -> None:
        self._replica = replica
        self._host = host
        self._stores = host.stores
        self._sending: dict[int, _Sending] = {}

    @property
    def busy(self) -> bool:
        """Whether ``tick`` is needed."""
        return bool(self._sending)

    def send(self, message: Message) -> None:
        """The core wants ``message.to`` to have a snapshot."""
        node, snapshot = message.to, message.snapshot
        assert snapshot is not None
        self._stop_sending(node)
        if self._host.sending >= self._host.options.snapshots_sending_max:
            self._report(node, failed=True)
            return
        self._host.sending += 1
        sending = self._sending[node] = _Sending(node, message, self._host.ticks)
        self._replica.wake()
        stores, number = self._stores, self._replica.number

        def opened(reader: Any, error: BaseException | None) -> None:  # Any: SnapshotReader
            if sending.ended:
                if error is None:
                    stores.background(reader.close, _ignore)
            elif error is not None:
                self._failed(sending, str(error))
            else:
                sending.reader, sending.chunks, sending.reading = reader, iter(reader), False
                self._pump(sending)

        stores.background(lambda: stores.snapshots.read(stores.find(number, snapshot.index, snapshot.term)), opened)

    def _pump(self, sending: _Sending) -> None:
        """Send the next chunk, unless enough are on their way."""
        if sending.reading or sending.chunks is None or sending.ended:
            return
        if sending.sent - sending.acknowledged >= self._host.options.snapshot_window:
            return
        sending.reading = True
        chunks = sending.chunks

        def read(chunk: Any, error: BaseException | None) -> None:  # Any: bytes, or None at the end
            sending.reading = False
            if sending.ended:
                return
            if error is not None:
                self._failed(sending, str(error))
                return
            if chunk is None:
                sending.chunks = None
            self._send_chunk(sending, chunk)

        self._stores.background(lambda: next(chunks, None), read)

    def _send_chunk(self, sending: _Sending, chunk: bytes | None) -> None:
        snapshot = sending.message.snapshot
        assert snapshot is not None
        first = encode_message(sending.message) if not sending.sent else b""
        frame = Chunk(
            self._replica.number, snapshot.index, snapshot.term, sending.sent, chunk is None, first, chunk or b""
        )
        if not self._host.out.send_chunk(sending.node, frame):
            self._failed(sending, "the link is gone, or its queue is full")
            return
        sending.sent += 1
        self._pump(sending)

    def acknowledged(self, node: int, frame: ChunkBack) -> None:
        """A chunk was written there, or the snapshot was given up."""
        sending = self._sending.get(node)
        if sending is None or sending.ended:
            return
        snapshot = sending.message.snapshot
        assert snapshot is not None
        if (frame.index, frame.term) != (snapshot.index, snapshot.term):
            return
        if not frame.accepted:
            self._failed(sending, "the other node gave it up")
            return
        sending.acknowledged = max(sending.acknowledged, min(frame.number + 1, sending.sent))
        sending.tick = self._host.ticks
        if sending.chunks is None and sending.acknowledged == sending.sent:
            self._host.counters.snapshots_sent += 1
            self._stop_sending(node)
            self._report(node, failed=False)
        else:
            self._pump(sending)

    def _failed(self, sending: _Sending, why: str) -> None:
        self._host.counters.snapshots_unsent += 1
        self._host.note(
            "group {group}: a snapshot for node {node} was not delivered: {why}",
            group=self._replica.number, node=sending.node, why=why,
        )  # fmt: skip
        self._stop_sending(sending.node)
        self._report(sending.node, failed=True)

    def _stop_sending(self, node: int) -> None:
        sending = self._sending.pop(node, None)
        if sending is not None:
            sending.ended = True
            self._host.sending -= 1
            if sending.reader is not None:
                self._stores.background(sending.reader.close, _ignore)

    def _report(self, node: int, *, failed: bool) -> None:
        self._replica.raw.report_snapshot(node, failed=failed)
        self._host.mark(self._replica)

    def unlinked(self, node: int) -> None:
        """The link to ``node`` ended."""
        sending = self._sending.get(node)
        if sending is not None:
            self._failed(sending, "the link ended")

    def tick(self) -> None:
        """Give up what makes no progress."""
        before = self._host.ticks - self._host.options.snapshot_ticks
        for sending in list(self._sending.values()):
            if sending.tick < before:
                self._failed(sending, "no progress")


def _ignore(_: object, error: BaseException | None) -> None:
    """Closing has no outcome that anybody needs."""
