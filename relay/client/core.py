"""The client as a machine without I/O.

    shell ── link.connected/received/lost, timer, requests.ask, subscriptions.join … ──▶ core
    shell ◀── take(): effects, in order ───────────────────────────────────────────────── core

    Core ── Link       attempts, handshake, heartbeats, resume, goodbye
         ├─ Outbound   queue and window of frames on their way
         ├─ Requests   questions and their answers
         ├─ Interests  subscriptions; registrations
         ├─ Positions  what has been seen of channels with history
         ├─ Calls      what others ask of this client
         └─ Consumers  queues that messages are taken from

The shell calls into the parts and then performs what ``take`` returns, when everything is consistent. Time comes in as
``now`` (seconds of any clock that does not run backwards), random numbers as a callable. The core calls nothing of the
shell's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from relay.client.calls import Calls
from relay.client.consumers import Consumers
from relay.client.deadlines import Deadline, Deadlines
from relay.client.effects import Deliver, Effect, Notice, Reject, Resolve
from relay.client.interests import registrations, subscriptions
from relay.client.link import Link
from relay.client.options import ClientOptions, Identity
from relay.client.outbound import Outbound
from relay.client.plan import Address, Plan
from relay.client.positions import Positions
from relay.client.requests import Requests
from relay.errors import BadBody, ConnectionClosed, Full, RelayError, RemoteProtocolError, Unsupported
from relay.wire import handshake, kinds
from relay.wire.message import Message


class Core:
    """One client. ``draw``: a random number in [0, 1) for each call."""

    def __init__(
        self,
        addresses: Iterable[Address],
        identity: Identity,
        options: ClientOptions,
        draw: Callable[[], float],
    ) -> None:
        self.options = options
        self._effects: list[Effect] = []
        self.deadlines = Deadlines()
        self.outbound = Outbound(options, self._effects)
        self.link = Link(Plan(addresses, options, draw), identity, options, self.outbound, self._effects)
        self.requests = Requests(self.outbound, self.deadlines, options, self._effects)
        self.subscriptions = subscriptions(self.requests, self.deadlines, options, self._effects)
        self.registrations = registrations(self.requests, self.deadlines, options, self._effects)
        self.calls = Calls(self.requests, self.registrations, self.deadlines, options, self._effects)
        self.consumers = Consumers(self.requests, self.deadlines, options, self._effects)
        self.positions = Positions(self.requests, self.subscriptions, self.deadlines, options, self._effects)
        self.link.upper = self
        self.link.left_out = self.positions.left_out
        self.outbound.too_large = self.requests.refuse
        self.closing = False
        self._close_deadline: Deadline | None = None
        self._refresh_due = False
        self._bound: handshake.BindOptions | None = None
        self._room: dict[Any, Deadline] = {}
        self._kinds: dict[int, Callable[[Message, float], None]] = {
            kinds.EVENT: self.positions.event,
            kinds.JOINED: self._presence,
            kinds.LEFT: self._presence,
            kinds.OCCUPIED: self._presence,
            kinds.VACATED: self._presence,
            kinds.REPLY: self.requests.replied,
            kinds.ERROR: self._error,
            kinds.PULL: self.calls.pull,
            kinds.PUSH: self._push,
            kinds.CANCEL: self.calls.cancel,
            kinds.REFRESH: self._refresh_wanted,
        }

    # --- the shell's turn -----------------------------------------------------------------------------------------

    def take(self, now: float) -> list[Effect]:
        """What is to be performed. Call it after every call into the core and its parts."""
        if self.outbound.blocked:
            self.link.probe()
        if self._room and (self.outbound.roomy or self.requests.closed is not None):
            for waiter, deadline in self._room.items():
                deadline.cancel()
                self._effects.append(Resolve(waiter, None))
            self._room = {}
        if self.closing and self.link.state != "closed":
            if not self.outbound.idle:
                self.link.probe()
            elif not len(self.requests) and not len(self.calls) and not self.consumers.busy:
                self.link.finish()
        taken = self._effects[:]
        self._effects.clear()
        return taken

    def next_timer(self) -> float:
        """When ``timer`` is due; infinity: not at all."""
        return min(self.link.next_wake(), self.deadlines.next())

    def timer(self, now: float) -> None:
        """Do what is due."""
        self.link.wake(now)
        self.deadlines.run(now)

    # --- the application's turn -----------------------------------------------------------------------------------

    def bind(self, options: handshake.BindOptions, waiter: Any, now: float) -> None:  # Any: an object of the shell
        """Bind the session to another user, or unbind it; a new session after a reconnect is bound again."""

        def answered(result: Message | RelayError, now: float) -> None:
            if isinstance(result, Message):
                self._bound = options
                self._effects.append(Resolve(waiter, result))
            else:
                self._effects.append(Reject(waiter, result))

        self.requests.ask(handshake.write(kinds.BIND, options), waiter, now, fate="again", answer=answered)

    def refresh(self, token: str, waiter: Any, now: float) -> None:  # Any: an object of the shell, or None
        """Show the server a new token."""

        def answered(result: Message | RelayError, now: float) -> None:
            if isinstance(result, Message):
                self.link.credentials.accepted(_expiry(result, now), token)
                if waiter is not None:
                    self._effects.append(Resolve(waiter, result))
            else:
                self._effects.append(Notice("refresh", result) if waiter is None else Reject(waiter, result))

        message = handshake.write(kinds.REFRESH, handshake.RefreshOptions(token))
        self.requests.ask(message, waiter, now, fate="again", answer=answered, forced=waiter is None)

    def token(self, token: str, now: float) -> None:
        """The application's token, as the effect ``WantToken`` asked for."""
        self.link.token(token, now)
        if self._refresh_due and self.link.state != "closed":
            self._refresh_due = False
            self.refresh(token, None, now)

    def token_failed(self, error: RelayError, now: float) -> None:
        """The application has no token now; ``Unauthenticated``: nor will it have one."""
        self._refresh_due = False
        self._effects.append(Notice("token", error))
        self.link.token_failed(error, now)

    def room(self, waiter: Any, now: float) -> None:  # Any: an object of the shell
        """``waiter`` hears when the queue is less than half full; ``Full`` when that takes too long."""

        def expire(now: float) -> None:
            del self._room[waiter]
            self._effects.append(Reject(waiter, Full("too much waits to be sent to the server")))

        if self.outbound.roomy:
            self._effects.append(Resolve(waiter, None))
        else:
            self._room[waiter] = self.deadlines.add(now + self.options.request_timeout_s, expire)

    def close(self, now: float) -> None:
        """Close gracefully: no new calls come in, what was asked and is being answered is waited for within
        ``close_timeout_s``, what was sent is acknowledged. A second call closes at once."""
        if self.link.state == "closed":
            return
        if self.closing or self.link.state == "idle":
            self.link.finish()
            return
        self.closing = True
        self.requests.closed = ConnectionClosed("the client is closing", temporary=False, outcome="not_done")
        self.registrations.release_all(now)
        self.consumers.release_all(now)
        self._close_deadline = self.deadlines.add(now + self.options.close_timeout_s, self._close_now)

    def _close_now(self, now: float) -> None:
        self.link.finish()

    # --- Upper: what the link says --------------------------------------------------------------------------------

    def fresh(self, welcome: handshake.Welcome, now: float) -> None:
        """There is a new session: bind it as the old one was, ask for everything that is wanted."""
        self.calls.revoke_all()
        self.positions.fresh(welcome.session, now)
        again = self.requests.renewed(now)
        if self._bound is not None:
            bound = handshake.write(kinds.BIND, self._bound)
            self.requests.ask(bound, None, now, fate="drop", forced=True, answer=self._rebound)
        self.subscriptions.renewed(now)
        if not self.closing:
            self.registrations.renewed(now)
            self.consumers.renewed(now)
        self.requests.again(again, now)

    def frame(self, message: Message, now: float) -> None:
        """One session frame of the server."""
        refusal = message.get(0)
        take = self._kinds.get(message.kind)
        if take is None or refusal is not None:
            error = Unsupported(refusal or f"{message.describe()} is not known here")
            self.calls.unsupported(message, error, now)
        else:
            take(message, now)

    def ended(self, error: RelayError | None) -> None:
        """The client is closed for good."""
        if self._close_deadline is not None:
            self._close_deadline.cancel()
        self.calls.close(error)
        self.requests.close(error)
        self.subscriptions.close(error)
        self.registrations.close(error)
        self.consumers.close(error)

    # --- frames ---------------------------------------------------------------------------------------------------

    def _push(self, message: Message, now: float) -> None:
        if message.fields is not None and kinds.QUEUE in message.fields:
            self.consumers.push(message, now)
        else:
            self.calls.push(message, now)

    def _presence(self, message: Message, now: float) -> None:
        listeners = self.subscriptions.chosen(message.name, lambda options: options.presence)
        self._effects.append(Deliver(tuple(listeners), message))

    def _error(self, message: Message, now: float) -> None:
        if message.seq:
            self.requests.replied(message, now)
        else:
            self.requests.noticed(message)

    def _refresh_wanted(self, message: Message, now: float) -> None:
        if message.seq:
            self.requests.tell(Message(kinds.REPLY, seq=message.seq), now, bound=True, forced=True)
        self._refresh_due = True
        self.link.credentials.want()

    def _rebound(self, result: Message | RelayError, now: float) -> None:
        if isinstance(result, RelayError):
            self._effects.append(Notice("bind", result))


class _Expiry(msgspec.Struct, frozen=True):
    expires_in_ms: int | None = None


def _expiry(reply: Message, now: float) -> float | None:
    """When the token of a reply to refresh runs out, on the clock of ``now``."""
    try:
        found = handshake.read(reply, _Expiry).expires_in_ms
    except BadBody as error:
        raise RemoteProtocolError(str(error)) from None
    return None if found is None else now + found / 1000
