"""Reads that cost no entry of the log (ReadIndex, thesis 6.4).

The leader notes its commit index, makes sure by a round of heartbeats that nobody deposed it meanwhile, and answers
with the index. Reads are numbered from 1 in each leadership; a heartbeat carries the number of the last one waiting,
its answer acknowledges all up to that number, and what a quorum acknowledged is found like a commit index. The number
is the leader's own, so a late answer cannot confirm a read that came after it, whatever names the clients chose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from relay.cluster.raft.quorum import EVERY_INDEX, joint_committed_index
from relay.cluster.raft.types import Message

_CONTEXT_BYTES = 8


class ReadOnly:
    """The reads of one leadership that wait for their round of heartbeats."""

    __slots__ = ("_acknowledged", "_confirmed", "_waiting", "_waiting_max")

    def __init__(self, waiting_max: int) -> None:
        # The highest read number each node acknowledged; at most _confirmed + len(_waiting).
        self._acknowledged: dict[int, int] = {}
        # (MsgReadIndex, the commit index when it came), in order of coming. Read number of the first: _confirmed + 1.
        self._waiting: deque[tuple[Message, int]] = deque()
        self._waiting_max = waiting_max
        # How many reads were answered in this leadership. Never falls.
        self._confirmed = 0

    def add(self, request: Message, index: int) -> bool:
        """``request`` waits, to be answered with ``index``; False if too many wait already."""
        if len(self._waiting) >= self._waiting_max:
            return False
        self._waiting.append((request, index))
        return True

    def acknowledge(self, node: int, context: bytes) -> None:
        """``node`` answered a heartbeat that carried ``context``; a late answer changes nothing."""
        if len(context) == _CONTEXT_BYTES:
            number = int.from_bytes(context, "little")
            if number > self._acknowledged.get(node, 0):
                self._acknowledged[node] = number

    def advance(self, incoming: Collection[int], outgoing: Collection[int]) -> list[tuple[Message, int]]:
        """Take the reads that a quorum has confirmed, in order."""
        number = joint_committed_index(incoming, outgoing, self._acknowledged.get)
        if number <= self._confirmed or number == EVERY_INDEX:
            return []
        count = min(number - self._confirmed, len(self._waiting))
        self._confirmed += count
        return [self._waiting.popleft() for _ in range(count)]

    def context(self) -> bytes:
        """What the next heartbeat carries: the number of the last waiting read, or nothing."""
        if not self._waiting:
            return b""
        return (self._confirmed + len(self._waiting)).to_bytes(_CONTEXT_BYTES, "little")
