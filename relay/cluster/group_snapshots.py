"""The snapshots of one group: taken, sent to members that lack too much, received from the leader."""

from __future__ import annotations

from relay.cluster.raft.types import Snapshot
from relay.cluster.replica import Replica
from relay.cluster.snapshot_receiving import Receiving
from relay.cluster.snapshot_sending import Sending
from relay.cluster.snapshot_taking import ReplicaStorage, SnapshotHost, Taking


class GroupSnapshots:
    """Joins the three parts, and the group's core to them."""

    __slots__ = ("receiving", "sending", "taking")

    def __init__(
        self, replica: Replica, host: SnapshotHost, storage: ReplicaStorage, available: Snapshot | None
    ) -> None:
        self.taking = Taking(replica, host, available)
        self.sending = Sending(replica, host)
        self.receiving = Receiving(replica, host, self.taking.offer)
        storage.snapshot_source = self.taking.to_send
        replica.on_snapshot_needed = self.sending.send
        replica.on_log_grown = self.taking.take

    def unlinked(self, node: int) -> None:
        """The link to ``node`` ended."""
        self.sending.unlinked(node)
        self.receiving.unlinked(node)

    def tick(self) -> None:
        """Give up what makes no progress."""
        if self.sending.busy:
            self.sending.tick()
        if self.receiving.busy:
            self.receiving.tick()
