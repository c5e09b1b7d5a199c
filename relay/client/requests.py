"""Questions to the server and their answers; tellings without one.

A request is in the table under its ``seq`` until it is answered, its deadline has passed, its caller has given it up,
or its session has ended. What becomes of it when a session cannot be resumed is its *fate*:

    fail    sent: fails with ConnectionClosed, outcome unknown; not yet sent: goes to the new session
    again   asked again (reading has no effect)
    done    succeeds (the end of the session has done it)
    drop    forgotten (it is about the session, and whoever set it up does so again)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from relay.client.deadlines import Deadline, Deadlines
from relay.client.effects import Effect, Notice, Progress, Reject, Resolve
from relay.client.ledger import Outgoing
from relay.client.options import ClientOptions
from relay.client.outbound import Outbound
from relay.errors import BadBody, ConnectionClosed, DeadlineExceeded, Full, RelayError, from_wire, number_of
from relay.wire import handshake, kinds
from relay.wire.binary import encode_frame
from relay.wire.message import Fields, Message

Fate = Literal["fail", "again", "done", "drop"]
Answer = Callable[[Message | RelayError, float], None]

SEQ_MAX: Final = 0xFFFF_FFFF
_ADDED_BYTES: Final = 4 + 3 + 8  # the length on streams, and a deadline


class Request(msgspec.Struct, eq=False):
    """A question under way. ``answer``: the client's own continuation instead of a ``waiter``; ``stream``: each of
    several answers is wanted, else the last; ``partial``: the last of them so far; ``more``: takes all but the last."""

    outgoing: Outgoing
    waiter: Any
    fate: Fate
    deadline: Deadline
    answer: Answer | None = None
    stream: bool = False
    partial: Message | None = None
    more: Callable[[Message], object] | None = None


def error_of(message: Message) -> RelayError:
    """The error in a frame of the kind error."""
    detail = handshake.ErrorDetail()
    if message.codec in (kinds.JSON, kinds.MSGPACK):
        try:
            detail = handshake.read(message, handshake.ErrorDetail)
        except BadBody as error:
            detail = handshake.ErrorDetail(f"(unreadable: {error})")
    elif message.body:
        detail = handshake.ErrorDetail(message.body.decode(errors="replace"))
    return from_wire(
        message.get(kinds.ERROR_CODE, 1),
        detail.message,
        temporary=bool(message.get(kinds.TEMPORARY, False)),
        outcome=message.get(kinds.OUTCOME, "unknown"),
        data=detail.data,
    )


def error_message(seq: int, error: RelayError) -> Message:
    """``error`` as the answer to the server's request ``seq``."""
    fields: Fields = {kinds.ERROR_CODE: number_of(error), kinds.OUTCOME: error.outcome}
    if error.temporary:
        fields[kinds.TEMPORARY] = True
    data = getattr(error, "data", None)
    if data is None:
        return Message(kinds.ERROR, body=str(error).encode(errors="replace"), codec=kinds.TEXT, seq=seq, fields=fields)
    body = msgspec.json.encode(handshake.ErrorDetail(str(error), data))
    return Message(kinds.ERROR, body=body, codec=kinds.JSON, seq=seq, fields=fields)


class Requests:
    """The requests of one client."""

    def __init__(self, outbound: Outbound, deadlines: Deadlines, options: ClientOptions, effects: list[Effect]) -> None:
        self.closed: RelayError | None = None
        self._outbound = outbound
        self._deadlines = deadlines
        self._options = options
        self._effects = effects
        self._table: dict[int, Request] = {}
        self._by_waiter: dict[Any, Request] = {}
        self._seq = 0

    def __len__(self) -> int:
        return len(self._table)

    def ask(
        self,
        message: Message,
        waiter: Any,  # Any: an object of the shell
        now: float,
        *,
        timeout_s: float | None = None,
        fate: Fate = "fail",
        stream: bool = False,
        answer: Answer | None = None,
        more: Callable[[Message], object] | None = None,
        forced: bool = False,
    ) -> Request:
        """Send ``message`` under a new ``seq``; the answer is an effect for ``waiter``, or goes to ``answer``.

        ``timeout_s``: None for ``request_timeout_s``, infinity for no deadline. ``forced``: of the client's own, no
        limit applies. Raises ``ConnectionClosed``, ``Full``, ``BadName`` or ``BadBody``, all of them ``not_done``.
        """
        if not forced:
            if self.closed is not None:
                raise self.closed
            if len(self._table) >= self._options.pending_max:
                raise Full(f"{len(self._table)} requests are waiting for their answers")
        message.seq = self._next_seq()
        at = now + (self._options.request_timeout_s if timeout_s is None else timeout_s)
        outgoing = self._outgoing(message, fate != "fail" and fate != "again")
        outgoing.deadline = at
        request = Request(outgoing, waiter, fate, self._deadlines.add(at, lambda now: self._expire(message.seq, now)))
        request.answer, request.stream, request.more = answer, stream, more
        self._table[message.seq] = request
        if waiter is not None:
            self._by_waiter[waiter] = request
        try:
            self._outbound.offer(outgoing, now, forced=forced)
        except Full:
            self._forget(request)
            raise
        return request

    def tell(self, message: Message, now: float, *, bound: bool = False, forced: bool = False) -> Outgoing:
        """Send ``message`` without waiting for an answer. ``bound``: it means something in this session only.

        Raises as :meth:`ask`.
        """
        if self.closed is not None and not bound:
            raise self.closed
        outgoing = self._outgoing(message, bound)
        self._outbound.offer(outgoing, now, forced=forced)
        return outgoing

    def abandon(self, waiter: Any, now: float) -> None:  # Any: an object of the shell
        """Nobody waits any more: a frame that was not sent is taken back, a pull that was is cancelled."""
        request = self._by_waiter.get(waiter)
        if request is not None:
            self._withdraw(request, now)

    def forget(self, request: Request) -> bool:
        """Take back a request of the client's own; whether it had not been sent."""
        sent = request.outgoing.sent
        self._outbound.withdraw(request.outgoing)
        self._forget(request)
        return not sent

    def replied(self, message: Message, now: float) -> None:
        """A reply or error with a ``seq`` arrived."""
        request = self._table.get(message.seq)
        if request is None:
            return  # given up here before the answer came
        if message.kind == kinds.REPLY and message.flags & kinds.MORE:
            if request.more is not None:
                request.more(message)
                return
            if request.stream:
                self._effects.append(Progress(request.waiter, message))
            request.partial = message
            return
        self._forget(request)
        if message.kind == kinds.ERROR:
            self._settle(request, error_of(message), now)
        else:
            bare = not message.body and not message.codec
            final = request.partial if bare and request.partial is not None and not request.stream else message
            self._settle(request, final, now)

    def noticed(self, message: Message) -> None:
        """An error without a ``seq`` arrived: something told was refused."""
        self._effects.append(Notice(message.name, error_of(message)))

    def refuse(self, outgoing: Outgoing, error: RelayError, now: float) -> None:
        """``outgoing`` cannot be sent at all."""
        message = outgoing.message
        request = self._table.get(message.seq)
        if request is not None and request.outgoing is outgoing:
            self._forget(request)
            self._settle(request, error, now)
        elif message.kind == kinds.REPLY:
            self.tell(error_message(message.seq, error), now, bound=True, forced=True)
        else:
            self._effects.append(Notice(message.name, error))

    def renewed(self, now: float) -> list[Request]:
        """There is a new session; the outbound has set aside what was not sent. Returns what is to be asked again."""
        again = []
        for request in list(self._table.values()):
            if request.fate == "drop":
                self._forget(request)
            elif request.fate == "done":
                self._forget(request)
                self._settle(request, Message(kinds.REPLY), now)
            elif request.outgoing.sent and request.fate == "again":
                again.append(request)
            elif request.outgoing.sent:
                self._forget(request)
                self._settle(request, ConnectionClosed("the session was lost before the answer came"), now)
        return again

    def again(self, requests: list[Request], now: float) -> None:
        """Ask again in the new session."""
        for request in requests:
            request.outgoing = self._outgoing(request.outgoing.message, False)
            self._outbound.offer(request.outgoing, now, forced=True)

    def close(self, error: RelayError | None) -> None:
        """The client is closed: everything that waits fails."""
        text = "the client is closed" + (f": {error}" if error is not None else "")
        self.closed = ConnectionClosed(text, temporary=False, outcome="not_done")
        for request in list(self._table.values()):
            self._forget(request)
            if request.fate == "done":
                self._settle(request, Message(kinds.REPLY), 0.0)
            elif request.waiter is not None:
                outcome: Literal["unknown", "not_done"] = "unknown" if request.outgoing.sent else "not_done"
                self._effects.append(Reject(request.waiter, ConnectionClosed(text, outcome=outcome)))

    def _next_seq(self) -> int:
        while True:
            self._seq = self._seq % SEQ_MAX + 1
            if self._seq not in self._table:
                return self._seq

    def _outgoing(self, message: Message, bound: bool) -> Outgoing:
        # Written once without its body: what cannot be written fails here, in the caller's own call.
        bare = Message(message.kind, message.name, b"", message.codec, message.flags, message.seq, message.fields)
        return Outgoing(message, _ADDED_BYTES + len(encode_frame(bare)) + len(message.body), bound=bound)

    def _forget(self, request: Request) -> None:
        request.deadline.cancel()
        del self._table[request.outgoing.message.seq]
        if request.waiter is not None:
            self._by_waiter.pop(request.waiter, None)

    def _settle(self, request: Request, result: Message | RelayError, now: float) -> None:
        if request.answer is not None:
            request.answer(result, now)
        elif isinstance(result, Message):
            self._effects.append(Resolve(request.waiter, result))
        else:
            self._effects.append(Reject(request.waiter, result))

    def _withdraw(self, request: Request, now: float) -> None:
        message = request.outgoing.message
        self._forget(request)
        if request.outgoing.sent:
            if message.kind == kinds.PULL:
                self.tell(Message(kinds.CANCEL, seq=message.seq), now, bound=True, forced=True)
        else:
            self._outbound.withdraw(request.outgoing)

    def _expire(self, seq: int, now: float) -> None:
        request = self._table[seq]
        sent = request.outgoing.sent
        self._withdraw(request, now)
        text = "no answer in time" if sent else "not connected in time"
        self._settle(request, DeadlineExceeded(text, outcome="unknown" if sent else "not_done"), now)
