"""Queues of a whole node on SQLite that is killed and started again, under clients that stay."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from twisted.trial.unittest import SynchronousTestCase

from relay.client.aio import Client, connect
from relay.client.options import ClientOptions
from relay.client.queues import Delivery
from relay.errors import RelayError
from relay.test.node_process import NodeProcess

MESSAGES = 300
CREDITS = 20
WAIT_S = 40.0
STAYS = ClientOptions(backoff_s_max=0.2, request_timeout_s=WAIT_S)


class Killed(SynchronousTestCase):
    """SIGKILL, and a start on the same data."""

    def setUp(self):
        self.node = NodeProcess({
            "queues": [{"pattern": "**", "backoff_s_min": 0, "deliveries_max": 3}],
            "pushes": [{"pattern": "mail", "inbox": "away"}],
        })  # fmt: skip
        self.addCleanup(self.node.close)
        self.node.start()

    def kill(self) -> None:
        """The node's end, without a word."""
        assert self.node.process is not None
        self.node.signal(signal.SIGKILL)
        self.node.process.wait()

    def test_nothing_is_lost(self):
        """What was acknowledged to a producer is there, what a consumer's ack was answered for does not come again;
        a consumer that lived through it goes on by itself, and a key that was sent again is stored once."""
        asyncio.run(asyncio.wait_for(self.through_a_kill(), WAIT_S * 2))

    async def through_a_kill(self) -> None:
        """The test."""
        certain: set[int] = set()
        seen: dict[int, int] = {}
        answered: set[int] = set()
        acking: set[int] = set()

        async def work(delivery: Delivery) -> None:
            self.assertNotIn(delivery.value, certain, "an answered ack came again")
            seen[delivery.value] = seen.get(delivery.value, 0) + 1
            acking.add(delivery.value)
            with contextlib.suppress(RelayError):
                await delivery.ack()
                certain.add(delivery.value)
            acking.discard(delivery.value)

        async def put(client: Client, number: int) -> None:
            # With a key the client itself sends it again; the node stores it once.
            await client.enqueue("jobs", number, idempotency_key=f"n{number}")
            answered.add(number)

        async with (
            await connect(self.node.tcp, user="ann", options=STAYS) as producer,
            await connect(self.node.tcp, user="bob", options=STAYS) as worker,
        ):
            await worker.consume("jobs", work, credits=CREDITS, ack="explicit")
            first = [asyncio.ensure_future(put(producer, number)) for number in range(MESSAGES // 2)]
            await asyncio.gather(*first)
            second = [asyncio.ensure_future(put(producer, number)) for number in range(MESSAGES // 2, MESSAGES)]
            await asyncio.sleep(0)
            await asyncio.to_thread(self.kill)
            await asyncio.to_thread(self.node.start)
            await asyncio.gather(*second)
            while (info := await producer.queue("jobs", "info"))["waiting"]:
                self.assertEqual(info["dead"], 0)
            while acking:  # noqa: ASYNC110 - the answers to the last
                await asyncio.sleep(0.01)
            self.assertEqual((answered, set(seen)), (set(range(MESSAGES)),) * 2)
            # An ack that was stored, and whose answer the kill has cut off, is in neither.
            self.assertGreaterEqual(len(certain), MESSAGES - CREDITS)

    def test_what_else_is_kept(self):
        """Deliveries, dead messages with their reason, a pause, an inbox, and what is scheduled."""

        async def before() -> None:
            async with await connect(self.node.tcp, user="ann") as ann:
                self.assertEqual((await ann.push("mail", "hello", user="bob")).offset, 1)
                held = await ann.consume("jobs", credits=2)
                for value in ("bad", "again"):
                    await ann.enqueue("jobs", value)
                await (await anext(held)).nack(dead=True, reason="no good")
                await (await anext(held)).nack(delay_s=0.001)
                await ann.queue("jobs", "pause")

        async def after() -> None:
            async with (
                await connect(self.node.tcp, user="ann") as ann,
                await connect(self.node.tcp, user="bob") as bob,
            ):
                inbox = await anext(await bob.consume("$inbox"))
                self.assertEqual((inbox.value, inbox.sender_user), ("hello", "ann"))
                info = await ann.queue("jobs", "info")
                self.assertEqual((info["waiting"], info["dead"], info["paused"]), (1, 1, True))
                (dead,) = (await ann.queue("jobs", "dead"))["messages"]
                self.assertEqual((dead["reason"], dead["deliveries"]), ("no good", 1))
                held = await ann.consume("jobs", credits=2)
                await ann.queue("jobs", "resume")
                await ann.queue("jobs", "requeue")
                found = sorted([(each.value, each.deliveries) for each in [await anext(held), await anext(held)]])
                self.assertEqual(found[1], ("bad", 1))
                self.assertGreaterEqual(found[0], ("again", 2))

        asyncio.run(asyncio.wait_for(before(), WAIT_S))
        self.kill()
        self.node.start()
        asyncio.run(asyncio.wait_for(after(), WAIT_S))
        metrics = self.node.metrics()
        self.assertEqual((metrics["relay_queues"], metrics["relay_queue_delivered_total"]), (2, 3))
        self.assertFalse([name for name in metrics if name.startswith("relay_cluster")])  # it is alone
        self.assertEqual(self.node.stop(), 0)
