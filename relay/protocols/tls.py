"""TLS of a listener: certificates from files that are watched, client certificates, and nothing older than TLS 1.2.

    files ──(changed: looked at every reload_check_s)──▶ a new context ──▶ connections to come
                                     └─ cannot be used ─▶ logged; the old context stays

Connections that exist keep the context they began with. A changed file is told by its time, size and inode, so that
both ways of replacing it (written over, renamed over) are seen; key and certificate are two files, and between the
writing of the one and the other they do not fit: that is one of the cases in which the old context stays.

Settings: TLS 1.2 and 1.3 (RFC 9325), for 1.2 only ciphers with forward secrecy and authenticated encryption, no
renegotiation, no compression, ALPN ``http/1.1`` (RFC 7301); record buffers are released while a connection is idle
(34 KB each).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from relay import config
from relay.errors import ConfigError

log = Logger()

CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL"
ALPN: Final = b"http/1.1"
SESSION_CONTEXT: Final = b"relay"
"""OpenSSL refuses to resume a session with client certificates when this is not set."""

Stamp = tuple[tuple[int, int, int], ...]


def context_of(options: config.Tls) -> SSL.Context:
    """An OpenSSL context for new connections. Raises ``ConfigError`` with one line that names the file."""
    for path in (options.certificate, options.key, options.client_ca):
        if path:
            _readable(path)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_id(SESSION_CONTEXT)
    context.set_alpn_select_callback(_select)
    try:
        context.use_certificate_chain_file(options.certificate)
    except SSL.Error as error:
        raise ConfigError(f"{options.certificate}: no PEM certificate ({_why(error)})") from None
    try:
        context.use_privatekey_file(options.key)
        context.check_privatekey()
    except SSL.Error as error:
        raise ConfigError(f"{options.key}: not the private key of {options.certificate} ({_why(error)})") from None
    if options.client_ca:
        try:
            context.load_verify_locations(options.client_ca)
            context.load_client_ca(os.fsencode(options.client_ca))
        except SSL.Error as error:
            raise ConfigError(f"{options.client_ca}: no PEM certificates ({_why(error)})") from None
        required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if options.client_required else 0
        context.set_verify(SSL.VERIFY_PEER | required, _verified)
    elif options.client_required:
        raise ConfigError("tls.client_required needs tls.client_ca: a file with the authorities of client certificates")
    return context


def _readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None


def _why(error: SSL.Error) -> str:
    reasons = error.args[0] if error.args else ()
    return reasons[0][2] if reasons else "it cannot be read"


def _select(connection: SSL.Connection, offered: list[bytes]) -> Any:  # Any: OpenSSL's marker for "none of them"
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _verified(connection: SSL.Connection, certificate: Any, error: int, depth: int, good: int) -> bool:
    return bool(good)


def common_name(transport: Any) -> str:  # Any: a TLS transport, whose interface does not say more
    """The common name of the client certificate, which the handshake has verified; '' for none."""
    certificate = transport.getPeerCertificate()
    if certificate is None:
        return ""
    return certificate.get_subject().commonName or ""


@implementer(IOpenSSLServerConnectionCreator)
class TlsContexts:
    """The context of new connections, made again when a file has changed. ``reloads``, ``failures``: how often."""

    def __init__(
        self,
        options: config.Tls,
        clock: IReactorTime,
        load: Callable[[config.Tls], Any] = context_of,  # Any: what TLS is done with, OpenSSL or another
    ) -> None:
        """Reads the files. Raises ``ConfigError``."""
        self._load = load
        self.options = options
        self.reloads = 0
        self.failures = 0
        self._stamp = _stamp(options)
        self.current = load(options)
        """What ``load`` made of the files: the context of new connections."""
        self._watch = LoopingCall(self.check)
        self._watch.clock = clock

    def start(self) -> None:
        """Begin to watch the files."""
        if not self._watch.running:
            self._watch.start(self.options.reload_check_s, now=False)

    def stop(self) -> None:
        """Watch them no longer."""
        if self._watch.running:
            self._watch.stop()

    def configure(self, options: config.Tls) -> None:
        """Use other files from now on. Raises ``ConfigError``; then nothing has changed."""
        stamp = _stamp(options)
        self.current = self._load(options)
        self._stamp = stamp
        running = self._watch.running
        self.stop()
        self.options = options
        if running:
            self.start()

    def check(self) -> None:
        """Load the files when one of them has changed."""
        stamp = _stamp(self.options)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.current = self._load(self.options)
        except ConfigError as error:
            self.failures += 1
            log.error("certificate not reloaded, the old one stays: {error}", error=str(error))
        else:
            self.reloads += 1
            log.info("certificate {certificate} reloaded", certificate=self.options.certificate)

    # --- IOpenSSLServerConnectionCreator ----------------------------------------------------------------------------

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N803
        """One connection's side of TLS."""
        return SSL.Connection(self.current, None)


def _stamp(options: config.Tls) -> Stamp:
    """What tells a changed file; (0, 0, 0) for one that is not there now."""
    stamps = []
    for path in (options.certificate, options.key, options.client_ca):
        try:
            status = os.stat(path) if path else None
        except OSError:
            status = None
        stamps.append((status.st_mtime_ns, status.st_size, status.st_ino) if status else (0, 0, 0))
    return tuple(stamps)
