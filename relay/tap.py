"""``twistd relay``: options, and the node put together from its parts. The only module that knows them all.

twistd imports the plugin and calls ``makeService`` before it imports the reactor, so the configuration can choose one
here. What needs the reactor is built in ``Node.startService``.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any, Final

import msgspec
from twisted.application.service import MultiService
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure

from relay.config import Config, Listener
from relay.config_load import check, differences, load
from relay.errors import ConfigError
from relay.logs import Levels, observer
from relay.parts import Parts
from relay.protocols.listen import ListenerService
from relay.signals import Signals

log = Logger()

TICK_S: Final = 1.0
"""How often slow peers, hooks and the event loop's lag are looked at."""
TWISTD_LOG: Final = "twistd.log"
"""Where twistd writes its log when it is not told."""
GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Objects of the hot path hold no cycles; what is left to find is rare, and looking for it makes a node pause."""


class Options(usage.Options):
    """The command line of ``twistd relay``."""

    synopsis = "[--config=relay.yaml]"
    optParameters = [["config", "c", "", "configuration file (YAML, JSON or TOML); without one: the defaults"]]
    optFlags = [["banner", "b", "print where to go, once the node runs"]]

    def postOptions(self) -> None:
        """Read the configuration: a mistake stops the start with one sentence."""
        try:
            self.loaded = load(self["config"] or None, os.environ)
            check(self.loaded)
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None


def makeService(options: Options) -> Node:
    """The node as a service; installs the reactor that the configuration names."""
    config: Config = options.loaded
    parent: Any = options.parent  # Any: twistd's own options
    if "twisted.internet.reactor" not in sys.modules:
        choose_reactor(config.reactor)
    daemon = parent is not None and not parent.get("nodaemon")
    logfile = (parent.get("logfile") if parent is not None else None) or (TWISTD_LOG if daemon else "-")
    return Node(config, options["config"] or None, bool(options["banner"]), daemon, "" if logfile == "-" else logfile)


def choose_reactor(name: str) -> None:
    """Install the reactor of that name; ``auto``: ours where uvloop is, else Twisted's default."""
    from twisted.application.reactors import NoSuchReactor, installReactor

    if name == "auto":
        try:
            import uvloop  # noqa: F401 - only whether it is there
        except ImportError:
            return
        name = "uv"
    try:
        installReactor(name)
    except (NoSuchReactor, ImportError) as error:
        raise usage.UsageError(f"reactor {name!r} is not to be had: {error}") from None


class Node(MultiService):
    """One relay process. ``parts`` is there while it runs."""

    def __init__(
        self, config: Config, path: str | None, banner: bool = False, daemon: bool = False, logfile: str = ""
    ) -> None:
        MultiService.__init__(self)
        self.config = config
        self.path = path
        self.parts: Parts | None = None
        self.listeners: dict[str, ListenerService] = {}
        self._banner = banner
        self._daemon = daemon
        self._logfile = logfile
        self._levels = Levels(config.log)
        self._ticker: LoopingCall | None = None
        self._signals: Signals | None = None
        self._due = 0.0

    def setServiceParent(self, parent: Any) -> None:  # Any: twistd's Application, a componentized service
        """Give twistd's application our way of writing logs, unless its command line names another."""
        MultiService.setServiceParent(self, parent)
        if hasattr(parent, "setComponent"):
            parent.setComponent(ILogObserver, observer(self.config.log, self._levels, self._logfile))

    # --- start ----------------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Build the parts and listen, while low ports may still be had."""
        from twisted.internet import reactor

        try:
            parts = self.parts = Parts(self.config, reactor)
            parts.use_listeners(self.config.listeners)
            if parts.cluster is not None:
                parts.cluster.setServiceParent(self)  # type: ignore[no-untyped-call]  # twisted's is untyped
            for listener in self.config.listeners:
                self._add(listener)
            MultiService.privilegedStartService(self)
        except ConfigError as error:
            if self._daemon:
                raise  # twistd hands the sentence to the waiting shell
            raise SystemExit(f"relay: {error}") from None

    def startService(self) -> None:
        """Begin to work."""
        if self.parts is None:
            self.privilegedStartService()
        parts = self.parts
        assert parts is not None
        try:
            parts.start()
        except ConfigError as error:
            if self._daemon:
                raise  # as above
            raise SystemExit(f"relay: {error}") from None
        MultiService.startService(self)
        reactor = parts.reactor
        ticker = self._ticker = LoopingCall(self._tick)
        ticker.clock = reactor
        self._due = reactor.seconds() + TICK_S
        ticker.start(TICK_S, now=False).addErrback(lambda failure: log.failure("the node's tick failed", failure))
        self._signals = Signals(reactor, self._drain, self._reload)
        reactor.callWhenRunning(self._signals.install)
        reactor.callWhenRunning(self._running)

    def _add(self, listener: Listener) -> ListenerService:
        assert self.parts is not None
        service = self.parts.listener(self.config, listener)
        try:
            service.setServiceParent(self)  # type: ignore[no-untyped-call]  # twisted's is untyped
        except ConfigError:
            service.disownServiceParent()  # type: ignore[no-untyped-call]  # as above
            raise
        self.listeners[listener.label] = service
        return service

    def _running(self) -> None:
        """The reactor runs: say where to go, and set what exists apart from what comes and goes."""
        assert self.parts is not None
        log.info("node {node} runs (pid {pid})", node=self.parts.node_id, pid=os.getpid())
        if self._banner:
            # twistd has replaced sys.stdout by its log; this is for the person at the terminal.
            print(banner(self.config), file=sys.__stdout__, flush=True)
        # What exists now lives as long as the node: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    def _tick(self) -> None:
        parts = self.parts
        assert parts is not None
        now = parts.reactor.seconds()
        metrics = parts.hub.metrics
        metrics.lag_s = max(0.0, now - self._due)
        metrics.lag_s_max = max(metrics.lag_s_max, metrics.lag_s)
        self._due = now + TICK_S
        parts.flusher.sweep(now)
        if parts.hooks.tick is not None:
            parts.hooks.tick(now)

    # --- signals --------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Accept no more, say goodbye, then stop the reactor."""
        parts = self.parts
        assert parts is not None
        parts.draining = True
        for service in self.listeners.values():
            service.stop_accepting().addErrback(lambda failure: log.failure("closing a listener", failure))
        assert self._signals is not None
        signals = self._signals
        parts.gate.drain().addBoth(lambda _: parts.leave()).addBoth(lambda _: signals.stop())

    def _reload(self) -> None:
        """Read the configuration again; what is wrong with it is logged, and nothing changes."""
        parts = self.parts
        assert parts is not None
        try:
            config = load(self.path, os.environ)
            check(config)
            live, restart = differences(self.config, config)
            parts.reconfigure(config)
            # What needs a restart stays as it was until then.
            self.config = msgspec.structs.replace(config, data=self.config.data, reactor=self.config.reactor)
            self._relisten(config)
            self._levels.set(config.log)
        except ConfigError as error:
            log.error("the configuration was not taken over: {error}", error=str(error))
            return
        log.info("configuration read again: {live}", live=", ".join(live) or "nothing has changed")
        if restart:
            log.warn("these need a restart: {restart}", restart=", ".join(restart))

    def _relisten(self, config: Config) -> None:
        """Listeners that are gone stop accepting, new ones start, the others take what changed.

        One that cannot is logged and tried again by the next reload; it does not keep the others from theirs.
        """
        parts = self.parts
        assert parts is not None
        wanted = {each.label: each for each in config.listeners}
        closing = []
        for name, service in list(self.listeners.items()):
            listener = wanted.get(name)
            try:
                stays = listener and service.reconfigure(listener, config.limits, config.timing, config.slow)
            except ConfigError as error:
                log.error("listener {name} stays as it was: {error}", name=name, error=str(error))
                continue
            if not stays:
                del self.listeners[name]
                closing.append(maybeDeferred(service.disownServiceParent))
        parts.use_listeners(config.listeners)

        def add(_: object) -> None:
            for name, listener in wanted.items():
                if name in self.listeners:
                    continue
                try:
                    self._add(listener)
                except ConfigError as error:
                    log.error("listener {name} does not start: {error}", name=name, error=str(error))

        def failed(failure: Failure) -> None:
            log.error("a listener was not changed: {error}", error=failure.getErrorMessage())

        # A port is free one turn after it was closed; the same address may be wanted again.
        gatherResults(closing, consumeErrors=True).addCallback(add).addErrback(failed)

    def stopService(self) -> Any:  # Any: a Deferred of what the services give
        """Everything ends; called by the reactor's shutdown."""
        if self._signals is not None:
            self._signals.remove()
        if self._ticker is not None and self._ticker.running:
            self._ticker.stop()
        parts = self.parts
        stopping = [maybeDeferred(MultiService.stopService, self)]
        if parts is None:
            return stopping[0]
        stopping.append(parts.stop())
        return gatherResults(stopping).addBoth(lambda result: parts.close_stores().addCallback(lambda _: result))


def banner(config: Config) -> str:
    """Where to go and what to try, in at most six lines."""
    lines = []
    for listener in config.listeners:
        kind, *rest = listener.address.split(":")
        host = next((each.partition("=")[2] for each in rest if each.startswith("interface=")), "127.0.0.1")
        place = f"{host}:{rest[0]}" if kind.startswith("tcp") else rest[0] if rest else ""
        secure = listener.tls is not None
        if "http" in listener.protocols and listener.http.page:
            lines.append(f"  the page     {'https' if secure else 'http'}://{place}/")
        if "websocket" in listener.protocols:
            lines.append(f"  browsers     {'wss' if secure else 'ws'}://{place}{listener.websocket.path}")
        if "relay" in listener.protocols:
            lines.append(f"  programs     {'tls' if secure else kind}://{place}")
    return "\n".join(
        ["relay runs", *lines[:4], "  try          .venv/bin/relay sub 'room.*' &  .venv/bin/relay pub room.1 hello"]
    )
