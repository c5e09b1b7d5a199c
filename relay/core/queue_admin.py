"""Looking after queues: the kind ``queue``, whose body says what is wanted.

==========  =====================  ===================================================================================
op          further keys           reply
==========  =====================  ===================================================================================
info                               numbers of the queue
peek        after, limit           the messages that wait, by number; nothing changes for them
dead        after, limit           the dead ones, with the reason
requeue     offsets (none: all)    dead ones wait again, with deliveries 0
remove      offsets (none: all)    dead ones are removed
purge                              all that wait, delivered ones too, are removed
pause       -                      nothing is delivered from now on, also after a restart of the node
resume      -                      the opposite
==========  =====================  ===================================================================================
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from relay import errors
from relay.core.queue import Queue
from relay.records import REMOVED, REVIVED, Item, Settle, is_end
from relay.wire import kinds
from relay.wire.binary import decode_frame
from relay.wire.handshake import read, write
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.queue_store import QueueDesk
    from relay.core.session import Session

PEEK_DEFAULT: Final = 20
CHUNK: Final = 500
CHUNK_BYTES: Final = 8_388_608
"""Dead messages that are requeued or removed in one step, about; a step is one batch of the store."""


class QueueCommand(msgspec.Struct, frozen=True):
    """Body of the kind ``queue``. ``after``: numbers over this one."""

    op: str
    after: int = 0
    limit: int = PEEK_DEFAULT
    offsets: tuple[int, ...] = ()


class QueueAdmin:
    """The router's part for looking after queues."""

    def __init__(self, hub: Hub, desk: QueueDesk) -> None:
        self._hub = hub
        self._desk = desk
        self._ops: dict[str, Callable[[Session, Message, str, QueueCommand], None]] = {
            "info": self._info,
            "peek": self._peek,
            "dead": self._peek,
            "requeue": self._requeue,
            "remove": self._requeue,
            "purge": self._purge,
            "pause": self._pause,
            "resume": self._pause,
        }

    def carry_out(self, session: Session, message: Message, name: str) -> None:
        """One command for the queue of the stored name ``name``."""
        command = read(message, QueueCommand)
        op = self._ops.get(command.op)
        if op is None:
            raise errors.BadBody(f"op: one of {', '.join(self._ops)} expected")
        if command.limit < 1 or command.after < 0 or any(each < 1 for each in command.offsets):
            raise errors.BadBody("limit and offsets: from 1 on, after: from 0 on")
        if len(command.offsets) > self._hub.config.queue_limits.offsets_max:
            raise errors.LimitExceeded(f"{self._hub.config.queue_limits.offsets_max} offsets are the limit")
        _ = self._desk.store
        op(session, message, name, command)

    def _reply(self, session: Session, message: Message, body: dict[str, Any]) -> None:  # Any: JSON
        if message.seq:
            session.send(write(kinds.REPLY, body, message.seq))

    def _info(self, session: Session, message: Message, name: str, command: QueueCommand) -> None:
        queue = self._desk.find(session.realm.name, name)
        if queue is None:
            # Nothing waits and nobody is interested: the same numbers as of an empty one, which is not made for this.
            queue = Queue(self._desk, session.realm.name, name, self._desk.rule(name))
        leased, retrying, ready = queue.numbers()
        self._reply(session, message, {
            "waiting": queue.waiting, "dead": queue.dead, "bytes": queue.bytes, "paused": queue.paused,
            "consumers": len(queue.consumers or ()), "leased": leased, "retrying": retrying, "ready": ready,
        })  # fmt: skip

    def _peek(self, session: Session, message: Message, name: str, command: QueueCommand) -> None:
        limits = self._hub.config.queue_limits
        limit = min(command.limit, limits.peek_max)
        queue = self._desk.find(session.realm.name, name)
        if queue is not None:
            limit = queue.chunk(limits.peek_bytes_max, limit)

        def loaded(items: Sequence[Item] | errors.RelayError) -> None:
            if isinstance(items, errors.RelayError):
                self._hub.refuse(session, message, items)
                return
            listed: list[dict[str, Any]] = []  # Any: JSON
            size = 0
            for item in items:
                size += len(item.frame)
                if len(listed) == limit or (listed and size > limits.peek_bytes_max):
                    break
                listed.append(_described(item))
            more = len(listed) < len(items) or not is_end(items, limit + 1)
            self._reply(session, message, {"messages": listed, "more": more})

        self._desk.store.load(session.realm.name, name, command.after, limit + 1, command.op == "dead", loaded)

    def _purge(self, session: Session, message: Message, name: str, command: QueueCommand) -> None:
        desk = self._desk
        desk.flush()  # what came before it is purged, too

        def purged(count: int | errors.RelayError) -> None:
            if isinstance(count, errors.RelayError):
                self._hub.refuse(session, message, count)
                return
            queue = desk.find(session.realm.name, name)
            if queue is not None:
                queue.emptied()
            self._reply(session, message, {"removed": count})

        desk.store.purge(session.realm.name, name, False, purged)

    def _pause(self, session: Session, message: Message, name: str, command: QueueCommand) -> None:
        paused = command.op == "pause"
        queue = self._desk.get(session.realm.name, name)
        before = queue.paused
        queue.paused = paused

        def kept(error: errors.RelayError | None) -> None:
            if error is not None:
                queue.paused = before
                self._hub.refuse(session, message, error)
            else:
                self._reply(session, message, {"paused": paused})
            queue.run()

        self._desk.store.pause(session.realm.name, name, paused, kept)

    # --- dead messages --------------------------------------------------------------------------------------------

    def _requeue(self, session: Session, message: Message, name: str, command: QueueCommand) -> None:
        queue = self._desk.find(session.realm.name, name)
        key = "requeued" if command.op == "requeue" else "removed"
        if queue is None:
            self._reply(session, message, {key: 0})
            return
        steps = _Dead(self._desk, queue, REVIVED if command.op == "requeue" else REMOVED)

        def finished(error: errors.RelayError | None) -> None:
            if error is not None:
                self._hub.refuse(session, message, error)
            else:
                self._reply(session, message, {key: steps.changed})

        if command.offsets:
            steps.change(command.offsets, finished)
        else:
            steps.change_all(finished)


class _Dead:
    """Changes dead messages, a chunk at a time. ``changed``: how many there were."""

    def __init__(self, desk: QueueDesk, queue: Queue, action: int) -> None:
        self._desk = desk
        self._queue = queue
        self._action = action
        self.changed = 0

    def change(self, offsets: Sequence[int], finished: Callable[[errors.RelayError | None], None]) -> None:
        """Those with these numbers; numbers that no dead message has are left out."""
        queue, revive = self._queue, self._action == REVIVED

        def settled(batch: Sequence[Settle]) -> None:
            failed = None
            for each in batch:
                if each.error is None:
                    self.changed += 1
                    if revive:
                        queue.revived(each.number)
                    else:
                        queue.buried_gone(1)
                elif not isinstance(each.error, errors.NotFound):
                    failed = each.error
            finished(failed)

        unique = dict.fromkeys(offsets)
        self._desk.store.settle([Settle(queue.realm, queue.name, number, self._action) for number in unique], settled)

    def change_all(self, finished: Callable[[errors.RelayError | None], None]) -> None:
        """All that are dead now."""
        queue = self._queue

        def loaded(items: Sequence[Item] | errors.RelayError) -> None:
            if isinstance(items, errors.RelayError):
                finished(items)
            elif not items:
                finished(None)
            else:
                before = self.changed
                self.change([each.number for each in items], lambda error: go_on(before, error))

        def go_on(before: int, error: errors.RelayError | None) -> None:
            if error is not None or self.changed == before:
                finished(error)
            else:
                # Not from here: a store in memory would call ever deeper.
                self._desk.wheel.after(0.0, step)

        def step() -> None:
            self._desk.store.load(queue.realm, queue.name, 0, queue.chunk(CHUNK_BYTES, CHUNK), True, loaded)

        step()


def _described(item: Item) -> dict[str, Any]:  # Any: JSON
    """A stored message for people and programs; the body as text, JSON or base64."""
    found: dict[str, Any] = {
        "offset": item.number, "accepted_at": item.at_ms, "priority": item.priority, "deliveries": item.deliveries,
    }  # fmt: skip
    seldom = {
        "deliver_at": item.due_ms, "expires_at": item.expires_ms, "ordering_key": item.ordering_key,
        "reason": item.reason,
    }  # fmt: skip
    found.update({key: value for key, value in seldom.items() if value})
    try:
        stored = decode_frame(item.frame)
    except errors.RemoteProtocolError:
        found["data"] = b64encode(item.frame).decode()
        return found
    found["name"] = stored.name
    user = stored.get(kinds.FROM_USER)
    if user:
        found["from_user"] = user
    found["codec"] = stored.codec
    found["data"] = b64encode(stored.body).decode()
    return found
