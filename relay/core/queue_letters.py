"""Dead letters: what is published of messages that a queue has given up, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay import errors
from relay.core.seldom import Seldom
from relay.wire import kinds
from relay.wire.binary import decode_frame
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.queue_reading import QueueReading
    from relay.core.queue_window import Entry

log = Logger()


class DeadLetters:
    """One per node. ``publish(realm, message)`` publishes on a channel; None: nobody is told."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._seldom = Seldom(hub.clock)
        self.publish: Callable[[str, Message], object] | None = None

    def tell(self, queue: QueueReading, entry: Entry, reason: str) -> None:
        """A message is dead: tell the rule's channel."""
        self._hub.metrics.queue_dead += 1
        channel = queue.rule.dead_letter
        if not channel or self.publish is None:
            return
        letter = dead_letter(channel, queue.name, entry, reason)
        try:
            try:
                told = self.publish(queue.realm, letter)
            except errors.LimitExceeded:
                # Its own metadata leaves no room for ours.
                told = self.publish(queue.realm, dead_letter(channel, queue.name, entry, reason, own=False))
        except errors.RelayError as error:
            self._not_told(error, queue)
        else:
            if isinstance(told, Deferred):
                told.addErrback(self._not_told, queue)

    def _not_told(self, failure: BaseException | Failure, queue: QueueReading) -> None:
        error = failure.value if isinstance(failure, Failure) else failure
        others = self._seldom.due("dead letter")
        if others is not None:
            log.warn("dead letter of queue {queue}: {error} ({others} more times unreported)",
                     queue=queue.name, error=str(error), others=others)  # fmt: skip


def dead_letter(channel: str, queue: str, entry: Entry, reason: str, own: bool = True) -> Message:
    """What is published of a dead message: its body, and in the metadata where it was and why it died, beside its
    ``own``."""
    try:
        stored = decode_frame(entry.frame)
    except errors.RemoteProtocolError:
        stored = Message(kinds.PUSH, "", b"", kinds.RAW)
    metadata: dict[str, str] = dict(stored.get(kinds.METADATA, {})) if own else {}
    metadata.update({
        "dead.reason": reason, "dead.queue": queue, "dead.offset": str(entry.number), "dead.name": stored.name,
        "dead.deliveries": str(entry.deliveries), "dead.user": stored.get(kinds.FROM_USER, ""),
    })  # fmt: skip
    fields: dict[int, Any] = {kinds.METADATA: metadata}  # Any: as in Message
    filters = stored.get(kinds.FILTERS)
    if filters:
        fields[kinds.FILTERS] = filters
    return Message(kinds.PUBLISH, channel, stored.body, stored.codec, 0, 0, fields)
