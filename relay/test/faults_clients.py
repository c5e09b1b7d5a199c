"""The clients of a fault campaign: workers on every node, watchers on every node, and probes after a fault."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final

from relay.cli.raft_run import ask
from relay.client.aio import Client, connect
from relay.errors import Conflict, Gone, NotFound, RelayError
from relay.test.faults_cluster import CLIENT, WAIT_S
from relay.test.faults_record import Call, Event, Record

KEYS: Final = 8
"""Keys of a round that all workers share."""
PAUSE_S: Final = (0.0, 0.03)
"""Of a worker between two operations."""
PROBE_S: Final = 0.005
"""Between probes: the resolution of the time to recover."""
PROBES_MAX: Final = 400
"""Of one fault under way or done; then it is only the workers who find out when writes are acknowledged again."""
WATCH_S: Final = 600.0
PADDING: Final = "-"
"""Behind a value that is to be long; not kept in the record."""


class Traffic:
    """All clients. ``begin`` a round, ``quiesce`` at its end, ``close``."""

    def __init__(self, urls: dict[int, str], workers: int, seed: int) -> None:
        self.record = Record()
        self.prefix = ""
        self.urls = dict(urls)
        self.watchers: dict[int, Watcher] = {}
        self._revision = 0  # the latest that a write was acknowledged at
        self._random = random.Random(seed)
        self._workers = workers
        self._go = asyncio.Event()
        self._busy = 0
        self._still = asyncio.Event()
        self._clients: dict[int, list[Client]] = {}
        self._tasks: dict[int, list[asyncio.Task[None]]] = {}
        self._probes: set[asyncio.Task[None]] = set()
        self._values = 0

    async def open(self) -> None:
        """Connect to all nodes."""
        for node in self.urls:
            await self.join(node)

    async def join(self, node: int) -> None:
        """Clients of one node."""
        clients = self._clients[node] = [await connect(self.urls[node], options=CLIENT) for _ in range(self._workers)]
        self._tasks[node] = [asyncio.create_task(self._work(client)) for client in clients]
        watcher = self.watchers[node] = Watcher(clients[0])
        self._tasks[node].append(asyncio.create_task(watcher.run()))

    async def leave(self, node: int) -> None:
        """They are gone, and what they had under way is unknown."""
        del self.urls[node], self.watchers[node]
        await self._end(self._tasks.pop(node))
        for client in self._clients.pop(node):
            await client.close()

    def begin(self, prefix: str) -> None:
        """A new record, over keys below ``prefix``."""
        self.record = Record()
        self.prefix = prefix
        self._go.set()

    async def quiesce(self) -> None:
        """Nobody asks anything any more, and everything asked has ended."""
        self._go.clear()
        await asyncio.gather(*self._probes)
        while self._busy:
            self._still.clear()
            await self._still.wait()
        for task in [each for tasks in self._tasks.values() for each in tasks]:
            if task.done():
                task.result()  # a client that ended by itself met a mistake of ours

    async def close(self) -> None:
        """All end."""
        self._go.clear()
        await self._end([task for tasks in self._tasks.values() for task in tasks] + list(self._probes))
        for clients in self._clients.values():
            for client in clients:
                await client.close()

    async def probe(self, since_s: float) -> None:
        """Write a new key each few milliseconds on all nodes until a write that began after ``since_s`` is
        acknowledged."""
        for number in range(PROBES_MAX):
            for node in list(self._clients):
                task = asyncio.create_task(self._probe(node, number))
                self._probes.add(task)
                task.add_done_callback(self._probes.discard)
            await asyncio.sleep(PROBE_S)
            if self.record.recovered_s(since_s) is not None:
                return

    async def final_reads(self, node: int) -> int:
        """Read all shared keys on ``node``, as part of the record; the revision."""
        client = self._clients[node][0]
        for number in range(KEYS):
            await self._do(client, f"{self.prefix}k{number}", "read", None)
        answer = await ask(client, "range", prefix=self.prefix)
        return int(answer["revision"])

    async def pairs(self, node: int) -> list[tuple[str, str, int]]:
        """All pairs of the round as ``node`` has them, linearizably."""
        client, found, start = self._clients[node][0], [], ""
        while True:
            answer = await ask(client, "range", prefix=self.prefix, start=start)
            found += [(each["key"], each["value"], each["revision"]) for each in answer["pairs"]]
            start = answer["next"]
            if not start:
                return found

    async def forget(self, node: int) -> None:
        """Remove the pairs of the round."""
        await ask(self._clients[node][0], "delete", prefix=self.prefix)

    def untold(self) -> int:
        """How many changes were acknowledged and told by no node yet."""
        return self._revision + 1 - max(watcher.revision for watcher in self.watchers.values())

    async def bulk(self, node: int, number: int, length: int) -> bool:
        """Write a value of ``length`` on ``node``; whether that was acknowledged."""
        client = self._clients[node][-1]
        key = f"{self.prefix}b{number % KEYS}"
        return await self._do(client, key, "write", self._value(), PADDING * length) is not None

    # --- one operation ----------------------------------------------------------------------------------------------

    async def _work(self, client: Client) -> None:
        seen: dict[str, str] = {}
        while True:
            await self._go.wait()
            key = f"{self.prefix}k{self._random.randrange(KEYS)}"
            self._busy += 1
            try:
                match self._random.randrange(4):
                    case 0:
                        found = await self._do(client, key, "read", None)
                        if found is not None:
                            seen[key] = found
                    case 1 if key in seen:
                        await self._do(client, key, "cas", (seen[key], self._value()))
                    case _:
                        await self._do(client, key, "write", self._value())
            finally:
                self._busy -= 1
                self._still.set()
            await asyncio.sleep(self._random.uniform(*PAUSE_S))

    async def _probe(self, node: int, number: int) -> None:
        client = self._clients[node][-1]
        await self._do(client, f"{self.prefix}p{node}.{number}", "write", self._value())

    def _value(self) -> str:
        self._values += 1
        return f"v{self._values}"

    # Any: as in the record.
    async def _do(self, client: Client, key: str, action: str, argument: Any, padding: str = "") -> str | None:
        """One operation, written down; what was read, '' for what was written or was not there, None for an error."""
        record = self.record
        call = record.begin(key, action, argument, time.monotonic())
        try:
            if action == "read":
                found = str((await ask(client, "get", key=key))["value"]).rstrip(PADDING)
                record.end(call, "done", time.monotonic(), found)
                return found
            answer = await ask(client, "put", key=key, value=(call.value + padding), **_condition(call))
            record.end(call, "done", time.monotonic(), revision=answer["revision"])
            self._revision = max(self._revision, answer["revision"])
            return ""
        except NotFound:
            # Of a read; of a write it is the node's session that is gone, and the node tries again by itself.
            record.end(call, "done" if action == "read" else "unknown", time.monotonic(), "")
            return ""
        except Conflict:
            record.end(call, "refused", time.monotonic())
        except RelayError as error:
            record.end(call, "not_done" if error.outcome == "not_done" else "unknown", time.monotonic())
        return None

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _condition(call: Call) -> dict[str, Any]:  # Any: arguments of ``put``
    if call.action != "cas":
        return {}
    old = call.argument[0]
    return {"equals": old} if old else {"absent": True}


class Watcher:
    """Everything that one node tells of changed keys, over lost connections too."""

    def __init__(self, client: Client) -> None:
        self.events: list[Event] = []
        self.revision = 1
        """All before it was told."""
        self.gone = 0
        """Times that the history did not go back far enough."""
        self._client = client
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            asked = {"prefix": "", "revision": self.revision}
            try:
                async with self._client.pull_stream("$raft.watch", asked, timeout_s=WATCH_S) as answers:
                    async for answer in answers:
                        if answer.body:
                            self._take(answer.value)
            except Gone:
                self.gone += 1
                self.revision = 0  # from now on
            except RelayError:
                pass  # asked again, on the next connection
            await asyncio.sleep(0.05)

    def _take(self, answer: dict[str, Any]) -> None:  # Any: JSON
        for event in answer["events"]:
            if event["type"] == "put":
                self.events.append((event["revision"], event["key"], event["value"].rstrip(PADDING)))
        self.revision = answer["revision"]
        self._told.set()

    async def reached(self, revision: int) -> bool:
        """Wait until all up to ``revision`` was told; False: it was not."""
        until = time.monotonic() + WAIT_S
        while self.revision <= revision:
            self._told.clear()
            try:
                await asyncio.wait_for(self._told.wait(), until - time.monotonic())
            except TimeoutError:
                return False
        return True
