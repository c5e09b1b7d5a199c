"""Webhooks and last-seen times of a real node with its store on the disk: killed, stopped, started again."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.test.node_process import NodeProcess
from relay.test.webhook_fixture import SECRET

WAIT_S = 60.0


class Receiver:
    """A server in threads. ``status`` is its answer; ``offered``: events of all requests, ``taken``: of those answered
    with 200."""

    def __init__(self) -> None:
        self.status = 503
        self.offered: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        receiver = self

        class Request(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"]
                with receiver.changed:
                    status = receiver.status
                    receiver.offered += events
                    if status == 200:
                        receiver.taken += events
                    receiver.changed.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until ``condition`` holds; AssertionError when it does not for long."""
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), len(self.offered)

    def close(self) -> None:
        """The end."""
        self.server.shutdown()
        self.server.server_close()


class Talker:
    """A client of the JSON form, by hand."""

    def __init__(self, node: NodeProcess, user: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", node.stream), timeout=WAIT_S)
        self.lines = self.socket.makefile("rb")
        self.ask({"kind": "hello", "body": {"user": user}})

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        """Send a frame; the next one that comes."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self.lines.readline())
        return answer

    def close(self) -> None:
        """Without goodbye."""
        self.lines.close()
        self.socket.close()


class ProcessTests(SynchronousTestCase):
    """The whole way."""

    def test_killed_and_stopped(self):
        """Events that nobody took are told after SIGKILL and after a stop, in order for each channel, none is missing;
        last-seen times are there after a stop."""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        node = NodeProcess({
            "webhooks": [{
                "name": "w", "url": receiver.url, "secret": SECRET, "events": ["occupied", "joined", "left", "vacated"],
                "retry_s_min": 0.05, "retry_s_max": 0.2,
            }],
        })  # fmt: skip
        self.addCleanup(node.close)
        for last in ("killed", "stopped"):
            node.start()
            ann = Talker(node, "ann")
            for channel in ("a", "b"):
                ann.ask({"kind": "subscribe", "seq": 1, "name": channel})
                ann.ask({"kind": "unsubscribe", "seq": 2, "name": channel})
            # What is offered was stored before, and so was what happened before it.
            ann.ask({"kind": "subscribe", "seq": 3, "name": last})
            receiver.wait(lambda last=last: any(each["channel"] == last for each in receiver.offered))  # type: ignore[misc]
            if last == "killed":
                node.signal(signal.SIGKILL)
            node.stop()
            ann.close()
        self.assertEqual(receiver.taken, [])
        receiver.status = 200
        node.start()
        receiver.wait(lambda: len([each for each in receiver.taken if each["channel"] in "ab"]) >= 16)
        for channel in ("a", "b"):
            found = [each["event"] for each in receiver.taken if each["channel"] == channel]
            self.assertEqual(found, ["occupied", "joined", "left", "vacated"] * 2)
        bob = Talker(node, "bob")
        self.addCleanup(bob.close)
        state = bob.ask({"kind": "presence", "seq": 1, "user": "ann"})["body"]
        self.assertEqual((state["online"], state["sessions"], state["last_seen"] > 0), (False, 0, True))
