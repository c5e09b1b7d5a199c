"""The browser module's queues, run by node against a node over a real WebSocket."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, TestCase

from relay.config import Timing
from relay.test.client_node import ClientNode
from relay.test.vectors import BROWSER_MODULE

SCRIPT = Path(__file__).with_name("queues.mjs")


class BrowserModule(TestCase):
    """What a page does with queues."""

    timeout = 60

    def test_in_node(self):
        """Handlers, keys, the inbox, a lost connection and a lost session."""
        program = shutil.which("node")
        if program is None:
            raise SkipTest("node is not installed")
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        if [int(part) for part in version.lstrip("v").split(".")[:2]] < [20, 10]:
            raise SkipTest(f"node {version} has no WebSocket; 20.10 has")

        async def run() -> tuple[bytes, bytes, int]:
            folder = tempfile.mkdtemp(prefix="relay")
            self.addCleanup(shutil.rmtree, folder)
            node = ClientNode(reactor, folder, timing=Timing(resume_window_s=1.5))
            await node.start()
            try:
                # node 20 has WebSocket behind the option, later ones take it, too.
                arguments = [
                    "--experimental-websocket",
                    str(SCRIPT),
                    str(BROWSER_MODULE.parent),
                    node.url("ws", "json"),
                ]
                out, err, status = await getProcessOutputAndValue(program, arguments, env=os.environ)
            finally:
                await node.stop()
            return out, err, status

        def check(result: tuple[bytes, bytes, int]) -> None:
            out, err, status = result
            self.assertEqual((out.strip(), status), (b"ok", 0), err.decode())

        return Deferred.fromCoroutine(run()).addCallback(check)
