"""Asking for the history of channels, page by page, a few channels at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from relay.client.deadlines import Deadlines
from relay.client.requests import Requests
from relay.errors import BadBody, RelayError, RemoteProtocolError
from relay.wire import handshake, kinds
from relay.wire.handshake import HistoryEnd, HistoryOptions
from relay.wire.message import Message

FILLS_MAX: Final = 4
"""Channels asked for at once; the server answers some at once, and others wait here."""
PAGE: Final = 1000
TRIES_MAX: Final = 5
"""How often a temporary refusal is met by asking again."""
RETRY_S: Final = 1.0


class Track(msgspec.Struct, eq=False):
    """One channel, and behind which of its publications the client is.

    ``held``: events behind a gap, while ``filling``; ``again``: some of them were thrown away. ``away``: a session was
    lost since, and whether that left a gap is not known yet. ``partial``: its subscription leaves events out.
    ``number``: of the fill under way, so that one that is over is known.
    """

    name: str
    epoch: str
    offset: int
    heard_at: float
    filling: bool = False
    away: bool = False
    again: bool = False
    partial: bool = False
    tries: int = 0
    number: int = 0
    held: list[Message] = []

    def stop_filling(self) -> None:
        """Whatever is under way is over."""
        self.filling = self.again = False
        self.tries = 0
        self.number += 1
        self.held = []


class Fills:
    """The fills of one client. ``on_page(track, page, end, now)``: a page behind the track's position; whether to ask
    on. ``on_failure(track, now)``: the server does not give it."""

    def __init__(
        self,
        requests: Requests,
        deadlines: Deadlines,
        on_page: Callable[[Track, dict[int, Message], HistoryEnd, float], bool],
        on_failure: Callable[[Track, float], None],
    ) -> None:
        self._requests = requests
        self._deadlines = deadlines
        self._on_page = on_page
        self._on_failure = on_failure
        self._waiting: deque[tuple[Track, int]] = deque()
        self._active = 0
        self._sessions = 0

    def fresh(self) -> None:
        """There is a new session: nothing is under way."""
        self._sessions += 1
        self._active = 0
        self._waiting.clear()

    def begin(self, track: Track, now: float) -> None:
        """Ask for what is behind the track's position, when it is its turn."""
        track.filling = True
        self._waiting.append((track, track.number))
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        while self._waiting and self._active < FILLS_MAX:
            track, number = self._waiting.popleft()
            if track.number == number and self._requests.closed is None:
                self._active += 1
                self._ask(track, now)

    def _ask(self, track: Track, now: float) -> None:
        session, number = self._sessions, track.number
        page: dict[int, Message] = {}

        def answered(result: Message | RelayError, now: float) -> None:
            if session != self._sessions:
                return
            if track.number != number or not self._answered(track, page, result, now):
                self._active -= 1
                self._go_on(now)

        def more(message: Message) -> None:
            page[message.get(kinds.OFFSET, 0)] = message

        options = HistoryOptions(track.offset, limit=PAGE, epoch=track.epoch)
        message = handshake.write(kinds.HISTORY, options, name=track.name)
        self._requests.ask(message, None, now, fate="drop", answer=answered, more=more, forced=True)

    def _answered(self, track: Track, page: dict[int, Message], result: Message | RelayError, now: float) -> bool:
        """Whether the next page was asked for."""
        if isinstance(result, RelayError):
            track.tries += 1
            if result.temporary and track.tries < TRIES_MAX:
                number = track.number
                self._deadlines.add(now + RETRY_S * track.tries, lambda now: self._retry(track, number, now))
            else:
                self._on_failure(track, now)
            return False
        try:
            end = handshake.read(result, HistoryEnd)
        except BadBody as error:
            raise RemoteProtocolError(str(error)) from None
        if self._on_page(track, page, end, now):
            self._ask(track, now)
            return True
        return False

    def _retry(self, track: Track, number: int, now: float) -> None:
        if track.number == number:
            self.begin(track, now)
