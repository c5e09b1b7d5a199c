"""Snapshots of one group: taken and stored, sent to members that lack too much, received.

::

    taking     machine.snapshot() ─chunk in the loop─▶ writer in the background ─▶ … ─▶ commit ─▶ log: snapshot, compact
    sending    MsgSnap of the core ─▶ reader in the background ─▶ chunk frames, at most ``snapshot_window`` not
               acknowledged ─▶ the last one acknowledged ─▶ core: delivered
    receiving  chunk 0 brings the MsgSnap ─▶ writer in the background, each chunk acknowledged when written ─▶ commit,
               read back ─▶ core: MsgSnap ─▶ machine.restore and a restore record of the log, or not wanted

Chunks go in the transport's last lane, a few at a time, so that heartbeats pass them. The log is compacted up to the
older of the two snapshots that are kept. A snapshot that fails on any side is told to the core as failed; it asks
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from relay.cluster.frames import Chunk, ChunkBack
from relay.cluster.ports import SnapshotWriter, Stores
from relay.cluster.raft.codec import decode_message, encode_message
from relay.cluster.raft.errors import SnapshotUnavailable
from relay.cluster.raft.storage import Storage
from relay.cluster.raft.types import MSG_SNAP, ConfState, HardState, Message, Snapshot
from relay.cluster.replica import Host, Replica
from relay.cluster.requests import Done
from relay.errors import RelayError, RemoteProtocolError, Unavailable


class SnapshotHost(Host, Protocol):
    """What snapshots need of the node besides."""

    sending: int
    receiving: int

    def send_chunk(self, node: int, frame: Chunk) -> bool:
        """A part of a snapshot; False: not sent."""

    def send_chunk_back(self, node: int, frame: ChunkBack) -> None:
        """The answer."""

    def note(self, form: str, **values: object) -> None:
        """A line for the operator."""


class ReplicaStorage:
    """A group's part of the log as the core starts from it: with the configuration of the snapshot that was
    restored."""

    __slots__ = ("_conf_state", "_log", "snapshot_source")

    def __init__(self, log: Storage, conf_state: ConfState) -> None:
        self._log = log
        self._conf_state = conf_state
        self.snapshot_source: Callable[[], Snapshot] | None = None

    def initial_state(self) -> tuple[HardState, ConfState]:
        """See :class:`relay.cluster.raft.storage.Storage`, as all of these."""
        return self._log.initial_state()[0], self._conf_state

    def entries(self, low: int, high: int, size_max: int) -> Any:  # Any: a sequence of Entry
        """Of the log."""
        return self._log.entries(low, high, size_max)

    def term(self, index: int) -> int:
        """Of the log."""
        return self._log.term(index)

    def last_index(self) -> int:
        """Of the log."""
        return self._log.last_index()

    def first_index(self) -> int:
        """Of the log."""
        return self._log.first_index()

    def snapshot(self) -> Snapshot:
        """The newest one that everybody may have."""
        if self.snapshot_source is None:
            raise SnapshotUnavailable
        return self.snapshot_source()


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


class GroupSnapshots:
    """See the module."""

    __slots__ = ("_available", "_host", "_receiving", "_replica", "_sending", "_stores", "_taking")

    def __init__(
        self, replica: Replica, host: SnapshotHost, storage: ReplicaStorage, available: Snapshot | None
    ) -> None:
        self._replica = replica
        self._host = host
        self._stores: Stores = host.stores
        # Index, term and configuration of the newest snapshot that is whole on this node's disk.
        self._available = available
        # Who waits for the snapshot that is being taken; None: none is.
        self._taking: list[Done] | None = None
        self._sending: dict[int, _Sending] = {}
        self._receiving: _Receiving | None = None
        storage.snapshot_source = self._to_send
        replica.on_snapshot_needed = self.send
        replica.on_log_grown = self.take

    @property
    def newest_index(self) -> int:
        """The index of the newest snapshot here, or 0."""
        return self._available.index if self._available is not None else 0

    @property
    def busy(self) -> bool:
        """Whether ``tick`` is needed."""
        return bool(self._sending) or self._receiving is not None

    def _to_send(self) -> Snapshot:
        """For the core: the newest, if it knows all members; else one is taken."""
        available = self._available
        members = self._replica.raw.raft.progress
        if available is not None:
            state = available.conf_state
            known = {*state.voters, *state.learners, *state.voters_outgoing, *state.learners_next}
            if known.issuperset(members):
                return available
        self.take()
        raise SnapshotUnavailable

    # --- taking ---------------------------------------------------------------------------------------------------

    def take(self, done: Done | None = None) -> None:
        """Snapshot the machine as it is now; ``done`` gets the index. One that is under way is joined."""
        if self._taking is not None:
            if done is not None:
                self._taking.append(done)
            return
        replica = self._replica
        raft = replica.raw.raft
        index = replica.applied
        self._taking = [done] if done is not None else []
        if index == self.newest_index or not index:
            self._taken(index, None)
            return
        replica.logged_bytes = 0
        term, state = raft.log.term(index), raft.configuration.conf_state()
        chunks = _cut(replica.machine.snapshot(), self._host.options.snapshot_chunk_bytes)
        create = self._stores.snapshots.create

        def created(writer: Any, error: BaseException | None) -> None:  # Any: SnapshotWriter
            if error is not None:
                self._taken(0, error)
            else:
                self._write_next(writer, chunks)

        self._stores.background(lambda: create(replica.number, index, term, state), created)

    def _write_next(self, writer: SnapshotWriter, chunks: Iterator[bytes]) -> None:
        """One chunk is taken from the machine each time the one before is written."""
        chunk = next(chunks, None)
        if chunk is None:
            self._commit(writer)
            return

        def written(_: object, error: BaseException | None) -> None:
            if error is not None:
                self._taken(0, error)  # the writer gave itself up
            else:
                self._write_next(writer, chunks)

        self._stores.background(lambda: writer.write(chunk), written)

    def _commit(self, writer: SnapshotWriter) -> None:
        snapshots, number = self._stores.snapshots, self._replica.number

        def committed(result: Any, error: BaseException | None) -> None:  # Any: see ``work``
            if error is not None:
                self._taken(0, error)
                return
            info, oldest = result
            snapshot = info.as_raft()
            self._available = snapshot
            write = self._stores.write(number, snapshot=snapshot, compact=oldest)
            try:
                self._stores.log.submit([write], lambda: self._taken(snapshot.index, None))
            except RelayError as refused:
                self._taken(0, refused)  # the file is there and good; the log follows with the next one

        def work() -> object:
            return writer.commit(), snapshots.oldest_kept(number)

        self._stores.background(work, committed)

    def _taken(self, index: int, error: BaseException | None) -> None:
        waiting, self._taking = self._taking or [], None
        outcome: RelayError | None = None
        if error is not None:
            self._host.note("group {group}: no snapshot: {error}", group=self._replica.number, error=str(error))
            outcome = error if isinstance(error, RelayError) else Unavailable(f"no snapshot: {error}")
        for done in waiting:
            self._host.outcomes.append((done, index if outcome is None else None, outcome))
        self._host.mark(self._replica)

    # --- sending --------------------------------------------------------------------------------------------------

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
        if not self._host.send_chunk(sending.node, frame):
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
            self._stop_sending(node)
            self._report(node, failed=False)
        else:
            self._pump(sending)

    def _failed(self, sending: _Sending, why: str) -> None:
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

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive(self, node: int, frame: Chunk) -> None:
        """A part of a snapshot came. Raises RemoteProtocolError for one that does not fit its place."""
        receiving = self._receiving
        if frame.number == 0:
            if receiving is not None:
                self._stop_receiving(receiving)
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
            self._host.send_chunk_back(node, refused)
            self._replica.receive(message)  # the core says what it has
            return None
        if self._host.receiving >= self._host.options.snapshots_receiving_max:
            self._host.send_chunk_back(node, refused)
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
            self._host.send_chunk_back(receiving.node, back)
            if frame.last:
                receiving.writer = None
                self._stop_receiving(receiving)
                if chunks is not None:
                    self._available = snapshot
                    self._replica.receive_snapshot(receiving.message, chunks)

        stores.background(work, stored)

    def _refuse(self, receiving: _Receiving) -> None:
        snapshot = receiving.message.snapshot
        assert snapshot is not None
        number = self._replica.number
        self._host.send_chunk_back(receiving.node, ChunkBack(number, snapshot.index, snapshot.term, 0, False))
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

    # --- both -----------------------------------------------------------------------------------------------------

    def unlinked(self, node: int) -> None:
        """The link to ``node`` ended."""
        sending = self._sending.get(node)
        if sending is not None:
            self._failed(sending, "the link ended")
        if self._receiving is not None and self._receiving.node == node:
            self._stop_receiving(self._receiving)

    def tick(self) -> None:
        """Give up what makes no progress."""
        before = self._host.ticks - self._host.options.snapshot_ticks
        for sending in list(self._sending.values()):
            if sending.tick < before:
                self._failed(sending, "no progress")
        if self._receiving is not None and self._receiving.tick < before:
            self._stop_receiving(self._receiving)


def _cut(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of at most ``size``, so that no frame is long."""
    for chunk in chunks:
        if len(chunk) <= size:
            yield chunk
        else:
            for at in range(0, len(chunk), size):
                yield chunk[at : at + size]


def _ignore(_: object, error: BaseException | None) -> None:
    """Closing and giving up have no outcome that anybody needs."""
