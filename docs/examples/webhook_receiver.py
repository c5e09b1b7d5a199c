"""Receives relay's webhooks with Python's standard library alone: checks the signature, prints each event once.

    RELAY_WEBHOOK_SECRET='the secret of the configuration' python3 webhook_receiver.py 9000

The port 0 takes any; the first line printed is the URL. ``docs/presence.md`` describes what comes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE_S = 300
"""A signature that is older may be a recorded request that somebody sends again."""
BODY_BYTES_MAX = 4_000_000
SEEN_MAX = 100_000
"""Ids of events that are remembered, so that one that comes again is known."""


def genuine(secret: bytes, header: str, body: bytes, now: float) -> bool:
    """Whether ``body`` is from who knows ``secret``, and of these minutes. ``header``: Relay-Signature."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    stamp = parts.get("t", "")
    if not stamp.isdecimal() or abs(now - int(stamp)) > TOLERANCE_S:
        return False
    expected = hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), parts.get("v1", "").encode())


class Receiver(BaseHTTPRequestHandler):
    """One request. ``secret`` and ``seen`` are the server's."""

    protocol_version = "HTTP/1.1"
    secret = b""
    seen: OrderedDict[str, None] = OrderedDict()

    def do_POST(self) -> None:
        """Take events: 200 once they are dealt with, and relay tells them no more."""
        size = int(self.headers.get("Content-Length", 0))
        if not 0 <= size <= BODY_BYTES_MAX:
            self.close_connection = True
            self.answer(413)
            return
        body = self.rfile.read(size)
        if not genuine(self.secret, self.headers.get("Relay-Signature", ""), body, time.time()):
            self.answer(401)
            return
        for event in json.loads(body)["events"]:
            if event["id"] in self.seen:
                continue  # at least once: it was told before, and the answer was lost
            print(json.dumps(event), flush=True)
            self.seen[event["id"]] = None
            if len(self.seen) > SEEN_MAX:
                self.seen.popitem(last=False)
        self.answer(200)

    def answer(self, status: int) -> None:
        """An empty answer."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The events are output enough."""


def main() -> None:
    """Serve until interrupted."""
    Receiver.secret = os.environ["RELAY_WEBHOOK_SECRET"].encode()
    server = HTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Receiver)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
