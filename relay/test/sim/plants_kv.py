"""Bugs for the key-value state and for those who use it: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        "dedup-lost-in-snapshot",
        "kv.snapshot",
        "[_Session(each.id, each.used, each.floor, sorted(each.results.items())) for each in "
        "state.sessions.all()]",
        "[_Session(each.id, each.used, each.floor, []) for each in state.sessions.all()]",
    ),
    (
        "dedup-floor-lost-in-snapshot",
        "kv.snapshot",
        "[_Session(each.id, each.used, each.floor, sorted(each.results.items())) for each in "
        "state.sessions.all()]",
        "[_Session(each.id, each.used, 0, sorted(each.results.items())) for each in "
        "state.sessions.all()]",
    ),
    (
        "dedup-late-in-snapshot",
        "kv.snapshot",
        "    sessions = [_Session(each.id, each.used, each.floor, sorted(each.results.items())) "
        "for each in state.sessions.all()]\n",
        "    sessions: Any = (_Session(each.id, each.used, each.floor, "
        "sorted(each.results.items()))\n"
        "                     for each in state.sessions.all())\n",
    ),
    (
        "dedup-of-newest-only",
        "kv.sessions",
        "        session.results[seq] = result\n",
        "        session.results = {seq: result}\n",
    ),
    (
        "dedup-keeps-only-last-acknowledged",
        "kv.sessions",
        "        session.floor = ack\n",
        "        session.floor = ack + 1\n",
    ),
    (
        "session-use-is-not-kept",
        "kv.sessions",
        "            found.used = index\n",
        "",
    ),
    (
        "session-order-after-restore",
        "kv.sessions",
        "key=lambda session: (session.used, session.id)",
        "key=lambda session: session.id",
    ),
    (
        "retry-under-another-number",
        "keyvalue",
        "                    return await self._propose(encode(Command(operation, client, seq, "
        "ack()))), unknown\n",
        "                    return await self._propose(encode(Command(operation, client, seq + "
        "unknown * 5000, ack()))), unknown\n",
    ),
    (
        "retry-without-number",
        "keyvalue",
        "                    return await self._propose(encode(Command(operation, client, seq, "
        "ack()))), unknown\n",
        "                    return await self._propose(encode(Command(operation, 0 if unknown "
        "else client, seq, ack()))), unknown\n",
    ),
    (
        "unknown-is-forgotten",
        "keyvalue",
        '                    unknown = unknown or error.outcome == "unknown"\n',
        '                    unknown = error.outcome == "unknown"\n',
    ),
    (
        "unknown-ends-as-not-done",
        "keyvalue",
        '                        if unknown and error.outcome != "unknown":\n',
        "                        if False:\n",
    ),
    (
        "ended-session-repeats",
        "keyvalue",
        "            if repeated:\n",
        "            if False:\n",
    ),
    (
        "read-without-barrier",
        "keyvalue",
        "        self.group.read_index(done)\n",
        "        done(None, None)\n",
    ),
    (
        "lease-deadline-lost-in-snapshot",
        "kv.leases",
        "        self._unset = {lease.id for lease in self._leases.values() if lease.deadline_ms "
        "is None}\n",
        "        self._unset = set()\n",
    ),
    (
        "lease-time-lost-in-snapshot",
        "kv.snapshot",
        "            self.head.time_ms,\n"
        "            [Lease(",
        "            0,\n"
        "            [Lease(",
    ),
    (
        "lease-keys-lost-in-snapshot",
        "kv.snapshot",
        "            if pair.lease:\n"
        "                keys",
        "            if not pair.lease:\n"
        "                keys",
    ),
    (
        "lease-by-own-clock",
        "kv.leases",
        "            found.deadline_ms = self.time_ms + found.ttl_ms\n",
        "            found.deadline_ms = now_ms + found.ttl_ms + id(self) % 97\n",
    ),
    (
        "history-lost-in-snapshot",
        "kv.snapshot",
        "History(self.head.compacted, self.events)",
        "History(self.head.compacted, self.events[1:])",
    ),
    (
        "history-forgets-where-it-begins",
        "kv.snapshot",
        "History(self.head.compacted, self.events)",
        "History(0, self.events)",
    ),
    (
        "revision-of-snapshot",
        "kv.keyspace",
        "        self.revision = revision\n"
        "        self.history = history\n",
        "        self.revision = max(revision - 1, pairs[-1].mod_revision if pairs else 0)\n"
        "        self.history = history\n",
    ),
    (
        "version-of-replaced",
        "kv.keyspace",
        "before.version + 1, lease)",
        "before.version + (revision % 64 > 0), lease)",
    ),
    (
        "compare-with-empty",
        "kv.transactions",
        "            found = None if pair is None else pair.value\n",
        '            found = b"" if pair is None else pair.value\n',
    ),
    (
        "history-goes-on-in-snapshot",
        "kv.history",
        "        return self._events[self._first :]\n",
        "        return self._events[self._first :] if self._first else self._events\n",
    ),
)
