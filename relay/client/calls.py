"""What others ask of this client: pulls to answer, pushes to take.

A pull goes to the registration of its name, else to the registered pattern with the most literal segments, else to
a local route (an answerer for what is addressed to this user or session, unknown to the server), else it is refused
with ``no_provider``.
"""

from __future__ import annotations

from typing import Any

from relay.client.deadlines import Deadline, Deadlines
from relay.client.effects import Call, Deliver, Effect, Ended, Invoke, Revoke
from relay.client.interests import Interests, rank
from relay.client.options import ClientOptions
from relay.client.requests import Requests, error_message
from relay.errors import Cancelled, DeadlineExceeded, LimitExceeded, NoProvider, RelayError, RemoteProtocolError
from relay.wire import handshake, kinds
from relay.wire.message import Fields, Message
from relay.wire.names import PatternTable


class Route:
    """A local interest in pushes or pulls whose name belongs to ``pattern``; ``target`` is an object of the shell."""

    __slots__ = ("pattern", "target")

    def __init__(self, pattern: str, target: Any) -> None:  # Any: an object of the shell
        self.pattern = pattern
        self.target = target


class Calls:
    """The calls that one client is answering, and its local routes."""

    def __init__(
        self,
        requests: Requests,
        registrations: Interests[handshake.RegisterOptions],
        deadlines: Deadlines,
        options: ClientOptions,
        effects: list[Effect],
    ) -> None:
        self._pushes: PatternTable[Route] = PatternTable()
        self._push_routes: dict[Route, None] = {}
        self.pulls: PatternTable[Route] = PatternTable()
        self._requests = requests
        self._registrations = registrations
        self._deadlines = deadlines
        self._calls_max = options.calls_max
        self._effects = effects
        self._open: dict[int, tuple[Call, Deadline]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def listen(self, route: Route) -> None:
        """From now on ``route`` hears pushes. Raises ``ConnectionClosed`` when the client is closed."""
        if self._requests.closed is not None:
            raise self._requests.closed
        self._pushes.add(route.pattern, route)
        self._push_routes[route] = None

    def ignore(self, route: Route) -> None:
        """No longer."""
        self._pushes.remove(route.pattern, route)
        self._push_routes.pop(route, None)

    def close(self, error: RelayError | None) -> None:
        """The client is closed: nobody can be answered, no pushes come."""
        self.revoke_all()
        for route in self._push_routes:
            self._effects.append(Ended(route.target, error))
        self._push_routes = {}

    def provider(self, name: str) -> Any:  # Any: an object of the shell
        """Who answers pulls of that name here, or None."""
        registered = self._registrations.best(name)
        if registered is not None:
            return registered
        routes = self.pulls.match(name)
        return max(routes, key=lambda route: rank(route.pattern)).target if routes else None

    def pull(self, message: Message, now: float) -> None:
        """The server asks. Raises ``RemoteProtocolError`` for a ``seq`` that is missing or taken."""
        if not message.seq or message.seq in self._open:
            raise RemoteProtocolError(f"{message.describe()}: its seq is 0 or in use")
        provider = self.provider(message.name)
        if provider is None:
            self._refuse(message.seq, NoProvider(f"{message.name} is not answered here"), now)
        elif len(self._open) >= self._calls_max:
            error = LimitExceeded(f"{len(self._open)} calls are being answered", temporary=True)
            self._refuse(message.seq, error, now)
        else:
            deadline_ms = message.get(kinds.DEADLINE_MS)
            at = now + deadline_ms / 1000 if deadline_ms is not None else float("inf")
            call = Call(message, provider, at)
            self._open[message.seq] = (call, self._deadlines.add(at, lambda now: self._expire(call, now)))
            self._effects.append(Invoke(call))

    def cancel(self, message: Message, now: float) -> None:
        """The server takes a question back: it is answered by ``cancelled``."""
        found = self._open.get(message.seq)
        if found is not None:
            self._effects.append(Revoke(found[0]))
            self.fail(found[0], Cancelled("the caller took the question back"), now)

    def push(self, message: Message, now: float) -> None:
        """The server tells something: all routes that match hear it."""
        listeners = tuple(route.target for route in self._pushes.match(message.name))
        if not listeners:
            provider = self.provider(message.name)
            if provider is not None:
                listeners = (provider,)
        self._effects.append(Deliver(listeners, message))
        if message.seq:
            self._requests.tell(Message(kinds.REPLY, seq=message.seq), now, bound=True, forced=True)

    def reply(
        self, call: Call, body: bytes, codec: int, now: float, *, more: bool = False, fields: Fields | None = None
    ) -> None:
        """Answer; with ``more`` others follow. Does nothing when the call is over. Raises ``Full`` for a ``more``
        that finds the queue full, ``BadBody`` for fields that cannot be written."""
        if call.done:
            return
        flags = kinds.MORE if more else 0
        message = Message(kinds.REPLY, "", body, codec, flags, call.message.seq, fields)
        self._requests.tell(message, now, bound=True, forced=not more)
        if not more:
            self._finish(call)

    def fail(self, call: Call, error: RelayError, now: float) -> None:
        """Answer with an error. Does nothing when the call is over."""
        if not call.done:
            self._refuse(call.message.seq, error, now)
            self._finish(call)

    def unsupported(self, message: Message, error: RelayError, now: float) -> None:
        """Refuse a frame that this client does not know, when it wants an answer."""
        if message.seq:
            self._refuse(message.seq, error, now)

    def revoke_all(self) -> None:
        """The session is over: nobody can hear the answers."""
        for call, _ in list(self._open.values()):
            self._finish(call)
            self._effects.append(Revoke(call))

    def _expire(self, call: Call, now: float) -> None:
        self._effects.append(Revoke(call))
        self.fail(call, DeadlineExceeded("the provider had no answer in time"), now)

    def _refuse(self, seq: int, error: RelayError, now: float) -> None:
        self._requests.tell(error_message(seq, error), now, bound=True, forced=True)

    def _finish(self, call: Call) -> None:
        call.done = True
        _, deadline = self._open.pop(call.message.seq)
        deadline.cancel()
