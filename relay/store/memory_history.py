"""Publications of channels in memory: one list for each channel, its offsets ascending.

::

    publications  [None None 7 8 9 11 12]        9 was followed by 10, which has expired
                   ╰ start ─╯                    what was trimmed at the front is cut off when it is half of the list

A publication stands there as its frame, or in the parts that its frame consists of: they are joined for who reads it,
which mostly nobody does. The sender's part is shared by all that came from one session, and the name by all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, ClassVar, Final

import msgspec
from zope.interface import implementer

from relay.config_store import Store
from relay.errors import Full, RelayError
from relay.interfaces import IEventHistory
from relay.records import Append, Page, Publication, Range, Retention
from relay.store.budget import OVERHEAD_BYTES, READ_BYTES_MAX, Budget
from relay.store.forgotten import SLOTS, slot
from relay.store.memory_keys import KeyMemory
from relay.wire import kinds
from relay.wire.binary import FIELD_SECTION_BYTES_MAX, HEADER_BYTES, NAME_BYTES_MAX, encode_frame, join_frame
from relay.wire.message import Message

EPOCH_BYTES: Final = 8
"""Random bits of an epoch: two logs of a channel never have the same one by chance."""
CUT_MIN: Final = 64
"""Places at the front of a list that are cut off together, at least."""
SWEEP_CHANNELS: Final = 2000
"""Channels that a step of trimming looks at: below a millisecond when there is nothing to do."""
SWEEP_MESSAGES: Final = 50_000
"""Publications that a step looks at because some have expired, after which it leaves the other channels to the next."""

SLACK_SHARE: Final = 8
SLACK_MAX: Final = 64
SLACK_BYTES_MAX: Final = 65_536
"""``keep`` lets an eighth more than the retention says stand in the list, at most so many and so much, before it cuts
it off together; nobody is shown it."""
UNLIMITED: Final = 1 << 63
FRAME_BYTES_BUT_BODY: Final = HEADER_BYTES + NAME_BYTES_MAX + FIELD_SECTION_BYTES_MAX

_OFFSET: Final = attrgetter("offset")
_AT: Final = attrgetter("at_ms")
_OFFSET_FIELD: Final = kinds.OFFSET
_EPOCH_FIELD: Final = kinds.EPOCH


class Parts(msgspec.Struct, frozen=True, gc=False):
    """A publication that was an event without fields. ``size`` is that of its frame; ``section``: the sender's."""

    offset: int
    at_ms: int
    size: int
    codec: int
    flags: int
    section: bytes
    body: bytes
    expires_ms: ClassVar[int] = 0

    def whole(self, name: bytes) -> Publication:
        """As it is read; ``name``: the channel's."""
        frame = join_frame(kinds.EVENT, name, self.body, self.codec, self.flags, self.section)
        return Publication(self.offset, self.at_ms, 0, frame)


class Channel:
    """One channel: ``number`` is unique in the store, ``kept`` and ``bytes`` are of what stands from ``start`` on."""

    __slots__ = (
        "bytes", "bytes_most", "epoch", "expires_next_ms", "head_bytes", "last", "name", "number", "publications",
        "realm", "retained", "retention", "room", "slack", "start", "used_ms",
    )  # fmt: skip

    def __init__(self, realm: str, name: str, number: int, epoch: str) -> None:
        self.realm = realm
        self.name = name
        self.number = number
        self.epoch = epoch
        self.last = 0
        self.publications: list[Any] = []  # Any: Publications and Parts, and None before start
        self.start = 0
        self.bytes = 0
        self.head_bytes = HEADER_BYTES + len(name.encode())
        self.retention = Retention()
        self.slack = SLACK_MAX  # of the retention
        self.bytes_most = UNLIMITED  # likewise, slack included
        self.room = 0  # publications that may come before the retention is looked at again
        self.retained: Publication | None = None
        self.expires_next_ms = 0  # when the first of those that expire does; 0: none does
        self.used_ms = 0

    @property
    def kept(self) -> int:
        """How many publications there are."""
        return len(self.publications) - self.start

    @property
    def size(self) -> int:
        """What the channel counts for, its retained value apart."""
        return self.bytes + self.kept * OVERHEAD_BYTES

    def limit(self, retention: Retention) -> None:
        """Keep so much from now on."""
        self.retention = retention
        most, bytes_max = retention.messages_max, retention.bytes_max
        self.slack = min(most // SLACK_SHARE, SLACK_MAX) if most else SLACK_MAX
        self.bytes_most = bytes_max + min(bytes_max // SLACK_SHARE, SLACK_BYTES_MAX) if bytes_max else UNLIMITED
        self.room = 0

    def drop_first(self) -> int:
        """Take the oldest publication away; its size as it is counted."""
        publications = self.publications
        start = self.start
        size: int = publications[start].size
        publications[start] = None
        self.start = start = start + 1
        if start >= CUT_MIN and start * 2 >= len(publications):
            del publications[:start]
            self.start = 0
        self.bytes -= size
        return size + OVERHEAD_BYTES

    def trim(self, retention: Retention, more: int, more_bytes: int, now_ms: int) -> int:
        """Take away what is over ``retention`` once ``more`` publications of ``more_bytes`` are added; what that
        counted for."""
        freed = 0
        if retention.messages_max:
            over = min(self.kept, self.kept + more - retention.messages_max)
            if over > 0:
                freed += self._drop(over)
        if retention.bytes_max:
            while self.kept and self.bytes + more_bytes > retention.bytes_max:
                freed += self.drop_first()
        if retention.age_ms_max:
            oldest_ms = now_ms - retention.age_ms_max
            while self.kept and self.publications[self.start].at_ms < oldest_ms:
                freed += self.drop_first()
        return freed

    def _drop(self, count: int) -> int:
        """Take the oldest ``count`` publications away together."""
        publications = self.publications
        start = self.start
        end = start + count
        size: int = sum([each.size for each in publications[start:end]])
        if end * 2 >= len(publications):
            del publications[:end]
            self.start = 0
        else:
            publications[start:end] = [None] * count
            self.start = end
        self.bytes -= size
        return size + count * OVERHEAD_BYTES

    def drop_expired(self, now_ms: int) -> int:
        """Take away what has expired, wherever it stands; what that counted for."""
        before = self.size
        kept = [each for each in islice(self.publications, self.start, None) if not 0 < each.expires_ms <= now_ms]
        self.publications = kept
        self.start = 0
        self.bytes = sum(each.size for each in kept)
        self.expires_next_ms = min((each.expires_ms for each in kept if each.expires_ms), default=0)
        return before - self.size


@implementer(IEventHistory)
class MemoryHistory:
    """``IEventHistory`` in memory. ``Full`` when the store, the realm or the number of channels is at its limit."""

    def __init__(
        self, options: Store, budget: Budget, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._options = options
        self._budget = budget
        # Below it anything fits that has no longer body; with limits of realms each is looked at.
        self._bytes_near = -1 if budget.realm_bytes_max else budget.bytes_max - FRAME_BYTES_BUT_BODY - OVERHEAD_BYTES
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._realms: dict[str, dict[str, Channel]] = {}
        self._channels = 0
        self._next_number = 1
        self._keys = KeyMemory(options.keys_max)
        self._sweeping: Iterator[Channel] = iter(())
        self._forgotten = [0] * SLOTS

    # --- IHistory -------------------------------------------------------------------------------------------------

    def append(self, batch: Sequence[Append], done: Callable[[Sequence[Append]], None]) -> None:
        """As ``IHistory``."""
        realms = self._realms
        budget = self._budget
        for each in batch:
            channels = realms.get(each.realm)
            channel = channels.get(each.channel) if channels is not None else None
            if channel is None:
                channel = self._begin(each)
                if channel is None:
                    continue
            if each.key and self._repeated(channel, each):
                continue
            frame = each.frame
            size = len(frame) + OVERHEAD_BYTES
            retention = each.retention
            # Here and below: by far the most publications fit, are not retained and do not expire.
            if budget.bytes + size > budget.bytes_max or budget.realm_bytes_max or each.retained:
                if not self._room(channel, each, size):
                    continue
            offset = channel.last + 1
            publications = channel.publications
            publication = Publication(offset, each.at_ms, each.expires_ms, frame)
            publications.append(publication)
            channel.last = offset
            channel.used_ms = each.at_ms
            channel.bytes += size - OVERHEAD_BYTES
            each.offset = offset
            each.epoch = channel.epoch
            if each.expires_ms or each.key or each.retained:
                self._seldom(channel, each, publication)
            if retention is not channel.retention:
                channel.limit(retention)
            if retention.messages_max and len(publications) - channel.start > retention.messages_max:
                size -= channel.drop_first()
            if (
                (retention.bytes_max and channel.bytes > retention.bytes_max)
                or (retention.age_ms_max and publications[channel.start].at_ms < each.at_ms - retention.age_ms_max)
                or (retention.messages_max and len(publications) - channel.start > retention.messages_max)
            ):
                size -= channel.trim(retention, 0, 0, each.at_ms)
            if size:
                budget.add(each.realm, size)
        done(batch)

    def keep(self, realm: str, event: Message, at_ms: int, retention: Retention) -> None:
        """As ``IEventHistory``: ``append`` for what nearly all publications in memory are."""
        channels = self._realms.get(realm)
        channel = channels.get(event.name) if channels is not None else None
        budget = self._budget
        body = event.body
        # By far the most publications fit, into a channel that is known with its limits.
        if channel is None or channel.retention is not retention or budget.bytes + len(body) > self._bytes_near:
            self._keep_with_care(realm, event, at_ms, retention)
            return
        sender = event.sender
        section = b"" if sender is None else sender.binary
        size = channel.head_bytes + len(section) + len(body)
        offset = channel.last + 1
        channel.publications.append(Parts(offset, at_ms, size, event.codec, event.flags, section, body))
        channel.last = offset
        channel.used_ms = at_ms
        held = channel.bytes + size
        channel.bytes = held
        counted = size + OVERHEAD_BYTES
        budget.bytes += counted
        try:
            budget.realms[realm] += counted
        except KeyError:  # all that it held has expired or was trimmed
            budget.realms[realm] = counted
        event.fields = {_OFFSET_FIELD: offset, _EPOCH_FIELD: channel.epoch}
        room = channel.room
        if room and held <= channel.bytes_most:
            channel.room = room - 1
        else:
            channel.room = channel.slack
            budget.add(realm, -channel.trim(retention, 0, 0, at_ms))

    def read(self, wanted: Range, done: Callable[[Page], None]) -> None:
        """As ``IHistory``."""
        channel = self._realms.get(wanted.realm, {}).get(wanted.channel)
        if channel is None:
            done(Page("", 1, 0, forgotten=self._forgotten[slot(wanted.realm, wanted.channel)]))
            return
        now_ms = self._now_ms()
        self._budget.add(wanted.realm, -channel.trim(channel.retention, 0, 0, now_ms))
        publications = channel.publications
        first = next((each.offset for each in self._live(channel, channel.start, now_ms)), channel.last + 1)
        retained = channel.retained
        if retained is not None and 0 < retained.expires_ms <= now_ms:
            retained = None
        low = bisect_right(publications, wanted.after, channel.start, key=_OFFSET)
        if wanted.since_ms:
            low = max(low, bisect_left(publications, wanted.since_ms, channel.start, key=_AT))
        high = len(publications)
        if wanted.before:
            high = bisect_left(publications, wanted.before, channel.start, key=_OFFSET)
        name = channel.name.encode()
        places = range(high - 1, low - 1, -1) if wanted.backwards else range(low, high)
        found: list[Publication] = []
        room = wanted.bytes_max or READ_BYTES_MAX
        for place in places:
            if len(found) >= wanted.limit or room <= 0:
                break
            each = publications[place]
            if not 0 < each.expires_ms <= now_ms:
                room -= each.size
                found.append(each if type(each) is Publication else each.whole(name))
        forgotten = 0 if wanted.after else self._forgotten[slot(wanted.realm, wanted.channel)]
        done(Page(channel.epoch, first, channel.last, tuple(found), retained, None, forgotten))

    def purge(self, realm: str, channel: str, done: Callable[[RelayError | None], None]) -> None:
        """As ``IHistory``."""
        found = self._realms.get(realm, {}).get(channel)
        if found is not None:
            self._forget(found)
        done(None)

    # --- trimming -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove what is too old or has expired from the next few channels, and channels that were idle for long."""
        now_ms = self._now_ms()
        self._keys.sweep(now_ms, self._options.trim_rows)
        left = SWEEP_MESSAGES
        idle_ms = now_ms - int(self._options.channel_idle_s * 1000)
        for _ in range(SWEEP_CHANNELS):
            channel = next(self._sweeping, None)
            if channel is None:
                self._sweeping = iter([each for channels in self._realms.values() for each in channels.values()])
                return
            if channel.expires_next_ms and channel.expires_next_ms <= now_ms:
                left -= channel.kept
                self._budget.add(channel.realm, -channel.drop_expired(now_ms))
            self._budget.add(channel.realm, -channel.trim(channel.retention, 0, 0, now_ms))
            retained = channel.retained
            if retained is not None and 0 < retained.expires_ms <= now_ms:
                self._retain(channel, None)
            if not channel.kept and channel.retained is None and channel.used_ms < idle_ms:
                self._forget(channel)
            if left <= 0:
                return

    # --- seldom ---------------------------------------------------------------------------------------------------

    def _begin(self, append: Append) -> Channel | None:
        """A channel's first publication; None, with the error in ``append``, when there are too many channels."""
        if self._channels >= self._options.channels_max:
            append.error = Full(f"the store has {self._channels} channels, its limit")
            return None
        refused = self._budget.refuses(append.realm, len(append.frame) + OVERHEAD_BYTES)
        if refused:
            append.error = Full(refused)
            return None
        channel = Channel(append.realm, append.channel, self._next_number, self._random_bytes(EPOCH_BYTES).hex())
        self._next_number += 1
        self._channels += 1
        self._realms.setdefault(append.realm, {})[append.channel] = channel
        return channel

    def _keep_with_care(self, realm: str, event: Message, at_ms: int, retention: Retention) -> None:
        """``keep`` for the first of a channel, and where there may be no room."""
        append = Append(realm, event.name, encode_frame(event), at_ms, retention)
        self.append((append,), _nothing)
        if append.error is not None:
            raise append.error
        event.fields = {kinds.OFFSET: append.offset, kinds.EPOCH: append.epoch}

    def _forget(self, channel: Channel) -> None:
        channels = self._realms[channel.realm]
        if channels.get(channel.name) is not channel:
            return
        del channels[channel.name]
        if not channels:
            del self._realms[channel.realm]
        self._channels -= 1
        self._forgotten[slot(channel.realm, channel.name)] += 1
        self._retain(channel, None)
        self._budget.add(channel.realm, -channel.size)
        channel.publications, channel.start, channel.bytes = [], 0, 0  # a sweep may still meet it

    def _repeated(self, channel: Channel, append: Append) -> bool:
        offset = self._keys.find(channel.number, append.key, append.at_ms)
        if not offset:
            return False
        append.offset = offset
        append.epoch = channel.epoch
        append.repeated = True
        return True

    def _room(self, channel: Channel, append: Append, size: int) -> bool:
        """Whether it fits, after what its coming pushes out of its channel."""
        if append.retained:
            size *= 2  # once in the history, once as the last value
            if channel.retained is not None:
                size -= len(channel.retained.frame) + OVERHEAD_BYTES
        refused = self._budget.refuses(append.realm, size)
        if refused:
            freed = channel.trim(append.retention, 1, len(append.frame), append.at_ms)
            self._budget.add(append.realm, -freed)
            refused = self._budget.refuses(append.realm, size)
        if refused:
            append.error = Full(refused)
        return not refused

    def _seldom(self, channel: Channel, append: Append, publication: Publication) -> None:
        """What only some publications have."""
        expires_ms = append.expires_ms
        if expires_ms and (not channel.expires_next_ms or expires_ms < channel.expires_next_ms):
            channel.expires_next_ms = expires_ms
        if append.key:
            self._keys.add(channel.number, append.key, publication.offset, append.key_until_ms)
        if append.retained:
            self._retain(channel, publication)

    def _retain(self, channel: Channel, publication: Publication | None) -> None:
        if channel.retained is not None:
            self._budget.add(channel.realm, -len(channel.retained.frame) - OVERHEAD_BYTES)
        if publication is not None:
            self._budget.add(channel.realm, len(publication.frame) + OVERHEAD_BYTES)
        channel.retained = publication

    @staticmethod
    def _live(channel: Channel, start: int, now_ms: int) -> Iterator[Publication]:
        return (each for each in islice(channel.publications, start, None) if not 0 < each.expires_ms <= now_ms)


def _nothing(batch: Sequence[Append]) -> None:
    """The batch is filled in; there is nothing to be told."""
