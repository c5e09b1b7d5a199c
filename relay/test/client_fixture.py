"""A client core on a bench: the test is the event loop, the transport and the server."""

from __future__ import annotations

from typing import Any

from relay.client import effects
from relay.client.core import Core
from relay.client.options import ClientOptions, Identity
from relay.client.plan import parse
from relay.errors import number_of
from relay.wire import handshake, kinds
from relay.wire.message import Message

FEATURES = ("resume",)


class Transcript:
    """What a core wanted so far. ``effects``: all of it, in order; ``now``: the clock."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.now = 100.0
        self.effects: list[effects.Effect] = []

    def take(self) -> list[effects.Effect]:
        """Collect what the core wants now; returns the new part."""
        new = self.core.take(self.now)
        self.effects += new
        return new

    def of(self, type_: type) -> list[Any]:  # Any: effects of that type
        """All effects so far of one type."""
        self.take()
        return [each for each in self.effects if isinstance(each, type_)]

    @property
    def sent(self) -> list[Message]:
        """All messages sent so far."""
        return [each.message for each in self.of(effects.Send)]

    def sent_kinds(self) -> list[str]:
        """Their kinds."""
        return [kinds.KINDS[each.kind] for each in self.sent]

    def last(self, kind: int) -> Message:
        """The latest message sent of that kind."""
        return [each for each in self.sent if each.kind == kind][-1]

    def clear(self) -> None:
        """Forget what was collected."""
        self.take()
        self.effects.clear()

    def result(self, waiter: object) -> Any:  # Any: a message, None, or an error
        """How ``waiter`` was settled: exactly once."""
        found = [each for each in [*self.of(effects.Resolve), *self.of(effects.Reject)] if each.waiter == waiter]
        assert len(found) == 1, f"{waiter} was settled {len(found)} times"
        return found[0].value if isinstance(found[0], effects.Resolve) else found[0].error

    def unsettled(self, waiter: object) -> bool:
        """Whether ``waiter`` still waits."""
        return not any(each.waiter == waiter for each in [*self.of(effects.Resolve), *self.of(effects.Reject)])

    @property
    def states(self) -> list[str]:
        """The states that the connection went through."""
        return [each.state for each in self.of(effects.Changed)]

    @property
    def attempts(self) -> list[str]:
        """The addresses that were tried."""
        return [str(each.address) for each in self.of(effects.Connect)]

    def delivered(self) -> list[tuple[tuple[Any, ...], bytes]]:
        """Listeners and bodies of what was delivered."""
        return [(each.listeners, each.message.body) for each in self.of(effects.Deliver)]


class Bench(Transcript):
    """A core, and what the test does to it."""

    def __init__(
        self,
        *urls: str,
        identity: Identity | None = None,
        draw: float = 0.5,
        **options: Any,  # Any: those of ClientOptions
    ) -> None:
        addresses = [parse(url) for url in urls or ("tcp://one:1",)]
        super().__init__(Core(addresses, identity or Identity(), ClientOptions(**options), lambda: draw))
        self.sessions = 0

    # --- what goes in ---------------------------------------------------------------------------------------------

    def start(self, **welcome: Any) -> Bench:  # Any: keys of the welcome
        """Connect and be welcomed; what was sent until then is forgotten."""
        self.core.link.start(self.now)
        self.accept(**welcome)
        self.clear()
        return self

    def open(self) -> handshake.Hello:
        """The transport of the attempt opens; the hello."""
        self.take()
        self.core.link.connected(self.core.link.attempt, self.now)
        return handshake.read(self.last(kinds.HELLO), handshake.Hello)

    def accept(self, **welcome: Any) -> handshake.Hello:  # Any: keys of the welcome
        """The transport opens and the server says welcome, with a new session unless told otherwise."""
        hello = self.open()
        if not welcome.get("resumed"):
            self.sessions += 1
        values = {"session": f"s{self.sessions}", "secret": "x", "features": FEATURES, "resume_ack_bytes": 65_536}
        self.say(handshake.write(kinds.WELCOME, handshake.Welcome(**{**values, **welcome})))
        return hello

    def say(self, *messages: Message) -> None:
        """The server sends."""
        self.core.link.received(self.core.link.attempt, list(messages), self.now)
        self.take()

    def reply(self, to: Message, body: object = None, **fields: Any) -> None:  # Any: the field's name decides
        """The server answers the request ``to``."""
        reply = Message(kinds.REPLY) if body is None else handshake.write(kinds.REPLY, body)
        reply.seq = to.seq
        reply.fields = {kinds.FIELD_NUMBERS[name]: value for name, value in fields.items()} or None
        self.say(reply)

    def refuse(self, to: Message, error: Any) -> None:  # Any: a RelayError
        """The server answers the request ``to`` by an error."""
        fields = {kinds.ERROR_CODE: number_of(error), kinds.OUTCOME: error.outcome}
        self.say(Message(kinds.ERROR, to.name, str(error).encode(), kinds.TEXT, 0, to.seq, fields))

    def goodbye(self, reason: int, reconnect: bool, **more: Any) -> None:  # Any: keys of the goodbye
        """The server says goodbye."""
        body = handshake.Goodbye(reason, kinds.CLOSE_REASONS[reason][0], reconnect, **more)
        self.say(handshake.write(kinds.GOODBYE, body))

    def lose(self, reason: str = "broken") -> None:
        """The connection breaks."""
        self.core.link.lost(self.core.link.attempt, reason, self.now)
        self.take()

    def wait(self, seconds: float) -> None:
        """Time passes; timers run when they are due."""
        until = self.now + seconds
        while self.core.next_timer() <= until:
            self.now = max(self.now, self.core.next_timer())
            self.core.timer(self.now)
            self.take()
        self.now = until

    def retry(self) -> None:
        """Let the time until the next attempt pass."""
        while self.core.link.state == "waiting":
            self.wait(self.core.link.next_wake() - self.now)

    def come_back(self, **welcome: Any) -> handshake.Hello:  # Any: keys of the welcome
        """Wait for the next attempt, and welcome it; what happened before is forgotten."""
        self.clear()
        self.retry()
        return self.accept(**welcome)

    # --- short forms of calls into the core -----------------------------------------------------------------------

    def ask(self, kind: int, name: str, waiter: object, body: bytes = b"", **how: Any) -> Message:  # Any: of ask
        """A request; its message."""
        message = Message(kind, name, body)
        self.core.requests.ask(message, waiter, self.now, **how)
        self.take()
        return message

    def tell(self, kind: int, name: str, body: bytes = b"") -> None:
        """A message without answer."""
        self.core.requests.tell(Message(kind, name, body), self.now)
        self.take()

    def join(self, name: str, listener: object, **options: Any) -> None:  # Any: of SubscribeOptions
        """A subscription."""
        self.core.subscriptions.join(name, listener, handshake.SubscribeOptions(**options), self.now)
        self.take()

    def leave(self, name: str, listener: object, waiter: object = None) -> None:
        """The end of one."""
        self.core.subscriptions.leave(name, listener, waiter, self.now)
        self.take()


def event(name: str, body: bytes = b"") -> Message:
    """An event as the server sends it."""
    return Message(kinds.EVENT, name, body)
