"""Leases: keys that go when nobody renews them, by time that the leader proposes.

    grant, keep ─▶ unset ──time(now)──▶ deadline = now + ttl ──time(now >= deadline)──▶ ended, its keys deleted

No node compares a lease with its own clock. A grant or renewal carries no time, because who proposes it need not be the
leader; the leader sees a lease without deadline and proposes its time soon. So a lease lasts at least its ``ttl`` from
when it was granted or renewed, and longer by what a change of leader takes. While there is no lease, no time is
proposed and an idle group stays quiet.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final

DEADLINES_PER_LEASE: Final = 8
"""Deadlines that have been moved are swept out when there are more of them than this."""


class Lease:
    """``deadline_ms``: None until the next time; ``keys``: those that go with it."""

    __slots__ = ("deadline_ms", "id", "keys", "ttl_ms")

    def __init__(self, id_: int, ttl_ms: int, deadline_ms: int | None = None, keys: Iterable[str] = ()) -> None:
        self.id = id_
        self.ttl_ms = ttl_ms
        self.deadline_ms = deadline_ms
        self.keys = set(keys)


class Leases:
    """``time_ms``: the latest that was proposed; it counts from the group's beginning, not from any epoch."""

    def __init__(self, time_ms: int = 0, leases: Iterable[Lease] = ()) -> None:
        self.time_ms = time_ms
        self._leases = {lease.id: lease for lease in leases}
        self._unset = {lease.id for lease in self._leases.values() if lease.deadline_ms is None}
        # Deadlines, and those that have since been moved: what is found there is compared with the lease.
        self._deadlines = [
            (lease.deadline_ms, lease.id) for lease in self._leases.values() if lease.deadline_ms is not None
        ]
        heapify(self._deadlines)

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, lease: int) -> Lease | None:
        """The lease with that id."""
        return self._leases.get(lease)

    def all(self) -> list[Lease]:
        """By id."""
        return [self._leases[each] for each in sorted(self._leases)]

    def grant(self, lease: int, ttl_ms: int) -> None:
        """A new one."""
        assert lease not in self._leases
        self._leases[lease] = Lease(lease, ttl_ms)
        self._unset.add(lease)

    def keep(self, lease: int) -> bool:
        """Renew; False when it does not exist."""
        found = self._leases.get(lease)
        if found is None:
            return False
        found.deadline_ms = None
        self._unset.add(lease)
        return True

    def end(self, lease: int) -> list[str]:
        """Remove it; its keys, sorted."""
        found = self._leases.pop(lease)
        self._unset.discard(lease)
        return sorted(found.keys)

    def attach(self, key: str, lease: int, before: int) -> None:
        """``key`` goes with ``lease`` and no longer with ``before`` (0: none)."""
        if before != lease:
            self.detach(key, before)
        if lease:
            self._leases[lease].keys.add(key)

    def detach(self, key: str, lease: int) -> None:
        """``key`` is gone, or goes with another lease."""
        found = self._leases.get(lease)
        if found is not None:
            found.keys.discard(key)

    def advance(self, now_ms: int) -> list[int]:
        """The time is ``now_ms``; the ids of leases whose time is over, sorted. They still exist."""
        self.time_ms = max(self.time_ms, now_ms)
        if len(self._deadlines) > DEADLINES_PER_LEASE * len(self._leases):
            self._deadlines = [
                (each.deadline_ms, each.id) for each in self._leases.values() if each.deadline_ms is not None
            ]
            heapify(self._deadlines)
        for lease in self._unset:
            found = self._leases[lease]
            found.deadline_ms = self.time_ms + found.ttl_ms
            heappush(self._deadlines, (found.deadline_ms, lease))
        self._unset.clear()
        over = set()
        while self._deadlines and self._deadlines[0][0] <= self.time_ms:
            deadline_ms, lease = heappop(self._deadlines)
            moved = self._leases.get(lease)
            if moved is not None and moved.deadline_ms == deadline_ms:
                over.add(lease)
        return sorted(over)

    def wants_time(self, now_ms: int) -> bool:
        """Whether a leader whose time is ``now_ms`` should propose it: a lease has no deadline, or is over."""
        if self._unset:
            return True
        while self._deadlines:
            deadline_ms, lease = self._deadlines[0]
            found = self._leases.get(lease)
            if found is not None and found.deadline_ms == deadline_ms:
                return deadline_ms <= now_ms
            heappop(self._deadlines)
        return False
