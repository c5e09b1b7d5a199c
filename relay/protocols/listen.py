"""One listener of the configuration as a service: it makes the socket, accepts, and takes changes while it runs.

The address is a Twisted endpoint string (``tcp:``, ``tcp6:``, ``unix:``, ``systemd:``); ``backlog`` is added to it
where it is not given, ``mode=660`` to Unix sockets. With ``reuse_port`` the socket is made here, because SO_REUSEPORT
has to be set before it is bound, and the reactor adopts it. ``udp:HOST:PORT`` is for transports over datagrams, each
of which comes as an endpoint, too.

A Unix socket file that nobody listens on (its node was killed) is removed; one that somebody listens on is "in use".
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from relay.config import Limits, Listener, Slow, Timing
from relay.core.outbox import Flusher
from relay.core.wheel import Wheel
from relay.errors import ConfigError
from relay.interfaces import IGate
from relay.protocols.entrance import Entrance
from relay.protocols.greeting import GreetingFactory
from relay.protocols.http import PageFactory
from relay.protocols.kcp_endpoint import KcpEndpoint
from relay.protocols.quic_endpoint import QuicEndpoint, certificate_of
from relay.protocols.tls import TlsContexts
from relay.protocols.udp_endpoint import UdpEndpoint
from relay.protocols.websocket import OpeningFactory

log = Logger()

SOCKET_MODE: Final = "660"
FIXED: Final = ("address", "transport", "backlog", "reuse_port", "proxy_protocol", "kcp", "udp", "quic")
"""What of a listener cannot change while its socket is open."""


def endpoint_words(address: str) -> list[str]:
    """The parts of an endpoint string, still quoted: ``\\`` keeps a ``:`` from parting."""
    words = [""]
    quoted = False
    for letter in address:
        if letter == ":" and not quoted:
            words.append("")
        else:
            words[-1] += letter
        quoted = letter == "\\" and not quoted
    return words


def completed(listener: Listener) -> str:
    """The endpoint string of a listener, with the options that Twisted would choose otherwise."""
    words = endpoint_words(listener.address)
    names = {word.partition("=")[0] for word in words[1:] if "=" in word}
    options = {}
    if words[0] in ("tcp", "tcp6", "unix"):
        options["backlog"] = str(listener.backlog)
    if words[0] == "unix":
        # The lock file is replaced by looking whether somebody listens: it works for a killed node of any kind.
        options |= {"mode": SOCKET_MODE, "lockfile": "0"}
    return ":".join([*words, *(f"{name}={value}" for name, value in options.items() if name not in names)])


def remove_stale(path: str) -> None:
    """Remove a Unix socket that nobody listens on. Raises ``ConfigError`` when ``path`` is something else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(OSError):
                os.unlink(path)
        except OSError:
            # Somebody listens (a full backlog says so, too), or it cannot be told: listening will.
            return


def shared_socket(listener: Listener) -> socket.socket:
    """A listening socket with SO_REUSEPORT. Raises ``ConfigError`` or ``OSError``."""
    words = endpoint_words(listener.address)
    options = dict(word.partition("=")[::2] for word in words[1:] if "=" in word)
    plain = [word for word in words[1:] if "=" not in word]
    if words[0] not in ("tcp", "tcp6") or len(plain) > 1:
        raise ConfigError(f"{listener.address}: reuse_port is for tcp and tcp6")
    try:
        port = int(plain[0] if plain else options.get("port", ""))
    except ValueError:
        raise ConfigError(f"{listener.address}: a port number is expected") from None
    interface = options.get("interface", "").replace("\\", "")
    family = socket.AF_INET6 if words[0] == "tcp6" or ":" in interface else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((interface, port))
        made.listen(int(options.get("backlog", listener.backlog)))
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class ListenerService(Service):
    """See the module. ``root``: the tree of HTTP resources, needed where the listener has ``http``."""

    def __init__(
        self,
        listener: Listener,
        reactor: Any,  # Any: IReactorTime and, by the address, IReactorTCP, IReactorUNIX, IReactorSocket
        gate: IGate,
        flusher: Flusher,
        wheel: Wheel,
        limits: Limits,
        timing: Timing,
        slow: Slow,
        root: IResource | None = None,
    ) -> None:
        """Reads the certificates; nothing listens yet. Raises ``ConfigError``."""
        self.setName(listener.name or listener.address)  # type: ignore[no-untyped-call]  # Service has no types
        self._reactor = reactor
        self._port: IListeningPort | None = None
        self._listening: Deferred[None] | None = None
        self.entrance = Entrance(listener, gate, flusher, wheel, reactor, limits, timing, slow)
        self.factory = GreetingFactory(self.entrance)
        self.contexts: TlsContexts | None = None
        if listener.tls is not None:
            if listener.transport == "quic":
                self.contexts = TlsContexts(listener.tls, reactor, certificate_of)
            else:
                self.contexts = TlsContexts(listener.tls, reactor)
                self.entrance.tls = TLSMemoryBIOFactory(self.contexts, False, self.factory, reactor)
        self.entrance.plain = _plain(listener)
        if "websocket" in listener.protocols:
            self.entrance.websockets = OpeningFactory(self.entrance)
        if "http" in listener.protocols:
            if root is None:
                raise ConfigError(f"listener {self.name}: there is nothing to serve over http")
            self.entrance.pages = PageFactory(self.entrance, root)

    # --- for tap and tests ------------------------------------------------------------------------------------------

    def listen(self) -> Deferred[None]:
        """Make the socket and accept. Fails with ``ConfigError``: one line that says what is in the way."""
        listener = self.entrance.listener

        def listening(port: IListeningPort) -> None:
            self._port = port
            if self.contexts is not None:
                self.contexts.start()
            log.info("listening on {address} ({name})", address=listener.address, name=self.name)

        def failed(failure: Failure) -> Failure:
            return Failure(_sentence(listener, failure.value))

        return maybeDeferred(self._endpoint).addCallback(_listen_with, self.factory).addCallbacks(listening, failed)

    def stop_accepting(self) -> Deferred[None]:
        """Close the socket; connections stay. Fires when it is closed."""
        self.factory.accepting = False
        if self.contexts is not None:
            self.contexts.stop()
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        return maybeDeferred(port.stopListening).addCallback(lambda _: None)

    def port(self) -> int:
        """The port number that is listened on; for an address with port 0."""
        assert self._port is not None
        host = self._port.getHost()
        assert isinstance(host, IPv4Address | IPv6Address)
        return int(host.port)

    def reconfigure(self, listener: Listener, limits: Limits, timing: Timing, slow: Slow) -> bool:
        """Use other values for connections to come; False: they need a new socket, and nothing has changed.

        Raises ``ConfigError`` for certificates that cannot be used; then, too, nothing has changed.
        """
        entrance = self.entrance
        old = entrance.listener
        if any(getattr(listener, name) != getattr(old, name) for name in FIXED):
            return False
        if (listener.secure is None) != (old.secure is None):
            return False
        if (listener.tls is None) != (old.tls is None) or listener.protocols != old.protocols:
            return False
        if (listener.http.page, listener.http.metrics) != (old.http.page, old.http.metrics):
            return False  # another tree of resources
        if self.contexts is not None and listener.tls is not None and listener.tls != old.tls:
            self.contexts.configure(listener.tls)
        entrance.listener = listener
        entrance.plain = _plain(listener)
        entrance.limits = limits
        entrance.timing = timing
        entrance.slow = slow
        self.factory.repace()
        if entrance.websockets is not None:
            entrance.websockets.configure()
        return True

    # --- IService ---------------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Listen while ports below 1024 may still be had. Raises ``ConfigError``."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Service has no types
        self._begin()

    def startService(self) -> None:
        """Listen, unless that was done before privileges were dropped. Raises ``ConfigError``."""
        super().startService()  # type: ignore[no-untyped-call]  # Service has no types
        self._begin()

    def stopService(self) -> Deferred[None]:
        """Accept no more; connections stay, the core says goodbye to them."""
        super().stopService()  # type: ignore[no-untyped-call]  # Service has no types
        return self.stop_accepting()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._port is not None:
            return
        self.factory.accepting = True
        failures: list[Failure] = []
        self.listen().addErrback(failures.append)
        # Sockets are made at once, so a failure is here at once; twistd tells it and stops.
        if failures:
            failures[0].raiseException()

    def _endpoint(self) -> IStreamServerEndpoint:
        listener = self.entrance.listener
        if listener.transport == "kcp":
            assert listener.kcp is not None
            datagrams: IStreamServerEndpoint = KcpEndpoint(
                self._reactor, listener.kcp, listener.address, listener.reuse_port
            )
            return datagrams
        if listener.transport == "udp":
            return UdpEndpoint(self._reactor, listener.udp, listener.address, listener.reuse_port)
        if listener.transport == "quic":
            assert self.contexts is not None
            return QuicEndpoint(self._reactor, listener.quic, self.contexts, listener.address, listener.reuse_port)
        if listener.reuse_port:
            made = shared_socket(listener)
            try:
                # The endpoint takes a copy of the descriptor.
                endpoint: IStreamServerEndpoint = AdoptedStreamServerEndpoint(
                    self._reactor, os.dup(made.fileno()), made.family
                )
                return endpoint
            finally:
                made.close()
        words = endpoint_words(listener.address)
        if words[0] == "unix" and len(words) > 1:
            remove_stale(words[1].removeprefix("address=").replace("\\", ""))
        found: IStreamServerEndpoint = serverFromString(self._reactor, completed(listener))
        return found


def _plain(listener: Listener) -> bool:
    """Whether connections that are not encrypted may come, too, where there is something to encrypt them."""
    section = listener.tls or listener.secure
    return section is not None and section.plain


def _listen_with(endpoint: IStreamServerEndpoint, factory: GreetingFactory) -> Deferred[IListeningPort]:
    return endpoint.listen(factory)


def _sentence(listener: Listener, error: BaseException | None) -> BaseException | None:
    """What an operator has to know, in one line; our own mistakes stay what they are."""
    if isinstance(error, CannotListenError):
        error = error.socketError
    if isinstance(error, OSError):
        return ConfigError(f"cannot listen on {listener.address}: {error.strerror or error}")
    if isinstance(error, ValueError | TypeError | KeyError | IndexError | OverflowError):
        return ConfigError(f"{listener.address}: no endpoint that Twisted knows ({error})")
    return error
