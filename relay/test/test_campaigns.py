"""A small share of the campaigns: a soak over a bad network, and garbage against a real node."""

from __future__ import annotations

import asyncio
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay.test.garbage import CONFIG as GARBAGE_CONFIG
from relay.test.garbage import campaign
from relay.test.node_process import NodeProcess, running
from relay.test.soak import CONFIG, Soak
from relay.test.transports import every_transport


class Campaigns(SynchronousTestCase):
    """What the long runs check, for a few seconds."""

    def test_soak(self):
        """Sessions whose connections break all the time lose nothing, do nothing twice, and keep the order."""
        node = NodeProcess(CONFIG)
        self.addCleanup(node.close)
        ways = list(every_transport(node).values())
        node.start()
        soak = Soak(node, ways, sessions=60, seconds=4, seed=3)
        asyncio.run(soak.run())
        figures = soak.figures()
        self.assertEqual(node.log, "")
        wrong = ("lost", "twice_or_out_of_order", "pulls_done_twice", "answered_but_not_done_once", "sessions_lost")
        for name in wrong:
            self.assertEqual(figures[name], 0, figures)
        self.assertGreater(figures["resumed"], 10)
        self.assertGreater(figures["delivered"], 500)

    def test_garbage(self):
        """Broken input costs the one who sent it; the node logs no error and others notice nothing."""
        node = NodeProcess(GARBAGE_CONFIG)
        self.addCleanup(node.close)
        ways = every_transport(node)
        node.start()
        figures = asyncio.run(campaign(node, ways, 3, seed=5))
        self.assertTrue(figures["ok"], (figures, node.log))
        for name in ("udp", "udp in the secure channel", "kcp", "quic"):
            self.assertGreater(figures["by way"][f"after login: {name}"], 0, figures)
        self.assertGreater(figures["frames tried"], 1000)


class Running(SynchronousTestCase):
    """The node as twistd runs it."""

    def test_stop(self):
        """SIGTERM and SIGINT end it with status 0; the node keeps its id over a restart."""
        node = NodeProcess()
        self.addCleanup(node.close)
        names = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            node.start()
            names.add((node.folder / "data" / "node.id").read_text())
            node.signal(number)
            assert node.process is not None
            self.assertEqual(node.process.wait(20), 0, node.log)
        self.assertEqual(len(names), 1)

    def test_epoll(self):
        """With ``reactor: epoll`` it runs on Twisted's own reactor."""
        with running(reactor="epoll") as node:
            self.assertGreater(node.metrics()["process_resident_memory_bytes"], 1e6)
            self.assertEqual(node.stop(), 0)

    def test_a_page_of_another_site(self):
        """Without proof of identity a node on loopback is no gift to pages that resolve their own name to it; metrics
        are for this machine, not for whom a proxy brings."""
        with running() as node:
            for host, expected in (("evil.example", 403), (f"127.0.0.1:{node.web}", 101), ("localhost", 101)):
                self.assertEqual(self.upgrade(node, host), expected, host)
            node.metrics()
            request = urllib.request.Request(node.page + "metrics", headers={"X-Forwarded-For": "192.0.2.1"})
            with self.assertRaises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=10)
            self.assertEqual(refused.exception.code, 403)
            refused.exception.close()

    @staticmethod
    def upgrade(node: NodeProcess, host: str) -> int:
        """The status that a page of ``http://host`` gets for its WebSocket."""
        head = (
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: relay.v1.json\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", node.web), timeout=10) as link:
            link.sendall(head.encode())
            return int(link.recv(100).split()[1])

    def test_reload(self):
        """SIGHUP applies what can change live, names what cannot, and refuses a broken file without harm."""
        with running() as node:
            path = Path(node.folder / "more.sock")
            node.config["listeners"].append({"name": "more", "address": f"unix:{path}"})
            node.config["data"] = "/elsewhere"
            node.write_config()
            node.signal(signal.SIGHUP)
            self.wait_for(node, "need a restart: data")
            self.wait_for(node, "listening on unix:")
            self.assertTrue(path.is_socket())
            node.file.write_text("{")
            node.signal(signal.SIGHUP)
            self.wait_for(node, "was not taken over")
            self.assertTrue(node.ready())

    def test_reload_with_an_address_in_use(self):
        """A listener that cannot listen does not keep the others from theirs, and is tried again by the next reload."""
        with running() as node, socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            path = Path(node.folder / "more.sock")
            node.config["listeners"][0]["http"] = {"metrics": "off"}
            more = [{"name": "one", "address": address}, {"name": "two", "address": f"unix:{path}"}]
            node.config["listeners"] += more
            node.write_config()
            node.signal(signal.SIGHUP)
            self.wait_for(node, "listener one does not start")
            self.wait_for(node, "listening on unix:")
            self.assertTrue(node.ready())
            with self.assertRaises(urllib.error.HTTPError):
                node.metrics()
            taken.close()
            node.signal(signal.SIGHUP)
            self.wait_for(node, f"listening on {address}")

    def test_mistakes_are_one_line(self):
        """An address in use, a wrong key, a data directory that cannot be: one clear line and a status other than 0."""
        with running() as other:
            address = f"tcp:{other.web}:interface=127.0.0.1"
            for config, words in (
                ({"listeners": [{"name": "web", "address": address}]}, "in use"),
                ({"limits": {"conections_max": 1}}, "connections_max"),
                ({"data": "/dev/null/x"}, "data: /dev/null"),
            ):
                node = NodeProcess(config)
                self.addCleanup(node.close)
                node.write_config()
                with self.assertRaises(RuntimeError):
                    node.start()
                assert node.process is not None
                self.assertNotEqual(node.process.wait(10), 0)
                self.assertIn(words, node.log)
                self.assertNotIn("Traceback", node.log)

    def test_a_plugin_that_does_not_start(self):
        """It stops the node, with a line that says so and a status other than 0."""
        node = NodeProcess({"handlers": {"plugins": ["broken_plugin:plugin"]}})
        self.addCleanup(node.close)
        code = "class Broken:\n    name = 'broken'\n    def start(self, node):\n        raise OSError('no database')\n"
        (node.folder / "broken_plugin.py").write_text(code + "plugin = Broken()\n")
        with self.assertRaises(RuntimeError):
            node.start()
            self.wait_for(node, "no database")
            raise RuntimeError
        assert node.process is not None
        self.assertEqual(node.process.wait(20), 1)
        self.assertIn("the plugin broken does not start: no database", node.log)

    def wait_for(self, node: NodeProcess, words: str) -> None:
        """Until the node has logged ``words``; asking it something takes its time."""
        for _ in range(2000):
            if words in node.log:
                return
            node.ready()
        self.fail(f"{words!r} is not in\n{node.log}")
