"""The client as an application uses it, the same on Twisted and on asyncio (``relay.client.tx``, ``relay.client.aio``).

Every coroutine here raises ``RelayError``: what the server or the other side refused, ``ConnectionClosed`` when the
session ended before the answer came, ``DeadlineExceeded`` when it did not come in time. ``error.outcome`` says whether
it may have been done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self, Unpack

from relay.client import effects
from relay.client.api_channels import ChannelCalls
from relay.client.callbacks import Callbacks
from relay.client.calls import Route
from relay.client.core import Core
from relay.client.driver import Driver, TokenSource
from relay.client.events import Event, Pushed, Targets, compose
from relay.client.inbox import Callback, Handler, Pushes, Registration, Replies
from relay.client.options import ClientOptions, Identity
from relay.client.plan import parse, preferred
from relay.client.queues import QueueCalls
from relay.client.runtime import Runtime
from relay.errors import ConfigError, RelayError
from relay.wire import handshake, kinds
from relay.wire.message import Message
from relay.wire.names import check_name, check_pattern


class _Bound(handshake.BindOptions, frozen=True):
    user: str = ""


class Client(ChannelCalls, QueueCalls):
    """One session with a server, over as many connections as it takes.

    ``values``: ``bytes`` travel as raw, ``str`` as text, anything else as JSON, unless ``codec`` names another.
    ``timeout_s``: how long to wait for the answer; None is ``ClientOptions.request_timeout_s``.
    """

    # --- who is there -------------------------------------------------------------------------------------------------

    async def presence(
        self, channel: str, *, count_only: bool = False, timeout_s: float | None = None
    ) -> handshake.Members:
        """Who is in ``channel``; ``count_only``: only how many."""
        check_name(channel)
        message = Message(kinds.PRESENCE, channel)
        if count_only:
            message = handshake.write(kinds.PRESENCE, handshake.PresenceOptions(count_only), name=channel)
        reply = await self._ask(message, timeout_s, again=True)
        return handshake.read(reply, handshake.Members)

    async def online(self, user: str, *, timeout_s: float | None = None) -> handshake.UserPresence:
        """Whether ``user`` is here, with how many sessions, and when last (``last_seen``)."""
        message = Message(kinds.PRESENCE, fields={kinds.USER: user})
        return handshake.read(await self._ask(message, timeout_s, again=True), handshake.UserPresence)

    # --- one to one -----------------------------------------------------------------------------------------------

    async def push(
        self,
        name: str,
        value: Any = b"",  # Any: whatever the codec can carry
        *,
        codec: str | int | None = None,
        flags: Iterable[str] = (),
        filters: Iterable[str] = (),
        timeout_s: float | None = None,
        **targets: Unpack[Targets],
    ) -> Pushed:
        """Tell something to a user, a device of theirs, a session, a procedure's provider or (``all=True``) everybody.
        ``name`` is the route that the receiver sees. With ``level`` 1 or 2 it goes into the user's inbox and this
        returns when it is stored; 2 needs an ``idempotency_key``, and is sent again by itself when a session was lost
        before the answer."""
        check_name(name)
        message = compose(kinds.PUSH, name, value, dict(targets), codec, flags, filters)
        reply = await self._ask(message, timeout_s, again=targets.get("level") == 2)
        return Pushed(reply.get(kinds.ADDRESSED, 0), reply.get(kinds.REACHED, 0), reply.get(kinds.OFFSET))

    def on_push(self, pattern: str, callback: Callback | None = None) -> Pushes:
        """Pushes to this session whose name belongs to ``pattern``: iterate over the result, or give a ``callback``."""
        check_pattern(pattern)
        return Pushes(self._driver, pattern, callback)

    # --- procedures -----------------------------------------------------------------------------------------------

    async def pull(
        self,
        name: str,
        value: Any = b"",  # Any: whatever the codec can carry
        *,
        codec: str | int | None = None,
        filters: Iterable[str] = (),
        timeout_s: float | None = None,
        **targets: Unpack[Targets],
    ) -> Event:
        """Ask the procedure ``name`` (or a user, session or other procedure) and wait for the answer: its ``value``
        is what was answered. Of several answers it is the last. Cancelling this takes the question back."""
        check_name(name)
        message = compose(kinds.PULL, name, value, dict(targets), codec, (), filters)
        return Event(await self._ask(message, timeout_s))

    def pull_stream(
        self,
        name: str,
        value: Any = b"",  # Any: whatever the codec can carry
        *,
        codec: str | int | None = None,
        filters: Iterable[str] = (),
        timeout_s: float | None = None,
        **targets: Unpack[Targets],
    ) -> Replies:
        """Ask, and iterate over several answers: ``async with client.pull_stream(…) as replies: async for …``.
        Leaving the block early takes the question back."""
        check_name(name)
        message = compose(kinds.PULL, name, value, dict(targets), codec, (), filters)
        replies = Replies(self._driver, name)
        self._driver.run(lambda now: self._core.requests.ask(message, replies, now, timeout_s=timeout_s, stream=True))
        return replies

    async def register(
        self,
        name: str,
        handler: Handler,
        *,
        policy: str = "single",
        weight: int = 1,
        on_end: Callable[[RelayError | None], Any] | None = None,
    ) -> Registration:
        """Answer pulls of the procedure ``name`` (or a pattern) by ``handler(pull)``.

        It returns a value or an ``Answer``, is a coroutine that does, or an async generator whose values are answers
        of one pull. A ``RelayError`` that it raises is the caller's (``ApplicationError`` for one's own); anything
        else is reported here and ``internal`` there. When the caller goes away it is cancelled.
        """
        check_pattern(name)
        if name in self._core.registrations:
            raise ConfigError(f"{name} is registered by this client already")
        registration = Registration(self._driver, name, handler, on_end)
        options = handshake.RegisterOptions(policy, weight)
        self._driver.run(lambda now: self._core.registrations.join(name, registration, options, now))
        return await registration

    def on_pull(self, pattern: str, handler: Handler) -> Callable[[], None]:
        """Answer pulls addressed to this user or session whose name belongs to ``pattern``; the server is not told.
        Returns a function that stops it."""
        check_pattern(pattern)
        route = Route(pattern, Registration(self._driver, pattern, handler, None))
        self._core.calls.pulls.add(pattern, route)

        def stop() -> None:
            self._core.calls.pulls.remove(pattern, route)

        return stop

    # --- the session ----------------------------------------------------------------------------------------------

    async def bind(self, *, token: str = "", user: str = "", timeout_s: float | None = None) -> str:
        """Speak for another user: by a token, by name (with the permission ``bind``), or for nobody. The user."""
        options = handshake.BindOptions(token, user)
        reply = await self._driver.wait(lambda waiter, now: self._core.bind(options, waiter, now))
        return handshake.read(reply, _Bound).user

    async def refresh(self, token: str) -> None:
        """Show a new token before the old one has run out."""
        await self._driver.wait(lambda waiter, now: self._core.refresh(token, waiter, now))

    @property
    def welcome(self) -> handshake.Welcome:
        """What the server said of the session: ``session``, ``user``, ``realm``, ``node``, ``limits`` and more."""
        assert self._core.link.welcome is not None
        return self._core.link.welcome

    @property
    def state(self) -> str:
        """``connecting``, ``ready``, ``waiting`` (for the next attempt) or ``closed``."""
        if self._driver.closed is not None:
            return "closed"
        return "connecting" if self._driver.state is None else self._driver.state.state

    async def close(self) -> None:
        """Close gracefully, see ``ClientOptions.close_timeout_s``; a second call closes at once."""
        self._driver.run(self._core.close)
        await self._driver.wait_closed()

    async def wait_closed(self) -> RelayError | None:
        """Wait until the client is closed; the error, when that was not by :meth:`close`."""
        return await self._driver.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def open_client(
    runtime: Runtime,
    draw: Callable[[], float],
    urls: tuple[str, ...],
    *,
    prefer: bool = False,
    user: str = "",
    token: str | TokenSource = "",
    password: str = "",
    realm: str = "",
    device: str = "",
    info: Any = None,  # Any: a small JSON value
    options: ClientOptions | None = None,
    on_state: Callable[[effects.Changed], Any] | None = None,
    on_gap: Callable[[int], Any] | None = None,
    on_notice: Callable[[str, RelayError], Any] | None = None,
    on_unclaimed: Callable[[Event], Any] | None = None,
    on_recovered: Callable[[str, bool], Any] | None = None,
) -> Client:
    """Connect to one of ``urls`` and return when there is a session.

    ``prefer``: the URLs are ways to the same server, the best first; each further one is tried when those before it
    have not answered within ``ClientOptions.fallback_delay_s``. Without it they are equal, and begun with anywhere.
    ``token``: a string, or a callable (plain or async) that is asked whenever one is needed. ``on_state(changed)``: the
    connection is there, resumed, or lost. ``on_gap(frames)``: the server left out messages for this client was too
    slow. ``on_notice(name, error)``: something failed that nobody waits for (default: it is logged).
    ``on_unclaimed(event)``: a message that no subscription or ``on_push`` takes. ``on_recovered(channel, recovered)``:
    after a new session, whether what a channel with history published meanwhile is delivered; also False when events
    were missing within a session and cannot be had.

    Raises ``CannotConnect``, ``Unauthenticated`` or another ``RelayError``.
    """
    source = None if isinstance(token, str) else token
    identity = Identity(
        realm=realm, user=user, device=device, password=password, info=info,
        token=token if isinstance(token, str) else "", token_wanted=source is not None,
    )  # fmt: skip
    addresses = [parse(url) for url in urls]
    core = Core([preferred(addresses)] if prefer else addresses, identity, options or ClientOptions(), draw)
    driver = Driver(core, runtime, Callbacks(runtime, on_state, on_gap, on_notice, on_unclaimed, on_recovered), source)
    client = Client(driver)
    driver.run(core.link.start)
    try:
        await driver.ready.wait()
    except BaseException:
        driver.run(lambda now: core.link.finish() if core.link.state != "closed" else None)
        raise
    return client
