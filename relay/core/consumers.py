"""Who takes messages from a queue: a session, or a part of this node.

A consumer may hold ``credits`` messages unsettled. Each delivery is held until it was acknowledged or refused; what was
held too long, and was given to somebody else, still counts until its holder speaks of it: one that hangs is not fed
with ever more messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from relay import errors
from relay.wire import kinds
from relay.wire.binary import decode_frame
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.queue import Queue
    from relay.core.queue_window import Entry
    from relay.core.session import Session


class Consumer:
    """``held``: numbers of the messages that it holds; the entry while the lease runs, None when that is over.
    ``held_bytes``: of those whose lease runs."""

    __slots__ = ("credits", "held", "held_bytes", "lease_s", "queue", "ringed", "stopped")

    def __init__(self, queue: Queue, credits: int, lease_s: float) -> None:
        self.queue = queue
        self.credits = credits
        self.lease_s = lease_s
        self.held: dict[int, Entry | None] = {}
        self.held_bytes = 0
        self.ringed = False
        """It is in its queue's ring of those that wait for messages."""
        self.stopped = False
        """No more messages; what it holds it may still acknowledge."""

    def wants(self) -> bool:
        """Whether a message may be delivered to it now."""
        return (
            len(self.held) < self.credits
            and self.held_bytes < self.queue.held_bytes_max
            and not self.stopped
            and self.here()
        )

    def hold(self, entry: Entry) -> None:
        """A message is delivered to it."""
        self.held[entry.number] = entry
        self.held_bytes += entry.size

    def lose(self, entry: Entry) -> None:
        """A message is not its own any more, though it has not said anything; does nothing when it has."""
        if self.held.get(entry.number) is entry:
            self.held[entry.number] = None
            self.held_bytes -= entry.size

    def drop(self, number: int) -> bool:
        """It speaks of a message; False when it never got it."""
        if number not in self.held:
            return False
        entry = self.held.pop(number)
        if entry is not None:
            self.held_bytes -= entry.size
        return True

    def forgive(self) -> None:
        """What it held for too long counts no more."""
        self.held = {number: entry for number, entry in self.held.items() if entry is not None}

    def here(self) -> bool:
        """Whether it can be reached."""
        return True

    def deliver(self, entry: Entry) -> None:
        """Hand a message over. Raises ``RelayError`` when it cannot ever be delivered to this one."""
        raise NotImplementedError


class SessionConsumer(Consumer):
    """``name``: the queue as the session calls it."""

    __slots__ = ("name", "session")

    def __init__(self, queue: Queue, session: Session, name: str, credits: int, lease_s: float) -> None:
        super().__init__(queue, credits, lease_s)
        self.session = session
        self.name = name

    def here(self) -> bool:
        """A session that waits to be resumed gets nothing new."""
        return self.session.peer is not None

    def deliver(self, entry: Entry) -> None:
        """As a push, with what it needs to acknowledge it."""
        stored = decode_frame(entry.frame)
        fields = stored.fields
        if fields is None:
            fields = stored.fields = {}
        elif kinds.FILTERS in fields:
            stored = self.session.hub.fit(stored, self.session)
            fields = stored.fields = dict(stored.fields or {})
        fields[kinds.QUEUE] = self.name
        fields[kinds.OFFSET] = entry.number
        fields[kinds.DELIVERIES] = entry.deliveries
        fields[kinds.LEASE_MS] = int(self.lease_s * 1000)
        fields[kinds.ACCEPTED_AT] = entry.at_ms
        self.session.send(stored)


class Delivery(msgspec.Struct, frozen=True):
    """One message for a part of this node. ``deliveries``: this one is the how manieth; ``at_ms``: when it was put."""

    number: int
    message: Message
    deliveries: int
    at_ms: int


class LocalConsumer(Consumer):
    """A part of this node. ``take(delivery)`` is called for each message, in the reactor's thread, and returns soon.

    Every message is settled by ``ack`` or ``nack``, then or later; else its lease ends and it comes again.
    """

    __slots__ = ("_take",)

    def __init__(self, queue: Queue, take: Callable[[Delivery], None], credits: int, lease_s: float) -> None:
        super().__init__(queue, credits, lease_s)
        self._take = take

    def deliver(self, entry: Entry) -> None:
        """Call ``take``."""
        self._take(Delivery(entry.number, decode_frame(entry.frame), entry.deliveries, entry.at_ms))

    def ack(self, number: int, done: Callable[[errors.RelayError | None], None] | None = None) -> None:
        """It is done with. ``done`` hears when the store has it. Raises ``NotFound`` when somebody else has it."""
        self.queue.ack(self, number, done)
        self.queue.run()

    def nack(self, number: int, delay_s: float | None = None, *, dead: bool = False, reason: str = "") -> None:
        """Not done: again after ``delay_s`` (None: the queue's back-off), or with ``dead`` never. Raises as ``ack``."""
        self.queue.nack(self, number, delay_s, dead, reason or "refused")
        self.queue.run()

    def release(self, number: int) -> None:
        """It was not looked at: at once again, and this delivery does not count. Raises as ``ack``."""
        self.queue.release(self, number)
        self.queue.run()

    def credit(self, more: int) -> None:
        """Hold so many messages more (or fewer)."""
        self.credits += more
        self.queue.join(self)
        self.queue.run()

    def close(self) -> None:
        """No more messages; those that are held go back."""
        self.queue.leave(self, "its consumer has ended")
