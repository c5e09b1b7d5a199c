"""Session tickets of QUIC, each good for one return (RFC 8446, 8.1: single-use tickets).

Taking a ticket removes it, so that a recorded first flight, its early data with it, is worth nothing the second time.
They are in this process's memory: another process, or this one after a restart, does not know them, which costs the
client a full handshake and opens no way to say something twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioquic.tls import SessionTicket


class Tickets:
    """At most ``tickets_max``; beyond it the oldest is forgotten. ``refused``: unknown ones, used ones among them."""

    def __init__(self, tickets_max: int) -> None:
        self.refused = 0
        self._tickets_max = tickets_max
        self._tickets: dict[bytes, SessionTicket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, ticket: SessionTicket) -> None:
        """One that a client was given."""
        if len(self._tickets) >= self._tickets_max:
            del self._tickets[next(iter(self._tickets))]
        self._tickets[ticket.ticket] = ticket

    def take(self, label: bytes) -> SessionTicket | None:
        """The ticket that a client shows, once."""
        found = self._tickets.pop(label, None)
        if found is None:
            self.refused += 1
        return found
