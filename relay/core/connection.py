"""One peer's conversation: the handshake, then its session's frames.

    waiting ──hello──▶ checking ──identity──▶ open ──close / lost──▶ closed
       │ time-out          │ refused            (closed from anywhere: time-out, protocol, limits, goodbye)

``waiting`` and ``checking`` have the handshake time-out, ``open`` has heartbeats; all of it is one deadline on the
hub's wheel. Frames that come while ``checking`` wait (the reading of the peer is paused meanwhile).
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relay import errors
from relay.core.absences import away_for
from relay.core.identity import Identity
from relay.core.limits import TokenBucket
from relay.core.outbox import CONTROL
from relay.core.wheel import Call, Timed
from relay.dialects.relay_v1 import ENCODERS
from relay.interfaces import IConnection, IPeer
from relay.wire import kinds
from relay.wire.handshake import Goodbye, Hello, read, write
from relay.wire.message import Message, is_loose

if TYPE_CHECKING:
    from relay.core.gate import Gate
    from relay.core.session import Session

log = Logger()

WAITING: Final = 0
CHECKING: Final = 1
OPEN: Final = 2
CLOSED: Final = 3

EARLY_FRAMES_MAX: Final = 10_000
"""Frames sent before the welcome; reading is paused at the hello, so these came with it in one read."""

RECEIVED_MAX: Final = 2**63
"""Session frames that a client may claim to have sent; more could not be reported back."""

PERIODS_TO_PING: Final = 2
PERIODS_TO_CLOSE: Final = 5
"""The deadline of an open connection is half a heartbeat: ping after one of silence, close after two and a half."""


@implementer(IConnection)
class Connection(Timed):
    """See the module. ``session`` is None until the identity is known."""

    __slots__ = (
        "_bytes", "_debt", "_early", "_frames", "_gate", "_half_s", "_heard", "_silent", "_waiting", "asked", "peer",
        "session", "state",
    )  # fmt: skip

    def __init__(self, gate: Gate, peer: IPeer) -> None:
        super().__init__()
        self._gate = gate
        self.peer = peer
        self.session: Session | None = None
        self.state = WAITING
        self._early: list[Message] | None = None
        self._heard = True
        self._silent = 0
        self._half_s = 0.0
        self._frames: TokenBucket | None = None
        self._bytes: TokenBucket | None = None
        self._debt: Call | None = None
        self._waiting: Deferred[None] | None = None
        self.asked = False
        """A plugin looks at the peer: frames wait, they may have come with the first bytes."""

    # --- IConnection ----------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """One decoded message."""
        self._heard = True
        kind = message.kind
        gate = self._gate
        size = len(message.body)
        metrics = gate.metrics
        metrics.frames_in[kind] += 1
        metrics.bytes_in[kind] += size
        session = self.session
        # Fast path: a session frame of an open connection.
        if kind >= kinds.SESSION_KIND_MIN and session is not None and self.state == OPEN:
            if self._frames is not None or self._bytes is not None:
                self._pace(message)
                if self.state != OPEN:
                    return  # far over the rate: neither counted nor carried out
            session.received += 1
            if session.unacked is not None:
                session.count_bytes(size)
            gate.router.route(session, message)
        elif self.state == OPEN:
            self._connection_frame(message)
        elif self.state == WAITING and not self.asked:
            self._first(message)
        elif self.state != CLOSED:
            if self._early is None:
                self._early = []
            if len(self._early) >= EARLY_FRAMES_MAX:
                self.close(kinds.PROTOCOL, "too many frames before the welcome")
            else:
                self._early.append(message)

    def go_on(self) -> None:
        """Nobody is asked any more about the peer or its hello: what came meanwhile is next."""
        self.asked = False
        early, self._early = self._early, None
        for message in early or ():
            if self.state != CLOSED:
                self._gate.metrics.frames_in[message.kind] -= 1  # counted when it came
                self._gate.metrics.bytes_in[message.kind] -= len(message.body)
                self.receive(message)

    def failed(self, error: errors.RelayError) -> None:
        """The dialect met broken input."""
        too_large = isinstance(error, errors.FrameTooLarge)
        self.close(kinds.TOO_LARGE if too_large else kinds.PROTOCOL, str(error))

    def lost(self, text: str, clean: bool) -> None:
        """The transport is gone."""
        if self.state != CLOSED:
            self._gate.metrics.closes["lost"] += 1
            self._leave(text, resumable=True)
        self._gate.gone(self)

    # --- closing --------------------------------------------------------------------------------------------------

    def close(self, reason: int, text: str = "", after_ms: int = 0) -> None:
        """Say goodbye with ``reason`` and close; the session outlives it when ``reason`` invites to come back."""
        if self.state == CLOSED:
            return
        name, reconnect = kinds.CLOSE_REASONS[reason]
        self._gate.metrics.closes[name] += 1
        self._gate.metrics.goodbyes += 1
        goodbye = Goodbye(reason, name, reconnect, reconnect_after_ms=after_ms, text=text)
        self._gate.metrics.frames_out[kinds.GOODBYE] += 1
        peer = self.peer
        peer.send(ENCODERS[peer.encoding](write(kinds.GOODBYE, goodbye)), None, CONTROL)
        self._leave(f"{name}: {text}" if text else name, reconnect, away_for(reason))
        peer.close(reason, text)

    def take(self, session: Session) -> None:
        """This connection is the session's from now on."""
        self.session = session
        self.state = OPEN

    def taken_over(self) -> None:
        """The session goes on elsewhere."""
        self.session = None
        self.close(kinds.REPLACED, "the session was resumed on another connection")

    def _leave(self, text: str, resumable: bool, away_s: float = math.inf) -> None:
        self.cancel()
        self.state = CLOSED
        self._early = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        session = self.session
        if session is not None:
            self.session = None
            if resumable:
                self._gate.sessions.detach(session, self.peer, text)
            else:
                self._gate.sessions.end(session, text, away_s)
        elif text:
            self._gate.refused(self.peer, text)

    def expire(self) -> None:
        """The deadline: of the handshake, or half a heartbeat."""
        if self.state != OPEN:
            self.close(kinds.HANDSHAKE_TIMEOUT, "no hello in time")
            return
        if self._heard:
            self._heard = False
            self._silent = 0
        else:
            self._silent += 1
        if self._silent >= PERIODS_TO_CLOSE:
            self.close(kinds.IDLE, "nothing heard")
            return
        session = self.session
        assert session is not None
        # The answer to a ping also says what has arrived: what is kept for a resume is let go.
        if session.unacked or (self._silent and self._silent % PERIODS_TO_PING == 0):
            session.report(kinds.PING)
        self._gate.hub.wheel.add(self, self._half_s)

    # --- the handshake --------------------------------------------------------------------------------------------

    def _first(self, message: Message) -> None:
        if message.kind != kinds.HELLO:
            self.close(kinds.PROTOCOL, "hello expected")
            return
        try:
            hello = read(message, Hello)
        except errors.BadBody as error:
            self.close(kinds.PROTOCOL, str(error))
            return
        if hello.version.partition(".")[0] != kinds.VERSION.partition(".")[0]:
            self.close(kinds.VERSION_MISMATCH, f"version {kinds.VERSION} is spoken here")
            return
        self.state = CHECKING
        self._early = []
        if hello.resume is not None:
            session = self._gate.sessions.resumable(hello.resume)
            if session is not None:
                self._gate.sessions.resume(session, self, hello)
                self._opened(session, hello)
                return
        try:
            found = self._gate.identify(hello, self.peer)
        except errors.RelayError as error:
            self.refuse(error)
            return
        if isinstance(found, Identity):
            self._identified(found, hello)
            return
        self.peer.pause("auth")

        async def wait() -> None:
            identity = await found
            self._waiting = None
            self.peer.resume("auth")
            if self.state == CHECKING:
                self._identified(identity, hello)

        self._waiting = Deferred.fromCoroutine(wait())
        self._waiting.addErrback(self._not_identified)

    def _not_identified(self, failure: Failure) -> None:
        self._waiting = None
        if self.state == CLOSED:
            return  # cancelled: nobody waits for the answer any more
        if not isinstance(failure.value, errors.RelayError):
            log.failure("authentication failed", failure=failure)
        self.refuse(failure.value)

    def refuse(self, error: BaseException | None) -> None:
        """The end of a handshake that did not work out."""
        if not isinstance(error, errors.RelayError):
            error = errors.InternalError()
        self._gate.metrics.refused[error.label] += 1
        reason = kinds.UNAVAILABLE if error.temporary else kinds.UNAUTHORIZED
        if isinstance(error, errors.Expired):
            reason = kinds.EXPIRED
        elif isinstance(error, errors.LimitExceeded):
            reason = kinds.LIMIT
        elif isinstance(error, errors.InternalError):
            reason = kinds.INTERNAL
        self.close(reason, str(error))

    def _identified(self, identity: Identity, hello: Hello) -> None:
        try:
            session = self._gate.sessions.begin(identity, self, hello)
        except errors.RelayError as error:
            self.refuse(error)
            return
        self._opened(session, hello)

    def _opened(self, session: Session, hello: Hello) -> None:
        """The welcome is sent; what came meanwhile is next."""
        self.set_pace()
        self._half_s = self._gate.hub.config.timing.heartbeat_for(hello.heartbeat_ms) / 2
        self._gate.hub.wheel.add(self, self._half_s)
        self.go_on()

    # --- open -----------------------------------------------------------------------------------------------------

    def _connection_frame(self, message: Message) -> None:
        """Ping, pong, goodbye of an open connection."""
        session = self.session
        assert session is not None
        kind = message.kind
        if kind in (kinds.PING, kinds.PONG):
            received = message.get(kinds.RECEIVED)
            if received is not None and not session.acknowledge(received):
                self.close(kinds.PROTOCOL, f"{received} frames reported, {session.sent} were sent")
                return
            session.received += message.get(kinds.SKIPPED, 0)
            if session.received > RECEIVED_MAX:
                self.close(kinds.PROTOCOL, "more frames left out than there can be")
                return
            if kind == kinds.PING:
                session.report(kinds.PONG, message.seq)
        elif kind == kinds.GOODBYE:
            try:
                goodbye = read(message, Goodbye)
            except errors.BadBody:
                goodbye = Goodbye(kinds.NORMAL)
            # What it sent before goes before, also where that waits for a store.
            self._gate.router.behind.after(session, partial(_said_goodbye, self, session, goodbye))
        elif kind in kinds.KINDS:
            self.close(kinds.PROTOCOL, f"{kinds.KINDS[kind]} is not expected now")

    def set_pace(self) -> None:
        """Take the rates of the configuration."""
        limits = self._gate.hub.config.limits
        now = self._gate.hub.clock.seconds()
        self._frames = self._bytes = None
        if limits.frames_per_s_max:
            self._frames = TokenBucket(limits.frames_per_s_max, limits.frames_per_s_max * limits.rate_burst_s, now)
        if limits.bytes_per_s_max:
            self._bytes = TokenBucket(limits.bytes_per_s_max, limits.bytes_per_s_max * limits.rate_burst_s, now)

    def _pace(self, message: Message) -> None:
        """Over the rate: read on only when the debt is paid; a debt that is too large ends it."""
        now = self._gate.hub.clock.seconds()
        wait_s = self._frames.take(1, now) if self._frames is not None else 0.0
        if self._bytes is not None:
            wait_s = max(wait_s, self._bytes.take(len(message.body) + len(message.name) + 16, now))
        if wait_s > self._gate.hub.config.limits.rate_delay_s_max:
            self.close(kinds.RATE, "far over the rate")
        elif wait_s > 0:
            if self._debt is not None:
                self._debt.cancel()
            self.peer.pause("rate")
            self._debt = self._gate.hub.wheel.after(wait_s, self._paid)

    def _paid(self) -> None:
        self._debt = None
        self.peer.resume("rate")

    def overflowed(self) -> None:
        """The peer does not take what is sent to it. Called in the middle of a delivery: closing comes after it."""
        self._gate.hub.clock.callLater(0, self.close, kinds.SLOW_CONSUMER)


class LossyConnection(Connection):
    """Over a transport that carries frames apart, and may lose them: they are not counted, as at their sender."""

    __slots__ = ()

    def receive(self, message: Message) -> None:
        """One decoded message; what came apart is lost before there is a session."""
        if not is_loose(message, self.peer.apart):
            super().receive(message)
        elif self.session is not None and self.state == OPEN:
            self._heard = True
            metrics = self._gate.metrics
            metrics.frames_in[message.kind] += 1
            metrics.bytes_in[message.kind] += len(message.body)
            if self._frames is not None or self._bytes is not None:
                self._pace(message)
            if self.state == OPEN:
                self._gate.router.route(self.session, message)


def _said_goodbye(connection: Connection, session: Session, goodbye: Goodbye) -> None:
    """The client leaves; its connection may have gone already."""
    gate = connection._gate
    gate.metrics.closes["client"] += 1
    text = f"the client left {goodbye.text}".strip()
    if connection.session is session:
        connection._leave(text, resumable=goodbye.reconnect)
        connection.peer.close(kinds.NORMAL)
    elif session.peer is None and not goodbye.reconnect:
        gate.sessions.end(session, text)
