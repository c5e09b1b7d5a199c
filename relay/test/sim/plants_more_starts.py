"""More bugs for snapshots, for how a node starts, and for the log: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

GROUPS: Final = (
    (
        # Those of members that came later are not.
        "incarnations-of-founders-are-remembered",
        "identity",
        "        known = self.known.get(node)\n"
        "        if known is not None and",
        "        known = self.known.get(node) if node in self.founders or not self.founders else "
        "None\n"
        "        if known is not None and",
    ),
    (
        "snapshot-is-compacted-to-what-is-applied",
        "snapshot_taking",
        "            write = self._stores.write(number, snapshot=snapshot, compact=oldest)\n",
        "            write = self._stores.write(number, snapshot=snapshot, "
        "compact=self._replica.applier.index)\n",
    ),
)

STORE: Final = (
    (
        # Whose log it is stands in no segment that is begun in a second life.
        "marker-is-lost-in-a-second-life",
        "wal_writer",
        "            head = _Head(hard_state, snapshot if snapshot.index or snapshot.conf_state != "
        "ConfState() else None)\n",
        "            head = _Head(hard_state, snapshot if snapshot.index else None)\n",
    ),
    (
        "marker-is-lost-with-its-segment",
        "wal_writer",
        "            if head.snapshot is not None:\n"
        "                offset = self._put_snapshot(out, offset, Kind.SNAPSHOT, group, "
        "head.snapshot)\n",
        "            if head.snapshot is not None and head.snapshot.index:\n"
        "                offset = self._put_snapshot(out, offset, Kind.SNAPSHOT, group, "
        "head.snapshot)\n",
    ),
)
