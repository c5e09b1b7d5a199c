"""Pulls that wait for their reply.

    asked ──reply(more)──▶ asked ──reply──▶ done
      │ error, cancel, deadline, caller gone, provider gone
      ▼
    done (the caller hears exactly one end; the provider of a pull that nobody waits for any more gets cancel)

A pull is known in two tables: at its caller by the caller's ``seq`` (``Session.calls``) and at its provider by ours
(``Session.pending``). Its deadline is on the hub's wheel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from relay import errors
from relay.core.hub import FORWARDED_IN_REPLIES, error_message
from relay.core.wheel import Timed
from relay.interfaces import IAnswer
from relay.wire import kinds
from relay.wire.message import Fields, Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.procedures import Registration
    from relay.core.session import Session

REPLY_FLAGS = kinds.MORE | kinds.UNORDERED | kinds.INDEPENDENT


class Pending(Timed):
    """The base: who asked. Subclasses know who answers."""

    __slots__ = ("caller", "done", "hub", "seq")

    def __init__(self, hub: Hub, caller: Session | None, seq: int) -> None:
        self.bucket = None  # as Timed's __init__ does; a call less for each pull
        self.hub = hub
        self.caller = caller
        self.seq = seq
        self.done = False
        if caller is not None:
            caller.calls[seq] = self

    def expire(self) -> None:
        """The deadline has passed: the caller hears so, the provider is told to stop."""
        self.hub.metrics.deadlines += 1
        self.abort(errors.DeadlineExceeded())

    def answer(self, message: Message) -> None:
        """Hand a reply or an error to the caller; without ``more`` it is the end."""
        if self.done:
            return
        fields = None if message.fields is None else self.hub.forwarded(message.fields, FORWARDED_IN_REPLIES)
        if message.kind == kinds.ERROR and (fields is None or kinds.ERROR_CODE not in fields):
            fields = {**(fields or {}), kinds.ERROR_CODE: errors.APPLICATION_CODE_MIN}
        flags = message.flags & REPLY_FLAGS if message.kind == kinds.REPLY else 0
        reply = Message(message.kind, "", message.body, message.codec, flags, self.seq, fields)
        if fields is not None and self.caller is not None:
            reply = self.hub.fit(reply, self.caller)
        if not flags & kinds.MORE:
            self.finish()
        self.to_caller(reply)

    def refuse(self, error: errors.RelayError) -> None:
        """The end, as an error of the node's own."""
        if not self.done:
            self.finish()
            self.hub.metrics.errors[error.label] += 1
            self.to_caller(error_message(error, self.seq))

    def abort(self, error: errors.RelayError) -> None:
        """The end, decided here: the caller gets ``error``, the provider is told that nobody waits any more."""
        if not self.done:
            self.refuse(error)
            self.stop_provider()

    def forget(self) -> None:
        """The caller's session has ended: nobody waits any more."""
        if not self.done:
            self.finish()
            self.stop_provider()

    def to_caller(self, message: Message) -> None:
        """The way back."""
        if self.caller is not None:
            self.caller.send(message)

    def finish(self) -> None:
        """Out of all tables."""
        self.done = True
        if self.bucket is not None:
            self.cancel()
        if self.caller is not None and self.caller.calls.get(self.seq) is self:
            del self.caller.calls[self.seq]

    def stop_provider(self) -> None:
        """Nobody waits for the answer any more."""


class RoutedPull(Pending):
    """A pull that another session must answer. ``index``: its number among the frames sent to the provider."""

    __slots__ = ("index", "provider", "provider_seq", "registration")

    def __init__(
        self, hub: Hub, caller: Session | None, seq: int, provider: Session, registration: Registration | None
    ) -> None:
        super().__init__(hub, caller, seq)
        self.provider = provider
        self.provider_seq = provider.new_seq()
        self.registration = registration
        self.index = provider.sent + 1
        provider.pending[self.provider_seq] = self
        if registration is not None:
            registration.pending += 1

    def finish(self) -> None:
        """Out of the provider's table too."""
        super().finish()
        self.provider.pending.pop(self.provider_seq, None)
        if self.registration is not None:
            self.registration.pending -= 1

    def stop_provider(self) -> None:
        """Tell it to stop, if it is there to be told."""
        if not self.provider.ended:
            self.provider.send(Message(kinds.CANCEL, seq=self.provider_seq))


class NodePull(RoutedPull):
    """A pull that code in this node asked: the reply fires ``deferred``; cancelling that takes the pull back."""

    __slots__ = ("deferred",)

    def __init__(self, hub: Hub, provider: Session) -> None:
        super().__init__(hub, None, 0, provider, None)
        self.deferred: Deferred[Message] = Deferred(lambda _: self.forget())

    def to_caller(self, message: Message) -> None:
        """The final reply is the result; progressive ones before it are dropped."""
        if message.kind == kinds.REPLY:
            if not message.flags & kinds.MORE:
                self.deferred.callback(message)
        else:
            self.deferred.errback(error_of(message))

    def forget(self) -> None:
        """Nobody waits any more."""
        was_done = self.done
        super().forget()
        if not was_done and not self.deferred.called:
            self.deferred.errback(CancelledError())


@implementer(IAnswer)
class LocalPull(Pending):
    """A pull that a handler in this node answers. It is in no table until ``wait``, as most are answered before."""

    __slots__ = ("on_cancel",)

    caller: Session

    def __init__(self, hub: Hub, caller: Session, seq: int) -> None:
        # As Pending's and Timed's do; two calls less for each pull.
        self.bucket = None
        self.hub = hub
        self.caller = caller
        self.seq = seq
        self.done = False
        self.on_cancel: Callable[[], None] | None = None

    def wait(self, deadline_s: float) -> None:
        """The handler has returned without an answer: the caller may cancel, and time may run out."""
        if self.caller.ended:
            self.forget()  # by the handler itself, before this was in the session's table
        else:
            self.caller.calls[self.seq] = self
            self.hub.wheel.add(self, deadline_s)

    def reply(self, body: bytes, codec: int, more: bool = False, fields: Fields | None = None) -> None:
        """An answer of the handler."""
        if self.done:
            return
        if more:
            self.caller.send(Message(kinds.REPLY, "", body, codec, kinds.MORE, self.seq, fields))
            return
        # Fast path: answered before ``wait``.
        if self.bucket is None:
            self.done = True
        else:
            self.finish()
        self.caller.send(Message(kinds.REPLY, "", body, codec, 0, self.seq, fields))

    def fail(self, error: errors.RelayError) -> None:
        """The handler's error."""
        self.refuse(error)

    def stop_provider(self) -> None:
        """Cancel the handler."""
        if self.on_cancel is not None:
            self.on_cancel()


def error_of(message: Message) -> errors.RelayError:
    """The error that a frame reports."""
    text: Any = message.body.decode("utf-8", "replace")
    data: object = None
    if message.codec == kinds.JSON:
        from relay.wire.handshake import ErrorDetail, read

        try:
            detail = read(message, ErrorDetail)
            text, data = detail.message, detail.data
        except errors.BadBody:
            pass  # shown as the text that it is
    return errors.from_wire(
        message.get(kinds.ERROR_CODE, errors.InternalError.code),
        text,
        temporary=bool(message.get(kinds.TEMPORARY)),
        outcome=message.get(kinds.OUTCOME, "unknown"),
        data=data,
    )
