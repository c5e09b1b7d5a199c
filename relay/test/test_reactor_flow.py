"""Back-pressure and TLS on streams of the uvloop reactor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.ssl import Certificate, CertificateOptions, KeyPair, PrivateCertificate
from zope.interface.verify import verifyObject

from relay.test.reactor_fixture import Paused, ReactorTestCase, Recorder, Recorders


class Producer(Recorder):
    """A protocol that is its own producer; ``left`` chunks are still to be written."""

    CHUNK = b"0123456789abcdef" * 4096

    def __init__(self, chunks: int = 100) -> None:
        super().__init__()
        self.left = chunks
        self._paused = False

    def produce(self) -> None:
        """Write until paused, or until there is nothing left."""
        while self.left and not self._paused:
            self.left -= 1
            self.wire.write(self.CHUNK)
        if not self.left:
            self.wire.unregisterProducer()
            self.wire.loseConnection()

    def pauseProducing(self) -> None:
        """Stop writing."""
        self.events.append("paused")
        self._paused = True

    def resumeProducing(self) -> None:
        """Write on."""
        self.events.append("resumed")
        self._paused = False
        self.produce()

    def stopProducing(self) -> None:
        """Note it."""
        self.events.append("stopped")


class Puller(Producer):
    """The same, one chunk each time it is asked."""

    def resumeProducing(self) -> None:
        """Write one chunk, or close."""
        if self.left:
            self.left -= 1
            self.wire.write(self.CHUNK)
        else:
            self.wire.unregisterProducer()
            self.wire.loseConnection()


class ProducerTests(ReactorTestCase):
    """Back-pressure through ``registerProducer``."""

    def test_push(self) -> None:
        """A push producer is paused while the peer does not read, and resumed; all its data arrives."""

        async def body() -> None:
            server, client = await self.pair(Paused, Producer)
            assert isinstance(client, Producer)
            client.wire.registerProducer(client, True)
            client.produce()
            self.assertEqual(client.events[-1], "paused")
            self.assertGreater(client.left, 0)
            await self.turns()
            self.assertEqual(client.events[-1], "paused")
            server.wire.resumeProducing()
            await server.ended()
            self.assertEqual(server.data, Producer.CHUNK * 100)
            self.assertIn("resumed", client.events)

        self.drive(body)

    def test_pull(self) -> None:
        """A pull producer is asked for more each time all is sent, and the close waits for it."""

        async def body() -> None:
            server, client = await self.pair(Recorder, Puller)
            client.wire.registerProducer(client, False)
            client.wire.loseConnection()
            await server.ended()
            self.assertEqual(server.data, Producer.CHUNK * 100)

        self.drive(body)

    def test_stopped(self) -> None:
        """A producer is told when the connection is lost, before the protocol, and one that comes later at once."""

        async def body() -> None:
            server, client = await self.pair(Recorder, Producer)
            client.wire.registerProducer(client, True)
            self.assertRaises(RuntimeError, client.wire.registerProducer, client, True)
            server.wire.loseConnection()
            await client.ended()
            self.assertEqual(client.events, ["made", "stopped", "lost"])
            client.wire.registerProducer(client, True)
            self.assertEqual(client.events[-1], "stopped")

        self.drive(body)

    def test_error_in_resume(self) -> None:
        """An error of resumeProducing is logged and closes the connection with itself as the reason."""

        class Fails(Puller):
            def resumeProducing(self) -> None:
                if self.left < 100:
                    raise ZeroDivisionError("mine")
                super().resumeProducing()

        async def body() -> None:
            _, client = await self.pair(Recorder, Fails)
            client.wire.registerProducer(client, False)
            self.assertIs(await client.ended(), ZeroDivisionError)

        self.drive(body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


def make_certificate() -> PrivateCertificate:
    """Return a key with a certificate that it has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    loaded = Certificate.loadPEM(certificate.public_bytes(pem))
    both: PrivateCertificate = PrivateCertificate.fromCertificateAndKeyPair(loaded, KeyPair.load(private, 1))
    return both


class TlsTests(ReactorTestCase):
    """TLS through Twisted's protocol."""

    def test_ssl(self) -> None:
        """listenSSL and connectSSL carry data and producers, and end in order."""
        certificate = make_certificate()

        async def body() -> None:
            servers, clients = Recorders(), Recorders(lambda: Producer(20))
            port = self.reactor.listenSSL(0, servers, certificate.options(), interface="127.0.0.1")
            self.reactor.connectSSL("127.0.0.1", port.getHost().port, clients, CertificateOptions())
            client, server = await clients.next(), await servers.next()
            assert isinstance(client, Producer)
            server.wire.write(b"hello")
            await client.received(5)
            client.wire.registerProducer(client, True)
            client.produce()
            self.assertIs(await server.ended(), ConnectionDone)
            self.assertEqual(server.data, Producer.CHUNK * 20)

        self.drive(body)

    def test_start_tls(self) -> None:
        """After startTLS both sides read what the other writes, the wire is encrypted, and each knows of it."""
        certificate = make_certificate()

        async def body() -> None:
            server, client = await self.pair()
            client.wire.write(b"STARTTLS")
            await server.received(8)
            beneath = server.wire.uv
            server.wire.startTLS(certificate.options())
            client.wire.startTLS(CertificateOptions())
            for end in (server, client):
                self.assertTrue(ISSLTransport.providedBy(end.wire))
                verifyObject(ISSLTransport, end.wire)
                self.assertTrue(end.wire.TLS)
            server.wire.write(b"secret")
            client.wire.writeSequence([b"also", b"secret"])
            self.assertEqual(await client.received(6), b"secret")
            self.assertEqual(await server.received(18), b"STARTTLSalsosecret")
            self.assertIs(server.wire.uv, beneath)
            self.assertIsNotNone(client.wire.getPeerCertificate())
            client.wire.loseConnection()
            self.assertIs(await server.ended(), ConnectionDone)

        self.drive(body)
