"""The rules that keep a node within its limits, and the contract of the door to the core."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.raft.describe import describe_entry, describe_ready, describe_status, quote
from relay.cluster.raft.errors import (
    CannotStepLocal,
    PeerNotFound,
    ProposalDropped,
    RaftInvariantError,
    SnapshotUnavailable,
)
from relay.cluster.raft.logger import DEBUG, SILENT, say
from relay.cluster.raft.options import Options
from relay.cluster.raft.rawnode import RawNode
from relay.cluster.raft.storage import MemoryStorage
from relay.cluster.raft.tracker import PROBE, REPLICATE, SNAPSHOT
from relay.cluster.raft.types import (
    ADD_NODE,
    ENTRY_CONF_CHANGE_V2,
    ENTRY_OVERHEAD_BYTES,
    LEADER,
    LOCAL_APPEND_THREAD,
    LOCAL_MESSAGES,
    MSG_APP,
    MSG_APP_RESP,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_RESP,
    MSG_PROP,
    MSG_SNAP,
    MSG_VOTE_RESP,
    RESPONSE_MESSAGES,
    ConfChange,
    ConfState,
    Entry,
    HardState,
    Message,
    Snapshot,
)
from relay.errors import ConfigError
from relay.test.raft_cluster import Cluster, Member, entries, stored, without


def appends(messages: list[Message], to: int) -> list[list[bytes]]:
    """The payloads of the appends to a node."""
    return [[entry.data for entry in m.entries] for m in messages if m.type == MSG_APP and m.to == to]


class LimitTests(SynchronousTestCase):
    """What a leader keeps within bounds."""

    def test_uncommitted_payload(self) -> None:
        """Over the limit proposals are dropped; what is applied makes room; anything fits into an empty tail."""
        cluster = Cluster(uncommitted_size_max=10)
        leader = cluster.elect(1)
        leader.raw.propose(b"x" * 50)
        self.assertRaises(ProposalDropped, leader.raw.propose, b"y")
        leader.raw.propose(b"")
        cluster.settle()
        leader.raw.propose(b"x" * 6)
        leader.raw.propose(b"x" * 4)
        self.assertRaises(ProposalDropped, leader.raw.propose, b"y")
        cluster.settle()
        leader.raw.propose(b"z")
        cluster.settle()
        self.assertEqual(leader.raw.raft.uncommitted_size, 0)
        self.assertEqual([len(data) for data in leader.data], [50, 6, 4, 1])

    def test_leaving_a_joint_configuration_is_never_too_much(self) -> None:
        """The entry that leaves it has no payload, so the limit cannot hold it up."""
        cluster = Cluster(uncommitted_size_max=1)
        leader = cluster.elect(1)
        leader.raw.propose(b"xxx")
        leader.raw.propose_all((Entry(ENTRY_CONF_CHANGE_V2),))
        self.assertEqual(leader.raw.raft.log.last_index, 3)

    def test_several_proposals_at_once(self) -> None:
        """They are appended together, in order, and sent in one message; none of them if they do not fit."""
        cluster = Cluster(uncommitted_size_max=10)
        leader = cluster.elect(1)
        leader.raw.propose_all((Entry(data=b"a"), Entry(data=b"b")))
        self.assertEqual(appends(leader.handle(), 2), [[b"a", b"b"]])
        self.assertRaises(ProposalDropped, leader.raw.propose_all, (Entry(data=b"c"), Entry(data=b"d" * 9)))
        self.assertEqual(leader.raw.raft.log.last_index, 3)

    def test_the_window_in_messages(self) -> None:
        """No more than the limit are in flight to a node; an acknowledgement lets the next ones go."""
        leader = Cluster(inflight_max=2).elect(1)
        for data in (b"a", b"b", b"c"):
            leader.raw.propose(data)
        self.assertEqual(appends(leader.handle(), 2), [[b"a"], [b"b"]])
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, 2))
        self.assertEqual([sent for sent in appends(leader.handle(), 2) if sent], [[b"c"]])

    def test_the_window_in_bytes(self) -> None:
        """The byte limit may be passed by one message and then holds."""
        leader = Cluster(inflight_size_max=10, message_size_max=10).elect(1)
        for data in (b"a" * 6, b"b" * 6, b"c"):
            leader.raw.propose(data)
        self.assertEqual(appends(leader.handle(), 2), [[b"a" * 6], [b"b" * 6]])
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, 3))
        self.assertEqual([sent for sent in appends(leader.handle(), 2) if sent], [[b"c"]])

    def test_a_full_window_is_probed(self) -> None:
        """After a heartbeat's answer one empty append goes out, and no second one before the next answer."""
        leader = Cluster(inflight_max=1).elect(1)
        leader.raw.propose(b"a")
        leader.raw.propose(b"b")
        leader.handle()
        for _ in range(2):
            leader.raw.step(Message(MSG_HEARTBEAT_RESP, 1, 2, 1))
            self.assertEqual(appends(leader.handle(), 2), [[]])
        leader.raw.propose(b"c")
        self.assertEqual(appends(leader.handle(), 2), [])

    def test_the_size_of_an_append(self) -> None:
        """Entries are cut to the limit, at least one in each message."""
        limit = 2 * (ENTRY_OVERHEAD_BYTES + 1)
        cluster = Cluster(message_size_max=limit)
        leader = cluster.elect(1)
        for data in (b"a", b"b", b"c", b"d" * 200, b"e"):
            leader.raw.propose(data)
        cluster.settle(without(3))
        leader.raw.report_unreachable(3)
        cluster.tick()
        cluster.settle(lambda m: m.type not in (MSG_APP, MSG_APP_RESP))
        leader.raw.step(Message(MSG_APP_RESP, 1, 3, 1, 0, 1))
        sent = [one for one in appends(leader.handle(), 3) if one]
        self.assertEqual(sent, [[b"a", b"b"], [b"c"], [b"d" * 200], [b"e"]])

    def test_what_is_handed_out_to_be_applied(self) -> None:
        """Committed entries are handed out up to the limit, and the rest after those are applied."""
        cluster = Cluster(committed_size_max=2 * (ENTRY_OVERHEAD_BYTES + 1))
        leader = cluster.elect(1)
        for data in (b"a", b"b", b"c"):
            leader.raw.propose(data)
        leader.handle()
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, 4))
        rounds = []
        while leader.raw.has_ready():
            rounds.append([entry.data for entry in leader.handle_one().committed_entries])
        self.assertEqual([one for one in rounds if one], [[b"a", b"b"], [b"c"]])


class ProgressTests(SynchronousTestCase):
    """What a leader does about a node that is behind or gone."""

    def test_a_probe_is_sent_once(self) -> None:
        """In probe state a second proposal waits for the answer to the first append."""
        leader = Cluster().elect(1)
        leader.raw.report_unreachable(2)
        leader.raw.propose(b"a")
        leader.raw.propose(b"b")
        self.assertEqual(appends(leader.handle(), 2), [[b"a"]])
        self.assertEqual(leader.raw.raft.progress[2].state, PROBE)
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, 2))
        self.assertEqual([one for one in appends(leader.handle(), 2) if one], [[b"b"]])
        self.assertEqual(leader.raw.raft.progress[2].state, REPLICATE)

    def test_rejections_skip_terms(self) -> None:
        """Two logs that differ in a long tail of few terms meet after few messages (paper 5.3)."""
        ours, theirs = (1, *[3] * 40, 5), (1, *[2] * 60)
        storages = {1: stored(entries(*ours), term=5), 2: stored(entries(*theirs), term=5)}
        cluster = Cluster(storages=storages)
        cluster[1].raw.campaign()
        rejected = 0
        cluster.collect()
        while cluster.network:
            rejected += sum(m.type == MSG_APP_RESP and m.reject for m in cluster.network)
            cluster.deliver()
            cluster.collect()
        self.assertEqual(cluster[2].log(), cluster[1].log())
        self.assertLessEqual(rejected, 2)

    def test_a_stale_rejection_is_ignored(self) -> None:
        """A rejection of something that was acknowledged since does not move the leader back."""
        cluster = Cluster()
        leader = cluster.elect(1)
        leader.raw.propose(b"x")
        cluster.settle()
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, 1, (), 0, 0, True, 0))
        self.assertEqual(leader.handle(), [])
        self.assertEqual(leader.raw.raft.progress[2].next, 3)

    def _leader_with_snapshot(self) -> Member:
        """A leader that has sent 3 a snapshot at 3."""
        cluster = Cluster()
        leader = cluster.elect(1)
        for data in (b"a", b"b"):
            leader.raw.propose(data)
        cluster.settle(without(3))
        leader.storage.create_snapshot(3, None, b"")
        leader.storage.compact(3)
        leader.raw.report_unreachable(3)
        leader.raw.step(Message(MSG_HEARTBEAT_RESP, 1, 3, 1))
        self.assertEqual([m.type for m in leader.handle()], [MSG_SNAP])
        return leader

    def test_a_snapshot_stops_appends(self) -> None:
        """Until it is heard of, nothing is sent."""
        leader = self._leader_with_snapshot()
        self.assertEqual(leader.raw.raft.progress[3].state, SNAPSHOT)
        leader.raw.propose(b"c")
        leader.raw.step(Message(MSG_HEARTBEAT_RESP, 1, 3, 1))
        self.assertEqual(appends(leader.handle(), 3), [])

    def test_a_snapshot_that_arrived(self) -> None:
        """Reported as delivered, it is probed behind it, after the next heartbeat's answer."""
        leader = self._leader_with_snapshot()
        leader.raw.report_snapshot(3, failed=False)
        pr = leader.raw.raft.progress[3]
        self.assertEqual((pr.state, pr.next, pr.is_paused()), (PROBE, 4, True))
        leader.raw.report_snapshot(3, failed=True)
        self.assertEqual(pr.next, 4)

    def test_a_snapshot_that_failed(self) -> None:
        """It is sent again after the next heartbeat's answer, not before."""
        leader = self._leader_with_snapshot()
        leader.raw.report_snapshot(3, failed=True)
        pr = leader.raw.raft.progress[3]
        self.assertEqual((pr.state, pr.next), (PROBE, 2))
        leader.raw.propose(b"c")
        self.assertNotIn(MSG_SNAP, [m.type for m in leader.handle()])
        leader.raw.step(Message(MSG_HEARTBEAT_RESP, 1, 3, 1))
        self.assertIn(MSG_SNAP, [m.type for m in leader.handle()])

    def test_a_snapshot_that_is_being_made(self) -> None:
        """The storage says so, and is asked again with the next heartbeat's answer."""

        class Busy(MemoryStorage):
            busy = True

            def snapshot(self) -> Snapshot:
                if self.busy:
                    raise SnapshotUnavailable
                return super().snapshot()

        storage = Busy()
        storage.apply_snapshot(Snapshot(b"", 5, 1, ConfState((1, 2))))
        leader = Member(1, storage)
        leader.raw.campaign()
        leader.handle()
        leader.raw.step(Message(MSG_VOTE_RESP, 1, 2, 1))
        leader.handle()
        leader.raw.step(Message(MSG_APP_RESP, 1, 2, 1, 0, 5, (), 0, 0, True, 0))
        self.assertEqual(leader.handle(), [])
        storage.busy = False
        leader.raw.step(Message(MSG_HEARTBEAT_RESP, 1, 2, 1))
        self.assertEqual([m.type for m in leader.handle()], [MSG_SNAP])

    def test_a_new_member_is_counted_as_heard_from(self) -> None:
        """A check of the quorum right after a change does not depose the leader for the silence of a new member."""
        cluster = Cluster(2, check_quorum=True)
        leader = cluster.elect(1)
        for _ in range(9):
            leader.raw.tick()
        leader.raw.propose_conf_change(ConfChange(ADD_NODE, 3))
        cluster.settle()
        leader.raw.raft.progress[2].recent_active = False
        leader.raw.tick()
        self.assertEqual(leader.raw.raft.role, LEADER)


class DoorTests(SynchronousTestCase):
    """RawNode."""

    def test_local_messages_do_not_come_from_outside(self) -> None:
        """They are refused, whoever says to have sent them."""
        member = Member(1, stored())
        for kind in LOCAL_MESSAGES:
            self.assertRaises(CannotStepLocal, member.raw.step, Message(kind, 1, 2, 1))

    def test_answers_of_strangers_are_refused(self) -> None:
        """Only members answer; a storage thread may too."""
        member = Member(1, stored())
        for kind in RESPONSE_MESSAGES - LOCAL_MESSAGES:
            self.assertRaises(PeerNotFound, member.raw.step, Message(kind, 1, 9, 1))
            member.raw.step(Message(kind, 1, LOCAL_APPEND_THREAD, 0))

    def test_ready_and_advance_alternate(self) -> None:
        """A second Ready before the first was dealt with is a mistake of the caller's."""
        raw = Member(1, stored()).raw
        raw.campaign()
        raw.ready()
        self.assertRaises(RaftInvariantError, raw.ready)
        raw.advance()
        raw.advance()

    def test_there_is_no_advance_with_asynchronous_writes(self) -> None:
        """The answers of the threads take its place."""
        raw = Member(1, stored(), async_storage_writes=True).raw
        raw.campaign()
        raw.ready()
        self.assertRaises(RaftInvariantError, raw.advance)

    def test_nothing_to_do(self) -> None:
        """A node that follows in silence has no Ready, and an empty one if asked."""
        raw = Member(1, stored()).raw
        self.assertFalse(raw.has_ready())
        self.assertEqual(describe_ready(raw.ready()), "<empty Ready>")

    def test_followers_may_be_told_not_to_forward(self) -> None:
        """Then a proposal at a follower is dropped."""
        cluster = Cluster(disable_proposal_forwarding=True)
        cluster.elect(1)
        self.assertRaises(ProposalDropped, cluster[2].raw.propose, b"x")
        self.assertEqual(cluster[2].handle(), [])

    def test_a_forwarded_proposal_keeps_its_proposer(self) -> None:
        """The leader sees who proposed; the message has no term."""
        cluster = Cluster()
        cluster.elect(1)
        cluster[2].raw.propose(b"x")
        (message,) = cluster[2].handle()
        self.assertEqual((message.type, message.from_, message.to, message.term), (MSG_PROP, 2, 1, 0))

    def test_a_proposal_delivered_twice_is_two_entries(self) -> None:
        """The entries of a message are not changed by appending them, so the second is as good as the first."""
        cluster = Cluster()
        cluster.elect(1)
        cluster[2].raw.propose(b"x")
        (message,) = cluster[2].handle()
        for _ in range(2):
            cluster[1].raw.step(message)
        cluster.settle()
        self.assertEqual(cluster[1].data, [b"x", b"x"])

    def test_status(self) -> None:
        """A picture of the leader with its members; a follower shows no progress."""
        cluster = Cluster()
        status = cluster.elect(1).raw.status()
        cluster[1].raw.propose(b"later")
        self.assertEqual(status.progress[2].match, 1)
        self.assertEqual(
            json.loads(describe_status(status)),
            {
                "id": "1",
                "term": 1,
                "vote": "1",
                "commit": 1,
                "lead": "1",
                "raftState": "StateLeader",
                "applied": 1,
                "progress": {str(node): {"match": 1, "next": 2, "state": "StateReplicate"} for node in (1, 2, 3)},
                "leadtransferee": "0",
            },
        )
        self.assertEqual(cluster[2].raw.status().progress, {})


class StartTests(SynchronousTestCase):
    """What a node begins with."""

    def test_options_are_checked(self) -> None:
        """Each mistake is refused in a sentence."""
        storage = stored()
        good = {"id": 1, "storage": storage, "random_below": lambda count: 0}
        for wrong in (
            {"id": 0},
            {"id": LOCAL_APPEND_THREAD},
            {"heartbeat_tick": 0},
            {"election_tick": 1},
            {"inflight_max": 0},
            {"inflight_size_max": 5, "message_size_max": 10},
            {"read_only": 1},
        ):
            self.assertRaises(ConfigError, RawNode, Options(**(good | wrong)))  # type: ignore[arg-type]

    def test_what_was_applied_was_committed(self) -> None:
        """A commit index that was lost in a crash, for it need not be durable, does not hold a restart up."""
        member = Member(1, stored(entries(1, 1, 1), term=1, commit=1), applied=3)
        self.assertEqual((member.raw.raft.log.committed, member.handle(), member.applied), (3, [], []))

    def test_a_commit_index_beyond_the_log_is_refused(self) -> None:
        """Part of the log is lost: the node must not start."""
        self.assertRaises(RaftInvariantError, Member, 1, stored(entries(1), term=1, commit=2))
        self.assertRaises(RaftInvariantError, Member, 1, stored(entries(1), term=1), applied=2)

    def test_a_commit_beyond_the_log_is_a_lost_log(self) -> None:
        """The leader knows that this node had acknowledged more than it has now."""
        member = Member(1, stored(entries(1), term=1))
        self.assertRaises(RaftInvariantError, member.raw.step, Message(MSG_HEARTBEAT, 1, 2, 1, commit=5))

    def test_the_stored_configuration_is_taken(self) -> None:
        """Also a joint one."""
        state = ConfState((2, 3), (5,), (1, 2, 4), (4,), True)
        storage = MemoryStorage(state)
        storage.set_hard_state(HardState(3, 2, 0))
        r = Member(1, storage).raw.raft
        self.assertEqual(r.configuration.conf_state(), state)
        self.assertEqual((r.term, r.vote, list(r.progress)), (3, 2, [1, 2, 3, 4, 5]))


class TextTests(SynchronousTestCase):
    """What the core says about itself."""

    def test_nobody_listens(self) -> None:
        """Below the level of the logger nothing is formatted."""

        class Unspeakable:
            def __str__(self) -> str:
                raise AssertionError("formatted")

        class Deaf:
            level = SILENT

            def write(self, level: int, line: str) -> None:
                raise AssertionError("written")

        say(Deaf(), DEBUG, "%s", Unspeakable())

    def test_payloads_are_quoted(self) -> None:
        """Printable text as it is, everything else escaped."""
        self.assertEqual(quote(b'a"b\\\n\x00\xff\xc3\xa9\xe2\x80\xa8'), '"a\\"b\\\\\\n\\x00\\xffé\\u2028"')

    def test_a_change_that_cannot_be_read(self) -> None:
        """Its entry is described all the same."""
        self.assertIn("no membership change", describe_entry(Entry(ENTRY_CONF_CHANGE_V2, 1, 2, b"\xff")))
