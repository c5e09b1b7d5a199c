"""Subscribing to a channel that keeps history: what was missed is sent first, then what is live, nothing twice.

    queued ──(a turn is free)──▶ first read ─┬─ not to be had: reply recovered: false ──▶ live
                                             └─ reply recovered: true
                                                    │
           ┌────────────────────────────────────────▼
           │ a page is sent ──(the peer took it)──▶ read the next
           └──────────┬─────────────────────────────┘
                      ▼ the newest is reached
           what came live since the last read, without what was sent ──▶ live

The session is a member from the beginning; ``selection.choose`` gives the recovery its live events. They are kept from
the beginning of each read on, and thrown away by the next: the history has them. So a recovery needs the memory of a
page and of the events that come during one read, however much was missed.

The decision ``recovered`` is made by the first read and holds for all that follows. When a later read cannot keep it
(the history was trimmed meanwhile, the store fails), the session is closed with a reason to come back: the client asks
again from where it is, and gets a true answer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from relay import errors
from relay.core.histories import event_of, is_own
from relay.core.selection import has_tags, reconsider
from relay.core.session import kept_bytes
from relay.records import Page, Range
from relay.wire import kinds
from relay.wire.handshake import Subscribed, write
from relay.wire.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.channels import Subscription
    from relay.core.histories import Histories, Plan
    from relay.core.hub import Hub
    from relay.core.session import Session
    from relay.interfaces import IHistory

PEER_WAIT_S_MIN: Final = 0.002
"""A peer that has not taken a page is looked at after this, and then after twice as long each time …"""
PEER_WAIT_S_MAX: Final = 0.128
"""… but not seldomer than this."""


class Turns:
    """At most ``history.recoveries_max`` readers at once; the others wait in order."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._active = 0
        self._queue: deque[Callable[[], None]] = deque()

    def take(self, begin: Callable[[], None]) -> None:
        """``begin()`` now or when it is its turn; ``give`` follows, once."""
        if self._active < self._hub.config.history.recoveries_max:
            self._active += 1
            begin()
        else:
            self._queue.append(begin)

    def give(self) -> None:
        """A reader is done."""
        if self._queue:
            self._hub.clock.callLater(0, self._queue.popleft())
        else:
            self._active -= 1


class Recovery:
    """One subscribe to a kept channel, from its arrival until its subscription is live. ``answer``: what else the
    reply says; ``part``: ends a subscription that is refused after all."""

    __slots__ = (
        "_answer", "_cancelled", "_epoch", "_histories", "_hub", "_live", "_part", "_plan", "_position", "_replied",
        "_seq", "_session", "_store", "_subscription", "_turns", "_wait_s", "live_bytes",
    )  # fmt: skip

    def __init__(
        self,
        histories: Histories,
        turns: Turns,
        part: Callable[[Session, str], object],
        plan: Plan,
        session: Session,
        subscription: Subscription,
        seq: int,
        answer: dict[str, object],
    ) -> None:
        self._hub: Hub = session.hub
        self._histories = histories
        self._turns = turns
        self._part = part
        self._plan = plan
        self._store: IHistory = histories.store(plan)
        self._session = session
        self._subscription = subscription
        self._seq = seq
        self._answer = answer
        self._position = 0
        self._epoch = ""
        # None: too much came, or nothing is to be kept yet; what is live is read from the history later.
        self._live: list[tuple[int, Message]] | None = None
        self.live_bytes = 0
        """Of the live events that are kept."""
        self._replied = False
        self._cancelled = False
        self._wait_s = PEER_WAIT_S_MIN

    def begin(self) -> None:
        """Wait for a turn, then read."""
        self._subscription.recovery = self
        reconsider(self._session, self._subscription)
        self._turns.take(self._first)

    def offer(self, event: Message, offset: int) -> None:
        """A live event of the channel."""
        if self._live is not None:
            self.live_bytes += kept_bytes(event)
            if self.live_bytes > self._hub.config.history.live_bytes_max:
                self._live = None
            else:
                self._live.append((offset, event))

    def cancel(self) -> None:
        """The subscription is over, or begins anew with other options."""
        self._cancelled = True
        self._live = None
        if not self._replied:
            self._replied = True
            error = errors.Cancelled("the subscription ended, or began anew, before its history was read")
            error.outcome = "not_done"
            self._hub.refuse(self._session, Message(kinds.SUBSCRIBE, self._name, seq=self._seq), error)

    @property
    def _name(self) -> str:
        return self._subscription.channel.name

    # --- reading --------------------------------------------------------------------------------------------------

    def _range(self, after: int = 0, since_ms: int = 0, limit: int | None = None) -> Range:
        limits = self._hub.config.history
        most = limits.page_messages_max if limit is None else limit
        return Range(self._session.realm.name, self._name, after, 0, since_ms, most, limits.page_bytes_max)

    def _read(self, wanted: Range, then: Callable[[Page], None]) -> None:
        if self._cancelled or self._session.ended:
            self._turns.give()
            return
        self._live = []
        self.live_bytes = 0

        def done(page: Page) -> None:
            if self._cancelled or self._session.ended:
                self._turns.give()
            elif page.error is not None:
                self._fail(page.error)
            else:
                then(page)

        self._store.read(wanted, done)

    def _first(self) -> None:
        options = self._subscription.options
        if options.since is not None:
            self._read(self._range(options.since.offset), self._since)
        elif options.since_time:
            self._read(self._range(since_ms=options.since_time), self._since_time)
        else:
            self._read(self._range(limit=0), self._ends)

    def _since(self, page: Page) -> None:
        since = self._subscription.options.since
        assert since is not None
        begun = since.epoch == page.epoch or (since.offset == 0 and since.epoch == self._beginning(page))
        missed = page.last - since.offset
        whole = page.epoch == "" or page.first <= since.offset + 1
        most = self._hub.config.history.recovery_messages_max
        # A channel without publications has no epoch: whoever knows one, knows a log that is lost.
        if begun and page.epoch == "":
            begun = since.offset == 0
        if begun and whole and 0 <= missed <= most:
            self._reply(True, since.offset, page)
        else:
            self._reply(False, page.last, page)

    def _beginning(self, page: Page) -> str:
        return self._histories.beginning(self._plan, page)

    def _since_time(self, page: Page) -> None:
        found = page.publications
        first = found[0].offset if found else page.last + 1
        # Whether something younger was trimmed can be told only when something older is still there.
        whole = page.first <= 1 or first > page.first
        if whole and page.last + 1 - first <= self._hub.config.history.recovery_messages_max:
            self._reply(True, first - 1, page)
        else:
            self._reply(False, page.last, page)

    def _ends(self, page: Page) -> None:
        options = self._subscription.options
        if not options.last:
            self._reply(None, page.last, page)
            return
        most = min(options.last, self._hub.config.history.recovery_messages_max)
        self._reply(True, max(page.last - most, page.first - 1, 0), page)

    # --- answering and sending ------------------------------------------------------------------------------------

    def _reply(self, recovered: bool | None, position: int, page: Page) -> None:
        """The answer, the retained value, and what the first read has of what follows."""
        self._position = position
        self._epoch = page.epoch
        self._replied = True
        self._hub.metrics.recovered[{True: "yes", False: "no", None: "none"}[recovered]] += 1
        if self._seq:
            said = Subscribed(recovered, position, page.epoch or self._beginning(page))
            self._answer.update(msgspec.to_builtins(said))
            self._session.send(write(kinds.REPLY, self._answer, self._seq))
        retained = page.retained
        if self._subscription.options.retained and retained is not None and retained.offset <= position:
            event = event_of(retained, page.epoch, int(self._hub.wall() * 1000))
            event.flags |= kinds.RETAINED
            self._send(event)
        if page.publications or position >= page.last:
            self._page(page)
        else:
            self._next()

    def _next(self) -> None:
        """Read on, when the peer has taken what it was given; until then it is somebody else's turn."""
        if self._takes():
            self._read(self._range(self._position), self._page)
        else:
            # What comes meanwhile is read from the history later: a peer that never reads holds no memory.
            self._live = None
            self.live_bytes = 0
            self._turns.give()
            self._hub.clock.callLater(self._wait_s, self._look)

    def _takes(self) -> bool:
        peer = self._session.peer
        return peer is None or peer.queued_bytes() <= self._hub.config.history.page_bytes_max

    def _look(self) -> None:
        """Whether the peer has taken what it was given."""
        if self._cancelled or self._session.ended:
            return
        if self._takes():
            self._wait_s = PEER_WAIT_S_MIN
            self._turns.take(self._next)
        else:
            self._wait_s = min(self._wait_s * 2, PEER_WAIT_S_MAX)
            self._hub.clock.callLater(self._wait_s, self._look)

    def _page(self, page: Page) -> None:
        if page.epoch != self._epoch and (self._epoch or self._position):
            self._fail(errors.Unavailable("the history was lost while it was read"))
            return
        if self._position < page.last and page.first > self._position + 1:
            self._fail(errors.Unavailable("the history was trimmed while it was read"))
            return
        self._epoch = page.epoch
        tags = tuple((self._subscription.options.tags or {}).items())
        now_ms = int(self._hub.wall() * 1000)
        # What is left when there are no more publications has expired.
        position = page.last if not page.publications else self._position
        for each in page.publications:
            if each.offset > self._position:
                position = each.offset
                event = event_of(each, page.epoch, now_ms)
                if not is_own(event, self._session) and (not tags or has_tags(event, tags)):
                    self._send(event)
        self._position = position
        if position >= page.last:
            self._join()
        else:
            self._hub.clock.callLater(0, self._next)

    def _send(self, event: Message) -> None:
        try:
            self._session.send(self._hub.fit(event, self._session))
        except errors.FilterError:
            self._session.send(event)  # it could be undone when it was stored; the limits have changed since

    def _join(self) -> None:
        """All of the history is sent: what came live meanwhile, and from now on, follows."""
        if self._live is None:
            self._hub.clock.callLater(0, self._next)
            return
        session, subscription = self._session, self._subscription
        live = [event for offset, event in self._live if offset > self._position]
        selector = subscription.selector
        policy = self._plan.rule.slow
        subscription.recovery = None
        # The store may have had publications in this page whose events are still to come from it.
        if self._plan.durable and self._histories.batches:
            subscription.behind = max([self._position, *(offset for offset, _ in self._live)])
        self._live = None
        reconsider(session, subscription)
        for event in live:
            if selector is None or selector.takes(event, policy):
                self._hub.deliver(event, (session,), None, policy)
        self._turns.give()

    def _fail(self, error: errors.RelayError) -> None:
        """The store does not give what is needed."""
        self._turns.give()
        session = self._session
        if not self._replied:
            self._replied = True
            self._cancelled = True
            self._hub.refuse(session, Message(kinds.SUBSCRIBE, self._name, seq=self._seq), error)
            self._subscription.recovery = None
            self._part(session, self._name)
        else:
            self._cancelled = True
            assert self._hub.close_session is not None
            self._hub.close_session(session, kinds.UNAVAILABLE, str(error))
