"""Fakes for the tests of authentication, handlers and hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from relay.config_auth import EVERYTHING
from relay.core.identity import Identity
from relay.core.permissions import permissions_for
from relay.errors import RelayError
from relay.interfaces import IAnswer, INode, IPeer
from relay.wire.message import Fields, Message, Sender


@implementer(IPeer)
@attrs.define(eq=False)
class FakePeer:
    """A peer that is somewhere."""

    transport: str = "tcp"
    dialect: str = "relay"
    encoding: int = 0
    address: str = "127.0.0.1"
    listener: str = "stream"
    certificate: str = ""
    key: str = ""
    local: bool = True
    loose: Any = None
    apart: int = 0
    queued: int = 0
    sent: list[bytes] = attrs.Factory(list)

    def send(self, frame: bytes, key: str | None = None, flags: int = 0) -> None:
        self.sent.append(frame)

    def queued_bytes(self) -> int:
        return self.queued

    def unsent(self) -> int:
        return 0

    def watch(self, overflowed: Callable[[], None], skip_frame: Callable[[int], bytes]) -> None:
        raise AssertionError("not expected here")

    def pause(self, why: str) -> None:
        raise AssertionError("not expected here")

    def resume(self, why: str) -> None:
        raise AssertionError("not expected here")

    def close(self, reason: int, text: str = "") -> None:
        raise AssertionError("not expected here")


@attrs.define(eq=False)
class FakeRealm:
    name: str = "default"


@attrs.define(eq=False)
class FakeSession:
    """What handlers and hooks see of a session."""

    id: str = "s-1"
    realm: FakeRealm = attrs.Factory(FakeRealm)
    user: str = "ann"
    device: str = ""
    sender: Sender = attrs.field(factory=lambda: Sender("default", "ann", "s-1"))
    peer: FakePeer | None = attrs.Factory(FakePeer)


@implementer(IAnswer)
class FakeAnswer:
    """Keeps what was answered: ``(body, codec, more)`` or the error."""

    def __init__(self) -> None:
        self.done = False
        self.on_cancel = None
        self.replies: list[tuple[bytes, int, bool]] = []
        self.fields: list[Fields | None] = []
        self.error: RelayError | None = None

    def reply(self, body: bytes, codec: int, more: bool = False, fields: Fields | None = None) -> None:
        if not self.done:
            self.replies.append((body, codec, more))
            self.fields.append(fields)
            self.done = not more

    def fail(self, error: RelayError) -> None:
        if not self.done:
            self.done = True
            self.error = error

    def cancel(self) -> None:
        """The caller is gone."""
        self.done = True
        if self.on_cancel is not None:
            self.on_cancel()


@implementer(INode)
class FakeNode:
    """Keeps what handlers asked of the node; pulls wait in ``pulled`` until the test answers them."""

    def __init__(self) -> None:
        self.pushed: list[tuple[Any, Message]] = []
        self.pulled: list[tuple[Any, Message, float | None, Deferred[Message]]] = []
        self.taken_back: list[Any] = []
        self.published: list[tuple[str, Message]] = []
        self.told: list[tuple[str, str, str, Message]] = []
        self.bound: list[tuple[Any, str]] = []
        self.members: dict[Any, tuple[str, str]] = {}
        self.later = False

    def push_session(self, session: Any, message: Message) -> None:
        self.pushed.append((session, message))

    def pull_session(self, session: Any, message: Message, deadline_s: float | None) -> Deferred[Message]:
        waiting: Deferred[Message] = Deferred(self.taken_back.append)
        self.pulled.append((session, message, deadline_s, waiting))
        return waiting

    def push_user(self, realm: str, user: str, device: str, message: Message) -> tuple[int, int]:
        self.told.append((realm, user, device, message))
        return 2, 1

    def publish(self, realm: str, message: Message) -> Any:
        self.published.append((realm, message))
        return succeed(3) if self.later else 3

    def bind(self, session: Any, user: str) -> None:
        self.bound.append((session, user))
        session.user = user

    def subscribe(self, session: Any, channel: str, role: str = "") -> None:
        self.members[session] = (channel, role)

    def unsubscribe(self, session: Any, channel: str) -> bool:
        return self.members.pop(session, None) is not None

    def subscribe_user(self, realm: str, user: str, channel: str, role: str = "") -> None:
        self.members[realm, user] = (channel, role)

    def unsubscribe_user(self, realm: str, user: str, channel: str) -> bool:
        return self.members.pop((realm, user), None) is not None


class ThreadlessReactor(Clock):
    """A clock for code that uses threads: nothing runs until ``run_threads``."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Any] = []

    def callFromThread(self, function: Any, *args: Any) -> None:
        function(*args)

    def callInThreadWithCallback(self, then: Any, function: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Of the thread pool: the job waits."""
        self.jobs.append((then, function, args, kwargs))

    def run_threads(self) -> int:
        """Run the jobs that wait, and those that come of it; how many there were."""
        count = 0
        while self.jobs:
            then, function, args, kwargs = self.jobs.pop(0)
            then(True, function(*args, **kwargs))
            count += 1
        return count


def identity(user: str = "ann", realm: str = "", method: str = "fake") -> Identity:
    """An identity that may do everything."""
    return Identity(user=user, realm=realm, permissions=permissions_for(EVERYTHING, user), method=method)


class FakeBody:
    """The transport of a response's body."""

    def __init__(self) -> None:
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


@attrs.define(eq=False)
class FakeResponse:
    """An answer, whose body comes in ``chunks``; ``ends`` False: its end does not come."""

    code: int
    chunks: list[bytes]
    ends: bool = True
    body: FakeBody = attrs.Factory(FakeBody)

    def deliverBody(self, protocol: Any) -> None:  # noqa: N802 - Twisted's name
        protocol.transport = self.body
        for chunk in self.chunks:
            protocol.dataReceived(chunk)
        if self.ends:
            protocol.connectionLost(Failure(ResponseDone()))


@implementer(IAgent)
class FakeAgent:
    """Requests wait in ``asked`` until ``answer`` is called. ``seen``: method, URL, headers and body of each."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []
        self.seen: list[tuple[bytes, bytes, Headers, bytes]] = []
        self.cancelled = 0

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:  # noqa: N803
        body: list[bytes] = []
        if bodyProducer is not None:
            written = BytesConsumer(body)
            bodyProducer.startProducing(written)
        self.seen.append((method, uri, headers, b"".join(body)))
        self.asked.append(Deferred(self._cancelled))
        return self.asked[-1]

    def _cancelled(self, waiting: Deferred[Any]) -> None:
        self.cancelled += 1
        self.asked.remove(waiting)

    def answer(self, code: int, *chunks: bytes, ends: bool = True) -> FakeResponse:
        """The oldest request gets this answer."""
        response = FakeResponse(code, list(chunks), ends)
        self.asked.pop(0).callback(response)
        return response

    def fail(self, error: Exception) -> None:
        """The oldest request fails."""
        self.asked.pop(0).errback(error)


class BytesConsumer:
    """Takes what a body producer writes."""

    def __init__(self, into: list[bytes]) -> None:
        self._into = into

    def write(self, data: bytes) -> None:
        self._into.append(data)
