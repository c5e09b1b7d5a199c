"""More bugs for the key-value state, its users and its time, and for the core: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

KV: Final = (
    (
        "limits-lost-in-snapshot",
        "kv.snapshot",
        "        state.limits = self.head.limits\n",
        "",
    ),
    (
        # Of a node whose writes wait long.
        "snapshot-keeps-the-newest-results",
        "kv.snapshot",
        "[_Session(each.id, each.used, each.floor, sorted(each.results.items())) for each in "
        "state.sessions.all()]",
        "[_Session(each.id, each.used, each.floor, sorted(each.results.items())[-8:]) for each in "
        "state.sessions.all()]",
    ),
    (
        "snapshot-keeps-the-newest-sessions",
        "kv.snapshot",
        "[_Session(each.id, each.used, each.floor, sorted(each.results.items())) for each in "
        "state.sessions.all()]",
        "[_Session(each.id, each.used, each.floor, sorted(each.results.items())) for each in "
        "state.sessions.all()[-16:]]",
    ),
    (
        "results-of-nodes-lost-in-snapshot",
        "kv.snapshot",
        "sorted(each.results.items())) for each in state.sessions.all()]",
        "sorted(each.results.items()) if each.id > 0 else []) for each in state.sessions.all()]",
    ),
    (
        "failed-results-lost-in-snapshot",
        "kv.snapshot",
        "sorted(each.results.items())) for each in state.sessions.all()]",
        "[(k, v) for k, v in sorted(each.results.items()) if v.succeeded]) for each in "
        "state.sessions.all()]",
    ),
    (
        # The clocks of two nodes were begun at different times.
        "time-of-a-new-leader-is-its-own",
        "timekeeper",
        "            self._ahead_ms = self._machine.state.leases.time_ms - self._clock.seconds() "
        "* 1000\n",
        "",
    ),
    (
        "time-of-a-leader-is-never-behind",
        "timekeeper",
        "            self._ahead_ms = self._machine.state.leases.time_ms - self._clock.seconds() "
        "* 1000\n",
        "            self._ahead_ms = max(0.0, self._machine.state.leases.time_ms - "
        "self._clock.seconds() * 1000)\n",
    ),
    (
        "time-of-a-former-leadership-goes-on",
        "timekeeper",
        "            self._ahead_ms = self._machine.state.leases.time_ms - self._clock.seconds() "
        "* 1000\n",
        "            ahead_ms = self._machine.state.leases.time_ms - self._clock.seconds() * 1000\n"
        "            self._ahead_ms = max(self._ahead_ms, ahead_ms) if self._ahead_ms else "
        "ahead_ms\n",
    ),
    (
        "restored-deadlines-are-no-heap",
        "kv.leases",
        "            (lease.deadline_ms, lease.id) for lease in self._leases.values() if "
        "lease.deadline_ms is not None\n"
        "        ]\n"
        "        heapify(self._deadlines)\n",
        "            (lease.deadline_ms, lease.id) for lease in self._leases.values() if "
        "lease.deadline_ms is not None\n"
        "        ]\n",
    ),
    (
        "barrier-is-left-out-while-writes-are-under-way",
        "keyvalue",
        "        self.group.read_index(done)\n",
        "        done(None, None) if self._writes else self.group.read_index(done)\n",
    ),
    (
        "barrier-is-left-out-on-the-leader",
        "keyvalue",
        "        self.group.read_index(done)\n",
        "        done(None, None) if self.group.leading else self.group.read_index(done)\n",
    ),
)

CORE: Final = (
    (
        "read-at-what-is-known-here",
        "follower",
        "    r.read_states.append(ReadState(m.index, m.entries[0].data))\n",
        "    r.read_states.append(ReadState(min(m.index, r.log.committed), m.entries[0].data))\n",
    ),
)
