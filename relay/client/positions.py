"""Positions in channels that keep history: what has been seen of each, and how what is missing is fetched.

    event at position + 1    delivered, the position moves
          at most position   seen already: dropped
          beyond             a gap: held back, while ``history`` is asked for what is between
    a new session            subscriptions to a name ask for what they missed themselves (``since``); for channels
                             seen through a pattern ``history`` is asked
    left out, or long quiet  ``history`` behind the position tells whether there is more

What is fetched is delivered in order, once, before what is held back. Where it cannot be had (trimmed, lost, refused),
nothing of it is delivered: the effect ``Recovered`` says so, and the channel goes on from what is newest. Subscriptions
with tags or a rate get a part of the events: their gaps mean nothing, and only their last position is kept.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from relay.client.deadlines import Deadlines
from relay.client.effects import Deliver, Effect, Recovered
from relay.client.fills import Fills, Track
from relay.client.interests import Interests
from relay.client.options import ClientOptions
from relay.client.requests import Requests
from relay.errors import BadBody, RemoteProtocolError
from relay.wire import handshake, kinds
from relay.wire.handshake import HistoryEnd, Position, Subscribed, SubscribeOptions
from relay.wire.message import Message
from relay.wire.names import matches

SESSIONS_MAX: Final = 16
"""Sessions of this client that are remembered, for what it asked not to be sent itself."""


class Positions:
    """All positions of one client, and the delivery of events."""

    def __init__(
        self,
        requests: Requests,
        subscriptions: Interests[SubscribeOptions],
        deadlines: Deadlines,
        options: ClientOptions,
        effects: list[Effect],
    ) -> None:
        self._requests = requests
        self._subscriptions = subscriptions
        self._deadlines = deadlines
        self._options = options
        self._effects = effects
        self._tracks: dict[str, Track] = {}
        self._fills = Fills(
            requests, deadlines, self._page, lambda track, now: self._lost(track, track.epoch, track.offset, now)
        )
        self._sessions: deque[str] = deque(maxlen=SESSIONS_MAX)
        self._checking = False
        subscriptions.decorate = self._decorate
        subscriptions.confirmed = self._confirmed
        subscriptions.released = self._released

    def position(self, name: str) -> Position | None:
        """Behind which publication of the channel this client is."""
        track = self._tracks.get(name)
        return None if track is None else Position(track.offset, track.epoch)

    # --- events ---------------------------------------------------------------------------------------------------

    def event(self, message: Message, now: float) -> None:
        """One event of the server."""
        # Fast path: a channel without history.
        if message.fields is None or kinds.OFFSET not in message.fields or message.flags & kinds.RETAINED:
            self._deliver(message)
            return
        track = self._tracks.get(message.name)
        if track is None:
            if self._subscriptions.listeners(message.name):
                self._track(message.name, message.get(kinds.EPOCH, ""), message.get(kinds.OFFSET), now)
            self._deliver(message)
        else:
            track.heard_at = now
            self._take(track, message, now)

    def left_out(self, now: float) -> None:
        """The server left out frames; whether events were among them is to be seen."""
        for track in self._tracks.values():
            self._check(track, now)

    def fresh(self, session: str, now: float) -> None:
        """There is a new session: what was under way is over, and everything may have a gap."""
        self._sessions.append(session)
        self._fills.fresh()
        for track in list(self._tracks.values()):
            track.stop_filling()
            track.away = True
            if not self._subscriptions.listeners(track.name):
                del self._tracks[track.name]

    def _track(self, name: str, epoch: str, offset: int, now: float) -> Track:
        if len(self._tracks) >= self._options.positions_max:
            self._drop(self._tracks[next(iter(self._tracks))])
        track = self._tracks[name] = Track(name, epoch, offset, now)
        if not self._checking and self._options.position_check_s > 0:
            self._checking = True
            self._deadlines.add(now + self._options.position_check_s, self._check_quiet)
        return track

    def _drop(self, track: Track) -> None:
        self._tracks.pop(track.name, None)
        for message in track.held:
            self._deliver(message)
        track.stop_filling()

    def _take(self, track: Track, message: Message, now: float) -> None:
        offset = message.get(kinds.OFFSET)
        epoch = message.get(kinds.EPOCH, "")
        if track.filling:
            if len(track.held) >= self._options.events_max:
                track.held.clear()
                track.again = True  # what is thrown away is fetched once more
            track.held.append(message)
        elif epoch != track.epoch and (track.offset or not track.epoch.startswith("-")):
            self._tell(track, False)  # the log that the position belongs to is lost
            track.epoch, track.offset = epoch, offset
            self._deliver(message)
        elif offset == track.offset + 1 or (offset > track.offset and not self._whole(track.name)):
            # The first publication gives a channel its epoch.
            track.epoch, track.offset = epoch, offset
            self._deliver(message)
        elif offset > track.offset:
            track.held = [message]
            self._fills.begin(track, now)

    def _whole(self, name: str) -> bool:
        """Whether some subscription gets every event of the channel."""
        return bool(self._subscriptions.chosen(name, lambda options: not options.tags and not options.max_rate))

    def _tell(self, track: Track, recovered: bool) -> None:
        track.away = False
        self._effects.append(Recovered(track.name, recovered))

    # --- subscribing ----------------------------------------------------------------------------------------------

    def _decorate(self, name: str, options: SubscribeOptions, first: bool) -> SubscribeOptions:
        """The options as they are sent. What is to be recovered is asked for once: later it is what was missed."""
        track = self._tracks.get(name)
        if first and (track is None or not track.away):
            return options
        since = Position(track.offset, track.epoch) if track is not None and first else None
        return msgspec.structs.replace(options, since=since, last=0, since_time=0, retained=False)

    def _confirmed(self, name: str, sent: SubscribeOptions, reply: Message, now: float) -> None:
        """The server's answer to a subscribe."""
        try:
            said = handshake.read(reply, Subscribed)
        except BadBody as error:
            raise RemoteProtocolError(str(error)) from None
        track = self._tracks.get(name)
        if said.offset is None:
            if track is not None and track.away:
                self._tell(track, False)
                self._drop(track)
            self._seen_through(name, now)
            return
        if track is None:
            track = self._track(name, said.epoch, said.offset, now)
        elif sent.since is not None or sent.last or sent.since_time:
            track.stop_filling()
            if track.away:
                self._tell(track, bool(said.recovered))
            track.epoch, track.offset, track.heard_at = said.epoch, said.offset, now
        elif track.partial and track.epoch == said.epoch and not track.filling:
            track.offset = max(track.offset, said.offset)  # what is before was left out on purpose
        track.partial = bool(sent.tags or sent.max_rate)

    def _released(self, pattern: str) -> None:
        """Nobody wants that name or pattern any more: what nobody hears of is not followed."""
        for track in [each for each in self._tracks.values() if matches(pattern, each.name)]:
            if not self._subscriptions.listeners(track.name):
                self._drop(track)

    def _seen_through(self, pattern: str, now: float) -> None:
        """The channels seen through a pattern that is subscribed again: ask for what they missed."""
        for track in self._tracks.values():
            if track.away and track.name not in self._subscriptions and matches(pattern, track.name):
                self._check(track, now)

    # --- asking for history ---------------------------------------------------------------------------------------

    def _check_quiet(self, now: float) -> None:
        """Time for the position check."""
        period_s = self._options.position_check_s
        self._checking = bool(self._tracks) and self._requests.closed is None
        if self._checking:
            self._deadlines.add(now + period_s, self._check_quiet)
            for track in self._tracks.values():
                if now - track.heard_at >= period_s:
                    track.heard_at = now
                    self._check(track, now)

    def _check(self, track: Track, now: float) -> None:
        if not track.filling and self._whole(track.name):
            self._fills.begin(track, now)

    def _page(self, track: Track, page: dict[int, Message], end: HistoryEnd, now: float) -> bool:
        """What the server has behind the position; whether to ask on."""
        found = [page[offset] for offset in sorted(page) if offset > track.offset]
        # A channel that had no publication has got its epoch with the first.
        begun = track.offset == 0 and track.epoch.startswith("-") and bool(found) and found[0].get(kinds.OFFSET) == 1
        trimmed = end.last > track.offset and end.first > track.offset + 1
        if (end.epoch != track.epoch and not begun) or trimmed or end.last < track.offset:
            self._lost(track, end.epoch, end.last, now)
            return False
        track.epoch = end.epoch
        for message in found:
            message.kind, message.seq = kinds.EVENT, 0
            message.flags &= ~kinds.MORE
            self._deliver(message)
        track.offset = end.next or end.last
        if end.next:
            return True
        if track.away:
            self._tell(track, True)
        self._resume(track, now)
        return False

    def _lost(self, track: Track, epoch: str, offset: int, now: float) -> None:
        """What is missing cannot be had: go on behind what is newest."""
        self._tell(track, False)
        known = {track.epoch: track.offset}
        known[epoch] = max(offset, known.get(epoch, 0))
        track.epoch, track.offset = epoch, known[epoch]
        if track.held:
            track.epoch = track.held[0].get(kinds.EPOCH, "")
            track.offset = max(known.get(track.epoch, 0), track.held[0].get(kinds.OFFSET) - 1)
        self._resume(track, now)

    def _resume(self, track: Track, now: float) -> None:
        """The gap is over: what was held back is next."""
        held, again = track.held, track.again
        track.stop_filling()
        for message in held:
            self._take(track, message, now)
        if again:
            self._check(track, now)

    def _deliver(self, message: Message) -> None:
        if message.flags & kinds.NO_ECHO and message.get(kinds.FROM_SESSION) in self._sessions:
            return  # this client's own, in an earlier session perhaps, and it asked not to be sent it
        tags = message.get(kinds.TAGS, {})
        # The subscription on the wire is everybody's: tags that not all of them want are looked at here.
        listeners = self._subscriptions.chosen(
            message.name, lambda options: not options.tags or options.tags.items() <= tags.items()
        )
        self._effects.append(Deliver(tuple(listeners), message))
