"""What a node looks like from outside."""

from __future__ import annotations

import msgspec

from relay.cluster.raft.confchange import Configuration, Members
from relay.cluster.raft.describe import describe_status
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import LEADER, HardState, SoftState


class Status(msgspec.Struct, frozen=True):
    """A picture of a node at one moment."""

    id: int
    hard_state: HardState
    soft_state: SoftState
    applied: int
    lead_transferee: int
    configuration: Configuration
    progress: Members
    """Copies, ids ascending; empty on anybody but a leader."""

    def __str__(self) -> str:
        return describe_status(self)


def status_of(r: RaftState) -> Status:
    """The status of ``r`` now."""
    return Status(
        r.id,
        r.hard_state(),
        r.soft_state(),
        r.log.applied,
        r.lead_transferee,
        r.configuration,
        {node: pr.clone() for node, pr in r.progress.items()} if r.role == LEADER else {},
    )
