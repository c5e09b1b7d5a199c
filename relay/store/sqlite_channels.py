"""The writer's side of histories: offsets are given here, in the order of the appends, when the rows go in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from relay.config_store import Store
from relay.errors import Full, RelayError
from relay.records import Append
from relay.store.budget import OVERHEAD_BYTES
from relay.store.sqlite_keys import Keys
from relay.store.sqlite_names import ChannelRow, Names
from relay.store.sqlite_prune import ROWS_MAX, Coming, prune
from relay.store.sqlite_room import Room
from relay.store.sqlite_rows import Rows

_WRITE: Final = Rows("INSERT INTO publications (realm, channel, offset, at_ms, expires_ms, frame) VALUES {rows}", 6)
_RETAIN: Final = Rows("REPLACE INTO retained VALUES {rows}", 6)


class ChannelWriter:
    """Appends and purges. What an append needs is collected and goes to the file with ``flush``."""

    def __init__(self, connection: sqlite3.Connection, names: Names, keys: Keys, room: Room, options: Store) -> None:
        self._connection = connection
        self._names = names
        self._keys = keys
        self._room = room
        self._options = options
        self._rows: list[tuple[Any, ...]] = []  # Any: SQL values
        self._retained: dict[int, tuple[Any, ...]] = {}  # Any: as above
        self.over: dict[ChannelRow, None] = {}
        """Channels that keep more than they should, for trimming."""

    def keys_of(self, batch: Iterable[Append]) -> list[tuple[int, int, str]]:
        """The keys of ``batch`` that may be known, for ``Keys.look_up``."""
        wanted = []
        for each in batch:
            if each.key:
                channel = self._names.channel(each.realm, each.channel, 0)
                if channel is not None:
                    wanted.append((channel.realm.number, channel.number, each.key))
        return wanted

    def append(self, batch: Iterable[Append]) -> None:
        """As ``IHistory.append``; an item without an error is stored when the transaction is committed."""
        realms = self._names.realms
        budget = self._names.budget
        room = self._room
        rows = self._rows
        for each in batch:
            realm = realms.get(each.realm)
            channel = realm.channels.get(each.channel) if realm is not None else None
            frame = each.frame
            size = len(frame) + OVERHEAD_BYTES
            if channel is None:
                channel = self._find(each, size)
                if channel is None:
                    continue
            if each.key and self._repeated(channel, each):
                continue
            # Here and below: by far the most publications fit and are not retained.
            if room.bytes < size or budget.realm_bytes_max or each.retained:
                if not self._fits(channel, each, size):
                    continue
            if not channel.changed:
                self._names.touch_channel(channel)
            offset = each.offset = channel.last = channel.last + 1
            each.epoch = channel.epoch
            channel.kept += 1
            channel.bytes += len(frame)
            channel.used_ms = each.at_ms
            room.bytes -= size
            budget.add(each.realm, size)
            number = channel.number
            realm_number = channel.realm.number
            rows.append((realm_number, number, offset, each.at_ms, each.expires_ms, frame))
            retention = each.retention
            if retention is not channel.retention:
                channel.retention = retention
            if (retention.messages_max and channel.kept > retention.messages_max) or (
                retention.bytes_max and channel.bytes > retention.bytes_max
            ):
                self.over[channel] = None
            if each.key:
                self._keys.add(realm_number, number, each.key, offset, each.key_until_ms)
            if each.retained:
                self._retain(channel, each)

    def purge(self, realm: str, name: str) -> RelayError | None:
        """As ``IHistory.purge``."""
        self.flush()
        channel = self._names.channel(realm, name, 0)
        if channel is not None:
            self._names.forget_channel(channel, name)
            self.over.pop(channel, None)
        return None

    def flush(self) -> None:
        """Write what was collected."""
        if self._rows:
            _WRITE.run(self._connection, self._rows)
            self._rows.clear()
        if self._retained:
            _RETAIN.run(self._connection, list(self._retained.values()))
            self._retained.clear()

    def rolled_back(self) -> None:
        """Forget what was collected."""
        self._rows.clear()
        self._retained.clear()
        self.over.clear()

    def _find(self, append: Append, size: int) -> ChannelRow | None:
        """The channel of a publication, new if need be; None, with the error in ``append``, when it may not be."""
        names = self._names
        channel = names.channel(append.realm, append.channel, 0)
        if channel is not None:
            return channel
        refused = self._room.refuses(size) or names.budget.refuses(append.realm, size)
        if not refused:
            channel = names.channel(append.realm, append.channel, self._options.channels_max)
            if channel is not None:
                return channel
            refused = f"the store has {names.channels} channels, its limit"
        append.error = Full(refused)
        return None

    def _fits(self, channel: ChannelRow, append: Append, size: int) -> bool:
        """Whether there is room, after what the publication's coming pushes out of its channel."""
        if append.retained:
            size = 2 * size - channel.retained_bytes  # once in the history, once as the last value
        refused = self._room.refuses(size)
        if not refused:
            refused = self._names.budget.refuses(append.realm, size)
            if refused:
                self.flush()
                coming = Coming(append.retention, 1, len(append.frame), append.at_ms)
                prune(self._connection, self._names, channel, coming, ROWS_MAX)
                refused = self._names.budget.refuses(append.realm, size)
        if refused:
            append.error = Full(refused)
        return not refused

    def _repeated(self, channel: ChannelRow, append: Append) -> bool:
        offset = self._keys.find(channel.number, append.key, append.at_ms)
        if not offset:
            return False
        append.offset = offset
        append.epoch = channel.epoch
        append.repeated = True
        return True

    def _retain(self, channel: ChannelRow, append: Append) -> None:
        size = len(append.frame) + OVERHEAD_BYTES
        self._names.budget.add(channel.realm.name, size - channel.retained_bytes)
        self._room.bytes -= size
        channel.retained_bytes = size
        self._retained[channel.number] = (
            channel.realm.number, channel.number, append.offset, append.at_ms, append.expires_ms, append.frame
        )  # fmt: skip
