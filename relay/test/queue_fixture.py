"""The core with queues over a store in memory: consumers that settle by hand, and a store that can be made to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from relay.config import Config
from relay.config_queues import QueueRule
from relay.config_store import Store
from relay.interfaces import IQueueStore
from relay.store.memory import MemoryStore
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds


@implementer(IQueueStore)
class LaterStore:
    """An ``IQueueStore`` that does and answers what it is asked when the test says so, in the order of submission.

    What was not advanced is lost by a crash. Reads are apart, as in a store with readers of their own: they see what
    was written when they were asked for, and may answer before or after the writes. ``error`` refuses all puts and
    settlements.
    """

    def __init__(self, store: Any) -> None:  # Any: IQueueStore
        self._store = store
        self.waiting: list[Callable[[], None]] = []
        self.reads: list[Callable[[], None]] = []
        self.error: Any = None  # Any: a RelayError

    def advance(self, steps: int | None = None) -> None:
        """Do what was asked for first."""
        todo = self.waiting if steps is None else self.waiting[:steps]
        self.waiting = [] if steps is None else self.waiting[steps:]
        for each in todo:
            each()

    def answer(self) -> None:
        """Answer the reads."""
        reads, self.reads = self.reads, []
        for each in reads:
            each()

    def put(self, batch: Any, done: Any) -> None:
        """As ``IQueueStore``."""
        self.waiting.append(lambda: self._write(self._store.put, batch, done))

    def settle(self, batch: Any, done: Any) -> None:
        """As ``IQueueStore``."""
        self.waiting.append(lambda: self._write(self._store.settle, batch, done))

    def _write(self, write: Any, batch: Any, done: Any) -> None:
        if self.error is None:
            write(batch, done)
        else:
            for each in batch:
                each.error = self.error
            done(batch)

    def load(self, realm: str, queue: str, after: int, limit: int, dead: bool, done: Any) -> None:
        """As ``IQueueStore``."""
        found: list[Any] = []
        self._store.load(realm, queue, after, limit, dead, found.extend)
        self.reads.append(lambda: done(found))

    def states(self, done: Any) -> None:
        """As ``IQueueStore``."""
        self.waiting.append(lambda: self._store.states(done))

    def purge(self, realm: str, queue: str, dead: bool, done: Any) -> None:
        """As ``IQueueStore``."""
        self.waiting.append(lambda: self._store.purge(realm, queue, dead, done))

    def pause(self, realm: str, queue: str, paused: bool, done: Any) -> None:
        """As ``IQueueStore``."""
        self.waiting.append(lambda: self._store.pause(realm, queue, paused, done))


class QueueCore(Core):
    """A core with queues. ``store`` is the store of an earlier one, to start again with what it holds; ``later``: its
    answers wait for ``self.later.advance()``."""

    def __init__(
        self, *rules: QueueRule, store: Any = None, later: bool = False, config: Config | None = None, **more: Any
    ) -> None:  # Any: IQueueStore, and the keywords of Core
        given = config or Config()
        super().__init__(_with(given, queues=rules) if rules else given, **more)
        self.queue_store = store or MemoryStore(Store(), lambda: int(self.hub.wall() * 1000), self.rng.randbytes).queues
        self.later: Any = LaterStore(self.queue_store) if later else None  # Any: one that the tests of it never lack
        self.queues = self.router.queues
        self.queues.desk.letters.publish = self.node.publish
        self.queues.open(self.later or self.queue_store)

    def turn(self) -> None:
        """The end of the reactor's turn, as often as it takes."""
        for _ in range(3):
            self.clock.advance(0)

    def worker(self, queue: str = "jobs", user: str = "", credits: int = 10, **more: Any) -> Guest:
        """A session that consumes ``queue``; ``resume`` among the features."""
        guest = self.guest(user, features=["resume"])
        answer = guest.answer(guest.send(kinds.CONSUME, queue, credits=credits, **more))
        assert answer.kind == kinds.REPLY, answer
        guest.got.remove(answer)
        self.turn()
        return guest

    def put(self, guest: Guest, queue: str = "jobs", body: Any = b"x", **more: Any) -> Any:
        """Put a message; the answer, or None when there is none yet."""
        name = more.pop("name", "job")
        seq = guest.send(kinds.PUSH, name, body, queue=queue, **more)
        self.turn()
        found = [each for each in guest.got if each.seq == seq and each.kind in (kinds.REPLY, kinds.ERROR)]
        for each in found:
            guest.got.remove(each)
        return found[0] if found else None

    def deliveries(self, guest: Guest) -> list[tuple[int, bytes]]:
        """Number and body of what was delivered since the last time."""
        self.turn()
        return [(each.get(kinds.OFFSET), each.body) for each in guest.take(kinds.PUSH)]

    def command(self, guest: Guest, op: str, queue: str = "jobs", **more: Any) -> Any:  # Any: JSON
        """The reply to the kind ``queue``."""
        import msgspec

        seq = guest.send(kinds.QUEUE_KIND, queue, {"op": op, **more})
        self.turn()
        self.pass_time(0.3)
        answer = guest.answer(seq)
        guest.got.remove(answer)
        assert answer.kind == kinds.REPLY, answer
        return msgspec.json.decode(answer.body)


def _with(config: Config, **more: Any) -> Config:
    import msgspec

    return msgspec.structs.replace(config, **more)
