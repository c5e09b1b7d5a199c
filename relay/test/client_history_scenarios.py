"""What an application does with channels that keep history, on Twisted and on asyncio; see ``client_scenarios``."""

from __future__ import annotations

from relay.client.options import ClientOptions
from relay.errors import Conflict
from relay.test.client_scenarios import Check, Scenarios, Shell

FAST = ClientOptions(backoff_s_min=0.01)


@Scenarios.add
async def history_is_read_and_recovered(shell: Shell) -> None:
    """``last`` and ``since`` come before what is live; ``history`` reads in both directions; positions go on."""
    ann = await shell.connect(shell.url(), user="ann")
    for number in range(5):
        done = await ann.publish("lobby", number)
    assert done is not None
    Check.equal(done.offset, 5)
    bob = await shell.connect(shell.url(form="json"), user="bob")
    inbox = await bob.subscribe("lobby", last=2)
    Check.equal((inbox.recovered, [(await anext(inbox)).value for _ in range(2)]), (True, [3, 4]))
    await ann.publish("lobby", 5)
    event = await anext(inbox)
    Check.equal((event.value, event.offset, event.epoch), (5, 6, done.epoch))
    Check.equal(bob.position("lobby"), (6, done.epoch))
    await Check.raises(Conflict, _subscribe_again(bob))
    eve = await shell.connect(shell.url(), user="eve")
    later = await eve.subscribe("lobby", since=(4, done.epoch or ""))
    Check.equal((later.recovered, [(await anext(later)).value for _ in range(2)]), (True, [4, 5]))
    found = await eve.history("lobby", limit=4, backwards=True)
    Check.equal(([each.value for each in found.events], found.next, found.last), ([5, 4, 3, 2], 3, 6))
    found = await eve.history("lobby", after=2)
    Check.equal(([each.value for each in found.events], found.next), ([2, 3, 4, 5], 0))


async def _subscribe_again(client: object) -> None:
    client.subscribe("lobby", last=1)  # type: ignore[attr-defined]  # a Client; it raises


@Scenarios.add
async def a_lost_session_misses_nothing(shell: Shell) -> None:
    """After a session that could not be resumed the client gets what it missed, in order, once; it is told so."""
    ann = await shell.connect(shell.url(), user="ann")
    told = shell.future()
    bob = await shell.connect(
        shell.url(), user="bob", options=FAST, on_recovered=lambda *what: told.succeed(what)
    )
    inbox = await bob.subscribe("lobby")
    await ann.publish("lobby", 0)
    Check.equal((await anext(inbox)).value, 0)
    await shell.node("forget_sessions")
    for number in range(1, 30):
        await ann.publish("lobby", number, idempotency_key=str(number))
    Check.equal([(await anext(inbox)).value for _ in range(1, 30)], list(range(1, 30)))
    Check.equal(await told, ("lobby", True))
