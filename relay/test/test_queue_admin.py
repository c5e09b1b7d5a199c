"""Looking after queues, where pushes go, and who may."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec
from twisted.internet.defer import fail
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.config import Config
from relay.config_auth import EVERYTHING, Permit
from relay.config_queues import PushRule, QueueLimits, QueueRule
from relay.core.permissions import permissions_for
from relay.core.queue_store import rule_of
from relay.test.queue_fixture import QueueCore
from relay.wire import kinds


class Commands(SynchronousTestCase):
    """The kind ``queue``."""

    def setUp(self):
        self.core = QueueCore(QueueRule(pattern="jobs", backoff_s_min=0, deliveries_max=1))
        self.ann = self.core.guest("ann")

    def test_peek(self):
        """What waits is shown as it is, and stays; in pages, and by size."""
        self.core.put(self.ann, body=b"one", name="job.one", ordering_key="k", ttl_ms=1000)
        self.core.put(self.ann, body=b"\xff", priority=0)
        found = self.core.command(self.ann, "peek")
        self.assertEqual(found["more"], False)
        first, second = found["messages"]
        self.assertEqual(b64decode(second.pop("data")), b"\xff")
        expected = {
            "offset": 1, "accepted_at": 10**12, "priority": 1, "deliveries": 0, "expires_at": 10**12 + 1000,
            "ordering_key": "k", "name": "job.one", "from_user": "ann", "codec": 0, "data": "b25l",
        }  # fmt: skip
        self.assertEqual(first, expected)
        self.assertEqual([m["offset"] for m in self.core.command(self.ann, "peek", after=1)["messages"]], [2])
        self.core = QueueCore(config=Config(queue_limits=QueueLimits(peek_max=3, peek_bytes_max=1000)))
        ann = self.core.guest("ann")
        for _ in range(5):
            self.core.put(ann)
        self.assertEqual(len(self.core.command(ann, "peek", limit=100)["messages"]), 3)
        for _ in range(3):
            self.core.put(ann, "large", b"x" * 2000)
        found = self.core.command(ann, "peek", "large")
        self.assertEqual((len(found["messages"]), found["more"]), (1, True))

    def test_pause(self):
        """Nothing is delivered until it is resumed; what is held may be settled."""
        worker = self.core.worker()
        self.core.put(self.ann)
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [1])
        self.assertEqual(self.core.command(self.ann, "pause"), {"paused": True})
        self.core.put(self.ann)
        seq = worker.send(kinds.ACK, "jobs", offset=1)
        self.assertEqual(self.core.deliveries(worker), [])
        self.core.pass_time(1)
        self.assertEqual(self.core.command(self.ann, "info")["waiting"], 1)
        self.core.command(self.ann, "resume")
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [2])
        self.assertTrue(seq)

    def test_purge(self):
        """All that wait, those that are held, delayed and on their way too; what comes later is not touched."""
        worker = self.core.worker(credits=1)
        for deliver_at in (0, 0, int(self.core.hub.wall() * 1000) + 1000):
            self.core.put(self.ann, deliver_at=deliver_at)
        self.core.deliveries(worker)
        self.ann.send(kinds.PUSH, "job", queue="jobs")
        self.assertEqual(self.core.command(self.ann, "purge"), {"removed": 4})
        self.assertEqual(self.core.command(self.ann, "info")["waiting"], 0)
        late = worker.send(kinds.ACK, "jobs", offset=1)
        self.core.pass_time(2)
        self.assertEqual(worker.answer(late).get(kinds.ERROR_CODE), errors.NotFound.code)
        self.core.put(self.ann)
        self.assertEqual([n for n, _ in self.core.deliveries(worker)], [5])

    def test_dead(self):
        """Dead messages are listed with the reason, requeued and removed, some or all."""
        worker = self.core.worker(credits=2000)
        for _ in range(1205):
            self.ann.send(kinds.PUSH, "job", queue="jobs", seq=0)
        numbers = [n for n, _ in self.core.deliveries(worker)]
        self.assertEqual(len(numbers), 1205)
        worker.send(kinds.NACK, "jobs", {"offsets": numbers, "reason": "why"})
        self.core.turn()
        info = self.core.command(self.ann, "info")
        self.assertEqual((info["waiting"], info["dead"]), (0, 1205))
        found = self.core.command(self.ann, "dead", after=7, limit=1)
        self.assertEqual((found["messages"][0]["offset"], found["messages"][0]["reason"]), (8, "why, delivery 1"))
        self.assertEqual(self.core.command(self.ann, "requeue", offsets=[3, 3, 9999]), {"requeued": 1})
        (again,) = worker.take(kinds.PUSH)
        self.assertEqual((again.get(kinds.OFFSET), again.get(kinds.DELIVERIES)), (3, 1))
        self.assertEqual(self.core.command(self.ann, "remove", offsets=[1, 2]), {"removed": 2})
        self.assertEqual(self.core.command(self.ann, "requeue"), {"requeued": 1202})
        self.assertEqual(len(self.core.deliveries(worker)), 1202)
        worker.send(kinds.NACK, "jobs", {"offsets": numbers[3:], "dead": True})
        self.core.turn()
        self.assertEqual(self.core.command(self.ann, "remove"), {"removed": 1202})
        info = self.core.command(self.ann, "info")
        self.assertEqual((info["waiting"], info["dead"]), (1, 0))

    def test_letters_that_cannot_be_published(self):
        """Refused at once or later, it is a line in the log; the message is dead all the same."""

        def refuse(realm, message):
            raise errors.Denied("no")

        core = QueueCore(QueueRule(pattern="jobs", dead_letter="dead.jobs"))
        ann, worker = core.guest("ann"), core.worker()
        lines: Any = []  # Any: events of the log
        globalLogPublisher.addObserver(lines.append)
        self.addCleanup(globalLogPublisher.removeObserver, lines.append)
        for number, publish in enumerate((refuse, lambda realm, message: fail(errors.Full("no room"))), 1):
            core.queues.desk.letters.publish = publish
            core.put(ann)
            worker.send(kinds.NACK, "jobs", {"dead": True}, offset=number)
            core.pass_time(2)
        self.assertEqual(core.command(ann, "info")["dead"], 2)
        self.assertEqual([line["error"] for line in lines if line.get("queue") == "jobs"], ["no", "no room"])

    def test_refused(self):
        """What is no command is refused; a queue that is not there is empty."""
        for body in ({"op": "drop"}, {}, {"op": "peek", "limit": 0}, {"op": "remove", "offsets": [0]}):
            seq = self.ann.send(kinds.QUEUE_KIND, "jobs", body)
            self.assertEqual(self.ann.answer(seq).get(kinds.ERROR_CODE), errors.BadBody.code, body)
        for op, answer in (
            ("info", {
                "waiting": 0, "dead": 0, "bytes": 0, "paused": False, "consumers": 0, "leased": 0, "retrying": 0,
                "ready": 0,
            }), ("peek", {"messages": [], "more": False}),
            ("requeue", {"requeued": 0}), ("purge", {"removed": 0}), ("resume", {"paused": False}),
        ):  # fmt: skip
            self.assertEqual(self.core.command(self.ann, op, "nothing"), answer)
        self.assertEqual(self.core.queues.desk.queues, {})

    def test_without_store(self):
        """A node that keeps no queues says so."""
        self.core.queues.desk._store = None
        for kind, more in (
            (kinds.CONSUME, {}), (kinds.QUEUE_KIND, {"body": {"op": "info"}}), (kinds.PUSH, {"queue": "jobs"}),
        ):  # fmt: skip
            answer = self.ann.answer(self.ann.send(kind, "jobs", **more))
            self.assertEqual(answer.get(kinds.ERROR_CODE), errors.Unsupported.code)


class Targets(SynchronousTestCase):
    """Which queue a push goes to."""

    def test_levels(self):
        """Level 0 is told to who is there, 1 and 2 are stored; a device, a session or all have no inbox."""
        core = QueueCore()
        ann, bob = core.guest("ann"), core.guest("bob")
        for level, told in ((0, 1), (1, 0)):
            seq = ann.send(kinds.PUSH, "n", b"x", user="bob", level=level)
            core.turn()
            self.assertEqual(len(bob.take(kinds.PUSH)), told)
            self.assertEqual(kinds.OFFSET in (ann.answer(seq).fields or {}), not told)
        for target in ({"session": "s"}, {"all": True}, {"procedure": "p"}, {"user": "bob", "device": "d"}):
            seq = ann.send(kinds.PUSH, "n", level=1, **target)
            self.assertEqual(ann.answer(seq).get(kinds.ERROR_CODE), errors.Unsupported.code, target)

    def test_repeated(self):
        """A key is one user's; a repetition within the window has the first one's number, after it a new one."""
        core = QueueCore(QueueRule(pattern="jobs", idempotency_s=5))
        ann, bob = core.guest("ann"), core.guest("bob")
        worker = core.worker()
        for guest, number in ((ann, 1), (ann, 1), (core.guest("ann"), 1), (bob, 2)):
            answer = core.put(guest, idempotency_key="k", level=2)
            self.assertEqual(answer.get(kinds.OFFSET), number)
        self.assertEqual([n for n, _ in core.deliveries(worker)], [1, 2])
        worker.send(kinds.ACK, "jobs", offset=1)
        core.turn()
        self.assertEqual(core.put(ann, idempotency_key="k").get(kinds.OFFSET), 1)
        core.pass_time(6)
        self.assertEqual(core.put(ann, idempotency_key="k").get(kinds.OFFSET), 3)

    def test_by_rule(self):
        """The name's rule may ask for the inbox: always, or when no session is connected; a level counts before it."""
        rules = (PushRule(pattern="mail.**", inbox="always"), PushRule(pattern="call.*", inbox="away"))
        core = QueueCore(config=Config(pushes=rules))
        ann = core.guest("ann")

        def stored(name, **more):
            seq = ann.send(kinds.PUSH, name, user="bob", **more)
            core.turn()
            return kinds.OFFSET in (ann.answer(seq).fields or {})

        self.assertEqual([stored(name) for name in ("mail.1", "call.1", "other")], [True, True, False])
        bob = core.guest("bob", features=["resume"])
        self.assertEqual([stored(name) for name in ("mail.1", "call.1", "other")], [True, False, False])
        self.assertFalse(stored("mail.1", level=0))
        bob.vanish()
        self.assertTrue(stored("call.1"))

    def test_permissions(self):
        """push for putting, consume and manage for the rest; the own inbox is always allowed, others' never."""
        permit = Permit(push=("jobs.*", "{user}"), consume=("jobs.a",), manage=("jobs.{user}",))
        core = QueueCore(permit=permit)
        bob = core.guest("bob")
        denied = errors.Denied.code
        for kind, name, more, code in (
            (kinds.PUSH, "n", {"queue": "jobs.a"}, None), (kinds.PUSH, "n", {"queue": "other"}, denied),
            (kinds.PUSH, "n", {"queue": "$inbox"}, denied), (kinds.PUSH, "n", {"queue": "$inbox.ann"}, denied),
            (kinds.PUSH, "n", {"user": "bob", "level": 1}, None),
            (kinds.PUSH, "n", {"user": "ann", "level": 1}, denied),
            (kinds.PUSH, "n", {"queue": "a\0"}, errors.BadName.code),
            (kinds.CONSUME, "jobs.a", {}, None), (kinds.CONSUME, "jobs.b", {}, denied),
            (kinds.CONSUME, "$inbox", {}, None), (kinds.CONSUME, "$inbox.ann", {}, denied),
            (kinds.CONSUME, "", {}, errors.BadName.code),
            (kinds.QUEUE_KIND, "jobs.bob", {"body": {"op": "info"}}, None),
            (kinds.QUEUE_KIND, "jobs.a", {"body": {"op": "info"}}, denied),
            (kinds.QUEUE_KIND, "$inbox", {"body": {"op": "info"}}, None),
        ):  # fmt: skip
            seq = bob.send(kind, name, **more)
            core.turn()
            self.assertEqual(bob.answer(seq).get(kinds.ERROR_CODE), code, (kind, name, more))

    def test_realms_are_apart(self):
        """The same name in another realm is another queue."""
        core = QueueCore()
        ann, eve = core.guest("ann"), core.guest("eve", realm="other")
        core.put(ann)
        self.assertEqual(core.command(eve, "info")["waiting"], 0)
        self.assertEqual(core.put(eve).get(kinds.OFFSET), 1)

    def test_rules(self):
        """The first that matches; a name that begins with $ only by a pattern that does, an inbox as $inbox."""
        rules = [QueueRule(pattern=each) for each in ("a.b", "**", "$inbox", "$*")]
        for name, pattern in (
            ("a.b", "a.b"), ("a.c", "**"), ("$inbox.ann", "$inbox"), ("$inbox.ann.b", "$inbox"), ("$webhooks", "**"),
        ):  # fmt: skip
            self.assertEqual(rule_of(rules, name).pattern, pattern, name)

    def test_new_rules(self):
        """Rules read again count for queues that are there."""
        core = QueueCore(QueueRule(pattern="jobs", messages_max=1))
        ann = core.guest("ann")
        core.put(ann)
        self.assertEqual(core.put(ann).kind, kinds.ERROR)
        core.hub.reconfigure(msgspec.structs.replace(core.config, queues=()))
        core.queues.desk.reconfigure()
        self.assertEqual(core.put(ann).kind, kinds.REPLY)

    def test_default_permissions(self):
        """Everything is allowed by default, as elsewhere."""
        self.assertTrue(permissions_for(EVERYTHING, "ann").allows("consume", "jobs"))
