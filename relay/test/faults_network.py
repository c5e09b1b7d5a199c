"""Network namespaces for the nodes of a cluster, joined by a bridge in one more; and what goes wrong between them.

::

    node 1 ─ eth0 198.18.0.1 ─┐
    node 2 ─ eth0 198.18.0.2 ─┼─ bridge, in a namespace of its own: nothing of it touches the machine's network
    node 3 ─ eth0 198.18.0.3 ─┘

198.18.0.0/15 is the block for measurements between devices (RFC 2544). Packets are dropped by nftables where they
arrive, so that a way may be cut while the way back stands.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

NETWORK: Final = "198.18.0"
TOOLS: Final = ("ip", "nft", "nsenter")
NODES_MAX: Final = 250
"""Addresses of the network."""
_count = itertools.count()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")


def missing() -> str:
    """Why there can be no namespaces here; '' if there can."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    try:
        probe = Network()
    except OSError as error:
        return str(error)
    try:
        probe.add(1)
        probe.lose(1, 1)
    except OSError as error:
        return str(error)
    finally:
        probe.close()
    return ""


class Network:
    """See the module. Raises OSError when the kernel does not let us."""

    def __init__(self) -> None:
        self._name = f"relay-{os.getpid()}-{next(_count)}"
        self._switch = f"{self._name}-switch"
        self._spaces: dict[int, str] = {}
        _run("ip", "netns", "add", self._switch)
        try:
            _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        except OSError:
            self.close()
            raise

    def add(self, node: int) -> None:
        """Make the namespace of ``node``."""
        assert 0 < node <= NODES_MAX
        space, switch, port = f"{self._name}-n{node}", self._switch, f"n{node}"
        _run("ip", "netns", "add", space)
        self._spaces[node] = space
        _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
        _run("ip", "-n", space, "address", "add", f"{NETWORK}.{node}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        self._nft(node, "add table inet faults")
        self._nft(node, "add chain inet faults arriving { type filter hook input priority 0 ; }")

    def address(self, node: int) -> str:
        """Where the others reach ``node``."""
        return f"{NETWORK}.{node}"

    def inside(self, node: int, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` in the namespace; the process keeps its id."""
        return ["nsenter", f"--net=/run/netns/{self._spaces[node]}", *argv]

    def cut(self, at: int, source: int) -> None:
        """``at`` gets nothing from ``source`` any more."""
        self._nft(at, f"add rule inet faults arriving ip saddr {self.address(source)} drop")

    def lose(self, at: int, percent: int) -> None:
        """``at`` loses so many of the packets that arrive, at random."""
        self._nft(at, f"add rule inet faults arriving iifname eth0 numgen random mod 100 < {percent} drop")

    def mend(self) -> None:
        """All is well again."""
        for node in self._spaces:
            self._nft(node, "flush chain inet faults arriving")

    def close(self) -> None:
        """Remove all namespaces; who is still in one keeps it until it ends."""
        for space in (*self._spaces.values(), self._switch):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
        self._spaces.clear()

    def _nft(self, node: int, rule: str) -> None:
        _run("ip", "netns", "exec", self._spaces[node], "nft", rule)
