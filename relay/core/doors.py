"""Who may call the server's own procedures, whose names begin with ``$``: everybody is refused but through a door.

======================================================  ==============================================================
a call of ``$raft.put`` comes in                        when
======================================================  ==============================================================
by a permission                                         a pattern of the session's ``call`` whose first segment is
                                                        literally ``$raft`` matches; ``**`` and ``*`` do not
from this machine, when the door is ``local``           the peer came over a plain TCP or Unix socket from this machine,
                                                        is in the realm ``default``, and may call everything (``**``)
======================================================  ==============================================================

Over WebSocket and TLS nobody is taken to be on this machine: behind a proxy in front of the node, everybody would be. A
proxy that forwards plain TCP must send the PROXY protocol, or the door be ``permitted``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.errors import Denied, Unavailable
from relay.wire.names import matches

if TYPE_CHECKING:
    from relay.core.session import Session

LOCAL_TRANSPORTS: Final = ("tcp", "unix")
REALM: Final = "default"


class Door:
    """The door to the procedures whose first segment is ``segment``. ``local``: open to this machine. ``closed``: why
    nobody is let in now, '' when it is open."""

    def __init__(self, segment: str, local: bool, closed: str = "") -> None:
        self.closed = closed
        self._segment = segment
        self._local = local

    def __call__(self, session: Session, name: str) -> None:
        """Raises ``Denied`` when ``session`` may not call ``name``, ``Unavailable`` while the door is closed."""
        self._check(session, name)
        if self.closed:
            raise Unavailable(self.closed)

    def _check(self, session: Session, name: str) -> None:
        call = session.identity.permissions.permit.call
        if any(pattern.partition(".")[0] == self._segment and matches(pattern, name) for pattern in call):
            return
        peer = session.peer
        if self._local and peer is not None and peer.local and peer.transport in LOCAL_TRANSPORTS:
            if session.realm.name == REALM and "**" in call:
                return
        raise Denied(f"call of {name}")
