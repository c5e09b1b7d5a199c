"""Tests of ``relay.config_check``: what does not fit together, is not there, or would be unsafe."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay import config_load
from relay.config import ChannelRule, Config, Handlers, Http, Limits, Listener, Timing, Tls, WebSocket
from relay.config_auth import Anonymous, Auth, CallOut, Jwt, Permit, StaticUser
from relay.config_check import endpoint, problems
from relay.config_kcp import Kcp
from relay.config_queues import PushRule, QueueRule
from relay.errors import ConfigError

LOCAL = "tcp:8000:interface=127.0.0.1"
CLOSED = Auth(anonymous=Anonymous(enabled=False))


def listening(*listeners: Listener, auth: Auth = CLOSED) -> Config:
    """A node with these listeners and nobody anonymous."""
    return Config(listeners=listeners, auth=auth)


class SafeTests(SynchronousTestCase):
    """Safe by default."""

    def test_defaults(self):
        """The defaults are fine: anonymous sessions, on loopback."""
        self.assertEqual(problems(Config()), [])

    def test_public_and_anonymous(self):
        """An address that other machines reach is refused while anonymous sessions are let in."""
        for address in ("tcp:8000", "tcp:8000:interface=0.0.0.0", "tcp6:8000", "tcp:8000:10.0.0.1",
                        "tcp:8000:interface=\\:\\:", "systemd:domain=INET:index=0"):  # fmt: skip
            found = problems(listening(Listener(address=address), auth=Auth()))
            self.assertEqual(
                found,
                [
                    f"listeners[0].address: other machines reach {address} and anonymous sessions are let in; set "
                    "auth.anonymous.enabled: false, listen on 127.0.0.1, or set auth.allow_anonymous: true if that is "
                    "meant"
                ],
            )

    def test_local(self):
        """Loopback in all its forms and Unix sockets are local."""
        for address in (LOCAL, "tcp:1:interface=127.3.2.1", "tcp:1:localhost", "tcp6:1:interface=\\:\\:1", "unix:a"):
            self.assertEqual(problems(listening(Listener(address=address), auth=Auth())), [], address)

    def test_meant(self):
        """Anonymous sessions from anywhere are possible for who says so; and without them every address is fine."""
        public = Listener(address="tcp:8000")
        for auth in (CLOSED, Auth(order=("static",)), Auth(allow_anonymous=True)):
            self.assertEqual(problems(listening(public, auth=auth)), [])

    def test_check_raises(self):
        """``check`` raises the first sentence and says how many more there are."""
        config_load.check(Config())
        error = self.assertRaises(ConfigError, config_load.check, Config(listeners=(), reactor="epol"))
        self.assertEqual(str(error), "listeners: at least one is expected (and 1 more: relay config check lists them)")


class EndpointTests(SynchronousTestCase):
    """The addresses of listeners."""

    def test_parts(self):
        """An address is a kind with options, by position or by name, quoted with a backslash."""
        found = endpoint("tcp:80:interface=\\:\\:1")
        self.assertEqual((found.kind, found.options), ("tcp", {"port": "80", "interface": "::1"}))
        self.assertEqual(endpoint("unix:/a\\:b:mode=600").options, {"address": "/a:b", "mode": "600"})
        self.assertEqual(endpoint("systemd:domain=INET:index=0").options, {"domain": "INET", "index": "0"})

    def test_mistakes(self):
        """Each mistake in an address is one sentence."""
        for address, expected in (
            ("tpc:80", "there is no kind of endpoint 'tpc'; did you mean tcp?"),
            ("8000", "there is no kind of endpoint '8000'; there are systemd, tcp, tcp6, unix"),
            ("tcp", "expected a port from 0 to 65535 after tcp:, got ''"),
            ("tcp:http", "expected a port from 0 to 65535 after tcp:, got 'http'"),
            ("tcp:65536", "expected a port from 0 to 65535 after tcp:, got '65536'"),
            ("tcp:80:interfce=::1", "tcp has no option 'interfce'; did you mean interface?"),
            ("tcp:80:interface=example.org", "expected an IP address as interface, got 'example.org'"),
            ("tcp6:80:interface=127.0.0.1", "127.0.0.1 is an IPv4 address; use tcp:"),
            ("tcp:80:127.0.0.1:50:1", "'1' is one part too many; options are name=value"),
            ("tcp:80:port=90", "port is there twice"),
            ("tcp:80:backlog=many", "expected a number as backlog, got 'many'"),
            ("unix:", "expected a path after unix:"),
            ("systemd:domain=INET", "systemd needs domain, and one of index and name"),
            ("systemd:0", "'0' is one part too many; options are name=value"),
        ):
            self.assertEqual(
                problems(listening(Listener(address=address))), [f"listeners[0].address: {address}: {expected}"]
            )

    def test_foreign(self):
        """Other endpoints that Twisted knows are let through when their syntax is right."""
        self.assertEqual(problems(listening(Listener(address="stdio:"))), [])
        (found,) = problems(listening(Listener(address="ssl:443:privateKey=/nosuch.pem")))
        self.assertIn("listeners[0].address: ssl:443:privateKey=/nosuch.pem: ", found)


class ListenerTests(SynchronousTestCase):
    """Listeners against one another and in themselves."""

    def one(self, **options):
        return problems(listening(Listener(**{"address": LOCAL, **options})))

    def test_twice(self):
        """No two listeners have one name or one address; port 0 is another each time."""
        a, b = Listener(name="a", address=LOCAL), Listener(name="a", address="unix:a")
        self.assertEqual(problems(listening(a, b)), ["listeners[1].name: 'a' is the name of listeners[0] too"])
        c = Listener(name="c", address="tcp:port=8000:interface=127.0.0.1")
        self.assertEqual(
            problems(listening(a, c)),
            [f"listeners[1].address: {c.address} is the address of listeners[0] too"],
        )
        free = [Listener(name=name, address="tcp:0:127.0.0.1") for name in "ab"]
        self.assertEqual(problems(listening(*free)), [])

    def test_protocols(self):
        """Sections of protocols that are not spoken are mistakes, not silence."""
        self.assertEqual(self.one(protocols=("relay", "relay")), ["listeners[0].protocols: one of them is there twice"])
        self.assertEqual(
            self.one(websocket=WebSocket(compression=True)),
            ["listeners[0].websocket: has no effect without websocket in listeners[0].protocols"],
        )
        self.assertEqual(
            self.one(protocols=("relay", "websocket"), http=Http(page=False)),
            ["listeners[0].http: has no effect without http in listeners[0].protocols"],
        )
        self.assertEqual(self.one(protocols=("relay", "websocket", "http")), [])

    def test_websocket_path(self):
        """A WebSocket cannot have a path of the HTTP side."""
        self.assertEqual(
            self.one(protocols=("http", "websocket"), websocket=WebSocket(path="/metrics")),
            ["listeners[0].websocket.path: /metrics is a path of http; another is expected, such as /ws"],
        )
        self.assertEqual(self.one(protocols=("websocket",), websocket=WebSocket(path="/")), [])

    def test_networks(self):
        """Networks are addresses or CIDR."""
        self.assertEqual(self.one(allow=("10.0.0.0/8", "::1", "fe80::/10"), deny=("10.1.2.3/8",)), [])
        self.assertEqual(
            self.one(allow=("10.0.0.0/8", "10.0.0.0/33"), deny=("localhost",)),
            [
                "listeners[0].allow[1]: expected a network such as 10.0.0.0/8 or ::1/128, got '10.0.0.0/33'",
                "listeners[0].deny[0]: expected a network such as 10.0.0.0/8 or ::1/128, got 'localhost'",
            ],
        )

    def test_realm(self):
        """A realm is a name."""
        self.assertEqual(self.one(realm="a.*"), ["listeners[0].realm: 'a.*' is a pattern, a name is expected"])

    def test_reuse_port(self):
        """Only ports are shared."""
        self.assertEqual(
            self.one(address="unix:a", reuse_port=True),
            ["listeners[0].reuse_port: it is for tcp, tcp6 and udp, the address is unix:a"],
        )

    def test_kcp(self):
        """KCP needs its section, a datagram address and a key, and carries relay's own protocol alone."""
        place, kcp = "udp:127.0.0.1:4000", Kcp(key="secret")
        where = "listeners[0]"
        self.assertEqual(self.one(address=place, transport="kcp", kcp=kcp), [])
        for options, expected in (
            ({"kcp": None}, f"{where}.kcp: transport kcp needs this section, with a key or a cipher that has none"),
            ({"kcp": Kcp()}, f"{where}.kcp: key: the cipher aes-256-gcm needs one"),
            ({"kcp": Kcp(key="hex:12")}, f"{where}.kcp: a key after hex: has 64 hexadecimal digits"),
            ({"kcp": Kcp(key="a", error_correction="200/99")}, f"{where}.kcp: a group has at most 256 shards"),
            ({"protocols": ("relay", "http")}, f"{where}.protocols: kcp carries relay"),
            ({"proxy_protocol": True}, f"{where}.proxy_protocol: it is for streams"),
            ({"address": "udp:4000"}, f"{where}.address: udp:4000: expected udp:HOST:PORT"),
            ({"address": LOCAL}, f"{where}.address: transport kcp needs udp:HOST:PORT, the address is {LOCAL}"),
        ):
            self.assertEqual(self.one(**{"address": place, "transport": "kcp", "kcp": kcp, **options}), [expected])
        self.assertEqual(
            self.one(address=place),
            [f"{where}.address: transport stream needs one for streams, such as tcp:8000, the address is {place}"],
        )
        self.assertEqual(self.one(kcp=kcp), [f"{where}.kcp: has no effect without {where}.transport: kcp"])
        public = Config(
            listeners=(Listener(address="udp:0.0.0.0:4000", transport="kcp", kcp=kcp),),
            auth=Auth(allow_anonymous=False),
        )
        self.assertIn("other machines reach udp:0.0.0.0:4000", problems(public)[0])

    def test_certificates(self):
        """A certificate that cannot be read is one clear sentence."""
        self.assertEqual(
            self.one(tls=Tls(certificate="/nosuch/a.pem", key="/nosuch/b.pem")),
            ["listeners[0].tls: /nosuch/a.pem: No such file or directory"],
        )
        path = Path(self.mktemp())
        path.write_text("nothing")
        (found,) = self.one(tls=Tls(certificate=str(path), key=str(path)))
        self.assertTrue(found.startswith(f"listeners[0].tls: {path}: no PEM certificate"), found)


class AuthTests(SynchronousTestCase):
    """Authentication; the authenticators check themselves, here is seen that they are asked."""

    def one(self, **options):
        found = problems(Config(auth=Auth(**options)))
        self.assertEqual(len(found), 1, found)
        return found[0]

    def test_order(self):
        """Only authenticators that there are can be asked."""
        self.assertEqual(
            self.one(order=("static", "anonymus")),
            "auth.order: 'anonymus' is no authenticator, did you mean 'anonymous'?",
        )

    def test_keys(self):
        """A token's issuer has exactly one source of keys, and a shared secret is long enough."""
        self.assertIn(
            "exactly one of secret, public_key_file and jwks_url", self.one(jwt=(Jwt(algorithms=("RS256",)),))
        )
        both = Jwt(algorithms=("HS256",), secret="x" * 32, jwks_url="https://example.org/keys")
        self.assertIn("exactly one of", self.one(jwt=(both,)))
        short = Jwt(algorithms=("HS256",), secret="x" * 31)
        self.assertIn("the secret has 31 bytes, at least 32 are needed", self.one(jwt=(short,)))
        lost = Jwt(algorithms=("RS256",), public_key_file="/nosuch.pem")
        self.assertIn("/nosuch.pem: No such file or directory", self.one(jwt=(lost,)))
        remote = Jwt(algorithms=("RS256",), jwks_url="https://example.org/keys")
        self.assertEqual(problems(Config(auth=Auth(jwt=(remote,)))), [])

    def test_users(self):
        """A password's hash is one, and what a user may do are patterns; the hash is not shown."""
        sentence = self.one(static=(StaticUser(name="ann", password_scrypt="hunter2"),))
        self.assertIn("auth.static, user 'ann': expected scrypt$N$r$p$salt$hash", sentence)
        self.assertNotIn("hunter2", sentence)
        self.assertIn(
            "the segment ** is not the last", self.one(anonymous=Anonymous(permissions=Permit(call=("**.a",))))
        )

    def test_urls(self):
        """What is asked over HTTP is a URL."""
        self.assertIn("an http:// or https:// URL is expected", self.one(http=(CallOut(url="ftp://a"),)))


class OtherTests(SynchronousTestCase):
    """Everything else."""

    def test_queues(self):
        """Patterns, the channel of dead letters, and pairs of times are checked."""
        config = Config(
            queues=(QueueRule(pattern="a.**.b"), QueueRule(pattern="$inbox", lease_s=10, lease_s_max=5)),
            pushes=(PushRule(pattern="\0"),),
        )
        found = [each.partition(":")[0] for each in problems(config)]
        self.assertEqual(found, ["queues[1].lease_s", "pushes[0].pattern", "queues[0].pattern"])

    def test_channels(self):
        """Rules for channels have patterns."""
        self.assertEqual(
            problems(Config(channels=(ChannelRule(pattern="a.*"), ChannelRule(pattern="**.a")))),
            ["channels[1].pattern: in '**.a' the segment ** is not the last"],
        )

    def test_pairs(self):
        """Where one number bounds another, both are named."""
        config = Config(
            timing=Timing(heartbeat_s=1, heartbeat_s_min=2, resume_bytes_max=10, resume_ack_bytes=20),
            limits=Limits(deadline_s_default=700, metadata_bytes_max=2_000_000),
        )
        self.assertEqual(
            problems(config),
            [
                "timing.heartbeat_s_min: 2 is more than timing.heartbeat_s, which is 1",
                "timing.resume_ack_bytes: 20 is more than timing.resume_bytes_max, which is 10",
                "limits.deadline_s_default: 700 is more than limits.deadline_s_max, which is 600.0",
                "limits.metadata_bytes_max: 2000000 is more than limits.frame_bytes_max, which is 1048576",
            ],
        )

    def test_reactor(self):
        """The reactor is one that there is."""
        self.assertEqual(problems(Config(reactor="epol")), ["reactor: there is no reactor 'epol'; did you mean epoll?"])
        self.assertEqual([problems(Config(reactor=name)) for name in ("auto", "uv", "epoll", "select")], [[]] * 4)

    def test_plugins(self):
        """Plugins are named as module:attribute."""
        self.assertEqual(problems(Config(handlers=Handlers(plugins=("a.b:c",)))), [])
        self.assertEqual(
            problems(Config(handlers=Handlers(plugins=("a.b.c",)))),
            ["handlers.plugins[0]: expected module:attribute, got 'a.b.c'"],
        )

    def test_everything_at_once(self):
        """All that is wrong is told, not only the first."""
        config = Config(
            listeners=(Listener(address="tcp:x"), Listener(address="tcp:80")),
            channels=(ChannelRule(pattern="**.a"),),
            auth=Auth(order=("x",)),
        )
        self.assertEqual(len(problems(config)), 3)
