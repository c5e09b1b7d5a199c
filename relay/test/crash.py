"""A node that dies at any moment loses nothing that it acknowledged: rounds of load, death, start, and reading.

    python -m relay.test.crash --rounds 200                     SIGKILL
    python -m relay.test.crash --rounds 200 --how power         the same, and what was not synced is lost too
    python -m relay.test.crash --rounds 20 --how full           a disk that fills up, gets room again, then SIGKILL
    python -m relay.test.crash --rounds 20 --how sync           failing fsync, fdatasync and sync_file_range (strace)
    … --planted ack_before_commit | no_sync                     with a mistake in the node: the campaign has to find it

In each round publishers keep ``--window`` publications of a durable channel under way, others put messages into a
queue; a subscriber and consumers watch. What was sent, answered and seen is written down (``crash_record``); after each
start the history is read and compared, at the end the queue is drained. Prints its figures; exit status 1 for any
problem.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from relay.test import power_cut
from relay.test.crash_clients import Bare, Consumer, Publisher, Putter, Reader, Source, Subscriber
from relay.test.crash_record import ChannelRecord, QueueRecord
from relay.test.node_process import NodeProcess, report

PUBLISHERS: Final = 4
PUTTERS: Final = 2
CONSUMERS: Final = 2
WHOLE_EVERY: Final = 20
"""Rounds between readings of a whole history; the channel changes then, so that they stay short."""
LOAD_S: Final = (0.15, 0.8)
"""How long a round's load runs, at least and at most, once all windows are full."""
END_S: Final = 30.0
DRAIN_S: Final = 60.0
DISK_BYTES: Final = 48 << 20
SYNCS: Final = "fsync,fdatasync,sync_file_range"
QUEUE: Final = "crash.jobs"
CONFIG: Final[dict[str, Any]] = {  # Any: a configuration as JSON
    "channels": [{"pattern": "crash.**", "history": {"kind": "durable", "messages_max": 0, "bytes_max": 0}}],
    "history": {"under_way_max": 10_000},
    "queues": [{"pattern": "crash.**", "backoff_s_min": 0.0, "deliveries_max": 1_000_000}],
    "log": {"level": "warn"},
}
PLANTED: Final = {
    "ack_before_commit": '''
import time
from relay.store import sqlite_writer

class Late:
    """The connection whose COMMIT is carried out with the next transaction, by a disk that takes its time: what it
    answers for is not stored yet."""
    def __init__(self, connection):
        self.__dict__.update(real=connection, owed=False)
    def execute(self, sql, *values):
        if sql == "COMMIT":
            self.__dict__["owed"] = True
            return None
        if self.owed:
            self.__dict__["owed"] = False
            time.sleep(0.03)
            self.real.execute("COMMIT")
        return self.real.execute(sql, *values)
    def __getattr__(self, name):
        return getattr(self.real, name)

class Writer(sqlite_writer.SqliteWriter):
    def __init__(self, connection, *rest):
        super().__init__(Late(connection), *rest)
''',
    "no_sync": """
from relay.store import sqlite_writer

class Writer(sqlite_writer.SqliteWriter):
    def __init__(self, connection, *rest):
        connection.execute("PRAGMA synchronous = OFF")
        super().__init__(connection, *rest)
""",
}
"""Mistakes, as plugins that put another writer into the store before it is opened."""
PLANT: Final = """
import relay.store.sqlite
relay.store.sqlite.SqliteWriter = Writer
class Plugin:
    name = "planted"
plugin = Plugin()
"""


class Campaign:
    """All rounds. ``figures`` in the end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.folder = Path(tempfile.mkdtemp(prefix="relay-crash-"))
        self.node = NodeProcess(CONFIG)
        self.data = self.folder / "data"
        self.data.mkdir()
        self.node.config["data"] = str(self.data)
        self.queue = QueueRecord()
        self.channels: list[ChannelRecord] = []
        self._archive: list[ChannelRecord] = []  # read in whole for the last time
        self.library: Path | None = None
        self.counts: dict[str, int] = dict.fromkeys(
            ("rounds", "killed", "ended_by_itself", "unsynced_changes_lost", "sectors_kept", "syncs_failed", "full"), 0
        )
        self.problems: list[str] = []
        self.start_s = 0.0
        self.in_flight = 0

    async def run(self) -> dict[str, Any]:  # Any: the figures
        """The figures."""
        options = self.options
        begun = time.monotonic()
        try:
            self._prepare()
            for number in range(options.rounds):
                await self._round(number)
                if self.problems or any(channel.problems for channel in self.channels) or self.queue.problems:
                    break
                if options.seconds and time.monotonic() - begun > options.seconds:
                    break
            if not self._found():
                await self._finish()
        finally:
            self._clear()
        return self._figures(time.monotonic() - begun)

    # --- before and after ---------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        options = self.options
        if options.planted:
            (self.node.folder / "planted.py").write_text(PLANTED[options.planted] + PLANT)
            self.node.config["handlers"] = {"plugins": ["planted:plugin"]}
        if options.how == "power":
            self.library = power_cut.build(self.folder)
        elif options.how == "full":
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(self.data)], check=True)
        elif options.how == "sync" and shutil.which("strace") is None:
            raise SystemExit("crash: strace is not installed")

    def _clear(self) -> None:
        self.node.close()
        if self.options.how == "full":
            subprocess.run(["umount", "--lazy", str(self.data)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        log = self.folder / "power.log"
        if self.library is not None:
            self.node.environment = {
                name: value for name, value in power_cut.environment(self.library, self.data, log).items()
                if name.startswith(("LD_", "RELAY_POWER"))
            }  # fmt: skip
        if self.options.how == "full":
            # What earlier rounds stored is kept, and must not be what fills it.
            disk = os.statvfs(self.data)
            size = (disk.f_blocks - disk.f_bfree) * disk.f_frsize + DISK_BYTES
            subprocess.run(["mount", "-o", f"remount,size={size}", str(self.data)], check=True)
        begun = time.monotonic()
        self.node.start()
        self.start_s = max(self.start_s, time.monotonic() - begun)

    # --- a round ------------------------------------------------------------------------------------------------------

    async def _round(self, number: int) -> None:
        if number % WHOLE_EVERY == 0:
            self.channels.append(ChannelRecord())
        self._start()
        await self._check(whole=False)
        channel, record = self._channel(), self.channels[-1]
        port, window = self.node.stream, self.options.window
        prefix = f"r{number}"
        sources: list[Source] = [
            Publisher(port, f"p{each}", prefix, window // PUBLISHERS, channel, record) for each in range(PUBLISHERS)
        ]
        sources += [Putter(port, f"q{each}", prefix, 100, QUEUE, self.queue) for each in range(PUTTERS)]
        watchers: list[Bare] = [Subscriber(port, "s", channel, record)]
        watchers += [Consumer(port, f"c{each}", QUEUE, 100, self.queue) for each in range(CONSUMERS)]
        tasks = [asyncio.create_task(each.run()) for each in (*watchers, *sources)]
        await asyncio.gather(*(each.open.wait() for each in (*watchers, *sources)))
        self.in_flight = max(self.in_flight, sum(len(each.under_way) for each in sources))
        await self._die(sources)
        await asyncio.gather(*tasks)
        self.counts["rounds"] += 1

    async def _die(self, sources: list[Source]) -> None:
        how = self.options.how
        if how == "sync":
            await self._failing_syncs()
            return
        await asyncio.sleep(self.random.uniform(*LOAD_S))
        if how == "full":
            await self._full(sources)
        process = self.node.process
        assert process is not None
        if process.poll() is not None:
            last = self.node.log.splitlines()[-1:]
            self.problems.append(f"the node ended by itself with status {process.returncode}: {last}")
        self.node.signal(signal.SIGKILL)
        process.wait()
        self.counts["killed"] += 1
        if self.library is not None:
            some = self.random if self.random.random() < 0.5 else None
            cut = power_cut.cut(self.folder / "power.log", self.data, some)
            self.counts["unsynced_changes_lost"] += cut.lost
            self.counts["sectors_kept"] += cut.sectors

    async def _full(self, sources: list[Source]) -> None:
        """Fill the disk until publications are refused, make room, and see them stored again; the node goes on."""
        ballast = self.data / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        before = self._refusals()
        await self._until(lambda: self._refusals() > before, "no publication was refused though the disk is full")
        self.counts["full"] += self._refusals() > before
        ballast.unlink()
        stored = sum(channel.outcomes.acknowledged for channel in self.channels)
        await self._until(
            lambda: sum(channel.outcomes.acknowledged for channel in self.channels) > stored,
            "nothing was stored again though the disk has room",
        )

    async def _failing_syncs(self) -> None:
        """The node must end by itself, with another status than 0, when a sync fails."""
        trace = self.folder / "trace"
        when = self.random.randint(1, 40)
        strace = await asyncio.create_subprocess_exec(
            "strace", "-f", "-q", "-o", str(trace), "-e", f"trace={SYNCS}",
            "-e", f"inject={SYNCS}:error=EIO:when={when}+", "-p", str(self.node.pid),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        process = self.node.process
        assert process is not None
        await self._until(lambda: process.poll() is not None, "the node went on though its syncs failed")
        if process.poll() is None:
            self.node.signal(signal.SIGKILL)
        status = process.wait()
        with contextlib.suppress(ProcessLookupError):
            strace.terminate()
        await strace.wait()
        injected = trace.read_text().count("(INJECTED)") if trace.exists() else 0
        trace.unlink(missing_ok=True)
        self.counts["syncs_failed"] += injected
        self.counts["ended_by_itself"] += status > 0
        if not injected:
            self.problems.append("no sync was made to fail in this round")
        if status <= 0:
            self.problems.append(f"the node ended with status {status} after a failed sync")

    async def _until(self, condition: Any, problem: str) -> None:  # Any: a callable
        deadline = time.monotonic() + END_S
        while not condition():
            if time.monotonic() > deadline:
                self.problems.append(problem)
                return
            await asyncio.sleep(0.02)

    def _refusals(self) -> int:
        return sum(channel.outcomes.refused for channel in self.channels)

    # --- looking ------------------------------------------------------------------------------------------------------

    def _channel(self) -> str:
        return f"crash.{len(self.channels)}"

    async def _check(self, whole: bool) -> None:
        """Read what the current channel has; ``whole``, or only what came since the last time."""
        record = self.channels[-1]
        reader = Reader(self.node.stream)
        task = asyncio.create_task(reader.run())
        try:
            after = 0 if whole else record.stored
            rows, epoch = await asyncio.wait_for(reader.history(self._channel(), after), DRAIN_S)
            if rows or record.told:
                record.read(rows, epoch or next(iter(record.epochs), ""), after + 1)
            record.stored = rows[-1][0] if rows else record.stored
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _finish(self) -> None:
        """Read the histories in whole, and drain the queue."""
        self._start()
        for count in range(len(self.channels), 0, -1):
            await self._check(whole=True)
            if count > 1:
                self._archive.append(self.channels.pop())
        await self._drain()
        self.node.stop()

    async def _drain(self) -> None:
        consumer, reader = Consumer(self.node.stream, "drain", QUEUE, 1000, self.queue), Reader(self.node.stream)
        tasks = [asyncio.create_task(each.run()) for each in (consumer, reader)]
        deadline = time.monotonic() + DRAIN_S
        waiting = -1
        while waiting and time.monotonic() < deadline:
            waiting = (await reader.queue(QUEUE))["waiting"]
            await asyncio.sleep(0.05)
        if waiting:
            self.problems.append(f"{waiting} messages of the queue are not delivered within {DRAIN_S} s")
        self.queue.drained()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _found(self) -> list[str]:
        return [*self.problems, *(each for channel in self.channels for each in channel.problems), *self.queue.problems]

    def _figures(self, seconds: float) -> dict[str, Any]:  # Any: numbers, and the problems
        channels = [*self.channels, *self._archive]
        problems = [*self.problems, *(each for one in channels for each in one.problems), *self.queue.problems]
        outcomes = [channel.outcomes for channel in channels]
        queue = self.queue
        return {
            "how": self.options.how,
            "planted": self.options.planted or "nothing",
            **{name: count for name, count in self.counts.items() if count},
            "seconds": round(seconds, 1),
            "in_flight_max": self.in_flight,
            "publications_acknowledged": sum(each.acknowledged for each in outcomes),
            "publications_refused": sum(each.refused for each in outcomes),
            "publications_unknown": sum(each.unknown for each in outcomes),
            "unknown_and_stored": sum(channel.survived for channel in channels),
            "puts_acknowledged": queue.outcomes.acknowledged,
            "puts_unknown": queue.outcomes.unknown,
            "settled": len(queue.settled),
            "delivered_again": queue.repeated,
            "longest_start_s": round(self.start_s, 2),
            "problems": problems[:10] or 0,
            "ok": bool(problems) == bool(self.options.planted),
        }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m relay.test.crash", description="Kill a node again and again.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--how", choices=("kill", "power", "full", "sync"), default="kill")
    parser.add_argument("--planted", choices=sorted(PLANTED), default="")
    parser.add_argument("--window", type=int, default=1200, help="publications under way at once")
    parser.add_argument("--seconds", type=float, default=0, help="begin no further round after this; 0: no bound")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    return report(asyncio.run(Campaign(options).run()), options.json)


if __name__ == "__main__":
    sys.exit(main())
