"""Sessions as consumers of queues: consume, credit, ack and nack, and what their life means for what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from relay import errors
from relay.core.consumers import SessionConsumer
from relay.core.queue_puts import inbox_of
from relay.core.queue_store import INBOX
from relay.wire import kinds, names
from relay.wire.handshake import read, write
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.permissions import Action
    from relay.core.queue_store import QueueDesk
    from relay.core.session import Session

CREDITS_DEFAULT: Final = 1
"""Of a consumer that does not say: one message after the other."""


class Settlement(msgspec.Struct, frozen=True):
    """Body of ack and nack. ``offsets`` beside the field ``offset``; the rest is nack's. ``delay_ms`` None: the
    queue's back-off; ``dead``: never again; ``released``: it was not looked at, so this delivery does not count."""

    offsets: tuple[int, ...] = ()
    delay_ms: int | None = None
    dead: bool = False
    released: bool = False
    reason: str = ""


_NONE: Final[dict[str, SessionConsumer]] = {}


class QueueSessions:
    """One per node: the queues that each session consumes."""

    def __init__(self, hub: Hub, desk: QueueDesk) -> None:
        self._hub = hub
        self._desk = desk
        self._sessions: dict[Session, dict[str, SessionConsumer]] = {}
        """By the name that the session has for the queue."""

    # --- the life of sessions -------------------------------------------------------------------------------------

    def resumed(self, session: Session) -> None:
        """Its leases begin anew."""
        for consumer in list(self._sessions.get(session, {}).values()):
            consumer.queue.renew(consumer)

    def ended(self, session: Session) -> None:
        """What it held goes back."""
        for consumer in self._sessions.pop(session, {}).values():
            consumer.queue.leave(consumer, "its consumer has left")

    def rebound(self, session: Session) -> None:
        """It speaks for another user: the inbox was the other's."""
        consumer = self._sessions.get(session, {}).get(INBOX)
        if consumer is not None:
            self._drop(session, consumer)
            consumer.queue.leave(consumer, "its consumer is bound to another user")

    # --- frames ---------------------------------------------------------------------------------------------------

    def stored_name(self, session: Session, name: str, action: Action) -> str:
        """The stored name of what a session calls ``name``, if it may."""
        if name == INBOX:
            if not session.user:
                raise errors.Denied("only a session that is bound to a user has an inbox")
            return inbox_of(session.user)
        names.check_name(name)
        if name.startswith("$"):
            raise errors.Denied("names that begin with $ are the server's own")
        if not session.identity.permissions.allows(action, name):
            raise errors.Denied(f"{action} {name}")
        return name

    def _consumer(self, session: Session, name: str) -> SessionConsumer:
        consumer = self._sessions.get(session, _NONE).get(name)
        if consumer is None:
            raise errors.NotFound(f"queue {name} is not consumed by this session")
        return consumer

    def consume(self, session: Session, message: Message) -> None:
        """Take messages from a queue; again: with other credits and lease."""
        name = message.name
        queue = self._desk.get(session.realm.name, self.stored_name(session, name, "consume"))
        limits = self._hub.config.queue_limits
        rule = queue.rule
        credits = min(message.get(kinds.CREDITS, CREDITS_DEFAULT), limits.credits_max)
        lease_ms = message.get(kinds.LEASE_MS)
        lease_s = rule.lease_s if not lease_ms else min(lease_ms / 1000, rule.lease_s_max)
        consumers = self._sessions.setdefault(session, {})
        consumer = consumers.get(name)
        if consumer is not None and consumer.queue is not queue:
            consumer = None  # it had stopped, and its queue was empty and forgotten meanwhile
        try:
            if name not in consumers and len(consumers) >= limits.consumers_max:
                raise errors.LimitExceeded(f"{limits.consumers_max} queues consumed are the limit")
            if (consumer is None or consumer.stopped) and len(queue.consumers or ()) >= rule.consumers_max:
                raise errors.LimitExceeded(f"{rule.consumers_max} consumers of a queue are the limit")
        except errors.LimitExceeded:
            if not consumers:
                del self._sessions[session]
            queue.run()
            raise
        if consumer is None:
            consumer = consumers[name] = SessionConsumer(queue, session, name, credits, lease_s)
        else:
            consumer.forgive()
            consumer.credits, consumer.lease_s, consumer.stopped = credits, lease_s, False
        self._hub.answer(session, message.seq, {kinds.CREDITS: credits, kinds.LEASE_MS: int(lease_s * 1000)})
        queue.join(consumer)
        queue.run()

    def unconsume(self, session: Session, message: Message) -> None:
        """Take no more."""
        consumer = self._consumer(session, message.name)
        if consumer.stopped:
            raise errors.NotFound(f"queue {message.name} is not consumed by this session")
        self._hub.answer(session, message.seq)
        consumer.queue.stop(consumer)
        if not consumer.held:
            self._drop(session, consumer)

    def _drop(self, session: Session, consumer: SessionConsumer) -> None:
        consumers = self._sessions[session]
        del consumers[consumer.name]
        if not consumers:
            del self._sessions[session]

    def credit(self, session: Session, message: Message) -> None:
        """Hold more."""
        consumer = self._consumer(session, message.name)
        more = message.get(kinds.CREDITS, 0)
        consumer.credits = min(consumer.credits + more, self._hub.config.queue_limits.credits_max)
        self._hub.answer(session, message.seq, {kinds.CREDITS: consumer.credits})
        if not consumer.stopped:
            consumer.queue.join(consumer)
            consumer.queue.run()

    def settle(self, session: Session, message: Message) -> None:
        """An ack or nack."""
        consumer = self._consumer(session, message.name)
        queue = consumer.queue
        offset = message.get(kinds.OFFSET)
        # Fast path: one message, acknowledged without a wish for an answer or anything else.
        if offset is not None and message.kind == kinds.ACK and not message.body and not message.seq:
            queue.ack(consumer, offset, None)
        else:
            self._settle_all(session, message, consumer)
        queue.run()
        if consumer.stopped and not consumer.held:
            self._drop(session, consumer)

    def _settle_all(self, session: Session, message: Message, consumer: SessionConsumer) -> None:
        wanted = read(message, Settlement)
        queue = consumer.queue
        offset = message.get(kinds.OFFSET)
        offsets = dict.fromkeys(wanted.offsets if offset is None else (offset, *wanted.offsets))
        if not offsets:
            raise errors.BadBody("the offset of a message, or offsets in the body, expected")
        if len(offsets) > self._hub.config.queue_limits.offsets_max:
            raise errors.LimitExceeded(f"{self._hub.config.queue_limits.offsets_max} offsets are the limit")
        delay_s = None if wanted.delay_ms is None else wanted.delay_ms / 1000
        if delay_s is not None and not 0 <= delay_s <= queue.rule.delay_s_max:
            raise errors.BadBody(f"delay_ms: 0 to {int(queue.rule.delay_s_max * 1000)} expected")
        answer = _Answer(self._hub, session, message, len(offsets))
        for number in offsets:
            try:
                if message.kind == kinds.ACK:
                    queue.ack(consumer, number, answer.settled)
                elif wanted.released:
                    queue.release(consumer, number, answer.settled)
                else:
                    queue.nack(consumer, number, delay_s, wanted.dead, wanted.reason or "refused", answer.settled)
            except errors.NotFound as error:
                answer.missing.append(number)
                answer.settled(error)


class _Answer:
    """The answer to an ack or nack, once the store has all of it."""

    __slots__ = ("_error", "_hub", "_left", "_message", "_session", "_size", "missing")

    def __init__(self, hub: Hub, session: Session, message: Message, size: int) -> None:
        self._hub = hub
        self._session = session
        self._message = message
        self._size = size
        self._left = size
        self._error: errors.RelayError | None = None
        self.missing: list[int] = []

    def settled(self, error: errors.RelayError | None) -> None:
        """One of them: it is in the store, or why not."""
        if error is not None and (self._error is None or isinstance(self._error, errors.NotFound)):
            self._error = error
        self._left -= 1
        if self._left:
            return
        only_missing = isinstance(self._error, errors.NotFound)
        if self._error is not None and not (only_missing and self._size > 1):
            self._hub.refuse(self._session, self._message, self._error)
        elif self._message.seq:
            body = {"missing": self.missing} if self.missing else None
            if body is None:
                self._hub.answer(self._session, self._message.seq)
            else:
                self._session.send(write(kinds.REPLY, body, self._message.seq))
