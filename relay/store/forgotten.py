"""How often channels were forgotten: what tells a channel that never had a publication from one that lost them all.

A channel that was purged, or idle for long, leaves nothing behind. Who knew it empty before its publications came must
not be told that it missed none. So the store counts, for each of ``SLOTS`` parts of all channels together: a number for
each channel would stay for ever.
"""

from __future__ import annotations

import zlib
from typing import Final

SLOTS: Final = 1024
"""Who knows an empty channel asks anew when another of its part was forgotten: with so many that is seldom."""


def slot(realm: str, channel: str) -> int:
    """The part that a channel belongs to."""
    return zlib.crc32(f"{realm}\n{channel}".encode()) % SLOTS
