"""An application with a fake node, for the tests of handlers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay.app import (
    Application,
)
from relay.config import Handlers
from relay.core.metrics import Metrics
from relay.interfaces import ILocalProvider
from relay.test.fakes_app import FakeAnswer, FakeNode, FakeSession
from relay.wire import kinds
from relay.wire.message import Message


class Point(msgspec.Struct):
    """An argument and a result."""

    x: int
    y: int = 0


class AppTestCase(SynchronousTestCase):
    """An application of the handlers that a test adds."""

    def setUp(self):
        self.clock = Clock()
        self.node = FakeNode()
        self.session: Any = FakeSession()  # Any: for the core's Session
        self.metrics = Metrics()
        self.app = Application(self.node, Handlers(running_max=10), self.clock, self.metrics)
        self.logged: list[Any] = []
        observer: Any = self.logged.append  # Any: ILogObserver is any callable
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def texts(self, contains: str) -> list[str]:
        return [text for event in self.logged if contains in (text := formatEvent(event))]

    def provider(self, name: str) -> ILocalProvider:
        found = self.app.providers().get(name) or self.app.unknown()
        assert found is not None, name
        return found

    def call(self, name: str, body: bytes = b"", codec: int = kinds.JSON, fields: Any = None) -> FakeAnswer:
        """Pull ``name``."""
        answer = FakeAnswer()
        message = Message(kinds.PULL, name, body, codec if body else kinds.RAW, 0, 1, fields)
        self.provider(name).pull(self.session, message, answer)
        return answer

    def told(self, name: str, body: bytes = b"", codec: int = kinds.JSON) -> None:
        """Push ``name``."""
        self.provider(name).push(self.session, Message(kinds.PUSH, name, body, codec))

    def result(self, name: str, value: Any = None) -> Any:
        """The result of a pull with JSON, at once."""
        answer = self.call(name, b"" if value is None else json.dumps(value).encode())
        self.assertIsNone(answer.error)
        self.assertEqual(len(answer.replies), 1)
        body, codec, _ = answer.replies[0]
        return body.decode() if codec == kinds.TEXT else json.loads(body)
