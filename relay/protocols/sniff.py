"""Which protocol a connection speaks, told by its first bytes.

====================  =====================================  ===================================================
name                  first bytes                            source
====================  =====================================  ===================================================
``tls``               16 03                                  a TLS handshake record (RFC 8446 section 5.1)
``relay.binary``      D2 52 4C 59 (``D2 'RLY'``)             docs/protocol.md section 1
``relay.secure``      D2 52 4C 53 (``D2 'RLS'``)             docs/secure.md
``relay.json``        7B (``{``)                             docs/protocol.md section 1
``http``              an HTTP method and a space             RFC 9110 section 9.1
====================  =====================================  ===================================================

No prefix of one protocol is a prefix of another, so the first that fits is the only one. A further protocol is a
further row of ``PREFIXES``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from relay.wire import secure
from relay.wire.kinds import PREFACE

TLS: Final = "tls"
RELAY_BINARY: Final = "relay.binary"
RELAY_SECURE: Final = "relay.secure"
RELAY_JSON: Final = "relay.json"
HTTP: Final = "http"
UNKNOWN: Final = ""

SNIFF_BYTES_MAX: Final = 16
"""More than this is never needed; no prefix is longer."""

PREFIXES: Final[dict[str, tuple[bytes, ...]]] = {
    TLS: (b"\x16\x03",),
    RELAY_BINARY: (PREFACE,),
    RELAY_SECURE: (secure.PREFACE,),
    RELAY_JSON: (b"{",),
    HTTP: (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE ", b"CONNECT "),
}


def sniff(data: bytes, allowed: Collection[str]) -> str | None:
    """The name of the protocol among ``allowed`` whose prefix ``data`` begins with.

    None: too few bytes to tell. ``UNKNOWN``: none of them, whatever follows. Looks at 16 bytes at most.
    """
    undecided = False
    for name in allowed:
        for prefix in PREFIXES[name]:
            if data.startswith(prefix):
                return name
            undecided = undecided or prefix.startswith(data)
    return None if undecided else UNKNOWN
