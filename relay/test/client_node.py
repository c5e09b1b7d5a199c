"""A node's core and real listeners in the test's process, for clients over real sockets."""

from __future__ import annotations

import os
import random
import time
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource

from relay.admin.metrics import MetricsResource
from relay.admin.site import site
from relay.bench.certificates import make_certificate
from relay.config import Config, Listener, Secure, Tls
from relay.config_auth import EVERYTHING, Permit
from relay.config_queues import QueueRule
from relay.config_store import Store
from relay.core.gate import Gate
from relay.core.histories import Histories
from relay.core.hub import Hub
from relay.core.identity import Identity
from relay.core.node import NodeAccess
from relay.core.outbox import Flusher
from relay.core.permissions import permissions_for
from relay.core.realm import LocalDirectory
from relay.core.router import Router
from relay.core.sessions import Sessions
from relay.errors import Unauthenticated
from relay.interfaces import IPeer
from relay.protocols.listen import ListenerService
from relay.store.memory import MemoryStore
from relay.test.core_fixture import NO_HOOKS
from relay.test.swallowing_proxy import SwallowingProxy
from relay.wire import kinds
from relay.wire.handshake import Hello
from relay.wire.secure import fingerprint, public_identity

QUEUES = (
    QueueRule(
        pattern="quick.**", backoff_s_min=0.0, backoff_s_max=0.0, deliveries_max=2, dead_letter="dead.letters"
    ),
)
"""Queues of the scenarios: what fails comes again at once, and is dead soon."""
IDENTITY = bytes(range(32))
"""The node's private key for the secure channel."""


class ClientNode:
    """Listens on loopback ports of the system's choice. ``token``: what ``user`` "tokened" must show. ``permit``: of
    the user "limited"."""

    def __init__(self, reactor: Any, folder: str, **config: Any) -> None:  # Any: the reactor; keys of Config
        self.reactor = reactor
        self.folder = folder
        self.config = Config(**{"queues": QUEUES, **config})
        self.token = "good"
        self.permit = Permit(publish=("open.**",), subscribe=("open.**",), call=("open.**",))
        hooks: Any = SimpleNamespace(**dict.fromkeys(NO_HOOKS))  # Any: stands for relay.hooks.Hooks
        self.flusher = Flusher(lambda function: reactor.callLater(0, function))
        self.hub = Hub(self.config, reactor, self.flusher, LocalDirectory(), hooks, time.time)
        store = MemoryStore(self.config.store, lambda: int(time.time() * 1000), os.urandom)
        self.histories = Histories(self.hub, lambda: store.history, lambda: store.history, "n1", "i1")
        self.router = Router(self.hub, random.random, self.histories)
        self.sessions = Sessions(self.hub, self.router, "n1", "s", os.urandom)
        self.gate = Gate(self.hub, self.router, self.sessions, self._identify)
        store = MemoryStore(Store(), lambda: int(time.time() * 1000), os.urandom)
        self.router.queues.desk.letters.publish = NodeAccess(self.hub, self.router, self.sessions).publish
        self.queue_store = store.queues
        self.services: dict[str, ListenerService] = {}

    def _identify(self, hello: Hello, peer: IPeer) -> Identity:
        if hello.user == "tokened" and hello.token != self.token:
            raise Unauthenticated("the token is not good")
        permit = self.permit if hello.user == "limited" else EVERYTHING
        return Identity(hello.user, hello.realm or "default", permissions_for(permit, hello.user), "test")

    async def start(self, tls: bool = False) -> None:
        """Listen: ``tcp`` with all protocols, ``unix``, and ``tls`` when wanted."""
        local = "tcp:0:interface=127.0.0.1"
        listeners = [
            Listener(name="tcp", address=local, protocols=("relay", "http", "websocket")),
            Listener(name="unix", address=f"unix:{self.folder}/relay.sock", protocols=("relay",)),
        ]
        listeners.append(Listener(name="secure", address=local, protocols=("relay",), secure=Secure()))
        datagrams = "udp:127.0.0.1:0"
        listeners += [
            Listener(name="udp", address=datagrams, transport="udp"),
            Listener(name="udps", address=datagrams, transport="udp", secure=Secure()),
        ]
        if tls:
            self.certificate, key = make_certificate(self.folder)
            secure = Tls(certificate=self.certificate, key=key)
            listeners.append(Listener(name="quic", address=datagrams, transport="quic", tls=secure))
            listeners.append(Listener(name="tls", address=local, protocols=("relay", "websocket"), tls=secure))
        root: Resource = site(False, MetricsResource(self.gate), self._fine, self._fine)
        self.hub.wheel.start()
        self.router.queues.open(self.queue_store)
        for listener in listeners:
            service = self.services[listener.name] = ListenerService(
                listener, self.reactor, self.gate, self.flusher, self.hub.wheel,
                self.config.limits, self.config.timing, self.config.slow, root,
            )  # fmt: skip
            service.entrance.identity = IDENTITY if listener.secure is not None else b""
            await service.listen()
        self.gate.listeners(tuple(listeners))
        self.proxy = SwallowingProxy(self.reactor, self.services["tcp"].port())
        await self.proxy.start()

    def _fine(self) -> tuple[int, object]:
        return 200, {"status": "ok"}

    def url(self, scheme: str, form: str = "binary") -> str:
        """The URL of one listener by one transport; ``proxied`` is tcp through the proxy."""
        if scheme == "proxied":
            return f"tcp://127.0.0.1:{self.proxy.port}?form={form}"
        if scheme == "unix":
            return f"unix:{self.folder}/relay.sock?form={form}"
        if scheme in ("secure", "udp", "udps"):
            key = "" if scheme == "udp" else f"&key={fingerprint(public_identity(IDENTITY))}"
            outer = "tcp" if scheme == "secure" else "udp"
            return f"{outer}://127.0.0.1:{self.services[scheme].port()}?form={form}{key}"
        if scheme == "quic":
            return f"quic://127.0.0.1:{self.services['quic'].port()}?form={form}"
        port = self.services["tls" if scheme in ("tls", "wss") else "tcp"].port()
        path = "/ws" if scheme in ("ws", "wss") else ""
        return f"{scheme}://127.0.0.1:{port}{path}?form={form}"

    async def stop(self) -> None:
        """Close all."""
        await self.proxy.stop()
        for service in self.services.values():
            await service.stop_accepting()
        for connection in list(self.gate.connections):
            connection.close(kinds.NORMAL)
        while self.gate.connections:
            await self.turn()
        self.hub.wheel.stop()

    def turn(self) -> Deferred[None]:
        """Fires a little later."""
        later: Deferred[None] = Deferred()
        self.reactor.callLater(0.005, later.callback, None)
        return later

    # --- what goes wrong ------------------------------------------------------------------------------------------

    def break_connections(self, user: str | None = None) -> None:
        """Cut the connections of a user, or all, as a network does."""
        for connection in list(self.gate.connections):
            peer: Any = connection.peer  # Any: the concrete class, for its transport
            if user is None or (connection.session is not None and connection.session.user == user):
                peer._io.abortConnection()

    def swallow(self) -> None:
        """What passes the proxy is lost from now on."""
        self.proxy.swallow()

    def break_off(self) -> int:
        """Break what passes the proxy; how many bytes were lost."""
        self.proxy.break_off()
        return self.proxy.swallowed_bytes

    def forget_sessions(self) -> None:
        """Cut every connection and end every session: nothing can be resumed."""
        for session in list(self.hub.sessions.values()):
            self.sessions.end(session, "test")
        self.break_connections()

    def goodbye(self, reason: int) -> None:
        """Say goodbye to everybody."""
        for connection in list(self.gate.connections):
            connection.close(reason, "test")
