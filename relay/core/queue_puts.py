"""Putting messages into queues: which queue a push goes to, and what is stored of it.

    push, target queue               ──▶ that queue
    push, target user, level 1 or 2  ──▶ the user's inbox
    push, target user, no level      ──▶ the inbox when the rule of the push's name says so (``pushes:``)

The answer comes when the store has it: ``offset`` is its number there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relay import errors
from relay.config import Config
from relay.core.auth.grant import check_user
from relay.core.behind import QUEUE, Behind
from relay.core.hub import FORWARDED_FLAGS
from relay.core.queue_store import INBOX
from relay.records import PRIORITIES, PRIORITY_DEFAULT, Put
from relay.wire import kinds, names
from relay.wire.binary import encode_frame
from relay.wire.message import Message, Sender

if TYPE_CHECKING:
    from relay.config_queues import QueueRule
    from relay.core.hub import Hub
    from relay.core.queue_store import QueueDesk
    from relay.core.session import Session

AT_MOST_ONCE: Final = 0
AT_LEAST_ONCE: Final = 1
EXACTLY_ONCE: Final = 2

KEY_BYTES_MAX: Final = 255
"""Of idempotency keys and ordering keys, as of names."""
TIME_MS_MAX: Final = 2**53 - 1
PUSHES_KNOWN_MAX: Final = 10_000
"""Names of pushes whose rule is remembered."""


def inbox_of(user: str) -> str:
    """The stored name of a user's inbox. The rest after the prefix is the user as it is: no two are the same."""
    return f"{INBOX}.{user}"


class QueuePuts:
    """The router's part for pushes that are stored."""

    def __init__(self, hub: Hub, desk: QueueDesk) -> None:
        self._hub = hub
        self._desk = desk
        self._config: Config | None = None
        self._policies: dict[str, str] = {}
        self.behind: Behind | None = None
        """The router's: told of what is on its way."""

    def wanted(self, session: Session, message: Message) -> str | None:
        """The stored name of the queue that a push belongs in, or None. Raises ``BadBody``, ``BadName``, ``Denied``,
        ``Unsupported``."""
        fields = message.fields
        # Fast path: no target at all, which is a procedure's name.
        if fields is None:
            return None
        queue = fields.get(kinds.QUEUE)
        level = fields.get(kinds.LEVEL)
        keyless = level == EXACTLY_ONCE and not fields.get(kinds.IDEMPOTENCY_KEY)
        if level is not None and (level > EXACTLY_ONCE or keyless):
            raise errors.BadBody("level: 0, 1, or 2 with an idempotency_key, expected")
        if queue is not None:
            names.check_name(queue)
            if queue.startswith("$"):
                raise errors.Denied("names that begin with $ are the server's own")
            if not session.identity.permissions.allows("push", queue):
                raise errors.Denied(f"push to queue {queue}")
            return str(queue)
        user = fields.get(kinds.USER)
        if user is None or kinds.SESSION in fields:
            if level:
                raise errors.Unsupported("level 1 and 2 are for queues and users")
            return None
        if kinds.DEVICE in fields:
            if level:
                raise errors.Unsupported("an inbox is a user's, not a device's")
            return None
        if level is None and not self._hub.config.pushes:
            return None
        if level == AT_MOST_ONCE or (level is None and not self._by_rule(session, message.name, user)):
            return None
        if not session.identity.permissions.allows_user("push", user):
            raise errors.Denied(f"push to user {user}")
        check_user(user)
        return inbox_of(user)

    def _by_rule(self, session: Session, name: str, user: str) -> bool:
        """Whether the rule of a push's name asks for the inbox now."""
        config = self._hub.config
        if config is not self._config or len(self._policies) >= PUSHES_KNOWN_MAX:
            self._config = config
            self._policies.clear()
        policy = self._policies.get(name)
        if policy is None:
            found = next((each.inbox for each in config.pushes if names.matches(each.pattern, name)), "never")
            policy = self._policies[name] = found
        if policy == "away":
            return not any(each.peer is not None for each in session.realm.users.get(user, ()))
        return policy == "always"

    def put(self, session: Session, message: Message, name: str) -> None:
        """Store a push of a session; the answer follows."""
        seq = message.seq
        hub = self._hub

        def done(put: Put) -> None:
            if put.error is not None:
                hub.refuse(session, Message(kinds.PUSH, message.name, seq=seq), put.error)
            elif seq:
                hub.answer(session, seq, {kinds.OFFSET: put.number})
            if self.behind is not None:
                self.behind.end(session)

        # Two users may have the same key; a user's sessions share theirs.
        key = message.get(kinds.IDEMPOTENCY_KEY, "")
        if len(key.encode()) > KEY_BYTES_MAX:
            raise errors.BadBody(f"idempotency_key: at most {KEY_BYTES_MAX} bytes expected")
        self.store(session.realm.name, name, message, session.sender, f"{session.user}\n{key}" if key else "", done)
        if self.behind is not None:
            self.behind.begin(session, QUEUE)

    def store(
        self, realm: str, name: str, message: Message, sender: Sender | None, key: str, done: Callable[[Put], None]
    ) -> None:
        """Put ``message`` into the queue of that stored name. ``done(put)`` says how it went. Raises ``BadBody``,
        ``BadName``, ``LimitExceeded``, ``Full``, ``Unsupported``: then nothing was stored."""
        hub = self._hub
        hub.rule(message.name)
        told = Message(
            kinds.PUSH, message.name, message.body, message.codec, message.flags & FORWARDED_FLAGS, 0,
            hub.forwarded(message.fields), sender,
        )  # fmt: skip
        desk = self._desk
        queue = desk.find(realm, name)
        rule = desk.rule(name) if queue is None else queue.rule
        put = self._put(realm, name, rule, message, encode_frame(told), key)
        desk.put(desk.get(realm, name) if queue is None else queue, put, done)

    def _put(self, realm: str, name: str, rule: QueueRule, message: Message, frame: bytes, key: str) -> Put:
        now_ms = self._desk.now_ms()
        get = message.get
        due_ms: int = get(kinds.DELIVER_AT, 0)
        if due_ms <= now_ms:
            due_ms = 0
        elif due_ms - now_ms > rule.delay_s_max * 1000:
            raise errors.LimitExceeded(f"deliver_at: a message may wait {rule.delay_s_max:g} s at most")
        priority: int = get(kinds.PRIORITY, PRIORITY_DEFAULT)
        if priority >= PRIORITIES:
            raise errors.BadBody(f"priority: 0 to {PRIORITIES - 1} expected")
        ordering_key = get(kinds.ORDERING_KEY, "")
        if len(ordering_key.encode()) > KEY_BYTES_MAX:
            raise errors.BadBody(f"ordering_key: at most {KEY_BYTES_MAX} bytes expected")
        ttl_ms: int = get(kinds.TTL_MS, 0)
        most_ms = int(rule.ttl_s * 1000)
        if most_ms and (not ttl_ms or ttl_ms > most_ms):
            ttl_ms = most_ms
        expires_ms = min((due_ms or now_ms) + ttl_ms, TIME_MS_MAX) if ttl_ms else 0
        until_ms = now_ms + int(rule.idempotency_s * 1000) if key else 0
        room = self._hub.config.store.user_bytes_max if name.startswith(f"{INBOX}.") else 0
        return Put(realm, name, frame, now_ms, due_ms, expires_ms, priority, ordering_key, key, until_ms, room)
