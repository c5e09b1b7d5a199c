"""Scenarios of the client with queues; see ``relay.test.client_scenarios``."""

from __future__ import annotations

from typing import Any

from relay.client.queues import INBOX, Delivery
from relay.errors import BadBody, ConfigError, Denied, NotFound, Unsupported
from relay.test.client_scenarios import Check, Scenarios, Shell, watched


async def until_empty(client: Any, queue: str) -> dict[str, Any]:  # Any: Client; JSON
    """Ask until nothing waits in ``queue``; the last answer."""
    while True:
        info: dict[str, Any] = await client.queue(queue, "info")
        if not info["waiting"]:
            return info


@Scenarios.add
async def work_queue(shell: Shell) -> None:
    """Two workers share a queue, one with a plain handler, one with a coroutine; what is done is gone."""
    producer = await shell.connect(shell.url("ws", "json"), user="ann")
    ann, bob = await shell.connect(shell.url()), await shell.connect(shell.url("tcp", "json"))
    done: list[tuple[str, Any, str, int]] = []
    all_done = shell.future()

    def note(who: str, delivery: Delivery) -> None:
        done.append((who, delivery.value, delivery.name, delivery.deliveries))
        if len(done) == 20:
            all_done.succeed(None)

    async def slowly(delivery: Delivery) -> None:
        note("bob", delivery)

    await ann.consume("quick.jobs", lambda delivery: note("ann", delivery), credits=2)
    await bob.consume("quick.jobs", slowly, credits=2)
    offsets = [(await producer.enqueue("quick.jobs", {"n": n}, name=f"job.{n % 2}")).offset for n in range(20)]
    Check.equal(offsets, list(range(1, 21)))
    await all_done
    Check.equal(sorted(value["n"] for _, value, _, _ in done), list(range(20)))
    Check.equal({name for _, _, name, _ in done}, {"job.0", "job.1"})
    Check.equal({who for who, _, _, _ in done}, {"ann", "bob"})
    await until_empty(producer, "quick.jobs")


@Scenarios.add
async def failing_handlers(shell: Shell) -> None:
    """What a handler fails with comes again; at last it is dead, with the reason, and may be requeued."""
    client = await shell.connect(shell.url(), user="ann")
    seen: list[int] = []
    healed, gone = shell.future(), shell.future()

    async def fail(delivery: Delivery) -> None:
        seen.append(delivery.deliveries)
        if delivery.name == "never" and len(seen) < 3:
            raise ValueError("no way")
        (gone if delivery.name == "never" else healed).succeed(None)

    def once(delivery: Delivery) -> None:
        if delivery.deliveries == 1:
            raise ValueError("not yet")
        healed.succeed(None)

    letters = await client.subscribe("dead.letters")
    async with client.consume("quick.one", once):
        await client.enqueue("quick.one", "x")
        await healed
        await until_empty(client, "quick.one")
    async with client.consume("quick.two", fail):
        await client.enqueue("quick.two", "y", name="never", metadata={"k": "v"})
        letter = await anext(letters)
        Check.equal((letter.value, letter.metadata["dead.name"], letter.metadata["k"]), ("y", "never", "v"))
        Check.equal(letter.metadata["dead.reason"], "ValueError: no way, delivery 2")
        dead = await client.queue("quick.two", "dead")
        Check.equal([(each["offset"], each["deliveries"]) for each in dead["messages"]], [(1, 2)])
        Check.equal(await client.queue("quick.two", "requeue", offsets=[1]), {"requeued": 1})
        await gone
        Check.equal(seen, [1, 2, 1])
        await until_empty(client, "quick.two")


@Scenarios.add
async def by_hand(shell: Shell) -> None:
    """Iterating, and settling each delivery: as a context, by ack, by nack, by giving it up."""
    client = await shell.connect(shell.url())
    consumption = await client.consume("quick.hand", credits=1)
    for value in "abc":
        await client.enqueue("quick.hand", value)
    async with await anext(consumption) as delivery:
        Check.equal((delivery.value, delivery.queue, delivery.offset), ("a", "quick.hand", 1))
    try:
        async with await anext(consumption) as delivery:
            Check.equal((delivery.value, delivery.deliveries), ("b", 1))
            raise KeyError("later")
    except KeyError:
        pass
    delivery = await anext(consumption)
    if delivery.value == "c":  # the back-off is short, not nothing
        await delivery.ack()
        delivery = await anext(consumption)
    Check.equal((delivery.value, delivery.deliveries), ("b", 2))
    await delivery.nack(dead=True, reason="enough")
    await Check.raises(ConfigError, delivery.ack())
    if (await client.queue("quick.hand", "info"))["waiting"]:
        await (await anext(consumption)).ack()
    Check.equal((await client.queue("quick.hand", "dead"))["messages"][0]["reason"], "enough")
    Check.equal(await client.queue("quick.hand", "purge"), {"removed": 0})
    Check.equal(await client.queue("quick.hand", "remove"), {"removed": 1})
    await consumption.stop()
    Check.equal([each.value async for each in consumption], [])


@Scenarios.add
async def inboxes(shell: Shell) -> None:
    """Who is away finds what was pushed at level 1 in the inbox; a repeated key is stored once."""
    ann = await shell.connect(shell.url(), user="ann")
    done = await ann.push("news", "one", user="bob", level=1)
    Check.equal((done.addressed, done.offset), (0, 1))
    for _ in range(2):
        done = await ann.push("news", "two", user="bob", level=2, idempotency_key="k")
        Check.equal(done.offset, 2)
    await Check.raises(BadBody, ann.push("news", "two", user="bob", level=2))
    await Check.raises(Unsupported, ann.push("news", "two", session="s", level=1))
    bob = await shell.connect(shell.url("ws", "json"), user="bob")
    inbox = await bob.consume(INBOX, ack="explicit")
    for value in ("one", "two"):
        delivery = await anext(inbox)
        Check.equal((delivery.value, delivery.name, delivery.sender_user, delivery.queue),
                    (value, "news", "ann", INBOX))  # fmt: skip
        await delivery.ack()
    Check.equal((await bob.queue(INBOX, "info"))["waiting"], 0)
    nobody = await shell.connect(shell.url())
    await Check.raises(Denied, nobody.consume(INBOX).confirmed())
    limited = await shell.connect(shell.url(), user="limited")
    ended: list[object] = []
    await Check.raises(Denied, limited.consume("quick.x", on_end=ended.append).confirmed())
    Check.equal(len(ended), 1)
    await Check.raises(Denied, limited.enqueue("quick.x"))
    await Check.raises(Denied, limited.queue("quick.x", "info"))


@Scenarios.add
async def queues_and_lost_connections(shell: Shell) -> None:
    """A resumed session goes on with what it holds, and nothing is done twice; a new one gets it again."""
    states: list[Any] = []
    resumed = shell.future()
    client = await shell.connect(shell.url(), user="ann", on_state=watched(states, resumed))
    other = await shell.connect(shell.url(), user="bob")
    consumption = await client.consume("quick.lost", credits=2)
    await other.enqueue("quick.lost", "a")
    held = await anext(consumption)
    await shell.node("break_connections", "ann")
    await resumed
    Check.equal(states[-1].resumed, True)
    await held.ack()
    await other.enqueue("quick.lost", "b")
    held = await anext(consumption)
    Check.equal((held.value, held.deliveries), ("b", 1))
    await shell.node("forget_sessions")
    again = await anext(consumption)
    Check.equal((again.value, again.deliveries, again.offset), ("b", 2, held.offset))
    await Check.raises(NotFound, held.ack())
    await again.ack()
    await until_empty(client, "quick.lost")


@Scenarios.add
async def closing_with_deliveries(shell: Shell) -> None:
    """A client that closes finishes what its handlers have begun; what an iterator has not taken goes back."""
    client = await shell.connect(shell.url(), user="ann")
    other = await shell.connect(shell.url(), user="bob")
    began, go_on = shell.future(), shell.future()

    async def handle(delivery: Delivery) -> None:
        began.succeed(None)
        await go_on

    await client.consume("quick.closing", handle)
    await other.enqueue("quick.closing", "a")
    await began
    taken = await other.consume("quick.left", credits=3)
    for value in "abc":
        await other.enqueue("quick.left", value)
    Check.equal((await anext(taken)).value, "a")
    await taken.stop()
    while (await other.queue("quick.left", "info"))["leased"] != 1:
        pass
    closing = client.close()
    go_on.succeed(None)
    await closing
    await until_empty(other, "quick.closing")
