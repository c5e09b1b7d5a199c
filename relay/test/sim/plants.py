"""Bugs to be planted: each a change of at most three lines of one module, by name.

A simulator that never caught a bug proves nothing. ``python -m relay.test.sim --mutants`` plants each of these alone,
runs the unit tests of its layer, and simulates until the bug is caught or time is up. Those that the unit tests catch
are not counted: they say nothing of the simulator.

=======  ==========================  =================================================================================
layer    modules                     unit tests
=======  ==========================  =================================================================================
core     relay.cluster.raft          ``test_raft_*`` and those of the next two
groups   relay.cluster               ``test_groups``, ``test_group_changes``, ``test_group_start`` and those of the next
kv       relay.cluster.kv, keyvalue  ``test_kv``, ``test_kv_model``, ``test_kv_groups`` and those of the groups
store    relay.store                 ``test_wal``, ``test_wal_crash``, ``test_wal_groups``, ``test_snapshots`` and both
=======  ==========================  =================================================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

LINES_MAX: Final = 3

_CORE: Final = (
    "test_raft_log",
    "test_raft_quorum",
    "test_raft_rules",
    "test_raft_reads",
    "test_raft_paper",
    "test_raft_paper_safety",
    "test_raft_thesis",
    "test_raft_codec",
    "test_raft_scenarios",
)
_GROUPS: Final = ("test_groups", "test_group_changes", "test_group_start")
_KV: Final = ("test_kv", "test_kv_model", "test_kv_groups")
_STORE: Final = ("test_snapshots", "test_wal_groups", "test_wal", "test_wal_crash")
UNIT_TESTS: Final = {
    "core": (*_CORE, *_GROUPS, *_KV),
    "groups": (*_GROUPS, *_KV),
    "kv": (*_KV, *_GROUPS),
    "store": (*_STORE, *_GROUPS, *_KV),
}
"""By layer."""


@dataclass(frozen=True)
class Plant:
    """``old`` stands once in the source of ``module``; ``new`` takes its place."""

    name: str
    layer: str
    module: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The source with the bug. Raises ValueError when it does not fit."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: its text stands {source.count(self.old)} times in {self.module}")
        return source.replace(self.old, self.new)

    def lines(self) -> int:
        """How many lines are other ones."""
        old, new = self.old.splitlines(), self.new.splitlines()
        return max(sum(line not in new for line in old), sum(line not in old for line in new))

    def fingerprint(self, source: str) -> str:
        """Of the module with the bug: verdicts hold as long as it is the same."""
        return hashlib.sha256(self.apply(source).encode()).hexdigest()[:16]


def _all() -> dict[str, Plant]:
    from relay.test.sim import (
        plants_core,
        plants_groups,
        plants_kv,
        plants_more_groups,
        plants_more_kv,
        plants_more_starts,
        plants_rare,
        plants_replication,
        plants_snapshots,
        plants_store,
    )

    found: dict[str, Plant] = {}
    for layer, prefix, plants in (
        ("core", "relay.cluster.raft", plants_core.PLANTS),
        ("core", "relay.cluster.raft", plants_replication.PLANTS),
        ("groups", "relay.cluster", plants_groups.PLANTS),
        ("groups", "relay.cluster", plants_snapshots.PLANTS),
        ("kv", "relay.cluster", plants_kv.PLANTS),
        ("store", "relay.store", plants_store.PLANTS),
        ("groups", "relay.cluster", plants_more_groups.PLANTS),
        ("groups", "relay.cluster", plants_more_starts.GROUPS),
        ("store", "relay.store", plants_more_starts.STORE),
        ("kv", "relay.cluster", plants_more_kv.KV),
        ("core", "relay.cluster.raft", plants_more_kv.CORE),
        ("groups", "relay.cluster", plants_rare.GROUPS),
        ("core", "relay.cluster.raft", plants_rare.CORE),
        ("store", "relay.store", plants_rare.STORE),
    ):
        for name, module, old, new in plants:
            assert name not in found, name
            found[name] = Plant(name, layer, f"{prefix}.{module}", old, new)
    return found


PLANTS: Final = _all()
