"""Tests of ``relay.config``: what the structs promise, whatever their values."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import msgspec.inspect as inspect
from twisted.trial.unittest import SynchronousTestCase

import relay
from relay import config_shape
from relay.cli.config_docs import sections
from relay.config import Config, Listener, Timing
from relay.config_auth import EVERYTHING, Permit

SOURCES = Path(relay.__file__).parent


def settings() -> list[tuple[str, inspect.Field]]:
    """Every setting of every section, with its section's name."""
    return [(cls.__name__, field) for cls, (_, shape) in sections().items() for field in shape.fields]


class StructTests(SynchronousTestCase):
    """All sections."""

    def test_described(self):
        """Every setting that is no section says what it is for; every section does."""
        for name, field in settings():
            if not isinstance(config_shape.bare(field.type), inspect.StructType):
                self.assertTrue(config_shape.description(field.type), f"{name}.{field.name}")
        for cls in sections():
            self.assertTrue(cls.__doc__, cls)

    def test_frozen_and_strict(self):
        """No section can be changed, and none takes a name that it does not know."""
        for cls, (_, shape) in sections().items():
            self.assertTrue(cls.__struct_config__.frozen, cls)  # type: ignore[attr-defined]  # they are structs
            self.assertTrue(shape.forbid_unknown_fields, cls)

    def test_units(self):
        """A number of seconds or bytes says so in its name, and only seconds are fractions."""
        for name, field in settings():
            for kind in config_shape.choices(field.type):
                if isinstance(kind, inspect.FloatType):
                    self.assertRegex(field.name, r"_s(_|$)", name)
                elif isinstance(kind, inspect.IntType):
                    self.assertNotRegex(field.name, r"(?<!per)_s(_|$)", name)

    def test_bounded(self):
        """Every number has a least and a greatest value, so that neither infinity nor -1 gets in."""
        for name, field in settings():
            for kind in config_shape.choices(field.type):
                if isinstance(kind, inspect.IntType | inspect.FloatType):
                    least = kind.ge if kind.gt is None else kind.gt
                    self.assertIsNotNone(least, f"{name}.{field.name}")
                    self.assertIsNotNone(kind.le, f"{name}.{field.name}")

    def test_infinity(self):
        """Infinity and not-a-number, which YAML can write, are no times."""
        for value in (float("inf"), float("-inf"), float("nan")):
            self.assertRaises(msgspec.ValidationError, msgspec.convert, {"timing": {"drain_s": value}}, Config)

    def test_used(self):
        """Every setting is used by something: one that has no effect would be a lie."""
        sources = [path for path in SOURCES.rglob("*.py") if "test" not in path.parts and path.name != "config.py"]
        words = set(re.findall(r"[.\"](\w+)", "\n".join(path.read_text("utf-8") for path in sources)))
        self.assertEqual([f"{name}.{field.name}" for name, field in settings() if field.name not in words], [])

    def test_schema(self):
        """The JSON Schema has every section and its descriptions."""
        schema = msgspec.json.schema(Config)
        self.assertEqual({cls.__name__ for cls in sections()} - set(schema["$defs"]), set())
        limits = schema["$defs"]["Limits"]
        self.assertEqual(limits["properties"]["frame_bytes_max"]["minimum"], 1024)
        self.assertFalse(limits["additionalProperties"])

    def test_shapes_have_words(self):
        """There are words for whatever a setting may be."""
        for name, field in settings():
            self.assertTrue(config_shape.words(field.type), name)


class ValueTests(SynchronousTestCase):
    """Defaults and what is computed."""

    def test_defaults_are_valid(self):
        """The defaults pass their own validation."""
        self.assertEqual(msgspec.convert(msgspec.to_builtins(Config()), Config), Config())

    def test_default_listeners_are_local(self):
        """Without a configuration a node listens on loopback only: web on 8080, the stream protocol on 8000."""
        self.assertEqual(
            [(each.address, each.protocols) for each in Config().listeners],
            [
                ("tcp:8080:interface=127.0.0.1", ("http", "websocket")),
                ("tcp:8000:interface=127.0.0.1", ("relay",)),
            ],
        )

    def test_everything_but_bind(self):
        """The default permissions allow all actions but taking another's name."""
        allowed = {name for name in Permit.__struct_fields__ if getattr(EVERYTHING, name) == ("**",)}
        self.assertEqual(set(Permit.__struct_fields__) - allowed, {"bind"})

    def test_heartbeat(self):
        """A client's wish for a heartbeat counts between the least and the configured one."""
        timing = Timing(heartbeat_s=20.0, heartbeat_s_min=2.0)
        self.assertEqual([timing.heartbeat_for(wish) for wish in (0, 1, 5000, 60_000)], [20.0, 2.0, 5.0, 20.0])

    def test_keyword_only(self):
        """Sections are written with names, so that a new setting moves nothing."""
        self.assertRaises(TypeError, Listener, "web", "tcp:80")
