"""All that the machine keeps, and the two changes of keys that leases have to know of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from relay.cluster.kv.commands import ErrorLabel, Limits
from relay.cluster.kv.keyspace import KeySpace
from relay.cluster.kv.leases import Leases
from relay.cluster.kv.sessions import Sessions

RESERVED: Final = "$"
"""What the keys begin with that only the state itself writes."""


class Refused(Exception):
    """A command that cannot be done, raised before anything has changed."""

    def __init__(self, label: ErrorLabel, text: str) -> None:
        super().__init__(text)
        self.label = label
        self.text = text


class State:
    """Replaced as a whole by a snapshot."""

    def __init__(self) -> None:
        self.keys = KeySpace()
        self.leases = Leases()
        self.sessions = Sessions()
        self.limits = Limits()

    def put(self, key: str, value: bytes, lease: int) -> int:
        """Set a key; the revision at which it was changed before, 0 when it is new."""
        before = self.keys.put(key, value, lease)
        self.leases.attach(key, lease, 0 if before is None else before.lease)
        return 0 if before is None else before.mod_revision

    def delete(self, keys: Iterable[str]) -> int:
        """Remove keys; how many there were."""
        count = 0
        for key in keys:
            before = self.keys.delete(key)
            if before is not None:
                count += 1
                self.leases.detach(key, before.lease)
        return count
