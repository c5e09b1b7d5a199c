"""How connections over QUIC begin: first datagrams, versions, addresses that have to be proved.

    datagram ─┬─ another version ──────────────▶ which ones there are       nothing is kept
              ├─ too many begin, or always ─────▶ Retry                      nothing is kept
              ├─ nothing in it can be opened ───▶ counted as one that begins  nothing is kept
              └─▶ a connection, unproven, within the handshake time-out

A token of Retry is good for the address that it was made for, for half a minute (RFC 9000, 8.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # its documentation exports it
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from relay.config_quic import Quic
from relay.protocols.datagrams import Address, address_of
from relay.protocols.greeting import Greeting
from relay.protocols.quic_transport import QuicTransport
from relay.wire.quic_connection import CONNECTION_ID_BYTES, BoundedConnection

if TYPE_CHECKING:
    from relay.protocols.quic import QuicPort

CONNECTION_ID_BYTES_MIN: Final = 8
"""Of the id that a client makes up for its first datagram (RFC 9000, 7.2)."""
VERSIONS: Final = [int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2)]
LONG_HEADER: Final = 0x80
WASTED_S: Final = 1.0
"""Datagrams that look like a beginning and are none count as load for so long."""


class Openings:
    """Those of one port. ``configuration()`` gives aioquic's for a new connection."""

    def __init__(
        self,
        port: QuicPort,
        settings: Quic,
        configuration: Callable[[], QuicConfiguration],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._port = port
        self._settings = settings
        self._configuration = configuration
        self._random_bytes = random_bytes
        self._retry = QuicRetryTokenHandler()
        self._wasted = 0
        self._wasted_since = 0.0

    def begin(self, datagram: bytes, place: Address, now: float) -> QuicTransport | None:
        """The connection that a datagram begins; None: it is nobody's, or the client has to prove its address."""
        if len(datagram) < SMALLEST_MAX_DATAGRAM_SIZE or not datagram[0] & LONG_HEADER:
            return None
        try:
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            return None
        if header.version not in VERSIONS:
            if header.version and header.packet_type is not QuicPacketType.VERSION_NEGOTIATION:
                ids = header.destination_cid, header.source_cid
                self._port.send([encode_quic_version_negotiation(*ids, supported_versions=VERSIONS)], place)
            return None
        if header.packet_type is not QuicPacketType.INITIAL or len(header.destination_cid) < CONNECTION_ID_BYTES_MIN:
            return None
        if self._port.opening >= self._settings.opening_max:
            return None
        # Also when the load is over: who was sent away is known by what it began with.
        original = self._proved(header, place, now)
        if original is None and self._must_prove(now):
            if not header.token:
                self._send_away(header, place, now)
            return None
        return self._accept(header, original, datagram, place, now)

    def _must_prove(self, now: float) -> bool:
        settings = self._settings
        if settings.retry != "load":
            return settings.retry == "always"
        # To find out that nothing in a datagram can be opened costs twenty times what a Retry does.
        if now - self._wasted_since > WASTED_S:
            self._wasted, self._wasted_since = 0, now
        return self._port.opening + self._wasted >= settings.retry_from

    def _proved(self, header: QuicHeader, place: Address, now: float) -> bytes | None:
        """The id that a client began with before its Retry; None for a token that is not good, or none."""
        if not header.token:
            return None
        try:
            return self._retry.validate_token(
                address=place, destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            return None

    def _send_away(self, header: QuicHeader, place: Address, now: float) -> None:
        name = self._random_bytes(CONNECTION_ID_BYTES)
        token = self._retry.create_token(
            address=place,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=name,
            now=now,
        )
        assert header.version is not None
        retry = encode_quic_retry(
            version=header.version, source_cid=name, destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid, retry_token=token,
        )  # fmt: skip
        self._port.retries += 1
        self._port.send([retry], place)

    def _accept(
        self, header: QuicHeader, original: bytes | None, datagram: bytes, place: Address, now: float
    ) -> QuicTransport | None:
        settings, port = self._settings, self._port
        configuration = self._configuration()
        # Who comes back with a ticket shows no certificate.
        again = settings.tickets_max > 0 and not configuration.verify_mode
        connection = BoundedConnection(
            configuration,
            settings.streams_max,
            settings.stream_bytes_max,
            original_destination_connection_id=original or header.destination_cid,
            retry_source_connection_id=header.destination_cid if original else None,
            session_ticket_fetcher=port.tickets.take if again else None,
            session_ticket_handler=port.tickets.add if again else None,
        )
        address = address_of(place)
        transport = QuicTransport(port, connection, address)
        if not port.give(transport, datagram, place, now) or not connection.begun:
            self._wasted += 1
            return None
        protocol = port.factory.buildProtocol(address)
        if protocol is None:
            return None
        if isinstance(protocol, Greeting):
            protocol.arrival.secure = True
        port.transports.add(transport)
        port.opening += 1
        port.name(transport, header.destination_cid, True)
        port.name(transport, connection.host_cid, True)
        transport.protocol = protocol
        protocol.makeConnection(transport)  # type: ignore[arg-type]  # what is used of ITransport is there
        return transport
