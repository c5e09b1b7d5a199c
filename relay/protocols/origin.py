"""Whether a page from another site may open a WebSocket here, told by the Origin header (RFC 6454, RFC 6455 10.2).

A browser names the origin of the page; other clients send none and are let in. Without a list only pages of the same
host are: host and port of the origin are those of the Host header. Scheme and proxies do not disturb that, because a
port that is the default of the origin's scheme is left out on both sides.
"""

from __future__ import annotations

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


def allows(origins: Iterable[str], origin: str, host: str) -> bool:
    """Whether a connection with this Origin header ('' for none) to this Host may be opened."""
    if not origin:
        return True
    listed = list(origins)
    if not listed:
        return same_host(origin, host)
    return any(pattern_of(each).fullmatch(origin) for each in listed)
