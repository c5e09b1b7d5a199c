"""The queues that a client takes messages from, as a part of the core.

    join ──consume──▶ confirmed ──push with ``queue``──▶ Deliver ──ack, nack──▶ server
      │ refused           │ new session: consume again
      ▼                   ▼
    Reject             generation + 1: what was delivered before is not this session's to settle

A message for a queue that nobody takes from any more goes back at once.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from relay.client.deadlines import Deadline, Deadlines
from relay.client.effects import Deliver, Effect, Ended, Reject, Resolve
from relay.client.options import ClientOptions
from relay.client.requests import Request, Requests
from relay.errors import ConfigError, ConnectionClosed, DeadlineExceeded, NotFound, RelayError
from relay.wire import handshake, kinds
from relay.wire.message import Fields, Message

CONSUME_AGAIN_S: Final = 1.0
"""Wait before a new session asks again for a queue that it could not have for a passing reason."""


class Entry(msgspec.Struct, eq=False):
    """One queue. ``listener`` is an object of the shell; ``pending``: until the first answer."""

    queue: str
    listener: Any
    fields: Fields
    pending: Deadline | None = None
    request: Request | None = None
    generation: int = 0
    retry: Deadline | None = None


class Consumers:
    """All of one client. ``busy``: handlers under way, for which a graceful close waits."""

    def __init__(self, requests: Requests, deadlines: Deadlines, options: ClientOptions, effects: list[Effect]) -> None:
        self._requests = requests
        self._deadlines = deadlines
        self._timeout_s = options.request_timeout_s
        self._effects = effects
        self._entries: dict[str, Entry] = {}
        self.busy = 0

    def join(self, queue: str, listener: Any, fields: Fields, now: float) -> Entry:  # Any: an object of the shell
        """Take messages. Raises ``ConfigError`` when ``queue`` is consumed here already, ``ConnectionClosed``."""
        if self._requests.closed is not None:
            raise self._requests.closed
        if queue in self._entries:
            raise ConfigError(f"queue {queue} is consumed by this client already")
        entry = self._entries[queue] = Entry(queue, listener, fields)
        entry.pending = self._deadlines.add(now + self._timeout_s, lambda now: self._expire(entry, now))
        self._ask(entry, now)
        return entry

    def leave(self, entry: Entry, waiter: Any, now: float) -> None:  # Any: an object of the shell, or None
        """Take no more; what is held may still be settled. ``waiter`` hears when the server has been told."""
        if not self._remove(entry):
            if waiter is not None:
                self._effects.append(Resolve(waiter, None))
            return

        def answered(result: Message | RelayError, now: float) -> None:
            if waiter is None:
                return
            if isinstance(result, RelayError) and not isinstance(result, NotFound):
                self._effects.append(Reject(waiter, result))
            else:
                self._effects.append(Resolve(waiter, None))

        message = Message(kinds.UNCONSUME, entry.queue)
        self._requests.ask(message, waiter, now, fate="done", answer=answered, forced=True)

    def push(self, message: Message, now: float) -> None:
        """A delivery."""
        entry = self._entries.get(message.get(kinds.QUEUE))
        if entry is not None:
            self._effects.append(Deliver((entry.listener,), message))
        else:
            fields = {kinds.OFFSET: message.get(kinds.OFFSET, 0)}
            back = handshake.write(kinds.NACK, {"released": True}, 0, message.get(kinds.QUEUE))
            back.fields = fields
            self._requests.tell(back, now, bound=True, forced=True)

    def settle(self, entry: Entry, generation: int, message: Message, waiter: Any, now: float) -> None:  # Any: as above
        """Send an ack or nack of something delivered in ``generation``; of an older one it is the server's again:
        ``NotFound``."""
        if generation != entry.generation:
            if waiter is not None:
                self._effects.append(Reject(waiter, NotFound("the session that it was delivered to is over")))
        elif waiter is None:
            self._requests.tell(message, now, bound=True, forced=True)
        else:
            self._requests.ask(message, waiter, now, forced=True)  # also while the client closes

    def renewed(self, now: float) -> None:
        """There is a new session."""
        for entry in self._entries.values():
            entry.generation += 1
            entry.request = None
            self._ask(entry, now)

    def release_all(self, now: float) -> None:
        """No more deliveries: the client is closing. Those that are being handled go on."""
        for queue in self._entries:
            self._requests.ask(Message(kinds.UNCONSUME, queue), None, now, fate="done", forced=True, answer=_ignore)

    def close(self, error: RelayError | None) -> None:
        """The client is closed."""
        for entry in list(self._entries.values()):
            first = entry.pending is not None
            self._remove(entry)
            if first:
                text = "the client is closed" + (f": {error}" if error is not None else "")
                self._effects.append(Reject(entry.listener, ConnectionClosed(text)))
            else:
                self._effects.append(Ended(entry.listener, error))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _ask(self, entry: Entry, now: float) -> None:
        message = Message(kinds.CONSUME, entry.queue, fields=dict(entry.fields))
        entry.request = self._requests.ask(
            message, None, now, timeout_s=float("inf"), fate="drop", forced=True,
            answer=lambda result, now: self._answered(entry, result, now),
        )  # fmt: skip

    def _answered(self, entry: Entry, result: Message | RelayError, now: float) -> None:
        entry.request = None
        if self._entries.get(entry.queue) is not entry:
            return
        first = entry.pending is not None
        if isinstance(result, Message):
            if entry.pending is not None:
                entry.pending.cancel()
                entry.pending = None
                self._effects.append(Resolve(entry.listener, result))
        elif result.temporary and not first:
            entry.retry = self._deadlines.add(now + CONSUME_AGAIN_S, lambda now: self._again(entry, now))
        else:
            self._remove(entry)
            self._effects.append(Reject(entry.listener, result) if first else Ended(entry.listener, result))

    def _again(self, entry: Entry, now: float) -> None:
        entry.retry = None
        if entry.request is None and self._requests.closed is None:
            self._ask(entry, now)

    def _remove(self, entry: Entry) -> bool:
        if self._entries.get(entry.queue) is not entry:
            return False
        del self._entries[entry.queue]
        for deadline in (entry.pending, entry.retry):
            if deadline is not None:
                deadline.cancel()
        entry.pending = entry.retry = None
        return True

    def _expire(self, entry: Entry, now: float) -> None:
        sent = entry.request is not None and entry.request.outgoing.sent
        self.leave(entry, None, now)
        error = DeadlineExceeded("no answer in time", outcome="unknown" if sent else "not_done")
        self._effects.append(Reject(entry.listener, error))


def _ignore(result: Message | RelayError, now: float) -> None:
    """Nobody waits for it."""
