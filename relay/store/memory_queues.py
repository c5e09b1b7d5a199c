"""Messages of queues in memory: those that wait and the dead ones of each queue, by number."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from zope.interface import implementer

from relay.config_store import Store
from relay.errors import Full, NotFound, RelayError
from relay.interfaces import IQueueStore
from relay.records import ACKED, DEAD, REMOVED, RETRY, REVIVED, Item, Put, QueueState, Settle
from relay.store.budget import FORGET_SHARE, OVERHEAD_BYTES, READ_BYTES_MAX, Budget
from relay.store.memory_keys import KeyMemory

CUT_MIN: Final = 64
"""Numbers of messages that are gone stay in the order until there are so many, and as many as of those that wait."""
SWEEP_QUEUES: Final = 2000
SWEEP_MESSAGES: Final = 20_000
"""A step of trimming looks at so many queues and, in those where something has expired, messages."""
EXPIRED_GRACE_MS: Final = 10_000
"""A message is removed so long after it has expired: whoever delivers it may say first that it is dead."""


class Items:
    """Messages by number, and their numbers ascending."""

    __slots__ = ("_by_number", "_numbers", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self._by_number: dict[int, Item] = {}
        self._numbers: list[int] = []  # also of messages that are gone

    def __len__(self) -> int:
        return len(self._by_number)

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def add(self, item: Item) -> None:
        """A message that is not there."""
        numbers = self._numbers
        number = item.number
        self._by_number[number] = item
        self.bytes += len(item.frame) + OVERHEAD_BYTES
        if not numbers or numbers[-1] < number:
            numbers.append(number)
        elif (place := bisect_right(numbers, number)) == 0 or numbers[place - 1] != number:
            insort(numbers, number)

    def take(self, number: int) -> Item:
        """Remove a message that is there."""
        item = self._by_number.pop(number)
        self.bytes -= len(item.frame) + OVERHEAD_BYTES
        if len(self._numbers) > 2 * len(self._by_number) + CUT_MIN:
            self._numbers = [each for each in self._numbers if each in self._by_number]
        return item

    def replace(self, number: int, item: Item) -> None:
        """Another form of the message that has this number."""
        self._by_number[number] = item

    def get(self, number: int) -> Item:
        """The message with this number. Raises KeyError."""
        return self._by_number[number]

    def after(self, number: int) -> Iterator[Item]:
        """The messages with higher numbers, ascending."""
        for place in range(bisect_right(self._numbers, number), len(self._numbers)):
            item = self._by_number.get(self._numbers[place])
            if item is not None:
                yield item


class Queue:
    """One queue; ``id`` is unique in the store."""

    __slots__ = ("dead", "expires", "id", "keys_until_ms", "last", "name", "paused", "realm", "waiting")

    def __init__(self, realm: str, name: str, number: int, last: int) -> None:
        self.realm = realm
        self.name = name
        self.id = number
        self.last = last
        self.keys_until_ms = 0  # when the last of its idempotency keys is forgotten
        self.paused = False
        self.expires = False  # whether any message that waits does
        self.waiting = Items()
        self.dead = Items()

    @property
    def bytes(self) -> int:
        """What the queue counts for."""
        return self.waiting.bytes + self.dead.bytes


@implementer(IQueueStore)
class MemoryQueues:
    """``IQueueStore`` in memory. ``Full`` when the queue, the realm, the store or the number of queues is at its limit.

    Near that number empty ones are forgotten.
    """

    def __init__(self, options: Store, budget: Budget, now_ms: Callable[[], int]) -> None:
        self._options = options
        self._budget = budget
        self._now_ms = now_ms
        self._realms: dict[str, dict[str, Queue]] = {}
        self._queues = 0
        self._next_id = 1
        self._floor = 0  # the highest number that a queue gave which is forgotten
        self._keys = KeyMemory(options.keys_max)
        self._sweeping: Iterator[Queue] = iter(())

    # --- IQueueStore ----------------------------------------------------------------------------------------------

    def put(self, batch: Sequence[Put], done: Callable[[Sequence[Put]], None]) -> None:
        """As ``IQueueStore``."""
        budget = self._budget
        for each in batch:
            size = len(each.frame) + OVERHEAD_BYTES
            queue = self._get(each.realm, each.queue)
            if queue is not None and each.key:
                number = self._keys.find(queue.id, each.key, each.at_ms)
                if number:
                    each.number = number
                    each.repeated = True
                    continue
            refused = budget.refuses(each.realm, size)
            if each.queue_bytes_max and (queue.bytes if queue is not None else 0) + size > each.queue_bytes_max:
                refused = f"the queue has no room: its limit is {each.queue_bytes_max} bytes"
            if not refused and queue is None:
                queue = self._begin(each.realm, each.queue)
                refused = "" if queue is not None else f"the store has {self._queues} queues, its limit"
            if refused or queue is None:
                each.error = Full(refused)
                continue
            number = each.number = queue.last = queue.last + 1
            fields = each.at_ms, each.due_ms, each.expires_ms, each.priority, 0, each.ordering_key, each.frame
            queue.waiting.add(Item(number, *fields))
            budget.add(each.realm, size)
            if each.expires_ms:
                queue.expires = True
            if each.key:
                self._keys.add(queue.id, each.key, number, each.key_until_ms)
                queue.keys_until_ms = max(queue.keys_until_ms, each.key_until_ms)
        done(batch)

    def settle(self, batch: Sequence[Settle], done: Callable[[Sequence[Settle]], None] | None) -> None:
        """As ``IQueueStore``."""
        for each in batch:
            queue = self._get(each.realm, each.queue)
            of_dead = each.action in (REVIVED, REMOVED)
            if queue is None or each.number not in (queue.dead if of_dead else queue.waiting):
                each.error = NotFound(f"there is no message {each.number} in queue {each.queue}")
                continue
            self._settle(queue, each)
        if done is not None:
            done(batch)

    def load(
        self, realm: str, queue: str, after: int, limit: int, dead: bool,
        done: Callable[[Sequence[Item] | RelayError], None],
    ) -> None:  # fmt: skip
        """As ``IQueueStore``."""
        found = self._get(realm, queue)
        items: list[Item] = []
        if found is not None and limit > 0:
            now_ms = self._now_ms()
            room = READ_BYTES_MAX
            for item in (found.dead if dead else found.waiting).after(after):
                if not dead and 0 < item.expires_ms <= now_ms:
                    continue
                items.append(item)
                room -= len(item.frame)
                if len(items) >= limit or room <= 0:
                    break
        done(items)

    def states(self, done: Callable[[Sequence[QueueState] | RelayError], None]) -> None:
        """As ``IQueueStore``."""
        done([
            QueueState(
                realm, name, len(each.waiting), len(each.dead), each.bytes,
                next((item.number for item in each.waiting.after(0)), 0), each.last, each.paused,
            )
            for realm, queues in self._realms.items()
            for name, each in queues.items()
            if each.waiting or each.dead or each.paused
        ])  # fmt: skip

    def purge(self, realm: str, queue: str, dead: bool, done: Callable[[int | RelayError], None]) -> None:
        """As ``IQueueStore``."""
        found = self._get(realm, queue)
        if found is None:
            done(0)
            return
        items = found.dead if dead else found.waiting
        self._budget.add(realm, -items.bytes)
        if dead:
            found.dead = Items()
        else:
            found.waiting = Items()
        done(len(items))

    def pause(self, realm: str, queue: str, paused: bool, done: Callable[[RelayError | None], None]) -> None:
        """As ``IQueueStore``; ``Full`` when that would be a queue too many."""
        found = self._get(realm, queue)
        if found is None and paused:
            found = self._begin(realm, queue)
            if found is None:
                done(Full(f"the store has {self._queues} queues, its limit"))
                return
        if found is not None:
            found.paused = paused
        done(None)

    # --- trimming -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove what has expired from the next few queues."""
        now_ms = self._now_ms()
        self._keys.sweep(now_ms, self._options.trim_rows)
        left = SWEEP_MESSAGES
        near = self._queues >= self._options.queues_max * FORGET_SHARE
        for _ in range(SWEEP_QUEUES):
            queue = next(self._sweeping, None)
            if queue is None:
                self._sweeping = iter([each for queues in self._realms.values() for each in queues.values()])
                return
            if near and not (queue.waiting or queue.dead or queue.paused) and queue.keys_until_ms <= now_ms:
                self._forget(queue)
            if not queue.expires:
                continue
            left -= len(queue.waiting)
            expiring = [each for each in queue.waiting.after(0) if each.expires_ms]
            queue.expires = bool(expiring)
            for item in expiring:
                if item.expires_ms + EXPIRED_GRACE_MS <= now_ms:
                    queue.waiting.take(item.number)
                    self._budget.add(queue.realm, -len(item.frame) - OVERHEAD_BYTES)
            if left <= 0:
                return

    # --- parts ----------------------------------------------------------------------------------------------------

    def _get(self, realm: str, name: str) -> Queue | None:
        queues = self._realms.get(realm)
        return queues.get(name) if queues is not None else None

    def _begin(self, realm: str, name: str) -> Queue | None:
        if self._queues >= self._options.queues_max:
            return None
        self._queues += 1
        queue = self._realms.setdefault(realm, {})[name] = Queue(realm, name, self._next_id, self._floor)
        self._next_id += 1
        return queue

    def _forget(self, queue: Queue) -> None:
        self._floor = max(self._floor, queue.last)
        queues = self._realms[queue.realm]
        del queues[queue.name]
        if not queues:
            del self._realms[queue.realm]
        self._queues -= 1

    def _settle(self, queue: Queue, settle: Settle) -> None:
        number = settle.number
        action = settle.action
        if action in (ACKED, REMOVED):
            item = (queue.waiting if action == ACKED else queue.dead).take(number)
            self._budget.add(queue.realm, -len(item.frame) - OVERHEAD_BYTES)
        elif action == RETRY:
            item = queue.waiting.get(number)
            queue.waiting.replace(
                number, msgspec.structs.replace(item, deliveries=settle.deliveries, due_ms=settle.due_ms)
            )
        elif action == DEAD:
            item = queue.waiting.take(number)
            queue.dead.add(msgspec.structs.replace(item, deliveries=settle.deliveries, reason=settle.reason))
        elif action == REVIVED:
            item = queue.dead.take(number)
            # It would not be there for long with the time by which it has expired.
            queue.waiting.add(
                msgspec.structs.replace(item, deliveries=0, due_ms=settle.due_ms, expires_ms=0, reason="")
            )
        else:
            raise AssertionError(f"no such action: {action}")
