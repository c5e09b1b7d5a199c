"""Webhooks: URLs that are told by HTTP of what happens in the node.

    Hub.on_occurrence ─▶ Webhooks.take ─▶ the Outbox of each Webhook that wants it ─▶ POST

    POST url
    Content-Type: application/json
    Relay-Webhook: NAME
    Relay-Delivery: ID
    Relay-Signature: t=UNIX SECONDS,v1=HEX

    {"id": ID, "webhook": NAME, "events": [{"id", "event", "realm", "at", …}, …]}

``v1`` is HMAC-SHA256 over ``t``, a dot and the body, keyed with the secret. An answer of 200 to 299 means that the
events are done; everything else, and no answer in time, that they are told again. The ``id`` of an event is unique and
the same in every attempt; that of a delivery follows from its events, so it is the same while they are told together.

    up ──the receiver is not there, or refuses all──▶ down ──pause──▶ one request ──taken──▶ up
                                                        ▲                  │
                                                        └──longer pause────┘

Only the URLs of the configuration are asked, and no redirect is followed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IAgent

from relay.bridges.webhook_lanes import Entry, Group
from relay.bridges.webhook_outbox import Outbox
from relay.config_webhooks import Webhook as WebhookConfig
from relay.core.auth.fetch import FetchFailed, fetch
from relay.core.auth.grant import secret_text
from relay.core.metrics import Metrics, WebhookCounts
from relay.core.occurrences import Occurrence
from relay.core.seldom import Seldom
from relay.core.users import PREFIX as USER_PREFIX
from relay.core.wheel import Call, Wheel
from relay.interfaces import IQueueStore
from relay.wire.names import matches

log = Logger()

ANSWER_BYTES_MAX: Final = 65_536
"""An answer's body is not looked at; a receiver that sends more than this is taken to be broken."""
UNAVAILABLE: Final = frozenset((429, 502, 503, 504))
"""Statuses that speak of the receiver, not of what it was told: nothing is gained by telling it in parts."""
REFUSALS_MAX: Final = 12
"""Requests refused in a row after which it is the receiver that is broken, not what it is told. One bad event among a
thousand causes fewer."""
DELIVERY_ID_DIGITS: Final = 32
ID_BYTES: Final = 9
SESSION_PREFIX: Final = "$session."


class Webhook:
    """One of them. ``changed`` of its outbox sends; at most ``parallel_max`` requests are under way."""

    def __init__(self, config: WebhookConfig, shared: Webhooks, counts: WebhookCounts) -> None:
        self.config = config
        self._shared = shared
        self._counts = counts
        self._secret = secret_text(config.secret, f"webhook {config.name}").encode()
        self._seldom = Seldom(shared.clock)
        self._sending: set[Deferred[None]] = set()
        self._running = False
        self._refusals = 0
        self._pauses = 0
        """Since when it is down: 0, or how many there were."""
        self._pause: Call | None = None
        self._probe_new = False
        self.outbox = Outbox(
            config, shared.store, shared.wheel, now_ms=lambda: int(shared.unix_time() * 1000), random=shared.random,
            later=lambda function: shared.clock.callLater(0, function), counts=counts, changed=self._send,
        )  # fmt: skip

    def start(self) -> None:
        """Begin with what waits from before."""
        self._running = True
        self.outbox.start()

    def stop(self) -> None:
        """Requests under way are given up: what they told is told again after the next start."""
        self._running = False
        self.outbox.stop()
        if self._pause is not None:
            self._pause.cancel()
        for each in list(self._sending):
            each.cancel()

    def reconfigure(self, config: WebhookConfig) -> None:
        """Take another configuration of the same name and realm."""
        self.config = self.outbox.config = config
        self._secret = secret_text(config.secret, f"webhook {config.name}").encode()
        self._send()

    def wants(self, occurrence: Occurrence) -> bool:
        """Whether it is told of this."""
        config = self.config
        if occurrence.realm != config.realm or occurrence.event not in config.events:
            return False
        channel = occurrence.channel
        return not channel or any(matches(pattern, channel) for pattern in config.channels)

    def _send(self) -> None:
        """Send as much as may be: while it is down, one request after each pause."""
        while self._running and self._pause is None:
            if len(self._sending) >= (1 if self._pauses else self.config.parallel_max):
                return
            if self._pauses:
                # In turn a group that failed and new events: either might be what the receiver does not take.
                self._probe_new = not self._probe_new
            group = self.outbox.next(new=self._probe_new and self._pauses > 0)
            if group is None:
                return
            sending = Deferred.fromCoroutine(self._post(group))
            if not sending.called:
                self._sending.add(sending)
            sending.addBoth(self._sent, sending, group)

    async def _post(self, group: Group) -> None:
        """One attempt."""
        shared, config = self._shared, self.config
        delivery, body = _body(config.name, group.entries)
        stamp = int(shared.unix_time())
        try:
            status, _ = await fetch(
                shared.agent(), shared.clock, b"POST", config.url,
                headers={
                    b"Content-Type": b"application/json",
                    b"Relay-Webhook": config.name.encode(),
                    b"Relay-Delivery": delivery.encode(),
                    b"Relay-Signature": signature(self._secret, stamp, body).encode(),
                },
                body=body, timeout_s=config.timeout_s, bytes_max=ANSWER_BYTES_MAX,
            )  # fmt: skip
        except FetchFailed as error:
            self._failed(group, str(error), refused=False)
            return
        if 200 <= status <= 299:
            self._refusals = self._pauses = 0
            self.outbox.delivered(group)
        else:
            self._failed(group, f"status {status}", refused=status not in UNAVAILABLE)

    def _failed(self, group: Group, why: str, refused: bool) -> None:
        self._counts.failed += 1
        self._refusals += 1
        if self._pause is None and (not refused or self._refusals >= REFUSALS_MAX):
            self._pauses += 1
            self._pause = self._shared.wheel.after(self.outbox.wait_s(self._pauses), self._paused)
        others = self._seldom.due("failed")
        if others is not None:
            log.warn(
                "webhook {name}: {count} events were not taken: {why} ({others} more since the last report)",
                name=self.config.name, count=len(group.entries), why=why, others=others,
            )  # fmt: skip
        self.outbox.failed(group, refused)

    def _paused(self) -> None:
        self._pause = None
        self._send()

    def _sent(self, result: object, sending: Deferred[None], group: Group) -> None:
        self._sending.discard(sending)
        if isinstance(result, Failure):
            if not result.check(CancelledError):
                log.failure("a request of webhook {name}", failure=result, name=self.config.name)
                self.outbox.failed(group, refused=False)
            elif self._running:
                self.outbox.again(group)
        self._send()


class Webhooks(Service):
    """All of a node's. ``agent`` gives Twisted's HTTP client when it is wanted first."""

    def __init__(
        self,
        configs: Iterable[WebhookConfig],
        *,
        store: IQueueStore,
        agent: Callable[[], IAgent],
        clock: IReactorTime,
        wheel: Wheel,
        unix_time: Callable[[], float],
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        metrics: Metrics,
    ) -> None:
        self.store = store
        self.agent = agent
        self.clock = clock
        self.wheel = wheel
        self.unix_time = unix_time
        self.random = random
        self._metrics = metrics
        self._prefix = random_bytes(ID_BYTES).hex()
        self._count = 0
        self._hooks: dict[tuple[str, str], Webhook] = {}
        self.reconfigure(configs)

    def __len__(self) -> int:
        return len(self._hooks)

    def reconfigure(self, configs: Iterable[WebhookConfig]) -> None:
        """Take other webhooks: by name and realm. What waits for one that is gone stays in the store until it expires,
        or the webhook is there again. Raises ``ConfigError``."""
        wanted = {(each.realm, each.name): each for each in configs}
        for key in self._hooks.keys() - wanted.keys():
            self._hooks.pop(key).stop()
            self._metrics.webhooks.pop(key[1], None)
        for key, config in wanted.items():
            hook = self._hooks.get(key)
            if hook is not None:
                hook.reconfigure(config)
                continue
            counts = self._metrics.webhooks[config.name] = WebhookCounts()
            hook = self._hooks[key] = Webhook(config, self, counts)
            if self.running:
                hook.start()

    def take(self, occurrence: Occurrence) -> None:
        """Something happened."""
        self._count += 1
        event = b""
        for hook in self._hooks.values():
            if hook.wants(occurrence):
                if not event:
                    head = f'{{"id":"{self._prefix}-{self._count:x}",'.encode()
                    event = head + msgspec.json.encode(occurrence)[1:]
                hook.outbox.take(_lane(occurrence), event, occurrence.at)

    # --- Service

    def startService(self) -> None:
        """Tell what waits from before, and what happens from now on."""
        Service.startService(self)
        for hook in self._hooks.values():
            hook.start()

    def stopService(self) -> None:
        """Stop telling; the outbox keeps what was not told."""
        Service.stopService(self)
        for hook in self._hooks.values():
            hook.stop()


def signature(secret: bytes, stamp: int, body: bytes) -> str:
    """The header ``Relay-Signature``. ``stamp``: Unix time in seconds."""
    digest = hmac.new(secret, b"%d." % stamp + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def _lane(occurrence: Occurrence) -> str:
    """What keeps its order: the channel, the user, the session."""
    if occurrence.channel:
        return occurrence.channel
    return SESSION_PREFIX + occurrence.session if occurrence.session else USER_PREFIX + occurrence.user


def _body(name: str, entries: list[Entry]) -> tuple[str, bytes]:
    """The id of a delivery, and its body. Events are put together as they are."""
    events = b",".join(each.event for each in entries)
    delivery = hashlib.sha256(b"\n".join(_id(each.event) for each in entries)).hexdigest()[:DELIVERY_ID_DIGITS]
    head: dict[str, Any] = {"id": delivery, "webhook": name}  # Any: texts
    return delivery, msgspec.json.encode(head)[:-1] + b',"events":[' + events + b"]}"


def _id(event: bytes) -> bytes:
    """The id that ``Webhooks.take`` put at the beginning of an event's text."""
    return event[7 : event.index(b'"', 7)] if event.startswith(b'{"id":"') else event
