"""Publications of channels that keep history: stored first, then delivered and answered.

    publish ─▶ Append ─┬─ memory:  stored before the method returns
                       └─ durable: the appends of a turn as one batch ─▶ store ─▶ synced ─▶ done
    done ─▶ event with offset and epoch ─▶ deliver ─▶ the publisher's answer          in the order of offsets

Promise: no event and no answer of a durable channel leaves before the store said that it is safe. A publication that
was stored before under the same idempotency key is answered with that one's offset, and not delivered again. An
error's ``outcome`` says whether the publication may be there all the same.

What is stored is the event as a frame of the binary form, without offset and epoch (``relay.records``); ``no_echo``
stays on it, so that a publisher does not get back from the history what it asked not to be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from relay import errors
from relay.config import ChannelRule
from relay.config_history import ChannelHistory
from relay.core.behind import HISTORY, Behind
from relay.core.selection import choose, receivers
from relay.interfaces import IEventHistory, IHistory
from relay.records import Append, Page, Publication, Retention
from relay.wire import kinds
from relay.wire.binary import decode_frame, encode_frame
from relay.wire.message import Fields, Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.session import Session

log = Logger()

KEY_BYTES_MAX: Final = 255
"""Of an idempotency key: room for any identifier that somebody draws at random."""
TTL_MS_MAX: Final = 100 * 366 * 24 * 3600 * 1000
"""A publication that lives longer than a century has no end; the sum with the time stays a number of 63 bits."""
PLANS_MAX: Final = 10_000
"""Channels whose limits are remembered; the memory is emptied when it is full."""


_LOOKED_AT: Final = kinds.NO_ECHO | kinds.RETAINED


class Plan:
    """How a channel's publications are kept: its rule, made ready."""

    __slots__ = ("durable", "keep", "options", "retention", "rule", "store", "ttl_ms")

    def __init__(self, rule: ChannelRule, options: ChannelHistory) -> None:
        self.rule = rule
        self.options = options
        self.store: IHistory | None = None
        self.keep: Callable[[str, Message, int, Retention], None] | None = None
        """Its store's, when that takes events as they are, and nothing of the rule changes what is stored."""
        self.durable = options.kind == "durable"
        self.retention = Retention(options.messages_max, options.bytes_max, int(options.age_s_max * 1000))
        self.ttl_ms = int(options.ttl_s * 1000)


class Publishing:
    """A durable publication under way: what is to be done when it is stored."""

    __slots__ = ("deferred", "event", "message", "policy", "publisher", "size", "skip")

    def __init__(
        self, event: Message, message: Message, publisher: Session | None, skip: Session | None,
        policy: str | None, size: int,
    ) -> None:  # fmt: skip
        self.event = event
        self.message = message
        self.publisher = publisher
        self.skip = skip
        self.policy = policy
        self.size = size
        self.deferred: Deferred[int] | None = None


class Histories:
    """One per node. ``memory``, ``durable`` give the stores, which need not be opened before; None where there is none.
    ``node``, ``start``: name the node and this start of it, for ``beginning``."""

    def __init__(
        self,
        hub: Hub,
        memory: Callable[[], IHistory] | None = None,
        durable: Callable[[], IHistory] | None = None,
        node: str = "",
        start: str = "",
    ) -> None:
        self._hub = hub
        self._memory = memory
        self._durable = durable
        self._beginnings = (f"-{start}", f"-{node}")
        self.behind: Behind | None = None
        """The router's: told of a session's stores."""
        self.waiting_bytes = 0
        self.batches = 0
        """Batches of the durable store under way."""
        self._batch: list[Append] = []
        self._plans: dict[str, Plan] = {}

    def plan(self, name: str) -> Plan | None:
        """How the channel ``name`` is kept; None: it is not. Raises ``BadName``."""
        rule = self._hub.rule(name)
        plan = self._plans.get(name)
        if plan is None or plan.rule is not rule:
            if rule.history is None:
                return None
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            plan = self._plans[name] = Plan(rule, rule.history)
        return plan

    def store(self, plan: Plan) -> IHistory:
        """Where it is kept. Raises ``Unavailable``."""
        if plan.store is None:
            give = self._durable if plan.durable else self._memory
            if give is None:
                raise errors.Unavailable("this node has no store for that channel")
            plan.store = give()
            options = plan.options
            simple = plan.rule.echo and not (plan.durable or options.ttl_s or options.retained or plan.rule.timestamp)
            if simple and IEventHistory.providedBy(plan.store):
                plan.keep = plan.store.keep
        return plan.store

    def beginning(self, plan: Plan, page: Page) -> str:
        """The epoch that stands for "nothing was published yet": it ends with whatever may forget publications."""
        beginning = self._beginnings[plan.durable]
        return f"{beginning}.{page.forgotten}" if page.forgotten else beginning

    # --- publishing -----------------------------------------------------------------------------------------------

    def kept(self, realm: str, rule: ChannelRule, event: Message, message: Message) -> bool:
        """The fast path: store in passing what goes into memory and needs no look at; False: nothing was done, it is
        for ``publish``. ``event`` has its place then, and is to be delivered. Raises ``Full``."""
        plan = self._plans.get(event.name)
        if (
            plan is None or plan.keep is None or plan.rule is not rule
            or message.fields is not None or message.flags & _LOOKED_AT
            # What a hook or handler got wrong is refused now: later it would be in the way of who reads the history.
            or type(event.body) is not bytes or not 0 <= event.codec <= 0xFF
        ):  # fmt: skip
            return False
        plan.keep(realm, event, int(self._hub.wall() * 1000), plan.retention)
        return True

    def publish(
        self, realm: str, rule: ChannelRule, event: Message, message: Message, publisher: Session | None,
        skip: Session | None,
    ) -> int | Deferred[int]:  # fmt: skip
        """Store, deliver and answer. ``event``: what members get, ``message``: what was asked; ``skip`` gets none.

        With a ``publisher`` the answer is its reply; the result counts where it is known at once, else it is 0.
        Without one it is the sessions reached, a Deferred where the store has to write first. Raises ``RelayError``.
        """
        plan = self._plans.get(message.name)
        if plan is None or plan.rule is not rule:
            plan = self.plan(message.name)
            assert plan is not None
        store = plan.store or self.store(plan)
        if message.fields is not None and kinds.FILTERS in message.fields:
            self._hub.plain(event)  # what cannot be undone must not be stored: nobody could be sent it later
        append = self._append(realm, plan, event, message)
        if plan.durable:
            return self._later(plan, append, event, message, publisher, skip)
        store.append((append,), _nothing)
        if append.error is not None:
            raise append.error
        reached = 0 if append.repeated else self._deliver(append, event, skip, plan.rule.slow)
        if publisher is not None and message.seq:
            self._answer(publisher, message.seq, append, reached)
        return reached

    def _append(self, realm: str, plan: Plan, event: Message, message: Message) -> Append:
        now_ms = int(self._hub.wall() * 1000)
        if message.flags & kinds.NO_ECHO or not plan.rule.echo:
            event.flags |= kinds.NO_ECHO
        ttl_ms = plan.ttl_ms
        key = ""
        if message.fields is not None:
            ttl_ms = min(message.fields.get(kinds.TTL_MS, ttl_ms), TTL_MS_MAX)
            key = message.fields.get(kinds.IDEMPOTENCY_KEY, "")
        append = Append(
            realm, message.name, encode_frame(event), now_ms, plan.retention,
            now_ms + ttl_ms if ttl_ms else 0,
        )  # fmt: skip
        if key:
            window_s = self._hub.config.history.idempotency_window_s
            if len(key.encode()) > KEY_BYTES_MAX:
                raise errors.BadBody(f"an idempotency key has at most {KEY_BYTES_MAX} bytes")
            if window_s:
                append.key = key
                append.key_until_ms = now_ms + int(window_s * 1000)
        append.retained = plan.options.retained or bool(message.flags & kinds.RETAINED)
        return append

    def _deliver(self, append: Append, event: Message, skip: Session | None, policy: str | None) -> int:
        # By name: the realm may have gone and come again while the store was writing.
        realm = self._hub.realms.get(append.realm)
        if realm is None:
            return 0
        fields = event.fields
        if fields is None:
            event.fields = {kinds.OFFSET: append.offset, kinds.EPOCH: append.epoch}
        else:
            fields[kinds.OFFSET] = append.offset
            fields[kinds.EPOCH] = append.epoch
        wanted = choose(realm, event, skip, policy) if realm.selective else receivers(realm, event.name)
        return self._hub.deliver(event, wanted, skip, policy)

    def _answer(self, publisher: Session, seq: int, append: Append, reached: int) -> None:
        fields = {kinds.REACHED: reached, kinds.OFFSET: append.offset, kinds.EPOCH: append.epoch}
        self._hub.answer(publisher, seq, fields)

    # --- durable --------------------------------------------------------------------------------------------------

    def _later(
        self, plan: Plan, append: Append, event: Message, message: Message,
        publisher: Session | None, skip: Session | None,
    ) -> int | Deferred[int]:  # fmt: skip
        size = len(append.frame)
        most = self._hub.config.history.waiting_bytes_max
        if self.waiting_bytes + size > most:
            raise errors.Full(f"{self.waiting_bytes} bytes wait for the store, {most} may")
        self.waiting_bytes += size
        publishing = append.context = Publishing(event, message, publisher, skip, plan.rule.slow, size)
        self._batch.append(append)
        if len(self._batch) == 1:
            self._hub.flusher.at_turn_end(self.submit)
        if publisher is None:
            publishing.deferred = Deferred()
            return publishing.deferred
        if self.behind is not None:
            self.behind.begin(publisher, HISTORY)
        return 0

    def submit(self) -> None:
        """Hand over what this turn has gathered; the node's stop calls it, too."""
        batch, self._batch = self._batch, []
        if batch:
            assert self._durable is not None
            self.batches += 1
            self._durable().append(batch, self._stored)

    def _stored(self, batch: Sequence[Append]) -> None:
        self.batches -= 1
        for append in batch:
            publishing: Publishing = append.context
            self.waiting_bytes -= publishing.size
            try:
                self._finish(append, publishing)
            except Exception:  # noqa: BLE001 - our mistake: one publication fails, those behind it go on
                log.failure("delivering a publication to {name}", name=append.channel)
            if publishing.publisher is not None and self.behind is not None:
                self.behind.end(publishing.publisher)

    def _finish(self, append: Append, publishing: Publishing) -> None:
        publisher, deferred = publishing.publisher, publishing.deferred
        if append.error is not None:
            if deferred is not None:
                deferred.errback(append.error)
            elif publisher is not None:
                self._hub.refuse(publisher, publishing.message, append.error)
            return
        reached = 0
        if not append.repeated:
            reached = self._deliver(append, publishing.event, publishing.skip, publishing.policy)
        if deferred is not None:
            deferred.callback(reached)
        elif publisher is not None and publishing.message.seq:
            self._answer(publisher, publishing.message.seq, append, reached)


def _nothing(batch: Sequence[Append]) -> None:
    """A store in memory fills the batch in; there is nothing to be told."""


def event_of(publication: Publication, epoch: str, now_ms: int) -> Message:
    """A stored publication as the event that its receiver gets now: what is left of ``ttl_ms``, and when it came."""
    event = decode_frame(publication.frame)
    fields: Fields = {} if event.fields is None else event.fields
    fields[kinds.OFFSET] = publication.offset
    fields[kinds.EPOCH] = epoch
    fields[kinds.ACCEPTED_AT] = publication.at_ms
    if kinds.TTL_MS in fields:
        fields[kinds.TTL_MS] = max(1, publication.expires_ms - now_ms)
    event.fields = fields
    return event


def is_own(event: Message, session: Session) -> bool:
    """Whether ``session`` published ``event`` itself and asked not to be sent it."""
    return bool(event.flags & kinds.NO_ECHO) and event.get(kinds.FROM_SESSION) == session.id
