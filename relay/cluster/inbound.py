"""Frames from other nodes to the groups they are for. What means nothing is a RemoteProtocolError, and the link
ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from relay.cluster import frames
from relay.cluster.group_snapshots import GroupSnapshots
from relay.cluster.raft.types import (
    LOCAL_MESSAGES,
    MSG_FORGET_LEADER,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_RESP,
    MSG_PROP,
    MSG_READ_INDEX,
    MSG_READ_INDEX_RESP,
    MSG_SNAP,
    MSG_TRANSFER_LEADER,
)
from relay.cluster.replica import Host, Replica
from relay.errors import RemoteProtocolError

NOT_IN_RAFT_FRAMES: Final = LOCAL_MESSAGES | {MSG_FORGET_LEADER, MSG_HEARTBEAT, MSG_HEARTBEAT_RESP, MSG_PROP, MSG_SNAP}
"""Kinds that have frames of their own, or never cross the network."""
SENT_FOR_OTHERS: Final = (MSG_TRANSFER_LEADER, MSG_READ_INDEX)
"""Kinds whose sender is not the node that sends them: a transfer names the successor, a read whoever asked first; one
that reaches a node that leads no more is passed on to the next."""
READS: Final = (MSG_READ_INDEX, MSG_READ_INDEX_RESP)


class Inbound:
    """``receive`` is all of it. Frames for groups that are not here are counted in ``unknown`` and dropped. ``said``,
    when it is not None, gets what other nodes say apart from all groups; it may raise ``RemoteProtocolError``."""

    __slots__ = ("_host", "_receive", "_replicas", "_snapshots", "said", "unknown")

    def __init__(self, host: Host, replicas: Mapping[int, Replica], snapshots: Mapping[int, GroupSnapshots]) -> None:
        self._host = host
        self._replicas = replicas
        self._snapshots = snapshots
        self.said: Callable[[bytes], object] | None = None
        self.unknown = 0
        self._receive = {
            frames.RAFT: self._raft,
            frames.BEATS: self._beats,
            frames.BEATS_BACK: self._beats_back,
            frames.PROPOSE: self._propose,
            frames.PLACED: self._placed,
            frames.CHUNK: self._chunk,
            frames.CHUNK_BACK: self._chunk_back,
            frames.SAID: self._said,
        }

    def receive(self, node: int, frame: bytes) -> None:
        """A frame from ``node``."""
        receive = self._receive.get(frame[0] if frame else 0)
        if receive is None:
            raise RemoteProtocolError(f"a frame of kind {frame[0]}" if frame else "an empty frame")
        receive(node, frame)

    def _said(self, node: int, frame: bytes) -> None:
        if self.said is not None:
            self.said(frame[1:])

    def _replica(self, group: int) -> Replica | None:
        replica = self._replicas.get(group)
        if replica is None:
            self.unknown += 1
        return replica

    def _raft(self, node: int, frame: bytes) -> None:
        for group, message in frames.decode_raft(frame):
            sender = node if message.type in SENT_FOR_OTHERS else message.from_
            if sender != node or message.to != self._host.node or message.type in NOT_IN_RAFT_FRAMES:
                raise RemoteProtocolError(
                    f"a message of kind {message.type} from {message.from_} to {message.to} on the link of node {node}"
                )
            if message.type in READS and len(message.entries) != 1:
                raise RemoteProtocolError(f"a read with {len(message.entries)} names")
            replica = self._replica(group)
            if replica is not None:
                replica.receive(message)

    def _beats(self, node: int, frame: bytes) -> None:
        for beat in frames.decode_beats(frame):
            replica = self._replica(beat.group)
            if replica is not None:
                replica.receive_beat(node, beat)

    def _beats_back(self, node: int, frame: bytes) -> None:
        for beat in frames.decode_beats_back(frame):
            replica = self._replica(beat.group)
            if replica is not None:
                replica.receive_beat_back(node, beat)

    def _propose(self, node: int, frame: bytes) -> None:
        propose = frames.decode_propose(frame)
        replica = self._replica(propose.group)
        if replica is not None:
            replica.receive_propose(node, propose)

    def _placed(self, node: int, frame: bytes) -> None:
        placed = frames.decode_placed(frame)
        replica = self._replica(placed.group)
        if replica is not None and placed.boot == self._host.boot:
            index, applied = placed.index, replica.applier.index
            replica.proposals.answered(placed.number, index, placed.term, applied, self._host.ticks)
            self._host.mark(replica)

    def _chunk(self, node: int, frame: bytes) -> None:
        chunk = frames.decode_chunk(frame)
        if self._replica(chunk.group) is not None:
            self._snapshots[chunk.group].receiving.receive(node, chunk)

    def _chunk_back(self, node: int, frame: bytes) -> None:
        back = frames.decode_chunk_back(frame)
        if self._replica(back.group) is not None:
            self._snapshots[back.group].sending.acknowledged(node, back)
