"""What a node's groups count beside what they are: plain integers, moved by what is rare, read when somebody looks."""

from __future__ import annotations


class Counters:
    """All groups of a node together; never reset."""

    __slots__ = (
        "elections", "leader_changes", "snapshots_received", "snapshots_sent", "snapshots_taken",
        "snapshots_unreceived", "snapshots_unsent", "snapshots_untaken",
    )  # fmt: skip

    def __init__(self) -> None:
        self.elections = 0
        """Terms in which this node asked for votes; what pre-votes kept from becoming an election is none."""
        self.leader_changes = 0
        """How often a leader became known, the same one again too."""
        self.snapshots_taken = 0
        """Whole on this node's disk; ``untaken``: given up. Likewise those for other members and from the leader."""
        self.snapshots_sent = 0
        self.snapshots_received = 0
        self.snapshots_untaken = 0
        self.snapshots_unsent = 0
        self.snapshots_unreceived = 0
