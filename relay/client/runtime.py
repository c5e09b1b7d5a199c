"""What the client needs of an event loop: the contract of the shells, and futures that many may await."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

from relay.client.plan import Address

if TYPE_CHECKING:
    from relay.client.line import Line


class Waiter(Protocol):
    """A future of the event loop in use: awaited once, settled once; settling it again does nothing."""

    def succeed(self, value: Any) -> None:  # Any: what is waited for
        """Let the one who awaits go on with ``value``."""

    def fail(self, error: BaseException) -> None:
        """Let the one who awaits go on with ``error`` raised."""

    def __await__(self) -> Generator[Any, Any, Any]:  # Any: the event loop's, and what is waited for
        """Wait."""


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


class Moment:
    """Something that happens once and that several may wait for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiters: list[Waiter] = []
        self._over = False
        self._error: BaseException | None = None

    def happen(self, error: BaseException | None = None) -> None:
        """Let all go on, with ``error`` raised when there is one; also who comes later. Only the first time counts."""
        if not self._over:
            self._over, self._error = True, error
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if error is None:
                    waiter.succeed(None)
                else:
                    waiter.fail(error)

    async def wait(self) -> None:
        """Wait for it. Raises its error."""
        if not self._over:
            waiter = self._runtime.waiter()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if self._error is not None:
            raise self._error
