"""The parts of a node, joined: whose constructor gets what.

reactor ─▶ flusher ─▶ hub ─▶ router ─▶ sessions ─▶ gate ─▶ listeners
                       ▲        ▲                    ▲
             hooks ────┘  handlers (app)      authentication ◀── plugins
"""

from __future__ import annotations

import atexit
import base64
import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from relay.admin.metrics import MetricsResource
from relay.admin.site import LocalOnly, site
from relay.app import Application
from relay.config import Config, Listener
from relay.core.auth.authentication import Authentication
from relay.core.gate import Gate
from relay.core.histories import Histories
from relay.core.hub import Hub
from relay.core.node import NodeAccess
from relay.core.outbox import Flusher
from relay.core.realm import LocalDirectory
from relay.core.router import Router
from relay.core.sessions import Sessions
from relay.errors import ConfigError
from relay.hooks import Hooks
from relay.key_files import load_identity
from relay.plugin_load import load_plugins
from relay.protocols.entrance import Entrance
from relay.protocols.listen import ListenerService
from relay.store.stores import Stores

if TYPE_CHECKING:
    from relay.bridges.webhooks import Webhooks

if TYPE_CHECKING:
    from relay.cluster.api import ClusterApi
    from relay.cluster.service import ClusterService

log = Logger()

NODE_ID_BYTES: Final = 8
NODE_ID_FILE: Final = "node.id"
INCARNATION_BYTES: Final = 3
LEAVE_S: Final = 2.0
"""What a stopping node has in the cluster is handed over within this, or goes when its lease is over."""
WORKER: Final = 0
"""One process, one core: the number of this one among those of the machine."""


class Parts:
    """Everything between the reactor and the listeners. Raises ``ConfigError`` with one sentence."""

    def __init__(self, config: Config, reactor: Any) -> None:  # Any: the reactor, with all its interfaces
        self.reactor = reactor
        self.node_id = node_id(Path(config.data))
        at_turn_end = getattr(reactor, "callAtTurnEnd", None) or (lambda function: reactor.callLater(0, function))
        self.flusher = Flusher(at_turn_end)
        self.stores = Stores(config.store, config.data, reactor, time.time)
        self.hooks = Hooks(reactor, config.handlers.slow_operation_ms)
        self.hub = Hub(config, reactor, self.flusher, LocalDirectory(), self.hooks, time.time)
        owner = bytes.fromhex(self.node_id) + WORKER.to_bytes(1, "big") + os.urandom(INCARNATION_BYTES)
        prefix = base64.urlsafe_b64encode(owner).decode()
        stores = self.stores
        lasting = prefix if config.store.kind == "memory" else self.node_id
        histories = Histories(
            self.hub, lambda: stores.history_memory, lambda: stores.history_durable, lasting, prefix
        )
        self.router = Router(self.hub, random.random, histories)
        self._open_stores(config)
        self.router.presence.users.store = self.stores.presence
        # Asked for here, so that the store opens with the others.
        self.queue_store = self.stores.queue_store
        self.sessions = Sessions(self.hub, self.router, self.node_id, prefix, os.urandom)
        self.gate = Gate(self.hub, self.router, self.sessions, self._identify)
        self.access = NodeAccess(self.hub, self.router, self.sessions)
        self.router.queues.desk.letters.publish = self.access.publish
        self.hub.metrics.hook_seconds, self.hub.metrics.hook_errors = self.hooks.seconds, self.hooks.errors
        self.plugins = load_plugins(config.handlers)
        self.hooks.use(self.plugins)
        self.application = Application(self.access, config.handlers, reactor, self.hub.metrics)
        self.application.use(self.plugins)
        self.hub.local.update(self.application.providers())
        self.hub.local_unknown = self.application.unknown()
        self.threads = ThreadPool(0, max(1, config.auth.scrypt_threads_max), "relay-scrypt")
        self._started = False
        self._agent: Any = None  # Any: IAgent
        self.webhooks: Webhooks | None = None
        self._use_webhooks(config)
        self.entrances: dict[str, Entrance] = {}
        self.metrics = MetricsResource(self.gate, self._doors, self.stores.figures)
        self.authentication = self._authentication(config)
        self.realms: dict[str, str] = {}
        self.cluster: ClusterService | None = None
        self.cluster_api: ClusterApi | None = None
        if config.cluster is not None:
            # Without a section nothing of it is loaded.
            from relay.cluster.api import ClusterApi
            from relay.cluster_metrics import collector
            from relay.cluster_parts import make_cluster

            api = self.cluster_api = ClusterApi(config.cluster, self.hub)
            self.cluster = make_cluster(
                config.cluster, Path(config.data), reactor, api.machines,
                lambda groups: api.start(groups, reactor, self.application),
            )  # fmt: skip
            self.metrics.add(collector(self.cluster))
        self.draining = False

    def _open_stores(self, config: Config) -> None:
        """Ask for those that will be needed, so that what is wrong with them is found at the start."""
        if any(each.history is not None and each.history.kind == "durable" for each in config.channels):
            _ = self.stores.history_durable

    # --- authentication -------------------------------------------------------------------------------------------

    def _authentication(self, config: Config) -> Authentication:
        asks = config.auth.http or any(each.jwks_url for each in config.auth.jwt)
        agent = self._http() if asks else None
        return Authentication(config.auth, self.reactor, agent, self.threads, self.plugins, time.time)

    def _http(self) -> Any:  # Any: IAgent
        """The HTTP client."""
        if self._agent is None:
            # A sixth of the time to start, for nodes that ask no URL.
            from twisted.web.client import Agent, HTTPConnectionPool

            self._agent = Agent(self.reactor, pool=HTTPConnectionPool(self.reactor))
        return self._agent

    def _identify(self, hello: Any, peer: Any) -> Any:  # Any: Hello, IPeer, and what Authentication.identify gives
        return self.authentication.identify(hello, peer, self.realms.get(peer.listener, "default"))

    # --- webhooks -------------------------------------------------------------------------------------------------

    def _use_webhooks(self, config: Config) -> None:
        """Those of the configuration, from now on."""
        if self.webhooks is not None:
            self.webhooks.reconfigure(config.webhooks)
        elif config.webhooks:
            from relay.bridges.webhooks import Webhooks  # for nodes that have one

            self.webhooks = Webhooks(
                config.webhooks, store=self.stores.queue_store, agent=self._http, clock=self.reactor,
                wheel=self.hub.wheel, unix_time=time.time, random=random.random, random_bytes=os.urandom,
                metrics=self.hub.metrics,
            )  # fmt: skip
            if self._started:
                self.webhooks.startService()
        self.hub.on_occurrence = self.webhooks.take if self.webhooks else None

    # --- listeners ------------------------------------------------------------------------------------------------

    def listener(self, config: Config, listener: Listener) -> ListenerService:
        """A listener's service, not yet listening. Raises ``ConfigError``."""
        root = None
        if "http" in listener.protocols:
            choice = listener.http.metrics
            metrics = {"off": None, "local": LocalOnly(self.metrics), "public": self.metrics}[choice]
            root = site(listener.http.page, metrics, self._healthy, self._ready)
        service = ListenerService(
            listener, self.reactor, self.gate, self.flusher, self.hub.wheel,
            config.limits, config.timing, config.slow, root,
        )  # fmt: skip
        service.entrance.anonymous = _anonymous(config)
        if listener.secure is not None:
            service.entrance.identity = load_identity(Path(config.data))
        self.entrances[listener.label] = service.entrance
        return service

    def use_listeners(self, listeners: tuple[Listener, ...]) -> None:
        """The realms and networks of these listeners count from now on."""
        self.realms = {each.label: each.realm for each in listeners}
        self.gate.listeners(listeners)

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the stores, tick, and let the plugins begin."""
        self.stores.start()
        self.threads.start()
        self.hub.wheel.start()
        self.router.queues.open(self.queue_store)
        self._started = True
        if self.webhooks is not None:
            self.webhooks.startService()
        Deferred.fromCoroutine(self.hooks.start(self.access)).addErrback(self._not_started)

    def _not_started(self, failure: Failure) -> None:
        """A plugin that does not start is a mistake of the configuration: the node stops, with status 1."""
        log.critical("{error}", error=failure.getErrorMessage())
        # twistd has no way to say with which status it is to end; this one comes after all its own.
        atexit.register(os._exit, 1)
        self.reactor.callWhenRunning(self.reactor.stop)

    def leave(self) -> Deferred[None]:
        """Before the node stops: hand over what it has in the cluster. Fires when that is done or cannot be."""
        if self.cluster_api is None:
            return succeed(None)
        return self.cluster_api.stop().addTimeout(LEAVE_S, self.reactor).addErrback(_log_leave)

    def stop(self) -> Deferred[None]:
        """The opposite; fires when the plugins have ended."""
        self.application.stop()
        self.authentication.stop()
        self.router.presence.users.stop()
        if self.webhooks is not None:
            self.webhooks.stopService()
        self.hub.wheel.stop()
        self.threads.stop()
        return Deferred.fromCoroutine(self.hooks.stop()).addErrback(_log_plugin)

    def close_stores(self) -> Deferred[None]:
        """The last that happens: what sessions and plugins have stored until their end is written, too."""
        self.router.histories.submit()
        self.router.queues.desk.flush()
        return self.stores.stop()

    def reconfigure(self, config: Config) -> None:
        """Take what can change live, but for the listeners. Raises ``ConfigError``; then nothing has changed."""
        authentication = self._authentication(config)
        self.authentication.stop()
        self.authentication = authentication
        for entrance in self.entrances.values():
            entrance.anonymous = _anonymous(config)
        self._use_webhooks(config)
        self.hub.reconfigure(config)
        self.router.queues.desk.reconfigure()
        self.gate.reconfigured()

    # --- seen from outside ----------------------------------------------------------------------------------------

    def _doors(self) -> Iterable[tuple[str, dict[str, int]]]:
        for name, entrance in self.entrances.items():
            yield name, {"unknown": entrance.unknown, "timeout": entrance.expired, "refused": entrance.refused}

    def _healthy(self) -> tuple[int, object]:
        return 200, {"status": "ok", "node": self.node_id}

    def _ready(self) -> tuple[int, object]:
        if self.draining:
            return 503, {"status": "draining", "node": self.node_id}
        sessions = len(self.hub.sessions)
        return 200, {"status": "ready", "node": self.node_id, "sessions": sessions}


def _log_leave(failure: Failure) -> None:
    log.warn("not all that this node has in the cluster was handed over: {error}", error=failure.getErrorMessage())


def _log_plugin(failure: Failure) -> None:
    log.failure("a plugin", failure=failure)


def _anonymous(config: Config) -> bool:
    return config.auth.anonymous.enabled and "anonymous" in config.auth.order


def node_id(data: Path) -> str:
    """The node's id, kept in the data directory; made at the first start. Raises ``ConfigError``."""
    file = data / NODE_ID_FILE
    try:
        data.mkdir(parents=True, exist_ok=True)
        if file.exists():
            text = file.read_text("ascii", "replace").strip()
            if len(text) != NODE_ID_BYTES * 2 or set(text) - set("0123456789abcdef"):
                raise ConfigError(f"{file} does not hold a node id of 16 hexadecimal digits")
            return text
        text = os.urandom(NODE_ID_BYTES).hex()
        beside = file.with_suffix(".new")
        with beside.open("w") as out:
            out.write(text + "\n")
            out.flush()
            os.fsync(out.fileno())
        beside.rename(file)
        return text
    except OSError as error:
        raise ConfigError(f"data: {error.filename or data}: {error.strerror or error}") from None
