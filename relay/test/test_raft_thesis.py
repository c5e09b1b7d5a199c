"""Ongaro's thesis, claim by claim: what goes beyond the paper.

"Consensus: Bridging Theory and Practice", 2014. Sections: 3.8 persisted state, 3.10 leadership transfer, 4 membership,
6.2 and 6.4 clients, 9.6 pre-vote, 10.2 performance. The claim that a test checks is its docstring.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.errors import ProposalDropped
from relay.cluster.raft.types import (
    ADD_LEARNER_NODE,
    ADD_NODE,
    CANDIDATE,
    FOLLOWER,
    LEADER,
    LOCAL_APPEND_THREAD,
    MSG_APP,
    MSG_APP_RESP,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_RESP,
    MSG_PRE_VOTE,
    MSG_PRE_VOTE_RESP,
    MSG_STORAGE_APPEND,
    MSG_STORAGE_APPEND_RESP,
    MSG_TIMEOUT_NOW,
    MSG_VOTE,
    MSG_VOTE_RESP,
    NONE,
    PRE_CANDIDATE,
    REMOVE_NODE,
    TRANSITION_JOINT_EXPLICIT,
    ConfChange,
    ConfChangeSingle,
    ConfChangeV2,
    Message,
)
from relay.test.raft_cluster import Cluster, Member, entries, stored, without


class PersistenceTests(SynchronousTestCase):
    """3.8: what is durable before what is said."""

    def test_a_vote_is_remembered(self) -> None:
        """After a restart a server does not vote for another candidate of the same term."""
        storage = stored(term=1)
        member = Member(1, storage)
        member.raw.step(Message(MSG_VOTE, 1, 2, 5))
        member.handle()
        again = Member(1, storage)
        again.raw.step(Message(MSG_VOTE, 1, 3, 5))
        (answer,) = again.handle()
        self.assertEqual((answer.term, answer.reject), (5, True))

    def test_a_ready_with_a_vote_or_entries_asks_for_a_sync(self) -> None:
        """Term, vote and entries are to be durable before the answer leaves; a commit index need not be."""
        member = Member(1, stored(term=4))
        member.raw.step(Message(MSG_VOTE, 1, 2, 5))
        self.assertTrue(member.handle_one().must_sync)
        voter = Member(1, stored(term=5))
        voter.raw.step(Message(MSG_VOTE, 1, 2, 5))
        self.assertTrue(voter.handle_one().must_sync)
        member.raw.step(Message(MSG_APP, 1, 2, 5, 0, 0, entries(5)))
        self.assertTrue(member.handle_one().must_sync)
        member.raw.step(Message(MSG_APP, 1, 2, 5, 5, 1, (), 1))
        ready = member.handle_one()
        self.assertIsNotNone(ready.hard_state)
        self.assertFalse(ready.must_sync)

    def test_answers_travel_with_the_write(self) -> None:
        """With asynchronous writes, votes and acknowledgements are in the write's responses, not among the messages."""
        member = Member(1, stored(term=1), async_storage_writes=True)
        member.raw.step(Message(MSG_VOTE, 1, 2, 5))
        (write,) = member.raw.ready().messages
        self.assertEqual(
            (write.type, write.to, write.term, write.vote), (MSG_STORAGE_APPEND, LOCAL_APPEND_THREAD, 5, 2)
        )
        self.assertEqual([response.type for response in write.responses], [MSG_VOTE_RESP])
        member.raw.step(Message(MSG_APP, 1, 2, 5, 0, 0, entries(5)))
        (write,) = member.raw.ready().messages
        self.assertEqual([response.type for response in write.responses], [MSG_APP_RESP, MSG_STORAGE_APPEND_RESP])


class TransferTests(SynchronousTestCase):
    """3.10: leadership transfer."""

    def test_the_target_is_told_to_campaign_at_once(self) -> None:
        """It need not wait for its election timeout, and others vote for it though they hear the leader."""
        cluster = Cluster(check_quorum=True)
        cluster.elect(1).raw.transfer_leadership(2)
        cluster.settle()
        self.assertEqual(cluster.leaders(), [2])

    def test_the_target_is_brought_up_to_date_first(self) -> None:
        """A target that lacks entries gets them before it is told to campaign."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.propose(b"x")
        cluster.settle(without(3))
        leader.raw.transfer_leadership(3)
        self.assertNotIn(MSG_TIMEOUT_NOW, [m.type for m in leader.handle()])
        leader.raw.report_unreachable(3)
        cluster.tick()
        cluster.settle()
        self.assertEqual(cluster.leaders(), [3])
        self.assertEqual(cluster[3].data, [b"x"])

    def test_proposals_stop_meanwhile(self) -> None:
        """While it hands over, the leader accepts nothing new."""
        leader = Cluster().elect(1)
        leader.raw.transfer_leadership(2)
        self.assertRaises(ProposalDropped, leader.raw.propose, b"x")

    def test_it_is_given_up_after_an_election_timeout(self) -> None:
        """If the target does not take over in about an election timeout, the leader goes on."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.transfer_leadership(2)
        for _ in range(9):
            leader.raw.tick()
        self.assertRaises(ProposalDropped, leader.raw.propose, b"x")
        leader.raw.tick()
        leader.raw.propose(b"y")
        leader.handle()
        self.assertEqual(leader.raw.raft.role, LEADER)

    def test_a_target_that_may_not_lead_does_not_campaign(self) -> None:
        """Told to campaign after it was removed, a server stays a follower."""
        member = Member(4, stored(term=1))
        member.raw.step(Message(MSG_TIMEOUT_NOW, 4, 1, 1))
        self.assertEqual(member.raw.raft.role, FOLLOWER)


class MembershipTests(SynchronousTestCase):
    """4: membership changes."""

    def change(self, member: Member, *steps: tuple[int, int], transition: int = 0) -> None:
        """Propose a change."""
        singles = tuple(ConfChangeSingle(kind, node) for kind, node in steps)
        member.raw.propose_conf_change(ConfChangeV2(transition, singles))

    def test_a_new_voter_counts(self) -> None:
        """After (1 2) became (1 2 3), two of three decide (4.1)."""
        cluster = Cluster(2)
        leader = cluster.elect(1)
        leader.raw.propose_conf_change(ConfChange(ADD_NODE, 3))
        cluster.settle()
        leader.raw.propose(b"x")
        leader.handle()
        self.assertEqual(leader.data, [])
        leader.raw.step(Message(MSG_APP_RESP, 1, 3, 1, 0, leader.raw.raft.log.last_index))
        leader.handle()
        self.assertEqual(leader.data, [b"x"])

    def test_one_change_at_a_time(self) -> None:
        """A second change is not accepted before the first has taken effect (4.1)."""
        cluster = Cluster()
        leader = cluster.elect(1)
        self.change(leader, (ADD_NODE, 4))
        self.change(leader, (ADD_NODE, 5))
        cluster.settle()
        self.assertEqual(leader.raw.raft.configuration.voters(), [1, 2, 3, 4])

    def test_a_learner_counts_for_nothing(self) -> None:
        """A server without a vote makes nothing committed and wins no election for anybody (4.2.1)."""
        storages = {node: stored(voters=(1, 2), learners=(3,)) for node in (1, 2, 3)}
        cluster = Cluster(storages=storages)
        leader = cluster.elect(1)
        leader.raw.propose(b"x")
        cluster.settle(without(2))
        self.assertEqual(leader.data, [])
        self.assertEqual(len(cluster[3].log()), 2)
        cluster[2].raw.campaign()
        cluster.settle(without(1))
        self.assertEqual(cluster[2].raw.raft.role, CANDIDATE)
        cluster[3].raw.campaign()
        self.assertEqual(cluster[3].raw.raft.role, FOLLOWER)

    def test_a_removed_leader_commits_its_removal_and_then_does_not_count(self) -> None:
        """A leader may manage a cluster that it is not part of (4.2.2)."""
        cluster = Cluster()
        leader = cluster.elect(1)
        self.change(leader, (REMOVE_NODE, 1))
        cluster.settle()
        self.assertEqual(leader.raw.raft.configuration.voters(), [2, 3])
        self.assertEqual(leader.raw.raft.quorum_match(), 2)
        self.assertRaises(ProposalDropped, leader.raw.propose, b"x")

    def test_whoever_hears_a_leader_does_not_vote(self) -> None:
        """A removed server with a later term disturbs nobody who hears the leader (4.2.3)."""
        cluster = Cluster(check_quorum=True)
        cluster.elect(1)
        cluster[2].raw.step(Message(MSG_VOTE, 2, 9, 50, 50, 50))
        self.assertEqual(cluster[2].handle(), [])
        self.assertEqual(cluster[2].raw.raft.term, 1)
        for _ in range(9):
            cluster[2].raw.tick()
        cluster[2].raw.step(Message(MSG_VOTE, 2, 9, 50, 50, 50))
        self.assertEqual(cluster[2].raw.raft.term, 1)
        cluster[2].raw.tick()
        cluster[2].raw.step(Message(MSG_VOTE, 2, 9, 51, 50, 50))
        self.assertEqual(cluster[2].raw.raft.term, 51)

    def test_joint_consensus_needs_both_majorities_to_commit(self) -> None:
        """Agreement requires separate majorities from both the old and the new configuration (4.3)."""
        cluster = Cluster()
        leader = cluster.elect(1)
        self.change(leader, (ADD_NODE, 4), (ADD_NODE, 5), (REMOVE_NODE, 2), (REMOVE_NODE, 3), transition=2)
        cluster.settle()
        self.assertEqual(str(leader.raw.raft.configuration), "voters=(1 4 5)&&(1 2 3)")
        leader.raw.propose(b"x")
        leader.handle()
        last = leader.raw.raft.log.last_index
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, last))
        leader.raw.step(Message(MSG_APP_RESP, 1, 3, 1, 0, last))
        self.assertLess(leader.raw.raft.log.committed, last)
        leader.raw.step(Message(MSG_APP_RESP, 1, 5, 1, 0, last))
        self.assertEqual(leader.raw.raft.log.committed, last)
        leader.raw.propose(b"y")
        leader.handle()
        for node in (4, 5):
            leader.raw.step(Message(MSG_APP_RESP, 1, node, 1, 0, last + 1))
        self.assertEqual(leader.raw.raft.log.committed, last)
        leader.raw.step(Message(MSG_APP_RESP, 1, 3, 1, 0, last + 1))
        self.assertEqual(leader.raw.raft.log.committed, last + 1)

    def test_joint_consensus_needs_both_majorities_to_elect(self) -> None:
        """So does an election (4.3)."""
        cluster = Cluster()
        leader = cluster.elect(1)
        self.change(leader, (ADD_NODE, 4), (ADD_NODE, 5), transition=TRANSITION_JOINT_EXPLICIT)
        cluster.settle()
        other = cluster[2]
        self.assertEqual(other.raw.raft.configuration.voters(), [1, 2, 3, 4, 5])
        for yes, role in (((4, 5), CANDIDATE), ((3,), CANDIDATE), ((3, 4), LEADER)):
            other.raw.campaign()
            other.handle()
            for node in yes:
                other.raw.step(Message(MSG_VOTE_RESP, 2, node, other.raw.raft.term))
            self.assertEqual(other.raw.raft.role, role, yes)

    def test_a_joint_configuration_is_left_by_the_leader(self) -> None:
        """Once it is committed, the leader makes the new configuration the only one (4.3)."""
        cluster = Cluster()
        leader = cluster.elect(1)
        self.change(leader, (ADD_LEARNER_NODE, 4), (ADD_LEARNER_NODE, 3))
        cluster.settle()
        self.assertEqual(str(leader.raw.raft.configuration), "voters=(1 2) learners=(3 4)")
        self.assertEqual(str(cluster[2].raw.raft.configuration), "voters=(1 2) learners=(3 4)")


class QuorumCheckTests(SynchronousTestCase):
    """6.2: a leader that cannot reach a majority must not keep clients waiting."""

    def test_a_leader_without_a_quorum_steps_down(self) -> None:
        """Within two election timeouts of the last word from a majority."""
        cluster = Cluster(check_quorum=True)
        leader = cluster.elect(1)
        for _ in range(10):
            leader.raw.tick()
        self.assertEqual(leader.raw.raft.role, LEADER)
        for _ in range(10):
            leader.raw.tick()
        self.assertEqual((leader.raw.raft.role, leader.raw.raft.lead), (FOLLOWER, NONE))

    def test_one_answer_of_two_is_enough(self) -> None:
        """With itself that is a majority of three."""
        cluster = Cluster(check_quorum=True)
        leader = cluster.elect(1)
        for _ in range(4):
            for _ in range(10):
                leader.raw.tick()
            leader.raw.step(Message(MSG_HEARTBEAT_RESP, 1, 3, 1))
        self.assertEqual(leader.raw.raft.role, LEADER)

    def test_without_the_option_it_stays(self) -> None:
        """As in the paper, where only a later term deposes a leader."""
        leader = Cluster().elect(1)
        for _ in range(50):
            leader.raw.tick()
        self.assertEqual(leader.raw.raft.role, LEADER)


class PreVoteTests(SynchronousTestCase):
    """9.6: preventing disruptions when a server rejoins the cluster."""

    def test_the_term_stays_until_a_majority_would_vote(self) -> None:
        """A pre-candidate asks for the next term without entering it."""
        cluster = Cluster(pre_vote=True)
        member = cluster[3]
        for _ in range(3):
            member.raw.campaign()
            sent = member.handle()
            self.assertEqual([(m.type, m.term) for m in sent], [(MSG_PRE_VOTE, 1), (MSG_PRE_VOTE, 1)])
            self.assertEqual((member.raw.raft.role, member.raw.raft.term), (PRE_CANDIDATE, 0))
        member.raw.step(Message(MSG_PRE_VOTE_RESP, 3, 1, 1))
        self.assertEqual((member.raw.raft.role, member.raw.raft.term), (CANDIDATE, 1))

    def test_a_pre_vote_binds_to_nothing(self) -> None:
        """Two servers may get a pre-vote for the same term; term and vote of the voter stay."""
        member = Member(1, stored(term=4, vote=1))
        for node in (2, 3):
            member.raw.step(Message(MSG_PRE_VOTE, 1, node, 5))
            (answer,) = member.handle()
            self.assertEqual((answer.type, answer.term, answer.reject), (MSG_PRE_VOTE_RESP, 5, False))
        self.assertEqual((member.raw.raft.term, member.raw.raft.vote), (4, 1))

    def test_a_log_that_is_behind_gets_none(self) -> None:
        """A server whose log is not up to date could not win, so it does not begin."""
        member = Member(1, stored(entries(1, 1), term=1))
        member.raw.step(Message(MSG_PRE_VOTE, 1, 2, 2, 1, 1))
        (answer,) = member.handle()
        self.assertEqual((answer.reject, answer.term), (True, 1))

    def test_whoever_hears_a_leader_gives_none(self) -> None:
        """A server that rejoins cannot win while the leader is heard."""
        cluster = Cluster(pre_vote=True, check_quorum=True)
        cluster.elect(1)
        cluster[3].raw.campaign()
        cluster.settle()
        self.assertEqual((cluster.leaders(), cluster[3].raw.raft.term), ([1], 1))

    def test_a_lost_pre_vote_ends_it(self) -> None:
        """A majority of refusals makes the pre-candidate a follower of the same term."""
        member = Member(3, stored(term=2), pre_vote=True)
        member.raw.campaign()
        member.handle()
        for node in (1, 2):
            member.raw.step(Message(MSG_PRE_VOTE_RESP, 3, node, 2, reject=True))
        self.assertEqual((member.raw.raft.role, member.raw.raft.term), (FOLLOWER, 2))


class ParallelWriteTests(SynchronousTestCase):
    """10.2.1: writing to the leader's disk in parallel."""

    def test_the_leader_sends_before_its_disk_is_done(self) -> None:
        """Appends leave with the Ready that hands out the entries."""
        leader = Member(1, stored(), async_storage_writes=True)
        leader.raw.campaign()
        (write,) = [m for m in leader.raw.ready().messages if m.type == MSG_STORAGE_APPEND]
        for response in write.responses:
            leader.raw.step(response)
        leader.raw.step(Message(MSG_VOTE_RESP, 1, 2, 1))
        kinds = [m.type for m in leader.raw.ready().messages]
        self.assertEqual(kinds, [MSG_APP, MSG_APP, MSG_STORAGE_APPEND])

    def test_the_leader_counts_itself_when_its_disk_is_done(self) -> None:
        """An entry may be committed by a majority of followers before the leader has it durable, but not by half."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.propose(b"x")
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, 2))
        self.assertEqual(leader.raw.raft.log.committed, 1)
        ready = leader.raw.ready()
        self.assertEqual(leader.raw.raft.log.committed, 1)
        leader.storage.append(ready.entries)
        leader.raw.advance()
        self.assertEqual(leader.raw.raft.log.committed, 2)

    def test_followers_alone_may_commit(self) -> None:
        """Two of three have it: the leader's disk is not needed."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.propose(b"x")
        for node in (2, 3):
            leader.raw.step(Message(MSG_APP_RESP, 1, node, 1, 0, 2))
        self.assertEqual(leader.raw.raft.log.committed, 2)

    def test_appends_are_pipelined(self) -> None:
        """The leader does not wait for an acknowledgement before it sends the next entries."""
        leader = Cluster().elect(1)
        for data in (b"a", b"b"):
            leader.raw.propose(data)
        appends = [m for m in leader.handle() if m.type == MSG_APP and m.to == 2]
        self.assertEqual([(m.index, len(m.entries)) for m in appends], [(1, 1), (2, 1)])

    def test_a_lost_append_shows_at_the_next_heartbeat(self) -> None:
        """The follower refuses what does not fit, and the leader goes back."""
        cluster = Cluster(2)
        leader = cluster.elect(1)
        leader.raw.propose(b"lost")
        leader.handle()
        leader.raw.propose(b"next")
        cluster.settle()
        self.assertEqual(cluster[2].data, [b"lost", b"next"])
        leader.raw.propose(b"lost too")
        leader.handle()
        cluster.tick()
        cluster.settle(lambda m: m.type in (MSG_HEARTBEAT, MSG_HEARTBEAT_RESP, MSG_APP, MSG_APP_RESP))
        self.assertEqual(cluster[2].data, [b"lost", b"next", b"lost too"])
