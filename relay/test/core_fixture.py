"""The core without transports: a whole router on a ``Clock``, and peers that decode what is sent to them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
from twisted.internet.task import Clock
from zope.interface import implementer

from relay.config import Config
from relay.config_auth import EVERYTHING, Permit
from relay.core.gate import Gate
from relay.core.histories import Histories
from relay.core.hub import Hub
from relay.core.identity import Identity
from relay.core.node import NodeAccess
from relay.core.outbox import Flusher
from relay.core.permissions import permissions_for
from relay.core.realm import LocalDirectory
from relay.core.router import Router
from relay.core.sessions import Sessions
from relay.interfaces import IPeer
from relay.test.fakes_history import FakeHistory
from relay.wire import kinds
from relay.wire.binary import decode_frame
from relay.wire.contracts import BINARY_MESSAGE
from relay.wire.handshake import Goodbye, Hello, Welcome, read
from relay.wire.message import Message

NO_HOOKS = (
    "accept", "after_message", "before_message", "before_publish", "before_subscribe", "session_ended",
    "session_resumed", "session_started", "tick",
)  # fmt: skip


@implementer(IPeer)
class FakePeer:
    """Decodes each frame sent to it into ``got``. ``broken``: frames go nowhere, as into a dead network."""

    transport = "memory"
    dialect = "relay.binary"
    encoding = BINARY_MESSAGE
    listener = "test"
    certificate = ""
    key = ""
    local = True
    loose: Any = None
    apart = 0

    def __init__(self, address: str = "") -> None:
        self.address = address
        self.got: list[Message] = []
        self.closed: int | None = None
        self.pauses: set[str] = set()
        self.broken = False
        self.held = 0
        self.overflowed: Callable[[], None] | None = None
        self.skip_frame: Callable[[int], bytes] | None = None
        self.sent: list[tuple[bytes, str | None, int]] = []

    def send(self, frame: bytes, key: str | None = None, flags: int = 0) -> None:
        """Take a frame."""
        assert self.closed is None
        if not self.broken:
            self.sent.append((frame, key, flags))
            self.got.append(decode_frame(frame))

    def queued_bytes(self) -> int:
        """Nothing waits."""
        return 0

    def unsent(self) -> int:
        """As the test says."""
        return self.held

    def watch(self, overflowed: Callable[[], None], skip_frame: Callable[[int], bytes]) -> None:
        """Remember."""
        self.overflowed = overflowed
        self.skip_frame = skip_frame

    def pause(self, why: str) -> None:
        """Remember."""
        self.pauses.add(why)

    def resume(self, why: str) -> None:
        """Forget."""
        self.pauses.discard(why)

    def close(self, reason: int, text: str = "") -> None:
        """The end."""
        self.closed = reason


class Guest:
    """A client's side of one connection to the core: sends messages, reads what came."""

    def __init__(self, core: Core, address: str = "") -> None:
        self.core = core
        self.peer = FakePeer(address)
        self.connection: Any = core.gate.connected(self.peer)  # Any: the concrete class, for its session
        self.seq = 0

    @property
    def got(self) -> list[Message]:
        """All that came."""
        return self.peer.got

    def take(self, *wanted: int) -> list[Message]:
        """What came of these kinds (none: all but welcome), and forget all."""
        found = [m for m in self.got if (m.kind in wanted if wanted else m.kind != kinds.WELCOME)]
        self.got.clear()
        return found

    def send(self, kind: int, name: str = "", body: object = None, **more: Any) -> int:
        """Send a frame with a fresh seq, unless ``seq`` is given; fields by name. Returns the seq."""
        if "seq" not in more:
            self.seq += 1
        seq: int = more.pop("seq", self.seq)
        flags = more.pop("flags", 0)
        codec = more.pop("codec", None)
        fields = {kinds.FIELD_NUMBERS[key]: value for key, value in more.items()} or None
        data = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        if codec is None:
            codec = kinds.RAW if isinstance(body, bytes) or body is None else kinds.JSON
        self.connection.receive(Message(kind, name, data, codec, flags, seq, fields))
        return seq

    def hello(self, **more: Any) -> Welcome:
        """Say hello; the welcome, which must come."""
        self.send(kinds.HELLO, "", more, seq=0)
        welcomes = [m for m in self.got if m.kind == kinds.WELCOME]
        assert welcomes, [m.describe() for m in self.got]
        return read(welcomes[-1], Welcome)

    def goodbye(self) -> Goodbye:
        """The goodbye, which must have come."""
        return read(next(m for m in self.got if m.kind == kinds.GOODBYE), Goodbye)

    def answer(self, seq: int) -> Message:
        """The reply or error of that seq, which must have come."""
        return next(m for m in self.got if m.seq == seq and m.kind in (kinds.REPLY, kinds.ERROR))

    def vanish(self) -> None:
        """The connection is lost."""
        self.connection.lost("test", False)


class Core:
    """A node's core on a fake clock. ``identify`` may be replaced by a test."""

    def __init__(self, config: Config | None = None, permit: Permit = EVERYTHING, **hooks: Any) -> None:
        self.clock = Clock()
        self.config = config or Config()
        self.permit = permit
        self.hooks = _hooks(hooks)
        self.flusher = Flusher(lambda f: self.clock.callLater(0, f))
        self.hub = Hub(self.config, self.clock, self.flusher, LocalDirectory(), self.hooks, lambda: 1e9 + self.now)
        self.rng = random.Random(7)
        self.memory = FakeHistory(lambda: int(self.hub.wall() * 1000))
        self.durable = FakeHistory(lambda: int(self.hub.wall() * 1000), slow=True)
        self.histories = Histories(self.hub, lambda: self.memory, lambda: self.durable, "n1", "i1")
        self.router = Router(self.hub, self.rng.random, self.histories)
        self.sessions = Sessions(self.hub, self.router, "n1", "s", self.rng.randbytes)
        self.identify: Callable[[Hello, IPeer], Identity | Awaitable[Identity]] = self._identify
        self.gate = Gate(self.hub, self.router, self.sessions, lambda hello, peer: self.identify(hello, peer))
        self.node = NodeAccess(self.hub, self.router, self.sessions)
        self.hub.wheel.start()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self.clock.seconds())

    def _identify(self, hello: Hello, peer: IPeer) -> Identity:
        return Identity(hello.user, hello.realm or "default", permissions_for(self.permit, hello.user), "test")

    def store(self, count: int | None = None) -> None:
        """The durable store does all that it is asked to; ``count``: so many things."""
        self.histories.submit()
        self.durable.complete(count)
        while count is None and (self.histories.waiting_bytes or self.durable.waiting):
            self.histories.submit()
            self.durable.complete()

    def guest(self, user: str = "", **more: Any) -> Guest:
        """A client that has said hello."""
        guest = Guest(self)
        guest.hello(user=user, **more)
        guest.got.clear()
        return guest

    def pass_time(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        self.clock.pump([0.05] * round(seconds / 0.05))


def _hooks(hooks: dict[str, Any]) -> Any:  # Any: stands for relay.hooks.Hooks
    return SimpleNamespace(**{**dict.fromkeys(NO_HOOKS), **hooks})
