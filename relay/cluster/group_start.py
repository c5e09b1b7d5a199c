"""How a group starts from its log and snapshots, and when it refuses to.

==========================================  ==========================================================================
the log                                     what is done
==========================================  ==========================================================================
empty, founding voters given                founded: a restore record at index 1, term 1, with these voters; the same on
                                            all of them, so their logs agree. Who joins later begins with a snapshot,
                                            because nothing before index 1 can be sent
empty, none given                           waits for a leader to send a snapshot
begins at index 1                           the machine is empty, entries are applied from 2 on
begins or goes on at the newest snapshot    the machine is restored from it, entries are applied behind it
ends before the newest snapshot, or has     the snapshot was received, its restore record was not written: written now;
another term there, not committed           the tail is a former leader's, which nobody has committed
begins behind the newest whole snapshot     refused: entries are missing
a committed entry of another term there     refused: it belongs to another log
==========================================  ==========================================================================

The log's membership wins over the configuration file (:func:`audit`): the file says who founds a cluster, later it may
only agree. The record of group :data:`MARKER` ties a log to the directory's identity, so that a log that was removed or
changed for another one is noticed: who forgot a vote must not vote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from relay.cluster.ports import GroupStorage, Stores
from relay.cluster.raft.codec import decode_conf_change
from relay.cluster.raft.errors import StorageError
from relay.cluster.raft.types import (
    ADD_LEARNER_NODE,
    ADD_NODE,
    ENTRY_NORMAL,
    NO_LIMIT,
    REMOVE_NODE,
    ConfState,
    HardState,
    Snapshot,
    as_v2,
)
from relay.cluster.snapshot_taking import ReplicaStorage
from relay.errors import ConfigError
from relay.interfaces import IStateMachine

FOUNDING_INDEX: Final = 1
FOUNDING_TERM: Final = 1
MARKER: Final = 2**32 - 1
"""The group whose only record says whose log this is."""
AUDIT_ENTRIES: Final = 1024
"""Entries looked at together for changes of membership."""


@attrs.frozen
class Start:
    """Where a group goes on."""

    storage: ReplicaStorage
    conf_state: ConfState
    applied: int
    available: Snapshot | None  # the snapshot that was restored


def mark_log(stores: Stores, node: int, incarnation: int, *, used: bool) -> list[Any]:  # Any: writes for the log
    """The writes, none or one, that tie the log to its directory. ``incarnation`` is a number of 128 bits; ``used``:
    the directory says that it had a log. Raises ConfigError when this is not that log."""
    log = stores.log.group(MARKER)
    told = log.initial_state()[1]
    wanted = ConfState((node,), (incarnation >> 64, incarnation & (1 << 64) - 1))
    if told == wanted:
        return []
    if told != ConfState():
        raise ConfigError(f"the log is that of node {told.voters[0]}, or of another data directory of node {node}")
    if used:
        raise ConfigError("the log is empty, and this data directory had one: its node cannot come back under its id")
    return [stores.write(MARKER, snapshot=Snapshot(b"", 0, 0, wanted))]


def prepare(stores: Stores, number: int, founders: Sequence[int]) -> list[Any]:  # Any: writes for the log
    """The writes, none or one, that must be durable before :func:`begin`. Raises ConfigError."""
    log = stores.log.group(number)
    hard_state = log.initial_state()[0]
    first, last = log.first_index(), log.last_index()
    info, damaged = stores.snapshots.newest(number)
    if info is None:
        if damaged and first > FOUNDING_INDEX + 1:
            raise ConfigError(f"group {number}: {damaged[0]}, and no other snapshot is there")
        if first > FOUNDING_INDEX + 1:
            raise ConfigError(f"group {number}: the log begins at {first}, and no snapshot is there")
        if last or hard_state != HardState() or not founders:
            return []
        founded = Snapshot(b"", FOUNDING_INDEX, FOUNDING_TERM, ConfState(tuple(sorted(founders))))
        return [stores.write(number, restore=founded, hard_state=HardState(FOUNDING_TERM, 0, FOUNDING_INDEX))]
    snapshot = info.as_raft()
    if snapshot.index < first - 1:
        why = f" ({damaged[0]})" if damaged else ""
        raise ConfigError(
            f"group {number}: the log begins at {first}, the newest whole snapshot ends at {snapshot.index}{why}"
        )
    replaced = snapshot.index > last or (
        snapshot.index > hard_state.commit and log.term(snapshot.index) != snapshot.term
    )
    if replaced:
        term = max(hard_state.term, snapshot.term)
        vote = hard_state.vote if term == hard_state.term else 0
        return [stores.write(number, restore=snapshot, hard_state=HardState(term, vote, snapshot.index))]
    if log.term(snapshot.index) != snapshot.term:
        raise ConfigError(
            f"group {number}: entry {snapshot.index} of the log has term {log.term(snapshot.index)}, the snapshot "
            f"{snapshot.term}"
        )
    return []


def begin(stores: Stores, number: int, machine: IStateMachine) -> Start:
    """Restore ``machine``. What :func:`prepare` gave is durable. Blocks while it reads the snapshot."""
    log = stores.log.group(number)
    info, _ = stores.snapshots.newest(number)
    if info is None:
        state = log.initial_state()[1]
        return Start(ReplicaStorage(log, state), state, log.first_index() - 1, None)
    snapshot = info.as_raft()
    reader = stores.snapshots.read(stores.find(number, snapshot.index, snapshot.term))
    try:
        machine.restore(iter(reader))
    finally:
        reader.close()
    return Start(ReplicaStorage(log, snapshot.conf_state), snapshot.conf_state, snapshot.index, snapshot)


def audit(number: int, log: GroupStorage, conf_state: ConfState, applied: int, *, file: Iterable[int]) -> None:
    """Compare the voters that the configuration file names with the log's. Raises ConfigError.

    The log's are those of the restored snapshot and all changes behind it, committed or not: the file may agree with
    any of them, since a node that was down does not know what the others did meanwhile.
    """
    wanted = set(file)
    voters = set(conf_state.voters)
    agreed = not wanted or not voters or wanted == voters
    last = log.last_index()
    low = max(applied + 1, log.first_index())
    while low <= last:
        try:
            entries = log.entries(low, min(last, low + AUDIT_ENTRIES) + 1, NO_LIMIT)
        except StorageError as error:
            raise ConfigError(f"group {number}: the log cannot be read: {error}") from None
        for entry in entries:
            if entry.type == ENTRY_NORMAL:
                continue
            for single in as_v2(decode_conf_change(entry)).changes:
                if single.type == ADD_NODE:
                    voters.add(single.node_id)
                elif single.type in (REMOVE_NODE, ADD_LEARNER_NODE):
                    voters.discard(single.node_id)
            agreed = agreed or wanted == voters
        low += len(entries)
    if not agreed:
        raise ConfigError(
            f"cluster.peers: the file names the voters {_listed(wanted)}, the log of group {number} has "
            f"{_listed(voters)}; the log counts: correct the file"
        )


def _listed(nodes: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(nodes))) or "none"
