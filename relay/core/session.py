"""A session: an authenticated identity, on a peer or waiting for one to resume it.

Counting for resume (``docs/protocol.md`` section 6). For frames to the client: ``sent`` = how many there were,
``unacked`` = the newest of them, kept until the client reports them; the first in ``unacked`` has the number ``sent -
len(unacked) + 1``. For frames from the client: ``received``. Messages are kept, not bytes, so that a session may be
resumed in another encoding and receivers share one object.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from relay.core.outbox import CONTROL
from relay.dialects.relay_v1 import ENCODERS
from relay.interfaces import IPeer
from relay.wire import binary, kinds, text
from relay.wire.message import Message, Sender, counted

if TYPE_CHECKING:
    from relay.core.channels import Subscription
    from relay.core.hub import Hub
    from relay.core.identity import Identity
    from relay.core.pending import Pending
    from relay.core.procedures import Registration
    from relay.core.realm import Realm
    from relay.core.wheel import Timed

KEPT_OVERHEAD = 128
"""Bytes that a kept message is taken to cost beside its body and fields."""
KEPT_ENTRY = 160
"""Bytes that an entry of a map (metadata, tags) is taken to cost beside key and value: two texts and their place."""


def kept_bytes(message: Message) -> int:
    """What keeping ``message`` is taken to cost; a small frame may hold thousands of entries of metadata."""
    size = KEPT_OVERHEAD + len(message.body)
    if message.fields is not None:
        for value in message.fields.values():
            if isinstance(value, dict):
                size += KEPT_ENTRY * len(value) + sum(map(len, value)) + sum(map(len, value.values()))
            elif isinstance(value, str | bytes):
                size += len(value)
    return size


class Session:
    """``peer`` is None while detached. ``unacked`` is None when the session cannot be resumed.

    ``calls``: pulls of this session, by its own seq; ``pending``: pulls that it must answer, by ours.
    """

    __slots__ = (
        "__weakref__", "calls", "device", "ended", "expiry", "filters", "handed", "hub", "id", "identity", "next_seq",
        "peer", "pending", "realm", "received", "received_bytes", "registered_patterns", "registrations", "secret_hash",
        "sender", "sent", "started_at", "subscribed_patterns", "subscriptions", "unacked", "unacked_bytes", "window",
    )  # fmt: skip

    def __init__(self, hub: Hub, id_: str, identity: Identity, realm: Realm, device: str, started_at: float) -> None:
        self.hub = hub
        self.id = id_
        self.realm = realm
        self.device = device
        self.identity = identity
        self.sender = _sender(realm.name, identity.user, id_, device)
        self.started_at = started_at
        self.peer: IPeer | None = None
        self.secret_hash = b""
        self.filters: frozenset[int] = frozenset()
        """Transfer filters that the client undoes itself."""
        self.sent = 0
        self.unacked: deque[Message] | None = None
        self.unacked_bytes = 0
        self.received = 0
        self.received_bytes = 0
        self.handed = 0
        """Of the frames sent, how many may have left before the connection was lost."""
        self.next_seq = 0
        self.subscriptions: dict[str, Subscription] = {}
        self.registrations: dict[str, Registration] = {}
        self.subscribed_patterns = 0
        """How many of ``subscriptions`` are patterns; likewise ``registered_patterns``."""
        self.registered_patterns = 0
        self.calls: dict[int, Pending] = {}
        self.pending: dict[int, Pending] = {}
        self.expiry: Timed | None = None
        self.window: Timed | None = None
        self.ended = False

    @property
    def user(self) -> str:
        """The user it speaks for; '' while unbound."""
        return self.identity.user

    def bind(self, identity: Identity) -> None:
        """Speak for somebody else from now on; who looks sessions up by user is the caller's business."""
        self.identity = identity
        self.sender = _sender(self.realm.name, identity.user, self.id, self.device)

    # --- to the client --------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send one session frame to this session alone; kept when it can be resumed."""
        if self.ended:
            return
        if self.unacked is not None:
            self.keep(message)
        self.sent += 1
        metrics = self.hub.metrics
        metrics.frames_out[message.kind] += 1
        peer = self.peer
        if peer is not None:
            if message.flags & peer.apart:
                message = counted(message, peer.apart)
            frame = ENCODERS[peer.encoding](message)
            metrics.bytes_out[message.kind] += len(frame)
            peer.send(frame)

    def control(self, message: Message) -> None:
        """Send a frame about the connection: neither counted nor kept."""
        peer = self.peer
        if peer is not None:
            self.hub.metrics.frames_out[message.kind] += 1
            peer.send(ENCODERS[peer.encoding](message), None, CONTROL)

    def keep(self, message: Message) -> None:
        """Remember a frame that is being sent, within ``resume_bytes_max``: the oldest are let go first."""
        unacked = self.unacked
        assert unacked is not None
        unacked.append(message)
        self.unacked_bytes += kept_bytes(message)
        while self.unacked_bytes > self.hub.config.timing.resume_bytes_max:
            self.unacked_bytes -= kept_bytes(unacked.popleft())

    def acknowledge(self, received: int) -> bool:
        """The client has ``received`` session frames; False when it claims more than were sent."""
        if received > self.sent:
            return False
        unacked = self.unacked
        if unacked:
            for _ in range(received - (self.sent - len(unacked))):
                self.unacked_bytes -= kept_bytes(unacked.popleft())
        return True

    def can_resume(self, received: int) -> bool:
        """Whether all that the client lacks is still kept."""
        return self.unacked is not None and self.sent - len(self.unacked) <= received <= self.sent

    def resend(self) -> None:
        """Send what is kept to a peer that has just resumed."""
        peer = self.peer
        assert peer is not None and self.unacked is not None
        encode = ENCODERS[peer.encoding]
        for message in self.unacked:
            # It counts, while one with such a flag would not: it came while the session was elsewhere, or nowhere.
            peer.send(encode(counted(message, peer.apart)))

    def withdraw(self, index: int, seq: int) -> None:
        """Frame number ``index``, a pull that was kept but never sent, was failed as not done: it must not be carried
        out after a resume."""
        if self.unacked is not None:
            place = index - 1 - (self.sent - len(self.unacked))
            if place >= 0:
                message = self.unacked[place]
                assert message.kind == kinds.PULL and message.seq == seq
                self.unacked_bytes -= kept_bytes(message) - KEPT_OVERHEAD
                self.unacked[place] = Message(kinds.CANCEL, seq=seq)

    def skip_frame(self, encoding: int, count: int) -> bytes:
        """The frame that tells a peer of ``encoding`` of ``count`` frames left out; it may be the session's no more."""
        self.hub.metrics.drops += count
        return ENCODERS[encoding](Message(kinds.PONG, fields={kinds.SKIPPED: count}))

    def new_seq(self) -> int:
        """A number for a request to the client: 1 … 2^32-1, not one that is under way."""
        seq = self.next_seq
        while True:
            seq = seq % 0xFFFF_FFFF + 1
            if seq not in self.pending:
                self.next_seq = seq
                return seq

    # --- from the client ------------------------------------------------------------------------------------------

    def count_bytes(self, size: int) -> None:
        """One session frame came, with a body of ``size`` bytes; its count is reported when enough bytes have."""
        self.received_bytes += size + KEPT_OVERHEAD
        if self.received_bytes >= self.hub.config.timing.resume_ack_bytes:
            self.report()

    def report(self, kind: int = kinds.PONG, seq: int = 0) -> None:
        """Tell the client how many of its frames have arrived."""
        self.received_bytes = 0
        self.control(Message(kind, seq=seq, fields={kinds.RECEIVED: self.received}))

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.identity.user!r} {'' if self.peer else 'detached '}in {self.realm.name}>"


def _sender(realm: str, user: str, session: str, device: str) -> Sender:
    bare = Sender(realm, user, session, device)
    return Sender(realm, user, session, device, binary.stamp(bare), text.stamp_json(bare))
