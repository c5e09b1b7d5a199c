"""Webhooks: what is told, how it is signed, and what happens when the receiver does not take it."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

import relay
from relay.admin.metrics import NodeCollector
from relay.bridges.webhooks import REFUSALS_MAX, Webhooks, signature
from relay.config import Config
from relay.config_check import problems
from relay.config_load import load
from relay.config_webhooks import OCCURRENCES, Webhook
from relay.core.occurrences import Occurrence
from relay.parts import Parts
from relay.test.core_fixture import Core
from relay.test.fakes_app import FakeAgent
from relay.test.webhook_fixture import SECRET, memory, webhook
from relay.wire import kinds

DOCS = Path(relay.__file__).parent.parent / "docs"


class TellingTests(SynchronousTestCase):
    """With a fake HTTP client and a core."""

    def setUp(self):
        self.core = Core()
        self.agent = FakeAgent()
        self.store = memory()

    def hooks(self, *configs: Webhook) -> Webhooks:
        """Webhooks of the core, started."""
        core = self.core
        made = self.webhooks = Webhooks(
            configs, store=self.store, agent=lambda: self.agent, clock=core.clock, wheel=core.hub.wheel,
            unix_time=core.hub.wall, random=lambda: 1.0, random_bytes=lambda size: b"\x01" * size,
            metrics=core.hub.metrics,
        )  # fmt: skip
        made.startService()
        core.hub.on_occurrence = made.take
        return made

    def turn(self) -> None:
        """What was put off to the end of the turn."""
        self.core.clock.advance(0)

    def told(self) -> list[list[tuple[str, str]]]:
        """Event and channel, or user, of each request so far."""
        found = []
        for _, _, _, body in self.agent.seen:
            events = json.loads(body)["events"]
            found.append([(each["event"], each.get("channel") or each.get("user", "")) for each in events])
        return found

    def test_request(self):
        """A POST with the events of a turn, and headers by which the receiver knows it."""
        self.hooks(webhook(events=("user_online", "joined", "left")))
        ann = self.core.guest("ann", device="phone")
        ann.send(kinds.SUBSCRIBE, "room.1", {"info": {"x": 1}})
        self.turn()
        ((method, url, headers, body),) = self.agent.seen
        self.assertEqual((method, url), (b"POST", b"http://127.0.0.1:1/hook"))
        found = json.loads(body)
        at, session = int(self.core.hub.wall() * 1000), ann.connection.session.id
        common = {"realm": "default", "at": at, "user": "ann"}
        self.assertEqual(
            found["events"],
            [
                {"id": "010101010101010101-2", "event": "user_online", **common},
                {"id": "010101010101010101-4", "event": "joined", **common, "channel": "room.1", "session": session,
                 "device": "phone", "info": {"x": 1}, "since": at},
            ],
        )  # fmt: skip
        stamp = str(int(self.core.hub.wall())).encode()
        digest = hmac.new(SECRET.encode(), stamp + b"." + body, hashlib.sha256).hexdigest()
        for name, value in (
            ("Content-Type", "application/json"), ("Relay-Webhook", "w"), ("Relay-Delivery", found["id"]),
            ("Relay-Signature", f"t={stamp.decode()},v1={digest}"),
        ):  # fmt: skip
            self.assertEqual(headers.getRawHeaders(name), [value])
        self.assertEqual((found["webhook"], len(found["id"])), ("w", 32))

    def test_wanted(self):
        """Only the events and channels of the configuration, only of its realm."""
        self.hooks(
            webhook(events=("joined", "left", "session_ended"), channels=("room.*", "hall")),
            webhook(name="other", realm="tenant", events=("user_online",)),
        )  # fmt: skip
        ann, tenant = self.core.guest("ann"), self.core.guest("eve", realm="tenant")
        for guest in (ann, tenant):
            for name in ("room.1", "hall", "kitchen"):
                guest.send(kinds.SUBSCRIBE, name)
        self.turn()
        self.assertEqual(sorted(self.told()), [[("joined", "room.1"), ("joined", "hall")], [("user_online", "eve")]])
        for _ in range(2):
            self.agent.answer(200)
        ann.vanish()
        self.turn()
        self.assertEqual(self.told()[2:], [[("left", "room.1"), ("left", "hall"), ("session_ended", "ann")]])

    def test_every_event(self):
        """All that can be configured happens in a session's life."""
        self.hooks(webhook(parallel_max=1))
        ann = self.core.guest("ann")
        ann.send(kinds.SUBSCRIBE, "c")
        ann.vanish()
        self.turn()
        self.assertEqual({event for event, _ in self.told()[0]}, set(OCCURRENCES))

    def test_delivered_and_failed(self):
        """2xx is done; anything else is told again after a wait, with the same ids and a new signature."""
        self.hooks(webhook(retry_s_min=1.0))
        counts = self.core.hub.metrics.webhooks["w"]
        self.core.guest("ann")
        self.turn()
        for failures, fail in enumerate(
            (
                lambda: self.agent.fail(ConnectionRefusedError()),
                lambda: self.agent.answer(503),
                lambda: self.agent.answer(302),
                lambda: self.core.pass_time(10.1),
            ),
            1,
        ):
            fail()
            self.assertEqual((counts.failed, counts.waiting, counts.delivered), (failures, 2, 0))
            while not self.agent.asked:
                self.core.pass_time(0.1)
        self.agent.answer(204)
        while self.agent.asked:
            self.agent.answer(204)
        self.core.pass_time(10)
        bodies = [json.loads(each[3]) for each in self.agent.seen]
        self.assertEqual(bodies[0], bodies[1])
        ids = {event["id"] for body in bodies for event in body["events"]}
        self.assertEqual((counts.waiting, counts.delivered, len(ids)), (0, 2, 2))
        first, last = (each[2].getRawHeaders("Relay-Signature") for each in (self.agent.seen[0], self.agent.seen[-1]))
        self.assertNotEqual(first, last)

    def test_down(self):
        """While nobody is there: one request after each pause, which grows; then all that waited goes."""
        self.hooks(webhook(batch_max=2, parallel_max=3, retry_s_min=1.0, retry_s_max=4.0))
        for number in range(8):
            self.webhooks.take(Occurrence("joined", "default", int(self.core.hub.wall() * 1000), f"c{number}"))
        self.turn()
        self.assertEqual(len(self.agent.asked), 3)
        for _ in range(3):
            self.agent.fail(ConnectionRefusedError())
        times = []
        for _ in range(4):
            while not self.agent.asked:
                self.core.pass_time(0.05)
            self.assertEqual(len(self.agent.asked), 1)
            times.append(self.core.now)
            self.agent.answer(503)
        waits = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
        self.assertEqual(waits, [2, 4, 4])
        self.core.pass_time(5)
        self.agent.answer(200)
        self.assertEqual(len(self.agent.asked), 3)
        while self.agent.asked:
            self.agent.answer(200)
        told = [channel for body in self.told() for _, channel in body]
        self.assertEqual(set(told), {f"c{number}" for number in range(8)})
        self.assertEqual(self.core.hub.metrics.webhooks["w"].delivered, 8)

    def test_refuses_all(self):
        """A receiver that refuses everything is taken to be broken: it is not asked in parts without end."""
        self.hooks(webhook(batch_max=64, parallel_max=1, retry_s_max=2.0))
        for number in range(64):
            self.webhooks.take(Occurrence("joined", "default", int(self.core.hub.wall() * 1000), f"c{number}"))
        self.turn()
        requests = 0
        while self.agent.asked:
            self.agent.answer(500)
            requests += 1
        self.assertEqual(requests, REFUSALS_MAX)
        self.core.pass_time(1.1)
        self.assertEqual(len(self.agent.asked), 1)

    def test_one_bad_event(self):
        """The others of its request are told at once, in other requests; it holds up its own channel only."""
        self.hooks(webhook(parallel_max=1))
        for channel in ("a", "bad", "c"):
            for event in ("occupied", "joined"):
                self.webhooks.take(Occurrence(event, "default", int(self.core.hub.wall() * 1000), channel))
        self.turn()
        taken: list[tuple[str, str]] = []
        while self.agent.asked:
            events = self.told()[-1]
            if ("occupied", "bad") in events:
                self.agent.answer(500)
            else:
                taken += events
                self.agent.answer(200)
        self.assertEqual(sorted(taken), [("joined", "a"), ("joined", "c"), ("occupied", "a"), ("occupied", "c")])
        self.core.pass_time(1.1)
        self.assertEqual(self.told()[-1], [("occupied", "bad")])
        self.agent.answer(200)
        self.assertEqual(self.told()[-1], [("joined", "bad")])

    def test_stopped(self):
        """Requests under way are given up; after the next start all that was not taken is told."""
        self.hooks(webhook())
        self.core.guest("ann")
        self.turn()
        self.webhooks.stopService()
        self.assertEqual((self.agent.cancelled, self.agent.asked), (1, []))
        self.core.pass_time(10)
        self.assertEqual(len(self.told()), 1)
        self.hooks(webhook())
        self.assertEqual(self.told()[1], self.told()[0])

    def test_reconfigured(self):
        """Another URL and secret count from the next request; one that is gone is told nothing; a new one begins."""
        hooks = self.hooks(webhook(events=("user_online",)), webhook(name="gone"))
        hooks.reconfigure((webhook(events=("user_online",), url="http://127.0.0.1:2/", secret="t" * 16),
                           webhook(name="new", events=("user_offline",))))  # fmt: skip
        ann = self.core.guest("ann")
        ann.vanish()
        self.turn()
        self.assertEqual(self.told(), [[("user_online", "ann")], [("user_offline", "ann")]])
        _, url, headers, body = self.agent.seen[0]
        self.assertEqual(url, b"http://127.0.0.1:2/")
        expected = signature(b"t" * 16, int(self.core.hub.wall()), body)
        self.assertEqual(headers.getRawHeaders("Relay-Signature"), [expected])
        self.assertEqual(sorted(self.core.hub.metrics.webhooks), ["new", "w"])

    def test_metrics(self):
        """Delivered, failed, waiting and dropped are shown; and what the stores count."""
        self.hooks(webhook(pending_max=2, events=("joined",)))
        for number in range(3):
            self.webhooks.take(Occurrence("joined", "default", int(self.core.hub.wall() * 1000), f"c{number}"))
        self.turn()
        self.agent.answer(503)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(NodeCollector(self.core.gate, 0.0, tuple, lambda: {"commits": 3, "full": 1}))
        page = generate_latest(registry).decode()
        for line in (
            'relay_webhook_delivered_total{webhook="w"} 0.0', 'relay_webhook_failures_total{webhook="w"} 1.0',
            'relay_webhook_waiting{webhook="w"} 2.0', 'relay_webhook_dropped_total{reason="full",webhook="w"} 1.0',
            "relay_store_commits_total 3.0", "relay_store_full 1.0",
        ):  # fmt: skip
            self.assertIn(line, page)


class ConfigurationTests(SynchronousTestCase):
    """What cannot be."""

    def test_refused(self):
        """Each mistake has a sentence that names the setting."""
        for wrong, setting in (
            ({"url": "ftp://host/"}, "url"), ({"url": "http:///path"}, "url"), ({"url": "https://hé/"}, "url"),
            ({"url": "http://user:secret@host/"}, "url"), ({"secret": "short"}, "secret"),
            ({"retry_s_min": 9.0, "retry_s_max": 1.0}, "retry_s_min"),
            ({"channels": ("**.a",)}, "channels[0]"), ({"name": "a\nb"}, "name"), ({"realm": "\x7f"}, "realm"),
        ):  # fmt: skip
            found = problems(Config(webhooks=(webhook(**wrong),)))
            self.assertEqual([each.partition(":")[0] for each in found], [f"webhooks[0].{setting}"], found)
        found = problems(Config(webhooks=(webhook(), webhook(realm="other"))))
        self.assertEqual(len(found), 1, found)
        self.assertEqual(problems(Config(webhooks=(webhook(), webhook(name="x")))), [])

    def test_documented(self):
        """The examples of ``docs/presence.md`` are configurations without a mistake."""
        text = (DOCS / "presence.md").read_text("utf-8")
        examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        self.assertEqual(len(examples), 2)
        for number, example in enumerate(examples):
            file = Path(self.mktemp())
            file = file.with_name(f"{file.name}-{number}.yaml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(example)
            self.assertEqual(problems(load(str(file), {"RELAY_WEBHOOK_SECRET": SECRET})), [])

    def test_in_a_node(self):
        """A node tells its webhooks what happens; without any, nothing is listened for; a reload changes that."""
        core = Core()
        config = Config(data=self.mktemp())
        parts = Parts(config, core.clock)
        self.assertIsNone(parts.hub.on_occurrence)
        parts.reconfigure(msgspec.structs.replace(config, webhooks=(webhook(),)))
        assert parts.webhooks is not None
        self.assertEqual(parts.hub.on_occurrence, parts.webhooks.take)
        parts.reconfigure(config)
        self.assertIsNone(parts.hub.on_occurrence)
