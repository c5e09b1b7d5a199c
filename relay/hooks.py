"""The hooks of all plugins, composed: one callable per hook, or None when no plugin has it.

    accept             raise to refuse the connection                                          may be awaited
    before_message     every session frame; returns the message, a new one, or None as "unchanged"   likewise
    before_publish     likewise, of publications
    before_subscribe   raise to refuse; gets session, name and the subscribe message             likewise
    after_message, session_started, session_resumed, session_ended, tick                       errors are logged only

Plugins are asked in order, each with what the one before it made of the message. While all of them are plain functions
the result is there at once; a coroutine that does not suspend costs no Deferred either. A hook that raises a
``RelayError`` refuses with it, one that raises anything else refuses with ``Refused``; both are counted under
``plugin.hook``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay.core.coroutines import run
from relay.core.operations import Operations
from relay.errors import ConfigError, Refused, RelayError
from relay.interfaces import INode, IPeer
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.session import Session

HOOKS: Final = (
    "accept", "before_message", "after_message", "before_subscribe", "before_publish",
    "session_started", "session_resumed", "session_ended", "tick",
)  # fmt: skip
# Asynchronous hooks that nobody waits for (session_ended and the like) under way at once.
BACKGROUND_MAX: Final = 10_000

log = Logger()

Result = Message | None
Rewrite = Callable[["Session", Message], "Message | Awaitable[Message]"]


class Step:
    """One hook of one plugin: timed, counted, its errors made ``RelayError``."""

    __slots__ = ("_function", "_operations", "label")

    def __init__(self, label: str, function: Callable[..., Any], operations: Operations) -> None:
        self.label = label
        self._function = function  # Callable[..., Any]: a plugin's, whatever it is
        self._operations = operations

    def __call__(self, *args: Any) -> Result | Deferred[Result]:  # Any: what the hook takes
        """The hook's result; a Deferred for it only when the hook really waits."""
        operations = self._operations
        started_at = operations.now()
        try:
            result = self._function(*args)
            if isinstance(result, CoroutineType):
                result = run(result)
        except Exception as error:
            operations.spent(self.label, operations.now() - started_at)
            raise self._refusal(error) from error
        # Fast path: a plain hook.
        if result is None or isinstance(result, Message):
            operations.spent(self.label, operations.now() - started_at)
            return result
        return Deferred.fromCoroutine(self._wait(result, started_at))

    async def _wait(self, result: Any, started_at: float) -> Result:  # Any: an awaitable, or a plugin's mistake
        operation = self._operations.begin(self.label, started_at)
        try:
            result = await result
            if result is not None and not isinstance(result, Message):
                raise TypeError(f"a hook returns a Message or None, not {type(result).__name__}")
        except CancelledError:
            raise
        except Exception as error:
            raise self._refusal(error) from error
        finally:
            self._operations.end(operation)
        return result

    def _refusal(self, error: Exception) -> RelayError:
        """What the client is told; called while ``error`` is handled."""
        if isinstance(error, RelayError):
            self._operations.errors[self.label] += 1
            return error
        self._operations.failed(self.label, "the hook")
        return Refused(f"refused by {self.label.partition('.')[0]}")


class Hooks:
    """See the module. ``seconds`` and ``errors``, by ``plugin.hook``, are for the metrics."""

    def __init__(self, clock: IReactorTime, slow_operation_ms: int = 100, plugins: Iterable[Any] = ()) -> None:
        # Any: a plugin has the hooks that it has (IRelayPlugin).
        self._operations = Operations(clock, slow_operation_ms)
        self._background: set[Deferred[Any]] = set()  # Any: nobody looks at the results
        self._ticking: set[Step] = set()
        self.seconds = self._operations.seconds
        self.errors = self._operations.errors
        self.use(plugins)

    def use(self, plugins: Iterable[Any]) -> None:  # Any: as above
        """Compose the hooks of these plugins, instead of those before."""
        self._plugins = list(plugins)
        steps = {hook: self._steps(hook) for hook in HOOKS}
        self.accept: Callable[[IPeer], Awaitable[None] | None] | None = self._checks(steps["accept"])
        self.before_message: Rewrite | None = _rewrites(steps["before_message"])
        self.before_publish: Rewrite | None = _rewrites(steps["before_publish"])
        self.before_subscribe: Callable[[Session, str, Any], Awaitable[None] | None] | None = self._checks(
            steps["before_subscribe"]
        )
        self.after_message: Callable[[Session, Message], None] | None = self._tells(steps["after_message"])
        self.session_started: Callable[[Session], None] | None = self._tells(steps["session_started"])
        self.session_resumed: Callable[[Session], None] | None = self._tells(steps["session_resumed"])
        self.session_ended: Callable[[Session, str], None] | None = self._tells(steps["session_ended"])
        self.tick: Callable[[float], None] | None = self._tick(steps["tick"])

    async def start(self, node: INode) -> None:
        """Start all plugins, in order. Raises ``ConfigError`` for one that cannot; those before it are stopped."""
        for number, plugin in enumerate(self._plugins):
            try:
                await _maybe(plugin, "start", node)
            except Exception as error:
                log.failure("the plugin {name} does not start", name=plugin.name)
                await self._stop_plugins(self._plugins[:number])
                raise ConfigError(f"the plugin {plugin.name} does not start: {error}") from error

    async def stop(self) -> None:
        """Cancel what is under way, then stop all plugins, the last first."""
        self._operations.stop()
        for each in list(self._background):
            each.cancel()
        await self._stop_plugins(self._plugins)

    @staticmethod
    async def _stop_plugins(plugins: Sequence[Any]) -> None:
        for plugin in reversed(plugins):
            try:
                await _maybe(plugin, "stop")
            except Exception:  # noqa: BLE001 - the others have to stop too
                log.failure("the plugin {name} does not stop", name=plugin.name)

    def _steps(self, hook: str) -> list[Step]:
        found = ((plugin, getattr(plugin, hook, None)) for plugin in self._plugins)
        return [
            Step(f"{plugin.name}.{hook}", function, self._operations)
            for plugin, function in found
            if function is not None
        ]

    @staticmethod
    def _checks(steps: list[Step]) -> Callable[..., Awaitable[None] | None] | None:
        """Hooks that refuse by raising; their results mean nothing."""
        if not steps:
            return None

        def check(*args: Any) -> Awaitable[None] | None:  # Any: what the hook takes
            for number, step in enumerate(steps):
                result = step(*args)
                if isinstance(result, Deferred):
                    return Deferred.fromCoroutine(rest(result, steps[number + 1 :], args))
            return None

        async def rest(result: Awaitable[object], others: list[Step], args: tuple[Any, ...]) -> None:
            await result
            for step in others:
                result_ = step(*args)
                if isinstance(result_, Deferred):
                    await result_

        return check

    def _tells(self, steps: list[Step]) -> Callable[..., None] | None:
        """Hooks that nobody waits for, and whose errors refuse nothing."""
        if not steps:
            return None

        def tell(*args: Any) -> None:  # Any: what the hook takes
            for step in steps:
                self._start(step, args)

        return tell

    def _tick(self, steps: list[Step]) -> Callable[[float], None] | None:
        """As ``_tells``; a plugin whose last tick is still under way is left out."""
        if not steps:
            return None

        def tick(now_s: float) -> None:
            for step in steps:
                if step not in self._ticking:
                    waiting = self._start(step, (now_s,))
                    if waiting is not None:
                        self._ticking.add(step)
                        waiting.addBoth(self._ticked, step)

        return tick

    def _ticked(self, _: object, step: Step) -> None:
        self._ticking.discard(step)

    def _start(self, step: Step, args: tuple[Any, ...]) -> Deferred[Any] | None:  # Any: as above
        """Call a hook; the Deferred for the one that suspends, which is in the background then."""
        if len(self._background) >= BACKGROUND_MAX:
            self.errors[step.label] += 1
            return None
        try:
            result = step(*args)
        except RelayError:
            return None  # counted, and logged where it is no RelayError of the plugin's own
        if not isinstance(result, Deferred):
            return None
        self._background.add(result)

        def over(_: object) -> None:
            self._background.discard(result)

        result.addBoth(over)
        return result


def _rewrites(steps: list[Step]) -> Rewrite | None:
    """Hooks that may replace the message."""
    if not steps:
        return None

    def rewrite(session: Session, message: Message) -> Message | Awaitable[Message]:
        for number, step in enumerate(steps):
            result = step(session, message)
            if result is None:
                continue
            if isinstance(result, Message):
                message = result
                continue
            return Deferred.fromCoroutine(rest(result, number + 1, session, message))
        return message

    async def rest(result: Awaitable[Result], number: int, session: Session, message: Message) -> Message:
        message = await result or message
        for step in steps[number:]:
            found = step(session, message)
            if isinstance(found, Deferred):
                found = await found
            message = found or message
        return message

    return rewrite


async def _maybe(plugin: Any, method: str, *args: object) -> None:  # Any: as above
    """Call a method that the plugin may have, and that may be asynchronous."""
    function = getattr(plugin, method, None)
    if function is not None:
        result = function(*args)
        if isinstance(result, Awaitable):
            await result
