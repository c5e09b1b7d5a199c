"""Application handlers: classes whose methods answer pulls and take pushes, in the node itself.

    class Home:                                  prefix "group" ─▶ group.home.test, group.home.count, group.home.ask
        def test(self, text: str) -> str
        async def count(self, upto: int): yield …            several replies
        async def ask(self, ctx: Context) -> str             asks its own caller: await ctx.pull("name?")

    pull ─▶ arguments out of the body ─▶ method ─┬─ result ─────────────────▶ reply
                                                 ├─ coroutine that waits ───▶ (cancelled with its caller) ─▶ reply
                                                 └─ asynchronous generator ─▶ reply, more … reply

The first step of a coroutine runs at once; a Deferred is made only for one that waits. A ``RelayError`` (for one's own:
``ApplicationError``) reaches the caller with its code, any other exception as ``internal``: its traceback is in the
log. See ``docs/handlers.md``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.app_bodies import Arguments, encode
from relay.app_routes import CLASS_ROUTE, Found, marks_of, routes_of
from relay.config import Handlers
from relay.core.coroutines import run
from relay.core.operations import Operations
from relay.errors import (
    Cancelled,
    ConfigError,
    FilterError,
    InternalError,
    NoProvider,
    RelayError,
    Unavailable,
)
from relay.interfaces import IAnswer, ILocalProvider, INode
from relay.wire import kinds
from relay.wire.bodies import decode_body
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.metrics import Metrics
    from relay.core.session import Session

# A generator that never waits gives way to others after so many replies, for so long.
REPLIES_PER_TURN_MAX: Final = 64
GIVE_WAY_S: Final = 0.001

# A generator is asked for more when the caller has less than this waiting: well below ``slow.queue_bytes_max``.
QUEUED_BYTES_MAX: Final = 65_536
BEHIND_CHECK_S: Final = 0.02

F = TypeVar("F", bound=Callable[..., Any])
Decorated = TypeVar("Decorated", bound=Any)


# --- decorators ---------------------------------------------------------------------------------------------------


def pull(function: F) -> F:
    """The method answers pulls only; a push to the same name may have a method of its own."""
    marks_of(function).pull = True
    return function


def push(function: F) -> F:
    """The method takes pushes only."""
    marks_of(function).push = True
    return function


def unknown(function: F) -> F:
    """The method takes what no other route and no client provides, below the class's own name (all, without one)."""
    marks_of(function).unknown = True
    return function


def route(name: str) -> Callable[[Decorated], Decorated]:
    """``name`` instead of the method's or the class's own; '' leaves it out."""

    def decorate(target: Decorated) -> Decorated:
        if isinstance(target, type):
            setattr(target, CLASS_ROUTE, name)
        else:
            marks_of(target).route = name
        return target

    return decorate


def alias(*names: str) -> Callable[[F], F]:
    """Further names of the method, in full."""

    def decorate(function: F) -> F:
        marks = marks_of(function)
        marks.aliases = (*marks.aliases, *names)
        return function

    return decorate


# --- what a handler is given and may give back --------------------------------------------------------------------


@attrs.frozen
class Reply:
    """A result that says its codec (``relay.wire.kinds``) and metadata itself; ``body`` is sent as it is."""

    body: bytes
    codec: int = kinds.RAW
    metadata: dict[str, str] | None = None


class Context:
    """One call. ``session``: the caller's; ``message``: as it came; ``route``: the method's name in full."""

    __slots__ = ("_application", "message", "route", "session")

    def __init__(self, application: Application, session: Session, message: Message, route: str) -> None:
        self._application = application
        self.session = session
        self.message = message
        self.route = route

    @property
    def user(self) -> str:
        """The caller's user, '' while unbound."""
        return self.session.user

    @property
    def metadata(self) -> dict[str, str]:
        """The message's metadata; not to be changed."""
        found: dict[str, str] = self.message.get(kinds.METADATA) or {}
        return found

    async def push(self, name: str, value: Any = None, metadata: dict[str, str] | None = None) -> None:
        """Tell the caller. Raises ``NoReceiver`` when its session has ended."""
        self._application.node.push_session(self.session, self._message(kinds.PUSH, name, value, metadata))

    async def pull(
        self,
        name: str,
        value: Any = None,
        type: Any = Any,
        deadline_s: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Any:  # Any: what msgspec can write, and whatever ``type`` says
        """Ask the caller; its answer as ``type``. Raises the ``RelayError`` that it answered, or ``BadBody``."""
        question = self._message(kinds.PULL, name, value, metadata)
        reply = await self._application.node.pull_session(self.session, question, deadline_s)
        _check_plain(reply)
        return decode_body(reply.body, reply.codec, type)

    async def publish(
        self, channel: str, value: Any = None, metadata: dict[str, str] | None = None, as_caller: bool = False
    ) -> int:  # Any: what msgspec can write
        """Publish on a channel, with ``as_caller`` in the caller's name; how many sessions it reached."""
        message = self._message(kinds.PUBLISH, channel, value, metadata)
        if as_caller:
            message.sender = self.session.sender
        reached = self._application.node.publish(self.session.realm.name, message)
        return await reached if isinstance(reached, Awaitable) else reached

    async def push_user(
        self, user: str, name: str, value: Any = None, device: str = "", metadata: dict[str, str] | None = None
    ) -> tuple[int, int]:  # Any: as above
        """Tell all sessions of a user, or one device; how many were addressed, and reached."""
        message = self._message(kinds.PUSH, name, value, metadata)
        return self._application.node.push_user(self.session.realm.name, user, device, message)

    def bind(self, user: str) -> None:
        """From now on the caller's session speaks for ``user`` ('' for nobody). Raises ``RelayError``."""
        self._application.node.bind(self.session, user)

    async def sleep(self, seconds: float) -> None:
        """Let others run for ``seconds``."""
        await deferLater(self._application.clock, seconds)

    def _message(self, kind: int, name: str, value: Any, metadata: dict[str, str] | None) -> Message:  # Any: as above
        body, codec = encode(value, self.message.codec)
        return Message(kind, name, body, codec, fields={kinds.METADATA: metadata} if metadata else None)


# --- what the core calls ------------------------------------------------------------------------------------------


class Method:
    """One method, ready to be called."""

    __slots__ = ("arguments", "function", "label", "stream", "takes_context", "where")

    def __init__(self, found: Found) -> None:
        self.label = found.names[0] or "**"
        self.where = found.where
        self.function = found.function
        self.stream = found.stream
        self.arguments = Arguments(found.function, Context, found.where)
        self.takes_context = bool(self.arguments.context)


@implementer(ILocalProvider)
class Route:
    """What answers under one name: a method for pulls, one for pushes, either may be missing."""

    __slots__ = ("_application", "_name", "puller", "pusher")

    def __init__(self, application: Application, name: str) -> None:
        self._application = application
        self._name = name
        self.puller: Method | None = None
        self.pusher: Method | None = None

    def pull(self, session: Session, message: Message, answer: IAnswer) -> None:
        """As ``ILocalProvider``."""
        method = self.puller or self._application.unknown_method(self._name, "puller")
        if method is None:
            answer.fail(NoProvider(f"{self._name} answers no pull", temporary=False))
        else:
            self._application.pull(method, session, message, answer)

    def push(self, session: Session, message: Message) -> None:
        """As ``ILocalProvider``."""
        method = self.pusher or self._application.unknown_method(self._name, "pusher")
        if method is None:
            raise NoProvider(f"{self._name} takes no push", temporary=False)
        self._application.push(method, session, message)


@implementer(ILocalProvider)
class UnknownRoutes:
    """What takes names that nobody provides."""

    __slots__ = ("_application",)

    def __init__(self, application: Application) -> None:
        self._application = application

    def pull(self, session: Session, message: Message, answer: IAnswer) -> None:
        """As ``ILocalProvider``."""
        name = message.get(kinds.PROCEDURE, message.name)
        method = self._application.unknown_method(name, "puller")
        if method is None:
            answer.fail(NoProvider(f"nobody provides {name}"))
        else:
            self._application.pull(method, session, message, answer)

    def push(self, session: Session, message: Message) -> None:
        """As ``ILocalProvider``."""
        name = message.get(kinds.PROCEDURE, message.name)
        method = self._application.unknown_method(name, "pusher")
        if method is None:
            raise NoProvider(f"nobody provides {name}")
        self._application.push(method, session, message)


class Application:
    """All handlers of a node. ``calls``, ``seconds`` and ``errors`` are by route, for the metrics."""

    def __init__(self, node: INode, config: Handlers, clock: IReactorTime, metrics: Metrics) -> None:
        self.node = node
        self.clock = clock
        self._running_max = config.running_max
        self._operations = Operations(clock, config.slow_operation_ms)
        self._operations.seconds = metrics.handler_seconds
        self._routes: dict[str, Route] = {}
        self._unknown: dict[str, Route] = {}
        self._running: set[Deferred[Any]] = set()  # Any: nobody looks at the results
        self._stopping = False
        self.calls = metrics.handler_calls
        self.seconds = metrics.handler_seconds
        self.errors = self._operations.errors

    # --- what there is --------------------------------------------------------------------------------------------

    def use(self, plugins: Iterable[Any]) -> None:  # Any: IRelayPlugin's routes is optional
        """Add what ``routes()`` of each plugin gives; an object's attribute ``prefix`` begins its names."""
        for plugin in plugins:
            for instance in plugin.routes() if hasattr(plugin, "routes") else ():
                self.add(instance, getattr(instance, "prefix", ""))

    def add(self, instance: object, prefix: str = "", own: bool = False) -> None:
        """Add the methods of one object. ``own``: a part of relay, whose names begin with $; there has to be a door to
        them in ``Hub.doors``. Raises ``ConfigError``, for instance when a name is taken."""
        for found in routes_of(instance, prefix, own):
            method = Method(found)
            table = self._unknown if found.unknown else self._routes
            for name in found.names:
                there = table.get(name) or table.setdefault(name, Route(self, name))
                for kind, wanted in (("puller", found.pull), ("pusher", found.push)):
                    other = getattr(there, kind)
                    if wanted and other is not None:
                        raise ConfigError(f"{name or 'unknown names'}: both {other.where} and {found.where}")
                    if wanted:
                        setattr(there, kind, method)

    def providers(self) -> dict[str, ILocalProvider]:
        """All routes by name."""
        return dict(self._routes)

    def unknown(self) -> ILocalProvider | None:
        """What takes names that nobody else provides; None without such handlers."""
        return UnknownRoutes(self) if self._unknown else None

    def unknown_method(self, name: str, kind: str) -> Method | None:
        """The ``@unknown`` method (kind ``puller`` or ``pusher``) for that name: that of the longest base."""
        base = name
        while base:
            base = base.rpartition(".")[0]
            found = self._unknown.get(base)
            method: Method | None = None if found is None else getattr(found, kind)
            if method is not None:
                return method
        return None

    @property
    def running(self) -> int:
        """Handlers that wait for something."""
        return len(self._running)

    def stop(self) -> None:
        """Cancel what is under way: its callers are told that the node stops."""
        self._stopping = True
        self._operations.stop()
        for each in list(self._running):
            each.cancel()

    # --- calling --------------------------------------------------------------------------------------------------

    def pull(self, method: Method, session: Session, message: Message, answer: IAnswer) -> None:
        """Call ``method`` and answer with what comes of it. Never raises."""
        operations = self._operations
        started_at = operations.now()
        try:
            context = self._begin(method, session, message)
            result = method.arguments.call(method.function, message.body, message.codec, context)
            # Fast path: the result is there, and needs no encoding.
            if type(result) is bytes:
                answer.reply(result, kinds.RAW)
                operations.spent(method.label, operations.now() - started_at)
                return
            if method.stream:
                result = run(self._stream(result, session, answer, message.codec))
            elif isinstance(result, CoroutineType):
                result = run(result)
            if not hasattr(result, "__await__"):
                if not method.stream:
                    _reply(answer, result, message.codec)
                operations.spent(method.label, operations.now() - started_at)
                return
        except Exception as error:  # noqa: BLE001 - all errors are the caller's answer
            operations.spent(method.label, operations.now() - started_at)
            answer.fail(self._told(method, error, answer))
            return
        waiting = self._wait(method, result, started_at)
        answer.on_cancel = waiting.cancel
        waiting.addCallbacks(self._answered, self._failed, (method, message.codec, answer), {}, (method, answer))
        if answer.done:
            waiting.cancel()

    def push(self, method: Method, session: Session, message: Message) -> None:
        """Call ``method``. Raises ``RelayError`` for what goes wrong before it waits for the first time."""
        started_at = self._operations.now()
        try:
            context = self._begin(method, session, message)
            result = method.arguments.call(method.function, message.body, message.codec, context)
            if isinstance(result, CoroutineType):
                result = run(result)
        except Exception as error:
            raise self._told(method, error) from error
        finally:
            self._operations.spent(method.label, self._operations.now() - started_at)
        if hasattr(result, "__await__"):
            waiting = self._wait(method, result, self._operations.now())
            # It was taken; what happens later is for the log, not for the sender.
            waiting.addErrback(self._failed, method, None)

    def _begin(self, method: Method, session: Session, message: Message) -> Context | None:
        """Count the call; the context, for a method that takes one. Raises ``RelayError`` when it may not be."""
        if self._stopping:
            raise Unavailable("the node stops")
        if len(self._running) >= self._running_max:
            raise Unavailable(f"{self._running_max} handlers are under way, more are not allowed")
        if message.fields is not None:
            _check_plain(message)
        self.calls[method.label] += 1
        return Context(self, session, message, method.label) if method.takes_context else None

    def _wait(self, method: Method, result: Awaitable[Any], started_at: float) -> Deferred[Any]:  # Any: its result
        """A Deferred for ``result`` that is watched, counted, and cancelled when the node stops."""
        operation = self._operations.begin(method.label, started_at)

        async def wait() -> Any:  # Any: as above
            try:
                return await result
            finally:
                self._operations.end(operation, patient=method.stream)

        waiting = Deferred.fromCoroutine(wait())
        if not waiting.called:
            self._running.add(waiting)

            def over(outcome: Any) -> Any:  # Any: as above, or a Failure
                self._running.discard(waiting)
                return outcome

            waiting.addBoth(over)
        return waiting

    async def _stream(
        self, generator: AsyncGenerator[Any, None], session: Session, answer: IAnswer, codec: int
    ) -> None:
        """Send what the generator yields, each as a reply that others follow, then the end."""
        sent = 0
        async with aclosing(generator) as values:
            async for value in values:
                if answer.done:
                    return
                _reply(answer, value, codec, more=True)
                sent += 1
                if sent % REPLIES_PER_TURN_MAX == 0:
                    await deferLater(self.clock, GIVE_WAY_S)
                while _is_behind(session) and not answer.done:
                    await deferLater(self.clock, BEHIND_CHECK_S)
        answer.reply(b"", kinds.RAW)

    def _answered(self, result: Any, method: Method, codec: int, answer: IAnswer) -> None:  # Any: as above
        if method.stream:
            return
        try:
            _reply(answer, result, codec)
        except Exception as error:  # noqa: BLE001 - a result that cannot be written is the handler's mistake
            answer.fail(self._told(method, error, answer))

    def _failed(self, failure: Failure, method: Method, answer: IAnswer | None) -> None:
        told = self._told(method, failure.value, answer, failure)
        if answer is not None:
            answer.fail(told)

    def _told(
        self, method: Method, error: BaseException | None, answer: IAnswer | None = None, failure: Failure | None = None
    ) -> RelayError:
        """What the caller is told of ``error``, which is handled now or in ``failure``."""
        if isinstance(error, RelayError):
            return error
        if isinstance(error, CancelledError):
            if self._stopping:
                return Unavailable("the node stops", outcome="unknown")
            if answer is not None and answer.done:
                return Cancelled()  # nobody hears it
        self._operations.failed(method.label, "the handler", failure)
        return InternalError("the handler failed")


def _reply(answer: IAnswer, result: Any, codec: int, more: bool = False) -> None:  # Any: what a handler gives
    if isinstance(result, Reply):
        fields = {kinds.METADATA: result.metadata} if result.metadata else None
        answer.reply(result.body, result.codec, more, fields)
    else:
        answer.reply(*encode(result, codec), more)


def _is_behind(session: Session) -> bool:
    """Whether the caller does not take what was sent to it, or is away."""
    peer = session.peer
    return peer is None or peer.queued_bytes() > QUEUED_BYTES_MAX


def _check_plain(message: Message) -> None:
    """Handlers negotiate no transfer filters: the core undoes them before. Raises ``FilterError``."""
    if message.fields is not None and kinds.FILTERS in message.fields:
        raise FilterError("a filtered body cannot be read here")
