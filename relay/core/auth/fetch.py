"""One HTTP request with a bound on everything: time, size of the answer, redirects (none are followed)."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

USER_AGENT: Final = b"relay"


class FetchFailed(Exception):
    """There is no answer, or none within the bounds; the sentence says why."""


async def fetch(
    agent: IAgent,
    clock: IReactorTime,
    method: bytes,
    url: str,
    *,
    headers: dict[bytes, bytes],
    body: bytes | None,
    timeout_s: float,
    bytes_max: int,
) -> tuple[int, bytes]:
    """Status and body of the answer. ``timeout_s`` is for all of it. Raises ``FetchFailed``, and nothing else but
    ``CancelledError`` when the caller is cancelled."""

    async def exchange() -> tuple[int, bytes]:
        fields = Headers({b"User-Agent": [USER_AGENT], **{name: [value] for name, value in headers.items()}})
        producer = None if body is None else _Bytes(body)
        response: IResponse = await agent.request(method, url.encode(), fields, producer)
        collector = _Collector(bytes_max)
        response.deliverBody(collector)
        return response.code, await collector.done

    waiting = Deferred.fromCoroutine(exchange())
    waiting.addTimeout(timeout_s, clock)
    try:
        return await waiting
    except (CancelledError, FetchFailed):
        raise
    except Exception as error:
        raise FetchFailed(f"{type(error).__name__}: {error}") from error


@implementer(IBodyProducer)
class _Bytes:
    """A request's body that is there already."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    # --- IBodyProducer

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802 - Twisted's name
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """All of it was written at once."""

    def resumeProducing(self) -> None:
        """Likewise."""

    def stopProducing(self) -> None:
        """Likewise."""


class _Collector(Protocol):
    """Collects a body; over ``bytes_max`` the connection is cut."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._chunks: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred(lambda _: self._cut())

    def _cut(self) -> None:
        abort = getattr(self.transport, "abortConnection", None) or getattr(self.transport, "loseConnection", None)
        if abort is not None:
            abort()

    # --- Protocol

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._bytes_max:
            self._chunks.append(data)
            return
        self._chunks.clear()
        self._cut()
        if not self.done.called:
            self.done.errback(FetchFailed(f"an answer of more than {self._bytes_max} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Twisted's HTTP client costs a sixth of a node's start; who gets here has it loaded.
        from twisted.web.client import ResponseDone

        if self.done.called:
            return
        if isinstance(reason.value, (ResponseDone, PotentialDataLoss)):
            self.done.callback(b"".join(self._chunks))
        else:
            self.done.errback(FetchFailed(f"the answer broke off: {reason.getErrorMessage()}"))
