"""The Raft paper, claim by claim: terms, elections and replication (sections 5.1 to 5.3).

"In Search of an Understandable Consensus Algorithm (Extended Version)", Ongaro and Ousterhout, 2014. The claim that a
test checks is its docstring.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.types import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    MSG_APP,
    MSG_APP_RESP,
    MSG_HEARTBEAT,
    MSG_VOTE,
    MSG_VOTE_RESP,
    NONE,
    Entry,
    Message,
)
from relay.test.raft_cluster import Cluster, Member, entries, stored, without


def follower(term: int = 1, **options: int) -> Member:
    """Node 1 of three, in ``term``."""
    return Member(1, stored(term=term), **options)


def candidate(**options: int) -> Member:
    """Node 1 of three, campaigning in term 2."""
    member = follower(**options)
    member.raw.campaign()
    member.handle()
    return member


def leader(**options: int) -> Member:
    """Node 1 of three, leading term 2 with its first entry not yet acknowledged."""
    member = candidate(**options)
    member.raw.step(Message(MSG_VOTE_RESP, 1, 2, 2))
    member.handle()
    assert member.raw.raft.role == LEADER
    return member


class TermTests(SynchronousTestCase):
    """5.1: terms act as a logical clock."""

    def test_a_later_term_is_taken_over(self) -> None:
        """Whoever sees a later term in a message makes it its own and follows."""
        for member in (follower(), candidate(), leader()):
            member.raw.step(Message(MSG_APP, 1, 2, 9))
            self.assertEqual((member.raw.raft.term, member.raw.raft.role), (9, FOLLOWER))
            self.assertEqual(member.raw.raft.lead, 2)

    def test_a_candidate_or_leader_of_the_past_steps_down(self) -> None:
        """A candidate or leader that learns of a later term follows in it, and has not voted in it."""
        for member in (candidate(), leader()):
            member.raw.step(Message(MSG_VOTE_RESP, 1, 3, 5, reject=True))
            r = member.raw.raft
            self.assertEqual((r.role, r.term, r.vote, r.lead), (FOLLOWER, 5, NONE, NONE))

    def test_a_stale_request_is_refused(self) -> None:
        """A request of an earlier term changes nothing."""
        member = follower(term=3)
        member.raw.step(Message(MSG_APP, 1, 2, 2, 0, 0, entries(2)))
        self.assertEqual(member.handle(), [])
        self.assertEqual((member.raw.raft.log.last_index, member.raw.raft.lead, member.raw.raft.term), (0, NONE, 3))

    def test_a_server_starts_as_a_follower(self) -> None:
        """A server that starts follows, in the term that it remembers."""
        r = follower(term=7).raw.raft
        self.assertEqual((r.role, r.term, r.lead), (FOLLOWER, 7, NONE))


class ElectionTests(SynchronousTestCase):
    """5.2: leader election."""

    def test_a_leader_sends_heartbeats(self) -> None:
        """A leader sends everybody a heartbeat, without entries, each heartbeat interval."""
        member = leader(heartbeat_tick=3)
        for _ in range(2):
            member.raw.tick()
        self.assertEqual(member.handle(), [])
        member.raw.tick()
        self.assertEqual(
            [(m.type, m.to, m.term, m.entries) for m in member.handle()],
            [(MSG_HEARTBEAT, 2, 2, ()), (MSG_HEARTBEAT, 3, 2, ())],
        )

    def test_silence_starts_an_election(self) -> None:
        """A follower that hears nothing for an election timeout campaigns in the next term, with its own vote."""
        member = follower()
        for _ in range(9):
            member.raw.tick()
        self.assertEqual(member.raw.raft.role, FOLLOWER)
        member.raw.tick()
        r = member.raw.raft
        self.assertEqual((r.role, r.term, r.vote), (CANDIDATE, 2, 1))

    def test_a_candidate_asks_everybody(self) -> None:
        """It votes for itself and asks each of the others, telling index and term of its last entry."""
        member = Member(1, stored(entries(1, 1, 4), term=4))
        member.raw.campaign()
        sent = member.handle()
        self.assertEqual(
            [(m.type, m.to, m.term, m.log_term, m.index) for m in sent],
            [(MSG_VOTE, 2, 5, 4, 3), (MSG_VOTE, 3, 5, 4, 3)],
        )
        self.assertEqual(member.storage.initial_state()[0].vote, 1)

    def test_a_campaign_without_result_begins_again(self) -> None:
        """When nobody wins, as with split votes, each candidate campaigns again after its timeout."""
        member = candidate()
        for _ in range(10):
            member.raw.tick()
        self.assertEqual((member.raw.raft.role, member.raw.raft.term), (CANDIDATE, 3))
        self.assertEqual({m.type for m in member.handle()}, {MSG_VOTE})

    def test_a_majority_wins(self) -> None:
        """Votes of a majority of all servers, not only of those that answer, make a leader."""
        for size, yes, won in ((1, (), True), (3, (2,), True), (3, (), False), (5, (2, 3), True), (5, (2,), False)):
            member = Member(1, stored(voters=range(1, size + 1)))
            member.raw.campaign()
            member.handle()
            for node in yes:
                member.raw.step(Message(MSG_VOTE_RESP, 1, node, 1))
            self.assertEqual(member.raw.raft.role == LEADER, won, (size, yes))

    def test_a_lost_election_ends_the_candidacy(self) -> None:
        """A candidate that a majority refused cannot win any more."""
        member = Member(1, stored(voters=range(1, 6)))
        member.raw.campaign()
        member.handle()
        for node in (2, 3, 4):
            self.assertEqual(member.raw.raft.role, CANDIDATE)
            member.raw.step(Message(MSG_VOTE_RESP, 1, node, 1, reject=True))
        self.assertEqual((member.raw.raft.role, member.raw.raft.term), (FOLLOWER, 1))

    def test_a_repeated_vote_counts_once(self) -> None:
        """Each server has one vote, however often the network delivers it."""
        member = Member(1, stored(voters=range(1, 6)))
        member.raw.campaign()
        member.handle()
        for _ in range(3):
            member.raw.step(Message(MSG_VOTE_RESP, 1, 2, 1))
        self.assertEqual(member.raw.raft.role, CANDIDATE)

    def test_one_vote_a_term(self) -> None:
        """A server gives one vote in a term, to whoever asks first, and to that one again."""
        for vote, asking, granted in ((NONE, 2, True), (NONE, 3, True), (2, 2, True), (3, 3, True), (2, 3, False)):
            member = Member(1, stored(term=1, vote=vote))
            member.raw.step(Message(MSG_VOTE, 1, asking, 1))
            (answer,) = member.handle()
            self.assertEqual((answer.type, answer.to, answer.reject), (MSG_VOTE_RESP, asking, not granted))

    def test_a_vote_is_free_again_in_the_next_term(self) -> None:
        """Who voted in a term may vote for another candidate in a later one."""
        member = Member(1, stored(term=1, vote=2))
        member.raw.step(Message(MSG_VOTE, 1, 3, 2))
        (answer,) = member.handle()
        self.assertEqual((answer.reject, answer.term, member.raw.raft.vote), (False, 2, 3))

    def test_no_vote_in_a_term_that_has_a_leader(self) -> None:
        """Who knows the leader of a term votes for nobody else in it, even with its vote still free."""
        member = follower(term=3)
        member.raw.step(Message(MSG_HEARTBEAT, 1, 2, 3))
        member.handle()
        member.raw.step(Message(MSG_VOTE, 1, 3, 3))
        (answer,) = member.handle()
        self.assertEqual((answer.reject, member.raw.raft.vote), (True, NONE))

    def test_a_candidate_follows_the_leader_of_its_term(self) -> None:
        """A candidate that hears a leader of its own or a later term gives up and follows it."""
        for term in (2, 5):
            member = candidate()
            member.raw.step(Message(MSG_HEARTBEAT, 1, 3, term))
            self.assertEqual((member.raw.raft.role, member.raw.raft.lead, member.raw.raft.term), (FOLLOWER, 3, term))

    def test_a_candidate_ignores_leaders_of_the_past(self) -> None:
        """A leader of an earlier term does not impress a candidate."""
        member = candidate()
        member.raw.step(Message(MSG_APP, 1, 3, 1))
        self.assertEqual((member.raw.raft.role, member.raw.raft.term), (CANDIDATE, 2))

    def test_timeouts_are_random(self) -> None:
        """Timeouts are drawn from a fixed interval, here [t, 2t), anew each time."""
        drawn: list[int] = []

        def below(count: int) -> int:
            drawn.append(count)
            return 7

        member = Member(1, stored(term=1), random_below=below)
        self.assertEqual(member.raw.raft.randomized_election_timeout, 17)
        for _ in range(17):
            self.assertEqual(member.raw.raft.role, FOLLOWER)
            member.raw.tick()
        self.assertEqual(member.raw.raft.role, CANDIDATE)
        self.assertEqual(set(drawn), {10})
        self.assertGreaterEqual(len(drawn), 2)

    def test_hearing_the_leader_puts_the_election_off(self) -> None:
        """As long as the leader is heard nobody campaigns."""
        member = follower()
        for _ in range(5):
            for _ in range(9):
                member.raw.tick()
            member.raw.step(Message(MSG_HEARTBEAT, 1, 2, 1))
        self.assertEqual((member.raw.raft.role, member.raw.raft.term), (FOLLOWER, 1))

    def test_a_vote_puts_the_own_campaign_off(self) -> None:
        """Granting a vote resets the election timer (figure 2, rules for followers); refusing one does not."""
        for log_term, role in ((1, FOLLOWER), (0, CANDIDATE)):
            member = Member(1, stored(entries(1), term=1))
            for _ in range(9):
                member.raw.tick()
            member.raw.step(Message(MSG_VOTE, 1, 2, 1, log_term, 1))
            member.raw.tick()
            self.assertEqual(member.raw.raft.role, role)

    def test_at_most_one_leader_a_term(self) -> None:
        """Election safety (figure 3): two candidates of one term cannot both win."""
        cluster = Cluster(5)
        cluster[1].raw.campaign()
        cluster[2].raw.campaign()
        cluster.settle()
        self.assertEqual({member.raw.raft.term for member in cluster.members.values()}, {1})
        self.assertEqual(len(cluster.leaders()), 1)


class ReplicationTests(SynchronousTestCase):
    """5.3: log replication."""

    def test_a_proposal_is_appended_and_sent(self) -> None:
        """The leader appends a proposal to its log and sends it to each of the others."""
        cluster = Cluster()
        member = cluster.elect(1)
        member.raw.propose(b"x")
        sent = member.handle()
        self.assertEqual(member.log(), [(1, 1), (1, 2)])
        new = (Entry(term=1, index=2, data=b"x"),)
        self.assertEqual(
            [(m.type, m.to, m.log_term, m.index, m.entries, m.commit) for m in sent],
            [(MSG_APP, 2, 1, 1, new, 1), (MSG_APP, 3, 1, 1, new, 1)],
        )

    def test_a_majority_commits(self) -> None:
        """An entry of the leader's term is committed once it is on a majority of all servers."""
        for size, acknowledging, committed in ((3, (2,), True), (3, (), False), (5, (2, 3), True), (5, (4,), False)):
            cluster = Cluster(size)
            member = cluster.elect(1)
            member.raw.propose(b"x")
            member.handle()
            for node in acknowledging:
                member.raw.step(Message(MSG_APP_RESP, 1, node, 1, 0, 2))
            member.handle()
            self.assertEqual(member.data, [b"x"] if committed else [], (size, acknowledging))

    def test_the_leader_alone_is_a_majority_of_one(self) -> None:
        """A cluster of one server commits by itself."""
        member = Cluster(1).elect(1)
        member.raw.propose(b"x")
        member.handle()
        self.assertEqual(member.data, [b"x"])

    def test_everything_before_is_committed_too(self) -> None:
        """With an entry everything before it is committed, whoever appended it."""
        for tail in ((), (2,), (1, 2), (1,)):
            cluster = Cluster(storages={node: stored(entries(*tail), term=2) for node in (1, 2, 3)})
            member = cluster.elect(1)
            self.assertEqual([entry.term for entry in member.applied], [*tail, 3])

    def test_followers_learn_of_commitment(self) -> None:
        """Followers hear what is committed and apply it, in the order of the log."""
        cluster = Cluster()
        member = cluster.elect(1)
        for data in (b"a", b"b", b"c"):
            member.raw.propose(data)
        cluster.settle()
        for node in (1, 2, 3):
            self.assertEqual(cluster[node].data, [b"a", b"b", b"c"])

    def test_commitment_beyond_the_entries_sent_is_not_believed(self) -> None:
        """A follower commits no further than the entries that the append vouches for."""
        member = Member(1, stored(entries(1, 1, 1, 2), term=2))
        member.raw.step(Message(MSG_APP, 1, 2, 3, 1, 2, (), 4))
        self.assertEqual(member.raw.raft.log.committed, 2)

    def test_the_consistency_check(self) -> None:
        """An append is refused unless the entry before it is there, of the same term."""
        for log_term, index, fits in (
            (0, 0, True),
            (1, 1, True),
            (2, 2, True),
            (1, 2, False),
            (3, 3, False),
            (2, 1, False),
        ):
            member = Member(1, stored(entries(1, 2), term=2))
            member.raw.step(Message(MSG_APP, 1, 2, 2, log_term, index))
            (answer,) = member.handle()
            self.assertEqual((answer.type, answer.reject, answer.index), (MSG_APP_RESP, not fits, index))

    def test_conflicts_are_overwritten(self) -> None:
        """The leader's entries replace conflicting ones; agreeing ones, and a tail behind them, stay."""
        for log_term, index, sent, left in (
            (2, 2, entries(3, first=3), [1, 2, 3]),
            (1, 1, entries(3, 4, first=2), [1, 3, 4]),
            (0, 0, entries(1), [1, 2]),
            (0, 0, entries(3), [3]),
            (0, 0, entries(1, 2), [1, 2]),
        ):
            member = Member(1, stored(entries(1, 2), term=2))
            member.raw.step(Message(MSG_APP, 1, 2, 4, log_term, index, sent))
            (answer,) = member.handle()
            self.assertEqual([term for term, _index in member.log()], left)
            self.assertEqual((answer.reject, answer.index), (False, index + len(sent)))

    def test_an_old_append_does_not_truncate(self) -> None:
        """Delivered late or twice, an append that the log already covers removes nothing behind it."""
        member = Member(1, stored(entries(1, 1, 1, 1), term=1))
        for _ in range(2):
            member.raw.step(Message(MSG_APP, 1, 2, 1, 1, 1, entries(1, first=2)))
        member.handle()
        self.assertEqual(len(member.log()), 4)

    def test_what_is_there_is_not_written_again(self) -> None:
        """Of an append that overlaps the log only the new entries are to be written."""
        member = Member(1, stored(entries(1, 1, 1), term=1))
        member.raw.step(Message(MSG_APP, 1, 2, 1, 1, 1, entries(1, 1, 1, 1, first=2)))
        self.assertEqual([entry.index for entry in member.handle_one().entries], [4, 5])

    def test_committed_entries_are_never_replaced(self) -> None:
        """State machine safety: an append that would touch committed entries is answered with what is committed."""
        member = Member(1, stored(entries(1, 1, 1), term=1, commit=3))
        member.raw.step(Message(MSG_APP, 1, 2, 1, 1, 1, entries(1, first=2)))
        (answer,) = member.handle()
        self.assertEqual((answer.reject, answer.index, len(member.log())), (False, 3, 3))

    def test_the_leader_brings_every_log_in_line(self) -> None:
        """Figure 7: whatever a follower's log misses or has too much, the leader makes it the same as its own."""
        ours = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
        for theirs in (
            (1, 1, 1, 4, 4, 5, 5, 6, 6),
            (1, 1, 1, 4),
            (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
            (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
            (1, 1, 1, 4, 4, 4, 4),
            (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
        ):
            storages = {
                1: stored(entries(*ours), term=8),
                2: stored(entries(*theirs), term=7),
                3: stored(entries(*ours), term=8),
            }
            cluster = Cluster(storages=storages)
            member = cluster.elect(1)
            member.raw.propose(b"x")
            cluster.settle()
            self.assertEqual(cluster[2].log(), member.log(), theirs)
            self.assertEqual(cluster[2].data, [b"x"])

    def test_a_leader_never_overwrites_its_own_log(self) -> None:
        """Leader append-only (figure 3)."""
        cluster = Cluster()
        member = cluster.elect(1)
        before = member.log()
        member.raw.propose(b"x")
        cluster.settle()
        self.assertEqual(member.log()[: len(before)], before)

    def test_a_slow_follower_holds_nobody_up(self) -> None:
        """A proposal waits for a majority and for nobody else."""
        cluster = Cluster(5)
        member = cluster.elect(1)
        member.raw.propose(b"x")
        cluster.settle(without(4, 5))
        self.assertEqual(member.data, [b"x"])
