"""The connection of a client as a machine without I/O: attempts, handshake, heartbeats, resume, goodbye.

    idle ─start─▶ [token] ─▶ connecting ─reached─▶ greeting ─welcome─▶ ready
                    ▲          ▲ │ all lost          │ refused            │ lost, goodbye, idle
                    │          └─┼── lost, time-out ─┤                    │
                    └── waiting ◀┴───────────────────┴────────────────────┘
    and from every state to closed: by ``finish``, a goodbye that forbids to come back, or no attempts left.

``token`` is passed through when the application makes tokens and there is none to show. Each attempt has a number;
what the shell reports of an older one is ignored. While ``connecting`` several attempts may run, one for each way to
the address (``relay.client.race``). Section numbers are those of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relay.client.credentials import Credentials
from relay.client.effects import Changed, Closed, Effect, Gap, Hangup, Send
from relay.client.ledger import Ledger
from relay.client.options import ClientOptions, Identity
from relay.client.outbound import Outbound
from relay.client.plan import Plan
from relay.client.race import Race
from relay.errors import (
    BadBody,
    ConnectionClosed,
    Expired,
    FrameTooLarge,
    RelayError,
    RemoteProtocolError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from relay.wire import handshake, kinds
from relay.wire.message import Fields, Message, is_loose

CLIENT_NAME = "relay-python/1"
IDLE_FACTOR = 2.5  # section 7: who has heard nothing for so many heartbeats closes
_INF = float("inf")
_ERROR_OF_REASON: dict[int, type[RelayError]] = {
    kinds.UNAUTHORIZED: Unauthenticated,
    kinds.EXPIRED: Expired,
    kinds.REVOKED: Expired,
    kinds.TOO_LARGE: FrameTooLarge,
    kinds.VERSION_MISMATCH: Unsupported,
}
_NEW_TOKEN = frozenset({kinds.UNAUTHORIZED, kinds.EXPIRED, kinds.REVOKED})


class CannotConnect(Unavailable):
    """No address could be reached, or none let the client in for now."""


class Upper(Protocol):
    """What rides on the link."""

    def fresh(self, welcome: handshake.Welcome, now: float) -> None:
        """There is a new session: say again what it must know. What is offered now leaves before the queue."""

    def frame(self, message: Message, now: float) -> None:
        """A session frame arrived. May raise ``RemoteProtocolError``."""

    def ended(self, error: RelayError | None) -> None:
        """The client is closed for good."""


class Link:
    """One client's connection; see the module's drawing. ``state`` is one of its words."""

    def __init__(
        self, plan: Plan, identity: Identity, options: ClientOptions, outbound: Outbound, effects: list[Effect]
    ) -> None:
        self.state = "idle"
        self.attempt = 0
        self.welcome: handshake.Welcome | None = None
        self.upper: Upper | None = None
        self.left_out: Callable[[float], None] | None = None
        """Hears that the server has left out frames."""
        self._plan = plan
        self._identity = identity
        self._options = options
        self._outbound = outbound
        self._effects = effects
        self._deadline = _INF
        self._race = Race(plan.address, options, effects)
        self._resume: tuple[str, str] | None = None  # session, secret
        self.credentials = Credentials(identity, effects)
        self._heartbeat_s = _INF
        self._heard_at = 0.0
        self._pinged = False
        self._pinged_at = 0.0
        self._probed = False
        self._pings = 0
        self._welcomed_at = 0.0
        self._lost_at: float | None = None

    # --- what the shell reports -----------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to connect."""
        assert self.state == "idle"
        self._open(now)

    def connected(self, attempt: int, now: float, reached: bool = True) -> None:
        """The transport of that attempt is open. ``reached``: the server has answered there; if not, only what is sent
        will show that, and this is to be called again when it does."""
        race = self._race
        way = race.running.get(attempt)
        greeted = attempt in race.greeted
        if way is None or (greeted and not reached):
            return
        if reached:
            race.win(attempt)
            self.attempt = attempt
            self.state = "greeting"
            self._heard_at = now
            self._outbound.form = way.form
            self._outbound.apart = way.apart
        else:
            race.greeted.add(attempt)
        if greeted:
            return
        identity, options, ledger = self._identity, self._options, self._outbound.ledger
        resume = None
        if self._resume is not None and ledger is not None:
            resume = handshake.Resume(*self._resume, ledger.received)
        hello = handshake.Hello(
            realm=identity.realm, user=identity.user, device=identity.device, password=identity.password,
            token=self.credentials.token, resume=resume, features=("resume",) if options.resume else (),
            filters=options.filters, heartbeat_ms=int((options.heartbeat_s or way.heartbeat_s) * 1000),
            client=CLIENT_NAME,
            info=identity.info,
        )  # fmt: skip
        self._effects.append(Send(handshake.write(kinds.HELLO, hello), 0 if reached else attempt))

    def received(self, attempt: int, messages: list[Message], now: float) -> None:
        """Bytes arrived on that attempt's transport, and completed these messages (or none)."""
        if attempt in self._race.greeted:
            self.connected(attempt, now)
        if attempt != self.attempt or self.state not in ("greeting", "ready"):
            return
        self._heard_at = now
        self._pinged = False
        assert self.upper is not None
        report = False
        try:
            for message in messages:
                if message.kind < kinds.SESSION_KIND_MIN:
                    self._control(message, now)
                elif self.state == "ready":
                    ledger = self._outbound.ledger
                    apart = self._outbound.apart
                    if ledger is not None and not (apart and is_loose(message, apart)):
                        report = ledger.heard(message) or report
                    self.upper.frame(message, now)
                else:
                    raise RemoteProtocolError(f"{message.describe()} before the welcome")
                if self.state not in ("greeting", "ready"):
                    return
        except (RemoteProtocolError, BadBody) as error:
            self.failed(attempt, error, now)
            return
        if report:
            self._say(kinds.PONG)

    def failed(self, attempt: int, error: RelayError, now: float) -> None:
        """The server broke the protocol: the session is given up, for its next frame may be the same again."""
        if attempt != self.attempt or self.state not in ("greeting", "ready"):
            return
        goodbye = handshake.Goodbye(kinds.PROTOCOL, "protocol", text=str(error))
        self._effects.append(Send(handshake.write(kinds.GOODBYE, goodbye)))
        self._resume = None
        self._effects.append(Hangup(attempt, False))
        self._retry(f"the server broke the protocol: {error}", now)

    def lost(self, attempt: int, reason: str, now: float) -> None:
        """The transport of that attempt is gone or could not be opened."""
        running = attempt in self._race.running
        if running:
            self._race.out(attempt, reason)
        if running or (attempt == self.attempt and self.state in ("greeting", "ready")):
            self._retry(reason, now)

    def token(self, token: str, now: float) -> None:
        """The application's new token."""
        self.credentials.made(token)
        if self.state == "token":
            self._open(now)

    def token_failed(self, error: RelayError, now: float) -> None:
        """The application has no token: for good (``Unauthenticated``), or for now."""
        self.credentials.not_made()
        if self.state == "token":
            if isinstance(error, Unauthenticated):
                self._close(error)
            else:
                self._retry(f"no token: {error}", now)

    # --- time -----------------------------------------------------------------------------------------------------

    def next_wake(self) -> float:
        """When ``wake`` is due."""
        if self.state == "ready":
            if self._pinged:
                return self._pinged_at + self._heartbeat_s * (IDLE_FACTOR - 1.0)
            return self._heard_at + self._heartbeat_s
        if self.state in ("connecting", "greeting"):
            return min(self._race.deadline, self._race.next_at)
        return self._deadline

    def wake(self, now: float) -> None:
        """Do what is due."""
        if now < self.next_wake():
            return
        if self.state == "waiting":
            self._open(now)
        elif self.state == "token":
            self._retry("the token callback gave no answer in time", now)
        elif self.state == "connecting" and now < self._race.deadline:
            self._race.begin(now)
            self.attempt = self._race.attempt
        elif self.state in ("connecting", "greeting"):
            what = "no connection" if self.state == "connecting" else "no welcome"
            reason = f"{what} within {self._options.connect_timeout_s:g} s"
            if self.state == "greeting":
                self._effects.append(Hangup(self.attempt, True))
            self._race.give_up(reason)
            self._retry(reason, now)
        elif self.state == "ready":
            if not self._pinged:
                self._pinged = True
                self._pinged_at = now  # not when it was due: after a suspended night the server gets its time to answer
                self.ping()
            else:
                goodbye = handshake.Goodbye(kinds.IDLE, "idle", True)
                self._effects.append(Send(handshake.write(kinds.GOODBYE, goodbye)))
                self._effects.append(Hangup(self.attempt, True))
                self._retry(f"the server was silent for {now - self._heard_at:.1f} s", now)

    # --- what is above --------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask the server for a sign of life and its count."""
        self._pings = self._pings % 0xFFFF_FFFF + 1
        self._say(kinds.PING, self._pings)

    def probe(self) -> None:
        """Ask for the server's count, once until it has answered."""
        if self.state == "ready" and not self._probed:
            self._probed = True
            self.ping()

    def finish(self, error: RelayError | None = None) -> None:
        """Say goodbye and close for good."""
        if self.state == "ready":
            goodbye = handshake.Goodbye(kinds.NORMAL, "normal")
            self._effects.append(Send(handshake.write(kinds.GOODBYE, goodbye)))
        if self.state in ("greeting", "ready"):
            self._effects.append(Hangup(self.attempt, self.state != "ready"))
        self._close(error)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _say(self, kind: int, seq: int = 0) -> None:
        ledger = self._outbound.ledger
        fields: Fields | None = ledger.report() if ledger is not None and self.state == "ready" else None
        self._effects.append(Send(Message(kind, seq=seq, fields=fields)))

    def _open(self, now: float) -> None:
        self._deadline = now + self._options.connect_timeout_s
        if self.credentials.missing(now):
            self.state = "token"
            self.credentials.want()
            return
        self.state = "connecting"
        self._race.open(self._plan.ways(now), now)
        self.attempt = self._race.attempt

    def _control(self, message: Message, now: float) -> None:
        kind = message.kind
        if kind == kinds.PING:
            self._say(kinds.PONG, message.seq)
        if kind in (kinds.PING, kinds.PONG):
            ledger = self._outbound.ledger
            if ledger is None or self.state != "ready":
                return
            if kinds.SKIPPED in (message.fields or ()):
                frames = message.get(kinds.SKIPPED)
                ledger.skip(frames)
                self._effects.append(Gap(frames))
                if self.left_out is not None:
                    self.left_out(now)
            received = message.get(kinds.RECEIVED)
            if received is not None:
                self._probed = False
                if ledger.acknowledge(received):
                    self._outbound.flush(now)
        elif kind == kinds.WELCOME and self.state == "greeting":
            self._greet(handshake.read(message, handshake.Welcome), now)
        elif kind == kinds.GOODBYE:
            self._goodbye(handshake.read(message, handshake.Goodbye), now)
        elif kind in kinds.KINDS:
            raise RemoteProtocolError(f"{message.describe()} in the state {self.state}")

    def _greet(self, welcome: handshake.Welcome, now: float) -> None:
        assert self.upper is not None
        address, outbound = self._race.way, self._outbound
        resumed = welcome.resumed
        if resumed and (self._resume is None or welcome.session != self._resume[0] or outbound.ledger is None):
            raise RemoteProtocolError("a session was resumed that was not asked for")
        self._lost_at = None
        self._welcomed_at = now
        expires_in_ms = welcome.expires_in_ms
        self.credentials.accepted(None if expires_in_ms is None else now + expires_in_ms / 1000)
        self._heartbeat_s = welcome.heartbeat_ms / 1000 or _INF
        self._pinged = self._probed = False
        self._plan.answered(address, now)
        self._plan.learn(welcome.addresses)
        limits = (welcome.limits.frame_bytes_max, address.frame_bytes_max)
        outbound.frame_bytes_max = min((limit for limit in limits if limit), default=0)
        self.state = "ready"
        if resumed:
            assert self._resume is not None
            self._effects.append(Changed("ready", address, True))
            self.welcome = welcome
            self._resume = (welcome.session, welcome.secret or self._resume[1])
            outbound.resume(welcome.received, now)
            return
        keeps = self._options.resume and "resume" in welcome.features and welcome.secret != ""
        lost = outbound.renew(Ledger(welcome.resume_ack_bytes // 2) if keeps else None)
        self.welcome = welcome
        self._resume = (welcome.session, welcome.secret) if keeps else None
        self._effects.append(Changed("ready", address, False, lost))
        self.upper.fresh(welcome, now)
        outbound.restore(now)

    def _goodbye(self, goodbye: handshake.Goodbye, now: float) -> None:
        name, _ = kinds.CLOSE_REASONS.get(goodbye.reason, (goodbye.name or str(goodbye.reason), False))
        why = f"the server said goodbye: {name}" + (f" ({goodbye.text})" if goodbye.text else "")
        self._effects.append(Hangup(self.attempt, False))
        reconnect = goodbye.reconnect
        if goodbye.reason in _NEW_TOKEN and self.credentials.refused():
            self._resume = None
            reconnect = True
        if reconnect:
            self._retry(why, now, goodbye)
        else:
            self._close(_ERROR_OF_REASON.get(goodbye.reason, ConnectionClosed)(why))

    def _retry(self, reason: str, now: float, goodbye: handshake.Goodbye | None = None) -> None:
        plan, options = self._plan, self._options
        address = self._race.way
        if self.state in ("connecting", "greeting") and goodbye is None:
            if self.state == "greeting":
                self._race.out(self.attempt, reason)
            reason = self._race.go_on(now)
            self.attempt = self._race.attempt
            if not reason:
                self.state = "connecting"
                return
        self._outbound.detach()
        if self._lost_at is None:
            self._lost_at = now
        wait_s, prefer = (goodbye.reconnect_after_ms / 1000, goodbye.reconnect_to) if goodbye else (0.0, "")
        if self.state == "ready":
            delay = plan.dropped(now - self._welcomed_at, wait_s, prefer)
        elif wait_s or prefer:
            delay = plan.redirected(wait_s, prefer)
        else:
            delay = plan.failed()
        if self.welcome is None and 0 < options.connect_rounds_max <= plan.rounds:
            self._close(CannotConnect(f"cannot connect to {address}: {reason}"))
        elif self.welcome is not None and 0 < options.reconnect_timeout_s <= now + delay - self._lost_at:
            self._close(ConnectionClosed(f"the connection was lost and not found again: {reason}"))
        else:
            self.state = "waiting"
            self._deadline = now + delay
            self._effects.append(Changed("waiting", address, reason=reason, wait_s=delay))
            if delay <= 0:
                self._open(now)

    def _close(self, error: RelayError | None) -> None:
        self._race.give_up("closed")
        self.state = "closed"
        self._deadline = _INF
        self._outbound.detach()
        assert self.upper is not None
        self.upper.ended(error)
        self._effects.append(Closed(error))
