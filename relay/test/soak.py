"""Many sessions over a bad network: nothing lost, nothing twice, order kept, memory flat.

    python -m relay.test.soak --seconds 60 [--sessions 2000] [--seed 1] [--json] [--transports all]

A real node, and sessions of the Python SDK over TCP and WebSocket, with ``--transports`` over others of
``relay.test.transports`` too, through proxies: those for streams swallow up to 200 KB in each direction and then reset,
those for datagrams lose, double, reorder, change addresses and go silent, for a while or for good. The sessions are in
groups of five: each publishes to its group with a running number, and asks its neighbour by a procedure with a number
of its own. At the end each receiver must have every number of every other member, in order, once; each answered pull
must have been carried out once, no other one more than once. The resident memory of the node over the
last third must be within 2 % of the middle third.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from relay.client.aio import Client, connect
from relay.client.effects import Changed
from relay.errors import RelayError
from relay.test.bad_datagrams import BadDatagrams
from relay.test.bad_network import BadNetwork
from relay.test.node_process import NodeProcess, report
from relay.test.transports import Way, client_options, every_transport

GROUP: Final = 5
SWALLOW_BYTES_MAX: Final = 200_000
PUBLISH_PER_S: Final = 500
PULLS_PER_S: Final = 150
BREAKS_PER_S: Final = 20
PADDING: Final = (*[0] * 18, 2_000, 20_000)
HEAD_BYTES: Final = 100
"""Of a publication's value beside its padding, at most."""
SETTLE_S: Final = 40.0
RSS_TOLERANCE: Final = 0.02
CONFIG: Final[dict[str, Any]] = {  # Any: a configuration as JSON
    "timing": {"resume_window_s": 60, "drain_s": 0.2, "heartbeat_s": 10},
    "limits": {"provider_grace_s": 60},
    "log": {"level": "warn"},
}


class Member:
    """One session: what it sent, what it got, what it was asked."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.group = number // GROUP
        self.client: Client | None = None
        self.sent = 0
        self.refused = 0
        self.got: dict[int, int] = {}
        self.wrong: list[str] = []
        self.done: Counter[int] = Counter()
        self.resumed = 0
        self.reset = 0

    def event(self, event: Any) -> None:  # Any: the SDK's event
        """A publication of the group: the next number of its sender, or something is wrong."""
        sender, number, _ = event.value
        expected = self.got.get(sender, 0) + 1
        if number != expected:
            self.wrong.append(f"{self.number} got {number} of {sender}, expected {expected}")
        self.got[sender] = number

    def asked(self, call: Any) -> int:  # Any: the SDK's pull
        """A neighbour's question."""
        self.done[call.value] += 1
        return int(call.value) + 1

    def changed(self, changed: Changed) -> None:
        """The connection came back."""
        if changed.state == "ready":
            if changed.resumed:
                self.resumed += 1
            else:
                self.reset += 1


class Soak:
    """The campaign; ``figures`` after ``run``."""

    def __init__(
        self, node: NodeProcess, ways: Sequence[Way], sessions: int, seconds: float, seed: int
    ) -> None:  # fmt: skip
        self.node = node
        self.ways = ways
        self.networks: list[BadNetwork | BadDatagrams] = []
        self.seconds = seconds
        self.rng = random.Random(seed)
        self.members = [Member(number) for number in range(sessions - sessions % GROUP)]
        self.pulls: Counter[str] = Counter()
        self.asked = 0
        self.answered: list[tuple[Member, int]] = []
        self.unknown: list[str] = []
        self.rss: list[int] = []
        self.under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect all, load and break for the time, let it settle."""
        for way in self.ways:
            target = ("127.0.0.1", way.port)
            network = BadDatagrams(target, self.rng.randrange(1000)) if way.datagrams else BadNetwork(target)
            self.networks.append(network)
            await network.start()
        await self._connect()
        gc.collect()
        gc.freeze()
        end = time.monotonic() + self.seconds
        await asyncio.gather(
            self._paced(PUBLISH_PER_S, end, self._publish),
            self._paced(PULLS_PER_S, end, self._pull),
            self._paced(BREAKS_PER_S, end, self._break),
            self._watch(end),
        )
        await self._settle()
        for member in self.members:
            assert member.client is not None
        await asyncio.gather(*(member.client.close() for member in self.members if member.client is not None))
        for network in self.networks:
            await network.stop()

    async def _connect(self) -> None:
        options = client_options(
            self.node, backoff_s_min=0.02, backoff_s_max=0.5, request_timeout_s=60, heartbeat_s=5
        )  # fmt: skip

        async def one(member: Member) -> None:
            index = self._way(member)
            url = self.ways[index].url(self.networks[index].port)
            user = f"u{member.number}"
            client = member.client = await connect(url, user=user, options=options, on_state=member.changed)
            await client.subscribe(f"group.{member.group}", member.event)
            await client.register(f"ask.{member.number}", member.asked)
            member.reset = 0

        for first in range(0, len(self.members), 50):
            await asyncio.gather(*(one(member) for member in self.members[first : first + 50]))

    def _way(self, member: Member) -> int:
        """Of a member: a group has one, so that what its members publish fits all of them."""
        return member.group % len(self.ways)

    async def _paced(self, per_s: float, end: float, act: Any) -> None:  # Any: a method without arguments
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            # A machine that is too slow for the rate gets a lower one: arrears are let go.
            due = max(due, now - 0.05)
            while due <= now:
                act()
                due += 1 / per_s
            await asyncio.sleep(0.01)

    def _spawn(self, coroutine: Any) -> None:  # Any: a coroutine
        task = asyncio.create_task(coroutine)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    def _publish(self) -> None:
        member = self.rng.choice(self.members)
        member.sent += 1
        self._spawn(self._published(member, member.sent))

    async def _published(self, member: Member, number: int) -> None:
        assert member.client is not None
        try:
            room = self.ways[self._way(member)].body_bytes_max - HEAD_BYTES
            padding = "x" * min(self.rng.choice(PADDING), room)
            value = [member.number, number, padding]
            await member.client.publish(f"group.{member.group}", value, flags=("no_echo",))
        except RelayError as error:
            member.wrong.append(f"publish {number} of {member.number}: {error}")

    def _pull(self) -> None:
        member = self.rng.choice(self.members)
        first = member.group * GROUP
        neighbour = self.members[first + (member.number - first + 1) % GROUP]
        self.asked += 1
        self._spawn(self._pulled(member, neighbour, self.asked))

    async def _pulled(self, member: Member, neighbour: Member, number: int) -> None:
        assert member.client is not None
        try:
            event = await member.client.pull(f"ask.{neighbour.number}", number)
        except RelayError as error:
            self.pulls[f"{error.label} ({error.outcome})"] += 1
            if error.outcome == "unknown":
                times = neighbour.done[number]
                self.unknown.append(f"{number}: {member.number} asked {neighbour.number}: {error}; done {times} times")
            if error.outcome == "not_done" and neighbour.done[number]:
                member.wrong.append(f"pull {number} was done, but reported as not done")
            return
        self.pulls["answered"] += 1
        self.answered.append((neighbour, number))
        if event.value != number + 1:
            member.wrong.append(f"pull {number} got {event.value}")

    def _break(self) -> None:
        network: Any = self.rng.choice(self.networks)  # Any: the link is its own
        if network.links:
            network.break_one(self.rng.choice(list(network.links)), self.rng.randrange(SWALLOW_BYTES_MAX))

    async def _watch(self, end: float) -> None:
        while time.monotonic() < end:
            self.rss.append(self.node.rss())
            await asyncio.sleep(0.25)

    async def _settle(self) -> None:
        """Until everything under way has ended and every number has arrived, or patience has."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and (self.under_way or self.missing()):  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    # --- the verdict ----------------------------------------------------------------------------------------------

    def missing(self) -> int:
        """Publications that have not arrived."""
        count = 0
        for member in self.members:
            first = member.group * GROUP
            for other in self.members[first : first + GROUP]:
                if other is not member:
                    count += other.sent - member.got.get(other.number, 0)
        return count

    def figures(self) -> dict[str, Any]:  # Any: numbers and lists for printing
        """All that is printed."""
        wrong = [each for member in self.members for each in member.wrong]
        twice = sum(count - 1 for member in self.members for count in member.done.values() if count > 1)
        undone = sum(1 for neighbour, number in self.answered if neighbour.done[number] != 1)
        third = len(self.rss) // 3
        middle = statistics.median(self.rss[third : 2 * third])
        last = statistics.median(self.rss[2 * third :])
        growth = last / middle - 1
        return {
            "transports": " ".join(way.name for way in self.ways),
            "sessions": len(self.members),
            "seconds": self.seconds,
            "published": sum(member.sent for member in self.members),
            "delivered": sum(sum(member.got.values()) for member in self.members),
            "lost": self.missing(),
            "twice_or_out_of_order": len(wrong),
            "pulls": dict(self.pulls),
            "unknown": self.unknown[:10],
            "pulls_done_twice": twice,
            "answered_but_not_done_once": undone,
            "under_way_at_the_end": len(self.under_way),
            "breaks": sum(network.breaks for network in self.networks),
            "swallowed_bytes": sum(network.lost_bytes for network in self.networks),
            "resumed": sum(member.resumed for member in self.members),
            "resumed_by_transport": {
                way.name: sum(each.resumed for each in self.members if self.ways[self._way(each)] is way)
                for way in self.ways
            },
            "sessions_lost": sum(member.reset for member in self.members),
            "rss_middle_third_mb": round(middle / 1e6, 2),
            "rss_last_third_mb": round(last / 1e6, 2),
            "rss_growth": round(growth, 4),
            "wrong": wrong[:10],
            "ok": not (wrong or twice or undone or self.missing() or self.under_way) and growth <= RSS_TOLERANCE,
        }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--transports", default="tcp,ws", help="some of them, with commas, or all")
    options = parser.parse_args()
    node = NodeProcess(CONFIG)
    found = every_transport(node)
    try:
        names = found if options.transports == "all" else options.transports.split(",")
        ways = [found[name] for name in names]
    except KeyError as error:
        parser.error(f"no transport {error}; there are {', '.join(found)}")
    try:
        node.start()
        soak = Soak(node, ways, options.sessions, options.seconds, options.seed)
        asyncio.run(soak.run())
        figures = soak.figures()
        figures["node_errors"] = node.log.count("Traceback")
        figures["ok"] = figures["ok"] and not figures["node_errors"]
        if not figures["ok"]:
            print(node.log[-4000:], file=sys.stderr)
    finally:
        node.close()
    return report(figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
