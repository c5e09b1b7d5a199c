"""The client on asyncio, in a thread of its own, against a node over real sockets."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import SkipTest

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.trial import unittest

from relay.client import aio
from relay.client.api import Client
from relay.test import client_history_scenarios, client_queues, client_transports  # noqa: F401 - more scenarios
from relay.test.client_node import ClientNode
from relay.test.client_scenarios import Scenario, Scenarios

SCENARIO_S_MAX = 25.0


class AsyncioShell:
    """``relay.test.client_scenarios.Shell``: the client on this event loop, the node on the reactor's thread."""

    def __init__(self, node: ClientNode) -> None:
        self._node = node
        self._clients: list[Client] = []
        self.folder = node.folder

    async def connect(self, *urls: str, **settings: Any) -> Client:
        """A client that is closed when the test ends."""
        client = await aio.connect(*urls, **settings)
        self._clients.append(client)
        return client

    def url(self, scheme: str = "tcp", form: str = "binary") -> str:
        """The node's URL."""
        return self._node.url(scheme, form)

    async def node(self, method: str, *args: Any) -> Any:
        """Call a method of the node, in the reactor's thread."""
        function = getattr(self._node, method)
        call: Any = blockingCallFromThread  # Any: its overloads are too much for to_thread
        return await asyncio.to_thread(call, reactor, function, *args)

    def future(self) -> Any:
        """A Waiter."""
        return aio.AsyncioRuntime(asyncio.get_running_loop(), aio.ClientOptions()).waiter()

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """Closes the clients at the end."""
        try:
            yield
        finally:
            for client in self._clients:
                await client.close()


class AsyncioClientTests(unittest.TestCase):
    """Each scenario of ``relay.test.client_scenarios``."""

    timeout = 30

    def run_scenario(self, scenario: Scenario, run_loop: Callable[..., None] = asyncio.run) -> Deferred[None]:
        """A node, the scenario in a thread, and the end of both."""
        folder = tempfile.mkdtemp(prefix="relay")  # short: the paths of Unix sockets are limited
        self.addCleanup(shutil.rmtree, folder)
        # What callbacks of a scenario raise on purpose is logged; that is not for the terminal.
        logging.getLogger("relay.client").addHandler(logging.NullHandler())

        async def client_side(node: ClientNode) -> None:
            shell = AsyncioShell(node)
            async with shell.closing(), asyncio.timeout(SCENARIO_S_MAX):
                await scenario(shell)

        async def run() -> None:
            node = ClientNode(reactor, folder)
            await node.start(tls=True)
            try:
                await deferToThread(run_loop, client_side(node))
            finally:
                await node.stop()

        return Deferred.fromCoroutine(run())

    def test_cancelling_a_task_takes_the_pull_back(self) -> Deferred[None]:
        """The provider of a pull whose task was cancelled is stopped."""

        async def scenario(shell: Any) -> None:
            client = await shell.connect(shell.url(), user="ann")
            started, stopped = shell.future(), shell.future()

            async def wait(pull: object) -> None:
                started.succeed(None)
                try:
                    await shell.future()
                finally:
                    stopped.succeed("stopped")

            await client.register("wait", wait)
            asked = asyncio.create_task(client.pull("wait"))
            await started
            asked.cancel()
            await asyncio.wait([asked])
            assert asked.cancelled()
            assert await stopped == "stopped"

        return self.run_scenario(scenario)

    def test_uvloop(self) -> Deferred[None]:
        """It runs on uvloop as it does on asyncio's own event loop."""
        try:
            import uvloop
        except ImportError:
            raise SkipTest("uvloop is not installed") from None
        return self.run_scenario(Scenarios.all["every_transport_in_both_forms"], uvloop.run)

    def test_nothing_of_twisted_is_imported(self) -> None:
        """The asyncio client and the commands on it load no Twisted."""
        program = (
            "import sys, relay.client.aio, relay.cli.client_run, relay.wire.filters\n"
            "print([name for name in sys.modules if name.split('.')[0] in ('twisted', 'zope', 'autobahn')])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.strip(), "[]")


def _add(scenario: Scenario, name: str) -> None:
    def test(self: AsyncioClientTests) -> Deferred[None]:
        return self.run_scenario(scenario)

    test.__doc__ = scenario.__doc__
    setattr(AsyncioClientTests, f"test_{name}", test)


for _name, _scenario in Scenarios.all.items():
    _add(_scenario, _name)
