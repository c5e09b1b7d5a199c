"""Snapshots from the leader.

::

    chunk 0 brings the MsgSnap ─▶ writer in the background, each chunk acknowledged when written ─▶ commit, read back
                               ─▶ core: MsgSnap ─▶ machine.restore and a restore record of the log, or not wanted

It is durable before the core hears of it. After a crash in between, the start finds it and writes the record
(``group_start``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relay.cluster.frames import Chunk, ChunkBack
from relay.cluster.ports import SnapshotWriter
from relay.cluster.raft.codec import decode_message
from relay.cluster.raft.types import MSG_SNAP, Message, Snapshot
from relay.cluster.replica import Replica
from relay.cluster.snapshot_taking import SnapshotHost
from relay.errors import RemoteProtocolError


class _Receiving:
    """A snapshot that comes from ``node``."""

    __slots__ = ("ended", "expected", "message", "node", "tick", "writer")

    def __init__(self, node: int, message: Message, tick: int) -> None:
        self.node = node
        self.message = message
        self.tick = tick
        self.expected = 0
        self.writer: SnapshotWriter | None = None
        self.ended = False


class Receiving:
    """See the module; one group's. ``stored`` is told of each snapshot that became durable."""

    __slots__ = ("_host", "_receiving", "_replica", "_stored", "_stores")

    def __init__(self, replica: Replica, host: SnapshotHost, stored: Callable[[Snapshot], object]) -> None:
        self._replica = replica
        self._host = host
        self._stores = host.stores
        self._stored = stored
        self._receiving: _Receiving | None = None

    @property
    def busy(self) -> bool:
        """Whether ``tick`` is needed."""
        return self._receiving is not None

    def receive(self, node: int, frame: Chunk) -> None:
        """A part of a snapshot came. Raises RemoteProtocolError for one that does not fit its place."""
        receiving = self._receiving
        if frame.number == 0:
            if receiving is not None:
                self._give_up(receiving)
            receiving = self._begin(node, frame)
        if receiving is None or receiving.ended or receiving.node != node:
            return
        snapshot = receiving.message.snapshot
        assert snapshot is not None
        if (frame.index, frame.term) != (snapshot.index, snapshot.term):
            return
        if frame.number != receiving.expected:
            if frame.number > receiving.expected:  # one was lost: begin anew
                self._refuse(receiving)
            return
        receiving.expected += 1
        receiving.tick = self._host.ticks
        self._store(receiving, frame)

    def _begin(self, node: int, frame: Chunk) -> _Receiving | None:
        message = decode_message(frame.message)
        snapshot = message.snapshot
        if (
            message.type != MSG_SNAP or message.from_ != node or snapshot is None or snapshot.data
            or (snapshot.index, snapshot.term) != (frame.index, frame.term)
        ):  # fmt: skip
            raise RemoteProtocolError("the first part of a snapshot does not carry its message")
        raft = self._replica.raw.raft
        refused = ChunkBack(self._replica.number, frame.index, frame.term, 0, False)
        if snapshot.index <= raft.log.committed or message.term < raft.term:
            self._host.out.send_chunk_back(node, refused)
            self._replica.receive(message)  # the core says what it has
            return None
        if self._host.receiving >= self._host.options.snapshots_receiving_max:
            self._host.out.send_chunk_back(node, refused)
            return None
        self._host.receiving += 1
        self._replica.wake()
        self._receiving = _Receiving(node, message, self._host.ticks)
        return self._receiving

    def _store(self, receiving: _Receiving, frame: Chunk) -> None:
        """Write the chunk in the background; the first one creates the file, the last one makes it whole."""
        stores, number = self._stores, self._replica.number
        snapshot = receiving.message.snapshot
        assert snapshot is not None

        def work() -> object:
            if receiving.ended:
                return None
            if receiving.writer is None:
                receiving.writer = stores.snapshots.create(number, snapshot.index, snapshot.term, snapshot.conf_state)
            if frame.data:
                receiving.writer.write(frame.data)
            if not frame.last:
                return None
            receiving.writer.commit()
            reader = stores.snapshots.read(stores.find(number, snapshot.index, snapshot.term))
            try:
                return list(reader)
            finally:
                reader.close()

        def stored(chunks: Any, error: BaseException | None) -> None:  # Any: the chunks, or None
            if receiving.ended:
                return
            if error is not None:
                self._host.note("group {group}: a snapshot was not stored: {error}", group=number, error=str(error))
                self._refuse(receiving)
                return
            receiving.tick = self._host.ticks
            back = ChunkBack(number, snapshot.index, snapshot.term, frame.number, True)
            self._host.out.send_chunk_back(receiving.node, back)
            if frame.last:
                receiving.writer = None
                self._stop_receiving(receiving)
                if chunks is not None:
                    self._host.counters.snapshots_received += 1
                    self._stored(snapshot)
                    self._replica.receive_snapshot(receiving.message, chunks)

        stores.background(work, stored)

    def _refuse(self, receiving: _Receiving) -> None:
        snapshot = receiving.message.snapshot
        assert snapshot is not None
        number = self._replica.number
        self._host.out.send_chunk_back(receiving.node, ChunkBack(number, snapshot.index, snapshot.term, 0, False))
        self._give_up(receiving)

    def _give_up(self, receiving: _Receiving) -> None:
        self._host.counters.snapshots_unreceived += 1
        self._stop_receiving(receiving)

    def _stop_receiving(self, receiving: _Receiving) -> None:
        receiving.ended = True
        self._host.receiving -= 1
        if self._receiving is receiving:
            self._receiving = None

        def work() -> None:
            if receiving.writer is not None:
                receiving.writer.abort()

        self._stores.background(work, _ignore)

    def unlinked(self, node: int) -> None:
        """The link to ``node`` ended."""
        if self._receiving is not None and self._receiving.node == node:
            self._give_up(self._receiving)

    def tick(self) -> None:
        """Give up what makes no progress."""
        before = self._host.ticks - self._host.options.snapshot_ticks
        if self._receiving is not None and self._receiving.tick < before:
            self._give_up(self._receiving)


def _ignore(_: object, error: BaseException | None) -> None:
    """Giving up has no outcome that anybody needs."""
