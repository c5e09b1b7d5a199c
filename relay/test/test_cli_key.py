"""``relay key``, and the commands' way through the secure channel, against a node in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay.cli.exits import CANNOT_CONNECT, USAGE
from relay.test.node_process import NodeProcess, free_port

PROGRAM = "from relay.cli.main import main; main()"


class Keys(SynchronousTestCase):
    """From making the keys to being known by one."""

    def relay(self, *words: str, status: int = 0) -> str:
        """What the command prints; it has to end with ``status``."""
        env = {**os.environ, "XDG_CONFIG_HOME": str(self.folder)}
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False, env=env
        )
        self.assertEqual(ran.returncode, status, ran.stderr)
        return ran.stdout or ran.stderr

    def setUp(self):
        """A directory for the client's files."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def test_known_by_a_key(self):
        """A client with a key in ``auth.keys`` is that user, to a server whose key it pinned or took at first use."""
        own = str(self.folder / "own.pem")
        public = json.loads(self.relay("key", "make", own, "--json"))["public"]
        self.assertIn("already", self.relay("key", "make", own, status=USAGE))
        port = free_port()
        node = NodeProcess(
            {
                "listeners": [
                    {"name": "web", "address": "tcp:0:interface=127.0.0.1", "protocols": ["http"]},
                    {"name": "secure", "address": f"tcp:{port}:interface=127.0.0.1", "secure": {}},
                ],
                "auth": {"keys": [{"name": "ann", "key": public}], "anonymous": {"enabled": False}},
            }
        )
        self.addCleanup(node.close)
        node.config["listeners"][0]["address"] = f"tcp:{node.web}:interface=127.0.0.1"
        node.start()
        shown = self.relay("key", "show", "--config", str(node.file))
        fingerprint = shown.split()[1]
        self.assertEqual(
            json.loads(self.relay("key", "show", "--data", node.config["data"], "--json"))["fingerprint"], fingerprint
        )
        base = f"tcp://127.0.0.1:{port}"
        for key in (fingerprint, "first-use", "first-use"):
            done = json.loads(self.relay("pub", "room.1", "hi", "--url", f"{base}?key={key}", "--key", own, "--json"))
            self.assertEqual(done["reached"], 0)
        self.assertIn("proof", self.relay("pub", "room.1", "hi", "--url", f"{base}?key={fingerprint}", status=4))
        (self.folder / "relay" / "known_keys.json").write_text(json.dumps({f"127.0.0.1:{port}": "SHA256:" + "A" * 43}))
        refused = self.relay("pub", "r", "x", "--url", f"{base}?key=first-use", "--key", own, status=CANNOT_CONNECT)
        self.assertIn(fingerprint, refused)
        wrong = self.relay("pub", "r", "x", "--url", f"{base}?key=SHA256:short", status=USAGE)
        self.assertIn("relay key show", wrong)
