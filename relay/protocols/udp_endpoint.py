"""From a listener of the configuration to its UDP port."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from relay.config_udp import Udp
from relay.protocols.datagrams import DatagramSocket, bound_socket
from relay.protocols.greeting import GreetingFactory
from relay.protocols.udp import UdpPort


@implementer(IStreamServerEndpoint)
class UdpEndpoint:
    """Listens as an endpoint for streams does. Listening raises ``ConfigError`` or ``OSError``."""

    def __init__(self, reactor: Any, settings: Udp, address: str, reuse_port: bool) -> None:  # Any: IReactorFDSet
        self._reactor = reactor
        self._settings = settings
        self._address = address
        self._reuse_port = reuse_port

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """A port that is listened on; ``factory`` says who may come in."""
        assert isinstance(factory, GreetingFactory)
        made = bound_socket(self._address, self._reuse_port)
        port = UdpPort(factory, self._settings, self._reactor, time.monotonic, os.urandom)
        port.open(DatagramSocket(made, self._reactor, port.receive))
        port.startListening()
        return succeed(port)
