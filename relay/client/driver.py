"""Performs what the client's core wants, on any event loop.

    application ─▶ Client ─▶ run(call) ─▶ core ─▶ effects ─▶ perform ─▶ transport, waiters, callbacks
    event loop ──▶ Line ───▶ run(call) ─┘

An application's callback may call back into the client: its effects then wait until those before them are performed.
What is sent while effects are performed leaves in one write.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from relay.client import effects
from relay.client.core import Core
from relay.client.events import Answer, Event, Pull, encode
from relay.client.framing import Framing, framing_for
from relay.client.inbox import Waiter
from relay.client.plan import Address
from relay.errors import InternalError, RelayError, Unauthenticated
from relay.wire import kinds
from relay.wire.message import Fields

LINGER_S = 2.0
"""A closed transport that does not get rid of its last bytes is cut off after this."""
T = TypeVar("T")
TokenSource = Callable[[], "str | Awaitable[str]"]


class Task(Protocol):
    """Something under way that can be cancelled."""

    def cancel(self) -> object:
        """Stop it; nothing happens when it is over."""


class Transport(Protocol):
    """An open connection of the event loop."""

    def write(self, data: bytes) -> object:
        """Send, or buffer."""

    def close(self) -> object:
        """Close once everything is sent."""

    def abort(self) -> object:
        """Close now."""


class Runtime(Protocol):
    """What the event loop in use has to offer."""

    def now(self) -> float:
        """Seconds; never runs backwards."""

    def call_at(self, at: float, call: Callable[[], None]) -> Task:
        """``call()`` at that time."""

    def waiter(self) -> Waiter:
        """A new future."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Task:  # Any: the event loop's
        """Run in the background; it raises nothing but its cancellation."""

    def open(self, address: Address, line: Line) -> Task:
        """Connect; the outcome goes to ``line``. Cancelling it ends the attempt, ``line`` hears nothing more."""

    def random_bytes(self, size: int) -> bytes:
        """Unpredictable bytes."""

    def report(self, what: str, error: BaseException) -> None:
        """Something failed that nobody waits for: log it."""


class Line:
    """One connection as the event loop sees it; what comes after ``drop`` is ignored."""

    def __init__(self, driver: Driver, attempt: int, framing: Framing) -> None:
        self.framing = framing
        self.attempt = attempt
        self.transport: Transport | None = None
        self.opening: Task | None = None
        self._driver = driver
        self._out: list[bytes] = []
        self._dropped = False
        self._linger: Task | None = None

    # --- the event loop calls -------------------------------------------------------------------------------------

    def opened(self, transport: Transport) -> None:
        """The transport is open."""
        if self._dropped:
            transport.abort()
            return
        self.transport = transport
        if self.framing.opening:
            transport.write(self.framing.opening)
        if self.framing.ready:
            self._driver.run(lambda now: self._driver.core.link.connected(self.attempt, now))

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self._dropped:
            return
        framing, link = self.framing, self._driver.core.link
        was_ready = framing.ready
        messages = framing.receive(data)
        if framing.output and self.transport is not None:
            output, framing.output = framing.output, b""
            self.transport.write(output)

        def feed(now: float) -> None:
            if framing.ready and not was_ready:
                link.connected(self.attempt, now)
            if framing.ready:
                link.received(self.attempt, messages, now)
            if framing.failed is not None and not self._dropped:
                if framing.ready:
                    link.failed(self.attempt, framing.failed, now)
                else:
                    self._driver.drop(self)
                    link.lost(self.attempt, str(framing.failed), now)

        self._driver.run(feed)

    def writable(self, yes: bool) -> None:
        """The transport's buffer is low (or full)."""
        if not self._dropped:
            self._driver.run(lambda now: self._driver.core.outbound.writable(yes, now))

    def lost(self, reason: str) -> None:
        """The transport is gone, or could not be opened."""
        self.transport = self.opening = None
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._driver.gone(self)
        if not self._dropped:
            self._dropped = True
            self._driver.run(lambda now: self._driver.core.link.lost(self.attempt, reason, now))

    # --- the driver calls -----------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send with the next flush."""
        self._out.append(frame)

    def flush(self) -> None:
        """One write for what was sent."""
        if self._out and self.transport is not None:
            data = b"".join(self._out)
            self._out = []
            self.transport.write(data)

    def drop(self, abort: bool) -> None:
        """Close; nothing more is heard of it."""
        self._dropped = True
        if self.transport is not None:
            self._out.append(self.framing.closing())
            self.flush()
            if abort:
                self.transport.abort()
            else:
                runtime = self._driver.runtime
                self._linger = runtime.call_at(runtime.now() + LINGER_S, self._cut)
                self.transport.close()
        elif self.opening is not None:
            self.opening.cancel()

    def _cut(self) -> None:
        self._linger = None
        if self.transport is not None:
            self.transport.abort()


class Driver:
    """One client's core on its event loop. ``on_state``, ``on_gap``, ``on_notice``, ``on_unclaimed``: the
    application's callbacks, see ``Client``."""

    def __init__(self, core: Core, runtime: Runtime, token_source: TokenSource | None) -> None:
        self.core = core
        self.runtime = runtime
        self.on_state: Callable[[effects.Changed], Any] | None = None
        self.on_gap: Callable[[int], Any] | None = None
        self.on_notice: Callable[[str, RelayError], Any] | None = None
        self.on_unclaimed: Callable[[Event], Any] | None = None
        self.state: effects.Changed | None = None
        self.closed: effects.Closed | None = None
        self._token_source = token_source
        self._line: Line | None = None
        self._lines: set[Line] = set()
        self._queue: deque[effects.Effect] = deque()
        self._performing = False
        self._timer: Task | None = None
        self._timer_at = float("inf")
        self._ready_waiters: list[Waiter] = []
        self._closed_waiters: list[Waiter] = []
        self._answering: dict[effects.Call, Task] = {}
        self._perform: dict[type, Callable[[Any], None]] = {  # Any: each takes its own type of effect
            effects.Connect: self._connect,
            effects.Send: self._send,
            effects.Hangup: self._hangup,
            effects.WantToken: self._want_token,
            effects.Resolve: lambda effect: effect.waiter.succeed(effect.value),
            effects.Reject: lambda effect: effect.waiter.fail(effect.error),
            effects.Progress: lambda effect: effect.waiter.progress(effect.message),
            effects.Deliver: self._deliver,
            effects.Invoke: self._invoke,
            effects.Revoke: self._revoke,
            effects.Ended: lambda effect: effect.listener.end(effect.error),
            effects.Changed: self._changed,
            effects.Gap: lambda effect: self.call_back(self.on_gap, effect.frames),
            effects.Notice: self._notice,
            effects.Closed: self._closed,
        }

    # --- calling the core -----------------------------------------------------------------------------------------

    def run(self, call: Callable[[float], T]) -> T:
        """``call(now)`` into the core, then what follows from it."""
        now = self.runtime.now()
        try:
            return call(now)
        finally:
            self._queue.extend(self.core.take(now))
            if not self._performing:
                self._drain()

    async def wait(self, call: Callable[[Waiter, float], object]) -> Any:  # Any: what the waiter is settled with
        """``call(waiter, now)`` into the core, then wait for the waiter; given up when this is cancelled."""
        waiter = self.runtime.waiter()
        self.run(lambda now: call(waiter, now))
        try:
            return await waiter
        finally:
            self.run(lambda now: self.core.requests.abandon(waiter, now))

    async def ready(self) -> None:
        """Wait until there is a session. Raises why there will be none."""
        await self._wait_in(self._ready_waiters)

    async def wait_closed(self) -> RelayError | None:
        """Wait until the client and its connection are closed; why, when the application did not wish it."""
        if self.closed is None or self._lines:
            await self._wait_in(self._closed_waiters)
        assert self.closed is not None
        return self.closed.error

    async def _wait_in(self, waiters: list[Waiter]) -> None:
        waiter = self.runtime.waiter()
        waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    # --- the application's code -----------------------------------------------------------------------------------

    def call_back(self, callback: Callable[..., Any] | None, *args: object) -> None:
        """Call the application's ``callback``, which must not raise: what it raises is reported."""
        if callback is None:
            return
        try:
            result = callback(*args)
        except Exception as error:  # noqa: BLE001 - the application's code may raise anything; it is reported
            self.report(f"the callback {callback!r}", error)
            return
        if inspect.isawaitable(result):
            self.spawn(self.guard(result, f"the callback {callback!r}"), "")

    async def guard(self, awaitable: Awaitable[Any], what: str) -> None:
        """Wait for the application's ``awaitable``; what it raises is reported."""
        try:
            await awaitable
        except Exception as error:  # noqa: BLE001 - as above
            self.report(what, error)

    def spawn(self, coroutine: Coroutine[Any, Any, None], what: str) -> Task:
        """Run in the background; what it raises is reported."""
        return self.runtime.spawn(self.guard(coroutine, what) if what else coroutine)

    def report(self, what: str, error: BaseException) -> None:
        """Something failed that nobody waits for."""
        self.runtime.report(what, error)

    # --- performing -----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._performing = True
        queue, perform = self._queue, self._perform
        try:
            while queue:
                effect = queue.popleft()
                perform[type(effect)](effect)
        finally:
            self._performing = False
        if self._line is not None:
            self._line.flush()
        at = self.core.next_timer()
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self.runtime.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        self.run(self.core.timer)

    def _connect(self, effect: effects.Connect) -> None:
        framing = framing_for(effect.address, self.core.options.frame_bytes_max, self.runtime.random_bytes)
        line = self._line = Line(self, effect.attempt, framing)
        self._lines.add(line)
        line.opening = self.runtime.open(effect.address, line)

    def _send(self, effect: effects.Send) -> None:
        if self._line is not None:
            self._line.send(self._line.framing.encode(effect.message))

    def _hangup(self, effect: effects.Hangup) -> None:
        line = self._line
        if line is not None and line.attempt == effect.attempt:
            self.drop(line, effect.abort)

    def drop(self, line: Line, abort: bool = True) -> None:
        """``line`` is of no use any more."""
        if self._line is line:
            self._line = None
        opened = line.transport is not None
        line.drop(abort)
        if not opened:
            self.gone(line)

    def gone(self, line: Line) -> None:
        """``line`` is closed, or was never open."""
        if self._line is line:
            self._line = None
        self._lines.discard(line)
        if self.closed is not None and not self._lines:
            self._settle(self._closed_waiters, None)

    def _want_token(self, effect: effects.WantToken) -> None:
        assert self._token_source is not None
        self.spawn(self._get_token(self._token_source), "")

    async def _get_token(self, source: TokenSource) -> None:
        try:
            found = source()
            token = await found if inspect.isawaitable(found) else found
            if not isinstance(token, str) or not token:
                raise Unauthenticated(f"the token callback gave {token!r}, no token")
        except RelayError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - the application's code may raise anything; it is reported
            self.report("the token callback", raised)
            error = InternalError(f"the token callback failed: {raised}")
        else:
            self.run(lambda now: self.core.token(token, now))
            return
        self.run(lambda now: self.core.token_failed(error, now))

    def _deliver(self, effect: effects.Deliver) -> None:
        event = Event(effect.message)
        for listener in effect.listeners:
            listener.deliver(event)
        if not effect.listeners:
            self.call_back(self.on_unclaimed, event)

    def _changed(self, effect: effects.Changed) -> None:
        self.state = effect
        if effect.state == "ready":
            self._settle(self._ready_waiters, None)
        self.call_back(self.on_state, effect)

    def _notice(self, effect: effects.Notice) -> None:
        if self.on_notice is None:
            self.report(effect.name or "a message without answer", effect.error)
        else:
            self.call_back(self.on_notice, effect.name, effect.error)

    def _closed(self, effect: effects.Closed) -> None:
        self.closed = effect
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        error = effect.error or self.core.requests.closed
        self._settle(self._ready_waiters, error)
        if not self._lines:
            self._settle(self._closed_waiters, None)

    @staticmethod
    def _settle(waiters: list[Waiter], error: RelayError | None) -> None:
        for waiter in waiters[:]:
            if error is None:
                waiter.succeed(None)
            else:
                waiter.fail(error)
        waiters.clear()

    # --- answering ------------------------------------------------------------------------------------------------

    def _invoke(self, effect: effects.Invoke) -> None:
        call = effect.call
        try:
            result = call.provider.handler(Pull(call.message, call.deadline))
        except Exception as error:  # noqa: BLE001 - the handler may raise anything; the caller hears of it
            self._failed(call, error)
            return
        if inspect.isawaitable(result) or isinstance(result, AsyncIterable):
            task = self.runtime.spawn(self._answer(call, result))
            if not call.done:
                self._answering[call] = task
        else:
            self._reply(call, result)

    async def _answer(self, call: effects.Call, result: Any) -> None:  # Any: what the handler returned
        try:
            if isinstance(result, AsyncIterable):
                await self._answer_each(call, result)
                self.run(lambda now: self.core.calls.reply(call, b"", kinds.RAW, now))
            else:
                self._reply(call, await result)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(call, error)
        finally:
            self._answering.pop(call, None)

    async def _answer_each(self, call: effects.Call, values: AsyncIterable[Any]) -> None:  # Any: as above
        try:
            async for value in values:
                self._reply(call, value, more=True)
                if not self.core.outbound.roomy:
                    await self.wait(self.core.room)
        finally:
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()

    def _reply(self, call: effects.Call, result: Any, more: bool = False) -> None:  # Any: what the handler returned
        fields: Fields | None = None
        codec: str | int | None = None
        try:
            if isinstance(result, Answer):
                if result.metadata:
                    fields = {kinds.METADATA: result.metadata}
                result, codec = result.value, result.codec
            body, number = encode(result, codec)
            self.run(lambda now: self.core.calls.reply(call, body, number, now, more=more, fields=fields))
        except RelayError as error:
            if more:
                raise
            self._failed(call, error)

    def _failed(self, call: effects.Call, raised: Exception) -> None:
        error = raised if isinstance(raised, RelayError) else InternalError("the provider failed")
        if error is not raised and not call.done:
            self.report(f"the provider of {call.message.name}", raised)
        self.run(lambda now: self.core.calls.fail(call, error, now))

    def _revoke(self, effect: effects.Revoke) -> None:
        task = self._answering.pop(effect.call, None)
        if task is not None:
            task.cancel()
