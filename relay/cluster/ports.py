"""What groups need of the log and of the snapshots, as shapes: ``relay.store`` has them, a simulator may have others.

``relay.store`` and ``relay.cluster`` are on the same floor and do not import one another; who puts a node together
passes one to the other (:class:`Stores`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import attrs

from relay.cluster.raft.storage import Storage
from relay.cluster.raft.types import ConfState, Snapshot


class GroupStorage(Storage, Protocol):
    """One group's part of the log, as far as it is durable: ``relay.store.wal_storage.GroupLog``."""

    known_snapshot: Snapshot
    """Index, term and configuration of the newest snapshot that the log knows of."""


class Log(Protocol):
    """The log of a node: ``relay.store.wal.WriteAheadLog``, opened."""

    @property
    def no_room(self) -> str | None:
        """Why entries are refused, while they are: the disk is full."""

    def group(self, group: int) -> GroupStorage:
        """The storage of a group. Raises LimitExceeded."""

    def submit(
        self, writes: Sequence[Any], done: Callable[[], object] | None = None, *, must_sync: bool = True
    ) -> None:  # Any: what ``Stores.write`` makes
        """Queue writes, at most one with entries for a group; ``done`` when they are durable. Raises Full,
        Unavailable."""

    def holding_oldest(self) -> list[int]:
        """The groups that have to be compacted to make room."""


class SnapshotInfo(Protocol):
    """What a verified snapshot file says of itself."""

    @property
    def conf_state(self) -> ConfState:
        """The configuration there."""

    def as_raft(self, data: bytes = b"") -> Snapshot:
        """Index, term and configuration."""


class SnapshotWriter(Protocol):
    """A snapshot being written: chunks of at most 1 MiB, then one of the other two."""

    def write(self, chunk: bytes) -> None:
        """Add a chunk. Raises Full."""

    def commit(self) -> SnapshotInfo:
        """Make it durable under its name; all but the newest two of the group are removed."""

    def abort(self) -> None:
        """Give it up."""


class SnapshotReader(Protocol):
    """The chunks of one snapshot; damage is an error of the iteration."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """Close the file."""


class Snapshots(Protocol):
    """The snapshots of a node: ``relay.store.snapshots.SnapshotStore``. Everything blocks."""

    def kept(self, group: int) -> Sequence[Any]:  # Any: its own (group, position, term)
        """The snapshots of a group, newest first."""

    def newest(self, group: int) -> tuple[SnapshotInfo | None, Sequence[Exception]]:
        """The newest that is whole, and what is wrong with newer ones."""

    def create(self, group: int, index: int, term: int, conf_state: ConfState) -> SnapshotWriter:
        """Begin a snapshot."""

    def read(self, identity: Any) -> SnapshotReader:  # Any: one of ``kept``
        """Open a snapshot. Raises FileNotFoundError, and an error of its own for damage."""

    def oldest_kept(self, group: int) -> int:
        """The index up to which the log may be compacted; 0 with fewer than two."""


Background = Callable[[Callable[[], Any], Callable[[Any, BaseException | None], object]], object]  # Any: its result
"""``background(work, done)``: run ``work`` where it may block, then in the loop ``done(result, error)``. Work is done
in the order given, so that of one snapshot is in order."""


@attrs.frozen
class Stores:
    """Where the groups of a node keep what they must not forget."""

    log: Log
    snapshots: Snapshots
    write: Callable[..., Any]  # makes a write for ``log``: ``relay.store.wal_writer.GroupWrite``
    background: Background

    def find(self, group: int, index: int, term: int) -> Any:  # Any: the store's own identity
        """The identity of a snapshot that is kept. Raises FileNotFoundError."""
        for identity in self.snapshots.kept(group):
            if (identity.position, identity.term) == (index, term):
                return identity
        raise FileNotFoundError(f"snapshot {index} of group {group}")
