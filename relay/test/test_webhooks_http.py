"""Webhooks over sockets: failures, restarts, and the receiver of the documentation."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

import relay
from relay.bridges.webhooks import Webhooks, signature
from relay.core.metrics import Metrics
from relay.core.occurrences import Occurrence
from relay.core.wheel import Wheel
from relay.test.webhook_fixture import SECRET, memory, webhook

EXAMPLES = Path(relay.__file__).parent.parent / "docs" / "examples"


class Listening(Resource):
    """A receiver. ``answer(events)`` gives the status; None: no answer at all. ``events``: what was taken, in order."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answer: Callable[[list[dict[str, Any]]], int | None] = lambda events: 200
        self.events: list[dict[str, Any]] = []
        self.requests = 0
        self.genuine = 0
        self._wanted: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def render_POST(self, request: Any) -> Any:
        """One request."""
        self.requests += 1
        body = request.content.read()
        stamp = int(request.getHeader("Relay-Signature").partition(",")[0][2:])
        self.genuine += request.getHeader("Relay-Signature") == signature(SECRET.encode(), stamp, body)
        events = json.loads(body)["events"]
        status = self.answer(events)
        if status is None:
            self.look()
            return NOT_DONE_YET
        if status < 300:
            self.events += events
        request.setResponseCode(status)
        self.look()
        return b""

    def when(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires after the request that makes ``condition`` true."""
        waiting: Deferred[None] = Deferred()
        self._wanted.append((condition, waiting))
        self.look()
        return waiting

    def look(self) -> None:
        """Whether somebody has waited for this."""
        for each in self._wanted[:]:
            if each[0]():
                self._wanted.remove(each)
                each[1].callback(None)


class HttpTests(TestCase):
    """Over sockets: Twisted's client, a server on a port of the system's choice."""

    timeout = 60

    def setUp(self):
        reactor: Any = global_reactor  # Any: the module stands for whatever reactor trial runs on
        self.reactor = reactor
        self.receiver = Listening()
        self.listen(0)
        self.pool = HTTPConnectionPool(reactor)
        self.addCleanup(self.pool.closeCachedConnections)
        self.agent = Agent(reactor, connectTimeout=5, pool=self.pool)
        self.wheel = Wheel(reactor, 0.01)
        self.wheel.start()
        self.addCleanup(self.wheel.stop)
        self.store = memory()
        self.metrics = Metrics()

    def listen(self, number: int) -> None:
        """The receiver is there."""
        self.port = self.reactor.listenTCP(number, Site(self.receiver), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.number = self.port.getHost().port

    def hooks(self, **config: Any) -> Webhooks:
        """A node's webhooks, started."""
        url = f"http://127.0.0.1:{self.number}/"
        made = Webhooks(
            (webhook(**{"url": url, "retry_s_min": 0.02, "retry_s_max": 0.1, **config}),), store=self.store,
            agent=lambda: self.agent, clock=self.reactor, wheel=self.wheel, unix_time=time.time, random=lambda: 0.5,
            random_bytes=os.urandom, metrics=self.metrics,
        )  # fmt: skip
        made.startService()
        self.addCleanup(made.stopService)
        return made

    def occur(self, hooks: Webhooks, count: int, first: int = 0, channels: int = 5) -> None:
        """Events in some channels; their numbers are in ``since``."""
        for number in range(first, first + count):
            at = int(time.time() * 1000)
            hooks.take(Occurrence("joined", "default", at, f"c.{number % channels}", since=number + 1))

    def assert_in_order(self, count: int, channels: int = 5) -> None:
        """Each event once, in the order of its channel."""
        found: dict[str, list[int]] = {}
        for event in self.receiver.events:
            found.setdefault(event["channel"], []).append(event["since"] - 1)
        wanted = {f"c.{each}": list(range(each, count, channels)) for each in range(channels)}
        self.assertEqual(found, wanted)
        self.assertEqual(self.receiver.requests, self.receiver.genuine)

    def forget_repeated(self) -> None:
        """Keep each event when it came first, as a receiver does."""
        first: dict[str, dict[str, Any]] = {}
        for each in self.receiver.events:
            first.setdefault(each["id"], each)
        self.receiver.events = list(first.values())

    async def test_failures(self) -> None:
        """Errors, no answers and broken connections in between: all arrive, in order."""
        statuses = [500, 200, 503, 404, 200, 429, 301, 200, 200, 500]

        def answer(events: list[dict[str, Any]]) -> int | None:
            return statuses.pop() if statuses else 200

        self.receiver.answer = answer
        hooks = self.hooks(batch_max=7)
        self.occur(hooks, 200)
        await self.receiver.when(lambda: len(self.receiver.events) >= 200)
        self.assert_in_order(200)
        counts = self.metrics.webhooks["w"]
        while counts.waiting:
            await self.turn()
        self.assertEqual((counts.delivered, counts.failed, dict(counts.dropped)), (200, 6, {}))

    async def test_no_answer(self) -> None:
        """A receiver that does not answer in time is asked again."""
        self.receiver.answer = lambda events: None if self.receiver.requests == 1 else 200
        hooks = self.hooks(timeout_s=0.2)
        self.occur(hooks, 10)
        while self.metrics.webhooks["w"].waiting:
            await self.turn()
        self.forget_repeated()  # on a busy machine another answer may be too late
        self.assert_in_order(10)

    async def test_receiver_away(self) -> None:
        """While nobody listens events are kept; when somebody does, all come."""
        await self.port.stopListening()
        hooks = self.hooks()
        self.occur(hooks, 50)
        counts = self.metrics.webhooks["w"]
        while counts.failed < 2:
            await self.turn()
        self.occur(hooks, 50, 50)
        self.listen(self.number)
        await self.receiver.when(lambda: len(self.receiver.events) >= 100)
        self.assert_in_order(100)

    async def test_restarts(self) -> None:
        """The node stops in the middle, again and again: nothing is lost, the order kept; repeated only what was under
        way when it stopped."""
        first = 0
        for _ in range(4):
            hooks = self.hooks(batch_max=3, parallel_max=2)
            self.occur(hooks, 40, first)
            first += 40
            wanted = len(self.receiver.events) + 15
            await self.receiver.when(lambda wanted=wanted: len(self.receiver.events) >= wanted)  # type: ignore[misc]
            hooks.stopService()
        hooks = self.hooks()
        while self.metrics.webhooks["w"].waiting:
            await self.turn()
        told = len(self.receiver.events)
        self.forget_repeated()
        self.assertLessEqual(told - len(self.receiver.events), 4 * 2 * 3)
        self.assert_in_order(160)

    async def test_example(self) -> None:
        """The receiver of the documentation prints the events, once; a request with another secret is refused."""
        receiver = Receiver({**os.environ, "RELAY_WEBHOOK_SECRET": SECRET})
        self.reactor.spawnProcess(
            receiver, sys.executable, [sys.executable, str(EXAMPLES / "webhook_receiver.py"), "0"], receiver.environment
        )
        self.addCleanup(receiver.stop)
        await receiver.lines(1)
        url = receiver.out.decode().strip()
        forged = self.hooks(url=url, secret="not the secret of it", name="forged")
        self.occur(forged, 1)
        while not self.metrics.webhooks["forged"].failed:
            await self.turn()
        forged.stopService()
        hooks = self.hooks(url=url)
        self.occur(hooks, 10)
        await receiver.lines(11)
        self.receiver.events = [json.loads(line) for line in receiver.out.decode().splitlines()[1:]]
        self.assert_in_order(10)

    def turn(self) -> Deferred[None]:
        """Fires a little later."""
        later: Deferred[None] = Deferred()
        self.reactor.callLater(0.005, later.callback, None)
        return later


class Receiver(ProcessProtocol):
    """The example, as a process."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.out = b""
        self.ended: Deferred[None] = Deferred()
        self._wanted: list[tuple[int, Deferred[None]]] = []

    def lines(self, count: int) -> Deferred[None]:
        """Fires when so many lines were printed."""
        waiting: Deferred[None] = Deferred()
        self._wanted.append((count, waiting))
        self._look()
        return waiting

    def stop(self) -> Deferred[None]:
        """Kill it."""
        if not self.ended.called:
            self.transport.signalProcess("KILL")  # type: ignore[union-attr]  # it runs
        return self.ended

    def _look(self) -> None:
        for each in self._wanted[:]:
            if self.out.count(b"\n") >= each[0]:
                self._wanted.remove(each)
                each[1].callback(None)

    # --- ProcessProtocol

    def outReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self.out += data
        self._look()

    def processEnded(self, reason: Any) -> None:  # noqa: N802 - Twisted's name
        self.ended.callback(None)
