"""Bugs for the snapshots of groups, and for how a node starts: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        "emptied-node-comes-back",
        "identity",
        "        if known is not None and known != incarnation:\n",
        "        if known is not None and known < incarnation < known:\n",
    ),
    (
        "snapshot-labelled-later",
        "snapshot_taking",
        "        index = replica.applier.index\n",
        "        index = raft.log.committed\n",
    ),
    (
        "snapshot-labelled-earlier",
        "snapshot_taking",
        "        index = replica.applier.index\n",
        "        index = max(1, replica.applier.index - 1)\n",
    ),
    (
        "snapshot-content-later",
        "snapshot_taking",
        "        chunks = _cut(replica.machine.snapshot(), "
        "self._host.options.snapshot_chunk_bytes)\n",
        "        later = (each for _ in (0,) for each in replica.machine.snapshot())\n"
        "        chunks = _cut(later, self._host.options.snapshot_chunk_bytes)\n",
    ),
    (
        "snapshot-with-newest-members",
        "snapshot_taking",
        "            if known.issuperset(members):\n",
        "            if True:\n",
    ),
    (
        "snapshot-of-old-members",
        "snapshot_taking",
        "        term, state = raft.log.term(index), raft.configuration.conf_state()\n",
        "        term, state = raft.log.term(index), self.available.conf_state if self.available "
        "else raft.configuration.conf_state()\n",
    ),
    (
        "snapshot-of-newest-term",
        "snapshot_taking",
        "        term, state = raft.log.term(index), raft.configuration.conf_state()\n",
        "        term, state = raft.term, raft.configuration.conf_state()\n",
    ),
    (
        "snapshot-cut-loses-a-piece",
        "snapshot_taking",
        "            for at in range(0, len(chunk), size):\n",
        "            for at in range(0, len(chunk) - 1, size + (len(chunk) > 4 * size)):\n",
    ),
    (
        "chunks-in-any-order",
        "snapshot_receiving",
        "        if frame.number != receiving.expected:\n",
        "        if frame.number < receiving.expected:\n",
    ),
    (
        "chunks-of-any-snapshot",
        "snapshot_receiving",
        "        if (frame.index, frame.term) != (snapshot.index, snapshot.term):\n"
        "            return\n"
        "        if frame.number",
        "        if frame.number",
    ),
    (
        "received-snapshot-is-not-committed",
        "snapshot_receiving",
        "            receiving.writer.commit()\n"
        "            reader",
        "            receiving.writer._store.files.rename(receiving.writer._temporary, "
        "receiving.writer._path)\n"
        "            reader",
    ),
    (
        "sending-is-never-given-up",
        "group_snapshots",
        "        if self.sending.busy:\n",
        "        if False:\n",
    ),
    (
        "sending-failed-is-not-told",
        "snapshot_sending",
        "        self._stop_sending(sending.node)\n"
        "        self._report(sending.node, failed=True)\n",
        "        self._stop_sending(sending.node)\n",
    ),
    (
        "restore-record-is-not-written",
        "group_start",
        "    if replaced:\n",
        "    if False:\n",
    ),
    (
        "restore-record-forgets-term",
        "group_start",
        "        term = max(hard_state.term, snapshot.term)\n",
        "        term = snapshot.term\n",
    ),
    (
        "start-applies-from-the-log",
        "group_start",
        "    return Start(ReplicaStorage(log, snapshot.conf_state), snapshot.conf_state, "
        "snapshot.index, snapshot)\n",
        "    return Start(ReplicaStorage(log, snapshot.conf_state), snapshot.conf_state, "
        "log.first_index() - 1, snapshot)\n",
    ),
    (
        "start-with-founders-members",
        "group_start",
        "    return Start(ReplicaStorage(log, snapshot.conf_state), snapshot.conf_state, "
        "snapshot.index, snapshot)\n",
        "    state = ConfState(snapshot.conf_state.voters[:3])\n"
        "    return Start(ReplicaStorage(log, state), state, snapshot.index, snapshot)\n",
    ),
    (
        "restore-record-forgets-commit",
        "group_start",
        "HardState(term, vote, snapshot.index))]\n"
        "    if log",
        "HardState(term, vote, 0))]\n"
        "    if log",
    ),
)
