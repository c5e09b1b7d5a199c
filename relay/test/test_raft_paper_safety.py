"""The Raft paper, claim by claim: safety and log compaction (sections 5.4 and 7). See ``test_raft_paper``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.types import (
    LEADER,
    MSG_APP,
    MSG_APP_RESP,
    MSG_SNAP,
    MSG_VOTE,
    MSG_VOTE_RESP,
    ConfState,
    Message,
    Snapshot,
)
from relay.test.raft_cluster import Cluster, Member, entries, stored, without


class SafetyTests(SynchronousTestCase):
    """5.4: safety."""

    def test_only_an_up_to_date_log_is_voted_for(self) -> None:
        """No vote for a log that ends in an earlier term than ours, or in the same and is shorter (5.4.1)."""
        for ours, log_term, index, granted in (
            ((1,), 1, 1, True),
            ((1,), 1, 2, True),
            ((1, 1), 1, 1, False),
            ((1,), 2, 1, True),
            ((1, 1), 2, 1, True),
            ((2,), 1, 1, False),
            ((2,), 1, 9, False),
            ((2,), 2, 1, True),
        ):
            member = Member(1, stored(entries(*ours), term=2))
            member.raw.step(Message(MSG_VOTE, 1, 2, 3, log_term, index))
            (answer,) = member.handle()
            self.assertEqual((answer.reject, answer.term), (not granted, 3), (ours, log_term, index))

    def test_entries_of_earlier_terms_are_not_counted(self) -> None:
        """A leader commits no entry of an earlier term by counting replicas; only its own term's (5.4.2, figure 8)."""
        cluster = Cluster(storages={node: stored(entries(1, 2)[: 2 if node == 1 else 1], term=2) for node in (1, 2, 3)})
        cluster[1].raw.campaign()
        cluster.collect()
        cluster.deliver()
        cluster.collect()
        cluster.deliver()
        member = cluster[1]
        self.assertEqual(member.raw.raft.role, LEADER)
        member.handle()
        member.raw.step(Message(MSG_APP_RESP, 1, 2, 3, 0, 2))
        self.assertEqual(member.raw.raft.log.committed, 0)
        member.raw.step(Message(MSG_APP_RESP, 1, 2, 3, 0, 3))
        self.assertEqual(member.raw.raft.log.committed, 3)

    def test_figure_8(self) -> None:
        """The old leader of figure 8 can be replaced after it spread its entry of term 2: that was not committed."""
        cluster = Cluster(
            5,
            storages={
                1: stored(entries(1, 2), term=2, voters=range(1, 6)),
                2: stored(entries(1, 2), term=2, voters=range(1, 6)),
                3: stored(entries(1), term=2, voters=range(1, 6)),
                4: stored(entries(1), term=2, voters=range(1, 6)),
                5: stored(entries(1, 3), term=3, voters=range(1, 6)),
            },
        )
        # 1 leads in term 4 and brings its entry of term 2 to 3, but nobody gets its entry of term 4.
        cluster[1].raw.campaign()
        cluster.settle(lambda m: 5 not in (m.from_, m.to) and m.type in (MSG_VOTE, MSG_VOTE_RESP))
        cluster[1].raw.campaign()
        cluster.settle(lambda m: 5 not in (m.from_, m.to) and m.type in (MSG_VOTE, MSG_VOTE_RESP))
        self.assertEqual(cluster.leaders(), [1])
        cluster[3].raw.step(Message(MSG_APP, 3, 1, cluster[1].raw.raft.term, 1, 1, entries(2, first=2)))
        cluster[1].raw.step(Message(MSG_APP_RESP, 1, 3, cluster[1].raw.raft.term, 0, 2))
        self.assertEqual(cluster[1].raw.raft.log.committed, 0)
        # 5 is elected by 2, 3 and 4 and overwrites it everywhere.
        cluster.network.clear()
        while 5 not in cluster.leaders():
            cluster[5].raw.campaign()
            cluster.settle(without(1))
        cluster[5].raw.propose(b"x")
        cluster.settle(without(1))
        self.assertEqual(cluster[3].log()[1], (3, 2))
        self.assertEqual(cluster[3].data, [b"x"])

    def test_a_new_leader_has_everything_that_is_committed(self) -> None:
        """Leader completeness (figure 3): a committed entry is in the logs of the leaders of all later terms."""
        cluster = Cluster()
        cluster.elect(1).raw.propose(b"x")
        cluster.settle(without(3))
        cluster[3].raw.campaign()
        cluster.settle(without(1))
        self.assertEqual(cluster.leaders(), [1])
        cluster[2].raw.campaign()
        cluster.settle(without(1))
        self.assertEqual(cluster[2].raw.raft.role, LEADER)
        self.assertEqual(cluster[3].data, [b"x"])


class CompactionTests(SynchronousTestCase):
    """7: log compaction."""

    def test_a_snapshot_replaces_the_log(self) -> None:
        """A snapshot takes the place of the log, and brings the configuration with it."""
        member = Member(1, stored(entries(1, 1, 1), term=1))
        state = ConfState((1, 2, 3, 4))
        member.raw.step(Message(MSG_SNAP, 1, 2, 2, snapshot=Snapshot(b"s", 9, 2, state)))
        sent = member.handle()
        self.assertEqual([(m.type, m.index) for m in sent], [(MSG_APP_RESP, 9)])
        self.assertEqual((member.storage.first_index(), member.storage.last_index()), (10, 9))
        self.assertEqual(member.raw.raft.configuration.conf_state(), state)
        self.assertEqual((member.raw.raft.log.committed, member.raw.raft.log.applied), (9, 9))

    def test_a_snapshot_of_a_prefix_keeps_the_rest(self) -> None:
        """When the log holds the snapshot's last entry, it only moves the commit index."""
        member = Member(1, stored(entries(1, 1, 1), term=1))
        member.raw.step(Message(MSG_SNAP, 1, 2, 1, snapshot=Snapshot(b"", 2, 1, ConfState((1, 2, 3)))))
        (answer,) = member.handle()
        self.assertEqual((answer.index, len(member.log()), len(member.applied)), (2, 3, 2))

    def test_an_old_snapshot_is_ignored(self) -> None:
        """What is committed already is not taken back."""
        member = Member(1, stored(entries(1, 1, 1), term=1, commit=3))
        member.raw.step(Message(MSG_SNAP, 1, 2, 1, snapshot=Snapshot(b"", 2, 1, ConfState((1, 2)))))
        (answer,) = member.handle()
        self.assertEqual((answer.index, member.raw.raft.configuration.voters()), (3, [1, 2, 3]))

    def test_the_leader_sends_what_it_has_discarded_as_a_snapshot(self) -> None:
        """A follower that needs what the leader has compacted gets a snapshot, and then the log again."""
        cluster = Cluster()
        member = cluster.elect(1)
        for number in range(5):
            member.raw.propose(b"%d" % number)
        cluster.settle(without(3))
        member.storage.create_snapshot(5, None, b"state")
        member.storage.compact(5)
        member.raw.report_unreachable(3)
        cluster.tick()
        cluster.settle()
        self.assertEqual(cluster[3].storage.snapshot().data, b"state")
        self.assertEqual(cluster[3].log(), [(1, 6)])
        self.assertEqual(cluster[3].data, [b"4"])
