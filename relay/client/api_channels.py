"""What an application asks about channels: publish, subscribe, history. A part of ``relay.client.api.Client``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Unpack

from relay.client.driver import Driver
from relay.client.events import Event, Extras, History, Published, compose
from relay.client.inbox import Callback, Subscription
from relay.errors import Conflict, RelayError
from relay.wire import handshake, kinds
from relay.wire.message import Message
from relay.wire.names import check_name, check_pattern


class ChannelCalls:
    """The client's channels; see ``relay.client.api.Client``."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._core = driver.core

    async def publish(
        self,
        channel: str,
        value: Any,  # Any: whatever the codec can carry
        *,
        codec: str | int | None = None,
        flags: Iterable[str] = (),
        filters: Iterable[str] = (),
        ack: bool = True,
        timeout_s: float | None = None,
        **extras: Unpack[Extras],
    ) -> Published | None:
        """Publish to all members of ``channel``. ``flags``: for instance ``no_echo``.

        With ``ack`` the result says how many sessions were reached, and the offset where the channel keeps history.
        Without, it returns None when the message is on its way: it waits only while the queue is more than half full,
        and a refusal goes to ``on_notice``. With an ``idempotency_key`` it is asked again when the session was lost
        before the answer: a channel with history takes it once.
        """
        check_name(channel)
        message = compose(kinds.PUBLISH, channel, value, dict(extras), codec, flags, filters)
        if ack:
            reply = await self._ask(message, timeout_s, again="idempotency_key" in extras)
            return Published(reply.get(kinds.REACHED, 0), reply.get(kinds.OFFSET), reply.get(kinds.EPOCH))
        if not self._core.outbound.roomy:
            await self._driver.wait(self._core.room)
        self._driver.run(lambda now: self._core.requests.tell(message, now))
        return None

    def subscribe(
        self,
        pattern: str,
        callback: Callback | None = None,
        *,
        presence: bool = False,
        role: str = "",
        info: Any = None,  # Any: a small JSON value
        since: tuple[int, str] | None = None,
        last: int = 0,
        since_time: int = 0,
        retained: bool = False,
        tags: dict[str, str] | None = None,
        max_rate: float = 0,
        latest: bool = False,
        on_end: Callable[[RelayError | None], Any] | None = None,
    ) -> Subscription:
        """Subscribe to a channel or a pattern. Await the result for the server's confirmation; iterate over it with
        ``async for``, or give a ``callback``.

        ``presence``: also ``joined`` and ``left``, for a pattern ``occupied`` and ``vacated``. ``$user.NAME`` with
        ``presence`` watches a user, who is here from ``occupied`` to ``vacated``. ``role``, ``info``: shown to other
        members. ``on_end(error)``: the subscription is over, with an error when a new session did not get it again.

        Where the channel keeps history: ``since`` (an offset and its epoch), ``last`` (so many) or ``since_time`` (Unix
        time in ms) say what comes before the live events, see ``Subscription.recovered``; ``retained``: first the last
        value. ``tags``: only events that have them all; ``max_rate``: at most so many a second, with ``latest`` the
        newest of each conflation key. Raises ``Conflict`` for a name whose history this client has asked for already.
        """
        check_pattern(pattern)
        recovers = since is not None or last or since_time or retained
        if recovers and pattern in self._core.subscriptions:
            raise Conflict(f"{pattern} is subscribed to already: its history can be read by history()")
        subscription = Subscription(self._driver, pattern, callback, on_end)
        options = handshake.SubscribeOptions(
            presence, role, info, None if since is None else handshake.Position(*since), last, since_time, retained,
            tags or None, max_rate, latest,
        )  # fmt: skip
        try:
            self._driver.run(lambda now: self._core.subscriptions.join(pattern, subscription, options, now))
        except RelayError:
            subscription.end(None)
            raise
        return subscription

    async def history(
        self,
        channel: str,
        *,
        after: int = 0,
        before: int = 0,
        since_time: int = 0,
        limit: int = 100,
        backwards: bool = False,
        epoch: str = "",
        tags: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> History:
        """Publications of ``channel`` with offsets over ``after`` and under ``before`` (0: no bound), accepted at or
        after ``since_time`` (Unix time in ms): at most ``limit``, the oldest first, or ``backwards``. With ``epoch``
        none when the history has another."""
        check_name(channel)
        events: list[Event] = []
        while True:
            page: dict[int, Message] = {}
            wanted = limit - len(events)
            options = handshake.HistoryOptions(after, before, since_time, wanted, backwards, epoch, tags)
            message = handshake.write(kinds.HISTORY, options, name=channel)
            reply = await self._ask(message, timeout_s, True, partial(_collect, page))
            end = handshake.read(reply, handshake.HistoryEnd)
            events += [Event(page[offset]) for offset in sorted(page, reverse=backwards)]
            if not end.next or len(events) >= limit:
                return History(tuple(events), end.epoch, end.first, end.last, end.next)
            after, before = (after, end.next) if backwards else (end.next, before)

    def position(self, channel: str) -> tuple[int, str] | None:
        """Offset and epoch of what this client has seen of a channel with history: ``since`` for another time."""
        found = self._core.positions.position(channel)
        return None if found is None else (found.offset, found.epoch)

    async def _ask(
        self,
        message: Message,
        timeout_s: float | None,
        again: bool = False,
        more: Callable[[Message], object] | None = None,
    ) -> Message:
        reply: Message = await self._driver.wait(
            lambda waiter, now: self._core.requests.ask(
                message, waiter, now, timeout_s=timeout_s, fate="again" if again else "fail", more=more
            )
        )
        return reply


def _collect(page: dict[int, Message], message: Message) -> None:
    """By offset: a page that is asked for again in a new session has some of them twice."""
    page[message.get(kinds.OFFSET, 0)] = message
