"""Runs an application's handlers: a pull in, one or several answers or an error out."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

from relay.client import effects
from relay.client.events import Answer, Pull, encode
from relay.client.runtime import Task
from relay.errors import InternalError, RelayError
from relay.wire import kinds
from relay.wire.message import Fields

if TYPE_CHECKING:
    from relay.client.driver import Driver


class Answering:
    """The calls under way of one client. A plain handler's answer is sent at once, without a task."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._core = driver.core
        self._answering: dict[effects.Call, Task] = {}

    def invoke(self, effect: effects.Invoke) -> None:
        """Start answering."""
        call = effect.call
        try:
            result = call.provider.handler(Pull(call.message, call.deadline))
        except Exception as error:  # noqa: BLE001 - the handler may raise anything; the caller hears of it
            self._failed(call, error)
            return
        if inspect.isawaitable(result) or isinstance(result, AsyncIterable):
            task = self._driver.runtime.spawn(self._answer(call, result))
            if not call.done:
                self._answering[call] = task
        else:
            self._reply(call, result)

    async def _answer(self, call: effects.Call, result: Any) -> None:  # Any: what the handler returned
        try:
            if isinstance(result, AsyncIterable):
                await self._answer_each(call, result)
                self._driver.run(lambda now: self._core.calls.reply(call, b"", kinds.RAW, now))
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
                if not self._core.outbound.roomy:
                    await self._driver.wait(self._core.room)
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
            self._driver.run(lambda now: self._core.calls.reply(call, body, number, now, more=more, fields=fields))
        except RelayError as error:
            if more:
                raise
            self._failed(call, error)

    def _failed(self, call: effects.Call, raised: Exception) -> None:
        error = raised if isinstance(raised, RelayError) else InternalError("the provider failed")
        if error is not raised and not call.done:
            self._driver.callbacks.report(f"the provider of {call.message.name}", raised)
        self._driver.run(lambda now: self._core.calls.fail(call, error, now))

    def revoke(self, effect: effects.Revoke) -> None:
        """Stop answering."""
        task = self._answering.pop(effect.call, None)
        if task is not None:
            task.cancel()
