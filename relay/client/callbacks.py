"""The application's callbacks, called so that what they raise harms nobody else."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from relay.client.effects import Changed
from relay.client.events import Event
from relay.client.runtime import Runtime, Task
from relay.errors import RelayError


class Callbacks:
    """``on_state``, ``on_gap``, ``on_notice``, ``on_unclaimed`` and ``on_recovered`` are described at
    ``relay.client.api.open_client``."""

    def __init__(
        self,
        runtime: Runtime,
        on_state: Callable[[Changed], Any] | None = None,
        on_gap: Callable[[int], Any] | None = None,
        on_notice: Callable[[str, RelayError], Any] | None = None,
        on_unclaimed: Callable[[Event], Any] | None = None,
        on_recovered: Callable[[str, bool], Any] | None = None,
    ) -> None:
        self.on_state = on_state
        self.on_gap = on_gap
        self.on_unclaimed = on_unclaimed
        self.on_recovered = on_recovered
        self._on_notice = on_notice
        self._runtime = runtime

    def call(self, callback: Callable[..., Any] | None, *args: object) -> None:
        """Call ``callback``, if there is one. What it raises is reported; a coroutine goes on in the background."""
        if callback is None:
            return
        try:
            result = callback(*args)
        except Exception as error:  # noqa: BLE001 - the application's code may raise anything; it is reported
            self.report(f"the callback {callback!r}", error)
            return
        if inspect.isawaitable(result):
            self.spawn(result, f"the callback {callback!r}")

    def notice(self, name: str, error: RelayError) -> None:
        """Something failed that nobody waits for."""
        if self._on_notice is None:
            self.report(name or "a message without answer", error)
        else:
            self.call(self._on_notice, name, error)

    async def guard(self, awaitable: Awaitable[Any], what: str) -> None:
        """Wait for ``awaitable``; what it raises is reported."""
        try:
            await awaitable
        except Exception as error:  # noqa: BLE001 - as above
            self.report(what, error)

    def spawn(self, awaitable: Awaitable[Any], what: str) -> Task:
        """Wait for ``awaitable`` in the background; what it raises is reported."""
        return self._runtime.spawn(self.guard(awaitable, what))

    def report(self, what: str, error: BaseException) -> None:
        """To the event loop's log."""
        self._runtime.report(what, error)
