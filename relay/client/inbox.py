"""What an application holds while messages come: subscriptions, streams of replies, pushes, registrations.

All of them are objects that the core hands back in its effects; the driver calls their ``succeed``, ``fail``,
``progress``, ``deliver`` and ``end``. Iterators hold at most ``events_max`` messages for a slow consumer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Self

from relay.client.calls import Route
from relay.client.events import Event, Pull
from relay.client.runtime import Moment
from relay.client.taking import Taking
from relay.errors import BadBody, Full, RelayError
from relay.wire import handshake, kinds
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.client.driver import Driver

Callback = Callable[[Event], Any]  # Any: nothing, or an awaitable
Handler = Callable[[Pull], Any]  # Any: a value, an Answer, an awaitable of them, or an async iterator of them


class Inbox(Taking[Event]):
    """Messages for one consumer: ``async for``, or a callback. Ends by :meth:`end`, or with ``Full`` when it holds
    more than ``events_max``."""

    def __init__(self, driver: Driver, callback: Callback | None) -> None:
        Taking.__init__(self, driver)
        self._callback = callback
        if callback is not None and inspect.iscoroutinefunction(callback):
            # One after the other, as the messages came; a plain function is called at once.
            self._callback = None
            driver.callbacks.spawn(self._consume(callback), f"the callback of {self!r}")

    def deliver(self, event: Event) -> None:
        """One more message."""
        if self._ended:
            return
        if self._callback is not None:
            self._driver.callbacks.call(self._callback, event)
        elif len(self._items) >= self._driver.core.options.events_max:
            self.end(Full(f"{len(self._items)} messages wait to be taken from {self!r}"))
            self.cancel()
        else:
            self._items.append(event)
            self._wake()

    def end(self, error: RelayError | None) -> None:
        """No more messages will come. ``error``: why, when the application did not wish it."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()
            if error is not None and self._callback is not None:
                self._driver.callbacks.report(f"{self!r} has ended", error)

    def cancel(self) -> None:
        """Stop the messages at their source."""

    async def _consume(self, callback: Callback) -> None:
        async for event in self:
            await self._driver.callbacks.guard(callback(event), f"the callback of {self!r}")


class Confirmed:
    """Something that the server confirms or refuses first, and that may end later."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._answered = Moment(driver.runtime)

    def succeed(self, message: Message | None) -> None:
        """The server has confirmed."""
        self._answered.happen()

    def fail(self, error: RelayError) -> None:
        """The server has refused, or could not be asked."""
        self._answered.happen(error)

    async def confirmed(self) -> Self:
        """Wait for the server's answer. Raises what it refused with."""
        await self._answered.wait()
        return self

    def __await__(self) -> Generator[Any, Any, Self]:  # Any: the event loop's
        return self.confirmed().__await__()


class Subscription(Inbox, Confirmed):
    """One subscription: await it for the server's confirmation, iterate over it for the events.

    Once it is confirmed: ``members``: who was there, when presence was asked for; ``user``: likewise of ``$user.NAME``.
    ``recovered``: whether what was asked for of the history follows; None when nothing was. ``since``: the position
    behind which its events begin, where the channel keeps history.
    """

    def __init__(
        self, driver: Driver, name: str, callback: Callback | None, on_end: Callable[[RelayError | None], Any] | None
    ) -> None:
        self.name = name
        self.members: tuple[handshake.Member, ...] = ()
        self.user: handshake.UserPresence | None = None
        self.recovered: bool | None = None
        self.since: handshake.Position | None = None
        self._on_end = on_end
        Confirmed.__init__(self, driver)
        Inbox.__init__(self, driver, callback)

    def succeed(self, message: Message | None) -> None:
        """The server has confirmed, and says who is there when it was asked."""
        if message is not None and message.body:
            try:
                if self.name.startswith("$user."):
                    self.user = handshake.read(message, handshake.UserPresence)
                else:
                    self.members = handshake.read(message, _SubscribeReply).presence
                    said = handshake.read(message, handshake.Subscribed)
                    self.recovered = said.recovered
                    if said.offset is not None:
                        self.since = handshake.Position(said.offset, said.epoch)
            except BadBody as error:
                self._driver.callbacks.report(f"{self!r}: the server's answer", error)
        Confirmed.succeed(self, message)

    def fail(self, error: RelayError) -> None:
        """The server has refused."""
        Confirmed.fail(self, error)
        self.end(error)

    def end(self, error: RelayError | None) -> None:
        """It is over."""
        over = self._ended
        Inbox.end(self, error)
        if not over and self._on_end is not None:
            self._driver.callbacks.call(self._on_end, error)

    def cancel(self) -> None:
        """Unsubscribe without waiting for it."""
        self._driver.run(lambda now: self._driver.core.subscriptions.leave(self.name, self, None, now))

    async def unsubscribe(self) -> None:
        """End the subscription; iterators end after the events that they hold."""
        self.end(None)
        await self._driver.wait(lambda waiter, now: self._driver.core.subscriptions.leave(self.name, self, waiter, now))

    async def __aenter__(self) -> Self:
        return await self.confirmed()

    async def __aexit__(self, *_: object) -> None:
        await self.unsubscribe()

    def __repr__(self) -> str:
        return f"<Subscription {self.name}>"


class _SubscribeReply(handshake.Members, frozen=True):
    count: int = 0
    presence: tuple[handshake.Member, ...] = ()


class Replies(Inbox):
    """The answers to one pull: ``async for`` gives each; an error ends it."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.name = name
        self._progressed = False
        super().__init__(driver, None)

    def progress(self, message: Message) -> None:
        """One of several answers."""
        self._progressed = True
        self.deliver(Event(message))

    def succeed(self, message: Message) -> None:
        """The last answer. An empty one after others only says that they were all."""
        if message.body or message.codec != kinds.RAW or not self._progressed:
            self.deliver(Event(message))
        self.end(None)

    def fail(self, error: RelayError) -> None:
        """The pull failed."""
        self.end(error)

    def cancel(self) -> None:
        """Take the pull back: the provider stops."""
        self._driver.run(lambda now: self._driver.core.requests.abandon(self, now))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end(None)
        self.cancel()

    def __repr__(self) -> str:
        return f"<Replies {self.name}>"


class Pushes(Inbox):
    """Pushes whose name belongs to a pattern; local to this client, the server is not told."""

    def __init__(self, driver: Driver, pattern: str, callback: Callback | None) -> None:
        self.pattern = pattern
        self._route = Route(pattern, self)
        driver.core.calls.listen(self._route)
        super().__init__(driver, callback)

    def cancel(self) -> None:
        """Take no more."""
        self._driver.core.calls.ignore(self._route)

    def stop(self) -> None:
        """Take no more; iterators end after what they hold."""
        self.end(None)
        self.cancel()

    def __repr__(self) -> str:
        return f"<Pushes {self.pattern}>"


class Registration(Confirmed):
    """One procedure that this client provides. ``handler``: see ``Client.register``."""

    def __init__(
        self, driver: Driver, name: str, handler: Handler, on_end: Callable[[RelayError | None], Any] | None
    ) -> None:
        super().__init__(driver)
        self.name = name
        self.handler = handler
        self._on_end = on_end
        self._ended = False

    def end(self, error: RelayError | None) -> None:
        """The server takes it no more, or the client is closed."""
        if not self._ended:
            self._ended = True
            if self._on_end is not None:
                self._driver.callbacks.call(self._on_end, error)
            elif error is not None:
                self._driver.callbacks.report(f"{self!r} has ended", error)

    def deliver(self, event: Event) -> None:
        """A push under the procedure's name: the handler hears it, nobody hears the handler."""
        self._driver.callbacks.call(self.handler, Pull(event.message, float("inf")))

    async def unregister(self) -> None:
        """Answer no more pulls; those under way go on."""
        self._ended = True
        await self._driver.wait(lambda waiter, now: self._driver.core.registrations.leave(self.name, self, waiter, now))

    def __repr__(self) -> str:
        return f"<Registration {self.name}>"
