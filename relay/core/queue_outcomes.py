"""What becomes of the deliveries of a queue.

    leased ─┬─ ack ──────────────────────────────▶ settling ─▶ the store has it: gone
            ├─ nack, lease over, consumer gone ──▶ retrying, until its back-off is over
            └─ the last delivery, nack with dead ▶ settling ─▶ dead, told on the dead-letter channel

A settlement that the store could not take is as none: the message is delivered again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relay import errors
from relay.core.queue_reading import QueueReading
from relay.core.queue_window import DELAYED, LEASED, RETRYING, SETTLING, Entry
from relay.records import ACKED, DEAD, RETRY, Settle

if TYPE_CHECKING:
    from relay.core.consumers import Consumer

REASON_CHARS_MAX: Final = 500

Done = Callable[[errors.RelayError | None], None]


class QueueOutcomes(QueueReading):
    """See the module."""

    __slots__ = ()

    def join(self, consumer: Consumer) -> None:
        """A consumer, new or known, may want messages."""
        raise NotImplementedError

    def ack(self, consumer: Consumer, number: int, done: Done | None) -> None:
        """A consumer has done it. Raises ``NotFound`` when it is not this one's (any more). ``run`` follows."""
        entry = self._held(consumer, number)
        self._desk.metrics.queue_acked += 1
        self._settle(entry, ACKED, done)

    def nack(
        self, consumer: Consumer, number: int, delay_s: float | None, dead: bool, why: str, done: Done | None = None
    ) -> None:
        """A consumer has not done it; raises as ``ack``. ``delay_s`` None: the back-off. ``run`` follows."""
        entry = self._held(consumer, number)
        if dead:
            self._bury(entry, why, done)
        elif entry.state == LEASED:
            self._give_back(entry, delay_s, why, done)
        elif done is not None:
            done(None)  # its lease was over: it is on its way to another delivery already

    def release(self, consumer: Consumer, number: int, done: Done | None = None) -> None:
        """A consumer gives it back as it was: at once to the next, and it does not count. Raises as ``ack``."""
        entry = self._held(consumer, number)
        if entry.state == LEASED:
            entry.deliveries -= 1
            self._give_back(entry, 0.0, "released", done)
        elif done is not None:
            done(None)

    def _held(self, consumer: Consumer, number: int) -> Entry:
        window = self.window
        held = consumer.drop(number)
        if not consumer.ringed and not consumer.stopped:
            self.join(consumer)
        entry = window.entries.get(number) if window is not None else None
        if not held or entry is None or entry.consumer is not consumer:
            raise errors.NotFound(f"message {number} of the queue is not held here (any more)")
        return entry

    def due(self, entry: Entry) -> None:
        """The deadline of a message: its lease is over, or it is to be delivered."""
        window = self.window
        if window is None:
            return
        if entry.state == LEASED:
            consumer = entry.consumer
            assert consumer is not None
            if not consumer.here():
                # Nobody else gets it while its session may come back; when that ends it goes back.
                self._desk.wheel.add(entry, consumer.lease_s)
                return
            consumer.lose(entry)
            self._give_back(entry, None, "its lease ran out")
        elif entry.state in (DELAYED, RETRYING):
            now_ms = self._desk.now_ms()
            if entry.due_ms > now_ms + 1:
                self._set_timer(entry, now_ms)
                return
            window.come_due(entry)
        self.run()

    def _give_back(self, entry: Entry, delay_s: float | None, why: str, done: Done | None = None) -> None:
        """A delivery did not work out."""
        rule = self.rule
        if entry.deliveries >= rule.deliveries_max:
            self._bury(entry, f"{why}, delivery {entry.deliveries}", done)
            return
        if delay_s is None:
            delay_s = min(rule.backoff_s_max, rule.backoff_s_min * 2.0 ** min(entry.deliveries - 1, 60))
        desk = self._desk
        desk.metrics.queue_returned += 1
        now_ms = desk.now_ms()
        entry.cancel()
        entry.due_ms = now_ms + int(delay_s * 1000) if delay_s > 0 else 0
        assert self.window is not None
        if entry.due_ms:
            self.window.move(entry, RETRYING)
            self._set_timer(entry, now_ms)
        else:
            self.window.make_ready(entry, first=True)
        self._send(Settle(self.realm, self.name, entry.number, RETRY, entry.deliveries, entry.due_ms), entry, done)

    def _bury(self, entry: Entry, why: str, done: Done | None = None) -> None:
        self._settle(entry, DEAD, done, why[:REASON_CHARS_MAX])

    def _settle(self, entry: Entry, action: int, done: Done | None = None, reason: str = "") -> None:
        assert self.window is not None
        self.window.settle(entry)
        self._send(Settle(self.realm, self.name, entry.number, action, entry.deliveries, 0, reason), entry, done)

    def _send(self, settle: Settle, entry: Entry, done: Done | None) -> None:
        self.settling += 1
        settle.context = (entry, done)
        self._desk.settle(settle)

    def settled(self, settle: Settle, entry: Entry) -> None:
        """The store has a settlement, or could not take it."""
        self.settling -= 1
        error = settle.error
        desk = self._desk
        if settle.action != RETRY and entry.state == SETTLING:
            window = self.window
            assert window is not None
            if error is None or isinstance(error, errors.NotFound):
                window.settled(entry, self._reading)
                if self.waiting:
                    self.waiting -= 1
                if settle.action == DEAD and error is None:
                    self.dead += 1
                    desk.letters.tell(self, entry, settle.reason)
                else:
                    self.bytes = max(0, self.bytes - entry.size)
            else:
                # It is still in the store: it is delivered again, as after a restart.
                window.settled(entry, False)
                entry.due_ms = self._desk.now_ms() + int(self.rule.backoff_s_min * 1000) + 1
                self._offer(window, entry, self._desk.now_ms())
