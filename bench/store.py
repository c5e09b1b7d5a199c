"""The stores beside bare SQLite group commit, in the same run, on the same disk.

    python bench/store.py [--rounds 7] [--commits 150] [--directory .] [--body-bytes 200]

For batches of 1, 16, 128 and 1000 publications each round runs, in turn:

==========  =========================================================================================================
bare        BEGIN, executemany of an INSERT into a table of a rowid and a blob, COMMIT; WAL, synchronous=FULL: the floor
writer      the store's transaction in one thread
threads     the same through the writer thread, one batch outstanding: submit, commit, complete in the "loop"
single      batches of one publication, as many of them outstanding as the batch is large: group commit joins them
==========  =========================================================================================================

Printed are the median rate of all rounds, the smallest and largest, the median time of a commit, and the ratio to
``bare`` at the same batch size. Then one line each for: queues (put, deliver, acknowledge), reading 10 000 publications
in pages, the start with 100 000 queues of one message each, and the store in memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter, process_time
from typing import Any

from relay.config_store import Store
from relay.records import ACKED, Append, Put, Range, Retention, Settle
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore

SIZES = (1, 16, 128, 1000)
NAMES = ("bare", "writer", "threads", "single")
RETENTION = Retention(messages_max=10_000)
QUEUES = 100_000
START = """
import os, sys, time
from relay.config_store import Store
from relay.store.sqlite import SqliteStore
began = time.perf_counter()
store = SqliteStore(sys.argv[1], Store(), lambda: 1, os.urandom)
store.open()
states = []
store.queues.states(states.extend)
store.run_once()
took = time.perf_counter() - began
with open("/proc/self/status") as file:
    peak = next(line for line in file if line.startswith("VmHWM"))
print(len(states), round(took, 2), int(peak.split()[1]) // 1024)
"""


def now_ms() -> int:
    """The clock of the stores."""
    return int(time.time() * 1000)


class Loop:
    """What stands for the reactor: calls from threads, run by whoever waits."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """``reactor.callFromThread``."""
        self._calls.put((function, arguments))

    def run(self, until: Callable[[], bool]) -> None:
        """Run calls until ``until()``."""
        while not until():
            function, arguments = self._calls.get()
            function(*arguments)


class Bench:
    """The four ways of storing, each with a file of its own."""

    def __init__(self, directory: str, body_bytes: int) -> None:
        self.body = os.urandom(body_bytes)
        self.bare_file = sqlite3.connect(os.path.join(directory, "bare.db"), isolation_level=None)
        for each in (
            "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA cache_size = -32768",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)",
        ):  # fmt: skip
            self.bare_file.execute(each)
        self.plain = self._store(os.path.join(directory, "writer.db"))
        self.loop = Loop()
        self.threaded = self._store(os.path.join(directory, "threads.db"))
        self.threaded.start(self.loop.call)

    @staticmethod
    def _store(path: str) -> SqliteStore:
        store = SqliteStore(path, Store(), now_ms, os.urandom)
        store.open()
        return store

    def close(self) -> None:
        """End the threads."""
        self.bare_file.close()
        self.plain.stop()
        stopped = []
        self.threaded.stop().addCallback(lambda _: stopped.append(True))
        self.loop.run(lambda: bool(stopped))

    def batch(self, size: int) -> list[Append]:
        """Publications to ten channels."""
        at_ms = now_ms()
        return [Append("default", f"c{n % 10}", self.body, at_ms, RETENTION) for n in range(size)]

    def bare(self, size: int, commits: int) -> list[float]:
        """Seconds of each commit."""
        execute = self.bare_file.execute
        times = []
        for _ in range(commits):
            rows = [(self.body,)] * size
            began = perf_counter()
            execute("BEGIN IMMEDIATE")
            self.bare_file.executemany("INSERT INTO t (body) VALUES (?)", rows)
            execute("COMMIT")
            times.append(perf_counter() - began)
        return times

    def writer(self, size: int, commits: int) -> list[float]:
        """As above."""
        times = []
        done: list[Any] = []
        for n in range(commits):
            batch = self.batch(size)
            began = perf_counter()
            self.plain.history.append(batch, done.append)
            self.plain.run_once()
            times.append(perf_counter() - began)
            if self.plain.writer.logged_bytes > self.plain.options.wal_bytes:
                self.plain.writer.checkpoint()
                self.plain.writer.logged_bytes = 0
            if n % 100 == 0:
                self.plain.tick()
        return times

    def threads(self, size: int, commits: int) -> list[float]:
        """As above."""
        times = []
        for _ in range(commits):
            batch = self.batch(size)
            done: list[Any] = []
            began = perf_counter()
            self.threaded.history.append(batch, done.append)
            self.loop.run(lambda done=done: bool(done))  # type: ignore[misc]  # mypy sees no type in a default
            times.append(perf_counter() - began)
        self.threaded.tick()
        return times

    def single(self, size: int, commits: int) -> list[float]:
        """The time of ``size`` publications, as often as there would be commits."""
        batches = [[each] for each in self.batch(size * commits)]
        answers: list[Any] = []
        submitted = 0
        began = perf_counter()
        while len(answers) < len(batches):
            while submitted < len(batches) and submitted - len(answers) < size:
                self.threaded.history.append(batches[submitted], answers.append)
                submitted += 1
            seen = len(answers)
            self.loop.run(lambda seen=seen: len(answers) > seen)  # type: ignore[misc]  # as above
        assert not [each for each in batches if each[0].error]
        took = perf_counter() - began
        self.threaded.tick()
        return [took / commits] * commits


def queues(bench: Bench, messages: int, size: int) -> float:
    """Messages a second that are put, given to somebody and acknowledged, ``size`` at a time, both kinds at once."""
    store = bench.threaded
    left = messages
    open_batches = 0

    def put() -> None:
        nonlocal left, open_batches
        left -= size
        open_batches += 1
        store.queues.put([Put("default", f"q{n % 50}", bench.body, now_ms()) for n in range(size)], stored)

    def stored(batch: Any) -> None:
        store.queues.settle([Settle("default", each.queue, each.number, ACKED) for each in batch], settled)

    def settled(batch: Any) -> None:
        nonlocal open_batches
        assert not [each for each in batch if each.error]
        open_batches -= 1
        if left:
            put()

    began = perf_counter()
    for _ in range(8):
        put()
    bench.loop.run(lambda: not left and not open_batches)
    return messages / (perf_counter() - began)


def reading(bench: Bench, page: int) -> float:
    """Milliseconds for 10 000 publications in pages."""
    store = bench.threaded
    found = 0
    for _ in range(10):
        done: list[Any] = []
        batch = [Append("default", "long", bench.body, now_ms(), Retention()) for _ in range(1000)]
        store.history.append(batch, done.append)
        bench.loop.run(lambda done=done: bool(done))  # type: ignore[misc]  # as above
    ended = False

    def took(answer: Any) -> None:
        nonlocal found, ended
        found += len(answer.publications)
        if found >= 10_000:
            ended = True
        else:
            after = answer.publications[-1].offset
            store.history.read(Range("default", "long", after=after, limit=page), took)

    began = perf_counter()
    store.history.read(Range("default", "long", limit=page), took)
    bench.loop.run(lambda: ended)
    return (perf_counter() - began) * 1000


def start(directory: str) -> str:
    """Open a store with many queues, in a process of its own."""
    path = os.path.join(directory, "queues.db")
    store = Bench._store(path)
    for place in range(0, QUEUES, 10_000):
        batch = [Put("default", f"$user.{place + n}", os.urandom(200), now_ms()) for n in range(10_000)]
        store.queues.put(batch, lambda _: None)
        store.run_once()
    store.stop()
    found = subprocess.run([sys.executable, "-c", START, path], capture_output=True, text=True, check=True)
    count, seconds, rss = found.stdout.split()
    return f"start with {count} queues: open and states() {seconds} s, peak RSS {rss} MB"


def memory(body: bytes) -> float:
    """Microseconds of CPU for a publication that is stored in memory, in a channel that is trimmed."""
    store = MemoryStore(Store(), now_ms, os.urandom)
    retention = Retention(1000, 10_000_000, 60_000)
    best = 9e9
    for _ in range(7):
        batches = [(Append("default", f"c{n % 10}", body, 10**12, retention),) for n in range(20_000)]
        began = process_time()
        for each in batches:
            store.history.append(each, _nothing)
        best = min(best, process_time() - began)
    return best / 20_000 * 1e6


def _nothing(_: object) -> None:
    pass


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commits", type=int, default=150)
    parser.add_argument("--directory", default=".")
    parser.add_argument("--body-bytes", type=int, default=200)
    options = parser.parse_args()
    directory = tempfile.mkdtemp(dir=options.directory)
    try:
        bench = Bench(directory, options.body_bytes)
        for size in SIZES:
            rates: dict[str, list[float]] = {name: [] for name in NAMES}
            times: dict[str, list[float]] = {name: [] for name in NAMES}
            for _ in range(options.rounds):
                for name in NAMES:
                    took = getattr(bench, name)(size, options.commits)
                    times[name] += took
                    rates[name].append(size * len(took) / sum(took))
            bare = statistics.median(rates["bare"])
            for name in NAMES:
                found = sorted(rates[name])
                rate = statistics.median(found)
                p50 = statistics.median(times[name])
                ratio = f"{rate / bare:5.2f} x bare; p50 {p50 / statistics.median(times['bare']):5.2f} x bare"
                print(
                    f"batch {size:4}  {name:8} {rate:9.0f}/s ({found[0]:.0f} to {found[-1]:.0f})  "
                    f"p50 {p50 * 1e3:7.3f} ms  {ratio}",
                    flush=True,
                )
        print(f"queues: put, deliver, ack: {queues(bench, 40_000, 100):.0f}/s in batches of 100")
        print(f"reading 10 000 publications in pages of 1000: {reading(bench, 1000):.1f} ms")
        bench.close()
        print(start(directory))
        print(f"in memory: {memory(bench.body):.2f} us of CPU a publication")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
