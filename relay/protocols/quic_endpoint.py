"""From a listener of the configuration to its QUIC port: certificates, key log, socket.

aioquic is an extra (``pip install relay-messaging[quic]``): nothing here imports it before a listener asks for QUIC.
"""

from __future__ import annotations

import os
import ssl
import time
from typing import TYPE_CHECKING, Any, TextIO

from cryptography.x509 import load_pem_x509_certificates
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from relay import config
from relay.config_quic import Quic
from relay.errors import ConfigError
from relay.protocols.datagrams import DatagramSocket, bound_socket
from relay.protocols.greeting import GreetingFactory
from relay.protocols.tls import TlsContexts, context_of

if TYPE_CHECKING:
    from aioquic.quic.configuration import QuicConfiguration

log = Logger()

DATAGRAM_FRAME_BYTES_MAX = 65_535
"""What is taken in a DATAGRAM frame; how much fits is the packet's business."""


def check_package() -> None:
    """Raises ``ConfigError`` when aioquic is not installed, or not one that is known to work."""
    try:
        import relay.wire.quic_connection  # noqa: F401 - whether it can be imported is the question
    except ImportError as error:
        raise ConfigError(f"transport quic needs aioquic: pip install 'relay-messaging[quic]' ({error})") from None


def certificate_of(options: config.Tls) -> QuicConfiguration:
    """aioquic's configuration with the certificate of a listener, and nothing else. Raises ``ConfigError``."""
    check_package()
    context_of(options)  # says what is wrong with the files, and that they fit
    from aioquic.quic.configuration import QuicConfiguration

    made = QuicConfiguration(is_client=False)
    try:
        if options.client_ca:
            made.verify_mode = ssl.CERT_REQUIRED if options.client_required else ssl.CERT_OPTIONAL
            with open(options.client_ca, "rb") as file:
                made.cadata = file.read()
            load_pem_x509_certificates(made.cadata)
        made.load_cert_chain(options.certificate, options.key)
    except (ValueError, TypeError, IndexError, OSError) as error:
        raise ConfigError(f"{options.key}: not usable for QUIC ({error})") from None
    return made


@implementer(IStreamServerEndpoint)
class QuicEndpoint:
    """Listens as an endpoint for streams does. Listening raises ``ConfigError`` or ``OSError``."""

    def __init__(
        self, reactor: Any, settings: Quic, contexts: TlsContexts, address: str, reuse_port: bool
    ) -> None:  # Any: IReactorFDSet
        self._reactor = reactor
        self._settings = settings
        self._contexts = contexts
        self._address = address
        self._reuse_port = reuse_port
        self._made: QuicConfiguration | None = None
        self._loaded: object = None
        self._keys: TextIO | None = None

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """A port that is listened on; ``factory`` says who may come in."""
        assert isinstance(factory, GreetingFactory)
        from relay.protocols.quic import QuicPort

        self._keys = key_log(self._settings.key_log)
        made = bound_socket(self._address, self._reuse_port)
        port = QuicPort(factory, self._settings, self.configuration, self._reactor, time.monotonic, os.urandom)
        port.open(DatagramSocket(made, self._reactor, port.receive))
        port.startListening()
        return succeed(port)

    def configuration(self) -> QuicConfiguration:
        """For a new connection: with the certificate as it is now."""
        loaded = self._contexts.current
        if self._made is None or loaded is not self._loaded:
            self._loaded = loaded
            self._made = server_configuration(loaded, self._settings, self._keys)
        return self._made


def server_configuration(loaded: QuicConfiguration, settings: Quic, keys: TextIO | None) -> QuicConfiguration:
    """What ``certificate_of`` has loaded, with the options of a listener."""
    from aioquic.quic.configuration import QuicConfiguration

    from relay.wire.quic_connection import ALPN, CONNECTION_ID_BYTES, WINDOW_BYTES

    return QuicConfiguration(
        is_client=False,
        alpn_protocols=[ALPN],
        certificate=loaded.certificate,
        certificate_chain=loaded.certificate_chain,
        private_key=loaded.private_key,
        cadata=loaded.cadata,
        verify_mode=loaded.verify_mode,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=settings.idle_timeout_s,
        max_datagram_size=settings.mtu_bytes,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES_MAX,
        max_stream_data=WINDOW_BYTES,
        secrets_log_file=keys,
    )


def key_log(path: str) -> TextIO | None:
    """The file that gets the keys, readable by its owner alone; None for no path. Raises ``ConfigError``."""
    if not path:
        return None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise ConfigError(f"quic.key_log: {path}: {error.strerror}") from None
    log.warn("the keys of all QUIC connections are written to {path}: whoever has it can read them", path=path)
    return os.fdopen(descriptor, "a", buffering=1)
