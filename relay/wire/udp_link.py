"""One connection over datagrams, either side, without I/O: what is acknowledged, sent again, put in order, or dropped.

Source: ``docs/udp.md``. Content of a packet::

    number u32 | ack u32 | acks u64 | kind u8 | place u32 | frame

    send ──▶ waiting ──(window)──▶ transmit ──▶ under way ── acknowledged ──▶ gone
                                      ▲             │ lost: three later ones acknowledged, or time-out
                                      └─────────────┘
    receive ─▶ reliable: in order, each once · unreliable: as it comes · latest: the newest of its stream

The caller gives datagrams and the time, and takes what ``transmit`` makes; ``next_timer`` says when it has to be asked
again though nothing came. ``now`` is monotonic, in seconds. Lists grow by what the peer sends up to ``WINDOW_MAX``, and
by what is sent here up to what the caller allows (``waiting_bytes``).
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Final

from relay.errors import FrameTooLarge, RemoteProtocolError

NOTHING: Final = 0
RELIABLE: Final = 1
UNRELIABLE: Final = 2
LATEST: Final = 3
CHALLENGE: Final = 4
RESPONSE: Final = 5
END: Final = 6

CONTENT: Final = Struct(">IIQBI")
CONTENT_BYTES: Final = CONTENT.size
NUMBER_MAX: Final = 2**32 - 1
ACKS_BITS: Final = 64

WINDOW_FIRST: Final = 32
WINDOW_MIN: Final = 4
WINDOW_MAX: Final = 1024
"""Packets under way, and frames held out of order; a peer that sends more is not listened to."""
REORDER: Final = 3
"""A packet is lost when one so many numbers later has arrived (RFC 9002 section 6.1.1) …"""
LATE: Final = 9 / 8
"""… or when any later one has, and this many round trips have passed (section 6.1.2): for few packets a second."""
LATE_S_MIN: Final = 0.001
RTO_S_MIN: Final = 0.05
RTO_S_FIRST: Final = 0.25
RTO_S_MAX: Final = 4.0
ACK_DELAY_S: Final = 0.02
ACK_EVERY: Final = 2
ACK_BITS_USED: Final = 32
"""Packets that one acknowledgement speaks for at most, half of what it has room for: some come out of order."""
EARLY_BYTES_MAX: Final = 262_144
"""Bytes held out of order: what is beyond is not acknowledged, and comes again."""
STREAMS_MAX: Final = 1024
"""Streams of ``latest`` whose newest is remembered; the longest known is forgotten for a new one."""
TOKEN_BYTES: Final = 8
TIMER_SLACK_S: Final = 0.0005
"""A timer that is due within this is due: clocks differ in their last digits."""

_HALF_U16: Final = 0x8000
_ACKS_MASK: Final = (1 << ACKS_BITS + 1) - 1


class Sent:
    """A reliable frame under way. ``number``: of the packet that carried it last; ``at``, ``first_at``: when it was
    sent last and first, 0 before that."""

    __slots__ = ("at", "first_at", "frame", "number", "place", "tries")

    def __init__(self, place: int, frame: bytes) -> None:
        self.place = place
        self.frame = frame
        self.number = 0
        self.at = 0.0
        self.first_at = 0.0
        self.tries = 0


class RoundTrip:
    """Smoothed round-trip time and the time-out that follows from it (RFC 6298)."""

    __slots__ = ("latest_s", "rto_s", "smoothed_s", "variation_s")

    def __init__(self) -> None:
        self.latest_s = 0.0
        self.smoothed_s = 0.0
        self.variation_s = 0.0
        self.rto_s = RTO_S_FIRST

    def sample(self, measured_s: float) -> None:
        """A packet sent once was acknowledged after ``measured_s``."""
        self.latest_s = measured_s
        if not self.smoothed_s:
            self.smoothed_s = measured_s
            self.variation_s = measured_s / 2
        else:
            self.variation_s += (abs(self.smoothed_s - measured_s) - self.variation_s) / 4
            self.smoothed_s += (measured_s - self.smoothed_s) / 8
        # The other side may keep an acknowledgement back for ACK_DELAY_S.
        self.rto_s = min(max(self.smoothed_s + 4 * self.variation_s + ACK_DELAY_S, RTO_S_MIN), RTO_S_MAX)

    @property
    def late_s(self) -> float:
        """When a later packet has been acknowledged, one that was sent so long ago is lost."""
        return max(LATE * max(self.latest_s, self.smoothed_s), LATE_S_MIN)

    def backed_off(self) -> None:
        """Nothing came in time."""
        self.rto_s = min(self.rto_s * 2, RTO_S_MAX)


class Received:
    """What one side has received: the acknowledgement to be sent, the order of reliable frames, the newest of streams.

    ``acks``: bit n is number ``newest - n``, so the newest's own is bit 0. ``early``: frames before their turn.
    """

    __slots__ = ("acks", "early", "early_bytes", "newest", "next_place", "streams")

    def __init__(self) -> None:
        self.newest = 0
        self.acks = 0
        self.next_place = 1
        self.early: dict[int, bytes] = {}
        self.early_bytes = 0
        self.streams: dict[int, int] = {}

    def fresh(self, number: int) -> bool:
        """Whether the packet has not come yet, and is not so late that nobody can tell."""
        ahead = number - self.newest
        return ahead > 0 or (-ahead <= ACKS_BITS and not self.acks >> -ahead & 1)

    def mark(self, number: int) -> None:
        """It has come, and will be acknowledged."""
        ahead = number - self.newest
        if ahead > 0:
            # A jump over everything leaves nothing of it; the shift must not grow with the jump.
            self.acks = (self.acks << ahead | 1) & _ACKS_MASK if ahead <= ACKS_BITS else 1
            self.newest = number
        else:
            self.acks |= 1 << -ahead

    def in_order(self, place: int, frame: bytes) -> list[bytes] | None:
        """The reliable frames that can be handed over now; None: it is too far ahead to be held."""
        wanted = self.next_place
        # Fast path: the next one, with nothing held behind it.
        if place == wanted and not self.early:
            self.next_place = place + 1
            return [frame]
        if place >= wanted + WINDOW_MAX:
            return None
        if place >= wanted and place not in self.early:
            if place > wanted and self.early_bytes + len(frame) > EARLY_BYTES_MAX:
                return None
            self.early[place] = frame
            self.early_bytes += len(frame)
        ready = []
        while wanted in self.early:
            ready.append(self.early.pop(wanted))
            self.early_bytes -= len(ready[-1])
            wanted += 1
        self.next_place = wanted
        return ready

    def is_latest(self, place: int) -> bool:
        """Whether a frame of ``latest`` is newer than all of its stream before."""
        stream, count = place >> 16, place & 0xFFFF
        newest = self.streams.get(stream)
        if newest is not None and not 0 < (count - newest) & 0xFFFF < _HALF_U16:
            return False
        if newest is None and len(self.streams) >= STREAMS_MAX:
            del self.streams[next(iter(self.streams))]
        self.streams[stream] = count
        return True


class UdpLink:
    """See the module. ``content_bytes_max``: the largest content of one packet; ``window_max``: packets under way."""

    __slots__ = (
        "_halved_at", "_heard", "_late_at", "_latest_sent", "_number", "_owed", "_owed_at", "_place", "_prepared",
        "_small", "_urgent", "content_bytes_max", "ended", "lost_packets", "proved", "received", "round_trip",
        "sent_again", "under_way", "waiting", "waiting_bytes", "window", "window_max",
    )  # fmt: skip

    def __init__(self, content_bytes_max: int, window_max: int = WINDOW_MAX) -> None:
        self.content_bytes_max = content_bytes_max
        self.window_max = window_max
        self.window = float(min(WINDOW_FIRST, window_max))
        self.round_trip = RoundTrip()
        self.ended = False
        """The other side has said ``end``, or the numbers are used up."""
        self.proved = b""
        """The token that came back last."""
        self.lost_packets = 0
        self.sent_again = 0
        # Sending. ``under_way`` by packet number, ascending.
        self.waiting: deque[Sent] = deque()
        self.waiting_bytes = 0
        self.under_way: dict[int, Sent] = {}
        self._number = 0
        self._place = 0
        self._small: deque[tuple[int, int, bytes]] = deque()  # kind, place, frame of what is sent once
        self._latest_sent = 0
        self._halved_at = 0  # packets up to this number were lost together
        self._heard = 0  # the highest number acknowledged
        self._late_at: float | None = None  # when the oldest before that one will be lost
        # Receiving.
        self.received = Received()
        self._owed = 0
        self._owed_at = 0.0
        self._urgent = False
        self._prepared: list[bytes] = []  # acknowledgements that could not wait for ``transmit``

    @property
    def frame_bytes_max(self) -> int:
        """The largest frame that fits."""
        return self.content_bytes_max - CONTENT_BYTES

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """A frame that has to arrive. Raises ``FrameTooLarge``."""
        self._check(frame)
        self._place += 1
        self.waiting.append(Sent(self._place, frame))
        self.waiting_bytes += len(frame)

    def send_once(self, frame: bytes) -> None:
        """A frame that may be lost. Raises ``FrameTooLarge``."""
        self._check(frame)
        self._small.append((UNRELIABLE, 0, frame))

    def send_latest(self, frame: bytes, stream: int) -> None:
        """A frame that may be lost and replaces those before it of ``stream`` (16 bits). Raises ``FrameTooLarge``."""
        self._check(frame)
        self._latest_sent = (self._latest_sent + 1) & 0xFFFF
        self._small.append((LATEST, stream << 16 | self._latest_sent, frame))

    def acknowledge_now(self, now: float) -> None:
        """Say something with the next ``transmit``, though nothing came that asks for it."""
        self._owe(now, True)

    def challenge(self, token: bytes, answer: bool = False) -> None:
        """Ask a new address to send ``token`` (8 bytes) back; ``answer``: send it back."""
        self._small.append((RESPONSE if answer else CHALLENGE, 0, token))

    def end(self) -> bytes:
        """The content that ends the connection, sent at once and once."""
        return self._content(END, 0, b"")

    def _check(self, frame: bytes) -> None:
        if len(frame) > self.content_bytes_max - CONTENT_BYTES:
            raise FrameTooLarge(f"a frame of {len(frame)} bytes; over UDP {self.frame_bytes_max} fit")

    def transmit(self, now: float) -> list[bytes]:
        """The contents to be sent now, one a datagram: what the window lets out, and acknowledgements that are due."""
        out, self._prepared = self._prepared, []
        small = self._small
        while small:
            out.append(self._content(*small.popleft()))
        waiting, under_way = self.waiting, self.under_way
        while waiting and len(under_way) < self.window:
            sent = waiting.popleft()
            self.waiting_bytes -= len(sent.frame)
            out.append(self._content(RELIABLE, sent.place, sent.frame))
            sent.number = self._number
            sent.at = now
            sent.first_at = sent.first_at or now
            sent.tries += 1
            under_way[sent.number] = sent
        if self._owed and (self._urgent or self._owed >= ACK_EVERY or now >= self._owed_at - TIMER_SLACK_S):
            out.append(self._content(NOTHING, 0, b""))
        return out

    def _content(self, kind: int, place: int, frame: bytes) -> bytes:
        if self._number >= NUMBER_MAX:
            self.ended = True
        self._number += 1
        self._owed = 0
        self._urgent = False
        return (
            CONTENT.pack(self._number & NUMBER_MAX, self.received.newest, self.received.acks >> 1, kind, place) + frame
        )

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, content: bytes, now: float) -> list[tuple[bytes, bool]]:
        """The frames that ``content`` brings, each with whether it was reliable; those of a challenge, response or end
        are not frames. Raises ``RemoteProtocolError`` for what is no content: nothing has changed then."""
        number, kind, place = self.acknowledged(content, now)
        received = self.received
        if not received.fresh(number):
            # Said again, in case the acknowledgement was lost.
            self._owe(now, True)
            return []
        frame = content[CONTENT_BYTES:]
        if kind == RELIABLE:
            in_order = received.in_order(place, frame)
            if in_order is None:
                return []  # to be sent again later: not acknowledged
            received.mark(number)
            self._owe(now, not in_order or len(in_order) > 1)
            return [(each, True) for each in in_order]
        received.mark(number)
        if kind == UNRELIABLE or (kind == LATEST and received.is_latest(place)):
            return [(frame, False)]
        if kind == CHALLENGE:
            self.challenge(frame[:TOKEN_BYTES], True)
        elif kind == RESPONSE:
            self.proved = frame
        elif kind == END:
            self.ended = True
        return []

    def acknowledged(self, content: bytes, now: float) -> tuple[int, int, int]:
        """Take what ``content`` acknowledges alone, as if the rest had been lost; its number, kind and place. Raises
        ``RemoteProtocolError`` for what is no content."""
        if len(content) < CONTENT_BYTES:
            raise RemoteProtocolError("a packet that is cut off")
        number, ack, acks, kind, place = CONTENT.unpack_from(content)
        if kind > END or not number or ack > self._number:
            raise RemoteProtocolError("a packet of no known kind, or that acknowledges what was not sent")
        if self.under_way:
            self._acknowledged(ack, acks, now)
        return number, kind, place

    def _owe(self, now: float, urgent: bool) -> None:
        if not self._owed:
            self._owed_at = now + ACK_DELAY_S
        self._owed += 1
        self._urgent = self._urgent or urgent
        if self._owed >= ACK_BITS_USED:
            self._prepared.append(self._content(NOTHING, 0, b""))

    def _acknowledged(self, ack: int, acks: int, now: float) -> None:
        under_way = self.under_way
        newest: Sent | None = under_way.pop(ack, None)
        count = 0 if newest is None else 1
        if acks:
            # The newest numbers are in the low bits; none is older than the first that is under way.
            for behind in range(min(acks.bit_length(), ack - next(iter(under_way), ack))):
                if acks >> behind & 1:
                    sent = under_way.pop(ack - 1 - behind, None)
                    if sent is not None:
                        count += 1
                        newest = newest or sent
        if newest is not None:
            # A frame that is sent again has a number of its own: each number measures (no Karn ambiguity).
            self.round_trip.sample(max(now - newest.at, 0.0))
            grown = self.window + (count / self.window if self._halved_at else count)
            self.window = min(grown, float(self.window_max))
        if ack > self._heard:
            self._heard = ack
        if under_way:
            self._find_lost(now)

    def _find_lost(self, now: float) -> None:
        heard, late_s = self._heard, self.round_trip.late_s
        self._late_at = None
        lost = []
        # By number, and so by time.
        for number, sent in self.under_way.items():
            if number > heard - REORDER and (number > heard or sent.at + late_s > now + TIMER_SLACK_S):
                if number < heard:
                    self._late_at = sent.at + late_s
                break
            lost.append(number)
        if lost:
            self._again(lost)

    def _again(self, numbers: list[int]) -> None:
        """These are lost: they go first, in their order."""
        if numbers[-1] > self._halved_at:
            self.window = max(self.window / 2, float(WINDOW_MIN))
            self._halved_at = self._number
        self.lost_packets += len(numbers)
        self.sent_again += len(numbers)
        for number in reversed(numbers):
            sent = self.under_way.pop(number)
            self.waiting.appendleft(sent)
            self.waiting_bytes += len(sent.frame)

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When ``timer`` is due; None: not before something is sent or comes."""
        at: float | None = None
        if self.under_way:
            at = next(iter(self.under_way.values())).at + self.round_trip.rto_s
            if self._late_at is not None and self._late_at < at:
                at = self._late_at
        if self._owed and (at is None or self._owed_at < at):
            at = self._owed_at
        return at

    def timer(self, now: float) -> None:
        """Do what is due; ``transmit`` is to be asked afterwards."""
        under_way = self.under_way
        if under_way and self._late_at is not None and now >= self._late_at - TIMER_SLACK_S:
            self._find_lost(now)
        if under_way and now >= next(iter(under_way.values())).at + self.round_trip.rto_s - TIMER_SLACK_S:
            # Everything that is as old; the rest gets its chance by what is acknowledged now.
            limit = now - self.round_trip.rto_s + TIMER_SLACK_S
            self._again([number for number, sent in under_way.items() if sent.at <= limit])
            self.window = float(WINDOW_MIN)
            self.round_trip.backed_off()

    def oldest_s(self, now: float) -> float:
        """For how long the oldest frame that is not acknowledged has been tried; 0 when there is none."""
        if self.under_way:
            return now - min(sent.first_at for sent in self.under_way.values())
        return now - self.waiting[0].first_at if self.waiting and self.waiting[0].tries else 0.0
