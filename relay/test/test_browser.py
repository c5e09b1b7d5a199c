"""Two pages in Chromium and a Python client talk through a real node; one loses its connection and misses nothing."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from relay.client.aio import Client, connect
from relay.test import browsers
from relay.test.bad_network import BadNetwork
from relay.test.node_process import NodeProcess

AWAY_S = 5.0


class Talking(SynchronousTestCase):
    """The page as a person uses it."""

    def setUp(self):
        if browsers.missing():
            raise SkipTest(f"not installed: {browsers.missing()}")
        self.loop = browsers.Loop()
        self.addCleanup(self.loop.close)
        self.node = NodeProcess().start()
        self.addCleanup(self.node.close)
        self.network = BadNetwork(("127.0.0.1", self.node.web))
        self.loop.run(self.network.start())
        self.addCleanup(lambda: self.loop.run(self.network.stop()))
        self.events: list[Any] = []
        self.pushes: list[Any] = []
        self.python = self.loop.run(self.join_python())
        self.addCleanup(lambda: self.loop.run(self.python.close()))
        self.ann, self.bob = browsers.Tab(), browsers.Tab()
        self.addCleanup(self.ann.close)
        self.addCleanup(self.bob.close)
        self.ann.sign_in(self.node.page, "ann")
        self.bob.sign_in(f"http://127.0.0.1:{self.network.port}/", "bob")

    async def join_python(self) -> Client:
        """A Python client that listens in the lobby, takes direct messages, and answers ``sum``."""
        client = await connect(self.node.tcp, user="py")
        await client.subscribe("lobby", self.events.append)
        client.on_push("dm", self.pushes.append)
        await client.register("sum", lambda call: sum(call.value))
        return client

    def ask(self, tab: browsers.Tab, name: str, value: str) -> str:
        """Call a procedure with the page's form; the answer."""
        for css, text in (("#call-name", name), ("#call-value", value)):
            tab.one(css).clear()
            tab.one(css).send_keys(text)
        tab.one("#call button").click()
        tab.wait(lambda: tab.one("#call-result").text not in ("", "…"))
        return str(tab.one("#call-result").text)

    @staticmethod
    def heard(tab: browsers.Tab, texts: list[str]) -> bool:
        """Whether a tab shows these messages, in any order."""
        return sorted(tab.said()) == sorted(texts)

    def test_channel_direct_procedure_and_a_break(self):
        """Channel, direct and procedure messages in all directions; five seconds without network lose nothing."""
        ann, bob = self.ann, self.bob
        ann.wait(lambda: ann.texts("#people li span:first-child") == ["ann (you)", "bob", "py"])

        ann.say("from ann")
        self.loop.run(self.python.publish("lobby", {"text": "from python"}))
        for tab in (ann, bob):
            tab.wait(partial(self.heard, tab, ["from ann", "from python"]))
        ann.wait(lambda: [event.value for event in self.events][:1] == [{"text": "from ann"}])

        self.assertEqual(self.ask(ann, "sum", "[1, 2, 3]"), "6")
        self.assertIn('"from":"bob"', self.ask(ann, "hello.bob", '"x"'))
        answer = self.loop.run(self.python.pull("hello.ann", 7))
        self.assertEqual(answer.value, {"hello": "py", "from": "ann", "value": 7})
        self.assertIn("nobody provides", self.ask(ann, "no.such", ""))

        bob.one('[data-talk="user:py"]').click()
        bob.say("for python only")
        bob.wait(lambda: [push.value["text"] for push in self.pushes] == ["for python only"])
        # The page shows what it sent when its own copy has come back, which is later than Python's.
        bob.wait(lambda: bob.said() == ["for python only"])
        self.loop.run(self.python.push("dm", {"text": "for bob only", "to": "bob"}, user="bob"))
        bob.wait(lambda: bob.said() == ["for python only", "for bob only"])

        ann.one('[data-talk="user:bob"]').click()
        ann.wait(lambda: ann.texts("#title .state") == ["here"])
        ann.one('[data-talk="channel:lobby"]').click()

        bob.one('[data-talk="channel:lobby"]').click()
        self.loop.begin(self.network.away(AWAY_S))
        bob.wait(lambda: "lost" in bob.one("#status").text)
        meanwhile = [f"meanwhile {number}" for number in range(50)]
        for text in meanwhile:
            self.loop.run(self.python.publish("lobby", {"text": text}))
        bob.say("said while away")
        bob.wait(lambda: "connected" in bob.one("#status").text)
        bob.wait(lambda: "said while away" in bob.said())
        self.assertEqual([text for text in bob.said() if text.startswith("meanwhile")], meanwhile)
        ann.wait(lambda: ann.said().count("said while away") == 1)
        self.assertIn("back again: nothing was missed", bob.texts("#messages li.note .text"))

        bob.one("#show-frames").click()
        self.assertTrue(any('"resumed":true' in frame for frame in bob.texts("#frames li")))
        bob.one("#sign-out").click()
        ann.one('[data-talk="user:bob"]').click()
        ann.wait(lambda: ann.texts("#title .state")[0].startswith("last seen"))
        self.assertEqual(ann.complaints(), [])
        folder = os.environ.get("RELAY_SCREENSHOTS")
        if folder:
            ann.one("#show-frames").click()
            ann.driver.save_screenshot(os.path.join(folder, "page.png"))
