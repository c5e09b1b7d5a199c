"""What the queues of a node share: the store, and what is on its way to it.

    put, settle ──▶ the lists of this turn ──end of the turn──▶ one batch each ──▶ store ──▶ done, once per batch

One batch a turn, however many messages came in it; the store commits what came while it was committing in one go. Both
ways are bounded: puts over ``pending_max`` are refused, and with as many settlements under way nothing is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from relay import errors
from relay.config_queues import QueueRule
from relay.core.queue import Queue
from relay.core.queue_letters import DeadLetters
from relay.core.queue_recount import PERIOD_S, Recount
from relay.core.queue_window import OVERHEAD_BYTES, Memory
from relay.core.seldom import Seldom
from relay.records import RETRY, Put, QueueState, Settle
from relay.wire import names

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.queue_reading import QueueReading
    from relay.core.wheel import Call
    from relay.interfaces import IQueueStore

log = Logger()

INBOX: Final = "$inbox"
"""A user's own queue, as the user and the rules call it."""
WEBHOOKS: Final = "$webhook."
"""Begins the names of queues that webhooks keep by themselves: what is known of them here would not stay true."""

NO_RULE: Final = QueueRule(pattern="**")

SETTLE_AGAIN_S: Final = 1.0
"""Wait before a settlement that the store could not take for now is tried again."""
LOOK_S: Final = 0.1
"""How often queues that wait for memory look whether there is some."""

Stored = Callable[[Put], None]


class QueueDesk:
    """One per node. ``queues`` by realm and name; ``store`` is None until ``open``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.wheel = hub.wheel
        self.metrics = hub.metrics
        self.queues: dict[tuple[str, str], Queue] = {}
        self.letters = DeadLetters(hub)
        self._store: IQueueStore | None = None
        self._puts: list[Put] = []
        self._settles: list[Settle] = []
        self._scheduled = False
        self.putting = 0
        self.putting_bytes = 0
        self.settling = 0
        self._stalled: dict[QueueReading, None] = {}
        self.memory = Memory()
        self._crowd: dict[QueueReading, None] = {}
        self._looking: Call | None = None
        self._recounts: dict[Queue, Recount] = {}
        self._seldom = Seldom(hub.clock)

    @property
    def store(self) -> IQueueStore:
        """The store. Raises ``Unsupported`` on a node that has none."""
        if self._store is None:
            raise errors.Unsupported("this node keeps no queues")
        return self._store

    @property
    def is_open(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    def open(self, store: IQueueStore, states: Sequence[QueueState]) -> None:
        """Begin with what the store holds."""
        self._store = store
        for state in states:
            if state.queue.startswith(WEBHOOKS):
                continue
            queue = Queue(self, state.realm, state.queue, self.rule(state.queue))
            queue.waiting = state.waiting
            queue.dead = state.dead
            queue.bytes = state.bytes
            queue.paused = state.paused
            self.queues[state.realm, state.queue] = queue

    def now_ms(self) -> int:
        """Unix time in ms."""
        return int(self._hub.wall() * 1000)

    # --- queues ---------------------------------------------------------------------------------------------------

    def rule(self, name: str) -> QueueRule:
        """The rule of a queue, by its stored name."""
        return rule_of(self._hub.config.queues, name)

    def reconfigure(self) -> None:
        """The rules have changed."""
        for queue in self.queues.values():
            queue.rule = self.rule(queue.name)

    def find(self, realm: str, name: str) -> Queue | None:
        """The queue of that stored name, if it holds anything or is consumed."""
        return self.queues.get((realm, name))

    def get(self, realm: str, name: str) -> Queue:
        """The queue of that stored name, also a new one. Raises ``LimitExceeded``, ``Unsupported``."""
        queue = self.queues.get((realm, name))
        if queue is None:
            _ = self.store
            if len(self.queues) >= self._hub.config.queue_limits.queues_max:
                raise errors.LimitExceeded("the node has as many queues as it may", temporary=True)
            queue = self.queues[realm, name] = Queue(self, realm, name, self.rule(name))
        return queue

    def forget(self, queue: Queue) -> None:
        """It holds nothing and nobody is interested."""
        if self.queues.get((queue.realm, queue.name)) is queue:
            del self.queues[queue.realm, queue.name]

    # --- to the store ---------------------------------------------------------------------------------------------

    def put(self, queue: Queue, put: Put, done: Stored) -> None:
        """Store a message at the end of this turn. Raises ``Full``."""
        size = len(put.frame) + OVERHEAD_BYTES
        limits = self._hub.config.queue_limits
        if self.putting >= limits.pending_max or self.putting_bytes + size > limits.pending_bytes_max:
            queue.run()
            raise errors.Full("too many messages are on their way to the store")
        try:
            queue.check_room(size)
        except errors.Full:
            self._recount(queue)
            queue.run()
            raise
        queue.putting += 1
        queue.putting_bytes += size
        self.putting += 1
        self.putting_bytes += size
        put.context = (queue, done)
        self._puts.append(put)
        if not self._scheduled:
            self._schedule()

    def _recount(self, queue: Queue) -> None:
        """It seems to be full; perhaps what has expired is counted still."""
        if queue in self._recounts:
            return

        def done() -> None:
            self.wheel.after(PERIOD_S, lambda: self._recounts.pop(queue, None))

        recount = Recount(queue, self.store, lambda step: self._hub.clock.callLater(0, step), done)
        self._recounts[queue] = recount
        recount.step()

    def settle(self, settle: Settle) -> None:
        """Tell the store at the end of this turn. The context is the entry, and who hears of it."""
        self.settling += 1
        self._settles.append(settle)
        if not self._scheduled:
            self._schedule()

    def busy(self, queue: QueueReading) -> bool:
        """Whether too many settlements are under way to deliver more; ``queue`` runs again when there are fewer."""
        if self.settling < self._hub.config.queue_limits.pending_max:
            return False
        self._stalled[queue] = None
        return True

    def crowded(self, queue: QueueReading) -> bool:
        """Whether the messages in memory are as many bytes as may be; ``queue`` runs again when they are fewer."""
        if self.memory.bytes < self._hub.config.queue_limits.memory_bytes_max:
            return False
        self._crowd[queue] = None
        if self._looking is None:
            self._looking = self.wheel.after(LOOK_S, self._look)
        return True

    def _look(self) -> None:
        """Go on where memory was wanting."""
        self._looking = None
        crowd, self._crowd = self._crowd, {}
        for queue in crowd:
            queue.run()

    def _schedule(self) -> None:
        self._scheduled = True
        self._hub.clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Submit what this turn has brought."""
        self._scheduled = False
        puts, settles = self._puts, self._settles
        if puts:
            self._puts = []
            self.store.put(puts, self._put_done)
        if settles:
            self._settles = []
            self.store.settle(settles, self._settled)

    def _put_done(self, batch: Sequence[Put]) -> None:
        metrics = self.metrics
        for put in batch:
            queue, done = put.context
            size = len(put.frame) + OVERHEAD_BYTES
            self.putting -= 1
            self.putting_bytes -= size
            queue.putting -= 1
            queue.putting_bytes -= size
            # Delivered first: later frames of who put it may go on with ``done``.
            if put.error is None and not put.repeated:
                metrics.queue_put += 1
                queue.stored(put)
            elif not queue.waiting:
                queue.run()
            done(put)

    def _settled(self, batch: Sequence[Settle]) -> None:
        self.settling -= len(batch)
        for settle in batch:
            entry, done = settle.context
            queue = entry.queue
            error = settle.error
            if error is not None and not isinstance(error, errors.NotFound):
                _report(self._seldom, queue, error)
                if error.temporary and done is None and settle.action != RETRY:
                    # Nobody hears that it could not be stored, so it is for us to try again.
                    self.settling += 1
                    self.wheel.after(SETTLE_AGAIN_S, partial(_settle_again, self, settle))
                    continue
            queue.settled(settle, entry)
            if done is not None:
                # What the store has no more was settled in another way: expired, or purged.
                done(None if isinstance(error, errors.NotFound) else error)
            if not queue.settling:
                queue.run()
        if self._stalled and self.settling < self._hub.config.queue_limits.pending_max:
            stalled, self._stalled = self._stalled, {}
            for queue in stalled:
                queue.run()


def rule_of(rules: Sequence[QueueRule], name: str) -> QueueRule:
    """The first rule that matches the stored name of a queue."""
    if name.startswith("$"):
        wanted = INBOX if name.startswith(f"{INBOX}.") else name
        rules = [each for each in rules if each.pattern.startswith("$")]
    else:
        wanted = name
    return next((each for each in rules if names.matches(each.pattern, wanted)), NO_RULE)


def _settle_again(desk: QueueDesk, settle: Settle) -> None:
    """The store had no room for it before."""
    desk.settling -= 1
    settle.error = None
    desk.settle(settle)


def _report(seldom: Seldom, queue: QueueReading, error: errors.RelayError) -> None:
    """A settlement that the store could not take."""
    others = seldom.due("settle")
    if others is not None:
        log.error("queue {queue}: {error} ({others} more times unreported)",
                  queue=queue.name, error=str(error), others=others)  # fmt: skip
