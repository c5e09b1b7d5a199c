"""What a queue promises, as a checker beside the real thing: the core, a slow store, consumers that come and go.

    python -m relay.test.queue_model [--examples 5000] [--seed N] [--json]

``Run`` carries out a list of steps and keeps its own record. After each it checks of every delivery:

- it is a message that somebody put, not one whose acknowledgement was answered, and nobody else holds it;
- it says the how manieth it is, counted from what the store knew at the last start, and not more than the most allowed;
- no earlier message of its ordering key, of those that were due from the start, is still to be done.

At the end, with one consumer that acknowledges everything, nothing is left, and what was answered is
acknowledged or dead.
"""

from __future__ import annotations

import argparse
import random
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from relay.config_queues import QueueRule
from relay.core.queue_window import LEASED
from relay.test.core_fixture import Guest
from relay.test.node_process import report
from relay.test.queue_fixture import QueueCore
from relay.wire import kinds

DELIVERIES_MAX: Final = 4
RULE: Final = QueueRule(
    pattern="jobs", window=8, lease_s=5, deliveries_max=DELIVERIES_MAX, backoff_s_min=1, backoff_s_max=4, retries_max=6
)
WORKERS: Final = 3

_workers = st.integers(0, WORKERS - 1)
_keys = st.sampled_from(["", "", "a", "b"])
_which = st.integers(0, 7)

STEPS: Final = st.one_of(
    st.tuples(st.just("put"), _keys, st.sampled_from([0, 0, 0, 2, 6]), st.integers(0, 2), st.integers(1, 12)),
    st.tuples(st.just("put"), st.sampled_from("ab"), st.just(0), st.integers(0, 2), st.integers(6, 30)),
    st.tuples(st.just("consume"), _workers, st.integers(1, 5)),
    st.tuples(st.just("unconsume"), _workers),
    st.tuples(st.just("vanish"), _workers),
    st.tuples(st.just("away"), _workers),
    st.tuples(st.just("back"), _workers),
    st.tuples(st.just("ack"), _workers, _which, st.booleans()),
    st.tuples(st.just("nack"), _workers, _which, st.sampled_from([None, 0, 3000, "dead"])),
    st.tuples(st.just("time"), st.sampled_from([0.1, 1.0, 3.0, 6.0])),
    st.tuples(st.just("store"), st.integers(1, 4)),
    st.tuples(st.just("store"), st.just(None)),
    st.tuples(st.just("answer")),
    st.tuples(st.just("storm"), _workers),
    st.tuples(st.just("crash")),
)


class Worker:
    """One consumer's session. ``held``: what it was given and has not settled."""

    def __init__(self, guest: Guest, welcome: Any) -> None:  # Any: Welcome
        self.guest = guest
        self.welcome = welcome
        self.received = 0
        self.held: dict[int, int] = {}
        self.away: set[int] = set()  # what it held when it went away: nobody else may get that
        self.asked: dict[int, int] = {}


class Run:
    """One history. Raises AssertionError where a promise is broken."""

    def __init__(self) -> None:
        self.core = QueueCore(RULE, later=True)
        self._store_all()
        self.workers: dict[int, Worker] = {}
        self.producer = self.core.guest("ann")
        self.puts: dict[int, tuple[str, bool, int]] = {}  # by seq of the put, until it is answered
        self.known: dict[int, tuple[str, bool]] = {}  # by number: key, due from the start
        self.bodies = 0
        self.kinds: dict[bytes, tuple[str, bool]] = {}  # by body, which no two messages share
        self.counts: dict[int, int] = {}
        self.done: set[int] = set()  # acknowledged or dead, as far as consumers know
        self.certain: set[int] = set()  # answered as acknowledged
        self.dead: set[int] = set()
        self.deliveries = 0

    # --- steps ----------------------------------------------------------------------------------------------------

    def step(self, name: str, *args: Any) -> None:
        """One step, and the checks."""
        getattr(self, f"_{name}")(*args)
        self._look()

    def _put(self, key: str, delay_s: int, priority: int, times: int) -> None:
        for _ in range(times):
            self.bodies += 1
            more: dict[str, Any] = {"ordering_key": key} if key else {}
            if delay_s:
                more["deliver_at"] = int(self.core.hub.wall() * 1000) + delay_s * 1000
            body = str(self.bodies).encode()
            self.kinds[body] = (key, not delay_s)
            seq = self.producer.send(kinds.PUSH, "job", body, queue="jobs", priority=priority, **more)
            self.puts[seq] = (key, not delay_s, self.bodies)

    def _consume(self, who: int, credits: int) -> None:
        worker = self.workers.get(who)
        if worker is None:
            guest = Guest(self.core)
            welcome = guest.hello(user=f"w{who}", features=["resume"])
            worker = self.workers[who] = Worker(guest, welcome)
        if worker.guest.connection.session is not None:
            worker.guest.send(kinds.CONSUME, "jobs", credits=credits)

    def _unconsume(self, who: int) -> None:
        worker = self.workers.get(who)
        if worker is not None and worker.guest.connection.session is not None:
            worker.guest.send(kinds.UNCONSUME, "jobs")

    def _vanish(self, who: int) -> None:
        worker = self.workers.pop(who, None)
        if worker is not None:
            session = self.core.hub.sessions.get(worker.welcome.session)
            if session is not None:
                self.core.sessions.end(session, "test")

    def _away(self, who: int) -> None:
        worker = self.workers.get(who)
        if worker is not None and worker.guest.connection.session is not None:
            worker.away = {number for number in worker.held if self._is_holder(worker, number, leased=True)}
            worker.guest.vanish()

    def _back(self, who: int) -> None:
        worker = self.workers.get(who)
        if worker is None or worker.guest.connection.session is not None:
            return
        guest = Guest(self.core)
        guest.seq = worker.guest.seq
        resume = {"session": worker.welcome.session, "secret": worker.welcome.secret, "received": worker.received}
        welcome = guest.hello(user=f"w{who}", features=["resume"], resume=resume)
        worker.guest = guest
        worker.away = set()
        if not welcome.resumed:
            self.workers[who] = Worker(guest, welcome)

    def _ack(self, who: int, which: int, answered: bool) -> None:
        found = self._one(who, which)
        if found is not None:
            worker, number = found
            del worker.held[number]
            seq = worker.guest.send(kinds.ACK, "jobs", offset=number, **({} if answered else {"seq": 0}))
            if answered:
                worker.asked[seq] = number
            self.done.add(number)

    def _nack(self, who: int, which: int, how: Any) -> None:
        found = self._one(who, which)
        if found is not None:
            worker, number = found
            del worker.held[number]
            body = {} if how is None else {"dead": True} if how == "dead" else {"delay_ms": how}
            worker.guest.send(kinds.NACK, "jobs", body, offset=number, seq=0)
            if how == "dead" or self.counts[number] >= DELIVERIES_MAX:
                self.done.add(number)

    def _storm(self, who: int) -> None:
        """A consumer that refuses whatever it gets."""
        self._consume(who, 5)
        for _ in range(6):
            self._store_all()
            self._look()
            worker = self.workers.get(who)
            for _ in range(len(worker.held) if worker is not None else 0):
                self._nack(who, 0, 0)

    def _one(self, who: int, which: int) -> tuple[Worker, int] | None:
        worker = self.workers.get(who)
        if worker is None or worker.guest.connection.session is None or not worker.held:
            return None
        # What it held for longer than the lease may be somebody else's by now: a real one would be told so.
        numbers = [number for number in worker.held if self._is_holder(worker, number)]
        return (worker, numbers[which % len(numbers)]) if numbers else None

    def _is_holder(self, worker: Worker, number: int, leased: bool = False) -> bool:
        """Whether a worker has a message, or had it last; ``leased``: and its lease runs."""
        queue = self.core.queues.desk.find("default", "jobs")
        entry = queue.window.entries.get(number) if queue is not None and queue.window is not None else None
        consumer: Any = entry.consumer if entry is not None else None
        if entry is None or consumer is None or (leased and entry.state != LEASED):
            return False
        return consumer.session is worker.guest.connection.session

    def _time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.core.pass_time(0.1)
            self._look()

    def _store(self, steps: int | None) -> None:
        self.core.clock.advance(0)
        self.core.later.advance(steps)

    def _answer(self) -> None:
        self.core.later.answer()

    def _store_all(self) -> None:
        for _ in range(40):
            self.core.clock.advance(0)
            if not self.core.later.waiting and not self.core.later.reads:
                return
            self.core.later.advance()
            self.core.later.answer()
        raise AssertionError("the queue never stops asking the store")

    def _crash(self) -> None:
        """Everything is lost but what the store has done."""
        self._look()
        store = self.core.queue_store
        now = self.core.now
        self.core = QueueCore(RULE, later=True, store=store)
        self.core.clock.rightNow = now
        self.core.hub.wheel.start()
        self._store_all()
        self.workers.clear()
        self.puts.clear()
        self.producer = self.core.guest("ann")
        waiting, dead = self._stored(False), self._stored(True)
        self.counts = {each.number: each.deliveries for each in waiting}
        self.dead = {each.number for each in dead}
        lost = [number for number in self.known if number not in self.done | self.dead | set(self.counts)]
        assert not lost, f"acknowledged messages are gone: {lost}"
        assert not self.certain & set(self.counts), "an acknowledgement that was answered is undone"
        for each in waiting:
            self.known[each.number] = self.kinds[_body(each)]
        self.done -= set(self.counts)

    def _stored(self, dead: bool) -> list[Any]:  # Any: Item
        found: list[Any] = []
        keep: Any = found.extend
        self.core.queue_store.load("default", "jobs", 0, 100_000, dead, keep)
        return found

    # --- checks ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        for message in self.producer.take():
            if message.kind == kinds.REPLY and message.seq in self.puts:
                key, at_once, _ = self.puts.pop(message.seq)
                self.known[message.get(kinds.OFFSET)] = (key, at_once)
            assert message.kind != kinds.ERROR, message
        for worker in list(self.workers.values()):
            for message in worker.guest.take():
                worker.received += message.kind >= kinds.SESSION_KIND_MIN
                if message.kind == kinds.PUSH:
                    self._delivered(worker, message)
                elif message.kind == kinds.REPLY and message.seq in worker.asked:
                    self.certain.add(worker.asked.pop(message.seq))

    def _delivered(self, worker: Worker, message: Any) -> None:  # Any: Message
        self.deliveries += 1
        number = message.get(kinds.OFFSET)
        assert message.body in self.kinds, f"{message.body!r} was never put"
        key, at_once = self.known.setdefault(number, self.kinds[message.body])
        assert number not in self.certain, f"{number} was acknowledged for certain"
        count = self.counts.get(number, 0) + 1
        self.counts[number] = count
        assert message.get(kinds.DELIVERIES) == count, (number, message.get(kinds.DELIVERIES), count)
        assert count <= DELIVERIES_MAX, number
        for other in self.workers.values():
            there = other.welcome.session in self.core.hub.sessions
            assert not (there and number in other.away), f"{number} was given away while its holder was away"
            if number in other.held:
                # Only one whose lease was over.
                assert not self._is_holder(other, number) or other is worker, f"{number} is held by another"
                del other.held[number]
        if key and at_once:
            behind = [
                each for each, (its_key, its_time) in self.known.items()
                if each < number and its_key == key and its_time and each not in self.done and not self._is_dead(each)
            ]  # fmt: skip
            assert not behind, f"{number} came before {behind} of the key {key}"
        worker.held[number] = count

    def _is_dead(self, number: int) -> bool:
        """Given up by the queue: after too many deliveries, whoever noticed."""
        return number in self.dead or (
            self.counts.get(number, 0) >= DELIVERIES_MAX
            and not any(number in each.held and self._is_holder(each, number) for each in self.workers.values())
        )

    def finish(self) -> None:
        """No more faults: everything that was answered is acknowledged or dead in the end."""
        self._store_all()
        self._look()
        for who in list(self.workers):
            self._vanish(who)
            self._look()
        self._consume(0, 20)
        for _ in range(300):
            self._store_all()
            self._look()
            for number in list(self.workers[0].held):
                del self.workers[0].held[number]
                self.workers[0].guest.send(kinds.ACK, "jobs", offset=number, seq=0)
                self.done.add(number)
            self.core.pass_time(0.2)
            self._look()
            if not self._stored(False) and not self.workers[0].held:
                break
        left = [each.number for each in self._stored(False)]
        assert not left, f"never delivered: {left}"
        dead = {each.number for each in self._stored(True)}
        lost = set(self.known) - self.done - dead
        assert not lost, f"neither acknowledged nor dead: {lost}"
        self._store_all()
        queue = self.core.queues.desk.find("default", "jobs")
        assert queue is not None
        assert (queue.waiting, queue.dead, queue.settling, queue.putting) == (0, len(dead), 0, 0), queue.waiting
        assert self.core.queues.desk.settling == self.core.queues.desk.putting == 0
        window = queue.window
        assert window is not None and not window.entries and not window.gone and not window.bytes
        assert not window.total and not self.core.queues.desk.memory.bytes


def _body(item: Any) -> bytes:  # Any: Item
    from relay.wire.binary import decode_frame

    return decode_frame(item.frame).body


def run(steps: list[Any]) -> Run:  # Any: STEPS
    """Carry out ``steps`` and the end."""
    history = Run()
    for each in steps:
        history.step(*each)
    history.finish()
    return history


def campaign(examples: int, seed: int) -> dict[str, Any]:  # Any: JSON
    """Many histories; the figures. Stops at the first that breaks a promise, with its steps."""
    drawn = deliveries = messages = 0
    failure = ""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @hypothesis_seed(seed)
    @given(st.lists(STEPS, min_size=30, max_size=120))
    def histories(steps: list[Any]) -> None:  # Any: STEPS
        nonlocal drawn, deliveries, messages
        found = run(steps)
        drawn += 1
        deliveries += found.deliveries
        messages += len(found.known)

    try:
        histories()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the figure that counts
        failure = f"{type(error).__name__}: {error}"
    return {
        "histories": drawn, "messages": messages, "deliveries": deliveries, "seed": seed, "failure": failure,
        "ok": not failure,
    }  # fmt: skip


def main() -> int:
    """The command; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description="Check queues against a model in random histories.")
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return report(campaign(asked.examples, asked.seed), asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
