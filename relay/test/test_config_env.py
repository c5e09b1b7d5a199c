"""Tests of ``relay.config_env``: what ``RELAY_…`` variables set, and the sentences for those that cannot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay import config_load
from relay.config import Config, Limits, Listener, Log, Timing
from relay.config_auth import Auth
from relay.errors import ConfigError
from relay.test.config_fixture import PROPERTY, ConfigCase


class EnvironmentTests(ConfigCase):
    """``RELAY_…`` variables."""

    def test_over_the_file(self):
        """A variable counts before the file; what it does not name stays."""
        loaded = self.load("limits: {frame_bytes_max: 2048, channels_max: 5}", RELAY_LIMITS__FRAME_BYTES_MAX="4096")
        self.assertEqual(loaded.limits, Limits(frame_bytes_max=4096, channels_max=5))

    def test_without_a_file(self):
        """Variables alone are enough."""
        self.assertEqual(config_load.load(None, {"RELAY_TIMING__DRAIN_S": "2.5"}), Config(timing=Timing(drain_s=2.5)))

    def test_values(self):
        """Values are YAML, so also JSON; for what is text they are taken as they are."""
        environ = {
            "RELAY_AUTH__ALLOW_ANONYMOUS": "true",
            "RELAY_DATA": "2020",
            "RELAY_REACTOR": "*epoll",
            "RELAY_ADDRESSES": '["a", "b"]',
            "RELAY_LOG": "{level: warn, levels: {relay: debug}}",
            "RELAY_LOG__FORMAT": "json",
        }
        self.assertEqual(
            config_load.load(None, environ),
            Config(
                auth=Auth(allow_anonymous=True),
                data="2020",
                reactor="*epoll",
                addresses=("a", "b"),
                log=Log(level="warn", levels={"relay": "debug"}, format="json"),
            ),
        )

    def test_null(self):
        """Where null is allowed, ``null`` means it."""
        text = "listeners: [{address: a, tls: {certificate: c, key: k}}]\nchannels: [{pattern: a, slow: latest}]"
        loaded = self.load(text, RELAY_LISTENERS__0__TLS="null", RELAY_CHANNELS__0__SLOW="null")
        self.assertEqual((loaded.listeners[0].tls, loaded.channels[0].slow), (None, None))

    def test_entries_of_lists(self):
        """Numbers name entries of lists; the one after the last is added."""
        loaded = self.load(
            "listeners: [{address: a}]",
            RELAY_LISTENERS__0__NAME="first",
            RELAY_LISTENERS__1__ADDRESS="b",
            RELAY_LISTENERS__1__PROTOCOLS__0="http",
            RELAY_LISTENERS__0__PROTOCOLS__1="http",
        )
        self.assertEqual(
            loaded.listeners,
            (
                Listener(name="first", address="a", protocols=("relay", "http")),
                Listener(address="b", protocols=("http",)),
            ),
        )

    def test_many_entries(self):
        """Entries are added in the order of their numbers, not of their letters."""
        loaded = config_load.load(None, {f"RELAY_ADDRESSES__{number}": f"a{number}" for number in (10, 9, *range(9))})
        self.assertEqual(loaded.addresses, tuple(f"a{number}" for number in range(11)))

    def test_over_defaults(self):
        """Where the file does not say, the default is what is changed."""
        loaded = config_load.load(
            None, {"RELAY_AUTH__ANONYMOUS__PERMISSIONS__PUBLISH": "[a]", "RELAY_LISTENERS__1__NAME": "x"}
        )
        permissions = loaded.auth.anonymous.permissions
        self.assertEqual((permissions.publish, permissions.call), (("a",), ("**",)))
        self.assertEqual([each.name for each in loaded.listeners], ["web", "x"])

    def test_empty_section_in_the_file(self):
        """A section that is empty in the file is one that the file does not give."""
        self.assertEqual(self.load("limits:\n", RELAY_LIMITS__CHANNELS_MAX="5").limits, Limits(channels_max=5))

    def test_secrets(self):
        """A secret, or a reference to one, may come from a variable, and replaces what the file has."""
        text = "auth: {static: [{name: ann, password_scrypt: old}]}"
        for environ in (
            {"RELAY_AUTH__STATIC__0__PASSWORD_SCRYPT": "new"},
            {"RELAY_AUTH__STATIC__0__PASSWORD_SCRYPT": "{env: KEY}", "KEY": "new"},
            {"RELAY_AUTH__STATIC__0__PASSWORD_SCRYPT__ENV": "KEY", "KEY": "new"},
        ):
            self.assertEqual(self.load(text, **environ).auth.static[0].password_scrypt, "new")

    def test_foreign_variables(self):
        """Variables of others that begin alike are left alone."""
        environ = {"RELAY_PORT": "tcp://10.0.0.1:80", "RELAY_URL": "x", "RELAY_TEST_JOBS": "3", "RELAYX__Y": "1"}
        self.assertEqual(config_load.load(None, environ), Config())

    def test_unknown_name(self):
        """A variable that leads nowhere is refused, with the nearest right name."""
        self.assertEqual(
            self.variable(RELAY_LIMITS__FRAME_BYTE_MAX="5"),
            "RELAY_LIMITS__FRAME_BYTE_MAX: limits.frame_byte_max: there is no such setting; did you mean "
            "frame_bytes_max?",
        )
        self.assertEqual(
            self.variable(RELAY_LIMTS__X="5"),
            "RELAY_LIMTS__X: limts: there is no such setting; did you mean limits?",
        )

    def test_wrong_value(self):
        """A wrong value is told with the variable that has it, not with the file."""
        self.assertEqual(
            self.sentence("limits: {channels_max: 3}", RELAY_LIMITS__CHANNELS_MAX="none"),
            'RELAY_LIMITS__CHANNELS_MAX: limits.channels_max: expected a whole number above 0, got "none"',
        )
        self.assertEqual(
            self.variable(RELAY_LISTENERS__2__NAME="x"), "RELAY_LISTENERS__2__NAME: listeners[2]: address is missing"
        )

    def test_wrong_place(self):
        """A variable cannot go into what has nothing inside, or past the end of a list."""
        self.assertEqual(
            self.variable(RELAY_DATA__X="5"),
            "RELAY_DATA__X: data is text that is not empty: there is nothing in it to set",
        )
        self.assertEqual(
            self.variable(RELAY_LISTENERS__3__NAME="5"),
            "RELAY_LISTENERS__3__NAME: listeners is a list of 2: expected a number from 0 to 2, got 3",
        )
        self.assertEqual(
            self.variable(RELAY_LISTENERS__WEB__NAME="5"),
            "RELAY_LISTENERS__WEB__NAME: listeners is a list of 2: expected a number from 0 to 2, got web",
        )
        self.assertEqual(
            self.sentence("limits: 5", RELAY_LIMITS__CHANNELS_MAX="3"),
            "RELAY_LIMITS__CHANNELS_MAX: limits: expected a section of settings, got 5",
        )

    @given(
        st.dictionaries(
            st.lists(
                st.sampled_from(["listeners", "0", "9", "tls", "auth", "static", "x", "", "limits", "log", "levels"])
            )
            .map("__".join)
            .map("RELAY_{}".format),
            st.text() | st.sampled_from(["{}", "[]", "null", "5", "[{}]", "{a: 1}"]),
            max_size=4,
        )
    )
    @PROPERTY
    def test_garbage(self, environ):
        """Any variables are a configuration or one sentence that names a variable."""
        try:
            config_load.load(None, environ)
        except ConfigError as error:
            self.assertTrue(any(str(error).startswith(f"{name}: ") for name in environ), error)
