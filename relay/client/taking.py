"""What an application takes with ``async for``: messages that wait for it, and an end with or without an error."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, TypeVar

from relay.client.runtime import Waiter
from relay.errors import RelayError

if TYPE_CHECKING:
    from relay.client.driver import Driver

Item = TypeVar("Item")


class Taking(Generic[Item]):
    """For one iterator at a time. A subclass puts into ``_items`` and wakes; it ends with ``_ended`` and ``_error``."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._items: deque[Item] = deque()
        self._waiting: Waiter | None = None
        self._ended = False
        self._error: RelayError | None = None

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.succeed(None)

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            if self._waiting is not None:
                raise RuntimeError(f"{self!r} has another iterator")
            self._waiting = self._driver.runtime.waiter()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._items.popleft()
