"""Linearizable reads without an entry in the log (thesis 6.4)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.read_only import ReadOnly
from relay.cluster.raft.types import (
    FOLLOWER,
    MSG_APP,
    MSG_APP_RESP,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_RESP,
    MSG_READ_INDEX,
    MSG_READ_INDEX_RESP,
    READ_ONLY_LEASE_BASED,
    REMOVE_NODE,
    ConfChange,
    Entry,
    Message,
    ReadState,
)
from relay.test.raft_cluster import Cluster, Member, entries, stored, without


class ReadIndexTests(SynchronousTestCase):
    """Reads at the leader and at followers."""

    def test_a_read_waits_for_a_round_of_heartbeats(self) -> None:
        """The leader notes its commit index and answers when a majority has confirmed that it still leads."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.read_index(b"r")
        cluster.collect()
        self.assertEqual(leader.reads, [])
        self.assertEqual([m.type for m in cluster.network], [MSG_HEARTBEAT, MSG_HEARTBEAT])
        cluster.settle(without(3))
        self.assertEqual(leader.reads, [ReadState(1, b"r")])

    def test_without_a_majority_there_is_no_answer(self) -> None:
        """A leader that was cut off cannot tell whether it was deposed."""
        cluster = Cluster(5)
        leader = cluster.elect(1)
        leader.raw.read_index(b"r")
        cluster.settle(without(3, 4, 5))
        self.assertEqual(leader.reads, [])

    def test_a_deposed_leader_forgets_its_reads(self) -> None:
        """The answers to its heartbeats come too late."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.read_index(b"r")
        answers = [Message(MSG_HEARTBEAT_RESP, 1, m.to, 1, context=m.context) for m in leader.handle()]
        leader.raw.step(Message(MSG_APP, 1, 2, 2))
        for answer in answers:
            leader.raw.step(answer)
        leader.handle()
        self.assertEqual((leader.raw.raft.role, leader.reads), (FOLLOWER, []))

    def test_a_leader_elected_again_has_forgotten_them_too(self) -> None:
        """What was asked of it in an earlier term may have been out of date even then."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.read_index(b"old")
        leader.handle()
        cluster.elect(2)
        cluster.elect(1)
        leader.raw.read_index(b"new")
        cluster.settle()
        self.assertEqual([read.request_ctx for read in leader.reads], [b"new"])

    def test_a_new_leader_first_commits_in_its_term(self) -> None:
        """Before that its commit index may be behind what was acknowledged by the one before; then it is confirmed."""
        cluster = Cluster(storages={node: stored(entries(1, 1), term=1) for node in (1, 2, 3)})
        leader = cluster[1]
        leader.raw.campaign()
        cluster.settle(lambda m: m.type != MSG_APP)
        leader.raw.read_index(b"r")
        cluster.settle(lambda m: m.type != MSG_APP)
        self.assertEqual(leader.reads, [])
        cluster.tick()
        cluster.settle()
        self.assertEqual(leader.reads, [ReadState(3, b"r")])

    def test_a_lone_voter_too_first_commits_in_its_term(self) -> None:
        """The members that were removed may have committed, and told others, more than the last one left knows."""
        member = Member(1, stored(entries(1, 1, 1), term=1, commit=1, voters=(1,)))
        member.raw.campaign()
        member.handle_one()
        member.raw.read_index(b"early")
        self.assertEqual(member.raw.raft.read_states, [])
        member.handle()
        self.assertEqual(member.reads, [ReadState(4, b"early")])
        member.raw.read_index(b"late")
        member.handle()
        self.assertEqual(member.reads[1:], [ReadState(4, b"late")])

    def test_a_follower_asks_the_leader(self) -> None:
        """A follower may serve reads at the index that the leader tells it."""
        cluster = Cluster()
        cluster.elect(1)
        cluster[3].raw.read_index(b"r")
        cluster.settle()
        self.assertEqual((cluster[3].reads, cluster[1].reads), ([ReadState(1, b"r")], []))

    def test_without_a_leader_a_read_is_lost(self) -> None:
        """There is nobody to ask; the client asks again."""
        member = Member(1, stored(term=1))
        member.raw.read_index(b"r")
        self.assertEqual(member.handle(), [])

    def test_one_round_confirms_all_reads_before_it(self) -> None:
        """Reads that wait share a round of heartbeats, in the order of their coming."""
        cluster = Cluster()
        leader = cluster.elect(1)
        for name in (b"a", b"b"):
            leader.raw.read_index(name)
        leader.handle()
        leader.raw.propose(b"x")
        cluster.settle()
        self.assertEqual(leader.data, [b"x"])
        leader.raw.read_index(b"c")
        heartbeats = [m for m in leader.handle() if m.type == MSG_HEARTBEAT and m.to == 2]
        leader.raw.step(Message(MSG_HEARTBEAT_RESP, 1, 2, 1, context=heartbeats[-1].context))
        leader.handle()
        self.assertEqual(leader.reads, [ReadState(1, b"a"), ReadState(1, b"b"), ReadState(2, b"c")])

    def test_a_periodic_heartbeat_asks_again(self) -> None:
        """When the round was lost, the next heartbeat carries the read too."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.read_index(b"r")
        leader.handle()
        cluster.tick()
        cluster.settle()
        self.assertEqual(leader.reads, [ReadState(1, b"r")])

    def test_a_late_answer_confirms_only_what_was_asked(self) -> None:
        """The answer to an old heartbeat says nothing of a later read, though the client calls it the same."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.read_index(b"same")
        first = [m for m in leader.handle() if m.to == 2]
        late = Message(MSG_HEARTBEAT_RESP, 1, 2, 1, context=first[-1].context)
        leader.raw.step(late)
        leader.raw.read_index(b"same")
        leader.raw.step(late)
        leader.handle()
        self.assertEqual(leader.reads, [ReadState(1, b"same")])

    def test_a_learner_confirms_nothing(self) -> None:
        """Its word is not that of a voter."""
        cluster = Cluster(storages={node: stored(voters=(1, 2), learners=(3,)) for node in (1, 2, 3)})
        leader = cluster.elect(1)
        leader.raw.read_index(b"r")
        cluster.settle(without(2))
        self.assertEqual(leader.reads, [])

    def test_lease_based_reads_trust_the_clock(self) -> None:
        """With the option, the leader answers at once, within the lease that check-quorum gives it (6.4.1)."""
        cluster = Cluster(check_quorum=True, read_only=READ_ONLY_LEASE_BASED)
        leader = cluster.elect(1)
        leader.raw.read_index(b"r")
        self.assertEqual([m.type for m in leader.handle()], [])
        self.assertEqual(leader.reads, [ReadState(1, b"r")])
        leader.raw.step(Message(MSG_READ_INDEX, 1, 2, entries=(Entry(data=b"f"),)))
        (answer,) = leader.handle()
        self.assertEqual((answer.type, answer.to, answer.index), (MSG_READ_INDEX_RESP, 2, 1))

    def test_a_malformed_answer_is_ignored(self) -> None:
        """An answer that names no read."""
        member = Member(1, stored(term=1))
        member.raw.step(Message(MSG_READ_INDEX_RESP, 1, 2, 1, 0, 5))
        member.handle()
        self.assertEqual(member.reads, [])

    def test_a_read_at_the_last_voter_left(self) -> None:
        """It is answered without heartbeats: there is nobody else to ask."""
        cluster = Cluster(2)
        leader = cluster.elect(1)
        leader.raw.propose_conf_change(ConfChange(REMOVE_NODE, 2))
        cluster.settle()
        self.assertTrue(leader.raw.raft.is_singleton())
        leader.raw.read_index(b"r")
        leader.handle()
        self.assertEqual(leader.reads, [ReadState(2, b"r")])


class LimitTests(SynchronousTestCase):
    """Reads that wait are bounded."""

    def test_reads_that_wait_for_heartbeats(self) -> None:
        """More than the limit are dropped, the others are answered."""
        cluster = Cluster(waiting_reads_max=2)
        leader = cluster.elect(1)
        for name in (b"a", b"b", b"c"):
            leader.raw.read_index(name)
        cluster.settle()
        self.assertEqual([read.request_ctx for read in leader.reads], [b"a", b"b"])

    def test_reads_that_wait_for_the_term(self) -> None:
        """The same before the first commit."""
        cluster = Cluster(waiting_reads_max=2)
        leader = cluster[1]
        leader.raw.campaign()
        cluster.settle(lambda m: m.type not in (MSG_APP, MSG_APP_RESP))
        for name in (b"a", b"b", b"c"):
            leader.raw.read_index(name)
        cluster.tick()
        cluster.settle()
        self.assertEqual([read.request_ctx for read in leader.reads], [b"a", b"b"])


class ReadOnlyTests(SynchronousTestCase):
    """The bookkeeping by itself."""

    def test_numbers_and_contexts(self) -> None:
        """A context carries the number of the last waiting read; acknowledging it confirms all up to there."""
        reads = ReadOnly(10)
        self.assertEqual(reads.context(), b"")
        requests = [Message(MSG_READ_INDEX, index=number) for number in range(3)]
        contexts = []
        for index, request in enumerate(requests):
            self.assertTrue(reads.add(request, index))
            contexts.append(reads.context())
        reads.acknowledge(1, contexts[2])
        reads.acknowledge(2, contexts[1])
        reads.acknowledge(2, contexts[0])
        self.assertEqual(reads.advance({1, 2, 3}, ()), [(requests[0], 0), (requests[1], 1)])
        self.assertEqual(reads.advance({1, 2, 3}, ()), [])
        reads.acknowledge(3, contexts[2])
        self.assertEqual(reads.advance({1, 2, 3}, {4}), [])
        self.assertEqual(reads.advance({1, 2, 3}, ()), [(requests[2], 2)])
        self.assertEqual(reads.context(), b"")

    def test_other_contexts_are_ignored(self) -> None:
        """What is not a number of eight bytes was not sent by a leader."""
        reads = ReadOnly(10)
        reads.add(Message(MSG_READ_INDEX), 1)
        for context in (b"", b"x", b"123456789"):
            reads.acknowledge(1, context)
        self.assertEqual(reads.advance({1}, ()), [])
