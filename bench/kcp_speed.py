"""KCP's speed beside kcp-go's in one run: echoes, one way, and what idle sessions cost.

    python bench/kcp_speed.py [--rounds 3] [--seconds 2] [--sessions 20000]

Servers: relay's KCP port in a process of its own, on relay's reactor (``relay.test.kcp_peer``), and kcp-go in the
program of ``bench/kcp``. The load is kcp-go's, so that both serve the same clients. Each row is the median of the
rounds, with the smallest and largest; the processor time is the server's, in microseconds for one echo or one KB.
``one way … of a core``: sender and receiver in one process, over real sockets, by the processor time that each took,
which is the same on a machine that has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet.task import Clock

from relay.config_kcp import Kcp
from relay.protocols.datagrams import DatagramSocket, bound_socket
from relay.protocols.kcp_endpoint import cipher_for, options_of
from relay.test.interop import BINARY, KEY, Row, build, go, go_flags, process
from relay.test.kcp_peer import listen
from relay.wire.kcp.ciphers import cipher_of
from relay.wire.kcp.options import PROFILES
from relay.wire.kcp.session import KcpSession

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
ECHOES: Final = ((128, 32, "null"), (1024, 8, "null"), (128, 32, "aes-256-gcm"), (1024, 8, "aes-256-gcm"))


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pinned(core: int) -> Callable[[], None] | None:
    """For ``preexec_fn``: on that core, where there are two."""
    return (lambda: os.sched_setaffinity(0, {core})) if (os.cpu_count() or 1) > 1 else None


def settings(cipher: str) -> dict[str, Any]:
    """relay's side."""
    found: dict[str, Any] = {"cipher": cipher, "profile": "bulk", "error_correction": "off"}
    return found | ({"key": f"hex:{KEY}"} if cipher != "null" else {})


def relay_server(cipher: str, serve: str) -> Any:
    """A context manager of the process."""
    wanted = json.dumps([{"settings": settings(cipher), "serve": serve}])
    return process([sys.executable, "-m", "relay.test.kcp_peer", wanted], preexec_fn=pinned(0))


def go_server(cipher: str, what: str) -> Any:
    """The same of kcp-go."""
    flags = go_flags(Row("kcp-go", True, cipher))
    return process([str(BINARY), what, *flags], preexec_fn=pinned(0))


def port_of(name: str, served: Any) -> int:
    """Where it listens."""
    line = served.stdout.readline()
    return int(json.loads(line)[0]) if name == "relay" else int(line.split()[-1].rpartition(":")[2])


def echo(name: str, payload: int, depth: int, cipher: str, seconds: float) -> tuple[float, float]:
    """Echoes a second over 50 sessions, and the server's microseconds for each."""
    with (relay_server(cipher, "echo") if name == "relay" else go_server(cipher, "serve")) as served:
        port = port_of(name, served)
        before = cpu_s(served.pid)
        command = [
            str(BINARY), "load", f"-peer=127.0.0.1:{port}", f"-payload={payload}", f"-depth={depth}",
            f"-cipher={cipher}", f"-key={KEY}", f"-seconds={seconds}",
        ]  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=pinned(1))
        rate = json.loads(said.stdout)["per_s"]
        # The load runs half a second before it counts.
        used = (cpu_s(served.pid) - before) / (seconds + 0.5)
        return rate, used / max(rate, 1) * 1e6


def flood(name: str, cipher: str, seconds: float) -> tuple[float, float]:
    """Bytes a second that kcp-go sends to a server that throws them away, and the server's microseconds for a KB."""
    with (relay_server(cipher, "discard") if name == "relay" else go_server(cipher, "sink")) as served:
        port = port_of(name, served)
        before = cpu_s(served.pid)
        command = [
            str(BINARY), "flood", f"-peer=127.0.0.1:{port}", f"-cipher={cipher}", f"-key={KEY}", f"-seconds={seconds}",
        ]  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=pinned(1))
        rate = json.loads(said.stdout)["per_s"]
        return rate, (cpu_s(served.pid) - before) / seconds / max(rate / 1024, 1) * 1e6


class Turns(Clock):
    """A reactor that reads and ends its turns when it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.ending: list[Callable[[], None]] = []

    def callAtTurnEnd(self, function: Callable[[], None]) -> None:  # noqa: N802 - relay's reactor has it
        """Keep."""
        self.ending.append(function)

    def addReader(self, reader: Any) -> None:  # noqa: N802 - Twisted's name
        """It is read from by hand."""

    def removeReader(self, reader: Any) -> None:  # noqa: N802 - Twisted's name
        """Nor any more."""

    def end(self) -> bool:
        """The end of a turn; whether there was anything to do."""
        calls, self.ending = self.ending, []
        for function in calls:
            function()
        return bool(calls)


def one_way(cipher: str, joined: bool, seconds: float) -> tuple[float, float]:
    """MB a second of processor time that relay sends, and that it receives: both in this process, over real sockets.

    ``joined``: many datagrams in one call of the kernel, as relay does where it can; else one by one.
    """
    reactor: Any = Turns()
    chosen = msgspec.convert(settings(cipher), Kcp)
    port = listen(reactor, chosen, "discard")
    receiver: Any = port._socket
    batches: list[Any] = []
    sender = DatagramSocket(bound_socket("udp:127.0.0.1:0"), reactor, batches.extend)
    sender._segmented = sender._segmented and joined
    session = KcpSession(7, options_of(chosen), cipher_for(chosen), os.urandom)
    place = ("127.0.0.1", port.getHost().port)
    chunk, given, sending, receiving = bytes(65_536), 0, 0.0, 0.0
    enough = 2 * session.options.send_window * session.options.mtu
    used, end = time.thread_time, time.monotonic() + seconds
    while time.monotonic() < end:
        first = used()
        while session.kcp.queued_bytes < enough:
            session.send(chunk)
            given += len(chunk)
        now = int(time.monotonic() * 1000)
        sender.send(session.flush(now), place)
        second = used()
        more = True
        while more:
            receiver.doRead()
            more = reactor.end()
        third = used()
        sender.doRead()
        for datagram, _ in batches:
            session.receive_datagram(datagram, now)
        batches.clear()
        sending += second - first + used() - third
        receiving += third - second
    done = (given - session.kcp.queued_bytes) / 1e6
    sender.close()
    port.stopListening()
    return done / sending, done / receiving


def idle(count: int, seconds: float) -> dict[str, float]:
    """Memory and processor time of many sessions that say nothing, each from an address of its own."""
    with relay_server("null", "echo") as served:
        port = port_of("relay", served)
        base = resident(served.pid)
        cipher = cipher_of("null", b"")
        sockets = []
        for index in range(count):
            session = KcpSession(index + 1, PROFILES["bulk"], cipher, os.urandom)
            session.send(b"hello")
            # 127.0.0.0/8 has addresses enough for one port each: a socket is closed once its session is proven.
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind((f"127.{1 + index // 60_000}.{index // 250 % 240}.{1 + index % 250}", 0))
            one.settimeout(5)
            one.connect(("127.0.0.1", port))
            for datagram in session.flush(0):
                one.send(datagram)
            while session.receive() is None:
                session.receive_datagram(one.recv(2048), 0)
            for datagram in session.flush(0):
                one.send(datagram)
            sockets.append(one) if index % 4000 == 0 else one.close()
        time.sleep(1)
        grown = resident(served.pid) - base
        before = cpu_s(served.pid)
        time.sleep(seconds)
        return {
            "sessions": count,
            "bytes each": grown / count,
            "percent of a core": (cpu_s(served.pid) - before) / seconds * 100,
        }


def spread(values: list[float], form: str) -> str:
    """Median, smallest and largest."""
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}-{form.format(max(values))})"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--sessions", type=int, default=20_000)
    options = parser.parse_args()
    compiler = go()
    if compiler is None:
        raise SystemExit("kcp-go needs Go")
    build(compiler)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    own: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for payload, depth, cipher in ECHOES:
            for name in ("relay", "kcp-go"):
                key = f"echo {payload} B, {depth} in flight, {cipher}", name
                found.setdefault(key, []).append(echo(name, payload, depth, cipher, options.seconds))
        for cipher in ("null", "aes-256-gcm"):
            for name in ("relay", "kcp-go"):
                key = f"one way from kcp-go, {cipher}", name
                found.setdefault(key, []).append(flood(name, cipher, options.seconds))
            for joined in (True, False):
                how = "joined" if joined else "one by one"
                own.setdefault(f"{cipher}, {how}", []).append(one_way(cipher, joined, options.seconds))
    for (what, name), values in found.items():
        rates, costs = [each[0] for each in values], [each[1] for each in values]
        unit, scale = ("MB/s", 1e6) if what.startswith("one way") else ("k/s", 1e3)
        print(f"{what:40} {name:7} {spread([each / scale for each in rates], '{:.1f}'):26} {unit:5}"
              f" {spread(costs, '{:.2f}')} us of the server")  # fmt: skip
    for what, values in own.items():
        sent, taken = ([each[index] for each in values] for index in (0, 1))
        sent_mb, taken_mb = spread(sent, "{:.0f}"), spread(taken, "{:.0f}")
        print(f"one way, {what:31} relay   sends {sent_mb}, receives {taken_mb} MB for a second of processor time")
    print(idle(options.sessions, 10.0))


if __name__ == "__main__":
    main()
