"""Tests of ``relay.cluster_metrics``: what an operator sees of groups, elections, snapshots, links and the log."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

import relay
from relay.cluster.frames import BULK, SNAPSHOT
from relay.cluster.handshake import HELLO_BYTES_MAX, Handshake
from relay.cluster.link import Deframer
from relay.cluster.transport import AcceptFactory, TcpTransport
from relay.cluster_metrics import ClusterCollector, collector
from relay.store.wal import WriteAheadLog
from relay.store.wal_times import BOUNDS_S, SyncTimes
from relay.test.group_cluster import LOG_OPTIONS, GroupCluster, Member, others
from relay.test.simulated_files import SimulatedFiles
from relay.test.test_links import anybody, framed, hello_of

DOCS = Path(relay.__file__).parent.parent / "docs"


def transport(node: int = 1) -> TcpTransport:
    """The links of ``node``, none yet."""
    reactor: Any = MemoryReactorClock()
    return TcpTransport(
        reactor, b"", hello_of(node), anybody, lambda hello: None, lambda node, error: None, lambda: 0.0, bytes
    )  # fmt: skip


def text_of(collector: ClusterCollector) -> str:
    """What is served."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry).decode()


def samples(text: str) -> dict[str, float]:
    """All samples, by name with labels, without what all of them begin with."""
    pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name.removeprefix("relay_cluster_"): float(value) for name, _, value in pairs}


def seen(member: Member, groups_max: int = 64, links: TcpTransport | None = None) -> dict[str, float]:
    """What ``member`` serves now."""
    return samples(text_of(ClusterCollector(lambda: member.groups, links or transport(), member.log, groups_max)))


class GroupTests(SynchronousTestCase):
    """Groups as they are."""

    def test_leader_and_followers(self):
        """Each node tells its role, the term and the indexes of each group, and all groups by role."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.call(leader.group().propose, b"first")
        cluster.run(0.5)
        for member in cluster.running():
            found, status, leads = seen(member), member.group().status(), member is leader
            self.assertEqual(found["begun"], 1)
            self.assertEqual(found['group_term{group="1"}'], status.term)
            self.assertEqual(found['group_leading{group="1"}'], leads)
            self.assertEqual(found['group_has_leader{group="1"}'], 1)
            self.assertEqual(found['group_commit_index{group="1"}'], status.committed)
            self.assertEqual(found['group_applied_index{group="1"}'], status.committed)
            self.assertEqual(found['group_last_index{group="1"}'], status.last)
            states = {state: found[f'groups{{state="{state}"}}'] for state in ("leading", "following", "leaderless")}
            self.assertEqual(states, {"leading": leads, "following": not leads, "leaderless": 0})

    def test_without_leader(self):
        """A node that has lost the others says that there is no leader."""
        cluster = GroupCluster()
        leader = cluster.elect()
        for other in others(cluster, leader):
            cluster.kill(other.node)
        cluster.until(lambda: not leader.group().leading)
        found = seen(leader)
        self.assertEqual((found['group_has_leader{group="1"}'], found['groups{state="leaderless"}']), (0, 1))

    def test_behind(self):
        """The leader tells what each member lacks, in each group and the most of all; the others tell nothing."""
        cluster = GroupCluster(numbers=(1, 2), spread_ticks=10**6)
        leader = cluster.elect()
        if (second := cluster.elect(2)) is not leader:
            cluster.call(second.group(2).transfer, leader.node)
        cluster.run(0.5)
        behind, level = others(cluster, leader)
        cluster.kill(behind.node)
        for number, count in ((1, 3), (2, 7)):
            for _ in range(count):
                cluster.call(
                    leader.group(number).propose,
                    b"x",
                )
        cluster.run(0.1)
        found = seen(leader)
        lacking = [found[f'group_behind_entries{{group="{group}",member="{behind.node}"}}'] for group in (1, 2)]
        self.assertEqual(lacking, [3, 7])
        self.assertEqual(found[f'member_behind_entries{{member="{behind.node}"}}'], 7)
        self.assertEqual(found[f'member_behind_entries{{member="{level.node}"}}'], 0)
        self.assertFalse([name for name in seen(level) if "behind" in name])

    def test_waiting(self):
        """Proposals and reads without their outcome, of each group and all."""
        cluster = GroupCluster(numbers=(1, 2))
        leader = cluster.elect()
        for other in others(cluster, leader):
            cluster.kill(other.node)
        for _ in range(3):
            cluster.propose(leader, b"x")
        cluster.propose(leader, b"x", 2)
        leader.group(2).read_index(lambda result, error: None)
        found = seen(leader)
        self.assertEqual([found[f'group_proposals_waiting{{group="{each}"}}'] for each in (1, 2)], [3, 1])
        self.assertEqual([found[f'group_reads_waiting{{group="{each}"}}'] for each in (1, 2)], [0, 1])
        self.assertEqual((found["proposals_waiting"], found["reads_waiting"]), (4, 1))

    def test_many_groups(self):
        """Only the groups with the lowest numbers have lines of their own; sums have all; lines do not grow."""
        few, many = GroupCluster(1, numbers=range(1, 4)), GroupCluster(1, numbers=range(1, 31))
        for cluster in (few, many):
            for number in cluster.numbers:
                cluster.elect(number)
                cluster.call(cluster[1].group(number).propose, b"x")
        found = seen(many[1], 2)
        self.assertEqual(set(found), set(seen(few[1], 2)))
        self.assertEqual(
            [name for name in found if "group_term" in name], ['group_term{group="1"}', 'group_term{group="2"}']
        )
        self.assertEqual((found['groups{state="leading"}'], found['proposals_total{outcome="ok"}']), (30, 30))
        self.assertFalse([name for name in seen(many[1], 0) if 'group="' in name])

    def test_limit_of_the_configuration(self):
        """How many groups have lines is the configuration's to say."""
        cluster = GroupCluster(1, numbers=(1, 2, 3))
        member = cluster[1]
        config = SimpleNamespace(metrics_groups_max=1)
        kept = SimpleNamespace(stores=SimpleNamespace(log=member.log))
        service: Any = SimpleNamespace(groups=member.groups, transport=transport(), kept=kept, config=config)
        found = samples(text_of(collector(service)))
        self.assertEqual([name for name in found if "group_term" in name], ['group_term{group="1"}'])

    def test_not_begun(self):
        """A node that waits for the other founding voters shows its log and its links."""
        log = WriteAheadLog(SimulatedFiles(), "wal", LOG_OPTIONS)
        log.open()
        found = samples(text_of(ClusterCollector(lambda: None, transport(), log, 64)))
        self.assertEqual((found["begun"], found["log_segments"], found["links_refused_total"]), (0, 1, 0))
        self.assertFalse([name for name in found if name.startswith("group")])


class CounterTests(SynchronousTestCase):
    """What happened."""

    def outcomes(self, member: Member) -> dict[str, float]:
        found = seen(member)
        return {outcome: found[f'proposals_total{{outcome="{outcome}"}}'] for outcome in ("ok", "not_done", "unknown")}

    def test_outcomes(self):
        """Proposals are counted where they were made, by how they ended: refused ones were not done."""
        cluster = GroupCluster(request_ticks=20, proposal_bytes_max=1000)
        leader = cluster.elect()
        follower = others(cluster, leader)[0]
        for member, count in ((leader, 5), (follower, 3)):
            for _ in range(count):
                cluster.call(member.group().propose, b"x")
        self.assertEqual(self.outcomes(leader), {"ok": 5, "not_done": 0, "unknown": 0})
        self.assertEqual(self.outcomes(follower), {"ok": 3, "not_done": 0, "unknown": 0})
        cluster.propose(leader, bytes(1001))
        for other in others(cluster, leader):
            cluster.kill(other.node)
        told = [cluster.propose(leader, b"placed and never committed") for _ in range(2)]
        cluster.until(lambda: all(told))
        self.assertEqual(self.outcomes(leader), {"ok": 5, "not_done": 1, "unknown": 2})
        late = cluster.propose(leader, b"no leader")
        cluster.until(lambda: late)
        self.assertEqual(self.outcomes(leader), {"ok": 5, "not_done": 2, "unknown": 2})

    def test_overwritten(self):
        """One whose place another leader took was not done."""
        cluster = GroupCluster()
        leader = cluster.elect()
        for other in others(cluster, leader):
            cluster.cut(leader.node, other.node)
        told = [cluster.propose(leader, b"x"), cluster.propose(leader, b"y")]
        new = cluster.until(lambda: next((each for each in others(cluster, leader) if each.group().leading), None))
        for data in (b"z", b"over y"):
            cluster.call(new.group().propose, data)
        for other in others(cluster, leader):
            cluster.mend(leader.node, other.node)
        cluster.until(lambda: all(told))
        self.assertEqual(self.outcomes(leader), {"ok": 0, "not_done": 2, "unknown": 0})

    def test_elections(self):
        """An election counts where it was begun, a leader wherever it became known."""
        cluster = GroupCluster()
        leader = cluster.elect()
        cluster.run(0.5)
        begun = {member.node: seen(member)["elections_total"] for member in cluster.running()}
        self.assertGreaterEqual(begun[leader.node], 1)
        self.assertEqual({seen(member)["leader_changes_total"] for member in cluster.running()}, {1})
        cluster.kill(leader.node)
        new = cluster.until(lambda: next((each for each in cluster.running() if each.group().leading), None))
        cluster.run(0.5)
        self.assertGreater(seen(new)["elections_total"], begun[new.node])
        self.assertEqual({seen(member)["leader_changes_total"] for member in cluster.running()}, {2})

    def test_single_voter(self):
        """A node alone elects itself."""
        cluster = GroupCluster(1)
        cluster.elect()
        cluster.run(0.5)
        self.assertEqual((seen(cluster[1])["elections_total"], seen(cluster[1])["leader_changes_total"]), (1, 1))

    def snapshots(self, member: Member) -> list[tuple[float, float]]:
        """Taken, sent, received: how many, and how many failed."""
        found = seen(member)
        return [
            (found[f'snapshots_total{{what="{each}"}}'], found[f'snapshot_failures_total{{what="{each}"}}'])
            for each in ("taken", "sent", "received")
        ]

    def test_snapshots(self):
        """A learner gets a snapshot that the leader takes for it."""
        cluster = GroupCluster(4, founders=3)
        leader = cluster.elect()
        cluster.call(leader.group().propose, b"x")
        cluster.call(leader.group().add_learner, 4)
        cluster.until(lambda: cluster.commands(4) == cluster.commands(leader.node))
        cluster.run(0.5)
        self.assertEqual(self.snapshots(leader), [(1, 0), (1, 0), (0, 0)])
        self.assertEqual(self.snapshots(cluster[4]), [(0, 0), (0, 0), (1, 0)])

    def test_failed_snapshots(self):
        """One that finds no room is not taken, one whose link breaks neither sent nor received."""
        cluster = GroupCluster(4, founders=3, snapshot_chunk_bytes=4096)
        leader = cluster.elect()
        cluster.call(leader.group().propose, bytes(60_000))
        capacity, leader.disk.capacity_bytes = leader.disk.capacity_bytes, 0
        told: list[Any] = []
        leader.group().take_snapshot(lambda index, error: told.append(error))
        cluster.until(lambda: told)
        leader.disk.capacity_bytes = capacity
        self.assertEqual(self.snapshots(leader)[0], (0, 1))
        cluster.delay_s = lambda lane, frame: 0.05 if lane == SNAPSHOT else 0.001
        cluster.call(leader.group().add_learner, 4)
        cluster.until(lambda: [each for each in cluster.frames if each[2] == SNAPSHOT])
        cluster.run(0.2)
        cluster.cut(leader.node, 4)
        cluster.run(0.1)
        self.assertEqual(self.snapshots(leader), [(1, 1), (0, 1), (0, 0)])
        self.assertEqual(self.snapshots(cluster[4])[2], (0, 1))


class LogTests(SynchronousTestCase):
    """The log, and how long its syncs take."""

    def test_room(self):
        """Bytes, segments and the room that is left; without room for a segment it says so until there is."""
        cluster = GroupCluster(1)
        member = cluster.elect()
        cluster.run(0.1)
        found = seen(member)
        self.assertEqual(
            found["log_segments"], len([name for name in member.disk.list("wal") if name.endswith(".wal")])
        )
        self.assertEqual(found["log_bytes"], found["log_segments"] * LOG_OPTIONS.segment_bytes)
        whole = LOG_OPTIONS.segments_max * LOG_OPTIONS.segment_bytes
        self.assertEqual((found["log_bytes"] + found["log_room_bytes"], found["log_full"]), (whole, 0))
        self.assertGreater(found["log_written_bytes_total"], 0)
        capacity, member.disk.capacity_bytes = member.disk.capacity_bytes, 0
        told: list[list[Any]] = []
        while not seen(member)["log_refusals_total"]:
            told.append(cluster.propose(member, bytes(30_000)))
            cluster.run(0.02)
            self.assertLess(len(told), 200)
        found = seen(member)
        self.assertEqual(found["log_full"], 1)
        self.assertGreater(found["proposals_waiting"], 0)
        member.disk.capacity_bytes = capacity
        member.log.maintain()
        cluster.until(lambda: all(told))
        self.assertEqual((seen(member)["log_full"], seen(member)["proposals_waiting"]), (0, 0))

    def test_sync_times(self):
        """Buckets hold what took no longer than their bound; the last one holds all."""
        times = SyncTimes()
        for seconds in (0.0001, BOUNDS_S[0], 0.003, 100.0):
            times.add(seconds)
        found = dict(times.buckets())
        self.assertEqual(
            [found[each] for each in ("0.0005", "0.001", "0.002", "0.004", "2.048", "+Inf")], [2, 2, 2, 3, 3, 4]
        )
        self.assertAlmostEqual(times.sum_s, 100.0036)
        self.assertEqual([float(bound) for bound in found][:-1], list(BOUNDS_S))

    def test_histogram(self):
        """They are served as a histogram."""
        cluster = GroupCluster(1)
        cluster[1].log.sync_times.add(0.003)
        found = seen(cluster[1])
        self.assertEqual(found['log_sync_seconds_bucket{le="0.002"}'], 0)
        self.assertEqual(found['log_sync_seconds_bucket{le="0.004"}'], 1)
        self.assertEqual((found["log_sync_seconds_count"], found["log_sync_seconds_sum"]), (1, 0.003))


class LinkTests(SynchronousTestCase):
    """Links to the peers and from them."""

    def setUp(self) -> None:
        self.links = transport()
        self.links.add(2, "tcp:h2:7400")
        self.links.add(3, "tcp:h3:7400")
        self.links.start()
        self.addCleanup(self.links.stop)
        self.cluster = GroupCluster()

    def dialled(self) -> Any:
        """The link to node 2 that was dialled last stands."""
        reactor: Any = self.links.reactor
        found = [each for each in reactor.tcpClients if each[0] == "h2"]
        protocol = found[-1][2].buildProtocol(None)
        wire = StringTransport()
        protocol.makeConnection(wire)
        acceptor, deframer = Handshake(b"", b"", hello_of(2), anybody), Deframer(HELLO_BYTES_MAX)
        for _ in range(2):
            data = wire.value()
            wire.clear()
            for frame in deframer.add(data):
                protocol.dataReceived(framed(acceptor.receive(frame) or b"?"))
        return protocol

    def shown(self) -> dict[str, float]:
        return seen(self.cluster[1], links=self.links)

    def test_up(self):
        """Each peer has a line for both directions; links that came to stand are counted."""
        for peer in (2, 3):
            self.assertEqual(self.shown()[f'link_up{{direction="out",peer="{peer}"}}'], 0)
        link = self.dialled()
        self.assertEqual(self.shown()['link_up{direction="out",peer="2"}'], 1)
        self.assertEqual(self.shown()['link_up{direction="out",peer="3"}'], 0)
        standing = self.links.dialers[2].link
        assert standing is not None
        standing.end()
        self.assertEqual(self.shown()['link_up{direction="out",peer="2"}'], 0, "not lost yet, and of no use")
        link.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.shown()['link_up{direction="out",peer="2"}'], 0)
        reactor: Any = self.links.reactor
        reactor.advance(1)
        self.dialled()
        self.assertEqual(self.shown()['links_made_total{peer="2"}'], 2)

    def test_from_the_peer(self):
        """A link that a peer dialled."""
        link: Any = AcceptFactory(self.links).buildProtocol(None)
        wire = StringTransport()
        link.makeConnection(wire)
        dialler, deframer = Handshake(b"", b"", hello_of(2), anybody, 1), Deframer(HELLO_BYTES_MAX)
        link.dataReceived(framed(dialler.begin()))
        for _ in range(2):
            data = wire.value()
            wire.clear()
            for frame in deframer.add(data):
                link.dataReceived(framed(dialler.receive(frame) or b"?"))
        found = self.shown()
        self.assertEqual([found[f'link_up{{direction="in",peer="{peer}"}}'] for peer in (2, 3)], [1, 0])

    def test_waiting(self):
        """What the socket does not take, by lane."""
        self.dialled()
        link = self.links.dialers[2].link
        assert link is not None
        link.pauseProducing()
        self.links.send(2, BULK, bytes(500))
        found = self.shown()
        waiting = [found[f'link_waiting_bytes{{lane="{lane}",peer="2"}}'] for lane in ("urgent", "bulk", "snapshots")]
        self.assertEqual(waiting, [0, 500, 0])

    def test_silent(self):
        """How long nothing came from a peer that is linked."""
        self.cluster.elect()
        self.cluster.run(0.5)
        self.assertLess(self.shown()['link_silent_seconds{peer="2"}'], 0.2)
        self.cluster.delay_s = lambda lane, frame: 60.0
        self.cluster.run(3.0)
        self.assertGreater(self.shown()['link_silent_seconds{peer="2"}'], 2.0)


class DocumentTests(SynchronousTestCase):
    """The page for operators."""

    def test_all_are_documented(self):
        """docs/operating.md names each family and no other; docs/cluster.md names only such."""
        member = GroupCluster(1)[1]
        text = text_of(ClusterCollector(lambda: member.groups, transport(), member.log, 64))
        named = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        page = (DOCS / "operating.md").read_text()
        told = set(re.findall(r"`(relay_cluster_\w+)`", page))
        self.assertEqual(sorted(told), sorted(named))
        watched = set(re.findall(r"relay_cluster_\w+", (DOCS / "cluster.md").read_text()))
        self.assertEqual({name.removesuffix("_bucket") for name in watched} - named, set())
