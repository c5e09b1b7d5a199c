"""A cluster of real nodes as processes of their own, on free loopback ports; blocking, as ``node_process``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from relay.cli.raft_run import Answer, ask
from relay.client.aio import connect
from relay.errors import RelayError
from relay.test.node_process import NodeProcess, free_port

LEADER_S = 60.0


class ClusterProcesses:
    """``nodes`` by id; those up to ``voters`` found the cluster."""

    def __init__(self, voters: int = 3, learners: int = 0) -> None:
        ports = {node: free_port() for node in range(1, voters + learners + 1)}
        peers = [
            {"node": node, "address": f"tcp:127.0.0.1:{port}", "voter": node <= voters} for node, port in ports.items()
        ]
        self.nodes = {node: NodeProcess(self.config(node, port, peers)) for node, port in ports.items()}

    def config(self, node: int, port: int, peers: list[dict[str, Any]]) -> dict[str, Any]:  # Any: JSON
        """One node's own settings."""
        listen = f"tcp:{port}:interface=127.0.0.1"
        cluster = {"name": "test", "node": node, "listen": listen, "peers": peers}
        return {"cluster": cluster | {"secret": "the secret of the tests"}}

    def url(self, node: int) -> str:
        """Where clients reach that node."""
        return self.nodes[node].tcp

    async def status(self, node: int) -> Answer | None:
        """The node's view; None while it cannot be asked."""
        try:
            client = await connect(self.url(node))
            async with client:
                return await ask(client, "status")
        except RelayError:
            return None

    async def leader(self, *among: int) -> int:
        """The node that leads, once all of ``among`` (default: all that run) say the same."""
        deadline = time.monotonic() + LEADER_S
        running = among or tuple(node for node, each in self.nodes.items() if each.process is not None)
        while True:
            found = [await self.status(node) for node in running]
            leaders = {each["leader"] for each in found if each is not None and each["leader"]}
            if None not in found and len(leaders) == 1 and leaders <= set(running):
                return int(leaders.pop())
            if time.monotonic() > deadline:
                raise RuntimeError(f"no leader: {found}\n" + "\n".join(each.log for each in self.nodes.values()))

    def close(self) -> None:
        """Stop all and remove what they left."""
        for each in self.nodes.values():
            each.close()


@contextlib.contextmanager
def cluster(voters: int = 3, learners: int = 0) -> Iterator[ClusterProcesses]:
    """A cluster whose voters run, for the length of a ``with`` block."""
    found = ClusterProcesses(voters, learners)
    try:
        for node in range(1, voters + 1):
            found.nodes[node].start()
        yield found
    finally:
        found.close()
