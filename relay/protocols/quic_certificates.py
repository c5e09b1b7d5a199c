"""Client certificates over QUIC: aioquic asks for one and sees that the client has its key; who vouches for it is
seen here, before anything is handed over that the client said. Who is refused is told by TLS's alerts, as over TCP.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

if TYPE_CHECKING:
    from relay.wire.quic_connection import BoundedConnection

BAD_CERTIFICATE: Final = 0x100 + 42
CERTIFICATE_REQUIRED: Final = 0x100 + 116
"""Errors of QUIC: 0x100 and the alert (RFC 9001, 4.8; RFC 8446, 6.2)."""
CRYPTO_FRAME: Final = 6
CLIENTS: Final = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


class Refused(Exception):
    """A client may not come in: the error of QUIC, and why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def client_certificate(connection: BoundedConnection) -> crypto.X509 | None:
    """That of the client, verified; None where none is asked for, or none has to be shown. Raises ``Refused``."""
    configuration = connection.configuration
    if not configuration.verify_mode:
        return None
    shown, chain = connection.shown
    if shown is None:
        if configuration.verify_mode == ssl.CERT_REQUIRED:
            raise Refused(CERTIFICATE_REQUIRED, "a client certificate is required")
        return None
    store = crypto.X509Store()
    for authority in x509.load_pem_x509_certificates(configuration.cadata or b""):
        store.add_cert(crypto.X509.from_cryptography(authority))
    made = crypto.X509.from_cryptography(shown)
    between = [crypto.X509.from_cryptography(each) for each in chain]
    try:
        crypto.X509StoreContext(store, made, between).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise Refused(BAD_CERTIFICATE, str(error)) from None
    try:
        usage = shown.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return made
    except ValueError as error:
        raise Refused(BAD_CERTIFICATE, str(error)) from None
    if not any(purpose in CLIENTS for purpose in usage):
        raise Refused(BAD_CERTIFICATE, "the certificate is not for clients")
    return made
