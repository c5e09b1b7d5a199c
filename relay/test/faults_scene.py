"""One round of a fault campaign: a fault strikes a node while clients write, is mended, and everything is compared."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final

from relay.cli.raft_run import ask
from relay.client.aio import connect
from relay.errors import RelayError
from relay.test.faults_clients import Traffic
from relay.test.faults_cluster import LOOK_S, ONCE, WAIT_S, FaultCluster, FaultNode

BEFORE_S: Final = (0.2, 0.5)
"""Of traffic before the fault."""
SILENCE_S: Final = 5.0
"""A fault that leaves no majority is mended after this; then nothing can be acknowledged before."""
SYNCS: Final = "fsync,fdatasync,sync_file_range"


class Strace:
    """Injects into the system calls of a running process. ``injected``: how often it did."""

    def __init__(self, node: FaultNode, what: str) -> None:
        self.injected = 0
        self._node = node
        self._what = what
        self._file = node.folder / "trace"
        self._process: asyncio.subprocess.Process | None = None

    async def attach(self) -> None:
        """From now on. Raises TimeoutError."""
        node = self._node
        assert node.process is not None
        self._file.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            "strace", "-f", "-q", "-o", str(self._file), "-e", f"trace={SYNCS}", "-e", f"inject={SYNCS}:{self._what}",
            "-p", str(node.process.pid), stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    def count(self) -> int:
        """Calls that were injected into, so far."""
        text = self._file.read_text("utf-8", "replace") if self._file.exists() else ""
        return text.count("(INJECTED)") + text.count("(DELAYED)")

    async def detach(self) -> None:
        """Let go."""
        process = self._process
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        self.injected = self.count()
        self._file.unlink(missing_ok=True)


class Scene:
    """What a fault has to work with. ``leader`` and ``follower`` are those of the round's beginning."""

    def __init__(
        self, cluster: FaultCluster, traffic: Traffic, dice: random.Random, leader: int, hold_s: float
    ) -> None:
        self.cluster = cluster
        self.traffic = traffic
        self.dice = dice
        self.hold_s = hold_s  # how long a fault lasts at most once writes are acknowledged again
        self.leader = cluster.nodes[leader]
        self.follower = dice.choice(cluster.others(leader))
        self.problems: list[str] = []
        self.began_s = 0.0
        self.struck_s = 0.0
        self.injected = 0

    def victim(self, role: str) -> FaultNode:
        """``leader`` or ``follower``."""
        return self.leader if role == "leader" else self.follower

    async def before(self) -> None:
        """Traffic without a fault."""
        await asyncio.sleep(self.dice.uniform(*BEFORE_S))

    def strike(self, fault: Callable[[], object]) -> None:
        """The fault. It blocks, so no client begins anything between its beginning and its end."""
        self.began_s = time.monotonic()
        fault()
        self.struck_s = time.monotonic()

    async def hold(self, *, hold_s: float | None = None, lasting_s: float = SILENCE_S) -> None:
        """Let it last until writes are acknowledged again, but no longer than ``lasting_s``, and a while longer."""
        probing = asyncio.create_task(self.traffic.probe(self.struck_s))
        until = time.monotonic() + lasting_s
        while time.monotonic() < until:
            if self.recovered_s() is not None:
                break
            await asyncio.sleep(0.01)
        probing.cancel()
        if self.recovered_s() is not None:
            await asyncio.sleep(self.dice.uniform(0.0, self.hold_s) if hold_s is None else hold_s)

    def recovered_s(self) -> float | None:
        """From the beginning of the fault until a write that began when it was there was acknowledged."""
        found = self.traffic.record.recovered_s(self.struck_s)
        return None if found is None else found - self.began_s

    async def wait(self, condition: Callable[[], bool], problem: str, *, look_s: float = LOOK_S) -> bool:
        """Wait for ``condition``, looking each ``look_s``; a problem when it does not come."""
        until = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > until:
                self.problems.append(problem)
                return False
            await asyncio.sleep(look_s)
        return True

    async def refuses(self, node: FaultNode, *words: str) -> None:
        """Start ``node``: it has to end by itself with another status than 0, and say one of ``words``."""
        at = len(node.log)
        node.start()
        status = await node.ended()
        said = node.log[at:]
        if not status:
            self.problems.append(f"node {node.node} did not end by itself, though {words[0]!r}")
            node.kill()
        elif status < 0 or not any(each in said for each in words):
            self.problems.append(f"node {node.node} ended with status {status} and said {said[-300:]!r}")

    async def replace(self, node: FaultNode) -> None:
        """Another node with a new id takes the place of one that may not come back: learner, voter; the old one out."""
        cluster, traffic = self.cluster, self.traffic
        others = [each.node for each in cluster.others(node.node)]
        cluster.nodes.pop(node.node)
        cluster.retired.append(node)
        await traffic.leave(node.node)
        new = cluster.add(max(node.node, *others) + 1)
        new.start()
        await self.ask_leader(others, "member_add", new.node)
        await self.ask_leader(others, "member_promote", new.node)
        await self.ask_leader(others, "member_remove", node.node)
        cluster.voters = {*others, new.node}
        await cluster.leader()
        traffic.urls[new.node] = new.url
        await traffic.join(new.node)

    async def ask_leader(self, nodes: list[int], name: str, node: int) -> None:
        """Have the leader do it; again while it cannot yet."""
        until = time.monotonic() + WAIT_S
        error = "no leader"
        while time.monotonic() < until:
            try:
                leader = await self.cluster.leader(*nodes)
                client = await connect(self.cluster.nodes[leader].url, options=ONCE)
                try:
                    await ask(client, name, node=node)
                    return
                finally:
                    await client.close()
            except RelayError as refused:
                error = str(refused)
                if "is a member" in error or "is not a learner" in error or "is not a member" in error:
                    return  # it was done by an attempt whose answer was lost
            await asyncio.sleep(LOOK_S)
        self.problems.append(f"{name} {node}: {error}")
