"""The key-value state on real groups: the production code of three nodes over disks, links and a clock in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.candidacy import BUSY, ON_DUTY, STANDBY
from relay.cluster.election_beats import HeartbeatElections
from relay.cluster.elections import RaftElections
from relay.cluster.frames import PLACED, encode_raft, encode_said, raft_part
from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv.commands import Compare, Grant, Limits, Put, Txn
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.raft.codec import encode_message
from relay.cluster.raft.types import MSG_READ_INDEX, MSG_VOTE, Entry, Message
from relay.cluster.timekeeper import Timekeeper
from relay.errors import RelayError, RemoteProtocolError
from relay.test import group_cluster
from relay.test.test_elections import GIVE_UP_S
from relay.test.test_kv_model import digest


class GroupTests(SynchronousTestCase):
    """``keys``: the state as each node's code uses it."""

    def setUp(self) -> None:
        self.patch(group_cluster, "ListMachine", KeyValueMachine)
        self.found()

    def found(self) -> None:
        """A new cluster with a leader."""
        self.cluster = group_cluster.GroupCluster()
        self.keys: dict[int, KeyValue] = {}
        for node in (1, 2, 3):
            self.use(node)
        self.leader = self.cluster.elect().node
        self.others = [node for node in (1, 2, 3) if node != self.leader]

    def use(self, node: int) -> None:
        """Stand on the group of a node that has just started."""
        member = self.cluster[node]
        machine: Any = member.machines[1]
        clock = self.cluster.clock_of(member)
        self.keys[node] = KeyValue(machine, member.group(), clock, write_timeout_s=8.0)
        Timekeeper(machine, self.keys[node], clock, Limits())

    def start(self, coroutine: Any) -> Deferred[Any]:
        """Let it go on by itself."""
        return Deferred.fromCoroutine(coroutine)

    def wait(self, deferred: Deferred[Any]) -> Any:
        """Let time pass until it is there."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        self.cluster.until(lambda: found)
        return found[0]

    def put(self, node: int, key: str, value: bytes = b"") -> Deferred[Any]:
        """A new key, written on ``node``."""
        return self.start(self.keys[node].execute(Txn((Put(key, value),), (Compare(key, "create", "=", 0),))))

    def digests(self) -> set[str]:
        """Of the states of all nodes that run, once they have applied the same."""
        running = self.cluster.running()
        self.cluster.until(lambda: len({each.group().applied for each in running}) == 1)
        return {digest(each.machines[1]) for each in running}  # type: ignore[arg-type]  # patched in setUp

    def test_from_any_node(self) -> None:
        """Any node takes writes; after a barrier any other shows them, and all come to the same state."""
        for number, node in enumerate((*self.others, self.leader)):
            self.assertTrue(self.wait(self.put(node, f"k{number}", b"v")).succeeded)
            for other in self.keys:
                self.wait(self.keys[other].barrier())
                self.assertIsNotNone(self.keys[other].state.keys.get(f"k{number}"))
        self.assertEqual(len(self.digests()), 1)

    def test_leader_killed(self) -> None:
        """Writes on another node while the leader dies, sooner or later: each is done once, whatever was lost.

        The leader's word where a write stands in the log comes too late, so the node has to propose it again.
        """
        repeated = 0
        for delay_ms in range(1, 9):
            if delay_ms > 1:
                self.found()
            node = self.others[0]
            self.wait(self.put(node, "first"))
            self.cluster.delay_s = lambda lane, frame: 10.0 if frame[0] == PLACED else group_cluster.STEP_S
            waiting = [self.put(node, f"k{number:03}") for number in range(20)]
            self.cluster.run(delay_ms / 1000)
            self.cluster.kill(self.leader)
            self.cluster.delay_s = lambda lane, frame: group_cluster.STEP_S
            for each in waiting:
                # A write that is done a second time would find its key.
                self.assertTrue(self.wait(each).succeeded)
            self.assertEqual(len(self.keys[node].state.keys), 21)
            repeated += self.cluster[node].group().applied > 30
            self.cluster.restart(self.leader)
            self.use(self.leader)
            self.assertEqual(len(self.digests()), 1)
        self.assertGreater(repeated, 0)  # at least once the log has the same writes twice

    def test_snapshot_and_restart(self) -> None:
        """A node that starts from a snapshot, and one that is sent one, have the others' state."""
        for number in range(20):
            self.wait(self.put(self.leader, f"k{number}", b"v" * 100))
        behind = self.others[0]
        self.cluster.kill(behind)
        self.wait(self.start(self.keys[self.leader].execute(Grant(60_000))))
        for node in (self.leader, self.others[1]):
            for _ in range(2):
                self.cluster.call(self.cluster[node].group().take_snapshot)
                self.wait(self.put(node, f"later {node} {_}"))
        self.cluster.restart(behind)
        self.use(behind)
        self.assertEqual(len(self.digests()), 1)
        self.cluster.kill(self.others[1])
        self.cluster.restart(self.others[1])
        self.use(self.others[1])
        self.assertEqual(len(self.digests()), 1)

    def test_give_up(self) -> None:
        """Over three nodes whose messages and writes take 1 ms, a duty changes hands within 100 ms, both ways."""
        candidacies: list[Any] = []
        for node in self.others:
            candidacies.append(RaftElections(self.keys[node], f"n{node}").campaign("job", lambda _: None))
            self.cluster.until(lambda: candidacies[-1].state != BUSY)
        first, second = candidacies
        self.assertEqual((first.state, second.state), (ON_DUTY, STANDBY))
        token = first.token
        began_s = self.cluster.clock.seconds()
        first.give_up()
        self.cluster.until(lambda: second.state == ON_DUTY)
        self.assertLess(self.cluster.clock.seconds() - began_s, GIVE_UP_S)
        self.assertGreater(second.token, token)

    def test_heartbeats(self) -> None:
        """The lighter elections go over the nodes' links."""
        candidacies = []
        for node in (1, 2, 3):
            groups = self.cluster[node].groups
            assert groups is not None
            elections = HeartbeatElections(f"n{node}", self.cluster.clock_of(self.cluster[node]), groups.say)
            groups.inbound.said = elections.receive
            candidacies.append(elections.campaign("job", lambda _: None))
        self.cluster.until(lambda: [each.state for each in candidacies] == [ON_DUTY, STANDBY, STANDBY])
        began_s = self.cluster.clock.seconds()
        candidacies[0].give_up()
        self.cluster.until(lambda: candidacies[1].state == ON_DUTY)
        self.assertLess(self.cluster.clock.seconds() - began_s, GIVE_UP_S)
        third = self.cluster[3].groups
        assert third is not None
        self.assertRaises(RemoteProtocolError, third.received, 1, encode_said(b"nonsense"))

    def test_duty_after_a_crash(self) -> None:
        """The one on duty and the leader die together: the next is on duty once the lease is over, not before."""
        old = RaftElections(self.keys[self.leader], "old", 2.0).campaign("job", lambda _: None)
        self.cluster.until(lambda: old.state == ON_DUTY)
        new = RaftElections(self.keys[self.others[0]], "new", 2.0).campaign("job", lambda _: None)
        self.cluster.until(lambda: new.state == STANDBY)
        killed_s = self.cluster.clock.seconds()
        self.cluster.kill(self.leader)
        self.cluster.until(lambda: new.state == ON_DUTY)
        self.assertGreater(self.cluster.clock.seconds() - killed_s, 1.0)  # a third of it may have been over

    def test_read_passed_on(self) -> None:
        """A read that reaches a node that leads no more is passed on under its own sender: no error of the link."""
        third = self.cluster[self.leader].groups
        assert third is not None
        asker, between = self.others
        frame = [raft_part(1, encode_message(Message(MSG_READ_INDEX, self.leader, asker, entries=(Entry(data=b"r"),))))]
        third.received(between, encode_raft(frame))
        wrong = [raft_part(1, encode_message(Message(MSG_VOTE, self.leader, asker, 9)))]
        self.assertRaises(RemoteProtocolError, third.received, between, encode_raft(wrong))

    def test_minority(self) -> None:
        """A node that is cut off writes nothing and reads nothing but what is stale."""
        node = self.others[0]
        self.wait(self.put(node, "k"))
        for other in (self.leader, self.others[1]):
            self.cluster.cut(node, other)
        self.assertIsInstance(self.wait(self.put(node, "lost")).value, RelayError)
        self.assertIsInstance(self.wait(self.keys[node].barrier()).value, RelayError)
        self.assertIsNotNone(self.keys[node].state.keys.get("k"))
