"""relay against other people's implementations, on loopback: the same bytes have to come back.

    python -m relay.test.interop kcp [--bytes 1000000]      prints a table; exit status 1 when something was not equal
    python -m relay.test.interop quic                       likewise; relay.test.interop_quic says what

Peers of KCP: ``kcp-go`` and ``smux`` in a small Go program (``bench/kcp``, built on demand: kcp-go 5.6.72 with Go 1.24
or newer, else kcp-go 5.6.2, which has no AES-GCM), and ``kcptun`` as Debian packages it. Direction ``to us``: the peer
is the client. Loss is of what both sides send (for kcptun: of what relay sends).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

import relay
from relay.client.options import KcpSettings
from relay.test.kcp_peer import EchoLine, echoed
from relay.test.node_process import free_port

BENCH: Final = Path(relay.__file__).parent.parent / "bench"
BINARY: Final = BENCH / ".build" / "kcp"
KEY: Final = bytes(range(32)).hex()
PASSWORD: Final = "it's a secrect"  # kcptun's own default, spelled as there
CIPHERS: Final = (
    "null", "none", "xor", "salsa20", "aes-128", "aes-192", "aes", "aes-128-gcm", "aes-256-gcm",
)  # fmt: skip
GO_GCM: Final = (1, 24)
"""From this version of Go on the newest modules are used, before it those of old.mod."""
TIMEOUT_S: Final = 60.0


@attrs.frozen
class Row:
    """One experiment. ``to_us``: the peer is the client."""

    peer: str
    to_us: bool
    cipher: str
    fec: str = "off"
    smux: int = 0
    loss: int = 0

    @property
    def mode(self) -> str:
        """In words."""
        parts = [self.cipher]
        if self.fec != "off":
            parts.append(f"FEC {self.fec}")
        if self.smux:
            parts.append(f"smux {self.smux}")
        return ", ".join(parts)

    @property
    def settings(self) -> dict[str, Any]:
        """relay's side, for a server or a client."""
        key = None if self.cipher in ("null", "none") else f"hex:{KEY}"
        if self.peer == "kcptun":
            key = PASSWORD
        found = {"cipher": self.cipher, "error_correction": self.fec}
        return found | ({"key": key} if key else {})


def rows_of_kcp_go(gcm: bool) -> list[Row]:
    """All ciphers in both directions; FEC, loss and smux with some."""
    ciphers = [each for each in CIPHERS if gcm or not each.endswith("gcm")]
    best = ciphers[-1]
    found = [Row("kcp-go", to_us, cipher) for cipher in ciphers for to_us in (True, False)]
    for to_us in (True, False):
        found += [
            Row("kcp-go", to_us, "null", loss=5),
            Row("kcp-go", to_us, "null", "10/3", loss=5),
            Row("kcp-go", to_us, best, "2/1", loss=10),
            Row("kcp-go", to_us, "null", smux=1),
            Row("kcp-go", to_us, best, smux=2),
            Row("kcp-go", to_us, best, "10/3", smux=2, loss=5),
        ]
    return found


def rows_of_kcptun() -> list[Row]:
    """aes and salsa20, smux 1 and 2, with and without FEC and loss."""
    return [
        Row("kcptun", to_us, cipher, fec, version, loss)
        for to_us in (True, False)
        for cipher, fec, version, loss in (
            ("aes", "10/3", 1, 0),
            ("aes", "10/3", 2, 3),
            ("salsa20", "10/3", 1, 0),
            ("salsa20", "off", 2, 0),
            ("aes-128", "10/3", 2, 0),
            ("xor", "10/3", 1, 0),
            ("none", "off", 1, 0),
        )
    ]


def go() -> str | None:
    """The Go compiler."""
    return shutil.which("go", path="/usr/local/go/bin") or shutil.which("go")


def go_version(compiler: str) -> tuple[int, int]:
    """Major and minor."""
    said = subprocess.run([compiler, "version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def build(compiler: str, name: str = "kcp") -> Path:
    """A Go program of ``bench/``, built when it is older than its sources."""
    source, binary = BENCH / name, BENCH / ".build" / name
    sources = [*source.glob("*.go"), *source.glob("*.mod")]
    if not binary.exists() or any(each.stat().st_mtime > binary.stat().st_mtime for each in sources):
        binary.parent.mkdir(exist_ok=True)
        old = [] if go_version(compiler) >= GO_GCM else ["-modfile=old.mod"]
        subprocess.run([compiler, "build", *old, "-o", str(binary), "."], cwd=source, check=True)
    return binary


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process for the length of a ``with`` block; its standard input is held open."""
    made = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options
    )
    try:
        yield made
    finally:
        made.kill()
        made.communicate()


@contextlib.contextmanager
def our_servers(wanted: list[dict[str, Any]]) -> Iterator[list[int]]:
    """Ports of relay's own servers, in a process of their own."""
    with process([sys.executable, "-m", "relay.test.kcp_peer", json.dumps(wanted)]) as served:
        assert served.stdout is not None
        yield json.loads(served.stdout.readline())


def go_flags(row: Row) -> list[str]:
    """The Go program's."""
    data, _, parity = row.fec.partition("/") if row.fec != "off" else ("0", "", "0")
    return [
        f"-cipher={row.cipher}", f"-key={KEY}", f"-data={data}", f"-parity={parity}", f"-smux={row.smux}",
        f"-loss={row.loss}", f"-seconds={TIMEOUT_S:.0f}",
    ]  # fmt: skip


def our_client(row: Row, port: int, total: int) -> bool:
    """relay's client to a server on loopback."""

    async def run() -> bool:
        line = EchoLine(total, row.smux, 3, half_close=row.peer != "kcptun")
        return await echoed(port, KcpSettings(**row.settings), line, row.loss, TIMEOUT_S)

    return asyncio.run(run())


def with_kcp_go(row: Row, total: int, port: int) -> bool:
    """One row; ``port`` is that of relay's server, if it is to us."""
    if row.to_us:
        command = [str(BINARY), "echo", f"-peer=127.0.0.1:{port}", f"-bytes={total}", *go_flags(row)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S * 2)
        return bool(said.stdout) and bool(json.loads(said.stdout)["equal"])
    with process([str(BINARY), "serve", *go_flags(row)]) as served:
        assert served.stdout is not None
        place = served.stdout.readline().split()[-1]
        return our_client(row, int(place.rpartition(":")[2]), total)


# --- kcptun -------------------------------------------------------------------------------------------------------


def kcptun_flags(row: Row) -> list[str]:
    """The same for server and client."""
    data, _, parity = row.fec.partition("/") if row.fec != "off" else ("0", "", "0")
    return [
        "--key", PASSWORD, "--crypt", row.cipher, "--datashard", data, "--parityshard", parity, "--nocomp",
        "--smuxver", str(row.smux), "--mode", "fast3",
    ]  # fmt: skip


@contextlib.contextmanager
def tcp_echo() -> Iterator[int]:
    """A TCP server that sends back; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    connection.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])
        # A thread that waits in accept is not woken by close.
        server.shutdown(socket.SHUT_RDWR)


def tcp_client(port: int, total: int) -> bool:
    """Whether what is sent over TCP comes back the same."""
    line = bytes(index * 7 % 256 for index in range(65_536))
    sent = (line * (total // len(line) + 1))[:total]
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        sender = threading.Thread(target=connection.sendall, args=(sent,), daemon=True)
        sender.start()
        got = bytearray()
        with contextlib.suppress(TimeoutError):
            while len(got) < total and (data := connection.recv(65536)):
                got += data
    return got == sent


def wait_for_tcp(port: int, served: subprocess.Popen[str]) -> None:
    """Until somebody listens there."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            served.wait(0.05)
            break
    raise RuntimeError("kcptun-client did not start")


def with_kcptun(row: Row, total: int, port: int) -> bool:
    """One row; ``port`` is that of relay's server, if it is to us."""
    if row.to_us:
        local = free_port()
        command = ["kcptun-client", "-r", f"127.0.0.1:{port}", "-l", f"127.0.0.1:{local}", *kcptun_flags(row)]
        with process(command) as client:
            wait_for_tcp(local, client)
            return tcp_client(local, total)
    port = free_port()
    with tcp_echo() as target:
        command = ["kcptun-server", "-t", f"127.0.0.1:{target}", "-l", f"127.0.0.1:{port}", *kcptun_flags(row)]
        with process(command):
            # KCP sends again until the server is there.
            return our_client(row, port, total)


# --- the table ----------------------------------------------------------------------------------------------------

RUN: Final = {"kcp-go": with_kcp_go, "kcptun": with_kcptun}


def missing(peer: str) -> str:
    """'' or what has to be installed for a peer."""
    if peer == "kcptun":
        return "" if shutil.which("kcptun-server") and shutil.which("kcptun-client") else "kcptun is not installed"
    return "" if go() else "Go is not installed"


def outcomes(rows: list[Row], total: int) -> Iterator[tuple[Row, bool]]:
    """Each row with whether the bytes were equal. What is missing must have been asked for before."""
    if any(row.peer == "kcp-go" for row in rows):
        compiler = go()
        assert compiler is not None
        build(compiler)
    to_us = [row for row in rows if row.to_us]
    with our_servers([{"settings": row.settings, "loss": row.loss} for row in to_us]) as ports:
        of_row = dict(zip(map(id, to_us), ports, strict=True))
        for row in rows:
            yield row, RUN[row.peer](row, total, of_row.get(id(row), 0))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.interop")
    parser.add_argument("protocol", choices=["kcp", "quic"])
    parser.add_argument("--bytes", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.protocol == "quic":
        from relay.test import interop_quic

        return interop_quic.table(options.bytes)
    rows: list[Row] = []
    compiler = go()
    if compiler is not None:
        rows += rows_of_kcp_go(go_version(compiler) >= GO_GCM)
    if not missing("kcptun"):
        rows += rows_of_kcptun()
    for peer in RUN:
        if missing(peer):
            print(f"{peer}: not run, {missing(peer)}")
    wrong = 0
    print(f"{'peer':8} {'direction':9} {'mode':32} {'loss':>5} {'bytes':>9}  equal")
    for row, equal in outcomes(rows, options.bytes):
        count = options.bytes * (3 if row.smux and (row.peer == "kcp-go" or not row.to_us) else 1)
        way = "to us" if row.to_us else "from us"
        print(f"{row.peer:8} {way:9} {row.mode:32} {row.loss:4}% {count:9}  {'yes' if equal else 'NO'}", flush=True)
        wrong += not equal
    print(f"{len(rows)} rows, {wrong} not equal")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
