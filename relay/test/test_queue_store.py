"""What is on its way between queues and their store: in which order, and what becomes of it when there is no room."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.config import ChannelRule, Config
from relay.config_history import ChannelHistory
from relay.config_queues import QueueRule
from relay.test.queue_fixture import QueueCore
from relay.wire import kinds

JOBS = QueueRule(pattern="jobs", lease_s=10, deliveries_max=3, backoff_s_min=1, backoff_s_max=4)


class Store(SynchronousTestCase):
    """A store that does what it is asked when the test says so."""

    def test_order_of_a_session(self):
        """What a session sends behind a message for a queue, others see behind it: pushes, and publications that have
        a store of their own; puts go on one behind the other."""
        disk = ChannelRule(pattern="disk.*", history=ChannelHistory(kind="durable"))
        here = QueueCore(JOBS, later=True, config=Config(channels=(disk,)))
        here.later.advance()
        ann, worker = here.guest("ann"), here.guest("bob")
        worker.send(kinds.CONSUME, "jobs", credits=9, seq=0)
        worker.send(kinds.SUBSCRIBE, "disk.1", seq=0)
        here.store()
        here.turn()
        here.later.answer()
        for number in (1, 2):
            ann.send(kinds.PUSH, "put", b"%d" % number, queue="jobs", seq=0)
        ann.send(kinds.PUSH, "told", b"3", user="bob", seq=0)
        ann.send(kinds.PUBLISH, "disk.1", b"4", seq=0)
        ann.send(kinds.PUSH, "put", b"5", user="bob", level=1, seq=0)
        ann.send(kinds.PUSH, "refused", b"", level=1, queue="jobs", priority=9)
        ann.send(kinds.PUSH, "told", b"6", user="bob", seq=0)
        here.turn()
        self.assertEqual(len(here.later.waiting), 1)
        self.assertEqual((worker.take(kinds.PUSH, kinds.EVENT), ann.take()), ([], []))
        here.store()
        for _ in range(4):
            here.later.advance()
            here.turn()
            here.store()
        self.assertEqual([each.body for each in worker.take(kinds.PUSH, kinds.EVENT)], [b"1", b"2", b"3", b"4", b"6"])
        self.assertEqual([each.kind for each in ann.take()], [kinds.ERROR])
        self.assertEqual((here.router.behind.lines, ann.peer.pauses), ({}, set()))

    def test_an_ack_that_nobody_waits_for(self):
        """The store could not take it for now, and nobody is told: it is tried again, the message does not come
        again."""
        core = QueueCore(JOBS, later=True)
        core.later.advance()
        ann, worker = core.guest("ann"), core.guest("bob")
        worker.send(kinds.CONSUME, "jobs", credits=5)
        ann.send(kinds.PUSH, "job", queue="jobs")
        _advance(core)
        self.assertEqual([n for n, _ in core.deliveries(worker)], [1])
        core.later.error = errors.Full("the disk is full")
        worker.send(kinds.ACK, "jobs", offset=1, seq=0)
        for _ in range(3):
            _advance(core)
            core.pass_time(1.2)
        core.later.error = None
        core.pass_time(1.2)
        _advance(core)
        core.pass_time(20)
        _advance(core)
        self.assertEqual(core.deliveries(worker), [])
        self.assertEqual(core.queues.desk.settling, 0)
        second = QueueCore(JOBS, store=core.queue_store)
        self.assertEqual(second.command(second.guest("eve"), "info")["waiting"], 0)
        self.flushLoggedErrors()


def _advance(core: QueueCore) -> None:
    """All that the store was asked to do, and what follows from it."""
    for _ in range(4):
        core.turn()
        core.later.advance()
        core.later.answer()
