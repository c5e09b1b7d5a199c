"""Performs what the client's core wants, on any event loop.

    application ─▶ Client ─▶ run(call) ─▶ core ─▶ effects ─▶ perform ─▶ lines, waiters, callbacks, handlers
    event loop ──▶ Line ───▶ run(call) ─┘

An application's callback may call back into the client: its effects then wait until those before them are performed.
What is sent while effects are performed leaves in one write.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from relay.client import effects
from relay.client.answering import Answering
from relay.client.callbacks import Callbacks
from relay.client.core import Core
from relay.client.events import Event
from relay.client.framing import framing_for
from relay.client.line import Line
from relay.client.runtime import Moment, Runtime, Task, Waiter
from relay.errors import InternalError, RelayError, Unauthenticated

T = TypeVar("T")
TokenSource = Callable[[], "str | Awaitable[str]"]


class Driver:
    """One client's core on its event loop. ``ready``: there is a session, or there will be none."""

    def __init__(self, core: Core, runtime: Runtime, callbacks: Callbacks, token_source: TokenSource | None) -> None:
        self.core = core
        self.runtime = runtime
        self.callbacks = callbacks
        self.ready = Moment(runtime)
        self.state: effects.Changed | None = None
        self.closed: effects.Closed | None = None
        self._token_source = token_source
        self._line: Line | None = None  # the one in use
        self._lines: dict[int, Line] = {}  # by attempt; also those that are opening or closing
        self._queue: deque[effects.Effect] = deque()
        self._performing = False
        self._timer: Task | None = None
        self._timer_at = float("inf")
        self._gone = Moment(runtime)
        answering = Answering(self)
        self._perform: dict[type, Callable[[Any], None]] = {  # Any: each takes its own type of effect
            effects.Connect: self._connect,
            effects.Chosen: self._chosen,
            effects.Send: self._send,
            effects.Hangup: self._hangup,
            effects.WantToken: self._want_token,
            effects.Resolve: lambda effect: effect.waiter.succeed(effect.value),
            effects.Reject: lambda effect: effect.waiter.fail(effect.error),
            effects.Progress: lambda effect: effect.waiter.progress(effect.message),
            effects.Deliver: self._deliver,
            effects.Invoke: answering.invoke,
            effects.Revoke: answering.revoke,
            effects.Ended: lambda effect: effect.listener.end(effect.error),
            effects.Changed: self._changed,
            effects.Recovered: lambda effect: callbacks.call(
                callbacks.on_recovered, effect.channel, effect.recovered
            ),
            effects.Gap: lambda effect: callbacks.call(callbacks.on_gap, effect.frames),
            effects.Notice: lambda effect: callbacks.notice(effect.name, effect.error),
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
        except BaseException:
            self.run(lambda now: self.core.requests.abandon(waiter, now))
            raise

    async def wait_closed(self) -> RelayError | None:
        """Wait until the client and its connection are closed; why, when the application did not wish it."""
        await self._gone.wait()
        assert self.closed is not None
        return self.closed.error

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
        framing = framing_for(effect.address, self.core.options, self.runtime.random_bytes)
        line = self._lines[effect.attempt] = Line(self, effect.attempt, framing)
        line.opening = self.runtime.open(effect.address, line)

    def _chosen(self, effect: effects.Chosen) -> None:
        self._line = self._lines.get(effect.attempt)

    def _send(self, effect: effects.Send) -> None:
        line = self._line if not effect.attempt else self._lines.get(effect.attempt)
        if line is not None:
            line.send(line.framing.encode(effect.message))
            if line is not self._line:
                line.flush()

    def _hangup(self, effect: effects.Hangup) -> None:
        line = self._lines.get(effect.attempt)
        if line is not None and not line.dropped:
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
        self._lines.pop(line.attempt, None)
        if self.closed is not None and not self._lines:
            self._gone.happen()

    def _want_token(self, effect: effects.WantToken) -> None:
        assert self._token_source is not None
        self.callbacks.spawn(self._get_token(self._token_source), "the token callback")

    async def _get_token(self, source: TokenSource) -> None:
        try:
            found = source()
            token = await found if inspect.isawaitable(found) else found
            if not isinstance(token, str) or not token:
                raise Unauthenticated(f"the token callback gave {token!r}, no token")
        except RelayError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - the application's code may raise anything; it is noticed
            error = InternalError(f"the token callback failed: {raised!r}")
            error.__cause__ = raised
        else:
            self.run(lambda now: self.core.token(token, now))
            return
        self.run(lambda now: self.core.token_failed(error, now))

    def _deliver(self, effect: effects.Deliver) -> None:
        event = Event(effect.message)
        for listener in effect.listeners:
            listener.deliver(event)
        if not effect.listeners:
            self.callbacks.call(self.callbacks.on_unclaimed, event)

    def _changed(self, effect: effects.Changed) -> None:
        self.state = effect
        if effect.state == "ready":
            self.ready.happen()
        self.callbacks.call(self.callbacks.on_state, effect)

    def _closed(self, effect: effects.Closed) -> None:
        self.closed = effect
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.ready.happen(effect.error or self.core.requests.closed)
        if not self._lines:
            self._gone.happen()
