"""The client on Twisted, against a node over real sockets."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial import unittest

from relay.client import tx
from relay.client.api import Client
from relay.test import client_history_scenarios, client_queues, client_transports  # noqa: F401 - more scenarios
from relay.test.client_node import ClientNode
from relay.test.client_scenarios import Scenario, Scenarios


class TwistedShell:
    """``relay.test.client_scenarios.Shell``: client and node on one reactor."""

    def __init__(self, node: ClientNode) -> None:
        self._node = node
        self.clients: list[Client] = []
        self.folder = node.folder

    async def connect(self, *urls: str, **settings: Any) -> Client:
        """A client that is closed when the test ends."""
        client = await tx.connect(reactor, *urls, **settings)
        self.clients.append(client)
        return client

    def url(self, scheme: str = "tcp", form: str = "binary") -> str:
        """The node's URL."""
        return self._node.url(scheme, form)

    async def node(self, method: str, *args: Any) -> Any:
        """Call a method of the node."""
        return getattr(self._node, method)(*args)

    def future(self) -> Any:
        """A Waiter."""
        return tx.TwistedRuntime(reactor, tx.ClientOptions()).waiter()


class ShellTestCase(unittest.TestCase):
    """Runs scenarios."""

    timeout = 30

    def run_scenario(self, scenario: Scenario) -> Deferred[None]:
        """A node, the scenario, and the end of both."""

        async def run() -> None:
            node = ClientNode(reactor, self.mktemp_folder())
            await node.start(tls=True)
            shell = TwistedShell(node)
            try:
                await scenario(shell)
            finally:
                for client in shell.clients:
                    await client.close()
                await node.stop()
            self.flushLoggedErrors(ValueError)

        return Deferred.fromCoroutine(run())

    def mktemp_folder(self) -> str:
        """A short path: those of Unix sockets are limited."""
        folder = tempfile.mkdtemp(prefix="relay")
        self.addCleanup(shutil.rmtree, folder)
        return folder


class CancelTests(ShellTestCase):
    """What only Twisted has."""

    def test_cancelling_a_deferred_takes_the_pull_back(self) -> Deferred[None]:
        """The provider of a pull whose Deferred was cancelled is stopped."""

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
            asked = Deferred.fromCoroutine(client.pull("wait"))
            await started
            asked.cancel()
            asked.addErrback(lambda failure: failure.trap(CancelledError))
            self.assertEqual(await stopped, "stopped")

        return self.run_scenario(scenario)


class TwistedClientTests(ShellTestCase):
    """Each scenario of ``relay.test.client_scenarios``."""


def _add(scenario: Scenario, name: str) -> None:
    def test(self: TwistedClientTests) -> Deferred[None]:
        return self.run_scenario(scenario)

    test.__doc__ = scenario.__doc__
    setattr(TwistedClientTests, f"test_{name}", test)


for _name, _scenario in Scenarios.all.items():
    _add(_scenario, _name)
