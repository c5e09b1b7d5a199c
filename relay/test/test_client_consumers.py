"""The client core's part for queues: consume, settle, new sessions, the end."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.client import effects
from relay.test.client_fixture import Bench
from relay.wire import kinds
from relay.wire.message import Message


def delivery(offset, queue="jobs"):
    """A push as the server sends it to a consumer."""
    return Message(kinds.PUSH, "job", b"x", fields={kinds.QUEUE: queue, kinds.OFFSET: offset, kinds.DELIVERIES: 1})


class ConsumerTests(SynchronousTestCase):
    """``relay.client.consumers``."""

    def setUp(self):
        self.bench = Bench().start()
        self.consumers = self.bench.core.consumers

    def consume(self, queue="jobs"):
        """An entry that the server has confirmed."""
        entry = self.consumers.join(queue, "listener", {kinds.CREDITS: 3}, self.bench.now)
        asked = self.bench.last(kinds.CONSUME)
        self.assertEqual((asked.name, asked.fields), (queue, {kinds.CREDITS: 3}))
        self.bench.say(Message(kinds.REPLY, seq=asked.seq))
        self.assertEqual(self.bench.result("listener").kind, kinds.REPLY)
        self.bench.clear()
        return entry

    def test_deliveries(self):
        """A push with a queue goes to its consumer, not to routes; one that nobody wants goes back unseen."""
        self.consume()
        self.bench.say(delivery(1), delivery(2, "other"))
        self.assertEqual(self.bench.delivered(), [(("listener",), b"x")])
        back = self.bench.last(kinds.NACK)
        self.assertEqual((back.name, back.fields, msgspec.json.decode(back.body)),
                         ("other", {kinds.OFFSET: 2}, {"released": True}))  # fmt: skip

    def test_once(self):
        """A queue is consumed once by a client; a refusal is the end of it."""
        self.consume()
        self.assertRaises(errors.ConfigError, self.consumers.join, "jobs", "again", {}, self.bench.now)
        self.consumers.join("other", "refused", {}, self.bench.now)
        fields = {kinds.ERROR_CODE: errors.Denied.code, kinds.OUTCOME: "not_done"}
        self.bench.say(Message(kinds.ERROR, seq=self.bench.last(kinds.CONSUME).seq, fields=fields))
        self.assertIsInstance(self.bench.result("refused"), errors.Denied)
        self.consumers.join("other", "again", {}, self.bench.now)

    def test_no_answer(self):
        """Without an answer in time it fails, and the server is told."""
        self.consumers.join("jobs", "late", {}, self.bench.now)
        self.bench.now += 31
        self.bench.core.timer(self.bench.now)
        self.assertEqual(self.bench.result("late").outcome, "unknown")
        self.assertEqual(self.bench.last(kinds.UNCONSUME).name, "jobs")

    def renew(self):
        """The session is lost, and there is another."""
        bench = self.bench
        bench.core.link.lost(bench.core.link.attempt, "test", bench.now)
        bench.now += 1
        bench.core.timer(bench.now)
        bench.clear()
        bench.accept()

    def test_new_session(self):
        """It consumes again; what was delivered before is not its to settle any more."""
        entry = self.consume()
        before = entry.generation
        self.bench.say(delivery(1))
        self.renew()
        self.assertEqual(self.bench.last(kinds.CONSUME).fields, {kinds.CREDITS: 3})
        self.bench.clear()
        ack = Message(kinds.ACK, "jobs", fields={kinds.OFFSET: 1})
        self.consumers.settle(entry, before, ack, "waiter", self.bench.now)
        self.consumers.settle(entry, before, ack, None, self.bench.now)
        self.assertIsInstance(self.bench.result("waiter"), errors.NotFound)
        self.assertNotIn("ack", self.bench.sent_kinds())
        self.consumers.settle(entry, entry.generation, ack, None, self.bench.now)
        self.assertEqual(self.bench.sent_kinds()[-1], "ack")

    def test_refused_for_now(self):
        """In a new session a passing refusal is asked again, a final one ends it."""
        self.consume()
        self.renew()
        for code, temporary in ((errors.Unavailable.code, True), (errors.Denied.code, False)):
            seq = self.bench.last(kinds.CONSUME).seq
            fields = {kinds.ERROR_CODE: code, kinds.OUTCOME: "not_done"}
            if temporary:
                fields[kinds.TEMPORARY] = True
            self.bench.say(Message(kinds.ERROR, seq=seq, fields=fields))
            self.bench.now += 1.1
            self.bench.core.timer(self.bench.now)
            self.assertEqual(self.bench.last(kinds.CONSUME).seq != seq, temporary)
        (ended,) = self.bench.of(effects.Ended)
        self.assertIsInstance(ended.error, errors.Denied)

    def test_closing(self):
        """A close tells the server, waits for handlers, lets them settle, and ends the consumer."""
        entry = self.consume()
        self.bench.say(delivery(1))
        self.consumers.busy += 1
        self.bench.core.close(self.bench.now)
        unconsume = self.bench.last(kinds.UNCONSUME)
        self.bench.say(Message(kinds.REPLY, seq=unconsume.seq))
        self.assertEqual(self.bench.of(effects.Closed), [])
        ack = Message(kinds.ACK, "jobs", fields={kinds.OFFSET: 1})
        self.consumers.settle(entry, entry.generation, ack, None, self.bench.now)
        self.consumers.busy -= 1
        sent = len([each for each in self.bench.sent if each.kind >= kinds.SESSION_KIND_MIN]) + 1
        self.bench.say(Message(kinds.PONG, fields={kinds.RECEIVED: sent}))
        self.assertEqual(len(self.bench.of(effects.Closed)), 1)
        self.assertEqual([each.listener for each in self.bench.of(effects.Ended)], ["listener"])
        self.assertRaises(errors.ConnectionClosed, self.consumers.join, "jobs", "late", {}, self.bench.now)
