"""Which of a channel's members get an event, where not all of them take all.

    plain           every event
    recovering      none now: its ``Recovery`` keeps them until what was missed is sent
    behind          those over an offset: the others came with the recovery already
    tags            those that have them all
    max_rate        at most so many a second; with ``latest`` the newest of each conflation key waits for its turn

Channels whose members are all plain never come here: ``Realm.selective`` counts the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from relay import errors
from relay.core.session import kept_bytes
from relay.wire import kinds
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.channels import Subscription
    from relay.core.hub import Hub
    from relay.core.realm import Realm
    from relay.core.recovery import Recovery
    from relay.core.session import Session
    from relay.core.wheel import Call
    from relay.wire.handshake import SubscribeOptions

BURST_S: Final = 0.1
"""A subscription with ``max_rate`` may get the events of so long at once; finer than this the wheel cannot pace."""
WAIT_S_MAX: Final = 3600.0
"""The turn of one with a tiny ``max_rate`` is looked at after this; the wait itself may be more than a number holds."""


def check_options(options: SubscribeOptions, tags_max: int) -> None:
    """Raises ``BadBody`` or ``LimitExceeded`` for a selection that cannot be."""
    if options.latest and not options.max_rate:
        raise errors.BadBody("latest needs max_rate: it says when there is more than one event to choose from")
    if options.tags is not None and len(options.tags) > tags_max:
        raise errors.LimitExceeded(f"{tags_max} tags are the limit")


def has_tags(event: Message, wanted: Iterable[tuple[str, str]]) -> bool:
    """Whether the publication has all of ``wanted``."""
    tags = event.get(kinds.TAGS)
    return tags is not None and all(tags.get(key) == value for key, value in wanted)


class Selector:
    """What one subscription takes of the live events."""

    __slots__ = (
        "_at", "_bytes", "_hub", "_latest", "_policy", "_rate", "_session", "_tags", "_timer", "_tokens", "_waiting",
    )  # fmt: skip

    def __init__(self, hub: Hub, session: Session, options: SubscribeOptions) -> None:
        self._hub = hub
        self._session = session
        self._tags = tuple((options.tags or {}).items())
        self._rate = options.max_rate
        self._latest = options.latest
        self._tokens = self._burst
        self._at = hub.clock.seconds()
        self._waiting: dict[tuple[str, str], Message] = {}
        self._bytes = 0
        self._policy: str | None = None
        self._timer: Call | None = None

    @property
    def _burst(self) -> float:
        return max(1.0, self._rate * BURST_S)

    def takes(self, event: Message, policy: str | None) -> bool:
        """Whether the subscriber gets ``event`` now."""
        if self._tags and not has_tags(event, self._tags):
            return False
        if not self._rate:
            return True
        if not self._waiting and self._token():
            return True
        if self._latest:
            # The newest of a key takes the place of the one that waits; what waits longest goes first.
            limits = self._hub.config.history
            key = (event.name, event.get(kinds.CONFLATION_KEY, ""))
            before = self._waiting.get(key)
            self._bytes += kept_bytes(event) - (0 if before is None else kept_bytes(before))
            self._waiting[key] = event
            self._policy = policy
            while len(self._waiting) > limits.conflation_keys_max or (
                self._bytes > limits.live_bytes_max and len(self._waiting) > 1
            ):
                self._take_first()
            self._wait()
        return False

    def stop(self) -> None:
        """The subscription is over, or has other options."""
        self._waiting.clear()
        self._bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _token(self) -> bool:
        now = self._hub.clock.seconds()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _wait(self) -> None:
        if self._timer is None:
            wait_s = min((1.0 - min(self._tokens, 1.0)) / self._rate, WAIT_S_MAX)
            self._timer = self._hub.wheel.after(wait_s, self._due)

    def _take_first(self) -> Message:
        event = self._waiting.pop(next(iter(self._waiting)))
        self._bytes -= kept_bytes(event)
        return event

    def _due(self) -> None:
        self._timer = None
        while self._waiting and self._token():
            event = self._take_first()
            self._hub.deliver(event, (self._session,), None, self._policy)
        if self._waiting:
            self._wait()


def reconsider(session: Session, subscription: Subscription) -> None:
    """Something about ``subscription`` has changed: it is plain now, or it is not."""
    channel = subscription.channel
    special = subscription.recovery is not None or subscription.behind > 0 or subscription.selector is not None
    known = channel.selective is not None and session in channel.selective
    if special and not known:
        if channel.selective is None:
            channel.selective = {}
        channel.selective[session] = subscription
        session.realm.selective += 1
    elif known and not special:
        assert channel.selective is not None
        del channel.selective[session]
        if not channel.selective:
            channel.selective = None
        session.realm.selective -= 1


def select(hub: Hub, session: Session, subscription: Subscription) -> None:
    """Take the options of ``subscription`` for what is live."""
    options = subscription.options
    if subscription.selector is not None:
        subscription.selector.stop()
        subscription.selector = None
    if options.tags or options.max_rate:
        subscription.selector = Selector(hub, session, options)
    reconsider(session, subscription)


def forget(session: Session, subscription: Subscription) -> None:
    """The subscription is over."""
    if subscription.recovery is not None:
        subscription.recovery.cancel()
    if subscription.selector is not None:
        subscription.selector.stop()
    subscription.recovery = subscription.selector = None
    subscription.behind = 0
    reconsider(session, subscription)


def receivers(realm: Realm, name: str) -> Iterable[Session]:
    """The sessions that a publication to ``name`` goes to, each once, when all of them are plain."""
    channel = realm.channels.get(name)
    patterns = realm.patterns.match(name) if len(realm.patterns) else ()
    # Fast path: nobody listens through a pattern.
    if not patterns:
        return () if channel is None else channel.members
    if channel is None and len(patterns) == 1:
        return patterns[0].members
    together: dict[Session, None] = {}
    if channel is not None:
        together.update(dict.fromkeys(channel.members))
    for pattern in patterns:
        together.update(dict.fromkeys(pattern.members))
    return together


def choose(realm: Realm, event: Message, skip: Session | None, policy: str | None) -> Iterable[Session]:
    """The sessions that ``event`` goes to now, each once; recoveries keep it for theirs."""
    name = event.name
    channel = realm.channels.get(name)
    sources = [] if channel is None else [channel]
    if len(realm.patterns):
        sources += realm.patterns.match(name)
    if not any(each.selective for each in sources):
        return receivers(realm, name)
    wanted: dict[Session, None] = {}
    for source in sources:
        others = source.selective
        if others is None:
            wanted.update(dict.fromkeys(source.members))
        else:
            wanted.update((session, None) for session in source.members if session not in others)
    offset = event.get(kinds.OFFSET, 0)
    kept: list[tuple[Session, Recovery | None]] = []
    for source in sources:
        for session, subscription in list((source.selective or {}).items()):
            if subscription.recovery is not None:
                kept.append((session, subscription.recovery))
                continue
            if subscription.behind and offset:
                if offset <= subscription.behind:
                    kept.append((session, None))
                    continue
                subscription.behind = 0
                reconsider(session, subscription)
            selector = subscription.selector
            if session not in wanted and (selector is None or selector.takes(event, policy)):
                wanted[session] = None
    # Also where another subscription of the session would take it: in order, and once.
    for session, recovery in kept:
        wanted.pop(session, None)
        if recovery is not None and session is not skip:
            recovery.offer(event, offset)
    return wanted
