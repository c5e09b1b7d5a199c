"""What the server must know as long as the client lives: subscriptions and registrations.

Several local listeners of one name share one entry here and one subscription on the wire. An entry:

    wanted   listeners with their options, merged: what the server should know
    asked    the request under way, if any, and whom its answer is for
    known    the merged options that the server has confirmed in this session, or None

and moves ``known`` to ``wanted``, one request at a time. A new session sets ``known`` to None for all entries and asks
again; the listeners notice only when that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from relay.client.deadlines import Deadline, Deadlines
from relay.client.effects import Effect, Ended, Reject, Resolve
from relay.client.options import ClientOptions
from relay.client.requests import Request, Requests
from relay.errors import ConnectionClosed, DeadlineExceeded, NotFound, RelayError
from relay.wire import handshake, kinds
from relay.wire.message import Message
from relay.wire.names import PatternTable

Options = TypeVar("Options", handshake.SubscribeOptions, handshake.RegisterOptions)


class _Wanted(msgspec.Struct, Generic[Options], eq=False):
    listener: Any  # Any: an object of the shell
    options: Options
    pending: Deadline | None = None  # until the first confirmation or refusal


class _Entry(msgspec.Struct, Generic[Options], eq=False):
    name: str
    wanted: dict[Any, _Wanted[Options]] = {}
    known: Options | None = None
    request: Request | None = None
    asked: Options | None = None
    covers: tuple[_Wanted[Options], ...] = ()


def rank(pattern: str) -> tuple[bool, int, bool]:
    """Orders patterns that match the same name: plain names first, then more literal segments, then ``*`` before
    ``**`` (``docs/protocol.md`` section 4, "Providers")."""
    segments = pattern.split(".")
    literal = sum(segment not in ("*", "**") for segment in segments)
    return literal == len(segments), literal, segments[-1] != "**"


def merge_subscriptions(options: list[handshake.SubscribeOptions]) -> handshake.SubscribeOptions:
    """The one subscription that serves all: presence if one wants it, the latest role and info given, tags where all
    agree, the highest rate. What is to be recovered is the first one's wish."""
    first = options[0]
    rates = [each.max_rate for each in options]
    return handshake.SubscribeOptions(
        any(each.presence for each in options),
        next((each.role for each in reversed(options) if each.role), ""),
        next((each.info for each in reversed(options) if each.info is not None), None),
        first.since,
        first.last,
        first.since_time,
        first.retained,
        first.tags if all(each.tags == first.tags for each in options) else None,
        max(rates) if all(rates) else 0,
        all(rates) and all(each.latest for each in options),
    )


def latest_registration(options: list[handshake.RegisterOptions]) -> handshake.RegisterOptions:
    """Registrations are not shared: there is one."""
    return options[-1]


class Interests(Generic[Options]):
    """All subscriptions (``kinds.SUBSCRIBE``, ``kinds.UNSUBSCRIBE``) or all registrations of one client.

    A listener is its own waiter: ``Resolve`` and ``Reject`` are the first answer, ``Ended`` comes later, at most once.
    """

    def __init__(
        self,
        join_kind: int,
        leave_kind: int,
        merge: Callable[[list[Options]], Options],
        requests: Requests,
        deadlines: Deadlines,
        options: ClientOptions,
        effects: list[Effect],
    ) -> None:
        self._join_kind = join_kind
        self._leave_kind = leave_kind
        self._merge: Callable[[list[Options]], Options] = merge
        self._requests = requests
        self._deadlines = deadlines
        self._timeout_s = options.request_timeout_s
        self._effects = effects
        self._entries: dict[str, _Entry[Options]] = {}
        self._table: PatternTable[_Entry[Options]] = PatternTable()
        self.decorate: Callable[[str, Options, bool], Options] | None = None
        """What is sent for the merged options; the flag: this session has not heard of them yet."""
        self.confirmed: Callable[[str, Options, Message, float], None] | None = None
        """Hears what was sent and the server's answer."""
        self.released: Callable[[str], None] | None = None
        """Hears of names and patterns that nobody wants any more."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def listeners(self, name: str) -> list[Any]:  # Any: objects of the shell
        """All listeners whose name or pattern ``name`` belongs to, each once."""
        return [listener for entry in self._table.match(name) for listener in entry.wanted]

    def chosen(self, name: str, wants: Callable[[Options], bool]) -> list[Any]:  # Any: as above
        """Those of :meth:`listeners` whose options are as ``wants`` says."""
        found = (each for entry in self._table.match(name) for each in entry.wanted.values())
        return [each.listener for each in found if wants(each.options)]

    def best(self, name: str) -> Any:  # Any: as above
        """The listener of the name itself, else of the pattern with the most literal segments, else None."""
        found = self._table.match(name)
        return next(iter(max(found, key=lambda entry: rank(entry.name)).wanted)) if found else None

    @property
    def pending(self) -> bool:
        """Whether anybody waits for a first answer."""
        return any(entry.request is not None for entry in self._entries.values())

    def join(self, name: str, listener: Any, options: Options, now: float) -> None:  # Any: as above
        """Add ``listener``. Raises ``ConnectionClosed`` when the client is closed."""
        if self._requests.closed is not None:
            raise self._requests.closed
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(name)
            self._table.add(name, entry)
        pending = self._deadlines.add(now + self._timeout_s, lambda now: self._expire(name, listener, now))
        entry.wanted[listener] = _Wanted(listener, options, pending)
        self._pursue(entry, now)

    def leave(self, name: str, listener: Any, waiter: Any, now: float) -> None:  # Any: as above
        """Remove ``listener``; ``waiter`` (or None) hears when the server has been told, if it has to be."""
        entry = self._entries.get(name)
        if entry is None or listener not in entry.wanted:
            if waiter is not None:
                self._effects.append(Resolve(waiter, None))
            return
        self._remove(entry, listener)
        if not entry.wanted:
            self._release(entry, waiter, now)
        elif waiter is not None:
            self._effects.append(Resolve(waiter, None))

    def renewed(self, now: float) -> None:
        """There is a new session, which knows nothing."""
        for entry in list(self._entries.values()):
            entry.known = entry.request = None
            entry.covers = ()
            self._pursue(entry, now)

    def release_all(self, now: float) -> None:
        """Tell the server that nothing is wanted any more, without waiting; listeners stay until :meth:`close`."""
        for entry in self._entries.values():
            if entry.known is not None:
                entry.known = None
                self._ask_release(entry.name, None, now)

    def close(self, error: RelayError | None) -> None:
        """The client is closed: every listener ends."""
        for entry in self._entries.values():
            for wanted in entry.wanted.values():
                if wanted.pending is not None:
                    wanted.pending.cancel()
                    refusal = ConnectionClosed("the client is closed" + (f": {error}" if error is not None else ""))
                    self._effects.append(Reject(wanted.listener, refusal))
                else:
                    self._effects.append(Ended(wanted.listener, error))
        self._entries = {}
        self._table = PatternTable()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _pursue(self, entry: _Entry[Options], now: float) -> None:
        if entry.request is not None or not entry.wanted:
            return
        merged = self._merge([each.options for each in entry.wanted.values()])
        new = tuple(each for each in entry.wanted.values() if each.pending is not None)
        if merged == entry.known and not (new and getattr(merged, "presence", False)):
            for each in new:
                self._confirm(each, None)
            return
        entry.asked = merged
        entry.covers = tuple(entry.wanted.values()) if entry.known is None else new
        sent = merged if self.decorate is None else self.decorate(entry.name, merged, entry.known is None)
        message = handshake.write(self._join_kind, sent, name=entry.name)
        entry.request = self._requests.ask(
            message, None, now, timeout_s=float("inf"), fate="drop", forced=True,
            answer=lambda result, now: self._answered(entry, sent, result, now),
        )  # fmt: skip

    def _answered(
        self, entry: _Entry[Options], sent: Options, result: Message | RelayError, now: float
    ) -> None:
        covers, entry.covers = entry.covers, ()
        entry.request = None
        here = [each for each in covers if entry.wanted.get(each.listener) is each]
        if isinstance(result, Message):
            entry.known = entry.asked
            if self.confirmed is not None:
                self.confirmed(entry.name, sent, result, now)
            for each in here:
                if each.pending is not None:
                    self._confirm(each, result)
        else:
            for each in here:
                self._refuse(entry, each, result)
            if not here:
                entry.known = entry.asked  # an option that nobody needs could not be taken back: let it be
        if entry.wanted:
            self._pursue(entry, now)
        elif self._entries.get(entry.name) is entry:
            self._release(entry, None, now)

    def _confirm(self, wanted: _Wanted[Options], reply: Message | None) -> None:
        assert wanted.pending is not None
        wanted.pending.cancel()
        wanted.pending = None
        self._effects.append(Resolve(wanted.listener, reply))

    def _refuse(self, entry: _Entry[Options], wanted: _Wanted[Options], error: RelayError) -> None:
        first = wanted.pending is not None
        self._remove(entry, wanted.listener)
        self._effects.append(Reject(wanted.listener, error) if first else Ended(wanted.listener, error))

    def _remove(self, entry: _Entry[Options], listener: Any) -> None:  # Any: an object of the shell
        wanted = entry.wanted.pop(listener)
        if wanted.pending is not None:
            wanted.pending.cancel()

    def _release(self, entry: _Entry[Options], waiter: Any, now: float) -> None:  # Any: an object of the shell
        """The last listener of ``entry`` is gone."""
        del self._entries[entry.name]
        self._table.remove(entry.name, entry)
        if self.released is not None:
            self.released(entry.name)
        told = entry.known is not None
        if entry.request is not None:
            told = not self._requests.forget(entry.request) or told
            entry.request = None
        if told:
            self._ask_release(entry.name, waiter, now)
        elif waiter is not None:
            self._effects.append(Resolve(waiter, None))

    def _ask_release(self, name: str, waiter: Any, now: float) -> None:  # Any: an object of the shell
        def answered(result: Message | RelayError, now: float) -> None:
            if waiter is None:
                return
            if isinstance(result, RelayError) and not isinstance(result, NotFound):
                self._effects.append(Reject(waiter, result))
            else:
                self._effects.append(Resolve(waiter, None))

        message = Message(self._leave_kind, name)
        self._requests.ask(message, waiter, now, fate="done", answer=answered, forced=True)

    def _expire(self, name: str, listener: Any, now: float) -> None:  # Any: an object of the shell
        entry = self._entries[name]
        wanted = entry.wanted[listener]
        sent = entry.request is not None and entry.request.outgoing.sent
        wanted.pending = None
        self._remove(entry, listener)
        error = DeadlineExceeded("no answer in time", outcome="unknown" if sent else "not_done")
        self._effects.append(Reject(listener, error))
        if not entry.wanted:
            self._release(entry, None, now)


def subscriptions(
    requests: Requests, deadlines: Deadlines, options: ClientOptions, effects: list[Effect]
) -> Interests[handshake.SubscribeOptions]:
    """The table of subscriptions."""
    return Interests(kinds.SUBSCRIBE, kinds.UNSUBSCRIBE, merge_subscriptions, requests, deadlines, options, effects)


def registrations(
    requests: Requests, deadlines: Deadlines, options: ClientOptions, effects: list[Effect]
) -> Interests[handshake.RegisterOptions]:
    """The table of registrations."""
    return Interests(kinds.REGISTER, kinds.UNREGISTER, latest_registration, requests, deadlines, options, effects)
