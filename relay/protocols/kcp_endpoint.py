"""From a listener of the configuration to its KCP port: options, key, socket."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from relay.config_kcp import Kcp
from relay.errors import ConfigError
from relay.protocols.datagrams import DatagramSocket, bound_socket
from relay.protocols.greeting import GreetingFactory
from relay.protocols.kcp import KcpPort
from relay.wire.kcp.ciphers import KEYLESS, DatagramCipher, cipher_of, key_of
from relay.wire.kcp.options import KcpOptions, options_for


def options_of(settings: Kcp) -> KcpOptions:
    """The options of sessions: the profile, and what the configuration says otherwise. Raises ``ConfigError``."""
    changed: dict[str, int] = {}
    if settings.window:
        changed |= {"send_window": settings.window, "receive_window": settings.window}
    if settings.rate_bytes_max:
        changed["rate_bytes_max"] = settings.rate_bytes_max
    found = options_for(settings.profile, settings.error_correction, settings.mtu)
    return msgspec.structs.replace(found, **changed)


def cipher_for(settings: Kcp) -> DatagramCipher:
    """The cipher with its key. Raises ``ConfigError``."""
    if settings.cipher in KEYLESS:
        return cipher_of(settings.cipher, b"")
    if not settings.key:
        raise ConfigError(f"key: the cipher {settings.cipher} needs one")
    return cipher_of(settings.cipher, key_of(str(settings.key)))


@implementer(IStreamServerEndpoint)
class KcpEndpoint:
    """Listens as an endpoint for streams does. Making it raises ``ConfigError``, listening ``OSError`` too."""

    def __init__(self, reactor: Any, settings: Kcp, address: str, reuse_port: bool) -> None:  # Any: IReactorFDSet
        self._reactor = reactor
        self._settings = settings
        self._address = address
        self._reuse_port = reuse_port
        self._options = options_of(settings)
        self._cipher = cipher_for(settings)

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """A port that is listened on; ``factory`` gives a protocol for each session, or each stream of smux."""
        assert isinstance(factory, GreetingFactory)
        made = bound_socket(self._address, self._reuse_port)
        port = KcpPort(
            factory, self._settings, self._options, self._cipher, self._reactor, time.monotonic, os.urandom
        )
        port.open(DatagramSocket(made, self._reactor, port.receive))
        port.startListening()
        return succeed(port)
