"""What a history in memory costs a publication: the core in this process, without sockets, by processor time.

::

    frame as decoded ─▶ Connection.receive ─▶ router ─▶ channel ─▶ store in memory ─▶ encoded for each member

Three channels are published to in turns, a few thousand publications at a time: of a node that keeps no history at all
(``none``), of one that keeps that of other channels (``plain``), and one with history in the same node (``kept``), with
the limits that a rule has by default and filled up to them. Each turn gives the two differences that are asked for,
the rounds their medians: what else the machine does makes turns longer, not the difference of neighbours.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import attrs
from twisted.internet.task import Clock
from zope.interface import implementer

from relay.bench.target import Figure
from relay.config import ChannelRule, Config
from relay.config_auth import EVERYTHING
from relay.config_history import ChannelHistory
from relay.core.gate import Gate
from relay.core.histories import Histories
from relay.core.hub import Hub
from relay.core.identity import Identity
from relay.core.outbox import Flusher
from relay.core.permissions import permissions_for
from relay.core.realm import LocalDirectory
from relay.core.router import Router
from relay.core.sessions import Sessions
from relay.interfaces import IPeer
from relay.store.memory import MemoryStore
from relay.wire import kinds
from relay.wire.contracts import BINARY_STREAM
from relay.wire.handshake import Hello, SubscribeOptions, write
from relay.wire.message import Message

COST_US_MAX: Final = 1.5
PLAIN_RATIO_MAX: Final = 1.05
"""What publishing without history may cost in a node that keeps others: the same, as far as it can be told."""
TURN: Final = 2000
PAYLOAD: Final = 200
HOOKS: Final = (
    "accept", "after_message", "before_message", "before_publish", "before_subscribe", "session_ended",
    "session_resumed", "session_started", "tick",
)  # fmt: skip


@implementer(IPeer)
class Sink:
    """A peer whose network takes everything."""

    transport = "memory"
    dialect = "relay.binary"
    encoding = BINARY_STREAM
    listener = "bench"
    address = certificate = key = ""
    local = True
    apart = 0
    loose: Any = None  # Any: as IPeer

    def __init__(self) -> None:
        self.frames = 0

    def send(self, frame: bytes, key: str | None = None, flags: int = 0) -> None:
        """Gone."""
        self.frames += 1

    def queued_bytes(self) -> int:
        """Nothing waits."""
        return 0

    def unsent(self) -> int:
        """Nothing waits."""
        return 0

    def watch(self, overflowed: Callable[[], None], skip_frame: Callable[[int], bytes]) -> None:
        """It never overflows."""

    def pause(self, why: str) -> None:
        """It is read no more."""

    def resume(self, why: str) -> None:
        """It is read again."""

    def close(self, reason: int, text: str = "") -> None:
        """The end."""


class Node:
    """The core of a node whose channels under ``kept.`` have a history, if ``keeps``."""

    def __init__(self, keeps: bool) -> None:
        rules = (ChannelRule(pattern="kept.**", history=ChannelHistory()),) if keeps else ()
        config = Config(channels=rules)
        clock = Clock()
        hooks: Any = SimpleNamespace(**dict.fromkeys(HOOKS))  # Any: stands for relay.hooks.Hooks
        self.hub = Hub(config, clock, Flusher(lambda f: clock.callLater(0, f)), LocalDirectory(), hooks, time.time)
        store = MemoryStore(config.store, lambda: int(time.time() * 1000), os.urandom)
        histories = Histories(self.hub, lambda: store.history)
        self.router = Router(self.hub, random.random, histories)
        self.sessions = Sessions(self.hub, self.router, "bench", "b", os.urandom)
        self.gate = Gate(self.hub, self.router, self.sessions, self._identify)
        self.receive = self.guest("publisher").receive

    def guest(self, user: str) -> Any:  # Any: the connection
        """A session that cannot be resumed."""
        connection = self.gate.connected(Sink())
        connection.receive(write(kinds.HELLO, Hello(user=user)))
        return connection

    def join(self, name: str, members: int) -> None:
        """So many members."""
        for number in range(members):
            self.guest(f"member{number}").receive(write(kinds.SUBSCRIBE, SubscribeOptions(), 1, name))

    @staticmethod
    def _identify(hello: Hello, peer: IPeer) -> Identity:
        return Identity(hello.user, "default", permissions_for(EVERYTHING, hello.user), "bench")


@attrs.frozen
class Cost:
    """Microseconds of processor time a publication: medians of the rounds; ``more_us`` is ``kept`` less ``plain``."""

    members: int
    answered: bool
    none_us: float
    plain_us: float
    kept_us: float
    more_us: float
    plain_ratio: float


def cost(members: int, answered: bool, rounds: int) -> Cost:
    """Measure."""
    without, keeping = Node(False), Node(True)
    ways = ((without.receive, "plain.c"), (keeping.receive, "plain.c"), (keeping.receive, "kept.c"))
    for node, name in ((without, "plain.c"), (keeping, "plain.c"), (keeping, "kept.c")):
        node.join(name, members)
    body = os.urandom(PAYLOAD)
    found: list[list[float]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds + 1):
            found.append([_turn(receive, name, body, answered) for receive, name in ways])
            gc.collect(0)
    finally:
        gc.enable()
    found.pop(0)  # it filled the history and the caches
    none, plain, kept = (statistics.median(each) for each in zip(*found, strict=True))
    more = statistics.median(each[2] - each[1] for each in found)
    return Cost(members, answered, none, plain, kept, more, statistics.median(each[1] / each[0] for each in found))


def _turn(receive: Callable[[Message], None], name: str, body: bytes, answered: bool) -> float:
    # A name and a body of its own for each, as a decoder makes them.
    raw = name.encode()
    messages = [
        Message(kinds.PUBLISH, raw.decode(), bytes(bytearray(body)), kinds.RAW, 0, number + 1 if answered else 0)
        for number in range(TURN)
    ]
    take = messages.pop
    began = time.process_time()
    for _ in range(TURN):
        receive(take())  # and let go of it, as a transport does
    return (time.process_time() - began) / TURN * 1e6


def measure(seconds: float) -> list[Figure]:
    """The figures, in about that time."""
    figures = []
    rounds = max(5, int(seconds / 4 / 0.08))
    for members, answered in ((0, False), (1, False), (1, True), (100, False)):
        found = cost(members, answered, rounds)
        case = f"{members} member{'' if members == 1 else 's'}, {'answered' if answered else 'not answered'}"
        figures.append(Figure(f"history in memory, {case}", found.more_us, "µs more", COST_US_MAX, attrs.asdict(found)))
        name = f"without history, {case}, to a node that keeps none"
        figures.append(Figure(name, found.plain_ratio, "x", PLAIN_RATIO_MAX))
    return figures
