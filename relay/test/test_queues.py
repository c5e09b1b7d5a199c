"""Consumers of queues: credit, turns, leases, redelivery, order, resume."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.config import Config
from relay.config_queues import QueueLimits, QueueRule
from relay.test.core_fixture import Guest
from relay.test.queue_fixture import QueueCore
from relay.wire import kinds

JOBS = QueueRule(pattern="jobs", lease_s=10, deliveries_max=3, backoff_s_min=1, backoff_s_max=4)


def core(rule=JOBS, **more):
    """A core with one rule, for the queue ``jobs``; keywords change the rule."""
    return QueueCore(msgspec.structs.replace(rule, **more))


class Delivering(SynchronousTestCase):
    """Who gets what, and when."""

    def setUp(self):
        self.core = core()
        self.ann = self.core.guest("ann")

    def put(self, *bodies, **more):
        """Put messages; their numbers."""
        return [self.core.put(self.ann, body=body, **more).get(kinds.OFFSET) for body in bodies]

    def test_a_delivery(self):
        """A push without seq, as it was put, with what is needed to settle it."""
        worker = self.core.worker(lease_ms=2500)
        self.put(b"body", name="job.new", metadata={"k": "v"}, ordering_key="o", ttl_ms=60_000)
        (message,) = worker.take(kinds.PUSH)
        self.assertEqual((message.name, message.body, message.seq), ("job.new", b"body", 0))
        expected = {
            "queue": "jobs", "offset": 1, "deliveries": 1, "lease_ms": 2500, "accepted_at": 10**12, "from_user": "ann",
            "metadata": {"k": "v"}, "ordering_key": "o", "ttl_ms": 60_000,
            "from_session": self.ann.connection.session.id,
        }  # fmt: skip
        self.assertEqual({kinds.FIELDS[key][0]: value for key, value in message.fields.items()}, expected)

    def test_credit(self):
        """A consumer holds at most ``credits``; ack, nack and ``credit`` make room."""
        worker = self.core.worker(credits=2)
        self.put(b"1", b"2", b"3", b"4", b"5")
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [1, 2])
        worker.send(kinds.ACK, "jobs", offset=1)
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [3])
        worker.send(kinds.NACK, "jobs", {"delay_ms": 60_000}, offset=2)
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [4])
        worker.send(kinds.CREDIT, "jobs", credits=5)
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [5])
        answer = worker.send(kinds.CONSUME, "jobs", credits=1)
        self.assertEqual(worker.answer(answer).fields, {kinds.CREDITS: 1, kinds.LEASE_MS: 10_000})

    def test_in_turn(self):
        """Consumers with credit are served one after the other, whatever their credit."""
        many, few = self.core.worker(credits=10), self.core.worker(credits=2)
        self.put(*[b"x"] * 6)
        self.assertEqual([n for n, _ in self.core.deliveries(many)], [1, 3, 5, 6])
        self.assertEqual([n for n, _ in self.core.deliveries(few)], [2, 4])

    def test_what_was_there_before(self):
        """Messages wait for the first consumer; more than the window are read as they are taken."""
        self.core = core(window=8)
        self.ann = self.core.guest("ann")
        self.put(*[b"x"] * 30)
        self.assertIsNone(self.core.queues.desk.find("default", "jobs").window)
        worker = self.core.worker(credits=3)
        self.assertLessEqual(len(self.core.queues.desk.find("default", "jobs").window.entries), 8 + 3)
        seen = []
        for _ in range(30):
            new = [n for n, _ in self.core.deliveries(worker)]
            seen += new
            for number in new:
                worker.send(kinds.ACK, "jobs", offset=number, seq=0)
        self.assertEqual(seen, list(range(1, 31)))
        self.assertEqual(self.core.command(self.ann, "info")["waiting"], 0)

    def test_priority(self):
        """Level 0 goes first, 1 is the default, 2 last; an urgent one overtakes what is not read yet."""
        self.core = core(window=8)
        self.ann = self.core.guest("ann")
        worker = self.core.worker(credits=1)
        self.put(b"first")
        self.put(b"low", priority=2)
        self.put(*[b"x"] * 20)
        (urgent,) = self.put(b"urgent", priority=0)
        self.core.deliveries(worker)
        worker.send(kinds.ACK, "jobs", offset=1)
        self.assertEqual(self.core.deliveries(worker), [(urgent, b"urgent")])
        worker.send(kinds.ACK, "jobs", offset=urgent)
        self.assertEqual(self.core.deliveries(worker), [(3, b"x")])

    def test_order_per_key(self):
        """While one message of a key is held or waits for another delivery, no later one of the key is delivered."""
        worker = self.core.worker()
        self.put(b"a1", b"a2", ordering_key="a")
        self.put(b"b1", ordering_key="b")
        self.assertEqual([body for _, body in self.core.deliveries(worker)], [b"a1", b"b1"])
        worker.send(kinds.NACK, "jobs", {"delay_ms": 3000}, offset=1)
        self.core.pass_time(2.5)
        self.assertEqual(self.core.deliveries(worker), [])
        self.core.pass_time(1)
        self.assertEqual([body for _, body in self.core.deliveries(worker)], [b"a1"])
        worker.send(kinds.ACK, "jobs", offset=1)
        self.assertEqual([body for _, body in self.core.deliveries(worker)], [b"a2"])

    def test_deliver_at(self):
        """Not before its time, and others are not held back; also when far more are scheduled than the window holds."""
        self.core = core(window=8)
        self.ann = self.core.guest("ann")
        worker = self.core.worker(credits=100)
        now = int(self.core.hub.wall() * 1000)
        for n in range(30):
            self.put(b"%d" % n, deliver_at=now + 10_000 - n * 200)
        self.put(b"now")
        self.assertEqual([body for _, body in self.core.deliveries(worker)], [b"now"])
        seen = []
        for _ in range(110):
            self.core.pass_time(0.1)
            for _, body in self.core.deliveries(worker):
                early_ms = now + 10_000 - int(body) * 200 - int(self.core.hub.wall() * 1000)
                self.assertLessEqual(early_ms, 0)
                seen.append(int(body))
        self.assertEqual(seen, list(reversed(range(30))))

    def test_expiry(self):
        """What has expired is not delivered; the time counts from when it is due, the rule's is the longest."""
        self.core = core(ttl_s=5)
        self.ann = self.core.guest("ann")
        self.put(b"1000 ms", ttl_ms=1000)
        self.put(b"rule", ttl_ms=60_000)
        self.put(b"later", deliver_at=int(self.core.hub.wall() * 1000) + 6000)
        self.core.pass_time(2)
        worker = self.core.worker(credits=1)
        self.assertEqual(self.core.deliveries(worker), [(2, b"rule")])
        self.put(b"expires in the window", ttl_ms=500)
        self.core.pass_time(5)
        worker.send(kinds.ACK, "jobs", offset=2)
        self.assertEqual(self.core.deliveries(worker), [(3, b"later")])
        worker.send(kinds.ACK, "jobs", offset=3)
        self.core.turn()
        self.assertEqual(self.core.command(self.ann, "info")["waiting"], 0)
        self.assertGreaterEqual(self.core.hub.metrics.queue_expired, 1)

    def test_filters_are_undone(self):
        """A consumer that did not negotiate a message's filters gets it without; one that is broken is dead."""
        from relay.wire.filters import wrap

        worker = self.core.worker()
        self.put(wrap(b"plain", (kinds.GZIP,)), filters=(kinds.GZIP,))
        self.put(b"no gzip", filters=(kinds.GZIP,))
        self.assertEqual(self.core.deliveries(worker), [(1, b"plain")])
        (dead,) = self.core.command(self.ann, "dead")["messages"]
        self.assertTrue(dead["reason"].startswith("it cannot be delivered: "), dead["reason"])


class Settling(SynchronousTestCase):
    """What becomes of deliveries."""

    def setUp(self):
        self.core = core()
        self.ann = self.core.guest("ann")
        self.worker = self.core.worker()

    def put(self, count=1):
        for _ in range(count):
            self.core.put(self.ann)
        return [number for number, _ in self.core.deliveries(self.worker)]

    def answer(self, guest, kind, body=None, **more):
        """The answer to an ack or nack."""
        seq = guest.send(kind, "jobs", body, **more)
        self.core.turn()
        return guest.answer(seq)

    def test_ack_is_answered_when_stored(self):
        """With seq the reply comes after the store's; without there is none."""
        self.core = QueueCore(JOBS, later=True)
        self.core.later.advance()
        ann, worker = self.core.guest("ann"), self.core.guest("bob")
        worker.send(kinds.CONSUME, "jobs", credits=5)
        self.core.later.answer()
        ann.send(kinds.PUSH, "job", queue="jobs")
        self.core.turn()
        self.assertEqual(ann.take(), [])
        self.core.later.advance()
        self.assertEqual([m.kind for m in ann.take()], [kinds.REPLY])
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [1])
        worker.send(kinds.ACK, "jobs", offset=1)
        self.core.turn()
        self.assertEqual(worker.take(), [])
        self.core.later.advance()
        self.assertEqual([m.kind for m in worker.take()], [kinds.REPLY])

    def test_many_at_once(self):
        """One ack for several; those that are not held are named."""
        self.put(3)
        self.assertEqual(msgspec.json.decode(self.answer(self.worker, kinds.ACK, {"offsets": [1, 2, 9]}).body),
                         {"missing": [9]})  # fmt: skip
        self.assertEqual(self.core.command(self.ann, "info")["waiting"], 1)
        self.assertEqual(self.answer(self.worker, kinds.ACK, {"offsets": [3]}).kind, kinds.REPLY)

    def test_back_off(self):
        """The wait doubles with each delivery, up to its limit; the last delivery is followed by none."""
        self.core = core(deliveries_max=5)
        self.ann, self.worker = self.core.guest("ann"), self.core.worker()
        self.put()
        waits = []
        for _ in range(4):
            self.worker.send(kinds.NACK, "jobs", {"reason": "broken"}, offset=1, seq=0)
            at = self.core.now
            while not self.core.deliveries(self.worker):
                self.core.pass_time(0.05)
            waits.append(round(self.core.now - at))
        self.assertEqual(waits, [1, 2, 4, 4])
        self.worker.send(kinds.NACK, "jobs", {"reason": "broken"}, offset=1, seq=0)
        self.core.pass_time(20)
        self.assertEqual(self.core.deliveries(self.worker), [])
        (dead,) = self.core.command(self.ann, "dead")["messages"]
        self.assertEqual((dead["deliveries"], dead["reason"]), (5, "broken, delivery 5"))

    def test_lease(self):
        """After the lease somebody else gets it; who was late is told, and gets no more until then."""
        self.core = core(backoff_s_min=0)
        self.ann, self.worker = self.core.guest("ann"), self.core.worker(credits=1)
        self.assertEqual(self.put(2), [1])
        other = self.core.worker(credits=1)
        self.assertEqual(self.core.deliveries(other), [(2, b"x")])
        other.send(kinds.ACK, "jobs", offset=2, seq=0)
        self.core.pass_time(9.9)
        self.assertEqual(self.core.deliveries(other), [])
        self.core.pass_time(0.2)
        (again,) = other.take(kinds.PUSH)
        self.assertEqual((again.get(kinds.OFFSET), again.get(kinds.DELIVERIES)), (1, 2))
        self.core.put(self.ann)
        self.assertEqual(self.core.deliveries(self.worker), [])
        late = self.answer(self.worker, kinds.ACK, offset=1)
        self.assertEqual(late.get(kinds.ERROR_CODE), errors.NotFound.code)
        self.assertEqual([n for n, _ in self.core.deliveries(self.worker)], [3])

    def test_late_ack(self):
        """While it waits for another delivery, an ack of who had it is taken."""
        self.put()
        self.core.pass_time(10.2)
        self.assertEqual(self.answer(self.worker, kinds.ACK, offset=1).kind, kinds.REPLY)
        self.core.pass_time(5)
        self.assertEqual(self.core.deliveries(self.worker), [])

    def test_released(self):
        """Given back unseen: at once, and it does not count."""
        self.put()
        for _ in range(5):
            self.worker.send(kinds.NACK, "jobs", {"released": True}, offset=1, seq=0)
            self.core.turn()
            (again,) = self.worker.take(kinds.PUSH)
            self.assertEqual(again.get(kinds.DELIVERIES), 1)

    def test_dead_letters(self):
        """The rule's channel gets the body, and in the metadata why; also when the message's own leaves no room."""
        self.core = core(dead_letter="dead.jobs")
        self.ann, self.worker = self.core.guest("ann"), self.core.worker()
        self.ann.send(kinds.SUBSCRIBE, "dead.jobs")
        self.ann.got.clear()
        for metadata in ({"k": "v"}, {"k": "v" * 8100}):
            self.core.put(self.ann, body=b"body", metadata=metadata)
        self.core.turn()
        self.worker.send(kinds.NACK, "jobs", {"offsets": [1, 2], "dead": True, "reason": "bad"})
        self.core.turn()
        one, other = (m for m in self.ann.got if m.kind == kinds.EVENT)
        metadata = one.get(kinds.METADATA)
        self.assertEqual((one.name, one.body, metadata.pop("k")), ("dead.jobs", b"body", "v"))
        expected = {"reason": "bad", "queue": "jobs", "offset": "1", "name": "job", "deliveries": "1", "user": "ann"}
        self.assertEqual(metadata, {f"dead.{key}": value for key, value in expected.items()})
        self.assertEqual(other.get(kinds.METADATA)["dead.offset"], "2")

    def test_a_settlement_that_failed(self):
        """The store could not take an ack: who waits hears, and the message comes again."""
        self.core = QueueCore(JOBS, later=True)
        self.core.later.advance()
        ann, worker = self.core.guest("ann"), self.core.guest("bob")
        worker.send(kinds.CONSUME, "jobs", credits=5)
        ann.send(kinds.PUSH, "job", queue="jobs")
        self.answer_all()
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [1])
        self.core.later.error = errors.Full("the disk is full")
        seq = worker.send(kinds.ACK, "jobs", offset=1)
        self.answer_all()
        self.assertEqual(worker.answer(seq).get(kinds.ERROR_CODE), errors.Full.code)
        failed = ann.send(kinds.PUSH, "job", queue="jobs")
        self.answer_all()
        self.assertEqual(ann.answer(failed).get(kinds.OUTCOME), "not_done")
        self.core.later.error = None
        self.core.pass_time(2)
        self.answer_all()
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [1])
        self.flushLoggedErrors()

    def answer_all(self):
        for _ in range(4):
            self.core.turn()
            self.core.later.advance()
            self.core.later.answer()

    def test_refused(self):
        """What makes no sense is refused, and nothing happens."""
        self.put()
        stranger = self.core.guest("eve")
        for guest, kind, body, more in (
            (stranger, kinds.ACK, None, {"offset": 1}),
            (stranger, kinds.CREDIT, None, {"credits": 1}),
            (stranger, kinds.UNCONSUME, None, {}),
            (self.worker, kinds.ACK, None, {}),
            (self.worker, kinds.ACK, None, {"offset": 7}),
            (self.worker, kinds.NACK, {"delay_ms": -1}, {"offset": 1}),
            (self.worker, kinds.NACK, {"delay_ms": 10**12}, {"offset": 1}),
            (self.worker, kinds.NACK, {"offsets": "all"}, {}),
        ):
            self.assertEqual(self.answer(guest, kind, body, **more).kind, kinds.ERROR, (kind, body))
        self.assertEqual(self.core.command(self.ann, "info")["leased"], 1)


class Sessions(SynchronousTestCase):
    """What the life of sessions means for what they hold."""

    def setUp(self):
        self.core = core(backoff_s_min=0)
        self.ann = self.core.guest("ann")

    def test_end(self):
        """A session that ends gives back what it holds, at once, in order."""
        worker = self.core.guest("w")
        worker.send(kinds.CONSUME, "jobs", credits=3)
        for _ in range(4):
            self.core.put(self.ann)
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [1, 2, 3])
        other = self.core.worker(credits=5)
        worker.vanish()
        self.core.turn()
        self.assertEqual(
            sorted((m.get(kinds.OFFSET), m.get(kinds.DELIVERIES)) for m in other.take(kinds.PUSH)),
            [(1, 2), (2, 2), (3, 2), (4, 1)],
        )

    def test_resume(self):
        """While a session may come back nobody else gets what it holds, and it gets nothing new; back, it goes on."""
        worker = Guest(self.core)
        welcome = worker.hello(user="w", features=["resume"])
        worker.got.clear()
        worker.send(kinds.CONSUME, "jobs", credits=2)
        self.core.put(self.ann)
        self.core.turn()
        received = len(worker.got)
        worker.vanish()
        other = self.core.worker(credits=1)
        self.core.put(self.ann, body=b"2")
        self.assertEqual(self.core.deliveries(other), [(2, b"2")])
        other.send(kinds.ACK, "jobs", offset=2, seq=0)
        self.core.put(self.ann, body=b"3")
        self.core.put(self.ann, body=b"4")
        self.core.pass_time(25)  # more than the lease, less than the resume window
        self.assertNotIn(1, [n for n, _ in self.core.deliveries(other)])
        back = Guest(self.core)
        resume = {"session": welcome.session, "secret": welcome.secret, "received": received}
        self.assertTrue(back.hello(resume=resume, features=["resume"]).resumed)
        self.core.turn()
        # The other's lease of 3 was over, and it may hold no other.
        self.assertEqual([m.get(kinds.OFFSET) for m in back.take(kinds.PUSH)], [3])
        self.core.pass_time(9)
        back.send(kinds.ACK, "jobs", offset=1)
        self.core.turn()
        self.assertEqual([m.kind for m in back.take(kinds.REPLY, kinds.ERROR)], [kinds.REPLY])

    def test_not_resumed(self):
        """When the window is over it goes back."""
        worker = self.core.worker()
        self.core.put(self.ann)
        self.core.turn()
        worker.vanish()
        other = self.core.worker()
        self.core.pass_time(29)
        self.assertEqual(self.core.deliveries(other), [])
        self.core.pass_time(2)
        self.assertEqual([n for n, _ in self.core.deliveries(other)], [1])

    def test_unconsume(self):
        """No more messages; what is held may still be settled."""
        worker = self.core.worker()
        self.core.put(self.ann)
        self.core.turn()
        seq = worker.send(kinds.UNCONSUME, "jobs")
        self.assertEqual(worker.answer(seq).kind, kinds.REPLY)
        self.core.put(self.ann)
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [1])
        seq = worker.send(kinds.ACK, "jobs", offset=1)
        self.core.turn()
        self.assertEqual(worker.answer(seq).kind, kinds.REPLY)
        self.assertEqual(worker.answer(worker.send(kinds.UNCONSUME, "jobs")).kind, kinds.ERROR)
        self.assertEqual(self.core.queues.sessions._sessions, {})

    def test_nothing_is_left(self):
        """A queue that is empty and that nobody consumes is forgotten, with its window and timers."""
        worker = self.core.guest()
        timers = len(self.core.hub.wheel)
        worker.send(kinds.CONSUME, "jobs", credits=2)
        self.core.put(self.ann)
        self.core.put(self.ann, deliver_at=int(self.core.hub.wall() * 1000) + 5000)
        self.core.turn()
        worker.send(kinds.ACK, "jobs", offset=1)
        self.core.command(self.ann, "purge")
        self.core.sessions.end(worker.connection.session, "test")
        self.core.turn()
        self.assertEqual(self.core.queues.desk.queues, {})
        self.assertLessEqual(len(self.core.hub.wheel), timers)

    def test_inbox(self):
        """Only a bound session has one, its own; bound to another user it has the other's."""
        nobody = self.core.guest()
        self.assertEqual(nobody.answer(nobody.send(kinds.CONSUME, "$inbox")).get(kinds.ERROR_CODE), errors.Denied.code)
        bob = self.core.worker("$inbox", user="bob")
        for user in ("bob", "bob", "cat"):
            self.ann.send(kinds.PUSH, "hello", user=user, level=1)
        self.core.turn()
        self.assertEqual([(m.get(kinds.QUEUE), m.get(kinds.OFFSET)) for m in bob.take(kinds.PUSH)],
                         [("$inbox", 1), ("$inbox", 2)])  # fmt: skip
        self.core.sessions.bind(bob.connection.session, "cat")
        self.core.turn()
        self.assertEqual(bob.answer(bob.send(kinds.ACK, "$inbox", offset=1)).kind, kinds.ERROR)
        bob.send(kinds.CONSUME, "$inbox", credits=5)
        self.assertEqual([n for n, _ in self.core.deliveries(bob)], [1])
        again = self.core.worker("$inbox", user="bob")
        self.core.turn()
        self.assertEqual(self.core.command(again, "info", "$inbox")["leased"], 2)


class Restarts(SynchronousTestCase):
    """What a node finds at its start."""

    def test_all_that_was_not_settled(self):
        """Messages, dead ones and a pause are there; leases are not; deliveries are those that the store was told."""
        first = core(backoff_s_min=0)
        ann, worker = first.guest("ann"), first.worker(credits=2)
        for _ in range(3):
            first.put(ann)
        first.turn()
        worker.send(kinds.NACK, "jobs", {"delay_ms": 1}, offset=1)
        first.turn()
        first.command(ann, "pause", "other")
        second = QueueCore(JOBS, store=first.queue_store)
        second.clock.rightNow = first.now
        bob = second.guest("bob")
        self.assertTrue(second.command(bob, "info", "other")["paused"])
        self.assertEqual(second.command(bob, "info")["waiting"], 3)
        worker = second.worker(credits=5)
        second.pass_time(0.1)
        found = sorted((m.get(kinds.OFFSET), m.get(kinds.DELIVERIES)) for m in worker.take(kinds.PUSH))
        self.assertEqual(found, [(1, 2), (2, 1), (3, 1)])

    def test_requests_wait_until_the_queues_are_read(self):
        """Early requests are answered then, in order; too many are refused."""
        config = Config(queue_limits=QueueLimits(early_max=3))
        early = QueueCore(JOBS, later=True, config=config)
        ann, bob, eve = (early.guest(user) for user in ("ann", "bob", "eve"))
        ann.send(kinds.CONSUME, "jobs", credits=3)
        ann.send(kinds.PUSH, "job", queue="jobs")
        eve.send(kinds.QUEUE_KIND, "jobs", {"op": "info"})
        refused = bob.send(kinds.PUSH, "job", queue="jobs")
        self.assertEqual(bob.answer(refused).get(kinds.ERROR_CODE), errors.Unavailable.code)
        ann.send(kinds.PUSH, "told", b"behind it", user="ann", seq=0)
        self.assertEqual(ann.take(), [])
        for _ in range(4):
            early.later.advance()
            early.later.answer()
            early.turn()
        self.assertEqual([m.kind for m in eve.take()], [kinds.REPLY])
        self.assertEqual([(m.kind, m.name) for m in ann.take()],
                         [(kinds.REPLY, ""), (kinds.PUSH, "job"), (kinds.REPLY, ""), (kinds.PUSH, "told")])  # fmt: skip
        self.assertEqual((early.router.behind.lines, ann.peer.pauses), ({}, set()))
