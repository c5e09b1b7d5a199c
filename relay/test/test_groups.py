"""Tests of ``relay.cluster.groups`` and what it is made of: nodes over disks, links and a clock in memory."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.cluster import frames
from relay.cluster.frames import BULK, Beat, decode_beats
from relay.errors import BadBody, Conflict, DeadlineExceeded, Full, RelayError, Unavailable
from relay.interfaces import IRaftGroup, IRaftReceiver, IRaftTransport, IStateMachine
from relay.test.group_cluster import GroupCluster, ListMachine, Member, others


class InterfaceTests(SynchronousTestCase):
    """The promises of ``relay.interfaces``."""

    def test_provided(self):
        """Groups, group, transport and machine have all that their interfaces name."""
        member = GroupCluster(1)[1]
        verifyObject(IRaftReceiver, member.groups)
        verifyObject(IRaftGroup, member.group())
        verifyObject(IRaftTransport, member.transport)
        verifyObject(IStateMachine, ListMachine())


class CommitTests(SynchronousTestCase):
    """Proposals and reads."""

    def test_leader(self):
        """The leader's proposal is applied everywhere, and its result told once."""
        cluster = GroupCluster()
        leader = cluster.elect()
        outcome = cluster.propose(leader, b"a")
        cluster.until(lambda: all(cluster.commands(node) == [b"a"] for node in (1, 2, 3)))
        self.assertEqual(outcome, [1, None])

    def test_follower(self):
        """A follower's proposals are forwarded; each gets what its own node's machine returned."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.until(lambda: all(each.group().leader == leader.node for each in cluster.running()))
        follower = others(cluster, leader)[0]
        outcomes = [cluster.propose(follower, b"%d" % number) for number in range(10)]
        cluster.until(lambda: all(outcomes))
        self.assertEqual(outcomes, [[number + 1, None] for number in range(10)])
        proposes = [each for each in cluster.frames if each[3][0] == frames.PROPOSE]
        self.assertEqual(len(proposes), 1, "what is proposed in one turn goes in one frame")

    def test_one_write(self):
        """What is proposed in one turn is one append and one write of the log."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.run(0.2)
        before = leader.log.counters.batches
        sent = len([each for each in cluster.frames if each[2] == BULK])
        outcomes = [cluster.propose(leader, b"x" * 100) for _ in range(50)]
        cluster.until(lambda: all(outcomes))
        self.assertEqual(leader.log.counters.batches - before, 1)
        with_entries = [each for each in cluster.frames if each[2] == BULK][sent:]
        self.assertEqual(len([each for each in with_entries if len(each[3]) > 5000]), 2)

    def test_read(self):
        """A read on any node shows what was acknowledged before it."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.until(lambda: all(each.group().leader for each in cluster.running()))
        self.assertEqual(cluster.call(leader.group().propose, b"a"), 1)
        for member in cluster.running():
            self.assertEqual(self.seen(cluster, member), [b"a"])

    def seen(self, cluster: GroupCluster, member: Member) -> list[bytes]:
        """The commands that a read on ``member`` sees."""
        seen: list[list[bytes]] = []
        member.group().read_index(lambda _, error: seen.append(list(member.machines[1].commands)))
        cluster.until(lambda: seen)
        return seen[0]

    def test_no_read_without_quorum(self):
        """A leader without its followers confirms no read, and steps down."""
        cluster = GroupCluster()
        leader = cluster.elect()
        for other in others(cluster, leader):
            cluster.cut(leader.node, other.node)
        failed = self.assertRaises(DeadlineExceeded, cluster.call, leader.group().read_index)
        self.assertEqual(failed.outcome, "not_done")
        self.assertFalse(leader.group().leading)

    def test_sizes(self):
        """An empty proposal and one over ``proposal_bytes_max`` are refused for certain."""
        cluster = GroupCluster(proposal_bytes_max=1000)
        leader = cluster.elect()
        for data in (b"", b"x" * 1001):
            self.assertEqual(self.assertRaises(BadBody, cluster.call, leader.group().propose, data).outcome, "not_done")
        self.assertEqual(cluster.call(leader.group().propose, b"x" * 1000), 1)

    def test_limits(self):
        """More than ``proposals_max`` proposals and ``reads_max`` reads that wait are refused."""
        cluster = GroupCluster(proposals_max=3, reads_max=2)
        leader = cluster.elect()
        outcomes = [cluster.propose(leader, b"x") for _ in range(4)]
        reads: list[Any] = []
        for _ in range(3):
            leader.group().read_index(lambda _, error: reads.append(error))
        cluster.until(lambda: all(outcomes) and len(reads) == 3)
        self.assertEqual([error for _, error in outcomes[:3]], [None] * 3)
        self.assertIsInstance(outcomes[3][1], Full)
        self.assertEqual(sorted(type(error).__name__ for error in reads), ["Full", "NoneType", "NoneType"])

    def test_uncommitted(self):
        """A leader takes no more than ``uncommitted_bytes_max`` that no majority has."""
        cluster = GroupCluster(uncommitted_bytes_max=1000)
        leader = cluster.elect()
        cluster.run(0.1)
        for other in others(cluster, leader):
            cluster.cut(leader.node, other.node)
        first = cluster.propose(leader, b"x" * 900)
        cluster.run(0.01)
        second = cluster.propose(leader, b"x" * 900)
        cluster.until(lambda: second)
        self.assertIsInstance(second[1], Unavailable)
        self.assertEqual((second[1].outcome, first), ("not_done", []))

    def test_waits_for_a_leader(self):
        """Without a leader a proposal waits, and is done when there is one."""
        cluster = GroupCluster()
        outcome = cluster.propose(cluster[1], b"early")
        cluster.until(lambda: outcome)
        self.assertEqual(outcome, [1, None])

    def test_no_leader(self):
        """Where none is found in time, it has failed for certain."""
        cluster = GroupCluster(request_ticks=20)
        cluster.kill(2)
        cluster.kill(3)
        failed = self.assertRaises(DeadlineExceeded, cluster.call, cluster[1].group().propose, b"x")
        self.assertEqual(failed.outcome, "not_done")

    def test_overwritten(self):
        """What another leader's entry replaced has failed for certain; what is not settled in time is unknown."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.run(0.1)
        for other in others(cluster, leader):
            cluster.cut(leader.node, other.node)
        lost = cluster.propose(leader, b"lost")
        cluster.until(lambda: cluster.leader() not in (None, leader))
        new = cluster.leader()
        assert new is not None
        self.assertEqual(cluster.call(new.group().propose, b"kept"), 1)
        self.assertEqual(lost, [])
        for other in others(cluster, leader):
            cluster.mend(leader.node, other.node)
        cluster.until(lambda: lost)
        self.assertEqual((lost[0], lost[1].outcome), (None, "not_done"))
        cluster.until(lambda: cluster.commands(leader.node) == [b"kept"])

    def test_unknown(self):
        """A proposal that is neither committed nor replaced when time is up is unknown."""
        cluster = GroupCluster(request_ticks=20)
        leader = cluster.elect()
        cluster.run(0.1)
        for other in others(cluster, leader):
            cluster.cut(leader.node, other.node)
        failed = self.assertRaises(DeadlineExceeded, cluster.call, leader.group().propose, b"x")
        self.assertEqual(failed.outcome, "unknown")

    def test_forwarded_and_lost(self):
        """A follower's proposal whose leader vanishes before it answers is unknown at once."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.until(lambda: all(each.group().leader for each in cluster.running()))
        outcome = cluster.propose(others(cluster, leader)[0], b"x")
        cluster.clock.advance(0)
        cluster.kill(leader.node)
        cluster.run(0.01)
        self.assertEqual(outcome[1].outcome, "unknown")

    def test_forwarded_and_silent(self):
        """… and at the latest when another one leads, if it only says nothing."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.run(0.1)
        follower = others(cluster, leader)[0]
        cluster.delay_s = lambda lane, frame: 1e9 if leader.node in cluster.frames[-1][:2] else 0.001
        outcome = cluster.propose(follower, b"x")
        cluster.until(lambda: outcome, 2.0)
        self.assertEqual(outcome[1].outcome, "unknown")
        self.assertNotIn(follower.group().leader, (0, leader.node))

    def test_forwarded_twice(self):
        """A forwarded proposal that the network delivers twice is appended once."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.until(lambda: all(each.group().leader for each in cluster.running()))
        follower = others(cluster, leader)[0]
        cluster.call(follower.group().propose, b"once")
        (frame,) = [each[3] for each in cluster.frames if each[3][0] == frames.PROPOSE]
        assert leader.groups is not None
        leader.groups.received(follower.node, frame)
        cluster.run(0.1)
        self.assertEqual(cluster.commands(leader.node), [b"once"])

    def test_machine_fails(self):
        """A machine that raises ends the node: members would differ."""
        cluster = GroupCluster()
        leader = cluster.elect()
        leader.machines[1].apply = lambda entries: []  # type: ignore[method-assign]  # a broken one
        cluster.propose(leader, b"x")
        cluster.until(lambda: leader.fatal)

    def test_stopped(self):
        """Who waits when a node stops is told; what comes later is refused."""
        cluster = GroupCluster()
        member = cluster[1]
        outcome = cluster.propose(member, b"x")
        assert member.groups is not None
        member.groups.stop()
        self.assertIsInstance(outcome[1], Unavailable)
        self.assertIsInstance(self.assertRaises(Unavailable, cluster.call, member.group().propose, b"y"), RelayError)

    def test_stopped_with_writes_under_way(self) -> None:
        """What becomes durable while a node stops is nobody's any more: the log, then closed, is asked for nothing."""
        cluster = GroupCluster()
        member = cluster.elect()
        cluster.cut(member.node, others(cluster, member)[0].node)
        cluster.run(0.1)
        member.log.on_work = lambda: None  # a slow disk: what is missing for a majority
        outcome = cluster.propose(member, b"late")
        cluster.run(0.02)
        assert member.groups is not None
        member.groups.stop()
        self.assertEqual(outcome[1].outcome, "unknown")
        while member.log.run_once():  # "late" becomes durable, and would be counted
            pass
        member.log.close()
        for other in others(cluster, member):
            cluster.cut(member.node, other.node)
        cluster.run(0.1)
        self.assertEqual(member.fatal, [])


class QuietTests(SynchronousTestCase):
    """Heartbeats: few, and none where nothing happens."""

    def beats(self, cluster: GroupCluster, seconds: float) -> list[list[Beat]]:
        before = len(cluster.frames)
        cluster.run(seconds)
        return [decode_beats(frame) for *_, frame in cluster.frames[before:] if frame[0] == frames.BEATS]

    def test_coalesced(self):
        """Heartbeats of all groups to a node are one frame a tick."""
        cluster = GroupCluster(numbers=range(1, 21), quiet_ticks=10_000, spread_ticks=10_000)
        for number in range(1, 21):
            cluster.elect(number)
        cluster.run(0.2)
        found = self.beats(cluster, 1.0)
        self.assertLessEqual(len(found), 20 * 6 + 6, "one frame a tick for each pair")
        self.assertGreaterEqual(sum(len(each) for each in found), 20 * 2 * 18, "and every group's beat in them")

    def test_quiet(self):
        """Idle groups stop: only the nodes' own beats are left, and no ticks."""
        cluster = GroupCluster(numbers=range(1, 11), spread_ticks=10_000)
        cluster.run(3.0)
        for member in cluster.running():
            self.assertTrue(all(member.group(number).status().quiet for number in range(1, 11)))
            assert member.groups is not None
            self.assertEqual(member.groups.turn.active, {})
        self.assertEqual({len(each) for each in self.beats(cluster, 1.0)}, {0})

    def test_stays_quiet(self):
        """Nobody campaigns in a quiet group, however long."""
        cluster = GroupCluster()
        cluster.run(3.0)
        term = cluster[1].group().term
        cluster.run(20.0)
        self.assertEqual({each.group().term for each in cluster.running()}, {term})

    def test_woken_by_proposals(self):
        """A proposal on any node wakes the group, which becomes quiet again."""
        cluster = GroupCluster()
        for node in (1, 2, 3):
            cluster.run(3.0)
            self.assertTrue(cluster[node].group().status().quiet)
            cluster.call(cluster[node].group().propose, b"x")
        cluster.run(3.0)
        self.assertTrue(all(each.group().status().quiet for each in cluster.running()))

    def test_leader_gone(self):
        """A quiet group whose leader's process is gone has another one sooner than by an election time-out."""
        cluster = GroupCluster()
        cluster.run(3.0)
        leader = cluster.elect()
        begun = cluster.clock.seconds()
        cluster.kill(leader.node)
        cluster.elect()
        self.assertLess(cluster.clock.seconds() - begun, 0.3)

    def test_leader_silent(self):
        """… and one whose node says nothing any more, too: nodes' beats are enough to find out."""
        cluster = GroupCluster()
        cluster.run(3.0)
        leader = cluster.elect()
        cluster.delay_s = lambda lane, frame: 1e9 if cluster.frames[-1][0] == leader.node else 0.001
        cluster.until(lambda: any(each.group().leading for each in others(cluster, leader)), 2.0)

    def test_one_node_down(self):
        """With one node gone the others' group becomes quiet all the same; when it comes back it catches up."""
        cluster = GroupCluster()
        leader = cluster.elect()
        gone = others(cluster, leader)[0].node
        cluster.kill(gone)
        cluster.call(leader.group().propose, b"x")
        cluster.run(3.0)
        self.assertTrue(leader.group().status().quiet)
        cluster.restart(gone)
        cluster.until(lambda: cluster.commands(gone) == [b"x"])


class LeaderTests(SynchronousTestCase):
    """Leadership: handed over, spread, looked for."""

    def test_transfer(self):
        """Leadership goes to the node named, and the proposals made meanwhile are done."""
        cluster = GroupCluster()
        leader = cluster.elect()
        target = others(cluster, leader)[0]
        outcome = cluster.propose(leader, b"before")
        done: list[Any] = []
        leader.group().transfer(target.node, lambda result, error: done.append(error))
        after = cluster.propose(leader, b"after")
        cluster.until(lambda: done and outcome and after)
        self.assertEqual((done, outcome[1], after[1]), ([None], None, None))
        self.assertIs(cluster.leader(), target)

    def test_transfer_refused(self):
        """Not to oneself, a stranger, or nobody known."""
        cluster = GroupCluster()
        leader = cluster.elect()
        for node in (leader.node, 9):
            self.assertRaises(Conflict, cluster.call, leader.group().transfer, node)
        follower = others(cluster, leader)[0]
        self.assertRaises(Unavailable, cluster.call, follower.group().transfer, 0)

    def test_retire(self):
        """A node that is about to stop hands over all it leads."""
        cluster = GroupCluster(numbers=range(1, 7), spread_ticks=10_000)
        for number in range(1, 7):
            cluster.elect(number)
        leader = cluster.elect()
        done: list[bool] = []
        assert leader.groups is not None
        leader.groups.retire(lambda: done.append(True))
        cluster.until(lambda: done)
        self.assertFalse(any(leader.group(number).leading for number in range(1, 7)))
        for number in range(1, 7):
            self.assertIsNot(cluster.elect(number), leader)

    def test_retire_alone(self):
        """Where nobody can take over, that does not hold it up."""
        cluster = GroupCluster(1)
        cluster.elect()
        done: list[bool] = []
        groups = cluster[1].groups
        assert groups is not None
        groups.retire(lambda: done.append(True))
        self.assertEqual(done, [True])

    def test_spread(self):
        """Leaderships are spread evenly over the nodes that run."""
        cluster = GroupCluster(numbers=range(1, 13), spread_ticks=10)
        for node in (2, 3):
            cluster.kill(node)
            cluster.restart(node)
        cluster.run(8.0)
        led = [sum(each.group(number).leading for number in range(1, 13)) for each in cluster.running()]
        self.assertEqual(led, [4, 4, 4])

    def test_campaigns_are_limited(self):
        """A link that breaks again and again makes a follower campaign once in an election time-out."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.run(0.1)
        follower = others(cluster, leader)[0]
        groups = follower.groups
        assert groups is not None
        for _ in range(10):
            groups.unreachable(leader.node)
            cluster.run(0.01)
            groups.turn.replicas[1].raw.raft.lead = leader.node
        self.assertLessEqual(groups.campaigns.started, groups.options.campaigns)
