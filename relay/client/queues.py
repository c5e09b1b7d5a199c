"""Queues as an application uses them: put, consume, look after.

async with await client.consume("jobs", handler):        acknowledged when the handler is done, else again
    ...
async for delivery in client.consume("jobs", ack="explicit"):
    async with delivery:                                  the same, by hand
        ...
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

import msgspec

from relay.client.consumers import Entry
from relay.client.events import Event, Extras, compose
from relay.client.inbox import Confirmed
from relay.client.taking import Taking
from relay.errors import BadBody, ConfigError, RelayError
from relay.wire import handshake, kinds
from relay.wire.message import Fields, Message
from relay.wire.names import check_name

if TYPE_CHECKING:
    from relay.client.core import Core
    from relay.client.driver import Driver

INBOX: Final = "$inbox"
"""The queue of the session's own user."""
CREDITS: Final = 8
REASON_CHARS_MAX: Final = 200

Worker = Callable[["Delivery"], Any]  # Any: nothing, or an awaitable


class Delivery(Event):
    """One message of a queue. Settle it by :meth:`ack` or :meth:`nack`, once; or as a context: leaving it normally
    acknowledges, an exception gives it back."""

    __slots__ = ("_consumption", "_generation", "settled")

    def __init__(self, message: Message, consumption: Consumption) -> None:
        super().__init__(message)
        self._consumption = consumption
        self._generation = consumption.entry.generation
        self.settled = False

    @property
    def queue(self) -> str:
        """The queue it is from."""
        return str(self.message.get(kinds.QUEUE, ""))

    @property
    def offset(self) -> int:
        """Its number in the queue."""
        return int(self.message.get(kinds.OFFSET, 0))

    @property
    def deliveries(self) -> int:
        """The how manieth delivery of the message this is; 1 for the first."""
        return int(self.message.get(kinds.DELIVERIES, 1))

    async def ack(self, *, wait: bool = True) -> None:
        """It is done. With ``wait`` until the server has stored that; without, a loss of the connection may bring
        it again.

        Raises ``NotFound`` when the lease was over and somebody else has it, ``ConnectionClosed`` when it is not
        known.
        """
        await self._settle(Message(kinds.ACK, self.queue, fields={kinds.OFFSET: self.offset}), wait)

    async def nack(
        self, delay_s: float | None = None, *, dead: bool = False, reason: str = "", wait: bool = True
    ) -> None:
        """It is not done: again after ``delay_s`` (None: the queue's back-off), or with ``dead`` never. Raises as
        :meth:`ack`."""
        body: dict[str, Any] = {}  # Any: JSON
        if delay_s is not None:
            body["delay_ms"] = int(delay_s * 1000)
        if dead:
            body["dead"] = True
        if reason:
            body["reason"] = reason[:REASON_CHARS_MAX]
        message = handshake.write(kinds.NACK, body, name=self.queue)
        message.fields = {kinds.OFFSET: self.offset}
        await self._settle(message, wait)

    async def release(self) -> None:
        """It was not looked at: at once to the next, and this delivery does not count. The answer is not awaited."""
        message = handshake.write(kinds.NACK, {"released": True}, name=self.queue)
        message.fields = {kinds.OFFSET: self.offset}
        await self._settle(message, False)

    async def _settle(self, message: Message, wait: bool) -> None:
        if self.settled:
            raise ConfigError("a message is settled once")
        self.settled = True
        await self._consumption.settle(self._generation, message, wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.settled:
            return
        if error is None:
            await self.ack()
        else:
            await self.nack(reason=f"{type(error).__name__}: {error}", wait=False)


class Consumption(Taking[Delivery], Confirmed):
    """One queue that messages are taken from: await it for the server's confirmation; iterate over it when there is
    no handler. At most ``credits`` messages are unsettled, so a consumer that is slow is given no more."""

    def __init__(
        self, driver: Driver, queue: str, handler: Worker | None, explicit: bool,
        on_end: Callable[[RelayError | None], Any] | None,
    ) -> None:  # fmt: skip
        Taking.__init__(self, driver)
        Confirmed.__init__(self, driver)
        self.queue = queue
        self.entry: Entry = Entry(queue, self, {})
        self._handler = handler
        self._explicit = explicit
        self._on_end = on_end

    # --- what the driver calls ------------------------------------------------------------------------------------

    def deliver(self, event: Event) -> None:
        """One message."""
        delivery = Delivery(event.message, self)
        if self._ended:
            self._release(delivery)  # it was under way when the application stopped
        elif self._handler is None:
            self._items.append(delivery)
            self._wake()
        elif self._explicit:
            self._driver.callbacks.call(self._handler, delivery)
        else:
            self._handle(self._handler, delivery)

    def fail(self, error: RelayError) -> None:
        """The server has refused."""
        self.end(error)
        super().fail(error)

    def end(self, error: RelayError | None) -> None:
        """No more messages will come. ``error``: why, when the application did not wish it."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._wake()
        if self._on_end is not None:
            self._driver.callbacks.call(self._on_end, error)
        elif error is not None and self._handler is not None:
            self._driver.callbacks.report(f"{self!r} has ended", error)

    # --- handlers -------------------------------------------------------------------------------------------------

    def _handle(self, handler: Worker, delivery: Delivery) -> None:
        try:
            result = handler(delivery)
        except Exception as error:  # noqa: BLE001 - the handler may raise anything; the message comes again
            self._failed(delivery, error)
            return
        if inspect.isawaitable(result):
            self._driver.core.consumers.busy += 1
            self._driver.callbacks.spawn(self._finish(result, delivery), f"the handler of {self!r}")
        else:
            self._done(delivery)

    async def _finish(self, result: Awaitable[Any], delivery: Delivery) -> None:
        try:
            await result
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(delivery, error)
        except BaseException:
            self._give_back(delivery, "the handler was cancelled")
            raise
        else:
            self._done(delivery)
        finally:
            self._driver.core.consumers.busy -= 1
            self._driver.run(lambda now: None)  # a close may wait for it

    def _done(self, delivery: Delivery) -> None:
        if not delivery.settled:
            delivery.settled = True
            self._tell(delivery, Message(kinds.ACK, self.queue, fields={kinds.OFFSET: delivery.offset}))

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        self._driver.callbacks.report(f"the handler of {self!r}", error)
        self._give_back(delivery, f"{type(error).__name__}: {error}")

    def _give_back(self, delivery: Delivery, reason: str) -> None:
        self._refuse(delivery, {"reason": reason[:REASON_CHARS_MAX]})

    def _release(self, delivery: Delivery) -> None:
        self._refuse(delivery, {"released": True})

    def _refuse(self, delivery: Delivery, body: dict[str, Any]) -> None:  # Any: JSON
        if not delivery.settled:
            delivery.settled = True
            message = handshake.write(kinds.NACK, body, name=self.queue)
            message.fields = {kinds.OFFSET: delivery.offset}
            self._tell(delivery, message)

    def _tell(self, delivery: Delivery, message: Message) -> None:
        core = self._driver.core
        if core.requests.closed is None or core.closing:
            generation = delivery._generation
            self._driver.run(lambda now: core.consumers.settle(self.entry, generation, message, None, now))

    async def settle(self, generation: int, message: Message, wait: bool) -> None:
        """Send what a delivery is settled with; see ``Delivery.ack``."""
        consumers = self._driver.core.consumers
        if wait:
            await self._driver.wait(lambda waiter, now: consumers.settle(self.entry, generation, message, waiter, now))
        else:
            self._driver.run(lambda now: consumers.settle(self.entry, generation, message, None, now))

    # --- for the application --------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take no more; what is being handled goes on, what an iterator has not taken goes back."""
        self.end(None)
        items, self._items = self._items, deque()
        await self._driver.wait(lambda waiter, now: self._driver.core.consumers.leave(self.entry, waiter, now))
        for delivery in items:
            self._release(delivery)

    async def __aenter__(self) -> Self:
        return await self.confirmed()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<Consumption {self.queue}>"


class Queued(msgspec.Struct, frozen=True):
    """The result of putting a message into a queue: it is stored under this number."""

    offset: int


class QueueCalls:
    """What a client can do with queues."""

    _driver: Driver
    _core: Core

    async def enqueue(
        self,
        queue: str,
        value: Any = b"",  # Any: whatever the codec can carry
        *,
        name: str = "",
        codec: str | int | None = None,
        filters: Iterable[str] = (),
        deliver_at: int | None = None,
        timeout_s: float | None = None,
        **extras: Unpack[Extras],
    ) -> Queued:
        """Put a message into ``queue``, under the route ``name`` (default: the queue's); returns when it is stored.

        ``deliver_at``: Unix time in ms. With ``idempotency_key`` it is stored once, however often it is sent: the
        client then sends it again by itself when a session was lost before the answer.
        """
        check_name(queue)
        check_name(name or queue)
        fields: dict[str, Any] = {**extras, "queue": queue, "deliver_at": deliver_at}  # Any: by the field's name
        again = bool(extras.get("idempotency_key"))
        if again:
            fields["level"] = 2
        message = compose(kinds.PUSH, name or queue, value, fields, codec, (), filters)
        reply = await self._ask_queue(message, timeout_s, again)
        return Queued(reply.get(kinds.OFFSET, 0))

    def consume(
        self,
        queue: str,
        handler: Worker | None = None,
        *,
        credits: int = CREDITS,
        lease_s: float | None = None,
        ack: Literal["auto", "explicit"] = "auto",
        on_end: Callable[[RelayError | None], Any] | None = None,
    ) -> Consumption:
        """Take messages from ``queue`` (``$inbox``: one's own). Await the result for the server's confirmation.

        ``handler(delivery)``: plain, or a coroutine; up to ``credits`` of them are under way at once (1: one after the
        other). When it is done the message is acknowledged, when it raises it is delivered again later; with ``ack``
        ``explicit`` the handler does that. Without a handler, iterate over the result and settle each delivery.
        ``lease_s``: how long one message may take; None: the queue's. A lost session is no end: the queue is consumed
        again, and what was held comes again.
        """
        if queue != INBOX:
            check_name(queue)
        if credits < 1:
            raise BadBody("credits: at least 1 expected")
        consumption = Consumption(self._driver, queue, handler, ack == "explicit", on_end)
        fields: Fields = {kinds.CREDITS: credits}
        if lease_s is not None:
            fields[kinds.LEASE_MS] = max(1, int(lease_s * 1000))

        def join(now: float) -> None:
            consumption.entry = self._core.consumers.join(queue, consumption, fields, now)

        self._driver.run(join)
        return consumption

    async def queue(
        self,
        name: str,
        op: str,
        *,
        timeout_s: float | None = None,
        **keys: Any,  # Any: JSON
    ) -> dict[str, Any]:
        """Look after a queue: ``info``, ``peek``, ``dead``, ``requeue``, ``remove``, ``purge``, ``pause``, ``resume``;
        keys and results: ``docs/protocol.md`` section 9."""
        message = handshake.write(kinds.QUEUE_KIND, {"op": op, **keys}, name=name)
        reply = await self._ask_queue(message, timeout_s, op in ("info", "peek", "dead"))
        found: dict[str, Any] = handshake.read(reply, dict)
        return found

    async def _ask_queue(self, message: Message, timeout_s: float | None, again: bool) -> Message:
        reply: Message = await self._driver.wait(
            lambda waiter, now: self._core.requests.ask(
                message, waiter, now, timeout_s=timeout_s, fate="again" if again else "fail"
            )
        )
        return reply
