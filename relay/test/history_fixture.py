"""Cores whose channels keep history, on stores of the test's; and short forms of what is asked of them."""

from __future__ import annotations

from typing import Any

from relay.config import ChannelRule, Config, Limits
from relay.config_history import ChannelHistory, HistoryLimits
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds
from relay.wire.handshake import Subscribed, read
from relay.wire.message import Message


def core_of(*, limits: Limits | None = None, hooks: dict[str, Any] | None = None, **history: Any) -> Core:
    """A core whose channels ``mem.**`` are kept in memory and ``disk.**`` on the (fake) disk; others are not."""
    rules = (
        ChannelRule(pattern="mem.**", history=ChannelHistory()),
        ChannelRule(pattern="disk.**", history=ChannelHistory(kind="durable")),
        ChannelRule(pattern="quiet.**", echo=False, history=ChannelHistory()),
    )
    config = Config(channels=rules, history=HistoryLimits(**history), limits=limits or Limits())
    return Core(config, **(hooks or {}))


def said(guest: Guest) -> list[tuple[str, str]]:
    """Kind and body of what came, in order; forgotten afterwards."""
    return [(kinds.KINDS[each.kind], each.body.decode()) for each in guest.take()]


def offsets(messages: list[Message]) -> list[int]:
    """Of events."""
    return [each.get(kinds.OFFSET) for each in messages]


def outcome(message: Message) -> tuple[int, bool, str]:
    """Number, temporary and outcome of an error."""
    assert message.kind == kinds.ERROR, message.describe()
    return message.get(kinds.ERROR_CODE), bool(message.get(kinds.TEMPORARY)), message.get(kinds.OUTCOME)


def publish(core: Core, name: str, count: int, first: int = 0, **fields: Any) -> None:
    """So many publications, stored; their bodies are numbers."""
    guest = core.guest("publisher")
    for number in range(first, first + count):
        guest.send(kinds.PUBLISH, name, b"%d" % number, seq=0, **fields)
    core.store()
    guest.send(kinds.GOODBYE, seq=0)


def subscribe(core: Core, guest: Guest, name: str, **options: Any) -> tuple[Subscribed, list[Message]]:
    """The reply to a subscribe, which must come once the stores are done, and the events behind it."""
    seq = guest.send(kinds.SUBSCRIBE, name, options)
    settle(core)
    got = guest.take()
    assert got[0].seq == seq and got[0].kind == kinds.REPLY, [each.describe() for each in got]
    return read(got[0], Subscribed), got[1:]


def settle(core: Core) -> None:
    """Everything that is under way ends: stores, turns of the reactor, peers that were slow."""
    for _ in range(100):
        core.store()
        core.clock.advance(0.05)
