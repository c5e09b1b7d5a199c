"""Whether a page from another site may open a WebSocket here, told by the Origin header (RFC 6454, RFC 6455 10.2).

A browser names the origin of the page; other clients send none and are let in. Without a list only pages of the same
host are: host and port of the origin are those of the Host header. Scheme and proxies do not disturb that, because a
port that is the default of the origin's scheme is left out on both sides.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@lru_cache(maxsize=256)
def pattern_of(wildcard: str) -> re.Pattern[str]:
    """A pattern in which ``*`` stands for any characters, without regard to case."""
    return re.compile(".*".join(map(re.escape, wildcard.split("*"))), re.IGNORECASE | re.DOTALL)


def same_host(origin: str, host: str) -> bool:
    """Whether ``origin`` (``scheme://host[:port]``) is a page of ``host`` (a Host header)."""
    scheme, found, authority = origin.lower().partition("://")
    if not found or not authority:
        return False
    default = DEFAULT_PORTS.get(scheme, "")
    return authority.removesuffix(default) == host.lower().strip().removesuffix(default)


def names_this_machine(host: str) -> bool:
    """Whether a Host header names this machine in a way that no foreign site can: ``localhost`` or a literal address.

    A page of any site may have its own name resolve to 127.0.0.1 (DNS rebinding); then Origin and Host agree, but both
    are that site's.
    """
    name = host.lower().strip()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def allows(origins: Iterable[str], origin: str, host: str) -> bool:
    """Whether a connection with this Origin header ('' for none) to this Host may be opened."""
    if not origin:
        return True
    listed = list(origins)
    if not listed:
        return same_host(origin, host)
    return any(pattern_of(each).fullmatch(origin) for each in listed)
