"""Idempotency keys in memory: what was stored under a key, until its window has passed or too many came after it."""

from __future__ import annotations

from collections import deque


class KeyMemory:
    """Keys of all channels or queues of a store; ``owner`` is the number of the channel or queue."""

    __slots__ = ("_found", "_keys_max", "_order")

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._found: dict[tuple[int, str], tuple[int, int]] = {}
        # In the order of coming; an entry whose time differs from that in the dict was replaced since.
        self._order: deque[tuple[int, str, int]] = deque()

    def __len__(self) -> int:
        return len(self._found)

    def find(self, owner: int, key: str, now_ms: int) -> int:
        """What was stored under ``key``, an offset or number; 0 when nothing was, or its window has passed."""
        place, until_ms = self._found.get((owner, key), (0, 0))
        return place if until_ms > now_ms else 0

    def add(self, owner: int, key: str, place: int, until_ms: int) -> None:
        """Remember ``place`` under ``key``. The oldest key is forgotten when there are too many."""
        self._found[owner, key] = place, until_ms
        self._order.append((owner, key, until_ms))
        while len(self._order) > self._keys_max:
            self._forget_oldest()

    def sweep(self, now_ms: int, keys_max: int) -> None:
        """Forget keys whose window has passed, the oldest first, at most ``keys_max``; one with a longer window
        holds those behind it until it goes or the limit is reached."""
        order = self._order
        for _ in range(keys_max):
            if not order or order[0][2] > now_ms:
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        owner, key, until_ms = self._order.popleft()
        found = self._found.get((owner, key))
        if found is not None and found[1] == until_ms:
            del self._found[owner, key]
