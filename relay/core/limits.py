"""How much one session, one address and one listener may do: token buckets, connection counts, networks."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

ADDRESSES_KNOWN_MAX: Final = 1024
"""Addresses of which it is remembered whether they are loopback: parsing one takes 4 us, three times a connection."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TokenBucket:
    """``rate`` tokens a second, at most ``depth`` saved up. Taking more than there is makes a debt, in seconds."""

    __slots__ = ("_at", "_tokens", "depth", "rate")

    def __init__(self, rate: float, depth: float, now: float) -> None:
        assert rate > 0 and depth > 0
        self.rate = rate
        self.depth = depth
        self._tokens = depth
        self._at = now

    def take(self, amount: float, now: float) -> float:
        """Take ``amount``; returns how many seconds to wait until the debt is paid (0.0: none)."""
        tokens = min(self.depth, self._tokens + (now - self._at) * self.rate) - amount
        self._tokens = tokens
        self._at = now
        return 0.0 if tokens >= 0 else -tokens / self.rate


class Networks:
    """Lists of networks: ``allow`` (empty: everything) less ``deny``; results are remembered for 4096 addresses."""

    __slots__ = ("_allow", "_deny", "_known")

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow: list[Network] = [ipaddress.ip_network(each, strict=False) for each in allow]
        self._deny: list[Network] = [ipaddress.ip_network(each, strict=False) for each in deny]
        self._known: dict[str, bool] = {}

    def admits(self, address: str) -> bool:
        """Whether ``address`` may connect. '' (a Unix socket) always may; what is no address may not."""
        if not address or not (self._allow or self._deny):
            return True
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= 4096:
                self._known.clear()
            known = self._known[address] = self._look_up(address)
        return known

    def _look_up(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if any(ip in network for network in self._deny):
            return False
        return not self._allow or any(ip in network for network in self._allow)


@functools.lru_cache(maxsize=ADDRESSES_KNOWN_MAX)
def is_loopback(address: str) -> bool:
    """True for loopback addresses and for '' (a Unix socket)."""
    if not address:
        return True
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
