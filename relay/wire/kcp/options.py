"""What one KCP session is told once, and the profiles: sets of options for a purpose.

=========  =======  ========  ======  ===  ======  ====  ==========================================================
profile    nodelay  interval  resend  nc   window  FEC   for
=========  =======  ========  ======  ===  ======  ====  ==========================================================
game       1        10 ms     2       1    256     2/1   small messages that must be there soon; spends half as
                                                         much again on parity, and keeps its rate under loss
default    0        20 ms     3       0    512     -     general use; shares a path with others
bulk       0        20 ms     3       0    1024    -     files; windows for long paths
=========  =======  ========  ======  ===  ======  ====  ==========================================================

``nc`` 1 switches congestion control off, so it is only accepted with ``rate_bytes_max``, the pacing cap.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay.errors import ConfigError
from relay.wire.kcp.segment import DATAGRAM_BYTES_MAX, HEADER_BYTES, MTU_DEFAULT, WINDOW_MAX

SHARDS_MAX: Final = 256
"""Of a group: what the field of 256 elements allows."""
MTU_MIN: Final = 128
INTERVAL_MS_MIN: Final = 5
INTERVAL_MS_MAX: Final = 5000


class KcpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a session. Raises ``ConfigError`` for what cannot work.

    ``mtu``: bytes of a datagram, everything of KCP included. ``rate_bytes_max``: pacing cap in bytes a second, 0: none.
    ``resend``: fast retransmission after so many later acks, 0: never. ``dead_after``: time-outs of one segment after
    which the link is dead.
    """

    nodelay: bool = False
    interval_ms: int = 20
    resend: int = 3
    nc: bool = False
    send_window: int = 512
    receive_window: int = 512
    mtu: int = MTU_DEFAULT
    stream: bool = True
    data_shards: int = 0
    parity_shards: int = 0
    rate_bytes_max: int = 0
    dead_after: int = 20

    def __post_init__(self) -> None:
        if self.nc and not self.rate_bytes_max:
            raise ConfigError("nc switches congestion control off: it needs a pacing cap (rate_bytes_max)")
        if (self.data_shards == 0) != (self.parity_shards == 0) or min(self.data_shards, self.parity_shards) < 0:
            raise ConfigError("error correction needs data shards and parity shards, or neither")
        if self.data_shards + self.parity_shards > SHARDS_MAX:
            raise ConfigError(f"a group has at most {SHARDS_MAX} shards")
        if not MTU_MIN <= self.mtu <= DATAGRAM_BYTES_MAX:
            raise ConfigError(f"mtu must be from {MTU_MIN} to {DATAGRAM_BYTES_MAX}")
        if not INTERVAL_MS_MIN <= self.interval_ms <= INTERVAL_MS_MAX:
            raise ConfigError(f"interval_ms must be from {INTERVAL_MS_MIN} to {INTERVAL_MS_MAX}")
        if not (0 < self.send_window <= WINDOW_MAX and 0 < self.receive_window <= WINDOW_MAX):
            raise ConfigError(f"windows must be from 1 to {WINDOW_MAX}")

    def segment_mtu(self, cipher_bytes: int) -> int:
        """What is left of a datagram for segments under a cipher that takes ``cipher_bytes``."""
        left = self.mtu - cipher_bytes - (8 if self.data_shards else 0)
        assert left > HEADER_BYTES
        return left


def options_for(profile: str, error_correction: str, mtu: int) -> KcpOptions:
    """The options of a profile, with ``error_correction`` ``profile``, ``off`` or ``K/M``. Raises ``ConfigError``."""
    if profile not in PROFILES:
        raise ConfigError(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    changed = {"mtu": mtu}
    if error_correction == "off":
        changed |= {"data_shards": 0, "parity_shards": 0}
    elif error_correction != "profile":
        data, slash, parity = error_correction.partition("/")
        if not (slash and data.isdecimal() and parity.isdecimal()):
            raise ConfigError(f"error correction: expected profile, off or K/M, got {error_correction!r}")
        changed |= {"data_shards": int(data), "parity_shards": int(parity)}
    return msgspec.structs.replace(PROFILES[profile], **changed)


PROFILES: Final = {
    "game": KcpOptions(
        nodelay=True, interval_ms=10, resend=2, nc=True, send_window=256, receive_window=256, data_shards=2,
        parity_shards=1, rate_bytes_max=4_000_000, dead_after=40,
    ),
    "default": KcpOptions(),
    "bulk": KcpOptions(send_window=1024, receive_window=1024),
}  # fmt: skip
