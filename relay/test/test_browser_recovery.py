"""History in a browser: the module ``relay.js``, and the page that is offline longer than its session lives.

``python -m relay.test.test_browser_recovery`` runs the page's absence at full length, a minute with 500 messages; as a
test it is shorter, but as much over the time for which the node keeps a session.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from relay.client.aio import Client, connect
from relay.test import browsers
from relay.test.bad_network import BadNetwork
from relay.test.browsers import Loop, Tab
from relay.test.node_process import NodeProcess, running

SCRIPT = Path(__file__).with_name("browser_recovery.js")
SCRIPT_S = 60
AWAY_S = 3.0
WINDOW_S = 0.5
AWAY_S_LONG = 60.0
MESSAGES = 500


class Recovery(SynchronousTestCase):
    """``relay/admin/static/relay.js`` and the page."""

    def setUp(self):
        if browsers.missing():
            raise SkipTest(f"not installed: {browsers.missing()}")

    def test_module(self):
        """Options, pages, a lost session, a lost frame, tags, what cannot be had, and a repeated publish."""
        config: dict[str, Any] = {  # Any: JSON
            "channels": [{"pattern": "mem.**", "history": {"messages_max": 50}}],
            "history": {"page_messages_max": 7},
            "timing": {"resume_window_s": 0.2},
        }
        with running(config) as node:
            tab = Tab()
            self.addCleanup(tab.close)
            tab.driver.get(node.page)
            tab.driver.set_script_timeout(SCRIPT_S)
            self.assertEqual(tab.driver.execute_async_script(SCRIPT.read_text("utf-8")), "all well")

    def test_page_is_offline(self):
        """Longer than the node keeps the session: the page shows all that was said meanwhile, in order, once."""
        shown, wanted = absence(AWAY_S, WINDOW_S)
        self.assertEqual(shown, wanted)


def absence(away_s: float, window_s: float | None) -> tuple[list[str], list[str]]:
    """The page is cut off from the network for ``away_s`` while 500 messages pass: what it shows, and what it should.

    ``window_s``: how long the node keeps a session; None: as it does by itself.
    """
    loop = Loop()
    node = NodeProcess({} if window_s is None else {"timing": {"resume_window_s": window_s}}).start()
    network = BadNetwork(("127.0.0.1", node.web))
    loop.run(network.start())
    tab = Tab()
    try:
        tab.sign_in(f"http://127.0.0.1:{network.port}/", "ann")
        loop.run(say(node.tcp, ["before"]))
        tab.wait(lambda: "before" in tab.said())
        loop.begin(network.away(away_s))
        tab.wait(lambda: "lost" in tab.one("#status").text)
        meanwhile = [f"meanwhile {number}" for number in range(MESSAGES)]
        loop.run(say(node.tcp, meanwhile))
        tab.wait(lambda: "connected" in tab.one("#status").text, away_s + 2 * browsers.WAIT_S)
        loop.run(say(node.tcp, ["after"]))
        tab.wait(lambda: "after" in tab.said())
        notes = tab.texts("#messages li.note .text")
        assert "back again with a new session" in notes, notes
        assert "nothing was missed" in notes, notes
        return tab.said(), ["before", *meanwhile, "after"]
    finally:
        tab.close()
        loop.run(network.stop())
        node.close()
        loop.close()


async def say(url: str, texts: list[str]) -> None:
    """In the lobby, from a Python client."""
    client: Client = await connect(url, user="py")
    async with client:
        for text in texts:
            await client.publish("lobby", {"text": text})


if __name__ == "__main__":
    shown, wanted = absence(AWAY_S_LONG, None)
    print(f"offline {AWAY_S_LONG:.0f} s, {MESSAGES} messages meanwhile: {len(shown)} shown of {len(wanted)},", end=" ")
    print("in order, once" if shown == wanted else "WRONG")
    sys.exit(shown != wanted)
