"""The store in memory: everything completes before the method returns, and is gone when the node stops.

::

    history ─▶ MemoryHistory   realm ─▶ channel ─▶ list of Publications      ╮
    queues ──▶ MemoryQueues    realm ─▶ queue ─▶ number ─▶ Item              ├─ one budget, one clock
    presence ▶ MemoryPresence  realm ─▶ user ─▶ ms                           ╯

``sweep``, once in ``store.trim_interval_s``, removes what is too old or has expired, from a part of the channels and
queues each time. What is over a number or a size goes where something is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import implementer

from relay.config_store import Store
from relay.errors import RelayError
from relay.interfaces import IPresence
from relay.store.budget import Budget
from relay.store.memory_history import MemoryHistory
from relay.store.memory_queues import MemoryQueues


@implementer(IPresence)
class MemoryPresence:
    """When users were last here. Of each realm at most ``users_max``, those seen last."""

    def __init__(self, users_max: int) -> None:
        self._users_max = users_max
        self._realms: dict[str, dict[str, int]] = {}

    def seen(self, batch: Sequence[tuple[str, str, int]]) -> None:
        """As ``IPresence``."""
        for realm, user, at_ms in batch:
            users = self._realms.setdefault(realm, {})
            users[user] = max(at_ms, users.pop(user, 0))  # at the end of the dict: the order is that of leaving
            if len(users) > self._users_max:
                del users[next(iter(users))]

    def last_seen(self, realm: str, user: str, done: Callable[[int | RelayError], None]) -> None:
        """As ``IPresence``."""
        done(self._realms.get(realm, {}).get(user, 0))


class MemoryStore:
    """The three of them. ``now_ms`` gives Unix time in ms, ``random_bytes`` makes the epochs."""

    def __init__(self, options: Store, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        self.budget = Budget(options.memory_bytes_max, options.realm_bytes_max)
        self.history = MemoryHistory(options, self.budget, now_ms, random_bytes)
        self.queues = MemoryQueues(options, self.budget, now_ms)
        self.presence = MemoryPresence(options.users_max)

    def sweep(self) -> None:
        """One step of trimming by age and expiry."""
        self.history.sweep()
        self.queues.sweep()
