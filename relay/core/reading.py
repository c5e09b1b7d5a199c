"""``history``: a page of a channel's publications, on request.

    history {after, before, since_time, limit, backwards, epoch, tags}
    ◀ reply more   one per publication: its body, codec and fields, with ``offset``, ``epoch``, ``accepted_at``
    ◀ reply        {epoch, first, last, next}; ``next`` ≠ 0: ask again with it as ``after`` (backwards: ``before``)

One request is one page, at most ``history.page_messages_max`` and ``page_bytes_max``: whoever wants more asks again, so
that neither the node nor a slow reader has more than a page at once. Whoever may subscribe to a channel may read it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from relay import errors
from relay.core.histories import event_of
from relay.core.selection import has_tags
from relay.records import Page, Range
from relay.wire import kinds
from relay.wire.handshake import HistoryEnd, HistoryOptions, read, write
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.histories import Histories, Plan
    from relay.core.hub import Hub
    from relay.core.recovery import Turns
    from relay.core.session import Session


class Reading:
    """The router's part for history."""

    def __init__(self, hub: Hub, histories: Histories, turns: Turns) -> None:
        self._hub = hub
        self._histories = histories
        self._turns = turns
        self._under_way: dict[Session, int] = {}

    def history(self, session: Session, message: Message) -> None:
        """Answer one request."""
        options = read(message, HistoryOptions)
        name = message.name
        if not message.seq:
            raise errors.BadBody("history needs a seq")
        plan = self._histories.plan(name)
        if not session.identity.permissions.allows("subscribe", name):
            raise errors.Denied(f"history of {name}")
        if plan is None:
            raise errors.Unsupported(f"channel {name} keeps no history")
        store = self._histories.store(plan)
        limits = self._hub.config.history
        under_way = self._under_way.get(session, 0)
        if under_way >= limits.reads_per_session_max:
            raise errors.RateExceeded(f"{limits.reads_per_session_max} requests for history at once are the limit")
        if options.tags is not None and len(options.tags) > limits.tags_max:
            raise errors.LimitExceeded(f"{limits.tags_max} tags are the limit")
        self._under_way[session] = under_way + 1
        wanted = Range(
            session.realm.name, name, options.after, options.before, options.since_time,
            min(options.limit, limits.page_messages_max), limits.page_bytes_max, options.backwards,
        )  # fmt: skip

        def begin() -> None:
            if session.ended:
                self._done(session)
            else:
                store.read(wanted, done)

        def done(page: Page) -> None:
            self._done(session)
            if page.error is not None:
                self._hub.refuse(session, message, page.error)
            else:
                epoch = page.epoch or self._histories.beginning(plan, page)
                self._send(session, message.seq, plan, wanted, options, msgspec.structs.replace(page, epoch=epoch))

        self._turns.take(begin)

    def _done(self, session: Session) -> None:
        self._turns.give()
        left = self._under_way[session] - 1
        if left:
            self._under_way[session] = left
        else:
            del self._under_way[session]

    def _send(
        self, session: Session, seq: int, plan: Plan, wanted: Range, options: HistoryOptions, page: Page
    ) -> None:
        end = HistoryEnd(page.epoch, page.first, page.last)
        # Positions of another epoch mean nothing in this one: nothing but the ends is told.
        known = ("", page.epoch, self._histories.beginning(plan, page)) if not options.after else ("", page.epoch)
        if options.epoch in known:
            tags = tuple((options.tags or {}).items())
            now_ms = int(self._hub.wall() * 1000)
            for each in page.publications:
                event = event_of(each, page.epoch, now_ms)
                if tags and not has_tags(event, tags):
                    continue
                event.kind, event.seq = kinds.REPLY, seq
                event.flags |= kinds.MORE
                # What cannot be undone could when it was stored; the limits have changed since.
                with contextlib.suppress(errors.FilterError):
                    event = self._hub.fit(event, session)
                session.send(event)
            end = msgspec.structs.replace(end, next=_next(wanted, page))
        session.send(write(kinds.REPLY, end, seq))


def _next(wanted: Range, page: Page) -> int:
    """Where the next page begins; 0 when there is none."""
    if not page.publications:
        return 0
    last = page.publications[-1].offset
    if wanted.backwards:
        return last if last > max(page.first, wanted.after + 1) else 0
    end = page.last if not wanted.before else min(page.last, wanted.before - 1)
    return last if last < end else 0
