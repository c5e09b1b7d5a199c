"""Tests of groups while members, snapshots, disks and links change or fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster import frames
from relay.cluster.frames import SNAPSHOT, URGENT, Beat, decode_chunk, encode_raft, raft_part
from relay.cluster.raft.codec import encode_message
from relay.cluster.raft.types import MSG_APP_RESP, MSG_HEARTBEAT, MSG_PROP, MSG_READ_INDEX, Entry, Message
from relay.errors import Conflict, DeadlineExceeded, Full, RemoteProtocolError, Unavailable
from relay.test.group_cluster import GroupCluster, Member, others


def last_index(member: Member) -> int:
    """The last entry that the core of ``member`` has, durable or not."""
    return member.group().status().last


class MemberTests(SynchronousTestCase):
    """Changes of membership while the group runs."""

    def test_learner(self):
        """A learner catches up, from a snapshot as nothing else reaches back, and is promoted."""
        cluster = GroupCluster(4, founders=3)
        leader = cluster.elect()
        for number in range(5):
            cluster.call(leader.group().propose, b"%d" % number)
        members = cluster.call(leader.group().add_learner, 4)
        self.assertEqual((members.voters, members.learners), ((1, 2, 3), (4,)))
        cluster.until(lambda: cluster.commands(4) == cluster.commands(leader.node))
        self.assertEqual(cluster[4].machines[1].restored, 1)
        cluster.run(0.2)
        members = cluster.call(leader.group().promote, 4)
        self.assertEqual((members.voters, members.learners), ((1, 2, 3, 4), ()))
        cluster.call(cluster[4].group().propose, b"from the new one")

    def test_not_caught_up(self):
        """A learner that lacks entries, or is not there, is not promoted."""
        cluster = GroupCluster(4, founders=3)
        leader = cluster.elect()
        cluster.kill(4)
        cluster.call(leader.group().add_learner, 4)
        error = self.assertRaises(Conflict, cluster.call, leader.group().promote, 4)
        self.assertTrue(error.temporary)

    def test_learner_does_not_count(self):
        """With a learner and one voter of three left nothing is committed."""
        cluster = GroupCluster(4, founders=3, request_ticks=20)
        leader = cluster.elect()
        cluster.call(leader.group().add_learner, 4)
        cluster.until(lambda: 4 in cluster[4].group().status().learners)
        for node in (1, 2, 3):
            if node != leader.node:
                cluster.kill(node)
        self.assertRaises(DeadlineExceeded, cluster.call, leader.group().propose, b"x")

    def test_removed_while_it_writes(self):
        """A leader that is removed before its own disk is done goes on with its other groups."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.call(leader.group().propose, b"first")
        removed: list[Any] = []
        leader.group().remove(leader.node, lambda result, error: removed.append((result, error)))
        log = leader.log.group(1)
        cluster.until(lambda: log.last_index() == last_index(leader))
        write_soon, leader.log.on_work = leader.log.on_work, lambda: None  # its disk becomes slow
        cluster.propose(leader, b"behind the removal")
        cluster.until(lambda: removed)
        leader.log.on_work = write_soon
        write_soon()
        cluster.run(0.05)
        self.assertEqual(leader.fatal, [])
        self.assertNotIn(leader.node, removed[0][0].voters)

    def test_remove(self):
        """A removed node is a member no more, and the leader may remove itself."""
        cluster = GroupCluster()
        leader = cluster.elect()
        members = cluster.call(leader.group().remove, leader.node)
        self.assertEqual(members.voters, tuple(each.node for each in others(cluster, leader)))
        cluster.until(lambda: cluster.leader() not in (None, leader))

    def test_refused(self):
        """On followers, for members that are there or are not, and one at a time."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.run(0.1)
        follower = others(cluster, leader)[0]
        self.assertRaises(Unavailable, cluster.call, follower.group().add_learner, 4)
        self.assertRaises(Conflict, cluster.call, leader.group().add_learner, 2)
        self.assertRaises(Conflict, cluster.call, leader.group().promote, 2)
        self.assertRaises(Conflict, cluster.call, leader.group().remove, 4)
        leader.group().add_learner(4, lambda result, error: None)
        self.assertRaises(Conflict, cluster.call, leader.group().add_learner, 5)

    def test_too_much_is_not_committed(self):
        """A change that the leader has no room for is refused; whoever asked for it is told so."""
        cluster = GroupCluster(uncommitted_bytes_max=1000)
        leader = cluster.elect()
        cluster.run(0.1)
        for other in others(cluster, leader):
            cluster.cut(leader.node, other.node)
        cluster.propose(leader, b"x" * 1000)
        cluster.run(0.01)
        refused: list[Any] = []
        leader.group().add_learner(4, lambda result, error: refused.append(error))
        cluster.until(lambda: refused)
        self.assertIsInstance(refused[0], Unavailable)
        self.assertEqual((refused[0].outcome, leader.fatal), ("not_done", []))


class SnapshotTests(SynchronousTestCase):
    """Snapshots and compaction."""

    def fill(self, cluster: GroupCluster, member: Member, count: int) -> None:
        outcomes = [cluster.propose(member, b"%05d" % number + b"x" * 500) for number in range(count)]
        cluster.until(lambda: all(outcomes))

    def test_compacts(self):
        """By size: the log is cut behind the older of two snapshots, and a restart begins at the newer one."""
        cluster = GroupCluster(snapshot_log_bytes=20_000)
        leader = cluster.elect()
        for _ in range(4):
            self.fill(cluster, leader, 50)
            cluster.run(0.5)
        status = leader.group().status()
        self.assertGreater(status.snapshot, 100)
        self.assertGreater(status.first, 50)
        self.assertLessEqual(status.first - 1, status.snapshot)
        node = leader.node
        before = list(cluster.commands(node))
        cluster.kill(node)
        cluster.restart(node)
        self.assertEqual(cluster[node].machines[1].restored, 1)
        cluster.until(lambda: cluster.commands(node) == before)

    def test_asked_for(self):
        """``take_snapshot`` tells the index, twice the same without anything new."""
        cluster = GroupCluster()
        leader = cluster.elect()
        self.fill(cluster, leader, 3)
        index = cluster.call(leader.group().take_snapshot)
        self.assertEqual(index, leader.group().applied)
        self.assertEqual(cluster.call(leader.group().take_snapshot), index)

    def test_disk_full(self):
        """A snapshot that does not fit has failed, and says so; the next one may fit."""
        cluster = GroupCluster()
        leader = cluster.elect()
        self.fill(cluster, leader, 3)
        capacity = leader.disk.capacity_bytes
        leader.disk.capacity_bytes = 0
        self.assertRaises(Full, cluster.call, leader.group().take_snapshot)
        leader.disk.capacity_bytes = capacity
        self.assertEqual(cluster.call(leader.group().take_snapshot), leader.group().applied)

    def test_machine_fails(self):
        """A machine that cannot show its state ends the node."""
        cluster = GroupCluster()
        leader = cluster.elect()
        self.fill(cluster, leader, 3)

        def broken() -> Iterator[bytes]:
            yield b"one"
            raise ValueError("no more")

        leader.machines[1].snapshot = broken  # type: ignore[method-assign]  # a broken one
        leader.group().take_snapshot(lambda index, error: None)
        cluster.until(lambda: leader.fatal)

    def lagging(self, **options: Any) -> tuple[GroupCluster, Member, Member]:
        """A cluster with a follower that needs a snapshot of 200 kB as soon as it comes back."""
        cluster = GroupCluster(snapshot_log_bytes=30_000, snapshot_chunk_bytes=4096, **options)
        leader = cluster.elect()
        behind = others(cluster, leader)[0]
        cluster.kill(behind.node)
        for _ in range(4):
            self.fill(cluster, leader, 100)
            cluster.run(0.5)
        return cluster, leader, behind

    def test_installed_while_heartbeats_go_on(self):
        """Chunks on a slow link hold up neither heartbeats nor commits, and nobody campaigns."""
        cluster, leader, behind = self.lagging()
        term = leader.group().term
        cluster.delay_s = lambda lane, frame: 0.05 if lane == SNAPSHOT else 0.001
        cluster.restart(behind.node)
        first = len(cluster.frames)
        committed = 0
        while not behind.machines[1].restored:
            cluster.call(leader.group().propose, b"meanwhile")
            committed += 1
            self.assertLess(committed, 10_000)
        sent = [(lane, frame) for source, node, lane, frame in cluster.frames[first:] if node == behind.node]
        chunks = [number for number, (lane, _) in enumerate(sent) if lane == SNAPSHOT]
        self.assertGreater(len(chunks), 20)
        urgent = [number for number, (lane, _) in enumerate(sent) if lane == URGENT]
        self.assertTrue([number for number in urgent if chunks[0] < number < chunks[-1]])
        self.assertGreater(committed, 20)
        self.assertEqual(behind.machines[1].restored, 1)
        self.assertEqual(leader.group().term, term)

    def test_window(self):
        """No more than ``snapshot_window`` chunks are on their way."""
        cluster, _, behind = self.lagging(snapshot_window=3)
        cluster.delay_s = lambda lane, frame: 0.2 if lane == SNAPSHOT else 0.001
        cluster.restart(behind.node)
        first = len(cluster.frames)
        cluster.until(lambda: [each for each in cluster.frames[first:] if each[2] == SNAPSHOT])
        cluster.run(0.1)
        self.assertEqual(len([each for each in cluster.frames[first:] if each[2] == SNAPSHOT]), 3)

    def test_link_breaks(self):
        """A snapshot that was cut short is sent again, from its beginning."""
        cluster, leader, behind = self.lagging()
        cluster.delay_s = lambda lane, frame: 0.02 if lane == SNAPSHOT else 0.001
        cluster.restart(behind.node)
        first = len(cluster.frames)
        cluster.until(lambda: len([each for each in cluster.frames[first:] if each[2] == SNAPSHOT]) > 10)
        cluster.cut(leader.node, behind.node)
        cluster.mend(leader.node, behind.node)
        cluster.until(lambda: cluster.commands(behind.node) == cluster.commands(leader.node))
        numbers = [decode_chunk(frame).number for *_, lane, frame in cluster.frames[first:] if lane == SNAPSHOT]
        self.assertEqual(numbers.count(0), 2)
        cluster.run(0.1)
        assert leader.groups is not None and behind.groups is not None
        self.assertEqual((leader.groups.turn.sending, behind.groups.turn.receiving), (0, 0))

    def test_receiver_crashes(self):
        """One that dies while it receives comes back without it, and gets it then."""
        cluster, leader, behind = self.lagging()
        cluster.delay_s = lambda lane, frame: 0.02 if lane == SNAPSHOT else 0.001
        cluster.restart(behind.node)
        first = len(cluster.frames)
        cluster.until(lambda: len([each for each in cluster.frames[first:] if each[2] == SNAPSHOT]) > 10)
        cluster.kill(behind.node)
        cluster.restart(behind.node)
        cluster.until(lambda: cluster.commands(behind.node) == cluster.commands(leader.node))

    def test_overtaken(self):
        """A snapshot that is still being taken when the leader's later one arrives does not take its place."""
        cluster, leader, behind = self.lagging()
        cluster.restart(behind.node)
        taking = behind.groups.snapshots[1].taking  # type: ignore[union-attr]  # it runs
        background = behind.groups.turn.stores.background  # type: ignore[union-attr]  # as above
        self.fill(cluster, leader, 1)
        slow: list[Any] = []
        object.__setattr__(taking._stores, "background", lambda work, done: slow.append((work, done)))
        taking.take()
        self.assertEqual(len(slow), 1)
        object.__setattr__(taking._stores, "background", background)
        cluster.until(lambda: cluster.commands(behind.node) == cluster.commands(leader.node))
        newest = taking.newest_index
        self.assertGreater(newest, 100)
        for work, done in slow:
            background(work, done)
        cluster.run(1.0)
        self.assertEqual(taking.newest_index, newest)
        self.assertIsNone(taking._taking)

    def test_refused_chunks(self):
        """Chunks without their beginning are ignored, a first one without its message is no frame of ours."""
        cluster = GroupCluster()
        cluster.elect()
        groups = cluster[1].groups
        assert groups is not None
        groups.received(2, frames.encode_chunk(frames.Chunk(1, 5, 1, 3, False, b"", b"x")))
        first = frames.encode_chunk(frames.Chunk(1, 5, 1, 0, False, encode_message(Message(MSG_APP_RESP, 1, 2)), b"x"))
        self.assertRaises(RemoteProtocolError, groups.received, 2, first)


class DiskTests(SynchronousTestCase):
    """The log is full, or fails."""

    def test_full(self):
        """Proposals wait while the log has no room; what the core handed out is written when it has."""
        cluster = GroupCluster(1)
        leader = cluster.elect()
        log = leader.log
        real = log.submit
        refused: list[object] = []

        def submit(writes: Any, done: Any = None, *, must_sync: bool = True) -> None:
            refused.append(writes)
            raise Full

        log.submit = submit  # type: ignore[method-assign]  # a full log
        first, second = cluster.propose(leader, b"first"), None
        cluster.run(0.2)
        second = cluster.propose(leader, b"second")
        cluster.run(0.2)
        self.assertEqual((first, second), ([], []))
        self.assertTrue(refused)
        log.submit = real  # type: ignore[method-assign]  # there is room again
        cluster.until(lambda: first and second)
        self.assertEqual((first, second), ([1, None], [2, None]))

    def test_leader_full(self):
        """A leader whose disk is full lets another one lead, so that the group goes on; with room it follows."""
        cluster = GroupCluster()
        full = cluster.elect()
        cluster.run(1.0)
        full.disk.capacity_bytes = 0
        for number in range(200):
            cluster.propose(full, bytes([number]) * 30_000)
            cluster.run(0.02)
            if full.log.no_room is not None and not full.group().leading:
                break
        other = cluster.until(lambda: next((each for each in others(cluster, full) if each.group().leading), None))
        outcome = cluster.propose(other, b"on")
        cluster.until(lambda: outcome)
        self.assertIsNone(outcome[1])
        full.disk.capacity_bytes = 1 << 28
        full.log.maintain()
        cluster.until(lambda: cluster.commands(full.node) == cluster.commands(other.node))

    def test_failed(self):
        """A log that failed is the end of the node: nothing is acknowledged."""
        cluster = GroupCluster(1)
        leader = cluster.elect()
        cluster.run(0.5)
        leader.log.fail(OSError("fdatasync"))
        outcome = cluster.propose(leader, b"x")
        cluster.until(lambda: len(leader.fatal) > 1)
        cluster.run(1.0)
        self.assertEqual(outcome, [])


class InboundTests(SynchronousTestCase):
    """Frames that mean nothing."""

    def setUp(self) -> None:
        self.cluster = GroupCluster()
        self.groups = self.cluster[1].groups
        assert self.groups is not None

    def test_wrong_sender(self):
        """Messages from or to another node than the link's, and kinds that do not come this way, end the link."""
        assert self.groups is not None
        for message in (
            Message(MSG_APP_RESP, 1, 3, 5),
            Message(MSG_APP_RESP, 2, 2, 5),
            Message(MSG_HEARTBEAT, 1, 2, 5),
            Message(MSG_PROP, 1, 2, entries=(Entry(data=b"x"),)),
            Message(MSG_READ_INDEX, 1, 2),
        ):
            frame = encode_raft([raft_part(1, encode_message(message))])
            self.assertRaises(RemoteProtocolError, self.groups.received, 2, frame)

    def test_unknown_group(self):
        """A message for a group that is not here is counted, and the link stays."""
        assert self.groups is not None
        self.groups.received(2, encode_raft([raft_part(77, encode_message(Message(MSG_APP_RESP, 1, 2, 5)))]))
        self.groups.received(2, frames.encode_beats([Beat(77, 1, 0, b"", False)]))
        self.assertEqual(self.groups.inbound.unknown, 2)

    @given(st.integers(0, 9), st.binary(max_size=64))
    def test_garbage(self, kind: int, rest: bytes) -> None:
        """Garbage is a RemoteProtocolError or nothing, and never the end of the node."""
        groups = GARBAGE.groups
        assert groups is not None
        with contextlib.suppress(RemoteProtocolError):
            groups.received(2, bytes([kind]) + rest if kind else rest)
        self.assertEqual(GARBAGE.fatal, [])


GARBAGE = GroupCluster()[1]
"""One node for all that Hypothesis thinks of."""
