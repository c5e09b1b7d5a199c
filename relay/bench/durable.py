"""Durable publications through a node, beside bare SQLite on the same disk in the same rounds.

::

    node    publishers ─▶ sockets ─▶ core ─▶ store: everything that waits in one commit ─▶ synced ─▶ answers
    bare    BEGIN, one INSERT of a blob for each of as many as the node's commits had on average, COMMIT; WAL, FULL

The commits of the node are counted by its ``/metrics``. A round is the node with many publishers, bare commits of the
size that came of it, the node with one publisher, and bare commits of one row. The ratios are taken within a round:
what else uses the disk and the cores takes from both.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from relay.bench.load import Result, run
from relay.bench.server import Server, cores, pin
from relay.bench.target import Figure
from relay.bench.workloads import loads

RATE_LEAST: Final = 0.6
P50_MOST: Final = 1.5
MANY: Final = "durable publish, many publishers, to bare commits"
ONE: Final = "durable publish, one publisher, p50 to a bare commit"
BARE_S: Final = 0.7
MANY_S: Final = 1.5
ONE_S: Final = 1.0
ROUND_S: Final = 4.0
"""A round takes about so long."""


@attrs.frozen
class Bare:
    """Bare commits: rows a second, the median time of one commit, processor time of a row."""

    rate: float
    p50_ms: float
    cpu_us: float


@attrs.frozen
class Round:
    """``batch``: messages in a commit of the node, on average."""

    many: Result
    batch: float
    bare: Bare
    one: Result
    bare_one: Bare

    @property
    def rate_ratio(self) -> float:
        """Publications a second beside rows a second at the same batch size."""
        return self.many.rate / self.bare.rate

    @property
    def p50_ratio(self) -> float:
        """One publisher's median beside that of a commit of one row."""
        return self.one.latency_us["p50"] / 1000 / self.bare_one.p50_ms


class BareStore:
    """A SQLite file with a table of rowids and blobs."""

    def __init__(self, folder: Path, payload: int) -> None:
        self._body = os.urandom(payload)
        self._connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
        for each in (
            "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA cache_size = -32768",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)",
        ):  # fmt: skip
            self._connection.execute(each)

    def commits(self, size: int, seconds: float) -> Bare:
        """Commits of ``size`` rows, one after the other, on the server's core."""
        execute, many = self._connection.execute, self._connection.executemany
        rows = [(self._body,)] * size
        times = []
        with _pinned():
            began, cpu = time.perf_counter(), time.process_time()
            at = began
            while at - began < seconds:
                execute("BEGIN IMMEDIATE")
                many("INSERT INTO t (body) VALUES (?)", rows)
                execute("COMMIT")
                before, at = at, time.perf_counter()
                times.append(at - before)
            cpu = time.process_time() - cpu
        done = len(times) * size
        return Bare(done / (at - began), statistics.median(times) * 1000, cpu / done * 1e6)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


@contextmanager
def _pinned() -> Iterator[None]:
    usable = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()
    pin(cores()[0])
    try:
        yield
    finally:
        pin(usable)


def counted(server: Server) -> tuple[int, int]:
    """The node's commits so far, and the messages in them."""
    page = server.addresses["ws"].replace("ws://", "http://").removesuffix("/ws") + "/metrics"
    found = {}
    with urllib.request.urlopen(page, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            name, _, value = line.partition(" ")
            found[name] = value
    return int(float(found["relay_store_commits_total"])), int(float(found["relay_store_messages_total"]))


def one_round(server: Server, bare: BareStore, transport: str, seconds: float, **given: object) -> Round:
    """Everything once."""
    counts: list[tuple[int, int]] = []
    address = server.addresses[transport]
    (load,) = loads("durable", address, **{**given, "seconds": seconds, "warmup": 0.3})  # type: ignore[arg-type]  # by name
    many = run(load, server.pid, marked=lambda _: counts.append(counted(server)))
    (commits, messages), (commits_then, messages_then) = counts
    batch = (messages_then - messages) / max(1, commits_then - commits)
    beside = bare.commits(max(1, round(batch)), BARE_S)
    alone = {**given, "seconds": ONE_S, "warmup": 0.1, "connections": 1, "window": 1, "channels": 1}
    (load,) = loads("durable", address, **alone)  # type: ignore[arg-type]  # by name, as above
    one = run(load, server.pid)
    return Round(many, batch, beside, one, bare.commits(1, BARE_S))


def measure(server: Server, transport: str, seconds: float, payload: int, **given: object) -> list[Figure]:
    """The figures of as many rounds as go into ``seconds``, at least three."""
    bare = BareStore(server.folder, payload)
    try:
        rounds = [
            one_round(server, bare, transport, MANY_S, payload=payload, **given)
            for _ in range(max(3, round(seconds / ROUND_S)))
        ]
    finally:
        bare.close()
    ratios = [each.rate_ratio for each in rounds]
    waits = [each.p50_ratio for each in rounds]
    rates = [each.many.rate for each in rounds]
    many = {
        "ratios": ratios, "rates": rates,
        "bare_rates": [each.bare.rate for each in rounds],
        "batches": [each.batch for each in rounds], "cpu_us": [each.many.cpu_us for each in rounds],
        "bare_cpu_us": [each.bare.cpu_us for each in rounds], "errors": sum(each.many.errors for each in rounds),
        "first_error": next((each.many.first_error for each in rounds if each.many.errors), ""),
    }  # fmt: skip
    one = {
        "ratios": waits, "p50_ms": [each.one.latency_us["p50"] / 1000 for each in rounds],
        "bare_p50_ms": [each.bare_one.p50_ms for each in rounds],
    }  # fmt: skip
    return [
        Figure("durable publications, answered", _middle(rates), "/s"),
        Figure("messages in a commit of the node", _middle([each.batch for each in rounds]), ""),
        Figure("bare SQLite in commits as large", _middle([each.bare.rate for each in rounds]), "/s"),
        Figure("processor time of the node for each", _middle([each.many.cpu_us or 0.0 for each in rounds]), "µs"),
        Figure(MANY, _middle(ratios), "x", None, many, RATE_LEAST),
        Figure(ONE, _middle(waits), "x", P50_MOST, one),
    ]


def _middle(values: list[float]) -> float:
    return statistics.median(values)
