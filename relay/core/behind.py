"""The order of one session's frames while some of them wait for a store.

    stored ──▶ stored ──▶ …        what the same store takes goes on, one behind the other
       │
       ▼
    a frame of another kind ──▶ waits, and all behind it ──(the stores are done)──▶ in order

What others see of a session they see in the order in which it sent it: a push behind a durable publication, or behind
a message for a queue, arrives behind it. Histories and queues are two stores here: what goes to one waits for the
other. The waiting frames are bounded by ``held_frames_max``; the peer is read no further while there are any, or
while ``history.under_way_max`` stores are under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from relay import errors
from relay.wire import kinds
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.session import Session

    Routed = Callable[[Session, Message], None]

log = Logger()

PAUSE: Final = "store"
HISTORY: Final = "history"
"""Stores that frames go to: of publications …"""
QUEUE: Final = "queue"
"""… and of messages for queues."""
NOTHING: Final = Message(0)
"""Stands where something waits that is no frame."""


class Line:
    """One session's: ``under_way`` to the store ``where`` ('': to both), and the frames behind them with what is to be
    done with each."""

    __slots__ = ("paused", "under_way", "waiting", "where")

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting: deque[tuple[Message, Routed]] = deque()
        self.paused = False
        self.where = ""


class Behind:
    """One per node. ``goes_to(session, message)``: the store that the frame goes to, '' when it goes to none.
    ``held``: the sessions whose frames wait behind a hook; they take up again with ``drain``."""

    def __init__(self, hub: Hub, goes_to: Callable[[Session, Message], str], held: Container[Session]) -> None:
        self._hub = hub
        self._goes_to = goes_to
        self._held = held
        self.lines: dict[Session, Line] = {}

    def begin(self, session: Session, where: str) -> None:
        """Something of ``session`` is under way to the store ``where``; ``end`` follows, also when it failed."""
        if session.ended:
            return
        line = self.lines.get(session)
        if line is None:
            line = self.lines[session] = Line()
        line.where = where if not line.under_way or where == line.where else ""
        line.under_way += 1
        if line.under_way >= self._hub.config.history.under_way_max:
            self._pace(session, line)

    def end(self, session: Session) -> None:
        """One of them is done: its event and its answer have been sent."""
        line = self.lines.get(session)
        if line is None:
            return  # the session has ended meanwhile
        line.under_way -= 1
        if not line.under_way:
            self.drain(session)
        elif line.paused:
            self._pace(session, line)

    def waits(self, session: Session, message: Message) -> bool:
        """Whether the turn of ``message`` has not come yet: ``order`` would have it wait."""
        line = self.lines.get(session)
        return line is not None and (bool(line.waiting) or not self._goes_on(line, session, message))

    def order(self, session: Session, message: Message, then: Routed) -> None:
        """``then(session, message)`` now, or when its turn comes. ``then`` answers for its own errors."""
        if not self.waits(session, message):
            then(session, message)
            return
        line = self.lines[session]
        if len(line.waiting) >= self._hub.config.limits.held_frames_max:
            self._hub.refuse(session, message, errors.RateExceeded("too many frames wait behind a store"))
            return
        self._hub.metrics.held += 1
        line.waiting.append((message, then))
        self._pace(session, line)

    def first(self, session: Session, message: Message, then: Routed) -> None:
        """As ``order``, for a frame whose turn has come and that a hook has made into another: it is before all that
        wait, and where it may not be begun yet it stays there."""
        line = self.lines.get(session)
        if line is None or self._goes_on(line, session, message):
            then(session, message)
        else:
            line.waiting.appendleft((message, then))
            self._pace(session, line)

    def after(self, session: Session, function: Callable[[], None]) -> None:
        """``function()`` behind the frames that wait; at once when there are none."""
        line = self.lines.get(session)
        if line is None or not line.waiting:
            function()
        else:
            line.waiting.append((NOTHING, lambda session, message: function()))

    def drain(self, session: Session) -> None:
        """Do what may be done now, in order."""
        line = self.lines.get(session)
        if line is None:
            return
        waiting = line.waiting
        while waiting and session not in self._held and not session.ended:
            message, then = waiting[0]
            if not self._goes_on(line, session, message):
                break
            waiting.popleft()
            try:
                then(session, message)
            except Exception:  # noqa: BLE001 - our mistake: one message fails, those behind it go on
                log.failure("routing {kind} of {session!r}", kind=kinds.KINDS.get(message.kind), session=session)
                self._hub.refuse(session, message, errors.InternalError())
        if not waiting and not line.under_way:
            self.lines.pop(session, None)
        self._pace(session, line)

    def attached(self, session: Session) -> None:
        """The session has a new peer."""
        line = self.lines.get(session)
        if line is not None and line.paused and session.peer is not None:
            session.peer.pause(PAUSE)

    def forget(self, session: Session) -> None:
        """The session has ended: what waits is not carried out."""
        self.lines.pop(session, None)

    def _goes_on(self, line: Line, session: Session, message: Message) -> bool:
        """Whether a frame may be begun now: nothing is under way, or it follows to the same store."""
        return not line.under_way or (line.where != "" and self._goes_to(session, message) == line.where)

    def _pace(self, session: Session, line: Line) -> None:
        """Read on, or not: anew only when half of what is under way is done."""
        most = self._hub.config.history.under_way_max
        wanted = bool(line.waiting) or line.under_way >= most or (line.paused and line.under_way * 2 > most)
        if wanted != line.paused:
            line.paused = wanted
            if session.peer is not None:
                (session.peer.pause if wanted else session.peer.resume)(PAUSE)
