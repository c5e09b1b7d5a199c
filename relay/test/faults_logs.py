"""The logs of nodes, entry by entry: log matching (Raft, 5.3) says that what two of them have committed is the same."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Final

from relay.store.files import OsFiles
from relay.store.wal_format import Kind, Record
from relay.store.wal_recovery import scan
from relay.store.wal_segment import Segment

GROUP: Final = 1
ENTRIES: Final = (Kind.ENTRY, Kind.ENTRY_CONF_CHANGE, Kind.ENTRY_CONF_CHANGE_V2)
COPIES: Final = (Kind.COPY, Kind.COPY_CONF_CHANGE, Kind.COPY_CONF_CHANGE_V2)


class LogContent:
    """What a log holds of the group: term and checksum by index, and how far it is known to be committed."""

    def __init__(self, directory: Path) -> None:
        self.entries: dict[int, tuple[int, int]] = {}
        self.committed = 0
        found = scan(OsFiles(), str(directory), self._visit, repair=False)
        for segment in found.segments + found.spares:
            segment.file.close()

    def _visit(self, _: Segment, record: Record) -> None:
        if record.group != GROUP:
            return
        entries = self.entries
        if record.kind in ENTRIES:
            at = record.index
            while at in entries:  # what stood there and behind it was replaced
                del entries[at]
                at += 1
            entries[record.index] = (record.term, zlib.crc32(record.payload))
        elif record.kind in COPIES:
            entries.setdefault(record.index, (record.term, zlib.crc32(record.payload)))
        elif record.kind == Kind.HARD_STATE:
            self.committed = max(self.committed, record.index)
        elif record.kind == Kind.RESTORE:
            entries.clear()
            self.committed = max(self.committed, record.index)


def log_differences(directories: Mapping[int, Path]) -> list[str]:
    """Where logs contradict one another."""
    logs = {node: LogContent(directory) for node, directory in directories.items()}
    found = []
    for (one, first), (other, second) in combinations(logs.items(), 2):
        committed = min(first.committed, second.committed)
        both = sorted(index for index in first.entries.keys() & second.entries.keys() if index <= committed)
        different = [index for index in both if first.entries[index] != second.entries[index]]
        if different:
            found.append(f"the logs of nodes {one} and {other} differ at {different[:5]}, all committed")
        # The same index and term mean the same entry, committed or not: otherwise two led in that term.
        for index in first.entries.keys() & second.entries.keys():
            (term, content), (other_term, other_content) = first.entries[index], second.entries[index]
            if term == other_term and content != other_content:
                found.append(f"term {term} had two leaders: the logs of {one} and {other} differ at {index}")
                break
    return found
