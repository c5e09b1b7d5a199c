"""What an application does with the client, written once and run on Twisted and on asyncio.

A scenario is a coroutine over ``connect(url, **settings)``; ``node`` may be told to misbehave from either event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, Protocol

from relay.client.api import Client
from relay.client.effects import Changed
from relay.client.events import Answer, Event, Pull
from relay.client.options import ClientOptions
from relay.errors import (
    ApplicationError,
    ConnectionClosed,
    DeadlineExceeded,
    Denied,
    Full,
    InternalError,
    NoProvider,
    Unauthenticated,
)
from relay.wire import kinds
from relay.wire.handshake import Members, UserPresence


class Shell(Protocol):
    """The event loop under test, and the node."""

    async def connect(self, *urls: str, **settings: Any) -> Client:  # Any: those of open_client
        """A client that is closed when the test ends."""

    def url(self, scheme: str = "tcp", form: str = "binary") -> str:
        """The node's URL."""

    async def node(self, method: str, *args: Any) -> Any:  # Any: the method's own
        """Call a method of the ``ClientNode`` in its own thread."""

    @property
    def folder(self) -> str:
        """The node's folder."""

    def future(self) -> Any:  # Any: a Waiter
        """Something to await that another callback settles."""


class Check:
    """Assertions for scenarios, which are no test cases."""

    @staticmethod
    def equal(first: object, second: object) -> None:
        """They must be equal."""
        if first != second:
            raise AssertionError(f"{first!r} != {second!r}")

    @staticmethod
    async def raises(type_: type[BaseException], awaitable: Awaitable[object]) -> Any:  # Any: of that type
        """It must raise that; the error."""
        try:
            result = await awaitable
        except type_ as error:
            return error
        raise AssertionError(f"{type_.__name__} was not raised, but {result!r} returned")


Scenario = Callable[[Shell], Awaitable[None]]


class Scenarios:
    """All scenarios, by name."""

    all: ClassVar[dict[str, Scenario]] = {}

    @classmethod
    def add(cls, scenario: Scenario) -> Scenario:
        """Decorator."""
        cls.all[scenario.__name__] = scenario
        return scenario


async def never(event: Event) -> None:
    """A callback that nobody calls."""
    raise AssertionError(event)


async def first(events: AsyncIterator[Event]) -> Event:
    """The next one."""
    return await anext(events)


# --- channels, one to one, procedures -----------------------------------------------------------------------------


@Scenarios.add
async def channels(shell: Shell) -> None:
    """Patterns, no_echo, presence, leaving; publishing without waiting keeps its order."""
    ann = await shell.connect(shell.url(), user="ann")
    bob = await shell.connect(shell.url("ws"), user="bob")
    inbox = await ann.subscribe("chat", presence=True, info={"mood": "fine"})
    Check.equal([member.user for member in inbox.members], ["ann"])
    async with bob.subscribe("chat") as other:
        event = await first(inbox)
        Check.equal((event.kind, event.member.user), ("joined", "bob"))
        members = await bob.presence("chat")
        Check.equal((members.count, min((each.user, each.info) for each in members.members)),
                    (2, ("ann", {"mood": "fine"})))  # fmt: skip
        Check.equal((await ann.online("bob")).sessions, 1)
        for number in range(50):
            Check.equal(await bob.publish("chat", number, ack=False, flags=("no_echo",)), None)
        Check.equal([(await first(inbox)).value for _ in range(50)], list(range(50)))
        await bob.publish("chat", "last")
        Check.equal((await first(other)).value, "last")
        Check.equal((await first(inbox)).value, "last")
    Check.equal([event.name async for event in other], [])
    Check.equal((await first(inbox)).kind, "left")
    Check.equal((await ann.publish("nobody", 1)).reached, 0)  # type: ignore[union-attr]  # it waits for the answer


@Scenarios.add
async def callbacks(shell: Shell) -> None:
    """Plain callbacks, coroutine callbacks one at a time and in order, one that fails, several of one name."""
    client = await shell.connect(shell.url())
    plain: list[Any] = []
    running = 0
    slow: list[Any] = []
    done = shell.future()

    async def slowly(event: Event) -> None:
        nonlocal running
        running += 1
        Check.equal(running, 1)
        await client.presence("c")
        slow.append(event.value)
        running -= 1
        if len(slow) == 3:
            done.succeed(None)
        if event.value == 1:
            raise ValueError("a callback of the test fails")

    await client.subscribe("c", lambda event: plain.append(event.value))
    await client.subscribe("*", slowly)
    for number in range(3):
        await client.publish("c", number)
    await done
    Check.equal((plain, slow), ([0, 1, 2], [0, 1, 2]))


@Scenarios.add
async def presence(shell: Shell) -> None:
    """The first and the last member of channels through a pattern; counts alone; a user who is watched."""
    ann = await shell.connect(shell.url(), user="ann")
    rooms = await ann.subscribe("hall.*", presence=True)
    watched = await ann.subscribe("$user.eve", presence=True)
    Check.equal(watched.user, UserPresence(False, 0, 0))
    eve = await shell.connect(shell.url("ws", "json"), user="eve")
    there = await eve.subscribe("hall.1", info={"mood": "fine"})
    Check.equal([(await first(rooms)).kind for _ in range(2)], ["occupied", "joined"])
    Check.equal(await ann.presence("hall.1", count_only=True), Members(1))
    Check.equal((await ann.presence("hall.1")).members[0].info, {"mood": "fine"})
    Check.equal(await ann.online("eve"), UserPresence(True, 1))
    await there.unsubscribe()
    Check.equal([(await first(rooms)).kind for _ in range(2)], ["left", "vacated"])
    await eve.close()
    Check.equal([((event := await first(watched)).kind, event.name) for _ in range(2)],
                [("occupied", "$user.eve"), ("vacated", "$user.eve")])  # fmt: skip


@Scenarios.add
async def pushes(shell: Shell) -> None:
    """To a user, one device, a session, everybody; what nobody takes goes to on_unclaimed."""
    unclaimed: list[Event] = []
    phone = await shell.connect(shell.url(), user="ann", device="phone", on_unclaimed=unclaimed.append)
    desk = await shell.connect(shell.url("ws", "json"), user="ann", device="desk")
    bob = await shell.connect(shell.url(), user="bob")
    on_phone, on_desk = phone.on_push("note.*"), desk.on_push("note.*")
    sent = await bob.push("note.a", "both", user="ann")
    Check.equal((sent.addressed, sent.reached), (2, 2))
    await bob.push("note.b", "desk", user="ann", device="desk")
    await bob.push("note.c", "phone", session=phone.welcome.session)
    await bob.push("other", "loose", user="ann", device="phone")
    Check.equal([(await first(on_phone)).value for _ in range(2)], ["both", "phone"])
    event = [await first(on_desk) for _ in range(2)][1]
    Check.equal((event.kind, event.name, event.value, event.sender_user), ("push", "note.b", "desk", "bob"))
    await bob.push("note.d", "all", all=True)
    Check.equal((await first(on_phone)).value, "all")
    Check.equal([each.value for each in unclaimed], ["loose"])
    on_phone.stop()
    Check.equal([event async for event in on_phone], [])


@Scenarios.add
async def procedures(shell: Shell) -> None:
    """Handlers of every sort; their errors; deadlines and cancelling reach them."""
    provider = await shell.connect(shell.url("ws"), user="provider")
    caller = await shell.connect(shell.url(), user="caller")
    stopped = shell.future()

    async def later(pull: Pull) -> Answer:
        await provider.presence("c")
        return Answer({"from": pull.sender_user, "got": pull.value}, metadata={"k": "v"})

    async def forever(pull: Pull) -> None:
        try:
            await shell.future()
        finally:
            stopped.succeed(pull.name)

    async def several(pull: Pull) -> AsyncIterator[int]:
        for number in range(pull.value):
            yield number

    def broken(pull: Pull) -> None:
        if pull.value:
            raise ApplicationError("no such thing", app_code=1404, data={"id": pull.value}, outcome="not_done")
        raise ValueError("a handler of the test fails")

    await provider.register("echo", lambda pull: pull.value)
    for name, handler in (("later", later), ("forever", forever), ("several", several), ("broken", broken)):
        await provider.register(name, handler)
    Check.equal((await caller.pull("echo", [1, 2])).value, [1, 2])
    answer = await caller.pull("later", "x")
    Check.equal((answer.value, answer.metadata), ({"from": "caller", "got": "x"}, {"k": "v"}))
    Check.equal([reply.value async for reply in caller.pull_stream("several", 3)], [0, 1, 2])
    Check.equal((await caller.pull("several", 3)).value, 2)
    Check.equal([reply.value async for reply in caller.pull_stream("echo", "one")], ["one"])
    error = await Check.raises(ApplicationError, caller.pull("broken", 7))
    Check.equal((str(error), error.app_code, error.data, error.outcome),
                ("no such thing", 1404, {"id": 7}, "not_done"))  # fmt: skip
    await Check.raises(InternalError, caller.pull("broken", 0))
    await Check.raises(NoProvider, caller.pull("nothing"))
    await Check.raises(DeadlineExceeded, caller.pull("forever", timeout_s=0.05))
    Check.equal(await stopped, "forever")
    registration = await provider.register("gone", lambda pull: 1)
    await registration.unregister()
    await Check.raises(NoProvider, caller.pull("gone"))


@Scenarios.add
async def leaving_a_stream_early(shell: Shell) -> None:
    """Whoever leaves a stream of answers before its end stops the provider."""
    provider = await shell.connect(shell.url())
    caller = await shell.connect(shell.url("ws"))
    stopped = shell.future()

    async def endless(pull: Pull) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                await provider.presence("c")
        finally:
            stopped.succeed(number)

    await provider.register("endless", endless)
    async with caller.pull_stream("endless") as replies:
        Check.equal([(await first(replies)).value for _ in range(3)], [0, 1, 2])
    assert await stopped >= 2


@Scenarios.add
async def pulls_of_a_user(shell: Shell) -> None:
    """A user's session answers what is addressed to it, without registering."""
    ann = await shell.connect(shell.url(), user="ann")
    bob = await shell.connect(shell.url(), user="bob")
    stop = ann.on_pull("ask.*", lambda pull: pull.value * 2)
    Check.equal((await bob.pull("ask.x", 21, user="ann")).value, 42)
    stop()
    await Check.raises(NoProvider, bob.pull("ask.x", 21, user="ann"))


@Scenarios.add
async def refusals(shell: Shell) -> None:
    """What is denied is an error of the call; without an answer it is a notice; a subscription raises where it is
    used."""
    notices: list[tuple[str, str]] = []
    client = await shell.connect(
        shell.url(), user="limited", on_notice=lambda name, error: notices.append((name, error.label))
    )
    await Check.raises(Denied, client.publish("closed", 1))
    await client.publish("closed.too", 1, ack=False)
    subscription = client.subscribe("closed")
    await Check.raises(Denied, subscription.confirmed())
    await Check.raises(Denied, first(subscription))
    await client.publish("open.x", 1)
    Check.equal(notices, [("closed.too", "denied")])


@Scenarios.add
async def tokens(shell: Shell) -> None:
    """A wrong token is refused for good; one that is made when it is wanted is shown."""
    await Check.raises(Unauthenticated, shell.connect(shell.url(), user="tokened", token="bad"))

    async def make() -> str:
        return "good"

    client = await shell.connect(shell.url(), user="tokened", token=make)
    Check.equal(client.welcome.user, "tokened")
    client = await shell.connect(shell.url(), user="tokened", token=lambda: "good")
    Check.equal(client.welcome.user, "tokened")


@Scenarios.add
async def slow_consumers(shell: Shell) -> None:
    """An iterator that nobody takes from holds events_max, then ends with Full; the others go on."""
    client = await shell.connect(shell.url(), options=ClientOptions(events_max=3))
    slow = await client.subscribe("c")
    for number in range(5):
        await client.publish("c", number)
    Check.equal([(await first(slow)).value for _ in range(3)], [0, 1, 2])
    await Check.raises(Full, first(slow))
    again = await client.subscribe("c")
    await client.publish("c", "again")
    Check.equal((await first(again)).value, "again")


# --- connections that break ---------------------------------------------------------------------------------------


def watched(states: list[Changed], ready: Any) -> Callable[[Changed], None]:  # Any: a Waiter
    """An ``on_state`` that notes all, and settles ``ready`` at the second connection."""

    def note(changed: Changed) -> None:
        states.append(changed)
        if sum(each.state == "ready" for each in states) == 2:
            ready.succeed(None)

    return note


@Scenarios.add
async def a_broken_connection_is_invisible(shell: Shell) -> None:
    """Resume: what both sides sent meanwhile arrives once and in order, pending calls are answered."""
    for scheme in ("tcp", "ws"):
        states: list[Changed] = []
        ready, asked, go = shell.future(), shell.future(), shell.future()
        ann = await shell.connect(shell.url(scheme), user="ann", on_state=watched(states, ready))
        bob = await shell.connect(shell.url("unix"), user="bob")

        async def wait(pull: Pull, asked: Any = asked, go: Any = go) -> str:
            asked.succeed(None)
            await go
            return "done"

        registration = await bob.register("wait", wait)
        inbox = await ann.subscribe("c")
        result = ann.pull_stream("wait")
        await asked
        for number in range(20):
            if number == 10:
                await shell.node("break_connections", "ann")
            await ann.publish("c", number, ack=False)
        await ready
        go.succeed(None)
        Check.equal((await first(result)).value, "done")
        Check.equal([(await first(inbox)).value for _ in range(20)], list(range(20)))
        Check.equal([each.resumed for each in states if each.state == "ready"], [False, True])
        await registration.unregister()
        await ann.close()


@Scenarios.add
async def a_network_that_swallows_loses_nothing(shell: Shell) -> None:
    """What a connection swallowed before it broke, in both directions, arrives after it once and in order."""
    for form in ("binary", "json"):
        ann = await shell.connect(shell.url("proxied", form), user="ann")
        bob = await shell.connect(shell.url("unix"), user="bob")
        to_ann, to_bob = await ann.subscribe("to.ann"), await bob.subscribe("to.bob")
        lost_bytes = 0
        count = 0
        for _ in range(4):
            for swallowing in (False, True):
                if swallowing:
                    await shell.node("swallow")
                for _ in range(15):
                    padding = "x" * 4000
                    await ann.publish("to.bob", [count, padding], ack=False)
                    await bob.publish("to.ann", [count, padding])
                    count += 1
            lost_bytes = await shell.node("break_off")
        for inbox in (to_ann, to_bob):
            Check.equal([(await first(inbox)).value[0] for _ in range(count)], list(range(count)))
        assert lost_bytes > 100_000, lost_bytes
        await ann.publish("to.ann", "the end")
        Check.equal((await first(to_ann)).value, "the end")
        await ann.close()
        await bob.close()


@Scenarios.add
async def a_lost_session_is_made_anew(shell: Shell) -> None:
    """resumed: false: subscriptions and registrations are made again, what was sent fails as unknown."""
    states: list[Changed] = []
    ready = shell.future()
    client = await shell.connect(shell.url(), user="ann", on_state=watched(states, ready))
    other = await shell.connect(shell.url(), user="bob")
    inbox = await client.subscribe("c")
    await client.register("echo", lambda pull: pull.value)
    pending = client.pull_stream("late", user="bob")
    other.on_pull("late", lambda pull: shell.future())
    await shell.node("forget_sessions")
    await ready
    error = await Check.raises(ConnectionClosed, first(pending))
    Check.equal(error.outcome, "unknown")
    Check.equal([each.resumed for each in states if each.state == "ready"], [False, False])
    await client.publish("c", "again")
    Check.equal((await first(inbox)).value, "again")
    Check.equal((await client.pull("echo", 5)).value, 5)


@Scenarios.add
async def goodbyes(shell: Shell) -> None:
    """kicked ends the client and all that waits with the reason; drain does not."""
    states: list[Changed] = []
    ready = shell.future()
    client = await shell.connect(shell.url(), on_state=watched(states, ready))
    inbox = await client.subscribe("c")
    await shell.node("goodbye", kinds.DRAIN)
    await ready
    Check.equal(states[-1].resumed, True)
    await shell.node("goodbye", kinds.KICKED)
    error = await client.wait_closed()
    assert error is not None and "kicked" in str(error), error
    await Check.raises(ConnectionClosed, first(inbox))
    error = await Check.raises(ConnectionClosed, client.publish("c", 1))
    Check.equal(error.outcome, "not_done")
    Check.equal(client.state, "closed")


@Scenarios.add
async def closing(shell: Shell) -> None:
    """close delivers what was told before, ends iterators quietly, and answers the calls under way."""
    listener = await shell.connect(shell.url())
    inbox = await listener.subscribe("c")
    client = await shell.connect(shell.url("ws"))
    own = await client.subscribe("d")
    pushes, called = client.on_push("**"), client.on_push("**", never)
    started, go = shell.future(), shell.future()

    async def slowly(pull: Pull) -> str:
        started.succeed(None)
        await go
        return "in time"

    await client.register("slowly", slowly)
    replies = listener.pull_stream("slowly")
    await started
    for number in range(100):
        await client.publish("c", number, ack=False)
    go.succeed(None)
    await client.close()
    Check.equal([(await first(inbox)).value for _ in range(100)], list(range(100)))
    Check.equal((await first(replies)).value, "in time")
    for ended in (own, pushes, called):
        Check.equal([event async for event in ended], [])
    await client.close()
    for call in (lambda: client.subscribe("c", never), lambda: client.on_push("c", never)):
        try:
            call()
        except ConnectionClosed as error:
            Check.equal(error.outcome, "not_done")
        else:
            raise AssertionError("a closed client takes subscriptions")
