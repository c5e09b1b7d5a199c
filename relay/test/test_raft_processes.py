"""Real processes over TCP: founded, the leader killed, an emptied voter refused, another node in its place."""

from __future__ import annotations

import shutil
import signal
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.test.raft_processes import ANSWER_S, Processes, failover_s


class ProcessTests(SynchronousTestCase):
    """One cluster for all, as its start takes most of the time."""

    def put(self, cluster: Processes, text: str) -> Any:
        """Write until it is acknowledged; the result."""
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            for node in cluster.nodes.values():
                if node.process is not None:
                    answer = node.ask(f"put {text}")
                    if "result" in answer:
                        return answer["result"]
        raise TimeoutError(text)

    def test_cluster(self):
        """Everything that only processes show."""
        cluster = Processes()
        self.addCleanup(cluster.close)
        cluster.start()
        leader = cluster.leader()
        first = self.put(cluster, "first")

        # SIGKILL of the leader: another one acknowledges, and what was acknowledged before is there.
        print(f"\nkill -9 of the leader: {failover_s(cluster) * 1000:.0f} ms until a write is acknowledged")
        self.assertGreater(self.put(cluster, "second"), first)

        # SIGTERM of the leader: handed over, and the process ends by itself with its log closed.
        leader = cluster.leader()
        term = leader.ask("status")["term"]
        self.assertEqual(leader.end(signal.SIGTERM), 0)
        self.assertEqual(cluster.leader().ask("status")["term"], term + 1)
        leader.start().read()
        cluster.level()

        # An emptied voter is refused under its old id.
        emptied = next(node for node in cluster.nodes.values() if node is not cluster.leader())
        emptied.end()
        shutil.rmtree(emptied.directory / "data")
        emptied.start()
        self.assertRaises(EOFError, emptied.read)
        self.assertEqual(emptied.end(), 1)
        self.assertIn("came back with another data directory", emptied.log.read_text())
        del cluster.nodes[emptied.node]

        # Its place is taken by a new id, as a learner first.
        joined = cluster.nodes[4] = cluster.make(4, joining=True)
        joined.start().read()
        leader = cluster.leader()
        self.assertEqual(leader.ask("member add 4")["result"][1], [4])
        until = time.monotonic() + ANSWER_S
        while "error" in (answer := leader.ask("member promote 4")) and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual(answer["result"][0], [1, 2, 3, 4])
        self.assertEqual(leader.ask(f"member remove {emptied.node}")["result"][0], sorted(cluster.nodes))
        cluster.level()
        self.put(cluster, "third")

        # With the file of the new voters it goes on where it was, though it founded nothing.
        joined.end()
        peers = [{**peer, "voter": True} for peer in cluster.peers(4) if peer["node"] != emptied.node]
        cluster.nodes[4] = cluster.make(4, change={"peers": peers})
        cluster.nodes[4].start().read()
        cluster.level()

    def test_wrong_files(self):
        """A file that names other voters, another node or another cluster: one clear line, and status 1."""
        cluster = Processes(1)
        self.addCleanup(cluster.close)
        cluster.start()
        cluster.leader()
        cluster.nodes[1].end()
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"name": "other"}, "belongs to cluster 'test'"),
            ({"node": 2, "peers": [{"node": 2, "address": "tcp:127.0.0.1:1"}]}, "belongs to node 1"),
            (
                {"peers": [{"node": node, "address": "tcp:127.0.0.1:1"} for node in (1, 2)]},
                "the file names the voters 1, 2, the log of group 1 has 1; the log counts",
            ),
        ]
        for change, words in wrong:
            node = cluster.make(1, directory="node1", change=change)
            node.log.unlink()
            node.start()
            self.assertRaises(EOFError, node.read)
            self.assertEqual(node.end(), 1)
            lines = [line for line in node.log.read_text().splitlines() if line.startswith("relay: ")]
            self.assertEqual(len(lines), 1)
            self.assertIn(words, lines[0])
