"""The opening handshake of a WebSocket server (RFC 6455 section 4.2) for the request that nearly every client sends.

``read`` understands one narrow form and nothing beside it; a request in any other form is left to a whole
implementation, which may refuse it or not::

    GET /path[?query] HTTP/1.1
    Host: name[:port]                              once
    Upgrade: websocket                             once
    Connection: [keep-alive,] Upgrade              once
    Sec-WebSocket-Key: 22 of base64 and ==         once
    Sec-WebSocket-Version: 13                      once
    Sec-WebSocket-Protocol: name[, name …]         once
    Origin: http[s]://name[:port]                  at most once
    Sec-WebSocket-Extensions: what browsers offer  at most once
    any others, in visible ASCII, spaces and tabs  at most once each

What it reads is what any implementation reads: no folded lines, no bytes over 126, no name that is there twice. The
plain twin is Autobahn's handshake; a property test compares both.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from typing import Final

import attrs

KEY_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PORT_MAX: Final = 65_535

_HEAD: Final = re.compile(
    rb"GET (/(?!/)[\w.~/%-]*)(?:\?[!-\"$-~]*)? HTTP/1\.1\r\n((?:[\w!#$%&'*+.^`|~-]+:[\t -~]*\r\n)+)\r\n", re.ASCII
)
_HOST: Final = re.compile(r"(?:[a-z\d.-]+|\[[a-f\d:.]+\])(?::(\d{1,5}))?", re.ASCII | re.IGNORECASE)
_ORIGIN: Final = re.compile(r"https?://[a-z\d.-]+(?::(\d{1,5}))?", re.ASCII | re.IGNORECASE)
_KEY: Final = re.compile(r"[A-Za-z\d+/]{22}==", re.ASCII)
_CONNECTIONS: Final = frozenset(("upgrade", "keep-alive, upgrade"))
_EXTENSIONS: Final = frozenset(("permessage-deflate", "permessage-deflate; client_max_window_bits"))


@attrs.define(slots=True)
class Request:
    """A request to open a WebSocket. ``origin`` is '' without one; ``deflate``: the client offers to compress."""

    path: str
    host: str
    origin: str
    protocols: list[str]
    key: str
    deflate: bool


def read(head: bytes) -> Request | None:
    """The request in ``head``, which ends with the first empty line; None when it has not the form above."""
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    lines = match[2].decode("ascii").split("\r\n")
    fields = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip(" \t")
    if len(fields) != len(lines) - 1:
        return None
    get = fields.get
    host, key, origin = get("host", ""), get("sec-websocket-key", ""), get("origin")
    protocols = [each.strip(" \t") for each in get("sec-websocket-protocol", "").split(",")]
    extensions = get("sec-websocket-extensions")
    if (
        get("upgrade", "").lower() != "websocket"
        or get("connection", "").lower() not in _CONNECTIONS
        or get("sec-websocket-version") != "13"
        or _KEY.fullmatch(key) is None
        or not _is_authority(_HOST, host)
        or not (origin is None or _is_authority(_ORIGIN, origin))
        or not (extensions is None or extensions in _EXTENSIONS)
        or len(set(protocols)) != len(protocols)
    ):
        return None
    return Request(match[1].decode("ascii"), host, origin or "", protocols, key, extensions is not None)


def response(request: Request, protocol: str) -> bytes:
    """The answer that opens the WebSocket with the subprotocol ``protocol`` and no extension."""
    accept = b64encode(sha1(request.key.encode() + KEY_SUFFIX, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n" % (protocol.encode(), accept)
    )


def _is_authority(pattern: re.Pattern[str], text: str) -> bool:
    match = pattern.fullmatch(text)
    return match is not None and int(match[1] or 0) <= PORT_MAX
