"""Committed entries to the state machine, and their results to whoever proposed them here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relay.cluster.raft.codec import decode_conf_change
from relay.cluster.raft.rawnode import RawNode
from relay.cluster.raft.types import ENTRY_NORMAL, Entry, Snapshot
from relay.cluster.requests import Changes, Proposals, Reads
from relay.errors import InternalError
from relay.interfaces import IStateMachine


class Applier:
    """One group's. ``index`` is what the machine shows; ``bytes_since`` counts payload since a snapshot was begun."""

    __slots__ = ("_changes", "_machine", "_proposals", "_raw", "_reads", "bytes_since", "index")

    def __init__(
        self, machine: IStateMachine, index: int, raw: RawNode, proposals: Proposals, reads: Reads, changes: Changes
    ) -> None:
        self.index = index
        self.bytes_since = 0
        self._machine = machine
        self._raw = raw
        self._proposals = proposals
        self._reads = reads
        self._changes = changes

    def apply(self, entries: tuple[Entry, ...]) -> None:
        """The next entries. Whatever the machine raises is the end of the node."""
        for entry in entries:
            if not entry.data or entry.type != ENTRY_NORMAL:
                self._apply_mixed(entries)
                break
        else:  # fast path: commands only
            self._proposals.applied(entries, self._commands(entries))
        self.index = entries[-1].index
        self.bytes_since += sum([len(entry.data) for entry in entries])
        if self._reads.count:
            self._reads.applied(self.index)

    def restore(self, snapshot: Snapshot, chunks: Iterable[bytes]) -> None:
        """The core took a snapshot over: so does the machine."""
        self._machine.restore(chunks)
        self.index = snapshot.index
        self.bytes_since = 0
        self._proposals.skipped(snapshot.index)
        self._changes.skipped()
        self._reads.applied(snapshot.index)

    def _commands(self, entries: Sequence[Entry]) -> Sequence[object]:
        results = self._machine.apply(entries)
        if len(results) != len(entries):
            raise InternalError(f"a state machine gave {len(results)} results for {len(entries)} entries")
        return results

    def _apply_mixed(self, entries: tuple[Entry, ...]) -> None:
        """Elections' empty entries or changes of membership among them: in order, each run of commands at once."""
        results: list[object] = []
        run: list[Entry] = []
        for entry in entries:
            if entry.data and entry.type == ENTRY_NORMAL:
                run.append(entry)
                continue
            if run:
                results += self._commands(run)
                run = []
            members = None
            if entry.type != ENTRY_NORMAL:
                members = self._raw.apply_conf_change(decode_conf_change(entry))
            results.append(members)
            if len(self._changes):
                self._changes.applied(entry, members)
        if run:
            results += self._commands(run)
        self._proposals.applied(entries, results)
