"""quic-go's client against relay's server, on loopback: ``python -m relay.test.interop quic``.

The client is a small Go program (``bench/quic``, built on demand: quic-go 0.59 with Go 1.24 or newer, else 0.33). The
servers are the product's port in a process of its own (``relay.test.quic_peer``), and a node.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Final

import attrs

from relay.test.interop import TIMEOUT_S, build, go, process
from relay.test.node_process import NodeProcess
from relay.wire import handshake, kinds
from relay.wire.binary import BinaryDecoder, encode_frame, encode_stream
from relay.wire.message import Message

COUNT: Final = 40
DATAGRAMS_MIN: Final = COUNT - 4
"""Of ``COUNT`` datagrams, on a machine that is busy: a socket's buffer may overflow, also on loopback."""
FIRST: Final = kinds.PREFACE + encode_stream(Message(kinds.PUBLISH, "room", b"first"))
ALONE: Final = encode_frame(Message(kinds.PUBLISH, "room", b"alone", flags=kinds.INDEPENDENT))
LOOSE: Final = encode_frame(Message(kinds.PUBLISH, "room", b"loose", flags=kinds.UNRELIABLE))


@attrs.frozen
class Row:
    """One experiment. ``serve``, ``settings``: of ``relay.test.quic_peer``; ``node``: against a whole node instead."""

    what: str
    command: str
    serve: str = "echo"
    settings: dict[str, Any] = attrs.field(factory=dict)
    node: bool = False


ROWS: Final = (
    Row("the session's stream", "echo"),
    Row("the same after Retry", "echo", settings={"retry": "always"}),
    Row("datagrams of 1452 bytes", "echo", settings={"mtu_bytes": 1452}),
    Row("streams of one message, DATAGRAM frames", "apart", "gate"),
    Row("0-RTT: the hello first", "early", "gate"),
    Row("a whole node: hello, welcome", "node", node=True),
)


def run(command: str, port: int, folder: str, *more: str) -> dict[str, Any]:
    """What the Go program says; raises ``RuntimeError`` with its complaint."""
    compiler = go()
    assert compiler is not None
    said = subprocess.run(
        [str(build(compiler, "quic")), command, f"-peer=127.0.0.1:{port}", f"-ca={folder}/certificate.pem",
         f"-first={FIRST.hex()}", *more],
        capture_output=True, text=True, timeout=TIMEOUT_S * 2,
    )  # fmt: skip
    if not said.stdout:
        raise RuntimeError(said.stderr.strip())
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def of_row(row: Row, port: int, folder: str, total: int) -> tuple[str, bool]:
    """What a row came to, and whether that is right."""
    if row.command == "echo":
        found = run("echo", port, folder, f"-bytes={total}")
        return f"{found['bytes']} bytes", found["equal"]
    if row.command == "apart":
        found = run("apart", port, folder, f"-alone={ALONE.hex()}", f"-loose={LOOSE.hex()}", f"-count={COUNT}",
                    "-within=20s")  # fmt: skip
        said = f"{found['streams']} and {found['datagrams']} of {COUNT}"
        return said, found["streams"] == COUNT and found["datagrams"] >= DATAGRAMS_MIN
    if row.command == "early":
        found = run("early", port, folder, "-count=10")
        return f"{found['early']} of 10 early", found["early"] == 10
    hello = handshake.Hello(user="gopher", client="quic-go", features=("resume",))
    first = kinds.PREFACE + encode_stream(handshake.write(kinds.HELLO, hello))
    found = run("node", port, folder, f"-first={first.hex()}")
    messages = BinaryDecoder(65_536).receive(bytes.fromhex(found["got"]))
    return ", ".join(kinds.KINDS[message.kind] for message in messages), messages[0].kind == kinds.WELCOME


def with_node(row: Row, total: int) -> tuple[str, bool]:
    """Against a node with a QUIC listener beside its others."""
    from relay.bench.certificates import make_certificate

    with tempfile.TemporaryDirectory() as folder:
        certificate, key = make_certificate(folder)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        node = NodeProcess()
        node.config["listeners"].append(
            {"address": f"udp:127.0.0.1:{port}", "transport": "quic", "tls": {"certificate": certificate, "key": key}}
        )
        try:
            node.start()
            return of_row(row, port, folder, total)
        finally:
            node.close()


@contextlib.contextmanager
def our_server(folder: str, wanted: list[dict[str, Any]], **options: Any) -> Iterator[tuple[int, list[int]]]:
    """A process with ports of relay's: its number and theirs."""
    with process([sys.executable, "-m", "relay.test.quic_peer", folder, json.dumps(wanted)], **options) as server:
        assert server.stdout is not None
        yield server.pid, json.loads(server.stdout.readline())


def outcomes(total: int) -> Iterator[tuple[Row, str, bool]]:
    """Each row, what it came to, and whether that is right. Go must be there."""
    served = [row for row in ROWS if not row.node]
    wanted = [{"serve": row.serve, "settings": row.settings} for row in served]
    with tempfile.TemporaryDirectory() as folder, our_server(folder, wanted) as (_, ports):
        for row, port in zip(served, ports, strict=True):
            yield row, *_caught(of_row, row, port, folder, total)
    for row in ROWS:
        if row.node:
            yield row, *_caught(with_node, row, total)


def _caught(made: Any, *arguments: Any) -> tuple[str, bool]:  # Any: one of the two above and what it takes
    try:
        said, right = made(*arguments)
        return said, right
    except RuntimeError as error:
        return str(error), False


def table(total: int) -> int:
    """Print it; the exit status."""
    if go() is None:
        print("quic-go: not run, Go is not installed")
        return 1
    wrong = 0
    print(f"{'peer':8} {'direction':9} {'what':40} {'came to':24} right")
    for row, said, right in outcomes(total):
        print(f"{'quic-go':8} {'to us':9} {row.what:40} {said:24} {'yes' if right else 'NO'}", flush=True)
        wrong += not right
    print(f"{len(ROWS)} rows, {wrong} not right")
    return 1 if wrong else 0
