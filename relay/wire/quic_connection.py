"""aioquic's ``QuicConnection``, with bounded windows, prompt acknowledgements and a pacer for coarse timers.

aioquic is without I/O: datagrams and the time go in, datagrams and a deadline come out. Changed here:

==================  ==============================================================================================
receive windows     a fixed distance ahead of what was handed over, and not at all while paused. aioquic doubles a
                    window whenever half of it is used: who has sent a gigabyte may then leave a gap of a gigabyte
                    in a buffer. Unidirectional streams carry one frame each: theirs is never raised.
client certificates asked for where ``verify_mode`` of a server's configuration is set. Verifying is the caller's.
streams             one bidirectional (the session), ``streams_max`` unidirectional at a time.
acknowledgements    at once for two packets and more that came together (RFC 9000, 13.2.2), as for what is answered
                    in the same turn; aioquic waits a millisecond.
logging             none.
pacing              in steps of ``PACER_GRAIN_S``: timers of event loops are no finer, and waiting for less spins.
==================  ==============================================================================================

This is the one module that uses what aioquic does not promise: its version is bounded in pyproject.toml, and the tests
of this module fail when a name is not there any more.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # its documentation exports it
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    END_STATES,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionState,
)
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

ALPN: Final = "relay/1"
CONNECTION_ID_BYTES: Final = 8
SESSION_STREAM: Final = 0
"""The client's first bidirectional stream."""
WINDOW_BYTES: Final = 1_048_576
"""Of the session's stream, and of all streams together twice as much: 20 MB/s at a round trip of 50 ms."""
PACER_GRAIN_S: Final = 0.001
DATAGRAM_OVERHEAD_BYTES: Final = 64
"""Of a packet around the payload of a DATAGRAM frame, at most: header, tag, type and length of the frame, an ACK."""

_SILENT: Final = logging.Logger("quic")
"""aioquic warns of each peer that breaks the protocol: anybody could fill a log with that. The reason is told by
``BoundedConnection.outcome``."""
_SILENT.disabled = True


class _Pacer(QuicPacketPacer):
    """Lets the bucket go into debt by one grain, and then waits until the debt is paid."""

    def next_send_time(self, now: float) -> float:
        if self.packet_time is not None:
            self.update_bucket(now=now)
            if self.bucket_time <= -PACER_GRAIN_S:
                return now - self.bucket_time
        return None  # type: ignore[return-value]  # aioquic's own does the same

    def update_after_send(self, now: float) -> None:
        if self.packet_time is not None:
            self.update_bucket(now=now)
            self.bucket_time -= self.packet_time


class BoundedConnection(QuicConnection):
    """See the module. ``streams_max``, ``stream_bytes_max``: of the peer's unidirectional streams."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        streams_max: int,
        stream_bytes_max: int,
        **options: Any,  # Any: aioquic's keyword arguments
    ) -> None:
        super().__init__(configuration=configuration, **options)
        self.paused = False
        """No window is raised: the peer soon stops."""
        self._half_streams = max(1, streams_max // 2)
        bidi, uni = self._local_max_streams_bidi, self._local_max_streams_uni
        bidi.value = bidi.sent = 0 if configuration.is_client else 1
        uni.value = uni.sent = streams_max
        self._local_max_stream_data_uni = stream_bytes_max
        self._local_max_data.value = self._local_max_data.sent = 2 * WINDOW_BYTES
        self._logger.logger = _SILENT
        self._loss._pacer = _Pacer(max_datagram_size=configuration.max_datagram_size)

    # --- what is to be known --------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Closing, or closed."""
        return self._close_event is not None or self._state in END_STATES

    @property
    def outcome(self) -> tuple[str, bool]:
        """Why it is over, and whether that is as it should be."""
        event = self._close_event
        if event is None:
            return "closed", True
        return event.reason_phrase or f"closed with code {event.error_code}", event.error_code == 0

    @property
    def started(self) -> bool:
        """There is an address to send to."""
        return bool(self._network_paths)

    @property
    def begun(self) -> bool:
        """A packet of the peer could be opened."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def in_session(self) -> bool:
        """The session's stream is there."""
        return SESSION_STREAM in self._streams

    @property
    def confirmed(self) -> bool:
        """The handshake is complete: nothing that comes can be a replay."""
        return self._handshake_complete

    @property
    def proven(self) -> bool:
        """The peer has shown that it receives at its address."""
        return bool(self._network_paths) and self._network_paths[0].is_validated

    @property
    def datagram_bytes_max(self) -> int:
        """The largest payload of a DATAGRAM frame that the peer takes and a packet holds; 0: the peer takes none."""
        taken = self._remote_max_datagram_frame_size or 0
        return max(0, min(taken, self._max_datagram_size) - DATAGRAM_OVERHEAD_BYTES)

    @property
    def waiting_datagrams(self) -> deque[bytes]:
        """Payloads of DATAGRAM frames that are not sent yet."""
        return self._datagrams_pending

    @property
    def stream_bytes_max(self) -> int:
        """What the peer takes on one unidirectional stream."""
        return self._remote_max_stream_data_uni

    def may_open(self) -> bool:
        """Whether the peer takes one more unidirectional stream now."""
        return self._local_next_stream_id_uni // 4 < self._remote_max_streams_uni

    def queued_bytes(self) -> int:
        """Bytes of streams that are not acknowledged, or not even sent."""
        return sum([len(stream.sender._buffer) for stream in self._streams.values()])

    def slim(self) -> None:
        """Of a server, once the handshake is complete: let go of 48 KB that only TLS messages to the client need."""
        self._crypto_buffers = {epoch: Buffer(capacity=0) for epoch in self._crypto_buffers}

    def acknowledge_now(self) -> None:
        """What has to be acknowledged is, with the next datagrams that are made."""
        space = self._spaces.get(Epoch.ONE_RTT)
        if space is not None and space.ack_at is not None:
            space.ack_at = 0.0

    @property
    def shown(self) -> tuple[Any, list[Any]]:  # Any: certificates of cryptography
        """The certificate that the peer has the key of, or None, and those it sent with it. Nobody vouches for them."""
        return self.tls._peer_certificate, self.tls._peer_certificate_chain

    # --- aioquic's ------------------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if not self._is_client and self._configuration.verify_mode:
            # aioquic has no option for it.
            self.tls._request_client_certificate = True

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.stream_id != SESSION_STREAM or self.paused or stream.receiver.is_finished:
            return
        wanted = stream.receiver.starting_offset() + WINDOW_BYTES
        if wanted - stream.max_stream_data_local >= WINDOW_BYTES // 2:
            stream.max_stream_data_local = wanted
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            frame = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                MAX_STREAM_DATA_FRAME_CAPACITY,
                self._on_max_stream_data_delivery,
                (stream,),
            )
            frame.push_uint_var(SESSION_STREAM)
            frame.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        # Of all streams together: never the narrower one, for each has a window of its own and their number is bounded.
        data, uni = self._local_max_data, self._local_max_streams_uni
        wanted = data.used + 2 * WINDOW_BYTES
        if wanted - data.value >= WINDOW_BYTES:
            data.value = wanted
        if data.value != data.sent:
            self._write_limit(builder, data)
        if uni.value - uni.sent >= self._half_streams:
            self._write_limit(builder, uni)

    def _write_limit(self, builder: QuicPacketBuilder, limit: Limit) -> None:
        frame = builder.start_frame(
            limit.frame_type, CONNECTION_LIMIT_FRAME_CAPACITY, self._on_connection_limit_delivery, (limit,)
        )
        frame.push_uint_var(limit.value)
        limit.sent = limit.value


def release(connection: BoundedConnection) -> None:
    """Of one that is over and that nobody calls any more: aioquic's parts know each other in circles, and a node has
    its collector look for those so seldom that they would stay, 150 KB each."""
    vars(connection).clear()
