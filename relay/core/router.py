"""The router: one table from kind to what is done, and the order of frames.

    frame ─▶ counted ─▶ before_message ─▶ table[kind] ─▶ after_message
                             │ suspends
                             ▼
                       later frames of the session wait (``Line.held``), the others go on

A ``RelayError`` that any of it raises becomes the error reply of that one frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay import errors
from relay.core.behind import HISTORY, QUEUE, Behind
from relay.core.channels import Channels
from relay.core.histories import Histories
from relay.core.hub import FORWARDED_FLAGS
from relay.core.presence import Presence
from relay.core.procedures import Procedures, targets
from relay.core.queues import Queues
from relay.core.reading import Reading
from relay.core.recovery import Turns
from relay.wire import kinds
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.session import Session

log = Logger()

# What follows a suspended hook: the message to route (None: it was refused).
Routed = Callable[["Session", Message], None]


class Router:
    """Routes the session frames of all sessions. ``route`` never raises for what a client sent."""

    def __init__(self, hub: Hub, random: Callable[[], float], histories: Histories | None = None) -> None:
        self._hub = hub
        self.histories = Histories(hub) if histories is None else histories
        self.presence = Presence(hub)
        turns = Turns(hub)
        self.channels = Channels(hub, self.presence, self.histories, turns)
        self.procedures = Procedures(hub, random)
        self.queues = Queues(hub)
        self.held: dict[Session, deque[Message]] = {}
        """Sessions with a suspended hook, and their frames that wait behind it."""
        self.behind = self.histories.behind = Behind(hub, self._goes_to, self.held)
        self.queues.begin_order(self.behind)
        self._storing = self.behind.lines
        self.table: dict[int, Callable[[Session, Message], Any]] = {  # Any: an Awaitable where a hook may suspend
            kinds.PUBLISH: self._publish,
            kinds.PUSH: self.push,
            kinds.PULL: self.procedures.pull,
            kinds.REPLY: self.procedures.reply,
            kinds.ERROR: self.procedures.reply,
            kinds.CANCEL: self.procedures.cancel,
            kinds.SUBSCRIBE: self._subscribe,
            kinds.UNSUBSCRIBE: self.channels.unsubscribe,
            kinds.HISTORY: Reading(hub, self.histories, turns).history,
            kinds.PRESENCE: self.presence.ask,
            kinds.REGISTER: self.procedures.register,
            kinds.UNREGISTER: self.procedures.unregister,
            **dict.fromkeys(self.queues.table, self.queues.handle),
        }

    def route(self, session: Session, message: Message, asked: bool = False) -> None:
        """One counted session frame of ``session``. ``asked``: its turn has come, and no hook has to look at it."""
        hub = self._hub
        hooks = hub.hooks
        # Fast path: nothing is held or waits behind a store, no hook looks at every message. All in one, as a call more
        # costs 60 ns.
        if not asked and (
            self.held or hooks.before_message is not None or hub.on_accepted is not None
            or (self._storing and self.behind.waits(session, message))
        ):
            self._queue(session, message)
            return
        if session.ended:
            return  # a hook closed it: nothing may enter the tables for it any more
        try:
            if message.fields is not None and kinds.REFUSE in message.fields:
                raise errors.Unsupported(message.fields[kinds.REFUSE])
            handle = self.table.get(message.kind)
            if handle is None:
                self._unknown(message)
                return
            handle(session, message)
        except errors.RelayError as error:
            hub.refuse(session, message, error)
        except Exception:  # noqa: BLE001 - our mistake: one message fails, the node goes on
            log.failure("routing {kind} of {session!r}", kind=kinds.KINDS.get(message.kind), session=session)
            hub.refuse(session, message, errors.InternalError())
        after = hooks.after_message
        if after is not None and session not in self.held:
            after(session, message)

    def _queue(self, session: Session, message: Message) -> None:
        """Behind the frames of the session that are held, or to the hooks."""
        waiting = self.held.get(session)
        if waiting is not None:
            if len(waiting) >= self._hub.config.limits.held_frames_max:
                self._hub.refuse(session, message, errors.RateExceeded("too many frames wait behind a hook"))
                return
            self._hub.metrics.held += 1
            waiting.append(message)
            return
        self.behind.order(session, message, self._accept)

    def _goes_to(self, session: Session, message: Message) -> str:
        """The store that a frame goes to, '' when it goes to none."""
        try:
            if message.kind == kinds.PUBLISH:
                plan = self.histories.plan(message.name)
                return HISTORY if plan is not None and plan.durable else ""
            if message.kind == kinds.PUSH and self.queues.puts.wanted(session, message) is not None:
                return QUEUE
        except errors.RelayError:
            pass  # it is refused in its turn
        return ""

    def _accept(self, session: Session, message: Message) -> None:
        if self._hub.on_accepted is not None:
            self._hub.on_accepted(session, message)
        before = self._hub.hooks.before_message
        if before is None:
            self._asked(session, message)
            return
        try:
            result = before(session, message)
        except errors.RelayError as error:
            self._hub.refuse(session, message, error)
            return
        if isinstance(result, Message):
            self._rewritten(session, result)
        else:
            self.suspend(session, message, result, self._rewritten)

    def _rewritten(self, session: Session, message: Message) -> None:
        """What a hook has made of a frame may have to wait where that frame had not."""
        self.behind.first(session, message, self._asked)

    def _asked(self, session: Session, message: Message) -> None:
        self.route(session, message, True)

    def _unknown(self, message: Message) -> None:
        """A kind that nobody handles: an error when an answer is expected, else nothing."""
        if message.seq:
            known = kinds.KINDS.get(message.kind)
            raise errors.Unsupported(f"{known} is not supported here" if known else f"kind {message.kind} is unknown")

    # --- hooks that suspend ---------------------------------------------------------------------------------------

    def suspend(self, session: Session, message: Message, result: Awaitable[Any], then: Routed) -> None:
        """Go on with ``then`` when ``result`` is there; until then the session's later frames wait.

        Any: what the hook's coroutine gives: a ``Message``, or None for "as it was".
        """
        self.held.setdefault(session, deque())
        if session.peer is not None:
            session.peer.pause("hook")

        async def wait() -> Any:  # Any: as above
            return await result

        Deferred.fromCoroutine(wait()).addBoth(self._resumed, session, message, then)

    def _resumed(self, result: object, session: Session, message: Message, then: Routed) -> None:
        waiting = self.held.pop(session, deque())
        if isinstance(result, Failure):
            error = result.value
            if not isinstance(error, errors.RelayError):
                log.failure("a hook of {session!r} failed", failure=result, session=session)
                error = errors.Refused("a hook failed")
            self._hub.refuse(session, message, error)
        elif not session.ended:
            try:
                then(session, result if isinstance(result, Message) else message)
            except Exception:  # noqa: BLE001 - our mistake: one message fails, those behind it go on
                log.failure("routing {kind} of {session!r}", kind=kinds.KINDS.get(message.kind), session=session)
                self._hub.refuse(session, message, errors.InternalError())
        self.behind.drain(session)
        # The frames that waited, in order; one of them may suspend again, then the rest waits on.
        while waiting and not session.ended:
            if session in self.held:
                self.held[session].extend(waiting)
                return
            self.behind.order(session, waiting.popleft(), self._accept)
        if session.peer is not None and session not in self.held:
            session.peer.resume("hook")

    def _publish(self, session: Session, message: Message) -> None:
        before = self._hub.hooks.before_publish
        if before is None:
            self.channels.publish(session, message)
            return
        publish = self.guarded(self.channels.publish)
        result = before(session, message)
        if isinstance(result, Message):
            if result is message or session not in self._storing:
                self.channels.publish(session, result)
            else:
                self.behind.first(session, result, publish)
        else:
            self.suspend(session, message, result, partial(self.behind.first, then=publish))

    def _subscribe(self, session: Session, message: Message) -> None:
        before = self._hub.hooks.before_subscribe
        if before is not None:
            result = before(session, message.name, message)
            if result is not None:
                self.suspend(session, message, result, self.guarded(self.channels.subscribe))
                return
        self.channels.subscribe(session, message)

    def guarded(self, handle: Routed) -> Routed:
        """``handle`` as it is called outside ``route``: its errors become the reply."""

        def guarded(session: Session, message: Message) -> None:
            try:
                handle(session, message)
            except errors.RelayError as error:
                self._hub.refuse(session, message, error)
            after = self._hub.hooks.after_message
            if after is not None:
                after(session, message)

        return guarded

    # --- push -----------------------------------------------------------------------------------------------------

    def push(self, session: Session, message: Message) -> None:
        """Tell a user, a session, all, a queue, or a procedure."""
        hub = self._hub
        hub.rule(message.name)
        fields = message.fields
        # Most pushes have nothing to do with queues: three looks say so.
        if (
            fields is not None
            and (kinds.QUEUE in fields or kinds.LEVEL in fields or hub.config.pushes)
            and self.queues.push(session, message)
        ):
            return
        told = Message(
            kinds.PUSH, message.name, message.body, message.codec, message.flags & FORWARDED_FLAGS, 0,
            hub.forwarded(fields), session.sender,
        )  # fmt: skip
        skip = session if message.flags & kinds.NO_ECHO else None
        if fields is not None and (kinds.USER in fields or kinds.SESSION in fields):
            addressed = targets(session, message)
            if not addressed:
                raise errors.NoReceiver("nobody is there to be told")
            reached = hub.deliver(told, addressed, skip)
            if message.seq:
                hub.answer(session, message.seq, {kinds.ADDRESSED: len(addressed), kinds.REACHED: reached})
        elif fields is not None and kinds.ALL in fields:
            if not session.identity.permissions.allows("broadcast", message.name):
                raise errors.Denied(f"broadcast of {message.name}")
            everyone = session.realm.sessions
            reached = hub.deliver(told, everyone, skip)
            hub.answer(session, message.seq, {kinds.ADDRESSED: len(everyone), kinds.REACHED: reached})
        else:
            self._push_procedure(session, message, told)

    def _push_procedure(self, session: Session, message: Message, told: Message) -> None:
        wanted = message.get(kinds.PROCEDURE, message.name)
        self._hub.rule(wanted)
        if not session.identity.permissions.allows("push", wanted):
            raise errors.Denied(f"push to {wanted}")
        local, registration = self.procedures.find(session.realm, wanted, message)
        reached = 1
        if local is not None:
            local.push(session, self._hub.for_handler(message))
        elif registration is not None:
            reached = self._hub.deliver(told, (registration.session,))
        else:
            raise errors.NoProvider(f"nobody provides {wanted}")
        self._hub.answer(session, message.seq, {kinds.ADDRESSED: 1, kinds.REACHED: reached})
