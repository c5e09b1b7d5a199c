"""Tests of ``relay.cluster.membership``: nodes that were removed are not dialled any more, others are."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.frames import NOTHING
from relay.cluster.handshake import HELLO_BYTES_MAX
from relay.cluster.link import Deframer
from relay.cluster.membership import Membership
from relay.cluster.transport import AcceptFactory, TcpTransport
from relay.test.group_cluster import GroupCluster, Member, others
from relay.test.test_cluster_metrics import seen, transport
from relay.test.test_link_lines import lines_said
from relay.test.test_links import anybody, framed, hello_of, side


class MembershipTests(SynchronousTestCase):
    """Who is dialled: the links are apart from the groups, which have their own in memory."""

    def setUp(self) -> None:
        self.cluster = GroupCluster(5, founders=3)
        self.leader = self.cluster.elect()
        self.gone, self.stays = others(self.cluster, self.leader)[:2]
        if self.gone.node > 3 or self.stays.node > 3:
            self.fail("founders first")
        self.links, self.membership = self.of(self.leader)
        self.lines = lines_said(self)

    def of(self, member: Member, *founders: int) -> tuple[TcpTransport, Membership]:
        """What ``member`` has of links, to all five nodes as from its file."""
        links = transport(member.node)
        for node in range(1, 6):
            if node != member.node:
                links.add(node, f"tcp:h{node}:7400")
        links.start()
        self.addCleanup(links.stop)
        assert member.groups is not None
        return links, Membership(member.node, member.groups.replicas, links, founders)

    def change(self, what: str, node: int) -> None:
        """A change of membership, applied by all that run."""
        self.cluster.call(getattr(self.leader.group(), what), node)
        self.cluster.run(0.5)

    def comes(self, node: int) -> Any:
        """``node`` dials the leader."""
        link: Any = AcceptFactory(self.links).buildProtocol(None)
        wire = StringTransport()
        link.makeConnection(wire)
        dialler, deframer = side(b"", hello_of(node), anybody, self.leader.node), Deframer(HELLO_BYTES_MAX)
        link.dataReceived(framed(dialler.begin()))
        for _ in range(2):
            data = wire.value()
            wire.clear()
            for frame in deframer.add(data):
                if answer := dialler.receive(frame):
                    link.dataReceived(framed(answer))
        return link

    def dialled(self) -> set[int]:
        self.membership.look()
        return set(self.links.dialers)

    def test_removed(self):
        """A node that was removed is dialled no more, and has no metrics; nodes that may join are, and have."""
        others_of = set(self.links.dialers)
        self.assertEqual(self.dialled(), others_of)
        self.change("remove", self.gone.node)
        self.assertEqual(self.dialled(), others_of - {self.gone.node})
        peers = {name for name in seen(self.leader, links=self.links) if f'peer="{self.gone.node}"' in name}
        self.assertEqual({name for name in peers if "silent" not in name}, set())
        self.assertIn(f"node {self.gone.node} was removed from the cluster", self.lines[-1])
        self.assertEqual(self.dialled(), others_of - {self.gone.node})
        self.assertEqual(len(self.lines), 1)

    def test_learner(self):
        """A learner is no other; it is one from the file before it is added, and again only when it is removed."""
        self.dialled()
        self.change("add_learner", 4)
        self.assertIn(4, self.dialled())
        self.change("remove", 4)
        self.assertEqual({4, 5} & self.dialled(), {5})

    def test_added_again(self):
        """A node that is a member again is dialled again, where it was."""
        self.dialled()
        self.change("remove", self.gone.node)
        self.dialled()
        self.change("add_learner", self.gone.node)
        self.assertIn(self.gone.node, self.dialled())
        self.assertEqual(self.links.dialers[self.gone.node].address, f"tcp:h{self.gone.node}:7400")

    def test_says_something(self):
        """A removed node that only lives is not dialled; one that says more gets its answers while it is linked."""
        node = self.gone.node
        self.dialled()
        self.change("remove", node)
        self.dialled()
        link = self.comes(node)
        link.dataReceived(framed(NOTHING))
        self.assertNotIn(node, self.dialled())
        link.dataReceived(framed(b"may I lead?"))
        self.assertIn(node, self.links.dialers)
        self.assertIn(node, self.dialled())
        link.connectionLost(None)
        self.assertNotIn(node, self.dialled())
        self.assertEqual(len([line for line in self.lines if "was removed" in line]), 1)

    def test_removed_itself(self):
        """The node itself says so once, when its log has it, and goes on to dial."""
        links, membership = self.of(self.gone)
        membership.look()
        self.change("remove", self.gone.node)
        for _ in range(3):
            membership.look()
        self.assertEqual(self.lines, [f"this node, {self.gone.node}, was removed from the cluster: it can be stopped"])
        self.assertEqual(len(links.dialers), 4)

    def test_restart(self):
        """After a restart the founders are known, and whoever the log still has; not before the log is applied."""
        self.dialled()
        self.change("add_learner", 4)
        self.change("remove", 4)
        self.change("remove", self.gone.node)
        node = self.leader.node
        self.cluster.kill(node)
        self.cluster.kill(self.stays.node)
        self.cluster.restart(node)
        self.links, self.membership = self.of(self.cluster[node], 1, 2, 3)
        self.assertEqual(len(self.dialled()), 4, "the log is not applied")
        self.cluster.restart(self.stays.node)
        self.cluster.elect()
        self.cluster.run(1)
        self.assertNotIn(self.gone.node, self.dialled())
        self.assertIn(5, self.dialled())

    def test_not_a_member_yet(self):
        """A node that joins knows no configuration, and drops nobody."""
        links, membership = self.of(self.cluster[4], 1, 2, 3)
        membership.look()
        self.assertEqual(len(links.dialers), 4)
        self.assertEqual(self.lines, [])
