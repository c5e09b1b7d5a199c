"""Queues as sessions and parts of this node use them: put, consume, acknowledge, look after.

    push ──────▶ QueuePuts ─────┐
    consume … ─▶ QueueSessions ─┼─▶ QueueDesk ─▶ Queue, its window and consumers ─▶ store
    queue ─────▶ QueueAdmin ────┘

Names: a session calls its user's inbox ``$inbox``, which is stored as ``$inbox.`` and the user; other names that begin
with ``$`` are those of parts of this node. While the queues are read at the start, requests wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from relay import errors
from relay.core.behind import QUEUE, Behind
from relay.core.consumers import Delivery, LocalConsumer
from relay.core.queue_admin import QueueAdmin
from relay.core.queue_puts import QueuePuts, inbox_of
from relay.core.queue_sessions import QueueSessions
from relay.core.queue_store import QueueDesk
from relay.records import Put, QueueState
from relay.wire import kinds
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.session import Session
    from relay.interfaces import IQueueStore

log = Logger()

OPEN_AGAIN_S: Final = 1.0
"""Wait before the store is asked again what it holds."""


class Queues:
    """One per node; ``open`` gives it its store."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.desk = QueueDesk(hub)
        self.puts = QueuePuts(hub, self.desk)
        self.admin = QueueAdmin(hub, self.desk)
        self.sessions = QueueSessions(hub, self.desk)
        self._early: deque[tuple[Session, Message]] | None = None
        self._early_bytes = 0
        self._behind: Behind | None = None
        self.table: dict[int, Callable[[Session, Message], None]] = {
            kinds.CONSUME: self.sessions.consume,
            kinds.UNCONSUME: self.sessions.unconsume,
            kinds.CREDIT: self.sessions.credit,
            kinds.ACK: self.sessions.settle,
            kinds.NACK: self.sessions.settle,
            kinds.QUEUE_KIND: self._manage,
        }

    def begin_order(self, behind: Behind) -> None:
        """``behind`` is told of what is on its way to the store."""
        self._behind = self.puts.behind = behind

    # --- life -----------------------------------------------------------------------------------------------------

    def open(self, store: IQueueStore, opened: Callable[[], None] | None = None) -> None:
        """Read which queues the store holds; requests wait until then. ``opened`` is called when it is done."""
        if self._early is None:
            self._early = deque()

        def read_all(states: Sequence[QueueState] | errors.RelayError) -> None:
            if isinstance(states, errors.RelayError):
                log.error("the queues cannot be read: {error}", error=str(states))
                self._hub.wheel.after(OPEN_AGAIN_S, lambda: self.open(store, opened))
                return
            self.desk.open(store, states)
            early, self._early, self._early_bytes = self._early, None, 0
            for session, message in early or ():
                self._take_up(session, message)
            if opened is not None:
                opened()

        store.states(read_all)

    def _take_up(self, session: Session, message: Message) -> None:
        """A request that had to wait for the start."""
        if session.ended:
            return
        try:
            if message.kind == kinds.PUSH:
                self.push(session, message)
            else:
                self.table[message.kind](session, message)
        except errors.RelayError as error:
            self._hub.refuse(session, message, error)
        finally:
            if message.kind == kinds.PUSH and self._behind is not None:
                self._behind.end(session)

    def handle(self, session: Session, message: Message) -> None:
        """A frame of one of the kinds in ``table``."""
        if self._early is None:
            self.table[message.kind](session, message)
        else:
            self._later(session, message)

    def _later(self, session: Session, message: Message) -> None:
        early = self._early
        assert early is not None
        limits = self._hub.config.queue_limits
        size = len(message.body)
        if len(early) >= limits.early_max or self._early_bytes + size > limits.pending_bytes_max:
            raise errors.Unavailable("the queues are still being read")
        self._early_bytes += size
        early.append((session, message))

    def push(self, session: Session, message: Message) -> bool:
        """Store a push that belongs in a queue; False when it does not."""
        name = self.puts.wanted(session, message)
        if name is None:
            return False
        if self._early is not None:
            self._later(session, message)
            if self._behind is not None:
                self._behind.begin(session, QUEUE)
        else:
            self.puts.put(session, message, name)
        return True

    # --- parts of this node ---------------------------------------------------------------------------------------

    def put(
        self, realm: str, name: str, message: Message, done: Callable[[Put], None] | None = None, key: str = ""
    ) -> None:
        """Put ``message`` into the queue ``name``, for instance one of a part of this node, whose name begins with
        ``$``. ``key``: for idempotency. ``done(put)`` hears of ``number`` or ``error``. Raises as ``QueuePuts.store``.
        """
        self.puts.store(realm, name, message, message.sender, key, done or (lambda put: None))

    def put_for(
        self, realm: str, user: str, message: Message, done: Callable[[Put], None] | None = None, key: str = ""
    ) -> None:
        """Put ``message`` into a user's inbox; as ``put``."""
        self.put(realm, inbox_of(user), message, done, key)

    def consume(
        self, realm: str, name: str, take: Callable[[Delivery], None], credits: int, lease_s: float | None = None
    ) -> LocalConsumer:
        """Take messages from the queue ``name``: ``take(delivery)`` for each, at most ``credits`` unsettled at a time.
        ``lease_s`` None: the queue's. Raises ``LimitExceeded``, ``Unsupported``."""
        queue = self.desk.get(realm, name)
        consumer = LocalConsumer(queue, take, credits, queue.rule.lease_s if lease_s is None else lease_s)
        queue.join(consumer)
        queue.run()
        return consumer

    def _manage(self, session: Session, message: Message) -> None:
        self.admin.carry_out(session, message, self.sessions.stored_name(session, message.name, "manage"))
