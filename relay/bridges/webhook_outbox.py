"""The durable outbox of one webhook: what waits, in which order it may go, what becomes of it.

    take ─▶ store.put ─▶ lane (one for each channel) ─┐
                                                      ├─▶ Group ─▶ delivered ─▶ store.settle(ACKED)
    load ─▶ (what was there before the start) ────────┘     │
                                                         failed ─▶ store.settle(RETRY) ─▶ again

What goes with what, and after what, is ``relay.bridges.webhook_lanes``. A group that the receiver refused is cut until
the event that it was about is alone: that one waits and holds up its own lane, the others go on.

Nothing here is lost by a crash once ``store.put`` has called back; what was sent and not settled is sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from twisted.logger import Logger

from relay.bridges.webhook_lanes import Entry, Group, Lanes
from relay.config_webhooks import Webhook
from relay.core.metrics import WebhookCounts
from relay.core.queue_store import WEBHOOKS
from relay.core.wheel import Wheel
from relay.errors import NotFound, RelayError, RemoteProtocolError
from relay.interfaces import IQueueStore
from relay.records import ACKED, RETRY, Item, Put, Settle, is_end
from relay.wire import kinds
from relay.wire.binary import decode_frame, encode_frame
from relay.wire.message import Message

log = Logger()

LOAD_MAX: Final = 500
"""Events that are read from the store at once."""
RELOAD_S: Final = 5.0
"""After this a store that could not be read is asked again."""
FAILURES_MAX: Final = 3
"""After so many a group that nothing is known of is looked at in parts, if others were taken since the first."""
DOUBLINGS_MAX: Final = 30
"""After so many the wait is longer than any that can be configured."""


class Outbox:
    """``changed`` is called when there may be something to send. ``random``: a number in [0, 1) for each call."""

    def __init__(
        self,
        config: Webhook,
        store: IQueueStore,
        wheel: Wheel,
        *,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        later: Callable[[Callable[[], None]], object],
        counts: WebhookCounts,
        changed: Callable[[], None],
    ) -> None:
        self.config = config
        self._store = store
        self._wheel = wheel
        self._now_ms = now_ms
        self._random = random
        self._later = later
        self._counts = counts
        self._changed = changed
        self._bytes = 0
        self._fresh: list[Entry] = []
        """Not handed to the store yet: until the end of the turn, or until the store was read."""
        self._lanes = Lanes()
        self._waiting: set[Group] = set()
        """Groups of one event that was refused."""
        self._due: deque[Group] = deque()
        """Groups that may go again."""
        self._loaded = False
        self._stopped = False
        self._submitting = False

    @property
    def _queue(self) -> str:
        return WEBHOOKS + self.config.name

    # --- in -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read what the store has from before."""
        self._load(0)

    def stop(self) -> None:
        """Nothing is sent any more; what is not in the store yet is handed to it."""
        for group in self._waiting:
            group.cancel()
        self._submit()
        self._stopped = True

    def take(self, lane: str, event: bytes, at_ms: int) -> None:
        """Keep ``event``, the text of a JSON object, until it was told; over the limits it is dropped."""
        entry = Entry(lane, event, at_ms)
        config = self.config
        if self._counts.waiting >= config.pending_max or self._bytes + entry.size > config.pending_bytes_max:
            self._counts.dropped["full"] += 1
            return
        self._counts.waiting += 1
        self._bytes += entry.size
        self._fresh.append(entry)
        if self._loaded and not self._submitting:
            self._submitting = True
            self._later(self._submit)

    def _submit(self) -> None:
        """Hand what came in this turn to the store."""
        self._submitting = False
        fresh, self._fresh = self._fresh, []
        if fresh and not self._stopped:
            self._store.put([self._put(each) for each in fresh], self._stored)

    def _put(self, entry: Entry) -> Put:
        frame = encode_frame(Message(kinds.PUSH, self.config.name, entry.event, kinds.JSON))
        expires_ms = entry.at_ms + int(self.config.age_s_max * 1000)
        return Put(
            self.config.realm, self._queue, frame, entry.at_ms, expires_ms=expires_ms, ordering_key=entry.lane,
            queue_bytes_max=self.config.pending_bytes_max, context=entry,
        )  # fmt: skip

    def _stored(self, batch: Sequence[Put]) -> None:
        for put in batch:
            entry: Entry = put.context
            if put.error is not None:
                self._forget(entry, "store")
            else:
                entry.number = put.number
                self._lanes.append(entry)
        self._changed()

    def _load(self, after: int) -> None:
        if not self._stopped:
            self._store.load(self.config.realm, self._queue, after, LOAD_MAX, False, self._found)

    def _found(self, items: Sequence[Item] | RelayError) -> None:
        if self._stopped:
            return
        if isinstance(items, RelayError):
            log.error("webhook {name}: the store cannot be read: {error}", name=self.config.name, error=str(items))
            self._wheel.after(RELOAD_S, self.start)
            return
        damaged = []
        for item in items:
            entry = Entry(item.ordering_key, _event_of(item), item.at_ms, item.number, item.deliveries)
            self._counts.waiting += 1
            self._bytes += entry.size
            if entry.event:
                self._lanes.append(entry)
            else:
                damaged.append(entry)
        if damaged:
            self._settle(damaged, "damaged")
        if is_end(items, LOAD_MAX):
            self._loaded = True
            self._submit()
            self._changed()
        else:
            last = items[-1].number
            self._later(lambda: self._load(last))

    # --- out ------------------------------------------------------------------------------------------------------

    def next(self, new: bool = False) -> Group | None:
        """What is to be sent now: a group that has failed and may go again, or a new one; ``new``: that first."""
        if self._stopped or not self._loaded:
            return None
        while self._due or self._lanes.ready:
            if self._lanes.ready and (new or not self._due):
                group = Group(self._lanes.gather(self.config.batch_max), self._over)
            else:
                group = self._due.popleft()
            if self._drop_old(group):
                return group
        return None

    def delivered(self, group: Group) -> None:
        """The receiver has it."""
        self._counts.delivered += len(group.entries)
        self._settle(group.entries)
        self._lanes.release(group.entries)

    def failed(self, group: Group, refused: bool) -> None:
        """The receiver does not have it, as far as is known. ``refused``: it answered so to just this.

        A group of several events that is refused is cut and told in parts, at once: which of them it was about shows
        then. One event that is refused waits; what failed otherwise may go again when the receiver is there. When it
        fails again and again while others are taken, it is cut as well.
        """
        delivered = self._counts.delivered
        if not group.failures:
            group.mark = delivered
        alone = group.failures >= FAILURES_MAX and delivered > group.mark
        if (refused or alone) and len(group.entries) > 1:
            self._due.extendleft(Group(part, self._over) for part in reversed(self._lanes.cut(group.entries)))
            return
        for entry in group.entries:
            entry.attempts += 1
        limit = self.config.attempts_max
        spent = [each for each in group.entries if limit and each.attempts >= limit]
        if spent:
            group.entries = [each for each in group.entries if each.attempts < limit]
            self._settle(spent, "attempts")
            self._lanes.release(spent, group.lanes())
        if not group.entries:
            return
        realm, queue = self.config.realm, self._queue
        self._store.settle([Settle(realm, queue, each.number, RETRY, each.attempts) for each in group.entries], None)
        group.failures += 1
        if refused:
            self._waiting.add(group)
            self._wheel.add(group, self.wait_s(group.failures))
        else:
            # Behind the others: it might be this one that the receiver does not answer in time.
            self._due.append(group)

    def again(self, group: Group) -> None:
        """It was not sent after all: send it as soon as may be."""
        self._due.appendleft(group)

    def wait_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row, in seconds."""
        config = self.config
        longest: float = min(config.retry_s_max, config.retry_s_min * 2.0 ** min(failures - 1, DOUBLINGS_MAX))
        return longest * (0.5 + self._random() / 2)

    def _over(self, group: Group) -> None:
        self._waiting.discard(group)
        self._due.append(group)
        self._changed()

    def _drop_old(self, group: Group) -> bool:
        """Drop what has waited too long; whether anything is left."""
        oldest_ms = self._now_ms() - int(self.config.age_s_max * 1000)
        old = [each for each in group.entries if each.at_ms <= oldest_ms]
        if old:
            group.entries = [each for each in group.entries if each.at_ms > oldest_ms]
            self._settle(old, "age")
            self._lanes.release(old, group.lanes())
        return bool(group.entries)

    # --- the end of an event --------------------------------------------------------------------------------------

    def _settle(self, entries: list[Entry], why: str = "") -> None:
        """Out of the store; ``why`` it is dropped, '' when it was delivered."""
        for each in entries:
            self._forget(each, why)
        self._store.settle(
            [Settle(self.config.realm, self._queue, each.number, ACKED) for each in entries], self._settled
        )

    def _settled(self, batch: Sequence[Settle]) -> None:
        errors = [each.error for each in batch if each.error is not None and not isinstance(each.error, NotFound)]
        if errors:
            log.error(
                "webhook {name}: {count} events stay in the store and will be told again: {error}",
                name=self.config.name, count=len(errors), error=str(errors[0]),
            )  # fmt: skip

    def _forget(self, entry: Entry, why: str) -> None:
        self._counts.waiting -= 1
        self._bytes -= entry.size
        if why:
            self._counts.dropped[why] += 1


def _event_of(item: Item) -> bytes:
    """The text that was put into the store; nothing when it is damaged."""
    try:
        return decode_frame(item.frame).body
    except RemoteProtocolError as error:
        log.error("an event of a webhook in the store is damaged: {error}", error=str(error))
        return b""
