"""What can go wrong in the core: refusals the caller acts on, and invariants whose loss ends the process.

================================  =====================================================================================
:class:`ProposalDropped`          not appended: no leader, a transfer under way, the uncommitted limit; try again later
:class:`CannotStepLocal`          a message kind that only the node itself may make came from the network
:class:`PeerNotFound`             an answer from a node that is not in the configuration
:class:`Compacted`                the log no longer reaches back that far: send a snapshot
:class:`Unavailable`              the log does not reach that far yet
:class:`SnapshotOutOfDate`        a snapshot older than the one that is there
:class:`SnapshotUnavailable`      the storage is making one; ask again later
:class:`BadConfChange`            a change of membership that cannot be made from this configuration
:class:`CodecError`               bytes that are no message
:class:`RaftInvariantError`       the node's state contradicts itself; going on could lose acknowledged writes
================================  =====================================================================================
"""

from __future__ import annotations

from relay.errors import InternalError, RelayError, RemoteProtocolError


class RaftError(RelayError):
    """The root of the refusals below."""


class ProposalDropped(RaftError):
    """The proposal is in nobody's log because of this call: it may be made again."""

    temporary = True

    def __init__(self) -> None:
        super().__init__("raft proposal dropped")


class CannotStepLocal(RaftError):
    """A local message kind (a tick, a storage answer) whose sender is not a local thread."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step raft local message")


class PeerNotFound(RaftError):
    """An answer from a node that the configuration does not know, usually one just removed."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step as peer not found")


class StorageError(RaftError):
    """The storage cannot answer; the four below are the only ones the core expects."""


class Compacted(StorageError):
    """The entry was compacted away into a snapshot."""

    def __init__(self) -> None:
        super().__init__("requested index is unavailable due to compaction")


class Unavailable(StorageError):
    """The entry is not in the log."""

    def __init__(self) -> None:
        super().__init__("requested entry at index is unavailable")


class SnapshotOutOfDate(StorageError):
    """The snapshot given is not newer than what is stored."""

    def __init__(self) -> None:
        super().__init__("requested index is older than the existing snapshot")


class SnapshotUnavailable(StorageError):
    """No snapshot can be had now; the core asks again after the next heartbeat."""

    temporary = True

    def __init__(self) -> None:
        super().__init__("snapshot is temporarily unavailable")


class BadConfChange(RaftError):
    """The change does not fit the configuration it is applied to; the sentence says why."""


class CodecError(RemoteProtocolError):
    """Bytes from a peer or from a log that are no message, entry or change."""


class RaftInvariantError(InternalError):
    """Something that must always hold does not: the process stops rather than repair by guessing."""
