"""Snapshots of one group's state machine, written beside the log, which is compacted behind them.

::

    machine.snapshot() ─chunk in the loop─▶ writer in the background ─▶ … ─▶ commit ─▶ log: snapshot, compact

A chunk is taken from the machine each time the one before is written, so the loop is never held for long. The log is
compacted up to the older of the two snapshots that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from relay.cluster.ports import SnapshotWriter
from relay.cluster.raft.errors import SnapshotUnavailable
from relay.cluster.raft.storage import Storage
from relay.cluster.raft.types import ConfState, HardState, Snapshot
from relay.cluster.replica import Host, Replica
from relay.cluster.requests import Done
from relay.errors import RelayError, Unavailable


class SnapshotHost(Host, Protocol):
    """What snapshots need of the node besides."""

    sending: int
    receiving: int

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


class Taking:
    """See the module. ``available`` is the newest snapshot that is whole on this node's disk, without its data."""

    __slots__ = ("_host", "_replica", "_stores", "_taking", "available")

    def __init__(self, replica: Replica, host: SnapshotHost, available: Snapshot | None) -> None:
        self.available = available
        self._replica = replica
        self._host = host
        self._stores = host.stores
        # Who waits for the snapshot that is being taken; None: none is.
        self._taking: list[Done] | None = None

    @property
    def newest_index(self) -> int:
        """The index of the newest snapshot here, or 0."""
        return self.available.index if self.available is not None else 0

    def offer(self, snapshot: Snapshot) -> bool:
        """A snapshot is whole on the disk; False: one that is later, which reaches into the log, was there before."""
        if snapshot.index < self.newest_index:
            return False
        self.available = snapshot
        return True

    def to_send(self) -> Snapshot:
        """For the core: the newest, if it knows all members; else one is taken. Raises SnapshotUnavailable."""
        available = self.available
        members = self._replica.raw.raft.progress
        if available is not None:
            state = available.conf_state
            known = {*state.voters, *state.learners, *state.voters_outgoing, *state.learners_next}
            if known.issuperset(members):
                return available
        self.take()
        raise SnapshotUnavailable

    def take(self, done: Done | None = None) -> None:
        """Snapshot the machine as it is now; ``done`` gets the index. One that is under way is joined."""
        if self._taking is not None:
            if done is not None:
                self._taking.append(done)
            return
        replica = self._replica
        raft = replica.raw.raft
        index = replica.applier.index
        self._taking = [done] if done is not None else []
        if index == self.newest_index:
            self._taken(index, None)
            return
        replica.applier.bytes_since = 0
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
        try:
            chunk = next(chunks, None)
        except Exception as error:  # noqa: BLE001 - a machine that cannot show its state contradicts itself
            self._host.fail(error)
            return
        if chunk is None:
            self._commit(writer)
            return

        def written(_: object, error: BaseException | None) -> None:
            if error is not None:
                self._stores.background(writer.abort, _ignore)
                self._taken(0, error)
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
            if not self.offer(snapshot):
                self._taken(self.newest_index, None)  # the leader sent a later one meanwhile
                return
            write = self._stores.write(number, snapshot=snapshot, compact=oldest)
            try:
                self._stores.log.submit([write], lambda: self._taken(snapshot.index, None))
            except RelayError as refused:
                self._taken(0, refused)  # the file is there and good; the log follows with the next one
            else:
                self._host.counters.snapshots_taken += 1

        def work() -> object:
            return writer.commit(), snapshots.oldest_kept(number)

        self._stores.background(work, committed)

    def _taken(self, index: int, error: BaseException | None) -> None:
        waiting, self._taking = self._taking or [], None
        outcome: RelayError | None = None
        if error is not None:
            self._host.counters.snapshots_untaken += 1
            self._host.note("group {group}: no snapshot: {error}", group=self._replica.number, error=str(error))
            outcome = error if isinstance(error, RelayError) else Unavailable(f"no snapshot: {error}")
        for done in waiting:
            self._host.outcomes.append((done, index if outcome is None else None, outcome))
        self._host.mark(self._replica)


def _cut(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of at most ``size``, so that no frame is long."""
    for chunk in chunks:
        if len(chunk) <= size:
            yield chunk
        else:
            for at in range(0, len(chunk), size):
                yield chunk[at : at + size]


def _ignore(_: object, error: BaseException | None) -> None:
    """Giving up has no outcome that anybody needs."""
