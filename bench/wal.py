"""The write-ahead log beside a bare loop and beside SQLite, in the same run, on the same disk.

    python bench/wal.py [--rounds 7] [--batches 400] [--directory .] [--entry-bytes 256]

For batches of 1, 16 and 128 entries each round runs, in turn:

==========  =========================================================================================================
bare        one pwrite of as many bytes as the log would write and one fdatasync, into a pre-zeroed file: the floor
log         submit and run_once in one thread: encode, write, fdatasync, hint, storage
threads     the same with the writer thread, one submission outstanding: two changes of thread more
piped       with the writer thread, 16 submissions outstanding: group commit joins what waits
sqlite      one INSERT per entry, one COMMIT per batch; journal_mode=WAL, synchronous=FULL (fdatasync per commit)
==========  =========================================================================================================

Printed are the median rate in entries a second of all rounds, the smallest and largest, the median time of a batch,
and the ratios to ``bare`` and ``sqlite``. Segments are made between rounds and not counted; the time that making one
takes is printed at the end, and so is the time that recovery takes for a record.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter, process_time

from relay.cluster.raft.types import Entry, HardState
from relay.store.files import OsFiles
from relay.store.wal import WriteAheadLog
from relay.store.wal_format import MARK_BYTES, RECORD_HEAD_BYTES
from relay.store.wal_thread import LogThreads
from relay.store.wal_writer import GroupWrite

SIZES = (1, 16, 128)
NAMES = ("bare", "log", "threads", "piped", "sqlite")
OUTSTANDING = 16
SEGMENT_BYTES = 64 << 20
GROUP = 1


class Bare:
    """The floor: what the disk does when nothing else is done."""

    def __init__(self, directory: str, entry_bytes: int) -> None:
        self.entry_bytes = entry_bytes
        self.fd = os.open(os.path.join(directory, "bare"), os.O_RDWR | os.O_CREAT, 0o600)
        self.offset = 0
        self.zero()

    def zero(self) -> None:
        """As a segment is made."""
        for offset in range(0, SEGMENT_BYTES, 1 << 20):
            os.pwrite(self.fd, bytes(1 << 20), offset)
        os.fsync(self.fd)

    def run(self, size: int, batches: int) -> list[float]:
        """Seconds of each batch."""
        data = os.urandom(MARK_BYTES + RECORD_HEAD_BYTES + 8 + size * (RECORD_HEAD_BYTES + self.entry_bytes))
        if self.offset + batches * len(data) > SEGMENT_BYTES:
            self.zero()
            self.offset = 0
        times = []
        for _ in range(batches):
            start = perf_counter()
            os.pwrite(self.fd, data, self.offset)
            os.fdatasync(self.fd)
            self.offset += len(data)
            times.append(perf_counter() - start)
        return times


class Log:
    """The log, with or without its threads."""

    def __init__(self, directory: str, entry_bytes: int) -> None:
        self.data = os.urandom(entry_bytes)
        self.log = WriteAheadLog(OsFiles(), os.path.join(directory, "log"))
        self.log.open()
        self.log.maintain()
        self.calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()

    def write(self, size: int) -> GroupWrite:
        """The next batch: entries and a hard state, as a Raft node writes them."""
        first = self.log.group(GROUP).tail + 1
        data = self.data
        entries = [Entry(0, 1, index, data) for index in range(first, first + size)]
        return GroupWrite(GROUP, entries, HardState(1, 1, first - 1))

    def run(self, size: int, batches: int) -> list[float]:
        """Seconds of each batch, in one thread."""
        log = self.log
        times = []
        for _ in range(batches):
            start = perf_counter()
            log.submit([self.write(size)])
            log.run_once()
            times.append(perf_counter() - start)
        self.compact()
        return times

    def compact(self) -> None:
        """Between rounds: let go of what is old, have a segment ready."""
        self.log.submit([GroupWrite(GROUP, compact=self.log.group(GROUP).last_index())])
        while self.log.run_once():
            pass
        self.log.maintain()

    def run_threads(self, size: int, batches: int, outstanding: int) -> list[float]:
        """Seconds from each submission to its completion, with so many at a time; the last is the whole run's."""
        threads = LogThreads(self.log, lambda call, *arguments: self.calls.put((call, arguments)))
        threads.start()
        times: list[float] = []
        waiting: deque[float] = deque()
        begun = perf_counter()
        submitted = 0
        while len(times) < batches:
            while submitted < batches and len(waiting) < outstanding:
                waiting.append(perf_counter())
                self.log.submit([self.write(size)], lambda: times.append(perf_counter() - waiting.popleft()))
                submitted += 1
            call, arguments = self.calls.get()
            call(*arguments)
        times.append(perf_counter() - begun)
        stopped: list[bool] = []
        threads.stop(lambda: stopped.append(True))
        while not stopped:
            call, arguments = self.calls.get()
            call(*arguments)
        self.log.on_work = self.log.on_maintenance = lambda: None
        self.compact()
        return times


class Sqlite:
    """What a store with the same promise costs."""

    def __init__(self, directory: str, entry_bytes: int) -> None:
        self.data = os.urandom(entry_bytes)
        self.connection = sqlite3.connect(os.path.join(directory, "sqlite"), isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, term INTEGER, data BLOB)")
        self.index = 0

    def run(self, size: int, batches: int) -> list[float]:
        """Seconds of each batch."""
        execute, many = self.connection.execute, self.connection.executemany
        times = []
        for _ in range(batches):
            start = perf_counter()
            rows = [(index, 1, self.data) for index in range(self.index, self.index + size)]
            execute("BEGIN")
            many("INSERT INTO log VALUES (?, ?, ?)", rows)
            execute("COMMIT")
            self.index += size
            times.append(perf_counter() - start)
        return times


def measure(directory: str, rounds: int, batches: int, entry_bytes: int) -> None:
    """Run everything and print the table."""
    bare, log, sqlite = Bare(directory, entry_bytes), Log(directory, entry_bytes), Sqlite(directory, entry_bytes)
    single: dict[str, Bare | Log | Sqlite] = {"bare": bare, "log": log, "sqlite": sqlite}
    print(f"{'batch':>5} {'':8} {'entries/s':>10} {'min':>9} {'max':>9} {'batch us':>9} {'/bare':>6} {'/sqlite':>8}")
    for size in SIZES:
        rates: dict[str, list[float]] = {name: [] for name in NAMES}
        latencies: dict[str, list[float]] = {name: [] for name in NAMES}
        for _ in range(rounds):
            for name in NAMES:
                if name in ("threads", "piped"):
                    times = log.run_threads(size, batches, OUTSTANDING if name == "piped" else 1)
                    whole = times.pop()
                else:
                    times = single[name].run(size, batches)
                    whole = sum(times)
                rates[name].append(size * batches / whole)
                latencies[name].append(statistics.median(times))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        for name in NAMES:
            print(
                f"{size:5} {name:8} {medians[name]:10.0f} {min(rates[name]):9.0f} {max(rates[name]):9.0f}"
                f" {statistics.median(latencies[name]) * 1e6:9.0f}"
                f" {medians[name] / medians['bare']:6.2f} {medians[name] / medians['sqlite']:8.2f}"
            )
    log.log.close()
    recovery(directory, entry_bytes)


def recovery(directory: str, entry_bytes: int) -> None:
    """How long a segment takes to make, and a record to be read back."""
    path = os.path.join(directory, "recovery")
    log = WriteAheadLog(OsFiles(), path)
    start = perf_counter()
    log.open()
    made = perf_counter() - start
    data = os.urandom(entry_bytes)
    for first in range(1, 100_001, 1000):
        log.submit([GroupWrite(GROUP, [Entry(0, 1, index, data) for index in range(first, first + 1000)])])
        log.run_once()
    log.close()
    start, used = perf_counter(), process_time()
    found = WriteAheadLog(OsFiles(), path).open()
    took, used = perf_counter() - start, process_time() - used
    print(f"a segment of {SEGMENT_BYTES >> 20} MiB is made in {made * 1e3:.0f} ms")
    print(f"recovery of {found.records} records: {took:.2f} s, {used / found.records * 1e6:.1f} us of processor each")


def main() -> None:
    """Parse the command line and measure in a directory that is removed again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=400, help="in each round")
    parser.add_argument("--entry-bytes", type=int, default=256)
    parser.add_argument("--directory", default=".", help="on the disk to be measured")
    options = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    directory = tempfile.mkdtemp(prefix="wal-bench-", dir=options.directory)
    try:
        measure(directory, options.rounds, options.batches, options.entry_bytes)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
