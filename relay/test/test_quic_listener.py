"""A QUIC listener of the configuration: what it needs, what it says when something is missing, and its key log."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.bench.certificates import make_certificate
from relay.client.datagrams import maker
from relay.client.options import ClientOptions, TlsFiles
from relay.client.plan import parse
from relay.client.quic import TICKETS_EACH_MAX, TICKETS_MAX, _remember, _ticket, configuration_of, forget_tickets
from relay.config import Config, Listener, Tls
from relay.config_auth import Auth
from relay.config_check import problems
from relay.config_kcp import Kcp
from relay.config_quic import Quic
from relay.errors import ConfigError
from relay.protocols.quic_endpoint import certificate_of, check_package, key_log, server_configuration
from relay.protocols.tls import TlsContexts
from relay.test.entrance_fixture import publication
from relay.test.quic_fixture import Client, World
from relay.test.test_tls import Authority

PLACE = "udp:127.0.0.1:8443"


class Without:
    """aioquic, or a module of it, cannot be imported within a ``with`` block."""

    def __init__(self) -> None:
        gone = {name: None for name in sys.modules if name.partition(".")[0] == "aioquic"}
        ours = {"relay.wire.quic_connection": None, "relay.client.quic": None, "relay.protocols.quic": None}
        self.patch = mock.patch.dict(sys.modules, gone | ours)

    def __enter__(self) -> None:
        self.patch.start()

    def __exit__(self, *exception: object) -> None:
        self.patch.stop()


class Listeners(SynchronousTestCase):
    """The checks of the configuration."""

    def setUp(self) -> None:
        folder = self.mktemp()
        os.mkdir(folder)
        self.folder = folder
        self.certificate, self.key = make_certificate(folder)
        self.tls = Tls(certificate=self.certificate, key=self.key)

    def found(self, **options: object) -> list[str]:
        """What is wrong with one listener."""
        listener = Listener(**{"address": PLACE, "transport": "quic", "tls": self.tls} | options)  # type: ignore[arg-type]
        return problems(Config(listeners=(listener,), auth=Auth(allow_anonymous=True)))

    def test_right(self):
        """Nothing is wrong with TLS on a UDP address."""
        self.assertEqual(self.found(), [])
        self.assertEqual(self.found(quic=Quic(retry="always", mtu_bytes=1400)), [])

    def test_wrong(self):
        """No certificate, no datagrams, other protocols, and what has no effect."""
        where = "listeners[0]"
        for options, said in (
            ({"tls": None}, f"{where}.tls: transport quic needs this section, with a certificate"),
            ({"tls": Tls(certificate=self.certificate, key=self.key, plain=True)},
             f"{where}.tls.plain: there is no QUIC without TLS"),
            ({"address": "tcp:1:interface=127.0.0.1"},
             f"{where}.address: transport quic needs udp:HOST:PORT, the address is tcp:1:interface=127.0.0.1"),
            ({"protocols": ("relay", "http")}, f"{where}.protocols: quic carries relay"),
            ({"transport": "udp", "tls": None, "quic": Quic(retry="never")},
             f"{where}.quic: has no effect without {where}.transport: quic"),
            ({"kcp": Kcp(key="secret")}, f"{where}.kcp: has no effect without {where}.transport: kcp"),
            ({"transport": "udp"}, f"{where}.tls: it is for streams; udp has encryption of its own"),
        ):  # fmt: skip
            self.assertEqual(self.found(**options), [said])

    def test_without_the_package(self):
        """One clear sentence where aioquic is not installed, for a listener and for a client."""
        with Without():
            (said,) = self.found()
            self.assertIn("transport quic needs aioquic: pip install 'relay-messaging[quic]'", said)
            with self.assertRaises(ConfigError):
                certificate_of(self.tls)
            with self.assertRaisesRegex(ConfigError, "needs aioquic"):
                maker(parse("quic://h"), ClientOptions(), None, None)  # type: ignore[arg-type]  # it comes not so far
        check_package()

    def test_certificates(self):
        """Files that are missing, or do not fit, are named; a changed one is loaded, a broken one is not."""
        with self.assertRaisesRegex(ConfigError, r"nowhere\.pem"):
            certificate_of(Tls(certificate="nowhere.pem", key=self.key))
        clock = Clock()
        contexts = TlsContexts(self.tls, clock, certificate_of)
        before = contexts.current
        make_certificate(self.folder)
        contexts.check()
        self.assertIsNot(contexts.current, before)
        with open(self.certificate, "w") as file:
            file.write("none")
        after = contexts.current
        contexts.check()
        self.assertEqual((contexts.current is after, contexts.reloads, contexts.failures), (True, 1, 1))
        self.flushLoggedErrors()

    def test_key_log(self):
        """Off by default; else the keys are written as Wireshark reads them, for the owner of the file alone."""
        self.assertIsNone(key_log(Quic().key_log))
        path = f"{self.folder}/keys.log"
        file = key_log(path)
        world = World()
        world.port._openings._configuration = lambda: server_configuration(
            world.contexts.current, world.settings, file
        )
        self.assertTrue(Client(world).connect().complete)
        assert file is not None
        file.close()
        with open(path) as written:
            labels = {line.split()[0] for line in written}
        self.assertLessEqual({"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"}, labels)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        with self.assertRaisesRegex(ConfigError, "key_log"):
            key_log(f"{self.folder}/nowhere/keys.log")


class ClientCertificates(SynchronousTestCase):
    """As over TCP: asked for with ``client_ca``."""

    def setUp(self) -> None:
        self.authority = Authority("ours")

    def came(self, authority: Authority | None, required: bool, usage: Any = None) -> tuple[Client, World]:
        """A client with a certificate of that authority, or none, that says something."""
        world = World(client_ca=self.authority.certificate, required=required)
        shown = None
        if authority is not None:
            shown = f"{world.folder}/device.pem", f"{world.folder}/device.key"
            for path, data in zip(shown, authority.issue("device-7", usage), strict=True):
                Path(path).write_bytes(data)
        client = Client(world, shown=shown).connect()
        client.say(publication())
        return client, world

    def test_shown(self):
        """The common name of a verified certificate is the peer's; nobody gets a ticket to come back without one."""
        for required in (False, True):
            client, world = self.came(self.authority, required)
            self.assertEqual([peer.certificate for peer in world.peers], ["device-7"])
            self.assertEqual((client.tickets, client.over), ([], None))

    def test_optional(self):
        """One that is not required may be missing."""
        _, world = self.came(None, False)
        self.assertEqual([peer.certificate for peer in world.peers], [""])

    def test_refused(self):
        """One that is missing though required, of another authority, or for servers alone: nothing is heard."""
        for authority, required, usage, said in (
            (None, True, None, "a client certificate is required"),
            (Authority("ours"), False, None, "signature failure"),
            (Authority("others"), False, None, "unable to get local issuer certificate"),
            (self.authority, False, ExtendedKeyUsageOID.SERVER_AUTH, "the certificate is not for clients"),
        ):
            client, world = self.came(authority, required, usage)
            self.assertEqual((world.peers, world.port.transports), ([], set()))
            assert client.over is not None
            self.assertIn(said, client.over[0])
        _, world = self.came(self.authority, True, ExtendedKeyUsageOID.CLIENT_AUTH)
        self.assertEqual(len(world.peers), 1)


class ClientFiles(SynchronousTestCase):
    """What a client trusts and remembers."""

    def test_files(self):
        """A file that is not there is named; without one the system's authorities are trusted."""
        with self.assertRaisesRegex(ConfigError, "nowhere"):
            configuration_of(TlsFiles(ca="nowhere.pem"), "host")
        made = configuration_of(TlsFiles(server_name="other"), "host")
        self.assertEqual((made.server_name, made.verify_mode), ("other", None))  # aioquic's default: verify
        self.assertTrue(made.cafile or made.capath)

    def test_tickets(self):
        """The newest first, each once, a few for each place, of the places that were met last."""
        forget_tickets()
        self.addCleanup(forget_tickets)
        world = World()
        client = Client(world).connect()
        (ticket,) = client.tickets
        for _ in range(TICKETS_EACH_MAX + 3):
            _remember("a", ticket)
        self.assertEqual([_ticket("a") for _ in range(TICKETS_EACH_MAX + 1)], [ticket] * TICKETS_EACH_MAX + [None])
        for number in range(TICKETS_MAX + 1):
            _remember(str(number), ticket)
        self.assertEqual((_ticket("0"), _ticket("1")), (None, ticket))
