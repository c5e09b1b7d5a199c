"""What leaves for one node at the end of a turn: messages of all groups, joined into few frames.

Heartbeats of all groups are one frame, their answers another, votes and acknowledgements a third, appends as few as
``frame_bytes_max`` allows. The first three are urgent: they pass appends and snapshots that wait. Appends keep their
order among themselves, which is all that the core needs.
"""

from __future__ import annotations

from relay.cluster.frames import (
    BULK,
    NOTHING,
    SNAPSHOT,
    URGENT,
    Beat,
    BeatBack,
    Chunk,
    ChunkBack,
    Placed,
    Propose,
    encode_beats,
    encode_beats_back,
    encode_chunk,
    encode_chunk_back,
    encode_placed,
    encode_propose,
    encode_raft,
    encode_said,
    raft_part,
)
from relay.cluster.raft.codec import encode_message
from relay.cluster.raft.types import MSG_APP, MSG_HEARTBEAT, MSG_HEARTBEAT_RESP, Message
from relay.interfaces import IRaftTransport


class Outbound:
    """One node's; ``flush`` empties it."""

    __slots__ = (
        "_appenders", "_appends", "_appends_bytes", "_backs", "_beats", "_urgent", "heard", "linked", "said", "silent",
    )  # fmt: skip

    def __init__(self) -> None:
        self._beats: list[Beat] = []
        self._backs: list[BeatBack] = []
        self._urgent: list[bytes] = []
        self._appends: list[bytes] = []
        self._appends_bytes = 0
        self._appenders: dict[int, None] = {}  # groups with appends in this turn
        # Kept by Outbounds and Groups: the link stands; the tick of the last frame from there; something was sent in
        # this tick; nothing came for an election time-out.
        self.linked = False
        self.heard = 0
        self.said = False
        self.silent = False

    def add(self, group: int, message: Message) -> None:
        """A message of the core."""
        kind = message.type
        if kind == MSG_APP:
            part = raft_part(group, encode_message(message))
            self._appends.append(part)
            self._appends_bytes += len(part)
            self._appenders[group] = None
        elif kind == MSG_HEARTBEAT:
            self._beats.append(Beat(group, message.term, message.commit, message.context, False))
        elif kind == MSG_HEARTBEAT_RESP:
            self._backs.append(BeatBack(group, message.term, message.context))
        else:
            self._urgent.append(raft_part(group, encode_message(message)))

    def add_beat(self, beat: Beat) -> None:
        """A heartbeat that is the group's last."""
        self._beats.append(beat)

    def flush(self, transport: IRaftTransport, node: int, frame_bytes_max: int) -> list[int]:
        """Send everything; the groups whose appends were not taken."""
        lost: list[int] = []
        send = transport.send
        if self._urgent:
            send(node, URGENT, encode_raft(self._urgent))
            self._urgent = []
        if self._beats:
            send(node, URGENT, encode_beats(self._beats))
            self._beats = []
        if self._backs:
            send(node, URGENT, encode_beats_back(self._backs))
            self._backs = []
        if self._appends:
            lost = self._flush_appends(transport, node, frame_bytes_max)
        self.said = True
        return lost

    def live(self, transport: IRaftTransport, node: int) -> None:
        """Say that this node lives, unless something was said since the last call."""
        if not self.said:
            transport.send(node, URGENT, NOTHING)
        self.said = False

    def _flush_appends(self, transport: IRaftTransport, node: int, frame_bytes_max: int) -> list[int]:
        parts, groups = self._appends, self._appenders
        self._appends, self._appenders = [], {}
        size, self._appends_bytes = self._appends_bytes, 0
        if size <= frame_bytes_max:  # fast path
            return [] if transport.send(node, BULK, encode_raft(parts)) else list(groups)
        taken = True
        start = size = 0
        for at, part in enumerate(parts):
            if size and size + len(part) > frame_bytes_max:
                taken = transport.send(node, BULK, encode_raft(parts[start:at])) and taken
                start, size = at, 0
            size += len(part)
        taken = transport.send(node, BULK, encode_raft(parts[start:])) and taken
        return [] if taken else list(groups)


class Outbounds:
    """All nodes that are known; ``flush`` at the end of a turn."""

    __slots__ = ("_frame_bytes_max", "_touched", "_transport", "nodes")

    def __init__(self, transport: IRaftTransport, frame_bytes_max: int) -> None:
        self.nodes: dict[int, Outbound] = {}
        self._transport = transport
        self._frame_bytes_max = frame_bytes_max
        self._touched: dict[int, Outbound] = {}

    def known(self, node: int) -> Outbound:
        """What is known of ``node``, made when it is new."""
        found = self.nodes.get(node)
        if found is None:
            found = self.nodes[node] = Outbound()
        return found

    def linked_to(self, node: int) -> bool:
        """Whether ``node`` can be reached, as far as known."""
        outbound = self.nodes.get(node)
        return outbound is not None and outbound.linked and not outbound.silent

    def send(self, group: int, message: Message) -> None:
        """A message of the core, with this turn's others."""
        self._touch(message.to).add(group, message)

    def send_beat(self, node: int, beat: Beat) -> None:
        """The last heartbeat of a group that becomes quiet."""
        self._touch(node).add_beat(beat)

    def send_propose(self, node: int, frame: Propose) -> bool:
        """Commands for the leader; False: not sent."""
        return self._transport.send(node, BULK, encode_propose(frame))

    def send_placed(self, node: int, frame: Placed) -> None:
        """The answer to them."""
        self._transport.send(node, URGENT, encode_placed(frame))

    def send_chunk(self, node: int, frame: Chunk) -> bool:
        """A part of a snapshot; False: not sent."""
        return self._transport.send(node, SNAPSHOT, encode_chunk(frame))

    def send_chunk_back(self, node: int, frame: ChunkBack) -> None:
        """The answer."""
        self._transport.send(node, URGENT, encode_chunk_back(frame))

    def say(self, data: bytes) -> None:
        """Tell all linked nodes what is of no group."""
        frame = encode_said(data)
        for node, outbound in self.nodes.items():
            if outbound.linked:
                self._transport.send(node, URGENT, frame)

    def flush(self) -> list[tuple[int, int]]:
        """Send everything; the (node, group) whose appends were not taken."""
        if not self._touched:
            return []
        touched, self._touched = self._touched, {}
        lost = []
        for node, outbound in touched.items():
            lost += [(node, group) for group in outbound.flush(self._transport, node, self._frame_bytes_max)]
        return lost

    def live(self, ticks: int, silent_ticks: int) -> list[int]:
        """Once a tick: say to linked nodes that this one lives; those that have become silent."""
        silent = []
        for node, outbound in self.nodes.items():
            if outbound.linked:
                outbound.live(self._transport, node)
                if not outbound.silent and ticks - outbound.heard > silent_ticks:
                    outbound.silent = True
                    silent.append(node)
        return silent

    def _touch(self, node: int) -> Outbound:
        found = self._touched.get(node)
        if found is None:
            found = self._touched[node] = self.known(node)
        return found
