"""Queues of parts of the node, and every limit of queues."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.config import Config
from relay.config_queues import QueueLimits, QueueRule
from relay.config_store import Store
from relay.core.consumers import Delivery
from relay.core.queue_store import INBOX
from relay.records import Put, Settle
from relay.test.queue_fixture import QueueCore
from relay.wire import kinds
from relay.wire.message import Message

JOBS = QueueRule(pattern="jobs", lease_s=10, deliveries_max=3, backoff_s_min=1, backoff_s_max=4)


class Local(SynchronousTestCase):
    """Parts of the node as consumers."""

    def test_a_part_of_the_node(self):
        """It puts, takes, acknowledges and refuses without a session, also from reserved queues."""
        here = QueueCore()
        taken: list[Delivery] = []
        stored: list[Put] = []
        consumer = here.queues.consume("default", "$work", taken.append, 2)
        for n in range(3):
            here.queues.put("default", "$work", Message(kinds.PUSH, "w", b"%d" % n), stored.append)
        here.turn()
        self.assertEqual([(d.number, d.message.body, d.deliveries) for d in taken], [(1, b"0", 1), (2, b"1", 1)])
        self.assertEqual([put.number for put in stored], [1, 2, 3])
        settled: list[object] = []
        consumer.ack(1, settled.append)
        consumer.nack(2, 0.0)
        here.turn()
        self.assertEqual(settled, [None])
        self.assertEqual([(d.number, d.deliveries) for d in taken[2:]], [(3, 1), (2, 2)])
        self.assertRaises(errors.NotFound, consumer.ack, 1)
        consumer.close()
        here.turn()
        here.queues.consume("default", "$work", taken.append, 5)
        here.turn()
        self.assertEqual(sorted(d.number for d in taken[4:]), [2, 3])
        eve = here.guest("eve")
        for kind in (kinds.CONSUME, kinds.QUEUE_KIND):
            self.assertEqual(eve.answer(eve.send(kind, "$work", {"op": "info"})).kind, kinds.ERROR)
        self.assertEqual(here.put(eve, "$work").get(kinds.ERROR_CODE), errors.Denied.code)

    def test_a_part_that_fails(self):
        """What it raises is logged; the message comes again."""
        here = QueueCore(JOBS)
        calls = []

        def fail(delivery):
            calls.append(delivery.deliveries)
            raise ZeroDivisionError

        here.queues.consume("default", "jobs", fail, 1)
        here.queues.put("default", "jobs", Message(kinds.PUSH, "w"))
        here.pass_time(10)
        self.assertEqual(calls, [1, 2, 3])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)


class Limits(SynchronousTestCase):
    """Everything has one, and it is reached."""

    def error(self, guest, kind, name="jobs", body=None, **more):
        """The number of the error that must be the answer."""
        seq = guest.send(kind, name, body, **more)
        guest.core.turn()
        return guest.answer(seq).get(kinds.ERROR_CODE)

    def limited(self, *rules, **limits):
        return QueueCore(*(rules or (JOBS,)), config=Config(queue_limits=QueueLimits(**limits)))

    def test_queues(self):
        """``queues_max``: of puts and of consumers; temporary."""
        here = self.limited(queues_max=2)
        ann = here.guest("ann")
        here.put(ann, "a")
        here.put(ann, "b")
        answer = here.put(ann, "c")
        self.assertEqual((answer.get(kinds.ERROR_CODE), answer.get(kinds.TEMPORARY)), (errors.LimitExceeded.code, True))
        self.assertEqual(self.error(ann, kinds.CONSUME, "c"), errors.LimitExceeded.code)

    def test_inbox_bytes(self):
        """``store.user_bytes_max``: of one user's inbox; other users' and named queues are not counted."""
        here = QueueCore(JOBS, config=Config(store=Store(user_bytes_max=1500)))
        stored: list[Put] = []
        for name in (f"{INBOX}.bob", f"{INBOX}.bob", f"{INBOX}.eve", "jobs", "jobs"):
            here.queues.put("default", name, Message(kinds.PUSH, "w", bytes(1000)), stored.append)
            here.turn()
        errors_found = [type(put.error) for put in stored]
        self.assertEqual(errors_found, [type(None), errors.Full, *[type(None)] * 3])

    def test_consumers(self):
        """``queue_limits.consumers_max`` of a session, ``consumers_max`` of a queue."""
        here = self.limited(QueueRule(pattern="**", consumers_max=1), consumers_max=2)
        ann, bob = here.guest("ann"), here.guest("bob")
        for name in "ab":
            ann.send(kinds.CONSUME, name)
        self.assertEqual(self.error(ann, kinds.CONSUME, "c"), errors.LimitExceeded.code)
        self.assertEqual(self.error(bob, kinds.CONSUME, "a"), errors.LimitExceeded.code)
        self.assertNotIn(("default", "c"), here.queues.desk.queues)

    def test_credits_and_lease(self):
        """Wishes over ``credits_max`` and ``lease_s_max`` are cut to them, and the answer says so."""
        here = self.limited(credits_max=4)
        ann = here.guest("ann")
        fields = ann.answer(ann.send(kinds.CONSUME, "jobs", credits=10, lease_ms=10**9)).fields
        self.assertEqual(fields, {kinds.CREDITS: 4, kinds.LEASE_MS: 3_600_000})
        self.assertEqual(ann.answer(ann.send(kinds.CREDIT, "jobs", credits=9)).fields, {kinds.CREDITS: 4})

    def test_pending(self):
        """``pending_max`` and ``pending_bytes_max`` of puts under way; settlements under way stop delivering."""
        for limits, body in (({"pending_max": 2}, b""), ({"pending_bytes_max": 1000}, b"x" * 300)):
            here = QueueCore(JOBS, later=True, config=Config(queue_limits=QueueLimits(**limits)))
            here.later.advance()
            ann = here.guest("ann")
            for _ in range(3):
                ann.send(kinds.PUSH, "job", body, queue="jobs")
            self.assertEqual([m.get(kinds.ERROR_CODE) for m in ann.take(kinds.ERROR)], [errors.Full.code])
        here = QueueCore(JOBS, later=True, config=Config(queue_limits=QueueLimits(pending_max=2)))
        here.later.advance()
        ann, worker = here.guest("ann"), here.guest("w")
        worker.send(kinds.CONSUME, "jobs", credits=1)
        here.later.answer()
        for _ in range(2):
            for _ in range(2):
                ann.send(kinds.PUSH, "job", queue="jobs")
            here.turn()
            here.later.advance()
        for number in (1, 2):
            self.assertEqual([n for n, _ in here.deliveries(worker)], [number])
            worker.send(kinds.ACK, "jobs", offset=number, seq=0)
        self.assertEqual(here.deliveries(worker), [])
        here.later.advance()
        self.assertEqual([n for n, _ in here.deliveries(worker)], [3])

    def test_messages_and_bytes(self):
        """``messages_max`` and ``bytes_max`` of a queue; what has expired in the store makes room again."""
        for rule in (QueueRule(pattern="jobs", messages_max=3), QueueRule(pattern="jobs", bytes_max=3 * 180)):
            here = self.limited(rule)
            ann = here.guest("ann")
            for _ in range(3):
                self.assertEqual(here.put(ann, ttl_ms=1000).kind, kinds.REPLY)
            self.assertEqual(here.put(ann).get(kinds.ERROR_CODE), errors.Full.code)
            here.pass_time(12)
            self.assertEqual(here.put(ann).get(kinds.ERROR_CODE), errors.Full.code)
            self.assertEqual(here.put(ann).kind, kinds.REPLY)

    def test_retries(self):
        """With ``retries_max`` waiting for another delivery, others wait, too."""
        here = self.limited(msgspec.structs.replace(JOBS, retries_max=2))
        ann, worker = here.guest("ann"), here.worker(credits=1)
        for _ in range(3):
            here.put(ann)
        for number in (1, 2):
            self.assertEqual([n for n, _ in here.deliveries(worker)], [number])
            worker.send(kinds.NACK, "jobs", {"delay_ms": 3000}, offset=number, seq=0)
        self.assertEqual(here.deliveries(worker), [])
        here.pass_time(3.2)
        self.assertEqual([n for n, _ in here.deliveries(worker)], [3])

    def test_window_bytes(self):
        """``window_bytes``: large messages are read a few at a time."""
        here = self.limited(QueueRule(pattern="jobs", window=64, window_bytes=1000))
        ann = here.guest("ann")
        for _ in range(20):
            here.put(ann, body=b"x" * 600)
        worker = here.worker(credits=1)
        window = here.queues.desk.find("default", "jobs").window
        for _ in range(5):
            here.put(ann, body=b"x" * 600)
        self.assertEqual(len(here.deliveries(worker)), 1)
        self.assertLessEqual(window.counts[0], 64)

    def test_held_bytes(self):
        """``held_bytes_max``: who holds that much gets no more, whatever the credit; what is settled makes room."""
        here = self.limited(msgspec.structs.replace(JOBS, held_bytes_max=1000))
        ann, worker = here.guest("ann"), here.worker(credits=100)
        for _ in range(4):
            here.put(ann, body=b"x" * 600)
        self.assertEqual([n for n, _ in here.deliveries(worker)], [1, 2])
        worker.send(kinds.ACK, "jobs", offset=1, seq=0)
        self.assertEqual([n for n, _ in here.deliveries(worker)], [3])
        worker.send(kinds.NACK, "jobs", {"offsets": [2, 3], "delay_ms": 60_000}, seq=0)
        self.assertEqual([n for n, _ in here.deliveries(worker)], [4])
        (consumer,) = here.queues.sessions._sessions[worker.connection.session].values()
        worker.send(kinds.ACK, "jobs", offset=4, seq=0)
        self.assertEqual((consumer.held_bytes, consumer.held), (0, {}))

    def test_memory(self):
        """``memory_bytes_max``: with that much in memory each consumer holds one, and every queue goes on."""
        here = self.limited(QueueRule(pattern="**"), memory_bytes_max=3000)
        ann = here.guest("ann")
        for name in ("one", "two"):
            for _ in range(8):
                here.put(ann, name, b"x" * 600)
        memory = here.queues.desk.memory
        greedy = here.worker("one", credits=100)
        here.pass_time(1)
        first = [n for n, _ in here.deliveries(greedy)]
        self.assertGreaterEqual(memory.bytes, 3000)
        self.assertLess(len(first), 8)
        other = here.worker("two", credits=100)
        seen = []
        for _ in range(8):
            here.pass_time(0.2)
            new = [n for n, _ in here.deliveries(other)]
            self.assertEqual(len(new), 1)
            seen += new
            other.send(kinds.ACK, "two", offset=new[0], seq=0)
        self.assertEqual(seen, list(range(1, 9)))
        for _ in range(8):
            for number in first:
                greedy.send(kinds.ACK, "one", offset=number, seq=0)
            here.pass_time(0.5)
            first = [n for n, _ in here.deliveries(greedy)]
        here.turn()
        self.assertEqual(memory.bytes, 0)
        here.sessions.end(greedy.connection.session, "test")
        self.assertEqual(memory.bytes, 0)

    def test_reads_are_small(self):
        """The store is asked for so many messages as have about the bytes that are wanted."""
        asked: list[int] = []
        here = QueueCore(QueueRule(pattern="jobs", window=64, window_bytes=10_000))
        load = here.queue_store.load

        def noted(realm, queue, after, limit, dead, done):
            asked.append(limit)
            load(realm, queue, after, limit, dead, done)

        self.patch(here.queue_store, "load", noted)
        ann = here.guest("ann")
        for _ in range(40):
            here.put(ann, body=b"x" * 1800)
        here.worker(credits=1)
        self.assertEqual(set(asked), {5})
        self.assertEqual(len(here.command(ann, "peek", limit=1000)["messages"]), 40)
        self.assertLessEqual(max(asked), 200)

    def test_large_messages(self):
        """A read that the store ends early, for its bytes, is not the end of the queue."""
        here = self.limited(QueueRule(pattern="jobs", window=64, window_bytes=1 << 26))
        ann = here.guest("ann")
        for number in range(12):
            here.put(ann, body=b"%2d" % number + bytes(1 << 20))
        worker = here.worker(credits=1)
        seen = []
        for _ in range(12):
            for number, body in here.deliveries(worker):
                seen.append(body[:2])
                worker.send(kinds.ACK, "jobs", offset=number, seq=0)
        self.assertEqual(seen, [b"%2d" % number for number in range(12)])

    def test_a_long_line(self):
        """One ordering key with much behind it: what is read of the store grows with the messages, not with their
        square; other keys behind it are served meanwhile."""
        here = self.limited(QueueRule(pattern="jobs", window=16))
        read = []
        load = here.queue_store.load

        def noted(realm, queue, after, limit, dead, done):
            def counted(items):
                read.append(len(items))
                done(items)

            load(realm, queue, after, limit, dead, counted)

        self.patch(here.queue_store, "load", noted)
        ann = here.guest("ann")
        for number in range(600):
            here.put(ann, body=b"%d" % number, ordering_key="long")
        for number in range(6):
            here.put(ann, body=b"other", ordering_key=f"other{number % 3}")
        worker = here.worker(credits=4)
        seen = []
        while delivered := here.deliveries(worker):
            for number, body in delivered:
                seen.append(body)
                worker.send(kinds.ACK, "jobs", offset=number, seq=0)
        self.assertEqual([each for each in seen if each != b"other"], [b"%d" % number for number in range(600)])
        self.assertEqual(seen[:12].count(b"other"), 6)
        self.assertLess(sum(read), 8 * 600)

    def test_early_bytes(self):
        """What waits for the start is bounded in bytes, too."""
        early = QueueCore(JOBS, later=True, config=Config(queue_limits=QueueLimits(pending_bytes_max=1000)))
        ann = early.guest("ann")
        for _ in range(3):
            ann.send(kinds.PUSH, "job", b"x" * 400, queue="jobs")
        self.assertEqual([m.get(kinds.ERROR_CODE) for m in ann.take(kinds.ERROR)], [errors.Unavailable.code])

    def test_offsets(self):
        """``offsets_max`` of one ack and of one command."""
        here = self.limited(offsets_max=2)
        ann, worker = here.guest("ann"), here.worker()
        body = {"offsets": [1, 2, 3]}
        self.assertEqual(self.error(worker, kinds.ACK, "jobs", body), errors.LimitExceeded.code)
        self.assertEqual(self.error(ann, kinds.QUEUE_KIND, "jobs", {"op": "remove", **body}), errors.LimitExceeded.code)

    def test_times(self):
        """``delay_s_max`` of deliver_at; priorities, levels and keys at their limits."""
        here = self.limited(msgspec.structs.replace(JOBS, delay_s_max=10))
        ann = here.guest("ann")
        now = int(here.hub.wall() * 1000)
        bad = errors.BadBody.code
        for more, code in (
            ({"deliver_at": now + 10_000}, None), ({"deliver_at": now + 11_000}, errors.LimitExceeded.code),
            ({"priority": 2}, None), ({"priority": 3}, bad), ({"level": 3}, bad), ({"level": 2}, bad),
            ({"ordering_key": "k" * 255}, None), ({"ordering_key": "k" * 256}, bad),
            ({"level": 2, "idempotency_key": "k" * 255}, None), ({"idempotency_key": "k" * 256}, bad),
            ({"ttl_ms": 2**64 - 1}, None),
        ):  # fmt: skip
            self.assertEqual(here.put(ann, **more).get(kinds.ERROR_CODE), code, more)

    def test_settles_of_unknown_are_harmless(self):
        """A store that has a message no more says NotFound; that is no error for who acknowledges."""
        here = self.limited()
        ann, worker = here.guest("ann"), here.worker()
        here.put(ann)
        here.deliveries(worker)
        here.queue_store.settle([Settle("default", "jobs", 1, 0)], None)
        seq = worker.send(kinds.ACK, "jobs", offset=1)
        here.turn()
        self.assertEqual(worker.answer(seq).kind, kinds.REPLY)
