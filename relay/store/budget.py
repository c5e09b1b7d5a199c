"""How many bytes a store holds, in all and of each realm: what is counted is the same in every kind of store.

A message counts as its frame and ``OVERHEAD_BYTES``, so that empty ones count, too.
"""

from __future__ import annotations

from typing import Final

OVERHEAD_BYTES: Final = 128
"""About what a message takes beside its frame: in memory an object and its numbers, in a file less."""
READ_BYTES_MAX: Final = 8_388_608
"""Frames of one answer, about; whoever wants more asks again from the last one on."""
FORGET_SHARE: Final = 0.9
"""Empty queues are forgotten from this part of ``store.queues_max`` on. New ones go on above the highest number that a
forgotten one gave, so that none is given twice."""


class Budget:
    """Bytes of all realms and of each; limits of 0 are none."""

    __slots__ = ("bytes", "bytes_max", "realm_bytes_max", "realms")

    def __init__(self, bytes_max: int, realm_bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.realm_bytes_max = realm_bytes_max
        self.bytes = 0
        self.realms: dict[str, int] = {}

    def refuses(self, realm: str, size: int) -> str:
        """Why ``size`` more bytes of ``realm`` have no room, as a sentence; '' when they have."""
        if self.bytes_max and self.bytes + size > self.bytes_max:
            return f"the store has no room: it holds {self.bytes} of {self.bytes_max} bytes"
        if self.realm_bytes_max:
            held = self.realms.get(realm, 0)
            if held + size > self.realm_bytes_max:
                return f"the realm has no room: it holds {held} of {self.realm_bytes_max} bytes"
        return ""

    def add(self, realm: str, size: int) -> None:
        """Count ``size`` bytes more of ``realm``, or with a negative one fewer."""
        self.bytes += size
        held = self.realms.get(realm, 0) + size
        if held:
            self.realms[realm] = held
        else:
            self.realms.pop(realm, None)
