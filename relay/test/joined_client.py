"""The client's core on the server's core, frame by frame in memory, on one clock; the network between them is the
test's to break."""

from __future__ import annotations

from typing import Any

from relay.client import effects
from relay.client.core import Core as ClientCore
from relay.client.options import ClientOptions, Identity
from relay.client.plan import parse
from relay.test.core_fixture import Core, Guest
from relay.wire import handshake, kinds
from relay.wire.binary import decode_frame, encode_frame
from relay.wire.message import Message

STEP_S = 0.05


class JoinedClient:
    """One client. ``seen``: offsets and epochs of what was delivered, by channel, and True or False for what
    ``Recovered`` said; ``lose_events``: so many events are lost on the way; ``told``: a report stands in their
    place."""

    def __init__(self, server: Core, user: str = "ann", **options: Any) -> None:  # Any: of ClientOptions
        self.server = server
        self.client = ClientCore([parse("tcp://one:1")], Identity(user=user), ClientOptions(**options), lambda: 0.5)
        self.guest: Guest | None = None
        self.attempt = 0
        self.online = True
        self.seen: dict[str, list[tuple[int, str, bytes] | bool]] = {}
        self.settled: dict[object, Any] = {}  # Any: Message, None or an error
        self.lose_events = 0
        self.told = True
        self.client.link.start(server.now)
        self.pump()

    def subscribe(self, name: str, listener: str = "listener", **options: Any) -> None:  # Any: of SubscribeOptions
        """Subscribe; the answer is in ``settled``."""
        wanted = handshake.SubscribeOptions(**options)
        self.client.subscriptions.join(name, f"{listener} {name}", wanted, self.server.now)
        self.pump()

    def publish(self, name: str, body: bytes = b"", flags: int = 0) -> None:
        """Publish without an answer."""
        self.client.requests.tell(Message(kinds.PUBLISH, name, body, flags=flags), self.server.now)
        self.pump()

    def cut(self, end: bool) -> None:
        """The connection breaks; with ``end`` the session is over, too. Nothing connects until ``pass_time``."""
        guest, self.guest = self.guest, None
        if guest is not None:
            session = guest.connection.session
            guest.vanish()
            if end and session is not None:
                self.server.sessions.end(session, "test")
            self.client.link.lost(self.attempt, "broken", self.server.now)
        self.pump()

    def pass_time(self, seconds: float) -> None:
        """Time goes on for both."""
        for _ in range(max(1, round(seconds / STEP_S))):
            self.server.clock.advance(STEP_S)
            if self.client.next_timer() <= self.server.now:
                self.client.timer(self.server.now)
            self.pump()

    def pump(self) -> None:
        """Carry frames until none is left."""
        while True:
            todo = self.client.take(self.server.now)
            for effect in todo:
                self._perform(effect)
            guest = self.guest
            frames = [] if guest is None else guest.got[:]
            if guest is not None:
                guest.got.clear()
            if not todo and not frames:
                return
            if guest is not None and frames:
                self.client.link.received(self.attempt, self._lose(frames), self.server.now)

    def _lose(self, frames: list[Message]) -> list[Message]:
        kept = []
        for frame in frames:
            if frame.kind == kinds.EVENT and self.lose_events:
                self.lose_events -= 1
                # Either way the session's count stays right: what is lost without a word was never sent.
                frame = Message(kinds.PONG, fields={kinds.SKIPPED: 1}) if self.told else Message(kinds.CANCEL)
            kept.append(frame)
        return kept

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Connect():
                self.attempt = effect.attempt
                if self.online:
                    self.guest = Guest(self.server)
                    self.client.link.connected(effect.attempt, self.server.now)
                else:
                    self.client.link.lost(effect.attempt, "offline", self.server.now)
            case effects.Send():
                if self.guest is not None:
                    self.guest.connection.receive(decode_frame(encode_frame(effect.message)))
            case effects.Hangup():
                guest, self.guest = self.guest, None
                if guest is not None:
                    guest.vanish()
            case effects.Deliver() if effect.message.kind == kinds.EVENT:
                message = effect.message
                place = (message.get(kinds.OFFSET, 0), message.get(kinds.EPOCH, ""), message.body)
                self.seen.setdefault(message.name, []).append(place)
            case effects.Recovered():
                self.seen.setdefault(effect.channel, []).append(effect.recovered)
            case effects.Resolve():
                self.settled[effect.waiter] = effect.value
            case effects.Reject():
                self.settled[effect.waiter] = effect.error
            case _:
                pass
