"""Who a data directory is: the file that makes a node the same one after a restart, and another one after its disk was
emptied.

``identity.json`` in the cluster's directory::

    {"version": 1, "cluster": "…", "node": 3, "incarnation": "32 hexadecimal digits",
     "founders": [1, 2, 3], "used": true, "known": {"1": "…", "2": "…"}}

==============  ======================================================================================================
incarnation     random, made with the directory; said in every handshake
known           the incarnation of every node met, kept for ever: whoever comes back under its id with another one has
                lost its disk, and with it votes and acknowledgements, and is refused
used            the node's log was begun: if it is empty now, it was removed
founders        the voters that founded the cluster; known when that is done, or when the node has joined
==============  ======================================================================================================

The names of all directories that lead to it are synced before the file is first written: what is in a directory whose
own name is lost with the power is lost, too.

**Founding.** A voter of the configuration file with an empty directory takes part in nothing until it has shaken hands
with all other voters of the file. So if it is an emptied one, somebody who knew it refuses it; if they all are new,
each remembers all others from now on, and the cluster begins.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import attrs

from relay.errors import ConfigError

FILE: Final = "identity.json"
VERSION: Final = 1
INCARNATION_BYTES: Final = 16
KNOWN_MAX: Final = 256
"""Nodes ever met. A cluster has a few; ids of emptied disks are not used again."""


@attrs.define
class Identity:
    """See the module. ``meet`` and ``found`` write the file before they return."""

    path: Path
    cluster: str
    node: int
    incarnation: bytes
    founders: tuple[int, ...] = ()
    used: bool = False
    known: dict[int, bytes] = attrs.field(factory=dict)

    @property
    def number(self) -> int:
        """The incarnation as a number of 128 bits."""
        return int.from_bytes(self.incarnation, "big")

    def refusal(self, node: int, incarnation: bytes) -> str:
        """Why a node that says this of itself is not let in, or ''."""
        known = self.known.get(node)
        if known is not None and known != incarnation:
            before, now = known.hex()[:8], incarnation.hex()[:8]
            return (
                f"node {node} came back with another data directory ({now}…, known {before}…): remove it from the "
                "cluster, and add it as a learner under a new id"
            )
        if known is None and len(self.known) >= KNOWN_MAX:
            return f"node {node} is new, and {KNOWN_MAX} nodes are known"
        return ""

    def meet(self, node: int, incarnation: bytes) -> None:
        """A node shook hands: remember it."""
        if self.known.get(node) != incarnation:
            self.known[node] = incarnation
            self.save()

    def found(self, founders: Iterable[int]) -> None:
        """The cluster begins, as all ``founders`` know one another, or this node joins theirs."""
        self.founders = tuple(sorted(founders))
        self.save()

    def use(self) -> None:
        """The log begins."""
        if not self.used:
            self.used = True
            self.save()

    def save(self) -> None:
        """Write the file, durably. Raises OSError."""
        content = {
            "version": VERSION,
            "cluster": self.cluster,
            "node": self.node,
            "incarnation": self.incarnation.hex(),
            "founders": list(self.founders),
            "used": self.used,
            "known": {str(node): known.hex() for node, known in sorted(self.known.items())},
        }
        beside = self.path.with_suffix(".new")
        with beside.open("w", encoding="utf-8") as out:
            out.write(json.dumps(content, indent=1) + "\n")
            out.flush()
            os.fsync(out.fileno())
        beside.rename(self.path)
        _sync_directory(self.path.parent)


def load_identity(directory: Path, cluster: str, node: int, random_bytes: Callable[[int], bytes]) -> Identity:
    """The identity of ``directory``, made when it is new. Raises ConfigError when the file says that it is
    another's."""
    path = directory / FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _sync_names(directory)
            made = Identity(path, cluster, node, random_bytes(INCARNATION_BYTES))
            made.save()
            return made
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    found = _parsed(path, content)
    if found.cluster != cluster:
        raise ConfigError(f"cluster.name: {directory} belongs to cluster {found.cluster!r}, the file says {cluster!r}")
    if found.node != node:
        raise ConfigError(f"cluster.node: {directory} belongs to node {found.node}, the file says {node}")
    return found


def _sync_names(directory: Path) -> None:
    """Make the names of ``directory`` and of all above it on its file system durable, whoever made them."""
    directory = directory.resolve()
    for path in (directory, *directory.parents):
        if path.is_mount():
            return
        with contextlib.suppress(PermissionError):  # it may not be read: somebody else made what is in it
            _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _parsed(path: Path, content: Any) -> Identity:  # Any: JSON
    try:
        if content["version"] != VERSION:
            raise ConfigError(f"{path}: version {content['version']}, this relay reads {VERSION}")
        return Identity(
            path,
            str(content["cluster"]),
            int(content["node"]),
            bytes.fromhex(content["incarnation"]),
            tuple(int(each) for each in content["founders"]),
            bool(content["used"]),
            {int(each): bytes.fromhex(known) for each, known in content["known"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: no identity of a node: {error}") from None
