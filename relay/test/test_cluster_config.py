"""Tests of the section ``cluster``: what fits together, and what of it the groups and links get."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.cluster.group_options import GroupOptions, options_for
from relay.cluster.service import group_options, link_options
from relay.config import Config
from relay.config_check import problems
from relay.config_cluster import Cluster, ClusterPeer

PEERS = tuple(ClusterPeer(node=node, address=f"tcp:127.0.0.1:{7400 + node}") for node in (1, 2, 3))


def cluster(**other: Any) -> Cluster:
    settings = {"name": "c", "node": 1, "listen": "tcp:7401:interface=127.0.0.1", "peers": PEERS, **other}
    return Cluster(**settings)


class CheckTests(SynchronousTestCase):
    """What is wrong is said in a sentence that names the setting."""

    def test_fine(self):
        """Local without a secret, or anywhere with one."""
        self.assertEqual(problems(Config(cluster=cluster())), [])
        self.assertEqual(problems(Config(cluster=cluster(listen="tcp:7401", secret="s" * 16))), [])

    def test_problems(self):
        """Everything else."""
        for other, words in (
            ({"listen": "tcp:7401"}, "cluster.secret: other machines reach tcp:7401"),
            ({"listen": "tcp:7401", "secret": "s" * 15}, "cluster.secret: expected at least 16 bytes"),
            ({"listen": "tpc:7401"}, "cluster.listen: tpc:7401"),
            ({"node": 4}, "cluster.peers: this node, 4"),
            ({"peers": (*PEERS, PEERS[0])}, "cluster.peers[3].node: 1 is the node of cluster.peers[0]"),
            ({"peers": (ClusterPeer(node=1, address="10.0.0.1"),)}, "cluster.peers[0].address: expected a client"),
            ({"peers": (ClusterPeer(node=1, address="tcp:h:1", voter=False),)}, "cluster.peers: at least one voter"),
        ):
            found = problems(Config(cluster=cluster(**other)))
            self.assertEqual(len(found), 1, found)
            self.assertTrue(found[0].startswith(words), found)


class OptionTests(SynchronousTestCase):
    """From the configuration to the parts."""

    def test_groups(self):
        """The limits arrive, times as ticks of the profile."""
        config = cluster(
            proposal_bytes_max=2000, proposals_max=7, uncommitted_bytes_max=3000, snapshot_log_bytes=4000,
            request_timeout_s=2.0,
        )  # fmt: skip
        found = group_options(config)
        self.assertEqual(
            (found.proposal_bytes_max, found.proposals_max, found.uncommitted_bytes_max, found.snapshot_log_bytes),
            (2000, 7, 3000, 4000),
        )
        self.assertEqual(found.request_ticks, 40)
        self.assertEqual(group_options(cluster(profile="wan", request_timeout_s=2.0)).request_ticks, 20)

    def test_links(self):
        """The queue of entries and the number of links."""
        found = link_options(cluster(link_queue_bytes_max=5_000_000, links_max=3))
        self.assertEqual((found.lane_bytes_max[1], found.links_max), (5_000_000, 3))

    def test_profiles(self):
        """The default is ``lan``; both give an election several heartbeats."""
        self.assertEqual(options_for("lan"), GroupOptions())
        for profile in ("lan", "wan"):
            options = options_for(profile)
            self.assertGreaterEqual(options.election_ticks, 5 * options.heartbeat_ticks)
        self.assertRaises(ValueError, GroupOptions, heartbeat_ticks=6)
        self.assertRaises(ValueError, GroupOptions, inflight_bytes_max=1)
        self.assertRaises(ValueError, GroupOptions, campaign_ms_min=60)
