"""What leaves for one node at the end of a turn: messages of all groups, joined into few frames.

Heartbeats of all groups are one frame, their answers another, votes and acknowledgements a third, appends as few as
``frame_bytes_max`` allows. The first three are urgent: they pass appends and snapshots that wait. Appends keep their
order among themselves, which is all that the core needs.
"""

from __future__ import annotations

from relay.cluster.frames import (
    BULK,
    NOTHING,
    URGENT,
    Beat,
    BeatBack,
    encode_beats,
    encode_beats_back,
    encode_raft,
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
        # Kept by Groups: the link stands; the tick of the last frame from there; something was sent in this tick;
        # nothing came for an election time-out.
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
