"""One queue: what waits in it, who takes from it, and who is next.

    stored ──▶ window ──run──▶ leased to a consumer ─┬─ ack ───────────────▶ settled, removed
                 ▲                                   ├─ nack, lease over, ─▶ retry after a back-off
                 └──────────── due ──────────────────┤  consumer gone
                                                     └─ deliveries_max ────▶ dead, with the reason

A queue without consumers is a few numbers; its window is made when the first comes, and dropped when the last is gone
and nothing of it is on its way to the store. What became of deliveries is ``relay.core.queue_outcomes``', reading what
waits in the store ``relay.core.queue_reading``'. ``waiting`` and ``bytes`` follow the store: messages that it holds and
that are neither settled nor dead.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from twisted.logger import Logger

from relay import errors
from relay.core.queue_outcomes import QueueOutcomes
from relay.core.queue_window import LEASED, OVERHEAD_BYTES, READY, RETRYING, STATES, Entry, Window
from relay.records import ACKED

if TYPE_CHECKING:
    from relay.core.consumers import Consumer
    from relay.records import Put

log = Logger()


class Queue(QueueOutcomes):
    """See the module. ``desk`` is what the queues of a node share: store, clock, counters."""

    __slots__ = ()

    # --- in -------------------------------------------------------------------------------------------------------

    def check_room(self, size: int) -> None:
        """Raises ``Full`` when a message of ``size`` bytes is too much."""
        rule = self.rule
        if self.waiting + self.putting >= rule.messages_max:
            raise errors.Full(f"the queue has {self.waiting} messages, as many as it may")
        if self.bytes + self.putting_bytes + size > rule.bytes_max:
            raise errors.Full(f"the queue has {self.bytes} bytes, as many as it may")

    def stored(self, put: Put) -> None:
        """A message is in the store."""
        size = len(put.frame) + OVERHEAD_BYTES
        self.waiting += 1
        self.bytes += size
        window = self.window
        if window is None:
            return
        now_ms = self._desk.now_ms()
        # One that is urgent, and has no place in a line, need not wait for those before it to be read.
        urgent = put.priority == 0 and not put.ordering_key and put.due_ms <= now_ms
        if (window.caught_up or urgent) and window.takes(urgent) and not (window.entries and self._desk.crowded(self)):
            if window.caught_up:
                window.cursor = put.number
            entry = Entry(
                self, put.number, put.at_ms, put.due_ms, put.expires_ms, put.priority, 0, put.ordering_key, put.frame
            )
            self._offer(window, entry, now_ms)
        else:
            window.caught_up = False
            window.missed = True
        self.run()

    def revived(self, number: int) -> None:
        """A dead message waits again."""
        self.dead -= 1
        self.waiting += 1
        if self.window is not None:
            self.window.missed = True
            self.window.rescan(number)
            self.run()

    # --- consumers ------------------------------------------------------------------------------------------------

    def join(self, consumer: Consumer) -> None:
        """A consumer, new or known, may want messages. ``run`` follows."""
        if self.consumers is None:
            self.consumers = {}
            self._ring = deque()
        self.consumers[consumer] = None
        if self.window is None:
            self.window = Window(self.rule.window, self.rule.window_bytes, self._desk.memory)
        if not consumer.ringed and consumer.wants():
            assert self._ring is not None
            consumer.ringed = True
            self._ring.append(consumer)

    def leave(self, consumer: Consumer, why: str) -> None:
        """A consumer is gone: what it holds goes back."""
        consumer.stopped = True
        held, consumer.held, consumer.held_bytes = consumer.held, {}, 0
        for entry in reversed(held.values()):
            if entry is not None and entry.state == LEASED and entry.consumer is consumer:
                self._give_back(entry, 0.0, why)
        self.stop(consumer)

    def stop(self, consumer: Consumer) -> None:
        """A consumer wants no more messages; what it holds it may still settle."""
        consumer.stopped = True
        if self.consumers is not None:
            self.consumers.pop(consumer, None)
        self.run()

    # --- out ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Deliver what can be delivered, read what is wanted."""
        if self._running:
            return
        self._running = True
        try:
            while True:
                self._deliver_all()
                if not self._read():
                    break
        finally:
            self._running = False
        if not self.consumers:
            self._rest()

    def _deliver_all(self) -> None:
        window, ring, desk = self.window, self._ring, self._desk
        if window is None or not ring or self.paused:
            return
        counts, retries_max = window.counts, self.rule.retries_max
        now_ms = desk.now_ms()
        while ring and counts[RETRYING] < retries_max:
            consumer = ring[0]
            if not consumer.wants():
                ring.popleft()
                consumer.ringed = False
                continue
            entry = window.next()
            if entry is None:
                return
            if 0 < entry.expires_ms <= now_ms:
                desk.metrics.queue_expired += 1
                self._settle(entry, ACKED)
                continue
            if desk.busy(self):
                return
            if consumer.held and desk.crowded(self):
                if all(each.held for each in ring):
                    return
                ring.rotate(-1)
                continue
            ring.popleft()
            consumer.ringed = False
            window.take(entry)
            self._deliver(consumer, entry)
            if not consumer.ringed and consumer.wants():
                consumer.ringed = True
                ring.append(consumer)

    def _deliver(self, consumer: Consumer, entry: Entry) -> None:
        entry.deliveries += 1
        entry.consumer = consumer
        consumer.hold(entry)
        self._desk.wheel.add(entry, consumer.lease_s)
        self._desk.metrics.queue_delivered += 1
        try:
            consumer.deliver(entry)
        except errors.RelayError as error:
            consumer.drop(entry.number)
            self._bury(entry, f"it cannot be delivered: {error}")
        except Exception:  # noqa: BLE001 - our mistake: one message fails, the others go on
            log.failure("delivering from queue {queue}", queue=self.name)
            if consumer.drop(entry.number) and entry.state == LEASED:
                self._give_back(entry, None, "delivering failed")

    def renew(self, consumer: Consumer) -> None:
        """A consumer is back: its leases begin anew, and it gets messages again."""
        for entry in consumer.held.values():
            if entry is not None and entry.state == LEASED:
                self._desk.wheel.add(entry, consumer.lease_s)
        if not consumer.stopped:
            self.join(consumer)
        self.run()

    def emptied(self) -> None:
        """All waiting messages were purged."""
        window = self.window
        if window is not None:
            for entry in (*window.entries.values(), *window.gone.values()):
                entry.cancel()
                entry.state = -1
                if entry.consumer is not None:
                    entry.consumer.lose(entry)
            self._drop_alarm()
            window.memory.bytes -= window.total
            fresh = self.window = Window(self.rule.window, self.rule.window_bytes, self._desk.memory)
            fresh.caught_up = True
        self.bytes = self.bytes * self.dead // max(1, self.dead + self.waiting)
        self.waiting = 0
        self.run()

    def buried_gone(self, number: int) -> None:
        """So many dead messages were removed."""
        number = min(number, self.dead)
        # Their sizes are not known here; the store knows, this is for the queue's own limit.
        self.bytes -= self.bytes * number // max(1, self.dead + self.waiting)
        self.dead -= number
        self.run()

    def _rest(self) -> None:
        """Without consumers and with nothing under way: forget what is in memory."""
        window = self.window
        if window is not None and not window.counts[LEASED] and not self.settling and not self._reading:
            for entry in window.entries.values():
                entry.cancel()
            self._drop_alarm()
            window.memory.bytes -= window.total
            self.window = self.consumers = self._ring = None
        if self.window is None and not (self.waiting or self.dead or self.paused or self.putting or self.settling):
            self._desk.forget(self)

    def numbers(self) -> tuple[int, int, int]:
        """Messages that are leased, that wait to be delivered again, and that are ready, as far as they are read."""
        counts = self.window.counts if self.window is not None else [0] * STATES
        return counts[LEASED], counts[RETRYING], counts[READY]
