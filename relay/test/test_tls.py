"""TLS on a listener: certificates made here, reloaded when they change, asked of clients; and plain text refused."""

from __future__ import annotations

import datetime
import os
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.config import Timing, Tls
from relay.errors import ConfigError
from relay.protocols.tls import TlsContexts, context_of
from relay.test.entrance_fixture import Door, binary_stream, echo, publication, request_head, websocket_frames
from relay.test.fakes import WireTransport
from relay.wire import kinds
from relay.wire.binary import encode_stream

Key = ec.EllipticCurvePrivateKey


class Authority:
    """Signs certificates; its own is in ``certificate``."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key.public_key(), True)

    def issue(self, name: str, usage: x509.ObjectIdentifier | None = None) -> tuple[bytes, bytes]:
        """A certificate for ``name``, for one ``usage`` or all, and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._sign(subject, key.public_key(), False, usage), pem_of(key)

    def _sign(
        self, subject: x509.Name, key: Any, authority: bool, usage: x509.ObjectIdentifier | None = None
    ) -> bytes:  # Any: a public key
        start = datetime.datetime(2020, 1, 1)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(datetime.datetime(2090, 1, 1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if usage is not None:
            made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem_of(key: Key) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class TlsClient:
    """The other end of a fake transport: OpenSSL on memory buffers."""

    def __init__(self, transport: WireTransport, certificate: str = "", key: str = "", version: int = 0) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_alpn_protos([b"h2", b"http/1.1"])
        if version:
            context.set_max_proto_version(version)
        if certificate:
            context.use_certificate_file(certificate)
            context.use_privatekey_file(key)
        self.transport = transport
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self.received = b""

    def pump(self) -> None:
        """Carry bytes both ways until neither side has more. Raises ``SSL.Error`` as OpenSSL does."""
        while True:
            try:
                self.tls.do_handshake()
                self.received += self.tls.recv(65_536)
            except SSL.WantReadError:
                pass
            try:
                out = self.tls.bio_read(65_536)
            except SSL.WantReadError:
                out = b""
            if out:
                self.transport.feed(out)
            back = self.transport.take()
            if back:
                self.tls.bio_write(back)
            if not out and not back:
                return

    def send(self, data: bytes) -> None:
        """Send ``data`` once the handshake is done."""
        self.pump()
        self.tls.send(data)
        self.pump()

    @property
    def server_name(self) -> str:
        """The common name of the server's certificate."""
        certificate = self.tls.get_peer_certificate()
        assert certificate is not None
        return certificate.get_subject().commonName or ""


class TlsCase(SynchronousTestCase):
    """Certificates in files."""

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.authority = Authority("authority")
        self.number = 0
        self.certificate, self.key = self.install(self.authority.issue("relay.example"), "server")

    def path(self, name: str) -> str:
        """A file of this test."""
        return os.path.join(self.directory, name)

    def write(self, name: str, data: bytes) -> str:
        """Write a file over; its time of change is a new one, however fast the test is."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(data)
        self.number += 1
        os.utime(path, ns=(self.number * 10**9, self.number * 10**9))
        return path

    def install(self, pair: tuple[bytes, bytes], name: str) -> tuple[str, str]:
        """Write certificate and key."""
        return self.write(name + ".crt", pair[0]), self.write(name + ".key", pair[1])

    def options(self, **more: Any) -> Tls:  # Any: of Tls
        """The configuration."""
        return Tls(certificate=self.certificate, key=self.key, **more)

    def door(self, *protocols: str, tls: Tls | None = None, **more: Any) -> Door:  # Any: of Door
        """A listener inside of TLS."""
        options = tls or self.options()
        door = Door(*(protocols or ("relay", "websocket")), tls=options, **more)
        self.contexts = TlsContexts(options, door.clock)
        self.contexts.start()
        door.entrance.tls = TLSMemoryBIOFactory(self.contexts, False, door.factory, door.clock)
        return door


class FilesTests(TlsCase):
    """Certificates that cannot be used stop the start, with one line."""

    def refused(self, **changes: str | bool) -> str:
        """The sentence."""
        values = {"certificate": self.certificate, "key": self.key, **changes}
        error = self.assertRaises(ConfigError, context_of, Tls(**values))  # type: ignore[arg-type]  # as given
        sentence = str(error)
        self.assertNotIn("\n", sentence)
        return sentence

    def test_missing(self):
        """A file that is not there."""
        for name in ("certificate", "key", "client_ca"):
            self.assertIn("nowhere: No such file", self.refused(**{name: self.path("nowhere")}))

    def test_not_pem(self):
        """A file with something else in it."""
        junk = self.write("junk", b"no certificate")
        for name in ("certificate", "key", "client_ca"):
            self.assertIn(junk, self.refused(**{name: junk}))

    def test_directory(self):
        """A directory in place of a file."""
        self.assertIn(self.directory, self.refused(certificate=self.directory))

    def test_wrong_key(self):
        """A key that belongs to another certificate."""
        _, other = self.install(self.authority.issue("other"), "other")
        self.assertIn(f"{other}: not the private key of {self.certificate}", self.refused(key=other))

    def test_required_of_nobody(self):
        """Client certificates required, and no authority named."""
        self.assertIn("client_ca", self.refused(client_required=True))

    def test_good(self):
        """And files that are as they should be."""
        self.assertTrue(verifyObject(IOpenSSLServerConnectionCreator, TlsContexts(self.options(), Clock())))


class ConnectionTests(TlsCase):
    """Connections inside of TLS."""

    def test_stream(self):
        """The stream form, both ways; the label says TLS."""
        door = self.door(on_receive=echo)
        client = TlsClient(door.connect())
        client.send(binary_stream(publication("one")))
        self.assertEqual((door.gate.last.names, door.gate.last.peer.transport), (["one"], "tls"))
        door.turn()
        client.pump()
        self.assertEqual(client.received, encode_stream(publication("one")))

    def test_websocket(self):
        """WebSocket, with frames right behind the handshake; the label says so."""
        door = self.door()
        client = TlsClient(door.connect())
        client.send(request_head() + websocket_frames(publication("one")))
        self.assertIn(b" 101 ", client.received)
        self.assertEqual((door.gate.last.names, door.gate.last.peer.transport), (["one"], "wss"))

    def test_settings(self):
        """TLS 1.3 is spoken, 1.2 too, older versions are not; of protocols HTTP/1.1 is chosen."""
        client = TlsClient(self.door().connect())
        client.pump()
        self.assertEqual(
            (client.tls.get_protocol_version_name(), client.tls.get_alpn_proto_negotiated()), ("TLSv1.3", b"http/1.1")
        )
        client = TlsClient(self.door().connect(), version=SSL.TLS1_2_VERSION)
        client.pump()
        self.assertEqual(client.tls.get_protocol_version_name(), "TLSv1.2")
        self.assertRaises(SSL.Error, TlsClient(self.door().connect(), version=SSL.TLS1_1_VERSION).pump)

    def test_plain_text(self):
        """Plain text on a listener with TLS is no protocol of it."""
        door = self.door()
        transport = door.connect()
        transport.feed(binary_stream(publication()))
        self.assertEqual((transport.ended, door.gate.connections), ("lost", []))

    def test_plain_text_beside_it(self):
        """Where it is allowed, plain text and TLS are told apart on one port."""
        door = self.door()
        door.entrance.plain = True
        door.connect().feed(binary_stream())
        TlsClient(door.connect()).send(binary_stream())
        self.assertEqual([each.peer.transport for each in door.gate.connections], ["tcp", "tls"])

    def test_tls_without_tls(self):
        """TLS on a listener without it neither."""
        transport = Door("relay", "websocket").connect()
        transport.feed(b"\x16\x03\x01\x00\x05hello")
        self.assertEqual(transport.ended, "lost")

    def test_garbage_in_the_handshake(self):
        """What begins like TLS and is none ends the connection, without a log entry."""
        door = self.door()
        for data in (b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x03\xff\xff" + b"x" * 70_000):
            transport = door.connect()
            transport.feed(data, step=1000)
            self.assertEqual(transport.ended, "lost")
            transport.settle()
        self.assertEqual(door.entrance.open, 0)

    def test_silence_in_the_handshake(self):
        """The handshake time-out counts from the first byte to the first message inside of TLS."""
        door = self.door(timing=Timing(handshake_timeout_s=3.0))
        silent, greeting, talking = door.connect(), door.connect(), door.connect()
        greeting.feed(b"\x16\x03\x01\x02")
        TlsClient(talking).pump()
        door.pass_time(2.0)
        self.assertEqual(door.entrance.expired, 0)
        door.pass_time(1.5)
        self.assertEqual([each.ended for each in (silent, greeting, talking)], ["aborted"] * 3)
        self.assertEqual(door.entrance.open, 0)

    def test_we_close(self):
        """The last frame arrives, then TLS is closed; who does not answer that is cut off."""
        for answers in (True, False):
            door = self.door()
            client = TlsClient(door.connect())
            client.send(binary_stream())
            peer = door.gate.last.peer
            peer.send(b"goodbye")
            peer.close(kinds.KICKED)
            back = client.transport.take()
            client.tls.bio_write(back)
            self.assertEqual(client.tls.recv(100), b"goodbye")
            self.assertRaises(SSL.ZeroReturnError, client.tls.recv, 100)
            if answers:
                client.tls.shutdown()
                client.transport.feed(client.tls.bio_read(1000))
                self.assertEqual(client.transport.ended, "lost")
            door.pass_time(6)
            self.assertEqual((door.entrance.open, client.transport.ended), (0, "lost" if answers else "aborted"))

    def test_paused(self):
        """A pause reaches the socket through TLS, and so does its end."""
        door = self.door()
        client = TlsClient(door.connect())
        client.send(binary_stream())
        peer = door.gate.last.peer
        peer.pause("rate")
        self.assertEqual(client.transport.producerState, "paused")
        peer.resume("rate")
        self.assertEqual(client.transport.producerState, "producing")

    def test_behind_a_proxy(self):
        """A proxy that passes TLS through sends its header before it."""
        door = self.door(proxy_protocol=True)
        transport = door.connect()
        transport.feed(b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n")
        TlsClient(transport).send(binary_stream())
        self.assertEqual(door.gate.last.peer.address, "203.0.113.9")


class ClientCertificateTests(TlsCase):
    """Certificates of clients."""

    def setUp(self) -> None:
        super().setUp()
        self.device = self.install(self.authority.issue("device-7"), "device")
        self.stranger = self.install(Authority("stranger").issue("device-7"), "stranger")
        self.trusted = self.write("authority.crt", self.authority.certificate)

    def name(self, required: bool, pair: tuple[str, str]) -> str:
        """What the peer's certificate is called, when the client shows ``pair``."""
        door = self.door(tls=self.options(client_ca=self.trusted, client_required=required))
        TlsClient(door.connect(), *pair).send(binary_stream())
        name: str = door.gate.last.peer.certificate
        return name

    def test_shown(self):
        """The common name of a verified certificate is the peer's."""
        self.assertEqual(self.name(False, self.device), "device-7")
        self.assertEqual(self.name(True, self.device), "device-7")

    def test_websocket(self):
        """On WebSocket, too."""
        door = self.door(tls=self.options(client_ca=self.trusted))
        TlsClient(door.connect(), *self.device).send(request_head())
        self.assertEqual(door.gate.last.peer.certificate, "device-7")

    def test_optional(self):
        """One that is asked for and not required may be missing."""
        self.assertEqual(self.name(False, ("", "")), "")

    def test_required(self):
        """One that is required may not."""
        self.assertRaises((SSL.Error, IndexError), self.name, True, ("", ""))

    def test_stranger(self):
        """One of another authority is refused, whether required or not: its name is never believed."""
        for required in (False, True):
            self.assertRaises((SSL.Error, IndexError), self.name, required, self.stranger)


class ReloadTests(TlsCase):
    """Files that change while the listener runs."""

    def setUp(self) -> None:
        super().setUp()
        self.listener = self.door(tls=self.options(reload_check_s=10.0))

    def served(self) -> str:
        """The name in the certificate that a new connection gets."""
        client = TlsClient(self.listener.connect())
        client.pump()
        return client.server_name

    def test_new_certificate(self):
        """A new certificate is served within ``reload_check_s``; connections that exist go on."""
        old = TlsClient(self.listener.connect())
        old.send(binary_stream(publication("one")))
        self.install(self.authority.issue("new.example"), "server")
        self.assertEqual(self.served(), "relay.example")
        self.listener.pass_time(10)
        self.assertEqual((self.served(), self.contexts.reloads), ("new.example", 1))
        old.send(encode_stream(publication("two")))
        self.assertEqual(self.listener.gate.connections[0].names, ["one", "two"])

    def test_renamed_over(self):
        """A file that another was renamed to is seen, too, though its time is older."""
        for name, data in zip(("server.crt", "server.key"), self.authority.issue("new.example"), strict=True):
            path = self.write("new", data)
            os.utime(path, ns=(0, 0))
            os.replace(path, self.path(name))
        self.listener.pass_time(10)
        self.assertEqual(self.served(), "new.example")

    def test_unchanged(self):
        """Files that are as they were are not read again."""
        self.listener.pass_time(35)
        self.assertEqual((self.contexts.reloads, self.contexts.failures), (0, 0))

    def test_half_written(self):
        """While key and certificate do not fit, the old ones are served; when they do, the new ones."""
        certificate, key = self.authority.issue("new.example")
        self.write("server.crt", certificate)
        self.listener.pass_time(25)
        self.assertEqual((self.served(), self.contexts.failures), ("relay.example", 1))
        self.write("server.key", key)
        self.listener.pass_time(10)
        self.assertEqual(self.served(), "new.example")

    def test_removed(self):
        """A file that is gone is no reason to stop serving."""
        os.unlink(self.key)
        self.listener.pass_time(10)
        self.assertEqual((self.served(), self.contexts.failures), ("relay.example", 1))

    def test_other_files(self):
        """Another configuration counts at once; one that cannot be used changes nothing."""
        certificate, key = self.install(self.authority.issue("other.example"), "other")
        self.assertRaises(ConfigError, self.contexts.configure, Tls(certificate=certificate, key=self.key))
        self.assertEqual(self.served(), "relay.example")
        self.contexts.configure(Tls(certificate=certificate, key=key, reload_check_s=1.0))
        self.assertEqual(self.served(), "other.example")
        self.install(self.authority.issue("later.example"), "other")
        self.listener.pass_time(1)
        self.assertEqual(self.served(), "later.example")

    def test_stopped(self):
        """A listener that stopped looks at nothing any more."""
        self.contexts.stop()
        os.unlink(self.key)
        self.listener.pass_time(30)
        self.assertEqual(self.contexts.failures, 0)
