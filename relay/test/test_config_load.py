"""Tests of ``relay.config_load`` and what it is made of: files, environment, secrets, sentences, changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from relay import config_load
from relay.cli.config import dump_yaml, tree
from relay.config import Config, Limits, Listener, Log, Slow, Timing, Tls, WebSocket
from relay.config_auth import Anonymous, Auth, Jwt, Permit, StaticUser
from relay.config_types import SecretRef
from relay.errors import ConfigError
from relay.test.config_fixture import PROPERTY, ConfigCase, configs


class FileTests(ConfigCase):
    """The three formats."""

    def test_formats_agree(self):
        """The same settings in YAML, JSON and TOML are the same configuration."""
        expected = Config(limits=Limits(frame_bytes_max=2048), addresses=("a", "b"))
        for name, text in (
            ("relay.yaml", "limits: {frame_bytes_max: 2048}\naddresses:\n- a\n- b\n"),
            ("relay.YML", "{limits: {frame_bytes_max: 2048}, addresses: [a, b]}"),
            ("relay.json", '{"limits": {"frame_bytes_max": 2048}, "addresses": ["a", "b"]}'),
            ("relay.toml", 'addresses = ["a", "b"]\n[limits]\nframe_bytes_max = 2048\n'),
        ):
            self.assertEqual(self.load(text, name), expected, name)

    def test_empty(self):
        """An empty file, one with comments only, and no file are the defaults."""
        for name in ("a.yaml", "a.json", "a.toml"):
            self.assertEqual(self.load("", name), Config())
        self.assertEqual(self.load("# nothing\n---\n"), Config())
        self.assertEqual(config_load.load(None, {}), Config())

    def test_empty_section(self):
        """A section of which only the name is there is at its defaults."""
        self.assertEqual(self.load("limits:\nauth:\n  anonymous:\n"), Config())

    def test_byte_order_mark(self):
        """Editors that begin a file with a byte order mark do no harm."""
        self.assertEqual(self.load(b"\xef\xbb\xbfdata: x\n").data, "x")

    def test_unreadable(self):
        """A file that is not there, is a directory, or is no text is one clear sentence."""
        missing = str(Path(self.mktemp()) / "relay.yaml")
        error = self.assertRaises(ConfigError, config_load.load, missing, {})
        self.assertEqual(str(error), f"{missing}: No such file or directory")
        directory = Path(self.mktemp() + ".yaml")
        directory.mkdir()
        error = self.assertRaises(ConfigError, config_load.load, str(directory), {})
        self.assertEqual(str(error), f"{directory}: Is a directory")
        self.assertEqual(self.sentence(b"data: \xff\n"), "FILE: not UTF-8 (byte 6)")
        error = self.assertRaises(ConfigError, config_load.load, "a\0.yaml", {})
        self.assertIn("null byte", str(error))

    def test_extension(self):
        """The extension has to tell the format."""
        self.assertEqual(
            self.sentence("", "relay.conf"), "FILE: a name that ends in .yaml, .yml, .json, .toml is expected"
        )

    def test_too_large(self):
        """A file of more than 4 MiB is not read on."""
        self.assertEqual(self.sentence("#" * (4 * 1024 * 1024 + 1)), "FILE: more than 4194304 bytes")

    def test_broken_syntax(self):
        """What is not the format is said with its line."""
        self.assertEqual(
            self.sentence("a: 1\nb: [\n"),
            "FILE:3: while parsing a flow node, expected the node content, but found '<stream end>'",
        )
        self.assertEqual(self.sentence('{\n"a" 1}', "a.json"), "FILE:2: Expecting ':' delimiter")
        self.assertEqual(self.sentence("a = 1\na = = 2", "a.toml"), "FILE: Invalid value (at line 2, column 5)")
        self.assertEqual(
            self.sentence("a: 1\n--- {}\n"),
            "FILE:2: expected a single document in the stream, but found another document",
        )
        self.assertIn("special characters are not allowed", self.sentence("a: \0"))

    def test_twice(self):
        """A name given twice is refused in every format, on every level."""
        self.assertEqual(
            self.sentence("limits:\n  frame_bytes_max: 2048\n  frame_bytes_max: 4096\n"),
            "FILE:3: frame_bytes_max is there twice, first in line 2",
        )
        self.assertEqual(
            self.sentence('{"log": {"level": "info", "level": "warn"}}', "a.json"), "FILE: level is there twice"
        )
        self.assertIn("Cannot overwrite a value", self.sentence("data = 'a'\ndata = 'b'\n", "a.toml"))

    def test_yaml_merge(self):
        """YAML's merge of one section into another is no name given twice."""
        loaded = self.load("slow: &slow {policy: latest, stalled_s_max: 3}\nlisteners:\n- address: unix:a\n"
                           "  slow: {<<: *slow, policy: disconnect}\n")  # fmt: skip
        self.assertEqual(loaded.listeners[0].slow, Slow(policy="disconnect", stalled_s_max=3))

    def test_values_python_has_none_for(self):
        """Dates that do not exist, endless numbers and endless nesting are sentences, too."""
        self.assertEqual(self.sentence("data: 2020-99-99"), "FILE: month must be in 1..12")
        self.assertIn("FILE: Exceeds the limit", self.sentence(f"data: {'9' * 5000}"))
        self.assertEqual(self.sentence("data: " + "[" * 5000), "FILE: nested too deeply")
        self.assertIn("FILE", self.sentence("data: &a [*a]"))

    @given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
    @PROPERTY
    def test_garbage(self, text):
        """Any text is a configuration or one sentence."""
        for name in ("a.yaml", "a.json", "a.toml"):
            path = self.file(text.encode("utf-8", "replace"), name)
            try:
                config_load.load(path, {})
            except ConfigError as error:
                self.assertTrue(str(error).startswith(path), error)


class SentenceTests(ConfigCase):
    """Each class of mistake has its sentence: file and line, path, what was expected, the nearest right name."""

    def test_unknown_name(self):
        """A name that is no setting is told with the nearest that is."""
        self.assertEqual(
            self.sentence("data: x\nlimits:\n  frame_byte_max: 3\n"),
            "FILE:3: limits.frame_byte_max: there is no such setting; did you mean frame_bytes_max?",
        )
        self.assertEqual(self.sentence("limts: {}"), "FILE:1: limts: there is no such setting; did you mean limits?")
        self.assertEqual(
            self.sentence('{"timing": {"drain-s": 1}}', "a.json"),
            "FILE: timing.drain-s: there is no such setting; did you mean drain_s?",
        )

    def test_unknown_name_without_a_near_one(self):
        """Where none is near, the names that there are are listed."""
        self.assertEqual(
            self.sentence("slow: {xyzzy: 1}"),
            "FILE:1: slow.xyzzy: there is no such setting; there are policy, queue_bytes_max, stalled_s_max",
        )

    def test_wrong_kind(self):
        """A value of another kind is told with what was expected."""
        for text, expected in (
            ("limits: {frame_bytes_max: x}", "limits.frame_bytes_max: expected a whole number of at least 1024 and at "
             'most 2147483647, got "x"'),
            ("limits: {channels_max: 1.5}", "limits.channels_max: expected a whole number above 0, got 1.5"),
            ("limits: {channels_max: true}", "limits.channels_max: expected a whole number above 0, got true"),
            ("timing: {drain_s: soon}", "timing.drain_s: expected a number of at least 0 and at most 31622400, got "
             '"soon"'),
            ("auth: {allow_anonymous: 1}", "auth.allow_anonymous: expected true or false, got 1"),
            ("data: 5", "data: expected text that is not empty, got 5"),
            ("data: 2020-01-01", 'data: expected text that is not empty, got "2020-01-01"'),
            ("addresses: a", 'addresses: expected a list, got "a"'),
            ("limits: 5", "limits: expected a section of settings, got 5"),
            ("listeners: [{address: a, tls: 5}]", "listeners[0].tls: expected a section of settings or null, got 5"),
            ("listeners:", "listeners: expected a list, got null"),
            ("log: {levels: [a]}", 'log.levels: expected a section of settings, got ["a"]'),
        ):  # fmt: skip
            self.assertEqual(self.sentence(text), f"FILE:1: {expected}")

    def test_not_a_section(self):
        """A file that is no section of settings at all says so."""
        self.assertEqual(self.sentence("[1, 2]"), "FILE: expected a section of settings, got [1, 2]")
        self.assertEqual(self.sentence("relay"), 'FILE: expected a section of settings, got "relay"')

    def test_out_of_bounds(self):
        """A number outside its bounds is told with them."""
        self.assertEqual(
            self.sentence("limits:\n  frame_bytes_max: 5"),
            "FILE:2: limits.frame_bytes_max: expected a whole number of at least 1024 and at most 2147483647, got 5",
        )
        self.assertEqual(
            self.sentence("timing: {heartbeat_s: 0}"),
            "FILE:1: timing.heartbeat_s: expected a number above 0 and at most 31622400, got 0",
        )
        self.assertEqual(
            self.sentence("listeners: [{address: ''}]"),
            'FILE:1: listeners[0].address: expected text that is not empty, got ""',
        )
        self.assertEqual(
            self.sentence("listeners: [{address: a, protocols: []}]"),
            "FILE:1: listeners[0].protocols: expected a list with at least one entry, got []",
        )
        self.assertEqual(
            self.sentence("listeners: [{address: a, websocket: {path: ws}}]"),
            'FILE:1: listeners[0].websocket.path: expected text that matches ^/[^?#\\s]*$, got "ws"',
        )
        self.assertIn("expected text of 1 to 255 characters", self.sentence(f"channels: [{{pattern: {'x' * 256}}}]"))

    def test_wrong_choice(self):
        """A value that is none of those allowed is told with the nearest of them."""
        self.assertEqual(
            self.sentence("listeners:\n- address: a\n  protocols:\n  - relay\n  - websockets\n"),
            'FILE:5: listeners[0].protocols[1]: expected one of http, relay, websocket, got "websockets"; did you mean '
            "websocket?",
        )
        self.assertEqual(
            self.sentence("log: {levels: {a: info, b: debgu}}"),
            'FILE:1: log.levels.b: expected one of critical, debug, error, info, warn, got "debgu"; did you mean '
            "debug?",
        )
        self.assertEqual(
            self.sentence("slow: {policy: 5}"),
            "FILE:1: slow.policy: expected one of disconnect, drop_oldest, latest, got 5",
        )

    def test_missing(self):
        """What has no default has to be given."""
        self.assertEqual(self.sentence("listeners:\n- name: web\n"), "FILE:2: listeners[0]: address is missing")
        self.assertEqual(self.sentence('{"auth": {"jwt": [{}]}}', "a.json"), "FILE: auth.jwt[0]: algorithms is missing")

    def test_names_that_are_no_text(self):
        """YAML's names may be numbers or dates, those of settings are text."""
        self.assertEqual(self.sentence("1: 2"), "FILE: names of settings are text, got 1 (quote it?)")
        self.assertEqual(
            self.sentence("log: {levels: {1: info}}"),
            "FILE:1: log.levels: names of settings are text, got 1 (quote it?)",
        )
        self.assertEqual(
            self.sentence("limits: {on: 1}"), "FILE:1: limits: names of settings are text, got true (quote it?)"
        )

    def test_long_values_are_cut(self):
        """A sentence stays one, whatever stands in the file."""
        self.assertLess(len(self.sentence(f"timing: {{drain_s: {'x' * 3000}}}")), 200)

    def test_secrets_are_not_shown(self):
        """A mistake beside a secret does not print it."""
        for text in (
            "auth: {static: [{name: ann, password_scrypt: 123456789}]}",
            "auth: {static: [{name: ann, password_scrypt: [hunter2]}]}",
            "auth: {static: [{name: ann, password_scrypt: hunter2, realm: 5}]}",
        ):
            sentence = self.sentence(text)
            self.assertNotIn("hunter2", sentence)
            self.assertNotIn("123456789", sentence)
        self.assertEqual(
            self.sentence("auth: {static: [{name: ann, password_scrypt: 5}]}"),
            "FILE:1: auth.static[0].password_scrypt: expected text, {file: PATH} or {env: NAME}",
        )


class SecretTests(ConfigCase):
    """Secrets by reference."""

    def config(self, secret):
        return f"auth: {{jwt: [{{algorithms: [HS256], secret: {secret}}}]}}"

    def secret(self, text, **environ):
        return self.load(self.config(text), **environ).auth.jwt[0].secret

    def test_places(self):
        """A secret stands in the file, in another file or in a variable; newlines at a file's end do not count."""
        path = self.file("from a file\r\n\n", "key")
        self.assertEqual(self.secret("in place"), "in place")
        self.assertEqual(self.secret(f"{{file: {path}}}"), "from a file")
        self.assertEqual(self.secret("{env: KEY}", KEY="from a variable"), "from a variable")

    def test_not_to_be_had(self):
        """A secret that is not there is one sentence with its path."""
        empty = self.file("\n", "key")
        for text, expected in (
            ("{env: KEY}", "the variable KEY is not set"),
            ("{file: /nosuch/key}", "/nosuch/key: No such file or directory"),
            (f"{{file: {empty}}}", f"{empty}: the file is empty"),
            ("{}", "exactly one of file and env is expected"),
            ("{env: A, file: b}", "exactly one of file and env is expected"),
        ):
            self.assertEqual(self.sentence(self.config(text)), f"FILE: auth.jwt[0].secret: {expected}")

    def test_not_printed(self):
        """Printing a configuration does not print its secrets."""
        self.assertNotIn("hunter2", repr(self.load(self.config("hunter2"))))

    def test_masked(self):
        """For showing, secrets are masked and references kept."""
        shown = config_load.mask_secrets(config_load.read(self.file(self.config("hunter2")), {}))
        self.assertEqual(shown.auth.jwt[0].secret, config_load.MASK)
        shown = config_load.mask_secrets(config_load.read(self.file(self.config("{env: KEY}")), {}))
        self.assertEqual(shown.auth.jwt[0].secret, SecretRef(env="KEY"))

    def test_absent(self):
        """A secret that is optional and not given stays away."""
        self.assertIsNone(self.load("auth: {jwt: [{algorithms: [RS256]}]}").auth.jwt[0].secret)


class PropertyTests(ConfigCase):
    """Round trips."""

    @given(configs())
    @PROPERTY
    def test_yaml(self, config):
        """Any configuration, written as YAML, is read as the same."""
        self.assertEqual(config_load.read(self.file(dump_yaml(tree(config))), {}), config)

    @given(configs())
    @PROPERTY
    def test_json(self, config):
        """Any configuration, written as JSON, is read as the same."""
        self.assertEqual(config_load.read(self.file(json.dumps(tree(config)), "a.json"), {}), config)

    @given(configs())
    @PROPERTY
    def test_environment(self, config):
        """Any configuration, given by one variable for each setting at the top, is read as the same."""
        environ = {
            f"RELAY_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in tree(config).items()
        }
        self.assertEqual(config_load.read(None, environ), config)

    @given(configs(), configs())
    @PROPERTY
    def test_differences(self, old, new):
        """There are differences exactly where configurations differ, and each is on one side."""
        live, restart = config_load.differences(old, new)
        names = [listener.name or listener.address for config in (old, new) for listener in config.listeners]
        if len(set(names)) == len(names):
            self.assertEqual(bool(live or restart), old != new)
        self.assertEqual(set(live) & set(restart), set())
        self.assertEqual(config_load.differences(old, old), ([], []))


class ExampleTests(ConfigCase):
    """The example of the documentation."""

    def test_example(self):
        """It is valid, and most of it is not at its default."""
        path = Path(__file__).parents[2] / "docs" / "examples" / "relay.yaml"
        if not path.exists():
            self.skipTest("the documentation is not installed")
        loaded = config_load.load(str(path), {"RELAY_EXAMPLE_TOKEN_KEY": os.urandom(32).hex()})
        config_load.check(loaded)
        given = yaml.safe_load(path.read_text("utf-8"))
        self.assertEqual([name for name in given if getattr(loaded, name) == getattr(Config(), name)], ["data"])


class DifferenceTests(ConfigCase):
    """What can change in a running node."""

    def changed(self, old, new):
        return config_load.differences(old, new)

    def test_live(self):
        """Limits, authentication, timing, log levels, rules for channels and slow receivers change live."""
        new = Config(
            limits=Limits(channels_max=3, frame_bytes_max=2048),
            timing=Timing(drain_s=1),
            log=Log(level="debug"),
            slow=Slow(policy="latest"),
            auth=Auth(anonymous=Anonymous(permissions=Permit(publish=("a",)))),
        )
        live, restart = self.changed(Config(), new)
        permissions = [f"auth.anonymous.permissions.{name}" for name in Permit.__struct_fields__ if name != "bind"]
        self.assertEqual(
            sorted(set(live) - set(permissions)),
            ["limits.channels_max", "limits.frame_bytes_max", "log.level", "slow.policy", "timing.drain_s"],
        )
        self.assertEqual((set(permissions) - set(live), restart), (set(), []))

    def test_restart(self):
        """The data directory, the reactor, plugins and where the log goes need a restart."""
        new = Config(data="x", reactor="epoll", log=Log(format="json", level="warn"), auth=Auth(scrypt_threads_max=5))
        self.assertEqual(
            self.changed(Config(), new),
            (["log.level"], ["data", "reactor", "auth.scrypt_threads_max", "log.format"]),
        )

    def test_listeners(self):
        """Listeners are known by name: added, removed or changed, in whatever order they stand."""
        tls = Tls(certificate="c", key="k")
        old = Config(listeners=(Listener(name="a", address="unix:a"), Listener(address="unix:b", tls=tls)))
        new = Config(
            listeners=(
                Listener(address="unix:b", tls=msgspec.structs.replace(tls, key="other")),
                Listener(name="c", address="unix:a"),
            )
        )
        self.assertEqual(
            self.changed(old, new),
            (["listeners.a (removed)", "listeners.unix:b.tls.key", "listeners.c (added)"], []),
        )

    def test_new_address(self):
        """A listener with another address is replaced; that needs no restart."""
        old = Config(listeners=(Listener(name="a", address="unix:a"),))
        new = Config(listeners=(Listener(name="a", address="unix:b", websocket=WebSocket(path="/x")),))
        self.assertEqual(self.changed(old, new), (["listeners.a.address", "listeners.a.websocket.path"], []))

    def test_secrets_are_not_named(self):
        """A changed secret is a difference whose text does not show it."""
        old, new = (
            Config(auth=Auth(jwt=(Jwt(algorithms=("HS256",), secret=secret),), static=(
                StaticUser(name="ann", password_scrypt=secret),)))
            for secret in ("hunter1", "hunter2")
        )  # fmt: skip
        self.assertEqual(self.changed(old, new), (["auth.static", "auth.jwt"], []))
