"""Plugins are found, by discovery and by name, and mistakes in them stop the start."""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay import plugins as drop_ins
from relay.config import Handlers
from relay.errors import ConfigError
from relay.plugin_load import load_plugins

MODULE = """
class Plugin:
    name = "made"

class Other:
    name = "other"

instance = Plugin()
instance.name = "instance"

class Holder:
    inner = Other

class Nameless:
    pass

class Dotted:
    name = "a.b"

class Misspelt:
    name = "misspelt"
    def before_publsh(self, session, message):
        return message

class Fails:
    name = "fails"
    def __init__(self):
        raise OSError("no database")
"""

DROP_IN = """
from twisted.plugin import IPlugin
from zope.interface import implementer
from relay.interfaces import IRelayPlugin

@implementer(IPlugin, IRelayPlugin)
class Dropped:
    def __init__(self, name):
        self.name = name

second = Dropped("b-dropped")
first = Dropped("a-dropped")
unrelated = object()
"""


class PluginLoadTests(SynchronousTestCase):
    """``load_plugins``."""

    def setUp(self):
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.patch(sys, "path", [str(self.directory), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)
        self.module("plugin_load_sample", MODULE)

    def module(self, name: str, text: str) -> None:
        (self.directory / f"{name}.py").write_text(text)
        self.addCleanup(sys.modules.pop, name, None)

    def load(self, *names: str, discover: bool = False) -> list[str]:
        return [each.name for each in load_plugins(Handlers(plugins=names, discover=discover))]

    def mistake(self, *names: str) -> str:
        return str(self.assertRaises(ConfigError, self.load, *names))

    def test_none(self):
        """Without any there are none."""
        self.assertEqual(self.load(), [])

    def test_named(self):
        """Objects are taken, classes are made, in the order of the configuration; the same object once."""
        names = [f"plugin_load_sample:{each}" for each in ("instance", "Plugin", "Holder.inner", "instance")]
        self.assertEqual(self.load(*names), ["instance", "made", "other"])

    def test_mistakes(self):
        """A reference that cannot be followed stops the start, with the nearest right name."""
        self.assertIn("module:attribute", self.mistake("plugin_load_sample"))
        self.assertIn("module:attribute", self.mistake(":x"))
        self.assertIn("did you mean 'Plugin'", self.mistake("plugin_load_sample:Plugn"))
        self.assertIn("has no 'x.y'", self.mistake("plugin_load_sample:x.y"))
        self.assertIn("nowhere", self.mistake("nowhere:Plugin"))
        self.assertEqual(len(self.flushLoggedErrors(ModuleNotFoundError)), 1)
        self.module("plugin_load_broken", "1 / 0")
        self.assertIn("ZeroDivisionError", self.mistake("plugin_load_broken:Plugin"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("no database", self.mistake("plugin_load_sample:Fails"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_bad_plugins(self):
        """A plugin needs a name of its own, and hooks that exist."""
        self.assertIn("needs a name", self.mistake("plugin_load_sample:Nameless"))
        self.assertIn("needs a name", self.mistake("plugin_load_sample:Dotted"))
        self.assertIn("two plugins", self.mistake("plugin_load_sample:Plugin", "plugin_load_sample:Plugin"))
        self.assertIn("did you mean 'before_publish'", self.mistake("plugin_load_sample:Misspelt"))

    def test_discovered(self):
        """What lies in a directory ``relay/plugins`` is found, before the named ones; unless it is switched off."""
        folder = self.directory / "relay" / "plugins"
        folder.mkdir(parents=True)
        (folder / "dropped_sample.py").write_text(DROP_IN)
        (folder / "dropped_broken.py").write_text("1 / 0")
        self.patch(drop_ins, "__path__", list(drop_ins.__path__))
        for name in ("dropped_sample", "dropped_broken"):
            self.addCleanup(sys.modules.pop, f"relay.plugins.{name}", None)
        found = self.load("plugin_load_sample:Plugin", discover=True)
        self.assertEqual(found, ["a-dropped", "b-dropped", "made"])
        self.assertEqual(self.load(discover=True), ["a-dropped", "b-dropped"])
        self.assertEqual(drop_ins.__path__.count(str(folder)), 1)
        self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.load("plugin_load_sample:Plugin"), ["made"])
