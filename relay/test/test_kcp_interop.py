"""KCP with other people's implementations: a share of ``python -m relay.test.interop kcp``, and the whole way.

What has to be there (Go, and Debian's ``kcptun``) is installed by ``.ci/run``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from relay.client.aio import connect
from relay.client.options import ClientOptions, KcpSettings
from relay.errors import RelayError
from relay.test import interop
from relay.test.interop import Row
from relay.test.node_process import NodeProcess

BYTES = 300_000


class PeerTests(SynchronousTestCase):
    """The same bytes come back."""

    def check(self, rows):
        """Run them; all have to be equal."""
        wrong = [row for row, equal in interop.outcomes(rows, BYTES) if not equal]
        self.assertEqual(wrong, [])

    def test_kcp_go(self):
        """kcp-go and smux as clients and as servers: ciphers, error correction, loss, streams."""
        compiler = interop.go()
        if compiler is None:
            self.skipTest("Go is not installed")
        best = "aes-256-gcm" if interop.go_version(compiler) >= interop.GO_GCM else "aes"
        self.check(
            [
                Row("kcp-go", True, "null", loss=3),
                Row("kcp-go", True, best, "2/1", smux=2, loss=3),
                Row("kcp-go", True, "salsa20"),
                Row("kcp-go", True, "xor", smux=1),
                Row("kcp-go", False, best, "10/3", loss=3),
                Row("kcp-go", False, "aes-128", smux=2),
            ]
        )

    def test_kcptun(self):
        """kcptun's client to relay's server and relay's client to kcptun's server."""
        missing = interop.missing("kcptun")
        if missing:
            self.skipTest(missing)
        self.check(
            [
                Row("kcptun", True, "aes", "10/3", 2, 3),
                Row("kcptun", True, "salsa20", "10/3", 1),
                Row("kcptun", False, "aes", "10/3", 1),
                Row("kcptun", False, "salsa20", "10/3", 2),
            ]
        )


class NodeTests(SynchronousTestCase):
    """``kcp://`` from both shells of the client to a node."""

    def node(self):
        """A node with a KCP listener beside its others, and the URL of that."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        node = NodeProcess()
        self.addCleanup(node.close)
        kcp = {"key": "secret", "profile": "game"}
        node.config["listeners"].append({"address": f"udp:127.0.0.1:{port}", "transport": "kcp", "kcp": kcp})
        return node.start(), f"kcp://127.0.0.1:{port}"

    def test_shells(self):
        """A publication over asyncio and over Twisted; a client with another key gets no answer at all."""
        node, url = self.node()

        async def publish(key: str, **options):
            settings = ClientOptions(kcp=KcpSettings(key=key, profile="game"), **options)
            async with await connect(url, user="ann", options=settings) as client:
                events = await client.subscribe("room.1")
                await client.publish("room.1", {"text": "x" * 20_000})
                return (await anext(aiter(events))).name

        self.assertEqual(asyncio.run(publish("secret")), "room.1")
        with self.assertRaises(RelayError):
            asyncio.run(publish("other", connect_timeout_s=1.0))
        self.assertEqual(self.twisted(url), "room.1\n")
        self.assertNotIn("Traceback", node.log)

    def test_command(self):
        """``relay pub``: the cipher and profile by the URL, the key by the environment; with another key and --prefer
        the next way is gone."""
        node, url = self.node()
        words = ["pub", "room.1", "hi", "--json", "--url", f"{url}?cipher=aes-256-gcm&profile=game"]
        for key, more in (("secret", []), ("other", ["--url", node.tcp, "--prefer"])):
            ran = subprocess.run(
                [sys.executable, "-c", "from relay.cli.main import main; main()", *words, *more],
                capture_output=True, text=True, check=False, env={**os.environ, "RELAY_KCP_KEY": key},
            )  # fmt: skip
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertEqual(json.loads(ran.stdout)["reached"], 0)
        wrong = subprocess.run(
            [sys.executable, "-c", "from relay.cli.main import main; main()", "pub", "c", "x", "--url",
             f"{url}?key=hidden&sypher=x"], capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(wrong.returncode, 2)
        self.assertIn("sypher", wrong.stderr)
        self.assertNotIn("hidden", wrong.stderr)

    def twisted(self, url):
        """What a program prints that does the same with the Twisted shell."""
        program = f"""
from twisted.internet import task
from twisted.internet.defer import Deferred
from relay.client.options import ClientOptions, KcpSettings
from relay.client.tx import connect

async def main(reactor):
    settings = ClientOptions(kcp=KcpSettings(key="secret", profile="game"))
    async with await connect(reactor, {json.dumps(url)}, user="bob", options=settings) as client:
        events = await client.subscribe("room.1")
        await client.publish("room.1", "hello")
        async for event in events:
            print(event.name)
            return

task.react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""
        with interop.process([sys.executable, "-c", program]) as made:
            assert made.stdout is not None
            return made.stdout.read()
