"""What every part of the core shares: configuration, clock, counters, sessions and realms, and the one way out.

    accepted ─▶ (a part of the router) ─▶ deliver(message, receivers) ─▶ session ─▶ peer
                                     └─▶ answer / refuse ─▶ the session that asked

Everything that leaves goes through ``deliver`` (many receivers) or ``Session.send`` (one): encoded once per encoding,
the same bytes for every receiver of that encoding. ``on_accepted``, ``on_delivered``, ``on_refused`` (tracing, audit)
and ``on_occurrence`` (webhooks) are None or a callable; there are no other seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.interfaces import IReactorTime

from relay import errors
from relay.config import ChannelRule, Config
from relay.core.metrics import Metrics
from relay.core.outbox import DROPPABLE, POLICIES, Flusher
from relay.core.wheel import Wheel
from relay.dialects.relay_v1 import ENCODERS
from relay.interfaces import IDirectory, ILocalProvider
from relay.wire import kinds, names
from relay.wire.binary import encode_stream
from relay.wire.filters import unwrap
from relay.wire.message import Fields, Message, latest_key

if TYPE_CHECKING:
    from relay.core.occurrences import Occurrence
    from relay.core.realm import Realm
    from relay.core.session import Session
    from relay.hooks import Hooks

NAMES_KNOWN_MAX: Final = 10_000
"""Names whose grammar and rule are remembered; the memory is emptied when it is full."""

FORWARDED: Final = frozenset(
    (
        kinds.CHANNEL, kinds.ROLE, kinds.TTL_MS, kinds.DEADLINE_MS, kinds.ORDERING_KEY, kinds.CONFLATION_KEY,
        kinds.PRIORITY, kinds.TRACEPARENT, kinds.TRACESTATE, kinds.METADATA, kinds.FILTERS, kinds.TAGS,
    )
)  # fmt: skip
FORWARDED_IN_REPLIES: Final = FORWARDED | {kinds.ERROR_CODE, kinds.TEMPORARY, kinds.OUTCOME}
APART: Final = kinds.UNRELIABLE | kinds.INDEPENDENT
"""A transport may carry messages with these apart from the session's frames (``IPeer.apart``)."""
FORWARDED_FLAGS: Final = kinds.UNORDERED | kinds.UNRELIABLE | kinds.LATEST | kinds.INDEPENDENT

NO_RULE: Final = ChannelRule(pattern="**")


class Hub:
    """One per node. ``wall`` gives Unix time in seconds; ``clock`` monotonic time and timers."""

    def __init__(
        self,
        config: Config,
        clock: IReactorTime,
        flusher: Flusher,
        directory: IDirectory,
        hooks: Hooks,
        wall: Callable[[], float],
    ) -> None:
        self.config = config
        self.clock = clock
        self.wheel = Wheel(clock)
        self.flusher = flusher
        self.directory = directory
        self.hooks = hooks
        self.wall = wall
        self.metrics = Metrics()
        self.realms: dict[str, Realm] = {}
        self.sessions: dict[str, Session] = {}
        self.local: dict[str, ILocalProvider] = {}
        """Procedures that are code in this node, in every realm."""
        self.doors: dict[str, Callable[[Session, str], None]] = {}
        """By the first segment of names that begin with $: who may call those procedures; raises ``Denied``."""
        self.local_unknown: ILocalProvider | None = None
        self.on_accepted: Callable[[Session, Message], None] | None = None
        self.on_delivered: Callable[[Message, int], None] | None = None
        self.on_refused: Callable[[Session, Message, errors.RelayError], None] | None = None
        self.on_occurrence: Callable[[Occurrence], None] | None = None
        self.close_session: Callable[[Session, int, str], None] | None = None
        """Ends a session with a close reason; the life of sessions puts it here."""
        self._rules: dict[str, ChannelRule] = {}

    def reconfigure(self, config: Config) -> None:
        """Use other limits and rules from now on."""
        self.config = config
        self._rules.clear()

    # --- names ----------------------------------------------------------------------------------------------------

    def rule(self, name: str) -> ChannelRule:
        """The rule of the channel ``name``. Raises ``BadName`` when that is no name."""
        rule = self._rules.get(name)
        if rule is None:
            names.check_name(name)
            if name.startswith("$"):
                raise errors.Denied("names that begin with $ are the server's own")
            rule = next((each for each in self.config.channels if names.matches(each.pattern, name)), NO_RULE)
            if len(self._rules) >= NAMES_KNOWN_MAX:
                self._rules.clear()
            self._rules[name] = rule
        return rule

    def forwarded(self, fields: Fields | None, which: frozenset[int] = FORWARDED) -> Fields | None:
        """What of a client's fields goes on to the receiver. Raises ``BadBody`` for metadata it may not send."""
        # Fast path: nothing of it goes on; mostly the target of a push alone.
        if fields is None or which.isdisjoint(fields):
            return None
        metadata = fields.get(kinds.METADATA)
        if metadata is not None and any(key.startswith("relay.") for key in metadata):
            raise errors.BadBody("metadata keys that begin with relay. are the server's own")
        kept = {number: value for number, value in fields.items() if number in which}
        if sum(map(_field_bytes, kept.values())) > self.config.limits.metadata_bytes_max:
            raise errors.LimitExceeded(f"metadata and fields are over {self.config.limits.metadata_bytes_max} bytes")
        return kept or None

    # --- out ------------------------------------------------------------------------------------------------------

    def deliver(
        self,
        message: Message,
        receivers: Iterable[Session],
        skip: Session | None = None,
        policy: str | None = None,
    ) -> int:
        """Send ``message`` to each of ``receivers`` but ``skip``; returns how many sessions it reached.

        ``policy``: what may happen to it when a receiver is slow, instead of the listener's policy. A link calls this
        too, for what came from another node.
        """
        loosely = 0
        if message.flags & APART and not message.seq:
            loosely, receivers = self._loosely(message, receivers, skip)
        frames: dict[int, bytes] = {}
        key = None
        if message.fields is not None:
            key = message.fields.get(kinds.CONFLATION_KEY)
            if kinds.FILTERS in message.fields:
                receivers, others = self._by_filters(message, receivers)
                if others:
                    plain = self.plain(message)  # or nobody gets it
                    reached = self.deliver(message, receivers, skip, policy) if receivers else 0
                    return loosely + reached + self.deliver(plain, others, skip, policy)
        flags = DROPPABLE if policy is None else DROPPABLE | POLICIES[policy]
        reached = 0
        bytes_out = 0
        # Neighbours mostly share an encoding: the dict is asked only where it changes.
        encoding, frame, size = -1, b"", 0
        for session in receivers:
            if session is skip:
                continue
            if session.unacked is not None:
                session.keep(message)
            session.sent += 1
            peer = session.peer
            if peer is not None:
                if peer.encoding != encoding:
                    encoding = peer.encoding
                    if encoding not in frames:
                        frames[encoding] = ENCODERS[encoding](message)
                    frame = frames[encoding]
                    size = len(frame)
                peer.send(frame, key, flags)
                bytes_out += size
                reached += 1
            elif session.unacked is not None:
                reached += 1
        metrics = self.metrics
        metrics.delivered += reached
        metrics.frames_out[message.kind] += reached
        metrics.bytes_out[message.kind] += bytes_out
        if self.on_delivered is not None:
            self.on_delivered(message, reached + loosely)
        return reached + loosely

    def _loosely(
        self, message: Message, receivers: Iterable[Session], skip: Session | None
    ) -> tuple[int, list[Session]]:
        """Send it to those of ``receivers`` whose transport carries it apart; how many, and who is left.

        Such transports speak the binary form alone.
        """
        left = []
        lossy = []
        for session in receivers:
            if session.peer is None or not message.flags & session.peer.apart:
                left.append(session)
            elif session is not skip:
                lossy.append(session)
        able, unable = self._by_filters(message, lossy) if message.get(kinds.FILTERS) else (lossy, [])
        plain = self.plain(message) if unable else message  # before anybody gets anything: it may be refused
        metrics = self.metrics
        key = latest_key(message)
        for version, sessions in ((message, able), (plain, unable)):
            frame = encode_stream(version) if sessions else b""
            for session in sessions:
                assert session.peer is not None and session.peer.loose is not None
                session.peer.loose(frame, key)
            metrics.bytes_out[message.kind] += len(frame) * len(sessions)
        metrics.delivered += len(lossy)
        metrics.frames_out[message.kind] += len(lossy)
        return len(lossy), left

    def _by_filters(self, message: Message, receivers: Iterable[Session]) -> tuple[list[Session], list[Session]]:
        """Who can undo the filters on ``message`` itself, and who cannot."""
        wrapped = set(message.get(kinds.FILTERS))
        able: list[Session] = []
        unable: list[Session] = []
        for session in receivers:
            (able if wrapped <= session.filters else unable).append(session)
        return able, unable

    def plain(self, message: Message) -> Message:
        """``message`` with its transfer filters undone. Raises ``FilterError``."""
        assert message.fields is not None
        fields = dict(message.fields)
        limits = self.config.limits
        body = unwrap(message.body, fields.pop(kinds.FILTERS), limits.inflate_ratio_max, limits.frame_bytes_max)
        return msgspec.structs.replace(message, body=body, fields=fields or None)

    def fit(self, message: Message, session: Session) -> Message:
        """``message`` as ``session`` can read it: unwrapped when it did not negotiate the filters."""
        if message.fields is None or kinds.FILTERS not in message.fields:
            return message
        return message if session.filters.issuperset(message.fields[kinds.FILTERS]) else self.plain(message)

    def for_handler(self, message: Message) -> Message:
        """``message`` as a handler in this node gets it: unwrapped. Raises ``FilterError`` and as ``forwarded``."""
        if message.fields is None:
            return message
        self.forwarded(message.fields)
        return self.plain(message) if kinds.FILTERS in message.fields else message

    def answer(self, session: Session, seq: int, fields: Fields | None = None) -> None:
        """The reply to a request; none when it has no ``seq``."""
        if seq:
            session.send(Message(kinds.REPLY, seq=seq, fields=fields))

    def refuse(self, session: Session, message: Message, error: errors.RelayError) -> None:
        """The error reply to a request, also to one without ``seq``: denied is never silence."""
        self.metrics.errors[error.label] += 1
        if self.on_refused is not None:
            self.on_refused(session, message, error)
        session.send(error_message(error, message.seq, message.name if not message.seq else ""))


def error_message(error: errors.RelayError, seq: int, name: str = "") -> Message:
    """``error`` as a frame."""
    fields: Fields = {kinds.ERROR_CODE: errors.number_of(error)}
    if error.temporary:
        fields[kinds.TEMPORARY] = True
    fields[kinds.OUTCOME] = error.outcome
    if isinstance(error, errors.ApplicationError) and error.data is not None:
        from relay.wire.bodies import encode_body

        body = encode_body({"message": str(error), "data": error.data}, kinds.JSON)
        return Message(kinds.ERROR, name, body, kinds.JSON, 0, seq, fields)
    return Message(kinds.ERROR, name, str(error).encode(), kinds.TEXT, 0, seq, fields)


def _field_bytes(value: object) -> int:
    """About what a field takes on the wire, never less: with the server's own fields it must fit into a frame's."""
    if isinstance(value, str):
        return len(value.encode()) + 3
    if isinstance(value, dict):
        return sum(len(key.encode()) + len(each.encode()) + 3 for key, each in value.items()) + 3
    return 11
