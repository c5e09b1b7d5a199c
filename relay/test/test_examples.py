"""The plugins of ``docs/examples``, loaded as the configuration says, in a node's core on a fake clock."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import relay
from relay.app import Application
from relay.config import Config, Handlers
from relay.config_auth import Auth
from relay.core.auth.authentication import Authentication
from relay.core.hub import Hub
from relay.errors import Denied, NoProvider, Refused, Unauthenticated
from relay.hooks import HOOKS, Hooks
from relay.plugin_load import load_plugins
from relay.test.core_fixture import Core, Guest
from relay.test.fakes_app import ThreadlessReactor
from relay.wire import kinds
from relay.wire.message import Message

EXAMPLES = Path(relay.__file__).parent.parent / "docs" / "examples"


class ExampleTestCase(SynchronousTestCase):
    """A core with the plugins that ``plugins`` names."""

    plugins: tuple[str, ...] = ()

    def setUp(self):
        self.patch(sys, "path", [str(EXAMPLES), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)
        handlers = Handlers(plugins=self.plugins, discover=False)
        self.loaded = load_plugins(handlers)
        self.core = Core(Config(handlers=handlers))
        hooks = Hooks(self.core.clock, handlers.slow_operation_ms, self.loaded)
        for name in HOOKS:
            setattr(self.core.hooks, name, getattr(hooks, name))
        self.application = Application(self.core.node, handlers, self.core.clock, self.core.hub.metrics)
        self.application.use(self.loaded)
        hub: Hub = self.core.hub
        hub.local.update(self.application.providers())
        hub.local_unknown = self.application.unknown()
        threads: Any = ThreadlessReactor()  # Any: no thread is needed here
        self.authentication = Authentication(Auth(), threads, None, threads, self.loaded, hub.wall)
        self.core.identify = self.authentication.identify

    def guest(self, user: str, **more: Any) -> Guest:
        return self.core.guest(user, **more)

    def body(self, message: Message) -> Any:
        """What an answer holds."""
        self.assertEqual(message.kind, kinds.REPLY, message.body)
        return message.body.decode() if message.codec == kinds.TEXT else json.loads(message.body)

    def code(self, message: Message) -> int:
        """The number of an error."""
        self.assertEqual(message.kind, kinds.ERROR)
        found: int = message.get(kinds.ERROR_CODE)
        return found


class ChatModerationTests(ExampleTestCase):
    """``chat_moderation.py``"""

    plugins = ("chat_moderation:ChatModeration",)

    def setUp(self):
        super().setUp()
        self.ann, self.eve, self.root = (self.guest(name) for name in ("ann", "eve", "root"))
        for guest in (self.ann, self.eve, self.root):
            guest.send(kinds.SUBSCRIBE, "room.1")
            guest.take()

    def publish(self, guest: Guest, body: Any, name: str = "room.1", **more: Any) -> Message:
        return guest.answer(guest.send(kinds.PUBLISH, name, body, **more))

    def test_rewritten(self):
        """Words of the list reach nobody; other publications are as they were."""
        self.publish(self.ann, {"text": "what the Heck"})
        self.publish(self.ann, b"fine", codec=kinds.TEXT)
        self.assertEqual([m.body for m in self.eve.take(kinds.EVENT)], [b'{"text":"what the ****"}', b"fine"])

    def test_refused(self):
        """What cannot be read is refused, in rooms only; the others hear nothing of it."""
        for more in ({"codec": kinds.RAW}, {"codec": kinds.TEXT, "filters": (kinds.CRC32C,)}):
            self.assertEqual(self.code(self.publish(self.ann, b"heck", **more)), Refused.code)
        self.assertEqual(self.eve.take(kinds.EVENT), [])
        self.assertEqual(self.publish(self.ann, b"heck", "other", codec=kinds.RAW).kind, kinds.REPLY)

    def test_staff_room(self):
        """A room for moderators refuses others."""
        seq = self.eve.send(kinds.SUBSCRIBE, "room.staff")
        self.assertEqual(self.code(self.eve.answer(seq)), Denied.code)
        seq = self.root.send(kinds.SUBSCRIBE, "room.staff")
        self.assertEqual(self.root.answer(seq).kind, kinds.REPLY)

    def test_mute(self):
        """A moderator mutes a user, who is told; until it ends the user's publications are refused."""
        seq = self.eve.send(kinds.PULL, "moderation.rooms.mute", {"user": "ann"})
        self.assertEqual(self.code(self.eve.answer(seq)), 1403)
        seq = self.root.send(kinds.PULL, "moderation.rooms.mute", {"user": "eve", "seconds": 0.0})
        self.assertGreater(self.body(self.root.answer(seq)), 0)
        told = self.eve.take(kinds.PUSH)
        self.assertEqual([(m.name, json.loads(m.body)) for m in told], [("muted", {"by": "root", "seconds": 0.0})])
        self.assertEqual(self.code(self.publish(self.eve, {"text": "but"})), Refused.code)
        seq = self.root.send(kinds.PULL, "moderation.rooms.muted")
        self.assertEqual(self.body(self.root.answer(seq)), ["eve"])
        self.core.hooks.tick(0.0)
        self.assertEqual(self.publish(self.eve, {"text": "but"}).kind, kinds.REPLY)


class TokenEchoTests(ExampleTestCase):
    """``token_echo.py``"""

    plugins = ("token_echo:TokenEcho",)

    def setUp(self):
        self.patch(os, "environ", {**os.environ, "RELAY_ECHO_KEY": "a key for this test"})
        super().setUp()
        self.plugin = self.loaded[0]
        self.ann = self.guest("", token=self.plugin.token_for("ann"))

    def pull(self, name: str, body: Any = None, **more: Any) -> int:
        return self.ann.send(kinds.PULL, name, body, **more)

    def test_authenticates(self):
        """The token names the user; a forged one is refused, and not taken for anonymous."""
        self.assertEqual(self.ann.connection.session.user, "ann")
        self.assertEqual(self.ann.connection.session.identity.method, "token_echo")
        forged = Guest(self.core)
        forged.send(kinds.HELLO, "", {"token": self.plugin.token_for("ann").replace("ann", "bob")}, seq=0)
        self.assertEqual(forged.goodbye().reason, kinds.UNAUTHORIZED)
        self.assertRaises(Unauthenticated, self.plugin.user_of, "echo")

    def test_echo(self):
        """Body, codec and metadata come back as they went."""
        answer = self.ann.answer(self.pull("demo.say", b"\x00\x01", codec=99, metadata={"k": "v"}))
        self.assertEqual((answer.body, answer.codec, answer.get(kinds.METADATA)), (b"\x00\x01", 99, {"k": "v"}))

    def test_asks_back(self):
        """The service asks its caller while the caller waits for it; other calls are answered meanwhile."""
        seq = self.pull("demo.greet")
        (asked,) = self.ann.take(kinds.PULL)
        self.assertEqual(asked.name, "name?")
        self.assertEqual(self.ann.answer(self.pull("demo.say", b"x")).body, b"x")
        self.ann.send(kinds.REPLY, "", b"Ann", codec=kinds.TEXT, seq=asked.seq)
        self.assertEqual(self.body(self.ann.answer(seq)), "hello Ann")

    def test_caller_does_not_answer(self):
        """When the caller does not answer in time, its own call fails, and nothing is left."""
        seq = self.pull("demo.greet")
        self.core.pass_time(6)
        self.assertEqual(self.ann.answer(seq).kind, kinds.ERROR)
        self.assertEqual(self.application.running, 0)

    def test_caller_leaves(self):
        """When the caller leaves, the handler is cancelled."""
        self.pull("demo.greet")
        self.pull("demo.countdown", {"start": 5})
        self.assertEqual(self.application.running, 2)
        self.ann.vanish()
        self.core.pass_time(40)
        self.assertEqual((self.application.running, len(self.core.hub.sessions)), (0, 0))

    def test_countdown(self):
        """Several replies, the last without ``more``; cancelling ends them."""
        self.pull("demo.countdown", {"start": 2, "every_s": 0.1})
        self.core.pass_time(1)
        replies = self.ann.take(kinds.REPLY)
        self.assertEqual([(m.body, m.flags & kinds.MORE) for m in replies], [(b"2", 1), (b"1", 1), (b"", 0)])
        seq = self.pull("demo.countdown", {"start": 100, "every_s": 0.1})
        self.core.pass_time(0.3)
        self.ann.send(kinds.CANCEL, seq=seq)
        self.core.pass_time(1)
        self.assertEqual(self.application.running, 0)
        self.assertEqual(self.ann.take()[-1].kind, kinds.ERROR)

    def test_login(self):
        """A handler binds its caller to another user."""
        answer = self.ann.answer(self.pull("demo.login", self.plugin.token_for("bob").encode(), codec=kinds.TEXT))
        self.assertEqual((self.body(answer), self.ann.connection.session.user), ("bob", "bob"))

    def test_unknown(self):
        """Other names below the prefix are answered by the unknown-route method; outside it by nobody."""
        answer = self.ann.answer(self.pull("demo.nothing.here"))
        self.assertEqual(self.body(answer)["asked"], "demo.nothing.here")
        self.assertEqual(self.code(self.ann.answer(self.pull("elsewhere"))), Denied.code)
        other = self.guest("carl")
        self.assertEqual(self.code(other.answer(other.send(kinds.PULL, "elsewhere"))), NoProvider.code)
